//! What each package of the workspace declares: dependencies that it uses, and what a published crate needs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::repo::{ABOUT, Dependency, Package};

/// Files in the folder of every published crate.
const FILES: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// The source files of a package.
#[derive(Debug, Default)]
struct Sources {
    /// Of its library and programs, without comments.
    code: String,
    /// Of tests, benches and examples too, with comments: they hold doc tests.
    all: String,
    /// The docs of its library's root, with the README where they include it.
    docs: String,
}

/// What is wrong with the packages, one line each.
///
/// # Errors
/// A folder or a source file cannot be read.
pub(super) fn problems(packages: &[Package]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in packages {
        let sources = Sources::read(&package.folder)?;
        let mut found = unused(&package.dependencies, &sources);
        if package.is_published {
            found.extend(incomplete(package, &sources));
        }
        problems.extend(found.into_iter().map(|problem| format!("{}: {problem}", package.name)));
    }
    Ok(problems)
}

impl Sources {
    fn read(folder: &Path) -> Result<Self> {
        let mut sources = Self::default();
        for path in rust_files(folder)? {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let inside = path.strip_prefix(folder).unwrap_or(&path);
            if inside == Path::new("src/lib.rs") {
                sources.docs = docs(&text, folder)?;
            }
            if !["tests", "benches", "examples"].iter().any(|folder| inside.starts_with(folder)) {
                sources.code.extend(text.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| [l, "\n"]));
            }
            sources.all.push_str(&text);
        }
        Ok(sources)
    }
}

/// The inner docs of a library's root.
fn docs(root: &str, folder: &Path) -> Result<String> {
    let mut docs = String::new();
    if root.contains("#![doc = include_str!(\"../README.md\")]") {
        let path = folder.join("README.md");
        docs = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let lines = root.lines().filter_map(|line| line.trim_start().strip_prefix("//!"));
    docs.extend(lines.flat_map(|line| [line, "\n"]));
    Ok(docs)
}

/// Every Rust file below a folder that belongs to its package.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            // A folder with a manifest is another package.
            if entry.file_type()?.is_dir() && !path.join("Cargo.toml").exists() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn unused(dependencies: &[Dependency], sources: &Sources) -> Vec<String> {
    let mut problems = Vec::new();
    for Dependency { name, dev } in dependencies {
        let (text, place) = if *dev { (&sources.all, "tests") } else { (&sources.code, "sources") };
        if !has_word(text, &name.replace('-', "_")) {
            problems.push(format!("depends on {name}, which its {place} do not use"));
        }
    }
    problems
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

fn incomplete(package: &Package, sources: &Sources) -> Vec<String> {
    let fields = ABOUT.iter().filter(|field| !package.about.contains_key(*field));
    let files = FILES.iter().filter(|file| !package.folder.join(file).is_file());
    let mut problems: Vec<String> = fields.map(|field| format!("has no `{field}` in its manifest")).collect();
    problems.extend(files.map(|file| format!("has no {file}")));
    if !has_doc_test(&sources.docs) {
        problems.push("has no doc test at the root of its library".to_owned());
    }
    problems
}

/// Whether docs hold an example that is compiled.
fn has_doc_test(docs: &str) -> bool {
    let mut fences = docs.lines().filter_map(|line| line.trim_start().strip_prefix("```"));
    // Every second fence closes a block.
    let mut opened = std::iter::from_fn(|| {
        let language = fences.next()?;
        fences.next();
        Some(language.trim())
    });
    opened.any(|language| ["", "rust", "no_run", "rust,no_run"].contains(&language))
}

#[cfg(test)]
mod tests {
    //! One test per rule.
    use super::*;

    fn sources(code: &str, all: &str) -> Sources {
        Sources { code: code.to_owned(), all: all.to_owned(), docs: String::new() }
    }

    #[test]
    fn dependencies_are_used_where_they_are_declared() {
        let dependency = |name: &str, dev| [Dependency { name: name.to_owned(), dev }];
        let sources = sources("use glue_merge::Plan;\n", "use glue_merge::Plan;\n//! tempfile::tempdir()\n");
        assert!(unused(&dependency("glue-merge", false), &sources).is_empty());
        assert!(unused(&dependency("tempfile", true), &sources).is_empty());
        assert_eq!(
            unused(&dependency("tempfile", false), &sources),
            ["depends on tempfile, which its sources do not use"]
        );
        assert_eq!(unused(&dependency("merge", false), &sources).len(), 1);
    }

    #[test]
    fn a_published_crate_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        FILES.iter().for_each(|file| fs::write(folder.path().join(file), "").unwrap());
        let about = ABOUT.iter().map(|field| (*field, "x".to_owned())).collect();
        let mut package = Package { folder: folder.path().to_path_buf(), about, ..Package::default() };
        let with_docs = |docs: &str| Sources { docs: docs.to_owned(), ..Sources::default() };
        assert!(incomplete(&package, &with_docs("```\n```\n")).is_empty());
        package.about.remove("keywords");
        fs::remove_file(folder.path().join("LICENSE-MIT")).unwrap();
        let found = incomplete(&package, &with_docs(""));
        assert_eq!(found.len(), 3, "{found:?}");
        for (found, word) in found.iter().zip(["`keywords`", "LICENSE-MIT", "doc test"]) {
            assert!(found.contains(word), "{found}");
        }
    }

    #[test]
    fn doc_tests_are_told_from_other_blocks() {
        assert!(has_doc_test("```text\na\n```\n```rust\na();\n```\n"));
        for no in ["", "```text\n```\n", "```ignore\n```\n"] {
            assert!(!has_doc_test(no), "{no}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("README.md"), "```\na();\n```\n").unwrap();
        let docs = |root| docs(root, folder.path()).unwrap();
        assert!(has_doc_test(&docs("#![doc = include_str!(\"../README.md\")]\n//! # More\n")));
        assert!(!has_doc_test(&docs("//! Text.\n/// ```\n/// ```\n")));
    }
}
