//! A merge written as a GGUF file: the tensors of a plan, merged as the export asks for them.

use super::export::{self, GgufOptions};
use super::merge_report::{Done, Expected, Merge, expected_file};
use super::recipes::Output;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use glue_gguf::{ExportModel, ExportPlan, ExportTokenizer, FileType, GgufError, TensorSource};
use glue_merge::BoxError;
use glue_progress::Progress;
use glue_recipe::engine::{Destination, EngineError};
use glue_recipe::run::side_files;
use glue_recipe::{MergePlan, PlanMerger, RunOptions, SharedExecutor};
use glue_tensor::model_dir::{CONFIG_FILE, GENERATION_CONFIG_FILE};
use glue_tensor::writer::free_bytes;
use glue_tensor::{Dtype, WriteError, widen};
use rayon::ThreadPool;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Whether a merge into `path` is to be a GGUF file.
pub(super) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// A merge as a GGUF file, checked before any weight is read.
pub(super) struct GgufMerge<'a> {
    plan: &'a MergePlan,
    file: &'a Path,
    options: &'a GgufOptions,
    export: ExportPlan,
    /// Bytes of merged tensors that are on disk at once besides the file.
    scratch: u64,
}

impl<'a> GgufMerge<'a> {
    /// Checks that the output of `plan` can be exported.
    pub(super) fn new(plan: &'a MergePlan, file: &'a Path, options: &'a GgufOptions) -> Result<Self, Failure> {
        let model = model(plan, file)?;
        let export = ExportPlan::new(&model, &options.get()).map_err(export::failure)?;
        let bytes: HashMap<&str, u64> =
            plan.tensors.iter().map(|tensor| (tensor.name.as_str(), n_bytes(&tensor.shape, tensor.dtype))).collect();
        let of_one = |sources: Vec<&str>| sources.iter().filter_map(|name| bytes.get(name)).sum();
        let scratch = export.sources().map(of_one).max().unwrap_or(0);
        Ok(GgufMerge { plan, file, options, export, scratch })
    }

    /// What llama.cpp will do otherwise.
    pub(super) fn notes(&self) -> &[String] {
        &self.export.report().notes
    }

    /// What would be done.
    pub(super) fn expected(&self, output: &Output, threads: usize) -> Result<Expected, Failure> {
        let merge = Merge::of_file(self.plan, self.file, output, self.export.report())?;
        Ok(expected_file(self.plan, self.file, merge, self.scratch, self.options.overwrite, threads))
    }

    /// Merges, on `device` and the threads of `pool`.
    pub(super) fn execute(
        self,
        output: &Output,
        pool: &ThreadPool,
        device: &SharedExecutor,
        shell: &Shell<'_>,
    ) -> Result<Done, Failure> {
        let GgufMerge { plan, file, options, export, scratch } = self;
        let merge = Merge::of_file(plan, file, output, export.report())?;
        let start = Instant::now();
        let needed = export.report().n_bytes + scratch;
        if let Some(free) = free_bytes(file).filter(|&free| free < needed) {
            return Err(Failure::failed(WriteError::NoSpace { path: file.to_path_buf(), needed, free }));
        }
        let progress = CommandProgress::new(shell);
        let run = pool.install(|| {
            let options_of_run = RunOptions { executor: device.get(), ..RunOptions::default() };
            let mut source = PlanSource::new(plan, file, options_of_run)?;
            export.write(&mut source, file, options.overwrite, &progress)
        });
        drop(progress);
        run.map_err(export::failure)?;
        Ok(Done::new(merge, start.elapsed()))
    }
}

/// The model that `plan` makes, as an export sees it.
fn model(plan: &MergePlan, file: &Path) -> Result<ExportModel, Failure> {
    let mut files = side_files(plan).map_err(Failure::failed)?;
    files.remove(CONFIG_FILE);
    plan.legal_files.iter().for_each(|(name, _)| {
        files.remove(name);
    });
    let generation_config = files.remove(GENERATION_CONFIG_FILE);
    let generation_config = generation_config.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    let from = &plan.models[plan.tokenizer_from].dir;
    let chat_template = match &plan.chat_template {
        Some(template) => Some(template.clone()),
        None => from.tokenizer().chat_template().map_err(Failure::failed)?,
    };
    Ok(ExportModel {
        path: file.to_path_buf(),
        name: name(file),
        config: plan.config.clone(),
        generation_config: generation_config.map_err(Failure::failed)?,
        tokenizer: ExportTokenizer { path: from.path().to_path_buf(), files, chat_template },
        tensors: plan.layout_specs(),
    })
}

/// The name of the model in `file`: without the ending, and without the type before it, as files are called by
/// convention (`NAME-Q8_0.gguf`). It is that of the directory NAME.
fn name(file: &Path) -> String {
    let stem = file.file_stem().map_or_else(|| "model".to_string(), |stem| stem.to_string_lossy().into_owned());
    let known = |kind: &str| kind.parse::<FileType>().is_ok();
    match stem.rsplit_once(['-', '.']) {
        Some((name, kind)) if known(kind) && !name.is_empty() => name.to_string(),
        _ => stem,
    }
}

fn n_bytes(shape: &[usize], dtype: Dtype) -> u64 {
    shape.iter().map(|&n| n as u64).product::<u64>() * dtype.size() as u64
}

/// The tensors of a plan, merged when they are asked for into a file that has no name: it is gone when the process is.
struct PlanSource<'a> {
    plan: &'a MergePlan,
    options: RunOptions<'a>,
    /// Made when the first tensor is asked for: it may have to match experts first.
    merger: Option<PlanMerger<&'a MergePlan>>,
    index: HashMap<&'a str, usize>,
    scratch: Scratch,
    /// Tensors in `scratch`, by name: index, and where it begins.
    ready: HashMap<String, (usize, u64)>,
}

impl<'a> PlanSource<'a> {
    /// Nothing is merged yet. The scratch file is in the directory of `file`.
    fn new(plan: &'a MergePlan, file: &Path, options: RunOptions<'a>) -> Result<Self, GgufError> {
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let scratch = tempfile::tempfile_in(&directory);
        let scratch = scratch.map_err(|error| GgufError::Io { path: directory.clone(), error })?;
        let index = plan.tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.as_str(), index)).collect();
        let scratch = Scratch { file: scratch, directory };
        Ok(PlanSource { plan, options, merger: None, index, scratch, ready: HashMap::new() })
    }

    fn missing(&self, tensor: &str) -> GgufError {
        let message = "it is not among the merged tensors that are ready".to_string();
        GgufError::Tensor { path: self.scratch.directory.clone(), tensor: tensor.to_string(), message }
    }
}

impl TensorSource for PlanSource<'_> {
    fn prepare(&mut self, tensors: &[&str], progress: &dyn Progress) -> Result<(), GgufError> {
        // Halves of one tensor follow one another.
        if tensors.iter().all(|&name| self.ready.contains_key(name)) {
            return Ok(());
        }
        self.ready.clear();
        self.scratch.empty()?;
        let (mut indices, mut starts, mut end) = (Vec::new(), Vec::new(), 0);
        for &name in tensors {
            let index = *self.index.get(name).ok_or_else(|| self.missing(name))?;
            let tensor = &self.plan.tensors[index];
            indices.push(index);
            starts.push(end);
            end += n_bytes(&tensor.shape, tensor.dtype);
        }
        let merger = match &mut self.merger {
            Some(merger) => merger,
            none => none.insert(PlanMerger::new(self.plan, &self.options, progress).map_err(failed)?),
        };
        let destination = Ready { scratch: &self.scratch, starts: &starts };
        merger.merge(&indices, &destination, &self.options, progress).map_err(failed)?;
        let named = tensors.iter().map(|name| name.to_string());
        self.ready = named.zip(indices.into_iter().zip(starts)).collect();
        Ok(())
    }

    fn read(&self, tensor: &str, first: usize, n: usize, out: &mut Vec<f32>) -> Result<(), GgufError> {
        let &(index, start) = self.ready.get(tensor).ok_or_else(|| self.missing(tensor))?;
        let dtype = self.plan.tensors[index].dtype;
        let mut bytes = vec![0; n * dtype.size()];
        self.scratch.read(start + (first * dtype.size()) as u64, &mut bytes)?;
        out.clear();
        out.resize(n, 0.0);
        let widened = widen(dtype, &bytes, out);
        widened.map(|_| ()).map_err(|error| GgufError::Convert { tensor: tensor.to_string(), error })
    }

    fn check_unchanged(&self) -> Result<(), GgufError> {
        Ok(self.plan.check_unchanged()?)
    }
}

fn failed(error: EngineError) -> GgufError {
    match error {
        EngineError::Stopped => GgufError::Cancelled,
        error => GgufError::Source(error.into()),
    }
}

/// A file without a name.
struct Scratch {
    file: File,
    /// Where it is, for messages.
    directory: PathBuf,
}

impl Scratch {
    fn failed(&self, error: io::Error) -> GgufError {
        GgufError::Io { path: self.directory.clone(), error }
    }

    fn empty(&self) -> Result<(), GgufError> {
        self.file.set_len(0).map_err(|error| self.failed(error))
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), GgufError> {
        self.file.read_exact_at(bytes, at).map_err(|error| self.failed(error))
    }
}

/// The tensors of one merge, one after the other in the scratch file.
struct Ready<'a> {
    scratch: &'a Scratch,
    starts: &'a [u64],
}

impl Destination for Ready<'_> {
    fn write(&self, job: usize, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        Ok(self.scratch.file.write_all_at(bytes, self.starts[job] + offset)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_as_the_directory_would_be() {
        for (file, expected) in [
            ("out/merged.gguf", "merged"),
            ("merged-Q8_0.gguf", "merged"),
            ("merged.q4_k_m.GGUF", "merged"),
            ("merged-v2.gguf", "merged-v2"),
            ("f16.gguf", "f16"),
            ("-f16.gguf", "-f16"),
        ] {
            assert_eq!(name(Path::new(file)), expected, "{file}");
        }
    }
}
