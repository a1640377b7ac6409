//! Harmful models, found before anything is merged with them.
//!
//! Three signs, none of which knows the zoo:
//!
//! | sign | rule | where from |
//! |---|---|---|
//! | its own score | modified z-score 0.6745 (x − median) / MAD below −3.5, and below the median by more than 1.645 standard errors | Iglewicz and Hoaglin, *How to Detect and Handle Outliers* (1993), for 3.5; the 5 % point of a normal distribution |
//! | its weights | the same z-score of its mean likeness to the others | the same |
//! | its effect in a pair | the average of it and the best model is below the best model by more than 1.645 standard errors of the difference | the same 5 % point |
//!
//! A model with two signs or more is harmful. One sign alone is no proof: a model with a score of its own far below the
//! others may know something that they do not, and an unlike one may only have been trained longer.
//!
//! Standard errors are those of shares of right answers, √(p (1 − p) / n) over all items, which for other scores between 0
//! and 1 is too large rather than too small.

use crate::contract::Scores;
use crate::session::short;
use serde::Serialize;

/// The bound of Iglewicz and Hoaglin.
const OUTLIER: f64 = 3.5;
/// Makes the median absolute deviation of a normal distribution its standard deviation.
const NORMAL: f64 = 0.6745;
/// What a normal variable exceeds in one case of twenty.
const ONE_IN_TWENTY: f64 = 1.645;

/// What is thought of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelVerdict {
    /// Its name.
    pub model: String,
    /// Whether it is left out.
    pub harmful: bool,
    /// The signs against it, in words; for a model that could not be scored, why.
    pub signs: Vec<String>,
    /// The conclusion in words.
    pub reason: String,
}

/// What is known of a model.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Its name.
    pub model: &'a str,
    /// Its own scores, or why it has none.
    pub single: Result<&'a Scores, &'a str>,
    /// Its mean likeness to the others.
    pub likeness: Option<f64>,
    /// The scores of the average of it and the best model; none for the best itself.
    pub pair: Option<&'a Scores>,
}

/// Judges all models of a zoo.
pub fn judge(evidence: &[Evidence<'_>]) -> Vec<ModelVerdict> {
    let averages: Vec<f64> = evidence.iter().filter_map(|of| of.single.ok().map(|scores| scores.average)).collect();
    let best = evidence
        .iter()
        .filter_map(|of| of.single.ok())
        .fold(None::<&Scores>, |best, scores| best.filter(|best| best.average >= scores.average).or(Some(scores)));
    let likeness: Vec<f64> = evidence.iter().filter_map(|of| of.likeness).collect();
    evidence
        .iter()
        .map(|of| {
            let single = match of.single {
                Ok(single) => single,
                Err(why) => return unscored(of.model, why),
            };
            let mut signs = Vec::new();
            if let Some((z, median)) = outlier(single.average, &averages)
                && median - single.average > ONE_IN_TWENTY * error(median, items(single))
            {
                let (x, median) = (short(single.average), short(median));
                signs.push(format!("its own average {x} is far below the median {median} (modified z-score {z:.1})"));
            }
            if let Some((z, median)) = of.likeness.and_then(|x| outlier(x, &likeness)) {
                let x = short(of.likeness.unwrap_or_default());
                let median = short(median);
                signs.push(format!(
                    "its weights are unlike the others': mean likeness {x}, median {median} (modified z-score {z:.1})"
                ));
            }
            if let (Some(pair), Some(best)) = (of.pair, best) {
                let noise = error(best.average, items(best)) * std::f64::consts::SQRT_2;
                if best.average - pair.average > ONE_IN_TWENTY * noise {
                    signs.push(format!(
                        "averaged with it the best model falls from {} to {}",
                        short(best.average),
                        short(pair.average)
                    ));
                }
            }
            let harmful = signs.len() >= 2;
            let reason = match signs.len() {
                0 => "no sign against it: kept".to_string(),
                1 => format!("one sign against it, which is no proof: kept; {}", signs[0]),
                n => format!("{n} signs against it: left out; {}", signs.join("; ")),
            };
            ModelVerdict { model: of.model.into(), harmful, signs, reason }
        })
        .collect()
}

/// What is thought of a model without scores.
pub(crate) fn unscored(model: &str, why: &str) -> ModelVerdict {
    let reason = format!("it could not be scored: left out; {why}");
    ModelVerdict { model: model.into(), harmful: true, signs: vec![why.into()], reason }
}

/// The modified z-score of `x` and the median, when it is an outlier to the lower side.
fn outlier(x: f64, all: &[f64]) -> Option<(f64, f64)> {
    // With three values or fewer, one of them is the median and the deviation says nothing.
    if all.len() < 4 {
        return None;
    }
    let middle = median(all);
    let deviation = median(&all.iter().map(|x| (x - middle).abs()).collect::<Vec<_>>());
    let z = NORMAL * (x - middle) / deviation.max(f64::MIN_POSITIVE);
    (z < -OUTLIER).then_some((z.max(-999.0), middle))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n % 2 == 1 { sorted[n / 2] } else { (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0 }
}

fn items(scores: &Scores) -> usize {
    scores.tasks.iter().map(|task| task.n).sum()
}

/// The standard error of a share of right answers.
fn error(p: f64, n: usize) -> f64 {
    let p = p.clamp(0.0, 1.0);
    (p * (1.0 - p) / n.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    //! Zoos by hand.
    use super::*;
    use crate::contract::TaskScore;

    fn scores(average: f64) -> Scores {
        let task = TaskScore { task: "t".into(), metric: "acc".into(), value: average, n: 400 };
        Scores { tasks: vec![task], average, dropped: false }
    }

    fn harmful(rows: &[(f64, f64, Option<f64>)]) -> Vec<usize> {
        let singles: Vec<Scores> = rows.iter().map(|row| scores(row.0)).collect();
        let pairs: Vec<Option<Scores>> = rows.iter().map(|row| row.2.map(scores)).collect();
        let evidence: Vec<Evidence<'_>> = (0..rows.len())
            .map(|i| Evidence {
                model: "m",
                single: Ok(&singles[i]),
                likeness: Some(rows[i].1),
                pair: pairs[i].as_ref(),
            })
            .collect();
        let verdicts = judge(&evidence);
        (0..rows.len()).filter(|&i| verdicts[i].harmful).collect()
    }

    #[test]
    fn two_signs_are_needed() {
        let good = [(0.64, 0.96, Some(0.66)), (0.67, 0.97, None), (0.65, 0.965, Some(0.68)), (0.66, 0.96, Some(0.67))];
        let with = |last| harmful(&[&good[..], &[last]].concat());
        assert_eq!(with((0.65, 0.962, Some(0.66))), [0_usize; 0]);
        assert_eq!(with((0.30, 0.962, Some(0.66))), [0_usize; 0], "a bad score alone");
        assert_eq!(with((0.65, 0.70, Some(0.66))), [0_usize; 0], "unlike weights alone");
        assert_eq!(with((0.65, 0.962, Some(0.40))), [0_usize; 0], "a bad pair alone");
        assert_eq!(with((0.30, 0.962, Some(0.40))), [4]);
        assert_eq!(with((0.30, 0.70, Some(0.66))), [4]);
        assert_eq!(with((0.65, 0.70, Some(0.40))), [4]);
    }

    #[test]
    fn noise_is_no_sign() {
        // Scores so close that the deviation is almost nothing: 0.64 is many deviations away, but no more than an error.
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
    fn a_failure_is_left_out() {
        let ok = scores(0.5);
        let of = |single| Evidence { model: "m", single, likeness: None, pair: None };
        let verdicts = judge(&[of(Ok(&ok)), of(Err("a log-likelihood is NaN"))]);
        assert_eq!(verdicts.iter().map(|verdict| verdict.harmful).collect::<Vec<_>>(), [false, true]);
        assert_eq!(verdicts[1].reason, "it could not be scored: left out; a log-likelihood is NaN");
    }
}
