//! Scores in files: numbers that come back to the last bit, infinities among them, and never NaN.
//!
//! JSON has neither infinity nor NaN. A perplexity may be infinite, and stands in a file as the text `"inf"` or
//! `"-inf"`. NaN is no score: whoever computed it has to say so, and it is not written.
//!
//! For serde, the functions of this module go with `#[serde(with = "glue_eval::number")]`; [`optional`] and [`list`]
//! are the same for `Option<f64>` and `Vec<f64>`.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Error, Serialize, Serializer};
use std::fmt;

/// A score.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            x if x.is_nan() => Err(S::Error::custom("NaN is no score")),
            f64::INFINITY => serializer.serialize_str("inf"),
            f64::NEG_INFINITY => serializer.serialize_str("-inf"),
            x => serializer.serialize_f64(x),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"inf\" or \"-inf\"")
            }

            fn visit_f64<E: de::Error>(self, x: f64) -> Result<Number, E> {
                if x.is_nan() { Err(E::invalid_value(de::Unexpected::Float(x), &self)) } else { Ok(Number(x)) }
            }

            fn visit_u64<E>(self, x: u64) -> Result<Number, E> {
                Ok(Number(x as f64))
            }

            fn visit_i64<E>(self, x: i64) -> Result<Number, E> {
                Ok(Number(x as f64))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                match text {
                    "inf" => Ok(Number(f64::INFINITY)),
                    "-inf" => Ok(Number(f64::NEG_INFINITY)),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Writes a score.
///
/// # Errors
/// For NaN, and those of the serializer.
pub fn serialize<S: Serializer>(score: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Number(*score).serialize(serializer)
}

/// Reads a score.
///
/// # Errors
/// For anything but a number, `"inf"` or `"-inf"`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Number::deserialize(deserializer).map(|number| number.0)
}

/// The same for `Option<f64>`; `None` is null.
pub mod optional {
    use super::{Deserialize, Deserializer, Number, Serialize, Serializer};

    /// Writes a score, or null.
    ///
    /// # Errors
    /// For NaN, and those of the serializer.
    pub fn serialize<S: Serializer>(score: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        score.map(Number).serialize(serializer)
    }

    /// Reads a score, or null.
    ///
    /// # Errors
    /// For anything but a number, `"inf"`, `"-inf"` or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Number>::deserialize(deserializer)?.map(|number| number.0))
    }
}

/// The same for `Vec<f64>`.
pub mod list {
    use super::{Deserialize, Deserializer, Number, Serializer};

    /// Writes scores.
    ///
    /// # Errors
    /// For NaN, and those of the serializer.
    pub fn serialize<S: Serializer>(scores: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(scores.iter().map(|score| Number(*score)))
    }

    /// Reads scores.
    ///
    /// # Errors
    /// For anything but a list of numbers, `"inf"` and `"-inf"`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Ok(Vec::<Number>::deserialize(deserializer)?.into_iter().map(|number| number.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Scores {
        #[serde(with = "super")]
        value: f64,
        #[serde(with = "super::optional")]
        error: Option<f64>,
        #[serde(with = "super::list")]
        items: Vec<f64>,
    }

    #[test]
    fn scores_come_back_to_the_last_bit_and_nan_is_refused() {
        let items = vec![0.1 + 0.2, -0.0, 1e-300, f64::INFINITY, 5e-324, 1.0 / 3.0, 4.0];
        for (value, error) in [(f64::NEG_INFINITY, Some(f64::INFINITY)), (0.5, None)] {
            let scores = Scores { value, error, items: items.clone() };
            let text = serde_json::to_string(&scores).unwrap();
            let again: Scores = serde_json::from_str(&text).unwrap();
            assert_eq!(again, scores);
            assert!(again.items.iter().zip(&items).all(|(a, b)| a.to_bits() == b.to_bits()), "{text}");
        }
        let refused = [
            Scores { value: f64::NAN, error: None, items: vec![] },
            Scores { value: 0.0, error: Some(f64::NAN), items: vec![] },
            Scores { value: 0.0, error: None, items: vec![f64::NAN] },
        ];
        for scores in refused {
            assert!(serde_json::to_string(&scores).unwrap_err().to_string().contains("NaN is no score"));
        }
        for text in ["null", "\"NaN\"", "\"infinity\"", "true"] {
            let text = format!(r#"{{"value": {text}, "error": null, "items": []}}"#);
            assert!(serde_json::from_str::<Scores>(&text).is_err(), "{text}");
        }
    }
}
