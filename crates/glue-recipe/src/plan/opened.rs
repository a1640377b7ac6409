//! Model directories and adapters that stay open from plan to plan, so that headers, configurations and tokenizers are read once.

use glue_tensor::tokenizer_files::{TokenizerComparison, TokenizerFilesError, tokenizers_equal};
use glue_tensor::{Adapter, AdapterError, Checkpoint, CheckpointError, ModelDir, ModelDirError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Models and statistics that were opened, by path, for plans to come. Clones share them. Files that change meanwhile are not noticed.
#[derive(Debug, Clone, Default)]
pub struct OpenModels {
    models: Arc<Mutex<HashMap<PathBuf, Arc<ModelDir>>>>,
    adapters: Arc<Mutex<HashMap<PathBuf, Arc<Adapter>>>>,
    statistics: Arc<Mutex<HashMap<PathBuf, Arc<Checkpoint>>>>,
    compared: Arc<Mutex<HashMap<(PathBuf, PathBuf), TokenizerComparison>>>,
}

impl OpenModels {
    /// The model in the directory `path`, opened now if it was not before.
    ///
    /// # Errors
    /// Those of [`ModelDir::open`].
    pub fn open(&self, path: &Path) -> Result<Arc<ModelDir>, ModelDirError> {
        let key = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if let Some(model) = self.models.lock().get(&key) {
            return Ok(Arc::clone(model));
        }
        let model = Arc::new(ModelDir::open(path)?);
        let mut models = self.models.lock();
        Ok(Arc::clone(models.entry(key).or_insert(model)))
    }

    /// The adapter in the directory `path`, likewise.
    ///
    /// # Errors
    /// Those of [`Adapter::open`].
    pub fn open_adapter(&self, path: &Path) -> Result<Arc<Adapter>, AdapterError> {
        let key = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if let Some(adapter) = self.adapters.lock().get(&key) {
            return Ok(Arc::clone(adapter));
        }
        let adapter = Arc::new(Adapter::open(path)?);
        let mut adapters = self.adapters.lock();
        Ok(Arc::clone(adapters.entry(key).or_insert(adapter)))
    }

    /// The statistics at `path`, opened now if they were not before: the same for every path that leads there.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub fn statistics(&self, path: &Path) -> Result<Arc<Checkpoint>, CheckpointError> {
        let key = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if let Some(known) = self.statistics.lock().get(&key) {
            return Ok(Arc::clone(known));
        }
        let checkpoint = Arc::new(Checkpoint::open(path)?);
        let mut all = self.statistics.lock();
        Ok(Arc::clone(all.entry(key).or_insert(checkpoint)))
    }

    /// How the tokenizers of two models relate.
    pub(super) fn compare(&self, a: &ModelDir, b: &ModelDir) -> Result<TokenizerComparison, TokenizerFilesError> {
        let key = (a.path().to_path_buf(), b.path().to_path_buf());
        if let Some(known) = self.compared.lock().get(&key) {
            return Ok(known.clone());
        }
        let comparison = tokenizers_equal(a.tokenizer(), b.tokenizer())?;
        self.compared.lock().insert(key, comparison.clone());
        Ok(comparison)
    }
}
