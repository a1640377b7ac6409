//! Options of a scorer in this process.

use crate::config::{SearchConfig, Validation};
use crate::race::Racing;
use glue_eval::scale::{PerplexityUnit, ScaleError};
use glue_eval::{EvalError, EvalOptions};
use glue_merge::Registry;
use glue_progress::CancelToken;
use glue_recipe::{PlanOptions, SharedExecutor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Which items the search uses, and which are held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ItemsConfig {
    /// The split of the search items. Default: each task's own.
    pub split: Option<String>,
    /// Fraction of the items of each task that is held out for validation, in [0, 1), chosen by a hash. Default: 0.
    pub validation_fraction: f64,
    /// Another split whose items are held out, instead of a fraction. Default: none.
    pub validation_split: Option<String>,
    /// Other splits of search items for single tasks, by name. Default: none.
    pub search_splits: BTreeMap<String, String>,
    /// Other splits of validation items for single tasks, by name. Default: none.
    pub validation_splits: BTreeMap<String, String>,
    /// Whether tasks of lm-evaluation-harness may be searched on the split that they are reported on. Default: no.
    pub allow_test_split: bool,
    /// Seed of the choice of validation items. Default: 0.
    pub seed: u64,
}

impl Default for ItemsConfig {
    fn default() -> Self {
        Self {
            split: None,
            validation_fraction: 0.0,
            validation_split: None,
            search_splits: BTreeMap::new(),
            validation_splits: BTreeMap::new(),
            allow_test_split: false,
            seed: 0,
        }
    }
}

/// How candidates are merged and scored.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The operators of recipes. Default: those that come with the project.
    pub registry: Registry,
    /// Where relative paths start, and what else a plan depends on besides the recipe.
    pub plan: PlanOptions,
    /// How items are scored. Its split and its cache are not used.
    pub eval: EvalOptions,
    /// The items to score on. Default: all of the split of each task.
    pub items: ItemsConfig,
    /// When candidates are dropped before all items are scored.
    pub racing: Racing,
    /// Fraction of the search items of each task that candidates are scored on, above 0 and up to 1; models alone are
    /// scored on all. Tasks that are not scored by a mean over items of values from 0 to 1 need 1. Default: 1.
    pub item_fraction: f64,
    /// The weight of each task in averages, by name. Default: 1 each.
    pub weights: BTreeMap<String, f64>,
    /// What perplexities count as. Default: as the task reports them.
    pub perplexity: PerplexityUnit,
    /// What merges candidates. Default: the CPU.
    pub executor: SharedExecutor,
    /// Maximum bytes of all candidates in memory together, as estimated from headers, excluding memory-mapped inputs.
    /// Default: 60 % of what is available when the scorer is made, but enough for one candidate.
    pub memory: Option<u64>,
    /// Maximum number of candidates in parallel. Default: as many as there are threads and as memory allows; 1 for
    /// models above 1 GB, which keep all threads busy by themselves.
    pub parallel: Option<usize>,
    /// Maximum number of threads that merge and score, all candidates together. Default: that of the rayon pool in
    /// which the scorer is made.
    pub threads: Option<usize>,
    /// Directory in which scores are kept for later runs. Default: none.
    pub cache: Option<PathBuf>,
    /// Once cancelled, scoring ends with [`Stopped`](crate::contract::Stopped).
    pub cancel: CancelToken,
}

impl LocalOptions {
    /// What `config` says about items, prompts, racing, memory and parallel candidates. The rest are defaults:
    /// operators, executor, links and cancellation belong to the program, not to the config.
    ///
    /// The seed of the config decides which items are held out, which examples stand in a prompt and what is sampled.
    ///
    /// # Errors
    /// [`ScorerError::Key`] for an invalid size of memory.
    pub fn from_config(config: &SearchConfig) -> Result<LocalOptions, ScorerError> {
        let (validation_fraction, validation_split) = match config.validation() {
            Validation::Fraction(fraction) => (fraction, None),
            Validation::Split { split } => (0.0, Some(split)),
        };
        let size = |text: &str| {
            glue_text::size::parse(text).map_err(|error| ScorerError::Key {
                key: "memory",
                expected: "a size such as `4GiB`",
                found: format!("`{text}`: {error}"),
            })
        };
        Ok(LocalOptions {
            eval: EvalOptions {
                limit: config.limit,
                seed: config.seed,
                num_fewshot: config.num_fewshot,
                apply_chat_template: config.apply_chat_template,
                allow_code_execution: config.allow_code_execution,
                ..EvalOptions::default()
            },
            items: ItemsConfig {
                split: Some(config.split.clone()),
                validation_fraction,
                validation_split,
                allow_test_split: config.allow_test_split,
                seed: config.seed,
                ..ItemsConfig::default()
            },
            racing: config.racing,
            item_fraction: config.item_fraction,
            weights: config.weights.clone(),
            perplexity: config.perplexity,
            memory: config.memory.as_deref().map(size).transpose()?,
            parallel: config.parallel,
            ..LocalOptions::default()
        })
    }
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            registry: Registry::builtin(),
            plan: PlanOptions::default(),
            eval: EvalOptions::default(),
            items: ItemsConfig::default(),
            racing: Racing::default(),
            item_fraction: 1.0,
            weights: BTreeMap::new(),
            perplexity: PerplexityUnit::default(),
            executor: SharedExecutor::default(),
            memory: None,
            parallel: None,
            threads: None,
            cache: None,
            cancel: CancelToken::default(),
        }
    }
}

/// Why no candidate can be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScorerError {
    /// A task or an item is invalid.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// Tasks on different scales without weights, or weights that do not fit.
    #[error(transparent)]
    Scale(#[from] ScaleError),
    /// A key of the config has an invalid value.
    #[error("`{key}`: expected {expected}, found {found}")]
    Key {
        /// The key.
        key: &'static str,
        /// What is expected.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// Threads cannot be started.
    #[error("cannot start threads that score: {message}")]
    Threads {
        /// What the system said.
        message: String,
    },
    /// The directory of the cache cannot be created.
    #[error("{}", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    //! Each key of a config reaches its option.
    use super::*;
    use crate::strategy::StrategyRegistry;

    fn options(rest: &str) -> Result<LocalOptions, String> {
        let text = format!("models: [a, b]\ntasks: [t]\n{rest}");
        let config = SearchConfig::parse(&text, "search.yml", &StrategyRegistry::builtin()).expect("a config");
        LocalOptions::from_config(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn a_config_decides_about_items_prompts_racing_and_memory() {
        let least = options("").expect("options");
        assert_eq!((least.racing, least.memory, least.parallel), (Racing::Confident(0.99), None, None));
        let items = ItemsConfig { split: Some("proxy".into()), validation_fraction: 0.5, ..ItemsConfig::default() };
        assert_eq!((&least.items, least.eval.seed), (&items, 0));

        let full = options(
            "seed: 7\nsplit: dev\nvalidation: {split: held}\nracing: false\nmemory: 4GiB\nparallel: 3\nlimit: 50\n\
             num_fewshot: 2\napply_chat_template: true\nallow_code_execution: true\n",
        );
        let full = full.expect("options");
        let items = ItemsConfig {
            split: Some("dev".into()),
            validation_fraction: 0.0,
            validation_split: Some("held".into()),
            seed: 7,
            ..ItemsConfig::default()
        };
        assert_eq!((full.items, full.racing), (items, Racing::Off));
        assert_eq!((full.memory, full.parallel), (Some(4 << 30), Some(3)));
        let eval = &full.eval;
        assert_eq!((eval.seed, eval.limit, eval.num_fewshot), (7, Some(50), Some(2)));
        assert!(eval.apply_chat_template && eval.allow_code_execution);
        let error = options("memory: much\n").expect_err("no size");
        assert!(error.starts_with("`memory`: expected a size such as `4GiB`, found `much`: "), "{error}");
    }
}
