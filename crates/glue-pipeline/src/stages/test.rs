//! The one look at the test items, after everything is decided.

use crate::error::PipelineError;
use crate::run::Context;
use crate::scores::{ModelScores, Scored, gain, prepare};
use crate::stages::candidates::ExpertCandidate;
use crate::stages::mixture::{Decided, decided_path};
use glue_eval::Prepared;
use glue_report::{self as report, CandidateKind, Role};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Proof that everything is decided: only a finished mixture stage gives one, and the test items can be read only with
/// one.
#[derive(Debug)]
pub(crate) struct TestSetToken<'a> {
    decided: &'a Decided,
    stage: &'a Path,
}

impl<'a> TestSetToken<'a> {
    /// For the decision in the directory of the finished stage.
    pub(crate) fn new(decided: &'a Decided, stage: &'a Path) -> TestSetToken<'a> {
        TestSetToken { decided, stage }
    }

    /// Reads the test items; nothing else in this crate does.
    pub(crate) fn items(&self, context: &Context<'_>) -> Result<Prepared, PipelineError> {
        let config = &context.config.tasks;
        prepare(&context.tasks, config, &config.test, context.config.seed)
    }
}

/// The scores on the test items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tested {
    pub(crate) test: report::Test,
    /// Items of each task.
    pub(crate) items: Vec<(String, usize)>,
    /// Models that could not be scored on these items, and why.
    pub(crate) unscored: Vec<(String, String)>,
}

pub(crate) fn test(
    context: &Context<'_>,
    token: &TestSetToken<'_>,
    prepared: &Prepared,
    baselines: &[Scored],
    candidates: &[ExpertCandidate],
) -> Result<Tested, PipelineError> {
    let mut scored: Vec<(Role, ModelScores)> = Vec::new();
    let mut unscored = Vec::new();
    let mut enter = |role: Role, result: Scored| match result {
        Scored::Scores(scores) => scored.push((role, scores)),
        Scored::Unscored { name, reason } => unscored.push((name, reason)),
    };
    // Models that could not be scored on the proxy items are not tried again.
    for (model, _) in context.zoo.models.iter().zip(baselines).filter(|(_, single)| single.scores().is_some()) {
        enter(Role::Single, context.score(&model.name, &model.path, prepared)?);
    }
    for candidate in candidates.iter().filter(|c| c.kind == CandidateKind::Merged) {
        let path = context.outside_path(&candidate.path, candidate.made);
        enter(Role::Merged, context.score(&candidate.name, &path, prepared)?);
    }
    let TestSetToken { decided, stage } = token;
    let path = decided_path(context, decided, stage);
    let last = context.score("final", &path, prepared)?.required()?;
    let baselines = scored.iter().filter(|(role, _)| *role == Role::Single).map(|(_, scores)| scores);
    let best = baselines.fold(None::<&ModelScores>, |best, scores| {
        best.filter(|best| best.average() >= scores.average()).or(Some(scores))
    });
    let gain_stderr = best.map(|best| gain(&last, best).1);
    let items = last.tasks.iter().map(|task| (task.task.clone(), task.items.len())).collect();
    scored.push((Role::Final, last));
    let rows = scored
        .into_iter()
        .map(|(role, scores)| report::TestRow { name: scores.name.clone(), role, scores: scores.scores() })
        .collect();
    Ok(Tested { test: report::Test { split: context.config.tasks.test.clone(), rows, gain_stderr }, items, unscored })
}
