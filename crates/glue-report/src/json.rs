//! `report.json`: first what scripts rely on, then all data.

use crate::check::check;
use crate::data::{Cost, Report, Role, TestRow};
use crate::error::ReportError;
use crate::summary::{Best, Summary, is_single, summary};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Version of the form of `report.json`; a change that breaks scripts makes it one more.
pub const FORMAT: u64 = 1;

/// `report.json`: a function of the data alone, so that equal runs give equal bytes. Ends with a line feed.
///
/// - `models`: for each model of the zoo its test score in each task, and `average`.
/// - `best_single`: `name`, `average`, `stderr`.
/// - `merged`: `name`, `average`, `stderr` and `tasks` of the best merge, and all of them under `clusters`.
/// - `final`: `path`, `name`, `kind`, `made_of`, `parameters`, `parameters_active`, `average`, `stderr`, `tasks`,
///   `of_oracle`, `gain`.
/// - `oracle`: `average`, and under `tasks` the `model` and `score` of each task's best single model.
/// - `unfinished`: the last stage that is complete, or `null` for a finished run.
/// - `tasks`: names. `warnings`: sentences. `format`: [`FORMAT`].
/// - `data`: all of [`Report`].
///
/// What the test did not give is `null`; an object is then empty, or lacks what it cannot have.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Shape`], [`ReportError::Name`], [`ReportError::Join`] for data that
/// contradicts itself.
pub fn json(report: &Report) -> Result<String, ReportError> {
    check(report, None)?;
    let summary = summary(report);
    let document = json!({
        "format": FORMAT,
        "title": report.run.title,
        "unfinished": report.run.unfinished,
        "models": rows(report, &is_single),
        "best_single": summary.best_single.as_ref().map_or(Value::Null, best),
        "merged": merged(report, &summary),
        "final": last(report, &summary),
        "oracle": oracle(&summary),
        "tasks": report.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(),
        "warnings": report.warnings,
        "data": serde_json::to_value(report)?,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

/// The data that a `report.json` was written from.
///
/// # Errors
/// [`ReportError::Json`] for text that is not a `report.json`, and the errors of [`json()`] for one that contradicts
/// itself.
pub fn from_json(text: &str) -> Result<Report, ReportError> {
    #[derive(Deserialize)]
    struct Document {
        data: Report,
    }
    let document: Document = serde_json::from_str(text)?;
    check(&document.data, None)?;
    Ok(document.data)
}

/// `cost.json`. Ends with a line feed.
///
/// # Errors
/// [`ReportError::NotFinite`] for a time that is not a number.
pub fn cost_json(cost: &Cost) -> Result<String, ReportError> {
    check(&Report::default(), Some(cost))?;
    Ok(format!("{}\n", serde_json::to_string_pretty(cost)?))
}

fn best(best: &Best) -> Value {
    json!({"name": best.name, "average": best.average.value, "stderr": best.average.stderr})
}

/// The scores of a row by task.
fn tasks(report: &Report, row: &TestRow) -> Map<String, Value> {
    let scored = report.tasks.iter().filter_map(|task| Some((task.name.clone(), row.get(&task.name)?.value.into())));
    scored.collect()
}

/// The rows of a kind, each with its scores by task and its average.
fn rows(report: &Report, belongs: &dyn Fn(&TestRow) -> bool) -> Value {
    let rows = report.test.iter().flat_map(|test| &test.rows).filter(|row| belongs(row));
    let rows = rows.map(|row| {
        let mut scores = tasks(report, row);
        scores.insert("average".to_string(), row.average(&report.tasks).map(|score| score.value).into());
        (row.name.clone(), Value::Object(scores))
    });
    Value::Object(rows.collect())
}

fn with_tasks(report: &Report, found: &Best) -> Value {
    let mut value = best(found);
    let row = report.test.iter().flat_map(|test| &test.rows).find(|row| row.name == found.name);
    if let (Some(object), Some(row)) = (value.as_object_mut(), row) {
        object.insert("tasks".to_string(), Value::Object(tasks(report, row)));
    }
    value
}

fn merged(report: &Report, summary: &Summary) -> Value {
    let mut value = summary.best_merged.as_ref().map_or(json!({}), |found| with_tasks(report, found));
    if let Some(object) = value.as_object_mut() {
        object.insert("clusters".to_string(), rows(report, &|row| row.role == Role::Merged));
    }
    value
}

fn last(report: &Report, summary: &Summary) -> Value {
    if report.outcome.is_none() && summary.last.is_none() {
        return Value::Null;
    }
    let outcome = report.outcome.as_ref();
    let mut object = Map::new();
    object.insert("path".to_string(), outcome.map(|outcome| outcome.path.as_str()).into());
    object.insert("kind".to_string(), outcome.map_or(Value::Null, |outcome| json!(outcome.kind)));
    object.insert("made_of".to_string(), outcome.map_or(Value::Null, |outcome| json!(outcome.made_of)));
    object.insert("parameters".to_string(), outcome.map(|outcome| outcome.parameters).into());
    object.insert("parameters_active".to_string(), outcome.and_then(|outcome| outcome.parameters_active).into());
    match summary.last.as_ref().map(|found| with_tasks(report, found)) {
        Some(Value::Object(scores)) => object.extend(scores),
        _ => {
            object.insert("name".to_string(), outcome.map(|outcome| outcome.name.as_str()).into());
            object.insert("average".to_string(), Value::Null);
        }
    }
    object.insert("of_oracle".to_string(), summary.of_oracle.into());
    let gain = summary.gain.map(
        |gain| json!({"value": gain.value, "stderr": gain.stderr, "paired": gain.paired, "relative": gain.relative}),
    );
    object.insert("gain".to_string(), gain.unwrap_or(Value::Null));
    Value::Object(object)
}

fn oracle(summary: &Summary) -> Value {
    let Some(oracle) = &summary.oracle else { return Value::Null };
    let tasks: Map<String, Value> = oracle
        .picks
        .iter()
        .map(|(task, model, score)| (task.clone(), json!({"model": model, "score": score.value})))
        .collect();
    json!({"average": oracle.average.value, "stderr": oracle.average.stderr, "tasks": tasks})
}
