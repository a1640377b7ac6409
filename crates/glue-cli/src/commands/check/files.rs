//! Which files there are, and whether they can be read.

use super::{Findings, RUNNERS, Who};
use crate::units;
use glue_progress::ErrorChain;
use glue_tensor::{Checkpoint, Config, files, model_dir};
use serde_json::Value;
use std::path::Path;

/// Index of the shards.
const INDEX: &str = "model.safetensors.index.json";

/// The size of a file from which on hubs advise against it, in bytes.
const LARGE_FILE: u64 = 50_000_000_000;

/// Files of training, and what they are.
const LEFTOVERS: &[(&str, &str)] = &[
    ("optimizer.pt", "the state of an optimiser"),
    ("optimizer.bin", "the state of an optimiser"),
    ("scheduler.pt", "the state of a schedule"),
    ("training_args.bin", "arguments of a training run, as a pickle"),
    ("rng_state.pth", "the state of a random generator"),
    ("trainer_state.json", "the state of a training run"),
    ("pytorch_model.bin", "weights once more, as a pickle"),
    ("pytorch_model.bin.index.json", "an index of weights as pickles"),
];

/// The configuration, where it can be read.
pub(super) fn config(path: &Path, findings: &mut Findings) -> Option<Config> {
    let name = model_dir::CONFIG_FILE;
    if !path.join(name).exists() {
        findings.error(RUNNERS, name, "missing");
        return None;
    }
    Config::open(path.join(name)).map_err(|error| findings.error(RUNNERS, name, error.chain())).ok()
}

/// The weights, where they can be read: an index that does not fit its shards is no checkpoint.
pub(super) fn weights(path: &Path, findings: &mut Findings) -> Option<Checkpoint> {
    let checkpoint = match Checkpoint::open(path) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            findings.error(RUNNERS, "weights", error.chain());
            return None;
        }
    };
    for file in checkpoint.files() {
        let name = file.path().file_name().unwrap_or_default().to_string_lossy();
        if file.metadata().get("format").is_none() {
            let why = "no `format` in the metadata of the header, which older versions refuse";
            findings.warning(&[Who::Transformers], &name, why);
        }
        if file.n_bytes() > LARGE_FILE {
            let (size, limit) = (units::bytes(file.n_bytes()), units::bytes(LARGE_FILE));
            findings.warning(&[Who::Hub], &name, format!("{size}; hubs advise against files of more than {limit}"));
        }
    }
    let index = files::read(path.join(INDEX), files::DATA_BYTES).ok();
    let index = index.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    if let Some(size) = index.as_ref().and_then(|index| index["metadata"]["total_size"].as_u64()) {
        let found: u64 = checkpoint.tensors().iter().map(|info| info.n_bytes() as u64).sum();
        if size != found {
            let why = format!("`total_size` is {size}, but the tensors have {found} bytes");
            findings.warning(&[Who::Transformers], INDEX, why);
        }
    }
    Some(checkpoint)
}

/// Files that should not be there, and links.
pub(super) fn others(path: &Path, findings: &mut Findings) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let (file, text) = (path.join(&name), name.to_string_lossy().into_owned());
        if file.is_symlink() && !file.exists() {
            findings.error(&[Who::Hub], &text, "a link to nothing");
        }
        if let Some((_, what)) = LEFTOVERS.iter().find(|(leftover, _)| *leftover == text) {
            findings.warning(&[Who::Hub], &text, format!("{what}, which nobody needs to run the model"));
        }
    }
}
