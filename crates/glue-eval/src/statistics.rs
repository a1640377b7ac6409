//! Averages, gains and outliers, with their standard errors: every decision between models is made by these functions.
//!
//! T tasks; task t has n_t items with values x_ti, mean m_t and standard error s_t.
//!
//! | quantity | value | standard error |
//! |---|---|---|
//! | score of a task that is a fraction of its items | p | √(p (1 − p) / n) |
//! | macro average over tasks | Σ m_t / T | √(Σ s_t²) / T |
//! | weighted average over tasks | Σ w_t m_t / Σ w_t | √(Σ w_t² s_t²) / Σ w_t |
//! | paired gain of a over b | Σ (m_t(a) − m_t(b)) / T | √(Σ v_t / n_t) / T, v_t the sample variance of x_ti(a) − x_ti(b) |
//!
//! Errors are never pooled over the items of several tasks: each task has the same weight in a macro average, so that a
//! task with few items dominates its error however many items the other tasks have.
//!
//! Miller, *Adding Error Bars to Evals*, arXiv 2411.00640, for both errors; Iglewicz and Hoaglin, *How to Detect and
//! Handle Outliers* (1993), for [`modified_z`].

/// A value and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error; `None` where it is not known.
    pub stderr: Option<f64>,
}

/// The factor by which a normal variable exceeds its standard error in one case of twenty: the bound of one-sided
/// tests.
pub const ONE_IN_TWENTY: f64 = 1.645;

/// The standard error of a score that is the mean of `n` values between 0 and 1. Exact for values of 0 and 1, too large
/// for others. `None` for a mean outside of that range, whose error the mean does not tell, and without items.
pub fn fraction_stderr(p: f64, n: usize) -> Option<f64> {
    ((0.0..=1.0).contains(&p) && n > 0).then(|| (p * (1.0 - p) / n as f64).sqrt())
}

/// The mean over tasks, each with the same weight: [`weighted_average`] without weights.
pub fn macro_average(tasks: &[Estimate]) -> Estimate {
    weighted_average(tasks, &[])
}

/// The mean over tasks, with the weight of each, of any scale; empty for equal weights. It has a standard error if each
/// task with a weight has one; tasks are independent. Without a task the value is NaN, with no standard error.
///
/// # Panics
/// If weights do not fit.
pub fn weighted_average(tasks: &[Estimate], weights: &[f64]) -> Estimate {
    assert!(weights.is_empty() || weights.len() == tasks.len(), "a weight for each task");
    let weight = |t: usize| weights.get(t).copied().unwrap_or(1.0);
    // A task without a weight does not count, whatever its score is.
    let counted = || tasks.iter().enumerate().map(|(t, task)| (weight(t), task)).filter(|(weight, _)| *weight != 0.0);
    let sum: f64 = counted().map(|(weight, _)| weight).sum();
    let value = counted().map(|(weight, task)| weight * task.value).sum::<f64>() / sum;
    let variance: Option<f64> = counted().map(|(weight, task)| Some((weight * task.stderr?).powi(2))).sum();
    Estimate { value, stderr: variance.filter(|_| sum > 0.0).map(|variance| variance.sqrt() / sum) }
}

/// One task in which two models answered the same items.
#[derive(Debug, Clone, Copy)]
pub struct PairedTask<'a> {
    /// The task's score of the new model less that of the old one.
    pub difference: f64,
    /// The items of the new model.
    pub new: &'a [f64],
    /// The items of the old model, in the same order.
    pub old: &'a [f64],
}

/// The gain of one model over another in the macro average, and its standard error from the differences item by item. A
/// task with fewer than two items adds nothing to the error. A gain of 0 without a task.
pub fn paired_gain<'a>(tasks: impl IntoIterator<Item = PairedTask<'a>>) -> (f64, f64) {
    let (mut sum, mut variance, mut count) = (0.0, 0.0, 0.0_f64);
    for task in tasks {
        count += 1.0;
        sum += task.difference;
        let differences: Vec<f64> = task.new.iter().zip(task.old).map(|(new, old)| new - old).collect();
        let n = differences.len() as f64;
        if n > 1.0 {
            let mean = differences.iter().sum::<f64>() / n;
            variance += differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0) / n;
        }
    }
    let count = count.max(1.0);
    (sum / count, variance.sqrt() / count)
}

/// The median: of an even number of values the mean of the two in the middle. `None` without a value.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n % 2 {
        _ if n == 0 => None,
        1 => Some(sorted[n / 2]),
        _ => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

/// The modified z-score of `x` among `all`, 0.6745 (x − median) / MAD, with the median absolute deviation from the
/// median as MAD. Iglewicz and Hoaglin call more than 3.5 in either direction an outlier. `None` for fewer than four
/// values: one of three is the median itself, and the deviation of the other two says nothing.
pub fn modified_z(x: f64, all: &[f64]) -> Option<f64> {
    /// Makes the median absolute deviation of a normal distribution its standard deviation.
    const NORMAL: f64 = 0.6745;
    let middle = median(all).filter(|_| all.len() >= 4)?;
    let deviation = median(&all.iter().map(|x| (x - middle).abs()).collect::<Vec<_>>())?;
    Some(NORMAL * (x - middle) / deviation.max(f64::MIN_POSITIVE))
}

/// How much models disagree about each item: the variance of its scores over models, with the number of models as
/// divisor. For scores of 0 and 1 it is q (1 − q), q the fraction of models that are right: 0 where all are right or
/// all are wrong, at most 1/4. Items on which all models have the same score tell none of them apart. `models` has the
/// scores of each model, item by item; without a model there are no items.
///
/// # Panics
/// If models have different numbers of items.
pub fn disagreement(models: &[&[f64]]) -> Vec<f64> {
    let items = models.first().map_or(0, |scores| scores.len());
    assert!(models.iter().all(|scores| scores.len() == items), "the same items for all models");
    let n = models.len() as f64;
    let variance = |item: usize| {
        let scores = || models.iter().map(|scores| scores[item]);
        let mean = scores().sum::<f64>() / n;
        scores().map(|x| (x - mean).powi(2)).sum::<f64>() / n
    };
    (0..items).map(variance).collect()
}

#[cfg(test)]
mod tests {
    //! By hand.
    use super::*;

    fn close(found: Option<f64>, expected: f64) {
        // Sums of a few numbers near 1 differ by their rounding at most.
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-12), "{found:?}, expected {expected}");
    }

    fn estimate(value: f64, stderr: Option<f64>) -> Estimate {
        Estimate { value, stderr }
    }

    #[test]
    fn averages_of_tasks() {
        let both = macro_average(&[estimate(0.5, Some(0.3)), estimate(1.0, Some(0.4))]);
        close(Some(both.value), 0.75);
        close(both.stderr, 0.25);
        assert_eq!(macro_average(&[estimate(0.5, None), estimate(1.0, Some(0.4))]).stderr, None);
        assert_eq!(macro_average(&[]).stderr, None);
        let weighted = weighted_average(&[estimate(0.5, Some(0.3)), estimate(1.0, Some(0.4))], &[3.0, 1.0]);
        close(Some(weighted.value), 0.625);
        // √(0.9² + 0.4²) / 4
        close(weighted.stderr, 0.97_f64.sqrt() / 4.0);
        let without = weighted_average(&[estimate(f64::NAN, None), estimate(1.0, Some(0.4))], &[0.0, 2.0]);
        assert_eq!(without, estimate(1.0, Some(0.4)));
    }

    #[test]
    fn a_small_task_dominates_the_error_of_an_average() {
        let of = |p, n| estimate(p, fraction_stderr(p, n));
        // √(0.25/164 + 0.25/10000)/2 = 0.01968; pooled over 10164 items it would be 0.00496.
        let both = macro_average(&[of(0.5, 164), of(0.5, 10_000)]);
        assert!(both.stderr.is_some_and(|stderr| (stderr - 0.019_68).abs() < 1e-5), "{both:?}");
    }

    #[test]
    fn fractions_have_errors_and_other_scores_have_none() {
        close(fraction_stderr(0.5, 100), 0.05);
        assert_eq!(
            (fraction_stderr(-8.3, 100), fraction_stderr(f64::NAN, 100), fraction_stderr(0.5, 0)),
            (None, None, None)
        );
    }

    #[test]
    fn gains_are_paired() {
        let (old, new) = ([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]);
        let task = |new, old, difference| PairedTask { difference, new, old };
        let same: &[f64] = &[1.0, 1.0];
        let (gain, error) = paired_gain([task(&new, &old, 0.25), task(same, same, 0.0)]);
        assert_eq!(gain, 0.125);
        // One task differs in one item of four: variance 1/4, divided by 4 items, over two tasks.
        close(Some(error), 0.125);
        assert_eq!(paired_gain([task(&old, &old, 0.0)]), (0.0, 0.0));
        assert_eq!(paired_gain([]), (0.0, 0.0));
    }

    #[test]
    fn models_disagree_where_some_are_right() {
        let models: [&[f64]; 4] =
            [&[1.0, 0.0, 1.0, 0.5], &[1.0, 0.0, 0.0, 0.5], &[1.0, 0.0, 1.0, 0.5], &[1.0, 0.0, 0.0, 1.5]];
        assert_eq!(disagreement(&models), [0.0, 0.0, 0.25, 0.1875]);
        assert_eq!(disagreement(&[]), Vec::<f64>::new());
    }

    #[test]
    fn medians_and_outliers() {
        assert_eq!(
            (median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0]), median(&[])),
            (Some(2.0), Some(2.5), None)
        );
        // Median 3, deviations 2, 1, 0, 1 and 97: MAD 1.
        close(modified_z(100.0, &[1.0, 2.0, 3.0, 4.0, 100.0]), 0.6745 * 97.0);
        assert_eq!(modified_z(1.0, &[1.0, 2.0, 3.0]), None);
        // Where most values agree, anything else is far away.
        assert!(modified_z(0.9, &[1.0, 1.0, 1.0, 0.9]).is_some_and(|z| z < -1e300));
    }
}
