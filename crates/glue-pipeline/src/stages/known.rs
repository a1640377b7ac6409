//! A scorer that has scored single models before: the stage of the baselines did.

use glue_select::contract::Rival;
use glue_select::{Candidate, CandidateError, ItemRole, Scorer, Scores, Stopped};
use std::collections::HashMap;

/// Answers what is known, and asks another scorer for the rest.
pub(crate) struct KnownScores<'a> {
    pub(crate) scorer: &'a dyn Scorer,
    /// Scores on all items, by recipe, on search and validation items.
    pub(crate) known: HashMap<String, [Scores; 2]>,
}

impl Scorer for KnownScores<'_> {
    fn score(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        rival: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let known = |candidate: &Candidate| {
            let [search, validation] = self.known.get(&candidate.recipe)?;
            Some(Ok(if role == ItemRole::Search { search.clone() } else { validation.clone() }))
        };
        let mut outcomes: Vec<Option<Result<Scores, CandidateError>>> = candidates.iter().map(known).collect();
        outcomes
            .iter()
            .enumerate()
            .filter_map(|(i, outcome)| Some((i, outcome.as_ref()?)))
            .for_each(|(i, o)| done(i, o));
        let open: Vec<usize> = (0..candidates.len()).filter(|&i| outcomes[i].is_none()).collect();
        let asked: Vec<Candidate> = open.iter().map(|&i| candidates[i].clone()).collect();
        let scored = self.scorer.score(&asked, role, rival, &|i, outcome| done(open[i], outcome))?;
        open.into_iter().zip(scored).for_each(|(i, outcome)| outcomes[i] = Some(outcome));
        outcomes.into_iter().collect::<Option<Vec<_>>>().ok_or(Stopped)
    }

    fn parallelism(&self) -> usize {
        self.scorer.parallelism()
    }
}
