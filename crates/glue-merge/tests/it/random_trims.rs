//! Statistics of the operators that drop elements at random. Five standard deviations are allowed everywhere: less
//! than one seed in a million would fail, and the seeds are fixed.

use glue_merge::{Merge, Registry};

struct Case<'a> {
    operator: &'a str,
    density: f64,
    rescale: &'a str,
    name: &'a str,
    seed: u64,
    shape: &'a [usize],
    /// Weights of inputs that are all the same.
    weights: &'a [f64],
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self {
            operator: "dare_linear",
            density: 0.3,
            rescale: "none",
            name: "model.norm.weight",
            seed: 1,
            shape: &[100_000],
            weights: &[1.0],
        }
    }
}

impl Case<'_> {
    /// What remains of a task vector, on a base of zeros.
    fn of(&self, tau: &[f32]) -> Vec<f32> {
        let operator = Registry::builtin().operator(self.operator, None).unwrap();
        let params = operator.params(self.weights.len()).set("density", self.density).set("rescale", self.rescale);
        let params = params.each("weight", self.weights.iter().copied()).check().unwrap();
        let base = vec![0.0; tau.len()];
        let merge = Merge::new(&operator, &params).tensor(self.name).shape(self.shape).seed(self.seed);
        merge.base(&base).inputs(vec![tau; self.weights.len()]).run().unwrap()
    }
}

/// Checks a number of successes out of `n`, each of probability `p`.
fn binomial(what: &str, kept: usize, n: usize, p: f64) {
    let (mean, deviation) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
    assert!((kept as f64 - mean).abs() <= 5.0 * deviation, "{what}: {kept} of {n} kept, expected {mean}");
}

fn kept(merged: &[f32]) -> usize {
    merged.iter().filter(|x| **x != 0.0).count()
}

fn mean(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64
}

const N: usize = 100_000;

#[test]
fn dare_keeps_its_density_and_leaves_the_rest_alone() {
    for density in [0.01, 0.3, 0.9] {
        let merged = Case { density, ..Case::default() }.of(&vec![2.5; N]);
        binomial("dare", kept(&merged), N, density);
        assert!(merged.iter().all(|x| *x == 0.0 || *x == 2.5));
    }
}

#[test]
fn dare_rescales_by_the_probability_or_to_the_norm() {
    let tau: Vec<f32> = (0..N).map(|j| 1.0 + (j % 7) as f32).collect();
    let p = 0.3;
    let inverse = Case { rescale: "inverse", ..Case::default() }.of(&tau);
    let squares = tau.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let deviation = (squares * (1.0 - p) / p).sqrt() / N as f64;
    assert!((mean(&inverse) - mean(&tau)).abs() <= 5.0 * deviation);
    assert!(inverse.iter().zip(&tau).all(|(x, tau)| *x == 0.0 || (x * 0.3 - tau).abs() < 1e-5));
    let l1 = Case { rescale: "l1", ..Case::default() }.of(&tau);
    // One rounding of the factor to f32, one of each product.
    assert!((mean(&l1) / mean(&tau) - 1.0).abs() < 2e-7);
    assert_eq!(kept(&l1), kept(&inverse));
}

#[test]
fn dare_at_full_density_is_task_arithmetic_bit_for_bit() {
    let tau: Vec<f32> = (0..N).map(|j| (j as f32).sin()).collect();
    let weights = &[0.3, -1.7];
    for rescale in ["none", "inverse", "l1"] {
        let merged = Case { density: 1.0, rescale, weights, ..Case::default() }.of(&tau);
        let sum = tau.iter().map(|x| 0.0 + (0.3 * x + -1.7 * x));
        assert!(merged.into_iter().map(f32::to_bits).eq(sum.map(f32::to_bits)), "{rescale}");
    }
}

#[test]
fn what_is_dropped_depends_on_seed_tensor_and_input() {
    let tau = vec![1.0; N];
    let first = Case::default().of(&tau);
    assert_eq!(first, Case::default().of(&tau));
    for other in [Case { seed: 2, ..Case::default() }, Case { name: "lm_head.weight", ..Case::default() }] {
        let merged = other.of(&tau);
        let both = first.iter().zip(&merged).filter(|(a, b)| **a != 0.0 && **b != 0.0).count();
        binomial("kept under two keys", both, N, 0.09);
    }
    // Two inputs of weights 1 and 2: all four sums of what is kept come as often as if they were independent.
    let pair = Case { weights: &[1.0, 2.0], ..Case::default() }.of(&tau);
    for (sum, p) in [(0.0, 0.49), (1.0, 0.21), (2.0, 0.21), (3.0, 0.09)] {
        binomial("kept in two inputs", pair.iter().filter(|x| **x == sum).count(), N, p);
    }
}

/// Rows of 500 elements whose magnitudes are in no order, each of another scale.
fn rows() -> Vec<f32> {
    (0..N)
        .map(|j| {
            let rank = (j % 500) * 77 % 500;
            let sign = if j % 2 == 0 { 1.0 } else { -1.0 };
            sign * (rank + 1) as f32 * (1 + j / 500) as f32
        })
        .collect()
}

#[test]
fn della_keeps_more_of_what_is_larger_in_its_row() {
    let (density, epsilon) = (0.4, 0.15);
    let tau = rows();
    let merged = Case { operator: "della_linear", density, shape: &[200, 500], ..Case::default() }.of(&tau);
    binomial("della", kept(&merged), N, density);
    for decile in 0..10 {
        let member = |j: &usize| (j % 500) * 77 % 500 / 50 == decile;
        let kept = (0..N).filter(member).filter(|j| merged[*j] != 0.0).count();
        let rank = 50.0 * decile as f64 + 24.5;
        binomial(&format!("decile {decile}"), kept, N / 10, density - epsilon + 2.0 * epsilon * rank / 499.0);
    }
    assert!(merged.iter().zip(&tau).all(|(x, tau)| *x == 0.0 || x == tau));
}

#[test]
fn della_divided_by_its_probabilities_keeps_the_mean() {
    let merge =
        Case { operator: "della_linear", density: 0.4, rescale: "inverse", shape: &[200, 500], ..Case::default() };
    let tau: Vec<f32> = rows().iter().map(|x| x.abs()).collect();
    let probability = |j: usize| 0.25 + 0.3 * ((j % 500) * 77 % 500) as f64 / 499.0;
    let variance: f64 =
        tau.iter().enumerate().map(|(j, x)| f64::from(*x).powi(2) * (1.0 - probability(j)) / probability(j)).sum();
    let merged = merge.of(&tau);
    assert!((mean(&merged) - mean(&tau)).abs() <= 5.0 * variance.sqrt() / N as f64);
}

#[test]
fn della_refuses_probabilities_beyond_one() {
    let operator = Registry::builtin().operator("della", None).unwrap();
    let params = operator.params(1).set("weight", 1.0).set("density", 0.9).check().unwrap();
    let merge = Merge::new(&operator, &params).base(&[0.0; 4]).inputs([&[1.0; 4]]);
    let refused = merge.run().unwrap_err().to_string();
    assert_eq!(
        refused,
        "della: `epsilon` must be at most 0.1 at density 0.9, so that density ± epsilon stays within 0 and 1, found 0.15"
    );
}
