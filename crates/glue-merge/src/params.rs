//! Parameters: what an operator declares, and the checked values it receives.

use crate::def::Operator;
use crate::error::ParamError;
use crate::registry::nearest;
use std::fmt;

/// Whether a parameter may differ from model to model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One value for the tensor.
    Tensor,
    /// One value for each input.
    Input,
}

/// An interval of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub min: f64,
    /// Upper end.
    pub max: f64,
    /// Whether the lower end itself is excluded.
    pub open: bool,
}

impl Interval {
    /// Every finite number.
    pub const ANY: Self = Self { min: f64::NEG_INFINITY, max: f64::INFINITY, open: false };

    /// `min ..= max`.
    pub const fn closed(min: f64, max: f64) -> Self {
        Self { min, max, open: false }
    }

    /// Above `min`, up to and with `max`.
    pub const fn above(min: f64, max: f64) -> Self {
        Self { min, max, open: true }
    }

    fn contains(&self, x: f64) -> bool {
        x.is_finite() && x <= self.max && if self.open { x > self.min } else { x >= self.min }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let low = if self.open { "above" } else { "at least" };
        match (self.min.is_finite(), self.max.is_finite()) {
            (false, false) => write!(f, "a finite number"),
            (true, false) => write!(f, "a number {low} {}", self.min),
            (false, true) => write!(f, "a number, at most {}", self.max),
            (true, true) if self.open => {
                write!(f, "a number above {} and at most {}", self.min, self.max)
            }
            (true, true) => write!(f, "a number from {} to {}", self.min, self.max),
        }
    }
}

/// What values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A real number.
    Number {
        /// What is allowed.
        range: Interval,
        /// Where good values are usually found: the bounds of a search that is not told others.
        usual: (f64, f64),
    },
    /// A whole number in `min ..= max`.
    Integer {
        /// Minimum.
        min: i64,
        /// Maximum.
        max: i64,
    },
    /// `true` or `false`.
    Flag,
    /// One of a few words. `on` and `off` are what `true` and `false` stand for, where they are accepted.
    Choice {
        /// The words.
        options: &'static [&'static str],
        /// What `true` stands for.
        on: Option<&'static str>,
        /// What `false` stands for.
        off: Option<&'static str>,
    },
    /// The name of another operator, which this one wraps.
    Operator,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { range, .. } => range.fmt(f),
            Self::Integer { min, max: i64::MAX } => write!(f, "a whole number of at least {min}"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Flag => write!(f, "true or false"),
            Self::Choice { options, on, off } => {
                write!(f, "one of {}", options.join(", "))?;
                for (word, meaning) in [("true", on), ("false", off)] {
                    if let Some(meaning) = meaning {
                        write!(f, "; {word} means {meaning}")?;
                    }
                }
                Ok(())
            }
            Self::Operator => write!(f, "the name of an operator on task vectors"),
        }
    }
}

/// A value as a user gives it. Numbers, flags and strings convert into it.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// A number.
    Number(f64),
    /// `true` or `false`.
    Flag(bool),
    /// A word.
    Text(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(x) => x.fmt(f),
            Self::Flag(x) => x.fmt(f),
            Self::Text(x) => write!(f, "`{x}`"),
        }
    }
}

// Integers beyond ±2⁵³ are rounded, which no parameter comes near.
macro_rules! setting_from_number {
    ($($number:ty),*) => {$(
        impl From<$number> for Setting {
            fn from(x: $number) -> Self {
                Self::Number(x as f64)
            }
        }
    )*};
}

setting_from_number!(f64, f32, i32, i64, usize);

impl From<bool> for Setting {
    fn from(x: bool) -> Self {
        Self::Flag(x)
    }
}

impl From<&str> for Setting {
    fn from(word: &str) -> Self {
        Self::Text(word.into())
    }
}

impl From<String> for Setting {
    fn from(word: String) -> Self {
        Self::Text(word)
    }
}

/// A checked value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Of a [`Kind::Number`].
    Number(f64),
    /// Of a [`Kind::Integer`].
    Integer(i64),
    /// Of a [`Kind::Flag`].
    Flag(bool),
    /// Of a [`Kind::Choice`] or [`Kind::Operator`]: the word.
    Word(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(x) => x.fmt(f),
            Self::Integer(x) => x.fmt(f),
            Self::Flag(x) => x.fmt(f),
            Self::Word(x) => x.fmt(f),
        }
    }
}

/// One declared parameter. Validation, help, reference documents and search bounds all come from it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ParamSpec {
    /// Its key in a merge config.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    /// Whether it may differ between models.
    pub scope: Scope,
    /// What values it takes.
    pub kind: Kind,
    /// Its value when none is given; without one it must be given.
    pub default: Option<Value>,
}

impl ParamSpec {
    const fn new(name: &'static str, doc: &'static str, kind: Kind, default: Option<Value>) -> Self {
        Self { name, doc, scope: Scope::Tensor, kind, default }
    }

    /// A number in `range`, usually in `usual`, without a default.
    pub const fn number(name: &'static str, doc: &'static str, range: Interval, usual: (f64, f64)) -> Self {
        Self::new(name, doc, Kind::Number { range, usual }, None)
    }

    /// A whole number in `min ..= max` with a default.
    pub const fn integer(name: &'static str, doc: &'static str, min: i64, max: i64, default: i64) -> Self {
        Self::new(name, doc, Kind::Integer { min, max }, Some(Value::Integer(default)))
    }

    /// A flag with a default.
    pub const fn flag(name: &'static str, doc: &'static str, default: bool) -> Self {
        Self::new(name, doc, Kind::Flag, Some(Value::Flag(default)))
    }

    /// One of a few words, with a default; `on` and `off` are what `true` and `false` stand for.
    pub const fn choice(
        name: &'static str,
        doc: &'static str,
        options: &'static [&'static str],
        [on, off]: [Option<&'static str>; 2],
        default: &'static str,
    ) -> Self {
        Self::new(name, doc, Kind::Choice { options, on, off }, Some(Value::Word(default)))
    }

    /// The name of a wrapped operator, without a default.
    pub const fn operator(name: &'static str, doc: &'static str) -> Self {
        Self::new(name, doc, Kind::Operator, None)
    }

    /// The same, with this number as its default.
    pub const fn or(mut self, default: f64) -> Self {
        self.default = Some(Value::Number(default));
        self
    }

    /// The same, with a value of its own for each input.
    pub const fn per_input(mut self) -> Self {
        self.scope = Scope::Input;
        self
    }

    /// Checks what a user gave.
    ///
    /// # Errors
    /// [`ParamError::Refused`] when it is of another kind or out of range.
    pub fn check(&self, operator: &'static str, setting: &Setting) -> Result<Value, ParamError> {
        let value = match (self.kind, setting) {
            (Kind::Number { range, .. }, Setting::Number(x)) if range.contains(*x) => Some(Value::Number(*x)),
            (Kind::Integer { min, max }, Setting::Number(x))
                if x.fract() == 0.0 && *x >= min as f64 && *x <= max as f64 =>
            {
                Some(Value::Integer(*x as i64))
            }
            (Kind::Flag, Setting::Flag(x)) => Some(Value::Flag(*x)),
            // A gradient over layers turns flags into numbers.
            (Kind::Flag, Setting::Number(x)) if *x == 0.0 || *x == 1.0 => Some(Value::Flag(*x == 1.0)),
            (Kind::Choice { options, .. }, Setting::Text(word)) => {
                options.iter().find(|o| *o == word).map(|o| Value::Word(o))
            }
            (Kind::Choice { on, off, .. }, Setting::Flag(x)) => (if *x { on } else { off }).map(Value::Word),
            _ => None,
        };
        value.ok_or_else(|| ParamError::Refused {
            operator,
            key: self.name,
            allowed: self.kind.to_string(),
            found: setting.to_string(),
        })
    }
}

/// Parameters on their way to be checked; made by [`Operator::params`]. What is set twice has the later value.
///
/// ```
/// use glue_merge::Registry;
///
/// let ties = Registry::builtin().operator("ties", None)?;
/// // Two models: a density for both, but for the second one, and a weight for each.
/// let params = ties.params(2).set("density", 0.5).input(1, [("density", 0.3)]).each("weight", [1.0, 0.5]).check()?;
/// assert_eq!(params.input_numbers("density"), [0.5, 0.3]);
///
/// let refused = ties.params(2).set("weight", 1.0).set("desity", 0.5).check().unwrap_err();
/// assert_eq!(refused.to_string(), "ties has no parameter `desity`; did you mean `density`?");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is refused before `check`"]
pub struct ParamsBuilder<'a> {
    operator: Operator,
    all: Vec<(&'a str, Setting)>,
    inputs: Vec<Vec<(&'a str, Setting)>>,
}

impl<'a> ParamsBuilder<'a> {
    pub(crate) fn new(operator: Operator, n_inputs: usize) -> Self {
        Self { operator, all: Vec::new(), inputs: vec![Vec::new(); n_inputs] }
    }

    /// Sets a parameter of the whole merge, or one of every input that has no value of its own.
    pub fn set(mut self, key: &'a str, value: impl Into<Setting>) -> Self {
        self.all.push((key, value.into()));
        self
    }

    /// [Sets](Self::set) several parameters.
    pub fn set_all<S: Into<Setting>>(mut self, settings: impl IntoIterator<Item = (&'a str, S)>) -> Self {
        self.all.extend(settings.into_iter().map(|(key, value)| (key, value.into())));
        self
    }

    /// Sets parameters of input `i` alone, counted from 0.
    ///
    /// # Panics
    /// There is no input `i`.
    pub fn input<S: Into<Setting>>(mut self, i: usize, settings: impl IntoIterator<Item = (&'a str, S)>) -> Self {
        self.inputs[i].extend(settings.into_iter().map(|(key, value)| (key, value.into())));
        self
    }

    /// Sets a parameter of each input, in order.
    ///
    /// # Panics
    /// There are more values than inputs.
    pub fn each<S: Into<Setting>>(mut self, key: &'a str, values: impl IntoIterator<Item = S>) -> Self {
        for (i, value) in values.into_iter().enumerate() {
            self.inputs[i].push((key, value.into()));
        }
        self
    }

    /// Checks what was set against what the operator declares.
    ///
    /// # Errors
    /// A key is unknown, a parameter without a default is missing, a value is out of range, or a parameter of the whole
    /// merge was set for one input.
    pub fn check(&self) -> Result<Params, ParamError> {
        let Self { operator, all, inputs } = self;
        let name = operator.def().name;
        let specs: Vec<&ParamSpec> = operator.specs().collect();
        let find = |key: &str| {
            specs.iter().copied().find(|s| s.name == key).ok_or_else(|| {
                let known: Vec<_> = specs.iter().map(|s| s.name).collect();
                ParamError::Unknown {
                    operator: name,
                    key: key.into(),
                    nearest: nearest(key, known.iter().copied()),
                    known,
                }
            })
        };
        for (key, _) in all {
            find(key)?;
        }
        for (key, _) in inputs.iter().flatten() {
            let spec = find(key)?;
            if spec.scope == Scope::Tensor {
                return Err(ParamError::NotPerInput { operator: name, key: spec.name });
            }
        }
        // A value given for all models stands in where a model has none of its own.
        let lookup = |spec: &ParamSpec, own: &[(&str, Setting)], input: Option<usize>| {
            let given = own.iter().rev().chain(all.iter().rev()).find(|(key, _)| *key == spec.name);
            match (given, spec.default) {
                _ if spec.kind == Kind::Operator => {
                    Ok(operator.inner().map_or(Value::Word(""), |o| Value::Word(o.name)))
                }
                (Some((_, setting)), _) => spec.check(name, setting),
                (None, Some(value)) => Ok(value),
                (None, None) => Err(ParamError::Missing { operator: name, key: spec.name, input }),
            }
            .map(|value| (spec.name, value))
        };
        let of = |scope| specs.iter().filter(move |s| s.scope == scope);
        Ok(Params {
            tensor: of(Scope::Tensor).map(|s| lookup(s, &[], None)).collect::<Result<_, _>>()?,
            inputs: inputs
                .iter()
                .enumerate()
                .map(|(i, own)| of(Scope::Input).map(|s| lookup(s, own, Some(i))).collect())
                .collect::<Result<_, _>>()?,
            inner: operator.inner().map(Operator::new),
        })
    }
}

/// The checked parameters of one operator for one tensor.
///
/// Made by [`Operator::params`]. Asking for a parameter that the operator does not declare, or as another kind, is a
/// defect of the operator and panics; the conformance suite (feature `conformance`) finds it.
#[derive(Debug, Clone)]
pub struct Params {
    tensor: Vec<(&'static str, Value)>,
    inputs: Vec<Vec<(&'static str, Value)>>,
    inner: Option<Operator>,
}

impl Params {
    /// Number of inputs.
    pub fn n_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// The operator that this one wraps.
    pub fn inner(&self) -> Option<&Operator> {
        self.inner.as_ref()
    }

    /// A number that holds for the tensor.
    pub fn number(&self, name: &str) -> f64 {
        number(&self.tensor, name)
    }

    /// A whole number that holds for the tensor.
    pub fn integer(&self, name: &str) -> i64 {
        match find(&self.tensor, name) {
            Value::Integer(x) => x,
            other => wrong_kind(name, other),
        }
    }

    /// A flag.
    pub fn flag(&self, name: &str) -> bool {
        match find(&self.tensor, name) {
            Value::Flag(x) => x,
            other => wrong_kind(name, other),
        }
    }

    /// The word that was chosen.
    pub fn word(&self, name: &str) -> &'static str {
        match find(&self.tensor, name) {
            Value::Word(x) => x,
            other => wrong_kind(name, other),
        }
    }

    /// A number of input `i`.
    pub fn input_number(&self, i: usize, name: &str) -> f64 {
        number(&self.inputs[i], name)
    }

    /// A number of every input, in order.
    pub fn input_numbers(&self, name: &str) -> Vec<f64> {
        self.inputs.iter().map(|own| number(own, name)).collect()
    }
}

fn find(values: &[(&'static str, Value)], name: &str) -> Value {
    values.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("the operator declares no parameter {name}")).1
}

fn number(values: &[(&'static str, Value)], name: &str) -> f64 {
    match find(values, name) {
        Value::Number(x) => x,
        other => wrong_kind(name, other),
    }
}

fn wrong_kind(name: &str, value: Value) -> ! {
    panic!("the operator asks for parameter {name} as another kind than it declares: {value}")
}
