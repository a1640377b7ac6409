//! From a plan to a model directory: merges every tensor out of core, writes the other files of a model, and makes
//! the directory appear when all of it is on disk.

use crate::engine::{
    Destination, EngineError, EngineOptions, LowRankView, OperandView, TensorError, TensorJob, merge_all,
};
use crate::experts::ExpertOrders;
use crate::manifest::{InputHashes, hash_inputs, manifest};
use crate::plan::{Action, MergePlan, TensorRef};
use crate::{card, manifest};
use glue_merge::device::{Executor, HostExecutor};
use glue_merge::{BoxError, Operator, Params, Registry};
use glue_progress::{Progress, Unit};
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::tokenizer_files::TokenizerFilesError;
use glue_tensor::{CheckpointWriter, FileChanged, Layout, SideFileError, Staging, WriteError};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What runs the operators of several merges, such as those of a search. Default: the CPU.
#[derive(Clone, Default)]
pub struct SharedExecutor(Option<Arc<dyn Executor + Send>>);

impl SharedExecutor {
    /// A device.
    pub fn new(device: Arc<dyn Executor + Send>) -> Self {
        Self(Some(device))
    }

    /// The executor, for a run.
    pub fn get(&self) -> &dyn Executor {
        match &self.0 {
            Some(device) => &**device,
            None => &HostExecutor,
        }
    }

    /// Whether it is a device, whose sums may differ from those of the CPU in their last bits.
    pub fn is_device(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for SharedExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_device() { "a device" } else { "the CPU" })
    }
}

/// How to run a plan.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    /// Maximum number of bytes of tensor data in a file; a larger tensor has a file of its own. Default: one file.
    pub max_shard_bytes: u64,
    /// Elements of a block; no result depends on it.
    pub block: usize,
    /// What runs the operators. Default: the CPU.
    pub executor: &'a dyn Executor,
}

impl Default for RunOptions<'_> {
    fn default() -> Self {
        Self { max_shard_bytes: u64::MAX, block: glue_merge::Driver::BLOCK, executor: &HostExecutor }
    }
}

impl fmt::Debug for RunOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_shard_bytes, block, .. } = self;
        f.debug_struct("RunOptions")
            .field("max_shard_bytes", max_shard_bytes)
            .field("block", block)
            .finish_non_exhaustive()
    }
}

/// Why a run failed. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A tensor cannot be merged.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A file of an input cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The chat template cannot be put into the tokenizer's files.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerFilesError),
    /// A file that the output gets a copy of cannot be read.
    #[error(transparent)]
    SideFile(#[from] SideFileError),
    /// A file of an input is not what it was when the merge was planned.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The caller cancelled it.
    #[error("stopped; nothing was written")]
    Stopped,
}

impl From<EngineError> for RunError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Tensor(error) => Self::Tensor(error),
            EngineError::Stopped => Self::Stopped,
        }
    }
}

/// Runs `plan` and makes `out_dir` appear, on the threads of the current rayon pool.
///
/// # Errors
/// [`RunError`]; `out_dir` is as it was before.
pub fn run(
    plan: &MergePlan,
    out_dir: &Path,
    options: &RunOptions<'_>,
    progress: &dyn Progress,
) -> Result<(), RunError> {
    let staging = Staging::create(out_dir)?;
    let layout = Layout::new(plan.layout_specs(), options.max_shard_bytes, "model")?;
    let writer = CheckpointWriter::create(&staging, layout.clone(), &BTreeMap::new())?;
    progress.begin("merging", Unit::Bytes, Some(layout.total_bytes()));
    let merge = || Ok(merge_into(plan, &Files { writer: &writer, progress }, options, progress)?);
    let hashes = merge_and_hash(merge, |failed| hash_inputs(plan, &|| failed() || progress.is_cancelled()));
    if progress.is_cancelled() {
        return Err(RunError::Stopped);
    }
    let written = finish(plan, &staging, &layout, writer, hashes);
    // Whatever failed may have failed because of an input that changed; and if nothing did, what was merged is what was
    // hashed only if none has.
    plan.check_unchanged()?;
    written?;
    staging.commit()?;
    Ok(())
}

/// Merges and hashes side by side. When the merge fails, hashing is given up: the error must not wait until every input
/// has been read to its end.
fn merge_and_hash<T: Send>(
    merge: impl FnOnce() -> Result<(), RunError> + Send,
    hash: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> Result<T, RunError> + Send,
) -> Result<T, RunError> {
    let failed = AtomicBool::new(false);
    let merge = || merge().inspect_err(|_| failed.store(true, Ordering::Relaxed));
    let (merged, hashes) = rayon::join(merge, || hash(&|| failed.load(Ordering::Relaxed)));
    merged.and(hashes)
}

fn finish(
    plan: &MergePlan,
    staging: &Staging,
    layout: &Layout,
    writer: CheckpointWriter,
    hashes: Result<InputHashes, RunError>,
) -> Result<(), RunError> {
    // Weights get their names last: until then, nothing opens the directory as a model.
    write_other_files(plan, staging, layout, &hashes?)?;
    writer.finish()?;
    Ok(())
}

/// Merges every tensor of `plan` into `destination`, whose jobs are numbered as the plan's tensors are: a model that
/// need not be written to disk.
///
/// # Errors
/// The first tensor that cannot be merged, or [`EngineError::Stopped`] once the caller cancelled it. `destination` then
/// holds a part of the result, or none.
pub fn merge_into(
    plan: &MergePlan,
    destination: &dyn Destination,
    options: &RunOptions<'_>,
    progress: &dyn Progress,
) -> Result<(), EngineError> {
    let all: Vec<usize> = (0..plan.tensors.len()).collect();
    PlanMerger::new(plan, options, progress)?.merge(&all, destination, options, progress)
}

/// Merges tensors of a plan one after the other, in any order: for whoever passes each on before the next.
///
/// The plan is borrowed, or owned as an `Arc`.
#[derive(Debug)]
pub struct PlanMerger<P> {
    plan: P,
    copy: Operator,
    as_it_is: Params,
    orders: ExpertOrders,
}

impl<P: Deref<Target = MergePlan>> PlanMerger<P> {
    /// Gets ready; matches the experts of all layers, if the recipe has `align_experts`.
    ///
    /// # Errors
    /// A tensor of an expert that cannot be read.
    pub fn new(plan: P, options: &RunOptions<'_>, progress: &dyn Progress) -> Result<PlanMerger<P>, EngineError> {
        let copy = Operator::new(Registry::builtin().get("passthrough").expect("passthrough is built in"));
        let as_it_is = copy.params(1).check().expect("passthrough needs no parameter");
        let mut merger = PlanMerger { plan, copy, as_it_is, orders: ExpertOrders::default() };
        let plan = &*merger.plan;
        if !plan.experts.is_empty() {
            let jobs: Vec<TensorJob<'_>> = (0..plan.tensors.len()).map(|index| merger.job(index)).collect();
            merger.orders =
                ExpertOrders::find(&plan.experts, &plan.matches, &jobs, &merger.engine_options(options), progress)?;
        }
        Ok(merger)
    }

    /// The plan.
    pub fn plan(&self) -> &MergePlan {
        &self.plan
    }

    /// Merges the tensors with these indices in [`MergePlan::tensors`]. Job `j` of `destination` is the tensor
    /// `tensors[j]`.
    ///
    /// # Errors
    /// As [`merge_into`]'s.
    ///
    /// # Panics
    /// With an index beyond the tensors of the plan.
    pub fn merge(
        &self,
        tensors: &[usize],
        destination: &dyn Destination,
        options: &RunOptions<'_>,
        progress: &dyn Progress,
    ) -> Result<(), EngineError> {
        let ordered = |&index: &usize| {
            let mut job = self.job(index);
            self.orders.apply(index, &mut job, |index| self.job(index));
            job
        };
        let jobs: Vec<TensorJob<'_>> = tensors.iter().map(ordered).collect();
        merge_all(&jobs, destination, &self.engine_options(options), progress)
    }

    fn engine_options<'a>(&self, options: &RunOptions<'a>) -> EngineOptions<'a> {
        EngineOptions { executor: options.executor, on_nonfinite: self.plan.on_nonfinite, block: options.block }
    }

    /// How tensor `index` is merged, with experts under the numbers that they have.
    fn job(&self, index: usize) -> TensorJob<'_> {
        let plan = &*self.plan;
        let tensor = &plan.tensors[index];
        let operand = |from: &TensorRef| operand(plan, from);
        let (operator, params) = match &tensor.action {
            Action::Merge { params, .. } => (&plan.operator, params),
            Action::Copy(_) => (&self.copy, &self.as_it_is),
        };
        TensorJob {
            spec: plan.spec(tensor),
            dtype: tensor.dtype,
            operator,
            params,
            base: tensor.base().map(operand),
            inputs: tensor.inputs().iter().map(operand).collect(),
            own_bases: tensor.own_bases().iter().map(|base| base.as_ref().map(operand)).collect(),
            statistics: tensor.statistics().iter().map(|from| statistic(plan, from)).collect(),
        }
    }
}

/// A tensor of a model, with what its adapter changes.
fn operand<'a>(plan: &'a MergePlan, from: &TensorRef) -> OperandView<'a> {
    let model = &plan.models[from.model];
    let own = || model.dir.checkpoint().get(&from.name).expect("a plan refers to tensors that are there");
    let (view, low_rank) = match plan.change(from) {
        Some((adapter, change)) => (
            change.full.as_ref().map_or_else(own, |full| adapter.tensor(full)),
            change
                .low_rank
                .as_ref()
                .map(|low_rank| LowRankView::of(adapter, low_rank, &from.name, model.dir.checkpoint())),
        ),
        None => (own(), None),
    };
    OperandView { view, low_rank, model: &model.name, order: None }
}

/// A statistic of a model.
fn statistic<'a>(plan: &'a MergePlan, from: &TensorRef) -> OperandView<'a> {
    let statistics = plan.models[from.model].statistics.as_ref();
    let model = statistics.map_or("", |statistics| &statistics.name);
    OperandView { view: plan.statistic(from), low_rank: None, model, order: None }
}

/// The files of a checkpoint as the destination of its tensors.
struct Files<'a> {
    writer: &'a CheckpointWriter,
    progress: &'a dyn Progress,
}

impl Destination for Files<'_> {
    fn write(&self, job: usize, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        self.writer.write_at(job, offset, bytes)?;
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }
}

/// Writes everything but the weights.
fn write_other_files(
    plan: &MergePlan,
    staging: &Staging,
    layout: &Layout,
    hashes: &InputHashes,
) -> Result<(), RunError> {
    for (name, bytes) in side_files(plan)? {
        staging.write_file(&name, &bytes)?;
    }
    let title = staging.out_dir().file_name().unwrap_or_default().to_string_lossy();
    staging.write_file(card::FILE, card::card(plan, &title).as_bytes())?;
    let manifest = format!("{:#}\n", manifest(plan, layout, hashes));
    staging.write_file(manifest::FILE, manifest.as_bytes())?;
    Ok(())
}

/// The files of the output other than weights, by name and content: configuration, tokenizer, generation defaults,
/// texts of licences. [`run`] writes the same.
///
/// # Errors
/// A file that cannot be read, or a tokenizer that the chat template cannot be put into.
pub fn side_files(plan: &MergePlan) -> Result<BTreeMap<String, Vec<u8>>, RunError> {
    let mut files = BTreeMap::from([(CONFIG_FILE.to_string(), plan.config.to_bytes())]);
    let tokenizer_from = &plan.models[plan.tokenizer_from].dir;
    let config_from = &plan.models[plan.config_from].dir;
    files.extend(tokenizer_from.read_tokenizer_files(plan.links)?);
    files.extend(config_from.read_generation_config(plan.links)?);
    files.extend(plan.legal_files.iter().cloned());
    if let Some(template) = &plan.chat_template {
        files.extend(tokenizer_from.tokenizer().with_chat_template(template)?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    //! How merging and hashing end together.
    use super::*;

    /// Hashing that would never end by itself ends with the merge.
    #[test]
    fn a_failed_merge_ends_hashing() {
        let hash = |failed: &(dyn Fn() -> bool + Sync)| -> Result<(), RunError> {
            while !failed() {
                std::thread::yield_now();
            }
            Err(RunError::Stopped)
        };
        let error = |source: io::ErrorKind| RunError::Read { path: "x".into(), source: source.into() };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let ended = pool.install(|| merge_and_hash(|| Err(error(io::ErrorKind::Other)), hash));
        assert!(matches!(ended, Err(RunError::Read { .. })), "{ended:?}");
        assert_eq!(pool.install(|| merge_and_hash(|| Ok(()), |_| Ok(7))).unwrap(), 7);
    }
}
