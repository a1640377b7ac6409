//! Spherical interpolation with weights instead of a position, of tensors or of task vectors, whole or by vector.
//!
//! Both coefficients are divided by the sine of the angle. Near 0° they tend to those of the chord. Near 180° they grow
//! without bound: the great circle through two opposed vectors is any one, decided by the rounding of the weights, and
//! vectors of unequal length are not cancelled. There the chord is taken, within the same distance as in `slerp`.

use super::combination::combination;
use super::slerp::{NEARLY_PARALLEL, arc};
use crate::contract::{Block, Granularity, Map, Plan, Reduction, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::gram::{Vectors, gram};
use crate::params::{Interval, ParamSpec, Params};
use crate::striped_sum::StripedSum;

/// `nuslerp`.
pub const DEF: OperatorDef = OperatorDef {
    name: "nuslerp",
    summary: "Spherical interpolation of two models, or of their task vectors, by weights.",
    formula: "slerp(v1, v2; t = w2/(w1+w2)), vi = θi, or τi and then added to θ0 when there is a base; t = ½ where w1+w2 ≈ 0; (1−t) v1 + t v2 where the angle is 0, or cos < −0.9995",
    reference: "Shoemake, SIGGRAPH 1985; options of mergekit's nuslerp",
    inputs: InputRule::exactly(2),
    base: BaseRule::Optional,
    params: &[
        ParamSpec::number("weight", "Weight of the model.", Interval::ANY, (0.0, 1.0)).per_input(),
        ParamSpec::flag("nuslerp_flatten", "Take each tensor as one long vector.", true),
        ParamSpec::flag(
            "nuslerp_row_wise",
            "When not flattened: take vectors along the first axis instead of the last.",
            false,
        ),
    ],
    plan,
    ..OperatorDef::DEFAULT
};

/// Below this sine the vectors have one direction, and the chord is taken instead of the arc.
const COLINEAR: f64 = 1e-8;

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let (w1, w2) = (params.input_number(0, "weight"), params.input_number(1, "weight"));
    let t = if (w1 + w2).abs() < 1e-6 { 0.5 } else { w2 / (w1 + w2) };
    let deltas = tensor.has_base;
    if params.flag("nuslerp_flatten") {
        let vectors = if deltas { Vectors::TaskVectors } else { Vectors::Inputs };
        return Ok(gram(vectors, 2, move |g| {
            let [a, b] = coefficients(g.cosine(0, 1), t);
            Ok(combination(if deltas { 1.0 - a - b } else { 0.0 }, [a, b]))
        }));
    }
    let row_len = tensor.row_len().max(1);
    Ok(if params.flag("nuslerp_row_wise") && tensor.shape.len() > 1 {
        // Vectors along the first axis: one for every position in the rest of the shape.
        let stride = tensor.len() / tensor.shape[0].max(1);
        Plan::reduce(Columns { stride: stride.max(1), t })
    } else {
        Plan::map(Rows { row_len, t })
    })
}

fn coefficients(cosine: f64, t: f64) -> [f64; 2] {
    let sine = (1.0 - cosine * cosine).max(0.0).sqrt();
    if sine < COLINEAR || cosine < -NEARLY_PARALLEL { [1.0 - t, t] } else { arc(cosine, t) }
}

/// Inner products of two vectors.
#[derive(Clone, Copy, Default)]
struct Products {
    aa: f64,
    ab: f64,
    bb: f64,
}

impl Products {
    fn coefficients(&self, t: f64) -> [f32; 2] {
        let norms = (self.aa * self.bb).sqrt();
        let cosine = if norms > 0.0 { self.ab / norms } else { 0.0 };
        coefficients(cosine, t).map(|c| c as f32)
    }
}

/// The element of a vector: of the input, or of its difference from the base.
#[inline]
fn element(block: &Block<'_>, input: usize, j: usize) -> f32 {
    let x = block.inputs[input][j];
    block.base.map_or(x, |base| x - base[j])
}

#[inline]
fn put(block: &Block<'_>, j: usize, [a, b]: [f32; 2]) -> f32 {
    let merged = a * element(block, 0, j) + b * element(block, 1, j);
    block.base.map_or(merged, |base| base[j] + merged)
}

/// A vector for each row.
struct Rows {
    row_len: usize,
    t: f64,
}

impl Map for Rows {
    fn granularity(&self) -> Granularity {
        Granularity::Row
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let (mut a, mut b) = (vec![0.0; self.row_len], vec![0.0; self.row_len]);
        for (r, out) in out.chunks_mut(self.row_len).enumerate() {
            let first = r * self.row_len;
            for (k, (a, b)) in a.iter_mut().zip(&mut b).enumerate() {
                *a = element(block, 0, first + k);
                *b = element(block, 1, first + k);
            }
            let dot = |x: &[f32], y: &[f32]| {
                let mut sum = StripedSum::default();
                sum.dot(0, x, y);
                sum.total()
            };
            let c = Products { aa: dot(&a, &a), ab: dot(&a, &b), bb: dot(&b, &b) }.coefficients(self.t);
            for (k, out) in out.iter_mut().enumerate() {
                *out = put(block, first + k, c);
            }
        }
    }
}

/// Inner products for each vector along the first axis.
struct Columns {
    stride: usize,
    t: f64,
}

impl Reduction for Columns {
    type Accumulator = Vec<Products>;

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn accumulator(&self) -> Vec<Products> {
        vec![Products::default(); self.stride]
    }

    fn observe(&self, accumulator: &mut Vec<Products>, block: &Block<'_>) {
        let mut column = block.offset % self.stride;
        for j in 0..block.len() {
            let (a, b) = (f64::from(element(block, 0, j)), f64::from(element(block, 1, j)));
            let products = &mut accumulator[column];
            products.aa += a * a;
            products.ab += a * b;
            products.bb += b * b;
            column += 1;
            if column == self.stride {
                column = 0;
            }
        }
    }

    fn combine(&self, accumulator: &mut Vec<Products>, later: Vec<Products>) {
        for (sum, more) in accumulator.iter_mut().zip(later) {
            sum.aa += more.aa;
            sum.ab += more.ab;
            sum.bb += more.bb;
        }
    }

    fn finish(self, total: Vec<Products>) -> Result<Plan, MergeError> {
        Ok(Plan::map(ByColumn { coefficients: total.iter().map(|p| p.coefficients(self.t)).collect() }))
    }
}

struct ByColumn {
    coefficients: Vec<[f32; 2]>,
}

impl Map for ByColumn {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let cycle = self.coefficients.iter().cycle().skip(block.offset % self.coefficients.len());
        for ((j, out), c) in out.iter_mut().enumerate().zip(cycle) {
            *out = put(block, j, *c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slerp;
    use super::*;
    use crate::operators::testing::{Case, Number, close};

    const A: [f32; 6] = [1.0, -2.0, 0.5, 3.0, 0.25, -1.0];
    const B: [f32; 6] = [0.5, 2.0, -0.5, 1.0, 4.0, -2.0];
    const WEIGHTS: [&[Number]; 2] = [&[("weight", 0.9)], &[("weight", 0.6)]];

    fn slerp(a: &[f32], b: &[f32]) -> Vec<f32> {
        Case { settings: &[("t", 0.4)], base: Some(a), ..Case::of(&slerp::DEF, &[b]) }.run().unwrap()
    }

    fn merge(settings: &[Number], shape: &[usize], base: Option<&[f32]>) -> Vec<f32> {
        Case { settings, own: &WEIGHTS, shape, base, ..Case::of(&DEF, &[&A, &B]) }.run().unwrap()
    }

    #[test]
    fn flattened_it_is_slerp() {
        close(&merge(&[], &[6], None), &slerp(&A, &B));
        let base = [0.5, 0.5, -0.5, 1.5, 1.0, -0.5];
        let tau = |x: &[f32; 6]| x.iter().zip(&base).map(|(x, base)| x - base).collect::<Vec<_>>();
        let merged: Vec<f32> = slerp(&tau(&A), &tau(&B)).iter().zip(&base).map(|(x, base)| x + base).collect();
        close(&merge(&[], &[6], Some(&base)), &merged);
    }

    #[test]
    fn by_vector_it_is_slerp_of_each() {
        let rows: Vec<f32> = (0..2).flat_map(|r| slerp(&A[3 * r..][..3], &B[3 * r..][..3])).collect();
        close(&merge(&[("nuslerp_flatten", 0.0)], &[2, 3], None), &rows);
        let along_first = merge(&[("nuslerp_flatten", 0.0), ("nuslerp_row_wise", 1.0)], &[2, 3], None);
        for column in 0..3 {
            let pick = |x: &[f32]| [x[column], x[column + 3]];
            close(&pick(&along_first), &slerp(&pick(&A), &pick(&B)));
        }
    }

    /// On the arc, a perpendicular 1e-6 would be blown up to the length of the vectors, and their difference in length
    /// to a million.
    #[test]
    fn nearly_opposed_vectors_are_interpolated_on_the_chord() {
        let opposed: [&[f32]; 2] = [&[2.0, 0.0], &[-1.0, 1e-6]];
        let settings = |flatten| [("weight", 0.5), ("nuslerp_flatten", flatten)];
        for flatten in [0.0, 1.0] {
            Case { settings: &settings(flatten), ..Case::of(&DEF, &opposed) }.gives(&[0.5, 5e-7]);
        }
    }

    #[test]
    fn weights_that_cancel_meet_in_the_middle() {
        let own: [&[Number]; 2] = [&[("weight", 1.0)], &[("weight", -1.0)]];
        let half = 0.5_f32.sqrt();
        Case { own: &own, ..Case::of(&DEF, &[&[1.0, 0.0], &[0.0, 1.0]]) }.gives(&[half, half]);
    }
}
