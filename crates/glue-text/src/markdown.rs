//! Names and texts of others in Markdown: model cards, reports. Whatever is in them, they stay text on their line.

use crate::printable;

/// `text` on one line, with everything that Markdown would take for markup escaped.
pub fn inline(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '\n' | '\r' | '\t' => escaped.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' | '$' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// `text` as a code span on one line. In a table, `|` still has to be escaped.
pub fn code(text: &str) -> String {
    let text = clean(text).replace(['\n', '\r'], " ");
    if text.is_empty() {
        return String::new();
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// Length of the longest run of backticks.
fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

fn clean(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// `text` as a block of code in `language`, in a fence longer than any run of backticks in it.
pub fn fenced(language: &str, text: &str) -> String {
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}\n", clean(text).trim_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_text_on_their_line() {
        assert_eq!(inline("a|b_*<c>\n#"), "a\\|b\\_\\*\\<c\\> \\#");
        assert_eq!(inline("<img src=x onerror=alert(1)>"), "\\<img src=x onerror=alert(1)\\>");
        assert_eq!(inline("a\u{1b}[31mb\u{202e}c"), "a\u{fffd}\\[31mb\u{fffd}c");
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("`a"), "`` `a ``");
        assert_eq!(code("a`<script>\nb"), "``a`<script> b``");
        assert_eq!(fenced("yaml", "a: ```\n"), "````yaml\na: ```\n````\n");
    }
}
