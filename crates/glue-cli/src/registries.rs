//! Operators, optimisers and strategies by name.

use glue_merge::OperatorDef;
use glue_search::{OptimiserDef, OptimiserRegistry};
use glue_select::strategy::{StrategyDef, StrategyRegistry};

/// The merge operators, and the optimisers and strategies of a search. Default: all that come with the project.
#[derive(Debug, Clone)]
pub struct Registries {
    /// Merge methods.
    pub operators: glue_merge::Registry,
    /// Optimisers.
    pub optimisers: OptimiserRegistry,
    /// Strategies.
    pub strategies: StrategyRegistry,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            operators: glue_merge::Registry::builtin().with(glue_spectral::DEFS),
            optimisers: OptimiserRegistry::builtin(),
            strategies: StrategyRegistry::builtin(),
        }
    }
}

impl Registries {
    /// Adds operators. One with the name of an existing operator replaces it.
    #[must_use]
    pub fn with(self, operators: &[&'static OperatorDef]) -> Self {
        Self { operators: self.operators.with(operators), ..self }
    }

    /// Adds optimisers, likewise.
    #[must_use]
    pub fn with_optimisers(self, optimisers: &[&'static OptimiserDef]) -> Self {
        Self { optimisers: self.optimisers.with(optimisers), ..self }
    }

    /// Adds strategies, likewise.
    #[must_use]
    pub fn with_strategies(self, strategies: &[&'static StrategyDef]) -> Self {
        Self { strategies: self.strategies.with(strategies), ..self }
    }

    /// As a search takes them.
    pub(crate) fn for_search(&self) -> glue_select::search::Registries<'_> {
        glue_select::search::Registries {
            operators: &self.operators,
            optimisers: &self.optimisers,
            strategies: &self.strategies,
        }
    }
}
