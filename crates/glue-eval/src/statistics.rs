//! Averages with their standard errors.
//!
//! T tasks; task t has n_t items with values x_ti, mean m_t and standard error s_t.
//!
//! | quantity | value | standard error |
//! |---|---|---|
//! | score of a task that is a fraction of its items | p | √(p (1 − p) / n) |
//! | macro average over tasks | Σ m_t / T | √(Σ s_t²) / T |
//! | weighted average over tasks | Σ w_t m_t / Σ w_t | √(Σ w_t² s_t²) / Σ w_t |
//!
//! Errors are never pooled over the items of several tasks: each task has the same weight in a macro average, so that a
//! task with few items dominates its error however many items the other tasks have.
//!
//! Miller, *Adding Error Bars to Evals*, arXiv 2411.00640. Gains of one model over another, item by item, are in
//! [`decision`](crate::decision).

/// A value and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error; `None` where it is not known.
    pub stderr: Option<f64>,
}

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
}
