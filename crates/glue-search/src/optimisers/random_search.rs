//! Random search: every point is uniform in the unit box, whatever was learned.
//!
//! Bergstra and Bengio, *Random search for hyper-parameter optimization*, JMLR 13 (2012).

use super::sampler::{Points, Sampler};
use super::{POPULATION, from_state};
use crate::def::OptimiserDef;
use crate::random::Random;
use serde::{Deserialize, Serialize};

/// Uniform points; the yardstick for everything else.
pub const RANDOM: OptimiserDef = OptimiserDef {
    name: "random",
    summary: "Uniform random points; no waiting for results.",
    reference: "Bergstra & Bengio 2012, JMLR 13",
    multi_objective: true,
    params: &[POPULATION],
    build: |setup| {
        let points = Uniform { random: Random::new(setup.seed, 0), dimension: setup.space.dimension() };
        Ok(Box::new(Sampler::new(setup, points)))
    },
    restore: |_, state| Ok(Box::new(from_state::<Sampler<Uniform>>("random", state)?)),
};

#[derive(Serialize, Deserialize)]
struct Uniform {
    random: Random,
    dimension: usize,
}

impl Points for Uniform {
    fn point(&mut self) -> Vec<f64> {
        self.random.point(self.dimension)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_its_promises() {
        crate::check_optimiser(&super::RANDOM).unwrap();
    }
}
