//! Gradients against differences, for the tests of each operation.

use super::elements;
use candle_core::{Device, Result, Tensor, Var};

/// Numbers between -1 and 1, the same for the same seed.
pub(crate) fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// Checks the gradient of a random sum of the outputs of `f` with respect to inputs of these shapes, each filled with
/// numbers up to `size`, against central differences in a few random directions.
#[track_caller]
pub(crate) fn check_gradients(shapes: &[&[usize]], size: f32, f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let filled = |shape: &[usize], seed| numbers(shape.iter().product(), seed).iter().map(|x| x * size).collect();
    let inputs: Vec<Vec<f32>> = shapes.iter().zip(1..).map(|(shape, seed)| filled(shape, seed)).collect();
    let vars: Vec<Var> =
        inputs.iter().zip(shapes).map(|(x, &shape)| Var::from_slice(x, shape, &Device::Cpu).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let out = f(&tensors).unwrap();
    let weights = numbers(out.elem_count(), 99);
    let weighted = Tensor::from_slice(&weights, out.shape(), &Device::Cpu).unwrap();
    let grads = (&out * &weighted).unwrap().sum_all().unwrap().backward().unwrap();
    let sum = |inputs: &[Vec<f32>]| -> f64 {
        let tensors: Vec<Tensor> =
            inputs.iter().zip(shapes).map(|(x, &shape)| Tensor::from_slice(x, shape, &Device::Cpu).unwrap()).collect();
        let out = elements(&f(&tensors).unwrap()).unwrap();
        out.iter().zip(&weights).map(|(&o, &w)| f64::from(o) * f64::from(w)).sum()
    };
    let step = 2e-3 * size;
    for (index, var) in vars.iter().enumerate() {
        let grad = elements(grads.get(var).expect("a gradient")).unwrap();
        for seed in 0..4 {
            let direction = numbers(grad.len(), 1000 + seed);
            let along: f64 = grad.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
            let moved = |sign: f32| {
                let mut moved = inputs.clone();
                moved[index].iter_mut().zip(&direction).for_each(|(x, d)| *x += sign * step * d);
                sum(&moved)
            };
            let difference = (moved(1.0) - moved(-1.0)) / f64::from(2.0 * step);
            let norm = grad.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            // The third derivative times the squared step, and rounding of f32 over the step.
            assert!(
                (along - difference).abs() < 5e-3 * norm.max(0.1),
                "input {index}, direction {seed}: {along}, by differences {difference}, length {norm}"
            );
        }
    }
}
