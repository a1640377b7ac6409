//! What a run was made from and what it made, as files with hashes.

use super::{FINAL, ReportInputs};
use crate::error::PipelineError;
use crate::run::{Context, Source, config_hash};
use glue_report as report;
use glue_tensor::Checkpoint;
use glue_tensor::state::hash_file;
use std::fs;
use std::path::{Path, PathBuf};

/// The config and the models of a run, with hashes of their contents.
pub(super) fn input_artifacts(
    source: &Source,
    context: &Context<'_>,
    inputs: &ReportInputs<'_>,
) -> Vec<report::Artifact> {
    let config = report::Artifact {
        name: "configuration".into(),
        path: source.path.display().to_string(),
        hash: format!("xxh3:{}", config_hash(source)),
        bytes: Some(source.text.len() as u64),
    };
    let models = context.zoo.models.iter().map(|model| {
        let hash = inputs.model_hashes[&model.name].as_str().unwrap_or_default();
        report::Artifact {
            name: format!("model {}", model.name),
            path: model.path.display().to_string(),
            hash: format!("xxh3:{}", crate::stage::hash(hash)),
            bytes: Some(model.dir.checkpoint().total_bytes()),
        }
    });
    std::iter::once(config).chain(models).collect()
}

/// Files of the final model.
pub(super) fn output_artifacts(model: &Path) -> Result<Vec<report::Artifact>, PipelineError> {
    let mut files = Vec::new();
    collect(model, &mut files)?;
    files.sort();
    let artifact = |path: &PathBuf| {
        let at = |e| PipelineError::io(path, e);
        let below = path.strip_prefix(model).unwrap_or(path).display().to_string();
        Ok(report::Artifact {
            name: below.clone(),
            path: format!("{FINAL}/{below}"),
            hash: format!("xxh3:{}", hash_file(path).map_err(at)?),
            bytes: Some(fs::metadata(path).map_err(at)?.len()),
        })
    };
    files.iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")).map(artifact).collect()
}

/// All files below a directory.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), PipelineError> {
    for entry in fs::read_dir(directory).map_err(|e| PipelineError::io(directory, e))? {
        let path = entry.map_err(|e| PipelineError::io(directory, e))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Bytes of the tensors of the final model, and the type of the largest.
pub(super) fn size(model: &Path) -> Result<(u64, String), PipelineError> {
    let mut files = Vec::new();
    collect(model, &mut files)?;
    let mut bytes = 0;
    let mut dtype = String::new();
    let mut largest = 0;
    let mut seen: Vec<&Path> = Vec::new();
    for directory in files.iter().filter_map(|file| file.parent()) {
        if seen.contains(&directory) {
            continue;
        }
        seen.push(directory);
        let Ok(checkpoint) = Checkpoint::open(directory) else { continue };
        bytes += checkpoint.total_bytes();
        for tensor in checkpoint.tensors() {
            let n: usize = tensor.shape.iter().product();
            if n > largest {
                (largest, dtype) = (n, tensor.dtype.to_string());
            }
        }
    }
    Ok((bytes, dtype))
}
