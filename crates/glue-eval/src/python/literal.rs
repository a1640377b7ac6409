//! Python literals: what `ast.literal_eval` reads.
//!
//! Lists, tuples, dictionaries with text as keys, text in all its quotes, numbers, `True`, `False` and `None`. A tuple
//! becomes a list. Sets, bytes and complex numbers have no place in a task and are refused.

use serde_json::{Map, Number, Value};

/// Reads one literal that is the whole of `text`.
///
/// # Errors
/// What is wrong, and at which character.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    reader.skip_space();
    let value = reader.value()?;
    reader.skip_space();
    // `1, 2` without brackets is a tuple.
    if reader.eat(',') {
        let mut items = vec![value];
        loop {
            reader.skip_space();
            if reader.rest().is_empty() {
                return Ok(Value::Array(items));
            }
            items.push(reader.value()?);
            reader.skip_space();
            if !reader.rest().is_empty() && !reader.eat(',') {
                return Err(reader.error("expected a comma"));
            }
        }
    }
    if reader.rest().is_empty() { Ok(value) } else { Err(reader.error("unexpected text after the value")) }
}

/// Deeper nesting than any task has; it keeps hostile input from exhausting the stack.
const MAX_DEPTH: usize = 64;

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn error(&self, message: &str) -> String {
        format!("{message} at character {} of a Python literal", self.text[..self.at].chars().count() + 1)
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r', '\x0c']).len();
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.rest().chars().next() {
            None => Err(self.error("expected a value")),
            Some('[') => self.sequence(']').map(|(items, _)| Value::Array(items)),
            Some('(') => {
                let (mut items, commas) = self.sequence(')')?;
                // Brackets around one value without a comma only group.
                Ok(if items.len() == 1 && commas == 0 { items.remove(0) } else { Value::Array(items) })
            }
            Some('{') => self.dictionary(),
            Some('+' | '-' | '.' | '0'..='9') => self.number(),
            Some(_) => {
                for (word, value) in [("True", Value::Bool(true)), ("False", Value::Bool(false)), ("None", Value::Null)]
                {
                    let rest = self.rest();
                    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
                    if rest.starts_with(word) && ends(&rest[word.len()..]) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                self.strings()
            }
        }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("too deeply nested"));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// The items up to `end`, and how many commas there were.
    fn sequence(&mut self, end: char) -> Result<(Vec<Value>, usize), String> {
        self.nested(|reader| {
            reader.at += 1;
            let (mut items, mut commas) = (Vec::new(), 0);
            loop {
                reader.skip_space();
                if reader.eat(end) {
                    return Ok((items, commas));
                }
                if items.len() != commas {
                    return Err(reader.error(&format!("expected a comma or `{end}`")));
                }
                items.push(reader.value()?);
                reader.skip_space();
                if reader.eat(',') {
                    commas += 1;
                }
            }
        })
    }

    fn dictionary(&mut self) -> Result<Value, String> {
        self.nested(|reader| {
            reader.at += 1;
            let mut map = Map::new();
            let mut separated = true;
            loop {
                reader.skip_space();
                if reader.eat('}') {
                    return Ok(Value::Object(map));
                }
                if !separated {
                    return Err(reader.error("expected a comma or `}`"));
                }
                let Value::String(key) = reader.value()? else {
                    return Err(reader.error("a dictionary's key should be text"));
                };
                reader.skip_space();
                if !reader.eat(':') {
                    return Err(reader.error("expected `:`"));
                }
                reader.skip_space();
                let value = reader.value()?;
                map.insert(key, value);
                reader.skip_space();
                separated = reader.eat(',');
            }
        })
    }

    fn number(&mut self) -> Result<Value, String> {
        let rest = self.rest();
        let unsigned = rest.trim_start_matches(['+', '-']);
        if rest.len() - unsigned.len() > 1 {
            return Err(self.error("expected a number"));
        }
        let mut length = rest.len() - unsigned.len();
        let mut previous = ' ';
        for c in unsigned.chars() {
            let in_exponent = matches!(previous, 'e' | 'E') && matches!(c, '+' | '-');
            if !(c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '_') || in_exponent) {
                break;
            }
            previous = c;
            length += 1;
        }
        let digits: String = rest[..length].chars().filter(|&c| c != '_' && c != '+').collect();
        let number = match digits.parse::<i64>() {
            Ok(x) => Some(Number::from(x)),
            Err(_) => digits.parse::<f64>().ok().and_then(Number::from_f64),
        };
        let number = number.ok_or_else(|| self.error("expected a number"))?;
        self.at += length;
        Ok(Value::Number(number))
    }

    /// Text; adjacent pieces are joined.
    fn strings(&mut self) -> Result<Value, String> {
        let mut joined: Option<String> = None;
        loop {
            let rest = self.rest();
            let prefix = rest.len() - rest.trim_start_matches(['r', 'R', 'u', 'U']).len();
            let quoted = &rest[prefix..];
            if prefix > 1 || !quoted.starts_with(['\'', '"']) {
                return match joined {
                    Some(text) => Ok(Value::String(text)),
                    None => Err(self.error("expected a value")),
                };
            }
            let raw = rest.starts_with(['r', 'R']);
            let quote = &quoted[..1];
            let triple = quote.repeat(3);
            let end = if quoted.starts_with(&triple) { triple } else { quote.to_string() };
            self.at += prefix + end.len();
            let piece = self.string(&end, raw)?;
            joined.get_or_insert_default().push_str(&piece);
            self.skip_space();
        }
    }

    fn string(&mut self, end: &str, raw: bool) -> Result<String, String> {
        let mut out = String::new();
        loop {
            if self.rest().starts_with(end) {
                self.at += end.len();
                return Ok(out);
            }
            let c = self.next("unfinished text")?;
            if c == '\n' && end.len() == 1 {
                return Err(self.error("unfinished text"));
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let escaped = self.next("unfinished text")?;
            if raw {
                out.extend(['\\', escaped]);
                continue;
            }
            match escaped {
                '\n' => {}
                '\\' | '\'' | '"' => out.push(escaped),
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                'a' => out.push('\x07'),
                'b' => out.push('\x08'),
                'f' => out.push('\x0c'),
                'v' => out.push('\x0b'),
                'x' => out.push(self.code_point(2)?),
                'u' => out.push(self.code_point(4)?),
                'U' => out.push(self.code_point(8)?),
                '0'..='7' => {
                    let mut code = escaped as u32 - '0' as u32;
                    for _ in 0..2 {
                        let Some(digit) = self.rest().chars().next().and_then(|c| c.to_digit(8)) else { break };
                        code = code * 8 + digit;
                        self.at += 1;
                    }
                    out.extend(char::from_u32(code));
                }
                other => out.extend(['\\', other]),
            }
        }
    }

    fn next(&mut self, otherwise: &str) -> Result<char, String> {
        let c = self.rest().chars().next().ok_or_else(|| self.error(otherwise))?;
        self.at += c.len_utf8();
        Ok(c)
    }

    fn code_point(&mut self, digits: usize) -> Result<char, String> {
        let hex = self.rest().get(..digits).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        let code = code.ok_or_else(|| self.error("expected the digits of a character"))?;
        self.at += digits;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glue_lm::jinja::repr;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        for (text, expected) in [
            ("['a', \"b\", 'c''d', ]", json!(["a", "b", "cd"])),
            ("[6,5,4]", json!([6, 5, 4])),
            ("[]", json!([])),
            ("('x')", json!("x")),
            ("('x',)", json!(["x"])),
            ("1, 2", json!([1, 2])),
            ("{'a': [True, None], 'b': -1.5e3}", json!({"a": [true, null], "b": -1500.0})),
            (r"'\x41\u00e9\101\n\q'", json!("AéA\n\\q")),
            (r"r'\n'", json!("\\n")),
            ("'''a\n'b'''", json!("a\n'b")),
            ("1_000", json!(1000)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_literal_is_refused() {
        for (text, message) in [
            ("", "expected a value at character 1"),
            ("[1 2]", "expected a comma or `]` at character 4"),
            ("['a', b]", "expected a value at character 7"),
            ("'abc", "unfinished text at character 5"),
            ("[1] x", "unexpected text after the value at character 5"),
            ("{1: 2}", "a dictionary's key should be text"),
            ("Truely", "expected a value"),
            (&"[".repeat(100), "too deeply nested"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(items in proptest::collection::vec(any::<String>(), 0..5), x in any::<i64>()) {
            let value = json!({"items": items, "x": x, "flag": [null, true]});
            prop_assert_eq!(parse(&repr(&value)), Ok(value));
        }

        #[test]
        fn nothing_makes_the_reader_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
