//! The difference of two tensors as `f32`, and its size.

use crate::error::LoraError;
use glue_tensor::{ModelDir, TensorView, widen};
use std::ops::Range;

/// Elements that are widened at once.
const BLOCK: usize = 1 << 16;

/// Sums of squares, in the order of the elements.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Squares {
    /// Of the base.
    pub(crate) base: f64,
    /// Of the difference.
    pub(crate) difference: f64,
}

impl Squares {
    /// The norm of the difference over that of the base; infinite for a base of zeros.
    pub(crate) fn relative(self) -> f64 {
        if self.difference == 0.0 { 0.0 } else { (self.difference / self.base).sqrt() }
    }
}

/// A tensor of both models.
pub(crate) struct Both<'a> {
    base_dir: &'a ModelDir,
    fine_dir: &'a ModelDir,
    base: TensorView<'a>,
    fine: TensorView<'a>,
    /// The elements that are looked at.
    range: Range<usize>,
}

impl<'a> Both<'a> {
    /// The tensor called `name`; `None` unless both have it.
    pub(crate) fn new(base_dir: &'a ModelDir, fine_dir: &'a ModelDir, name: &str) -> Option<Both<'a>> {
        let (base, fine) = (base_dir.checkpoint().get(name)?, fine_dir.checkpoint().get(name)?);
        let range = 0..base.info().n_elements();
        Some(Both { base_dir, fine_dir, base, fine, range })
    }

    /// Its elements in `range` alone.
    pub(crate) fn part(&self, range: Range<usize>) -> Both<'a> {
        Both { range, ..*self }
    }

    /// The fine-tuned one.
    pub(crate) fn fine(&self) -> TensorView<'a> {
        self.fine
    }

    /// Whether both are stored in the same way, byte for byte.
    pub(crate) fn are_same_bytes(&self) -> bool {
        let bytes = |view: &TensorView<'a>| {
            let size = view.dtype().size();
            &view.data()[self.range.start * size..self.range.end * size]
        };
        self.base.dtype() == self.fine.dtype() && bytes(&self.base) == bytes(&self.fine)
    }

    /// Hands every part of the difference to `take`, in order, and adds up squares.
    pub(crate) fn difference(&self, mut take: impl FnMut(&[f32])) -> Result<Squares, LoraError> {
        let n = self.range.len();
        let (mut theta, mut delta) = (vec![0.0; BLOCK.min(n)], vec![0.0; BLOCK.min(n)]);
        let mut squares = Squares::default();
        for start in self.range.clone().step_by(BLOCK) {
            let range = start..(start + BLOCK).min(self.range.end);
            let (theta, delta) = (&mut theta[..range.len()], &mut delta[..range.len()]);
            self.widen(&self.base, self.base_dir, range.clone(), theta)?;
            self.widen(&self.fine, self.fine_dir, range, delta)?;
            for (d, w) in delta.iter_mut().zip(&*theta) {
                *d -= w;
                squares.base += f64::from(*w).powi(2);
                squares.difference += f64::from(*d).powi(2);
            }
            take(delta);
        }
        Ok(squares)
    }

    fn widen(
        &self,
        view: &TensorView<'_>,
        of: &ModelDir,
        range: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), LoraError> {
        let size = view.dtype().size();
        let tensor = || view.name().to_string();
        match widen(view.dtype(), &view.data()[range.start * size..range.end * size], out) {
            Ok(true) => Ok(()),
            Ok(false) => Err(LoraError::NotFinite { tensor: tensor(), model: of.path().to_path_buf() }),
            Err(error) => Err(LoraError::Convert { tensor: tensor(), error }),
        }
    }
}
