//! The scores of one model for people: groups with their members below them.

use super::Scored;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use crate::visible::one_line;
use glue_eval::groups::{GroupReport, group_scores};
use glue_eval::{Member, Report, Task, TaskGroup, TaskReport, TaskSet};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A line of a table: a task or a group, and how deep it is in groups.
pub(super) enum Line<'a> {
    /// A task with its number in the report.
    Task(&'a Task, usize),
    Group(&'a TaskGroup),
}

/// Groups with their members below them, then what is in no group. Each once.
pub(super) fn lines<'a>(set: &'a TaskSet, report: &Report) -> Vec<(usize, Line<'a>)> {
    let inner: BTreeSet<&str> = set.groups.iter().flat_map(TaskGroup::members).map(Member::name).collect();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for group in set.groups.iter().filter(|group| !inner.contains(group.name())) {
        below(Member::Group(group.name().to_owned()), 0, set, report, &mut seen, &mut found);
    }
    for task in &set.tasks {
        below(Member::Task(task.name().to_owned()), 0, set, report, &mut seen, &mut found);
    }
    found
}

fn below<'a>(
    member: Member,
    depth: usize,
    set: &'a TaskSet,
    report: &Report,
    seen: &mut BTreeSet<Member>,
    found: &mut Vec<(usize, Line<'a>)>,
) {
    let name = member.name().to_owned();
    let is_group = matches!(member, Member::Group(_));
    if !seen.insert(member) {
        return;
    }
    if is_group {
        let Some(group) = set.groups.iter().find(|group| group.name() == name) else { return };
        found.push((depth, Line::Group(group)));
        for member in group.members() {
            below(member.clone(), depth + 1, set, report, seen, found);
        }
    } else {
        let task = set.tasks.iter().find(|task| task.name() == name);
        let number = report.tasks.iter().position(|task| task.name == name);
        if let (Some(task), Some(number)) = (task, number) {
            found.push((depth, Line::Task(task, number)));
        }
    }
}

/// The name of a line, under the groups that it is in.
pub(in crate::commands) fn shown(depth: usize, name: &str) -> String {
    if depth == 0 { name.to_owned() } else { format!("{}- {name}", " ".repeat(depth * 2 - 1)) }
}

/// The scores of groups as JSON, by name; nothing without groups.
pub(super) fn groups_json(groups: &[GroupReport]) -> Option<Value> {
    let all: Map<String, Value> = groups.iter().map(|group| (group.name.clone(), group.to_json())).collect();
    (!all.is_empty()).then_some(Value::Object(all))
}

/// Notes on tasks, one on each line.
pub(super) fn notes(report: &Report) -> String {
    let mut text = String::new();
    for task in &report.tasks {
        for note in &task.notes {
            let _ = writeln!(text, "{}: {}", one_line(&task.name), one_line(note));
        }
    }
    text
}

fn version(task: &Task) -> String {
    match task.version() {
        None => String::new(),
        Some(Value::String(version)) => version.clone(),
        Some(version) => version.to_string(),
    }
}

struct Row {
    name: String,
    version: String,
    filter: String,
    shots: String,
    metric: String,
    value: f64,
    stderr: Option<f64>,
    n: String,
    split: String,
}

fn task_rows(depth: usize, task: &Task, report: &TaskReport, rows: &mut Vec<Row>) {
    for (index, ((metric, filter), found)) in task.metric_keys().into_iter().zip(&report.metrics).enumerate() {
        let first = |text: String| if index == 0 { text } else { String::new() };
        rows.push(Row {
            name: first(shown(depth, task.alias())),
            version: first(version(task)),
            filter: filter.to_owned(),
            shots: first(report.num_fewshot.to_string()),
            metric: metric.to_owned(),
            value: found.value,
            stderr: found.stderr,
            n: first(units::count(report.n as u64)),
            split: first(report.split.clone()),
        });
    }
}

fn group_rows(depth: usize, group: &TaskGroup, scores: Option<&GroupReport>, rows: &mut Vec<Row>) {
    let of = |metric: Option<&glue_eval::groups::GroupMetric>, index: usize| Row {
        name: if index == 0 { shown(depth, group.alias()) } else { String::new() },
        version: group.version().filter(|_| index == 0).unwrap_or_default().to_owned(),
        filter: metric.map_or_else(String::new, |metric| metric.filter.clone()),
        shots: String::new(),
        metric: metric.map_or_else(String::new, |metric| metric.metric.clone()),
        value: metric.map_or(f64::NAN, |metric| metric.value),
        stderr: metric.and_then(|metric| metric.stderr),
        n: metric.filter(|_| index == 0).map_or_else(String::new, |metric| units::count(metric.n as u64)),
        split: String::new(),
    };
    match scores.map(|scores| scores.metrics.as_slice()) {
        None | Some([]) => rows.push(of(None, 0)),
        Some(metrics) => rows.extend(metrics.iter().enumerate().map(|(index, metric)| of(Some(metric), index))),
    }
}

/// Prints the scores of a model.
pub(super) fn print(scored: &Scored, set: &TaskSet, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let Scored { report, routing, server, time, .. } = scored;
    let groups = group_scores(&set.groups, &set.tasks, report);
    if shell.json() {
        let mut document = report.to_json();
        if let Some(groups) = groups_json(&groups) {
            document["groups"] = groups;
        }
        if let Some(routing) = routing {
            document["routing"] = routing.to_json();
        }
        if let Some(server) = server {
            document["server"] = server.clone();
        }
        document["seconds"] = json!(time.as_secs_f64());
        return shell.print_json(&document);
    }
    let mut rows = Vec::new();
    for (depth, line) in lines(set, report) {
        match line {
            Line::Task(task, number) => task_rows(depth, task, &report.tasks[number], &mut rows),
            Line::Group(group) => {
                let scores = groups.iter().find(|scores| scores.name == group.name());
                group_rows(depth, group, scores, &mut rows);
            }
        }
    }
    // Columns that say nothing are left out.
    let versions = rows.iter().any(|row| !row.version.is_empty());
    let filters = rows.iter().any(|row| !matches!(row.filter.as_str(), "" | "none"));
    let mut columns = vec![("TASK", Align::Left)];
    columns.extend(versions.then_some(("VERSION", Align::Right)));
    columns.extend(filters.then_some(("FILTER", Align::Left)));
    columns.extend([
        ("N-SHOT", Align::Right),
        ("METRIC", Align::Left),
        ("VALUE", Align::Right),
        ("STDERR", Align::Right),
        ("ITEMS", Align::Right),
        ("SPLIT", Align::Left),
    ]);
    let mut table = Table::with_header(&columns);
    let stderr = |stderr: Option<f64>| stderr.map_or_else(String::new, |error| format!("±{error:.4}"));
    let cells = |name: String, version: String, filter: String, rest: [String; 6]| -> Vec<String> {
        let middle = versions.then_some(version).into_iter().chain(filters.then_some(filter));
        std::iter::once(name).chain(middle).chain(rest).collect()
    };
    for row in rows {
        let value = if row.metric.is_empty() { String::new() } else { format!("{:.4}", row.value) };
        let rest = [row.shots, row.metric, value, stderr(row.stderr), row.n, row.split];
        table.row(cells(row.name, row.version, row.filter, rest));
    }
    let average = report.average();
    if let (Ok(average), true) = (&average, report.tasks.len() > 1) {
        let value = format!("{:.4}", average.value);
        let nothing = String::new;
        let rest = [nothing(), nothing(), value, stderr(average.stderr), nothing(), nothing()];
        table.row(cells("average".into(), nothing(), nothing(), rest));
    }
    let mut text = table.render(|line| shell.heading(line));
    if let Err(error) = average {
        let _ = writeln!(text, "no average: {}", one_line(&error.to_string()));
    }
    text += &notes(report);
    if let Some(routing) = routing {
        text.push('\n');
        text += &routing.text(|line| shell.heading(line));
    }
    let cached = report.tasks.iter().filter(|task| task.cached).count();
    let time = units::duration(time.as_secs_f64());
    let _ = match cached {
        0 => writeln!(text, "scored in {time}"),
        n => writeln!(text, "scored in {time}, {} from the cache", units::things(n, "task", "tasks")),
    };
    shell.print(&text)
}
