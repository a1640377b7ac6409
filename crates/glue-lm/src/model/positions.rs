//! What positions do to queries and keys: rotation, and a factor on queries.

use crate::ops::scale_rows;
use crate::rope::{Angles, rotate};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// For some rows of a pass.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    /// Angles of the rotation, in layers with a rotary embedding.
    pub(super) angles: Option<Arc<Angles>>,
    /// Factors on queries, one for each row.
    pub(super) factors: Option<Arc<[f32]>>,
}

impl Positions {
    /// Those of these rows.
    pub(super) fn select(&self, rows: &[usize]) -> Positions {
        Positions {
            angles: self.angles.as_ref().map(|angles| Arc::new(angles.select(rows))),
            factors: self.factors.as_ref().map(|factors| rows.iter().map(|&row| factors[row]).collect()),
        }
    }

    /// Keys, or queries before their factor, [rows, heads · head_dim], rotated.
    pub(super) fn rotated(&self, x: &Tensor, head_dim: usize) -> Result<Tensor> {
        self.angles.as_ref().map_or_else(|| Ok(x.clone()), |angles| rotate(x, angles, head_dim))
    }

    /// Queries times their factors.
    pub(super) fn scaled(&self, x: Tensor) -> Result<Tensor> {
        self.factors.as_ref().map_or_else(|| Ok(x.clone()), |factors| scale_rows(&x, factors))
    }
}
