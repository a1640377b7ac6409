//! What an evaluation gives: scores of tasks, their average, and a record of each item.

use crate::filters::Pipeline;
use crate::metrics::{Aggregation, MetricSpec, Score};
use crate::number;
use crate::scale::{Measured, PerplexityUnit, Scale, ScaleError, check_scales};
use crate::statistics::{Estimate, macro_average};
use crate::task::Task;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io;

/// The scores of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The name of the model.
    pub model: String,
    /// The tasks, in the order in which they were given.
    pub tasks: Vec<TaskReport>,
    /// A record of each item, task after task, if they were asked for.
    pub samples: Vec<Sample>,
}

/// The scores of a model in one task. For serde, as it is kept in files; the document for people is that of
/// [`Report::to_json`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The name of the task.
    pub name: String,
    /// Its metrics, in the order of the task file.
    pub metrics: Vec<MetricReport>,
    /// The name of the metric that stands for the task in an average.
    pub main: String,
    /// What that metric is measured in.
    pub scale: Scale,
    /// How many items were scored.
    pub n: usize,
    /// The split, or share of one, that was scored.
    pub split: String,
    /// How many examples stood in each prompt.
    pub num_fewshot: usize,
    /// What people should know, such as prompts that were cut.
    pub notes: Vec<String>,
    /// Whether it was taken from a cache.
    #[serde(skip)]
    pub cached: bool,
    /// Each item, in ascending order of its number.
    pub items: Vec<ItemScore>,
}

/// One item of a task. In a file its numbers keep every bit and may be infinite ([`number`](mod@crate::number)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Its number in the task, counted from 0.
    pub index: usize,
    /// Its value in the main metric of the task; where that is a ratio, as a perplexity of tokens is, the dividend.
    #[serde(with = "number")]
    pub sum: f64,
    /// The divisor of that ratio; 1 for any other metric.
    #[serde(with = "number")]
    pub weight: f64,
    /// The negative natural logarithm of the probability of what is right, over all of its tokens: the likeliest of
    /// several right choices. `None` where the model writes an answer.
    #[serde(with = "number::optional")]
    pub loss: Option<f64>,
}

impl Task {
    /// The main metric over some of the items, in this order; `None` without an item. It is what a report of just these
    /// items has.
    pub fn main_over(&self, items: &[ItemScore]) -> Option<MetricReport> {
        let (name, spec) = self.main_spec()?;
        let scores: Vec<Score> = items.iter().map(|item| Score { sum: item.sum, weight: item.weight }).collect();
        let estimate = (!scores.is_empty()).then(|| spec.aggregation.of(&scores))?;
        let higher_is_better = spec.higher_is_better();
        Some(MetricReport { name, value: estimate.value, stderr: estimate.stderr, higher_is_better })
    }

    /// The best that [`main_over`](Self::main_over) could still be once `None` among `items` are known, whatever they
    /// are then. Every operation of it is monotone, so that rounding cannot make it less than that.
    pub fn main_at_best(&self, items: &[Option<ItemScore>]) -> Option<f64> {
        let (_, spec) = self.main_spec()?;
        let best = spec.at_best();
        if spec.metric.is_weighted() && items.contains(&None) {
            // Nothing is known of the weight of what is missing: all of it could be certain and outweigh the rest.
            return (!items.is_empty()).then(|| spec.aggregation.of(&[Score { sum: best, weight: 1.0 }]).value);
        }
        let score = |item: &Option<ItemScore>| match item {
            Some(item) => Score { sum: item.sum, weight: item.weight },
            None => Score { sum: best, weight: 1.0 },
        };
        let scores: Vec<Score> = items.iter().map(score).collect();
        (!scores.is_empty()).then(|| spec.aggregation.of(&scores).value)
    }

    /// Whether more is better in the main metric.
    pub fn main_is_higher_better(&self) -> bool {
        self.main_spec().is_none_or(|(_, spec)| spec.higher_is_better())
    }

    /// Whether the main metric is a mean of numbers from 0 to 1, one for each item.
    pub fn main_is_share(&self) -> bool {
        self.main_spec().is_some_and(|(_, spec)| spec.aggregation == Aggregation::Mean && spec.is_share())
    }

    pub(crate) fn main_spec(&self) -> Option<(String, &MetricSpec)> {
        let names = metric_names(&self.metrics, &self.pipelines);
        let at = names.iter().position(|name| *name == self.main).unwrap_or(0);
        Some((names.get(at)?.clone(), &self.metrics[at % self.metrics.len()]))
    }
}

/// One metric of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricReport {
    /// Its name; with a comma and the name of the filter where the task has more than one.
    pub name: String,
    /// Its value; infinite for a perplexity beyond all numbers.
    #[serde(with = "number")]
    pub value: f64,
    /// The standard error of the value; `None` with fewer than two items, for a median, and for an infinite value.
    #[serde(with = "number::optional")]
    pub stderr: Option<f64>,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// What was asked and answered for one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The name of the task.
    pub task: String,
    /// The number of the item in the task, counted from 0.
    pub index: usize,
    /// The record, a JSON object on one line.
    pub json: String,
}

impl TaskReport {
    /// A metric by its name.
    pub fn metric(&self, name: &str) -> Option<&MetricReport> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    /// The metric that stands for the task in an average.
    pub fn main_metric(&self) -> Option<&MetricReport> {
        self.metric(&self.main)
    }
}

impl Report {
    /// The mean of the main metrics, and its standard error for independent tasks. NaN without a task.
    ///
    /// # Errors
    /// [`ScaleError::Mixed`] for tasks on different scales.
    pub fn average(&self) -> Result<Estimate, ScaleError> {
        check_scales(self.tasks.iter().map(TaskReport::measured), PerplexityUnit::Reported)?;
        let main = |task: &TaskReport| match task.main_metric() {
            Some(metric) => Estimate { value: metric.value, stderr: metric.stderr },
            None => Estimate { value: f64::NAN, stderr: None },
        };
        Ok(macro_average(&self.tasks.iter().map(main).collect::<Vec<_>>()))
    }

    /// The document that `glue eval --json` prints. A value of `null` is infinite; a standard error of `null` is
    /// unknown. An average of `null` is infinite, or the tasks are on different scales.
    ///
    /// `{"model": …, "tasks": {NAME: {METRIC: value, "METRIC_stderr": …, "n": count, "metric": the main one, "split":
    /// …, "num_fewshot": …, "notes": […]}}, "average": …, "average_stderr": …}`
    pub fn to_json(&self) -> Value {
        let tasks: Map<String, Value> = self.tasks.iter().map(|task| (task.name.clone(), task.to_json())).collect();
        let average = self.average().ok();
        let (value, stderr) = (average.map(|average| average.value), average.and_then(|average| average.stderr));
        json!({"model": self.model, "tasks": tasks, "average": value, "average_stderr": stderr})
    }

    /// Writes the records of the items as JSON Lines.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_samples(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.samples.iter().try_for_each(|sample| writeln!(out, "{}", sample.json))
    }
}

impl TaskReport {
    fn measured(&self) -> Measured<'_> {
        Measured { name: &self.name, scale: self.scale, metric: &self.main }
    }

    fn to_json(&self) -> Value {
        let mut map = Map::new();
        for metric in &self.metrics {
            map.insert(metric.name.clone(), json!(metric.value));
            map.insert(format!("{}_stderr", metric.name), json!(metric.stderr));
        }
        map.insert("n".into(), json!(self.n));
        map.insert("metric".into(), json!(self.main));
        map.insert("split".into(), json!(self.split));
        map.insert("num_fewshot".into(), json!(self.num_fewshot));
        if !self.notes.is_empty() {
            map.insert("notes".into(), json!(self.notes));
        }
        Value::Object(map)
    }
}

/// The name under which a metric stands in a report, for each metric and each pipeline.
pub(crate) fn metric_names(metrics: &[MetricSpec], pipelines: &[Pipeline]) -> Vec<String> {
    let named = |spec: &MetricSpec, pipeline: &Pipeline| match pipelines.len() {
        1 => spec.name.clone(),
        _ => format!("{},{}", spec.name, pipeline.name),
    };
    pipelines.iter().flat_map(|pipeline| metrics.iter().map(move |spec| named(spec, pipeline))).collect()
}

/// The name of the first metric, which stands for a task that names none.
pub(crate) fn metric_name(metrics: &[MetricSpec], pipelines: &[Pipeline]) -> String {
    metric_names(metrics, pipelines).into_iter().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, value: f64, stderr: Option<f64>) -> TaskReport {
        TaskReport {
            name: name.into(),
            metrics: vec![MetricReport { name: "acc".into(), value, stderr, higher_is_better: true }],
            main: "acc".into(),
            scale: Scale::Fraction,
            n: 4,
            split: "test".into(),
            num_fewshot: 0,
            notes: Vec::new(),
            cached: false,
            items: Vec::new(),
        }
    }

    #[test]
    fn the_document_has_the_agreed_form() {
        let tasks = vec![task("b", 0.75, Some(0.3)), task("a", 0.25, Some(0.4))];
        let report = Report { model: "m".into(), tasks, samples: Vec::new() };
        let expected = concat!(
            r#"{"model":"m","tasks":{"b":{"acc":0.75,"acc_stderr":0.3,"n":4,"metric":"acc","split":"test","num_fewshot":0},"#,
            r#""a":{"acc":0.25,"acc_stderr":0.4,"n":4,"metric":"acc","split":"test","num_fewshot":0}},"#,
            r#""average":0.5,"average_stderr":0.25}"#
        );
        assert_eq!(report.to_json().to_string(), expected);
    }

    #[test]
    fn tasks_on_different_scales_have_no_average() {
        let mut texts = task("wiki", 8.3, Some(0.1));
        (texts.main, texts.scale) = ("word_perplexity".into(), Scale::Perplexity);
        let tasks = vec![task("b", 0.75, Some(0.3)), texts, task("a", 0.25, Some(0.4))];
        let report = Report { model: "m".into(), tasks, samples: Vec::new() };
        assert_eq!(
            report.average().unwrap_err().to_string(),
            "tasks on different scales have no common average: fractions (b, a); word_perplexity (wiki); give every \
             task a weight, as in `weights: {b: 1, a: 1, wiki: 1}`, or score them apart"
        );
        assert!(report.to_json()["average"].is_null());
    }

    #[test]
    fn what_is_not_finite_is_null() {
        let report = Report { model: "m".into(), tasks: vec![task("a", f64::INFINITY, None)], samples: Vec::new() };
        let json = report.to_json();
        assert!(json["tasks"]["a"]["acc"].is_null() && json["tasks"]["a"]["acc_stderr"].is_null());
        assert!(json["average"].is_null());
    }
}
