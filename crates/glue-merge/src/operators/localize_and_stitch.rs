//! Localize-and-Stitch without data: each model contributes only the elements that it moved furthest, and where several
//! models contribute the same element, their mean. He et al., "Localize-and-Stitch: Efficient model merging via sparse
//! task arithmetic", arXiv 2408.13656.
//!
//! With γi the mask of the largest |τi| and γi' = γi / Σj γj: θ0 + λ Σ γi' τi. The masks are those of the paper's
//! dataless variant. Its other variant learns them on data of each task, which is not done here. The paper ranks the
//! elements of a whole model; here each tensor has its own share, as in `ties`. Unlike `ties`, no signs are elected:
//! masks this sparse seldom meet.

use super::task::{DENSITY, Keep, LAMBDA, Trim, Trimmer};
use super::threshold::{count, select_by_magnitude};
use crate::contract::{Block, Granularity, Map, Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::params::{ParamSpec, Params};
use crate::task_vectors::CHUNK;

/// `localize_and_stitch`.
pub const DEF: OperatorDef = OperatorDef {
    name: "localize_and_stitch",
    summary: "Adds the largest elements of each task vector, averaged where several models have one.",
    formula: "γi masks the ⌊density·n⌋ largest |τi|; θ0 + λ Σ γi τi / Σ γi, and θ0 where no mask is set",
    reference: "Localize-and-Stitch, arXiv 2408.13656",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[SPARSE, LAMBDA],
    plan,
    ..OperatorDef::DEFAULT
};

/// `density`, 0.1 unless given, for each model.
const SPARSE: ParamSpec = DENSITY.or(0.1);

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let lambda = params.number("lambda") as f32;
    let counts: Vec<usize> = params.input_numbers("density").iter().map(|d| count(*d, tensor.len())).collect();
    if counts.iter().all(|kept| *kept >= tensor.len()) {
        return Ok(Plan::map(Stitch { trim: Trimmer::new(Keep), lambda }));
    }
    let counts = counts.into_iter().map(|kept| [kept, 0]).collect();
    Ok(select_by_magnitude(tensor, counts, move |trim| Plan::map(Stitch { trim: Trimmer::new(trim), lambda })))
}

struct Stitch<T: Trim> {
    trim: Trimmer<T>,
    lambda: f32,
}

impl<T: Trim> Map for Stitch<T> {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let mut counts = [0.0_f32; CHUNK];
        let base = block.base();
        self.trim.each(None, block, |at, len, taus| {
            let (sum, counts) = (&mut out[at..at + len], &mut counts[..len]);
            sum.fill(0.0);
            counts.fill(0.0);
            for tau in taus.chunks_exact(len) {
                for ((sum, count), tau) in sum.iter_mut().zip(&mut *counts).zip(tau) {
                    *sum += tau;
                    // A task vector's zero adds nothing, masked or not: it takes no part.
                    *count += f32::from(u8::from(*tau != 0.0));
                }
            }
            for ((out, count), base) in sum.iter_mut().zip(&*counts).zip(&base[at..at + len]) {
                *out = base + self.lambda * (*out / count.max(1.0));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number, close};

    const INPUTS: [&[f32]; 2] = [&[4.0, -3.0, 1.0, 0.5], &[2.0, 5.0, -1.0, 0.0]];

    fn check(settings: &[Number], own: &[&[Number]], expected: &[f32]) {
        Case { settings, own, base: Some(&[0.0; 4]), ..Case::of(&DEF, &INPUTS) }.gives(expected);
    }

    #[test]
    fn by_hand() {
        // Half of each: (4, −3, 0, 0) and (2, 5, 0, 0); both masks are set in the first two places.
        check(&[("density", 0.5)], &[], &[3.0, 1.0, 0.0, 0.0]);
        check(&[("density", 0.5), ("lambda", 2.0)], &[], &[6.0, 2.0, 0.0, 0.0]);
        // A quarter of the first, (4, 0, 0, 0), and half of the second.
        check(&[], &[&[("density", 0.25)], &[("density", 0.5)]], &[3.0, 5.0, 0.0, 0.0]);
        // All: a zero of the second model takes no part in the last place.
        check(&[("density", 1.0)], &[], &[3.0, 1.0, 0.0, 0.5]);
    }

    /// The formula, element by element, on more elements than a chunk has.
    #[test]
    fn agrees_with_sorting() {
        let n = 3000;
        let tau = |i: usize| -> Vec<f32> {
            (0..n as u32)
                .map(|j| ((j * 7 + i as u32 * 13).wrapping_mul(2_654_435_761) >> 8) as f32 / 8e6 - 1.0)
                .collect()
        };
        let taus: Vec<Vec<f32>> = (0..3).map(tau).collect();
        let kept = n / 10;
        let mut expected = vec![0.0_f32; n];
        let mut counts = vec![0.0_f32; n];
        for tau in &taus {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| tau[*b].abs().total_cmp(&tau[*a].abs()).then(a.cmp(b)));
            for j in &order[..kept] {
                expected[*j] += tau[*j];
                counts[*j] += 1.0;
            }
        }
        assert!(counts.contains(&2.0), "some masks meet");
        expected.iter_mut().zip(&counts).for_each(|(x, count)| *x /= count.max(1.0));
        let inputs: Vec<&[f32]> = taus.iter().map(Vec::as_slice).collect();
        let found = Case { base: Some(&vec![0.0; n]), ..Case::of(&DEF, &inputs) }.run().unwrap();
        close(&found, &expected);
    }
}
