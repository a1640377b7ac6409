//! What a merge will do, and what it did. The fields are those of the JSON documents.

use super::export;
use super::recipes::Output;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_gguf::ExportReport;
use glue_recipe::estimate::Rates;
use glue_recipe::{MergePlan, estimate};
use glue_tensor::{Checkpoint, Layout, writer};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// The output of a merge, planned or written.
#[derive(Debug, Serialize)]
pub(crate) struct Merge {
    /// The output directory.
    pub(crate) output: String,
    pub(crate) operator: &'static str,
    /// The operator that it wraps.
    pub(crate) wraps: Option<&'static str>,
    pub(crate) seed: u64,
    pub(crate) tensors: usize,
    pub(crate) parameters: u64,
    /// Number of tensors of each type.
    pub(crate) dtypes: BTreeMap<&'static str, usize>,
    pub(crate) files: Vec<File>,
    /// Bytes of input tensors and statistics, counted once per output tensor that uses them.
    pub(crate) bytes_read: u64,
    /// Bytes of output tensors.
    pub(crate) bytes_written: u64,
    /// Tensors copied because they are not floating point.
    pub(crate) copied: Vec<String>,
    /// Tensors left out.
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) notes: Vec<String>,
    /// What is in the file, if the output is a GGUF file.
    #[serde(skip_serializing_if = "Option::is_none")]
    gguf: Option<Gguf>,
}

/// A GGUF file. The fields are those of `glue export`.
#[derive(Debug, Serialize)]
struct Gguf {
    family: &'static str,
    architecture: &'static str,
    #[serde(rename = "type")]
    file_type: &'static str,
    tensors: usize,
    bytes: u64,
    bytes_by_type: Map<String, Value>,
    left_out: Vec<String>,
    notes: Vec<String>,
    /// `bytes_by_type` in words.
    #[serde(skip)]
    types: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct File {
    name: String,
    /// Bytes of tensor data.
    bytes: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Dropped {
    tensor: String,
    why: String,
}

impl Merge {
    /// From the plan.
    pub(crate) fn new(plan: &MergePlan, out_dir: &Path, output: &Output) -> Result<Self, Failure> {
        let layout = Layout::new(plan.layout_specs(), output.max_shard_bytes(), "model").map_err(Failure::failed)?;
        let mut dtypes = BTreeMap::new();
        for tensor in &plan.tensors {
            *dtypes.entry(tensor.dtype.safetensors_name()).or_default() += 1;
        }
        let files = layout.shards().iter();
        Ok(Self {
            output: out_dir.display().to_string(),
            operator: plan.operator.def().name,
            wraps: plan.operator.inner().map(|inner| inner.name),
            seed: plan.seed,
            tensors: plan.tensors.len(),
            parameters: layout.n_parameters(),
            dtypes,
            files: files.map(|shard| File { name: shard.name.clone(), bytes: shard.n_bytes }).collect(),
            bytes_read: plan.tensors.iter().map(|tensor| plan.read_bytes(tensor)).sum(),
            bytes_written: layout.total_bytes(),
            copied: plan.copied().map(|(tensor, _)| tensor.name.clone()).collect(),
            dropped: plan
                .dropped
                .iter()
                .map(|(tensor, why)| Dropped { tensor: tensor.clone(), why: why.clone() })
                .collect(),
            notes: plan.notes.clone(),
            gguf: None,
        })
    }

    /// From the plan of a merge that is written as a GGUF file.
    pub(crate) fn of_file(
        plan: &MergePlan,
        file: &Path,
        output: &Output,
        report: &ExportReport,
    ) -> Result<Self, Failure> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            files: vec![File { name, bytes: report.n_bytes }],
            bytes_written: report.n_bytes,
            gguf: Some(Gguf {
                family: report.family,
                architecture: report.architecture,
                file_type: report.file_type.name(),
                tensors: report.n_tensors,
                bytes: report.n_bytes,
                bytes_by_type: export::bytes_by_type(report),
                left_out: report.left_out.clone(),
                notes: report.notes.clone(),
                types: export::types(report),
            }),
            ..Self::new(plan, file, output)?
        })
    }

    fn operator(&self) -> String {
        match self.wraps {
            Some(inner) => format!("{} of {inner}", self.operator),
            None => self.operator.to_string(),
        }
    }

    fn dtypes(&self) -> String {
        let names: Vec<&str> = self.dtypes.keys().copied().collect();
        names.join(", ")
    }

    /// Copied and dropped tensors, and notes.
    fn remarks(&self) -> String {
        let mut text = String::new();
        if let Some(gguf) = &self.gguf {
            text += &format!("GGUF: architecture {}, {}\n", gguf.architecture, gguf.types);
            if let Some(first) = gguf.left_out.first() {
                let n = units::things(gguf.left_out.len(), "tensor", "tensors");
                text += &format!("not in the file: {n}, such as {first}\n");
            }
        }
        if let Some(first) = self.copied.first() {
            let n = units::things(self.copied.len(), "tensor", "tensors");
            text += &format!("copied: {n} that are not floating point, such as {first}\n");
        }
        for dropped in &self.dropped {
            text += &format!("left out: {}: {}\n", dropped.tensor, dropped.why);
        }
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text
    }
}

/// A planned merge, from headers alone.
#[derive(Debug, Serialize)]
pub(crate) struct Expected {
    dry_run: bool,
    #[serde(flatten)]
    merge: Merge,
    models: Vec<Model>,
    threads: usize,
    /// Bytes of buffers.
    memory: u64,
    disk: Disk,
    /// At the rates of [`RATES`].
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    path: String,
    /// `base`, `input` or `other`: a source of tokenizer files, for one.
    role: &'static str,
    tensors: usize,
    parameters: u64,
    dtypes: Vec<&'static str>,
    bytes: u64,
    /// The adapter applied while it is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<Applied>,
    /// Its statistics; `None` when it has none.
    statistics: Option<Statistics>,
}

#[derive(Debug, Serialize)]
struct Applied {
    name: String,
    path: String,
    /// Tensors of the model that it changes.
    changes: usize,
    tensors: usize,
    parameters: u64,
    dtypes: Vec<&'static str>,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Statistics {
    name: String,
    path: String,
    tensors: usize,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Disk {
    needed: u64,
    /// `None` if unknown.
    free: Option<u64>,
}

/// Assumed rates of a solid-state disk, and of one merging thread, in bytes per second.
const RATES: Rates = Rates { read: 2e9, scan: 1e9, write: 1e9 };

/// Estimates a merge.
pub(crate) fn expected(plan: &MergePlan, out_dir: &Path, output: &Output, threads: usize) -> Result<Expected, Failure> {
    let mut merge = Merge::new(plan, out_dir, output)?;
    if std::fs::read_dir(out_dir).is_ok_and(|mut entries| entries.next().is_some()) {
        merge.notes.push(format!("{} exists and is not empty; the merge would refuse it", out_dir.display()));
    }
    Ok(Expected::new(plan, out_dir, merge, 0, threads))
}

/// Estimates a merge into a GGUF file, with `scratch` bytes on disk besides.
pub(crate) fn expected_file(
    plan: &MergePlan,
    file: &Path,
    mut merge: Merge,
    scratch: u64,
    overwrite: bool,
    threads: usize,
) -> Expected {
    if !overwrite && file.symlink_metadata().is_ok() {
        merge.notes.push(format!("{} exists; the merge would refuse it without --overwrite", file.display()));
    }
    Expected::new(plan, file, merge, scratch, threads)
}

fn models(plan: &MergePlan) -> Vec<Model> {
    let bases: BTreeSet<usize> = plan.tensors.iter().filter_map(|t| t.base()).map(|base| base.model).collect();
    let inputs: BTreeSet<usize> = plan.tensors.iter().flat_map(|t| t.inputs()).map(|input| input.model).collect();
    let describe = |(i, model): (usize, &glue_recipe::PlannedModel)| {
        let checkpoint = model.dir.checkpoint();
        Model {
            name: model.name.clone(),
            path: model.dir.path().display().to_string(),
            role: match () {
                () if bases.contains(&i) => "base",
                () if inputs.contains(&i) => "input",
                () => "other",
            },
            tensors: checkpoint.tensors().len(),
            parameters: checkpoint.n_parameters(),
            dtypes: dtypes(checkpoint),
            bytes: checkpoint.total_bytes(),
            adapter: model.adapter.as_ref().map(|adapter| Applied {
                name: adapter.name.clone(),
                path: adapter.dir.path().display().to_string(),
                changes: adapter.dir.changes().len(),
                tensors: adapter.dir.checkpoint().tensors().len(),
                parameters: adapter.dir.checkpoint().n_parameters(),
                dtypes: dtypes(adapter.dir.checkpoint()),
                bytes: adapter.dir.checkpoint().total_bytes(),
            }),
            statistics: model.statistics.as_ref().map(|statistics| Statistics {
                name: statistics.name.clone(),
                path: statistics.checkpoint.path().display().to_string(),
                tensors: statistics.checkpoint.tensors().len(),
                bytes: statistics.checkpoint.total_bytes(),
            }),
        }
    };
    plan.models.iter().enumerate().map(describe).collect()
}

/// The types of the tensors, each once.
fn dtypes(checkpoint: &Checkpoint) -> Vec<&'static str> {
    let names: BTreeSet<&str> = checkpoint.tensors().iter().map(|info| info.dtype.safetensors_name()).collect();
    names.into_iter().collect()
}

impl Expected {
    fn new(plan: &MergePlan, out: &Path, mut merge: Merge, scratch: u64, threads: usize) -> Expected {
        let estimate = estimate(plan, threads);
        let needed = merge.bytes_written + scratch;
        let free = writer::free_bytes(out);
        if free.is_some_and(|free| free < needed) {
            merge.notes.push("not enough disk space".to_string());
        }
        Expected {
            dry_run: true,
            models: models(plan),
            threads,
            memory: estimate.peak_memory_bytes,
            disk: Disk { needed, free },
            seconds: estimate.seconds(&Rates { scan: RATES.scan * threads as f64, ..RATES }),
            merge,
        }
    }

    /// Prints it as the user wants it.
    pub(crate) fn print(&self, shell: &mut Shell<'_>) -> Result<(), Failure> {
        if shell.json() {
            return shell.print_json(self);
        }
        let text = self.text(|text| shell.heading(text));
        shell.print(&text)
    }

    /// For people.
    pub(crate) fn text(&self, heading: impl Fn(&str) -> String) -> String {
        let mut models = Table::with_header(&[
            ("MODEL", Align::Left),
            ("ROLE", Align::Left),
            ("TENSORS", Align::Right),
            ("PARAMETERS", Align::Right),
            ("TYPE", Align::Left),
            ("SIZE", Align::Right),
        ]);
        for model in &self.models {
            models.row([
                model.name.clone(),
                model.role.to_string(),
                units::count(model.tensors as u64),
                units::count(model.parameters),
                model.dtypes.join(", "),
                units::bytes(model.bytes),
            ]);
            if let Some(adapter) = &model.adapter {
                models.row([
                    format!("  with {}", adapter.name),
                    "adapter".to_string(),
                    units::count(adapter.tensors as u64),
                    units::count(adapter.parameters),
                    adapter.dtypes.join(", "),
                    units::bytes(adapter.bytes),
                ]);
            }
        }
        let merge = &self.merge;
        let mut facts = Table::new(&[Align::Left, Align::Left]);
        let free = self.disk.free.map(|free| format!(", {} free", units::bytes(free))).unwrap_or_default();
        let time = units::duration(self.seconds);
        let rates =
            format!("{}/s read, {}/s written", units::bytes(RATES.read as u64), units::bytes(RATES.write as u64));
        facts.row(["output", &format!("{} (not written: dry run)", merge.output)]);
        facts.row(["operator", &merge.operator()]);
        facts.row(["tensors", &units::count(merge.tensors as u64)]);
        facts.row(["parameters", &units::parameters(merge.parameters)]);
        facts.row(["type", &merge.dtypes()]);
        for model in &self.models {
            if let Some(statistics) = &model.statistics {
                let size = units::bytes(statistics.bytes);
                facts.row(["statistics", &format!("of {}: {}, {size}", model.name, statistics.name)]);
            }
        }
        facts.row(["files", &units::count(merge.files.len() as u64)]);
        facts.row(["read", &units::bytes(merge.bytes_read)]);
        facts.row(["memory", &format!("{} of buffers, {} threads", units::bytes(self.memory), self.threads)]);
        facts.row(["disk", &format!("{} needed{free}", units::bytes(self.disk.needed))]);
        facts.row(["time", &format!("about {time} at {rates}")]);
        let mut text = models.render(heading);
        text.push('\n');
        text += &facts.render(str::to_string);
        text += &merge.remarks();
        text
    }
}

/// A finished merge.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    #[serde(flatten)]
    pub(crate) merge: Merge,
    pub(crate) seconds: f64,
    /// Bytes read and written per second.
    pub(crate) bytes_per_second: f64,
    /// Whether an earlier output with the same config, inputs and seed was reused.
    pub(crate) reused: bool,
}

impl Done {
    /// A merge that took this long.
    pub(crate) fn new(merge: Merge, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        let bytes = (merge.bytes_read + merge.bytes_written) as f64;
        Self { bytes_per_second: bytes / seconds.max(1e-9), seconds, reused: false, merge }
    }

    /// One whose earlier output is reused.
    pub(crate) fn reused(merge: Merge) -> Self {
        Self { merge, seconds: 0.0, bytes_per_second: 0.0, reused: true }
    }

    /// Prints it as the user wants it.
    pub(crate) fn print(&self, shell: &mut Shell<'_>) -> Result<(), Failure> {
        if shell.json() {
            return shell.print_json(self);
        }
        shell.print(&self.text())
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let merge = &self.merge;
        let mut text = if self.reused {
            format!("{}: reused, since config, inputs and seed are unchanged\n", merge.output)
        } else {
            format!(
                "{}: {}, {} parameters, {} by {} in {} ({}/s read and written)\n",
                merge.output,
                units::things(merge.tensors, "tensor", "tensors"),
                units::short(merge.parameters),
                units::bytes(merge.bytes_written),
                merge.operator(),
                units::duration(self.seconds),
                units::bytes(self.bytes_per_second as u64),
            )
        };
        text += &merge.remarks();
        text
    }
}
