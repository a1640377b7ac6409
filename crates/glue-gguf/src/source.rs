//! What an export reads: the description of a model, and the values of its tensors.

use crate::error::GgufError;
use glue_progress::Progress;
use glue_tensor::{Config, Links, ModelDir, TensorSpec, widen};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A model as far as it is known without its weights: all that an [`ExportPlan`](crate::ExportPlan) is made from.
#[derive(Debug, Clone)]
pub struct ExportModel {
    /// Where the model is or would be, for messages.
    pub path: PathBuf,
    /// What the file calls the model.
    pub name: String,
    /// `config.json`.
    pub config: Config,
    /// `generation_config.json`; `None` without one.
    pub generation_config: Option<Value>,
    /// The tokenizer; without files if the model has none.
    pub tokenizer: ExportTokenizer,
    /// All tensors.
    pub tensors: Vec<TensorSpec>,
}

/// The tokenizer of an [`ExportModel`].
#[derive(Debug, Clone, Default)]
pub struct ExportTokenizer {
    /// The directory that the files come from, for messages.
    pub path: PathBuf,
    /// The files that make up the tokenizer, by name and content.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The default chat template, if any.
    pub chat_template: Option<String>,
}

impl ExportModel {
    /// The model in a directory. `links` says which links are followed to tokenizer files.
    ///
    /// # Errors
    /// [`GgufError::SideFile`] and [`GgufError::TokenizerFiles`] for tokenizer files that cannot be read.
    pub fn of(model: &ModelDir, links: Links) -> Result<ExportModel, GgufError> {
        let path = model.path().to_path_buf();
        let resolved = path.canonicalize().unwrap_or_else(|_| path.clone());
        let name = resolved.file_name().map_or_else(|| "model".to_string(), |name| name.to_string_lossy().into_owned());
        let tokenizer = ExportTokenizer {
            path: path.clone(),
            files: model.read_tokenizer_files(links)?.into_iter().collect(),
            chat_template: model.tokenizer().chat_template()?,
        };
        let tensors = model.checkpoint().views().map(|view| TensorSpec {
            name: view.name().to_string(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
        });
        Ok(ExportModel {
            path,
            name,
            config: model.config().clone(),
            generation_config: model.generation_config().cloned(),
            tokenizer,
            tensors: tensors.collect(),
        })
    }
}

/// Where an export reads the values of the tensors of an [`ExportModel`].
pub trait TensorSource {
    /// Gets these tensors ready: [`TensorSource::read`] is called for no others until the next call. Does nothing by
    /// default.
    ///
    /// # Errors
    /// [`GgufError::Cancelled`], or why the tensors cannot be had.
    fn prepare(&mut self, tensors: &[&str], progress: &dyn Progress) -> Result<(), GgufError> {
        let _ = (tensors, progress);
        Ok(())
    }

    /// Replaces the content of `out` by `n` values of the tensor `tensor`, from value `first` on.
    ///
    /// # Errors
    /// [`GgufError::Tensor`] for a tensor or values that are not there.
    fn read(&self, tensor: &str, first: usize, n: usize, out: &mut Vec<f32>) -> Result<(), GgufError>;

    /// Checks that what was read is still what the export was planned with.
    ///
    /// # Errors
    /// [`GgufError::Changed`].
    fn check_unchanged(&self) -> Result<(), GgufError>;
}

impl TensorSource for ModelDir {
    fn read(&self, tensor: &str, first: usize, n: usize, out: &mut Vec<f32>) -> Result<(), GgufError> {
        let checkpoint = self.checkpoint();
        let error = |message: &str| GgufError::Tensor {
            path: checkpoint.path().to_path_buf(),
            tensor: tensor.to_string(),
            message: message.to_string(),
        };
        let view = checkpoint.get(tensor).ok_or_else(|| error("it is not there"))?;
        let size = view.dtype().size();
        let data = view.data().get(first * size..(first + n) * size);
        let data = data.ok_or_else(|| error("it has fewer values than were asked for"))?;
        out.clear();
        out.resize(n, 0.0);
        widen(view.dtype(), data, out)
            .map(|_| ())
            .map_err(|error| GgufError::Convert { tensor: tensor.to_string(), error })
    }

    fn check_unchanged(&self) -> Result<(), GgufError> {
        Ok(ModelDir::check_unchanged(self)?)
    }
}
