//! The experts of a family's mixture, in the layouts in which they are stored.

use super::feed_forward::Mlp;
use crate::architecture::{Activation, SwigluClamp};
use crate::ops::{Mxfp4, clamped_swiglu, gated, product_mxfp4, product_transposed};
use crate::weight::Weight;
use candle_core::{Result, Tensor};

/// One expert.
#[derive(Debug)]
pub(super) enum Expert {
    /// A matrix each for gate, up and down, [out, in].
    Plain(Box<Mlp>),
    /// Gate and up in one matrix, in a layout of its own.
    Joint(Box<Joint>),
}

impl Expert {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Expert::Plain(mlp) => mlp.forward(x, None),
            Expert::Joint(joint) => joint.forward(x),
        }
    }
}

/// A matrix of an expert.
#[derive(Debug)]
pub(super) enum Matrix {
    /// [in, out]
    Columns(Weight),
    /// [out, in] in MXFP4.
    Mxfp4(Mxfp4),
}

/// A matrix and its bias.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) matrix: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

impl Product {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_deref();
        match &self.matrix {
            Matrix::Columns(weight) => product_transposed(x, weight, bias),
            Matrix::Mxfp4(matrix) => product_mxfp4(x, matrix, bias),
        }
    }
}

/// down(act(gate(x)) · up(x)) with gate and up in one product.
#[derive(Debug)]
pub(super) struct Joint {
    pub(super) gate_up: Product,
    pub(super) down: Product,
    /// Whether outputs of gate and up alternate; else those of the gate come first.
    pub(super) alternating: bool,
    pub(super) activation: Activation,
    /// In place of the activation.
    pub(super) clamp: Option<SwigluClamp>,
}

impl Joint {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let both = self.gate_up.forward(x)?;
        let (rows, width) = both.dims2()?;
        let inner = width / 2;
        let part = |index: usize| match self.alternating {
            true => both.reshape((rows, inner, 2))?.narrow(2, index, 1)?.reshape((rows, inner))?.contiguous(),
            false => both.narrow(1, index * inner, inner)?.contiguous(),
        };
        let (gate, up) = (part(0)?, part(1)?);
        let middle = match self.clamp {
            Some(clamp) => clamped_swiglu(&gate, &up, clamp)?,
            None => gated(&gate, &up, self.activation)?,
        };
        self.down.forward(&middle)
    }
}
