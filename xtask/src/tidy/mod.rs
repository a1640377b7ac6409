//! `cargo xtask tidy`: rules of the house that no compiler checks. It is also a test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::repo::Repo;

mod arrows;
mod features;
mod lines;
mod links;
mod manifests;
mod sources;
mod words;

/// Folders that cargo and the fuzzer write.
const LEFT_BEHIND: &[&str] = &["target", "corpus", "artifacts"];
/// Hidden folders that belong to the project.
const HIDDEN: &[&str] = &[".cargo", ".ci", ".github"];
/// A project as somebody else would write it, with its own style.
const GUESTS: &[&str] = &["tests/external"];

/// Checks the repository that this is run in.
///
/// # Errors
/// A rule is broken; the message lists every place.
pub(crate) fn run() -> Result<()> {
    check(&Repo::find()?)
}

/// Checks a repository.
///
/// # Errors
/// A rule is broken; the message lists every place.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let architecture = "docs/architecture.md";
    let text = fs::read_to_string(repo.path(architecture)).with_context(|| format!("cannot read {architecture}"))?;
    let packages = repo.with_outsiders()?;
    let mut problems: Vec<String> =
        arrows::problems(&text, &packages).into_iter().map(|p| format!("{architecture}: {p}")).collect();
    problems.extend(features::problems()?);
    problems.extend(manifests::problems(&packages)?);
    let files = files(repo)?;
    for path in &files {
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        let mut found = sources::problems(path, &text);
        found.extend(words::problems(&repo.relative(path), &text));
        found.extend(lines::problems(path, &text));
        if path.extension().is_some_and(|e| e == "md") {
            found.extend(links::problems(path, &text));
        }
        problems.extend(found.into_iter().map(|p| format!("{}:{p}", repo.relative(path))));
    }
    if !problems.is_empty() {
        bail!("{} places are not tidy\n{}", problems.len(), problems.join("\n"));
    }
    println!("{} packages and {} files are tidy", packages.len(), files.len());
    Ok(())
}

/// Every hand-written file of the project, in a fixed order.
fn files(repo: &Repo) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![repo.root.clone()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", repo.relative(&folder)))?;
        for entry in entries {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() && is_ours(repo, &path) {
                folders.push(path);
            } else if kind.is_file() && sources::is_written(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_ours(repo: &Repo, folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let hidden = name.starts_with('.') && !HIDDEN.contains(&&*name);
    !hidden && !LEFT_BEHIND.contains(&&*name) && !GUESTS.contains(&&*repo.relative(folder))
}

#[cfg(test)]
mod tests {
    //! The rules, applied to this repository.

    /// Checks that there is a problem for each of `expected`, in their order, that says so.
    #[track_caller]
    pub(super) fn check_all(found: &[String], expected: &[&str]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} does not say {expected}");
        }
    }

    #[test]
    fn tidy() {
        if let Err(error) = super::run() {
            panic!("{error:#}");
        }
    }
}
