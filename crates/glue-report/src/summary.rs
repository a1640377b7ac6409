//! What follows from the test: best single model, oracle, gain, forgetting; and the lines a report begins with.

use crate::data::{FinalKind, Report, Role, Score, ScoreTable, SizeRow, TestRow, mean};
use crate::format;
use glue_text::words;
use serde::Serialize;
use std::fmt;

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

/// A task on which a base is significantly better than the final model.
#[derive(Debug, Clone, PartialEq)]
pub struct Forgotten {
    /// Name of the base.
    pub base: String,
    /// Name of the task.
    pub task: String,
    /// Score of the base.
    pub before: Score,
    /// Score of the final model.
    pub after: Score,
    /// The difference, below 0, with its standard error.
    pub change: Score,
}

/// What follows from the test. Every field is `None` or empty where the test did not run or lacks what is needed.
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
    /// Tasks on which a base is better than the final model by more than two standard errors, base by base.
    pub forgotten: Vec<Forgotten>,
}

/// One of the lines a report begins with: plain text. Displayed, it is its label, a colon and the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it is about, in one or two words.
    pub label: &'static str,
    /// The line.
    pub text: String,
    /// A command that belongs to it.
    pub command: Option<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.label, self.text)
    }
}

impl Line {
    pub(crate) fn new(label: &'static str, text: String) -> Line {
        Line { label, text, command: None }
    }
}

impl Gain {
    /// Whether the gain, or the loss, is larger than two standard errors, which it is by chance in about one of twenty
    /// cases. A gain without a standard error counts as clear unless it is 0.
    pub fn is_clear(&self) -> bool {
        is_clear(self.value, self.stderr)
    }
}

/// Whether a difference is larger than two standard errors.
pub(crate) fn is_clear(difference: f64, stderr: Option<f64>) -> bool {
    difference.abs() > 2.0 * stderr.unwrap_or(0.0)
}

/// The difference of two scores of independent items.
pub(crate) fn independent(after: Score, before: Score) -> Score {
    let stderr = after.stderr.zip(before.stderr).map(|(a, b)| a.hypot(b));
    Score { value: after.value - before.value, stderr, n: None }
}

/// Whether a row is a model of the zoo.
pub(crate) fn is_single(row: &TestRow) -> bool {
    matches!(row.role, Role::Single | Role::Base)
}

/// What follows from the test of `report`.
pub fn summary(report: &Report) -> Summary {
    let Some(test) = &report.test else { return Summary::default() };
    let best = |belongs: &dyn Fn(&TestRow) -> bool| {
        let rows = test.rows.iter().filter(|row| belongs(row));
        let scored = rows.filter_map(|row| Some(Best { name: row.name.clone(), average: row.average(&report.tasks)? }));
        scored.fold(None, |best: Option<Best>, row| match best {
            Some(best) if best.average.value >= row.average.value => Some(best),
            _ => Some(row),
        })
    };
    let (best_single, best_merged) = (best(&is_single), best(&|row| row.role == Role::Merged));
    let last = best(&|row| row.role == Role::Final);
    let oracle = oracle(report);
    let gain = best_single.as_ref().zip(last.as_ref()).map(|(single, last)| {
        let difference = independent(last.average, single.average);
        let relative = (single.average.value > 0.0).then(|| difference.value / single.average.value);
        let (stderr, paired) = (test.gain_stderr.or(difference.stderr), test.gain_stderr.is_some());
        Gain { value: difference.value, stderr, paired, relative }
    });
    let of_oracle = oracle
        .as_ref()
        .zip(last.as_ref())
        .and_then(|(oracle, last)| (oracle.average.value > 0.0).then(|| last.average.value / oracle.average.value));
    Summary { best_single, best_merged, last, oracle, gain, of_oracle, forgotten: forgotten(report) }
}

fn oracle(report: &Report) -> Option<Oracle> {
    let singles: Vec<&TestRow> = report.test.as_ref()?.rows.iter().filter(|row| is_single(row)).collect();
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

/// Change of the final model against a base in a task, paired where the data has that.
pub(crate) fn change(report: &Report, base: &TestRow, last: &TestRow, task: &str) -> Option<Score> {
    let paired = report.test.as_ref()?.over_bases.iter().find(|row| row.name == base.name);
    paired.and_then(|row| row.get(task)).or_else(|| Some(independent(last.get(task)?, base.get(task)?)))
}

fn forgotten(report: &Report) -> Vec<Forgotten> {
    let rows = || report.test.iter().flat_map(|test| &test.rows);
    let Some(last) = rows().find(|row| row.role == Role::Final) else { return Vec::new() };
    let mut forgotten = Vec::new();
    for base in rows().filter(|row| row.role == Role::Base) {
        for task in &report.tasks {
            let Some(change) = change(report, base, last, &task.name) else { continue };
            let (Some(before), Some(after)) = (base.get(&task.name), last.get(&task.name)) else { continue };
            if change.value < 0.0 && is_clear(change.value, change.stderr) {
                let (base, task) = (base.name.clone(), task.name.clone());
                forgotten.push(Forgotten { base, task, before, after, change });
            }
        }
    }
    forgotten
}

/// That a run is not finished, in words.
pub(crate) fn unfinished(report: &Report) -> Option<String> {
    let so_far = match report.run.unfinished.as_deref()? {
        "" => "No stage is complete yet.".to_string(),
        stage => format!("The last complete stage is {stage}."),
    };
    let now = report.run.activity.as_ref().map_or(String::new(), |activity| {
        let phase = Some(&activity.phase).filter(|phase| !phase.is_empty());
        let phase = phase.map_or(String::new(), |phase| format!(", {phase}"));
        let done = match activity.total {
            _ if activity.unit.is_empty() => String::new(),
            Some(total) => format!(": {} of {total} {}", activity.done, activity.unit),
            None => format!(": {} {}", activity.done, activity.unit),
        };
        format!(" When this was written, the run was in stage {}{phase}{done}.", activity.stage)
    });
    Some(format!("{so_far}{now} This page is rewritten as the run continues."))
}

/// The lines a report begins with. The first says what the final model is and what was gained; then come smaller models
/// that are worth a look, the comparison with the oracle, what was merged, what was forgotten, what was dropped and
/// why, and where the model is. What is not known yet is left out or says so.
pub fn lines(report: &Report) -> Vec<Line> {
    let first = unfinished(report).map(|text| Line::new("Not finished", text));
    first.into_iter().chain(answer(report)).collect()
}

/// The lines without the one that says that the run is not finished.
pub(crate) fn answer(report: &Report) -> Vec<Line> {
    let summary = summary(report);
    let mut lines = vec![Line::new("Result", result(report, &summary))];
    lines.extend(so_far(report).map(|text| Line::new("So far", text)));
    lines.extend(smaller(report).map(|text| Line::new("Smaller", text)));
    lines.extend(against_oracle(&summary).map(|text| Line::new("Oracle", text)));
    lines.extend(merged(report, &summary).map(|text| Line::new("Merged", text)));
    lines.extend(forgetting(report, &summary).map(|text| Line::new("Forgotten", text)));
    lines.extend(dropped(report).map(|text| Line::new("Dropped", text)));
    lines.extend(place(report));
    lines
}

/// What the final model is, and what was gained.
pub(crate) fn result(report: &Report, summary: &Summary) -> String {
    let Some(outcome) = &report.outcome else { return "final has not been decided yet.".to_string() };
    let mut size = Vec::new();
    if outcome.parameters > 0 {
        size.push(format!("{} parameters", words::short(outcome.parameters)));
    }
    let active = outcome.parameters_active.filter(|active| *active < outcome.parameters);
    size.extend(active.map(|active| format!("{} active", words::short(active))));
    let size = if size.is_empty() { String::new() } else { format!(" ({})", size.join(", ")) };
    match outcome.kind {
        FinalKind::Single => {
            let name = outcome.made_of.iter().flatten().next().map_or("one model of the zoo", String::as_str);
            let first = format!("final is {name} unchanged{size}: no merge or mixture scored significantly better.");
            unchanged(first, name, summary)
        }
        FinalKind::Merged => {
            let names: Vec<&str> = outcome.made_of.iter().flatten().map(String::as_str).collect();
            let what = if names.is_empty() { "a merge".to_string() } else { merge_of(&names) };
            format!("final is {what}{size}{}", gained(summary))
        }
        FinalKind::Mixture => {
            let count = outcome.made_of.len();
            let what = match count {
                0 => "a mixture".to_string(),
                _ => {
                    let models = words::things(count, "model", "models");
                    format!("a mixture of {models}: {}", experts(&outcome.made_of))
                }
            };
            format!("final is {what}{size}{}", gained(summary))
        }
    }
}

/// `the merge of a and b`.
pub(crate) fn merge_of<S: AsRef<str>>(names: &[S]) -> String {
    format!("the merge of {}", words::list(names))
}

/// The experts of a mixture in words: models by name, then merges.
fn experts(made_of: &[Vec<String>]) -> String {
    const SHOWN: usize = 8;
    let singles = made_of.iter().filter(|models| models.len() == 1).map(|models| models[0].clone());
    let merges: Vec<String> = made_of.iter().filter(|models| models.len() > 1).map(|m| merge_of(m)).collect();
    let mut all: Vec<String> = singles.collect();
    let comma = !merges.is_empty();
    all.extend(merges);
    if all.len() > SHOWN {
        let rest = all.split_off(SHOWN - 1).len();
        all.push(format!("{rest} more"));
    }
    match all.as_slice() {
        // A comma keeps the list apart from those inside of it.
        [first @ .., last] if comma && !first.is_empty() => format!("{}, and {last}", first.join(", ")),
        _ => words::list(&all),
    }
}

/// The end of a sentence: the score and the gain.
fn gained(summary: &Summary) -> String {
    let Some(last) = &summary.last else { return ". It has not been tested yet.".to_string() };
    let (Some(single), Some(gain)) = (&summary.best_single, summary.gain) else {
        return format!(": {} on the test items.", format::with_error(last.average));
    };
    let points = format::points(Score { value: gain.value, stderr: gain.stderr, n: None });
    let (score, name) = (format::score(last.average.value), &single.name);
    match (gain.is_clear(), gain.value > 0.0) {
        (true, true) => format!(": {score}, {points} over the best single model, {name}."),
        (true, false) => format!(": {score}, {points} against the best single model, {name}: it is worse."),
        (false, _) => {
            format!(": {score}, {points} against the best single model, {name}, which is no clear difference.")
        }
    }
}

/// What to add where the final model is one of the zoo.
fn unchanged(first: String, name: &str, summary: &Summary) -> String {
    let (Some(last), Some(single)) = (&summary.last, &summary.best_single) else { return first };
    let mut text = format!("{first} It scores {} on the test items.", format::with_error(last.average));
    if let Some(gain) = summary.gain.filter(|gain| gain.value < 0.0 && single.name != name) {
        let points = format::points(Score { value: gain.value, stderr: gain.stderr, n: None });
        let clear = if gain.is_clear() { "" } else { ", which is no clear difference" };
        text += &format!(" On these, {} has the highest average: {points}{clear}.", single.name);
    }
    text
}

/// What is known of a run that has no final model yet.
fn so_far(report: &Report) -> Option<String> {
    if report.outcome.is_some() {
        return None;
    }
    let mut parts = Vec::new();
    if let Some((name, split, score)) = report.individual.first().and_then(|table| best_of(report, table)) {
        parts.push(format!("the best single model is {name} with {} on {split}", format::with_error(score)));
    }
    for selection in &report.selections {
        let best = selection.strategies.iter().filter_map(|strategy| strategy.proxy);
        let Some(best) = best.reduce(|a, b| if b.value > a.value { b } else { a }) else { continue };
        let evaluations: u64 = selection.strategies.iter().map(|strategy| strategy.evaluations).sum();
        parts.push(format!(
            "the best merge of cluster {} has {} on the search items after {}",
            selection.cluster,
            format::with_error(best),
            words::things(evaluations as usize, "evaluation", "evaluations")
        ));
    }
    if let Some(frontier) = report.frontier.as_ref().filter(|frontier| !frontier.points.is_empty()) {
        let counts = || frontier.points.iter().map(|point| point.experts.len());
        let (most, least) = (counts().max().unwrap_or(0), counts().min().unwrap_or(0));
        parts.push(format!("the frontier goes from {} down to {least}", words::things(most, "model", "models")));
    }
    (!parts.is_empty()).then(|| format!("{}.", format::capital(&parts.join("; "))))
}

/// The best model of a table: name, split, average.
fn best_of<'a>(report: &Report, table: &'a ScoreTable) -> Option<(&'a str, &'a str, Score)> {
    let scored = table.rows.iter().filter_map(|row| Some((row.name.as_str(), row.average(&report.tasks)?)));
    let best = scored.reduce(|a, b| if b.1.value > a.1.value { b } else { a });
    best.map(|(name, score)| (name, table.split.as_str(), score))
}

/// What can be had with fewer parameters than the final model has.
fn smaller(report: &Report) -> Option<String> {
    let last = report.sizes.iter().find(|row| row.last)?;
    let smaller = |row: &&SizeRow| row.pareto && row.parameters < last.parameters;
    let rows = report.sizes.iter().filter(smaller).map(|row| {
        let gain = row.gain.map_or(String::new(), |gain| format!(" ({})", format::points(gain)));
        let size = words::short(row.parameters);
        format!("{}, {}: {} with {size} parameters{gain}", row.what, row.name, format::with_error(row.score))
    });
    let rows: Vec<String> = rows.collect();
    (!rows.is_empty()).then(|| format!("{}.", format::capital(&rows.join("; "))))
}

fn against_oracle(summary: &Summary) -> Option<String> {
    let oracle = summary.oracle.as_ref()?;
    let mut names: Vec<&str> = oracle.picks.iter().map(|(_, model, _)| model.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let what = format!(
        "perfect routing (oracle), which asks each task's best single model, {} in all",
        words::things(names.len(), "model", "models")
    );
    let score = format::with_error(oracle.average);
    Some(match summary.of_oracle {
        Some(fraction) => format!("{} of {score}, the score of {what}.", format::percent(fraction)),
        None => format!("{score} is the score of {what}."),
    })
}

/// What was merged, and whether the final model has it.
fn merged(report: &Report, summary: &Summary) -> Option<String> {
    let mut parts = Vec::new();
    match &report.outcome {
        Some(outcome) => {
            let merges = outcome.made_of.iter().filter(|models| models.len() > 1);
            let merges: Vec<String> = merges.map(|models| words::list(models)).collect();
            parts.push(match (merges.is_empty(), outcome.made_of.is_empty()) {
                (false, _) => format!("{}, in final.", merges.join("; ")),
                (true, false) => "Nothing in final is merged.".to_string(),
                (true, true) => return None,
            });
        }
        None => {
            for selection in report.selections.iter().filter(|selection| selection.chosen.is_some()) {
                let Some(weights) = &selection.weights else { continue };
                let names: Vec<&str> = weights.rows.iter().map(|row| row.model.as_str()).collect();
                parts.push(format!("Cluster {}: {}.", selection.cluster, words::list(&names)));
            }
        }
    }
    if let Some(best) = &summary.best_merged {
        parts.push(format!("The best merge alone, {}, scores {}.", best.name, format::with_error(best.average)));
    }
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn forgetting(report: &Report, summary: &Summary) -> Option<String> {
    let rows = || report.test.iter().flat_map(|test| &test.rows);
    let bases: Vec<&str> = rows().filter(|row| row.role == Role::Base).map(|row| row.name.as_str()).collect();
    summary.last.as_ref().filter(|_| !bases.is_empty())?;
    if summary.forgotten.is_empty() {
        let base = if bases.len() == 1 { "the base" } else { "a base" };
        return Some(format!("Nothing: on no task is {base}, {}, significantly better than final.", or(&bases)));
    }
    let parts = summary.forgotten.iter().map(|found| {
        let (before, after) = (format::score(found.before.value), format::score(found.after.value));
        format!("{} ({} {before}, final {after}: {})", found.task, found.base, format::points(found.change))
    });
    Some(format!("{}.", parts.collect::<Vec<_>>().join("; ")))
}

/// `a`, `a or b`, `a, b or c`.
fn or(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    }
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

fn dropped(report: &Report) -> Option<String> {
    const SHOWN: usize = 3;
    let dropped = dropped_list(report);
    if dropped.is_empty() {
        return report.outcome.as_ref().map(|_| "Nothing was dropped.".to_string());
    }
    let shown: Vec<String> =
        dropped.iter().take(SHOWN).map(|(name, why)| format!("{name} ({})", format::start(why, 110))).collect();
    let rest = match dropped.len().saturating_sub(SHOWN) {
        0 => String::new(),
        rest => format!("; {rest} more"),
    };
    Some(format!("{}{rest}.", shown.join("; ")))
}

fn place(report: &Report) -> Option<Line> {
    let last = report.outcome.as_ref()?;
    let mut facts = vec![format!("{}:", last.path)];
    facts.extend(last.bytes.map(|bytes| format!("{} on disk", words::bytes(bytes))));
    facts.extend((!last.dtype.is_empty()).then(|| last.dtype.clone()));
    let text = match facts.as_slice() {
        [_] => format!("{}.", last.path),
        [path, rest @ ..] => format!("{path} {}.", rest.join(", ")),
        [] => String::new(),
    };
    Some(Line { label: "Model", text, command: last.usage.first().map(|usage| usage.command.clone()) })
}
