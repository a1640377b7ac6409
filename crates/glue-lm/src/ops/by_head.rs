//! Products of each head of the rows with a block of a stored matrix of its own. Multi-head latent attention brings
//! queries into the space of the latent vector and what attention gives out of it, in place of keys and values made of
//! that vector (DeepSeek V2, arXiv 2405.04434, §2.1.2).

use super::elements;
use super::floats;
use crate::weight::Weight;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// The block of each head: the rows h·`stride` + `first` … + `rows` of a matrix, for head h.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadBlock {
    pub(crate) heads: usize,
    pub(crate) stride: usize,
    pub(crate) first: usize,
    pub(crate) rows: usize,
}

/// Which way the blocks are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// x · W: from as many numbers as a block has rows to as many as it has columns.
    IntoColumns,
    /// x · Wᵀ: the other way.
    IntoRows,
}

/// The heads of `x` [T, heads · in] times their blocks of `weight`: [T, heads · out].
pub(crate) fn by_head(x: &Tensor, weight: &Weight, block: HeadBlock, direction: Direction) -> Result<Tensor> {
    x.contiguous()?.apply_op1(ByHead { weight: weight.clone(), block, direction })
}

struct ByHead {
    weight: Weight,
    block: HeadBlock,
    direction: Direction,
}

impl ByHead {
    fn apply(&self, x: &[f32], t: usize, direction: Direction) -> Vec<f32> {
        let HeadBlock { heads, stride, first, rows } = self.block;
        let columns = self.weight.row_len();
        let (width, out_width) = match direction {
            Direction::IntoColumns => (rows, columns),
            Direction::IntoRows => (columns, rows),
        };
        let mut out = vec![0.0; t * heads * out_width];
        if out.is_empty() || width == 0 {
            return out;
        }
        let reader = self.weight.reader();
        let x = MatRef::from_row_major_slice(x, t, heads * width);
        // One head each, whatever the number of threads.
        let y = MatMut::from_row_major_slice_mut(&mut out, t, heads * out_width);
        y.par_col_chunks_mut(out_width).enumerate().for_each_init(Vec::new, |scratch, (head, y)| {
            let start = head * stride + first;
            let w = MatRef::from_row_major_slice(reader.get(start..start + rows, scratch), rows, columns);
            let w = match direction {
                Direction::IntoColumns => w,
                Direction::IntoRows => w.transpose(),
            };
            matmul(y, Accum::Replace, x.subcols(head * width, width), w, 1.0, Par::Seq);
        });
        out
    }
}

impl CustomOp1 for ByHead {
    fn name(&self) -> &'static str {
        "product-by-head"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (t, all) = at.shape().dims2()?;
        let HeadBlock { heads, stride, first, rows } = self.block;
        let columns = self.weight.row_len();
        let width = if self.direction == Direction::IntoColumns { rows } else { columns };
        let stored = self.weight.shape().first().copied().unwrap_or(0);
        if all != heads * width || first + rows > stride || heads * stride > stored {
            bail!("input of shape [{t}, {all}] with {:?} of {:?}", self.block, self.weight)
        }
        let out = self.apply(floats(x, at)?, t, self.direction);
        let width = out.len() / t.max(1);
        Ok((CpuStorage::F32(out), Shape::from((t, width))))
    }

    /// The gradient goes back through the same blocks the other way; the weight is a constant.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = match self.direction {
            Direction::IntoColumns => Direction::IntoRows,
            Direction::IntoRows => Direction::IntoColumns,
        };
        let out = self.apply(&elements(grad)?, x.dim(0)?, back);
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::{check_gradients, numbers};
    use glue_tensor::Dtype;

    #[test]
    fn each_head_is_multiplied_with_its_own_block() {
        let (heads, stride, columns, t) = (3, 7, 5, 4);
        let values = numbers(heads * stride * columns, 3);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let weight = Weight::owned(Dtype::F32, vec![heads * stride, columns], bytes).unwrap();
        let block = HeadBlock { heads, stride, first: 2, rows: 4 };
        for (direction, width, out) in [(Direction::IntoColumns, 4, 5), (Direction::IntoRows, 5, 4)] {
            let x = numbers(t * heads * width, 1);
            let input = Tensor::from_slice(&x, (t, heads * width), &Device::Cpu).unwrap();
            let y = elements(&by_head(&input, &weight, block, direction).unwrap()).unwrap();
            for (i, y) in y.iter().enumerate() {
                let (row, head, place) = (i / (heads * out), i / out % heads, i % out);
                let entry = |r: usize, c: usize| f64::from(values[(head * stride + 2 + r) * columns + c]);
                let term = |at: usize| {
                    let w = if direction == Direction::IntoColumns { entry(at, place) } else { entry(place, at) };
                    f64::from(x[(row * heads + head) * width + at]) * w
                };
                // Sums of five products of numbers below 1.
                assert!((f64::from(*y) - (0..width).map(term).sum::<f64>()).abs() < 1e-6, "{direction:?} {i}");
            }
            check_gradients(&[&[t, heads * width]], 1.0, |x| by_head(&x[0], &weight, block, direction));
        }
        let x = Tensor::zeros((2, 11), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(by_head(&x, &weight, block, Direction::IntoRows).is_err());
    }
}
