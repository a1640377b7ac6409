//! Strategies: what decides which models to merge, and with which weights. One file each.
//!
//! A strategy asks its [`Session`] for scores and says which candidates it accepts and why. It is a function of the scores:
//! no clock, no randomness but the seed of the [`Setup`]. A crate of its own can export a
//! [`StrategyDef`], and a program lists it with [`StrategyRegistry::with`].

mod average;
mod coefficient;
mod dissimilarity;
mod evolutionary;
mod greedy;
mod similarity;

pub use average::AVERAGE;
pub use coefficient::COEFFICIENT;
pub use dissimilarity::DISSIMILARITY;
pub use evolutionary::EVOLUTIONARY;
pub use similarity::SIMILARITY;

use crate::course::Halt;
use crate::session::{Session, Setup};
use glue_search::{Kind, ParamSpec, Setting, Value};

/// A strategy, ready to run.
pub trait Strategy: Send + Sync {
    /// Tries candidates and accepts some. What was accepted last is the result.
    ///
    /// # Errors
    /// [`Halt`], as the session gave it, or [`Halt::Strategy`] when it cannot go on. Its result is what it accepted until
    /// then.
    fn run(&self, session: &mut Session<'_, '_>) -> Result<(), Halt>;

    /// The most evaluations it asks for with so many models, beside those of the models by themselves.
    fn evaluations(&self, models: usize) -> u64;
}

/// Makes a strategy with these settings, everything about them checked.
pub type Build = fn(&Setup<'_>, &[(String, Setting)]) -> Result<Box<dyn Strategy>, StrategyError>;

/// A strategy as a constant.
#[derive(Debug, Clone, Copy)]
pub struct StrategyDef {
    /// Its name in a config.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// Its parameters.
    pub params: &'static [ParamSpec],
    /// Makes one with these settings, everything about them checked.
    pub build: Build,
}

/// Why a strategy cannot be set up.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StrategyError {
    /// No strategy has this name.
    #[error("no strategy is called `{name}`; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those there are, in a row.
        known: String,
    },
    /// A parameter that it does not have.
    #[error("strategy `{strategy}` has no parameter `{key}`; it has {known}")]
    UnknownParameter {
        /// The strategy.
        strategy: String,
        /// The key.
        key: String,
        /// Those it has, in a row.
        known: String,
    },
    /// A value that will not do.
    #[error("strategy `{strategy}`: `{key}` must be {allowed}, found {found}")]
    Parameter {
        /// The strategy.
        strategy: String,
        /// The parameter.
        key: String,
        /// What would do.
        allowed: String,
        /// What was given.
        found: String,
    },
    /// Something that it uses refuses.
    #[error("strategy `{strategy}`: {reason}")]
    Refused {
        /// The strategy.
        strategy: String,
        /// Why.
        reason: String,
    },
}

/// The strategies a program knows, by name.
#[derive(Debug, Clone, Default)]
pub struct StrategyRegistry {
    defs: Vec<&'static StrategyDef>,
}

impl StrategyRegistry {
    /// The strategies of this crate.
    pub fn builtin() -> Self {
        Self { defs: vec![&AVERAGE, &COEFFICIENT, &SIMILARITY, &DISSIMILARITY, &EVOLUTIONARY] }
    }

    /// The same with these added. One of the same name replaces the one that was there.
    #[must_use]
    pub fn with(mut self, defs: &[&'static StrategyDef]) -> Self {
        for def in defs {
            self.defs.retain(|d| d.name != def.name);
            self.defs.push(def);
        }
        self
    }

    /// All of them, in the order they were listed.
    pub fn iter(&self) -> impl Iterator<Item = &'static StrategyDef> + '_ {
        self.defs.iter().copied()
    }

    /// The strategy of this name.
    ///
    /// # Errors
    /// [`StrategyError::Unknown`], with the names there are.
    pub fn get(&self, name: &str) -> Result<&'static StrategyDef, StrategyError> {
        self.iter().find(|def| def.name == name).ok_or_else(|| {
            let known: Vec<_> = self.iter().map(|def| def.name).collect();
            StrategyError::Unknown { name: name.into(), known: known.join(", ") }
        })
    }
}

/// The values of `specs` under `settings`, in the order of `specs`: for implementations of [`StrategyDef::build`].
///
/// # Errors
/// A key that is not declared, or a value out of range.
pub fn check(strategy: &str, specs: &[ParamSpec], settings: &[(String, Setting)]) -> Result<Vec<Value>, StrategyError> {
    if let Some((key, _)) = settings.iter().find(|(key, _)| specs.iter().all(|spec| spec.name != key)) {
        let known: Vec<_> = specs.iter().map(|spec| spec.name).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(StrategyError::UnknownParameter { strategy: strategy.into(), key: key.clone(), known });
    }
    specs
        .iter()
        .map(|spec| match settings.iter().find(|(key, _)| key == spec.name) {
            None => Ok(spec.default),
            Some((_, setting)) => value(spec, setting).ok_or_else(|| StrategyError::Parameter {
                strategy: strategy.into(),
                key: spec.name.into(),
                allowed: spec.kind.to_string(),
                found: setting.to_string(),
            }),
        })
        .collect()
}

fn value(spec: &ParamSpec, setting: &Setting) -> Option<Value> {
    match (spec.kind, setting) {
        (Kind::Number { min, max }, Setting::Number(x)) if (min..=max).contains(x) => Some(Value::Number(*x)),
        (Kind::Integer { min, max }, Setting::Number(x))
            if x.fract() == 0.0 && (min as f64..=max as f64).contains(x) =>
        {
            Some(Value::Integer(*x as i64))
        }
        (Kind::Flag, Setting::Flag(x)) => Some(Value::Flag(*x)),
        (Kind::Choice { options }, Setting::Text(word)) => options.iter().find(|o| *o == word).map(|o| Value::Word(o)),
        _ => None,
    }
}

/// A checked whole number that is not negative.
fn count(value: Option<&Value>) -> usize {
    match value {
        Some(Value::Integer(x)) => usize::try_from(*x).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
