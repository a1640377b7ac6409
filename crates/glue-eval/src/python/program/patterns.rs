//! The module `re`.

use super::Fault;
use super::calls::{Arguments, Keywords};
use super::evaluate::type_error;
use super::execute::Machine;
use super::value::{Match, V};
use crate::python::regex;
use fancy_regex::{Captures, Regex};
use std::rc::Rc;

/// Values of the flags, as Python has them.
pub(super) fn flag(name: &str) -> Option<i64> {
    Some(match name {
        "IGNORECASE" | "I" => 2,
        "LOCALE" | "L" => 4,
        "MULTILINE" | "M" => 8,
        "DOTALL" | "S" => 16,
        "UNICODE" | "U" => 32,
        "VERBOSE" | "X" => 64,
        "ASCII" | "A" => 256,
        _ => return None,
    })
}

impl Machine<'_> {
    pub(super) fn pattern(&mut self, value: &V, flags: i64) -> Result<Rc<Regex>, Fault> {
        let source = match value {
            V::Regex(regex) => return Ok(Rc::clone(regex)),
            V::Str(source) => source,
            V::Missing(why) => return Err(Fault::missing(why)),
            other => return Err(type_error(&format!("a pattern should be a text, not {}", other.type_name()))),
        };
        let key = (Rc::clone(source), flags);
        if let Some(known) = self.regexes.get(&key) {
            return Ok(Rc::clone(known));
        }
        if flags & (4 | 256) != 0 {
            return Err(Fault::unsupported(0, "patterns of ASCII or of a locale"));
        }
        let letters = [(2, 'i'), (8, 'm'), (16, 's'), (64, 'x')];
        let letters: String = letters.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect();
        let pattern = if letters.is_empty() { source.to_string() } else { format!("(?{letters}){source}") };
        let compiled = regex::compile(&pattern).map_err(|why| Fault::unsupported(0, format!("the pattern: {why}")))?;
        let compiled = Rc::new(compiled);
        self.regexes.insert(key, Rc::clone(&compiled));
        Ok(compiled)
    }

    /// A function of the module; the first argument is the pattern.
    pub(super) fn re_function(&mut self, name: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let mut arguments = Arguments::new(name, positional, keywords);
        if name == "escape" {
            let text = arguments.text("pattern")?;
            arguments.done()?;
            return Ok(V::str(fancy_regex::escape(&text).into_owned()));
        }
        let pattern = arguments.required("pattern")?;
        let mut flags = arguments.keyword("flags");
        if name == "compile" {
            flags = flags.or_else(|| arguments.optional("flags"));
        }
        let mut rest = Vec::new();
        let wanted: &[&str] = match name {
            "sub" | "subn" => &["repl", "string", "count"],
            "split" => &["string", "maxsplit"],
            "compile" => &[],
            _ => &["string"],
        };
        for argument in wanted {
            rest.extend(arguments.optional(argument));
        }
        if flags.is_none() {
            flags = arguments.optional("flags");
        }
        arguments.done()?;
        let flags = flags.map_or(Ok(0), |flags| flags.int().ok_or_else(|| type_error("flags are whole numbers")))?;
        let regex = self.pattern(&pattern, flags)?;
        if name == "compile" {
            return Ok(V::Regex(regex));
        }
        self.pattern_method(&regex, name, rest, Vec::new())
    }

    pub(super) fn pattern_method(
        &mut self,
        regex: &Rc<Regex>,
        name: &str,
        positional: Vec<V>,
        keywords: Keywords,
    ) -> Result<V, Fault> {
        let endless = |error: String| Fault::unsupported(0, format!("the pattern: {error}"));
        let mut arguments = Arguments::new(name, positional, keywords);
        let replacement = if name == "sub" { Some(arguments.required("repl")?) } else { None };
        let text = arguments.text("string")?;
        self.grow(text.len())?;
        let result = match name {
            "search" => {
                let found = regex.captures(&text).map_err(|error| endless(error.to_string()))?;
                found.map_or(V::None, |found| V::Match(Rc::new(Match::new(regex, &found, &text))))
            }
            "match" | "fullmatch" => {
                let found = regex.captures(&text).map_err(|error| endless(error.to_string()))?;
                let at_start = |found: &Captures<'_>| found.get(0).is_some_and(|whole| whole.start() == 0);
                match found.filter(at_start) {
                    Some(found) => {
                        let whole = found.get(0).map_or(0, |whole| whole.end()) == text.len();
                        if name == "fullmatch" && !whole {
                            // Another way to match may reach the end.
                            let pattern = format!("(?:{})\\z", regex.as_str());
                            let full = Regex::new(&pattern).map_err(|error| endless(error.to_string()))?;
                            let found = full.captures(&text).map_err(|error| endless(error.to_string()))?;
                            match found.filter(at_start) {
                                Some(found) => V::Match(Rc::new(Match::new(regex, &found, &text))),
                                None => V::None,
                            }
                        } else {
                            V::Match(Rc::new(Match::new(regex, &found, &text)))
                        }
                    }
                    None => V::None,
                }
            }
            "findall" => {
                let mut all = Vec::new();
                for mut groups in regex::find_all(regex, &text).map_err(endless)? {
                    self.step(1)?;
                    all.push(match groups.len() {
                        1 => V::str(groups.remove(0)),
                        _ => V::tuple(groups.into_iter().map(V::str).collect()),
                    });
                }
                V::list(all)
            }
            "finditer" => {
                let mut all = Vec::new();
                for found in regex.captures_iter(&text) {
                    let found = found.map_err(|error| endless(error.to_string()))?;
                    self.step(1 + text.len() as u64 / 64)?;
                    all.push(V::Match(Rc::new(Match::new(regex, &found, &text))));
                }
                V::iterator(all)
            }
            "split" => {
                let limit = arguments.optional("maxsplit").and_then(|limit| limit.int()).unwrap_or(0);
                let limit = usize::try_from(limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
                let mut pieces = Vec::new();
                let mut end = 0;
                for found in regex.captures_iter(&text).take(limit) {
                    let found = found.map_err(|error| endless(error.to_string()))?;
                    let Some(whole) = found.get(0) else { continue };
                    pieces.push(V::str(&text[end..whole.start()]));
                    for group in 1..found.len() {
                        pieces.push(found.get(group).map_or(V::None, |group| V::str(group.as_str())));
                    }
                    end = whole.end();
                }
                pieces.push(V::str(&text[end..]));
                V::list(pieces)
            }
            "sub" => {
                let count = arguments.optional("count").and_then(|count| count.int()).unwrap_or(0);
                let count = usize::try_from(count).unwrap_or(0);
                match replacement {
                    Some(V::Str(by)) => {
                        let replaced = regex::substitute(regex, &by, &text, count).map_err(endless)?;
                        self.grow(replaced.len())?;
                        V::str(replaced)
                    }
                    Some(function) => self.substitute_by(regex, &function, &text, count)?,
                    None => V::None,
                }
            }
            _ => return Err(Fault::unsupported(0, format!("`{name}` of a pattern"))),
        };
        arguments.done()?;
        Ok(result)
    }

    fn substitute_by(&mut self, regex: &Rc<Regex>, function: &V, text: &str, count: usize) -> Result<V, Fault> {
        let mut out = String::new();
        let mut end = 0;
        for (i, found) in regex.captures_iter(text).enumerate() {
            if count > 0 && i >= count {
                break;
            }
            let found = found.map_err(|error| Fault::unsupported(0, format!("the pattern: {error}")))?;
            let Some(whole) = found.get(0) else { continue };
            out.push_str(&text[end..whole.start()]);
            let matched = V::Match(Rc::new(Match::new(regex, &found, text)));
            out.push_str(&self.call(function, vec![matched], Vec::new())?.to_str()?);
            end = whole.end();
            self.grow(out.len())?;
        }
        out.push_str(&text[end..]);
        Ok(V::str(out))
    }
}

impl Match {
    fn new(regex: &Regex, found: &Captures<'_>, text: &str) -> Match {
        let place = |byte: usize| text[..byte].chars().count();
        let group = |i| {
            let group = found.get(i)?;
            Some((Rc::from(group.as_str()), place(group.start()), place(group.end())))
        };
        let names = regex.capture_names().enumerate().filter_map(|(i, name)| Some((name?.to_string(), i)));
        Match { groups: (0..found.len()).map(group).collect(), names: names.collect() }
    }

    fn number(&self, group: &V) -> Result<usize, Fault> {
        let number = match group {
            V::Str(name) => self.names.iter().find(|(own, _)| **own == **name).map(|(_, number)| *number),
            other => other.int().and_then(|number| usize::try_from(number).ok()),
        };
        number.filter(|&number| number < self.groups.len()).ok_or_else(|| Fault::raised("IndexError", "no such group"))
    }

    pub(super) fn group(&self, group: &V) -> Result<V, Fault> {
        let number = self.number(group)?;
        Ok(self.groups[number].as_ref().map_or(V::None, |(text, ..)| V::Str(Rc::clone(text))))
    }

    pub(super) fn method(&self, name: &str, positional: Vec<V>) -> Result<V, Fault> {
        let first = positional.first().cloned().unwrap_or(V::Int(0));
        let span = || -> Result<(i64, i64), Fault> {
            let group = self.groups[self.number(&first)?].as_ref();
            Ok(group.map_or((-1, -1), |&(_, start, end)| (start as i64, end as i64)))
        };
        match name {
            "group" if positional.len() > 1 => {
                Ok(V::tuple(positional.iter().map(|group| self.group(group)).collect::<Result<_, _>>()?))
            }
            "group" => self.group(&first),
            "groups" => {
                let groups = (1..self.groups.len()).map(|i| self.group(&V::Int(i as i64)));
                Ok(V::tuple(groups.collect::<Result<_, _>>()?))
            }
            "start" => Ok(V::Int(span()?.0)),
            "end" => Ok(V::Int(span()?.1)),
            "span" => {
                let (start, end) = span()?;
                Ok(V::tuple(vec![V::Int(start), V::Int(end)]))
            }
            _ => Err(Fault::unsupported(0, format!("`{name}` of a match"))),
        }
    }
}
