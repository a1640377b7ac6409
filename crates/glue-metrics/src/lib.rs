//! Which models of a zoo belong together: compatibility, similarity, clusters.
//!
//! | module | answers |
//! |---|---|
//! | [`compatibility`] | which pairs can be merged at all, from headers alone |
//! | [`mod@similarity`] | how alike the weights of all pairs are, in one pass over the files |
//! | [`metric`], [`metrics`] | by which measure; one file for each |
//! | [`selection`] | in which tensors |
//! | [`cluster`] | which models form groups, at which threshold |
//! | [`matrix`] | the figures as JSON and CSV |
//!
//! ```no_run
//! use glue_metrics::cluster::{DEFAULT_THRESHOLD, leader};
//! use glue_metrics::{Metric, Model, Options, similarity};
//! use glue_progress::NoProgress;
//! use glue_tensor::Checkpoint;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (a, b) = (Checkpoint::open("zoo/a")?, Checkpoint::open("zoo/b")?);
//! let models =
//!     [Model { name: "a".to_string(), checkpoint: &a }, Model { name: "b".to_string(), checkpoint: &b }];
//! let metric = Metric::find("cosine_per_column")?;
//! let found = similarity(&models, None, metric, &Options::default(), &NoProgress)?;
//! let clusters = leader(&found.matrix(), DEFAULT_THRESHOLD)?;
//! assert!(clusters.members().len() <= 2);
//! # Ok(())
//! # }
//! ```
//!
//! **Invariant:** weights are read and compared here, never changed; and of the project's crates only `glue-tensor` is
//! known.

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
pub use metric::{METRICS, Metric, OverTensors};
pub use selection::{Class, Selection};
pub use similarity::{Breakdown, Model, Options, Similarity, similarity};
