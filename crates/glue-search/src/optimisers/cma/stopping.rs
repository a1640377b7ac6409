//! When a run has nothing more to find, by its losses. Criteria and thresholds are those of pycma and of Hansen,
//! *Benchmarking a BI-population CMA-ES on the BBOB-2009 function testbed*, GECCO 2009, section 2.
//!
//! - *Range*: the best losses of the last 10 + 30·n/λ generations, and all of the last one, lie within 1e-11; or those
//!   best losses within 1e-12.
//! - *Stagnation*: over a fifth of the run, at least 100 generations, neither the best losses nor the medians got
//!   better.
//! - *Plateau*: for 15 consecutive generations, the best is no better than the candidate at three quarters.
//! - *Length*: 100 + 150·(n + 3)²/√λ generations.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    /// The best loss of each generation of the range criterion, the last one at the end.
    recent: VecDeque<f64>,
    /// How many of those the criterion looks at.
    window: usize,
    /// The best and the median of each generation of the stagnation criterion.
    best: VecDeque<f64>,
    median: VecDeque<f64>,
    /// Extent of the losses of the last generation.
    extent: f64,
    /// How many consecutive generations were flat.
    flat: u32,
}

const FLAT: u32 = 15;

impl History {
    pub(super) fn new(n: usize, lambda: usize) -> Self {
        let window = 10 + (30.0 * n as f64 / lambda as f64).ceil() as usize;
        Self {
            recent: VecDeque::new(),
            window,
            best: VecDeque::new(),
            median: VecDeque::new(),
            extent: f64::MAX,
            flat: 0,
        }
    }

    /// Whether the best is no better than the candidate at three quarters.
    pub(super) fn is_flat(&self, losses: &[Option<f64>]) -> bool {
        let sorted = sorted(losses);
        sorted.first() == sorted.get(losses.len() * 3 / 4)
    }

    /// Takes in the losses of a generation. One without any success says nothing but that it is flat.
    pub(super) fn push(&mut self, losses: &[Option<f64>]) {
        self.flat = if self.is_flat(losses) { self.flat + 1 } else { 0 };
        let sorted = sorted(losses);
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return };
        self.extent = if sorted.len() < losses.len() { f64::MAX } else { (last - first).min(f64::MAX) };
        self.recent.push_back(*first);
        if self.recent.len() > self.window {
            self.recent.pop_front();
        }
        self.best.push_back(*first);
        self.median.push_back(sorted[sorted.len() / 2]);
        // More is never looked at.
        if self.best.len() > 20_000 {
            self.best.pop_front();
            self.median.pop_front();
        }
    }

    pub(super) fn says_stop(&self, generation: u64, n: usize, lambda: usize) -> bool {
        let range = self.recent.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            - self.recent.iter().copied().fold(f64::INFINITY, f64::min);
        let (n, lambda) = (n as f64, lambda as f64);
        let full = self.recent.len() >= self.window;
        (full && (range < 1e-12 || (range < 1e-11 && self.extent < 1e-11)))
            || self.flat >= FLAT
            || self.stagnates(generation as f64, n, lambda)
            || generation as f64 >= 100.0 + 150.0 * (n + 3.0).powi(2) / lambda.sqrt()
    }

    fn stagnates(&self, generation: f64, n: f64, lambda: f64) -> bool {
        let period = (100.0 + 100.0 * n.powf(1.5) / lambda).floor();
        let length = (period / 10.0).max(self.best.len() as f64 / 10.0) as usize;
        if generation <= n * (5.0 + 100.0 / lambda) || self.best.len() <= 100 || 2 * length >= self.best.len() {
            return false;
        }
        let since = self.best.len() - 1 - position_of_best(&self.best);
        let no_better = |values: &VecDeque<f64>| {
            let end = values.len();
            let part = |from: usize, to: usize| median(values.range(end - to..end - from).copied().collect());
            part(0, length) >= part(length, 2 * length)
        };
        since as f64 > period / 2.0 && no_better(&self.best) && no_better(&self.median)
    }
}

fn position_of_best(values: &VecDeque<f64>) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] < values[best] { i } else { best })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Those that succeeded, from the best on.
fn sorted(losses: &[Option<f64>]) -> Vec<f64> {
    let mut sorted: Vec<f64> = losses.iter().copied().flatten().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generations_until_stop(n: usize, lambda: usize, loss: impl Fn(usize, usize) -> Option<f64>) -> usize {
        let mut history = History::new(n, lambda);
        for generation in 0.. {
            let losses: Vec<_> = (0..lambda).map(|k| loss(generation, k)).collect();
            history.push(&losses);
            if history.says_stop(generation as u64 + 1, n, lambda) {
                return generation + 1;
            }
        }
        unreachable!()
    }

    #[test]
    fn each_criterion_by_itself() {
        // Plateau, also one of failures.
        assert_eq!(generations_until_stop(50, 15, |g, _| Some(-(g as f64))), 15);
        assert_eq!(generations_until_stop(50, 15, |_, _| None), 15);
        // Range: the best stays while the others differ.
        assert_eq!(generations_until_stop(5, 15, |_, k| Some(k as f64)), 20);
        // Ever better, by steps that are noticed: only the length ends it.
        let length = 100 + (150.0 * 64.0 / 15.0_f64.sqrt()).ceil() as usize;
        assert_eq!(generations_until_stop(5, 15, |g, k| Some(k as f64 - g as f64)), length);
        // Never better, but not constant either.
        let noise = |g: usize, k: usize| Some(((g * 7919 + k * 104_729) % 1000) as f64 + 1.0);
        let stop = generations_until_stop(5, 15, |g, k| if g == 0 { Some(k as f64 / 20.0) } else { noise(g, k) });
        assert!((100..length).contains(&stop), "{stop}");
    }
}
