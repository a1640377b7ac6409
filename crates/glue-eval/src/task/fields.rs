//! Typed access to the fields of a description or an item, with errors that say where.

use crate::data::describe;
use crate::error::{FilePosition, TaskError};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Answers to an item. Papers take up to some hundreds.
pub(super) const ANSWERS: RangeInclusive<usize> = 1..=10_000;

/// Tokens of an answer.
pub(super) const NEW_TOKENS: RangeInclusive<usize> = 1..=1 << 20;

/// Examples in a prompt.
pub(super) const EXAMPLES: RangeInclusive<usize> = 0..=10_000;

/// How many of the most likely tokens a draw is among.
pub(super) const TOP_K: RangeInclusive<usize> = 0..=u32::MAX as usize;

/// The fields of an object and where it stands.
pub(super) struct Fields<'a> {
    pub(super) place: FilePosition,
    pub(super) map: &'a Map<String, Value>,
    /// Files with their texts in which keys are looked up for the line of an error, the most likely one first.
    pub(super) sources: &'a [(PathBuf, String)],
}

impl<'a> Fields<'a> {
    /// Of one item, which stands on one line.
    pub(super) fn of_item(place: FilePosition, map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { place, map, sources: &[] }
    }

    /// The place of a key, as well as it is known.
    pub(super) fn place_of(&self, key: &str) -> FilePosition {
        let found = self.sources.iter().find_map(|(path, text)| Some(FilePosition::at(path, line_of(text, key)?)));
        found.unwrap_or_else(|| self.place.clone())
    }

    pub(super) fn wrong(&self, key: &str, expected: &str, found: &Value) -> TaskError {
        TaskError::WrongField {
            place: self.place_of(key),
            field: key.into(),
            expected: expected.into(),
            found: describe(found),
        }
    }

    /// A field that is neither absent nor null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, key: &str) -> Result<&'a Value, TaskError> {
        self.get(key).ok_or_else(|| TaskError::MissingField { place: self.place.clone(), field: key.into() })
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, TaskError> {
        self.as_text(key, self.required(key)?)
    }

    fn as_text(&self, key: &str, value: &'a Value) -> Result<&'a str, TaskError> {
        value.as_str().ok_or_else(|| self.wrong(key, "text", value))
    }

    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&'a str>, TaskError> {
        self.get(key).map(|value| self.as_text(key, value)).transpose()
    }

    /// A text, or a list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, TaskError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        texts(value).map(Some).ok_or_else(|| self.wrong(key, "text or a list of texts", value))
    }

    /// A whole number in `range`.
    pub(super) fn number(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, TaskError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        number(value, &range).map(Some).ok_or_else(|| {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            self.wrong(key, &expected, value)
        })
    }

    /// A whole number in `range`, or a list of some.
    pub(super) fn numbers(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<Vec<usize>>, TaskError> {
        const MAX_LENGTH: usize = 100;
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = match value {
            Value::Array(items) if !(1..=MAX_LENGTH).contains(&items.len()) => None,
            Value::Array(items) => items.iter().map(|item| number(item, &range)).collect(),
            one => number(one, &range).map(|number| vec![number]),
        };
        numbers.map(Some).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            let expected = format!("a whole number from {least} to {most}, or a list of up to {MAX_LENGTH} of them");
            self.wrong(key, &expected, value)
        })
    }

    pub(super) fn real(&self, key: &str) -> Result<Option<f64>, TaskError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let number = number.filter(|x| *x >= 0.0 && x.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a number of at least 0", value))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, TaskError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false", value))
    }

    /// Refuses keys that are not in one of the lists.
    pub(super) fn only(&self, known: &[&[&str]]) -> Result<(), TaskError> {
        match self.map.keys().find(|key| !known.iter().any(|known| known.contains(&key.as_str()))) {
            None => Ok(()),
            Some(key) => Err(TaskError::UnknownKey {
                place: self.place_of(key),
                key: key.clone(),
                known: known.concat().into_iter().map(str::to_string).collect(),
            }),
        }
    }
}

fn number(value: &Value, range: &RangeInclusive<usize>) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n))
}

/// A text as a list of one, or a list of texts.
pub(crate) fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_string)).collect(),
        _ => None,
    }
}

/// The first line on which this key of YAML or JSON stands.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    text.lines()
        .position(|line| {
            let line = line.trim_start_matches([' ', '\t', '-', '{']);
            let quoted = line.strip_prefix(['"', '\'']).unwrap_or(line);
            let rest = quoted.strip_prefix(key).map(|rest| rest.trim_start_matches(['"', '\'']).trim_start());
            rest.is_some_and(|rest| rest.starts_with(':'))
        })
        .map(|index| index + 1)
}
