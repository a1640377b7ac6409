//! Black-box optimisers that ask and are told: CMA-ES, differential evolution, NSGA-II, Sobol and random search.
//!
//! All that is known here is a box of named coordinates, real, integer or categorical, and numbers that somebody finds
//! out for points in it. A [`Search`] hands out candidates and takes their results, from any number of workers, in any
//! order:
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
//! The course of a search is a function of its options, the seed among them, and of the results: not of the order in
//! which results arrive, nor of how often it was interrupted. [`Search::state`] is all of it as JSON, and a search restored
//! from that goes on to the same last bit on the same machine. Between machines, elementary functions and the
//! eigenvectors of CMA-ES may round differently.
//!
//! An optimiser is a constant, an [`OptimiserDef`], with an implementation of [`Optimiser`] behind it: batches of points
//! in the unit box, and what became of them. A crate of its own exports such a constant, a program lists it with
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
pub use def::{Built, Optimiser, OptimiserDef, Setup, Trial};
pub use error::SearchError;
pub use front::{crowding_distance, dominates, hypervolume, non_dominated_sort};
pub use optimisers::{CMA_ES, DIFFERENTIAL_EVOLUTION, NSGA2, RANDOM, SEP_CMA_ES, SOBOL};
pub use params::{Kind, ParamError, ParamSpec, Params, Setting, Value};
pub use random::Random;
pub use registry::{Definition, OptimiserRegistry, Registry, UnknownName};
pub use search::{Candidate, Direction, Done, Evaluated, Options, Search};
pub use space::{Coordinate, CoordinateValue, Domain, Space};
