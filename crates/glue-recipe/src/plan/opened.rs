//! Model directories, adapters and statistics that stay open from plan to plan, so that each header, configuration and
//! tokenizer is read once.

use crate::experts::ExpertMatches;
use glue_tensor::tokenizer_files::{TokenizerComparison, TokenizerFilesError, tokenizers_equal};
use glue_tensor::{Adapter, AdapterError, Checkpoint, CheckpointError, ModelDir, ModelDirError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Models, adapters and statistics that were opened, by path, and what was found of them. Clones share them. Changes to
/// their files are not noticed.
#[derive(Debug, Clone, Default)]
pub struct OpenModels {
    models: Arc<Mutex<HashMap<PathBuf, Arc<ModelDir>>>>,
    adapters: Arc<Mutex<HashMap<PathBuf, Arc<Adapter>>>>,
    statistics: Arc<Mutex<HashMap<PathBuf, Arc<Checkpoint>>>>,
    matches: ExpertMatches,
    comparisons: Arc<Mutex<HashMap<(PathBuf, PathBuf), TokenizerComparison>>>,
}

impl OpenModels {
    /// The model in the directory `path`, opened now if it is not open yet.
    ///
    /// # Errors
    /// Those of [`ModelDir::open`].
    pub fn open(&self, path: &Path) -> Result<Arc<ModelDir>, ModelDirError> {
        known_or(&self.models, canonical(path), || ModelDir::open(path).map(Arc::new))
    }

    /// The adapter in the directory `path`, opened now if it is not open yet.
    ///
    /// # Errors
    /// Those of [`Adapter::open`].
    pub fn open_adapter(&self, path: &Path) -> Result<Arc<Adapter>, AdapterError> {
        known_or(&self.adapters, canonical(path), || Adapter::open(path).map(Arc::new))
    }

    /// The statistics at `path`, opened now if they are not open yet.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub fn statistics(&self, path: &Path) -> Result<Arc<Checkpoint>, CheckpointError> {
        known_or(&self.statistics, canonical(path), || Checkpoint::open(path).map(Arc::new))
    }

    /// How many times the experts of a layer of a model were matched with those of a reference: once for each layer and
    /// model, however many plans with `align_experts` were run.
    pub fn expert_matches_computed(&self) -> usize {
        self.matches.computed()
    }

    /// The matches of experts that are known.
    pub(super) fn expert_matches(&self) -> &ExpertMatches {
        &self.matches
    }

    /// How the tokenizers of two models relate.
    pub(super) fn compare(&self, a: &ModelDir, b: &ModelDir) -> Result<TokenizerComparison, TokenizerFilesError> {
        let key = (a.path().to_path_buf(), b.path().to_path_buf());
        known_or(&self.comparisons, key, || tokenizers_equal(a.tokenizer(), b.tokenizer()))
    }
}

/// One key for every path that leads to a file.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// The value of `key`, made now if it is not known. Other threads are not kept waiting for it: of two that make it at
/// once, the first one's stays.
fn known_or<K: Eq + Hash, V: Clone, E>(
    known: &Mutex<HashMap<K, V>>,
    key: K,
    make: impl FnOnce() -> Result<V, E>,
) -> Result<V, E> {
    let known = || known.lock();
    if let Some(value) = known().get(&key) {
        return Ok(value.clone());
    }
    let value = make()?;
    Ok(known().entry(key).or_insert(value).clone())
}
