//! `cargo xtask demo`: the whole pipeline on the zoo that is shipped, and what came of it.

use std::fs;

use anyhow::{Context, Result};

use crate::repo::Repo;
use crate::shell;

/// Where the config of the demo is.
pub(crate) const CONFIG: &str = "tests/data/zoo/zoo.yml";

/// Builds `glue` for release and runs it on the shipped zoo.
///
/// # Errors
/// It does not build, or does not run.
pub(crate) fn run() -> Result<()> {
    let repo = Repo::find()?;
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "glue"]))?;
    let out = repo.target.join("demo");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    let glue = std::path::absolute(repo.glue("release"))?;
    shell::run(std::process::Command::new(glue).arg("run").arg(CONFIG).arg("--out").arg(&out).current_dir(&repo.root))
}
