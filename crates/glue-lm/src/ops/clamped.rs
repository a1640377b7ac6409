//! The gated activation of gpt-oss: with g = min(gate, l) and u = up clamped to ±l, (u + 1) · g · sigmoid(α·g).

use super::exp::exp;
use super::floats;
use crate::architecture::SwigluClamp;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Element by element; both contiguous and of the same shape.
pub(crate) fn clamped_swiglu(gate: &Tensor, up: &Tensor, clamp: SwigluClamp) -> Result<Tensor> {
    gate.apply_op2(up, Clamped(clamp))
}

struct Clamped(SwigluClamp);

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl CustomOp2 for Clamped {
    fn name(&self) -> &'static str {
        "clamped-swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, at: &Layout, up: &CpuStorage, up_at: &Layout) -> Result<(CpuStorage, Shape)> {
        if at.shape() != up_at.shape() {
            bail!("gate of shape {:?} and up of shape {:?}", at.shape(), up_at.shape());
        }
        let SwigluClamp { alpha, limit, .. } = self.0;
        let one = |(&gate, &up): (&f32, &f32)| {
            let g = gate.min(limit);
            (up.clamp(-limit, limit) + 1.0) * g * sigmoid(alpha * g)
        };
        let out = floats(gate, at)?.iter().zip(floats(up, up_at)?).map(one).collect();
        Ok((CpuStorage::F32(out), at.shape().clone()))
    }

    /// With s = sigmoid(α·g): (u + 1) · s · (1 + α·g·(1 − s)) where the gate is below the limit, and g·s where up is
    /// within it.
    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let SwigluClamp { alpha, limit, .. } = self.0;
        let (gates, ups, grads) = (super::elements(gate)?, super::elements(up)?, super::elements(grad)?);
        let (mut of_gate, mut of_up) = (vec![0.0; gates.len()], vec![0.0; gates.len()]);
        for (i, grad) in grads.into_iter().enumerate() {
            let g = gates[i].min(limit);
            let s = sigmoid(alpha * g);
            if gates[i] < limit {
                of_gate[i] = grad * (ups[i].clamp(-limit, limit) + 1.0) * s * (1.0 + alpha * g * (1.0 - s));
            }
            if ups[i].abs() < limit {
                of_up[i] = grad * g * s;
            }
        }
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device()).map(Some);
        Ok((tensor(of_gate)?, tensor(of_up)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::check_gradients;
    use candle_core::Device;

    #[test]
    fn the_formula_inside_and_outside_of_the_limits() {
        let clamp = SwigluClamp { alpha: 1.702, limit: 7.0 };
        let gate: Vec<f32> = (-100..100).map(|i| i as f32 * 0.1).collect();
        for up in [-9.0f32, -6.5, 0.0, 3.0, 20.0] {
            let ups = Tensor::from_vec(vec![up; gate.len()], gate.len(), &Device::Cpu).unwrap();
            let gates = Tensor::from_slice(&gate, gate.len(), &Device::Cpu).unwrap();
            let out = clamped_swiglu(&gates, &ups, clamp).unwrap().to_vec1::<f32>().unwrap();
            for (&gate, out) in gate.iter().zip(out) {
                let g = f64::from(gate).min(7.0);
                let expected = (f64::from(up).clamp(-7.0, 7.0) + 1.0) * g / (1.0 + (-1.702 * g).exp());
                // A few roundings of f32 on numbers up to 56.
                assert!((f64::from(out) - expected).abs() < 2e-5, "{gate} {up}: {out} {expected}");
            }
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        // Numbers within the limits, and a limit that many are beyond: seldom so near to it that a step crosses it.
        check_gradients(&[&[3, 40], &[3, 40]], 2.0, |x| {
            clamped_swiglu(&x[0], &x[1], SwigluClamp { alpha: 1.702, limit: 7.0 })
        });
        let beyond = SwigluClamp { alpha: 1.1, limit: 0.5 };
        check_gradients(&[&[2, 8], &[2, 8]], 2.0, |x| clamped_swiglu(&x[0], &x[1], beyond));
    }
}
