//! What to extract, and at what rank.

use crate::error::LoraError;
use glue_tensor::Dtype;
use serde::Serialize;

/// How the rank of a matrix is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RankRule {
    /// This one, or the smaller side of the matrix where that is less.
    Fixed(usize),
    /// The smallest whose singular values hold a share of the sum of squares of all.
    Energy {
        /// Above 0, up to 1.
        share: f64,
        /// Never more than this; `None` is no limit.
        most: Option<usize>,
    },
}

/// How singular triples are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decomposition {
    /// The first ones, by a randomised range finder with a fixed seed: a small fraction of the time where the rank is a small
    /// fraction of the matrix's, and an error that is at most little above the least. Where it is no small fraction, all of them.
    #[default]
    Randomised,
    /// All of them: the factors are the best there are.
    Exact,
}

/// What to extract.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractOptions {
    /// Rank of the factors. Default: 16.
    pub rank: RankRule,
    /// How they are found. Default: the first ones.
    pub svd: Decomposition,
    /// Names of modules, or ends of them from a dot on: all their matrices, wherever they stand. Default, empty: every
    /// matrix in the layers.
    pub modules: Vec<String>,
    /// Besides those, embeddings. Default: not.
    pub embeddings: bool,
    /// Besides those, the head. Default: not.
    pub head: bool,
    /// Whether other tensors that differ are stored whole. Default: not; they are reported.
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
            RankRule::Energy { share, .. } if !(share > 0.0 && share <= 1.0) => {
                option("energy", "above 0 and at most 1", share.to_string())
            }
            RankRule::Energy { most: Some(0), .. } => option("the largest rank", "at least 1", "0".into()),
            _ if !self.dtype.is_float() => {
                option("the type of the factors", "a floating-point type", self.dtype.to_string())
            }
            _ => Ok(()),
        }
    }
}
