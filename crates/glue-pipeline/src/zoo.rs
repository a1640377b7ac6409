//! The models of a run, opened and named.

use crate::config::ZooConfig;
use crate::error::PipelineError;
use glue_eval::LocalModel;
use glue_tensor::hub::locate_below;
use glue_tensor::{FileChanged, ModelDir};
use glue_text::names;
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A model of the zoo.
#[derive(Debug)]
pub(crate) struct ZooModel {
    /// Its name in reports.
    pub(crate) name: String,
    /// Its directory: the path in the config, relative to the working directory.
    pub(crate) path: PathBuf,
    /// Whether it is a base, which is not merged itself.
    pub(crate) base: bool,
    pub(crate) dir: ModelDir,
}

/// All models of a run: those of `models`, then the bases.
#[derive(Debug)]
pub(crate) struct Zoo {
    pub(crate) models: Vec<ZooModel>,
}

impl Zoo {
    /// Opens every model of `config`, whose relative paths start at `directory`. No weight is read.
    pub(crate) fn open(config: &ZooConfig, directory: &Path) -> Result<Zoo, PipelineError> {
        let mut models: Vec<ZooModel> = Vec::new();
        let entries = config.models.iter().map(|model| (model.name().to_string(), model.path()));
        let bases = config.base.iter().map(|path| (names::last_part(path).to_string(), path.as_str()));
        for (i, (name, path)) in entries.chain(bases).enumerate() {
            let base = i >= config.models.len();
            let path = locate_below(directory, path);
            if let Some(known) = models.iter_mut().find(|known| known.path == path) {
                // A base that is also listed as a model.
                known.base |= base;
                continue;
            }
            let name = if models.iter().any(|known| known.name == name) { path.display().to_string() } else { name };
            let dir = ModelDir::open(&path)
                .map_err(|error| PipelineError::Model { model: path.display().to_string(), error: Box::new(error) })?;
            models.push(ZooModel { name, path, base, dir });
        }
        Ok(Zoo { models })
    }

    /// The directory of a model.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.models.iter().find(|model| model.name == name).map_or_else(|| name.into(), |model| model.path.clone())
    }

    /// Checks that no file of a model was replaced or changed since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.models.iter().try_for_each(|model| model.dir.check_unchanged())
    }

    /// Hashes of the files of all models, by name: of everything that a score depends on. All weights are read.
    pub(crate) fn hashes(&self) -> Result<Value, PipelineError> {
        let hash = |model: &ZooModel| {
            let hash = LocalModel::hash_files(&model.dir);
            let hash =
                hash.map_err(|error| PipelineError::Run { model: model.name.clone(), error: Box::new(error) })?;
            Ok((model.name.clone(), Value::from(hash)))
        };
        let all = self.models.par_iter().map(hash).collect::<Result<Vec<_>, PipelineError>>()?;
        Ok(Value::Object(all.into_iter().collect::<Map<_, _>>()))
    }
}
