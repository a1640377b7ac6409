//! Groups of tasks, and how their scores are put together.

use super::fields::{Fields, texts};
use crate::error::TaskError;
use std::path::{Path, PathBuf};

/// A group of tasks: its name stands for its members, and it may have scores of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskGroup {
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) members: Vec<Member>,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) version: Option<String>,
    pub(crate) path: PathBuf,
}

/// A direct member of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Member {
    /// The name of a task.
    Task(String),
    /// The name of a group.
    Group(String),
}

impl Member {
    /// The name.
    pub fn name(&self) -> &str {
        match self {
            Member::Task(name) | Member::Group(name) => name,
        }
    }
}

impl TaskGroup {
    /// Its name; a group that is defined within another one is named `OUTER::INNER`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name in tables: `group_alias`, else its name.
    pub fn alias(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name)
    }

    /// The file that describes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its direct members, in the order of the file; those of a tag in alphabetical order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The version that its file gives.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether it has scores of its own.
    pub fn has_scores(&self) -> bool {
        !self.aggregates.is_empty()
    }
}

/// A score of a group: the mean of a metric over its tasks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) metric: String,
    /// Pipelines of filters; `None` for all that the tasks have.
    pub(crate) filters: Option<Vec<String>>,
    /// Whether a task counts by the number of its items.
    pub(crate) weight_by_size: bool,
}

impl Aggregate {
    /// `aggregate_metric_list`: one, or a list.
    pub(super) fn list(fields: &Fields<'_>) -> Result<Vec<Aggregate>, TaskError> {
        const KEY: &str = "aggregate_metric_list";
        let Some(value) = fields.get(KEY) else { return Ok(Vec::new()) };
        let wrong = || fields.wrong(KEY, "a list of maps with `metric`", value);
        let entries = match value {
            serde_json::Value::Array(items) => items.iter().collect(),
            one => vec![one],
        };
        let one = |entry: &serde_json::Value| {
            let map = entry.as_object().ok_or_else(wrong)?;
            let entry = Fields { place: fields.place_of(KEY), map, sources: fields.sources };
            entry.only(&[&["metric", "filter_list", "aggregation", "weight_by_size", "higher_is_better"]])?;
            if let Some(other) = entry.get("aggregation").filter(|value| value.as_str() != Some("mean")) {
                return Err(entry.wrong("aggregation", "`mean`", other));
            }
            let filters = match entry.get("filter_list") {
                None => None,
                Some(value) => {
                    let names = texts(value).ok_or_else(|| entry.wrong("filter_list", "names of filters", value))?;
                    Some(names)
                }
            };
            Ok(Aggregate {
                metric: entry.text("metric")?.into(),
                filters,
                weight_by_size: entry.flag("weight_by_size")?.unwrap_or(true),
            })
        };
        entries.into_iter().map(one).collect()
    }
}
