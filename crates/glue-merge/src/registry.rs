//! The list of operators a program knows.

use crate::def::{Operator, OperatorDef};
use crate::error::{MergeError, ParamError};
use crate::operators;
use std::error::Error;
use std::fmt;

/// The operators a program knows, by name. Filled by hand: what is not named is not there.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    defs: Vec<&'static OperatorDef>,
}

impl Registry {
    /// The operators of this crate.
    pub fn builtin() -> Self {
        Self { defs: operators::ALL.to_vec() }
    }

    /// The same with these added. One of the same name replaces the one that was there.
    #[must_use]
    pub fn with(mut self, defs: &[&'static OperatorDef]) -> Self {
        for def in defs {
            self.defs.retain(|d| d.name != def.name);
            self.defs.push(def);
        }
        self
    }

    /// All of them, in the order they were listed.
    pub fn iter(&self) -> impl Iterator<Item = &'static OperatorDef> + '_ {
        self.defs.iter().copied()
    }

    /// The definition of this name.
    ///
    /// # Errors
    /// [`UnknownOperator`], with the nearest name.
    pub fn get(&self, name: &str) -> Result<&'static OperatorDef, UnknownOperator> {
        self.iter()
            .find(|d| d.name == name)
            .ok_or_else(|| UnknownOperator { name: name.into(), nearest: nearest(name, self.iter().map(|d| d.name)) })
    }

    /// The operator of this name, around `inner` when it wraps another.
    ///
    /// # Errors
    /// An unknown name, an operator that wraps another without one being named, or one that cannot be wrapped.
    pub fn operator(&self, name: &str, inner: Option<&str>) -> Result<Operator, MergeError> {
        let def = self.get(name)?;
        match (def.wraps(), inner) {
            (_, Some(inner)) => Ok(Operator::wrapping(def, self.get(inner)?)?),
            (None, None) => Ok(Operator::new(def)),
            (Some(key), None) => Err(ParamError::Missing { operator: def.name, key, input: None }.into()),
        }
    }
}

/// No operator has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownOperator {
    /// The name that was asked for.
    pub name: String,
    /// The nearest one there is, if one is near.
    pub nearest: Option<&'static str>,
}

impl fmt::Display for UnknownOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no operator is called `{}`", self.name)?;
        self.nearest.map_or(Ok(()), |n| write!(f, "; did you mean `{n}`?"))
    }
}

impl Error for UnknownOperator {}

/// The name nearest to `word` by edits, when at most a third of it must change: for messages about names that do not
/// exist. Characters after the first hundred do not count.
pub fn nearest(word: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    names
        .map(|name| (edits(word, name), name))
        .filter(|(d, name)| *d <= name.len().max(word.len()).div_ceil(3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// Levenshtein distance of the first hundred characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(100).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keyboard_finds_its_operator() {
        let check = |word: &str, expected: Option<&str>| {
            assert_eq!(Registry::builtin().get(word).unwrap_err().nearest, expected, "{word}");
        };
        check("tise", Some("ties"));
        check("task-arithmetic", Some("task_arithmetic"));
        check("Linear", Some("linear"));
        check("quantum_merge", None);
    }

    #[test]
    fn names_are_unique_and_a_later_one_replaces() {
        let registry = Registry::builtin();
        let mut names: Vec<_> = registry.iter().map(|d| d.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let first = registry.iter().next().unwrap();
        assert_eq!(registry.clone().with(&[first]).iter().count(), count);
    }
}
