//! The models of a search: opened, named, and checked by their headers.

use crate::config::SearchConfig;
use crate::context::{Member, SearchContext};
use crate::recipe_text::RecipeTemplate;
use crate::similarity::Similarity;
use crate::space::TensorNames;
use glue_metrics::compatibility::{Verdict, compatibility};
use glue_progress::ErrorChain;
use glue_tensor::checkpoint::CheckpointFile;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Checkpoint, ContentHash, FileChanged, Links, ModelDir, SideFileError};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// The models of a search.
#[derive(Debug)]
pub struct ModelSet {
    members: Vec<Member>,
    dirs: Vec<ModelDir>,
    base: Option<ModelDir>,
    /// Of the models and of the base.
    statistics: Vec<Checkpoint>,
}

/// Why models cannot be searched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelSetError {
    /// A model cannot be opened.
    #[error("model `{model}`")]
    Open {
        /// Its path in the config.
        model: String,
        /// Why.
        #[source]
        error: Box<glue_tensor::model_dir::ModelDirError>,
    },
    /// Statistics of a model, or of the base, cannot be opened.
    #[error("statistics")]
    Statistics(#[source] Box<glue_tensor::CheckpointError>),
    /// Two models cannot be merged.
    #[error("`{first}` and `{second}` cannot be merged: {reasons}")]
    Incompatible {
        /// A model.
        first: String,
        /// Another.
        second: String,
        /// Their differences.
        reasons: String,
    },
    /// Headers or tokenizers cannot be compared.
    #[error(transparent)]
    Metrics(#[from] glue_metrics::MetricsError),
    /// A file cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
}

impl ModelSet {
    /// Opens the models of `config`, whose relative paths start at the working directory, and checks that they can be
    /// merged with each other and with the base. No weight is read.
    ///
    /// # Errors
    /// [`ModelSetError`].
    pub fn open(config: &SearchConfig) -> Result<ModelSet, ModelSetError> {
        let open = |model: &String| {
            ModelDir::open(model).map_err(|error| ModelSetError::Open { model: model.clone(), error: Box::new(error) })
        };
        let dirs = config.models.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let base = config.base.as_ref().map(open).transpose()?;
        let mut named: Vec<(String, &ModelDir)> = config.models.iter().cloned().zip(&dirs).collect();
        named.extend(config.base.iter().cloned().zip(&base));
        let paths = config.space.iter().flat_map(|space| space.statistics.values().chain(&space.base_statistics));
        let statistics =
            paths.map(|path| Checkpoint::open(path).map_err(|error| ModelSetError::Statistics(Box::new(error))));
        let statistics = statistics.collect::<Result<Vec<_>, _>>()?;
        let found = compatibility(&named)?;
        for pair in &found.pairs {
            if pair.verdict != Verdict::Mergeable {
                let reasons: Vec<String> = pair.reasons.iter().map(ToString::to_string).collect();
                return Err(ModelSetError::Incompatible {
                    first: named[pair.first].0.clone(),
                    second: named[pair.second].0.clone(),
                    reasons: reasons.join("; "),
                });
            }
        }
        let names = glue_text::names::short(&config.models);
        let member = |(name, path): (String, &String)| Member { name, path: path.clone() };
        let members = names.into_iter().zip(&config.models).map(member).collect();
        Ok(ModelSet { members, dirs, base, statistics })
    }

    /// The models, in the order of the config.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Their directories, in the same order.
    pub fn dirs(&self) -> &[ModelDir] {
        &self.dirs
    }

    /// Bytes of the tensors of a merged model, in the type of the first model.
    pub fn merged_bytes(&self) -> u64 {
        self.dirs.first().map_or(0, |dir| dir.checkpoint().total_bytes())
    }

    /// Checks that no file of the models, the base and their statistics was replaced or changed since it was opened.
    ///
    /// # Errors
    /// [`FileChanged`] with the first such file.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.dirs.iter().chain(&self.base).try_for_each(ModelDir::check_unchanged)?;
        self.statistics.iter().try_for_each(Checkpoint::check_unchanged)
    }

    /// Checks that `links` allows the files that a merge may copy.
    ///
    /// # Errors
    /// [`SideFileError`], which names the link and its target.
    pub fn check_links(&self, links: Links) -> Result<(), SideFileError> {
        self.dirs.iter().chain(&self.base).try_for_each(|dir| dir.check_links(links))
    }

    /// What strategies work with.
    pub fn search_context<'a>(
        &'a self,
        config: &SearchConfig,
        operators: &'a glue_merge::Registry,
        optimisers: &'a glue_search::OptimiserRegistry,
    ) -> SearchContext<'a> {
        let template = RecipeTemplate {
            base_model: config.base.clone(),
            dtype: config.dtype.clone(),
            seed: (config.seed != 0).then_some(config.seed),
            ..RecipeTemplate::default()
        };
        let read = || {
            let named: Vec<_> = self
                .members
                .iter()
                .zip(&self.dirs)
                .map(|(member, dir)| (member.name.as_str(), dir.checkpoint()))
                .collect();
            Similarity::read(&named).map_err(|error| error.chain())
        };
        SearchContext {
            members: self.members.clone(),
            template,
            space: config.space(),
            tensors: TensorNames::of(&self.dirs[0]),
            statistics: self.statistic_names(config),
            operators,
            optimisers,
            seed: config.seed,
            read_similarity: Box::new(read),
        }
    }

    /// Names of the statistics that all models have, and of those of the base.
    fn statistic_names(&self, config: &SearchConfig) -> Vec<String> {
        let names = |checkpoint: &Checkpoint| -> BTreeSet<String> {
            let last = |name: &str| name.rsplit_once('.').map(|(_, last)| last.to_string());
            checkpoint.tensors().iter().filter_map(|info| last(&info.name)).collect()
        };
        let n_models = config.space.as_ref().map_or(0, |space| space.statistics.len());
        let (models, base) = self.statistics.split_at(n_models);
        let common = models.iter().map(names).reduce(|common, of| common.intersection(&of).cloned().collect());
        common.unwrap_or_default().into_iter().chain(base.iter().flat_map(names)).collect()
    }

    /// Hashes of all files of the models and of the base that a score depends on, by path and name: configuration,
    /// tokenizer, chat template, generation defaults and weights. And those of statistics. All of them are read.
    ///
    /// # Errors
    /// [`ModelSetError::Io`] for a file that can no longer be read.
    pub fn hashes(&self) -> Result<Value, ModelSetError> {
        let mut side_files: Vec<(&Path, PathBuf)> = Vec::new();
        let mut weights: Vec<(&Path, &CheckpointFile)> = Vec::new();
        for dir in self.dirs.iter().chain(&self.base) {
            let files = std::iter::once(dir.path().join(CONFIG_FILE)).chain(dir.side_files());
            side_files.extend(files.map(|file| (dir.path(), file)));
            weights.extend(dir.checkpoint().files().iter().map(|file| (dir.path(), file)));
        }
        for statistics in &self.statistics {
            weights.extend(statistics.files().iter().map(|file| (statistics.path(), file)));
        }
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let of_weights = weights.par_iter().map(|(model, file)| (*model, name(file.path()), file.content_hash()));
        let mut hashes: Vec<(&Path, String, ContentHash)> = of_weights.collect();
        for (model, file) in &side_files {
            let bytes = glue_tensor::files::read(file, glue_tensor::files::DATA_BYTES)
                .map_err(|error| ModelSetError::Io { path: file.clone(), error })?;
            hashes.push((model, name(file), ContentHash::of(&bytes)));
        }
        let mut models = serde_json::Map::new();
        for (model, file, hash) in hashes {
            let files = models.entry(model.display().to_string()).or_insert_with(|| json!({}));
            files[file] = json!(hash.to_string());
        }
        Ok(Value::Object(models))
    }
}

/// Hashes of the files at `paths`: of a directory all files below it; of a file also those next to it, which may belong
/// to it. A name that is not a path has no hash.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn hash_paths(paths: &[String]) -> Result<Value, ModelSetError> {
    let mut hashes = serde_json::Map::new();
    for name in paths {
        let path = Path::new(name);
        let hash = match path.exists() {
            false => Value::Null,
            true => {
                let root = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
                let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
                let mut files = Vec::new();
                collect(root, &mut files, path.is_dir(), &mut HashSet::new())?;
                files.sort();
                let mut all = Vec::new();
                for file in &files {
                    let bytes = glue_tensor::files::read(file, glue_tensor::files::DATA_BYTES)
                        .map_err(|error| ModelSetError::Io { path: file.clone(), error })?;
                    let name = file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned();
                    all.extend(format!("{name} {}\n", ContentHash::of(&bytes)).into_bytes());
                }
                json!(ContentHash::of(&all).to_string())
            }
        };
        hashes.insert(name.clone(), hash);
    }
    Ok(Value::Object(hashes))
}

/// `known` holds the directories visited so far: circular links end there.
fn collect(
    directory: &Path,
    files: &mut Vec<PathBuf>,
    deep: bool,
    known: &mut HashSet<PathBuf>,
) -> Result<(), ModelSetError> {
    let at = |error| ModelSetError::Io { path: directory.into(), error };
    if !known.insert(directory.canonicalize().map_err(at)?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.is_file() {
            files.push(path);
        } else if deep && path.is_dir() {
            collect(&path, files, deep, known)?;
        }
    }
    Ok(())
}
