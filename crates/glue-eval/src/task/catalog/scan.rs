//! A first look at a task file: the keys that give it a name, without parsing the rest.
//!
//! An installation of the harness has some 14 000 files, most of which nobody asks for. Only keys at the beginning of a
//! line are read. Whatever is written in another way than usual is left to the YAML parser.

use crate::task::harness::closes;

/// What makes a file a task, a group or a part of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) task: Option<Named>,
    pub(super) group: Option<String>,
    /// `None` without the key, which may then come from an included file.
    pub(super) tag: Option<Vec<String>>,
    pub(super) include: Vec<String>,
    /// Whether the task is a Python class.
    pub(super) class: bool,
}

/// A name, or a list that names others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Name(String),
    List,
}

/// The value of a key on its line, and on those below it.
enum Found {
    Nothing,
    Text(String),
    List(Vec<String>),
    /// A list of anything.
    Items,
}

/// The head of a file; `None` where a parser has to look.
pub(super) fn head(text: &str) -> Option<Head> {
    let mut head = Head::default();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((key, rest)) = key_of(line) else { continue };
        let known = ["task", "group", "tag", "include", "class"].contains(&key);
        if !known {
            skip_quoted(rest, &mut lines)?;
            continue;
        }
        if key == "class" {
            head.class = true;
            continue;
        }
        let found = match value(rest)? {
            Found::Nothing => below(key, &mut lines)?,
            Found::Text(_) if lines.peek().is_some_and(|next| next.starts_with([' ', '\t']) && !is_blank(next)) => {
                // Plain text may go on.
                return None;
            }
            found => found,
        };
        match (key, found) {
            ("task", Found::Text(name)) => head.task = Some(Named::Name(name)),
            ("task", Found::List(_) | Found::Items) => head.task = Some(Named::List),
            ("group", Found::Text(name)) => head.group = Some(name),
            // Older files list the tags of a task under this key.
            ("group", Found::List(names)) => head.tag.get_or_insert_default().extend(names),
            ("tag", Found::Text(name)) => head.tag.get_or_insert_default().push(name),
            ("tag", Found::List(names)) => head.tag.get_or_insert_default().extend(names),
            ("include", Found::Text(path)) => head.include.push(path),
            ("include", Found::List(paths)) => head.include.extend(paths),
            (_, Found::Nothing) => {}
            _ => return None,
        }
    }
    Some(head)
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// The key at the beginning of a line, and what follows it.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line);
    let first = line.chars().next()?;
    let (key, rest) = match first {
        '"' | '\'' => {
            let (key, rest) = line[1..].split_once(first)?;
            (key, rest.trim_start())
        }
        c if c.is_alphanumeric() || c == '_' => {
            let end = line.find(':')?;
            (line[..end].trim_end(), &line[end..])
        }
        _ => return None,
    };
    let rest = rest.strip_prefix(':')?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r'])).then(|| (key, rest.trim()))
}

/// Passes over the lines of a quoted text, whose lines may look like keys.
fn skip_quoted<'a>(rest: &str, lines: &mut impl Iterator<Item = &'a str>) -> Option<()> {
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else { return Some(()) };
    let mut text = &rest[1..];
    while !closes(text, quote) {
        text = lines.next()?;
    }
    Some(())
}

/// What stands on the line of a key.
fn value(rest: &str) -> Option<Found> {
    match rest.chars().next() {
        None | Some('#') => Some(Found::Nothing),
        Some('[') => {
            let (inner, after) = rest[1..].split_once(']')?;
            if !is_blank(after) || inner.contains(['[', '{', '#']) {
                return None;
            }
            let items = inner.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Found::List(items.map(scalar).collect::<Option<_>>()?))
        }
        Some(_) => match scalar(rest)? {
            null if null == "null" || null == "~" => Some(Found::Nothing),
            text => Some(Found::Text(text)),
        },
    }
}

/// A text on one line, in quotes or without.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    match text.chars().next()? {
        quote @ ('"' | '\'') => {
            let (inner, after) = text[1..].split_once(quote)?;
            (is_blank(after) && !inner.contains('\\') && !after.starts_with(quote)).then(|| inner.to_string())
        }
        '|' | '>' | '&' | '*' | '!' | '{' | '}' | '[' | ']' | '%' | '@' | '`' | '?' | ',' => None,
        _ => Some(text.split(" #").next().unwrap_or(text).trim_end().to_string()),
    }
}

/// The list below a key.
fn below<'a>(key: &str, lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Option<Found> {
    let mut names = Vec::new();
    let mut items = false;
    let mut indent = None;
    while let Some(line) = lines.next_if(|line| is_blank(line) || line.starts_with([' ', '\t', '-'])) {
        if is_blank(line) || line.starts_with("---") {
            continue;
        }
        let trimmed = line.trim_start();
        let at = line.len() - trimmed.len();
        let Some(item) = trimmed.strip_prefix("- ").or_else(|| (trimmed == "-").then_some("")) else {
            // The rest of an item, or a text on the lines below the key.
            if indent.is_none_or(|indent| at <= indent) {
                return None;
            }
            items = true;
            continue;
        };
        if *indent.get_or_insert(at) != at {
            items = true;
            continue;
        }
        match scalar(item) {
            Some(name) if !name.contains(": ") && !name.ends_with(':') => names.push(name),
            _ => items = true,
        }
    }
    match (indent, items) {
        (None, _) => Some(Found::Nothing),
        (Some(_), true) if key != "task" => None,
        (Some(_), true) => Some(Found::Items),
        (Some(_), false) => Some(Found::List(names)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Head>) {
        assert_eq!(head(text), expected, "{text}");
    }

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    fn task(name: &str) -> Head {
        Head { task: Some(Named::Name(name.into())), ..Head::default() }
    }

    #[test]
    fn tasks() {
        check("task: arc_easy\ndataset_path: x\n", Some(task("arc_easy")));
        check(
            "# c\n\"task\": \"a b\" # why\n'include': base\n",
            Some(Head { include: texts(&["base"]), ..task("a b") }),
        );
        let tags = Some(texts(&["a", "b"]));
        check("tag:\n  - a\n  - b\ntask: t\n", Some(Head { tag: tags.clone(), ..task("t") }));
        check("tag:\n- a\n# c\n\n- 'b'\ntask: t", Some(Head { tag: tags.clone(), ..task("t") }));
        check("tag: [a, \"b\"]\r\ntask: t\r\n", Some(Head { tag: tags, ..task("t") }));
        check("task: t\nclass: !function x.Y\n", Some(Head { class: true, ..task("t") }));
        check("metric_list:\n  - metric: acc\n    task: no\ntask: t\n", Some(task("t")));
    }

    #[test]
    fn groups() {
        let group = Head { task: Some(Named::List), group: Some("g".into()), ..Head::default() };
        for text in [
            "group: g\ntask:\n  - a\n  - b\n",
            "group: g\ntask: [a, b]\n",
            "group: g\ntask:\n- group: inner\n  task:\n    - a\n  num_fewshot: 3\n- b\n",
            "group: g\ntask:\n  - task: a\n    num_fewshot: 1\nmetadata:\n  version: 1\n",
        ] {
            check(text, Some(group.clone()));
        }
    }

    #[test]
    fn lines_of_a_text_are_no_keys() {
        check("description: \"a\ntask: no\nb\"\ntask: t\n", Some(task("t")));
        check("description: 'it''s\ntask: no'\ntask: t\n", Some(task("t")));
        check("description: |\n  task: no\ntask: t\n", Some(task("t")));
        check("description: \"a\ntask: no", None);
    }

    #[test]
    fn what_is_unusual_is_left_to_the_parser() {
        for text in [
            "task: &a t\n",
            "task: >\n  t\n",
            "task: [a,\n b]\n",
            "task: a\n  b\n",
            "tag: {a: b}\n",
            "task: \"a\\n\"\n",
        ] {
            check(text, None);
        }
    }
}
