//! Scores of all items of a task together, which are no mean of scores of the items.
//!
//! Each item gives some numbers, and the score is a function of their sums: for the F1 of a class how many were right,
//! said and wanted; for BLEU the n-grams that match. What an item contributes is its pseudo-value of the jackknife,
//! n·θ − (n − 1)·θ₍₋ᵢ₎, moved so that the mean of all is θ; the standard error is that of their mean (Efron and Stein,
//! "The jackknife estimate of variance", 1981). lm-evaluation-harness draws bootstrap samples instead.

mod bleu;
mod chrf;
mod ter;

use crate::metrics::argmax;
use crate::statistics::Estimate;
use crate::task::{Function, Python};
use crate::{evaluate::Said, python::program::Call};
use glue_lm::jinja;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use bleu::{Tokenizer, corpus_bleu};

/// What scores all items together.
#[derive(Debug, Clone)]
pub(crate) enum Corpus {
    /// Of class 1: 2·right / (said + wanted).
    F1,
    /// Matthews' correlation of the classes wanted and said, for any number of them.
    Mcc,
    /// BLEU of a reference and an answer each, as sacreBLEU computes it by default.
    Bleu,
    /// chrF of characters, or with the words of chrF++.
    Chrf { words: usize },
    /// The rate of edits from an answer to its reference, of which less is better.
    Ter,
    /// A function of the task. It says nothing of single items, each of which counts as the whole.
    Function(Arc<Function>),
}

impl Corpus {
    /// Under the names that the harness has for them.
    pub(crate) const ALL: &'static [(&'static str, Corpus)] = &[
        ("f1", Corpus::F1),
        ("matthews_corrcoef", Corpus::Mcc),
        ("bleu", Corpus::Bleu),
        ("chrf", Corpus::Chrf { words: 0 }),
        ("chrf++", Corpus::Chrf { words: 2 }),
        ("ter", Corpus::Ter),
    ];

    /// The score with its standard error, and what each item contributes.
    ///
    /// # Errors
    /// The number of the item that has not what this needs, and what it has.
    pub(crate) fn of(&self, items: &[Value], python: Option<&Python>) -> Result<(Estimate, Vec<f64>), Said> {
        let of_all = |message: String| Said { item: None, message };
        match self {
            Corpus::Function(function) => {
                let call = vec![vec![Call::Json(Value::Array(items.to_vec()))]];
                let given = function.each(python, call).map_err(|(_, message)| of_all(message))?;
                let value = given.first().and_then(number);
                let value = value.ok_or_else(|| {
                    of_all(format!("`{}` gives no number but {}", function.name, given.first().unwrap_or(&Value::Null)))
                })?;
                Ok((Estimate { value, stderr: None }, vec![value; items.len()]))
            }
            Corpus::F1 => {
                let of = |(item, value): (usize, &Value)| {
                    let (wanted, said) = classes(value).ok_or_else(|| no_pair(item, value))?;
                    let is = |class: &str| f64::from(u8::from(class == "1"));
                    Ok(vec![is(&wanted) * is(&said), is(&said), is(&wanted)])
                };
                let rows = items.iter().enumerate().map(of).collect::<Result<_, _>>()?;
                Ok(jackknife(
                    rows,
                    |sums| if sums[1] + sums[2] > 0.0 { 2.0 * sums[0] / (sums[1] + sums[2]) } else { 0.0 },
                ))
            }
            Corpus::Mcc => matthews(items),
            Corpus::Bleu => {
                let of = |(item, value): (usize, &Value)| {
                    let (reference, answer) = texts(value).ok_or_else(|| no_pair(item, value))?;
                    Ok(bleu::statistics(&answer, &[&reference], Tokenizer::Mteval13a))
                };
                let rows = items.iter().enumerate().map(of).collect::<Result<_, _>>()?;
                Ok(jackknife(rows, bleu::score))
            }
            Corpus::Chrf { words } => {
                let of = |(item, value): (usize, &Value)| {
                    let (reference, answer) = texts(value).ok_or_else(|| no_pair(item, value))?;
                    Ok(chrf::statistics(&answer, &reference, *words))
                };
                let rows = items.iter().enumerate().map(of).collect::<Result<_, _>>()?;
                Ok(jackknife(rows, chrf::score))
            }
            Corpus::Ter => {
                let of = |(item, value): (usize, &Value)| {
                    let (reference, answer) = texts(value).ok_or_else(|| no_pair(item, value))?;
                    Ok(ter::statistics(&answer, &reference))
                };
                let rows = items.iter().enumerate().map(of).collect::<Result<_, _>>()?;
                Ok(jackknife(rows, ter::score))
            }
        }
    }
}

fn no_pair(item: usize, value: &Value) -> Said {
    Said { item: Some(item), message: format!("expected a pair of what is wanted and what is said, found {value}") }
}

/// A number, a truth value, or a number that JSON cannot hold.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// A pair of classes, by what they are shown as.
fn classes(value: &Value) -> Option<(String, String)> {
    let class = |value: &Value| match value {
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        Value::Number(_) | Value::String(_) => Some(jinja::str(value)),
        _ => None,
    };
    match value.as_array()?.as_slice() {
        [wanted, said] => Some((class(wanted)?, class(said)?)),
        _ => None,
    }
}

fn texts(value: &Value) -> Option<(String, String)> {
    let text = |value: &Value| match value {
        Value::Array(items) => items.first().map(jinja::str),
        Value::Object(_) => None,
        other => Some(jinja::str(other)),
    };
    match value.as_array()?.as_slice() {
        [reference, answer] => Some((text(reference)?, text(answer)?)),
        _ => None,
    }
}

/// (c·n − Σ p_k·t_k) / √((n² − Σ p_k²)·(n² − Σ t_k²)), with c of n right, t_k of class k wanted and p_k said (Gorodkin,
/// "Comparing two K-category assignments by a K-category correlation coefficient", 2004).
fn matthews(items: &[Value]) -> Result<(Estimate, Vec<f64>), Said> {
    let of = |(item, value): (usize, &Value)| classes(value).ok_or_else(|| no_pair(item, value));
    let pairs: Vec<(String, String)> = items.iter().enumerate().map(of).collect::<Result<_, _>>()?;
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for class in pairs.iter().flat_map(|(wanted, said)| [wanted, said]) {
        let next = numbers.len();
        numbers.entry(class).or_insert(next);
    }
    let k = numbers.len();
    let row = |(wanted, said): &(String, String)| {
        // How many, how many right, wanted by class, said by class.
        let mut row = vec![0.0; 2 + 2 * k];
        (row[0], row[1]) = (1.0, f64::from(u8::from(wanted == said)));
        row[2 + numbers[wanted.as_str()]] = 1.0;
        row[2 + k + numbers[said.as_str()]] = 1.0;
        row
    };
    let score = move |sums: &[f64]| {
        let (wanted, said) = sums[2..].split_at(k);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let n = sums[0] * sums[0];
        let spread = (n - dot(wanted, wanted)) * (n - dot(said, said));
        if spread > 0.0 { (sums[1] * sums[0] - dot(wanted, said)) / spread.sqrt() } else { 0.0 }
    };
    Ok(jackknife(pairs.iter().map(row).collect(), score))
}

/// A function of sums, and what each row contributes to it.
fn jackknife(rows: Vec<Vec<f64>>, score: impl Fn(&[f64]) -> f64) -> (Estimate, Vec<f64>) {
    let mut sums = vec![0.0; rows.first().map_or(0, Vec::len)];
    for row in &rows {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let (n, value) = (rows.len() as f64, score(&sums));
    if rows.len() < 2 {
        return (Estimate { value, stderr: None }, vec![value; rows.len()]);
    }
    let without = |row: &Vec<f64>| {
        let rest: Vec<f64> = sums.iter().zip(row).map(|(sum, x)| sum - x).collect();
        score(&rest)
    };
    let mut values: Vec<f64> = rows.iter().map(|row| n * value - (n - 1.0) * without(row)).collect();
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    let stderr = (squares / (n - 1.0) / n).sqrt();
    values.iter_mut().for_each(|x| *x += value - mean);
    (Estimate { value, stderr: Some(stderr).filter(|stderr| stderr.is_finite()) }, values)
}

/// The squared distance of the probabilities of the choices from those of certainty.
pub(crate) fn brier(logprobs: &[f64], gold: usize) -> f64 {
    let largest = argmax(logprobs.iter().copied()).map_or(0.0, |best| logprobs[best]);
    let weights: Vec<f64> = logprobs.iter().map(|logprob| (logprob - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let distance = |(i, weight): (usize, &f64)| (weight / total - f64::from(u8::from(i == gold))).powi(2);
    weights.iter().enumerate().map(distance).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(corpus: &Corpus, items: &Value, expected: f64) -> (Estimate, Vec<f64>) {
        let (estimate, contributions) = corpus.of(items.as_array().unwrap(), None).unwrap();
        // The reference prints 15 digits.
        assert!((estimate.value - expected).abs() < 1e-11, "{corpus:?}: {estimate:?}, expected {expected}");
        let mean = contributions.iter().sum::<f64>() / contributions.len() as f64;
        assert!((mean - expected).abs() < 1e-9, "{corpus:?}: {contributions:?}");
        (estimate, contributions)
    }

    #[test]
    fn classifiers_are_scored_as_by_scikit_learn() {
        // f1_score and matthews_corrcoef of scikit-learn 1.9.1.
        let pairs = json!([[1, 1], [0, 1], [1, 0], [1, 1], [0, 0], [1, 1]]);
        check(&Corpus::F1, &pairs, 0.75);
        check(&Corpus::Mcc, &pairs, 0.25);
        check(&Corpus::Mcc, &json!([[0, 0], [1, 1], [2, 1], [2, 2], [0, 2], [1, 1]]), 0.522_232_967_867_093_4);
        check(&Corpus::Mcc, &json!([[0, 1], [1, 1]]), 0.0);
        assert_eq!(Corpus::F1.of(&[json!([1, 1]), json!(3)], None).unwrap_err().item, Some(1));
    }

    #[test]
    fn the_jackknife_of_a_mean_is_the_error_of_a_mean() {
        let rows: Vec<Vec<f64>> = [1.0, 0.0, 1.0, 1.0].map(|x| vec![x, 1.0]).to_vec();
        let (estimate, values) = jackknife(rows, |sums| sums[0] / sums[1]);
        // s² = 1/4, so that s / √4 = 1/4.
        assert!((estimate.value - 0.75).abs() < 1e-12 && (estimate.stderr.unwrap() - 0.25).abs() < 1e-12);
        assert!(values.iter().zip([1.0, 0.0, 1.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{values:?}");
    }

    #[test]
    fn certainty_has_no_distance() {
        assert_eq!(brier(&[0.0, f64::NEG_INFINITY], 0), 0.0);
        assert_eq!(brier(&[-1.0, -1.0], 0), 0.5);
    }
}
