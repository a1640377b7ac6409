//! `glue.json`: what a mixture was made from and how.
//!
//! | key | holds |
//! |---|---|
//! | `format` | version of this table, 1 |
//! | `tool`, `version` | what made the output |
//! | `recipe` | the text of the description |
//! | `mixture` | level, names of the experts, mixed layers, initial gates, prompts from items of tasks; see below |
//! | `seed`, `dtype` | seed of noise and random gates; type of the output, null where each tensor keeps its own |
//! | `inputs` | for each model its name in the description, its path, and for each file name, bytes and XXH3-128; for one with an adapter, what it was made from, as `glue merge` has it |
//! | `output` | files with bytes of data and number of tensors, and the XXH3-128 of the one with the gates |
//! | `notes` | what else there is to know |
//!
//! `mixture` has what the runtime and reports need where the format of the output does not say it, and
//! `gates_replaced` when other gates have come in the place of the initial ones.

use crate::error::MixError;
use crate::plan::MixPlan;
use glue_tensor::hub::legal_files;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Checkpoint, ContentHash, Dtype, ModelDir, files, write_atomic};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
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
        let bytes = files::read(path, files::DATA_BYTES)
            .map_err(|source| MixError::Read { path: path.to_path_buf(), source })?;
        Ok(entry(path, bytes.len() as u64, ContentHash::of(&bytes)))
    };
    let all = |model: &ModelDir| {
        let weights = model.checkpoint().files().par_iter();
        let weights = weights.map(|file| Ok(entry(file.path(), file.n_bytes(), file.content_hash())));
        let config = rayon::iter::once(model.path().join(CONFIG_FILE));
        let legal = legal_files(model.path());
        weights.chain(config.chain(model.side_files()).chain(legal).map(|path| small(&path))).collect()
    };
    models.par_iter().map(all).collect()
}

/// The manifest of a mixture whose weights are in `files`.
pub(crate) fn manifest(plan: &MixPlan, files: &[Value], hashes: &InputHashes) -> Value {
    let inputs = plan.models().iter().zip(hashes).map(|(model, files)| {
        let (path, name) = (model.path(), plan.config.as_written(model.path()));
        let mut input =
            json!({ "model": name.display().to_string(), "path": path.display().to_string(), "files": files });
        if name != path {
            // Written from a model and an adapter, as its own manifest says.
            input["made_from"] = made_from(path);
        }
        input
    });
    let config = &plan.config;
    let mut value = json!({
        "format": 1,
        "tool": "model-glue",
        "version": env!("CARGO_PKG_VERSION"),
        "recipe": config.text,
        "mixture": {
            "form": plan.format().name(),
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
    });
    if !plan.from_tasks.is_empty() {
        let taken = config.experts.iter().filter(|expert| plan.from_tasks.contains(&expert.name));
        let prompts = taken.map(|expert| {
            let prompts = json!({ "positive": expert.positive_prompts, "negative": expert.negative_prompts });
            (expert.name.clone(), prompts)
        });
        value["mixture"]["prompts"] = prompts.collect::<Map<_, _>>().into();
    }
    value
}

/// The inputs that the manifest of the model in `path` lists; null without one.
fn made_from(path: &Path) -> Value {
    let read = files::read(path.join(FILE), files::CONFIG_BYTES).ok();
    let manifest = read.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    manifest.and_then(|mut manifest| manifest.get_mut("inputs").map(Value::take)).unwrap_or(Value::Null)
}

/// What the manifest says of the file with the gates, which stands at `path`.
pub(crate) fn gates_entry(path: &Path) -> Result<Value, MixError> {
    let checkpoint = Checkpoint::open(path)?;
    let hash = checkpoint.files().first().map(|file| file.content_hash().to_string());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (bytes, tensors) = (checkpoint.total_bytes(), checkpoint.tensors().len());
    Ok(json!({ "name": name, "bytes": bytes, "tensors": tensors, "xxh3_128": hash }))
}

/// The manifest at `path`, if it is that of a mixture.
fn own(path: &Path) -> Option<Value> {
    let bytes = files::read(path, files::CONFIG_BYTES).ok()?;
    serde_json::from_slice::<Value>(&bytes).ok().filter(|value| value["mixture"].is_object())
}

/// Whether the manifest in `dir` says that gates were replaced.
pub(crate) fn gates_replaced(dir: &Path) -> bool {
    own(&dir.join(FILE)).is_some_and(|value| value["mixture"]["gates_replaced"] == true)
}

/// Lets the manifest in `dir` list the file with the gates that is there now, among `files`; says whether it was
/// changed. A manifest that is not there or that another program wrote stays as it is.
pub(crate) fn follow_gates(
    dir: &Path,
    gates: &Path,
    files: &BTreeSet<String>,
    replaced: bool,
) -> Result<bool, MixError> {
    let path = dir.join(FILE);
    let Some(mut value) = own(&path) else { return Ok(false) };
    let Some(listed) = value["output"]["files"].as_array() else { return Ok(false) };
    let entry = gates_entry(gates)?;
    let known = listed.iter().find(|other| other["name"] == entry["name"]);
    // Mixtures of earlier versions have no hash.
    let current = known.is_some_and(|known| known["xxh3_128"].is_null() || known["xxh3_128"] == entry["xxh3_128"]);
    if current && !replaced {
        return Ok(false);
    }
    let kept = listed.iter().filter(|other| {
        let name = other["name"].as_str().unwrap_or_default();
        // Parts of the mixture in directories of their own are not in the index.
        other["name"] != entry["name"] && (name.contains('/') || files.contains(name))
    });
    let new: Vec<Value> = kept.chain([&entry]).cloned().collect();
    value["output"]["files"] = new.into();
    value["mixture"]["gates_replaced"] = true.into();
    write_atomic(&path, format!("{value:#}\n").as_bytes())?;
    Ok(true)
}
