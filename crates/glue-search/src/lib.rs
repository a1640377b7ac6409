//! Black-box optimisers with an ask–tell interface: CMA-ES, differential evolution, NSGA-II, Sobol and random search.
//!
//! This crate knows a box of named coordinates, real, integer or categorical, and the results of points in it. A
//! [`Search`] hands out candidates and takes their results, from any number of workers, in any order:
//!
//! ```
//! use glue_search::{Coordinate, OptimiserRegistry, Options, Search, Space};
//!
//! let space = Space::new(vec![Coordinate::real("x", -2.0, 2.0), Coordinate::real("y", -2.0, 2.0)])?;
//! let registry = OptimiserRegistry::builtin();
//! let mut search = Search::new(registry.get("cma_es")?, space, Options { seed: 7, ..Options::default() })?;
//! while search.done().is_none() {
//!     for candidate in search.ask() {
//!         let [x, y] = candidate.point[..] else { unreachable!() };
//!         search.tell(candidate.id, &[1.0 - (x - 1.0).powi(2) - (y + 0.5).powi(2)])?;
//!     }
//! }
//! let best = search.best().expect("something succeeded");
//! assert!(best.objectives[0] > 0.999);
//! # Ok::<(), glue_search::SearchError>(())
//! ```
//!
//! A search depends on its options, including the seed, and on the results: not on the order in which results arrive,
//! nor on how often it was interrupted. [`Search::state`] is the whole search as JSON, and a search restored from it
//! continues to the same last bit on the same machine. Between machines, elementary functions and the eigenvectors of
//! CMA-ES may round differently.
//!
//! An optimiser is a constant, an [`OptimiserDef`], with an implementation of [`Optimiser`] behind it: batches of
//! points in the unit box, and their results. A crate of its own exports such a constant, a program lists it with
//! [`Registry::with`], and [`check_optimiser`] says whether it keeps its promises.

mod conformance;
mod def;
mod error;
mod front;
mod normal;
mod optimisers;
mod params;
mod random;
mod registry;
mod search;
mod space;

pub use conformance::check_optimiser;
pub use def::{Built, Optimiser, OptimiserDef, OptimiserSetup, Trial};
pub use error::SearchError;
pub use front::{crowding_distance, dominates, hypervolume, non_dominated_sort};
pub use optimisers::{CMA_ES, DIFFERENTIAL_EVOLUTION, NSGA2, RANDOM, SEP_CMA_ES, SOBOL};
pub use params::{ParamError, ParamKind, ParamSetting, ParamSpec, ParamValue, Params};
pub use random::Random;
pub use registry::{Definition, OptimiserRegistry, Registry, UnknownName};
pub use search::{CandidatePoint, Direction, Done, Evaluated, Options, Search};
pub use space::{Coordinate, CoordinateValue, Domain, Space};

/// The example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
