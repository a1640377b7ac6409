//! Values that several configs have in common, for `#[serde(deserialize_with = "…")]`.

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use std::fmt;

/// A whole number of at least 1, or `null`, which is `None`.
///
/// # Errors
/// For anything else: `expected a positive whole number`.
pub fn positive_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let convert = |number: Unexpected<'_>| match number {
        Unexpected::Unsigned(x) => usize::try_from(x).ok().filter(|&count| count > 0),
        Unexpected::Signed(x) => usize::try_from(x).ok().filter(|&count| count > 0),
        _ => None,
    };
    deserializer.deserialize_option(Number { expected: "a positive whole number", convert })
}

/// A finite number above 0, or `null`, which is `None`.
///
/// # Errors
/// For anything else: `expected a positive number`.
pub fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let convert = |number: Unexpected<'_>| {
        let x = match number {
            Unexpected::Float(x) => x,
            Unexpected::Unsigned(x) => x as f64,
            Unexpected::Signed(x) => x as f64,
            _ => return None,
        };
        (x.is_finite() && x > 0.0).then_some(x)
    };
    deserializer.deserialize_option(Number { expected: "a positive number", convert })
}

/// Reads the numbers that `convert` accepts, and `null`.
struct Number<T> {
    expected: &'static str,
    convert: fn(Unexpected<'_>) -> Option<T>,
}

impl<T> Number<T> {
    fn checked<E: Error>(self, number: Unexpected<'_>) -> Result<Option<T>, E> {
        match (self.convert)(number) {
            Some(value) => Ok(Some(value)),
            None => Err(E::invalid_value(number, &self.expected)),
        }
    }
}

impl<'de, T> Visitor<'de> for Number<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, x: u64) -> Result<Option<T>, E> {
        self.checked(Unexpected::Unsigned(x))
    }

    fn visit_i64<E: Error>(self, x: i64) -> Result<Option<T>, E> {
        self.checked(Unexpected::Signed(x))
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<Option<T>, E> {
        self.checked(Unexpected::Float(x))
    }

    fn visit_none<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[cfg(test)]
mod tests {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Limits {
        #[serde(default, deserialize_with = "super::positive_count")]
        limit: Option<usize>,
        #[serde(default, deserialize_with = "super::positive")]
        seconds: Option<f64>,
    }

    #[test]
    fn numbers_are_positive_or_refused_by_place_and_key() {
        let read = |text: &str| crate::read::<Limits>(text, "x.yml").map_err(|error| error.to_string());
        assert_eq!(read("limit: 3\nseconds: 1.5\n"), Ok(Limits { limit: Some(3), seconds: Some(1.5) }));
        assert_eq!(read("seconds: 2\nlimit: null\n"), Ok(Limits { limit: None, seconds: Some(2.0) }));
        for (text, key, expected) in [
            ("limit: 0", ": `limit`: ", "expected a positive whole number"),
            ("limit: -1", ": `limit`: ", "expected a positive whole number"),
            ("limit: 1.5", ": `limit`: ", "expected a positive whole number"),
            ("limit: many", ": `limit`: ", "expected a positive whole number"),
            ("seconds: 0", ": `seconds`: ", "expected a positive number"),
            ("seconds: -1", ": `seconds`: ", "expected a positive number"),
            ("seconds: -0.5", ": `seconds`: ", "expected a positive number"),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                error.starts_with("x.yml:1:") && error.contains(key) && error.contains(expected),
                "{text}: {error}"
            );
        }
    }
}
