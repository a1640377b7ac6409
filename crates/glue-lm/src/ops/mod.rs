//! The operations that take the time: products with stored weights, attention over packed segments, gated activations.
//!
//! Gradients with respect to activations are there for all of them; stored weights are constants, whose gradients are
//! recorded on a tape if there is one.
//!
//! Each is a candle operation on `f32` tensors of the CPU. Work is split by grids that depend on shapes alone, so that
//! the number of threads changes no result.

mod add;
mod amx;
mod attention;
mod by_head;
mod clamped;
mod dots;
mod exp;
mod few_rows;
mod gated;
#[cfg(test)]
pub(crate) mod gradients;
mod kept;
mod linear;
mod mxfp4;
mod routing;
mod scale_rows;
mod softcap;
mod transposed;

pub(crate) use add::add;
pub(crate) use amx::packed_bytes;
pub(crate) use attention::{AttentionSpec, Segment, Span, attention_with_sinks};
pub(crate) use by_head::{Direction, HeadBlock, by_head};
pub(crate) use clamped::clamped_swiglu;
pub(crate) use exp::exp;
pub(crate) use gated::gated;
pub use kept::KvCacheType;
pub(crate) use kept::{GROWTH, KeyValue};
pub(crate) use linear::{Recording, linear, linear_recorded, linear_together, product_of};
pub(crate) use mxfp4::{BLOCK as MXFP4_BLOCK, Mxfp4, product_mxfp4};
pub(crate) use routing::{Routes, combine, mean_of_rows, shares, sigmoid_shares};
pub(crate) use scale_rows::scale_rows;
pub(crate) use softcap::softcap;
pub(crate) use transposed::product_transposed;

use candle_core::{CpuStorage, Layout, Result, Tensor, bail};

/// The elements of a contiguous `f32` tensor.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("operand of shape {:?} is not contiguous", layout.shape()),
    }
}

/// The elements in row-major order, whatever the layout: for gradients, which come in any.
pub(crate) fn elements(x: &Tensor) -> Result<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}
