//! `glue.json`: what a mixture was made from and how.
//!
//! | key | holds |
//! |---|---|
//! | `format` | version of this table, 1 |
//! | `tool`, `version` | what made the output |
//! | `recipe` | the text of the description |
//! | `mixture` | what the runtime and reports need where the form of the output does not say it: level, names of the experts, mixed layers, how gates were made |
//! | `seed`, `dtype` | seed of noise and random gates; type of the output, null where each tensor keeps its own |
//! | `inputs` | for each model its path, and for each file name, bytes and XXH3-128 |
//! | `output` | files with bytes of data and number of tensors |
//! | `notes` | what else there is to know |

use crate::error::MixError;
use crate::plan::MixPlan;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{ContentHash, Dtype, ModelDir};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

/// File name of the manifest.
pub const FILE: &str = "glue.json";

/// Name, bytes and hash of each file of each model.
pub(crate) type InputHashes = Vec<Vec<Value>>;

/// Hashes every file that a mixture of `models` depends on, several at once. Reads all of them.
pub(crate) fn hash_inputs(models: &[ModelDir]) -> Result<InputHashes, MixError> {
    let entry = |path: &Path, n_bytes: u64, hash: ContentHash| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        json!({ "name": name, "bytes": n_bytes, "xxh3_128": hash.to_string() })
    };
    let small = |path: &Path| {
        let bytes = std::fs::read(path).map_err(|source| MixError::Read { path: path.to_path_buf(), source })?;
        Ok(entry(path, bytes.len() as u64, ContentHash::of(&bytes)))
    };
    let files = |model: &ModelDir| {
        let weights = model.checkpoint().files().par_iter();
        let weights = weights.map(|file| Ok(entry(file.path(), file.n_bytes(), file.content_hash())));
        let config = rayon::iter::once(model.path().join(CONFIG_FILE));
        weights.chain(config.chain(model.side_files()).map(|path| small(&path))).collect()
    };
    models.par_iter().map(files).collect()
}

/// The manifest of a mixture whose weights are in `files`.
pub(crate) fn manifest(plan: &MixPlan, files: &[Value], hashes: &InputHashes) -> Value {
    let inputs = plan.models().iter().zip(hashes).map(|(model, files)| {
        let path = model.path().display().to_string();
        json!({ "model": path, "path": path, "files": files })
    });
    let config = &plan.config;
    json!({
        "format": 1,
        "tool": "model-glue",
        "version": env!("CARGO_PKG_VERSION"),
        "recipe": config.text,
        "mixture": {
            "form": plan.form().name(),
            "level": config.level,
            "whole": config.whole,
            "experts": plan.sites.experts,
            "mixed_layers": plan.sites.layers,
            "gate_mode": config.gate_mode.to_string(),
        },
        "seed": config.seed,
        "dtype": config.dtype.map(Dtype::torch_name),
        "inputs": inputs.collect::<Vec<_>>(),
        "output": { "files": files },
        "notes": plan.notes,
    })
}
