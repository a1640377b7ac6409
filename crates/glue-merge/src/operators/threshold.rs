//! Trimming of task vectors by exact magnitude thresholds.

use super::task::{Task, Trim};
use crate::contract::{Block, Plan, TensorSpec};
use crate::device::{Ranking, Trimming};
use crate::select::{Keys, Threshold, select_largest};

/// Keeps the elements between two thresholds of |τ|: above the lower one and not above the upper one.
pub(crate) struct Between {
    thresholds: Vec<[Threshold; 2]>,
}

impl Trim for Between {
    type Scratch = ();

    fn trim(&self, input: usize, offset: usize, x: &[f32], base: &[f32], tau: &mut [f32], (): &mut ()) {
        let [lower, upper] = &self.thresholds[input];
        let lower = lower.ranges(offset, tau.len());
        let upper = upper.ranges(offset, tau.len());
        for (above, least) in &lower {
            for (below, end) in &upper {
                let range = above.start.max(below.start)..above.end.min(below.end);
                if !range.is_empty() {
                    keep_between(&x[range.clone()], &base[range.clone()], &mut tau[range], *least, *end);
                }
            }
        }
    }

    fn describe(&self) -> Option<Trimming<'_>> {
        Some(Trimming::Between(&self.thresholds))
    }
}

/// `tau = x − base` where the bits of its magnitude are in `least .. end`, and 0 elsewhere.
fn keep_between(x: &[f32], base: &[f32], tau: &mut [f32], least: u32, end: u32) {
    for ((tau, x), base) in tau.iter_mut().zip(x).zip(base) {
        let difference = x - base;
        let kept = key(difference).wrapping_sub(least) < end - least;
        *tau = if kept { difference } else { 0.0 };
    }
}

/// Bits of |x|.
#[inline]
fn key(x: f32) -> u32 {
    x.to_bits() & 0x7FFF_FFFF
}

/// Ranks the elements of each task vector by magnitude.
struct Magnitudes {
    inputs: usize,
}

impl Keys for Magnitudes {
    fn streams(&self) -> usize {
        self.inputs
    }

    fn keys(&self, stream: usize, block: &Block<'_>, keys: &mut [u32]) {
        for ((out, x), base) in keys.iter_mut().zip(block.inputs[stream]).zip(block.base()) {
            *out = key(x - base);
        }
    }

    fn ranking(&self) -> Option<Ranking> {
        Some(Ranking::Magnitudes)
    }
}

/// A plan that drops, of each task vector, all but the `kept[i]` largest magnitudes, then the `outliers[i]` largest,
/// and hands the rest to `task`.
pub(crate) fn trim_by_magnitude(tensor: &TensorSpec<'_>, counts: Vec<[usize; 2]>, task: Task) -> Plan {
    if counts.iter().all(|[kept, outliers]| *kept >= tensor.len() && *outliers == 0) {
        return task.plan_untrimmed();
    }
    let elements = tensor.len();
    select_by_magnitude(tensor, counts, move |between| task.plan(between, elements))
}

/// The plan of `then`, given a trim that drops, of each task vector, all but the `kept[i]` largest magnitudes, then the
/// `outliers[i]` largest.
pub(crate) fn select_by_magnitude(
    tensor: &TensorSpec<'_>,
    counts: Vec<[usize; 2]>,
    then: impl FnOnce(Between) -> Plan + Send + Sync + 'static,
) -> Plan {
    select_largest(
        tensor.len(),
        Magnitudes { inputs: tensor.n_inputs },
        move |input, _| counts[input].to_vec(),
        move |thresholds| Ok(then(Between { thresholds: thresholds.iter().map(|c| [c[0], c[1]]).collect() })),
    )
}

/// ⌊share · n⌋.
pub(crate) fn count(fraction: f64, n: usize) -> usize {
    ((fraction * n as f64) as usize).min(n)
}
