//! Counts of who was routed where, added up over all passes of a model.

use crate::model::GateOutput;
use crate::train::GateInfo;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts decisions of gates, from any thread. Hand it to [`Model::with_routing_log`](crate::Model::with_routing_log).
///
/// A token that several sequences share, and that was therefore run once, counts once; so does a sample.
#[derive(Debug)]
pub struct RoutingLog {
    gates: Vec<Counts>,
}

#[derive(Debug)]
struct Counts {
    layer: usize,
    decisions: AtomicU64,
    chosen: Vec<AtomicU64>,
    /// In units of 2^-32, so that the order of the sums does not matter.
    probability: Vec<AtomicU64>,
}

/// What one gate did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GateLoad {
    /// The layer whose states it reads.
    pub layer: usize,
    /// Decisions: tokens, or samples where samples are routed.
    pub decisions: u64,
    /// For each expert, how many of them chose it.
    pub chosen: Vec<u64>,
    /// For each expert, the sum over decisions of its probability by the softmax over all experts, to within 2^-32
    /// each.
    pub probability: Vec<f64>,
}

impl GateLoad {
    /// What was added since `before`, an earlier reading of the same gate.
    #[must_use]
    pub fn since(&self, before: &GateLoad) -> GateLoad {
        let less = |(now, before): (&u64, &u64)| now.saturating_sub(*before);
        GateLoad {
            layer: self.layer,
            decisions: self.decisions.saturating_sub(before.decisions),
            chosen: self.chosen.iter().zip(&before.chosen).map(less).collect(),
            probability: self.probability.iter().zip(&before.probability).map(|(now, before)| now - before).collect(),
        }
    }
}

const UNIT: f64 = (1u64 << 32) as f64;

impl RoutingLog {
    /// For gates such as [`Model::gates`](crate::Model::gates) lists.
    pub fn new(gates: &[GateInfo]) -> RoutingLog {
        RoutingLog::with_shape(gates.iter().map(|gate| (gate.layer, gate.experts)))
    }

    /// For gates given by layer and number of experts.
    pub(crate) fn with_shape(gates: impl IntoIterator<Item = (usize, usize)>) -> RoutingLog {
        let counts = |(layer, experts): (usize, usize)| Counts {
            layer,
            decisions: AtomicU64::new(0),
            chosen: (0..experts).map(|_| AtomicU64::new(0)).collect(),
            probability: (0..experts).map(|_| AtomicU64::new(0)).collect(),
        };
        RoutingLog { gates: gates.into_iter().map(counts).collect() }
    }

    /// The counts so far, for each gate.
    pub fn loads(&self) -> Vec<GateLoad> {
        let all = |list: &[AtomicU64]| list.iter().map(|n| n.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let load = |gate: &Counts| GateLoad {
            layer: gate.layer,
            decisions: gate.decisions.load(Ordering::Relaxed),
            chosen: all(&gate.chosen),
            probability: all(&gate.probability).into_iter().map(|units| units as f64 / UNIT).collect(),
        };
        self.gates.iter().map(load).collect()
    }

    /// Counts the decisions of a pass.
    pub(crate) fn record(&self, outputs: &[GateOutput]) -> candle_core::Result<()> {
        for output in outputs {
            let scores = crate::ops::elements(&output.scores)?;
            let Some(experts) = self.gates.get(output.gate).map(|gate| gate.chosen.len().max(1)) else { continue };
            for (scores, chosen) in scores.chunks_exact(experts).zip(&output.chosen) {
                self.count(output.gate, scores, chosen);
            }
        }
        Ok(())
    }

    /// Counts one decision.
    pub(crate) fn count(&self, gate: usize, scores: &[f32], chosen: &[usize]) {
        let Some(gate) = self.gates.get(gate) else { return };
        gate.decisions.fetch_add(1, Ordering::Relaxed);
        for &expert in chosen {
            gate.chosen[expert].fetch_add(1, Ordering::Relaxed);
        }
        for (sum, p) in gate.probability.iter().zip(softmax(scores)) {
            sum.fetch_add((p * UNIT) as u64, Ordering::Relaxed);
        }
    }
}

/// The softmax of router logits.
pub(crate) fn softmax(scores: &[f32]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = scores.iter().map(|&score| f64::from(score - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let log = RoutingLog::with_shape([(3, 2)]);
        log.count(0, &[0.0, 0.0], &[0]);
        let before = log.loads();
        log.count(0, &[0.0, 3f32.ln()], &[1]);
        log.count(7, &[0.0], &[0]);
        let load = &log.loads()[0];
        assert_eq!((load.layer, load.decisions, &load.chosen[..]), (3, 2, &[1, 1][..]));
        let since = load.since(&before[0]);
        assert_eq!((since.decisions, &since.chosen[..]), (1, &[0, 1][..]));
        // Rounding of the logarithm to f32.
        assert!((since.probability[1] - 0.75).abs() < 1e-7, "{since:?}");
    }
}
