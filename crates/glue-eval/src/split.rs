//! Splits of a task, and shares of them: `proxy`, `proxy[:60%]`, `proxy[60%:]`, `test[20%:40%]`.
//!
//! The documentation of the crate says what they mean.

use crate::data::Row;
use crate::error::SplitError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::Xxh3;

/// A split of a task, or [a share of its items](crate#shares-of-splits).
///
/// ```
/// use glue_eval::SplitExpression;
///
/// let search: SplitExpression = "train[:60%]".parse()?;
/// let validation: SplitExpression = "train[60%:]".parse()?;
/// assert_eq!((search.name(), search.to_string()), ("train", "train[:60%]".to_owned()));
/// assert!(!search.overlaps(&validation) && search.overlaps(&"train".parse()?));
/// assert!("train[:0.6]".parse::<SplitExpression>().is_err());
/// # Ok::<(), glue_eval::SplitError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SplitExpression {
    name: String,
    /// In percent; from less than to, to at most 100.
    from: u8,
    to: u8,
}

impl SplitExpression {
    /// All items of a split.
    pub fn whole(name: impl Into<String>) -> SplitExpression {
        SplitExpression { name: name.into(), from: 0, to: 100 }
    }

    /// The name of the split.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is the whole split.
    pub fn is_whole(&self) -> bool {
        (self.from, self.to) == (0, 100)
    }

    /// Whether the two share items: the same split, and shares that overlap. A task of lm-evaluation-harness may have
    /// two names for a split; [`Task::resolve_split`](crate::Task::resolve_split) makes them one.
    pub fn overlaps(&self, other: &SplitExpression) -> bool {
        self.name == other.name && self.from < other.to && other.from < self.to
    }

    /// The same share of the split `name`.
    pub(crate) fn of(&self, name: &str) -> SplitExpression {
        SplitExpression { name: name.into(), ..*self }
    }

    /// Numbers of the rows in the share, in ascending order. `fields` are those that decide whether two rows are equal;
    /// `None` for all.
    pub(crate) fn choose<'a>(&self, rows: impl IntoIterator<Item = &'a Row>, fields: Option<&[&str]>) -> Vec<usize> {
        let rows = rows.into_iter();
        if self.is_whole() {
            return (0..rows.count()).collect();
        }
        let mut hashes: Vec<(u128, usize)> = rows.map(|row| content_hash(row, fields)).zip(0..).collect();
        hashes.sort_unstable();
        let cut = |percent: u8| {
            // Rounded half up.
            let at = (hashes.len() * usize::from(percent) + 50) / 100;
            let Some(&(hash, _)) = hashes.get(at) else { return at };
            let start = hashes.partition_point(|(other, _)| *other < hash);
            let end = hashes.partition_point(|(other, _)| *other <= hash);
            if at - start <= end - at { start } else { end }
        };
        let mut chosen: Vec<usize> = hashes[cut(self.from)..cut(self.to)].iter().map(|&(_, row)| row).collect();
        chosen.sort_unstable();
        chosen
    }
}

impl fmt::Display for SplitExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let percent = |bound: u8| format!("{bound}%");
        match (self.from, self.to) {
            (0, 100) => Ok(()),
            (0, to) => write!(f, "[:{}]", percent(to)),
            (from, 100) => write!(f, "[{}:]", percent(from)),
            (from, to) => write!(f, "[{}:{}]", percent(from), percent(to)),
        }
    }
}

impl FromStr for SplitExpression {
    type Err = SplitError;

    fn from_str(text: &str) -> Result<SplitExpression, SplitError> {
        let wrong = |reason| SplitError { expression: text.into(), reason };
        let Some((name, slice)) = text.split_once('[') else {
            return match text {
                "" => Err(wrong("a split needs a name")),
                name => Ok(SplitExpression::whole(name)),
            };
        };
        let bounds = slice.strip_suffix(']').and_then(|slice| slice.split_once(':'));
        let (from, to) = bounds.ok_or_else(|| wrong("expected NAME[FROM%:TO%]"))?;
        let bound = |bound: &str, default: u8| match bound.trim() {
            "" => Ok(default),
            bound => {
                let digits = bound.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
                let percent = digits.and_then(|digits| digits.parse().ok()).filter(|percent| *percent <= 100);
                percent.ok_or_else(|| wrong("each bound should be a whole number of percent from 0% to 100%"))
            }
        };
        let (from, to) = (bound(from, 0)?, bound(to, 100)?);
        match name {
            "" => Err(wrong("a split needs a name")),
            _ if from >= to => Err(wrong("the lower bound should be less than the upper bound")),
            name => Ok(SplitExpression { name: name.into(), from, to }),
        }
    }
}

impl TryFrom<String> for SplitExpression {
    type Error = SplitError;

    fn try_from(text: String) -> Result<SplitExpression, SplitError> {
        text.parse()
    }
}

impl From<SplitExpression> for String {
    fn from(split: SplitExpression) -> String {
        split.to_string()
    }
}

/// A hash of the fields of a row, whatever their order.
fn content_hash(row: &Row, fields: Option<&[&str]>) -> u128 {
    let mut hasher = Xxh3::new();
    let mut present: Vec<(&String, &Value)> =
        row.fields.iter().filter(|(key, _)| fields.is_none_or(|fields| fields.contains(&key.as_str()))).collect();
    present.sort_unstable_by_key(|(key, _)| *key);
    for (key, value) in present {
        // A field that a file with columns leaves empty is one that a line of JSON leaves out.
        if !value.is_null() {
            // In quotes, so that no two lists of fields run together.
            hasher.update(format!("{key:?}:{value}\n").as_bytes());
        }
    }
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn rows(values: &[u32]) -> Vec<Row> {
        let fields = |n: u32| json!({"n": n, "text": format!("item {n}")}).as_object().cloned().unwrap();
        values.iter().zip(1..).map(|(&n, line)| Row { line, fields: fields(n) }).collect()
    }

    fn parsed(text: &str) -> SplitExpression {
        text.parse().unwrap()
    }

    /// The values of the rows in a share, in the order of the file.
    fn chosen(expression: &str, values: &[u32]) -> Vec<u32> {
        parsed(expression).choose(&rows(values), None).into_iter().map(|row| values[row]).collect()
    }

    #[test]
    fn expressions_are_read_and_written() {
        for (text, shown) in [
            ("proxy", "proxy"),
            ("proxy[:]", "proxy"),
            ("proxy[0%:100%]", "proxy"),
            ("proxy[:60%]", "proxy[:60%]"),
            ("test[20%:100%]", "test[20%:]"),
            ("test[ 20% : 40% ]", "test[20%:40%]"),
        ] {
            assert_eq!(parsed(text).to_string(), shown);
            assert_eq!(parsed(shown), parsed(text));
        }
        let refused = |text: &str| text.parse::<SplitExpression>().unwrap_err().to_string();
        let bound = "each bound should be a whole number of percent from 0% to 100%";
        for (text, reason) in [
            ("", "a split needs a name"),
            ("[:5%]", "a split needs a name"),
            ("a[5%]", "expected NAME[FROM%:TO%]"),
            ("a[:5%", "expected NAME[FROM%:TO%]"),
            ("a[:100]", bound),
            ("a[:-5%]", bound),
            ("a[:+5%]", bound),
            ("a[:101%]", bound),
            ("a[1.5%:]", bound),
            ("a[5%:5%]", "the lower bound should be less than the upper bound"),
        ] {
            assert!(refused(text).ends_with(&format!("{reason}; for example `train[:60%]`, `train[60%:]`, `test`")));
            assert!(refused(text).starts_with(&format!("the split `{text}`: ")), "{}", refused(text));
        }
    }

    #[test]
    fn shares_that_have_items_in_common_overlap() {
        for (a, b, expected) in [
            ("a[:60%]", "a[60%:]", false),
            ("a[:61%]", "a[60%:]", true),
            ("a", "a[20%:40%]", true),
            ("a", "b", false),
            ("a[:50%]", "b[:50%]", false),
        ] {
            assert_eq!((parsed(a).overlaps(&parsed(b)), parsed(b).overlaps(&parsed(a))), (expected, expected));
        }
    }

    #[test]
    fn fields_that_do_not_count_change_nothing() {
        let mut numbered = rows(&[7; 10]);
        for (row, id) in numbered.iter_mut().zip(0..) {
            row.fields.insert("id".into(), json!(id));
        }
        let counts = |fields| parsed("a[:40%]").choose(&numbered, fields).len();
        assert_eq!((counts(Some(&["n", "text"][..])), counts(None)), (0, 4));
        // Fields in another order, and an empty one.
        let other = |text: &str| Row { line: 1, fields: serde_json::from_str(text).unwrap() };
        let hash = |text: &str| content_hash(&other(text), None);
        assert_eq!(hash(r#"{"a": 1, "b": [2]}"#), hash(r#"{"b": [2], "c": null, "a": 1}"#));
        assert_ne!(hash(r#"{"a": "1"}"#), hash(r#"{"a": 1}"#));
        assert_ne!(hash(r#"{"a": "x\n\"b\":1"}"#), hash(r#"{"a": "x", "b": 1}"#));
    }

    proptest! {
        #[test]
        fn shares_are_disjoint_complete_and_exact(n in 1_u32..300, mut cuts in prop::collection::vec(1_u8..100, 0..5)) {
            let values: Vec<u32> = (0..n).collect();
            cuts.extend([0, 100]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut together = Vec::new();
            for bounds in cuts.windows(2) {
                let share = chosen(&format!("a[{}%:{}%]", bounds[0], bounds[1]), &values);
                let exact = f64::from(n) * f64::from(bounds[1] - bounds[0]) / 100.0;
                // Two cuts, each rounded by at most a half.
                prop_assert!((share.len() as f64 - exact).abs() <= 1.0 + 1e-9, "{} of {n}", share.len());
                prop_assert!(share.is_sorted());
                together.extend(share);
            }
            together.sort_unstable();
            prop_assert_eq!(together, values);
        }

        #[test]
        fn neither_order_nor_place_matters(n in 2_u32..100, by in 1_usize..100, percent in 1_u8..100) {
            let values: Vec<u32> = (0..n).collect();
            let mut moved = values.clone();
            moved.rotate_left(by % n as usize);
            moved.swap(0, n as usize / 2);
            let expression = format!("a[{percent}%:]");
            let mut share = chosen(&expression, &moved);
            share.sort_unstable();
            prop_assert_eq!(share, chosen(&expression, &values));
        }

        #[test]
        fn equal_items_are_on_one_side(values in prop::collection::vec(0_u32..6, 1..60), percent in 1_u8..100) {
            let below = chosen(&format!("a[:{percent}%]"), &values);
            let above = chosen(&format!("a[{percent}%:]"), &values);
            prop_assert!(below.iter().all(|value| !above.contains(value)));
            prop_assert_eq!(below.len() + above.len(), values.len());
            // The cut is at the end of the run that is nearest to where it should be.
            let longest = (0..6).map(|value| values.iter().filter(|other| **other == value).count()).max().unwrap();
            let exact = values.len() as f64 * f64::from(percent) / 100.0;
            prop_assert!((below.len() as f64 - exact).abs() <= (longest as f64 / 2.0).max(0.5) + 0.5 + 1e-9);
        }
    }

    #[test]
    fn a_share_is_spread_over_the_file() {
        // Of 400 items in order, a half has about as many of the first half as of the second: 100 ± 7.
        let values: Vec<u32> = (0..400).collect();
        let first = chosen("a[:50%]", &values).iter().filter(|value| **value < 200).count();
        assert!((72..=128).contains(&first), "{first}");
    }
}
