//! Merges whose outputs a later step of the same command uses: kept in a work directory, and used again while they are
//! current.

use crate::failure::Failure;
use crate::shell::Shell;
use glue_merge::Registry;
use glue_recipe::{MergePlan, Recipe, RunError, manifest};
use glue_tensor::files;
use rayon::ThreadPool;
use std::io;
use std::path::{Path, PathBuf};

/// Whether `directory` holds a current output of the stage `name`. An outdated output of this stage is removed.
pub(super) fn reusable(
    name: &str,
    plan: &MergePlan,
    directory: &Path,
    registry: &Registry,
    pool: &ThreadPool,
    shell: &Shell<'_>,
) -> Result<bool, Failure> {
    let Some(manifest) = existing(directory)? else { return Ok(false) };
    if is_current(&manifest, plan, pool, shell)? {
        return Ok(true);
    }
    // The directory may belong to another merge: never remove that.
    let recipe = manifest["recipe"].as_str().unwrap_or_default();
    let recipes = Recipe::parse(recipe, manifest::FILE, registry).unwrap_or_default();
    if !recipes.iter().any(|recipe| recipe.name.as_ref().is_some_and(|found| found.value == name)) {
        let why =
            format!("{}: expected an earlier output of stage {name}, found one of another merge", directory.display());
        let hint = Some("choose another --work-dir, or move the existing files away; nothing is overwritten");
        return Err(Failure::failed(io::Error::new(io::ErrorKind::AlreadyExists, why)).hint(hint));
    }
    std::fs::remove_dir_all(directory).map_err(|error| file_error(directory, &error))?;
    Ok(false)
}

/// Whether `directory` holds what `plan` would make. Nothing is removed.
pub(super) fn is_there(
    plan: &MergePlan,
    directory: &Path,
    pool: &ThreadPool,
    shell: &Shell<'_>,
) -> Result<bool, Failure> {
    existing(directory)?.map_or(Ok(false), |manifest| is_current(&manifest, plan, pool, shell))
}

/// The manifest in `directory`; `None` when there is none.
fn existing(directory: &Path) -> Result<Option<serde_json::Value>, Failure> {
    let path = directory.join(manifest::FILE);
    match files::read(&path, files::CONFIG_BYTES) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| file_error(&path, &io::Error::new(io::ErrorKind::InvalidData, error))),
        // A directory without a manifest is not ours to remove. If it is not empty, writing refuses it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(&path, &error)),
    }
}

fn is_current(
    manifest: &serde_json::Value,
    plan: &MergePlan,
    pool: &ThreadPool,
    shell: &Shell<'_>,
) -> Result<bool, Failure> {
    let cancel = shell.cancel_token();
    let hashes =
        pool.install(|| manifest::hash_inputs(plan, &|| cancel.is_cancelled())).map_err(|error| match error {
            RunError::Stopped => Failure::Interrupted,
            error => Failure::failed(error),
        })?;
    plan.check_unchanged().map_err(Failure::failed)?;
    Ok(manifest::is_current(manifest, plan, &hashes))
}

/// `out_dir` with `ending` appended to its name.
pub(super) fn beside(out_dir: &Path, ending: &str) -> PathBuf {
    let mut name = out_dir.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    out_dir.with_file_name(name)
}

fn file_error(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
