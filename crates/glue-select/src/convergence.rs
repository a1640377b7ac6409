//! How the best score grew with the evaluations: as a table, and as a picture.

use crate::summary::Summary;
use glue_report::ReportError;
use glue_report::pictures::{self, Convergence, StrategyScores};
use std::collections::HashSet;
use std::fmt::Write;

/// One evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its number, counted from 1.
    pub evaluation: usize,
    /// The strategy that proposed it; `baseline` for a model alone.
    pub strategy: String,
    /// Its average; `None` when it failed.
    pub average: Option<f64>,
    /// Whether it was dropped before all items were scored.
    pub dropped: bool,
    /// The best average so far.
    pub best: Option<f64>,
    /// Its average on the validation items, if it was scored on them.
    pub validation: Option<f64>,
}

/// The evaluations of a search in order, each once.
pub fn steps(summary: &Summary) -> Vec<Step> {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut best: Option<f64> = None;
    let mut steps = Vec::new();
    for trial in &summary.candidates {
        if !seen.insert(&trial.recipe) {
            continue;
        }
        let dropped = trial.scores.as_ref().is_some_and(|scores| scores.dropped);
        let average = trial.scores.as_ref().map(|scores| scores.average);
        if let Some(average) = average.filter(|_| !dropped) {
            best = Some(best.map_or(average, |best| best.max(average)));
        }
        let (evaluation, strategy) = (steps.len() + 1, trial.strategy.clone());
        steps.push(Step { evaluation, strategy, average, dropped, best, validation: trial.validation });
    }
    steps
}

/// As CSV.
pub fn csv(steps: &[Step]) -> String {
    let mut text = String::from("evaluation,strategy,average,dropped,best,validation\n");
    let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    for step in steps {
        let Step { evaluation, strategy, average, dropped, best, validation } = step;
        let (average, best, validation) = (number(*average), number(*best), number(*validation));
        let _ = writeln!(text, "{evaluation},{strategy},{average},{dropped},{best},{validation}");
    }
    text
}

/// As a picture in SVG.
///
/// # Errors
/// [`ReportError`] for a score that is not a number.
pub fn svg(steps: &[Step]) -> Result<String, ReportError> {
    let mut strategies: Vec<StrategyScores> = Vec::new();
    for step in steps.iter().filter(|step| !step.dropped) {
        let at = strategies.iter().position(|known| known.name == step.strategy).unwrap_or_else(|| {
            strategies.push(StrategyScores { name: step.strategy.clone(), points: Vec::new() });
            strategies.len() - 1
        });
        strategies[at].points.extend(step.average.map(|average| (step.evaluation, average)));
    }
    pictures::convergence(&Convergence {
        title: "Convergence of the search".into(),
        score: "average score, search items".into(),
        evaluations: steps.len(),
        strategies,
    })
}
