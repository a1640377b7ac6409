//! Rules for single files: module docs, no unfinished code, no path of somebody's machine.

use std::path::Path;

/// What persons write; data files and what programs generate are not looked at.
const WRITTEN: &[&str] = &["rs", "md", "toml", "yml", "yaml", "sh", "py", "cu", "cuh"];

/// First folders of paths that exist on one machine only.
const MACHINE: &[&str] = &["home", "root", "tmp", "work", "mnt", "Users"];

/// Code that is not finished, as it is typed; put together so that this file may hold it.
const UNFINISHED: &[&str] = &[concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];

/// A test that is skipped without saying why.
const IGNORED: &str = concat!("#[", "ignore]");

/// Whether a file is one that these rules are for.
pub(super) fn is_written(path: &Path) -> bool {
    match path.extension() {
        Some(extension) => WRITTEN.contains(&&*extension.to_string_lossy()),
        None => path.parent().and_then(Path::file_name).is_some_and(|folder| folder == ".ci"),
    }
}

/// Every broken rule as `line: what is wrong`.
pub(super) fn problems(path: &Path, text: &str) -> Vec<String> {
    let rust = path.extension().is_some_and(|e| e == "rs");
    let mut problems = Vec::new();
    if rust && !begins_with_docs(text) {
        problems.push("1: begins with no `//!` that says what the file is for".to_owned());
    }
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(found) = machine_path(line) {
            problems.push(format!("{number}: `{found}` is a path of one machine"));
        }
        if !rust {
            continue;
        }
        for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
            problems.push(format!("{number}: `{word}` is not finished code"));
        }
        if line.contains(IGNORED) {
            problems.push(format!("{number}: an ignored test needs a reason: #[ignore = \"...\"]"));
        }
    }
    problems
}

/// Whether the first thing after inner attributes and blank lines is an inner doc comment.
fn begins_with_docs(text: &str) -> bool {
    let mut open = 0i32;
    for line in text.lines().map(str::trim) {
        if open == 0 && (line.starts_with("//!") || line.starts_with("#![doc = include_str!(")) {
            return true;
        }
        if open == 0 && !line.is_empty() && !line.starts_with("#![") {
            return false;
        }
        let count = |c| i32::try_from(line.matches(c).count()).unwrap_or(i32::MAX);
        open += count('[') - count(']');
    }
    false
}

/// The first folder of an absolute path that only one machine has.
fn machine_path(line: &str) -> Option<String> {
    MACHINE.iter().map(|folder| format!("/{folder}/")).find(|path| {
        line.match_indices(path.as_str()).any(|(at, _)| {
            // After a letter or the like it is the inside of an address or of a relative path.
            !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~*{}$<>)".contains(c))
        })
    })
}

#[cfg(test)]
mod tests {
    //! One test per rule.
    use super::*;

    fn check(name: &str, text: &str, expected: &[&str]) {
        crate::tidy::tests::check_all(&problems(Path::new(name), text), expected);
    }

    #[test]
    fn docs_come_first_but_for_attributes() {
        check("a.rs", "//! Text.\nuse x;\n", &[]);
        check("a.rs", "#![no_main]\n#![allow(\n    dead_code,\n)]\n\n//! Text.\n", &[]);
        check("a.rs", "#![doc = include_str!(\"../README.md\")]\nuse x;\n", &[]);
        check("a.rs", "use x;\n//! Text.\n", &["1: begins with no"]);
        check("a.rs", "", &["1: begins with no"]);
        check("a.md", "Text.", &[]);
    }

    #[test]
    fn unfinished_code_is_found_with_its_line() {
        for word in UNFINISHED {
            check("a.rs", &format!("//! T.\nfn f() {{ {word}) }}\n"), &["2: "]);
        }
        check("a.rs", &format!("//! T.\n{IGNORED}\n#[ignore = \"slow\"]\n"), &["2: an ignored test"]);
    }

    #[test]
    fn machine_paths_are_told_from_relative_ones() {
        for folder in MACHINE {
            check("a.md", &format!("in `/{folder}/x`"), &["1: "]);
            check("a.md", &format!("in target/{folder}/x, $X/{folder}/x, https://a.org/{folder}/x"), &[]);
        }
    }

    #[test]
    fn data_is_not_written() {
        assert!(is_written(Path::new("docs/a.md")) && is_written(Path::new(".ci/run")));
        assert!(!is_written(Path::new("a.safetensors")) && !is_written(Path::new("LICENSE-MIT")));
    }
}
