//! The box that is searched: named coordinates, and the way between their own units and the unit box.
//!
//! A point is a list of numbers in the units of its coordinates: a real number, a whole number, or the index of an
//! option. Optimisers see the unit box instead, where a real coordinate runs from 0 to 1, its logarithm when it says
//! so, and a coordinate with n values takes the k-th of them from k/n up to (k+1)/n.

use crate::error::SearchError;
use serde::{Deserialize, Serialize};

/// What values a coordinate takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Domain {
    /// A real number.
    Real {
        /// The minimum, finite; above 0 for a logarithmic scale.
        low: f64,
        /// The maximum, finite and above `low`.
        high: f64,
        /// Whether equal factors, rather than equal differences, are equal steps. Default: no.
        #[serde(default)]
        log: bool,
    },
    /// A whole number in `low ..= high`, both within ±2^53.
    Integer {
        /// The minimum.
        low: i64,
        /// The maximum, above `low`.
        high: i64,
    },
    /// One of several options without an order.
    Categorical {
        /// Their names, all different; two or more.
        options: Vec<String>,
    },
}

/// One coordinate of a space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coordinate {
    /// Its name, different from those of the others.
    pub name: String,
    /// Its values.
    #[serde(flatten)]
    pub domain: Domain,
}

impl Coordinate {
    /// A real number in `low ..= high`.
    pub fn real(name: impl Into<String>, low: f64, high: f64) -> Self {
        Self { name: name.into(), domain: Domain::Real { low, high, log: false } }
    }

    /// A real number in `low ..= high`, on a logarithmic scale.
    pub fn log(name: impl Into<String>, low: f64, high: f64) -> Self {
        Self { name: name.into(), domain: Domain::Real { low, high, log: true } }
    }

    /// A whole number in `low ..= high`.
    pub fn integer(name: impl Into<String>, low: i64, high: i64) -> Self {
        Self { name: name.into(), domain: Domain::Integer { low, high } }
    }

    /// One of `options`.
    pub fn categorical<S: Into<String>>(name: impl Into<String>, options: impl IntoIterator<Item = S>) -> Self {
        let options = options.into_iter().map(Into::into).collect();
        Self { name: name.into(), domain: Domain::Categorical { options } }
    }

    fn check(&self) -> Result<(), SearchError> {
        let refuse = |expected: &str, found: String| {
            Err(SearchError::Coordinate { name: self.name.clone(), expected: expected.into(), found })
        };
        const EXACT: i64 = 1 << 53;
        match &self.domain {
            Domain::Real { low, high, .. } if !(low < high && (high - low).is_finite()) => {
                refuse("finite bounds with low < high", format!("{low} and {high}"))
            }
            Domain::Real { low, log: true, .. } if *low <= 0.0 => {
                refuse("low > 0 for a logarithmic scale", low.to_string())
            }
            Domain::Integer { low, high } if low >= high => refuse("low < high", format!("{low} and {high}")),
            Domain::Integer { low, high } if *low < -EXACT || *high > EXACT => {
                refuse("bounds within ±2^53", format!("{low} and {high}"))
            }
            Domain::Categorical { options } if options.len() < 2 => {
                refuse("two or more options", options.len().to_string())
            }
            Domain::Categorical { options } => {
                let twice = options.iter().enumerate().find(|(i, o)| options[..*i].contains(o));
                twice.map_or(Ok(()), |(_, o)| refuse("different options", format!("`{o}` twice")))
            }
            _ => Ok(()),
        }
    }

    /// Number of its values; `None` for a real number.
    pub fn values(&self) -> Option<u64> {
        match &self.domain {
            Domain::Real { .. } => None,
            Domain::Integer { low, high } => Some(high.abs_diff(*low) + 1),
            Domain::Categorical { options } => Some(options.len() as u64),
        }
    }

    /// From the unit interval to the coordinate's own units.
    fn to_user(&self, unit: f64) -> f64 {
        match &self.domain {
            // The ends are met exactly, which rounding would not do.
            Domain::Real { low, .. } if unit <= 0.0 => *low,
            Domain::Real { high, .. } if unit >= 1.0 => *high,
            Domain::Real { low, high, log: false } => (low + unit * (high - low)).clamp(*low, *high),
            Domain::Real { low, high, log: true } => {
                (low.ln() + unit * (high.ln() - low.ln())).exp().clamp(*low, *high)
            }
            Domain::Integer { low, .. } => *low as f64 + self.bin(unit),
            Domain::Categorical { .. } => self.bin(unit),
        }
    }

    fn bin(&self, unit: f64) -> f64 {
        let n = self.values().unwrap_or(1) as f64;
        (unit * n).floor().clamp(0.0, n - 1.0)
    }

    /// From the coordinate's own units to the unit interval: the middle of the part that a discrete value has.
    fn to_unit(&self, x: f64) -> Result<f64, SearchError> {
        let refuse =
            |expected: String| Err(SearchError::Coordinate { name: self.name.clone(), expected, found: x.to_string() });
        match &self.domain {
            Domain::Real { low, high, .. } if !(*low..=*high).contains(&x) => {
                refuse(format!("a number from {low} to {high}"))
            }
            Domain::Real { low, high, log: false } => Ok((x - low) / (high - low)),
            Domain::Real { low, high, log: true } => Ok(((x.ln() - low.ln()) / (high.ln() - low.ln())).clamp(0.0, 1.0)),
            Domain::Integer { low, high } => {
                if x.fract() == 0.0 && (*low as f64..=*high as f64).contains(&x) {
                    Ok((x - *low as f64 + 0.5) / (high.abs_diff(*low) + 1) as f64)
                } else {
                    refuse(format!("a whole number from {low} to {high}"))
                }
            }
            Domain::Categorical { options } => {
                if x.fract() == 0.0 && (0.0..options.len() as f64).contains(&x) {
                    Ok((x + 0.5) / options.len() as f64)
                } else {
                    refuse(format!("the index of an option, below {}", options.len()))
                }
            }
        }
    }
}

/// The value of one coordinate of a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CoordinateValue<'a> {
    /// A real number.
    Real(f64),
    /// A whole number.
    Integer(i64),
    /// The name of an option.
    Category(&'a str),
}

/// A box of named coordinates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Coordinate>", into = "Vec<Coordinate>")]
pub struct Space {
    coordinates: Vec<Coordinate>,
}

impl TryFrom<Vec<Coordinate>> for Space {
    type Error = SearchError;

    fn try_from(coordinates: Vec<Coordinate>) -> Result<Self, SearchError> {
        Self::new(coordinates)
    }
}

impl From<Space> for Vec<Coordinate> {
    fn from(space: Space) -> Self {
        space.coordinates
    }
}

impl Space {
    /// A space of these coordinates, in this order.
    ///
    /// # Errors
    /// No coordinate, two of one name, or one with fewer than two values or invalid bounds.
    pub fn new(coordinates: Vec<Coordinate>) -> Result<Self, SearchError> {
        if coordinates.is_empty() {
            return Err(SearchError::EmptySpace);
        }
        for (i, c) in coordinates.iter().enumerate() {
            c.check()?;
            if coordinates[..i].iter().any(|other| other.name == c.name) {
                let expected = "a unique name".into();
                return Err(SearchError::Coordinate {
                    name: c.name.clone(),
                    expected,
                    found: "the same name twice".into(),
                });
            }
        }
        Ok(Self { coordinates })
    }

    /// Number of coordinates.
    pub fn dimension(&self) -> usize {
        self.coordinates.len()
    }

    /// The coordinates.
    pub fn coordinates(&self) -> &[Coordinate] {
        &self.coordinates
    }

    /// The point, in user units, at a place of the unit box; a place outside counts as the nearest on its border, and
    /// what is not a number as the middle.
    ///
    /// # Panics
    /// When `unit` has another length than the space.
    pub fn to_user(&self, unit: &[f64]) -> Vec<f64> {
        assert_eq!(unit.len(), self.dimension(), "a place in the unit box of another space");
        let clean = |u: f64| if u.is_nan() { 0.5 } else { u.clamp(0.0, 1.0) };
        self.coordinates.iter().zip(unit).map(|(c, u)| c.to_user(clean(*u))).collect()
    }

    /// The place of a point in the unit box.
    ///
    /// # Errors
    /// Too few or too many numbers, or one out of bounds.
    pub fn to_unit(&self, point: &[f64]) -> Result<Vec<f64>, SearchError> {
        if point.len() != self.dimension() {
            return Err(SearchError::PointLength { expected: self.dimension(), found: point.len() });
        }
        self.coordinates.iter().zip(point).map(|(c, x)| c.to_unit(*x)).collect()
    }

    /// A point with names and types.
    ///
    /// # Errors
    /// As [`to_unit`](Self::to_unit).
    pub fn describe(&self, point: &[f64]) -> Result<Vec<(&str, CoordinateValue<'_>)>, SearchError> {
        self.to_unit(point)?;
        Ok(self
            .coordinates
            .iter()
            .zip(point)
            .map(|(c, x)| {
                let value = match &c.domain {
                    Domain::Real { .. } => CoordinateValue::Real(*x),
                    Domain::Integer { .. } => CoordinateValue::Integer(*x as i64),
                    Domain::Categorical { options } => CoordinateValue::Category(&options[*x as usize]),
                };
                (c.name.as_str(), value)
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mixed() -> Space {
        Space::new(vec![
            Coordinate::real("weight", -1.0, 3.0),
            Coordinate::log("rate", 1e-4, 1e2),
            Coordinate::integer("layers", -2, 5),
            Coordinate::categorical("method", ["ties", "dare", "slerp"]),
        ])
        .unwrap()
    }

    #[test]
    fn corners_and_middle() {
        let space = mixed();
        assert_eq!(space.to_user(&[0.0; 4]), [-1.0, 1e-4, -2.0, 0.0]);
        assert_eq!(space.to_user(&[1.0; 4]), [3.0, 1e2, 5.0, 2.0]);
        let middle = space.to_user(&[0.5; 4]);
        assert_eq!((middle[0], middle[2], middle[3]), (1.0, 2.0, 1.0));
        assert!((middle[1] - 0.1).abs() < 1e-15);
        assert_eq!(space.to_user(&[f64::NAN, -3.0, 7.0, f64::INFINITY])[..], [1.0, 1e-4, 5.0, 2.0]);
    }

    #[test]
    fn points_have_names_and_types() {
        let described = mixed();
        let described = described.describe(&[0.25, 1.0, -1.0, 2.0]).unwrap();
        let expected = [
            ("weight", CoordinateValue::Real(0.25)),
            ("rate", CoordinateValue::Real(1.0)),
            ("layers", CoordinateValue::Integer(-1)),
            ("method", CoordinateValue::Category("slerp")),
        ];
        assert_eq!(described, expected);
    }

    #[test]
    fn invalid_spaces_are_refused() {
        let check = |c: Vec<Coordinate>, expected: &str| {
            assert_eq!(Space::new(c).unwrap_err().to_string(), expected);
        };
        check(vec![], "a search space needs at least one coordinate");
        check(
            vec![Coordinate::real("a", 1.0, 1.0)],
            "coordinate `a`: expected finite bounds with low < high, found 1 and 1",
        );
        check(
            vec![Coordinate::real("a", 0.0, f64::NAN)],
            "coordinate `a`: expected finite bounds with low < high, found 0 and NaN",
        );
        check(
            vec![Coordinate::log("a", 0.0, 1.0)],
            "coordinate `a`: expected low > 0 for a logarithmic scale, found 0",
        );
        check(vec![Coordinate::integer("a", 3, 2)], "coordinate `a`: expected low < high, found 3 and 2");
        check(vec![Coordinate::categorical("a", ["x"])], "coordinate `a`: expected two or more options, found 1");
        check(
            vec![Coordinate::categorical("a", ["x", "y", "x"])],
            "coordinate `a`: expected different options, found `x` twice",
        );
        check(
            vec![Coordinate::real("a", 0.0, 1.0), Coordinate::integer("a", 0, 1)],
            "coordinate `a`: expected a unique name, found the same name twice",
        );
    }

    #[test]
    fn invalid_points_are_refused() {
        let check = |point: &[f64], expected: &str| {
            assert_eq!(mixed().to_unit(point).unwrap_err().to_string(), expected);
        };
        check(&[0.0], "a point of this space has 4 coordinates, found 1");
        check(&[3.5, 1.0, 0.0, 0.0], "coordinate `weight`: expected a number from -1 to 3, found 3.5");
        check(&[0.0, 1.0, 0.5, 0.0], "coordinate `layers`: expected a whole number from -2 to 5, found 0.5");
        check(&[0.0, 1.0, 0.0, 3.0], "coordinate `method`: expected the index of an option, below 3, found 3");
    }

    #[test]
    fn json_is_what_one_would_write() {
        let space = mixed();
        let text = serde_json::to_string(&space).unwrap();
        assert!(text.starts_with(r#"[{"name":"weight","kind":"real","low":-1.0,"high":3.0,"log":false}"#), "{text}");
        assert_eq!(serde_json::from_str::<Space>(&text).unwrap(), space);
        let wrong = r#"[{"name":"a","kind":"real","low":2,"high":1}]"#;
        assert!(serde_json::from_str::<Space>(wrong).unwrap_err().to_string().contains("low < high"));
    }

    proptest! {
        #[test]
        fn there_and_back(unit in proptest::collection::vec(0.0_f64..=1.0, 4)) {
            let space = mixed();
            let point = space.to_user(&unit);
            let again = space.to_user(&space.to_unit(&point).unwrap());
            prop_assert_eq!(&again[2..], &point[2..]);
            // Two roundings in each direction; the logarithmic scale spans fourteen e-folds.
            prop_assert!((again[0] - point[0]).abs() < 1e-14 && (again[1] / point[1] - 1.0).abs() < 1e-13);
        }
    }
}
