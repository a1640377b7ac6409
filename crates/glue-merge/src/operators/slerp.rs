//! Spherical linear interpolation of the flattened tensors. Shoemake, "Animating rotation with quaternion curves",
//! SIGGRAPH 1985.
//!
//! With θ the angle between the two: sin((1−t)θ)/sin θ · v0 + sin(tθ)/sin θ · v1, from three inner products.

use super::combination::combination;
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::gram::{Vectors, gram};
use crate::params::{Interval, ParamSpec, Params};

/// `slerp`.
pub const DEF: OperatorDef = OperatorDef {
    name: "slerp",
    summary: "Interpolates between two models along the great circle; the base is at t = 0.",
    formula: "sin((1−t)θ)/sin θ · θ0 + sin(tθ)/sin θ · θ1; (1−t) θ0 + t θ1 where |cos θ| > 0.9995",
    reference: "Shoemake, SIGGRAPH 1985",
    inputs: InputRule::exactly(1),
    base: BaseRule::Required,
    params: &[ParamSpec::number(
        "t",
        "Position between the base (0) and the other model (1).",
        Interval::ANY,
        (0.0, 1.0),
    )],
    plan,
    ..OperatorDef::DEFAULT
};

/// Above this cosine the chord is taken instead of the arc.
pub(super) const NEARLY_PARALLEL: f64 = 0.9995;

fn plan(_: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let t = params.number("t");
    Ok(gram(Vectors::BaseAndInputs, 2, move |g| {
        let cosine = g.cosine(0, 1);
        let [a, b] = if cosine.abs() > NEARLY_PARALLEL { [1.0 - t, t] } else { arc(cosine, t) };
        Ok(combination(a, [b]))
    }))
}

/// Coefficients of the two ends at `t` on the arc between them.
pub(super) fn arc(cosine: f64, t: f64) -> [f64; 2] {
    let theta = cosine.clamp(-1.0, 1.0).acos();
    [((1.0 - t) * theta).sin() / theta.sin(), (t * theta).sin() / theta.sin()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::Case;

    fn check(t: f64, ends: [&[f32]; 2], expected: &[f32]) {
        Case { settings: &[("t", t)], base: Some(ends[0]), ..Case::of(&DEF, &[ends[1]]) }.gives(expected);
    }

    #[test]
    fn ends_and_orthogonal_vectors() {
        let ends: [&[f32]; 2] = [&[1.0, -2.0, 0.5], &[2.0, 1.0, 3.0]];
        check(0.0, ends, ends[0]);
        check(1.0, ends, ends[1]);
        let axes: [&[f32]; 2] = [&[1.0, 0.0], &[0.0, 1.0]];
        let half = 0.5_f32.sqrt();
        check(0.5, axes, &[half, half]);
        check(1.0 / 3.0, axes, &[0.75_f32.sqrt(), 0.5]);
    }

    #[test]
    fn a_chord_where_an_arc_is_not_defined() {
        check(0.25, [&[4.0, 0.0], &[8.0, 0.0]], &[5.0, 0.0]);
        check(0.25, [&[4.0, 0.0], &[-4.0, 0.0]], &[2.0, 0.0]);
        check(0.25, [&[0.0, 0.0], &[0.0, 0.0]], &[0.0, 0.0]);
    }
}
