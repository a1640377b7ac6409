//! Replacing the gates of a mixture on disk.
//!
//! Gates have a file of their own, so that replacing them leaves the experts alone. Files change in this order: the
//! gates; the index, where gates went to another file; then, by [`mend_gates`], what follows from these two: the file
//! that the gates left is removed, `router` in `config.json` says their kind, `glue.json` lists them, and the card says
//! that they were trained. Each file is replaced in one step, so that after a crash at any moment the gates are the old
//! ones or the new ones, and what had still to follow can be made up for.

use crate::card;
use crate::error::MixError;
use crate::gates::{Gates, data, specs};
use crate::manifest;
use crate::sites::{MixtureFormat, Sites};
use crate::spec::RouterKind;
use glue_tensor::checkpoint::{INDEX_FILE, SINGLE_FILE};
use glue_tensor::header::encode_header;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Checkpoint, Config, ContentHash, Dtype, TensorSpec, files, write_atomic};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Replaces the gates of the mixture in the directory `dir`, and nothing else: in the native format gates may change
/// their kind, and then the index and `router` in `config.json` follow. `glue.json` notes that they were replaced.
///
/// A crash leaves the old gates or the new ones. Where the kind changes, a crash between two files leaves a directory
/// that is refused when it is opened, and that [`mend_gates`] or another call mends.
///
/// # Errors
/// Those of [`Gates::check`]; [`MixError::GatesNotApart`] for a mixture of another program that keeps gates and experts
/// in one file; and those of reading and writing files.
pub fn write_gates(dir: impl AsRef<Path>, gates: &Gates) -> Result<(), MixError> {
    let dir = dir.as_ref();
    let sites = Sites::open(dir)?;
    gates.check(&sites)?;
    if gates.kind().is_none() {
        return Ok(());
    }
    let gates = gates.written(&sites);
    let gate_file = GateFile::find(dir, &sites)?;
    let specs = specs(&sites, &gates, gate_file.dtype);
    let bytes = encode(&specs, &data(&sites, &gates, gate_file.dtype)?);
    if gate_file.index.is_none()
        || specs.len() == gate_file.names.len() && specs.iter().all(|s| gate_file.names.contains(&s.name))
    {
        write_atomic(&gate_file.file, &bytes)?;
    } else {
        gate_file.move_to(dir, &specs, &bytes)?;
    }
    settle(dir, &sites, true)?;
    Ok(())
}

/// Completes a replacement of gates in the directory `dir` that was cut short, and says whether there was one. Where
/// nothing is to be mended nothing is written.
///
/// # Errors
/// Those of [`write_gates`] but for the gates themselves.
pub fn mend_gates(dir: impl AsRef<Path>) -> Result<bool, MixError> {
    let dir = dir.as_ref();
    let sites = Sites::open(dir)?;
    if sites.prefixes.is_empty() { Ok(false) } else { settle(dir, &sites, false) }
}

/// The type that gates of the mixture in the directory `dir` are stored as.
///
/// # Errors
/// [`MixError::GateMissing`], [`MixError::GatesNotApart`], and those of opening a mixture.
pub fn gate_dtype(dir: impl AsRef<Path>) -> Result<Dtype, MixError> {
    let dir = dir.as_ref();
    Ok(GateFile::find(dir, &Sites::open(dir)?)?.dtype)
}

/// Brings everything that follows from the gates in line with them; says whether something was out of line.
fn settle(dir: &Path, sites: &Sites, replaced: bool) -> Result<bool, MixError> {
    let gate_file = GateFile::find(dir, sites)?;
    let mut changed = gate_file.remove_strays(dir, sites)?;
    if sites.format == MixtureFormat::Native && gate_file.kind != sites.router {
        let mut config = Config::open(dir.join(CONFIG_FILE))?;
        config.set("router", json!(gate_file.kind))?;
        write_atomic(dir.join(CONFIG_FILE), &config.to_bytes())?;
        changed = true;
    }
    changed |= manifest::follow_gates(dir, &gate_file.file, &gate_file.files, replaced)?;
    changed |= describe(dir)?;
    Ok(changed)
}

/// Lets the card say that gates were trained, if the manifest says that they were replaced. Cards of other programs
/// stay as they are.
fn describe(dir: &Path) -> Result<bool, MixError> {
    if !manifest::gates_replaced(dir) {
        return Ok(false);
    }
    let path = dir.join(card::FILE);
    let text = files::read_to_string(&path, files::CONFIG_BYTES).unwrap_or_default();
    let Some(new) = card::with_trained_gates(&text) else { return Ok(false) };
    write_atomic(&path, new.as_bytes())?;
    Ok(true)
}

/// The bytes of a safetensors file.
fn encode(specs: &[TensorSpec], data: &[Vec<u8>]) -> Vec<u8> {
    let mut end = 0;
    let entries = specs.iter().zip(data).map(|(spec, data)| {
        let start = end;
        end += data.len() as u64;
        (spec.name.as_str(), spec.dtype, spec.shape.as_slice(), start..end)
    });
    let entries: Vec<_> = entries.collect();
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut bytes = encode_header(entries, &metadata);
    bytes.extend(data.iter().flatten());
    bytes
}

/// The file that holds the gates of a directory.
struct GateFile {
    file: PathBuf,
    dtype: Dtype,
    kind: RouterKind,
    /// Names of the tensors in the file.
    names: Vec<String>,
    /// Names of all files with weights.
    files: BTreeSet<String>,
    /// The index, where there is one.
    index: Option<(PathBuf, Value)>,
}

impl GateFile {
    fn find(dir: &Path, sites: &Sites) -> Result<GateFile, MixError> {
        let index = dir.join(INDEX_FILE);
        let index = match index.is_file() {
            true => Some(read_json(&index).map(|value| (index, value))?),
            false => None,
        };
        // After a crash between two files the whole does not open as a checkpoint; its files do.
        let files: BTreeSet<String> = match &index {
            Some((_, value)) => {
                let map = value["weight_map"].as_object().into_iter().flatten();
                map.filter_map(|(_, file)| file.as_str().map(str::to_string)).collect()
            }
            None => BTreeSet::from([SINGLE_FILE.to_string()]),
        };
        for name in &files {
            let file = dir.join(name);
            let checkpoint = Checkpoint::open(&file)?;
            let Some(gate) = checkpoint.tensors().iter().find(|info| sites.is_gate(&info.name)) else {
                continue;
            };
            if let Some(other) = checkpoint.tensors().iter().find(|info| !sites.is_gate(&info.name)) {
                return Err(match missing(dir, sites, &files)? {
                    Some(tensor) => MixError::GateMissing { path: dir.to_path_buf(), tensor },
                    None => MixError::GatesNotApart { file, tensor: other.name.clone() },
                });
            }
            let up = checkpoint.tensors().iter().find(|info| info.name.ends_with(".up.weight"));
            let width = up.and_then(|info| info.shape.first().copied());
            let kind = width.map_or(RouterKind::Linear, |hidden_size| RouterKind::Mlp { hidden_size });
            let names = checkpoint.tensors().iter().map(|info| info.name.clone()).collect();
            return Ok(GateFile { dtype: gate.dtype, kind, names, files, index, file });
        }
        let tensor = sites.prefixes.first().map_or(String::new(), |prefix| format!("{prefix}weight"));
        Err(MixError::GateMissing { path: dir.to_path_buf(), tensor })
    }

    /// Puts the gates into another file, of a name that follows from its content, and then lets the index name it.
    fn move_to(&self, dir: &Path, specs: &[TensorSpec], bytes: &[u8]) -> Result<(), MixError> {
        let Some((index_path, index)) = &self.index else {
            return Ok(());
        };
        let name = format!("model-gates-{}.safetensors", &ContentHash::of(bytes).to_string()[..12]);
        write_atomic(dir.join(&name), bytes)?;
        let mut index = index.clone();
        let size = |specs: &[TensorSpec]| -> u64 {
            specs.iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
        };
        let before: u64 = Checkpoint::open(&self.file)?.tensors().iter().map(|info| info.n_elements() as u64).sum();
        for (key, width) in [("total_parameters", 1), ("total_size", self.dtype.size() as u64)] {
            if let Some(total) = index["metadata"][key].as_u64() {
                index["metadata"][key] = (total + size(specs) * width - (before * width).min(total)).into();
            }
        }
        if let Some(map) = index["weight_map"].as_object_mut() {
            map.retain(|tensor, _| !self.names.contains(tensor));
            map.extend(specs.iter().map(|spec| (spec.name.clone(), Value::from(name.as_str()))));
            map.sort_keys();
        }
        write_atomic(index_path, format!("{index:#}\n").as_bytes())?;
        Ok(())
    }

    /// Removes files of gates that the index does not name: the one that the gates left, or one that they did not
    /// reach.
    fn remove_strays(&self, dir: &Path, sites: &Sites) -> Result<bool, MixError> {
        if self.index.is_none() {
            return Ok(false);
        }
        let read = |source| MixError::Read { path: dir.to_path_buf(), source };
        let mut found = false;
        for entry in std::fs::read_dir(dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !is_our_name(&name) || self.files.contains(&*name) {
                continue;
            }
            // What does not open is none of ours.
            let Ok(checkpoint) = Checkpoint::open(&path) else { continue };
            let of_gates = checkpoint.tensors().iter().all(|info| sites.is_gate(&info.name));
            if of_gates && !checkpoint.tensors().is_empty() {
                std::fs::remove_file(&path).map_err(|source| MixError::Read { path: path.clone(), source })?;
                found = true;
            }
        }
        Ok(found)
    }
}

/// Whether gates are written under such a name: with other weights in a numbered file, or by their content. A copy that
/// somebody made has another one.
fn is_our_name(name: &str) -> bool {
    let Some(middle) = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors")) else {
        return false;
    };
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    match middle.strip_prefix("gates-") {
        Some(hash) => hash.len() == 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => middle.split_once("-of-").is_some_and(|(i, n)| number(i) && number(n)),
    }
}

/// The first gate that no file holds.
fn missing(dir: &Path, sites: &Sites, files: &BTreeSet<String>) -> Result<Option<String>, MixError> {
    let mut held = BTreeSet::new();
    for name in files {
        held.extend(Checkpoint::open(dir.join(name))?.tensors().iter().map(|info| info.name.clone()));
    }
    let first = |prefix: &String| ["weight", "up.weight"].map(|end| format!("{prefix}{end}"));
    let absent = sites.prefixes.iter().map(first).find(|names| names.iter().all(|name| !held.contains(name)));
    Ok(absent.map(|[weight, _]| weight))
}

fn read_json(path: &Path) -> Result<Value, MixError> {
    let read = files::read(path, files::CONFIG_BYTES);
    let parsed = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(std::io::Error::from));
    parsed.map_err(|source| MixError::Read { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    //! Names.
    use super::*;

    #[test]
    fn copies_of_gates_are_not_ours_to_remove() {
        for name in ["model-00003-of-00003.safetensors", "model-gates-0123456789ab.safetensors"] {
            assert!(is_our_name(name), "{name}");
        }
        let others = [
            "model.safetensors",
            "model-gates-backup.safetensors",
            "model-gates.safetensors",
            "model-3-of-3.safetensors",
        ];
        for name in others.into_iter().chain(["model-00003-of-00003.safetensors.old", "model-gates-0123456789ab"]) {
            assert!(!is_our_name(name), "{name}");
        }
    }
}
