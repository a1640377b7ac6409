//! How an optimiser presents itself, and what it has to do.

use crate::error::SearchError;
use crate::params::{ParamSpec, Params};
use crate::registry::Definition;
use crate::space::Space;

/// The result of one point of a generation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial<'a> {
    /// The point as it was proposed, in the unit box.
    pub point: &'a [f64],
    /// Its losses, finite, one for each objective: less is better, whatever the direction of the search. `None` when it
    /// could not be evaluated, which is worse than any loss.
    pub losses: Option<&'a [f64]>,
}

/// What a search needs from an optimiser. [`Search`](crate::Search) takes care of ids, late and unordered results,
/// failures, directions, budgets and the best so far.
///
/// An optimiser must be a function of its [`OptimiserSetup`] and of the trials it learned from: no clock, no other
/// source of randomness, no order of a hash table.
pub trait Optimiser: Send {
    /// The next generation: points of the unit box, as many as it wants, at least one. How a place of the unit box is
    /// read is said at [`Space`]; what lies outside is moved to the border.
    ///
    /// It is called again after the previous generation was [learned](Self::learn), or at any time if the optimiser
    /// does not [wait](Self::waits); never after it [stopped](Self::stopped).
    fn propose(&mut self) -> Vec<Vec<f64>>;

    /// Takes in a whole generation, in the order in which it was proposed. Generations come in the order of their
    /// proposal.
    fn learn(&mut self, generation: &[Trial<'_>]);

    /// Why the optimiser has nothing more to propose. Default: it always has.
    fn stopped(&self) -> Option<&str> {
        None
    }

    /// The point of the unit box that the optimiser holds to be best once it has learned something, whether or not it
    /// was proposed: the mean of a distribution. Where results are noisy, it is often better than the point with the
    /// best result, which was also the luckiest. Default: none.
    fn favourite(&self) -> Option<Vec<f64>> {
        None
    }

    /// Whether a generation has to be learned before the next one is proposed. Default: yes.
    fn waits(&self) -> bool {
        true
    }

    /// Its whole state as text, from which [`OptimiserDef::restore`] makes an optimiser that continues to the last bit
    /// like this one, whether or not a proposed generation is still to be learned.
    fn state(&self) -> String;
}

/// What an optimiser is built from.
#[derive(Debug, Clone, Copy)]
pub struct OptimiserSetup<'a> {
    /// The space: which coordinates are real and which are not.
    pub space: &'a Space,
    /// Number of objectives, at least 1.
    pub objectives: usize,
    /// The only source of randomness.
    pub seed: u64,
    /// Points of the unit box to start from, best first; often none. A population starts with them; a distribution
    /// around the first.
    pub start: &'a [Vec<f64>],
    /// Its parameters, checked.
    pub params: &'a Params,
}

/// An optimiser, or why there is none.
pub type Built = Result<Box<dyn Optimiser>, SearchError>;

/// An optimiser as a constant.
///
/// A crate of optimisers exports one for each, and a program lists them with [`Registry::with`](crate::Registry::with).
/// Nothing registers itself.
#[derive(Debug, Clone, Copy)]
pub struct OptimiserDef {
    /// Its name in a config.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// Whether it works on several objectives at once.
    pub multi_objective: bool,
    /// Its parameters.
    pub params: &'static [ParamSpec],
    /// Makes a new one.
    pub build: fn(&OptimiserSetup<'_>) -> Built,
    /// Makes one that continues where [`Optimiser::state`] was taken. The setup is that of the build.
    pub restore: fn(&OptimiserSetup<'_>, &str) -> Built,
}

impl Definition for OptimiserDef {
    const KIND: &'static str = "optimiser";
    const BUILTIN: &'static [&'static Self] = crate::optimisers::ALL;

    fn name(&self) -> &'static str {
        self.name
    }
}
