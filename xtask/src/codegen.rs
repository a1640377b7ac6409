//! `cargo xtask codegen`: the references that the binary prints about itself.
//!
//! They are committed, so they can be read without building. `--check` fails when the code would write something else.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask codegen`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing, and fail if a file is not current.
    #[arg(long)]
    check: bool,
}

/// A generated file and the arguments of `glue` that print it.
const FILES: &[(&str, &[&str])] = &[
    ("docs/operators.md", &["ops", "--markdown"]),
    ("docs/cli.md", &["help-markdown"]),
    ("docs/config.schema.json", &["schema"]),
];

/// Writes every file that changed, or with `--check` none.
///
/// # Errors
/// `glue` does not build or does not print a file, or `--check` found one that is not current.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    if args.check {
        return check(&repo);
    }
    for (file, text) in generate(&repo)? {
        let path = repo.path(file);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            println!("{file} is current");
        } else {
            fs::write(&path, text).with_context(|| format!("cannot write {file}"))?;
            println!("{file} written");
        }
    }
    Ok(())
}

/// Compares what is committed with what the code writes.
///
/// # Errors
/// A file differs or is missing; the message names all such files.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let mut stale = Vec::new();
    for (file, text) in generate(repo)? {
        match fs::read_to_string(repo.path(file)) {
            Ok(old) if old == text => {}
            Ok(old) => stale.push(format!("{file} is not current, from line {} on", first_difference(&old, &text))),
            Err(error) => stale.push(format!("{file}: {error}")),
        }
    }
    if !stale.is_empty() {
        bail!("{}\nhint: run cargo xtask codegen", stale.join("\n"));
    }
    println!("{} generated files are current", FILES.len());
    Ok(())
}

fn generate(repo: &Repo) -> Result<Vec<(&'static str, String)>> {
    // With tests, as `cargo xtask test` has built it: without them, other features would be turned on, and all be built
    // again.
    shell::run(shell::cargo().args(["build", "--workspace", "--bins", "--tests", "--quiet"]))?;
    FILES
        .iter()
        .map(|(file, args)| {
            // Colours and width would otherwise follow the environment.
            let mut glue = Command::new(repo.glue("debug"));
            let glue = glue.args(*args).current_dir(&repo.root).env("NO_COLOR", "1").env_remove("COLUMNS");
            Ok((*file, shell::read(glue).with_context(|| format!("cannot generate {file}"))?))
        })
        .collect()
}

/// The number, from 1, of the first line in which two texts differ.
fn first_difference(old: &str, new: &str) -> usize {
    1 + old.split('\n').zip(new.split('\n')).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    //! Where a stale file is said to differ.
    use super::*;

    #[test]
    fn difference_is_counted_from_line_one() {
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), 2);
        assert_eq!(first_difference("x", "y"), 1);
        assert_eq!(first_difference("a\n", "a\nb\n"), 2);
    }
}
