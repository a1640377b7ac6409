//! `act(gate) · up`, the middle of a gated MLP (Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202), in one
//! pass.

use super::exp::{exp, tanh};
use super::floats;
use crate::architecture::Activation;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `activation(gate) * up`, element by element; both contiguous and of the same shape.
pub(crate) fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    gate.apply_op2(up, Gated(activation))
}

struct Gated(Activation);

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated-activation"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_at: &Layout,
        up: &CpuStorage,
        up_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if gate_at.shape() != up_at.shape() {
            bail!("gate of shape {:?} and up of shape {:?}", gate_at.shape(), up_at.shape());
        }
        let (gate, up) = (floats(gate, gate_at)?, floats(up, up_at)?);
        let out = match self.0 {
            Activation::Silu => zip(gate, up, |g, u| g / (1.0 + exp(-g)) * u),
            Activation::Gelu => zip(gate, up, |g, u| (f64::from(g) * normal_cdf(g)) as f32 * u),
            Activation::GeluTanh => zip(gate, up, |g, u| 0.5 * g * (1.0 + gelu_tanh(g)) * u),
            Activation::Relu => zip(gate, up, |g, u| g.max(0.0) * u),
        };
        Ok((CpuStorage::F32(out), gate_at.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let slope = gate.apply_op1_no_bwd(&Slope(self.0))?;
        let grad = grad.contiguous()?;
        Ok((Some(grad.mul(&up.mul(&slope)?)?), Some(gated(gate, &grad, self.0)?)))
    }
}

/// The derivative of an activation.
struct Slope(Activation);

impl CustomOp1 for Slope {
    fn name(&self) -> &'static str {
        "slope-of-activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, at)?;
        let out = match self.0 {
            Activation::Silu => zip(x, x, |x, _| {
                let sigmoid = 1.0 / (1.0 + exp(-x));
                sigmoid * (1.0 + x * (1.0 - sigmoid))
            }),
            Activation::Gelu => zip(x, x, |x, _| {
                let density = (-0.5 * f64::from(x).powi(2)).exp() / std::f64::consts::TAU.sqrt();
                (normal_cdf(x) + f64::from(x) * density) as f32
            }),
            Activation::GeluTanh => zip(x, x, |x, _| {
                let t = gelu_tanh(x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x)
            }),
            Activation::Relu => zip(x, x, |x, _| if x > 0.0 { 1.0 } else { 0.0 }),
        };
        Ok((CpuStorage::F32(out), at.shape().clone()))
    }
}

/// Φ(x)
#[inline(always)]
fn normal_cdf(x: f32) -> f64 {
    0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2))
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x))
}

/// Elements per task: long enough to pay for handing it over.
const CHUNK: usize = 1 << 15;

#[inline(always)]
fn zip(gate: &[f32], up: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = vec![0.0; gate.len()];
    let fill = |out: &mut [f32], gate: &[f32], up: &[f32]| {
        for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *o = f(g, u);
        }
    };
    if gate.len() <= CHUNK {
        fill(&mut out, gate, up);
    } else {
        let parts = out.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK));
        parts.for_each(|((out, gate), up)| fill(out, gate, up));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::check_gradients;
    use candle_core::Device;

    /// Against the formulas in f64; erf through its complement's series is not at hand, so GELU is held against known
    /// values.
    #[test]
    fn each_activation_is_its_formula() {
        let gate: Vec<f32> = (-4000..4000).map(|i| i as f32 * 2e-3).collect();
        let up: Vec<f32> = gate.iter().map(|g| 1.0 - g).collect();
        let check = |activation, formula: &dyn Fn(f64) -> f64| {
            let tensor = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap();
            let out = gated(&tensor(&gate), &tensor(&up), activation).unwrap().to_vec1::<f32>().unwrap();
            for ((&g, &u), o) in gate.iter().zip(&up).zip(out) {
                let expected = formula(f64::from(g)) * f64::from(u);
                // A few roundings of f32 on numbers up to 72.
                assert!(
                    (f64::from(o) - expected).abs() < 1e-5 + 1e-6 * expected.abs(),
                    "{activation:?} {g}: {o} {expected}"
                );
            }
        };
        check(Activation::Silu, &|x| x / (1.0 + (-x).exp()));
        check(Activation::Relu, &|x| x.max(0.0));
        check(Activation::GeluTanh, &|x| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        });
        // Φ(1) = 0.841344746068543, Φ(2) = 0.977249868051821.
        let tensor = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap();
        let out = gated(&tensor(&[1.0, -1.0, 2.0]), &tensor(&[1.0, 1.0, 1.0]), Activation::Gelu).unwrap();
        for (o, e) in out.to_vec1::<f32>().unwrap().iter().zip([0.841_344_7, -0.158_655_3, 1.954_499_7]) {
            assert!((o - e).abs() < 1e-6, "{o} {e}");
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            check_gradients(&[&[3, 40], &[3, 40]], 2.0, |x| gated(&x[0], &x[1], activation));
        }
    }
}
