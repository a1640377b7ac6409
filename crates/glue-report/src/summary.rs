//! What follows from the test: best single model, oracle, gain; and the five lines a report begins with.

use crate::data::{FinalKind, Report, Role, Score, TestRow, mean};
use crate::format;
use glue_text::words;

/// The model with the highest average of its role.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Its name.
    pub name: String,
    /// Its average over all tasks.
    pub average: Score,
}

/// Each task's best single model: perfect routing (oracle). It is chosen on the test items themselves, which makes it
/// slightly better than any choice made beforehand.
#[derive(Debug, Clone, PartialEq)]
pub struct Oracle {
    /// Task, model and score, in the order of the tasks.
    pub picks: Vec<(String, String, Score)>,
    /// The mean of the scores.
    pub average: Score,
}

/// How much better the final model is than the best single one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// Difference of the averages.
    pub value: f64,
    /// Standard error of the difference, where it is known.
    pub stderr: Option<f64>,
    /// Whether it is from differences per item, and not from two averages taken as independent.
    pub paired: bool,
    /// The difference as a fraction of the best single model's average; `None` if that is not positive.
    pub relative: Option<f64>,
}

/// What follows from the test. Every field is `None` where the test did not run or lacks what is needed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// The single model with the highest average; the first of equals.
    pub best_single: Option<Best>,
    /// The merged model with the highest average; the first of equals.
    pub best_merged: Option<Best>,
    /// The final model.
    pub last: Option<Best>,
    /// The oracle over single models.
    pub oracle: Option<Oracle>,
    /// The gain of the final model.
    pub gain: Option<Gain>,
    /// The average of the final model as a fraction of the oracle's.
    pub of_oracle: Option<f64>,
}

/// One of the five lines: plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is about, in one or two words.
    pub label: &'static str,
    /// The line.
    pub text: String,
    /// A command that belongs to it.
    pub command: Option<String>,
}

/// What follows from the test of `report`.
pub fn summary(report: &Report) -> Summary {
    let Some(test) = &report.test else { return Summary::default() };
    let best = |role: Role| {
        let rows = test.rows.iter().filter(|row| row.role == role);
        let scored = rows.filter_map(|row| Some(Best { name: row.name.clone(), average: row.average(&report.tasks)? }));
        scored.fold(None, |best: Option<Best>, row| match best {
            Some(best) if best.average.value >= row.average.value => Some(best),
            _ => Some(row),
        })
    };
    let (best_single, best_merged, last) = (best(Role::Single), best(Role::Merged), best(Role::Final));
    let oracle = oracle(report);
    let gain = best_single.as_ref().zip(last.as_ref()).map(|(single, last)| {
        let value = last.average.value - single.average.value;
        let independent = single.average.stderr.zip(last.average.stderr).map(|(a, b)| a.hypot(b));
        let relative = (single.average.value > 0.0).then(|| value / single.average.value);
        Gain { value, stderr: test.gain_stderr.or(independent), paired: test.gain_stderr.is_some(), relative }
    });
    let of_oracle = oracle
        .as_ref()
        .zip(last.as_ref())
        .and_then(|(oracle, last)| (oracle.average.value > 0.0).then(|| last.average.value / oracle.average.value));
    Summary { best_single, best_merged, last, oracle, gain, of_oracle }
}

fn oracle(report: &Report) -> Option<Oracle> {
    let singles: Vec<&TestRow> = report.test.as_ref()?.rows.iter().filter(|row| row.role == Role::Single).collect();
    let mut picks = Vec::new();
    for task in &report.tasks {
        let scored = singles.iter().filter_map(|row| Some((row, row.get(&task.name)?)));
        let (row, score) = scored.fold(None, |best: Option<(&&TestRow, Score)>, (row, score)| match best {
            Some((_, high)) if high.value >= score.value => best,
            _ => Some((row, score)),
        })?;
        picks.push((task.name.clone(), row.name.clone(), score));
    }
    let scores: Vec<Score> = picks.iter().map(|(_, _, score)| *score).collect();
    Some(Oracle { picks, average: mean(&scores)? })
}

/// The five lines a report begins with: what was gained, against the oracle, what was merged, what was dropped and why,
/// and where the model is. Always five; what is not known yet says so.
pub fn lines(report: &Report) -> [Line; 5] {
    let summary = summary(report);
    let usage = report.outcome.as_ref().and_then(|last| last.usage.first());
    [
        Line { label: "Gain", text: gain(report, &summary), command: None },
        Line { label: "Oracle", text: against_oracle(&summary), command: None },
        Line { label: "Merged", text: merged(report, &summary), command: None },
        Line { label: "Dropped", text: dropped(report), command: None },
        Line { label: "Model", text: place(report), command: usage.map(|usage| usage.command.clone()) },
    ]
}

fn gain(report: &Report, summary: &Summary) -> String {
    let (Some(single), Some(last), Some(gain)) = (&summary.best_single, &summary.last, summary.gain) else {
        return "Unknown: the test has not run.".to_string();
    };
    let stderr = gain.stderr.map_or(String::new(), |stderr| format!(" ± {}", format::fixed(stderr * 100.0, 1)));
    let relative = gain.relative.map_or(String::new(), |share| format!(" ({} %)", format::signed(share * 100.0, 1)));
    // Two standard errors, about 95 % of cases.
    let verdict = match gain.stderr {
        Some(stderr) if gain.value.abs() <= 2.0 * stderr => ", which is no clear difference",
        _ => "",
    };
    format!(
        "The final model, {}, scores {} on average over {} of the test split; the best single model, {}, {}. That is {}{stderr} \
         points{relative}{verdict}.",
        last.name,
        format::with_error(last.average),
        words::things(report.tasks.len(), "task", "tasks"),
        single.name,
        format::with_error(single.average),
        format::signed(gain.value * 100.0, 1)
    )
}

fn against_oracle(summary: &Summary) -> String {
    match (&summary.oracle, &summary.last, summary.of_oracle) {
        (Some(oracle), Some(_), Some(share)) => format!(
            "{} of {}, the score of an oracle that routes each task to its best single model.",
            format::percent(share),
            format::with_error(oracle.average)
        ),
        (Some(oracle), _, _) => {
            format!(
                "An oracle that routes each task to its best single model scores {}.",
                format::with_error(oracle.average)
            )
        }
        _ => "Unknown without the test.".to_string(),
    }
}

fn merged(report: &Report, summary: &Summary) -> String {
    let mut parts = Vec::new();
    for selection in &report.selections {
        let Some(weights) = selection.weights.as_ref().filter(|_| selection.chosen.is_some()) else { continue };
        let names: Vec<&str> = weights.rows.iter().map(|row| row.model.as_str()).collect();
        parts.push(format!("cluster {}: {}", selection.cluster, format::list(&names)));
    }
    let mut text = match parts.is_empty() {
        true => "No merge was better than the best of its members alone.".to_string(),
        false => format!("{}.", format::capital(&parts.join("; "))),
    };
    if let Some(best) = summary.best_merged.as_ref().filter(|_| !parts.is_empty()) {
        text += &format!(" The best merge alone scores {}.", format::with_error(best.average));
    }
    let last = report.outcome.as_ref().map(|last| last.kind);
    match &report.mixture {
        Some(mixture) if last != Some(FinalKind::Merged) && last != Some(FinalKind::Single) => {
            let names: Vec<&str> = mixture.experts.iter().map(|expert| expert.name.as_str()).collect();
            let shown =
                if names.len() > 8 { words::things(names.len(), "expert", "experts") } else { format::list(&names) };
            text += &format!(" Mixed by a router: {shown}.");
        }
        _ if last.is_some() => text += " Nothing was mixed.",
        _ => {}
    }
    text
}

/// Everything that was dropped and why: harmful models first, then what the mixture left out, then other candidates.
/// A name stands once, with its first reason.
pub(crate) fn dropped_list(report: &Report) -> Vec<(String, String)> {
    let mut dropped: Vec<(String, String)> = Vec::new();
    let harmful = report.selections.iter().flat_map(|selection| &selection.harmful);
    let harmful = harmful.map(|harmful| (harmful.model.clone(), format!("harmful: {}", harmful.reason)));
    let left_out = report.mixture.iter().flat_map(|mixture| &mixture.left_out);
    let left_out = left_out.map(|left_out| (left_out.name.clone(), left_out.reason.clone()));
    let candidates = report.candidates.iter().filter(|candidate| !candidate.kept);
    let candidates = candidates.map(|candidate| (candidate.name.clone(), candidate.reason.clone()));
    for (name, reason) in harmful.chain(left_out).chain(candidates) {
        if !dropped.iter().any(|(known, _)| *known == name) {
            dropped.push((name, reason));
        }
    }
    dropped
}

fn dropped(report: &Report) -> String {
    const SHOWN: usize = 3;
    let dropped = dropped_list(report);
    if dropped.is_empty() {
        return "Nothing was dropped.".to_string();
    }
    let shown: Vec<String> =
        dropped.iter().take(SHOWN).map(|(name, why)| format!("{name} ({})", format::start(why, 110))).collect();
    let rest = match dropped.len().saturating_sub(SHOWN) {
        0 => String::new(),
        rest => format!("; {rest} more"),
    };
    format!("{}{rest}.", shown.join("; "))
}

fn place(report: &Report) -> String {
    let Some(last) = &report.outcome else { return "No model has been written yet.".to_string() };
    let kind = match last.kind {
        FinalKind::Mixture => "a mixture",
        FinalKind::Merged => "a merged model",
        FinalKind::Single => "a model of the zoo, since nothing was better",
    };
    let active = last.parameters_active.map(|n| format!(", {} of them active for a token", words::short(n)));
    let parameters = words::short(last.parameters);
    let active = active.unwrap_or_default();
    format!("{}: {kind} of {parameters} parameters{active}.", last.path)
}
