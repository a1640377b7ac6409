//! Candidates scored by a program of the user: each is merged into a temporary directory, which is removed afterwards.
//!
//! The protocol is that of [`glue_eval::external`]. Higher scores count as better.

use crate::contract::{Candidate, CandidateError, ItemRole, Rival, Scorer, Scores, Stopped, TaskScore};
use crate::parallel::{self, Failure};
use glue_eval::external::{ExternalError, ExternalEvaluator, Request};
use glue_merge::Registry;
use glue_progress::CancelToken;
use glue_recipe::{PlanOptions, Recipe, RunOptions, SharedExecutor, plan, run};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;

/// How candidates are merged, and what the program is asked for.
#[derive(Debug, Clone)]
pub struct ExternalOptions {
    /// The operators of recipes. Default: those that come with the project.
    pub registry: Registry,
    /// Where relative paths start, and what else a plan depends on besides the recipe.
    pub plan: PlanOptions,
    /// What merges candidates. Default: the CPU.
    pub executor: SharedExecutor,
    /// Names or paths of tasks, as the program understands them.
    pub tasks: Vec<String>,
    /// The split of the search items; `None`, the default, leaves it to the program.
    pub split: Option<String>,
    /// The split of the validation items. Default: none.
    pub validation_split: Option<String>,
    /// Maximum number of items of each task. Default: all.
    pub limit: Option<usize>,
    /// Seed for the program; `None`, the default, leaves it to the program.
    pub seed: Option<u64>,
    /// Where candidates are written temporarily. Default: the system's directory for temporary files.
    pub directory: PathBuf,
    /// Number of candidates in parallel, each with its own run of the program; at least 1. Default: 1.
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

/// Scores candidates by a program.
pub struct ExternalScorer {
    evaluator: ExternalEvaluator,
    options: ExternalOptions,
    stderr: Box<dyn Fn(&str) + Send + Sync>,
    known: Mutex<HashMap<(ItemRole, String), Scores>>,
}

impl std::fmt::Debug for ExternalScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExternalScorer").field("evaluator", &self.evaluator).field("options", &self.options).finish()
    }
}

impl ExternalScorer {
    /// Scores with `evaluator`; `stderr` gets each line that its program writes to its standard error.
    pub fn new(
        evaluator: ExternalEvaluator,
        options: ExternalOptions,
        stderr: impl Fn(&str) + Send + Sync + 'static,
    ) -> ExternalScorer {
        let evaluator = evaluator.with_cancel(options.cancel.clone());
        ExternalScorer { evaluator, options, stderr: Box::new(stderr), known: Mutex::default() }
    }

    fn score_one(&self, candidate: &Candidate, role: ItemRole) -> Result<Scores, Failure> {
        if self.options.cancel.is_cancelled() {
            return Err(Failure::Stopped);
        }
        let key = (role, candidate.recipe.clone());
        if let Some(scores) = self.known.lock().get(&key) {
            return Ok(scores.clone());
        }
        let split = match role {
            ItemRole::Search => self.options.split.as_deref(),
            ItemRole::Validation => match &self.options.validation_split {
                Some(split) => Some(split.as_str()),
                None => return Err(Failure::Candidate("no items are held out for validation".into())),
            },
        };
        let recipes =
            Recipe::parse(&candidate.recipe, "candidate", &self.options.registry).map_err(|e| Failure::of(&e))?;
        let [recipe] = recipes.as_slice() else {
            return Err(Failure::Candidate(format!("expected one document with a recipe, found {}", recipes.len())));
        };
        let plan = plan(recipe, &self.options.plan).map_err(|e| Failure::of(&e))?;
        // Removed at the end of the scope, whatever happens until then.
        let directory = tempfile::Builder::new().prefix("glue-candidate-").tempdir_in(&self.options.directory);
        let directory = directory.map_err(|e| Failure::of(&e))?;
        let model = directory.path().join("candidate");
        let options = RunOptions { executor: self.options.executor.get(), ..RunOptions::default() };
        run(&plan, &model, &options, &self.options.cancel).map_err(|e| Failure::of(&e))?;
        let request = Request {
            model: &model,
            tasks: &self.options.tasks,
            split,
            limit: self.options.limit,
            seed: self.options.seed,
        };
        let answer = self.evaluator.evaluate(&request, &*self.stderr).map_err(|error| match error {
            ExternalError::Stopped { .. } => Failure::Stopped,
            error => Failure::of(&error),
        })?;
        let main = |task: glue_eval::external::TaskScores| {
            let main = task.metrics.iter().find(|(name, _)| !name.ends_with("stderr")).or(task.metrics.first());
            let (metric, value) = main.cloned().unwrap_or_default();
            TaskScore { task: task.task, metric, value, n: task.n, items: Vec::new() }
        };
        let tasks = answer.tasks.into_iter().map(main).collect();
        let scores = Scores { tasks, average: answer.average, stderr: None, dropped: false };
        self.known.lock().insert(key, scores.clone());
        Ok(scores)
    }
}

impl Scorer for ExternalScorer {
    /// Ignores the rival: the program scores all items.
    fn score(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        _: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let score =
            |(): &mut (), i: usize| Failure::outcome(self.score_one(&candidates[i], role), &self.options.cancel);
        parallel::score_all(candidates.len(), self.parallelism(), || (), score, |()| (), done)
    }

    fn parallelism(&self) -> usize {
        self.options.parallel.max(1)
    }
}
