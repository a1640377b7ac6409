//! Harmful models, found before anything is merged with them.
//!
//! Each model is tested three times; no test knows the zoo:
//!
//! | test | failed when | source |
//! |---|---|---|
//! | its own score | the modified z-score of its average is below −3.5, and the average is below the median by more than 1.645 standard errors | Iglewicz and Hoaglin, *How to Detect and Handle Outliers* (1993), for 3.5; the 5 % point of a normal distribution |
//! | its weights | the modified z-score of its mean similarity to the others is below −3.5 | the same |
//! | its effect in a pair | the average of it and the best model scores below the best model by more than 1.645 standard errors of the difference | the same 5 % point |
//!
//! A model that fails two tests or more is harmful. One failed test is no proof: a model whose own score is far below
//! the others' may know something that they do not, and one whose weights differ may only have been trained longer.
//!
//! Standard errors are those of a macro average of fractions ([`glue_eval::statistics`]): that of a model with the
//! median score of each task for the first test, √2 times that of the best model for the third. For scores between 0
//! and 1 that are no fractions of items they are too large rather than too small. Where a task has scores on another
//! scale, such as a perplexity, no error is known, and a test that needs one is not failed.

use crate::context::short;
use crate::contract::Scores;
use glue_eval::statistics::{Estimate, ONE_IN_TWENTY, fraction_stderr, macro_average, median, modified_z};
use serde::Serialize;

/// The bound of Iglewicz and Hoaglin.
const OUTLIER: f64 = 3.5;

/// The verdict on a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelVerdict {
    /// Its name.
    pub model: String,
    /// Whether it is left out.
    pub harmful: bool,
    /// The tests it failed, in words; for a model that could not be scored, the reason.
    pub failed_tests: Vec<String>,
    /// The conclusion in words.
    pub reason: String,
}

/// What the tests look at.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Its own scores, or why it has none.
    pub baseline: Result<&'a Scores, &'a str>,
    /// Its mean similarity to the others.
    pub similarity: Option<f64>,
    /// The scores of the average of it and the best model; none for the best itself.
    pub pair: Option<&'a Scores>,
}

/// Tests all models of a zoo.
pub fn judge(evidence: &[Evidence<'_>]) -> Vec<ModelVerdict> {
    let baselines: Vec<&Scores> = evidence.iter().filter_map(|of| of.baseline.ok()).collect();
    let averages: Vec<f64> = baselines.iter().map(|scores| scores.average).collect();
    let best = baselines
        .iter()
        .copied()
        .fold(None::<&Scores>, |best, scores| best.filter(|best| best.average >= scores.average).or(Some(scores)));
    let similarities: Vec<f64> = evidence.iter().filter_map(|of| of.similarity).collect();
    let error = stderr_of_median(&baselines);
    evidence
        .iter()
        .map(|of| {
            let baseline = match of.baseline {
                Ok(baseline) => baseline,
                Err(why) => return unscored(of.model, why),
            };
            let mut failed = Vec::new();
            if let (Some((z, median)), Some(error)) = (outlier(baseline.average, &averages), error)
                && median - baseline.average > ONE_IN_TWENTY * error
            {
                let (x, median) = (short(baseline.average), short(median));
                failed.push(format!("its average score {x} is far below the median {median} (modified z-score {z:.1})"));
            }
            if let Some((z, median)) = of.similarity.and_then(|x| outlier(x, &similarities)) {
                let x = short(of.similarity.unwrap_or_default());
                let median = short(median);
                failed.push(format!(
                    "its weights differ from the others': mean similarity {x}, median {median} (modified z-score {z:.1})"
                ));
            }
            if let (Some(pair), Some(best)) = (of.pair, best)
                && let Some(error) = stderr(best.tasks.iter().map(|task| (task.value, task.n)))
                && best.average - pair.average > ONE_IN_TWENTY * std::f64::consts::SQRT_2 * error
            {
                failed.push(format!(
                    "averaged with it, the best model drops from {} to {}",
                    short(best.average),
                    short(pair.average)
                ));
            }
            let harmful = failed.len() >= 2;
            let reason = match failed.len() {
                0 => "passed all outlier tests: kept".to_string(),
                1 => format!("failed one outlier test, which is no proof: kept; {}", failed[0]),
                n => format!("failed {n} of 3 outlier tests: left out; {}", failed.join("; ")),
            };
            ModelVerdict { model: of.model.into(), harmful, failed_tests: failed, reason }
        })
        .collect()
}

/// The verdict on a model without scores.
pub(crate) fn unscored(model: &str, why: &str) -> ModelVerdict {
    let reason = format!("it could not be scored: left out; {why}");
    ModelVerdict { model: model.into(), harmful: true, failed_tests: vec![why.into()], reason }
}

/// The modified z-score of `x` and the median, when it is an outlier to the lower side.
fn outlier(x: f64, all: &[f64]) -> Option<(f64, f64)> {
    let z = modified_z(x, all).filter(|z| *z < -OUTLIER)?;
    Some((z.max(-999.0), median(all)?))
}

/// The standard error of the average of a model that has the median score in each task.
fn stderr_of_median(baselines: &[&Scores]) -> Option<f64> {
    let first = baselines.first()?;
    let task = |(t, task): (usize, &crate::contract::TaskScore)| {
        let values: Vec<f64> = baselines.iter().filter_map(|of| of.tasks.get(t)).map(|task| task.value).collect();
        (median(&values).unwrap_or(task.value), task.n)
    };
    stderr(first.tasks.iter().enumerate().map(task))
}

/// The standard error of a macro average of fractions, given with their numbers of items.
fn stderr(tasks: impl Iterator<Item = (f64, usize)>) -> Option<f64> {
    let tasks: Vec<Estimate> = tasks.map(|(value, n)| Estimate { value, stderr: fraction_stderr(value, n) }).collect();
    macro_average(&tasks).stderr
}

#[cfg(test)]
mod tests {
    //! Zoos by hand.
    use super::*;
    use crate::contract::TaskScore;

    fn tasks(values: &[(f64, usize)]) -> Scores {
        let task = |&(value, n): &(f64, usize)| TaskScore { task: "t".into(), metric: "acc".into(), value, n };
        let average = values.iter().map(|(value, _)| value).sum::<f64>() / values.len() as f64;
        Scores { tasks: values.iter().map(task).collect(), average, dropped: false }
    }

    fn scores(average: f64) -> Scores {
        tasks(&[(average, 400)])
    }

    /// Verdicts on models with these scores, the last of which was also averaged with the best.
    fn judge_last(rows: &[Scores; 5], pair: &Scores) -> Vec<ModelVerdict> {
        let of = |(i, scores)| Evidence {
            model: "m",
            baseline: Ok(scores),
            similarity: None,
            pair: (i == 4).then_some(pair),
        };
        judge(&rows.iter().enumerate().map(of).collect::<Vec<_>>())
    }

    fn harmful(rows: &[(f64, f64, Option<f64>)]) -> Vec<usize> {
        let baselines: Vec<Scores> = rows.iter().map(|row| scores(row.0)).collect();
        let pairs: Vec<Option<Scores>> = rows.iter().map(|row| row.2.map(scores)).collect();
        let evidence: Vec<Evidence<'_>> = (0..rows.len())
            .map(|i| Evidence {
                model: "m",
                baseline: Ok(&baselines[i]),
                similarity: Some(rows[i].1),
                pair: pairs[i].as_ref(),
            })
            .collect();
        let verdicts = judge(&evidence);
        (0..rows.len()).filter(|&i| verdicts[i].harmful).collect()
    }

    #[test]
    fn two_failed_tests_are_needed() {
        let good = [(0.64, 0.96, Some(0.66)), (0.67, 0.97, None), (0.65, 0.965, Some(0.68)), (0.66, 0.96, Some(0.67))];
        let with = |last| harmful(&[&good[..], &[last]].concat());
        assert_eq!(with((0.65, 0.962, Some(0.66))), [0_usize; 0]);
        assert_eq!(with((0.30, 0.962, Some(0.66))), [0_usize; 0], "a bad score alone");
        assert_eq!(with((0.65, 0.70, Some(0.66))), [0_usize; 0], "different weights alone");
        assert_eq!(with((0.65, 0.962, Some(0.40))), [0_usize; 0], "a bad pair alone");
        assert_eq!(with((0.30, 0.962, Some(0.40))), [4]);
        assert_eq!(with((0.30, 0.70, Some(0.66))), [4]);
        assert_eq!(with((0.65, 0.70, Some(0.40))), [4]);
    }

    #[test]
    fn noise_fails_no_test() {
        // Scores so close that the deviation is almost nothing: 0.64 is many deviations away, but no more than an
        // error.
        let rows = [
            (0.66, 0.9, Some(0.66)),
            (0.66, 0.9, None),
            (0.6601, 0.9, None),
            (0.6599, 0.9, None),
            (0.64, 0.9, Some(0.65)),
        ];
        assert_eq!(harmful(&rows), [0_usize; 0]);
    }

    #[test]
    fn a_task_of_few_items_has_a_large_error() {
        // One standard error of 164 items is 0.039, so that a drop of 0.05 in that task alone is chance: 0.025 on
        // average, where the error is 0.0197. Items of both tasks together would make the error 0.005, and the model
        // harmful by two tests.
        let rows = [0.5, 0.501, 0.499, 0.502, 0.45].map(|small| tasks(&[(small, 164), (0.5, 10_000)]));
        let pair = tasks(&[(0.45, 164), (0.5, 10_000)]);
        let verdicts = judge_last(&rows, &pair);
        assert_eq!(verdicts[4].failed_tests, [""; 0], "{}", verdicts[4].reason);
    }

    #[test]
    fn without_an_error_only_weights_can_be_tested() {
        let rows = [-8.0, -8.1, -7.9, -8.0, -900.0].map(|perplexity| tasks(&[(perplexity, 10), (0.5, 400)]));
        let pair = tasks(&[(-900.0, 10), (0.5, 400)]);
        let verdicts = judge_last(&rows, &pair);
        assert_eq!(verdicts[4].failed_tests, [""; 0]);
    }

    #[test]
    fn a_failure_is_left_out() {
        let ok = scores(0.5);
        let of = |baseline| Evidence { model: "m", baseline, similarity: None, pair: None };
        let verdicts = judge(&[of(Ok(&ok)), of(Err("a log-likelihood is NaN"))]);
        assert_eq!(verdicts.iter().map(|verdict| verdict.harmful).collect::<Vec<_>>(), [false, true]);
        assert_eq!(verdicts[1].reason, "it could not be scored: left out; a log-likelihood is NaN");
    }
}
