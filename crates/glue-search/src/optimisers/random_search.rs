//! Random search: every point is uniform in the unit box, whatever was learned.
//!
//! Bergstra and Bengio, *Random search for hyper-parameter optimization*, JMLR 13 (2012).

use super::{POPULATION, from_state, to_state};
use crate::def::{Optimiser, OptimiserDef, Setup, Trial};
use crate::random::Random;
use serde::{Deserialize, Serialize};

/// Uniform points; the yardstick for everything else.
pub const RANDOM: OptimiserDef = OptimiserDef {
    name: "random",
    summary: "Uniform random points; no waiting for results.",
    reference: "Bergstra & Bengio 2012, JMLR 13",
    multi_objective: true,
    params: &[POPULATION],
    build: |setup| Ok(Box::new(RandomSearch::new(setup))),
    restore: |_, state| Ok(Box::new(from_state::<RandomSearch>("random", state)?)),
};

#[derive(Serialize, Deserialize)]
struct RandomSearch {
    random: Random,
    dimension: usize,
    population: usize,
    /// Points to begin at that were not proposed yet.
    start: Vec<Vec<f64>>,
}

impl RandomSearch {
    fn new(setup: &Setup<'_>) -> Self {
        let population = setup.params.integer("population") as usize;
        let random = Random::new(setup.seed, 0);
        Self { random, dimension: setup.space.dimension(), population, start: setup.start.to_vec() }
    }
}

impl Optimiser for RandomSearch {
    fn propose(&mut self) -> Vec<Vec<f64>> {
        let mut points: Vec<_> = self.start.drain(..self.start.len().min(self.population)).collect();
        points.resize_with(self.population, || self.random.point(self.dimension));
        points
    }

    fn learn(&mut self, _: &[Trial<'_>]) {}

    fn waits(&self) -> bool {
        false
    }

    fn state(&self) -> String {
        to_state(self)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_its_promises() {
        crate::check_optimiser(&super::RANDOM).unwrap();
    }
}
