//! A whole search: baselines, the filter, the strategies one after another, held-out scores, and the result on disk.

use crate::config::{SearchConfig, Validation};
use crate::context::{
    BestCandidate, DescribedCandidate, SearchContext, StrategyContext, StrategyInputs, TrialRecord, compare, short,
    tell,
};
use crate::contract::{Candidate, ItemRole, Scorer, Scores};
use crate::evaluation_log::{Budget, EvaluationLog, StopReason};
use crate::filter::{Evidence, ModelVerdict, judge, unscored};
use crate::guard::Guard;
use crate::journal::{Journal, JournalError};
use crate::model_set::{ModelSet, ModelSetError, hash_tasks};
use crate::output::{self, OutputError};
use crate::recipe_text::alone;
use crate::similarity::Similarity;
use crate::space::SpaceError;
use crate::strategy::{Strategy, StrategyError, StrategyRegistry};
use crate::summary::{Row, StrategyRow, Summary, pooled};
use glue_progress::{Progress, Unit};
use glue_recipe::SharedExecutor;
use glue_tensor::{FileChanged, Links};
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything that configs can name.
#[derive(Debug, Clone, Copy)]
pub struct Registries<'a> {
    /// Merge methods.
    pub operators: &'a glue_merge::Registry,
    /// Optimisers.
    pub optimisers: &'a glue_search::OptimiserRegistry,
    /// Strategies.
    pub strategies: &'a StrategyRegistry,
}

/// Where the result goes and when to end.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// The directory that is written.
    pub out: &'a Path,
    /// Whether to resume an interrupted search, if there is one.
    pub resume: bool,
    /// When to end.
    pub budget: Budget,
    /// What merges the result: the executor of the scorer, which gives the result the scores of its candidate.
    pub executor: SharedExecutor,
    /// Whether files that the result gets a copy of may be links that lead out of their model directory.
    pub links: Links,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// A file of the models or their statistics changed after the search began. No later score is in the journal.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The models cannot be searched.
    #[error(transparent)]
    Models(#[from] ModelSetError),
    /// A strategy does not exist or refuses its settings.
    #[error(transparent)]
    Strategy(#[from] StrategyError),
    /// The search space is refused.
    #[error("the search space")]
    Space(#[from] SpaceError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal holds something that is not an evaluation.
    #[error("{0}")]
    Entry(String),
    /// The user asked to stop; the journal has all that was done.
    #[error("stopped after {evaluations} evaluations")]
    Stopped {
        /// Evaluations that are in the journal.
        evaluations: u64,
        /// The journal.
        journal: PathBuf,
    },
    /// The budget does not suffice for the baselines.
    #[error("{stop} before all {models} models are scored alone; raise it")]
    TooLittle {
        /// The budget.
        stop: String,
        /// Number of models.
        models: usize,
    },
    /// No model could be scored.
    #[error("no model could be scored; `{model}`: {reason}")]
    NoScores {
        /// The first model.
        model: String,
        /// Why.
        reason: String,
    },
    /// No strategy has a result.
    #[error("strategy `{strategy}`: {reason}")]
    Failed {
        /// The first that did.
        strategy: String,
        /// Why.
        reason: String,
    },
    /// The result cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// The path of the journal of a search into `out` until the search is complete: beside `out`.
pub fn journal_path(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    out.with_file_name(format!("{name}.journal.jsonl"))
}

/// A search that was checked as far as possible without reading weights.
pub struct Prepared<'a> {
    config: &'a SearchConfig,
    models: &'a ModelSet,
    search_context: SearchContext<'a>,
    strategies: Vec<(&'static str, Box<dyn Strategy>)>,
    optimises: bool,
}

impl std::fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<'a> Prepared<'a> {
    /// Checks strategies and space.
    ///
    /// # Errors
    /// [`SelectError::Strategy`], [`SelectError::Space`].
    pub fn new(
        config: &'a SearchConfig,
        models: &'a ModelSet,
        registries: Registries<'a>,
    ) -> Result<Prepared<'a>, SelectError> {
        let search_context = models.search_context(config, registries.operators, registries.optimisers);
        let mut strategies: Vec<(&'static str, Box<dyn Strategy>)> = Vec::new();
        for strategy in &config.strategies {
            let def = registries.strategies.get(&strategy.name).map_err(StrategyError::from)?;
            strategies.push((def.name, (def.build)(&search_context, &strategy.settings)?));
        }
        let optimises =
            config.space.is_some() || strategies.iter().any(|(name, _)| *name == crate::strategy::EVOLUTIONARY.name);
        let prepared = Prepared { config, models, search_context, strategies, optimises };
        prepared.space()?;
        Ok(prepared)
    }

    /// The space that optimisers search over all models; `None` when no strategy does.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn space(&self) -> Result<Option<crate::space::SearchSpace>, SpaceError> {
        let all: Vec<usize> = (0..self.search_context.members.len()).collect();
        self.optimises.then(|| self.search_context.search_space(&all)).transpose()
    }

    /// The maximum number of evaluations of each stage: baselines, filter, strategies.
    pub fn evaluations(&self) -> Vec<(String, u64)> {
        let n = self.search_context.members.len();
        let filter = self.config.filter.then(|| ("filter".to_string(), n as u64 - 1));
        let strategies = self.strategies.iter().map(|(name, strategy)| (name.to_string(), strategy.evaluations(n)));
        std::iter::once(("models".to_string(), n as u64)).chain(filter).chain(strategies).collect()
    }

    /// Model `i` alone, as it is scored first.
    pub fn baseline(&self, i: usize) -> Candidate {
        alone(&self.search_context.template, &self.search_context.members[i].path)
    }

    /// The header of the journal: everything the search depends on.
    ///
    /// # Errors
    /// A file that cannot be read. All weights are read.
    pub fn header(&self) -> Result<Value, ModelSetError> {
        Ok(json!({
            "journal": "glue search",
            "version": env!("CARGO_PKG_VERSION"),
            "config": serde_json::to_value(self.config.without_limits()).unwrap_or_default(),
            "models": self.models.hashes(),
            "tasks": hash_tasks(&self.config.tasks)?,
        }))
    }

    /// Searches, and writes the result.
    ///
    /// # Errors
    /// [`SelectError`]. Whatever was evaluated is in the journal.
    pub fn run(
        &self,
        scorer: &dyn Scorer,
        options: &Options<'_>,
        progress: &dyn Progress,
    ) -> Result<(Summary, Timings), SelectError> {
        output::check_vacant(options.out)?;
        let path = journal_path(options.out);
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(|error| JournalError::Io { path: parent.into(), error })?;
        }
        let header = self.header()?;
        self.models.check_unchanged()?;
        let guard = Guard::new(scorer, self.models, progress);
        let (journal, entries) = match options.resume {
            true => Journal::resume(&path, &header)?,
            false => (Journal::create(&path, &header)?, Vec::new()),
        };
        let log = EvaluationLog::new(&guard, journal, entries, options.budget).map_err(SelectError::Entry)?;
        progress.begin("searching", Unit::Evaluations, None);
        let mut run = Run {
            prepared: self,
            log,
            progress,
            journal: path.clone(),
            trials: Vec::new(),
            similarity: OnceCell::new(),
            best: None,
            timings: Timings::default(),
        };
        let summary = run.search(&header).map_err(|error| guard.changed().map_or(error, SelectError::Changed))?;
        let (mut timings, log) = (run.timings, run.log);
        timings.seconds = log.status().seconds;
        output::write(&summary, &timings, (&self.search_context, self.models), options, &path)?;
        glue_tensor::abort_point("result of a search written");
        // The lock is held until the directory is there.
        drop(log.into_journal());
        let _ = std::fs::remove_file(&path);
        Ok((summary, timings))
    }
}

/// How long a search took: in a file of its own, since it differs from run to run.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Timings {
    /// Seconds, including those of interrupted runs.
    pub seconds: f64,
    /// Seconds of each strategy in the last run; few for what was replayed from the journal.
    pub strategies: Vec<(String, f64)>,
}

struct Run<'s, 'a> {
    prepared: &'s Prepared<'a>,
    log: EvaluationLog<'s>,
    progress: &'s dyn Progress,
    journal: PathBuf,
    trials: Vec<TrialRecord>,
    similarity: OnceCell<Similarity>,
    best: Option<f64>,
    timings: Timings,
}

/// The strategy of baselines, in the record of trials.
const BASELINE: &str = "baseline";

impl<'s, 'a> Run<'s, 'a>
where
    'a: 's,
{
    fn stopped(&self, stop: StopReason) -> SelectError {
        match stop {
            StopReason::Journal(error) => SelectError::Journal(error),
            _ => SelectError::Stopped { evaluations: self.log.status().evaluations, journal: self.journal.clone() },
        }
    }

    /// Scores candidates outside of a strategy, and records them.
    fn measure(&mut self, name: &str, described: &[DescribedCandidate]) -> (Vec<Option<Scores>>, Option<StopReason>) {
        let candidates: Vec<Candidate> = described.iter().map(|described| described.candidate.clone()).collect();
        let batch = self.log.score(&candidates, ItemRole::Search, None);
        let mut all = Vec::new();
        for (described, outcome) in described.iter().zip(batch.outcomes) {
            let scores = outcome.as_ref().ok().cloned();
            self.best = scores.iter().map(|scores| scores.average).chain(self.best).reduce(f64::max);
            self.trials.push(TrialRecord::new(&self.prepared.search_context, name, described, outcome));
            all.push(scores);
        }
        tell(self.progress, name, self.best, &self.log.status());
        (all, batch.stop)
    }

    fn search(&mut self, header: &Value) -> Result<Summary, SelectError> {
        let prepared = self.prepared;
        let search_context = &prepared.search_context;
        let n = search_context.members.len();
        let alone = |i: usize| DescribedCandidate {
            candidate: prepared.baseline(i),
            what: search_context.members[i].name.clone(),
            weights: vec![(i, 1.0)],
        };
        let (baselines, stop) = self.measure(BASELINE, &(0..n).map(alone).collect::<Vec<_>>());
        if let Some(stop) = stop {
            return Err(match stop.is_budget() {
                true => SelectError::TooLittle { stop: stop.to_string(), models: n },
                false => self.stopped(stop),
            });
        }
        if baselines.iter().all(Option::is_none) {
            let model = search_context.members[0].name.clone();
            return Err(SelectError::NoScores { model, reason: self.trials[0].reason.clone() });
        }
        let mut ended = None;
        let verdicts = match prepared.config.filter {
            true => self.filter(&baselines, &mut ended)?,
            // A model without scores is left out all the same.
            false => (0..n).filter(|&i| baselines[i].is_none()).map(|i| self.unscored(i)).collect(),
        };
        let harmful = |i: usize| verdicts.iter().any(|of| of.harmful && of.model == search_context.members[i].name);
        let admitted: Vec<usize> = (0..n).filter(|&i| !harmful(i)).collect();
        let mut found: Vec<(String, BestCandidate)> = Vec::new();
        let mut rows: Vec<StrategyRow> = Vec::new();
        let mut failure: Option<(String, String)> = None;
        for (name, strategy) in &prepared.strategies {
            if ended.is_some() {
                break;
            }
            // A strategy that is listed twice gets a number.
            let twice = found.iter().filter(|(other, _)| other.split(' ').next() == Some(name)).count();
            let label = if twice == 0 { (*name).to_string() } else { format!("{name} {}", twice + 1) };
            let before = self.log.status();
            let start = Instant::now();
            let earlier: Vec<BestCandidate> = found.iter().map(|(_, found)| found.clone()).collect();
            let mut context = StrategyContext::new(
                &label,
                StrategyInputs {
                    search: search_context,
                    log: &mut self.log,
                    progress: self.progress,
                    baselines: &baselines,
                    admitted: &admitted,
                    earlier: &earlier,
                    similarity: &self.similarity,
                    best: self.best,
                },
            );
            let done = strategy.run(&mut context);
            let (result, trials, best) = context.finish();
            self.best = best;
            self.trials.extend(trials);
            self.timings.strategies.push((label.clone(), start.elapsed().as_secs_f64()));
            match done {
                Ok(()) => {}
                Err(stop) if stop.is_budget() => ended = Some(stop.to_string()),
                Err(StopReason::Strategy(reason)) => failure = failure.or(Some((label.clone(), reason))),
                Err(stop) => return Err(self.stopped(stop)),
            }
            let after = self.log.status();
            if let Some(result) = result {
                rows.push(StrategyRow {
                    row: Row {
                        name: label.clone(),
                        what: result.what.clone(),
                        recipe: result.candidate.recipe.clone(),
                        search: self.log.cached(&result.candidate, ItemRole::Search).cloned(),
                        validation: None,
                        proxy: None,
                        gap: None,
                    },
                    evaluations: after.evaluations - before.evaluations,
                    items_saved: after.items_saved - before.items_saved,
                    items: after.items - before.items,
                    ended: ended.clone().or_else(|| failure.clone().filter(|(of, _)| *of == label).map(|(_, why)| why)),
                });
                found.push((label, result));
            }
        }
        let Some(_) = found.first() else {
            let (strategy, reason) = failure.unwrap_or_else(|| {
                let reason = ended.unwrap_or_else(|| "it accepted no candidate".into());
                (prepared.config.strategies[0].name.clone(), reason)
            });
            return Err(SelectError::Failed { strategy, reason });
        };
        let mut models: Vec<Row> = (0..n)
            .map(|i| Row {
                name: search_context.members[i].name.clone(),
                what: search_context.members[i].name.clone(),
                recipe: prepared.baseline(i).recipe,
                search: baselines[i].clone(),
                validation: None,
                proxy: None,
                gap: None,
            })
            .collect();
        let of_strategies = rows.iter_mut().map(|row| &mut row.row);
        self.validate(models.iter_mut().filter(|row| row.search.is_some()).chain(of_strategies).collect())?;
        let (best, reason) = choose(&rows);
        let status = self.log.status();
        Ok(Summary {
            version: env!("CARGO_PKG_VERSION").into(),
            config: header["config"].clone(),
            inputs: json!({ "models": header["models"], "tasks": header["tasks"] }),
            best,
            reason,
            models,
            filter: verdicts,
            strategies: rows,
            evaluations: status.evaluations,
            items_saved: status.items_saved,
            items: status.items,
            front: self.front(),
            candidates: std::mem::take(&mut self.trials),
        })
    }

    /// The verdict on a model without scores. The first trials are the baselines.
    fn unscored(&self, i: usize) -> ModelVerdict {
        unscored(&self.prepared.search_context.members[i].name, &self.trials[i].reason)
    }

    /// Looks for harmful models.
    fn filter(
        &mut self,
        baselines: &[Option<Scores>],
        ended: &mut Option<String>,
    ) -> Result<Vec<ModelVerdict>, SelectError> {
        let search_context = &self.prepared.search_context;
        let n = search_context.members.len();
        let average = |i: usize| baselines[i].as_ref().map_or(f64::NEG_INFINITY, |scores| scores.average);
        let best = (0..n).fold(0, |best, i| if average(i) > average(best) { i } else { best });
        let others: Vec<usize> = (0..n).filter(|&i| i != best && baselines[i].is_some()).collect();
        let pair = |&i: &usize| {
            let weights = vec![(best, 0.5), (i, 0.5)];
            DescribedCandidate {
                candidate: search_context.linear(&weights),
                what: search_context.words(&weights),
                weights,
            }
        };
        let (scores, stop) = self.measure("filter", &others.iter().map(pair).collect::<Vec<_>>());
        match stop {
            Some(stop) if stop.is_budget() => *ended = Some(stop.to_string()),
            Some(stop) => return Err(self.stopped(stop)),
            None => {}
        }
        // Without a similarity that test is not failed.
        if let (None, Ok(read)) = (self.similarity.get(), (search_context.read_similarity)()) {
            let _ = self.similarity.set(read);
        }
        let mean = |i: usize| {
            let similarity = self.similarity.get()?;
            let sum: f64 = (0..n).filter(|&j| j != i).map(|j| similarity.of_models(i, j)).sum();
            Some(sum / (n - 1) as f64)
        };
        let evidence: Vec<Evidence<'_>> = (0..n)
            .map(|i| Evidence {
                model: &search_context.members[i].name,
                baseline: baselines[i].as_ref().ok_or(self.trials[i].reason.as_str()),
                similarity: mean(i),
                pair: others.iter().position(|&other| other == i).and_then(|at| scores.get(at)?.as_ref()),
            })
            .collect();
        Ok(judge(&evidence))
    }

    /// Scores rows on the validation items.
    fn validate(&mut self, rows: Vec<&mut Row>) -> Result<(), SelectError> {
        if self.prepared.config.validation == Validation::Fraction(0.0) {
            return Ok(());
        }
        let candidates: Vec<Candidate> = rows.iter().map(|row| Candidate { recipe: row.recipe.clone() }).collect();
        let batch = self.log.score(&candidates, ItemRole::Validation, None);
        if let Some(stop) = batch.stop {
            return Err(self.stopped(stop));
        }
        let of_one_split = matches!(self.prepared.config.validation, Validation::Fraction(_));
        for (row, outcome) in rows.into_iter().zip(batch.outcomes) {
            row.validation = outcome.ok();
            if let (Some(search), Some(held)) = (&row.search, &row.validation) {
                row.gap = Some(search.average - held.average);
                row.proxy = if of_one_split { pooled(search, held) } else { None };
            }
        }
        Ok(())
    }

    /// The Pareto front, if a strategy searched with several objectives.
    fn front(&self) -> Vec<usize> {
        let several = |name: &Value| {
            let def = name.as_str().and_then(|name| self.prepared.search_context.optimisers.get(name).ok());
            def.is_some_and(|def| def.multi_objective)
        };
        let asked = self.prepared.config.strategies.iter().any(|strategy| {
            let optimiser = strategy.settings.iter().find(|(key, _)| key == "optimiser");
            optimiser.is_some_and(|(_, value)| several(&serde_json::to_value(value).unwrap_or_default()))
        });
        if !asked {
            return Vec::new();
        }
        let mut seen = std::collections::HashSet::new();
        let full: Vec<(usize, Vec<f64>)> = self
            .trials
            .iter()
            .enumerate()
            .filter(|(_, trial)| seen.insert(&trial.recipe))
            .filter_map(|(i, trial)| {
                let scores = trial.scores.as_ref().filter(|scores| !scores.dropped)?;
                Some((i, scores.tasks.iter().map(|task| -task.value).collect()))
            })
            .collect();
        let points: Vec<&[f64]> = full.iter().map(|(_, losses)| &losses[..]).collect();
        let ranks = glue_search::non_dominated_sort(&points);
        full.iter().zip(ranks).filter(|(_, rank)| *rank == 0).map(|((i, _), _)| *i).collect()
    }
}

/// The best strategy on the validation items; among equals the best on the search items, then the first.
fn choose(rows: &[StrategyRow]) -> (String, String) {
    let held = |row: &StrategyRow| row.row.validation.as_ref().map(|scores| scores.average);
    let seen = |row: &StrategyRow| row.row.search.as_ref().map_or(f64::NEG_INFINITY, |scores| scores.average);
    let mut best = &rows[0];
    for row in &rows[1..] {
        let by_held = match (held(row), held(best)) {
            (Some(a), Some(b)) => compare(a, b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        if by_held.then(compare(seen(row), seen(best))).is_gt() {
            best = row;
        }
    }
    let reason = match held(best) {
        Some(held) => format!(
            "It has the highest average on the validation items, {}; ties are decided by the search items, {}.",
            short(held),
            short(seen(best))
        ),
        None => format!("It has the highest average, {}; no items were held out.", short(seen(best))),
    };
    (best.row.name.clone(), reason)
}
