//! Shared by the commands that compare models: opening them, the pass over their weights, their names in tables.

use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use glue_metrics::{
    Class, Metric, MetricsError, NamedCheckpoint, Selection, Similarity, SimilarityOptions, similarity,
};
use glue_tensor::{Checkpoint, CheckpointError, ModelDir, ModelDirError};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::recipes;

/// What is compared, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Comparison {
    /// Similarity metric; glue similarity --list-metrics lists them
    #[arg(long, value_name = "NAME", default_value = "cosine_per_column")]
    pub(crate) metric: String,

    /// Base model, for metrics on task vectors (differences from the base)
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<PathBuf>,

    /// Compare only tensors of this class: attention, mlp, embedding, head, norm, other, all; can be repeated
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    class: Vec<String>,

    /// Compare only these layers, such as 4-11, counted from 0
    #[arg(long, value_name = "A-B", value_parser = layers)]
    layers: Option<RangeInclusive<usize>>,

    /// Compare only tensors whose name contains this text, or matches it as a pattern with * and ?
    #[arg(long, value_name = "PATTERN")]
    tensor: Option<String>,

    /// Compare only this fraction of the weights, sampled with --seed; the sampling error is reported
    #[arg(long, value_name = "FRACTION")]
    pub(crate) sample: Option<f64>,
}

fn layers(text: &str) -> Result<RangeInclusive<usize>, String> {
    let number = |text: &str| {
        text.trim().parse().map_err(|_| "expected a layer, such as 4, or a range, such as 4-11".to_owned())
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first)?..=number(last)?;
    if range.is_empty() { Err("the range ends before it starts".to_owned()) } else { Ok(range) }
}

impl Comparison {
    fn selection(&self, metric: &Metric) -> Result<Selection, Failure> {
        let mut selection = (metric.default_selection)();
        if !self.class.is_empty() {
            let classes = self.class.iter().map(|name| Class::parse(name)).collect::<Result<Vec<_>, _>>();
            selection = Selection::classes(&classes.map_err(refusal)?.concat());
        }
        selection.layers = self.layers.clone();
        selection.name = self.tensor.clone();
        Ok(selection)
    }

    /// Compares all pairs of `paths`, with a progress bar.
    pub(crate) fn run(&self, paths: &[PathBuf], global: &Global, shell: &Shell<'_>) -> Result<Similarity, Failure> {
        let metric = Metric::find(&self.metric).map_err(refusal)?;
        let options = SimilarityOptions {
            selection: Some(self.selection(metric)?),
            sample: self.sample,
            seed: global.seed.unwrap_or(0),
            ..SimilarityOptions::default()
        };
        let checkpoints = paths.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
        let base = self.base.as_deref().map(|path| Ok::<_, Failure>((path, open(path)?))).transpose()?;
        let name = |path: &Path| path.display().to_string();
        let models: Vec<NamedCheckpoint<'_>> = paths
            .iter()
            .zip(&checkpoints)
            .map(|(path, checkpoint)| NamedCheckpoint { name: name(path), checkpoint })
            .collect();
        let base = base.as_ref().map(|(path, checkpoint)| NamedCheckpoint { name: name(path), checkpoint });
        let pool = recipes::pool(global)?;
        let progress = CommandProgress::new(shell);
        let found = pool.install(|| similarity(&models, base.as_ref(), metric, &options, &progress));
        drop(progress);
        found.map_err(refusal)
    }
}

fn open(path: &Path) -> Result<Checkpoint, Failure> {
    Checkpoint::open(path).map_err(|error| match error {
        // `model+adapter` is no path; opening it as a model gives an error that says so.
        CheckpointError::NotFound { .. } => match ModelDir::open(path) {
            Err(error @ ModelDirError::WithAdapter { .. }) => Failure::refused(error),
            _ => Failure::refused(error),
        },
        error => Failure::failed(error),
    })
}

/// An error with its exit status: 1 if the weights are at fault, else 2.
pub(crate) fn refusal(error: MetricsError) -> Failure {
    match error {
        MetricsError::Stopped => Failure::Interrupted,
        error @ (MetricsError::NotFinite { .. } | MetricsError::Overflow { .. } | MetricsError::Convert { .. }) => {
            Failure::failed(error)
        }
        error @ MetricsError::BaseMissing { .. } => Failure::refused(error).hint(Some("name it with --base")),
        error => Failure::refused(error),
    }
}

/// Names for tables: the last parts of the paths if they differ, else the paths.
pub(crate) fn short_names(paths: &[String]) -> Vec<String> {
    let last = |path: &String| {
        let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| path.clone())
    };
    let short: Vec<String> = paths.iter().map(last).collect();
    let mut distinct = short.clone();
    distinct.sort();
    distinct.dedup();
    if distinct.len() == short.len() { short } else { paths.to_vec() }
}
