//! Batches as other runtimes take them: rectangles of token numbers with padding, unpadded on the way in and put back
//! in place on the way out.

use crate::error::LmError;
use crate::model::{Model, Rows, Want};
use crate::tree::Tree;
use candle_core::{Device, Tensor};
use std::ops::Range;

/// Token numbers [batch, length] and which of them are text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaddedBatch {
    ids: Vec<u32>,
    length: usize,
    /// The columns of each sequence that are text.
    text: Vec<Range<usize>>,
}

/// What a pass over a padded batch returned.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PaddedOutput {
    /// [batch, length, vocabulary], `f32`; zeros at padding.
    pub logits: Tensor,
    /// [batch, length, hidden size] for each index wanted; zeros at padding.
    pub hidden: Vec<Tensor>,
}

impl PaddedBatch {
    /// A batch without padding: `ids` [batch, length] in row-major order.
    ///
    /// # Errors
    /// [`LmError::Batch`] when `ids` is not a whole number of sequences of `length`.
    pub fn new(ids: Vec<u32>, length: usize) -> Result<PaddedBatch, LmError> {
        if (length == 0 && !ids.is_empty()) || (length > 0 && !ids.len().is_multiple_of(length)) {
            let reason = format!("{} tokens are not a whole number of sequences of {length}", ids.len());
            return Err(LmError::Batch { reason });
        }
        let count = ids.len().checked_div(length).unwrap_or(0);
        Ok(PaddedBatch { ids, length, text: vec![0..length; count] })
    }

    /// The same with an attention mask of the shape of the tokens: true at text, false at padding, which may stand on
    /// the left, on the right, or on both sides.
    ///
    /// # Errors
    /// [`LmError::Batch`] when the mask has another size, or when padding stands between text.
    pub fn with_mask(mut self, mask: &[bool]) -> Result<PaddedBatch, LmError> {
        if mask.len() != self.ids.len() {
            let reason = format!("an attention mask of {} for {} tokens", mask.len(), self.ids.len());
            return Err(LmError::Batch { reason });
        }
        for (index, text) in self.text.iter_mut().enumerate() {
            let row = &mask[index * self.length..][..self.length];
            *text = inside(row.iter().copied());
            if !row[text.clone()].iter().all(|&text| text) {
                let reason = format!("the attention mask of sequence {index} has a gap between text");
                return Err(LmError::Batch { reason });
            }
        }
        Ok(self)
    }

    /// The same with the runs of `pad` at both ends of each sequence as padding.
    #[must_use]
    pub fn with_pad_id(mut self, pad: u32) -> PaddedBatch {
        for (index, text) in self.text.iter_mut().enumerate() {
            *text = inside(self.ids[index * self.length..][..self.length].iter().map(|&id| id != pad));
        }
        self
    }

    /// The tokens of each sequence, without padding.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.text.iter().enumerate().map(|(index, text)| &self.ids[index * self.length..][text.clone()])
    }

    /// Puts rows of text [tokens, width] in their places: [batch, length, width].
    fn put_back(&self, rows: &Tensor) -> Result<Tensor, LmError> {
        let width = rows.dims2()?.1;
        let rows = crate::model::floats(rows)?;
        let mut out = vec![0.0; self.ids.len() * width];
        let mut rest = &rows[..];
        for (index, text) in self.text.iter().enumerate() {
            let (these, after) = rest.split_at(text.len() * width);
            out[(index * self.length + text.start) * width..][..these.len()].copy_from_slice(these);
            rest = after;
        }
        Ok(Tensor::from_vec(out, (self.text.len(), self.length, width), &Device::Cpu)?)
    }
}

/// From the first true to after the last; empty when there is none.
fn inside(is_text: impl ExactSizeIterator<Item = bool> + DoubleEndedIterator + Clone) -> Range<usize> {
    match (is_text.clone().position(|text| text), is_text.clone().rposition(|text| text)) {
        (Some(first), Some(last)) => first..last + 1,
        _ => 0..0,
    }
}

impl Model {
    /// Runs the sequences of a padded batch, each from position 0 of its text, and returns the logits of every token
    /// and the hidden states of [`Want::hidden`](crate::Want).
    ///
    /// # Errors
    /// [`LmError::Token`], [`LmError::HiddenIndex`].
    pub fn forward_padded(&self, batch: &PaddedBatch, hidden: &[usize]) -> Result<PaddedOutput, LmError> {
        let mut tree = Tree::new();
        for tokens in batch.sequences() {
            tree.push(None, tokens);
        }
        let output = self.forward(&mut tree, &Want { logits: Rows::All, hidden })?;
        let hidden = output.hidden.iter().map(|rows| batch.put_back(rows)).collect::<Result<_, _>>()?;
        Ok(PaddedOutput { logits: batch.put_back(&output.logits)?, hidden })
    }
}
