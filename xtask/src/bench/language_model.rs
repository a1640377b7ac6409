//! What the benchmarks of the runtime share: the model, the examples of glue-lm, and rounds of one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::checkpoint::{LLAMA_3_1B, make, names};
use super::measure::{Run, timed};
use crate::repo::Repo;

/// The model of a given directory, or one that is made here, with random weights in the shapes of Llama-3.2-1B.
///
/// # Errors
/// It cannot be written.
pub(super) fn model(repo: &Repo, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(model) = given {
        return Ok(std::path::absolute(model)?);
    }
    let folder = repo.target.join("bench").join("llama-3.2-1b");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    make(&folder, LLAMA_3_1B, 1)?;
    Ok(folder.join(&names(1)[0]))
}

/// The interpreter of a Python environment.
///
/// # Errors
/// There is no working directory.
pub(super) fn python(venv: Option<&Path>) -> Result<Option<PathBuf>> {
    Ok(venv.map(|venv| std::path::absolute(venv.join("bin/python"))).transpose()?)
}

/// An example of glue-lm that was built for release.
pub(super) fn example(repo: &Repo, name: &str) -> Command {
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    Command::new(repo.target.join("release").join("examples").join(name))
}

/// Runs a process that prints a JSON document, and gives that; `None` where it says that a package is not installed.
///
/// # Errors
/// It fails, or prints no document.
pub(super) fn round(command: &mut Command, log: &Path, name: &str) -> Result<Option<(Value, Run)>> {
    let run = match timed(command, log) {
        Ok(run) => run,
        // The script says so in words.
        Err(_) if fs::read_to_string(log)?.trim_end().ends_with("is not installed") => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = fs::read_to_string(log)?;
    let Some(start) = text.find("{\n").or_else(|| text.rfind("{\"")) else {
        bail!("{name} printed no figures: {text}")
    };
    // A runtime may print lines after its figures.
    let mut documents = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let figures = documents.next().with_context(|| format!("{name} printed no figures: {text}"))??;
    Ok(Some((figures, run)))
}
