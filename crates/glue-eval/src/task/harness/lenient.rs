//! YAML that PyYAML, which the harness reads its files with, takes and the standard does not.
//!
//! A quoted text may go on at the beginning of a line, while by the standard its lines are indented more than the key.
//! White space at the beginning of such a line has no meaning, so that more of it changes nothing. Of a key that stands
//! in a map twice, the last counts.

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

/// The document of a text.
pub(super) fn parse(text: &str) -> Result<Value, serde_saphyr::Error> {
    let options = serde_saphyr::options! { with_snippet: false, duplicate_keys: DuplicateKeyPolicy::LastWins };
    serde_saphyr::from_str_with_options(text, options)
}

/// The text of a file, with more indentation where it cannot be read without. It has the same lines.
pub(super) fn indent_quoted(text: String) -> String {
    let Some(repaired) = repaired(&text) else { return text };
    match parse(&text) {
        Ok(_) => text,
        Err(_) => repaired,
    }
}

/// The text with all lines of quoted texts indented more than their keys; `None` if they are.
fn repaired(text: &str) -> Option<String> {
    let mut found = String::with_capacity(text.len());
    let mut changed = false;
    let mut lines = text.split_inclusive('\n');
    // The indentation of the key of a block text, whose lines stay as they are.
    let mut block: Option<usize> = None;
    while let Some(line) = lines.next() {
        found.push_str(line);
        let indent = line.len() - line.trim_start_matches(' ').len();
        if line.trim().is_empty() || block.is_some_and(|block| indent > block) {
            continue;
        }
        block = None;
        let Some(value) = value_of(line) else { continue };
        if value.starts_with(['|', '>']) {
            block = Some(indent);
            continue;
        }
        let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else { continue };
        let mut open = !closes(&value[1..], quote);
        while open {
            let next = lines.next()?;
            if !next.trim().is_empty() && next.len() - next.trim_start_matches(' ').len() <= indent + 1 {
                found.push_str(&" ".repeat(indent + 2));
                changed = true;
            }
            found.push_str(next);
            open = !closes(next, quote);
        }
    }
    changed.then_some(found)
}

/// What follows the key, or the mark of a list, on a line.
fn value_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let item = line.strip_prefix("- ").map_or(line, str::trim_start);
    if item.starts_with('#') {
        return None;
    }
    if item.starts_with(['"', '\'']) && item.len() < line.len() {
        return Some(item);
    }
    let (key, value) = item.split_once(": ")?;
    (!key.contains(['"', '\'', '{', '['])).then(|| value.trim_start())
}

/// Whether the end of a quoted text is in this part of it.
pub(in crate::task) fn closes(text: &str, quote: char) -> bool {
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if quote == '"' => {
                characters.next();
            }
            '\'' if quote == '\'' && characters.next_if_eq(&'\'').is_some() => {}
            c if c == quote => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    //! The values are those of PyYAML.
    use super::*;
    use serde_json::json;

    fn check(text: &str, expected: Value) {
        let found = indent_quoted(text.to_string());
        assert_eq!(found.lines().count(), text.lines().count(), "{text}");
        assert_eq!(parse(&found).unwrap(), expected, "{text}");
    }

    #[test]
    fn lines_at_the_margin_are_read() {
        check("a: \"x\ny: z\"\nb: 1\n", json!({"a": "x y: z", "b": 1}));
        check("a:\n  - q: 'it''s\n  here'\n    r: 2\n", json!({"a": [{"q": "it's here", "r": 2}]}));
        check("a: 1\nb: 2\na: 3\n", json!({"a": 3, "b": 2}));
        check("a: \"x\n\ny \\\" z\n\"\n", json!({"a": "x\ny \" z "}));
    }

    #[test]
    fn what_can_be_read_stays_as_it_is() {
        for text in [
            "a: \"x\n  y\"\nb: 1\n",
            "a: |\n  b: \"x\n  y\"\n",
            "a: \"x\"\nb: 'y'\n",
            "a: [\"x\",\n \"y\"]\n",
            "a: \"x",
        ] {
            assert_eq!(indent_quoted(text.to_string()), text);
        }
    }
}
