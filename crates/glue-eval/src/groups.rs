//! Scores of groups, as lm-evaluation-harness computes them.
//!
//! A group with `aggregate_metric_list` has, for each metric and filter in it, the mean over all tasks below the group
//! that have this metric; a task of n_t items counts n_t times with `weight_by_size`, which is the default, and once
//! without. The standard error pools those of the tasks, s_t, over their items, whatever the weights are:
//!
//! √( Σ n_t (n_t − 1) s_t² / (Σ n_t − T) / Σ n_t )
//!
//! for T tasks. Averages that decide between models are those of [`statistics`](crate::statistics).

use crate::report::Report;
use crate::task::{Member, Task, TaskGroup};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

/// The scores of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupReport {
    /// The name of the group.
    pub name: String,
    /// Its scores, in the order of `aggregate_metric_list`.
    pub metrics: Vec<GroupMetric>,
    /// The number of items of all its tasks.
    pub n: usize,
}

/// A score of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupMetric {
    /// The metric.
    pub metric: String,
    /// The filter before it.
    pub filter: String,
    /// The mean over the tasks.
    pub value: f64,
    /// The pooled standard error; `None` where that of a task is not known, or each task has one item.
    pub stderr: Option<f64>,
    /// Whether more is better; `None` where the tasks disagree.
    pub higher_is_better: Option<bool>,
    /// The number of items of the tasks that have this metric.
    pub n: usize,
}

/// The tasks below a group, in their order, each once.
pub fn tasks_of<'a>(group: &'a TaskGroup, groups: &'a [TaskGroup]) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    gather(group, groups, &mut seen, &mut found);
    found
}

fn gather<'a>(group: &'a TaskGroup, groups: &'a [TaskGroup], seen: &mut BTreeSet<&'a str>, found: &mut Vec<&'a str>) {
    for member in group.members() {
        if !seen.insert(member.name()) {
            continue;
        }
        match member {
            Member::Task(name) => found.push(name),
            Member::Group(name) => {
                if let Some(inner) = groups.iter().find(|group| group.name() == name) {
                    gather(inner, groups, seen, found);
                }
            }
        }
    }
}

/// The scores of all groups that have some, in the order of `groups`. Tasks that are not in the report do not count.
pub fn group_scores(groups: &[TaskGroup], tasks: &[Task], report: &Report) -> Vec<GroupReport> {
    let scored: HashMap<&str, Scored> = report
        .tasks
        .iter()
        .filter_map(|scores| {
            let task = tasks.iter().find(|task| task.name() == scores.name)?;
            let keys = task.metric_keys().into_iter();
            let one = |((metric, filter), found): ((&str, &str), &crate::MetricReport)| Metric {
                key: (metric.to_string(), filter.to_string()),
                value: found.value,
                stderr: found.stderr,
                higher_is_better: found.higher_is_better,
            };
            Some((scores.name.as_str(), Scored { n: scores.n, metrics: keys.zip(&scores.metrics).map(one).collect() }))
        })
        .collect();
    let with_scores = groups.iter().filter(|group| group.has_scores());
    with_scores.map(|group| one(group, groups, &scored)).collect()
}

struct Scored {
    n: usize,
    metrics: Vec<Metric>,
}

struct Metric {
    key: (String, String),
    value: f64,
    stderr: Option<f64>,
    higher_is_better: bool,
}

fn one(group: &TaskGroup, groups: &[TaskGroup], scored: &HashMap<&str, Scored>) -> GroupReport {
    let tasks: Vec<&Scored> = tasks_of(group, groups).into_iter().filter_map(|name| scored.get(name)).collect();
    let mut metrics = Vec::new();
    for aggregate in &group.aggregates {
        let filters = aggregate.filters.clone().unwrap_or_else(|| {
            let all = tasks.iter().flat_map(|task| &task.metrics);
            let filters: BTreeSet<&String> =
                all.filter(|metric| metric.key.0 == aggregate.metric).map(|metric| &metric.key.1).collect();
            filters.into_iter().cloned().collect()
        });
        for filter in filters {
            let is_it = |metric: &&Metric| metric.key.0 == aggregate.metric && metric.key.1 == filter;
            let found: Vec<(usize, &Metric)> =
                tasks.iter().filter_map(|task| Some((task.n, task.metrics.iter().find(is_it)?))).collect();
            if found.is_empty() {
                continue;
            }
            let weight = |n: usize| if aggregate.weight_by_size { n as f64 } else { 1.0 };
            let sum: f64 = found.iter().map(|(n, metric)| weight(*n) * metric.value).sum();
            let better: BTreeSet<bool> = found.iter().map(|(_, metric)| metric.higher_is_better).collect();
            metrics.push(GroupMetric {
                metric: aggregate.metric.clone(),
                filter,
                value: sum / found.iter().map(|(n, _)| weight(*n)).sum::<f64>(),
                stderr: pooled_stderr(found.iter().map(|(n, metric)| (*n, metric.stderr))),
                higher_is_better: better.first().copied().filter(|_| better.len() == 1),
                n: found.iter().map(|(n, _)| n).sum(),
            });
        }
    }
    GroupReport { name: group.name().into(), metrics, n: tasks.iter().map(|task| task.n).sum() }
}

/// The standard error of a mean over all items of several tasks, from the number of items and the standard error of
/// each; `None` where one of these is not known, or each task has one item.
pub fn pooled_stderr(tasks: impl IntoIterator<Item = (usize, Option<f64>)>) -> Option<f64> {
    let (mut sum, mut items, mut count) = (0.0, 0.0, 0.0);
    for (n, stderr) in tasks {
        let n = n as f64;
        sum += (n - 1.0) * stderr?.powi(2) * n;
        items += n;
        count += 1.0;
    }
    (items > count).then(|| (sum / (items - count) / items).sqrt())
}

impl GroupReport {
    /// The scores as in the document of [`Report::to_json`]: `{METRIC: value, "METRIC_stderr": …, "n": count}`, with a
    /// comma and the name of the filter where a metric stands for several.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for metric in &self.metrics {
            let several = self.metrics.iter().filter(|other| other.metric == metric.metric).count() > 1;
            let filter = if several { format!(",{}", metric.filter) } else { String::new() };
            map.insert(format!("{}{filter}", metric.metric), json!(metric.value));
            map.insert(format!("{}{filter}_stderr", metric.metric), json!(metric.stderr));
        }
        map.insert("n".into(), json!(self.n));
        Value::Object(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooled_errors_are_those_of_all_items_together() {
        // numpy: s = [0.1, 0.2], n = [10, 30]: sqrt((9*.01*10 + 29*.04*30) / 38 / 40)
        let found = pooled_stderr([(10, Some(0.1)), (30, Some(0.2))]).unwrap();
        assert!((found - 0.153_254_174_837_957).abs() < 1e-12, "{found}");
        assert_eq!(pooled_stderr([(10, Some(0.1)), (30, None)]), None);
        assert_eq!(pooled_stderr([(1, Some(0.1)), (1, Some(0.2))]), None);
    }
}
