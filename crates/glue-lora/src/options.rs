//! What to extract, and at what rank.

use crate::error::LoraError;
use glue_tensor::Dtype;
use serde::Serialize;

/// How the rank of a matrix is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RankRule {
    /// This rank, or the smaller side of the matrix where that is less.
    Fixed(usize),
    /// The smallest rank that keeps a fraction of the energy, the sum of the squared singular values.
    Energy {
        /// The fraction to keep, above 0 and up to 1. `share` in JSON.
        #[serde(rename = "share")]
        fraction: f64,
        /// Maximum rank; `None` for no limit. `most` in JSON.
        #[serde(rename = "most")]
        max_rank: Option<usize>,
    },
}

/// How singular triples are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decomposition {
    /// The largest ones, by a randomised range finder with a fixed seed: much faster where the rank is a small
    /// fraction of the matrix's, with an error slightly above the optimum. All triples are computed where the rank is
    /// no small fraction.
    #[default]
    Randomised,
    /// All of them: the factors are optimal.
    Exact,
}

/// What to extract.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractOptions {
    /// Rank of the factors. Default: 16.
    pub rank: RankRule,
    /// How singular triples are found. Default: [`Decomposition::Randomised`].
    pub svd: Decomposition,
    /// Names of modules, or endings of names that begin at a dot: all matrices that match, inside or outside the
    /// layers. Default: empty, for every matrix in the layers.
    pub modules: Vec<String>,
    /// Whether embeddings are extracted too. Default: no.
    pub embeddings: bool,
    /// Whether the head is extracted too. Default: no.
    pub head: bool,
    /// Whether other tensors that differ are stored whole. Default: no, they are only reported.
    pub save_full: bool,
    /// Type of the factors. Default: `F32`.
    pub dtype: Dtype,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            rank: RankRule::Fixed(16),
            svd: Decomposition::default(),
            modules: Vec::new(),
            embeddings: false,
            head: false,
            save_full: false,
            dtype: Dtype::F32,
        }
    }
}

impl ExtractOptions {
    pub(crate) fn check(&self) -> Result<(), LoraError> {
        let option = |option, expected, found: String| Err(LoraError::Option { option, expected, found });
        match self.rank {
            RankRule::Fixed(0) => option("rank", "at least 1", "0".into()),
            RankRule::Energy { fraction, .. } if !(fraction > 0.0 && fraction <= 1.0) => {
                option("energy", "above 0 and at most 1", fraction.to_string())
            }
            RankRule::Energy { max_rank: Some(0), .. } => option("the maximum rank", "at least 1", "0".into()),
            _ if !self.dtype.is_float() => {
                option("the type of the factors", "a floating-point type", self.dtype.to_string())
            }
            _ => Ok(()),
        }
    }
}
