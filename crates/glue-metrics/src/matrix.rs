//! A symmetric matrix of figures between models: what metrics give and clustering takes.

use crate::error::MetricsError;
use serde::{Deserialize, Serialize};

/// Whether figures are similarities or distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Larger is more similar; a model has 1 with itself.
    Similarity,
    /// Smaller is more similar; a model has 0 to itself.
    Distance,
}

/// Figures between all pairs of models; `None` where a pair has none.
///
/// As JSON `{"models": [...], "metric": "...", "scale": "...", "matrix": [[...]]}` with null for `None`. Reading
/// accepts the same without `scale`, which is then similarity unless the metric's name ends in `distance`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Matrix {
    models: Vec<String>,
    metric: String,
    scale: Scale,
    matrix: Vec<Vec<Option<f64>>>,
}

#[derive(Deserialize)]
struct Unchecked {
    models: Vec<String>,
    metric: String,
    scale: Option<Scale>,
    matrix: Vec<Vec<Option<f64>>>,
}

impl TryFrom<Unchecked> for Matrix {
    type Error = MetricsError;

    fn try_from(value: Unchecked) -> Result<Self, MetricsError> {
        let by_name = if value.metric.ends_with("distance") { Scale::Distance } else { Scale::Similarity };
        Matrix::new(value.models, value.metric, value.scale.unwrap_or(by_name), value.matrix)
    }
}

impl Matrix {
    /// A matrix of `values[i][j]` between `models[i]` and `models[j]`.
    ///
    /// # Errors
    /// [`MetricsError::Matrix`] unless it is square, as long as the list of models, symmetric (to 1e-9 of the larger
    /// value) and finite; [`MetricsError::NoModels`], [`MetricsError::DuplicateModel`].
    pub fn new(
        models: Vec<String>,
        metric: impl Into<String>,
        scale: Scale,
        values: Vec<Vec<Option<f64>>>,
    ) -> Result<Matrix, MetricsError> {
        check_names(&models)?;
        let n = models.len();
        let wrong = |message: String| Err(MetricsError::Matrix { message });
        if values.len() != n || values.iter().any(|row| row.len() != n) {
            return wrong(format!("{n} models take {n} rows of {n} values"));
        }
        for (i, row) in values.iter().enumerate() {
            for (j, &a) in row.iter().enumerate() {
                let b = values[j][i];
                let symmetric = match (a, b) {
                    (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
                    (None, None) => true,
                    _ => false,
                };
                if !symmetric || a.is_some_and(|value| !value.is_finite()) {
                    return wrong(format!("rows {i} and {j}, counted from 0, have {a:?} and {b:?} for the same pair"));
                }
            }
        }
        Ok(Matrix { models, metric: metric.into(), scale, matrix: values })
    }

    /// A matrix whose properties are known to hold.
    pub(crate) fn trusted(models: Vec<String>, metric: &str, scale: Scale, matrix: Vec<Vec<Option<f64>>>) -> Matrix {
        Matrix { models, metric: metric.to_string(), scale, matrix }
    }

    /// Names of the models, in the order of rows and columns.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// Name of the metric.
    pub fn metric(&self) -> &str {
        &self.metric
    }

    /// Whether the figures are similarities or distances.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Number of models.
    pub fn n(&self) -> usize {
        self.models.len()
    }

    /// The figure between models `i` and `j`; `None` for a pair without one, or no such model.
    pub fn get(&self, i: usize, j: usize) -> Option<f64> {
        *self.matrix.get(i)?.get(j)?
    }

    /// All figures, row by row.
    pub fn rows(&self) -> &[Vec<Option<f64>>] {
        &self.matrix
    }

    /// The dissimilarity of models `i` and `j`: 1 − similarity (at least 0), or the distance.
    pub fn dissimilarity(&self, i: usize, j: usize) -> Option<f64> {
        self.get(i, j).map(|value| match self.scale {
            Scale::Similarity => (1.0 - value).max(0.0),
            Scale::Distance => value,
        })
    }

    /// The document described at the type, on one line.
    pub fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Reads what [`Matrix::to_json`] wrote.
    ///
    /// # Errors
    /// [`MetricsError::Matrix`].
    pub fn from_json(text: &str) -> Result<Matrix, MetricsError> {
        serde_json::from_str(text).map_err(|error| MetricsError::Matrix { message: error.to_string() })
    }

    /// The matrix as CSV (RFC 4180 but for line ends, which are LF): a row of names behind the metric's, then a row per
    /// model with its name; a missing value is an empty field. Every digit is written, so that values read
    /// back the same.
    pub fn to_csv(&self) -> String {
        let mut text = csv_field(&self.metric);
        for name in &self.models {
            text += ",";
            text += &csv_field(name);
        }
        text += "\n";
        for (name, row) in self.models.iter().zip(&self.matrix) {
            text += &csv_field(name);
            for value in row {
                text += ",";
                text += &value.map_or(String::new(), |value| value.to_string());
            }
            text += "\n";
        }
        text
    }
}

pub(crate) fn check_names(models: &[String]) -> Result<(), MetricsError> {
    if models.is_empty() {
        return Err(MetricsError::NoModels);
    }
    match models.iter().enumerate().find(|(i, name)| models[..*i].contains(name)) {
        Some((_, name)) => Err(MetricsError::DuplicateModel { name: name.clone() }),
        None => Ok(()),
    }
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let values = vec![vec![Some(1.0), Some(0.1 + 0.2)], vec![Some(0.1 + 0.2), None]];
        Matrix::new(vec!["a".into(), "b, \"c\"".into()], "cosine", Scale::Similarity, values).unwrap()
    }

    #[test]
    fn json_reads_back_and_has_null_for_what_is_not_there() {
        let json = matrix().to_json();
        assert_eq!(
            json,
            r#"{"models":["a","b, \"c\""],"metric":"cosine","scale":"similarity","matrix":[[1.0,0.30000000000000004],[0.30000000000000004,null]]}"#
        );
        assert_eq!(Matrix::from_json(&json).unwrap(), matrix());
        let distance = Matrix::from_json(r#"{"models":["a"],"metric":"l2_distance","matrix":[[0]]}"#).unwrap();
        assert_eq!(distance.scale(), Scale::Distance);
    }

    #[test]
    fn csv_quotes_names_and_leaves_fields_empty() {
        assert_eq!(
            matrix().to_csv(),
            "cosine,a,\"b, \"\"c\"\"\"\na,1,0.30000000000000004\n\"b, \"\"c\"\"\",0.30000000000000004,\n"
        );
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let check = |models: &[&str], values: Vec<Vec<Option<f64>>>, needle: &str| {
            let models = models.iter().map(|name| name.to_string()).collect();
            let error = Matrix::new(models, "m", Scale::Similarity, values).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        };
        check(&[], vec![], "no models");
        check(&["a", "a"], vec![vec![None; 2]; 2], "two models are called `a`");
        check(&["a", "b"], vec![vec![None; 2]], "2 rows of 2");
        check(&["a", "b"], vec![vec![None, Some(0.5)], vec![Some(0.6), None]], "same pair");
        check(&["a", "b"], vec![vec![None, Some(0.5)], vec![None, None]], "same pair");
        check(&["a"], vec![vec![Some(f64::NAN)]], "NaN");
        assert!(Matrix::from_json("{").is_err());
    }
}
