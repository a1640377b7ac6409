//! What operations record in the backward pass of candle: what the gradients of stored weights are made of.
//!
//! A gradient of a matrix is as large as the matrix, and there is one for each sequence. What it is made of, inputs and
//! gradients of outputs row by row, is small and the same for all sequences of a pass.

use crate::ops::elements;
use candle_core::{Result, Tensor, TensorId, Var};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;

/// A weight within the stored tensor that holds it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Name of the tensor.
    pub(crate) name: Arc<str>,
    /// Its row that is the first of the weight: other than 0 where several projections are stored as one.
    pub(crate) first_row: usize,
}

impl Stored {
    /// The name of the bias that belongs to a weight.
    pub(crate) fn bias_name(&self) -> String {
        format!("{}bias", self.name.strip_suffix("weight").unwrap_or(&self.name))
    }
}

/// What the gradients of some rows of a tensor are made of. Numbers are row after row of a pass.
#[derive(Debug, Clone)]
pub(crate) enum Factors {
    /// Σ δᵀ·x over the rows: of a product with inputs [rows, width] and gradients of outputs [rows, out].
    Product { inputs: Arc<Vec<f32>>, deltas: Arc<Vec<f32>>, width: usize, out: usize },
    /// Σ over the rows of [rows, width]: of a vector.
    Sum { terms: Arc<Vec<f32>>, width: usize },
    /// Row `tokens[i]` is given row i of [rows, width]: of an embedding.
    Lookup { tokens: Vec<u32>, deltas: Vec<f32>, width: usize },
}

/// Some rows of a tensor, from the first on that is named.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) first_row: usize,
    pub(crate) factors: Factors,
}

/// The records of one pass; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tape(Arc<Mutex<Records>>);

#[derive(Debug, Default)]
struct Records {
    /// What the pass begins with.
    leaf: Option<Var>,
    /// Inputs of products: several may have the same.
    inputs: HashMap<TensorId, Arc<Vec<f32>>>,
    entries: Vec<Entry>,
}

impl Tape {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock()
    }

    /// The same numbers as a variable, from which on candle keeps track.
    pub(crate) fn begins_with(&self, x: &Tensor) -> Result<Tensor> {
        let leaf = Var::from_tensor(x)?;
        let x = leaf.as_tensor().clone();
        self.records().leaf = Some(leaf);
        Ok(x)
    }

    /// What the pass began with.
    pub(crate) fn leaf(&self) -> Option<Var> {
        self.records().leaf.clone()
    }

    /// Records a product of `x` with a weight, the gradient of whose output is `deltas`, and its bias if it has one.
    pub(crate) fn product(&self, stored: &Stored, x: &Tensor, deltas: &Arc<Vec<f32>>, bias: bool) -> Result<()> {
        let (rows, width) = x.dims2()?;
        let known = self.records().inputs.get(&x.id()).cloned();
        let inputs = match known {
            Some(inputs) => inputs,
            None => Arc::new(elements(x)?),
        };
        let out = deltas.len() / rows.max(1);
        let mut records = self.records();
        records.inputs.insert(x.id(), Arc::clone(&inputs));
        let factors = Factors::Product { inputs, deltas: Arc::clone(deltas), width, out };
        records.entries.push(Entry { name: stored.name.to_string(), first_row: stored.first_row, factors });
        if bias {
            let factors = Factors::Sum { terms: Arc::clone(deltas), width: out };
            records.entries.push(Entry { name: stored.bias_name(), first_row: stored.first_row, factors });
        }
        Ok(())
    }

    /// Records a vector whose gradient is the sum of these rows.
    pub(crate) fn sum(&self, name: &str, terms: Vec<f32>, width: usize) {
        let factors = Factors::Sum { terms: Arc::new(terms), width };
        self.records().entries.push(Entry { name: name.to_owned(), first_row: 0, factors });
    }

    /// Records rows of an embedding.
    pub(crate) fn lookup(&self, name: &str, tokens: Vec<u32>, deltas: Vec<f32>, width: usize) {
        let factors = Factors::Lookup { tokens, deltas, width };
        self.records().entries.push(Entry { name: name.to_owned(), first_row: 0, factors });
    }

    /// All that was recorded.
    pub(crate) fn into_entries(self) -> Vec<Entry> {
        std::mem::take(&mut self.records().entries)
    }
}
