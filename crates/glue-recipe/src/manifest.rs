//! `glue.json`: what an output was made from and how, so that the same can be made again, or known to be there.
//!
//! | key | holds |
//! |---|---|
//! | `format` | version of this table, 1 |
//! | `tool`, `version` | what made the output |
//! | `recipe` | the text of the recipe |
//! | `operator`, `wraps` | name of the operator, and of the one it wraps |
//! | `seed`, `dtype` | seed of random operators; type of the output, null where each tensor keeps its own |
//! | `chat_template` | XXH3-128 of the chat template that the recipe asks for, null where it asks for none |
//! | `inputs` | for each model: its name in the recipe, its path, that of its adapter if it has one, and for each file of either name, bytes and XXH3-128; the same of its statistics, where it has some |
//! | `output` | files with bytes of data and number of tensors; elements in all |
//! | `copied` | tensors taken over as they are, because they hold no floating-point numbers |
//! | `dropped` | tensors left out, and why |
//! | `notes` | what else there is to know |

use crate::plan::MergePlan;
use crate::run::RunError;
use glue_tensor::hub::legal_files;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Checkpoint, ContentHash, Dtype, Layout, adapter, files};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

/// File name of the manifest.
pub const FILE: &str = "glue.json";

/// A file of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHash {
    /// Its name.
    pub name: String,
    /// Its size.
    pub n_bytes: u64,
    /// Hash of its content.
    pub hash: ContentHash,
}

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelHashes {
    /// Weights, configuration and tokenizer.
    pub files: Vec<FileHash>,
    /// Statistics; empty where it has none.
    pub statistics: Vec<FileHash>,
}

/// Hashes of every model of a plan, in the order of its models.
pub type InputHashes = Vec<ModelHashes>;

/// Hashes every file that the output of `plan` depends on, several at once on the current rayon
/// pool. Reads all of them. `stop` is asked for every mebibyte.
///
/// # Errors
/// [`RunError::Read`] for a file that cannot be read, [`RunError::Stopped`] once `stop` is true.
pub fn hash_inputs(plan: &MergePlan, stop: &(dyn Fn() -> bool + Sync)) -> Result<InputHashes, RunError> {
    let small = |path: &Path| {
        let bytes = files::read(path, files::DATA_BYTES)
            .map_err(|source| RunError::Read { path: path.to_path_buf(), source })?;
        Ok(FileHash { name: file_name(path), n_bytes: bytes.len() as u64, hash: ContentHash::of(&bytes) })
    };
    let of = |checkpoint: &Checkpoint| -> Result<Vec<FileHash>, RunError> {
        let mapped = checkpoint.files().par_iter();
        mapped
            .map(|file| {
                let hash = file.content_hash_unless(stop).ok_or(RunError::Stopped)?;
                Ok(FileHash { name: file_name(file.path()), n_bytes: file.n_bytes(), hash })
            })
            .collect()
    };
    plan.models
        .par_iter()
        .map(|model| {
            let config = model.dir.path().join(CONFIG_FILE);
            let legal = legal_files(model.dir.path());
            let others = rayon::iter::once(config).chain(model.dir.side_files()).chain(legal);
            let others: Vec<FileHash> = others.map(|path| small(&path)).collect::<Result<_, RunError>>()?;
            let mut files = of(model.dir.checkpoint())?;
            files.extend(others);
            if let Some(adapter) = &model.adapter {
                let (n_bytes, hash) = adapter.dir.config_file();
                files.extend(of(adapter.dir.checkpoint())?);
                files.push(FileHash { name: adapter::CONFIG_FILE.to_string(), n_bytes, hash });
            }
            let statistics = model.statistics.as_ref().map(|statistics| of(&statistics.checkpoint)).transpose()?;
            Ok(ModelHashes { files, statistics: statistics.unwrap_or_default() })
        })
        .collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The manifest of the output of `plan`, written as `layout` says.
pub fn manifest(plan: &MergePlan, layout: &Layout, hashes: &InputHashes) -> Value {
    let mut value = identity(plan, hashes);
    let files: Vec<Value> = layout
        .shards()
        .iter()
        .map(|shard| json!({ "name": shard.name, "bytes": shard.n_bytes, "tensors": shard.tensors.len() }))
        .collect();
    let elements: usize = plan.tensors.iter().map(|tensor| tensor.n_elements()).sum();
    let copied: Vec<&str> = plan.copied().map(|(tensor, _)| tensor.name.as_str()).collect();
    let dropped: Vec<Value> =
        plan.dropped.iter().map(|(tensor, why)| json!({ "tensor": tensor, "why": why })).collect();
    value["output"] = json!({ "files": files, "tensors": plan.tensors.len(), "elements": elements });
    value["copied"] = json!(copied);
    value["dropped"] = json!(dropped);
    value["notes"] = json!(plan.notes);
    value
}

/// Whether an output with the manifest `existing` is what `plan` would make: the same recipe, seed and inputs by
/// content, and the same version of this program.
pub fn is_current(existing: &Value, plan: &MergePlan, hashes: &InputHashes) -> bool {
    let identity = identity(plan, hashes);
    let contents = |value: &Value| -> Option<Vec<Value>> {
        let both = |input: &Value| [input["files"].clone(), input["statistics"]["files"].clone()];
        Some(value["inputs"].as_array()?.iter().flat_map(both).collect())
    };
    let same = |key: &&str| existing[*key] == identity[*key];
    ["format", "tool", "version", "recipe", "operator", "wraps", "seed", "dtype", "chat_template"].iter().all(same)
        && contents(existing) == contents(&identity)
}

/// What decides every bit of the output.
fn identity(plan: &MergePlan, hashes: &InputHashes) -> Value {
    let file = |file: &FileHash| json!({ "name": file.name, "bytes": file.n_bytes, "xxh3_128": file.hash.to_string() });
    let inputs: Vec<Value> = plan
        .models
        .iter()
        .zip(hashes)
        .map(|(model, hashes)| {
            let list = |files: &[FileHash]| -> Vec<Value> { files.iter().map(file).collect() };
            let path = model.dir.path().display().to_string();
            let mut input = json!({ "model": model.name, "path": path, "files": list(&hashes.files) });
            if let (Some(id), Some(commit)) = (&model.hub.id, &model.hub.commit) {
                input["hub"] = json!({ "id": id, "commit": commit });
            }
            if let Some(adapter) = &model.adapter {
                input["adapter"] = adapter.dir.path().display().to_string().into();
            }
            if let Some(statistics) = &model.statistics {
                let path = statistics.checkpoint.path().display().to_string();
                input["statistics"] =
                    json!({ "name": statistics.name, "path": path, "files": list(&hashes.statistics) });
            }
            input
        })
        .collect();
    json!({
        "format": 1,
        "tool": "model-glue",
        "version": env!("CARGO_PKG_VERSION"),
        "recipe": plan.recipe.text,
        "operator": plan.operator.def().name,
        "wraps": plan.operator.inner().map(|inner| inner.name),
        "seed": plan.seed,
        "dtype": plan.dtype.map(Dtype::torch_name),
        "chat_template": plan.chat_template.as_ref().map(|text| ContentHash::of(text.as_bytes()).to_string()),
        "inputs": inputs,
    })
}
