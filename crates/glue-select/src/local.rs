//! Candidates merged in memory and scored in this process.
//!
//! The inputs stay open and mapped, the items of the tasks are rendered once, and so are the tokenizer and the encodings of
//! prompts for all candidates that share them. A candidate's tensors are merged into memory by the same plan and the same
//! engine that `glue merge` writes files with, and its configuration and tokenizer are those that it would write, so that
//! a score is that of the written checkpoint to the last bit.
//!
//! Operands are widened from where they are mapped for every candidate. Of the time of a candidate, merging five models takes
//! 2 % (task arithmetic) to 8 % (TIES) on the test zoo and 8 to 17 % on 51 million parameters, each with 500 short items.
//! Keeping operands or their differences from the base as `f32` would take four bytes for each element of each model, and have
//! more memory read than the stored types do.

mod asked;
mod memory;
mod options;

pub use options::{ItemsConfig, LocalOptions, ScorerError};

use crate::contract::{Candidate, CandidateError, Part, Scorer, Scores, Stopped, TaskScore};
use crate::race::{Rule, at_best, mean, upper_bound};
use crate::record::{Record, Records};
use asked::Asked;
use glue_eval::{ChatFormat, EvalError, ItemScore, LanguageModel, LocalModel, Task};
use glue_lm::{Model, TextModel, Tokenizer};
use glue_progress::ErrorChain;
use glue_recipe::run::{RunOptions, merge_into, side_files};
use glue_recipe::{MergePlan, PlannedAdapter, PlannedStatistics, Recipe, plan};
use memory::{InMemory, bytes_of};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// What was done so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// Candidates that were merged.
    pub merged: u64,
    /// Candidates that were answered from what was known.
    pub known: u64,
    /// Candidates that were dropped before all items were asked.
    pub dropped: u64,
    /// Items that were asked.
    pub items_asked: u64,
    /// Items that were not asked because their candidate was dropped.
    pub items_saved: u64,
    /// Seconds spent planning and merging, added up over candidates that ran side by side.
    pub merge_seconds: f64,
    /// Seconds spent asking, likewise.
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

/// What a tokenizer follows from: where it and its defaults come from, and the chat template put into it.
type TokenizerKey = (PathBuf, PathBuf, Option<String>);

/// A tokenizer for each candidate that is scored at the moment.
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
    /// By tokenizer where prompts depend on its chat template; else one for all.
    search: Mutex<HashMap<Option<TokenizerKey>, Arc<Asked>>>,
    validation: Mutex<HashMap<Option<TokenizerKey>, Arc<Asked>>>,
    tokenizers: Mutex<HashMap<TokenizerKey, Arc<Tokenizers>>>,
    /// Content hashes of models, by path.
    hashes: Mutex<HashMap<PathBuf, String>>,
    records: Records,
    counters: Counters,
    used: Mutex<u64>,
    freed: Condvar,
}

/// Why one candidate has no score.
enum Failure {
    Stopped,
    Candidate(String),
}

impl Failure {
    fn of(error: &dyn Error) -> Failure {
        Failure::Candidate(error.chain())
    }
}

impl LocalScorer {
    /// Scores by `tasks`, whose items are read now, unless prompts depend on a chat template that is not known yet.
    ///
    /// # Errors
    /// [`ScorerError`]: tasks or options that are not sound.
    pub fn new(tasks: impl Into<Arc<[Task]>>, options: LocalOptions) -> Result<LocalScorer, ScorerError> {
        options.race.check()?;
        let fraction = options.items.validation_fraction;
        if !(0.0..1.0).contains(&fraction) {
            let expected = "a number of at least 0 and below 1";
            return Err(ScorerError::Key { key: "validation_fraction", expected, found: fraction.to_string() });
        }
        if fraction > 0.0 && options.items.validation_split.is_some() {
            let (expected, found) = ("either a share or a split of its own", "both".into());
            return Err(ScorerError::Key { key: "validation_fraction", expected, found });
        }
        let records =
            Records::open(options.cache.clone()).map_err(|(path, error)| ScorerError::Cache { path, error })?;
        let scorer = LocalScorer {
            tasks: tasks.into(),
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
            scorer.asked(Part::Search, None, None)?;
            if scorer.has_validation() {
                scorer.asked(Part::Validation, None, None)?;
            }
        }
        Ok(scorer)
    }

    /// Whether items are held out, so that there is a validation part.
    pub fn has_validation(&self) -> bool {
        self.options.items.validation_fraction > 0.0 || self.options.items.validation_split.is_some()
    }

    /// The tasks.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// What was done so far.
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

    /// The items of a part, prepared for the chat template of `model` where that matters.
    fn asked(
        &self,
        part: Part,
        key: Option<&TokenizerKey>,
        model: Option<&dyn LanguageModel>,
    ) -> Result<Arc<Asked>, EvalError> {
        let key = key.filter(|_| self.options.eval.apply_chat_template).cloned();
        let kept = match part {
            Part::Search => &self.search,
            Part::Validation => &self.validation,
        };
        // Held while items are rendered, so that it is done once.
        let mut kept = kept.lock();
        if let Some(asked) = kept.get(&key) {
            return Ok(Arc::clone(asked));
        }
        let asked = Arc::new(Asked::new(part, &self.tasks, &self.options, model)?);
        kept.insert(key, Arc::clone(&asked));
        Ok(asked)
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.options.cancel.is_cancelled() { Err(Failure::Stopped) } else { Ok(()) }
    }

    /// The plan of a candidate.
    fn plan(&self, candidate: &Candidate) -> Result<MergePlan, Failure> {
        let recipes = Recipe::parse(&candidate.recipe, "candidate", &self.options.registry);
        let mut recipes = recipes.map_err(|error| Failure::of(&error))?;
        let (Some(recipe), true) = (recipes.pop(), recipes.is_empty()) else {
            return Err(Failure::Candidate("expected one document with a recipe, found another number".into()));
        };
        plan(&recipe, &self.options.plan).map_err(|error| Failure::of(&error))
    }

    /// By which the record of a candidate is found: its recipe, the items, and on disk what the models hold.
    fn key(
        &self,
        candidate: &Candidate,
        part: Part,
        asked: &Asked,
        plan: Option<&MergePlan>,
    ) -> Result<String, Failure> {
        let mut key = format!("{part:?}\n{}\n{:?} {:?}\n", asked.hash, self.options.plan.seed, self.options.plan.dtype);
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

    /// What is at a path, hashed when it is first asked for.
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
        // A tokenizer is a function of several files, which stand together only in what would be written.
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

    /// Waits until so many bytes are free within the limit; they are given back when the result is dropped.
    fn reserve(&self, bytes: u64) -> Result<Reserved<'_>, Failure> {
        let Some(limit) = self.options.memory else {
            return Ok(Reserved { scorer: self, bytes: 0 });
        };
        if bytes > limit {
            return Err(Failure::Candidate(format!(
                "a candidate takes about {bytes} bytes of memory, and the limit is {limit}"
            )));
        }
        let mut used = self.used.lock();
        while *used + bytes > limit {
            self.freed.wait(&mut used);
        }
        *used += bytes;
        Ok(Reserved { scorer: self, bytes })
    }

    /// Merges a candidate.
    fn merge(
        &self,
        plan: &MergePlan,
        tokenizer: Tokenizer,
        encoded: &glue_eval::Encodings,
    ) -> Result<LocalModel, Failure> {
        let begun = Instant::now();
        let memory = InMemory::new(plan);
        let options = RunOptions { executor: self.options.executor.get(), ..RunOptions::default() };
        merge_into(plan, &memory, &options, &self.options.cancel).map_err(|error| Failure::of(&error))?;
        self.go_on()?;
        let model = Model::new(&plan.config, memory.weights(plan).map_err(|error| Failure::of(&error))?)
            .map_err(|error| Failure::of(&error))?;
        let text = TextModel::new(model, tokenizer).map_err(|error| Failure::of(&error))?;
        let local = LocalModel::new(text, "candidate").map_err(|error| Failure::of(&error))?;
        add_time(&self.counters.merge_nanos, begun);
        self.counters.merged.fetch_add(1, Ordering::Relaxed);
        Ok(local.with_cancel(self.options.cancel.clone()).with_encodings(encoded.clone()))
    }

    fn score_one(&self, candidate: &Candidate, part: Part, against: Against<'_>) -> Result<Scores, Failure> {
        self.go_on()?;
        if part == Part::Validation && !self.has_validation() {
            return Err(Failure::Candidate("no items are held out for validation".into()));
        }
        let chat = self.options.eval.apply_chat_template;
        let on_disk = self.records.is_on_disk();
        // What a recipe alone tells is not planned again.
        let mut planned = if chat || on_disk { Some(self.plan(candidate)?) } else { None };
        let asked = if chat {
            let plan = planned.as_ref().expect("it was planned above");
            let (key, tokenizers) = self.tokenizers(plan)?;
            let chat = ChatFormat(&tokenizers.master);
            self.asked(part, Some(&key), Some(&chat)).map_err(|error| Failure::of(&error))?
        } else {
            self.asked(part, None, None).map_err(|error| Failure::of(&error))?
        };
        let key = self.key(candidate, part, &asked, planned.as_ref().filter(|_| on_disk))?;
        let mut record = self.records.get(&key);
        let before = record.rounds.len();
        let mut merged: Option<(LocalModel, Arc<Tokenizers>, Reserved<'_>)> = None;
        let mut known: Vec<Vec<Option<ItemScore>>> = asked.items.iter().map(|items| vec![None; items.len()]).collect();
        let mut dropped = false;
        for (r, round) in asked.rounds.iter().enumerate() {
            if record.rounds.len() <= r {
                let (model, ..) = match &merged {
                    Some(merged) => merged,
                    None => {
                        let plan = match planned.take() {
                            Some(plan) => plan,
                            None => self.plan(candidate)?,
                        };
                        let reserved = self.reserve(bytes_of(&plan))?;
                        let (_, tokenizers) = self.tokenizers(&plan)?;
                        let idle = tokenizers.idle.lock().pop();
                        let tokenizer = idle.unwrap_or_else(|| tokenizers.master.clone());
                        let model = self.merge(&plan, tokenizer, &tokenizers.encoded)?;
                        merged.insert((model, tokenizers, reserved))
                    }
                };
                record.rounds.push(self.ask(model, &asked, round)?);
            }
            for (t, items) in record.rounds[r].iter().enumerate() {
                for item in items {
                    if let Ok(at) = asked.items[t].binary_search(&item.index) {
                        known[t][at] = Some(*item);
                    }
                }
            }
            if r + 1 < asked.rounds.len() && self.is_out(&known, &against, asked.rounds.len() - 1) {
                dropped = true;
                break;
            }
        }
        if let Some((model, tokenizers, _)) = merged {
            // The tokenizer serves the next candidate.
            if let Ok(text) = Arc::try_unwrap(model.into_text_model()) {
                tokenizers.idle.lock().push(text.tokenizer);
            }
        }
        if record.rounds.len() > before {
            self.records.put(&key, &record);
        } else {
            self.counters.known.fetch_add(1, Ordering::Relaxed);
        }
        let left: usize = known.iter().flatten().filter(|item| item.is_none()).count();
        self.counters.items_saved.fetch_add(left as u64, Ordering::Relaxed);
        self.counters.dropped.fetch_add(u64::from(dropped), Ordering::Relaxed);
        self.scores(&known, dropped)
    }

    /// Asks the items of a round.
    fn ask(&self, model: &LocalModel, asked: &Asked, round: &[Vec<usize>]) -> Result<Vec<Vec<ItemScore>>, Failure> {
        let begun = Instant::now();
        let report =
            asked.prepared.evaluate(model, Some(round), &self.options.cancel).map_err(|error| match error {
                EvalError::Stopped => Failure::Stopped,
                error => Failure::of(&error),
            })?;
        add_time(&self.counters.eval_nanos, begun);
        let items: usize = round.iter().map(Vec::len).sum();
        self.counters.items_asked.fetch_add(items as u64, Ordering::Relaxed);
        Ok(report.tasks.into_iter().map(|task| task.items).collect())
    }

    fn is_out(&self, known: &[Vec<Option<ItemScore>>], against: &Against<'_>, looks: usize) -> bool {
        let Some(floor) = against.floor else {
            return false;
        };
        let race = &self.options.race;
        let confident = race.rule == Rule::Confident && self.tasks.iter().all(Task::main_is_share);
        let below = || match against.incumbent {
            Some(incumbent) => upper_bound(known, Some(incumbent), race.confidence, looks) < 0.0,
            None => upper_bound(known, None, race.confidence, looks) < floor,
        };
        race.rule != Rule::Off && (at_best(&self.tasks, known) <= floor || (confident && below()))
    }

    fn scores(&self, known: &[Vec<Option<ItemScore>>], dropped: bool) -> Result<Scores, Failure> {
        let mut tasks = Vec::with_capacity(known.len());
        for (task, items) in self.tasks.iter().zip(known) {
            let items: Vec<ItemScore> = items.iter().flatten().copied().collect();
            let metric = task.main_over(&items);
            let value = metric.as_ref().map_or(f64::NAN, |m| if m.higher_is_better { m.value } else { -m.value });
            if !value.is_finite() {
                let message = format!("the score of the task `{}` is {value}, which is no finite number", task.name());
                return Err(Failure::Candidate(message));
            }
            let metric = metric.map_or_else(String::new, |metric| metric.name);
            tasks.push(TaskScore { task: task.name().into(), metric, value, n: items.len() });
        }
        let average = mean(tasks.iter().map(|task| task.value));
        Ok(Scores { tasks, average, dropped })
    }

    /// All items of the incumbent, asked now if they are not known.
    fn items_of(&self, incumbent: &Candidate, part: Part) -> Result<Vec<Vec<Option<ItemScore>>>, Failure> {
        self.score_one(incumbent, part, Against::default())?;
        let planned = if self.options.eval.apply_chat_template || self.records.is_on_disk() {
            Some(self.plan(incumbent)?)
        } else {
            None
        };
        let tokenizer = match planned.as_ref().filter(|_| self.options.eval.apply_chat_template) {
            Some(plan) => Some(self.tokenizers(plan)?.0),
            None => None,
        };
        let asked = self.asked(part, tokenizer.as_ref(), None).map_err(|error| Failure::of(&error))?;
        let key = self.key(incumbent, part, &asked, planned.as_ref().filter(|_| self.records.is_on_disk()))?;
        let Record { rounds } = self.records.get(&key);
        let of_task = |(t, items): (usize, &Vec<usize>)| {
            let scored: HashMap<usize, ItemScore> =
                rounds.iter().flat_map(|round| &round[t]).map(|item| (item.index, *item)).collect();
            items.iter().map(|index| scored.get(index).copied()).collect()
        };
        Ok(asked.items.iter().enumerate().map(of_task).collect())
    }

    fn score_all(
        &self,
        candidates: &[Candidate],
        part: Part,
        against: Against<'_>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        // The same recipe is scored once.
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut distinct: Vec<&Candidate> = Vec::new();
        for (i, candidate) in candidates.iter().enumerate() {
            places.entry(&candidate.recipe).or_insert_with(|| {
                distinct.push(candidate);
                Vec::new()
            });
            places.entry(&candidate.recipe).and_modify(|places| places.push(i));
        }
        let results: Vec<Mutex<Option<Result<Scores, CandidateError>>>> =
            candidates.iter().map(|_| Mutex::default()).collect();
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while let Some(candidate) = distinct.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = match self.score_one(candidate, part, against) {
                    Ok(scores) => Ok(scores),
                    // What was interrupted fails in its own ways.
                    Err(_) if self.options.cancel.is_cancelled() => {
                        return stopped.store(true, Ordering::Relaxed);
                    }
                    Err(Failure::Stopped) => return stopped.store(true, Ordering::Relaxed),
                    Err(Failure::Candidate(message)) => Err(CandidateError { message }),
                };
                for &place in &places[candidate.recipe.as_str()] {
                    done(place, &result);
                    *results[place].lock() = Some(result.clone());
                }
            }
        };
        // Threads of their own, which may wait for memory without holding up those that compute.
        std::thread::scope(|scope| {
            for _ in 1..self.parallelism().min(distinct.len()) {
                scope.spawn(work);
            }
            work();
        });
        if stopped.load(Ordering::Relaxed) {
            return Err(Stopped);
        }
        let all = results.into_iter().map(Mutex::into_inner);
        all.collect::<Option<Vec<_>>>().ok_or(Stopped)
    }
}

/// What a candidate has to beat.
#[derive(Clone, Copy, Default)]
struct Against<'a> {
    floor: Option<f64>,
    incumbent: Option<&'a [Vec<Option<ItemScore>>]>,
}

impl Scorer for LocalScorer {
    fn score(
        &self,
        candidates: &[Candidate],
        part: Part,
        floor: Option<f64>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        self.score_all(candidates, part, Against { floor, incumbent: None }, done)
    }

    fn score_against(
        &self,
        candidates: &[Candidate],
        part: Part,
        incumbent: Option<(&Candidate, f64)>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let floor = incumbent.map(|(_, average)| average);
        let items = match incumbent.filter(|_| self.options.race.rule == Rule::Confident) {
            Some((incumbent, _)) => match self.items_of(incumbent, part) {
                Ok(items) => Some(items),
                Err(Failure::Stopped) => return Err(Stopped),
                // An incumbent that has no score is compared with nobody.
                Err(Failure::Candidate(_)) => None,
            },
            None => None,
        };
        self.score_all(candidates, part, Against { floor, incumbent: items.as_deref() }, done)
    }

    fn parallelism(&self) -> usize {
        self.options.parallel.unwrap_or_else(rayon::current_num_threads).max(1)
    }
}

/// Bytes of memory that are taken until this is dropped.
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
