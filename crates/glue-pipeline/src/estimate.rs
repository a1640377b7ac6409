//! Estimates of a run, from headers.

use crate::config::{ItemUse, TasksConfig, ZooConfig};
use crate::error::PipelineError;
use crate::run::{Registries, Source};
use crate::scores::{prepare, tasks};
use crate::stage::Stage;
use crate::stages::select::config_of;
use crate::zoo::{Zoo, ZooModel};
use glue_eval::{LanguageModel, LocalModel, Task};
use glue_lm::{Architecture, GenerateOptions, GenerationEstimate, PromptLengths};
use glue_progress::Progress;
use glue_select::model_set::ModelSet;
use glue_select::search::Prepared;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Upper limits of what a run needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Its stages.
    pub stages: Vec<StageEstimate>,
    /// Maximum number of evaluations of merged candidates, all clusters together.
    pub evaluations: u64,
    /// Search items of all tasks.
    pub search_items: u64,
    /// Seconds that a model takes for an item, as measured with the first model; `None` if nothing was measured.
    pub seconds_per_item: Option<f64>,
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
    /// Seconds, from the time that a few items took; racing makes a search shorter.
    pub seconds: f64,
}

/// Upper limits of what the run of `source` needs, from headers and the sizes of splits. Clusters depend on weights:
/// all models that can be merged count as one cluster. With `measure`, the first model answers a few items, and stages
/// have seconds.
///
/// # Errors
/// [`PipelineError`], for what the run would refuse.
pub fn estimate(
    source: &Source,
    registries: Registries<'_>,
    measure: Option<&dyn Progress>,
) -> Result<Estimate, PipelineError> {
    let config = &source.config;
    let directory = source.path.parent().unwrap_or(Path::new(""));
    let zoo = Zoo::open(config, directory)?;
    let tasks: Arc<[Task]> = tasks(&config.tasks, directory)?.into();
    let model = measure.map(|_| LocalModel::open(&zoo.models[0].path)).transpose();
    let model = model.map_err(|error| PipelineError::Run { model: zoo.models[0].name.clone(), error: error.into() })?;
    let chat = model.as_ref().map(|model| model as &dyn LanguageModel);
    let prepared = |role: ItemUse| {
        // Without a model no chat template is known; the number of items is the same.
        let tasks_config = TasksConfig {
            apply_chat_template: config.tasks.apply_chat_template && chat.is_some(),
            ..config.tasks.clone()
        };
        prepare(&tasks, &tasks_config, role, config.seed, chat)
    };
    let items = |role: ItemUse| -> Result<u64, PipelineError> {
        Ok(prepared(role)?.prepared.counts().iter().sum::<usize>() as u64)
    };
    let (search, validation) = (items(ItemUse::Search)?, items(ItemUse::Validation)?);
    let (router, test) = (items(ItemUse::Router)?, items(ItemUse::Test)?);
    let seconds_per_item = match (&model, measure) {
        (Some(model), Some(progress)) => Some(seconds_per_item(model, &prepared(ItemUse::Search)?.prepared, progress)?),
        _ => None,
    };
    let seconds = |items: u64| items as f64 * seconds_per_item.unwrap_or(0.0);
    let bytes: Vec<u64> = zoo.models.iter().map(|model| model.dir.checkpoint().total_bytes()).collect();
    let (all, largest) = (bytes.iter().sum::<u64>(), bytes.iter().copied().max().unwrap_or(0));
    let groups = crate::stages::compare::mergeable_groups(&zoo)?;
    let groups: Vec<Vec<usize>> = groups.into_iter().filter(|group| group.len() > 1).collect();
    let merged = groups.len() as u64;
    let mut evaluations = 0;
    for group in &groups {
        let names: Vec<String> = group.iter().map(|&i| zoo.models[i].name.clone()).collect();
        let base = zoo.models.iter().find(|model| model.base).map(|model| model.name.as_str());
        evaluations += search_evaluations(config, directory, &zoo, (&names, base), registries)?;
    }
    let frontier = if config.frontier.enabled && merged > 0 { config.frontier.evaluations } else { 0 };
    let models = zoo.models.len() as u64;
    let forms = forms(config, &zoo) as u64;
    // Experts are as large as models, and there are at most as many.
    let experts = (config.mixture.experts as u64).min(models + merged);
    let mixture = if config.mixture.enabled { experts * largest } else { 0 };
    let mixtures = if config.mixture.enabled { forms + experts } else { 0 };
    let threads = rayon::current_num_threads() as u64;
    let stage = |stage: Stage, what: String, (reads, writes): (u64, u64), seconds: f64| StageEstimate {
        stage: stage.name().into(),
        what,
        reads,
        writes,
        seconds,
    };
    let stacked = if config.stack { largest + largest / 2 } else { 0 };
    let merges = if config.frontier.enabled { experts.saturating_sub(2) * largest } else { 0 };
    let stages = vec![
        stage(Stage::Compatibility, format!("headers of {models} models"), (0, 0), 0.0),
        stage(Stage::Similarity, "all pairs in one pass".into(), (all, 0), 0.0),
        stage(
            Stage::Baselines,
            format!("{} items for each model", search + validation),
            (all, 0),
            seconds(models * (search + validation)),
        ),
        stage(
            Stage::Select,
            format!("up to {evaluations} merges in {merged} groups, each on {search} items"),
            (all, merged * largest),
            seconds(evaluations * search),
        ),
        stage(
            Stage::Frontier,
            format!("up to {frontier} merges on {search} items; stacked layers"),
            (all, stacked + merges),
            seconds(frontier * search + experts * validation + if config.stack { search + validation } else { 0 }),
        ),
        stage(
            Stage::Mixture,
            format!(
                "up to {mixtures} mixtures: each is written, its router trained on {router} items, and scored on {validation}"
            ),
            (mixtures * mixture, mixtures * mixture),
            seconds(mixtures * (router + validation)),
        ),
        stage(
            Stage::Test,
            format!("all models, merges and mixtures on {test} items, once"),
            (all + mixture, 0),
            seconds((models + 3 * merged + experts) * test),
        ),
    ];
    Ok(Estimate {
        stages,
        evaluations: evaluations + frontier,
        search_items: search,
        seconds_per_item,
        memory: largest * threads + answering(&zoo),
        // The mixtures of all sizes, and the one under way.
        disk: merged * largest + merges + stacked + (experts + 1) * mixture,
    })
}

/// Maximum memory for keys, values, activations and logits while a model of the zoo answers: a full batch of its
/// longest sequences, or the budget that such a batch does not fit into.
fn answering(zoo: &Zoo) -> u64 {
    let options = GenerateOptions::default();
    let of_model = |model: &ZooModel| {
        let architecture = Architecture::from_config(model.dir.config()).ok()?;
        let longest = architecture.max_positions;
        let sequences = options.max_sequences;
        let lengths = PromptLengths { sum: (sequences * longest) as u64, longest };
        let footprint = |cache_type| architecture.footprint(cache_type);
        Some(GenerationEstimate::new(footprint, lengths, sequences, &options).memory)
    };
    // What cannot be run is refused elsewhere.
    zoo.models.iter().filter_map(of_model).max().unwrap_or(0)
}

/// Maximum number of merges that the search over a group evaluates.
fn search_evaluations(
    config: &ZooConfig,
    directory: &Path,
    zoo: &Zoo,
    (members, base): (&[String], Option<&str>),
    registries: Registries<'_>,
) -> Result<u64, PipelineError> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| PipelineError::Search { cluster: members.join(", "), error };
    let config = config_of(config, directory, zoo, members, base);
    let models = ModelSet::open(&config).map_err(|e| failed(e.into()))?;
    let prepared = Prepared::new(&config, &models, registries).map_err(|e| failed(e.into()))?;
    let most: u64 = prepared.evaluations().iter().skip(1).map(|(_, n)| n).sum();
    Ok(config.budget.evaluations.map_or(most, |budget| budget.min(most)))
}

/// Seconds that a model takes for an item: the mean over the first items of each task.
fn seconds_per_item(
    model: &LocalModel,
    prepared: &glue_eval::Prepared,
    progress: &dyn Progress,
) -> Result<f64, PipelineError> {
    const ITEMS: usize = 8;
    let chosen: Vec<Vec<usize>> = prepared.counts().iter().map(|&n| (0..n.min(ITEMS)).collect()).collect();
    // Weights are read for the first time; that does not count.
    let one: Vec<Vec<usize>> = chosen.iter().enumerate().map(|(t, _)| if t == 0 { vec![0] } else { vec![] }).collect();
    prepared.evaluate(model, Some(&one), progress)?;
    let begun = std::time::Instant::now();
    prepared.evaluate(model, Some(&chosen), progress)?;
    let n: usize = chosen.iter().map(Vec::len).sum();
    Ok(begun.elapsed().as_secs_f64() / n.max(1) as f64)
}

/// Number of forms of mixtures.
fn forms(config: &ZooConfig, zoo: &Zoo) -> usize {
    if !config.mixture.enabled {
        return 0;
    }
    let layers = zoo.models.iter().filter_map(|model| model.dir.config().num_layers()).max().unwrap_or(1);
    1 + config.mixture.levels.len() * config.mixture.depths(layers).len()
}
