//! Multinomial logistic regression with an L2 penalty, to its optimum.
//!
//! F(W, b) = (1/n)·Σᵢ -Σₑ tᵢₑ·log softmax(W·zᵢ + b)ₑ + (λ/2)·(‖W‖² + ‖b‖²), with targets tᵢ that sum to 1 and
//! standardised features z = (x - mean)/deviation. The penalty includes b, so that F is strongly convex in all
//! parameters, has one optimum even where no item has some expert's label, and a gradient g proves F - F* ≤ ‖g‖²/(2λ).
//!
//! Solved by Newton's method with steps by conjugate gradients and backtracking (Nocedal and Wright, *Numerical
//! Optimization*, 2nd edition, section 7.1).

use crate::error::RouterError;
use crate::gate::{Gate, unstandardised};
use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};

/// Features brought to mean 0 and variance 1. A feature that does not vary becomes 0.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Standardisation {
    pub(crate) mean: Array1<f64>,
    /// What x - mean is multiplied by.
    pub(crate) factor: Array1<f64>,
}

impl Standardisation {
    /// That of the rows of `x`.
    pub(crate) fn of(x: ArrayView2<'_, f64>) -> Standardisation {
        let n = x.nrows().max(1) as f64;
        let mean = x.sum_axis(Axis(0)) / n;
        let variance = x.axis_iter(Axis(0)).fold(Array1::zeros(x.ncols()), |sum: Array1<f64>, row| {
            let centred = &row - &mean;
            sum + &centred * &centred
        }) / n;
        // Below this it is rounding of the states, which are f32.
        let varies = |variance: f64, mean: f64| variance.sqrt() > 1e-6 * mean.abs().max(1e-30);
        let factor = variance.iter().zip(&mean).map(|(&v, &m)| if varies(v, m) { 1.0 / v.sqrt() } else { 0.0 });
        Standardisation { factor: factor.collect(), mean }
    }

    /// Brought to mean square 1 where they are, for a gate without a bias that could take up a mean.
    pub(crate) fn without_mean(x: ArrayView2<'_, f64>) -> Standardisation {
        let n = x.nrows().max(1) as f64;
        let square = x.mapv(|x| x * x).sum_axis(Axis(0)) / n;
        let factor = square.mapv(|square| if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 });
        Standardisation { mean: Array1::zeros(x.ncols()), factor }
    }

    /// `x` standardised.
    pub(crate) fn apply(&self, x: ArrayView2<'_, f64>) -> Array2<f64> {
        (&x - &self.mean) * &self.factor
    }
}

/// How near a fit is to the optimum of its objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Certificate {
    /// The objective F.
    pub objective: f64,
    /// ‖g‖, the length of its gradient.
    pub gradient_norm: f64,
    /// ‖g‖²/(2λ), by which F may exceed its optimum at most.
    pub gap: f64,
    /// Newton steps taken.
    pub steps: usize,
}

/// A fit on standardised features.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fit {
    /// [experts, features + 1]; the last column is b.
    pub(crate) parameters: Array2<f64>,
    pub(crate) certificate: Certificate,
}

/// The length of the gradient at which a fit counts as exact.
pub const EXACT: f64 = 1e-9;

/// A gate fitted to `states` [n, width] and `targets` [n, experts], rows of which sum to 1, under the penalty `l2` > 0.
/// Standardisation is folded into weight and bias. Deterministic.
///
/// # Errors
/// [`RouterError::Setting`] for a penalty that is not positive, [`RouterError::Mismatch`], [`RouterError::TooFewItems`]
/// without items, [`RouterError::NotFinite`].
pub fn fit_linear(
    states: ArrayView2<'_, f64>,
    targets: ArrayView2<'_, f64>,
    l2: f64,
) -> Result<(Gate, Certificate), RouterError> {
    let standardisation = Standardisation::of(states);
    let problem = Problem::new(standardisation.apply(states).view(), targets, l2, true)?;
    let fit = problem.solve(None, EXACT)?;
    Ok((fit.gate(&standardisation, true), fit.certificate))
}

impl Fit {
    /// The gate that reads states as they are.
    pub(crate) fn gate(&self, standardisation: &Standardisation, bias: bool) -> Gate {
        let last = self.parameters.ncols() - 1;
        let weight = self.parameters.slice(s![.., ..last]).to_owned();
        if !bias {
            return Gate::Linear { weight: weight * &standardisation.factor, bias: None };
        }
        let bias = Some(self.parameters.column(last).to_owned());
        unstandardised(Gate::Linear { weight, bias }, &standardisation.mean, &standardisation.factor)
    }
}

/// Features with a column of ones, targets and penalty.
pub(crate) struct Problem<'a> {
    features: Array2<f64>,
    targets: ArrayView2<'a, f64>,
    l2: f64,
}

/// The objective at some parameters, its gradient, and the probabilities of the experts.
struct Evaluation {
    objective: f64,
    gradient: Array2<f64>,
    probabilities: Array2<f64>,
}

impl<'a> Problem<'a> {
    /// With standardised `features` [n, width]; without `bias`, b stays zero.
    pub(crate) fn new(
        features: ArrayView2<'_, f64>,
        targets: ArrayView2<'a, f64>,
        l2: f64,
        bias: bool,
    ) -> Result<Problem<'a>, RouterError> {
        if !(l2 > 0.0 && l2.is_finite()) {
            return Err(RouterError::Setting { name: "l2", found: l2.to_string(), expected: "a positive number" });
        }
        if features.nrows() == 0 {
            return Err(RouterError::TooFewItems { purpose: "to train with", expected: 1, found: 0 });
        }
        if features.nrows() != targets.nrows() {
            let (expected, found) = (features.nrows(), targets.nrows());
            return Err(RouterError::Mismatch { what: "targets".into(), expected, found });
        }
        if let Some(&found) = features.iter().chain(&targets).find(|x| !x.is_finite()) {
            return Err(RouterError::NotFinite { what: "a state or a target".into(), found });
        }
        let ones = Array2::from_elem((features.nrows(), 1), f64::from(u8::from(bias)));
        let features = concatenate![Axis(1), features, ones];
        Ok(Problem { features, targets, l2 })
    }

    fn n(&self) -> f64 {
        self.features.nrows() as f64
    }

    fn at(&self, parameters: &Array2<f64>) -> Evaluation {
        let scores = self.features.dot(&parameters.t());
        let (probabilities, loss) = softmax_loss(scores, self.targets);
        let objective = loss / self.n() + 0.5 * self.l2 * parameters.iter().map(|w| w * w).sum::<f64>();
        let residual = &probabilities - &self.targets;
        let gradient = residual.t().dot(&self.features) / self.n() + parameters * self.l2;
        Evaluation { objective, gradient, probabilities }
    }

    /// The Hessian times `v`.
    fn curvature(&self, probabilities: &Array2<f64>, v: &Array2<f64>) -> Array2<f64> {
        let mut change = self.features.dot(&v.t()) * probabilities;
        let sums = change.sum_axis(Axis(1));
        change -= &(probabilities * &sums.insert_axis(Axis(1)));
        change.t().dot(&self.features) / self.n() + v * self.l2
    }

    /// From `start`, or from zero, until the gradient is shorter than `tolerance` or rounding allows no further step.
    pub(crate) fn solve(&self, start: Option<&Array2<f64>>, tolerance: f64) -> Result<Fit, RouterError> {
        const STEPS: usize = 200;
        let mut parameters =
            start.cloned().unwrap_or_else(|| Array2::zeros((self.targets.ncols(), self.features.ncols())));
        let mut current = self.at(&parameters);
        let mut steps = 0;
        while length(&current.gradient) > tolerance && steps < STEPS {
            let direction = self.newton_step(&current);
            let slope = inner(&current.gradient, &direction);
            let mut t = 1.0;
            let next = loop {
                let candidate = &parameters + &(&direction * t);
                let trial = self.at(&candidate);
                // Near the optimum differences of F drown in rounding, and the gradient decides.
                let lower = trial.objective <= current.objective + 1e-4 * t * slope;
                let even = (trial.objective - current.objective).abs() <= 1e-12 * current.objective.abs().max(1e-12);
                if lower || (even && length(&trial.gradient) < length(&current.gradient)) {
                    break Some((candidate, trial));
                }
                t *= 0.5;
                if t < 1e-10 {
                    break None;
                }
            };
            let Some((candidate, trial)) = next else { break };
            (parameters, current) = (candidate, trial);
            steps += 1;
        }
        let gradient_norm = length(&current.gradient);
        if !gradient_norm.is_finite() {
            return Err(RouterError::NotFinite { what: "the gradient of the regression".into(), found: gradient_norm });
        }
        let gap = gradient_norm * gradient_norm / (2.0 * self.l2);
        let certificate = Certificate { objective: current.objective, gradient_norm, gap, steps };
        Ok(Fit { parameters, certificate })
    }

    /// Solves H·d = -g by conjugate gradients, the more exactly the nearer the optimum is.
    fn newton_step(&self, current: &Evaluation) -> Array2<f64> {
        let size = length(&current.gradient);
        let target = size * size.sqrt().min(0.1);
        let mut direction = Array2::zeros(current.gradient.dim());
        let mut residual = current.gradient.mapv(|g| -g);
        let mut search = residual.clone();
        let mut square = inner(&residual, &residual);
        for _ in 0..2 * current.gradient.len().min(500) {
            if square.sqrt() <= target {
                break;
            }
            let curved = self.curvature(&current.probabilities, &search);
            let step = square / inner(&search, &curved);
            direction.scaled_add(step, &search);
            residual.scaled_add(-step, &curved);
            let next = inner(&residual, &residual);
            search = &residual + &(&search * (next / square));
            square = next;
        }
        direction
    }
}

/// Softmax of each row of `scores`, and the cross-entropy with `targets`, summed.
pub(crate) fn softmax_loss(mut scores: Array2<f64>, targets: ArrayView2<'_, f64>) -> (Array2<f64>, f64) {
    let mut loss = 0.0;
    for (mut row, target) in scores.axis_iter_mut(Axis(0)).zip(targets.axis_iter(Axis(0))) {
        let largest = row.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        let log_sum = largest + sum.ln();
        loss += row.iter().zip(target).map(|(score, &target)| target * (log_sum - score)).sum::<f64>();
        row.mapv_inplace(|score| (score - log_sum).exp());
    }
    (scores, loss)
}

fn inner(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(a: &Array2<f64>) -> f64 {
    inner(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::GateMath;
    use crate::random::normal;
    use ndarray::array;

    fn data(n: usize, width: usize, experts: usize) -> (Array2<f64>, Array2<f64>) {
        let x = Array2::from_shape_vec((n, width), normal(1, 0, n * width)).unwrap();
        let teacher = Array2::from_shape_vec((experts, width), normal(1, 1, experts * width)).unwrap();
        let noise = Array2::from_shape_vec((n, experts), normal(1, 2, n * experts)).unwrap();
        let scores = x.dot(&teacher.t()) + noise;
        let mut targets = Array2::zeros((n, experts));
        for (row, mut target) in scores.axis_iter(Axis(0)).zip(targets.axis_iter_mut(Axis(0))) {
            let best = (0..experts).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            target[best] = 1.0;
        }
        (x * 3.0 + 5.0, targets)
    }

    #[test]
    fn two_classes_and_one_feature_worked_by_hand() {
        // Features ±1 with labels that agree in 3 of 4: by symmetry b = 0 and W = (w, -w).
        let x = array![[1.0], [1.0], [1.0], [1.0], [-1.0], [-1.0], [-1.0], [-1.0]];
        let class = [0, 0, 0, 1, 1, 1, 1, 0];
        let mut targets = Array2::zeros((8, 2));
        class.iter().enumerate().for_each(|(i, &c)| targets[[i, c]] = 1.0);
        let l2 = 0.1;
        let (gate, certificate) = fit_linear(x.view(), targets.view(), l2).unwrap();
        let Gate::Linear { weight, bias: Some(bias) } = gate else { panic!("linear with bias") };
        let w = weight[[0, 0]];
        let sigmoid = 1.0 / (1.0 + (-2.0 * w).exp());
        // dF/dW₀ = mean((p - t)·x) + λ·w, which is σ(2w) - 3/4 + λ·w.
        assert!((sigmoid - 0.75 + l2 * w).abs() < 1e-9, "{w}");
        assert!((weight[[1, 0]] + w).abs() < 1e-9 && bias.iter().all(|b| b.abs() < 1e-9));
        assert!(certificate.gradient_norm <= EXACT);
    }

    #[test]
    fn the_certificate_is_that_of_an_optimum() {
        let (x, targets) = data(300, 12, 4);
        for l2 in [1.0, 1e-2, 1e-4, 1e-6] {
            let standardisation = Standardisation::of(x.view());
            let features = standardisation.apply(x.view());
            let problem = Problem::new(features.view(), targets.view(), l2, true).unwrap();
            let fit = problem.solve(None, EXACT).unwrap();
            assert!(fit.certificate.gradient_norm <= EXACT, "{l2}: {:?}", fit.certificate);
            assert_eq!(fit.certificate.gap, fit.certificate.gradient_norm.powi(2) / (2.0 * l2));
            // No step in any direction leads lower.
            for seed in 0..20 {
                let step = Array2::from_shape_vec(fit.parameters.dim(), normal(seed, 9, fit.parameters.len())).unwrap();
                let trial = problem.at(&(&fit.parameters + &(step * 1e-3)));
                assert!(trial.objective > fit.certificate.objective);
            }
        }
    }

    #[test]
    fn the_gradient_and_the_curvature_are_difference_quotients() {
        let (x, targets) = data(40, 3, 3);
        let problem = Problem::new(x.view(), targets.view(), 0.3, true).unwrap();
        let at = Array2::from_shape_vec((3, 4), normal(4, 4, 12)).unwrap() * 0.1;
        let step = Array2::from_shape_vec((3, 4), normal(4, 5, 12)).unwrap();
        let h = 1e-6;
        let (current, plus, minus) =
            (problem.at(&at), problem.at(&(&at + &(&step * h))), problem.at(&(&at - &(&step * h))));
        let slope = (plus.objective - minus.objective) / (2.0 * h);
        // Errors of central differences: h² times third derivatives of some hundreds, and ε/h.
        assert!((slope - inner(&current.gradient, &step)).abs() < 1e-7);
        let change = (&plus.gradient - &minus.gradient) / (2.0 * h);
        assert!(length(&(change - problem.curvature(&current.probabilities, &step))) < 1e-6);
    }

    #[test]
    fn an_expert_without_items_scores_low_and_features_that_do_not_vary_count_for_nothing() {
        let (x, targets) = data(200, 4, 2);
        let x = concatenate![Axis(1), x, Array2::from_elem((200, 1), 7.5)];
        let targets = concatenate![Axis(1), targets, Array2::zeros((200, 1))];
        let (gate, _) = fit_linear(x.view(), targets.view(), 1e-3).unwrap();
        assert!(gate.routes(x.view()).iter().all(|&route| route < 2));
        let Gate::Linear { weight, .. } = gate else { panic!("linear") };
        assert!(weight.column(4).iter().all(|&w| w == 0.0));
    }

    #[test]
    fn without_a_bias_there_is_none_and_the_fit_is_exact_all_the_same() {
        let (x, targets) = data(200, 4, 3);
        let standardisation = Standardisation::without_mean(x.view());
        let problem = Problem::new(standardisation.apply(x.view()).view(), targets.view(), 1e-2, false).unwrap();
        let fit = problem.solve(None, EXACT).unwrap();
        assert!(fit.certificate.gradient_norm <= EXACT);
        let gate = fit.gate(&standardisation, false);
        assert!(matches!(gate, Gate::Linear { bias: None, .. }));
        let scores = standardisation.apply(x.view()).dot(&fit.parameters.slice(s![.., ..4]).t());
        // Rounding of f64.
        assert!(scores.iter().zip(&gate.scores(x.view())).all(|(a, b)| (a - b).abs() < 1e-10));
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let (x, targets) = data(10, 2, 2);
        for l2 in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(fit_linear(x.view(), targets.view(), l2), Err(RouterError::Setting { .. })));
        }
        let none = Array2::zeros((0, 2));
        assert!(matches!(fit_linear(none.view(), none.view(), 1.0), Err(RouterError::TooFewItems { .. })));
        let short = targets.slice(s![..9, ..]);
        assert!(matches!(fit_linear(x.view(), short, 1.0), Err(RouterError::Mismatch { .. })));
        let mut broken = x.clone();
        broken[[3, 1]] = f64::NAN;
        assert!(matches!(fit_linear(broken.view(), targets.view(), 1.0), Err(RouterError::NotFinite { .. })));
    }
}
