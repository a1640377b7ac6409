//! RegMean++: Gram matrices of the inputs that each layer gets from layers that are merged already. Nguyen et al.,
//! "RegMean++: enhancing effectiveness and generalization of regression mean for model merging", arXiv 2508.03121.
//!
//! RegMean fits a merged layer to the inputs that it had in each model. In the merged model its inputs come from merged
//! layers. Here the embeddings are merged first; then for each layer l:
//!
//! 1. Model i runs its own layer l on the residual streams that the merged layers before l make of its own sequences.
//!    The Gram matrices are those of the inputs of that layer's matrices. Within the layer nothing is merged yet: the
//!    input of the output projection, for example, comes of the attention of model i. That is what the authors' code
//!    does, too.
//! 2. The caller merges layer l with these statistics.
//! 3. The merged layer carries the residual streams of all models on.
//!
//! The final norm and the head count as one more layer, unless the embedding is the head. Each sequence goes through
//! each layer twice, once through that of its model and once through the merged one: about two passes for each model,
//! whatever the number of layers. If memory is limited, sums of one layer may take several passes through it, and
//! residual streams are kept in a file.

use crate::error::CalibrateError;
use crate::manifest::{self, MeasuredOn, ModelFiles};
use crate::plan::{CalibrateOptions, CalibratePlan, SumSpec, layout, passes};
use crate::run::{CalibrationSummary, RunBatch, add_up, check_sequences, largest, run_batches, write};
use crate::sequence::Sequence;
use crate::statistic::Statistic;
use crate::streams::Streams;
use crate::sums::{Accumulator, Batch, Recorder};
use glue_lm::Model;
use glue_progress::{Progress, Unit};
use glue_tensor::checkpoint::INDEX_FILE;
use glue_tensor::writer::{Shard, free_bytes};
use glue_tensor::{CheckpointWriter, Staging, WriteError};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What merges the models, layer by layer.
pub trait LayerMerger {
    /// A model whose embedding is that of the merge. Nothing else of it is used.
    ///
    /// # Errors
    /// Whatever merging meets.
    fn embedding(&mut self) -> Result<Model, Box<dyn Error + Send + Sync>>;

    /// A model whose layer `layer`, counted from 0, is that of the merge. Nothing else of it is used. `statistics` has
    /// a safetensors file for each model, in their order, with a tensor `NAME.gram` for every matrix `NAME` of its
    /// layer.
    ///
    /// # Errors
    /// Whatever merging meets.
    fn layer(&mut self, layer: usize, statistics: &[PathBuf]) -> Result<Model, Box<dyn Error + Send + Sync>>;
}

/// A model to be merged.
#[derive(Debug, Clone, Copy)]
pub struct LayerwiseModel<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its files, opened before it.
    pub files: ModelFiles<'a>,
    /// Its own sequences.
    pub sequences: &'a [Sequence],
    /// Where they are from, for the manifest.
    pub source: &'a Value,
    /// Where its statistics go.
    pub out_dir: &'a Path,
}

/// Everything a layer-by-layer calibration does, decided.
#[derive(Debug, Clone)]
pub struct LayerwisePlan {
    models: Vec<ModelPlan>,
    /// Hidden size.
    width: usize,
    layers: usize,
    max_memory: Option<u64>,
    /// Whether residual streams are kept in a file.
    spooled: bool,
}

/// The part of one model.
#[derive(Debug, Clone)]
struct ModelPlan {
    plan: CalibratePlan,
    /// Tokens that it reads, and those of its longest sequence.
    tokens: u64,
    longest: usize,
}

/// The cost of a layer-by-layer calibration, excluding what merging a layer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerwiseEstimate {
    /// Largest number of passes through a layer of a model.
    pub passes: usize,
    /// Peak bytes of sums.
    pub sum_bytes: u64,
    /// Peak bytes of activations, about.
    pub activation_bytes: u64,
    /// Bytes of residual streams, in memory or in a file.
    pub stream_bytes: u64,
    /// Whether residual streams are kept in a file.
    pub spooled: bool,
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of tensor data written.
    pub output_bytes: u64,
}

impl LayerwisePlan {
    /// Plans Gram matrices of these models, on these sequences. `max_memory` is the maximum number of bytes of sums and
    /// residual streams; the sum of one matrix may take more, and residual streams go to a file where they do not fit
    /// beside the sums. `None` has no limit.
    ///
    /// # Errors
    /// [`CalibrateError::NoSequences`], [`CalibrateError::Sequence`], [`CalibrateError::Mixture`];
    /// [`CalibrateError::Layers`] for models of different depth or width.
    pub fn new(models: &[(&Model, &[Sequence])], max_memory: Option<u64>) -> Result<LayerwisePlan, CalibrateError> {
        let size = |model: &Model| (model.num_layers(), model.hidden_size());
        let (layers, width) = models.first().map_or((0, 0), |(model, _)| size(model));
        let options = CalibrateOptions { statistics: [Statistic::Gram].into(), ..CalibrateOptions::default() };
        let mut plans = Vec::with_capacity(models.len());
        for (model, sequences) in models {
            if size(model) != (layers, width) {
                let words = |(layers, width)| format!("{layers} layers of width {width}");
                return Err(CalibrateError::Layers { first: words((layers, width)), found: words(size(model)) });
            }
            check_sequences(model, sequences)?;
            plans.push(ModelPlan {
                plan: CalibratePlan::new(model, &options)?,
                tokens: sequences.iter().map(|sequence| sequence.read() as u64).sum(),
                longest: sequences.iter().map(Sequence::read).max().unwrap_or(0),
            });
        }
        let mut plan = LayerwisePlan { models: plans, width, layers, max_memory, spooled: false };
        let needed =
            plan.stream_bytes() + plan.all_passes().map(|(model, pass)| model.sum_bytes(&pass)).max().unwrap_or(0);
        plan.spooled = max_memory.is_some_and(|limit| needed > limit);
        Ok(plan)
    }

    /// The cost on `threads` threads.
    pub fn estimate(&self, threads: usize) -> LayerwiseEstimate {
        let of_model = |model: &ModelPlan| self.parts().map(|part| model.passes(part, self.max_memory).len()).max();
        let passes = self.models.iter().filter_map(of_model);
        let activations = self.all_passes().map(|(model, pass)| {
            let rows = model.plan.rows(&pass).max(model.longest);
            let batch = rows as u64 * model.row_bytes(&pass, self.width);
            batch * model.plan.concurrent_batches(&pass, rows, threads) as u64
        });
        let costs = self.models.iter().map(|model| model.plan.estimate(threads, model.longest));
        let (tensors, output_bytes) =
            costs.fold((0, 0), |(tensors, bytes), cost| (tensors + cost.tensors, bytes + cost.output_bytes));
        LayerwiseEstimate {
            passes: passes.max().unwrap_or(0),
            sum_bytes: self.all_passes().map(|(model, pass)| model.sum_bytes(&pass)).max().unwrap_or(0),
            activation_bytes: activations.max().unwrap_or(0),
            stream_bytes: self.stream_bytes(),
            spooled: self.spooled,
            tensors,
            output_bytes,
        }
    }

    fn stream_bytes(&self) -> u64 {
        self.models.iter().map(|model| Streams::bytes(model.tokens, self.width)).sum()
    }

    /// What is measured in turn: every layer, and then the head.
    fn parts(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        (0..self.layers).map(Some).chain([None])
    }

    fn all_passes(&self) -> impl Iterator<Item = (&ModelPlan, Range<usize>)> {
        self.models.iter().flat_map(move |model| {
            self.parts()
                .flat_map(move |part| model.passes(part, self.max_memory).into_iter().map(move |pass| (model, pass)))
        })
    }

    /// Whether any model has a head apart from the embedding.
    fn has_head(&self) -> bool {
        self.models.iter().any(|model| !model.sums_of(None).is_empty())
    }

    /// Sequences that are run through a layer, in all.
    fn steps(&self, models: &[LayerwiseModel<'_>]) -> u64 {
        let carried = if self.has_head() { self.layers } else { self.layers.saturating_sub(1) };
        let of_model = |(model, planned): (&LayerwiseModel<'_>, &ModelPlan)| {
            let measured: usize = self.parts().map(|part| planned.passes(part, self.max_memory).len()).sum();
            ((measured + carried) * model.sequences.len()) as u64
        };
        models.iter().zip(&self.models).map(of_model).sum()
    }
}

impl ModelPlan {
    /// The sums of a layer, or of the head.
    fn sums_of(&self, part: Option<usize>) -> Range<usize> {
        let of_part = |spec: &&SumSpec| spec.layer == part;
        let first = self.plan.sums.iter().position(|spec| spec.layer == part).unwrap_or(0);
        first..first + self.plan.sums.iter().filter(of_part).count()
    }

    /// The sums of each pass through a layer.
    fn passes(&self, part: Option<usize>, max_memory: Option<u64>) -> Vec<Range<usize>> {
        let sums = self.sums_of(part);
        let passes = passes(&self.plan.sums[sums.clone()], max_memory.unwrap_or(u64::MAX));
        passes.into_iter().map(|pass| sums.start + pass.start..sums.start + pass.end).collect()
    }

    /// Bytes of activations for each token in a pass through a layer: what is recorded, and the residual stream and its
    /// norms.
    fn row_bytes(&self, pass: &Range<usize>, width: usize) -> u64 {
        let of_sum = |spec: &SumSpec| match spec.routed {
            Some(routed) => (spec.width() * spec.matrices() * routed.per_token).div_ceil(routed.experts.max(1)),
            None => spec.width(),
        };
        let recorded: usize = self.plan.sums[pass.clone()].iter().map(of_sum).sum();
        (size_of::<f32>() * (recorded + 4 * width)) as u64
    }

    fn sum_bytes(&self, pass: &Range<usize>) -> u64 {
        self.plan.sums[pass.clone()].iter().map(SumSpec::bytes).sum()
    }
}

/// Measures and merges the models of `plan` layer by layer and writes the Gram matrices of each to its directory. A
/// merge of the same models with these statistics is that of RegMean++. Each directory appears complete, and none
/// appears before all are. Uses the current rayon pool.
///
/// # Errors
/// Before anything is computed: [`CalibrateError::Write`] when a directory exists or a disk is too full. Later:
/// [`CalibrateError::NotFinite`], [`CalibrateError::Merge`], [`CalibrateError::Model`], [`CalibrateError::Spool`],
/// [`CalibrateError::Read`], [`CalibrateError::Stopped`]. Nothing is written then.
///
/// # Panics
/// When `models` are not those of the plan.
pub fn calibrate_layerwise(
    models: &[LayerwiseModel<'_>],
    plan: &LayerwisePlan,
    merger: &mut dyn LayerMerger,
    progress: &dyn Progress,
) -> Result<Vec<CalibrationSummary>, CalibrateError> {
    assert_eq!(models.len(), plan.models.len(), "the models of a plan");
    let stagings = models.iter().map(|model| Staging::create(model.out_dir)).collect::<Result<Vec<_>, _>>()?;
    let done = Layerwise::new(models, plan, &stagings, progress).and_then(|run| run.write_all(merger));
    if !matches!(done, Err(CalibrateError::Stopped)) {
        // A failure may be due to an input that changed.
        models.iter().try_for_each(|model| model.files.check_unchanged())?;
    }
    let done = done?;
    stagings.into_iter().try_for_each(Staging::commit)?;
    Ok(done)
}

/// A calibration under way.
struct Layerwise<'a> {
    models: &'a [LayerwiseModel<'a>],
    plan: &'a LayerwisePlan,
    stagings: &'a [Staging],
    streams: Vec<Streams<'a>>,
    done: Vec<CalibrationSummary>,
    /// The files of each model so far, with the names of their tensors.
    files: Vec<Vec<(Shard, Vec<String>)>>,
    progress: &'a dyn Progress,
}

impl<'a> Layerwise<'a> {
    fn new(
        models: &'a [LayerwiseModel<'a>],
        plan: &'a LayerwisePlan,
        stagings: &'a [Staging],
        progress: &'a dyn Progress,
    ) -> Result<Layerwise<'a>, CalibrateError> {
        // Files are reserved one by one, so what all of them take is compared now.
        let estimate = plan.estimate(1);
        let needed = estimate.output_bytes + if plan.spooled { estimate.stream_bytes } else { 0 };
        if let Some(staging) = stagings.first()
            && let Some(free) = free_bytes(staging.path()).filter(|&free| free < needed)
        {
            let path = staging.out_dir().to_path_buf();
            return Err(WriteError::NoSpace { path, needed, free }.into());
        }
        let streams = models.iter().zip(&plan.models).zip(stagings).map(|((model, planned), staging)| {
            let rows = planned.plan.rows(&(0..planned.plan.sums.len()));
            Streams::new(model.sequences, rows, plan.width, plan.spooled.then(|| staging.path()))
        });
        Ok(Layerwise {
            models,
            plan,
            stagings,
            streams: streams.collect::<Result<_, _>>()?,
            done: models.iter().map(|model| CalibrationSummary::of(model.sequences)).collect(),
            files: vec![Vec::new(); models.len()],
            progress,
        })
    }

    fn write_all(mut self, merger: &mut dyn LayerMerger) -> Result<Vec<CalibrationSummary>, CalibrateError> {
        let failed = |layer, error, progress: &dyn Progress| match progress.is_cancelled() {
            true => CalibrateError::Stopped,
            false => CalibrateError::Merge { layer, error },
        };
        self.progress.begin("measuring and merging layers", Unit::Sequences, Some(self.plan.steps(self.models)));
        self.progress.item("embedding");
        let merged = merger.embedding().map_err(|error| failed(None, error, self.progress))?;
        for number in 0..self.models.len() {
            self.carry(number, false, &|streams, index| Ok(merged.embedded(&streams.tree(index))?))?;
        }
        drop(merged);
        for layer in 0..self.plan.layers {
            self.progress.item(&format!("layer {layer}"));
            let statistics = self.measure_all(Some(layer))?;
            let merged = merger.layer(layer, &statistics).map_err(|error| failed(Some(layer), error, self.progress))?;
            if layer + 1 == self.plan.layers && !self.plan.has_head() {
                break;
            }
            for number in 0..self.models.len() {
                let through = |streams: &Streams<'_>, index| {
                    Ok(merged.run_layer(layer, &streams.tree(index), &streams.get(index)?, None)?)
                };
                self.carry(number, true, &through)?;
            }
        }
        self.progress.item("head");
        self.measure_all(None)?;
        self.finish()
    }

    /// Replaces the residual streams of a model by what `run` makes of each batch.
    fn carry(&mut self, number: usize, counted: bool, run: &CarryBatch<'_>) -> Result<(), CalibrateError> {
        let uncounted = Uncounted(self.progress);
        let progress: &dyn Progress = if counted { self.progress } else { &uncounted };
        let concurrent = self.concurrent(number, &(0..self.plan.models[number].plan.sums.len()));
        let batches = self.streams[number].batches.clone();
        for (group, batches) in batches.chunks(concurrent).enumerate() {
            let first = group * concurrent;
            let streams = &self.streams[number];
            let mut found = Vec::with_capacity(batches.len());
            let run: &RunBatch<'_, Vec<f32>> = &|index, _| run(streams, first + index);
            run_batches(batches, concurrent, progress, run, |values| {
                found.extend(values);
                Ok(())
            })?;
            for (index, values) in found.into_iter().enumerate() {
                self.streams[number].set(first + index, values)?;
            }
        }
        Ok(())
    }

    /// How many batches of a model run concurrently.
    fn concurrent(&self, number: usize, pass: &Range<usize>) -> usize {
        let rows = largest(self.models[number].sequences, &self.streams[number].batches);
        self.plan.models[number].plan.concurrent_batches(pass, rows, rayon::current_num_threads())
    }

    /// Writes the Gram matrices of a layer, or of the head, of every model. Returns the file of each that has any.
    fn measure_all(&mut self, part: Option<usize>) -> Result<Vec<PathBuf>, CalibrateError> {
        let mut files = Vec::with_capacity(self.models.len());
        for number in 0..self.models.len() {
            files.extend(self.measure(number, part)?);
        }
        Ok(files)
    }

    fn measure(&mut self, number: usize, part: Option<usize>) -> Result<Option<PathBuf>, CalibrateError> {
        let planned = &self.plan.models[number];
        let sums = planned.sums_of(part);
        if sums.is_empty() {
            return Ok(None);
        }
        let (model, streams) = (self.models[number].model, &self.streams[number]);
        let parts = self.plan.layers + usize::from(!planned.sums_of(None).is_empty());
        let name = format!("model-{:05}-of-{parts:05}", part.unwrap_or(self.plan.layers) + 1);
        let layout = layout(&planned.plan.sums[sums], u64::MAX, &name)?;
        let writer = CheckpointWriter::create(&self.stagings[number], layout, &BTreeMap::new())?;
        let mut next = 0;
        for pass in planned.passes(part, self.plan.max_memory) {
            let specs = &planned.plan.sums[pass.clone()];
            let recorded: HashSet<&str> = specs.iter().filter_map(Accumulator::input).collect();
            let run = |index: usize, batch: &Range<usize>| {
                let mut recorder = Recorder::new(&recorded);
                let states = streams.get(index)?;
                match part {
                    Some(layer) => {
                        model.run_layer(layer, &streams.tree(index), &states, Some(&mut recorder))?;
                    }
                    None => model.observe_head(&states, &mut recorder)?,
                }
                Ok(Batch { inputs: recorder.inputs, gradients: None, sequences: batch.len() })
            };
            let concurrent = self.concurrent(number, &pass);
            let found = add_up(specs, &streams.batches, concurrent, self.progress, &run, |_| {})?;
            for sum in found {
                self.done[number].idle_experts.extend(sum.idle_experts());
                write(&writer, next, &sum, self.done[number].tokens)?;
                next += sum.spec.tensors.len();
            }
        }
        let layout = writer.layout();
        let names: Vec<String> = layout.tensors().iter().map(|spec| spec.name.clone()).collect();
        let shards = layout.shards().to_vec();
        writer.finish()?;
        let file = shards.first().map(|shard| self.stagings[number].path().join(&shard.name));
        self.files[number].extend(shards.into_iter().map(|shard| (shard, Vec::clone(&names))));
        Ok(file)
    }

    /// Writes what stands beside the statistics.
    fn finish(self) -> Result<Vec<CalibrationSummary>, CalibrateError> {
        let parts = self.models.iter().zip(self.stagings).zip(&self.files).zip(&self.done);
        for (((model, staging), files), done) in parts {
            let total: u64 = files.iter().map(|(shard, _)| shard.n_bytes).sum();
            let entry = |(shard, names): &(Shard, Vec<String>)| {
                names.iter().map(|name| (name.clone(), json!(shard.name))).collect::<Vec<_>>()
            };
            let map: Map<String, Value> = files.iter().flat_map(entry).collect();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
            staging.write_file(INDEX_FILE, format!("{index:#}\n").as_bytes())?;
            let shards: Vec<Shard> = files.iter().map(|(shard, _)| shard.clone()).collect();
            let hashes = manifest::hash_files(model.files)?;
            let on = MeasuredOn::MergedLayers;
            let manifest =
                manifest::manifest(model.files, &hashes, &[Statistic::Gram], on, &shards, done, model.source);
            staging.write_file(manifest::FILE, format!("{manifest:#}\n").as_bytes())?;
            if self.progress.is_cancelled() {
                return Err(CalibrateError::Stopped);
            }
        }
        Ok(self.done)
    }
}

/// Hears when to stop, and counts nothing.
struct Uncounted<'a>(&'a dyn Progress);

impl Progress for Uncounted<'_> {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// What becomes of the residual streams of the batch of this number.
type CarryBatch<'a> = dyn Fn(&Streams<'_>, usize) -> Result<Vec<f32>, CalibrateError> + Sync + 'a;

#[cfg(test)]
mod tests;
