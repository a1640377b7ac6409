//! Separable CMA-ES: an evolution strategy that learns one variance for each coordinate.
//!
//! Ros and Hansen, *A simple modification in CMA-ES achieving linear time and space complexity*, PPSN 2008: C is
//! diagonal, and c_1 and c_μ are (n + 2)/3 times those of the full matrix. All weights are positive.

use super::evolution::{Covariance, Evolution, PARAMS};
use crate::def::OptimiserDef;
use serde::{Deserialize, Serialize};

const NAME: &str = "sep_cma_es";

/// Separable CMA-ES, for hundreds of dimensions and more.
pub const SEP_CMA_ES: OptimiserDef = OptimiserDef {
    name: NAME,
    summary: "CMA-ES that learns one variance per coordinate: linear in the dimension.",
    reference: "Ros & Hansen, PPSN 2008",
    multi_objective: false,
    params: &PARAMS,
    build: |setup| Ok(Box::new(Evolution::<Diagonal>::build(NAME, setup))),
    restore: |setup, state| Ok(Box::new(Evolution::<Diagonal>::restore(NAME, setup, state)?)),
};

/// The diagonal of a covariance matrix.
#[derive(Serialize, Deserialize)]
pub(super) struct Diagonal {
    variances: Vec<f64>,
    /// Their roots, for sampling.
    scales: Vec<f64>,
}

impl Covariance for Diagonal {
    const SEPARABLE: bool = true;

    fn identity(n: usize) -> Self {
        Self { variances: vec![1.0; n], scales: vec![1.0; n] }
    }

    fn dimension(&self) -> usize {
        self.variances.len().min(self.scales.len())
    }

    fn stretch(&self, z: &[f64]) -> Vec<f64> {
        z.iter().zip(&self.scales).map(|(z, s)| z * s).collect()
    }

    fn rotate(&self, z: &[f64]) -> Vec<f64> {
        z.to_vec()
    }

    fn element(&self, i: usize, j: usize) -> f64 {
        if i == j { self.variances[i] } else { 0.0 }
    }

    fn update(&mut self, keep: f64, rank_one: f64, path: &[f64], samples: &[(f64, Vec<f64>)]) {
        for (i, v) in self.variances.iter_mut().enumerate() {
            let sum: f64 = samples.iter().map(|(w, y)| w * y[i] * y[i]).sum();
            *v = keep * *v + rank_one * path[i] * path[i] + sum;
        }
    }

    fn refresh(&mut self, _: f64) -> Option<()> {
        let (least, greatest) =
            self.variances.iter().fold((f64::INFINITY, 0.0_f64), |(l, g), v| (l.min(*v), g.max(*v)));
        (least > 0.0 && greatest <= 1e14 * least).then_some(())?;
        self.scales = self.variances.iter().map(|v| v.sqrt()).collect();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_promises() {
        crate::check_optimiser(&SEP_CMA_ES).unwrap();
    }

    #[test]
    fn an_update_by_hand() {
        let mut diagonal = Diagonal::identity(2);
        diagonal.update(0.5, 0.1, &[1.0, 2.0], &[(0.25, vec![2.0, 0.0])]);
        assert_eq!(diagonal.variances, [1.6, 0.9]);
        diagonal.refresh(0.0).unwrap();
        assert_eq!(diagonal.stretch(&[1.0, 2.0]), [1.6_f64.sqrt(), 2.0 * 0.9_f64.sqrt()]);
        diagonal.update(0.0, 0.0, &[1.0, 2.0], &[]);
        assert!(diagonal.refresh(0.0).is_none());
    }
}
