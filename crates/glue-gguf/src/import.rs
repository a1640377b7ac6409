//! From a GGUF file to a model directory.

use crate::container::GgufFile;
use crate::error::GgufError;
use crate::family::Facts;
use crate::mapping::import_tensors;
use crate::parts::Output;
use crate::vocabulary::{TokenizerOutput, tokenizer_files};
use glue_progress::{Progress, Unit};
use glue_tensor::model_dir::{CONFIG_FILE, GENERATION_CONFIG_FILE};
use glue_tensor::{CheckpointWriter, Dtype, Layout, Staging, TensorSpec, narrow};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of a file of weights.
const SHARD_BYTES: u64 = 5_000_000_000;

/// What an import makes.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Type of all weights, [`Dtype::F32`], [`Dtype::F16`] or [`Dtype::Bf16`]. By default that of the embedding, or
    /// bfloat16 where it is quantised.
    pub dtype: Option<Dtype>,
    /// Name of llama.cpp's pre-tokenizer, in place of the one that the file names.
    pub pre_tokenizer: Option<String>,
}

/// What was imported, or will be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ImportReport {
    /// `model_type` of the model.
    pub family: &'static str,
    /// `general.architecture` of the file.
    pub architecture: &'static str,
    /// Type of the weights.
    pub dtype: Dtype,
    /// Bytes of the weights.
    pub n_bytes: u64,
    /// Tensors of the model.
    pub n_tensors: usize,
    /// Whether values were quantised: the weights are then those that were rounded, in a wider type.
    pub quantised: bool,
    /// Whether the file has a tokenizer.
    pub has_tokenizer: bool,
}

/// An import, checked and laid out, before anything is written.
#[derive(Debug)]
pub struct ImportPlan {
    file: GgufFile,
    outputs: Vec<Output>,
    layout: Layout,
    config: Value,
    tokenizer: TokenizerOutput,
    report: ImportReport,
}

impl ImportPlan {
    /// Checks that all of the GGUF file at `path` is known, and lays the model out.
    ///
    /// # Errors
    /// [`GgufError`] for a file that is malformed, and for a family, a key, a tensor or a tokenizer that is not known.
    pub fn new(path: impl AsRef<Path>, options: &ImportOptions) -> Result<ImportPlan, GgufError> {
        let file = GgufFile::open(path)?;
        refuse_split(&file)?;
        let (family, facts) = Facts::from_file(&file)?;
        let (outputs, tied) = import_tensors(&file, family, &facts)?;
        let stored = file.tensor("token_embd.weight").map(|tensor| tensor.kind);
        let dtype = match options.dtype {
            Some(dtype @ (Dtype::F32 | Dtype::F16 | Dtype::Bf16)) => dtype,
            Some(other) => {
                let (path, key) = (file.path().to_path_buf(), "dtype".to_string());
                return Err(GgufError::Config { path, key, message: format!("expected a float type, found {other}") });
            }
            None => stored.and_then(|kind| kind.dtype()).unwrap_or(Dtype::Bf16),
        };
        let named = options.pre_tokenizer.as_deref();
        let tokenizer = tokenizer_files(&file, facts.vocabulary, facts.context, named)?;
        let mut config = facts.to_config(family, dtype, tied, |name| file.tensor(name).is_some());
        if let Value::Object(config) = &mut config {
            config.extend(tokenizer.ids.clone());
        }
        let specs =
            outputs.iter().map(|output| TensorSpec { name: output.name.clone(), dtype, shape: output.shape.clone() });
        let layout = Layout::new(specs.collect(), SHARD_BYTES, "model")?;
        let report = ImportReport {
            family: family.model_type,
            architecture: family.arch,
            dtype,
            n_bytes: layout.total_bytes(),
            n_tensors: outputs.len(),
            quantised: file.tensors().iter().any(|tensor| tensor.kind.is_quantised()),
            has_tokenizer: !tokenizer.files.is_empty(),
        };
        Ok(ImportPlan { file, outputs, layout, config, tokenizer, report })
    }

    /// What will be imported.
    pub fn report(&self) -> &ImportReport {
        &self.report
    }

    /// Writes the model into `directory`, which must not exist or be empty, in blocks: memory does not grow with the
    /// model. The directory appears when it is complete.
    ///
    /// # Errors
    /// [`GgufError::Cancelled`]; values that the type cannot hold; what the system says.
    pub fn write(self, directory: impl AsRef<Path>, progress: &dyn Progress) -> Result<ImportReport, GgufError> {
        let ImportPlan { file, outputs, layout, config, tokenizer, report } = self;
        progress.begin("writing tensors", Unit::Bytes, Some(report.n_bytes));
        let staging = Staging::create(directory)?;
        let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new())?;
        let mut bytes = Vec::new();
        for (at, output) in outputs.iter().enumerate() {
            progress.item(&output.name);
            let mut offset = 0;
            let read =
                |source: &str, first: usize, n: usize, out: &mut Vec<f32>| file.read_named(source, first, n, out);
            output.for_each_block(read, |values| {
                if progress.is_cancelled() {
                    return Err(GgufError::Cancelled);
                }
                bytes.resize(values.len() * report.dtype.size(), 0);
                let finite = narrow(report.dtype, values, &mut bytes)
                    .map_err(|error| GgufError::Convert { tensor: output.name.clone(), error })?;
                if !finite {
                    let message = format!("it holds NaN, an infinity, or a value beyond the range of {}", report.dtype);
                    return Err(GgufError::Quantise { tensor: output.name.clone(), message });
                }
                writer.write_at(at, offset, &bytes)?;
                offset += bytes.len() as u64;
                progress.advance(bytes.len() as u64);
                Ok(())
            })?;
        }
        file.check_unchanged()?;
        writer.finish()?;
        staging.write_file(CONFIG_FILE, format!("{config:#}\n").as_bytes())?;
        if !tokenizer.ids.is_empty() {
            let generation = Value::Object(tokenizer.ids);
            staging.write_file(GENERATION_CONFIG_FILE, format!("{generation:#}\n").as_bytes())?;
        }
        for (name, content) in &tokenizer.files {
            staging.write_file(name, content)?;
        }
        staging.commit()?;
        Ok(report)
    }
}

/// Imports the GGUF file at `path` into `directory`.
///
/// # Errors
/// Those of [`ImportPlan::new`] and [`ImportPlan::write`]. Whatever can be refused is refused before anything is
/// written.
pub fn import(
    path: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImportReport, GgufError> {
    ImportPlan::new(path, options)?.write(directory, progress)
}

/// Refuses one file of several.
fn refuse_split(file: &GgufFile) -> Result<(), GgufError> {
    match file.metadata().get("split.count").and_then(|count| count.as_u64()) {
        Some(count) if count > 1 => Err(GgufError::Malformed {
            path: file.path().to_path_buf(),
            message: format!("one of {count} files of a model; `llama-gguf-split --merge` makes one of them"),
        }),
        _ => Ok(()),
    }
}
