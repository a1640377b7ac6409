//! What can be gathered about a tensor.
//!
//! The names are those by which merge operators ask for statistics.

use glue_merge::StatisticSpec;
use std::fmt;
use std::str::FromStr;

/// A statistic of a weight tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Statistic {
    /// Mean over tokens of the absolute value of each input of a matrix, \[in\].
    Activation,
    /// Mean over tokens of the outer product of the input of a matrix with itself, [in, in].
    Gram,
    /// Mean over sequences of the squared gradient of the log-likelihood, of the tensor's shape.
    Fisher,
}

impl Statistic {
    /// All of them.
    pub const ALL: [Statistic; 3] = [Statistic::Activation, Statistic::Gram, Statistic::Fisher];

    /// `activation`, `gram` or `fisher`.
    pub fn name(self) -> &'static str {
        match self {
            Statistic::Activation => StatisticSpec::ACTIVATION,
            Statistic::Gram => StatisticSpec::GRAM,
            Statistic::Fisher => StatisticSpec::FISHER,
        }
    }

    /// The name of the tensor that holds the statistic of `tensor`.
    pub fn tensor_name(self, tensor: &str) -> String {
        format!("{tensor}.{}", self.name())
    }

    /// What a value is a mean of.
    pub fn mean_of(self) -> &'static str {
        match self {
            Statistic::Activation => "mean over tokens of the absolute input",
            Statistic::Gram => "mean over tokens of the outer product of the input with itself",
            Statistic::Fisher => "mean over sequences of the squared gradient of the log-likelihood",
        }
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Statistic {
    type Err = String;

    /// # Errors
    /// A message with the known names.
    fn from_str(name: &str) -> Result<Statistic, String> {
        let names = || Statistic::ALL.map(Statistic::name).join(", ");
        let found = Statistic::ALL.into_iter().find(|statistic| statistic.name() == name);
        found.ok_or_else(|| format!("unknown statistic `{name}`, expected one of {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        assert!(Statistic::ALL.into_iter().all(|statistic| statistic.to_string().parse() == Ok(statistic)));
        let error = "hessian".parse::<Statistic>().unwrap_err();
        assert_eq!(error, "unknown statistic `hessian`, expected one of activation, gram, fisher");
        assert_eq!(Statistic::Gram.tensor_name("a.weight"), "a.weight.gram");
    }
}
