//! Rule: a package built by itself has its dependencies built as the whole workspace has them.
//!
//! Otherwise a program outside the workspace that uses `glue-cli`, and a build of that package alone, compile most of
//! the dependencies a second time.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::shell::{self, cargo};

/// The package that others build programs from.
const PACKAGE: &str = "glue-cli";

/// What is wrong with the features of the dependencies.
pub(super) fn problems() -> Result<Vec<String>> {
    let workspace = tree(&["--workspace", "--edges", "normal,build,dev"])?;
    let alone = tree(&["--package", PACKAGE, "--edges", "normal,build"])?;
    Ok(differing(&alone, &workspace)
        .map(|line| {
            format!("Cargo.toml: {PACKAGE} by itself is built with `{line}`, the workspace with other features")
        })
        .collect())
}

/// Packages with their features, a line each.
fn tree(args: &[&str]) -> Result<String> {
    shell::read(cargo().args(["tree", "--prefix", "none", "--no-dedupe", "--format", "{p} [{f}]"]).args(args))
}

/// The lines of the first that the second lacks, each once.
fn differing<'a>(alone: &'a str, workspace: &str) -> impl Iterator<Item = &'a str> {
    let known: BTreeSet<&str> = workspace.lines().collect();
    // Members of the workspace come with their path; their features are their own business.
    let differs = |line: &&str| !known.contains(line) && !line.contains(" (/");
    alone.lines().filter(differs).collect::<BTreeSet<&str>>().into_iter()
}

#[cfg(test)]
mod tests {
    //! Texts as cargo prints them.
    use super::differing;

    #[test]
    fn other_features_are_found() {
        let workspace = "a v1.0.0 [std]\nb v0.2.0 []\nb v0.2.0 [std]\n";
        assert_eq!(differing("a v1.0.0 [std]\nb v0.2.0 []\n", workspace).count(), 0);
        let found: Vec<_> = differing("a v1.0.0 []\na v1.0.0 []\nb v0.2.0 []\n", workspace).collect();
        assert_eq!(found, ["a v1.0.0 []"]);
    }
}
