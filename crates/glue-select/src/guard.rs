//! Scores are kept only of models that are as they were opened: what a changed model scores belongs to no hash in the journal.

use crate::contract::{Candidate, CandidateError, Part, Scorer, Scores, Stopped};
use crate::zoo::Zoo;
use glue_progress::Progress;
use glue_tensor::FileChanged;
use std::sync::OnceLock;

/// A scorer that stops once a file of the zoo has changed.
pub(crate) struct Guard<'a> {
    scorer: &'a dyn Scorer,
    zoo: &'a Zoo,
    progress: &'a dyn Progress,
    changed: OnceLock<FileChanged>,
}

type Done<'d> = &'d (dyn Fn(usize, &Result<Scores, CandidateError>) + Sync);
type Outcomes = Result<Vec<Result<Scores, CandidateError>>, Stopped>;

impl<'a> Guard<'a> {
    pub(crate) fn new(scorer: &'a dyn Scorer, zoo: &'a Zoo, progress: &'a dyn Progress) -> Guard<'a> {
        Guard { scorer, zoo, progress, changed: OnceLock::new() }
    }

    /// What has changed, if that is why scoring stopped.
    pub(crate) fn changed(&self) -> Option<FileChanged> {
        self.changed.get().cloned()
    }

    fn is_unchanged(&self) -> bool {
        if let Err(error) = self.zoo.check_unchanged() {
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
    fn score(&self, candidates: &[Candidate], part: Part, floor: Option<f64>, done: Done<'_>) -> Outcomes {
        self.guarded(done, |done| self.scorer.score(candidates, part, floor, done))
    }

    fn score_against(
        &self,
        candidates: &[Candidate],
        part: Part,
        incumbent: Option<(&Candidate, f64)>,
        done: Done<'_>,
    ) -> Outcomes {
        self.guarded(done, |done| self.scorer.score_against(candidates, part, incumbent, done))
    }

    fn parallelism(&self) -> usize {
        self.scorer.parallelism()
    }
}
