//! Recombination weights and learning rates, as functions of dimension and population.
//!
//! Hansen, *The CMA evolution strategy: a tutorial*, arXiv 1604.00772, table 1 and equations 49 to 58; the rank-μ rate
//! with ¼ in place of the tutorial's older 0, which matters for tiny populations only. The path of the step size is
//! shorter, and its damping greater where the population is large for the dimension, as in pycma 4.5: restarts with
//! ever larger populations would otherwise shrink too fast to see more than one basin.

/// Constants of one run; symbols as in the tutorial.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rates {
    /// Weights of the candidates from best to worst, w: the positive ones sum to 1, the others pull the covariance away
    /// from bad directions.
    pub(super) weights: Vec<f64>,
    /// Variance-effective selection mass of the positive weights, μ_eff.
    pub(super) mu_eff: f64,
    /// c_σ: of the path of the step size.
    pub(super) c_sigma: f64,
    /// d_σ: damping of the step size.
    pub(super) d_sigma: f64,
    /// c_c: of the path of the covariance.
    pub(super) c_c: f64,
    /// c_1: of the rank-one update.
    pub(super) c_1: f64,
    /// c_μ: of the rank-μ update.
    pub(super) c_mu: f64,
}

impl Rates {
    /// Constants for `n` dimensions and a population of `lambda`. `separable`: for a diagonal covariance, which is
    /// learned (n + 2)/3 times as fast (Ros and Hansen 2008) and from positive weights only.
    pub(super) fn new(n: usize, lambda: usize, separable: bool) -> Self {
        let dim = n as f64;
        let raw: Vec<f64> = (1..=lambda).map(|i| ((lambda as f64 + 1.0) / 2.0).ln() - (i as f64).ln()).collect();
        let mass = |part: &mut dyn Iterator<Item = f64>| {
            let (sum, squares) = part.fold((0.0, 0.0), |(s, q), w| (s + w, q + w * w));
            if squares > 0.0 { (sum, sum * sum / squares) } else { (0.0, 0.0) }
        };
        let (positive, mu_eff) = mass(&mut raw.iter().copied().filter(|w| *w > 0.0));
        let (negative, mu_eff_minus) = mass(&mut raw.iter().copied().filter(|w| *w < 0.0));

        let c_c = (4.0 + mu_eff / dim) / (dim + 4.0 + 2.0 * mu_eff / dim);
        let c_sigma = ((mu_eff + 2.0) / (dim + mu_eff + 3.0)).min(0.5);
        let crowd = (3.0 * (1.0 - 0.5_f64.powf(dim / 9.0))).max(1.0) * ((mu_eff - 1.0) / (dim + 1.0)).sqrt();
        let d_sigma = 1.0 + 2.0 * (crowd - 1.0).max(0.0) + c_sigma;
        let mut c_1 = 2.0 / ((dim + 1.3).powi(2) + mu_eff);
        let mut c_mu = 2.0 * (0.25 + mu_eff + 1.0 / mu_eff - 2.0) / ((dim + 2.0).powi(2) + mu_eff);
        if separable {
            c_1 = (c_1 * (dim + 2.0) / 3.0).min(1.0);
            c_mu *= (dim + 2.0) / 3.0;
        }
        c_mu = c_mu.min(1.0 - c_1);

        let limits = [
            1.0 + c_1 / c_mu.max(f64::MIN_POSITIVE),
            1.0 + 2.0 * mu_eff_minus / (mu_eff + 2.0),
            (1.0 - c_1 - c_mu) / (dim * c_mu.max(f64::MIN_POSITIVE)),
        ];
        let alpha = if separable { 0.0 } else { limits.iter().copied().fold(f64::INFINITY, f64::min) };
        let scale = |w: f64| if w > 0.0 { w / positive } else { -alpha * w / negative.min(-f64::MIN_POSITIVE) };
        let weights = raw.into_iter().map(|w| scale(w) + 0.0).collect();
        Self { weights, mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu }
    }

    /// E‖N(0, I)‖ in `n` dimensions, to four digits and better.
    pub(super) fn expected_norm(n: usize) -> f64 {
        let dim = n as f64;
        dim.sqrt() * (1.0 - 1.0 / (4.0 * dim) + 1.0 / (21.0 * dim * dim))
    }
}

/// The weights of the candidates in the order in which they were proposed: by rank of their losses, those without one
/// last. Candidates of equal loss share the weights of their ranks, so that a plateau does not favour whoever came
/// first. The first list is for the mean (negative weights count as 0), the second for the covariance.
pub(super) fn by_rank(weights: &[f64], losses: &[Option<f64>]) -> (Vec<f64>, Vec<f64>) {
    let key = |i: usize| losses[i].unwrap_or(f64::INFINITY);
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|&a, &b| key(a).total_cmp(&key(b)).then(a.cmp(&b)));
    let (mut mean, mut covariance) = (vec![0.0; losses.len()], vec![0.0; losses.len()]);
    let mut from = 0;
    while from < order.len() {
        let to = from + order[from..].iter().take_while(|i| key(**i) == key(order[from])).count();
        let share = |f: fn(f64) -> f64| weights[from..to].iter().map(|w| f(*w)).sum::<f64>() / (to - from) as f64;
        for &i in &order[from..to] {
            (mean[i], covariance[i]) = (share(|w| w.max(0.0)), share(|w| w));
        }
        from = to;
    }
    (mean, covariance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_of_pycma() {
        // cma.CMAEvolutionStrategy(10*[0], 1) of pycma 4.5.0: sp.weights, sp.weights.mueff, sp.c1, sp.cmu, sp.cc.
        let r = Rates::new(10, 10, false);
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
        near(r.weights[0], 0.456_272_646_903_405_97);
        near(r.weights[4], 0.025_509_591_835_974_777);
        near(r.weights[5], -0.080_012_607_580_872_24);
        near(r.weights[9], -0.549_749_917_697_385_3);
        near(r.mu_eff, 3.167_299_281_410_701_7);
        near(r.c_1, 0.015_283_824_524_751_714);
        near(r.c_mu, 0.023_551_776_650_417_47);
        near(r.c_c, 0.294_990_383_035_622_25);
    }

    #[test]
    fn rates_stay_within_their_limits() {
        for n in [1, 2, 3, 10, 50, 200, 1000] {
            for lambda in [4, 5, 15, 100, 5000] {
                for separable in [false, true] {
                    let r = Rates::new(n, lambda, separable);
                    let total: f64 = r.weights.iter().sum();
                    assert!(r.c_1 > 0.0 && r.c_mu >= 0.0 && r.c_1 + r.c_mu <= 1.0 + 1e-15, "{n} {lambda}");
                    assert!(r.c_sigma > 0.0 && r.c_sigma < 1.0 && r.c_c > 0.0 && r.c_c <= 1.0);
                    // The covariance decays, but never beyond nothing.
                    let kept = 1.0 - r.c_1 - r.c_mu * total;
                    assert!((-1e-12..=1.0 + 1e-12).contains(&kept), "{n} {lambda} {kept}");
                }
            }
        }
    }

    #[test]
    fn ties_share_and_failures_come_last() {
        let weights = [0.6, 0.4, -0.2, -0.3];
        let (mean, covariance) = by_rank(&weights, &[Some(2.0), None, Some(1.0), Some(2.0)]);
        assert_eq!(mean, [0.2, 0.0, 0.6, 0.2]);
        assert_eq!(covariance, [0.1, -0.3, 0.6, 0.1]);
        let (mean, _) = by_rank(&weights, &[None; 4]);
        assert_eq!(mean, [0.25; 4]);
    }
}
