//! A model on disk: configuration, tokenizer files and weights in one directory.

use crate::adapter::Adapter;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{Config, ConfigError};
use crate::files::{self, FileChanged, FileVersion};
use crate::hub::{self, LegalFiles, locate};
use crate::side_files::{Links, SideFileError, open_to_copy, read_to_copy};
use crate::tokenizer_files::{TokenizerFiles, TokenizerFilesError};
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The configuration's file name.
pub const CONFIG_FILE: &str = "config.json";
/// The file name of the defaults for generation.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// Why a model directory cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelDirError {
    /// There is no such directory.
    #[error("{}: no such directory{}", path.display(), hub::download_hint(path))]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The path is a file, or leads through one.
    #[error("{}: a model is a directory with {CONFIG_FILE} and safetensors files, and this is a file", path.display())]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The directory has no configuration.
    #[error("{}: no {CONFIG_FILE} in the directory", path.display())]
    NoConfig {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds a LoRA adapter.
    #[error(
        "{}: a LoRA adapter, not a model; in a merge config, MODEL+ADAPTER is a model with an adapter", path.display()
    )]
    IsAdapter {
        /// The directory.
        path: PathBuf,
    },
    /// A model and an adapter are named together where only a model can be.
    #[error(
        "{}: the model {} with the adapter {} cannot be named here; merging it with `merge_method: passthrough` writes a \
         model that can be named anywhere",
        path.display(), model.display(), adapter.display()
    )]
    WithAdapter {
        /// The path given.
        path: PathBuf,
        /// The model.
        model: PathBuf,
        /// The adapter.
        adapter: PathBuf,
    },
    /// The configuration cannot be used.
    #[error("{}", path.display())]
    Config {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: ConfigError,
    },
    /// The defaults for generation are not JSON, or not readable.
    #[error("{}: {message}", path.display())]
    GenerationConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The weights cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer files cannot be listed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerFilesError),
}

/// An opened model directory. Weights are mapped, not read.
#[derive(Debug)]
pub struct ModelDir {
    path: PathBuf,
    config: Config,
    generation_config: Option<Value>,
    /// Of the configuration and, where there is one, of the defaults for generation.
    versions: Vec<FileVersion>,
    tokenizer: TokenizerFiles,
    checkpoint: Arc<Checkpoint>,
}

impl ModelDir {
    /// Opens the model in the directory `path`, or, where there is none, the one that is `ORG/NAME` or
    /// `ORG/NAME@REVISION` on the Hugging Face hub, from its cache ([`locate`]).
    ///
    /// # Errors
    /// [`ModelDirError`]. A model without tokenizer files or generation defaults is accepted.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelDir, ModelDirError> {
        let path = locate(path.as_ref()).into_owned();
        match std::fs::metadata(&path) {
            Ok(found) if !found.is_dir() => return Err(ModelDirError::NotADirectory { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(not_found(path));
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(ModelDirError::NotADirectory { path });
            }
            _ => {}
        }
        let (config, version) = Config::open_version(path.join(CONFIG_FILE)).map_err(|error| match error {
            ConfigError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                let path = path.clone();
                if Adapter::is_at(&path) { ModelDirError::IsAdapter { path } } else { ModelDirError::NoConfig { path } }
            }
            error => ModelDirError::Config { path: path.clone(), error },
        })?;
        let mut versions = vec![version];
        let generation_config = match read_generation_config(&path.join(GENERATION_CONFIG_FILE))? {
            Some((value, version)) => {
                versions.push(version);
                Some(value)
            }
            None => None,
        };
        let tokenizer = TokenizerFiles::find(&path)?;
        let checkpoint = Arc::new(Checkpoint::open(&path)?);
        Ok(ModelDir { path, config, generation_config, versions, tokenizer, checkpoint })
    }

    /// The directory, as it was given, or where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json`.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `generation_config.json`; `None` when absent.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// The tokenizer files; there may be none.
    pub fn tokenizer(&self) -> &TokenizerFiles {
        &self.tokenizer
    }

    /// The weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The weights, to be kept longer than the directory is.
    pub fn shared_checkpoint(&self) -> Arc<Checkpoint> {
        Arc::clone(&self.checkpoint)
    }

    /// Files of a model other than configuration and weights: tokenizer files and generation defaults.
    pub fn side_files(&self) -> Vec<PathBuf> {
        let generation = self.generation_config.as_ref().map(|_| self.path.join(GENERATION_CONFIG_FILE));
        self.tokenizer.paths().chain(generation).collect()
    }

    /// Checks that `links` allow the files that an output gets from this model: configuration, tokenizer files and
    /// generation defaults.
    ///
    /// # Errors
    /// [`SideFileError`], which names the file and where it leads.
    pub fn check_links(&self, links: Links) -> Result<(), SideFileError> {
        let config = self.path.join(CONFIG_FILE);
        std::iter::once(config).chain(self.side_files()).try_for_each(|path| {
            open_to_copy(&self.path, &path, links)?;
            Ok(())
        })
    }

    /// The side files as an output gets them, by name and content.
    ///
    /// # Errors
    /// [`SideFileError`] for a file that cannot be read, or that `links` do not allow.
    pub fn read_side_files(&self, links: Links) -> Result<Vec<(String, Vec<u8>)>, SideFileError> {
        let mut files = self.read_tokenizer_files(links)?;
        files.extend(self.read_generation_config(links)?);
        Ok(files)
    }

    /// Those of the tokenizer.
    ///
    /// # Errors
    /// As [`ModelDir::read_side_files`].
    pub fn read_tokenizer_files(&self, links: Links) -> Result<Vec<(String, Vec<u8>)>, SideFileError> {
        let names = self.tokenizer.names().iter();
        names.map(|name| Ok((name.clone(), read_to_copy(&self.path, &self.path.join(name), links)?))).collect()
    }

    /// The defaults for generation, where there are some.
    ///
    /// # Errors
    /// As [`ModelDir::read_side_files`].
    pub fn read_generation_config(&self, links: Links) -> Result<Option<(String, Vec<u8>)>, SideFileError> {
        let name = GENERATION_CONFIG_FILE;
        let read = |_| Ok((name.to_string(), read_to_copy(&self.path, &self.path.join(name), links)?));
        self.generation_config.as_ref().map(read).transpose()
    }

    /// The texts of licences and notices, as an output gets them that is made from this model alone.
    ///
    /// # Errors
    /// As [`ModelDir::read_side_files`].
    pub fn read_legal_files(&self, links: Links) -> Result<Vec<(String, Vec<u8>)>, SideFileError> {
        Ok(LegalFiles::of([("", self.path.as_path())], links)?.common)
    }

    /// Checks that all files of the model are still those that were opened, and that nobody has written to them since:
    /// what was read from them in between, hashes and copies included, is then of one and the same model.
    ///
    /// # Errors
    /// [`FileChanged`] with the first file that is not.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.versions.iter().try_for_each(FileVersion::check)?;
        self.tokenizer.check_unchanged()?;
        self.checkpoint.check_unchanged()
    }
}

/// Nothing is at `path`; but it may be written as merge configs write a model with an adapter.
fn not_found(path: PathBuf) -> ModelDirError {
    let text = path.to_string_lossy().into_owned();
    let parts = text.match_indices('+').map(|(at, _)| (PathBuf::from(&text[..at]), PathBuf::from(&text[at + 1..])));
    match parts.into_iter().find(|(model, adapter)| locate(model).is_dir() && Adapter::is_at(adapter)) {
        Some((model, adapter)) => ModelDirError::WithAdapter { path, model, adapter },
        None => ModelDirError::NotFound { path },
    }
}

fn read_generation_config(path: &Path) -> Result<Option<(Value, FileVersion)>, ModelDirError> {
    let (bytes, version) = match files::read_version(path, files::CONFIG_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(ModelDirError::GenerationConfig { path: path.to_path_buf(), message: error.to_string() });
        }
        Ok(read) => read,
    };
    serde_json::from_slice(&bytes).map(|value| Some((value, version))).map_err(|error| {
        ModelDirError::GenerationConfig { path: path.to_path_buf(), message: format!("not valid JSON: {error}") }
    })
}
