//! What a strategy works with: the models and their baseline scores, evaluations, and the record of every trial.

use crate::contract::{Candidate, LossGradient, Scores};
use crate::evaluation_log::{Against, EvaluationLog, Outcome, Purpose, StopReason};
use crate::recipe_text::{RecipeTemplate, weighted};
use crate::similarity::Similarity;
use crate::space::{SearchSpace, SpaceConfig, SpaceError, TensorNames, methods_by_default};
use serde::Serialize;
use std::cell::OnceCell;
use std::cmp::Ordering;

/// Averages that differ by no more than this are equal: they are sums of the same terms in another order. The smallest
/// real difference, one item of one task, is at least ten thousand times as large for up to ten tasks of up to 10 000
/// items.
pub const ROUNDING: f64 = 1e-9;

/// The cutoff below which a candidate can no longer be as good as `average`.
pub fn cutoff_below(average: f64) -> f64 {
    average - 2.0 * ROUNDING
}

/// A model of the search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its name in reports: the last part of its path where that is unique, else the path.
    pub name: String,
    /// Its path in recipes.
    pub path: String,
}

/// What a search is about: the same for all strategies, and never changed while they run.
pub struct SearchContext<'a> {
    /// The models, in the order of the config.
    pub members: Vec<Member>,
    /// What all recipes have in common, such as the base.
    pub template: RecipeTemplate,
    /// The space that optimisers search.
    pub space: SpaceConfig,
    /// Names of the tensors of the models.
    pub tensors: TensorNames,
    /// Names of the statistics that the space has for all models, or for the base.
    pub statistics: Vec<String>,
    /// The merge methods.
    pub operators: &'a glue_merge::Registry,
    /// The optimisers.
    pub optimisers: &'a glue_search::OptimiserRegistry,
    /// The source of all randomness.
    pub seed: u64,
    /// Reads the similarity of the models; called at most once, when a strategy needs it.
    pub read_similarity: Box<dyn Fn() -> Result<Similarity, String> + Send + Sync + 'a>,
}

impl std::fmt::Debug for SearchContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SearchContext")
            .field("members", &self.members)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl SearchContext<'_> {
    /// The linear merge of models with these weights.
    pub fn linear(&self, weights: &[(usize, f64)]) -> Candidate {
        // A linear merge has no base.
        let template = RecipeTemplate { base_model: None, ..self.template.clone() };
        let weights: Vec<(String, f64)> = weights.iter().map(|&(i, w)| (self.members[i].path.clone(), w)).collect();
        weighted(&template, "linear", &weights, &[])
    }

    /// The spaces of merges of some of the models, one for each method.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn search_spaces(&self, models: &[usize]) -> Result<Vec<SearchSpace>, SpaceError> {
        let paths: Vec<String> = models.iter().map(|&i| self.members[i].path.clone()).collect();
        let mut config = self.space.clone();
        // Statistics of models that were left out are not needed; those of an unknown model are refused by the space.
        let left_out = |path: &String| self.members.iter().any(|member| member.path == *path) && !paths.contains(path);
        config.statistics.retain(|path, _| !left_out(path));
        if config.methods.is_empty() {
            let has_base = self.template.base_model.is_some();
            config.methods = methods_by_default(paths.len(), has_base, &self.statistics, &self.tensors, self.operators);
        }
        SearchSpace::all(&config, &self.template, &paths, &self.tensors, self.operators)
    }

    /// Weights in words: `a-math 0.6 + a-code 0.4`.
    pub fn words(&self, weights: &[(usize, f64)]) -> String {
        let word = |&(i, w): &(usize, f64)| match weights {
            [_] if w == 1.0 => self.members[i].name.clone(),
            _ => format!("{} {}", self.members[i].name, short(w)),
        };
        weights.iter().map(word).collect::<Vec<_>>().join(" + ")
    }
}

/// At most four decimals.
pub(crate) fn short(x: f64) -> String {
    let text = format!("{x:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// What was decided about a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is or was the best of its strategy.
    Accepted,
    /// It is not as good as the best so far.
    Rejected,
    /// It could not be scored.
    Failed,
    /// It was scored for information only.
    Measured,
}

/// A candidate with its scores and what was decided about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialRecord {
    /// The strategy that proposed it.
    pub strategy: String,
    /// What it is, in words.
    pub what: String,
    /// Its models with their weights, where it is a weighted sum of them or of their task vectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<(String, f64)>,
    /// The decision.
    pub verdict: Verdict,
    /// The reason for the decision, or why there are no scores.
    pub reason: String,
    /// Its scores on the search items; absent when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
    /// Its average on the validation items, for finalists and candidates that were the best so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Its recipe.
    pub recipe: String,
}

impl TrialRecord {
    pub(crate) fn new(
        search: &SearchContext<'_>,
        strategy: &str,
        described: &DescribedCandidate,
        outcome: Outcome,
    ) -> TrialRecord {
        let named = |&(i, w): &(usize, f64)| (search.members[i].name.clone(), w);
        let (verdict, reason, scores) = match outcome {
            Ok(scores) => (Verdict::Measured, format!("average {}", short(scores.average)), Some(scores)),
            Err(error) => (Verdict::Failed, error.message, None),
        };
        TrialRecord {
            strategy: strategy.into(),
            what: described.what.clone(),
            weights: described.weights.iter().map(named).collect(),
            verdict,
            reason,
            scores,
            validation: None,
            recipe: described.candidate.recipe.clone(),
        }
    }
}

/// A candidate with what a reader should know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct DescribedCandidate {
    /// Its recipe.
    pub candidate: Candidate,
    /// What it is, in words.
    pub what: String,
    /// Its models by number with their weights, where it is a weighted sum of them or of their task vectors; else
    /// empty.
    pub weights: Vec<(usize, f64)>,
}

/// The best candidate of a strategy.
#[derive(Debug, Clone, PartialEq)]
pub struct BestCandidate {
    /// The candidate.
    pub candidate: Candidate,
    /// What it is, in words.
    pub what: String,
    /// Its models by number with their weights, where it is a weighted sum of them or of their task vectors; else
    /// empty.
    pub weights: Vec<(usize, f64)>,
    /// Its average on the search items.
    pub average: f64,
}

/// The trials that came of scoring some candidates: fewer than candidates when the search has to end.
#[derive(Debug)]
pub struct Scored {
    /// Their numbers in [`StrategyContext::trials`], in the order of the candidates.
    pub trials: Vec<usize>,
    /// Why the search has to end; `None` when all candidates were scored. A strategy decides about the trials there
    /// are, and returns this as its error.
    pub stop: Option<StopReason>,
}

/// What a strategy asks and tells while it runs.
pub struct StrategyContext<'s, 'a> {
    search: &'s SearchContext<'a>,
    log: &'s mut EvaluationLog<'a>,
    strategy: String,
    /// Scores of each model alone; `None` for one that could not be scored.
    baselines: &'s [Option<Scores>],
    /// The models that may be merged.
    admitted: &'s [usize],
    earlier: &'s [BestCandidate],
    similarity: &'s OnceCell<Similarity>,
    trials: Vec<TrialRecord>,
    nominated: Vec<DescribedCandidate>,
    found: Option<BestCandidate>,
}

impl std::fmt::Debug for StrategyContext<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StrategyContext")
            .field("strategy", &self.strategy)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

/// What a [`StrategyContext`] is made from.
pub(crate) struct StrategyInputs<'s, 'a> {
    pub(crate) search: &'s SearchContext<'a>,
    pub(crate) log: &'s mut EvaluationLog<'a>,
    pub(crate) baselines: &'s [Option<Scores>],
    pub(crate) admitted: &'s [usize],
    pub(crate) earlier: &'s [BestCandidate],
    pub(crate) similarity: &'s OnceCell<Similarity>,
}

impl<'s, 'a> StrategyContext<'s, 'a> {
    pub(crate) fn new(strategy: &str, inputs: StrategyInputs<'s, 'a>) -> StrategyContext<'s, 'a> {
        let StrategyInputs { search, log, baselines, admitted, earlier, similarity } = inputs;
        StrategyContext {
            search,
            log,
            strategy: strategy.into(),
            baselines,
            admitted,
            earlier,
            similarity,
            trials: Vec::new(),
            nominated: Vec::new(),
            found: None,
        }
    }

    /// What the search is about.
    pub fn search(&self) -> &'s SearchContext<'a> {
        self.search
    }

    /// The scores of model `i` alone; `None` when it could not be scored.
    pub fn baseline(&self, i: usize) -> Option<&'s Scores> {
        self.baselines.get(i)?.as_ref()
    }

    /// The models that may be merged, by descending baseline; equal ones in the order of the config.
    pub fn order(&self) -> Vec<usize> {
        let average = |i: usize| self.baseline(i).map_or(f64::NEG_INFINITY, |scores| scores.average);
        let mut order: Vec<usize> = self.admitted.iter().copied().filter(|&i| self.baseline(i).is_some()).collect();
        order.sort_by(|&a, &b| compare(average(b), average(a)).then(a.cmp(&b)));
        order
    }

    /// The results of the strategies that ran before this one.
    pub fn earlier(&self) -> &'s [BestCandidate] {
        self.earlier
    }

    /// The similarity of the linear merge with these weights to model `j`, by their MLP weights, from -1 to 1.
    ///
    /// # Errors
    /// [`StopReason::Strategy`] when the models cannot be compared.
    pub fn similarity(&self, weights: &[(usize, f64)], j: usize) -> Result<f64, StopReason> {
        if self.similarity.get().is_none() {
            let read = (self.search.read_similarity)().map_err(StopReason::Strategy)?;
            let _ = self.similarity.set(read);
        }
        Ok(self.similarity.get().map_or(0.0, |similarity| similarity.of_merge(weights, j)))
    }

    /// The linear merge with these weights.
    pub fn linear(&self, weights: Vec<(usize, f64)>) -> DescribedCandidate {
        DescribedCandidate { candidate: self.search.linear(&weights), what: self.search.words(&weights), weights }
    }

    /// Scores candidates on the search items, in parallel. With a `cutoff`, and once something was
    /// [accepted](Self::accept), they race against the best candidate so far: those that are very unlikely to exceed
    /// the cutoff are dropped early, and the average in their scores is an estimate that does not exceed it. Each
    /// becomes a trial that is [measured](Verdict::Measured) or failed until something else is [decided](Self::decide).
    pub fn score(&mut self, described: &[DescribedCandidate], cutoff: Option<f64>) -> Scored {
        let against = self.found.as_ref().zip(cutoff);
        let against = against.map(|(found, cutoff)| Against { cutoff, incumbent: &found.candidate });
        let batch = self.log.score(&self.strategy, described, Purpose::Search(against));
        let first = self.trials.len();
        for (described, outcome) in described.iter().zip(batch.outcomes) {
            self.trials.push(TrialRecord::new(self.search, &self.strategy, described, outcome));
        }
        Scored { trials: (first..self.trials.len()).collect(), stop: batch.stop }
    }

    /// The loss of the right answers to some search items at a merge by task arithmetic, with its derivatives by the
    /// weights of the models: see [`Scorer::loss_gradient`](crate::contract::Scorer::loss_gradient).
    ///
    /// # Errors
    /// [`StopReason`]: a budget in seconds, or [`StopReason::Strategy`] when there is no gradient.
    pub fn loss_gradient(
        &mut self,
        candidate: &Candidate,
        items: &[(usize, usize)],
    ) -> Result<LossGradient, StopReason> {
        self.log.loss_gradient(candidate, items)
    }

    /// The trials so far.
    pub fn trials(&self) -> &[TrialRecord] {
        &self.trials
    }

    /// The average of trial `i`; `None` when it failed or was dropped.
    pub fn average(&self, i: usize) -> Option<f64> {
        self.trials[i].scores.as_ref().filter(|scores| !scores.dropped).map(|scores| scores.average)
    }

    /// Records the decision about trial `i`. A failed trial stays failed.
    pub fn decide(&mut self, i: usize, verdict: Verdict, reason: impl Into<String>) {
        let trial = &mut self.trials[i];
        if trial.verdict != Verdict::Failed {
            trial.verdict = verdict;
            trial.reason = reason.into();
        }
    }

    /// Accepts trial `i` of `described`: the result of the strategy until another one is accepted.
    pub fn accept(&mut self, i: usize, described: &DescribedCandidate, reason: impl Into<String>) {
        let Some(average) = self.average(i) else { return };
        self.decide(i, Verdict::Accepted, reason);
        self.found = Some(BestCandidate {
            candidate: described.candidate.clone(),
            what: described.what.clone(),
            weights: described.weights.clone(),
            average,
        });
    }

    /// Rejects trial `i` because it is not as good as `best`.
    pub fn reject(&mut self, i: usize, best: f64) {
        let Some(scores) = self.trials[i].scores.clone() else { return };
        let items: usize = scores.tasks.iter().map(|task| task.n).sum();
        let reason = match scores.dropped {
            true => format!("rejected after {items} items: it is worse than {} (best so far)", short(best)),
            false if scores.average >= best => {
                format!("rejected: {} is no better than {} (best so far)", short(scores.average), short(best))
            }
            false => format!("rejected: {} < {} (best so far)", short(scores.average), short(best)),
        };
        self.decide(i, Verdict::Rejected, reason);
    }

    /// The best candidate so far.
    pub fn found(&self) -> Option<&BestCandidate> {
        self.found.as_ref()
    }

    /// Makes a candidate a [finalist](crate::finalists), whether or not it was scored: something that the strategy
    /// holds to be good for another reason than its score.
    pub fn nominate(&mut self, described: DescribedCandidate) {
        self.nominated.push(described);
    }

    /// What the strategy leaves.
    pub(crate) fn finish(self) -> StrategyOutcome {
        let StrategyContext { found, trials, nominated, .. } = self;
        StrategyOutcome { found, trials, nominated }
    }
}

/// What a strategy leaves.
pub(crate) struct StrategyOutcome {
    /// The candidate accepted last.
    pub(crate) found: Option<BestCandidate>,
    pub(crate) trials: Vec<TrialRecord>,
    pub(crate) nominated: Vec<DescribedCandidate>,
}

/// Compares averages; those within [`ROUNDING`] are equal.
pub fn compare(a: f64, b: f64) -> Ordering {
    if (a - b).abs() <= ROUNDING { Ordering::Equal } else { a.total_cmp(&b) }
}
