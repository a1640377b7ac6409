//! Strategies: which models to merge, and with which weights. One file each.
//!
//! A strategy only proposes candidates and accepts some. Budgets, journaling, early stopping and reporting are handled
//! by its [`StrategyContext`]. It is a function of the scores: no clock, no randomness but the seed of the
//! [`SearchContext`]. A crate of its own can export a [`StrategyDef`], and a program lists it with
//! [`StrategyRegistry`]'s `with`.

mod average;
mod coefficient;
mod dissimilarity;
mod evolutionary;
mod gradient;
mod greedy;
mod similarity;
mod soce;

pub use average::AVERAGE;
pub use coefficient::COEFFICIENT;
pub use dissimilarity::DISSIMILARITY;
pub use evolutionary::EVOLUTIONARY;
pub use gradient::GRADIENT;
pub use similarity::SIMILARITY;
pub use soce::SOCE;

use crate::context::{SearchContext, StrategyContext};
use crate::evaluation_log::StopReason;
use glue_search::{Definition, ParamError, ParamSetting, ParamSpec, Registry, UnknownName};

/// A strategy, ready to run.
pub trait Strategy: Send + Sync {
    /// Tries candidates and accepts some. The candidate accepted last is the result.
    ///
    /// # Errors
    /// The [`StopReason`] that the context returned, or [`StopReason::Strategy`] when the strategy cannot continue. Its
    /// result is the candidate accepted last even so.
    fn run(&self, context: &mut StrategyContext<'_, '_>) -> Result<(), StopReason>;

    /// The maximum number of evaluations for so many models, not counting baselines.
    fn evaluations(&self, models: usize) -> u64;
}

/// Makes a strategy with these settings, which it checks.
pub type Build = fn(&SearchContext<'_>, &[(String, ParamSetting)]) -> Result<Box<dyn Strategy>, StrategyError>;

/// A strategy as a constant.
#[derive(Debug, Clone, Copy)]
pub struct StrategyDef {
    /// Its name in a config.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// Its parameters; [`Params::check`](glue_search::Params::check) checks settings against them.
    pub params: &'static [ParamSpec],
    /// Makes one with these settings, which it checks.
    pub build: Build,
}

impl Definition for StrategyDef {
    const KIND: &'static str = "strategy";
    const BUILTIN: &'static [&'static Self] =
        &[&AVERAGE, &COEFFICIENT, &SIMILARITY, &DISSIMILARITY, &SOCE, &EVOLUTIONARY, &GRADIENT];

    fn name(&self) -> &'static str {
        self.name
    }
}

/// The strategies that a program knows, by name.
pub type StrategyRegistry = Registry<StrategyDef>;

/// Why a strategy cannot be set up.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StrategyError {
    /// No strategy has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// A parameter that the strategy does not have, or a value that it does not take.
    #[error(transparent)]
    Parameter(#[from] ParamError),
    /// Something that the strategy uses refuses.
    #[error("strategy `{strategy}`: {reason}")]
    Refused {
        /// The strategy.
        strategy: String,
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests;
