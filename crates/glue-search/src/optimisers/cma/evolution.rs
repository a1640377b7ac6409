//! The evolution strategy around a covariance: sampling, recombination, step size, paths, and restarts.
//!
//! Hansen, *The CMA evolution strategy: a tutorial*, arXiv 1604.00772, figure 6. With z_k ~ N(0, I) and y_k = C^½ z_k,
//! candidate k lies at m + σ·A·y_k; A is diagonal and 1 unless the margin of [`latent`](super::latent) or the length of
//! a coordinate demands otherwise. After ranking:
//!
//! - m ← m + σ·A·Σ w_k y_k over the better half;
//! - p_σ ← (1 - c_σ)·p_σ + √(c_σ (2 - c_σ) μ_eff)·C^-½ Σ w_k y_k, and σ ← σ·exp((c_σ/d_σ)·(‖p_σ‖/E‖N(0, I)‖ - 1));
//! - p_c ← (1 - c_c)·p_c + h_σ·√(c_c (2 - c_c) μ_eff)·Σ w_k y_k;
//! - C by rank one from p_c and by rank μ from all y_k, those of the worse half with negative weights ("active").

use super::super::{POPULATION, from_state, to_state};
use super::latent::{Deviations, Latent};
use super::restart::{Regime, Restarts};
use super::stopping::History;
use super::weights::{Rates, by_rank};
use crate::def::{Optimiser, OptimiserSetup, Trial};
use crate::error::SearchError;
use crate::params::ParamSpec;
use crate::random::Random;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How a covariance matrix is kept and learned.
pub(super) trait Covariance: Serialize + DeserializeOwned + Send + 'static {
    /// Whether only the diagonal is learned.
    const SEPARABLE: bool;

    /// The identity in `n` dimensions.
    fn identity(n: usize) -> Self;

    /// Number of dimensions.
    fn dimension(&self) -> usize;

    /// C^½ z, the same C^½ until [`refresh`](Self::refresh).
    fn stretch(&self, z: &[f64]) -> Vec<f64>;

    /// C^-½ C^½ z with the symmetric root C^-½.
    fn rotate(&self, z: &[f64]) -> Vec<f64>;

    /// Element (i, j).
    fn element(&self, i: usize, j: usize) -> f64;

    /// C ← keep·C + rank_one·p pᵀ + Σ w y yᵀ over `samples`.
    fn update(&mut self, keep: f64, rank_one: f64, path: &[f64], samples: &[(f64, Vec<f64>)]);

    /// Brings C^½ up to date, if it is time to, `interval` updates after the last time. `None` when C is no covariance
    /// any more, or of a condition above 1e14.
    fn refresh(&mut self, interval: f64) -> Option<()>;
}

/// The parameters that every variant has.
pub(super) const PARAMS: [ParamSpec; 3] = [
    ParamSpec {
        doc: "How many candidates make a generation; 0 is 4 + ⌊3·ln n⌋.",
        kind: crate::params::ParamKind::Integer { min: 0, max: 1_000_000 },
        ..POPULATION
    },
    ParamSpec::number("sigma", "Standard deviation at the beginning, as a share of the range.", 1e-6, 1.0, 1.0 / 6.0),
    ParamSpec::choice(
        "restarts",
        "What follows when a run has converged: nothing, one with twice the population, or those alternating with short ones.",
        &["none", "ipop", "bipop"],
        "ipop",
    ),
];

#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct State<C: Covariance> {
    random: Random,
    restarts: Restarts,
    run: Run<C>,
    /// What the mean stood for after the last generation, in the unit box.
    favourite: Option<Vec<f64>>,
    stopped: Option<String>,
}

/// One run, from its first generation to its convergence.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Run<C: Covariance> {
    regime: Regime,
    generation: u64,
    mean: Vec<f64>,
    sigma: f64,
    scale: Vec<f64>,
    path_sigma: Vec<f64>,
    path_c: Vec<f64>,
    covariance: C,
    history: History,
    /// The z of each candidate of the generation that is out, or none.
    drawn: Vec<Vec<f64>>,
}

pub(super) struct Evolution<C: Covariance> {
    name: &'static str,
    latent: Latent,
    state: State<C>,
    rates: Rates,
}

impl<C: Covariance> Evolution<C> {
    pub(super) fn build(name: &'static str, setup: &OptimiserSetup<'_>) -> Self {
        let latent = Latent::new(setup.space);
        let n = latent.dimension();
        let population = match setup.params.integer("population") {
            0 => 4 + (3.0 * (n as f64).ln()).floor() as usize,
            // Fewer leave nothing to recombine.
            population => population.max(4) as usize,
        };
        let sigma = setup.params.number("sigma");
        let restarts = Restarts::new(setup.params.word("restarts"), population, sigma);
        let regime = restarts.first();
        let mean = setup.start.first().map_or_else(|| latent.middle(), |unit| latent.latent_of(unit, sigma));
        let rates = Rates::new(n, regime.population, C::SEPARABLE);
        let run = Run::new(mean, regime);
        let state = State { random: Random::new(setup.seed, 0), restarts, run, favourite: None, stopped: None };
        let mut evolution = Self { name, latent, state, rates };
        evolution.keep_margin();
        evolution
    }

    pub(super) fn restore(name: &'static str, setup: &OptimiserSetup<'_>, state: &str) -> Result<Self, SearchError> {
        let latent = Latent::new(setup.space);
        let state: State<C> = from_state(name, state)?;
        let n = latent.dimension();
        let run = &state.run;
        let lengths = [run.mean.len(), run.scale.len(), run.path_sigma.len(), run.path_c.len()];
        let whole = lengths.iter().all(|l| *l == n)
            && run.covariance.dimension() == n
            && run.drawn.iter().all(|z| z.len() == n)
            && (run.drawn.is_empty() || run.drawn.len() == run.regime.population);
        if !whole {
            return Err(SearchError::state(name, "its lengths are not those of the space"));
        }
        let rates = Rates::new(n, run.regime.population.max(4), C::SEPARABLE);
        Ok(Self { name, latent, state, rates })
    }

    fn keep_margin(&mut self) {
        let n = self.latent.dimension();
        let Run { mean, scale, sigma, covariance, regime, .. } = &mut self.state.run;
        let alpha = 1.0 / (n * regime.population) as f64;
        let before = scale.clone();
        let spread = Deviations {
            of: &|i| *sigma * covariance.element(i, i).sqrt(),
            between: &|i, j| {
                let (a, b) = (before[i], before[j]);
                let both = a * a * covariance.element(i, i) + b * b * covariance.element(j, j);
                *sigma * (both - 2.0 * a * b * covariance.element(i, j)).max(0.0).sqrt()
            },
        };
        self.latent.keep_margin(mean, scale, &spread, alpha);
    }

    /// Takes in the losses of a generation; `None` when the run cannot go on.
    fn update(&mut self, losses: &[Option<f64>]) -> Option<()> {
        let rates = &self.rates;
        let run = &mut self.state.run;
        let n = run.mean.len();
        let dim = n as f64;
        let drawn = std::mem::take(&mut run.drawn);
        let (mean_weights, weights) = by_rank(&rates.weights, losses);

        let mut z_mean = vec![0.0; n];
        for (z, w) in drawn.iter().zip(&mean_weights) {
            z_mean.iter_mut().zip(z).for_each(|(sum, z)| *sum += w * z);
        }
        let step = run.covariance.stretch(&z_mean);
        for ((m, a), y) in run.mean.iter_mut().zip(&run.scale).zip(&step) {
            *m += run.sigma * a * y;
        }

        let rotated = run.covariance.rotate(&z_mean);
        let gain = (rates.c_sigma * (2.0 - rates.c_sigma) * rates.mu_eff).sqrt();
        for (p, r) in run.path_sigma.iter_mut().zip(&rotated) {
            *p = (1.0 - rates.c_sigma) * *p + gain * r;
        }
        run.generation += 1;
        let length = run.path_sigma.iter().map(|p| p * p).sum::<f64>().sqrt();
        let expected = Rates::expected_norm(n);
        let grown = 1.0 - (1.0 - rates.c_sigma).powf(2.0 * run.generation as f64);
        // The path of C stalls while σ grows fast, so that C does not grow with it.
        let h = if length / grown.sqrt() < (1.4 + 2.0 / (dim + 1.0)) * expected { 1.0 } else { 0.0 };
        let gain = h * (rates.c_c * (2.0 - rates.c_c) * rates.mu_eff).sqrt();
        for (p, y) in run.path_c.iter_mut().zip(&step) {
            *p = (1.0 - rates.c_c) * *p + gain * y;
        }

        // A negative weight counts for the length that a typical sample has, so that C stays positive.
        let samples: Vec<(f64, Vec<f64>)> = drawn
            .iter()
            .zip(&weights)
            .filter(|(_, w)| **w != 0.0)
            .map(|(z, w)| {
                let squares: f64 = z.iter().map(|z| z * z).sum();
                let w = if *w < 0.0 { w * dim / squares.max(f64::MIN_POSITIVE) } else { *w };
                (rates.c_mu * w, run.covariance.stretch(z))
            })
            .collect();
        let stalled = (1.0 - h) * rates.c_c * (2.0 - rates.c_c);
        let keep = 1.0 + rates.c_1 * stalled - rates.c_1 - rates.c_mu * weights.iter().sum::<f64>();
        run.covariance.update(keep, rates.c_1, &run.path_c, &samples);

        let change = (rates.c_sigma / rates.d_sigma * (length / expected - 1.0)).min(1.0);
        run.sigma *= change.exp();
        if run.history.is_flat(losses) {
            run.sigma *= (0.2 + rates.c_sigma / rates.d_sigma).exp();
        }
        run.covariance.refresh(1.0 / ((rates.c_1 + rates.c_mu) * dim * 10.0))?;
        let sound = run.mean.iter().chain(&run.scale).chain(&run.path_c).all(|x| x.is_finite());
        (sound && run.sigma.is_normal() && run.sigma < 1e20).then_some(())?;
        self.keep_margin();
        Some(())
    }

    /// Whether the run has nothing more to find.
    fn converged(&self) -> bool {
        let run = &self.state.run;
        let n = run.mean.len();
        let reals = || (0..n).filter(|i| self.latent.is_real(*i));
        let deviation = |i: usize| run.sigma * run.scale[i] * run.covariance.element(i, i).sqrt();
        let path = |i: usize| run.sigma * run.scale[i] * run.path_c[i].abs();
        run.history.says_stop(run.generation, n, run.regime.population)
            || run.regime.is_spent(run.generation * run.regime.population as u64)
            || (reals().next().is_some() && reals().all(|i| deviation(i) < 1e-12 && path(i) < 1e-12))
            || reals().any(|i| run.mean[i] + 0.2 * deviation(i) == run.mean[i])
    }

    fn restart(&mut self) {
        let State { random, restarts, run, stopped, .. } = &mut self.state;
        let used = run.generation * run.regime.population as u64;
        let Some(regime) = restarts.next(&run.regime, used, random) else {
            *stopped = Some("the only run has converged".into());
            return;
        };
        let mean = random.point(run.mean.len());
        self.rates = Rates::new(mean.len(), regime.population, C::SEPARABLE);
        *run = Run::new(mean, regime);
        self.keep_margin();
    }
}

impl<C: Covariance> Run<C> {
    fn new(mean: Vec<f64>, regime: Regime) -> Self {
        let n = mean.len();
        Self {
            generation: 0,
            sigma: regime.sigma,
            scale: vec![1.0; n],
            path_sigma: vec![0.0; n],
            path_c: vec![0.0; n],
            covariance: C::identity(n),
            history: History::new(n, regime.population),
            drawn: Vec::new(),
            mean,
            regime,
        }
    }
}

impl<C: Covariance> Optimiser for Evolution<C> {
    fn propose(&mut self) -> Vec<Vec<f64>> {
        let State { random, run, .. } = &mut self.state;
        let n = run.mean.len();
        run.drawn = (0..run.regime.population).map(|_| (0..n).map(|_| random.normal()).collect()).collect();
        let place = |z: &Vec<f64>| {
            let mut y = run.covariance.stretch(z);
            for (i, y) in y.iter_mut().enumerate() {
                *y = run.mean[i] + run.sigma * run.scale[i] * *y;
            }
            self.latent.to_unit(&y)
        };
        run.drawn.iter().map(place).collect()
    }

    fn learn(&mut self, generation: &[Trial<'_>]) {
        let losses: Vec<Option<f64>> = generation.iter().map(|t| t.losses.map(|l| l[0])).collect();
        self.state.run.history.push(&losses);
        let goes_on = self.update(&losses).is_some();
        if self.state.run.mean.iter().all(|x| x.is_finite()) {
            self.state.favourite = Some(self.latent.to_unit(&self.state.run.mean));
        }
        if !goes_on || self.converged() {
            self.restart();
        }
    }

    fn favourite(&self) -> Option<Vec<f64>> {
        self.state.favourite.clone()
    }

    fn stopped(&self) -> Option<&str> {
        self.state.stopped.as_deref()
    }

    fn state(&self) -> String {
        debug_assert!(!self.name.is_empty());
        to_state(&self.state)
    }
}
