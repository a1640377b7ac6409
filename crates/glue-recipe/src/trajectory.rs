//! The checkpoints of a training run as one merge: their weighted mean.
//!
//! | weights | of checkpoint i of k, the oldest first | source |
//! |---|---|---|
//! | [`Weighting::Uniform`] | 1/k | LAWA, arXiv 2209.14981 |
//! | [`Weighting::Ema`] | β^(k−1) for the first, (1 − β) β^(k−i) after it | Polyak averaging as it is done in training |
//! | [`Weighting::Wsm`] | see below | WSM, arXiv 2507.17634 |
//!
//! *Warmup-Stable and Merge* replaces the decay of a learning rate by a mean. The difference between checkpoints i and
//! i + 1 enters the mean with the sum of the weights of the checkpoints after i. A decay multiplies the same
//! difference by a factor f(i/k) that falls from f(0) = 1 to f(1) = 0. Both agree if the weight of checkpoint i is
//! f((i − 1)/k) − f(i/k). A linear decay gives the uniform mean.

use crate::error::RecipeError;
use crate::recipe::Recipe;
use glue_merge::Registry;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A checkpoint of a training run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunCheckpoint {
    /// The step it was saved at.
    pub step: u64,
    /// Its directory.
    pub path: PathBuf,
}

/// How checkpoints are weighted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weighting {
    /// All equal.
    Uniform,
    /// An exponential moving average with this β, from 0 to below 1.
    Ema(f64),
    /// As a learning rate that decays like this would.
    Wsm(Decay),
}

/// The shape of a decay, f(t) for t from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// (1 + cos πt)/2.
    Cosine,
    /// 1 − √t.
    OneMinusSqrt,
}

impl Decay {
    /// f(t).
    pub fn at(self, t: f64) -> f64 {
        match self {
            Decay::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * t).cos(),
            Decay::OneMinusSqrt => 1.0 - t.sqrt(),
        }
    }
}

/// Why there is nothing to merge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrajectoryError {
    /// The directory cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Not as many checkpoints as the merge is of.
    #[error("{}: {found} directories called checkpoint-STEP; {expected} are needed", path.display())]
    TooFew {
        /// The directory.
        path: PathBuf,
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// Two directories of the same step.
    #[error("{} and {} are of the same step", first.display(), second.display())]
    Twice {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The merge cannot be written as a recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
}

/// The last `last` checkpoints of the training run in `directory`, or all of them, by step: its directories called
/// `checkpoint-STEP`, as the trainer of transformers names them.
///
/// # Errors
/// [`TrajectoryError`]: fewer than `last`, or than two.
pub fn checkpoints(directory: &Path, last: Option<usize>) -> Result<Vec<RunCheckpoint>, TrajectoryError> {
    let failed = |error| TrajectoryError::Io { path: directory.to_path_buf(), error };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("checkpoint-")).filter(|step| {
            // No sign, as `parse` would accept.
            step.bytes().all(|byte| byte.is_ascii_digit())
        });
        if let Some(step) = step.and_then(|step| step.parse().ok())
            && entry.path().is_dir()
        {
            found.push(RunCheckpoint { step, path: entry.path() });
        }
    }
    found.sort_by(|a, b| a.step.cmp(&b.step).then_with(|| a.path.cmp(&b.path)));
    if let Some([a, b]) = found.array_windows().find(|[a, b]| a.step == b.step) {
        return Err(TrajectoryError::Twice { first: a.path.clone(), second: b.path.clone() });
    }
    let expected = last.unwrap_or(2);
    if found.len() < expected {
        return Err(TrajectoryError::TooFew { path: directory.to_path_buf(), found: found.len(), expected });
    }
    let from = last.map_or(0, |last| found.len() - last);
    Ok(found.split_off(from))
}

/// The weights of so many checkpoints, the oldest first; they add up to 1.
pub fn weights(weighting: Weighting, n: usize) -> Vec<f64> {
    let power = |beta: f64, exponent: usize| beta.powi(i32::try_from(exponent).unwrap_or(i32::MAX));
    let weight = |i: usize| match weighting {
        Weighting::Uniform => 1.0 / n as f64,
        Weighting::Ema(beta) if i == 0 => power(beta, n - 1),
        Weighting::Ema(beta) => (1.0 - beta) * power(beta, n - 1 - i),
        Weighting::Wsm(decay) => decay.at(i as f64 / n as f64) - decay.at((i + 1) as f64 / n as f64),
    };
    (0..n).map(weight).collect()
}

/// The recipe of the weighted mean of `checkpoints`. `origin` is what errors call it.
///
/// # Errors
/// [`TrajectoryError::Recipe`] for paths that no recipe can name.
pub fn recipe(checkpoints: &[RunCheckpoint], weights: &[f64], origin: &str) -> Result<Recipe, TrajectoryError> {
    let mut text = String::from("merge_method: linear\nmodels:\n");
    for (checkpoint, weight) in checkpoints.iter().zip(weights) {
        // A string of JSON is one of YAML.
        let path = serde_json::Value::from(checkpoint.path.to_string_lossy());
        text += &format!("- {{model: {path}, parameters: {{weight: {weight:?}}}}}\n");
    }
    Ok(Recipe::parse(&text, origin, &Registry::builtin())?.remove(0))
}

#[cfg(test)]
mod tests {
    //! Weights worked out by hand.
    use super::*;

    fn near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        // A few roundings of f64.
        assert!(found.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-12), "{found:?} for {expected:?}");
    }

    #[test]
    fn by_hand() {
        near(&weights(Weighting::Uniform, 4), &[0.25; 4]);
        // e = θ1; e = θ1/2 + θ2/2; e = θ1/4 + θ2/4 + θ3/2.
        near(&weights(Weighting::Ema(0.5), 3), &[0.25, 0.25, 0.5]);
        near(&weights(Weighting::Ema(0.0), 3), &[0.0, 0.0, 1.0]);
        // f = 1, 3/4, 1/4, 0 at t = 0, 1/3, 2/3, 1.
        near(&weights(Weighting::Wsm(Decay::Cosine), 3), &[0.25, 0.5, 0.25]);
        // f = 1, 1/2, 0.
        near(&weights(Weighting::Wsm(Decay::OneMinusSqrt), 4)[..1], &[0.5]);
    }

    /// The mean of checkpoints θi = θ(i−1) + gi is what the steps with decayed lengths reach.
    #[test]
    fn a_mean_is_a_decay() {
        let steps = [3.0, -1.0, 2.0, 5.0];
        for decay in [Decay::Cosine, Decay::OneMinusSqrt] {
            let n = steps.len() + 1;
            let mut checkpoints = vec![10.0];
            for step in steps {
                checkpoints.push(checkpoints[checkpoints.len() - 1] + step);
            }
            let mean: f64 = weights(Weighting::Wsm(decay), n).iter().zip(&checkpoints).map(|(w, x)| w * x).sum();
            let decayed: f64 = steps.iter().enumerate().map(|(i, g)| decay.at((i + 1) as f64 / n as f64) * g).sum();
            near(&[mean], &[10.0 + decayed]);
        }
    }

    #[test]
    fn weights_add_up_to_one() {
        for n in 1..50 {
            for weighting in [
                Weighting::Uniform,
                Weighting::Ema(0.9),
                Weighting::Wsm(Decay::Cosine),
                Weighting::Wsm(Decay::OneMinusSqrt),
            ] {
                near(&[weights(weighting, n).iter().sum()], &[1.0]);
            }
        }
    }

    #[test]
    fn steps_are_numbers() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["checkpoint-900", "checkpoint-1000", "checkpoint-20", "checkpoint-best", "checkpoint-+7", "logs"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("checkpoint-5"), "a file").unwrap();
        let steps = |last| -> Vec<u64> {
            checkpoints(directory.path(), last).unwrap().iter().map(|checkpoint| checkpoint.step).collect()
        };
        assert_eq!(steps(None), [20, 900, 1000]);
        assert_eq!(steps(Some(2)), [900, 1000]);
        let error = checkpoints(directory.path(), Some(4)).unwrap_err().to_string();
        assert!(error.ends_with("3 directories called checkpoint-STEP; 4 are needed"), "{error}");
        fs::create_dir(directory.path().join("checkpoint-020")).unwrap();
        assert!(matches!(checkpoints(directory.path(), None), Err(TrajectoryError::Twice { .. })));
    }
}
