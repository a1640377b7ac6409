//! Optimisers that learn nothing: points that follow from the seed alone, without waiting for results.

use super::to_state;
use crate::def::{Optimiser, OptimiserSetup, Trial};
use serde::{Deserialize, Serialize};

/// Points of the unit box, one after the other.
pub(super) trait Points: Serialize + Send {
    /// The next point.
    fn point(&mut self) -> Vec<f64>;
}

/// Hands out the points to begin at, and then those of a sequence.
#[derive(Serialize, Deserialize)]
pub(super) struct Sampler<P> {
    points: P,
    population: usize,
    /// Points to begin at that were not proposed yet.
    start: Vec<Vec<f64>>,
}

impl<P> Sampler<P> {
    pub(super) fn new(setup: &OptimiserSetup<'_>, points: P) -> Self {
        Self { points, population: setup.params.count("population"), start: setup.start.to_vec() }
    }
}

impl<P: Points> Optimiser for Sampler<P> {
    fn propose(&mut self) -> Vec<Vec<f64>> {
        let mut points: Vec<_> = self.start.drain(..self.start.len().min(self.population)).collect();
        points.resize_with(self.population, || self.points.point());
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
