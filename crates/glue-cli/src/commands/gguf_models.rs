//! GGUF files where a model directory is expected: imported once, and found again.

use super::export;
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::units;
use glue_gguf::{ImportOptions, ImportPlan};
use glue_tensor::ContentHash;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The directory of the model at `path`. A GGUF file is imported into the user's cache first, unless it was before and
/// has not changed.
pub(crate) fn directory<'a>(path: &'a Path, global: &Global, shell: &Shell<'_>) -> Result<Cow<'a, Path>, Failure> {
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if !is_gguf || !path.is_file() {
        return Ok(Cow::Borrowed(path));
    }
    let target = place(path)?;
    if target.is_dir() {
        return Ok(Cow::Owned(target));
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(Failure::failed)?;
    }
    let plan = ImportPlan::new(path, &ImportOptions::default()).map_err(export::failure)?;
    let (from, to, bytes) = (path.display(), target.display(), units::bytes(plan.report().n_bytes));
    shell.note(&format!("{from} is imported to {to} ({bytes}), and found there the next time"));
    let progress = CommandProgress::new(shell);
    super::recipes::pool(global)?.install(|| plan.write(&target, &progress)).map_err(export::failure)?;
    Ok(Cow::Owned(target))
}

/// Where the import of a file is kept, by its path, size and time of change.
fn place(path: &Path) -> Result<PathBuf, Failure> {
    let path = path.canonicalize().map_err(Failure::failed)?;
    let system = path.metadata().map_err(Failure::failed)?;
    let changed = system.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let identity = format!("{}\n{}\n{}", path.display(), system.len(), changed.as_nanos());
    let hash = ContentHash::of(identity.as_bytes()).to_string();
    let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    let cache = cache.ok_or_else(|| {
        let why = "there is no home directory for imported models: set XDG_CACHE_HOME, or use `glue import`";
        Failure::refused(std::io::Error::new(std::io::ErrorKind::NotFound, why))
    })?;
    Ok(cache.join("model-glue").join("gguf").join(format!("{stem}-{}", &hash[..16.min(hash.len())])))
}
