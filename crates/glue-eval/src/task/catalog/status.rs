//! What runs, and what is missing for the rest.

use super::{EntryKind, TaskCatalog, build};
use crate::error::{TaskError, download_command};
use crate::task::harness;
use glue_progress::ErrorChain;
use rayon::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// Whether a name can be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// It can.
    Runs,
    /// It can where its Python functions may be run by the Python that is installed
    /// ([`EvalOptions::allow_python`](crate::EvalOptions::allow_python)).
    NeedsPython {
        /// What is not evaluated here, with file and line.
        message: String,
    },
    /// It could if its data was here.
    MissingData {
        /// The repository on the Hugging Face hub, or the directory.
        repository: String,
        /// Its configuration, where the task names one.
        config: Option<String>,
        /// The command that downloads it.
        command: String,
        /// What was found instead.
        reason: String,
        /// Whether with the data it is [`NeedsPython`](Status::NeedsPython).
        needs_python: bool,
    },
    /// It asks for something that is not supported, or is not sound.
    Refused {
        /// The key that asks for it, where it is one.
        key: Option<String>,
        /// The whole message, with file and line.
        message: String,
    },
}

impl Status {
    fn of(error: &TaskError) -> Status {
        let key = match error {
            TaskError::MissingData { repository, config, reason, needs_python, .. } => {
                return Status::MissingData {
                    repository: repository.clone(),
                    config: config.clone(),
                    command: download_command(repository),
                    reason: reason.clone(),
                    needs_python: *needs_python,
                };
            }
            TaskError::Unsupported { key, .. }
            | TaskError::UnknownKey { key, .. }
            | TaskError::Template { key, .. } => Some(key.clone()),
            TaskError::WrongField { field, .. } | TaskError::MissingField { field, .. } => Some(field.clone()),
            _ => None,
        };
        Status::Refused { key, message: error.chain() }
    }

    /// `runs`, `needs_python`, `missing_data` or `refused`.
    pub fn name(&self) -> &'static str {
        match self {
            Status::Runs => "runs",
            Status::NeedsPython { .. } => "needs_python",
            Status::MissingData { .. } => "missing_data",
            Status::Refused { .. } => "refused",
        }
    }
}

/// How many names of a catalog run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Tasks of any status.
    pub tasks: usize,
    /// Groups.
    pub groups: usize,
    /// Tags.
    pub tags: usize,
    /// Tasks that run, those included that need Python.
    pub runs: usize,
    /// Tasks that run where their functions may be run by Python; with their data or without.
    pub needs_python: usize,
    /// Tasks whose data is missing.
    pub missing_data: usize,
    /// Tasks that are refused.
    pub refused: usize,
    /// Files that cannot be read.
    pub unreadable: usize,
    /// Keys for which tasks are refused, and how many each; without a key, the empty one.
    pub reasons: BTreeMap<String, usize>,
}

impl TaskCatalog {
    /// What a name of the catalog can be. For a group or tag, that of the first of its tasks that does not run.
    pub fn status(&self, name: &str) -> Status {
        let mut builder = build::Builder::new(self);
        match builder.add(name) {
            Ok(()) => match builder.needs_python() {
                Some(error) => Status::NeedsPython { message: error.chain() },
                None => Status::Runs,
            },
            Err(error) => Status::of(&error),
        }
    }

    /// The status of several names, in their order.
    pub fn statuses(&self, names: &[&str]) -> Vec<Status> {
        names.par_iter().map(|name| self.status(name)).collect()
    }

    /// The direct members of a group or tag that have a name in the catalog; none for a task.
    pub fn members(&self, name: &str) -> Vec<&str> {
        let Some(entry) = self.entries.get(name) else { return Vec::new() };
        let (EntryKind::Group, Some(path)) = (entry.kind, &entry.path) else {
            return entry.tagged.iter().map(String::as_str).collect();
        };
        let Ok(document) = harness::load(path) else { return Vec::new() };
        let list = match document.map.get("task") {
            Some(Value::Array(items)) => items.clone(),
            Some(one) => vec![one.clone()],
            None => Vec::new(),
        };
        let named = list.iter().filter_map(|member| match member {
            Value::String(name) => Some(name.as_str()),
            other => other.get("task").or_else(|| other.get("group"))?.as_str(),
        });
        named.filter_map(|name| self.entries.get_key_value(name)).map(|(name, _)| name.as_str()).collect()
    }

    /// The counts of all names. Every file is read and checked.
    pub fn counts(&self) -> Counts {
        let of = |kind: EntryKind| self.entries().filter(move |(_, entry)| entry.kind() == kind);
        let tasks: Vec<&str> = of(EntryKind::Task).map(|(name, _)| name).collect();
        let mut counts = Counts {
            tasks: tasks.len(),
            groups: of(EntryKind::Group).count(),
            tags: of(EntryKind::Tag).count(),
            unreadable: self.unreadable.len(),
            ..Counts::default()
        };
        for status in self.statuses(&tasks) {
            match status {
                Status::Runs => counts.runs += 1,
                Status::NeedsPython { .. } => {
                    counts.runs += 1;
                    counts.needs_python += 1;
                }
                Status::MissingData { needs_python, .. } => {
                    counts.missing_data += 1;
                    counts.needs_python += usize::from(needs_python);
                }
                Status::Refused { key, .. } => {
                    counts.refused += 1;
                    *counts.reasons.entry(key.unwrap_or_default()).or_default() += 1;
                }
            }
        }
        counts
    }
}
