//! The optimisers that come with this crate, one file each.

mod cma;
mod differential_evolution;
mod nsga2;
mod random_search;
mod sampler;
mod sobol;
mod sobol_table;

pub use cma::{CMA_ES, SEP_CMA_ES};
pub use differential_evolution::DIFFERENTIAL_EVOLUTION;
pub use nsga2::NSGA2;
pub use random_search::RANDOM;
pub use sobol::SOBOL;

use crate::def::OptimiserDef;
use crate::error::SearchError;
use crate::params::ParamSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// All of them, in the order of the documentation.
pub(crate) const ALL: &[&OptimiserDef] = &[&CMA_ES, &SEP_CMA_ES, &DIFFERENTIAL_EVOLUTION, &NSGA2, &SOBOL, &RANDOM];

/// The size of a generation.
const POPULATION: ParamSpec =
    ParamSpec::integer("population", "How many candidates make a generation.", 4, 1_000_000, 15);

fn to_state<T: Serialize>(state: &T) -> String {
    // States hold finite numbers, lists and words only, so that nothing can fail.
    serde_json::to_string(state).unwrap_or_default()
}

fn from_state<T: DeserializeOwned>(name: &str, state: &str) -> Result<T, SearchError> {
    serde_json::from_str(state).map_err(|e| SearchError::state(name, e))
}
