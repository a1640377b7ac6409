//! Values that several configs have in common, for `#[serde(deserialize_with = "…")]`.

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use std::fmt;

/// A whole number of at least 1, or nothing.
///
/// # Errors
/// For anything else: `expected a positive whole number`.
pub fn positive_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    struct Count;
    impl<'de> Visitor<'de> for Count {
        type Value = Option<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a positive whole number")
        }

        fn visit_u64<E: Error>(self, x: u64) -> Result<Option<usize>, E> {
            let count = usize::try_from(x).ok().filter(|&count| count > 0);
            count.map(Some).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(x), &self))
        }

        fn visit_i64<E: Error>(self, x: i64) -> Result<Option<usize>, E> {
            match u64::try_from(x) {
                Ok(x) => self.visit_u64(x),
                Err(_) => Err(E::invalid_value(Unexpected::Signed(x), &self)),
            }
        }

        fn visit_f64<E: Error>(self, x: f64) -> Result<Option<usize>, E> {
            Err(E::invalid_value(Unexpected::Float(x), &self))
        }

        fn visit_none<E>(self) -> Result<Option<usize>, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Option<usize>, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
            deserializer.deserialize_any(self)
        }
    }
    deserializer.deserialize_option(Count)
}

/// A finite number above 0, or nothing.
///
/// # Errors
/// For anything else: `expected a positive number`.
pub fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    struct Number;
    impl<'de> Visitor<'de> for Number {
        type Value = Option<f64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a positive number")
        }

        fn visit_f64<E: Error>(self, x: f64) -> Result<Option<f64>, E> {
            match x.is_finite() && x > 0.0 {
                true => Ok(Some(x)),
                false => Err(E::invalid_value(Unexpected::Float(x), &self)),
            }
        }

        fn visit_u64<E: Error>(self, x: u64) -> Result<Option<f64>, E> {
            if x > 0 { Ok(Some(x as f64)) } else { Err(E::invalid_value(Unexpected::Unsigned(x), &self)) }
        }

        fn visit_i64<E: Error>(self, x: i64) -> Result<Option<f64>, E> {
            if x > 0 { Ok(Some(x as f64)) } else { Err(E::invalid_value(Unexpected::Signed(x), &self)) }
        }

        fn visit_none<E>(self) -> Result<Option<f64>, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Option<f64>, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<f64>, D::Error> {
            deserializer.deserialize_any(self)
        }
    }
    deserializer.deserialize_option(Number)
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
