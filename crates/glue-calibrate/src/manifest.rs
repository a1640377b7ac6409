//! `glue.json`: which statistics were gathered, of which model, from which sequences.
//!
//! | key | holds |
//! |---|---|
//! | `format` | version of this table, 1 |
//! | `tool`, `version` | the program that wrote the output |
//! | `calibration` | for each statistic the meaning of its values; `measured_on`: `model`, or `merged layers` for RegMean++; `sequences`, `tokens` that the model read, `scored_tokens`; `idle_experts` with layer and number of each expert that no token came to |
//! | `source` | where the sequences are from, as the caller describes it |
//! | `inputs` | the model: its path, that of its adapter if it has one, and for each file name, bytes and XXH3-128 |
//! | `output` | files with bytes of data and number of tensors |

use crate::error::CalibrateError;
use crate::run::CalibrationSummary;
use crate::statistic::Statistic;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::writer::Shard;
use glue_tensor::{Adapter, Checkpoint, ContentHash, FileChanged, ModelDir, adapter, files};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::path::Path;

/// File name of the manifest.
pub const FILE: &str = "glue.json";

/// Where a model was read from, opened before it.
#[derive(Debug, Clone, Copy)]
pub struct ModelFiles<'a> {
    /// Its directory.
    pub dir: &'a ModelDir,
    /// The adapter that was applied to it.
    pub adapter: Option<&'a Adapter>,
}

impl<'a> From<&'a ModelDir> for ModelFiles<'a> {
    fn from(dir: &'a ModelDir) -> ModelFiles<'a> {
        ModelFiles { dir, adapter: None }
    }
}

impl ModelFiles<'_> {
    /// Checks that nobody has changed them.
    pub(crate) fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.dir.check_unchanged()?;
        self.adapter.map_or(Ok(()), Adapter::check_unchanged)
    }
}

/// Name, bytes and hash of each file of the model. Reads all of them.
pub(crate) fn hash_files(model: ModelFiles<'_>) -> Result<Vec<Value>, CalibrateError> {
    let entry = |path: &Path, n_bytes: u64, hash: ContentHash| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        json!({ "name": name, "bytes": n_bytes, "xxh3_128": hash.to_string() })
    };
    let ModelFiles { dir: model, adapter } = model;
    let checkpoints = std::iter::once(model.checkpoint()).chain(adapter.map(Adapter::checkpoint));
    let weights: Vec<_> = checkpoints.flat_map(Checkpoint::files).collect();
    let weights = weights.par_iter().map(|file| Ok(entry(file.path(), file.n_bytes(), file.content_hash())));
    let others = rayon::iter::once(model.path().join(CONFIG_FILE)).chain(model.side_files()).map(|path| {
        let bytes = files::read(&path, files::DATA_BYTES)
            .map_err(|error| CalibrateError::Read { path: path.clone(), error })?;
        Ok(entry(&path, bytes.len() as u64, ContentHash::of(&bytes)))
    });
    let config = adapter.map(|adapter| {
        let (n_bytes, hash) = adapter.config_file();
        Ok(entry(Path::new(adapter::CONFIG_FILE), n_bytes, hash))
    });
    weights.chain(others).chain(config).collect()
}

/// Whose layers computed what the statistics are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MeasuredOn {
    /// Those of the model.
    Model,
    /// Before each layer of the model, those that the models were merged into.
    MergedLayers,
}

impl MeasuredOn {
    fn name(self) -> &'static str {
        match self {
            MeasuredOn::Model => "model",
            MeasuredOn::MergedLayers => "merged layers",
        }
    }
}

/// The manifest of a calibration.
pub(crate) fn manifest(
    model: ModelFiles<'_>,
    files: &[Value],
    statistics: &[Statistic],
    measured_on: MeasuredOn,
    shards: &[Shard],
    done: &CalibrationSummary,
    source: &Value,
) -> Value {
    let path = model.dir.path().display().to_string();
    let adapter = model.adapter.map(|adapter| adapter.path().display().to_string());
    let name = adapter.as_ref().map_or_else(|| path.clone(), |adapter| format!("{path}+{adapter}"));
    let mut input = json!({ "model": name, "path": path, "files": files });
    if let Some(adapter) = adapter {
        input["adapter"] = adapter.into();
    }
    let statistics: Map<String, Value> =
        statistics.iter().map(|statistic| (statistic.name().to_owned(), json!(statistic.mean_of()))).collect();
    let tensors: usize = shards.iter().map(|shard| shard.tensors.len()).sum();
    let shards: Vec<Value> = shards
        .iter()
        .map(|shard| json!({ "name": shard.name, "bytes": shard.n_bytes, "tensors": shard.tensors.len() }))
        .collect();
    let idle = done.idle_experts.iter().map(|idle| json!({ "layer": idle.layer, "expert": idle.expert }));
    let idle: Vec<Value> = idle.collect();
    json!({
        "format": 1,
        "tool": "model-glue",
        "version": env!("CARGO_PKG_VERSION"),
        "calibration": {
            "statistics": statistics,
            "measured_on": measured_on.name(),
            "sequences": done.sequences,
            "tokens": done.tokens,
            "scored_tokens": done.scored_tokens,
            "idle_experts": idle,
        },
        "source": source,
        "inputs": [input],
        "output": { "files": shards, "tensors": tensors },
    })
}
