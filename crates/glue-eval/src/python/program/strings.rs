//! Methods of texts, and formatting.

use super::Fault;
use super::calls::{Arguments, Keywords};
use super::evaluate::type_error;
use super::execute::Machine;
use super::syntax::Name;
use super::value::{V, float_repr};
use crate::python::is_space;
use std::rc::Rc;

pub(super) const METHODS: &[&str] = &[
    "strip",
    "lstrip",
    "rstrip",
    "lower",
    "upper",
    "casefold",
    "capitalize",
    "title",
    "swapcase",
    "replace",
    "split",
    "rsplit",
    "splitlines",
    "join",
    "startswith",
    "endswith",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "format",
    "isdigit",
    "isnumeric",
    "isdecimal",
    "isalpha",
    "isalnum",
    "isspace",
    "isupper",
    "islower",
    "istitle",
    "zfill",
    "ljust",
    "rjust",
    "center",
    "partition",
    "rpartition",
    "removeprefix",
    "removesuffix",
    "translate",
    "encode",
    "format_map",
    "expandtabs",
    "isascii",
    "isidentifier",
];

impl Machine<'_> {
    pub(super) fn string_method(
        &mut self,
        text: &Rc<str>,
        name: &str,
        positional: Vec<V>,
        keywords: Keywords,
    ) -> Result<V, Fault> {
        if name == "format" {
            return self.format(text, &positional, &keywords).map(V::str);
        }
        let mut arguments = Arguments::new(name, positional, keywords);
        let result = match name {
            "strip" | "lstrip" | "rstrip" => {
                let set: Option<Vec<char>> = match arguments.optional("chars") {
                    None | Some(V::None) => None,
                    Some(V::Str(set)) => Some(set.chars().collect()),
                    Some(_) => return Err(type_error("strip arg must be None or str")),
                };
                let within = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
                V::str(match name {
                    "strip" => text.trim_matches(within),
                    "lstrip" => text.trim_start_matches(within),
                    _ => text.trim_end_matches(within),
                })
            }
            "lower" | "casefold" => V::str(text.to_lowercase()),
            "upper" => V::str(text.to_uppercase()),
            "capitalize" => {
                let mut rest = text.chars();
                let first: String = rest.next().map(title_case).unwrap_or_default();
                V::str(first + &rest.as_str().to_lowercase())
            }
            "title" => {
                let mut out = String::with_capacity(text.len());
                let mut in_word = false;
                for c in text.chars() {
                    if in_word {
                        out.extend(c.to_lowercase())
                    } else {
                        out.push_str(&title_case(c))
                    }
                    in_word = c.is_alphabetic();
                }
                V::str(out)
            }
            "replace" => {
                let (old, new) = (arguments.text("old")?, arguments.text("new")?);
                let count = arguments.optional("count").and_then(|count| count.int()).unwrap_or(-1);
                let limit = usize::try_from(count).unwrap_or(usize::MAX);
                let found = text.matches(&*old).take(limit).count();
                self.grow(text.len() + new.len().saturating_mul(found))?;
                V::str(text.replacen(&*old, &new, limit))
            }
            "split" | "rsplit" => {
                let separator = match arguments.optional("sep") {
                    None | Some(V::None) => None,
                    Some(V::Str(separator)) if !separator.is_empty() => Some(separator),
                    Some(_) => return Err(Fault::raised("ValueError", "empty separator")),
                };
                let limit = arguments.optional("maxsplit").and_then(|limit| limit.int()).unwrap_or(-1);
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let pieces = split(text, separator.as_deref(), limit, name == "rsplit");
                self.step(pieces.len() as u64)?;
                V::list(pieces.into_iter().map(V::str).collect())
            }
            "splitlines" => {
                let keep = arguments.optional("keepends").map_or(Ok(false), |keep| keep.truth())?;
                V::list(lines(text, keep).into_iter().map(V::str).collect())
            }
            "join" => {
                let items = arguments.required("iterable")?;
                let items = self.iterate(&items)?;
                let mut out = String::new();
                for (i, item) in items.iter().enumerate() {
                    let V::Str(item) = item else {
                        let found = item.type_name();
                        return Err(type_error(&format!("sequence item {i}: expected str instance, {found} found")));
                    };
                    if i > 0 {
                        out.push_str(text);
                    }
                    out.push_str(item);
                    if out.len() > 1 << 16 {
                        self.grow(out.len())?;
                    }
                }
                V::str(out)
            }
            "startswith" | "endswith" => {
                let wanted = match arguments.required("prefix")? {
                    V::Tuple(items) => items.to_vec(),
                    one => vec![one],
                };
                let mut rest: &str = text;
                if let Some(start) = arguments.optional("start").and_then(|start| start.int()) {
                    rest = &text[byte_at(text, usize::try_from(start).unwrap_or(0))..];
                }
                let mut holds = false;
                for one in &wanted {
                    let V::Str(one) = one else { return Err(type_error(&format!("{name} takes a text"))) };
                    holds |= if name == "startswith" { rest.starts_with(&**one) } else { rest.ends_with(&**one) };
                }
                V::Bool(holds)
            }
            "find" | "rfind" | "index" | "rindex" | "count" => {
                let wanted = arguments.text("sub")?;
                let length = text.chars().count() as i64;
                let bound = |at: Option<V>, otherwise: i64| {
                    let at = at.and_then(|at| at.int()).unwrap_or(otherwise);
                    (if at < 0 { at + length } else { at }).clamp(0, length) as usize
                };
                let start = bound(arguments.optional("start"), 0);
                let end = bound(arguments.optional("end"), length).max(start);
                let part = &text[byte_at(text, start)..byte_at(text, end)];
                self.grow(text.len())?;
                if name == "count" {
                    let count = if wanted.is_empty() { end - start + 1 } else { part.matches(&*wanted).count() };
                    V::Int(count as i64)
                } else {
                    let at = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) };
                    match at {
                        Some(at) => V::Int((start + part[..at].chars().count()) as i64),
                        None if name.ends_with("find") => V::Int(-1),
                        None => return Err(Fault::raised("ValueError", "substring not found")),
                    }
                }
            }
            "isdigit" | "isnumeric" | "isdecimal" => {
                if let Some(c) = text.chars().find(|c| c.is_numeric() && !c.is_ascii_digit()) {
                    return Err(Fault::unsupported(0, format!("`{name}` of the character {c:?}")));
                }
                V::Bool(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))
            }
            "isalpha" => V::Bool(!text.is_empty() && text.chars().all(char::is_alphabetic)),
            "isalnum" => V::Bool(!text.is_empty() && text.chars().all(char::is_alphanumeric)),
            "isspace" => V::Bool(!text.is_empty() && text.chars().all(is_space)),
            "isascii" => V::Bool(text.is_ascii()),
            "isupper" => V::Bool(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)),
            "islower" => V::Bool(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)),
            "zfill" => {
                let width = usize::try_from(arguments.int("width")?).unwrap_or(0);
                self.grow(width)?;
                let (sign, digits) = if text.starts_with(['+', '-']) { text.split_at(1) } else { ("", &**text) };
                let missing = width.saturating_sub(text.chars().count());
                V::str(format!("{sign}{}{digits}", "0".repeat(missing)))
            }
            "ljust" | "rjust" | "center" => {
                let width = usize::try_from(arguments.int("width")?).unwrap_or(0);
                self.grow(width.saturating_mul(4))?;
                let fill = arguments.optional("fillchar").map_or(Ok(" ".into()), |fill| fill.to_str())?;
                let missing = width.saturating_sub(text.chars().count());
                let left = match name {
                    "ljust" => 0,
                    "rjust" => missing,
                    _ => missing / 2 + (missing & width & 1),
                };
                V::str(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
            }
            "partition" | "rpartition" => {
                let separator = arguments.text("sep")?;
                let found =
                    if name == "partition" { text.split_once(&*separator) } else { text.rsplit_once(&*separator) };
                let parts = match found {
                    Some((before, after)) => [before, &*separator, after],
                    None if name == "partition" => [&**text, "", ""],
                    None => ["", "", &**text],
                };
                V::tuple(parts.map(V::str).to_vec())
            }
            "removeprefix" => {
                let prefix = arguments.text("prefix")?;
                V::str(text.strip_prefix(&*prefix).unwrap_or(text))
            }
            "removesuffix" => {
                let suffix = arguments.text("suffix")?;
                V::str(text.strip_suffix(&*suffix).unwrap_or(text))
            }
            "translate" => {
                let V::Dict(table) = arguments.required("table")? else {
                    return Err(type_error("translate() takes a dictionary"));
                };
                let mut out = String::new();
                for c in text.chars() {
                    match table.borrow().get(&V::Int(i64::from(u32::from(c))).key()?) {
                        None => out.push(c),
                        Some(V::None) => {}
                        Some(V::Str(by)) => out.push_str(by),
                        Some(other) => out.extend(other.int().and_then(|code| char::from_u32(code as u32))),
                    }
                }
                V::str(out)
            }
            "encode" => match arguments.optional("encoding").map_or(Ok("utf-8".into()), |name| name.to_str())?.as_str()
            {
                "utf-8" | "utf8" | "UTF-8" => V::Bytes(Rc::clone(text)),
                other => return Err(Fault::unsupported(0, format!("the encoding `{other}`"))),
            },
            _ => return Err(Fault::unsupported(0, format!("`{name}` of a text"))),
        };
        arguments.done()?;
        Ok(result)
    }

    /// `text.format(…)`.
    fn format(&mut self, text: &str, positional: &[V], keywords: &[(Name, V)]) -> Result<String, Fault> {
        let mut out = String::new();
        let mut rest = text;
        let mut next = 0;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace);
                rest = after;
                continue;
            }
            let end = rest.find('}').filter(|_| brace == "{");
            let end = end.ok_or_else(|| Fault::raised("ValueError", "a single brace in a format string"))?;
            let field = &rest[..end];
            rest = &rest[end + 1..];
            let (field, spec) = field.split_once(':').unwrap_or((field, ""));
            if spec.contains('{') {
                return Err(Fault::unsupported(0, "a format within a format"));
            }
            let (field, conversion) = match field.split_once('!') {
                Some((field, conversion)) => (field, conversion.chars().next()),
                None => (field, None),
            };
            let name_end = field.find(['.', '[']).unwrap_or(field.len());
            let name = &field[..name_end];
            let mut value = if name.is_empty() {
                next += 1;
                positional.get(next - 1).cloned()
            } else if let Ok(index) = name.parse::<usize>() {
                positional.get(index).cloned()
            } else {
                keywords.iter().find(|(given, _)| &**given == name).map(|(_, value)| value.clone())
            }
            .ok_or_else(|| Fault::raised("KeyError", name))?;
            let mut path = &field[name_end..];
            while !path.is_empty() {
                if let Some(after) = path.strip_prefix('.') {
                    let end = after.find(['.', '[']).unwrap_or(after.len());
                    value = self.attribute(&value, &after[..end].into())?;
                    path = &after[end..];
                } else {
                    let end = path.find(']').ok_or_else(|| Fault::raised("ValueError", "expected ']'"))?;
                    let key = &path[1..end];
                    let key = key.parse::<i64>().map_or_else(|_| V::str(key), V::Int);
                    value = self.index(&value, &key)?;
                    path = &path[end + 1..];
                }
            }
            out.push_str(&self.formatted(&value, conversion, spec)?);
            self.grow(out.len())?;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// `format % values`.
    pub(super) fn percent(&mut self, format: &str, values: &V) -> Result<String, Fault> {
        let mut items = match values {
            V::Tuple(items) => items.to_vec(),
            one => vec![one.clone()],
        }
        .into_iter();
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                out.push('%');
                rest = after;
                continue;
            }
            let value = if rest.starts_with('(') {
                let end = rest.find(')').ok_or_else(|| Fault::raised("ValueError", "incomplete format key"))?;
                let key = V::str(&rest[1..end]);
                rest = &rest[end + 1..];
                self.index(values, &key)?
            } else {
                items.next().ok_or_else(|| type_error("not enough arguments for format string"))?
            };
            let end = rest.find(|c: char| c.is_ascii_alphabetic());
            let end = end.ok_or_else(|| Fault::raised("ValueError", "incomplete format"))?;
            let (spec, kind) = (&rest[..end], &rest[end..=end]);
            rest = &rest[end + 1..];
            let (value, spec) = match kind {
                "s" => (V::str(value.to_str()?), format!(">{spec}")),
                "r" => (V::str(value.to_repr(0)?), format!(">{spec}")),
                "d" | "i" => {
                    let number = value.number().ok_or_else(|| type_error("%d format: a number is required"))?;
                    (V::Int(number.trunc() as i64), format!("{spec}d"))
                }
                "f" | "e" | "g" => (value, format!("{spec}{kind}")),
                _ => return Err(Fault::unsupported(0, format!("`%{kind}` in a format"))),
            };
            let spec = if spec == ">" { String::new() } else { spec };
            out.push_str(&self.formatted(&value, None, &spec)?);
        }
        out.push_str(rest);
        self.grow(out.len())?;
        Ok(out)
    }

    /// A value as a format says.
    pub(super) fn formatted(&mut self, value: &V, conversion: Option<char>, spec: &str) -> Result<String, Fault> {
        let value = match conversion {
            Some('r' | 'a') => V::str(value.to_repr(0)?),
            Some(_) => V::str(value.to_str()?),
            None => value.clone(),
        };
        if spec.is_empty() {
            if let V::Instance(instance) = &value
                && let Some((function, _)) = instance.class.find("__str__")
            {
                let V::Function(closure) = function else { return value.to_str() };
                let method = V::Method(Rc::new((value.clone(), closure)));
                return self.call(&method, Vec::new(), Vec::new())?.to_str();
            }
            return value.to_str();
        }
        self.by_spec(&value, spec)
    }

    fn by_spec(&mut self, value: &V, spec: &str) -> Result<String, Fault> {
        let unknown = || Fault::unsupported(0, format!("the format `{spec}`"));
        let mut characters: Vec<char> = spec.chars().collect();
        let (mut fill, mut align) = (' ', None);
        if characters.len() > 1 && matches!(characters[1], '<' | '>' | '^' | '=') {
            (fill, align) = (characters[0], Some(characters[1]));
            characters.drain(..2);
        } else if matches!(characters.first(), Some('<' | '>' | '^' | '=')) {
            align = Some(characters.remove(0));
        }
        let mut rest = characters.into_iter().peekable();
        let sign = rest.next_if(|c| matches!(c, '+' | '-' | ' ')).unwrap_or('-');
        if rest.next_if_eq(&'0').is_some() && align.is_none() {
            (fill, align) = ('0', Some('='));
        }
        let number = |rest: &mut std::iter::Peekable<std::vec::IntoIter<char>>| {
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits.parse::<usize>().ok().filter(|&n| n <= 10_000)
        };
        let width = number(&mut rest).unwrap_or(0);
        let comma = rest.next_if(|c| matches!(c, ',' | '_'));
        let precision =
            if rest.next_if_eq(&'.').is_some() { Some(number(&mut rest).ok_or_else(unknown)?) } else { None };
        let kind = rest.next();
        if rest.next().is_some() {
            return Err(unknown());
        }
        let (negative, digits) = match (value, kind) {
            (V::Str(text), None | Some('s')) => {
                let text = precision.map_or_else(|| text.to_string(), |n| text.chars().take(n).collect());
                return Ok(pad(&text, fill, align.unwrap_or('<'), width, ""));
            }
            (V::Int(n), None | Some('d')) => (*n < 0, n.unsigned_abs().to_string()),
            (V::Int(n), Some('x')) => (*n < 0, format!("{:x}", n.unsigned_abs())),
            (V::Int(n), Some('b')) => (*n < 0, format!("{:b}", n.unsigned_abs())),
            (V::Bool(_) | V::Int(_) | V::Float(_), Some('f' | 'F' | '%' | 'e')) => {
                let number = value.number().unwrap_or(f64::NAN);
                let scaled = if kind == Some('%') { number * 100.0 } else { number };
                if !scaled.is_finite() || kind == Some('e') {
                    return Err(unknown());
                }
                let suffix = if kind == Some('%') { "%" } else { "" };
                (scaled.is_sign_negative(), format!("{:.*}{suffix}", precision.unwrap_or(6), scaled.abs()))
            }
            (V::Float(number), None) if precision.is_none() => (*number < 0.0, float_repr(number.abs())),
            _ => return Err(unknown()),
        };
        let digits = match comma {
            Some(separator) => grouped(&digits, separator),
            None => digits,
        };
        let sign = match (negative, sign) {
            (true, _) => "-",
            (false, '+') => "+",
            (false, ' ') => " ",
            _ => "",
        };
        Ok(pad(&digits, fill, align.unwrap_or('>'), width, sign))
    }
}

fn pad(text: &str, fill: char, align: char, width: usize, sign: &str) -> String {
    let missing = width.saturating_sub(text.chars().count() + sign.len());
    let filling = |n: usize| fill.to_string().repeat(n);
    match align {
        '<' => format!("{sign}{text}{}", filling(missing)),
        '^' => format!("{}{sign}{text}{}", filling(missing / 2), filling(missing - missing / 2)),
        '=' => format!("{sign}{}{text}", filling(missing)),
        _ => format!("{}{sign}{text}", filling(missing)),
    }
}

fn grouped(digits: &str, separator: char) -> String {
    let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut out = String::new();
    for (i, digit) in digits[..whole].chars().enumerate() {
        if i > 0 && (whole - i).is_multiple_of(3) {
            out.push(separator);
        }
        out.push(digit);
    }
    out + &digits[whole..]
}

/// The capital of a letter at the beginning of a word.
fn title_case(c: char) -> String {
    match c {
        'ß' => "Ss".into(),
        'ﬁ' => "Fi".into(),
        'ﬂ' => "Fl".into(),
        'ǆ' | 'Ǆ' | 'ǅ' => "ǅ".into(),
        'ǉ' | 'Ǉ' | 'ǈ' => "ǈ".into(),
        'ǌ' | 'Ǌ' | 'ǋ' => "ǋ".into(),
        c => c.to_uppercase().collect(),
    }
}

/// The byte at which a character begins.
fn byte_at(text: &str, character: usize) -> usize {
    if text.is_ascii() {
        return character.min(text.len());
    }
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

fn split(text: &str, separator: Option<&str>, limit: usize, from_the_end: bool) -> Vec<String> {
    if let Some(separator) = separator {
        let limit = limit.saturating_add(1);
        let mut pieces: Vec<String> = match from_the_end {
            false => text.splitn(limit, separator).map(String::from).collect(),
            true => text.rsplitn(limit, separator).map(String::from).collect(),
        };
        if from_the_end {
            pieces.reverse();
        }
        return pieces;
    }
    let mut pieces = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        let at = if from_the_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = at.filter(|_| pieces.len() < limit) else {
            pieces.push(rest.to_string());
            break;
        };
        let space = rest[at..].chars().next().map_or(1, char::len_utf8);
        let (piece, other) = match from_the_end {
            false => (&rest[..at], rest[at..].trim_start_matches(is_space)),
            true => (&rest[at + space..], rest[..at].trim_end_matches(is_space)),
        };
        pieces.push(piece.to_string());
        rest = other;
    }
    if from_the_end {
        pieces.reverse();
    }
    pieces
}

fn lines(text: &str, keep: bool) -> Vec<String> {
    const BREAKS: &[char] =
        &['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(BREAKS) {
        let length =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        out.push(rest[..if keep { at + length } else { at }].to_string());
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        out.push(rest.to_string());
    }
    out
}
