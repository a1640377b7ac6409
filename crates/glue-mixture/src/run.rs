//! From a plan and gates to a directory: tensors are copied or converted block by block from mapped files to their
//! place, on the threads of the current rayon pool, and the directory appears when all of it is on disk.

use crate::error::MixError;
use crate::gates::{Gates, data, specs};
use crate::manifest::{self, InputHashes, hash_inputs};
use crate::plan::{MixPlan, OutputModel, Planned, Source};
use crate::random::NoiseStream;
use crate::sites::MixtureFormat;
use crate::{card, remote_code};
use glue_progress::{Progress, Unit};
use glue_tensor::checkpoint::INDEX_FILE;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{
    CheckpointWriter, Layout, Links, ModelDir, Staging, TensorSpec, WriteError, abort_point, narrow, widen,
};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Elements of a block; no result depends on it.
pub(crate) const BLOCK: usize = 1 << 20;

/// How to write a mixture.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Maximum bytes of tensor data in a file, unless one tensor alone is larger. Gates have a file of their own.
    /// Default: all others in one file.
    pub max_shard_bytes: u64,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { max_shard_bytes: u64::MAX }
    }
}

/// Writes the mixture of `plan` with `gates` and makes `out_dir` appear.
///
/// # Errors
/// [`MixError`]; `out_dir` is as it was before.
pub fn run(
    plan: &MixPlan,
    gates: &Gates,
    out_dir: &Path,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<(), MixError> {
    gates.check(&plan.sites)?;
    if gates.kind().is_some_and(|kind| kind != plan.sites.router) {
        let (expected, found) = (format!("{:?}", plan.sites.router), format!("{:?}", gates.kind()));
        return Err(MixError::Gates { what: "kind of the gates".into(), expected, found });
    }
    let gates = &gates.written(&plan.sites);
    let staging = Staging::create(out_dir)?;
    progress.begin("writing", Unit::Bytes, Some(plan.estimate(1).write_bytes));
    let (written, hashes) = rayon::join(
        || plan.parts.iter().map(|part| write_part(plan, part, gates, &staging, options, progress)).collect(),
        || hash_inputs(plan.models()),
    );
    if progress.is_cancelled() {
        return Err(MixError::Stopped);
    }
    let files: Result<Vec<Vec<Value>>, MixError> = written;
    let written = files.and_then(|files| write_beside(plan, &staging, &files.concat(), &hashes?));
    // Whatever failed may have failed because of an input that changed; and if nothing did, what was mixed is what was
    // hashed only if none has.
    plan.check_unchanged()?;
    written?;
    staging.commit()?;
    Ok(())
}

/// Writes the weights of a part, and all else of a part that is a model inside the output. Gives the files for the
/// manifest.
fn write_part(
    plan: &MixPlan,
    part: &OutputModel,
    gates: &Gates,
    staging: &Staging,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<Vec<Value>, MixError> {
    if part.directory.is_empty() {
        return write_root(plan, part, gates, staging, options, progress);
    }
    let inner = Staging::create(staging.path().join(&part.directory))?;
    let layout = layout(part, options, "model")?;
    let writer = CheckpointWriter::create(&inner, layout.clone(), &BTreeMap::new())?;
    fill(plan, part, &writer, progress)?;
    let model = &plan.models[part.side_files_of];
    copy_side_files(model, plan.config.links, &inner)?;
    for (name, bytes) in model.read_legal_files(plan.config.links)? {
        inner.write_file(&name, &bytes)?;
    }
    inner.write_file(CONFIG_FILE, &part.config.to_bytes())?;
    writer.finish()?;
    inner.commit()?;
    let prefix = format!("{}/", part.directory);
    Ok(files(&layout, |i| format!("{prefix}{}", layout.shards()[i].name)))
}

/// The output's own weights: the body and, in a file of its own, the gates.
fn write_root(
    plan: &MixPlan,
    part: &OutputModel,
    gates: &Gates,
    staging: &Staging,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<Vec<Value>, MixError> {
    let mut gate_specs = specs(&plan.sites, gates, plan.gate_dtype);
    gate_specs.extend(plan.dense_gates.iter().cloned());
    let (has_body, has_gates) = (!part.tensors.is_empty(), !gate_specs.is_empty());
    // One checkpoint: no other name is known to everybody, and with the index missing no file of two is one.
    let body = layout(part, options, if has_gates { "body" } else { "model" })?;
    let gate_layout = Layout::new(gate_specs, u64::MAX, if has_body { "gates" } else { "model" })?;
    let mut written = Vec::new();
    let n_files = body.shards().len() + 1;
    let name = |i: usize| format!("model-{:05}-of-{n_files:05}.safetensors", i + 1);
    let writers = (
        has_body.then(|| CheckpointWriter::create(staging, body.clone(), &BTreeMap::new())).transpose()?,
        has_gates.then(|| CheckpointWriter::create(staging, gate_layout.clone(), &BTreeMap::new())).transpose()?,
    );
    if let Some(writer) = &writers.0 {
        fill(plan, part, writer, progress)?;
    }
    if let Some(writer) = &writers.1 {
        let zeros = |spec: &TensorSpec| vec![0; spec.shape.iter().product::<usize>() * spec.dtype.size()];
        let values = data(&plan.sites, gates, plan.gate_dtype)?;
        for (i, bytes) in values.into_iter().chain(plan.dense_gates.iter().map(zeros)).enumerate() {
            writer.write_at(i, 0, &bytes)?;
            progress.advance(bytes.len() as u64);
        }
    }
    for writer in [writers.0, writers.1].into_iter().flatten() {
        writer.finish()?;
    }
    match (has_body, has_gates) {
        (true, true) => {
            let body_index = body.index().map(|(name, _)| name);
            for (i, shard) in body.shards().iter().enumerate() {
                rename(staging, &shard.name, &name(i))?;
            }
            rename(staging, &gate_layout.shards()[0].name, &name(n_files - 1))?;
            if let Some(index) = body_index {
                let path = staging.path().join(index);
                std::fs::remove_file(&path).map_err(|error| WriteError::Io { path, error })?;
            }
            staging.write_file(INDEX_FILE, &index(&[&body, &gate_layout], name))?;
            written.extend(files(&body, name));
            written.push(manifest::gates_entry(&staging.path().join(name(n_files - 1)))?);
        }
        (true, false) => written.extend(files(&body, |i| body.shards()[i].name.clone())),
        (false, true) => written.push(manifest::gates_entry(&staging.path().join(&gate_layout.shards()[0].name))?),
        (false, false) => {}
    }
    Ok(written)
}

fn layout(part: &OutputModel, options: &RunOptions, name: &str) -> Result<Layout, MixError> {
    Ok(Layout::new(part.tensors.iter().map(Planned::spec).collect(), options.max_shard_bytes, name)?)
}

/// The index over the files of several layouts, which are numbered on.
fn index(layouts: &[&Layout], name: impl Fn(usize) -> String) -> Vec<u8> {
    let mut map = BTreeMap::new();
    let mut first = 0;
    for layout in layouts {
        for (spec, place) in layout.tensors().iter().zip(layout.placements()) {
            map.insert(spec.name.clone(), name(first + place.shard));
        }
        first += layout.shards().len();
    }
    let total = |count: fn(&Layout) -> u64| -> u64 { layouts.iter().map(|layout| count(layout)).sum() };
    let metadata = json!({ "total_parameters": total(Layout::n_parameters), "total_size": total(Layout::total_bytes) });
    format!("{:#}\n", json!({ "metadata": metadata, "weight_map": map })).into_bytes()
}

fn files(layout: &Layout, name: impl Fn(usize) -> String) -> Vec<Value> {
    let shards = layout.shards().iter().enumerate();
    shards.map(|(i, s)| json!({ "name": name(i), "bytes": s.n_bytes, "tensors": s.tensors.len() })).collect()
}

fn rename(staging: &Staging, from: &str, to: &str) -> Result<(), WriteError> {
    let path = staging.path().join(to);
    std::fs::rename(staging.path().join(from), &path).map_err(|error| WriteError::Io { path, error })?;
    abort_point("mixture file renamed");
    Ok(())
}

/// Writes every tensor of `part`.
fn fill(
    plan: &MixPlan,
    part: &OutputModel,
    writer: &CheckpointWriter,
    progress: &dyn Progress,
) -> Result<(), MixError> {
    let blocks = part.tensors.iter().enumerate().flat_map(|(i, tensor)| {
        let n = tensor.n_elements() as usize;
        (0..n.div_ceil(BLOCK)).map(move |b| (i, b * BLOCK, BLOCK.min(n - b * BLOCK)))
    });
    let blocks: Vec<(usize, usize, usize)> = blocks.collect();
    blocks.par_iter().try_for_each_init(Buffers::default, |buffers, &(i, start, length)| {
        if progress.is_cancelled() {
            return Err(MixError::Stopped);
        }
        let tensor = &part.tensors[i];
        if start == 0 {
            progress.item(&tensor.name);
        }
        let bytes = buffers.block(plan, tensor, start, length)?;
        writer.write_at(i, (start * tensor.dtype.size()) as u64, bytes)?;
        progress.advance(bytes.len() as u64);
        Ok(())
    })
}

/// What a thread needs to convert a block.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

impl Buffers {
    /// Elements `start` to `start + length` of `tensor`, as they are stored.
    fn block<'a>(
        &'a mut self,
        plan: &'a MixPlan,
        tensor: &Planned,
        start: usize,
        length: usize,
    ) -> Result<&'a [u8], MixError> {
        let Source::Tensor { model, name } = &tensor.source else {
            self.bytes.clear();
            self.bytes.resize(length * tensor.dtype.size(), 0);
            return Ok(&self.bytes);
        };
        let dir: &ModelDir = &plan.models[*model];
        let missing = || MixError::NoTensors { path: dir.path().to_path_buf(), prefix: name.clone() };
        let view = dir.checkpoint().get(name).ok_or_else(missing)?;
        let width = view.dtype().size();
        let stored = view.data().get(start * width..(start + length) * width).ok_or_else(missing)?;
        if view.dtype() == tensor.dtype && !tensor.changes() {
            return Ok(stored);
        }
        let not_float =
            |_| MixError::NotFloat { tensor: name.clone(), path: dir.path().to_path_buf(), dtype: view.dtype() };
        self.values.resize(length, 0.0);
        self.bytes.resize(length * tensor.dtype.size(), 0);
        let mut finite = widen(view.dtype(), stored, &mut self.values).map_err(not_float)?;
        if tensor.noise != 0.0 {
            let stream = NoiseStream::new(plan.config.seed, &["noise", &tensor.noise_of, name]);
            stream.add_normal(start as u64, tensor.noise, &mut self.values);
        }
        if tensor.scale != 1.0 {
            let scale = tensor.scale;
            self.values.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
        }
        // The type of the output may be narrower in range than that of the input.
        finite &= narrow(tensor.dtype, &self.values, &mut self.bytes).map_err(not_float)?;
        if !finite {
            return Err(MixError::NotFinite { tensor: name.clone(), path: dir.path().to_path_buf() });
        }
        Ok(&self.bytes)
    }
}

fn copy_side_files(model: &ModelDir, links: Links, staging: &Staging) -> Result<(), MixError> {
    for (name, bytes) in model.read_side_files(links)? {
        staging.write_file(&name, &bytes)?;
    }
    Ok(())
}

/// Writes what stands beside the weights of the output. Its configuration comes last: nothing without one opens as a
/// model.
fn write_beside(plan: &MixPlan, staging: &Staging, files: &[Value], hashes: &InputHashes) -> Result<(), MixError> {
    let title = staging.out_dir().file_name().unwrap_or_default().to_string_lossy();
    staging.write_file(card::FILE, card::card(plan, &title).as_bytes())?;
    let manifest = format!("{:#}\n", manifest::manifest(plan, files, hashes));
    staging.write_file(manifest::FILE, manifest.as_bytes())?;
    for (name, bytes) in &plan.legal_files {
        staging.write_file(name, bytes)?;
    }
    if plan.format() == MixtureFormat::Native {
        for (name, text) in remote_code::FILES {
            staging.write_file(name, text.as_bytes())?;
        }
    }
    for part in plan.parts.iter().filter(|part| part.directory.is_empty()) {
        copy_side_files(&plan.models[part.side_files_of], plan.config.links, staging)?;
        staging.write_file(CONFIG_FILE, &part.config.to_bytes())?;
    }
    Ok(())
}
