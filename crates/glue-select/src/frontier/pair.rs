//! What is tried to merge two experts.

use crate::contract::{Candidate, Scores};
use crate::recipe_text::{RecipeTemplate, weighted};
use glue_merge::Registry;

/// A merge method as the frontier uses it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Method {
    pub(super) name: &'static str,
    /// Whether weights are shares of an average, which needs no base.
    pub(super) is_average: bool,
}

/// A merge of two groups.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MergePoint {
    pub(super) method: Method,
    /// What the weights of each group are multiplied by.
    pub(super) scales: [f64; 2],
}

/// What is known of two experts.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    methods: Vec<Method>,
    /// Merges with their scores; `None` for one that could not be scored.
    pub(super) scored: Vec<(MergePoint, Option<Scores>)>,
}

/// The methods that `operators` has, those that are tried first in front. All are cheap: they read each model once or
/// twice.
pub(super) fn methods(has_base: bool, operators: &Registry) -> Vec<Method> {
    let names: &[&'static str] = if has_base { &["task_arithmetic", "ties", "dare_ties"] } else { &["linear"] };
    let known = names.iter().filter(|name| operators.get(name).is_ok());
    known.map(|name| Method { name, is_average: !has_base }).collect()
}

/// The recipe of a merge.
pub(super) fn recipe(template: &RecipeTemplate, method: &Method, weights: &[(String, f64)]) -> Candidate {
    let base_model = template.base_model.clone().filter(|_| !method.is_average);
    weighted(&RecipeTemplate { base_model, ..template.clone() }, method.name, weights, &[])
}

impl Pair {
    pub(super) fn new(methods: Vec<Method>) -> Pair {
        Pair { methods, scored: Vec::new() }
    }

    fn is_average(&self) -> bool {
        self.methods.first().is_some_and(|method| method.is_average)
    }

    fn known(&self, point: &MergePoint) -> bool {
        self.scored.iter().any(|(scored, _)| scored == point)
    }

    /// The first candidate: whole task vectors, or an average in equal shares.
    pub(super) fn first(&self) -> MergePoint {
        let scale = if self.is_average() { 0.5 } else { 1.0 };
        let none = Method { name: "linear", is_average: true };
        MergePoint { method: self.methods.first().copied().unwrap_or(none), scales: [scale; 2] }
    }

    /// Further candidates that are not known yet. In the first round smaller task vectors and another method, in the
    /// `last` one unequal scales and the remaining methods at the best scales so far.
    pub(super) fn more(&self, last: bool, best: Option<usize>) -> Vec<MergePoint> {
        let first = self.first();
        let scales: &[[f64; 2]] = match (self.is_average(), last) {
            (true, false) => &[[0.7, 0.3], [0.3, 0.7]],
            (true, true) => &[[0.6, 0.4], [0.4, 0.6]],
            (false, false) => &[[0.7, 0.7]],
            (false, true) => &[[1.0, 0.6], [0.6, 1.0]],
        };
        let mut points: Vec<MergePoint> = scales.iter().map(|&scales| MergePoint { scales, ..first.clone() }).collect();
        let others = if last { self.methods.get(2..) } else { self.methods.get(1..2) };
        let at = best.and_then(|best| self.scored.get(best)).map_or(first.scales, |(point, _)| point.scales);
        points.extend(others.unwrap_or_default().iter().map(|&method| MergePoint { method, scales: at }));
        points.retain(|point| !self.known(point));
        points
    }

    /// The neighbours of merge `at` in the scales of its groups, at a relative distance; those that are not known.
    pub(super) fn around(&self, at: usize, step: f64) -> Vec<MergePoint> {
        let Some((point, _)) = self.scored.get(at) else { return Vec::new() };
        let [a, b] = point.scales;
        let round = |x: f64| (x * 1e4).round() / 1e4;
        let scales = match point.method.is_average {
            true => [a - step / 2.0, a + step / 2.0]
                .map(|a| [round(a.clamp(0.0, 1.0)), round(1.0 - a.clamp(0.0, 1.0))])
                .to_vec(),
            false => {
                let (up, down) = (1.0 + step, 1.0 - step);
                vec![[a * up, b], [a * down, b], [a, b * up], [a, b * down]]
            }
        };
        let neighbour = |scales: [f64; 2]| MergePoint { scales: scales.map(round), ..point.clone() };
        scales.into_iter().map(neighbour).filter(|point| !self.known(point)).collect()
    }
}
