//! Which models belong together: compatibility, similarity and clusters of checkpoints.
//!
//! | module | answers |
//! |---|---|
//! | [`compatibility`] | which pairs can be merged at all, from headers alone |
//! | [`mod@similarity`] | how similar the weights of all pairs are, in one pass over the files |
//! | [`metric`], [`metrics`] | by which measure; one module for each |
//! | [`selection`] | in which tensors |
//! | [`cluster`] | which models form groups, at which threshold |
//! | [`matrix`] | the matrix of figures, as JSON and CSV |
//!
//! ```no_run
//! use glue_metrics::cluster::{DEFAULT_THRESHOLD, leader};
//! use glue_metrics::{Metric, NamedCheckpoint, SimilarityOptions, similarity};
//! use glue_progress::NoProgress;
//! use glue_tensor::Checkpoint;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (a, b) = (Checkpoint::open("zoo/a")?, Checkpoint::open("zoo/b")?);
//! let model = |name: &str, checkpoint| NamedCheckpoint { name: name.to_string(), checkpoint };
//! let models = [model("a", &a), model("b", &b)];
//! let metric = Metric::find("cosine_per_column")?;
//! let found = similarity(&models, None, metric, &SimilarityOptions::default(), &NoProgress)?;
//! let clusters = leader(&found.matrix(), DEFAULT_THRESHOLD)?;
//! assert!(clusters.members().len() <= 2);
//! # Ok(())
//! # }
//! ```
//!
//! **Invariant:** weights are read and compared here, never changed.

mod block;
pub mod cluster;
pub mod compatibility;
pub mod error;
pub mod matrix;
pub mod metric;
pub mod metrics;
mod panel;
mod sample;
pub mod selection;
pub mod similarity;
mod stack;

pub use error::MetricsError;
pub use matrix::{Matrix, Scale};
pub use metric::{Aggregation, METRICS, Metric};
pub use selection::{Class, Selection};
pub use similarity::{Breakdown, NamedCheckpoint, Similarity, SimilarityOptions, similarity};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
