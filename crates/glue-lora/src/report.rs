//! The outcome of an extraction: what is in the adapter and what is not. The fields are those of the JSON documents.

use crate::options::{Decomposition, RankRule};
use serde::Serialize;

/// The outcome of an extraction.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Extraction {
    /// Path of the base.
    pub base: String,
    /// Path of the fine-tuned model.
    pub fine: String,
    /// How ranks were chosen.
    pub rank: RankRule,
    /// How singular triples were found.
    pub svd: Decomposition,
    /// Type of the factors, as torch calls it.
    pub dtype: &'static str,
    /// Modules of the adapter, by name.
    pub modules: Vec<ModuleReport>,
    /// Tensors that are the same in both models.
    pub unchanged: usize,
    /// Tensors that are stored whole.
    pub saved: Vec<OtherReport>,
    /// Tensors that differ and are not in the adapter. `left` in JSON.
    #[serde(rename = "left")]
    pub remaining: Vec<OtherReport>,
    /// Elements of the adapter.
    pub parameters: u64,
    /// Bytes of the adapter's tensors.
    pub bytes: u64,
    /// Norm of the difference minus the adapter, over the norm of the difference, over all tensors.
    pub relative_error: f64,
}

/// A module of the adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ModuleReport {
    /// Its name.
    pub module: String,
    /// Number of its matrices: 1, or that of the experts in one tensor.
    pub experts: usize,
    /// Rows of its weight, or of that of each expert.
    pub rows: usize,
    /// Columns of its weight.
    pub columns: usize,
    /// Rank of its factors, for each matrix; of several, the largest.
    pub rank: usize,
    /// Fraction of the difference's squared singular values that is kept, 0 to 1.
    pub energy: f64,
    /// Norm of the difference minus the product of the factors as stored, over the norm of the difference.
    pub relative_error: f64,
    /// Norm of the difference over the norm of the base.
    pub relative_change: f64,
}

/// A tensor that differs and is no module of the adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct OtherReport {
    /// Its name.
    pub tensor: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Norm of the difference over the norm of the base; `None` for a tensor of integers.
    pub relative_change: Option<f64>,
}
