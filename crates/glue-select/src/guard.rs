//! Scores are kept only while all models are as they were opened: those of a changed model belong to no hash in the
//! journal.

use crate::contract::{Candidate, CandidateError, ItemRole, LossGradient, Rival, Scorer, Scores, Stopped};
use crate::model_set::ModelSet;
use glue_progress::Progress;
use glue_tensor::FileChanged;
use std::sync::OnceLock;

/// A scorer that stops once a file of the models has changed.
pub(crate) struct Guard<'a> {
    scorer: &'a dyn Scorer,
    models: &'a ModelSet,
    progress: &'a dyn Progress,
    changed: OnceLock<FileChanged>,
}

type Done<'d> = &'d (dyn Fn(usize, &Result<Scores, CandidateError>) + Sync);
type Outcomes = Result<Vec<Result<Scores, CandidateError>>, Stopped>;

impl<'a> Guard<'a> {
    pub(crate) fn new(scorer: &'a dyn Scorer, models: &'a ModelSet, progress: &'a dyn Progress) -> Guard<'a> {
        Guard { scorer, models, progress, changed: OnceLock::new() }
    }

    /// The file that changed, if that is why scoring stopped.
    pub(crate) fn changed(&self) -> Option<FileChanged> {
        self.changed.get().cloned()
    }

    fn is_unchanged(&self) -> bool {
        if let Err(error) = self.models.check_unchanged() {
            let _ = self.changed.set(error);
        }
        self.changed.get().is_none()
    }
}

impl Scorer for Guard<'_> {
    fn score(&self, candidates: &[Candidate], role: ItemRole, rival: Option<Rival<'_>>, done: Done<'_>) -> Outcomes {
        if self.progress.is_cancelled() {
            return Err(Stopped);
        }
        let unchanged = |i: usize, outcome: &Result<Scores, CandidateError>| {
            if self.is_unchanged() {
                done(i, outcome);
            }
        };
        let outcomes = self.scorer.score(candidates, role, rival, &unchanged);
        if self.changed.get().is_some() { Err(Stopped) } else { outcomes }
    }

    fn loss_gradient(
        &self,
        candidate: &Candidate,
        items: &[(usize, usize)],
    ) -> Result<Result<LossGradient, CandidateError>, Stopped> {
        if self.progress.is_cancelled() {
            return Err(Stopped);
        }
        let found = self.scorer.loss_gradient(candidate, items);
        if self.is_unchanged() { found } else { Err(Stopped) }
    }

    fn parallelism(&self) -> usize {
        self.scorer.parallelism()
    }
}
