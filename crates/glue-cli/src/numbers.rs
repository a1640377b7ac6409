//! Ranges of numbers on the command line: values outside are refused while parsing.

use clap::builder::{RangedU64ValueParser, TypedValueParser};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Seconds in a year: the longest time limit.
pub(crate) const YEAR: u64 = 31_536_000;

/// A whole number in `range`.
pub(crate) fn whole(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::<usize>::new().range(range)
}

/// A number in `range`.
pub(crate) fn real<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: std::str::FromStr + PartialOrd + Display + Copy,
{
    move |text| {
        let number = text.parse().ok().filter(|x| range.contains(x));
        number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
    }
}

/// Seconds: above 0 and at most a year.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x| *x > 0.0 && *x <= YEAR as f64);
    number.ok_or_else(|| format!("expected a number of seconds above 0 and at most {YEAR}"))
}

#[cfg(test)]
mod tests {
    //! What is in a range.
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        assert_eq!(real(0.0..=1.0)("0.5"), Ok(0.5));
        for text in ["-0.1", "1.1", "NaN", "inf", "x", ""] {
            assert_eq!(real(0.0..=1.0)(text), Err("expected a number from 0 to 1".to_owned()), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(0.5));
        for text in ["0", "-1", "1e300", "inf", "NaN", "1m"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
