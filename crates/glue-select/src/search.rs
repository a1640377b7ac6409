//! A whole search: the models by themselves, the strategies one after the other, held-out scores, and the result on disk.

use crate::config::{SearchConfig, Validation};
use crate::contract::{Candidate, Part, Scorer, Scores};
use crate::course::{Budget, Course, Halt};
use crate::filter::{Evidence, ModelVerdict, judge, unscored};
use crate::guard::Guard;
use crate::journal::{Journal, JournalError};
use crate::likeness::Likeness;
use crate::output::{self, OutputError};
use crate::recipe_text::alone;
use crate::session::{Found, Parts, Proposal, Session, Setup, Tried, Verdict, compare, short, tell};
use crate::space::SpaceError;
use crate::strategy::{Strategy, StrategyError, StrategyRegistry};
use crate::summary::{Row, StrategyRow, Summary, pooled};
use crate::zoo::{Zoo, ZooError, hash_tasks};
use glue_progress::{Progress, Unit};
use glue_recipe::SharedExecutor;
use glue_tensor::{FileChanged, Links};
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a program knows.
#[derive(Debug, Clone, Copy)]
pub struct Registries<'a> {
    /// Merge methods.
    pub operators: &'a glue_merge::Registry,
    /// Optimisers.
    pub optimisers: &'a glue_search::Registry,
    /// Strategies.
    pub strategies: &'a StrategyRegistry,
}

/// Where the result goes and when to end.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// The directory that appears.
    pub out: &'a Path,
    /// Whether to go on with an interrupted search, if there is one.
    pub resume: bool,
    /// When to end.
    pub budget: Budget,
    /// What merges the result: that of the scorer, so that the result has the scores of its candidate.
    pub executor: SharedExecutor,
    /// Where links in a model's directory may lead to that the result gets a copy of. Default of such links: not out of it.
    pub links: Links,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// A file of the models or their statistics is not what it was when the search began. No score after that is in the
    /// journal.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The models.
    #[error(transparent)]
    Zoo(#[from] ZooError),
    /// A strategy, or its settings.
    #[error(transparent)]
    Strategy(#[from] StrategyError),
    /// The search space.
    #[error("the search space")]
    Space(#[from] SpaceError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal holds what no search writes.
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
    /// The budget ended before the models were scored by themselves.
    #[error("{halt}; the {models} models by themselves need as many")]
    TooLittle {
        /// What ended.
        halt: String,
        /// Number of models.
        models: usize,
    },
    /// No model could be scored.
    #[error("no model could be scored; of `{model}`: {reason}")]
    NoScores {
        /// The first model.
        model: String,
        /// Why.
        reason: String,
    },
    /// Strategies failed.
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

/// Where the journal of a search into `out` is until the search is complete: beside it.
pub fn journal_path(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    out.with_file_name(format!("{name}.journal.jsonl"))
}

/// A search that has been checked as far as that goes without a weight.
pub struct Prepared<'a> {
    config: &'a SearchConfig,
    zoo: &'a Zoo,
    setup: Setup<'a>,
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
        zoo: &'a Zoo,
        registries: Registries<'a>,
    ) -> Result<Prepared<'a>, SelectError> {
        let setup = zoo.setup(config, registries.operators, registries.optimisers);
        let mut strategies: Vec<(&'static str, Box<dyn Strategy>)> = Vec::new();
        for strategy in &config.strategies {
            let def = registries.strategies.get(&strategy.name)?;
            strategies.push((def.name, (def.build)(&setup, &strategy.settings)?));
        }
        let optimises =
            config.space.is_some() || strategies.iter().any(|(name, _)| *name == crate::strategy::EVOLUTIONARY.name);
        let prepared = Prepared { config, zoo, setup, strategies, optimises };
        prepared.space()?;
        Ok(prepared)
    }

    /// The space that optimisers search over all models; `None` when no strategy does.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn space(&self) -> Result<Option<crate::space::SearchSpace>, SpaceError> {
        let all: Vec<usize> = (0..self.setup.members.len()).collect();
        self.optimises.then(|| self.setup.search_space(&all)).transpose()
    }

    /// The most evaluations there can be, by strategy; first those of the models by themselves.
    pub fn evaluations(&self) -> Vec<(String, u64)> {
        let n = self.setup.members.len();
        let filter = self.config.filter.then(|| ("filter".to_string(), n as u64 - 1));
        let strategies = self.strategies.iter().map(|(name, strategy)| (name.to_string(), strategy.evaluations(n)));
        std::iter::once(("models".to_string(), n as u64)).chain(filter).chain(strategies).collect()
    }

    /// A model by itself, as it is scored first.
    pub fn single(&self, i: usize) -> Candidate {
        alone(&self.setup.frame, &self.setup.members[i].path)
    }

    /// What the journal of this search begins with: all that its course depends on.
    ///
    /// # Errors
    /// A file that cannot be read. All weights are read.
    pub fn header(&self) -> Result<Value, ZooError> {
        Ok(json!({
            "journal": "glue search",
            "version": env!("CARGO_PKG_VERSION"),
            "config": serde_json::to_value(self.config.course()).unwrap_or_default(),
            "models": self.zoo.hashes(),
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
        self.zoo.check_unchanged()?;
        let guard = Guard::new(scorer, self.zoo, progress);
        let (journal, entries) = match options.resume {
            true => Journal::resume(&path, &header)?,
            false => (Journal::create(&path, &header)?, Vec::new()),
        };
        let course = Course::new(&guard, journal, entries, options.budget).map_err(SelectError::Entry)?;
        progress.begin("searching", Unit::Evaluations, None);
        let mut run = Run {
            prepared: self,
            course,
            progress,
            journal: path.clone(),
            tried: Vec::new(),
            likeness: OnceCell::new(),
            best: None,
            timings: Timings::default(),
        };
        let summary = run.search(&header).map_err(|error| guard.changed().map_or(error, SelectError::Changed))?;
        let (mut timings, course) = (run.timings, run.course);
        timings.seconds = course.progress().seconds;
        output::write(&summary, &timings, (&self.setup, self.zoo), options, &path)?;
        glue_tensor::abort_point("result of a search written");
        // The lock is held until the directory is there.
        drop(course.into_journal());
        let _ = std::fs::remove_file(&path);
        Ok((summary, timings))
    }
}

/// How long a search took: what is in no other output.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Timings {
    /// Seconds, with those of interrupted runs.
    pub seconds: f64,
    /// Seconds of each strategy in the last run; little for what was done in earlier ones.
    pub strategies: Vec<(String, f64)>,
}

struct Run<'s, 'a> {
    prepared: &'s Prepared<'a>,
    course: Course<'s>,
    progress: &'s dyn Progress,
    journal: PathBuf,
    tried: Vec<Tried>,
    likeness: OnceCell<Likeness>,
    best: Option<f64>,
    timings: Timings,
}

/// Who scored the models by themselves, in the record.
const SINGLE: &str = "single";

impl<'s, 'a> Run<'s, 'a>
where
    'a: 's,
{
    fn stopped(&self, halt: Halt) -> SelectError {
        match halt {
            Halt::Journal(error) => SelectError::Journal(error),
            _ => {
                SelectError::Stopped { evaluations: self.course.progress().evaluations, journal: self.journal.clone() }
            }
        }
    }

    /// Scores proposals outside of a strategy, and records them.
    fn measure(&mut self, name: &str, proposals: &[Proposal]) -> (Vec<Option<Scores>>, Option<Halt>) {
        let candidates: Vec<Candidate> = proposals.iter().map(|proposal| proposal.candidate.clone()).collect();
        let batch = self.course.score(&candidates, Part::Search, None);
        let mut all = Vec::new();
        for (proposal, outcome) in proposals.iter().zip(batch.outcomes) {
            let scores = outcome.as_ref().ok().cloned();
            self.best = scores.iter().map(|scores| scores.average).chain(self.best).reduce(f64::max);
            let (verdict, reason) = match outcome {
                Ok(scores) => (Verdict::Measured, format!("average {}", short(scores.average))),
                Err(error) => (Verdict::Failed, error.message),
            };
            let named = |&(i, w): &(usize, f64)| (self.prepared.setup.members[i].name.clone(), w);
            self.tried.push(Tried {
                strategy: name.into(),
                what: proposal.what.clone(),
                weights: proposal.weights.iter().map(named).collect(),
                verdict,
                reason,
                scores: scores.clone(),
                recipe: proposal.candidate.recipe.clone(),
            });
            all.push(scores);
        }
        tell(self.progress, name, self.best, &self.course.progress());
        (all, batch.halt)
    }

    fn search(&mut self, header: &Value) -> Result<Summary, SelectError> {
        let prepared = self.prepared;
        let setup = &prepared.setup;
        let n = setup.members.len();
        let alone = |i: usize| Proposal {
            candidate: prepared.single(i),
            what: setup.members[i].name.clone(),
            weights: vec![(i, 1.0)],
        };
        let (singles, halt) = self.measure(SINGLE, &(0..n).map(alone).collect::<Vec<_>>());
        if let Some(halt) = halt {
            return Err(match halt.is_budget() {
                true => SelectError::TooLittle { halt: halt.to_string(), models: n },
                false => self.stopped(halt),
            });
        }
        if singles.iter().all(Option::is_none) {
            let model = setup.members[0].name.clone();
            return Err(SelectError::NoScores { model, reason: self.tried[0].reason.clone() });
        }
        let mut ended = None;
        let verdicts = match prepared.config.filter {
            true => self.filter(&singles, &mut ended)?,
            // A model without scores is left out even so.
            false => (0..n).filter(|&i| singles[i].is_none()).map(|i| self.unscored(i)).collect(),
        };
        let harmful = |i: usize| verdicts.iter().any(|of| of.harmful && of.model == setup.members[i].name);
        let admitted: Vec<usize> = (0..n).filter(|&i| !harmful(i)).collect();
        let mut found: Vec<(String, Found)> = Vec::new();
        let mut rows: Vec<StrategyRow> = Vec::new();
        let mut failure: Option<(String, String)> = None;
        for (name, strategy) in &prepared.strategies {
            if ended.is_some() {
                break;
            }
            // A strategy that is there twice is told apart.
            let twice = found.iter().filter(|(other, _)| other.split(' ').next() == Some(name)).count();
            let label = if twice == 0 { (*name).to_string() } else { format!("{name} {}", twice + 1) };
            let before = self.course.progress();
            let start = Instant::now();
            let earlier: Vec<Found> = found.iter().map(|(_, found)| found.clone()).collect();
            let mut session = Session::new(
                &label,
                Parts {
                    setup,
                    course: &mut self.course,
                    progress: self.progress,
                    singles: &singles,
                    admitted: &admitted,
                    earlier: &earlier,
                    likeness: &self.likeness,
                    best: self.best,
                },
            );
            let done = strategy.run(&mut session);
            let (result, tried, best) = session.finish();
            self.best = best;
            self.tried.extend(tried);
            self.timings.strategies.push((label.clone(), start.elapsed().as_secs_f64()));
            match done {
                Ok(()) => {}
                Err(halt) if halt.is_budget() => ended = Some(halt.to_string()),
                Err(Halt::Strategy(reason)) => failure = failure.or(Some((label.clone(), reason))),
                Err(halt) => return Err(self.stopped(halt)),
            }
            let after = self.course.progress();
            if let Some(result) = result {
                rows.push(StrategyRow {
                    row: Row {
                        name: label.clone(),
                        what: result.what.clone(),
                        recipe: result.candidate.recipe.clone(),
                        search: self.course.known(&result.candidate, Part::Search).cloned(),
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
                let reason = ended.unwrap_or_else(|| "it accepted nothing".into());
                (prepared.config.strategies[0].name.clone(), reason)
            });
            return Err(SelectError::Failed { strategy, reason });
        };
        let mut models: Vec<Row> = (0..n)
            .map(|i| Row {
                name: setup.members[i].name.clone(),
                what: setup.members[i].name.clone(),
                recipe: prepared.single(i).recipe,
                search: singles[i].clone(),
                validation: None,
                proxy: None,
                gap: None,
            })
            .collect();
        let of_strategies = rows.iter_mut().map(|row| &mut row.row);
        self.validate(models.iter_mut().filter(|row| row.search.is_some()).chain(of_strategies).collect())?;
        let (best, reason) = choose(&rows);
        let progress = self.course.progress();
        Ok(Summary {
            version: env!("CARGO_PKG_VERSION").into(),
            config: header["config"].clone(),
            inputs: json!({ "models": header["models"], "tasks": header["tasks"] }),
            best,
            reason,
            models,
            filter: verdicts,
            strategies: rows,
            evaluations: progress.evaluations,
            items_saved: progress.items_saved,
            items: progress.items,
            front: self.front(),
            candidates: std::mem::take(&mut self.tried),
        })
    }

    /// The verdict on a model without scores. Models by themselves are what was tried first.
    fn unscored(&self, i: usize) -> ModelVerdict {
        unscored(&self.prepared.setup.members[i].name, &self.tried[i].reason)
    }

    /// Looks for harmful models.
    fn filter(
        &mut self,
        singles: &[Option<Scores>],
        ended: &mut Option<String>,
    ) -> Result<Vec<ModelVerdict>, SelectError> {
        let setup = &self.prepared.setup;
        let n = setup.members.len();
        let average = |i: usize| singles[i].as_ref().map_or(f64::NEG_INFINITY, |scores| scores.average);
        let best = (0..n).fold(0, |best, i| if average(i) > average(best) { i } else { best });
        let others: Vec<usize> = (0..n).filter(|&i| i != best && singles[i].is_some()).collect();
        let pair = |&i: &usize| {
            let weights = vec![(best, 0.5), (i, 0.5)];
            Proposal { candidate: setup.linear(&weights), what: setup.words(&weights), weights }
        };
        let (scores, halt) = self.measure("filter", &others.iter().map(pair).collect::<Vec<_>>());
        match halt {
            Some(halt) if halt.is_budget() => *ended = Some(halt.to_string()),
            Some(halt) => return Err(self.stopped(halt)),
            None => {}
        }
        // Where likeness cannot be told it is no sign.
        if let (None, Ok(read)) = (self.likeness.get(), (setup.read_likeness)()) {
            let _ = self.likeness.set(read);
        }
        let mean = |i: usize| {
            let likeness = self.likeness.get()?;
            let sum: f64 = (0..n).filter(|&j| j != i).map(|j| likeness.of_models(i, j)).sum();
            Some(sum / (n - 1) as f64)
        };
        let evidence: Vec<Evidence<'_>> = (0..n)
            .map(|i| Evidence {
                model: &setup.members[i].name,
                single: singles[i].as_ref().ok_or(self.tried[i].reason.as_str()),
                likeness: mean(i),
                pair: others.iter().position(|&other| other == i).and_then(|at| scores.get(at)?.as_ref()),
            })
            .collect();
        Ok(judge(&evidence))
    }

    /// Scores rows on what is held out.
    fn validate(&mut self, rows: Vec<&mut Row>) -> Result<(), SelectError> {
        if self.prepared.config.validation == Validation::Share(0.0) {
            return Ok(());
        }
        let candidates: Vec<Candidate> = rows.iter().map(|row| Candidate { recipe: row.recipe.clone() }).collect();
        let batch = self.course.score(&candidates, Part::Validation, None);
        if let Some(halt) = batch.halt {
            return Err(self.stopped(halt));
        }
        let of_one_split = matches!(self.prepared.config.validation, Validation::Share(_));
        for (row, outcome) in rows.into_iter().zip(batch.outcomes) {
            row.validation = outcome.ok();
            if let (Some(search), Some(held)) = (&row.search, &row.validation) {
                row.gap = Some(search.average - held.average);
                row.proxy = if of_one_split { pooled(search, held) } else { None };
            }
        }
        Ok(())
    }

    /// What no candidate beats, when somebody searched with several objectives.
    fn front(&self) -> Vec<usize> {
        let several = |name: &Value| {
            let def = name.as_str().and_then(|name| self.prepared.setup.optimisers.get(name).ok());
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
            .tried
            .iter()
            .enumerate()
            .filter(|(_, tried)| seen.insert(&tried.recipe))
            .filter_map(|(i, tried)| {
                let scores = tried.scores.as_ref().filter(|scores| !scores.dropped)?;
                Some((i, scores.tasks.iter().map(|task| -task.value).collect()))
            })
            .collect();
        let points: Vec<&[f64]> = full.iter().map(|(_, losses)| &losses[..]).collect();
        let ranks = glue_search::non_dominated_sort(&points);
        full.iter().zip(ranks).filter(|(_, rank)| *rank == 0).map(|((i, _), _)| *i).collect()
    }
}

/// The best strategy by what is held out; among equals by what the search saw, then the first.
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
            "Of all strategies it has the highest average on the items held out, {}, or among equals on those that the \
             search saw, {}.",
            short(held),
            short(seen(best))
        ),
        None => format!("Of all strategies it has the highest average, {}; nothing was held out.", short(seen(best))),
    };
    (best.row.name.clone(), reason)
}
