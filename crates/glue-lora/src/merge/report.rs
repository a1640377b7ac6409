//! The outcome of a merge of adapters. The fields are those of the JSON documents.

use serde::Serialize;

/// The outcome of a merge of adapters.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoraMerge {
    /// Paths of the adapters, in the order of their parameters.
    pub adapters: Vec<String>,
    /// Name of the operator.
    pub operator: &'static str,
    /// Name of the operator that it wraps; `None` where it wraps none.
    pub wraps: Option<&'static str>,
    /// Seed of random operators.
    pub seed: u64,
    /// Type of the factors, as torch calls it.
    pub dtype: &'static str,
    /// Modules of the merged adapter, by the name of the tensor that they change.
    pub modules: Vec<MergedModule>,
    /// Tensors whose merged change is zero; they have no module.
    pub zero: Vec<String>,
    /// Elements of the merged adapter.
    pub parameters: u64,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Norm of the merged change minus the product of the factors as stored, over the norm of the merged change, over
    /// all modules.
    pub relative_error: f64,
}

/// A module of a merged adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MergedModule {
    /// Name of the module; for experts, of the parameter.
    pub module: String,
    /// Number of its matrices: 1, or that of the experts in one tensor.
    pub experts: usize,
    /// Rows of each matrix, as the model stores it; for experts, outputs.
    pub rows: usize,
    /// Columns of it.
    pub columns: usize,
    /// Rank in each adapter; 0 where it does not change this tensor.
    pub ranks: Vec<usize>,
    /// Rows and columns of the matrices that were merged; of several experts, the largest.
    pub core: [usize; 2],
    /// Rank of the merged factors; of several experts, the largest.
    pub rank: usize,
    /// Norm of the merged change minus the product of the factors as stored, over the norm of the merged change.
    pub relative_error: f64,
}
