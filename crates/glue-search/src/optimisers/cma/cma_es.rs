//! CMA-ES: an evolution strategy with a full covariance matrix.
//!
//! C = B D² Bᵀ, C^½ z = B D z, so that C^-½ (B D z) = B z. Hansen and Ostermeier, *Completely derandomized
//! self-adaptation in evolution strategies*, Evolutionary Computation 9 (2001); as in Hansen, *The CMA evolution
//! strategy: a tutorial*, arXiv 1604.00772, with negative weights (Jastrebski and Arnold, CEC 2006). B and D are
//! recomputed when enough has changed, every 1/(10 n (c_1 + c_μ)) generations.
//!
//! In many dimensions n² numbers are too many to learn and n³ operations too many to wait for; beyond a limit the
//! diagonal is learned instead, see [`sep_cma_es`](super::sep_cma_es).

use super::evolution::{Covariance, Evolution, PARAMS};
use super::latent::Latent;
use super::sep_cma_es::Diagonal;
use crate::def::{Optimiser, OptimiserDef, OptimiserSetup};
use crate::params::ParamSpec;
use glue_linalg::symmetric_eigen;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

const NAME: &str = "cma_es";

/// CMA-ES; the one to use unless something speaks for another.
pub const CMA_ES: OptimiserDef = OptimiserDef {
    name: NAME,
    summary: "CMA-ES: learns the shape of the objective from ranks; restarts with a growing population.",
    reference: "Hansen, arXiv 1604.00772; margin for integers: Hamano et al., arXiv 2205.13482",
    multi_objective: false,
    params: &[
        PARAMS[0],
        PARAMS[1],
        PARAMS[2],
        ParamSpec::integer(
            "full_up_to",
            "Up to how many dimensions the whole covariance is learned; above, its diagonal. An integer coordinate is one \
             dimension, a choice among k > 2 options k.",
            0,
            10_000,
            200,
        ),
    ],
    build: |setup| {
        let optimiser: Box<dyn Optimiser> = if is_full(setup) {
            Box::new(Evolution::<Full>::build(NAME, setup))
        } else {
            Box::new(Evolution::<Diagonal>::build(NAME, setup))
        };
        Ok(optimiser)
    },
    restore: |setup, state| {
        let optimiser: Box<dyn Optimiser> = if is_full(setup) {
            Box::new(Evolution::<Full>::restore(NAME, setup, state)?)
        } else {
            Box::new(Evolution::<Diagonal>::restore(NAME, setup, state)?)
        };
        Ok(optimiser)
    },
};

fn is_full(setup: &OptimiserSetup<'_>) -> bool {
    Latent::new(setup.space).dimension() as i64 <= setup.params.integer("full_up_to")
}

/// A full covariance matrix.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
struct Full {
    n: usize,
    /// n×n, row by row, symmetric.
    c: Vec<f64>,
    /// B, row by row, and D, of the last decomposition.
    basis: Vec<f64>,
    scales: Vec<f64>,
    /// Updates since then.
    age: u32,
}

/// The same with half of C.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    lower: Vec<f64>,
    basis: Vec<f64>,
    scales: Vec<f64>,
    age: u32,
}

impl TryFrom<Stored> for Full {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let Stored { lower, basis, scales, age } = stored;
        let n = scales.len();
        if lower.len() != n * (n + 1) / 2 || basis.len() != n * n {
            return Err("a covariance whose parts differ in size");
        }
        let at = |i: usize, j: usize| lower[i.max(j) * (i.max(j) + 1) / 2 + i.min(j)];
        let c = (0..n * n).map(|k| at(k / n, k % n)).collect();
        Ok(Self { n, c, basis, scales, age })
    }
}

impl From<Full> for Stored {
    fn from(full: Full) -> Self {
        let lower = (0..full.n).flat_map(|i| full.c[i * full.n..][..=i].iter().copied()).collect();
        Self { lower, basis: full.basis, scales: full.scales, age: full.age }
    }
}

impl Clone for Full {
    fn clone(&self) -> Self {
        Self { c: self.c.clone(), basis: self.basis.clone(), scales: self.scales.clone(), ..*self }
    }
}

impl Full {
    fn times_basis(&self, z: impl Fn(usize) -> f64) -> Vec<f64> {
        let z: Vec<f64> = (0..self.n).map(z).collect();
        self.basis.chunks_exact(self.n).map(|row| row.iter().zip(&z).map(|(b, z)| b * z).sum()).collect()
    }
}

impl Covariance for Full {
    const SEPARABLE: bool = false;

    fn identity(n: usize) -> Self {
        let identity: Vec<f64> = (0..n * n).map(|k| if k / n == k % n { 1.0 } else { 0.0 }).collect();
        Self { n, c: identity.clone(), basis: identity, scales: vec![1.0; n], age: 0 }
    }

    fn dimension(&self) -> usize {
        self.n
    }

    fn stretch(&self, z: &[f64]) -> Vec<f64> {
        self.times_basis(|i| self.scales[i] * z[i])
    }

    fn rotate(&self, z: &[f64]) -> Vec<f64> {
        self.times_basis(|i| z[i])
    }

    fn element(&self, i: usize, j: usize) -> f64 {
        self.c[i * self.n + j]
    }

    fn update(&mut self, keep: f64, rank_one: f64, path: &[f64], samples: &[(f64, Vec<f64>)]) {
        let n = self.n;
        for i in 0..n {
            let row = &mut self.c[i * n..][..=i];
            row.iter_mut().for_each(|c| *c *= keep);
            for (w, y) in samples.iter().map(|(w, y)| (*w, &y[..])).chain([(rank_one, path)]) {
                let factor = w * y[i];
                row.iter_mut().zip(y).for_each(|(c, y)| *c += factor * y);
            }
        }
        for i in 0..n {
            for j in 0..i {
                self.c[j * n + i] = self.c[i * n + j];
            }
        }
        self.age += 1;
    }

    fn refresh(&mut self, interval: f64) -> Option<()> {
        if f64::from(self.age) < interval {
            return Some(());
        }
        let c = Array2::from_shape_vec((self.n, self.n), self.c.clone()).ok()?;
        let eigen = symmetric_eigen(c.view()).ok()?;
        let (least, greatest) = (eigen.values[0], eigen.values[self.n - 1]);
        // Beyond, rounding would decide which directions there are.
        (least > 0.0 && greatest <= 1e14 * least).then_some(())?;
        self.scales = eigen.values.iter().map(|x| x.sqrt()).collect();
        self.basis = eigen.vectors.into_iter().collect();
        self.age = 0;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_promises() {
        crate::check_optimiser(&CMA_ES).unwrap();
    }

    #[test]
    fn an_update_by_hand() {
        let mut full = Full::identity(2);
        full.update(0.5, 0.1, &[1.0, 2.0], &[(0.25, vec![2.0, 0.0]), (-0.125, vec![0.0, 1.0])]);
        // 0.5·I + 0.1·[[1, 2], [2, 4]] + [[1, 0], [0, 0]] - [[0, 0], [0, 1/8]].
        let expected = [1.6, 0.2, 0.2, 0.775];
        assert!(full.c.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{:?}", full.c);
        full.refresh(0.0).unwrap();
        // Stretched unit vectors have the covariance as their sum of outer products.
        let y = [full.stretch(&[1.0, 0.0]), full.stretch(&[0.0, 1.0])];
        let c = |i: usize, j: usize| y[0][i] * y[0][j] + y[1][i] * y[1][j];
        assert!((c(0, 0) - 1.6).abs() < 1e-14 && (c(0, 1) - 0.2).abs() < 1e-14 && (c(1, 1) - 0.775).abs() < 1e-14);
    }

    #[test]
    fn what_is_no_covariance_is_noticed() {
        let mut full = Full::identity(2);
        full.update(0.5, 0.0, &[0.0, 0.0], &[(-0.6, vec![1.0, 0.0])]);
        assert!(full.refresh(0.0).is_none());
        let mut full = Full::identity(2);
        full.update(1.0, 1e15, &[1.0, 0.0], &[]);
        assert!(full.refresh(0.0).is_none());
        let mut full = Full::identity(2);
        full.update(1.0, f64::INFINITY, &[1.0, 0.0], &[]);
        assert!(full.refresh(0.0).is_none());
    }
}
