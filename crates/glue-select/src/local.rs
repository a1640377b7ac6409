//! Candidates merged in memory and scored in this process.
//!
//! The inputs stay open and mapped. Items are rendered once, and prompts are encoded once for all candidates with the
//! same tokenizer. The plan and the engine of `glue merge` merge the tensors of a candidate into memory, with the
//! configuration and the tokenizer that it would write. A score is therefore that of the written checkpoint to the last
//! bit.
//!
//! Operands are widened from their memory maps for every candidate. Of the time of a candidate, merging five models
//! takes 2 % (task arithmetic) to 8 % (TIES) on the test zoo and 8 to 17 % on 51 million parameters, each with 500
//! short items. Keeping operands or task vectors as `f32` would take four bytes for each element of each model, and
//! read more memory than the stored types do.

mod gradient;
mod memory;
mod options;
mod prepared_items;

pub use options::{ItemsConfig, LocalOptions, ScorerError};

use crate::contract::{Candidate, CandidateError, ItemRole, LossGradient, Rival, Scorer, Scores, Stopped, TaskScore};
use crate::evaluation_log::Outcome;
use crate::parallel::{self, Failure};
use crate::race::{Prediction, Racing, predict};
use crate::record::Records;
use glue_eval::scale::{PerplexityUnit, task_weights};
use glue_eval::{ChatFormat, EvalError, ItemScore, LanguageModel, LocalModel, Task};
use glue_lm::{TextModel, Tokenizer};
use glue_recipe::engine::EngineError;
use glue_recipe::run::{RunOptions, side_files};
use glue_recipe::{MergePlan, PlannedAdapter, PlannedStatistics, Recipe, plan};
pub use memory::{InMemoryError, merged_model, partly_merged_model};
use memory::{bytes_of, parallel_of};
use parking_lot::{Condvar, Mutex};
use prepared_items::{PreparedItems, Rounds};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Share of the available memory that candidates take by default.
const SHARE: f64 = 0.6;

/// Counters of the work so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// Candidates that were merged.
    pub merged: u64,
    /// Candidates that were answered from records.
    pub known: u64,
    /// Candidates that were dropped before all items were scored.
    pub dropped: u64,
    /// Items that were scored.
    pub items_asked: u64,
    /// Items that were not scored because their candidate was dropped.
    pub items_saved: u64,
    /// Seconds spent planning and merging, summed over candidates that ran in parallel.
    pub merge_seconds: f64,
    /// Seconds spent scoring, likewise.
    pub eval_seconds: f64,
}

#[derive(Debug, Default)]
struct Counters {
    merged: AtomicU64,
    known: AtomicU64,
    dropped: AtomicU64,
    items_asked: AtomicU64,
    items_saved: AtomicU64,
    merge_nanos: AtomicU64,
    eval_nanos: AtomicU64,
}

/// What determines a tokenizer: the models that it and its defaults come from, and the chat template set by the recipe.
type TokenizerKey = (PathBuf, PathBuf, Option<String>);

/// A tokenizer for each candidate that is being scored.
#[derive(Debug)]
struct Tokenizers {
    master: Tokenizer,
    idle: Mutex<Vec<Tokenizer>>,
    encoded: glue_eval::Encodings,
}

/// Merges candidates in memory and scores them.
#[derive(Debug)]
pub struct LocalScorer {
    options: LocalOptions,
    tasks: Arc<[Task]>,
    /// Their weights in averages, which sum to 1; empty if all are the same.
    weights: Vec<f64>,
    /// By tokenizer if prompts depend on its chat template; otherwise one for all.
    search: Mutex<HashMap<Option<TokenizerKey>, Arc<PreparedItems>>>,
    validation: Mutex<HashMap<Option<TokenizerKey>, Arc<PreparedItems>>>,
    tokenizers: Mutex<HashMap<TokenizerKey, Arc<Tokenizers>>>,
    /// Content hashes of models, by path.
    hashes: Mutex<HashMap<PathBuf, String>>,
    records: Records,
    counters: Counters,
    /// What merges and scores. A pool of its own: the threads of another one may wait for it.
    pool: ThreadPool,
    /// Maximum bytes of candidates in memory.
    limit: Option<u64>,
    /// How many candidates were last scored in parallel.
    parallel: AtomicUsize,
    used: Mutex<u64>,
    freed: Condvar,
}

impl LocalScorer {
    /// Scores on `tasks`, whose items are read now, unless prompts depend on a chat template that is not known yet.
    ///
    /// # Errors
    /// [`ScorerError`]: invalid tasks or options.
    pub fn new(tasks: impl Into<Arc<[Task]>>, mut options: LocalOptions) -> Result<LocalScorer, ScorerError> {
        let tasks = tasks.into();
        let mut weights = task_weights(&tasks, &options.weights, options.perplexity)?;
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        if weights.iter().all(|weight| *weight == weights[0]) {
            weights.clear();
        }
        if let Some(other) = tasks.iter().find(|task| !is_share(task)) {
            if !weights.is_empty() || options.perplexity != PerplexityUnit::Reported {
                // Bounds are those of the plain average of what tasks report.
                options.racing = Racing::Off;
            }
            if options.item_fraction < 1.0 {
                let expected = "1 where a task is not scored by a mean over items of values from 0 to 1";
                let found = format!("{} with the task `{}`", options.item_fraction, other.name());
                return Err(ScorerError::Key { key: "item_fraction", expected, found });
            }
        }
        if !(options.item_fraction > 0.0 && options.item_fraction <= 1.0) {
            let (expected, found) = ("a number above 0 and up to 1", options.item_fraction.to_string());
            return Err(ScorerError::Key { key: "item_fraction", expected, found });
        }
        if let Racing::Confident(confidence) = options.racing
            && !(confidence > 0.0 && confidence < 1.0)
        {
            let expected = "a confidence above 0 and below 1";
            return Err(ScorerError::Key { key: "racing", expected, found: confidence.to_string() });
        }
        let fraction = options.items.validation_fraction;
        if !(0.0..1.0).contains(&fraction) {
            let expected = "a number of at least 0 and below 1";
            return Err(ScorerError::Key { key: "validation_fraction", expected, found: fraction.to_string() });
        }
        if fraction > 0.0 && options.items.validation_split.is_some() {
            let (expected, found) = ("either a fraction or a split", "both".into());
            return Err(ScorerError::Key { key: "validation_fraction", expected, found });
        }
        let records =
            Records::open(options.cache.clone()).map_err(|(path, error)| ScorerError::Cache { path, error })?;
        let threads = options.threads.unwrap_or_else(rayon::current_num_threads).max(1);
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("score-{i}")).build();
        let pool = pool.map_err(|error| ScorerError::Threads { message: error.to_string() })?;
        let scorer = LocalScorer {
            pool,
            limit: options.memory.or_else(|| glue_lm::memory::available().map(|bytes| (bytes as f64 * SHARE) as u64)),
            parallel: AtomicUsize::new(options.parallel.unwrap_or(threads).max(1)),
            tasks,
            weights,
            search: Mutex::default(),
            validation: Mutex::default(),
            tokenizers: Mutex::default(),
            hashes: Mutex::default(),
            records,
            counters: Counters::default(),
            used: Mutex::default(),
            freed: Condvar::new(),
            options,
        };
        if !scorer.options.eval.apply_chat_template {
            scorer.prepared_items(ItemRole::Search, None, None)?;
            if scorer.has_validation() {
                scorer.prepared_items(ItemRole::Validation, None, None)?;
            }
        }
        Ok(scorer)
    }

    /// Whether there are validation items.
    pub fn has_validation(&self) -> bool {
        self.options.items.validation_fraction > 0.0 || self.options.items.validation_split.is_some()
    }

    /// The tasks.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Counters of the work so far.
    pub fn statistics(&self) -> Statistics {
        let c = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            merged: get(&c.merged),
            known: get(&c.known),
            dropped: get(&c.dropped),
            items_asked: get(&c.items_asked),
            items_saved: get(&c.items_saved),
            merge_seconds: get(&c.merge_nanos) as f64 * 1e-9,
            eval_seconds: get(&c.eval_nanos) as f64 * 1e-9,
        }
    }

    /// The items of a role, rendered with the chat template of `model` if prompts depend on it.
    fn prepared_items(
        &self,
        role: ItemRole,
        key: Option<&TokenizerKey>,
        model: Option<&dyn LanguageModel>,
    ) -> Result<Arc<PreparedItems>, EvalError> {
        let key = key.filter(|_| self.options.eval.apply_chat_template).cloned();
        let kept = match role {
            ItemRole::Search => &self.search,
            ItemRole::Validation => &self.validation,
        };
        // Locked while items are rendered, so that this is done once.
        let mut kept = kept.lock();
        if let Some(items) = kept.get(&key) {
            return Ok(Arc::clone(items));
        }
        let items = Arc::new(PreparedItems::new(role, &self.tasks, &self.options, model)?);
        kept.insert(key, Arc::clone(&items));
        Ok(items)
    }

    fn check_cancelled(&self) -> Result<(), Failure> {
        if self.options.cancel.is_cancelled() { Err(Failure::Stopped) } else { Ok(()) }
    }

    /// The plan of a candidate.
    fn plan(&self, candidate: &Candidate) -> Result<MergePlan, Failure> {
        let recipes = Recipe::parse(&candidate.recipe, "candidate", &self.options.registry);
        let mut recipes = recipes.map_err(|error| Failure::of(&error))?;
        let (Some(recipe), true) = (recipes.pop(), recipes.is_empty()) else {
            return Err(Failure::Candidate("expected one document with a recipe, found none or several".into()));
        };
        plan(&recipe, &self.options.plan).map_err(|error| Failure::of(&error))
    }

    /// The key of a record: recipe, items and, on disk, the contents of the models.
    fn key(
        &self,
        candidate: &Candidate,
        role: ItemRole,
        rounds: &Rounds,
        plan: Option<&MergePlan>,
    ) -> Result<String, Failure> {
        let mut key =
            format!("{role:?}\n{}\n{:?} {:?}\n", rounds.hash, self.options.plan.seed, self.options.plan.dtype);
        if self.options.executor.is_device() {
            key += "merged on a device\n";
        }
        for model in plan.iter().flat_map(|plan| &plan.models) {
            let of_model = || LocalModel::hash_files(&model.dir).map_err(|error| Failure::of(&error));
            key = format!("{key}{}\n", self.hash(model.dir.path(), of_model)?);
            if let Some(PlannedAdapter { dir, .. }) = &model.adapter {
                key = format!("{key}+ {}\n", self.hash(dir.path(), || Ok(dir.content_hash().to_string()))?);
            }
            if let Some(PlannedStatistics { checkpoint, .. }) = &model.statistics {
                let hash = self.hash(checkpoint.path(), || Ok(checkpoint.content_hash().to_string()))?;
                key = format!("{key}statistics {hash}\n");
            }
        }
        Ok(key + &candidate.recipe)
    }

    /// The hash of what is at a path, computed once.
    fn hash(&self, path: &Path, of: impl Fn() -> Result<String, Failure>) -> Result<String, Failure> {
        if let Some(known) = self.hashes.lock().get(path) {
            return Ok(known.clone());
        }
        let hash = of()?;
        self.hashes.lock().insert(path.to_path_buf(), hash.clone());
        Ok(hash)
    }

    fn tokenizers(&self, plan: &MergePlan) -> Result<(TokenizerKey, Arc<Tokenizers>), Failure> {
        let path = |model: usize| plan.models[model].dir.path().to_path_buf();
        let key = (path(plan.tokenizer_from), path(plan.config_from), plan.chat_template.clone());
        let mut known = self.tokenizers.lock();
        if let Some(tokenizers) = known.get(&key) {
            return Ok((key, Arc::clone(tokenizers)));
        }
        // A tokenizer depends on several files, which are together only in the output.
        let directory = tempfile::tempdir().map_err(|error| Failure::of(&error))?;
        for (name, bytes) in side_files(plan).map_err(|error| Failure::of(&error))? {
            std::fs::write(directory.path().join(name), bytes).map_err(|error| Failure::of(&error))?;
        }
        let master = Tokenizer::load(directory.path()).map_err(|error| Failure::of(&error))?;
        let tokenizers = Tokenizers { master, idle: Mutex::default(), encoded: glue_eval::Encodings::default() };
        let tokenizers = Arc::new(tokenizers);
        known.insert(key.clone(), Arc::clone(&tokenizers));
        Ok((key, tokenizers))
    }

    /// Waits until so many bytes are free within the limit, and reserves them until the result is dropped.
    fn reserve(&self, bytes: u64) -> Result<Reserved<'_>, Failure> {
        let Some(limit) = self.limit else {
            return Ok(Reserved { scorer: self, bytes: 0 });
        };
        if bytes > limit && self.options.memory.is_some() {
            return Err(Failure::Candidate(format!(
                "a candidate takes about {bytes} bytes of memory, and the limit is {limit}"
            )));
        }
        let mut used = self.used.lock();
        // Within a limit that nobody set, one candidate is always scored.
        while *used > 0 && *used + bytes > limit {
            self.freed.wait(&mut used);
        }
        *used += bytes;
        Ok(Reserved { scorer: self, bytes })
    }

    /// How many of these candidates, of the same size, are scored in parallel.
    fn parallel_for(&self, candidates: &[&Candidate]) -> usize {
        if self.options.parallel.is_none()
            && let Some(Ok(plan)) = candidates.first().map(|candidate| self.plan(candidate))
        {
            let parallel = parallel_of(&plan, self.pool.current_num_threads(), self.limit);
            self.parallel.store(parallel, Ordering::Relaxed);
        }
        self.parallelism()
    }

    /// Merges a candidate.
    fn merge(
        &self,
        plan: &MergePlan,
        tokenizer: Tokenizer,
        encoded: &glue_eval::Encodings,
    ) -> Result<LocalModel, Failure> {
        let begun = Instant::now();
        let options = RunOptions { executor: self.options.executor.get(), ..RunOptions::default() };
        // Only what computes runs in the pool. A thread of it that waited for a lock or for memory while it has taken
        // over the work of another candidate could wait for itself.
        let merged = self.pool.install(|| merged_model(plan, &options, &self.options.cancel));
        let model = merged.map_err(|error| match error {
            InMemoryError::Merge(EngineError::Stopped) => Failure::Stopped,
            error => Failure::of(&error),
        })?;
        let text = TextModel::new(model, tokenizer).map_err(|error| Failure::of(&error))?;
        let local = LocalModel::new(text, "candidate").map_err(|error| Failure::of(&error))?;
        add_time(&self.counters.merge_nanos, begun);
        self.counters.merged.fetch_add(1, Ordering::Relaxed);
        Ok(local.with_cancel(self.options.cancel.clone()).with_encodings(encoded.clone()))
    }

    fn score_one(&self, candidate: &Candidate, role: ItemRole, rival: Option<Rival<'_>>) -> Result<Scores, Failure> {
        self.check_cancelled()?;
        if role == ItemRole::Validation && !self.has_validation() {
            return Err(Failure::Candidate("no items are held out for validation".into()));
        }
        let chat = self.options.eval.apply_chat_template;
        let on_disk = self.records.is_on_disk();
        // A plan is needed only where the recipe alone does not determine the record.
        let mut planned = if chat || on_disk { Some(self.plan(candidate)?) } else { None };
        let items = if chat {
            let plan = planned.as_ref().expect("it was planned above");
            let (key, tokenizers) = self.tokenizers(plan)?;
            let chat = ChatFormat(&tokenizers.master);
            self.prepared_items(role, Some(&key), Some(&chat)).map_err(|error| Failure::of(&error))?
        } else {
            self.prepared_items(role, None, None).map_err(|error| Failure::of(&error))?
        };
        let rival = rival.filter(|_| self.options.racing != Racing::Off || self.options.item_fraction < 1.0);
        let rounds = items.rounds(rival.map(|rival| rival.strata));
        let key = self.key(candidate, role, &rounds, planned.as_ref().filter(|_| on_disk))?;
        let mut record = self.records.get(&key);
        let before = record.rounds.len();
        let mut merged: Option<(LocalModel, Arc<Tokenizers>, Reserved<'_>)> = None;
        let mut known: Vec<Vec<Option<ItemScore>>> = items.items.iter().map(|items| vec![None; items.len()]).collect();
        let (mut dropped, mut estimate) = (None, None);
        for (r, round) in rounds.items.iter().enumerate() {
            if record.rounds.len() <= r {
                let (model, ..) = match &merged {
                    Some(merged) => merged,
                    None => {
                        let plan = match planned.take() {
                            Some(plan) => plan,
                            None => self.plan(candidate)?,
                        };
                        let reserved = self.reserve(bytes_of(&plan, self.pool.current_num_threads()))?;
                        let (_, tokenizers) = self.tokenizers(&plan)?;
                        let idle = tokenizers.idle.lock().pop();
                        let tokenizer = idle.unwrap_or_else(|| tokenizers.master.clone());
                        let model = self.merge(&plan, tokenizer, &tokenizers.encoded)?;
                        merged.insert((model, tokenizers, reserved))
                    }
                };
                record.rounds.push(self.ask(model, &items, round)?);
            }
            for (t, scored) in record.rounds[r].iter().enumerate() {
                for item in scored {
                    if let Ok(at) = items.items[t].binary_search(&item.index) {
                        known[t][at] = Some(*item);
                    }
                }
            }
            let last = r + 1 == rounds.items.len();
            let open = rival.filter(|_| !last && self.options.racing != Racing::Off);
            dropped = open.map(|rival| self.estimate_if_out(&items, &known, rival)).transpose()?.flatten();
            if dropped.is_some() {
                break;
            }
            estimate = rival.filter(|_| last && self.options.item_fraction < 1.0);
        }
        if let Some((model, tokenizers, _)) = merged {
            // The next candidate reuses the tokenizer.
            if let Ok(text) = Arc::try_unwrap(model.into_text_model()) {
                tokenizers.idle.lock().push(text.tokenizer);
            }
        }
        if record.rounds.len() > before {
            self.records.put(&key, &record);
        } else {
            self.counters.known.fetch_add(1, Ordering::Relaxed);
        }
        let skipped: usize = known.iter().flatten().filter(|item| item.is_none()).count();
        self.counters.items_saved.fetch_add(skipped as u64, Ordering::Relaxed);
        self.counters.dropped.fetch_add(u64::from(dropped.is_some()), Ordering::Relaxed);
        let mut scores = self.scores(&items, &known, dropped)?;
        if let Some(prediction) = estimate.and_then(|rival| self.predict(&known, rival)) {
            (scores.average, scores.stderr) = (prediction.average, Some(prediction.stderr));
            for (task, value) in scores.tasks.iter_mut().zip(prediction.tasks) {
                task.value = value;
                task.items.clear();
            }
        }
        Ok(scores)
    }

    /// The scores of a candidate, predicted from those of some items; `None` where the rival's items are not known.
    fn predict(&self, known: &ItemScores, rival: Rival<'_>) -> Option<Prediction> {
        let values = |items: &Vec<Option<ItemScore>>| items.iter().map(|item| item.map(|item| item.sum)).collect();
        let values: Vec<Vec<Option<f64>>> = known.iter().map(values).collect();
        predict(&values, rival.incumbent, rival.strata, &self.weights)
    }

    /// Scores the items of a round.
    fn ask(
        &self,
        model: &LocalModel,
        items: &PreparedItems,
        round: &[Vec<usize>],
    ) -> Result<Vec<Vec<ItemScore>>, Failure> {
        let begun = Instant::now();
        let evaluate = || items.prepared.evaluate(model, Some(round), &self.options.cancel);
        let report = self.pool.install(evaluate).map_err(|error| match error {
            EvalError::Stopped => Failure::Stopped,
            error => Failure::of(&error),
        })?;
        add_time(&self.counters.eval_nanos, begun);
        let count: usize = round.iter().map(Vec::len).sum();
        self.counters.items_asked.fetch_add(count as u64, Ordering::Relaxed);
        Ok(report.tasks.into_iter().map(|task| task.items).collect())
    }

    /// The estimated average of a candidate that is to be dropped: it does not exceed the cutoff. `None` for one that
    /// may still win.
    fn estimate_if_out(
        &self,
        items: &PreparedItems,
        known: &ItemScores,
        rival: Rival<'_>,
    ) -> Result<Option<f64>, Failure> {
        let prediction = if self.tasks.iter().all(is_share) { self.predict(known, rival) } else { None };
        let is_below = match (self.options.racing, &prediction) {
            (Racing::Confident(confidence), Some(prediction)) => prediction.is_below(rival.cutoff, confidence),
            _ => false,
        };
        if !is_below && self.at_best(known) > rival.cutoff {
            return Ok(None);
        }
        let estimate = match prediction {
            Some(prediction) => prediction.average,
            // On another scale, the average over the items scored is all there is.
            None => self.scores(items, known, None)?.average,
        };
        Ok(Some(estimate.min(rival.cutoff)))
    }

    /// The scores on the items that are known. A candidate that was dropped has the average `dropped`.
    fn scores(&self, prepared: &PreparedItems, known: &ItemScores, dropped: Option<f64>) -> Result<Scores, Failure> {
        let mut tasks = Vec::with_capacity(known.len());
        for (t, (task, items)) in self.tasks.iter().zip(known).enumerate() {
            let items: Vec<ItemScore> = items.iter().flatten().copied().collect();
            let score = prepared.prepared.comparable(t, &items, self.options.perplexity);
            let value = score.as_ref().map_or(f64::NAN, |score| score.value);
            if !value.is_finite() {
                let message = format!("the score of the task `{}` is {value}, expected a finite number", task.name());
                return Err(Failure::Candidate(message));
            }
            let metric = task.main_metric().to_string();
            let n = items.len();
            let items = score.filter(|_| dropped.is_none()).map(|score| score.items).unwrap_or_default();
            tasks.push(TaskScore { task: task.name().into(), metric, value, n, items });
        }
        let average = dropped.unwrap_or_else(|| self.average(tasks.iter().map(|task| task.value)));
        Ok(Scores { tasks, average, stderr: None, dropped: dropped.is_some() })
    }

    /// The average of the values of tasks, summed in order.
    fn average(&self, values: impl ExactSizeIterator<Item = f64>) -> f64 {
        match &self.weights[..] {
            [] => mean(values),
            weights => values.zip(weights).map(|(value, weight)| weight * value).sum(),
        }
    }

    /// The best possible average, negated where less is better.
    fn at_best(&self, known: &ItemScores) -> f64 {
        let task = |(task, known): (&Task, &Vec<Option<ItemScore>>)| {
            let best = task.main_at_best(known).unwrap_or(f64::NAN);
            if task.main_is_higher_better() { best } else { -best }
        };
        self.average(self.tasks.iter().zip(known).map(task))
    }
}

impl Scorer for LocalScorer {
    fn score(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        rival: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        // The same recipe is scored once.
        let mut indices: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut distinct: Vec<&Candidate> = Vec::new();
        for (i, candidate) in candidates.iter().enumerate() {
            let same = indices.entry(&candidate.recipe).or_default();
            if same.is_empty() {
                distinct.push(candidate);
            }
            same.push(i);
        }
        let score =
            |(): &mut (), at: usize| Failure::outcome(self.score_one(distinct[at], role, rival), &self.options.cancel);
        let tell = |at: usize, outcome: &Outcome| {
            indices[distinct[at].recipe.as_str()].iter().for_each(|&i| done(i, outcome));
        };
        let outcomes = parallel::score_all(distinct.len(), self.parallel_for(&distinct), || (), score, |()| (), tell)?;
        let by_recipe: HashMap<&str, &Outcome> =
            distinct.iter().zip(&outcomes).map(|(candidate, outcome)| (candidate.recipe.as_str(), outcome)).collect();
        Ok(candidates.iter().map(|candidate| by_recipe[candidate.recipe.as_str()].clone()).collect())
    }

    fn loss_gradient(
        &self,
        candidate: &Candidate,
        items: &[(usize, usize)],
    ) -> Result<Result<LossGradient, CandidateError>, Stopped> {
        match self.gradient_at(candidate, items) {
            Ok(gradient) => Ok(Ok(gradient)),
            Err(_) if self.options.cancel.is_cancelled() => Err(Stopped),
            Err(Failure::Stopped) => Err(Stopped),
            Err(Failure::Candidate(message)) => Ok(Err(CandidateError { message })),
        }
    }

    fn parallelism(&self) -> usize {
        self.parallel.load(Ordering::Relaxed)
    }
}

/// For each task, the scores of its items in the order of their numbers; `None` for items that were not scored.
type ItemScores = [Vec<Option<ItemScore>>];

/// Whether a task is scored by a mean over items of values from 0 to 1, more being better.
fn is_share(task: &Task) -> bool {
    task.main_is_share() && task.main_is_higher_better()
}

/// The mean, summed in order.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// Bytes of memory that are reserved until this is dropped.
struct Reserved<'a> {
    scorer: &'a LocalScorer,
    bytes: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        *self.scorer.used.lock() -= self.bytes;
        self.scorer.freed.notify_all();
    }
}

fn add_time(counter: &AtomicU64, begun: Instant) {
    counter.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
}
