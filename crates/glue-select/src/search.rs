//! A whole search: baselines, the filter, the strategies one after another, held-out scores, and the result on disk.

use crate::config::{SearchConfig, Validation};
use crate::context::{
    BestCandidate, DescribedCandidate, SearchContext, StrategyContext, StrategyInputs, StrategyOutcome, TrialRecord,
};
use crate::contract::{Candidate, ItemRole, Scorer, Scores, Strata};
use crate::evaluation_log::{Budget, EvaluationLog, Purpose, StopReason};
use crate::finalists::{Choice, Finalist, TaskWeights, accepted, best_trials, choose, leading, models_merged};
use crate::guard::Guard;
use crate::harmful::{ModelVerdict, judge, unscored};
use crate::journal::{Journal, JournalError};
use crate::local::{LocalOptions, ScorerError};
use crate::model_set::{ModelSet, ModelSetError, hash_paths};
use crate::output::{self, OutputError};
use crate::recipe_text::alone;
use crate::similarity::Similarity;
use crate::space::SpaceError;
use crate::strategy::{Strategy, StrategyError, StrategyRegistry};
use crate::summary::{Row, StrategyRow, Summary, pooled};
use glue_eval::{EvalError, EvalOptions, Task};
use glue_lm::RUNTIME_REVISION;
use glue_progress::Progress;
use glue_recipe::SharedExecutor;
use glue_tensor::{FileChanged, Links};
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The revision of how candidates are scored, a part of the header of journals. It is raised whenever the same config,
/// models and tasks may get other scores or other candidates than before: after a change of inference, prompts,
/// metrics, merge methods, racing, strategies or optimisers. Journals of other revisions are refused.
pub const SCORING_REVISION: u32 = 3;

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
    /// Whether to resume an interrupted or complete search, if there is one.
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
    /// The tasks cannot be read.
    #[error(transparent)]
    Tasks(#[from] Box<EvalError>),
    /// An option of the config is invalid.
    #[error(transparent)]
    Options(#[from] Box<ScorerError>),
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
    /// The time does not suffice for the baselines.
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
        prepared.spaces()?;
        Ok(prepared)
    }

    /// The spaces that optimisers search over all models, one for each method; none when no strategy does.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn spaces(&self) -> Result<Vec<crate::space::SearchSpace>, SpaceError> {
        let all: Vec<usize> = (0..self.search_context.members.len()).collect();
        if self.optimises { self.search_context.search_spaces(&all) } else { Ok(Vec::new()) }
    }

    /// The maximum number of evaluations of each stage on search items: baselines, with the base if it is scored, and
    /// strategies.
    pub fn evaluations(&self) -> Vec<(String, u64)> {
        let n = self.search_context.members.len();
        let baselines = n as u64 + u64::from(self.base().is_some());
        let strategies = self.strategies.iter().map(|(name, strategy)| (name.to_string(), strategy.evaluations(n)));
        std::iter::once(("models".to_string(), baselines)).chain(strategies).collect()
    }

    /// The maximum number of evaluations on search items within a budget.
    fn most_evaluations(&self, budget: Budget) -> u64 {
        let stages = self.evaluations();
        let merged: u64 = stages.iter().skip(1).map(|(_, n)| n).sum();
        stages[0].1 + budget.evaluations.map_or(merged, |budget| budget.min(merged))
    }

    /// The base alone, as it is scored with the models if the search looks for harmful ones.
    fn base(&self) -> Option<DescribedCandidate> {
        let base = self.config.base.as_ref().filter(|_| self.config.filter)?;
        let candidate = alone(&self.search_context.template, base);
        let what = glue_text::names::short(std::slice::from_ref(base)).pop().unwrap_or_default();
        Some(DescribedCandidate { candidate, what, weights: Vec::new() })
    }

    /// Model `i` alone, as it is scored first.
    pub fn baseline(&self, i: usize) -> Candidate {
        alone(&self.search_context.template, &self.search_context.members[i].path)
    }

    /// The header of the journal: everything that a score depends on. Neither budgets nor what only affects speed.
    ///
    /// # Errors
    /// [`SelectError::Models`], [`SelectError::Tasks`]: a file that cannot be read. All files of the models are read.
    pub fn header(&self) -> Result<Value, SelectError> {
        Ok(json!({
            "journal": "glue search",
            "scoring": SCORING_REVISION,
            // An evaluator of the user's runs models in its own way.
            "runtime": self.config.evaluator.is_none().then_some(RUNTIME_REVISION),
            "config": serde_json::to_value(self.config.without_limits()).unwrap_or_default(),
            "models": self.models.hashes()?,
            "tasks": self.hash_tasks()?,
        }))
    }

    /// Hashes of the items of each task, by split; with an evaluator, which alone knows its tasks, of the files at
    /// their paths.
    fn hash_tasks(&self) -> Result<Value, SelectError> {
        let config = self.config;
        if config.evaluator.is_some() {
            return Ok(hash_paths(&config.tasks)?);
        }
        let tasks = config.load_tasks().map_err(|error| Box::new(EvalError::from(error)))?;
        let tasks: Arc<[Task]> = tasks.into();
        // Chat templates are files of the models.
        let options =
            EvalOptions { apply_chat_template: false, ..LocalOptions::from_config(config).map_err(Box::new)?.eval };
        let held_out = match config.validation() {
            Validation::Split { split } => Some(split),
            Validation::Fraction(_) => None,
        };
        let mut splits = serde_json::Map::new();
        for split in std::iter::once(config.split.clone()).chain(held_out) {
            let options = EvalOptions { split: Some(split.clone()), ..options.clone() };
            let items = glue_eval::Prepared::new(Arc::clone(&tasks), &options, None).map_err(Box::new)?;
            let hashes = tasks.iter().zip(items.content_hashes()).map(|(task, hash)| (task.name().into(), hash.into()));
            splits.insert(split, Value::Object(hashes.collect()));
        }
        Ok(Value::Object(splits))
    }

    /// Searches, and writes the result. A search whose result is complete continues from the journal in it if it is to
    /// be resumed: nothing is evaluated again, and a larger budget is used up. The result is replaced at the end.
    ///
    /// # Errors
    /// [`SelectError`]. Whatever was evaluated is in the journal.
    pub fn run(
        &self,
        scorer: &dyn Scorer,
        options: &Options<'_>,
        progress: &dyn Progress,
    ) -> Result<(Summary, Timings), SelectError> {
        let path = journal_path(options.out);
        let continues = options.resume && output::is_complete(options.out);
        match continues {
            true => output::take_back_journal(options.out, &path)?,
            false => output::check_vacant(options.out)?,
        }
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
        let mut log =
            EvaluationLog::new(&guard, journal, entries, options.budget, progress).map_err(SelectError::Entry)?;
        log.begin("searching", self.most_evaluations(options.budget));
        let mut run = Run {
            prepared: self,
            log,
            journal: path.clone(),
            trials: Vec::new(),
            similarity: OnceCell::new(),
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
    journal: PathBuf,
    trials: Vec<TrialRecord>,
    similarity: OnceCell<Similarity>,
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

    /// Scores models alone, and records them.
    fn measure(&mut self, described: &[DescribedCandidate]) -> (Vec<Option<Scores>>, Option<StopReason>) {
        let batch = self.log.score(BASELINE, described, Purpose::Baseline);
        let mut all = Vec::new();
        for (described, outcome) in described.iter().zip(batch.outcomes) {
            all.push(outcome.as_ref().ok().cloned());
            self.trials.push(TrialRecord::new(&self.prepared.search_context, BASELINE, described, outcome));
        }
        (all, batch.stop)
    }

    fn search(&mut self, header: &Value) -> Result<Summary, SelectError> {
        let prepared = self.prepared;
        let search_context = &prepared.search_context;
        let n = search_context.members.len();
        let baseline = |i: usize| DescribedCandidate {
            candidate: prepared.baseline(i),
            what: search_context.members[i].name.clone(),
            weights: vec![(i, 1.0)],
        };
        let base = prepared.base();
        let alone: Vec<DescribedCandidate> = (0..n).map(baseline).chain(base.clone()).collect();
        let (mut baselines, stop) = self.measure(&alone);
        if let Some(stop) = stop {
            return Err(match stop.budget().is_some() {
                true => SelectError::TooLittle { stop: stop.to_string(), models: n },
                false => self.stopped(stop),
            });
        }
        self.log.set_strata(Strata::of(&baselines.iter().flatten().collect::<Vec<_>>()));
        let base = base.map(|base| row(&base.what, &base.what, &base.candidate.recipe, baselines.pop().flatten()));
        let average = |i: &usize| baselines[*i].as_ref().map_or(f64::NEG_INFINITY, |scores| scores.average);
        let better = |best, i| if average(&i) > average(&best) { i } else { best };
        if let Some(best) = (0..n).reduce(better).filter(|_| prepared.config.item_fraction < 1.0) {
            self.log.set_reference(prepared.baseline(best));
        }
        if baselines.iter().all(Option::is_none) {
            let model = search_context.members[0].name.clone();
            return Err(SelectError::NoScores { model, reason: self.trials[0].reason.clone() });
        }
        let (mut ended, mut budget) = (None, None);
        let verdicts = match prepared.config.filter {
            true => self.judge(&baselines, base.as_ref()),
            // A model without scores is left out all the same.
            false => (0..n).filter(|&i| baselines[i].is_none()).map(|i| self.unscored(i)).collect(),
        };
        let harmful = |i: usize| verdicts.iter().any(|of| of.harmful && of.model == search_context.members[i].name);
        let admitted: Vec<usize> = (0..n).filter(|&i| !harmful(i)).collect();
        let alone: HashSet<String> = alone.into_iter().map(|alone| alone.candidate.recipe).collect();
        let mut finalists: Vec<Finalist> = Vec::new();
        let mut found: Vec<BestCandidate> = Vec::new();
        let mut ran: Vec<StrategyRun> = Vec::new();
        let mut failure: Option<(String, String)> = None;
        for (name, strategy) in &prepared.strategies {
            if ended.is_some() {
                break;
            }
            // A strategy that is listed twice gets a number.
            let twice = ran.iter().filter(|ran| ran.row.row.name.split(' ').next() == Some(name)).count();
            let label = if twice == 0 { (*name).to_string() } else { format!("{name} {}", twice + 1) };
            let before = self.log.status();
            let start = Instant::now();
            let mut context = StrategyContext::new(
                &label,
                StrategyInputs {
                    search: search_context,
                    log: &mut self.log,
                    baselines: &baselines,
                    admitted: &admitted,
                    earlier: &found,
                    similarity: &self.similarity,
                },
            );
            let done = strategy.run(&mut context);
            let mut outcome = context.finish();
            self.timings.strategies.push((label.clone(), start.elapsed().as_secs_f64()));
            match done {
                Ok(()) => {}
                Err(stop) if stop.budget().is_some() => (ended, budget) = (Some(stop.to_string()), stop.budget()),
                Err(StopReason::Strategy(reason)) => failure = failure.or(Some((label.clone(), reason))),
                Err(stop) => return Err(self.stopped(stop)),
            }
            self.promote(&label, &mut outcome.trials, &alone)?;
            let after = self.log.status();
            let own = self.finalists_of(&label, &outcome, &alone, &mut finalists);
            let accepted = accepted(&outcome.trials).into_iter().map(|i| outcome.trials[i].recipe.clone()).collect();
            self.trials.extend(outcome.trials);
            let Some(result) = outcome.found else { continue };
            let search = self.log.cached(&result.candidate, ItemRole::Search).cloned();
            let row = StrategyRow {
                row: row(&label, &result.what, &result.candidate.recipe, search),
                evaluations: after.evaluations - before.evaluations,
                items_saved: after.items_saved - before.items_saved,
                items: after.items - before.items,
                ended: ended.clone().or_else(|| failure.clone().filter(|(of, _)| *of == label).map(|(_, why)| why)),
            };
            ran.push(StrategyRun { row, finalists: own, accepted });
            found.push(result);
        }
        if ran.is_empty() {
            let (strategy, reason) = failure.unwrap_or_else(|| {
                let reason = ended.unwrap_or_else(|| "it accepted no candidate".into());
                (prepared.config.strategies[0].name.clone(), reason)
            });
            return Err(SelectError::Failed { strategy, reason });
        }
        let mut models: Vec<Row> = (0..n)
            .map(|i| {
                let name = &search_context.members[i].name;
                row(name, name, &prepared.baseline(i).recipe, baselines[i].clone())
            })
            .collect();
        self.validate(&mut models, &mut finalists, &mut ran)?;
        let single = models.iter().fold(&models[0], |best, row| if row.is_above(best) { row } else { best });
        for ran in &mut ran {
            let own = ran.finalists.iter().map(|&i| &finalists[i].row);
            let best = own.reduce(|best, row| if row.is_better_held(best) { row } else { best });
            ran.take(best);
        }
        let (best, choice) = match finalists.is_empty() {
            // Every merge failed, or there was only one model to merge.
            true => (ran[0].row.row.name.clone(), Choice::without_finalists(single)),
            false => {
                let choice = choose(single, &finalists, &self.weights(), search_context.seed);
                let winner = &finalists[choice.best];
                for ran in ran.iter_mut().filter(|ran| ran.row.row.name == winner.strategy) {
                    ran.take(Some(&winner.row));
                }
                (winner.strategy.clone(), choice)
            }
        };
        // The search scores of results are those of all items.
        let results: Vec<String> = ran.iter().map(|ran| ran.row.row.recipe.clone()).collect();
        self.complete("results", &results, &mut finalists, &mut ran)?;
        let status = self.log.status();
        Ok(Summary {
            version: env!("CARGO_PKG_VERSION").into(),
            config: header["config"].clone(),
            inputs: json!({ "models": header["models"], "tasks": header["tasks"] }),
            best,
            reason: choice.reason,
            best_single: single.name.clone(),
            significant: choice.significant,
            models,
            base,
            ruling: verdicts.iter().filter_map(|verdict| verdict.comparison.clone()).chain(choice.ruling).collect(),
            filter: verdicts,
            strategies: ran.into_iter().map(|ran| ran.row).collect(),
            finalists,
            evaluations: status.evaluations,
            items_saved: status.items_saved,
            items: status.items,
            budget,
            front: self.front(),
            candidates: std::mem::take(&mut self.trials),
        })
    }

    /// Scores the leading candidates of a strategy on all search items where their scores are estimates.
    fn promote(
        &mut self,
        strategy: &str,
        trials: &mut [TrialRecord],
        alone: &HashSet<String>,
    ) -> Result<(), SelectError> {
        let leading = leading(trials, alone);
        if leading.is_empty() {
            return Ok(());
        }
        let describe = |&i: &usize| DescribedCandidate {
            candidate: Candidate { recipe: trials[i].recipe.clone() },
            what: trials[i].what.clone(),
            weights: Vec::new(),
        };
        let described: Vec<DescribedCandidate> = leading.iter().map(describe).collect();
        self.log.begin("scoring the leading candidates on all items", described.len() as u64);
        let batch = self.log.score(strategy, &described, Purpose::Whole);
        if let Some(stop) = batch.stop {
            return Err(self.stopped(stop));
        }
        for (described, outcome) in described.iter().zip(batch.outcomes) {
            let Ok(scores) = outcome else { continue };
            for trial in trials.iter_mut().filter(|trial| trial.recipe == described.candidate.recipe) {
                trial.scores = Some(scores.clone());
            }
        }
        Ok(())
    }

    /// Adds the finalists of a strategy to `all`, each once; their indices.
    fn finalists_of(
        &self,
        strategy: &str,
        outcome: &StrategyOutcome,
        alone: &HashSet<String>,
        all: &mut Vec<Finalist>,
    ) -> Vec<usize> {
        let trials = best_trials(&outcome.trials, alone).into_iter().map(|i| {
            let trial = &outcome.trials[i];
            (&trial.recipe, &trial.what, trial.scores.clone())
        });
        let nominated = outcome.nominated.iter().map(|described| {
            let scores = self.log.cached(&described.candidate, ItemRole::Search).cloned();
            (&described.candidate.recipe, &described.what, scores)
        });
        let mut own: Vec<usize> = Vec::new();
        for (recipe, what, scores) in trials.chain(nominated) {
            let known = all.iter().position(|finalist| finalist.row.recipe == *recipe);
            let i = known.unwrap_or_else(|| {
                let models = models_merged(recipe, self.prepared.search_context.operators);
                let name = format!("{strategy} #{}", own.len() + 1);
                let row = row(&name, what, recipe, scores);
                all.push(Finalist { strategy: strategy.into(), models, row });
                all.len() - 1
            });
            if !own.contains(&i) {
                own.push(i);
            }
        }
        own
    }

    /// The verdict on a model without scores. The first trials are the baselines.
    fn unscored(&self, i: usize) -> ModelVerdict {
        unscored(&self.prepared.search_context.members[i].name, &self.trials[i].reason)
    }

    /// The weights of tasks.
    fn weights(&self) -> TaskWeights {
        TaskWeights(self.prepared.config.weights.clone())
    }

    /// Looks for harmful models.
    fn judge(&self, baselines: &[Option<Scores>], base: Option<&Row>) -> Vec<ModelVerdict> {
        let search_context = &self.prepared.search_context;
        let models: Vec<(&str, Result<&Scores, &str>)> = (0..baselines.len())
            .map(|i| {
                let scores = baselines[i].as_ref().ok_or(self.trials[i].reason.as_str());
                (search_context.members[i].name.as_str(), scores)
            })
            .collect();
        let base = base.and_then(|base| Some((base.name.as_str(), base.search.as_ref()?)));
        judge(&models, base, &self.weights(), search_context.seed)
    }

    /// Scores models, finalists and the results of strategies on the validation items, and for a curve of convergence
    /// also what was accepted on the way.
    fn validate(
        &mut self,
        models: &mut [Row],
        finalists: &mut [Finalist],
        ran: &mut [StrategyRun],
    ) -> Result<(), SelectError> {
        if self.prepared.config.validation() == Validation::Fraction(0.0) {
            // Nothing else tells them apart.
            let all: Vec<String> = finalists.iter().map(|finalist| finalist.row.recipe.clone()).collect();
            return self.complete("finalists", &all, finalists, ran);
        }
        let accepted: Vec<(String, String)> = ran
            .iter_mut()
            .flat_map(|ran| {
                let name = ran.row.row.name.clone();
                std::mem::take(&mut ran.accepted).into_iter().map(move |recipe| (name.clone(), recipe))
            })
            .collect();
        let models = models.iter_mut().filter(|row| row.search.is_some());
        let rows = models.chain(finalists.iter_mut().map(|finalist| &mut finalist.row));
        let rows: Vec<&mut Row> = rows.chain(ran.iter_mut().map(|ran| &mut ran.row.row)).collect();
        let recipes = rows.iter().map(|row| (&row.name, row.recipe.clone()));
        let mut candidates: Vec<DescribedCandidate> = Vec::new();
        for (what, recipe) in recipes.chain(accepted.iter().map(|(strategy, recipe)| (strategy, recipe.clone()))) {
            if candidates.iter().all(|known| known.candidate.recipe != recipe) {
                let (candidate, what) = (Candidate { recipe }, what.clone());
                candidates.push(DescribedCandidate { candidate, what, weights: Vec::new() });
            }
        }
        self.log.begin("validating", candidates.len() as u64);
        let batch = self.log.score("validation", &candidates, Purpose::Validation);
        if let Some(stop) = batch.stop {
            return Err(self.stopped(stop));
        }
        let held: HashMap<&str, &Scores> = candidates
            .iter()
            .zip(&batch.outcomes)
            .filter_map(|(described, outcome)| Some((described.candidate.recipe.as_str(), outcome.as_ref().ok()?)))
            .collect();
        for row in rows {
            row.validation = held.get(row.recipe.as_str()).map(|scores| (*scores).clone());
            self.relate(row);
        }
        for trial in &mut self.trials {
            trial.validation = held.get(trial.recipe.as_str()).map(|scores| scores.average);
        }
        Ok(())
    }

    /// Scores on all search items whatever of these recipes has an estimate at most, and tells their rows.
    fn complete(
        &mut self,
        what: &str,
        recipes: &[String],
        finalists: &mut [Finalist],
        ran: &mut [StrategyRun],
    ) -> Result<(), SelectError> {
        let is_whole = |log: &EvaluationLog<'_>, recipe: &str| {
            let cached = log.cached(&Candidate { recipe: recipe.into() }, ItemRole::Search);
            cached.is_some_and(|scores| scores.stderr.is_none())
        };
        let mut described: Vec<DescribedCandidate> = Vec::new();
        for recipe in recipes.iter().filter(|recipe| !is_whole(&self.log, recipe)) {
            if described.iter().all(|known| known.candidate.recipe != *recipe) {
                let candidate = Candidate { recipe: recipe.clone() };
                described.push(DescribedCandidate { candidate, what: what.into(), weights: Vec::new() });
            }
        }
        if described.is_empty() {
            return Ok(());
        }
        self.log.begin(&format!("scoring {what} on all items"), described.len() as u64);
        if let Some(stop) = self.log.score(what, &described, Purpose::Whole).stop {
            return Err(self.stopped(stop));
        }
        let rows =
            finalists.iter_mut().map(|finalist| &mut finalist.row).chain(ran.iter_mut().map(|ran| &mut ran.row.row));
        for row in rows.filter(|row| described.iter().any(|one| one.candidate.recipe == row.recipe)) {
            let candidate = Candidate { recipe: row.recipe.clone() };
            row.search = self.log.cached(&candidate, ItemRole::Search).cloned().or(row.search.take());
            self.relate(row);
        }
        Ok(())
    }

    /// Relates the scores of a row on search items to those on validation items.
    fn relate(&self, row: &mut Row) {
        let search = row.search.as_ref().filter(|scores| !scores.dropped);
        if let (Some(search), Some(held)) = (search, &row.validation) {
            row.gap = Some(search.average - held.average);
            let of_one_split = matches!(self.prepared.config.validation(), Validation::Fraction(_));
            row.proxy = if of_one_split { pooled(search, held) } else { None };
        }
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
        let mut seen = HashSet::new();
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

/// A strategy that has ended.
struct StrategyRun {
    row: StrategyRow,
    /// Its finalists, as indices.
    finalists: Vec<usize>,
    /// Recipes that it accepted on the way.
    accepted: Vec<String>,
}

impl StrategyRun {
    /// Makes a finalist the result.
    fn take(&mut self, finalist: Option<&Row>) {
        if let Some(finalist) = finalist {
            let name = std::mem::take(&mut self.row.row.name);
            self.row.row = Row { name, ..finalist.clone() };
        }
    }
}

/// A row without validation.
fn row(name: &str, what: &str, recipe: &str, search: Option<Scores>) -> Row {
    let (name, what, recipe) = (name.into(), what.into(), recipe.into());
    Row { name, what, recipe, search, validation: None, proxy: None, gap: None }
}
