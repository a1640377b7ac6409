//! The tensors of a model by name, wherever they are.

use crate::error::LmError;
use crate::weight::{Weight, WeightError};
use glue_tensor::{Checkpoint, Dtype};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The tensors of one model: mapped from a checkpoint, or in memory. Nothing is copied or widened here.
#[derive(Debug, Clone)]
pub struct Weights {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Checkpoint(Arc<Checkpoint>),
    Memory(BTreeMap<String, Weight>),
}

impl Weights {
    /// The tensors of a checkpoint, in place in its files.
    pub fn from_checkpoint(checkpoint: Arc<Checkpoint>) -> Weights {
        Weights { source: Source::Checkpoint(checkpoint) }
    }

    /// Tensors in memory. Of two with the same name the later one counts.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, Weight)>) -> Weights {
        Weights { source: Source::Memory(tensors.into_iter().collect()) }
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<&str> {
        match &self.source {
            Source::Checkpoint(checkpoint) => checkpoint.tensors().iter().map(|info| info.name.as_str()).collect(),
            Source::Memory(tensors) => tensors.keys().map(String::as_str).collect(),
        }
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::Checkpoint(checkpoint) => checkpoint.info(name).is_some(),
            Source::Memory(tensors) => tensors.contains_key(name),
        }
    }

    /// The tensor called `name`; `None` when there is none.
    ///
    /// # Errors
    /// [`LmError::Weight`] when its elements are not floating-point numbers.
    pub fn get(&self, name: &str) -> Result<Option<Weight>, LmError> {
        let found = self.stored(name)?;
        match found.as_ref().map(Weight::dtype).filter(|dtype| !dtype.is_float()) {
            Some(dtype) => Err(LmError::Weight { name: name.to_owned(), error: WeightError::NotFloat { dtype } }),
            None => Ok(found),
        }
    }

    /// The same where elements are bytes that hold packed numbers.
    pub(crate) fn packed(&self, name: &str) -> Result<Option<Weight>, LmError> {
        let found = self.stored(name)?;
        match found.as_ref().map(Weight::dtype).filter(|&dtype| dtype != Dtype::U8) {
            Some(dtype) => Err(LmError::Weight { name: name.to_owned(), error: WeightError::NotPacked { dtype } }),
            None => Ok(found),
        }
    }

    fn stored(&self, name: &str) -> Result<Option<Weight>, LmError> {
        match &self.source {
            Source::Checkpoint(checkpoint) => Weight::mapped(checkpoint, name)
                .transpose()
                .map_err(|error| LmError::Weight { name: name.to_owned(), error }),
            Source::Memory(tensors) => Ok(tensors.get(name).cloned()),
        }
    }
}
