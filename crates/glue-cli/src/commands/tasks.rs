//! `glue tasks`: the tasks that are found by name, what runs, and what is missing for the rest.

use super::named_tasks::Sources;
use super::recipes;
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use crate::visible::one_line;
use glue_eval::{Counts, EntryKind, Status, TaskCatalog};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// List the tasks that `glue eval` finds by name, and what is missing for those that do not run
///
/// Tasks are the YAML files of lm-evaluation-harness: those of --include-path, of the checkout that LM_EVAL_TASKS
/// names, or of the installed Python package lm_eval. Nothing is downloaded and no Python is run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue tasks
  glue tasks mmlu gsm8k --data benchmarks
  glue tasks 'blimp_*' --json
  LM_EVAL_TASKS=lm-evaluation-harness glue tasks --all")]
pub(crate) struct Args {
    /// Tasks, groups, tags or shell patterns such as 'mmlu_*'; groups and tags with what is in them (default: counts)
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// List all names
    #[arg(long, conflicts_with = "names")]
    all: bool,

    #[command(flatten)]
    sources: Sources,
}

/// A name in the list, and how deep it is in groups.
struct Line<'a> {
    depth: usize,
    name: &'a str,
    kind: EntryKind,
}

/// Finds and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let pool = recipes::pool(global)?;
    let catalog = pool.install(|| args.sources.get().catalog()).map_err(Failure::refused)?;
    if catalog.roots().is_empty() {
        let why = "no directory of tasks was found";
        let hint = "name one with --include-path, set LM_EVAL_TASKS to a checkout of lm-evaluation-harness, or install \
                    the Python package lm_eval";
        return Err(Failure::refused(std::io::Error::new(std::io::ErrorKind::NotFound, why)).hint(Some(hint)));
    }
    let mut lines = Vec::new();
    let mut seen = BTreeSet::new();
    if args.all {
        lines.extend(catalog.entries().map(|(name, entry)| Line { depth: 0, name, kind: entry.kind() }));
    }
    for pattern in &args.names {
        lines.extend(expanded(&catalog, pattern, &mut seen)?);
    }
    let names: Vec<&str> = lines.iter().map(|line| line.name).collect();
    let statuses = pool.install(|| catalog.statuses(&names));
    let counts = match args.names.is_empty() {
        true => Some(pool.install(|| catalog.counts())),
        false => None,
    };
    if shell.json() {
        return shell.print_json(&document(&catalog, &lines, &statuses, counts.as_ref()));
    }
    let mut text = String::new();
    if !lines.is_empty() {
        let mut table = Table::with_header(&[
            ("NAME", Align::Left),
            ("KIND", Align::Left),
            ("STATUS", Align::Left),
            ("MISSING", Align::Left),
        ]);
        for (line, status) in lines.iter().zip(&statuses) {
            let (word, missing) = words(status);
            let name = super::eval::shown(line.depth, line.name);
            table.row([name, line.kind.name().to_owned(), word.to_owned(), missing]);
        }
        text += &table.render(|line| shell.heading(line));
        text += &commands(&statuses);
    }
    if let Some(counts) = counts {
        text += &summary(&catalog, &counts);
    }
    shell.print(&text)
}

/// The names that a name or pattern stands for, and what is in them, each once.
fn expanded<'a>(
    catalog: &'a TaskCatalog,
    pattern: &str,
    seen: &mut BTreeSet<&'a str>,
) -> Result<Vec<Line<'a>>, Failure> {
    let mut lines = Vec::new();
    for name in catalog.matching(pattern).map_err(Failure::refused)? {
        below(catalog, name, 0, seen, &mut lines);
    }
    Ok(lines)
}

/// The tasks and groups that a name or pattern stands for, with what is in them.
#[cfg(feature = "hub")]
pub(super) fn with_members<'a>(catalog: &'a TaskCatalog, pattern: &str) -> Result<Vec<&'a str>, Failure> {
    Ok(expanded(catalog, pattern, &mut BTreeSet::new())?.iter().map(|line| line.name).collect())
}

/// A name and what is in it, each once.
fn below<'a>(
    catalog: &'a TaskCatalog,
    name: &'a str,
    depth: usize,
    seen: &mut BTreeSet<&'a str>,
    lines: &mut Vec<Line<'a>>,
) {
    let found = catalog.entries().find(|(known, _)| *known == name);
    let Some((_, entry)) = found.filter(|_| seen.insert(name)) else { return };
    lines.push(Line { depth, name, kind: entry.kind() });
    for member in catalog.members(name) {
        below(catalog, member, depth + 1, seen, lines);
    }
}

fn words(status: &Status) -> (&'static str, String) {
    match status {
        Status::Runs => ("runs", String::new()),
        Status::NeedsPython { message } => ("python", one_line(message).into_owned()),
        Status::MissingData { repository, config, needs_python, .. } => {
            let config = config.as_ref().map_or_else(String::new, |config| format!(" ({config})"));
            let python = if *needs_python { ", and --allow-python" } else { "" };
            ("no data", format!("{repository}{config}{python}"))
        }
        Status::Refused { message, .. } => ("refused", one_line(message).into_owned()),
        _ => ("unknown", String::new()),
    }
}

/// The commands that download what is missing, each once.
fn commands(statuses: &[Status]) -> String {
    const MAX_SHOWN: usize = 20;
    let commands: BTreeSet<&str> = statuses
        .iter()
        .filter_map(|status| match status {
            Status::MissingData { command, .. } => Some(command.as_str()),
            _ => None,
        })
        .collect();
    let mut text = String::new();
    if !commands.is_empty() {
        let _ = writeln!(text, "\nGet missing data with these commands, or name its directory with --data:");
    }
    for command in commands.iter().take(MAX_SHOWN) {
        let _ = writeln!(text, "  {command}");
    }
    if commands.len() > MAX_SHOWN {
        let _ = writeln!(text, "  … and {} more; --json has all", commands.len() - MAX_SHOWN);
    }
    text
}

fn summary(catalog: &TaskCatalog, counts: &Counts) -> String {
    const MAX_SHOWN: usize = 20;
    let mut text = String::new();
    for root in catalog.roots() {
        let _ = writeln!(text, "{}", root.display());
    }
    let _ = writeln!(
        text,
        "{} in {} and {}: {} run, {} lack data, {} are refused",
        units::things(counts.tasks, "task", "tasks"),
        units::things(counts.groups, "group", "groups"),
        units::things(counts.tags, "tag", "tags"),
        units::count(counts.runs as u64),
        units::count(counts.missing_data as u64),
        units::count(counts.refused as u64),
    );
    if counts.needs_python > 0 {
        let _ = writeln!(text, "  {:>6} of them need --allow-python", units::count(counts.needs_python as u64));
    }
    let mut reasons: Vec<(&String, &usize)> = counts.reasons.iter().collect();
    reasons.sort_by_key(|(key, count)| (std::cmp::Reverse(**count), *key));
    for (key, count) in reasons.into_iter().take(MAX_SHOWN) {
        let key = if key.is_empty() { "other reasons".to_owned() } else { format!("`{}`", one_line(key)) };
        let _ = writeln!(text, "  {:>6} refused for {key}", units::count(*count as u64));
    }
    for (path, reason) in catalog.unreadable().iter().take(MAX_SHOWN) {
        let _ = writeln!(text, "cannot be read: {}: {}", path.display(), one_line(reason));
    }
    if catalog.unreadable().len() > MAX_SHOWN {
        let _ = writeln!(text, "… and {} more files", catalog.unreadable().len() - MAX_SHOWN);
    }
    text
}

/// `{"directories": […], "counts": {…}, "names": [{"name": …, "kind": …, "status": …, …}], "unreadable": […]}`
fn document(catalog: &TaskCatalog, lines: &[Line<'_>], statuses: &[Status], counts: Option<&Counts>) -> Value {
    let files: BTreeMap<&str, Option<String>> =
        catalog.entries().map(|(name, entry)| (name, entry.path().map(|path| path.display().to_string()))).collect();
    let one = |(line, status): (&Line<'_>, &Status)| {
        let mut map = Map::new();
        map.insert("name".into(), json!(line.name));
        map.insert("kind".into(), json!(line.kind.name()));
        map.insert("file".into(), json!(files.get(line.name)));
        map.insert("depth".into(), json!(line.depth));
        map.insert("status".into(), json!(status.name()));
        match status {
            Status::NeedsPython { message } => {
                map.insert("reason".into(), json!(message));
            }
            Status::MissingData { repository, config, command, reason, needs_python } => {
                map.insert("needs_python".into(), json!(needs_python));
                map.insert("repository".into(), json!(repository));
                map.insert("config".into(), json!(config));
                map.insert("command".into(), json!(command));
                map.insert("reason".into(), json!(reason));
            }
            Status::Refused { key, message } => {
                map.insert("key".into(), json!(key));
                map.insert("reason".into(), json!(message));
            }
            _ => {}
        }
        Value::Object(map)
    };
    let names: Vec<Value> = lines.iter().zip(statuses).map(one).collect();
    let counts = counts.map(|counts| {
        json!({
            "tasks": counts.tasks,
            "groups": counts.groups,
            "tags": counts.tags,
            "runs": counts.runs,
            "needs_python": counts.needs_python,
            "missing_data": counts.missing_data,
            "refused": counts.refused,
            "unreadable": counts.unreadable,
            "reasons": counts.reasons,
        })
    });
    let unreadable: Vec<Value> = catalog
        .unreadable()
        .iter()
        .map(|(path, reason)| json!({ "file": path.display().to_string(), "reason": reason }))
        .collect();
    let roots: Vec<String> = catalog.roots().iter().map(|root| root.display().to_string()).collect();
    json!({ "directories": roots, "counts": counts, "names": names, "unreadable": unreadable })
}
