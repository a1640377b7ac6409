//! Estimates of a run, from headers.

use crate::config::ZooConfig;
use crate::error::PipelineError;
use crate::run::Source;
use crate::scores::{prepare, tasks};
use crate::stage::Stage;
use crate::zoo::Zoo;
use glue_eval::Task;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Evaluations of a search without a budget: 500 of an evolutionary strategy, and some for the stages before it.
const UNLIMITED_EVALUATIONS: u64 = 600;

/// Upper limits of what a run needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Its stages.
    pub stages: Vec<StageEstimate>,
    /// Maximum number of evaluations of merged candidates, all clusters together.
    pub evaluations: u64,
    /// Proxy items of all tasks.
    pub proxy_items: u64,
    /// Peak memory in bytes, excluding memory-mapped inputs, which the system may drop.
    pub memory: u64,
    /// Peak disk usage in bytes.
    pub disk: u64,
}

/// Upper limits of what a stage needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StageEstimate {
    /// Its name.
    pub stage: String,
    /// What it does, in words.
    pub what: String,
    /// Bytes of weights that it reads; repeated reads count once.
    pub reads: u64,
    /// Bytes that it writes.
    pub writes: u64,
}

/// Upper limits of what the run of `source` needs, from headers and the sizes of splits. Clusters depend on weights:
/// all models that can be merged count as one cluster.
///
/// # Errors
/// [`PipelineError`], for what the run would refuse.
pub fn estimate(source: &Source) -> Result<Estimate, PipelineError> {
    let config = &source.config;
    let directory = source.path.parent().unwrap_or(Path::new(""));
    let zoo = Zoo::open(config, directory)?;
    let tasks: Arc<[Task]> = tasks(&config.tasks, directory)?.into();
    let items = |split: &str| -> Result<u64, PipelineError> {
        Ok(prepare(&tasks, &config.tasks, split, config.seed)?.counts().iter().sum::<usize>() as u64)
    };
    let (proxy, router) = (items(&config.tasks.proxy)?, items(&config.tasks.router)?);
    let bytes: Vec<u64> = zoo.models.iter().map(|model| model.dir.checkpoint().total_bytes()).collect();
    let (all, largest) = (bytes.iter().sum::<u64>(), bytes.iter().copied().max().unwrap_or(0));
    let groups = crate::stages::compare::mergeable_groups(&zoo)?;
    let merged = groups.iter().filter(|group| group.len() > 1).count() as u64;
    let evaluations = config.select.budget.evaluations.unwrap_or(UNLIMITED_EVALUATIONS) * merged;
    let options = options(config, &zoo) as u64;
    // Experts are as large as models, and there are at most as many.
    let experts = (config.mixture.experts as u64).min(zoo.models.len() as u64 + merged);
    let mixture = if config.mixture.enabled { experts * largest } else { 0 };
    let threads = rayon::current_num_threads() as u64;
    let stage = |stage: Stage, what: String, reads: u64, writes: u64| StageEstimate {
        stage: stage.name().into(),
        what,
        reads,
        writes,
    };
    let stacked = if config.stack { largest + largest / 2 } else { 0 };
    let stages = vec![
        stage(Stage::Compatibility, format!("headers of {} models", zoo.models.len()), 0, 0),
        stage(Stage::Similarity, "all pairs in one pass".into(), all, 0),
        stage(Stage::Baselines, format!("{proxy} items for each model"), all, 0),
        stage(Stage::Select, format!("up to {evaluations} candidates in {merged} groups"), all, merged * largest),
        stage(Stage::Candidates, "merges and stacked layers".into(), largest, stacked),
        stage(
            Stage::Mixture,
            format!("{options} forms: each is written, its router trained on {router} items, and scored; one is kept"),
            options * mixture,
            options * mixture,
        ),
        stage(Stage::Test, "all models, merges and the final model, once".into(), all + mixture, 0),
    ];
    Ok(Estimate {
        stages,
        evaluations,
        proxy_items: proxy,
        memory: largest * threads,
        // Two mixtures: the best so far and the current one.
        disk: merged * largest + stacked + 2 * mixture,
    })
}

/// Number of forms of mixtures.
fn options(config: &ZooConfig, zoo: &Zoo) -> usize {
    if !config.mixture.enabled {
        return 0;
    }
    let layers = zoo.models.iter().filter_map(|model| model.dir.config().num_layers()).max().unwrap_or(1);
    1 + config.mixture.levels.len() * config.mixture.depths(layers).len()
}
