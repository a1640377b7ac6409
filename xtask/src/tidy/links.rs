//! Relative links in Markdown files lead to files that exist.

use std::path::Path;

/// Every link that leads nowhere as `line: what is wrong`.
pub(super) fn problems(path: &Path, text: &str) -> Vec<String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut problems = Vec::new();
    let mut fence = None;
    for (number, line) in (1..).zip(text.lines()) {
        let start = line.trim_start();
        match (fence, ["```", "~~~"].into_iter().find(|f| start.starts_with(f))) {
            (None, Some(opened)) => fence = Some(opened),
            (Some(opened), Some(closing)) if opened == closing => fence = None,
            (Some(_), _) => {}
            (None, None) => {
                for target in targets(line).filter(|target| !resolves(folder, target)) {
                    problems.push(format!("{number}: the link to `{target}` leads nowhere"));
                }
            }
        }
    }
    problems
}

/// What a line links to: `[text](target)`, `[text](target "title")`, and `[name]: target` at its start.
fn targets(line: &str) -> impl Iterator<Item = String> {
    // Inside backticks nothing is a link: those are the odd pieces.
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(inside, _)| inside);
    let definition = prose.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]: "));
    let definition = definition.filter(|(name, _)| !name.contains(']')).map(|(_, rest)| rest);
    let first_word = |s: &str| s.split_whitespace().next().map(|w| w.trim_matches(['<', '>']).to_owned());
    inline.chain(definition).filter_map(first_word).collect::<Vec<_>>().into_iter()
}

fn resolves(folder: &Path, target: &str) -> bool {
    let elsewhere = target.contains("://") || target.starts_with("mailto:");
    let file = target.split('#').next().unwrap_or_default();
    elsewhere || file.is_empty() || folder.join(file).exists()
}

#[cfg(test)]
mod tests {
    //! Links of each form, with a folder that holds one file.
    use super::*;

    fn check(text: &str, expected: usize) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("there.md"), "").unwrap();
        let found = problems(&folder.path().join("a.md"), text);
        assert_eq!(found.len(), expected, "{text}: {found:?}");
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        check("[a](there.md) [b](there.md#part) [c](#part) [d](https://a.org/x) [e](there.md \"title\")", 0);
        check("[a]: there.md\n[b]: <https://a.org>", 0);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        check("[a](gone.md), [b](there.md) and ![c](gone.png)", 2);
        check("[a]: gone.md", 1);
        check("in `code` and [a](gone.md) after it", 1);
    }

    #[test]
    fn code_holds_no_links() {
        check("`[a](gone.md)`\n```text\n[a](gone.md)\n```\n", 0);
        check("```\n~~~\n```\n[a](gone.md)", 1);
    }
}
