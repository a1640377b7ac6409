//! Parameters: what an optimiser or a strategy declares, and the checked values it receives.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ParamKind {
    /// A number in `min ..= max`.
    Number {
        /// The minimum.
        min: f64,
        /// The maximum.
        max: f64,
    },
    /// A whole number in `min ..= max`.
    Integer {
        /// The minimum.
        min: i64,
        /// The maximum.
        max: i64,
    },
    /// `true` or `false`.
    Flag,
    /// One of a few words.
    Choice {
        /// The words.
        options: &'static [&'static str],
    },
}

impl fmt::Display for ParamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Integer { min, max: i64::MAX } => write!(f, "a whole number of at least {min}"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Flag => write!(f, "true or false"),
            Self::Choice { options } => write!(f, "one of {}", options.join(", ")),
        }
    }
}

/// A value as a user gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParamSetting {
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
}

impl fmt::Display for ParamSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(x) => x.fmt(f),
            Self::Number(x) => x.fmt(f),
            Self::Text(x) => write!(f, "`{x}`"),
        }
    }
}

/// A checked value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ParamValue {
    /// Of a [`ParamKind::Number`].
    Number(f64),
    /// Of a [`ParamKind::Integer`].
    Integer(i64),
    /// Of a [`ParamKind::Flag`].
    Flag(bool),
    /// Of a [`ParamKind::Choice`].
    Word(&'static str),
}

impl fmt::Display for ParamValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(x) => x.fmt(f),
            Self::Integer(x) => x.fmt(f),
            Self::Flag(x) => x.fmt(f),
            Self::Word(x) => x.fmt(f),
        }
    }
}

/// One declared parameter: validation and reference documents come from it. Every parameter has a default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParamSpec {
    /// Its key in a config.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    /// What values it takes.
    pub kind: ParamKind,
    /// Its value when none is given.
    pub default: ParamValue,
}

impl ParamSpec {
    /// A number in `min ..= max`.
    pub const fn number(name: &'static str, doc: &'static str, min: f64, max: f64, default: f64) -> Self {
        Self { name, doc, kind: ParamKind::Number { min, max }, default: ParamValue::Number(default) }
    }

    /// A whole number in `min ..= max`.
    pub const fn integer(name: &'static str, doc: &'static str, min: i64, max: i64, default: i64) -> Self {
        Self { name, doc, kind: ParamKind::Integer { min, max }, default: ParamValue::Integer(default) }
    }

    /// `true` or `false`.
    pub const fn flag(name: &'static str, doc: &'static str, default: bool) -> Self {
        Self { name, doc, kind: ParamKind::Flag, default: ParamValue::Flag(default) }
    }

    /// One of a few words.
    pub const fn choice(
        name: &'static str,
        doc: &'static str,
        options: &'static [&'static str],
        default: &'static str,
    ) -> Self {
        Self { name, doc, kind: ParamKind::Choice { options }, default: ParamValue::Word(default) }
    }

    fn check(&self, owner: &str, setting: &ParamSetting) -> Result<ParamValue, ParamError> {
        let value = match (self.kind, setting) {
            (ParamKind::Number { min, max }, ParamSetting::Number(x)) if (min..=max).contains(x) => {
                Some(ParamValue::Number(*x))
            }
            (ParamKind::Integer { min, max }, ParamSetting::Number(x))
                if x.fract() == 0.0 && (min as f64..=max as f64).contains(x) =>
            {
                Some(ParamValue::Integer(*x as i64))
            }
            (ParamKind::Flag, ParamSetting::Flag(x)) => Some(ParamValue::Flag(*x)),
            (ParamKind::Choice { options }, ParamSetting::Text(word)) => {
                options.iter().find(|o| *o == word).map(|o| ParamValue::Word(o))
            }
            _ => None,
        };
        value.ok_or_else(|| ParamError::Value {
            owner: owner.into(),
            key: self.name.into(),
            allowed: self.kind.to_string(),
            found: setting.to_string(),
        })
    }
}

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamError {
    /// A key that is not declared.
    #[error("{owner} has no parameter `{key}`; it has {known}")]
    Unknown {
        /// The optimiser or strategy, as messages name it.
        owner: String,
        /// The key that was given.
        key: String,
        /// The declared keys, separated by commas; `none` without any.
        known: String,
    },
    /// A value of the wrong kind or out of range.
    #[error("{owner}: `{key}` must be {allowed}, found {found}")]
    Value {
        /// The optimiser or strategy, as messages name it.
        owner: String,
        /// The parameter.
        key: String,
        /// What is allowed.
        allowed: String,
        /// What was given.
        found: String,
    },
}

/// The checked parameters of one optimiser or strategy.
///
/// Asking for a parameter that is not declared, or as another kind, is a defect of the caller and panics;
/// [`check_optimiser`](crate::check_optimiser) finds it in an optimiser.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    values: Vec<(&'static str, ParamValue)>,
}

impl Params {
    /// The values of `specs` under `settings`; defaults for those that are not given. `owner` names the optimiser or
    /// strategy in messages.
    ///
    /// # Errors
    /// [`ParamError`]: a key that is not declared, or a value out of range.
    pub fn check(owner: &str, specs: &[ParamSpec], settings: &[(String, ParamSetting)]) -> Result<Self, ParamError> {
        if let Some((key, _)) = settings.iter().find(|(key, _)| specs.iter().all(|s| s.name != key)) {
            let known: Vec<_> = specs.iter().map(|s| s.name).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(ParamError::Unknown { owner: owner.into(), key: key.clone(), known });
        }
        let value = |spec: &ParamSpec| {
            let given = settings.iter().find(|(key, _)| key == spec.name);
            let value = given.map_or(Ok(spec.default), |(_, setting)| spec.check(owner, setting))?;
            Ok((spec.name, value))
        };
        Ok(Self { values: specs.iter().map(value).collect::<Result<_, _>>()? })
    }

    /// A number.
    pub fn number(&self, name: &str) -> f64 {
        match self.find(name) {
            ParamValue::Number(x) => x,
            other => wrong_kind(name, other),
        }
    }

    /// A whole number that is not negative; 0 for one that is.
    pub fn count(&self, name: &str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or(0)
    }

    /// A whole number.
    pub fn integer(&self, name: &str) -> i64 {
        match self.find(name) {
            ParamValue::Integer(x) => x,
            other => wrong_kind(name, other),
        }
    }

    /// A flag.
    pub fn flag(&self, name: &str) -> bool {
        match self.find(name) {
            ParamValue::Flag(x) => x,
            other => wrong_kind(name, other),
        }
    }

    /// The word that was chosen.
    pub fn word(&self, name: &str) -> &'static str {
        match self.find(name) {
            ParamValue::Word(x) => x,
            other => wrong_kind(name, other),
        }
    }

    fn find(&self, name: &str) -> ParamValue {
        let found = self.values.iter().find(|(n, _)| *n == name);
        found.unwrap_or_else(|| panic!("no parameter {name} is declared")).1
    }
}

fn wrong_kind(name: &str, value: ParamValue) -> ! {
    panic!("parameter {name} is asked for as another kind than declared: {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[ParamSpec] = &[
        ParamSpec::number("sigma", "Step.", 0.0, 1.0, 0.5),
        ParamSpec::integer("population", "Size.", 4, i64::MAX, 15),
        ParamSpec::flag("scramble", "Whether.", true),
        ParamSpec::choice("restarts", "Which.", &["none", "ipop"], "ipop"),
    ];

    fn check(key: &str, setting: ParamSetting) -> Result<Params, ParamError> {
        Params::check("test", SPECS, &[(key.to_string(), setting)])
    }

    #[test]
    fn defaults_and_what_is_given() {
        let params = check("population", ParamSetting::Number(40.0)).unwrap();
        assert_eq!((params.number("sigma"), params.integer("population")), (0.5, 40));
        assert_eq!((params.flag("scramble"), params.word("restarts")), (true, "ipop"));
    }

    #[test]
    fn refusals_name_the_key_and_what_is_allowed() {
        let says = |key: &str, setting: ParamSetting, expected: &str| {
            assert_eq!(check(key, setting).unwrap_err().to_string(), expected);
        };
        says("sigma", ParamSetting::Number(1.5), "test: `sigma` must be a number from 0 to 1, found 1.5");
        says("sigma", ParamSetting::Number(f64::NAN), "test: `sigma` must be a number from 0 to 1, found NaN");
        let expected = "test: `population` must be a whole number of at least 4, found 15.5";
        says("population", ParamSetting::Number(15.5), expected);
        says("scramble", ParamSetting::Number(1.0), "test: `scramble` must be true or false, found 1");
        says("restarts", ParamSetting::Text("x".into()), "test: `restarts` must be one of none, ipop, found `x`");
        let expected = "test has no parameter `sgima`; it has sigma, population, scramble, restarts";
        says("sgima", ParamSetting::Number(1.0), expected);
    }
}
