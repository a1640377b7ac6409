//! Cosine of deltas: of what training changed, rather than of weights.
//!
//! With a base θ0 and task vectors τ = θ − θ0 (Ilharco et al. 2023, arXiv 2212.04089), the cosines of
//! [`super::cosine_flat`] and [`super::cosine_per_column`] between the τ of two models. Fine-tunes of one base have
//! weights with a cosine near 1 whatever they learned; their deltas show what they have in common. The difference is
//! taken before anything is multiplied, so that small deltas lose no digits.
//!
//! Undefined where a delta is zero: matrices (columns) that one of the two models did not change are not counted,
//! and a pair with the base itself has no figure.

use crate::matrix::Scale;
use crate::metric::{Aggregation, Metric};
use crate::metrics::cosine_flat::FlatCosine;
use crate::metrics::cosine_per_column::ColumnCosines;
use crate::selection::Selection;

/// `delta_cosine_flat`.
pub static FLAT: Metric = Metric {
    name: "delta_cosine_flat",
    summary: "cosine of each matrix's difference from the base as one vector, then mean over matrices",
    reference: "Ilharco et al. 2023, arXiv 2212.04089",
    needs_base: true,
    scale: Scale::Similarity,
    aggregation: Aggregation::Mean,
    default_selection: Selection::default,
    kernel: &FlatCosine,
};

/// `delta_cosine_per_column`.
pub static PER_COLUMN: Metric = Metric {
    name: "delta_cosine_per_column",
    summary: "mean cosine of corresponding columns of the differences from the base, then mean over matrices",
    reference: "Model-GLUE, arXiv 2410.05357, on task vectors",
    needs_base: true,
    scale: Scale::Similarity,
    aggregation: Aggregation::Mean,
    default_selection: Selection::default,
    kernel: &ColumnCosines,
};
