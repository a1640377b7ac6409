//! Regular expressions in the dialect of Python's `re`.
//!
//! The engine's own dialect is Perl's, which is nearly the same; a pattern is rewritten where the two differ: `$` also
//! matches before a final line break, `\Z` is the end of the text, and inside brackets `[`, `&&`, `--` and `~~` stand
//! for themselves.

use fancy_regex::Regex;

/// Compiles a pattern of Python's.
///
/// # Errors
/// What the engine finds wrong with it.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(&translate(pattern)).map_err(|error| error.to_string())
}

fn translate(pattern: &str) -> String {
    // In multi-line mode `$` already means what it does in Python.
    let multi_line =
        pattern.split("(?").skip(1).any(|group| group.chars().take_while(|c| c.is_ascii_lowercase()).any(|c| c == 'm'));
    let mut out = String::with_capacity(pattern.len());
    let mut characters = pattern.chars().peekable();
    // Where the first character inside brackets is: there a `]` stands for itself.
    let mut class_start = None;
    while let Some(c) = characters.next() {
        match c {
            '\\' => {
                match characters.next() {
                    Some('Z') if class_start.is_none() => out.push_str("\\z"),
                    Some(escaped) => out.extend(['\\', escaped]),
                    None => out.push('\\'),
                };
            }
            '[' if class_start.is_none() => {
                out.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                class_start = Some(out.len());
            }
            '[' => out.push_str("\\["),
            ']' if class_start == Some(out.len()) => out.push_str("\\]"),
            ']' => {
                class_start = None;
                out.push(']');
            }
            '&' | '~' | '-' if class_start.is_some() && characters.peek() == Some(&c) => out.extend(['\\', c]),
            '$' if class_start.is_none() && !multi_line => out.push_str("(?=\\n?\\z)"),
            c => out.push(c),
        }
    }
    out
}

/// `re.findall`: for each match the whole of it if the pattern has no group, else its groups, `""` for one that took no
/// part.
///
/// # Errors
/// When the engine gives up, which it does on patterns that would run for ever.
pub(crate) fn find_all(regex: &Regex, text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut found = Vec::new();
    for captures in regex.captures_iter(text) {
        let captures = captures.map_err(|error| error.to_string())?;
        let first = usize::from(captures.len() > 1);
        let group = |i| captures.get(i).map_or_else(String::new, |group| group.as_str().to_string());
        found.push((first..captures.len()).map(group).collect());
    }
    Ok(found)
}

/// `re.sub(pattern, replacement, text, count)`; a `count` of 0 replaces all. In the replacement `\1` and `\g<name>`
/// stand for groups.
///
/// # Errors
/// When the engine gives up, or the replacement names a group that there is not.
pub(crate) fn substitute(regex: &Regex, replacement: &str, text: &str, count: usize) -> Result<String, String> {
    let mut out = String::new();
    let mut end = 0;
    for (i, captures) in regex.captures_iter(text).enumerate() {
        if count > 0 && i >= count {
            break;
        }
        let captures = captures.map_err(|error| error.to_string())?;
        let Some(whole) = captures.get(0) else { continue };
        out.push_str(&text[end..whole.start()]);
        expand(replacement, &captures, &mut out)?;
        end = whole.end();
    }
    out.push_str(&text[end..]);
    Ok(out)
}

fn expand(replacement: &str, captures: &fancy_regex::Captures<'_>, out: &mut String) -> Result<(), String> {
    let mut rest = replacement;
    while let Some(backslash) = rest.find('\\') {
        out.push_str(&rest[..backslash]);
        rest = &rest[backslash + 1..];
        let name = if let Some(named) = rest.strip_prefix("g<") {
            let (name, after) = named.split_once('>').ok_or("the replacement has `\\g<` without `>`")?;
            rest = after;
            name
        } else {
            let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            rest = after;
            number
        };
        if name.is_empty() {
            let escaped = rest.chars().next().ok_or("the replacement ends in a backslash")?;
            rest = &rest[escaped.len_utf8()..];
            out.push(match escaped {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '\\' => '\\',
                other => return Err(format!("the replacement has `\\{other}`, which means nothing")),
            });
            continue;
        }
        let group = match name.parse::<usize>() {
            Ok(number) if number < captures.len() => captures.get(number),
            Ok(_) => return Err(format!("the pattern has no group {name}")),
            Err(_) => captures.name(name),
        };
        out.push_str(group.map_or("", |group| group.as_str()));
    }
    out.push_str(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_those_of_python() {
        // The right column is what `re.findall` of CPython 3.12 gives, a text alone as a list of one.
        let cases: &[(&str, &str, &[&[&str]])] = &[
            (r"#### (\-?[0-9\.\,]+)", "so #### 1,234. ok", &[&["1,234."]]),
            (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "is $10 or 7", &[&["$10", ""], &["", "7"]]),
            (r"\d+$", "12\n34\n", &[&["34"]]),
            (r"(?m)^\d+$", "12\n34\n", &[&["12"], &["34"]]),
            (r"a\Z", "a\n", &[]),
            (r"[^[]+", "a[b", &[&["a"], &["b"]]),
            (r"[]a]+", "x]a", &[&["]a"]]),
            (r"[a&&b]+", "&a&", &[&["&a&"]]),
            (r"(?<=A)\w", "ABC", &[&["B"]]),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(find_all(&compile(pattern).unwrap(), text).unwrap(), *expected, "{pattern}");
        }
    }

    #[test]
    fn replacing_is_that_of_python() {
        for (pattern, replacement, text, count, expected) in [
            (r"(\w)(\d)", r"\2\1", "a1 b2", 0, "1a 2b"),
            (r"(?P<x>\w)", r"<\g<x>\g<1>>", "ab", 1, "<aa>b"),
            (r"\s+", r"\n", "a  b c", 0, "a\nb\nc"),
            (r"x*", "-", "abd", 0, "-a-b-d-"),
        ] {
            let regex = compile(pattern).unwrap();
            assert_eq!(substitute(&regex, replacement, text, count).unwrap(), expected, "{pattern}");
        }
        let regex = compile("a").unwrap();
        assert_eq!(substitute(&regex, r"\3", "a", 0).unwrap_err(), "the pattern has no group 3");
    }
}
