//! `glue.json`: which statistics were gathered, of which model, from which sequences.
//!
//! | key | holds |
//! |---|---|
//! | `format` | version of this table, 1 |
//! | `tool`, `version` | the program that wrote the output |
//! | `calibration` | for each statistic the meaning of its values; `sequences`, `tokens` that the model read, `scored_tokens` |
//! | `source` | where the sequences are from, as the caller describes it |
//! | `inputs` | the model: its path, and for each file name, bytes and XXH3-128 |
//! | `output` | files with bytes of data and number of tensors |

use crate::error::CalibrateError;
use crate::plan::CalibratePlan;
use crate::run::CalibrationSummary;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{ContentHash, Layout, ModelDir, files};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::path::Path;

/// File name of the manifest.
pub const FILE: &str = "glue.json";

/// Name, bytes and hash of each file of the model. Reads all of them.
pub(crate) fn hash_files(model: &ModelDir) -> Result<Vec<Value>, CalibrateError> {
    let entry = |path: &Path, n_bytes: u64, hash: ContentHash| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        json!({ "name": name, "bytes": n_bytes, "xxh3_128": hash.to_string() })
    };
    let weights = model.checkpoint().files().par_iter();
    let weights = weights.map(|file| Ok(entry(file.path(), file.n_bytes(), file.content_hash())));
    let others = rayon::iter::once(model.path().join(CONFIG_FILE)).chain(model.side_files()).map(|path| {
        let bytes = files::read(&path, files::DATA_BYTES)
            .map_err(|error| CalibrateError::Read { path: path.clone(), error })?;
        Ok(entry(&path, bytes.len() as u64, ContentHash::of(&bytes)))
    });
    weights.chain(others).collect()
}

/// The manifest of a calibration.
pub(crate) fn manifest(
    model: &ModelDir,
    files: &[Value],
    plan: &CalibratePlan,
    layout: &Layout,
    done: &CalibrationSummary,
    source: &Value,
) -> Value {
    let path = model.path().display().to_string();
    let statistics: Map<String, Value> =
        plan.statistics().map(|statistic| (statistic.name().to_owned(), json!(statistic.mean_of()))).collect();
    let shards: Vec<Value> = layout
        .shards()
        .iter()
        .map(|shard| json!({ "name": shard.name, "bytes": shard.n_bytes, "tensors": shard.tensors.len() }))
        .collect();
    json!({
        "format": 1,
        "tool": "model-glue",
        "version": env!("CARGO_PKG_VERSION"),
        "calibration": {
            "statistics": statistics,
            "sequences": done.sequences,
            "tokens": done.tokens,
            "scored_tokens": done.scored_tokens,
        },
        "source": source,
        "inputs": [{ "model": path, "path": path, "files": files }],
        "output": { "files": shards, "tensors": layout.tensors().len() },
    })
}
