//! Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467): x / √(mean(x²) + ε) · w. Layer normalisation
//! (Ba, Kiros and Hinton, arXiv 1607.06450) without a bias is that of x − mean(x).

use crate::ops::elements;
use crate::tape::Tape;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// Elements from which a norm is worth handing to other threads.
const PARALLEL_FROM: usize = 1 << 18;

/// Rows done together when it is.
const ROWS: usize = 64;

/// A norm's weights and ε. The width it normalises over is the number of weights.
#[derive(Debug, Clone)]
pub(crate) struct RmsNorm {
    weight: Arc<[f32]>,
    eps: f32,
    name: Arc<str>,
    tape: Option<Tape>,
    /// Whether the mean is taken away first.
    centred: bool,
}

impl RmsNorm {
    /// A norm that multiplies by `weight`, which is not empty.
    pub(crate) fn new(weight: Vec<f32>, eps: f32) -> RmsNorm {
        RmsNorm { weight: weight.into(), eps, name: "".into(), tape: None, centred: false }
    }

    /// The same of what is left when the mean is taken away, if `centred`.
    pub(crate) fn centred(self, centred: bool) -> RmsNorm {
        RmsNorm { centred, ..self }
    }

    /// The same with the name of the stored tensor.
    pub(crate) fn named(self, name: String) -> RmsNorm {
        RmsNorm { name: name.into(), ..self }
    }

    /// The name of the stored tensor; empty where none is.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Elements that it normalises over.
    pub(crate) fn width(&self) -> usize {
        self.weight.len()
    }

    /// Normalises each run of as many elements as there are weights; the last extent of `x` is a multiple of that. The
    /// backward pass records the gradient of the weights on `tape`.
    pub(crate) fn forward(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let tape = tape.filter(|_| !self.name.is_empty()).cloned();
        let norm = RmsNorm { tape, ..self.clone() };
        match self.centred {
            true => x.apply_op1(Centre(self.width()))?.apply_op1(norm),
            false => x.apply_op1(norm),
        }
    }

    /// What the rows of `x` add to the gradient of the weights, [rows, width]: x·f·g, over all runs in a row.
    fn of_weights(&self, x: &[f32], grad: &[f32], row: usize) -> Vec<f32> {
        let width = self.weight.len();
        let mut out = vec![0.0; x.len() / row.max(1) * width];
        for ((x, grad), out) in x.chunks_exact(row).zip(grad.chunks_exact(row)).zip(out.chunks_exact_mut(width)) {
            for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
                let factor = 1.0 / (sum_of_squares(x) / width as f32 + self.eps).sqrt();
                out.iter_mut().zip(x.iter().zip(grad)).for_each(|(out, (x, g))| *out += x * factor * g);
            }
        }
        out
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = self.weight.len();
        let Some((start, end)) = at.contiguous_offsets() else {
            bail!("operand of shape {:?} is not contiguous", at.shape())
        };
        if width == 0 || at.dims().last().is_none_or(|last| last % width != 0) {
            bail!("a norm over {width} elements of shape {:?}", at.shape())
        }
        let x = &x.as_slice::<f32>()?[start..end];
        let mut out = vec![0.0; x.len()];
        let rows = |x: &[f32], out: &mut [f32]| {
            for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                let factor = 1.0 / (sum_of_squares(x) / width as f32 + self.eps).sqrt();
                for ((o, &x), &w) in out.iter_mut().zip(x).zip(&*self.weight) {
                    *o = x * factor * w;
                }
            }
        };
        if x.len() < PARALLEL_FROM {
            rows(x, &mut out);
        } else {
            out.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(out, x)| rows(x, out));
        }
        Ok((CpuStorage::F32(out), at.shape().clone()))
    }

    /// With f = 1/√(mean(x²) + ε): f·w·g − x·f³·mean(x·w·g), g being the gradient of the result.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = self.weight.len();
        let (values, grad) = (elements(x)?, elements(grad)?);
        if let Some(tape) = &self.tape {
            let row = x.dims().last().copied().unwrap_or(width);
            tape.sum(&self.name, self.of_weights(&values, &grad, row), width);
        }
        let mut out = vec![0.0; values.len()];
        let rows = |((x, grad), out): ((&[f32], &[f32]), &mut [f32])| {
            let factor = 1.0 / (sum_of_squares(x) / width as f32 + self.eps).sqrt();
            let terms = x.iter().zip(grad).zip(&*self.weight).map(|((&x, &g), &w)| f64::from(x * w * g));
            let along = (terms.sum::<f64>() / width as f64) as f32 * factor.powi(3);
            for (((o, &x), &g), &w) in out.iter_mut().zip(x).zip(grad).zip(&*self.weight) {
                *o = factor * w * g - x * along;
            }
        };
        values.chunks_exact(width).zip(grad.chunks_exact(width)).zip(out.chunks_exact_mut(width)).for_each(rows);
        Tensor::from_vec(out, x.shape(), x.device()).map(Some)
    }
}

/// Takes the mean away from each run of so many elements.
struct Centre(usize);

impl Centre {
    fn of(&self, x: &[f32]) -> Result<Vec<f32>> {
        if self.0 == 0 || !x.len().is_multiple_of(self.0) {
            bail!("means over {} of {} elements", self.0, x.len())
        }
        let mut out = x.to_vec();
        let rows = |rows: &mut [f32]| {
            for run in rows.chunks_exact_mut(self.0) {
                let mean = (run.iter().map(|&x| f64::from(x)).sum::<f64>() / self.0 as f64) as f32;
                run.iter_mut().for_each(|x| *x -= mean);
            }
        };
        match x.len() < PARALLEL_FROM {
            true => rows(&mut out),
            false => out.par_chunks_mut(ROWS * self.0).for_each(rows),
        }
        Ok(out)
    }
}

impl CustomOp1 for Centre {
    fn name(&self) -> &'static str {
        "centre"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = at.contiguous_offsets() else {
            bail!("operand of shape {:?} is not contiguous", at.shape())
        };
        Ok((CpuStorage::F32(self.of(&x.as_slice::<f32>()?[start..end])?), at.shape().clone()))
    }

    /// The gradient with its mean taken away: the map is its own transpose.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Tensor::from_vec(self.of(&elements(grad)?)?, x.shape(), x.device()).map(Some)
    }
}

/// In sixteen lanes, which the compiler turns into vectors and which loses less to rounding than one running sum.
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x * x;
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::check_gradients;
    use candle_core::Device;

    /// Against the formula in f64, 2e-6 being the rounding of a sum of squares and a division in f32.
    fn check(rows: usize, groups: usize, width: usize) {
        let x: Vec<f32> = (0..rows * groups * width).map(|i| ((i * 7919) % 1013) as f32 / 300.0 - 1.5).collect();
        let w: Vec<f32> = (0..width).map(|i| 0.5 + i as f32 / width as f32).collect();
        let tensor = Tensor::from_slice(&x, (rows, groups * width), &Device::Cpu).unwrap();
        let y = RmsNorm::new(w.clone(), 1e-5).forward(&tensor, None).unwrap();
        let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (x, y) in x.chunks(width).zip(y.chunks(width)) {
            let mean: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / width as f64;
            for i in 0..width {
                let expected = f64::from(x[i]) / (mean + f64::from(1e-5f32)).sqrt() * f64::from(w[i]);
                assert!(
                    (f64::from(y[i]) - expected).abs() < 2e-6 * expected.abs().max(1.0),
                    "{i}: {} {expected}",
                    y[i]
                );
            }
        }
    }

    #[test]
    fn rows_and_heads_by_the_formula() {
        check(1, 1, 3);
        check(5, 1, 128);
        check(3, 4, 20);
        check(700, 2, 250);
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let norm = RmsNorm::new((0..5).map(|i| 0.5 + i as f32 / 5.0).collect(), 1e-3);
        check_gradients(&[&[3, 15]], 1.0, |x| norm.forward(&x[0], None));
    }

    /// Against the formula in f64; 4e-6 for the roundings of a norm and of a mean.
    #[test]
    fn layer_normalisation_takes_the_mean_away() {
        let (rows, width) = (700, 375);
        let x: Vec<f32> = (0..rows * width).map(|i| ((i * 7919) % 1013) as f32 / 300.0 + 4.0).collect();
        let w: Vec<f32> = (0..width).map(|i| 0.5 + i as f32 / width as f32).collect();
        let norm = RmsNorm::new(w.clone(), 1e-5).centred(true);
        let tensor = Tensor::from_slice(&x, (rows, width), &Device::Cpu).unwrap();
        let y = norm.forward(&tensor, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (x, y) in x.chunks(width).zip(y.chunks(width)) {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
            for i in 0..width {
                let expected = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(w[i]);
                assert!((f64::from(y[i]) - expected).abs() < 4e-6 * expected.abs().max(1.0), "{}: {expected}", y[i]);
            }
        }
        let small = RmsNorm::new((0..5).map(|i| 0.5 + i as f32 / 5.0).collect(), 1e-3).centred(true);
        check_gradients(&[&[3, 15]], 1.0, |x| small.forward(&x[0], None));
    }

    #[test]
    fn widths_that_do_not_divide_are_refused() {
        let x = Tensor::zeros((2, 10), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(RmsNorm::new(vec![1.0; 4], 1e-5).forward(&x, None).is_err());
    }
}
