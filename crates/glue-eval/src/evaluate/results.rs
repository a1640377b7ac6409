//! From what a model said to the scores of all items and of the task.

use super::answer::{self, Answer};
use crate::corpus::number;
use crate::metrics::{Metric, MetricSpec, Score};
use crate::python::program::Call;
use crate::statistics::Estimate;
use crate::task::{Ask, Check, Item, Python, Task};
use glue_lm::jinja;
use serde_json::Value;

/// What is wrong with the scores of an item, or of all together.
#[derive(Debug)]
pub(crate) struct Said {
    /// Which item, by its position among those that were asked.
    pub(crate) item: Option<usize>,
    pub(crate) message: String,
}

/// What an item has in a metric.
pub(super) enum Scored {
    Number(Score),
    /// What a function gave, or what scores all items together.
    Value(Value),
    /// Nothing: the item does not count.
    Absent,
}

/// One metric of one pipeline.
pub(super) struct Column {
    pub(super) scores: Vec<Score>,
    pub(super) estimate: Estimate,
}

/// The scores of all items and their aggregation: for each pipeline those of all metrics.
pub(super) fn columns(
    task: &Task,
    items: &[&Item],
    answers: &[Answer],
    python: Option<&Python>,
) -> Result<Vec<Column>, Said> {
    let mut columns = Vec::new();
    for pipeline in &task.pipelines {
        let mut filtered = Vec::with_capacity(items.len());
        for (i, (item, answer)) in items.iter().zip(answers).enumerate() {
            let texts: Vec<String> = answer.generated.iter().map(|generation| generation.text.clone()).collect();
            let left = pipeline.apply(&texts, &item.fields, python);
            filtered.push(left.map_err(|message| Said { item: Some(i), message })?);
        }
        let given = match &task.process_results {
            None => None,
            Some(function) => {
                let call = |((item, answer), filtered): ((&&Item, &Answer), &Vec<Value>)| {
                    let results = results(item, answer, filtered, pipeline.takes_first());
                    vec![Call::Json(Value::Object(item.fields.clone())), results]
                };
                let calls = items.iter().zip(answers).zip(&filtered).map(call).collect();
                Some(function.each(python, calls).map_err(|(item, message)| Said { item: Some(item), message })?)
            }
        };
        for spec in &task.metrics {
            let scored = match (&spec.metric, &given) {
                (Metric::Named(name), Some(given)) => {
                    let named = |given: &Value| given.get(name).cloned().map_or(Scored::Absent, Scored::Value);
                    given.iter().map(named).collect()
                }
                (Metric::Function(..), _) => by_function(spec, items, &filtered, pipeline.takes_first(), python)?,
                _ => {
                    let one = |(i, ((item, answer), filtered)): (usize, ((&&Item, &Answer), &Vec<Value>))| {
                        answer::one(&spec.metric, item, answer, filtered)
                            .map_err(|message| Said { item: Some(i), message })
                    };
                    items.iter().zip(answers).zip(&filtered).enumerate().map(one).collect::<Result<_, _>>()?
                }
            };
            columns.push(column(spec, scored, python)?);
        }
    }
    Ok(columns)
}

/// What the model said, as the functions of the harness get it.
fn results(item: &Item, answer: &Answer, filtered: &[Value], takes_first: bool) -> Call {
    match &item.ask {
        Ask::Roll { .. } => Call::List(answer.scored.iter().map(|scored| Call::Float(scored.logprob)).collect()),
        Ask::Choose { .. } | Ask::Continue { .. } => {
            let pair = |scored: &crate::model::LogLikelihood| {
                Call::Tuple(vec![Call::Float(scored.logprob), Call::Json(scored.greedy.into())])
            };
            Call::List(answer.scored.iter().map(pair).collect())
        }
        Ask::Generate { .. } => {
            let left = match filtered {
                [only] if takes_first => only.clone(),
                several => Value::Array(several.to_vec()),
            };
            Call::List(vec![Call::Json(left)])
        }
    }
}

/// A metric that is a function, of a reference and an answer. Where several references are right, any of them may be.
fn by_function(
    spec: &MetricSpec,
    items: &[&Item],
    filtered: &[Vec<Value>],
    takes_first: bool,
    python: Option<&Python>,
) -> Result<Vec<Scored>, Said> {
    let Metric::Function(function, options) = &spec.metric else { return Ok(Vec::new()) };
    let mut pairs = Vec::new();
    let mut owners = Vec::new();
    for (i, (item, filtered)) in items.iter().zip(filtered).enumerate() {
        let Ask::Generate { check: Check::Match(targets), .. } = &item.ask else {
            let message = format!("`{}` compares texts, but the task generates none", function.name);
            return Err(Said { item: Some(i), message });
        };
        let answer = match filtered.as_slice() {
            [only] if takes_first => only.clone(),
            several => Value::Array(several.to_vec()),
        };
        for target in targets {
            pairs.push(vec![Call::Json(target.as_str().into()), Call::Json(answer.clone())]);
            owners.push(i);
        }
    }
    let given = function.metric(python, options.clone(), pairs);
    let given = given.map_err(|(call, message)| Said { item: owners.get(call).copied(), message })?;
    let mut scored: Vec<Option<Value>> = vec![None; items.len()];
    for (owner, value) in owners.into_iter().zip(given) {
        let value = match value {
            Value::Object(mut map) => map.remove(&spec.name).unwrap_or(Value::Null),
            other => other,
        };
        // Of several references one that is met is enough.
        scored[owner] = Some(match scored[owner].take() {
            None => value,
            Some(before) => {
                let met = |value: &Value| number(value).is_none_or(|number| number != 0.0);
                Value::from(if met(&before) || met(&value) { 1.0 } else { 0.0 })
            }
        });
    }
    Ok(scored.into_iter().map(|value| value.map_or(Scored::Absent, Scored::Value)).collect())
}

fn column(spec: &MetricSpec, scored: Vec<Scored>, python: Option<&Python>) -> Result<Column, Said> {
    const ABSENT: Score = Score { sum: 0.0, weight: 0.0 };
    let Some(corpus) = &spec.corpus else {
        let scores = scored.into_iter().enumerate().map(|(i, scored)| match scored {
            Scored::Number(score) => Ok(score),
            Scored::Absent => Ok(ABSENT),
            Scored::Value(value) => score(spec, &value).map_err(|message| Said { item: Some(i), message }),
        });
        let scores = scores.collect::<Result<Vec<_>, _>>()?;
        let estimate = spec.aggregation.of(&scores);
        return Ok(Column { scores, estimate });
    };
    let mut values = Vec::new();
    let mut owners = Vec::new();
    let n = scored.len();
    for (i, scored) in scored.into_iter().enumerate() {
        match scored {
            Scored::Value(value) => {
                values.push(value);
                owners.push(i);
            }
            Scored::Number(score) => {
                values.push(Value::from(score.sum));
                owners.push(i);
            }
            Scored::Absent => {}
        }
    }
    let mut scores = vec![ABSENT; n];
    if values.is_empty() {
        return Ok(Column { scores, estimate: Estimate { value: f64::NAN, stderr: None } });
    }
    let found = corpus.of(&values, python);
    let (estimate, contributions) =
        found.map_err(|said| Said { item: said.item.and_then(|item| owners.get(item).copied()), ..said })?;
    for (owner, contribution) in owners.into_iter().zip(contributions) {
        scores[owner] = contribution.into();
    }
    Ok(Column { scores, estimate })
}

/// What a function gave, as a number, or as a sum with its weight.
fn score(spec: &MetricSpec, value: &Value) -> Result<Score, String> {
    if spec.aggregation.is_weighted() {
        let pair = value.as_array().map(|pair| pair.iter().map(number).collect::<Option<Vec<f64>>>());
        return match pair.flatten().as_deref() {
            Some([sum, weight]) => Ok(Score { sum: *sum, weight: *weight }),
            _ => Err(format!("`{}` should be a sum and its weight, but is {}", spec.name, jinja::repr(value))),
        };
    }
    // numpy's arrays of one number are numbers.
    let value = value.as_array().filter(|items| items.len() == 1).map_or(value, |items| &items[0]);
    let number = number(value).filter(|number| !number.is_nan());
    let number = number.ok_or_else(|| format!("`{}` should be a number, but is {}", spec.name, jinja::repr(value)))?;
    if spec.is_share() && !(0.0..=1.0).contains(&number) {
        return Err(format!("`{}` should be a number from 0 to 1, but is {number}", spec.name));
    }
    Ok(number.into())
}
