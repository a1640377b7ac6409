//! Scores are kept only while all models are as they were opened: those of a changed model belong to no hash in the
//! journal.

use crate::contract::{Candidate, CandidateError, ItemRole, Scorer, Scores, Stopped};
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

    fn guarded(&self, done: Done<'_>, score: impl FnOnce(Done<'_>) -> Outcomes) -> Outcomes {
        if self.progress.is_cancelled() {
            return Err(Stopped);
        }
        let outcomes = score(&|i, outcome| {
            if self.is_unchanged() {
                done(i, outcome);
            }
        });
        if self.changed.get().is_some() { Err(Stopped) } else { outcomes }
    }
}

impl Scorer for Guard<'_> {
    fn score(&self, candidates: &[Candidate], role: ItemRole, cutoff: Option<f64>, done: Done<'_>) -> Outcomes {
        self.guarded(done, |done| self.scorer.score(candidates, role, cutoff, done))
    }

    fn score_against(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        incumbent: Option<(&Candidate, f64)>,
        done: Done<'_>,
    ) -> Outcomes {
        self.guarded(done, |done| self.scorer.score_against(candidates, role, incumbent, done))
    }

    fn parallelism(&self) -> usize {
        self.scorer.parallelism()
    }
}
