//! Candidates scored by a program of the user: each is merged into a temporary directory, which is removed afterwards.
//!
//! The agreement with the program is that of [`glue_eval::external`]. More is taken to be better.

use crate::contract::{Candidate, CandidateError, Part, Scorer, Scores, Stopped, TaskScore};
use glue_eval::external::{ExternalError, ExternalEvaluator, Request};
use glue_merge::Registry;
use glue_progress::{CancelToken, ErrorChain};
use glue_recipe::{PlanOptions, Recipe, RunOptions, SharedExecutor, plan, run};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How candidates are merged, and what the program is asked.
#[derive(Debug, Clone)]
pub struct ExternalOptions {
    /// The operators of recipes. Default: those that come with the project.
    pub registry: Registry,
    /// Where relative paths start, and what else a plan depends on besides the recipe.
    pub plan: PlanOptions,
    /// What merges candidates. Default: the processor.
    pub executor: SharedExecutor,
    /// Names or paths of tasks, as the program understands them.
    pub tasks: Vec<String>,
    /// The split that is searched on; `None`, the default, leaves it to the program.
    pub split: Option<String>,
    /// The split of the validation part; by default there is none.
    pub validation_split: Option<String>,
    /// The most items of each task; all by default.
    pub limit: Option<usize>,
    /// Of what is random in the program; `None`, the default, leaves it to the program.
    pub seed: Option<u64>,
    /// Where candidates are written for a while. Default: the system's directory for temporary files.
    pub directory: PathBuf,
    /// Candidates at once, each with a program of its own; at least 1. Default: 1.
    pub parallel: usize,
    /// Once cancelled, programs are ended and scoring ends with [`Stopped`].
    pub cancel: CancelToken,
}

impl Default for ExternalOptions {
    fn default() -> Self {
        Self {
            registry: Registry::builtin(),
            plan: PlanOptions::default(),
            executor: SharedExecutor::default(),
            tasks: Vec::new(),
            split: None,
            validation_split: None,
            limit: None,
            seed: None,
            directory: std::env::temp_dir(),
            parallel: 1,
            cancel: CancelToken::default(),
        }
    }
}

type Outcome = Result<Scores, CandidateError>;

/// Scores candidates by a program.
pub struct ExternalScorer {
    evaluator: ExternalEvaluator,
    options: ExternalOptions,
    stderr: Box<dyn Fn(&str) + Send + Sync>,
    known: Mutex<HashMap<(Part, String), Scores>>,
}

impl std::fmt::Debug for ExternalScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExternalScorer").field("evaluator", &self.evaluator).field("options", &self.options).finish()
    }
}

enum Failure {
    Stopped,
    Candidate(String),
}

impl ExternalScorer {
    /// Scores by `evaluator`; `stderr` gets each line that its program writes to its standard error.
    pub fn new(
        evaluator: ExternalEvaluator,
        options: ExternalOptions,
        stderr: impl Fn(&str) + Send + Sync + 'static,
    ) -> ExternalScorer {
        let evaluator = evaluator.with_cancel(options.cancel.clone());
        ExternalScorer { evaluator, options, stderr: Box::new(stderr), known: Mutex::default() }
    }

    fn score_one(&self, candidate: &Candidate, part: Part) -> Result<Scores, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::Candidate(error.chain());
        if self.options.cancel.is_cancelled() {
            return Err(Failure::Stopped);
        }
        let key = (part, candidate.recipe.clone());
        if let Some(scores) = self.known.lock().get(&key) {
            return Ok(scores.clone());
        }
        let split = match part {
            Part::Search => self.options.split.as_deref(),
            Part::Validation => match &self.options.validation_split {
                Some(split) => Some(split.as_str()),
                None => return Err(Failure::Candidate("no items are held out for validation".into())),
            },
        };
        let recipes = Recipe::parse(&candidate.recipe, "candidate", &self.options.registry).map_err(|e| failed(&e))?;
        let [recipe] = recipes.as_slice() else {
            return Err(Failure::Candidate(format!("expected one document with a recipe, found {}", recipes.len())));
        };
        let plan = plan(recipe, &self.options.plan).map_err(|e| failed(&e))?;
        // Removed when it goes out of scope, whatever happens until then.
        let directory = tempfile::Builder::new().prefix("glue-candidate-").tempdir_in(&self.options.directory);
        let directory = directory.map_err(|e| failed(&e))?;
        let model = directory.path().join("candidate");
        let options = RunOptions { executor: self.options.executor.get(), ..RunOptions::default() };
        run(&plan, &model, &options, &self.options.cancel).map_err(|e| failed(&e))?;
        let request = Request {
            model: &model,
            tasks: &self.options.tasks,
            split,
            limit: self.options.limit,
            seed: self.options.seed,
        };
        let answer = self.evaluator.evaluate(&request, &*self.stderr).map_err(|error| match error {
            ExternalError::Stopped { .. } => Failure::Stopped,
            error => failed(&error),
        })?;
        let main = |task: glue_eval::external::TaskScores| {
            let main = task.metrics.iter().find(|(name, _)| !name.ends_with("stderr")).or(task.metrics.first());
            let (metric, value) = main.cloned().unwrap_or_default();
            TaskScore { task: task.task, metric, value, n: task.n }
        };
        let tasks = answer.tasks.into_iter().map(main).collect();
        let scores = Scores { tasks, average: answer.average, dropped: false };
        self.known.lock().insert(key, scores.clone());
        Ok(scores)
    }
}

impl Scorer for ExternalScorer {
    /// The floor is of no use here: the program scores all items.
    fn score(
        &self,
        candidates: &[Candidate],
        part: Part,
        _: Option<f64>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let results: Vec<Mutex<Option<Outcome>>> = candidates.iter().map(|_| Mutex::default()).collect();
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < candidates.len()) {
                let result = match self.score_one(&candidates[i], part) {
                    Ok(scores) => Ok(scores),
                    // What was interrupted fails in its own ways.
                    Err(_) if self.options.cancel.is_cancelled() => return stopped.store(true, Ordering::Relaxed),
                    Err(Failure::Stopped) => return stopped.store(true, Ordering::Relaxed),
                    Err(Failure::Candidate(message)) => Err(CandidateError { message }),
                };
                done(i, &result);
                *results[i].lock() = Some(result);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.parallelism().min(candidates.len()) {
                scope.spawn(work);
            }
            work();
        });
        let all = results.into_iter().map(Mutex::into_inner);
        if stopped.load(Ordering::Relaxed) { Err(Stopped) } else { all.collect::<Option<_>>().ok_or(Stopped) }
    }

    fn parallelism(&self) -> usize {
        self.options.parallel.max(1)
    }
}
