//! What a scorer in this process is told.

use crate::race::{RaceConfig, RaceError};
use glue_eval::{EvalError, EvalOptions};
use glue_merge::Registry;
use glue_progress::CancelToken;
use glue_recipe::{PlanOptions, SharedExecutor};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which items are searched on, and which are held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ItemsConfig {
    /// The split that is searched on; each task's own by default.
    pub split: Option<String>,
    /// Share of its items that is held out for validation, in [0, 1): as near as can be for each task, chosen by a hash. Default: 0.
    pub validation_fraction: f64,
    /// Another split whose items are the validation part, instead of a share.
    pub validation_split: Option<String>,
    /// What the choice of the items held out depends on. Default: 0.
    pub seed: u64,
}

impl Default for ItemsConfig {
    fn default() -> Self {
        Self { split: None, validation_fraction: 0.0, validation_split: None, seed: 0 }
    }
}

/// How candidates are merged and scored.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The operators of recipes. Default: those that come with the project.
    pub registry: Registry,
    /// Where relative paths start, and what else a plan depends on besides the recipe.
    pub plan: PlanOptions,
    /// How items are asked. Its split and its cache are not used.
    pub eval: EvalOptions,
    /// Which items.
    pub items: ItemsConfig,
    /// Whether candidates are dropped before all items are asked.
    pub race: RaceConfig,
    /// What merges candidates. Default: the processor.
    pub executor: SharedExecutor,
    /// Most bytes that candidates scored at once may take together, as estimated from headers; memory maps of the inputs are
    /// not counted. No limit by default.
    pub memory: Option<u64>,
    /// Most candidates at once. Default: as many as there are threads.
    pub parallel: Option<usize>,
    /// Directory where scores are kept for later runs; none by default.
    pub cache: Option<PathBuf>,
    /// Once cancelled, scoring ends with [`Stopped`](crate::contract::Stopped).
    pub cancel: CancelToken,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            registry: Registry::builtin(),
            plan: PlanOptions::default(),
            eval: EvalOptions::default(),
            items: ItemsConfig::default(),
            race: RaceConfig::default(),
            executor: SharedExecutor::default(),
            memory: None,
            parallel: None,
            cache: None,
            cancel: CancelToken::default(),
        }
    }
}

/// Why candidates cannot be scored at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScorerError {
    /// A task or an item is not sound.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The race cannot be run.
    #[error(transparent)]
    Race(#[from] RaceError),
    /// A key of the config.
    #[error("`{key}`: expected {expected}, found {found}")]
    Key {
        /// The key.
        key: &'static str,
        /// What would do.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// The cache's directory cannot be made.
    #[error("{}", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
}
