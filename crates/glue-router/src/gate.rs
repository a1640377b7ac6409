//! The mathematics of a gate in training: a score for each expert from a state.

use crate::error::RouterError;
use crate::random;
use glue_mixture::RouterKind;
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// A gate in `f64`, as it is trained.
pub type Gate = glue_mixture::Gate<Array2<f64>, Array1<f64>>;

/// What a gate computes, and how it is changed.
pub trait GateMath: Sized {
    /// How many experts it tells apart.
    fn experts(&self) -> usize;

    /// Scores of states [n, width]: [n, experts].
    ///
    /// # Panics
    /// When the states are of another width.
    fn scores(&self, states: ArrayView2<'_, f64>) -> Array2<f64>;

    /// The expert of the highest score for each state; of equals the first.
    ///
    /// # Panics
    /// When the states are of another width.
    fn routes(&self, states: ArrayView2<'_, f64>) -> Vec<usize>;

    /// The start of a training: each weight uniform within ±1/√columns, biases zero. `gate` is its number in the
    /// mixture.
    fn start(kind: RouterKind, experts: usize, width: usize, seed: u64, gate: u64) -> Self;

    /// The same with experts in another order: expert `i` is what `order[i]` was.
    ///
    /// # Errors
    /// [`RouterError::Mismatch`] when `order` is not one of all experts.
    fn permuted(&self, order: &[usize]) -> Result<Self, RouterError>;

    /// The gate as it is stored, in `f32`.
    fn to_stored(&self) -> glue_mixture::Gate;

    /// The gate of these stored values, for `experts` experts and states of `width`.
    ///
    /// # Errors
    /// [`RouterError::Mismatch`] when there are more or fewer values than that takes.
    fn from_stored(stored: &glue_mixture::Gate, experts: usize, width: usize) -> Result<Self, RouterError>;

    /// All parameters in one vector, in the order of the fields.
    fn flat(&self) -> Vec<f64>;

    /// The same gate with these parameters, as many as [`GateMath::flat`] gives.
    #[must_use]
    fn with_flat(&self, values: &[f64]) -> Self;
}

impl GateMath for Gate {
    fn experts(&self) -> usize {
        match self {
            Gate::Linear { weight, .. } => weight.nrows(),
            Gate::Mlp { down_bias, .. } => down_bias.len(),
        }
    }

    fn scores(&self, states: ArrayView2<'_, f64>) -> Array2<f64> {
        match self {
            Gate::Linear { weight, bias } => {
                let scores = states.dot(&weight.t());
                bias.as_ref().map_or_else(|| scores.clone(), |bias| &scores + bias)
            }
            Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => {
                let inner = (states.dot(&up_weight.t()) + up_bias).mapv(silu);
                inner.dot(&down_weight.t()) + down_bias
            }
        }
    }

    fn routes(&self, states: ArrayView2<'_, f64>) -> Vec<usize> {
        let best = |row: ndarray::ArrayView1<'_, f64>| {
            row.iter().enumerate().fold(0, |best, (i, &score)| if score > row[best] { i } else { best })
        };
        self.scores(states).axis_iter(Axis(0)).map(best).collect()
    }

    fn start(kind: RouterKind, experts: usize, width: usize, seed: u64, gate: u64) -> Gate {
        let matrix = |stream: u64, rows: usize, columns: usize| {
            let bound = 1.0 / (columns.max(1) as f64).sqrt();
            let values = random::uniform(seed, 2 * gate + stream, rows * columns, bound);
            Array2::from_shape_fn((rows, columns), |(row, column)| values[row * columns + column])
        };
        match kind {
            RouterKind::Linear => Gate::Linear { weight: matrix(0, experts, width), bias: None },
            RouterKind::Mlp { hidden_size } => Gate::Mlp {
                up_weight: matrix(0, hidden_size, width),
                up_bias: Array1::zeros(hidden_size),
                down_weight: matrix(1, experts, hidden_size),
                down_bias: Array1::zeros(experts),
            },
        }
    }

    fn permuted(&self, order: &[usize]) -> Result<Gate, RouterError> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if sorted.iter().copied().ne(0..self.experts()) {
            return Err(RouterError::Mismatch {
                what: "experts in an order".into(),
                expected: self.experts(),
                found: order.len(),
            });
        }
        Ok(match self {
            Gate::Linear { weight, bias } => Gate::Linear {
                weight: weight.select(Axis(0), order),
                bias: bias.as_ref().map(|bias| bias.select(Axis(0), order)),
            },
            Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => Gate::Mlp {
                up_weight: up_weight.clone(),
                up_bias: up_bias.clone(),
                down_weight: down_weight.select(Axis(0), order),
                down_bias: down_bias.select(Axis(0), order),
            },
        })
    }

    fn to_stored(&self) -> glue_mixture::Gate {
        self.map(|m| m.iter().map(|&x| x as f32).collect(), |v| v.iter().map(|&x| x as f32).collect())
    }

    fn from_stored(stored: &glue_mixture::Gate, experts: usize, width: usize) -> Result<Gate, RouterError> {
        let inner = match stored.kind() {
            RouterKind::Linear => 0,
            RouterKind::Mlp { hidden_size } => hidden_size,
        };
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect();
        stored.try_map(
            |name, values| {
                let (rows, columns) = match name {
                    "up.weight" => (inner, width),
                    "down.weight" => (experts, inner),
                    _ => (experts, width),
                };
                matrix_of(name, wide(values), rows, columns)
            },
            |name, values| {
                let len = if name == "up.bias" { inner } else { experts };
                Ok(matrix_of(name, wide(values), 1, len)?.row(0).to_owned())
            },
        )
    }

    fn flat(&self) -> Vec<f64> {
        match self {
            Gate::Linear { weight, bias } => weight.iter().chain(bias.iter().flatten()).copied().collect(),
            Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => {
                up_weight.iter().chain(up_bias).chain(down_weight).chain(down_bias).copied().collect()
            }
        }
    }

    fn with_flat(&self, values: &[f64]) -> Gate {
        let values = std::cell::RefCell::new(values.iter());
        let next = |&old: &f64| values.borrow_mut().next().copied().unwrap_or(old);
        self.map(|matrix| matrix.map(next), |vector| vector.map(next))
    }
}

/// The values of the gate's tensor `name` as a matrix.
pub(crate) fn matrix_of(name: &str, values: Vec<f64>, rows: usize, columns: usize) -> Result<Array2<f64>, RouterError> {
    let found = values.len();
    Array2::from_shape_vec((rows, columns), values).map_err(|_| RouterError::Mismatch {
        what: format!("elements of the gate's {name}"),
        expected: rows * columns,
        found,
    })
}

/// The gate that reads x as this one reads (x - mean)·factor.
pub(crate) fn unstandardised(gate: Gate, mean: &Array1<f64>, factor: &Array1<f64>) -> Gate {
    match gate {
        Gate::Linear { weight, bias } => {
            let weight = weight * factor;
            let bias = bias.unwrap_or_else(|| Array1::zeros(weight.nrows())) - weight.dot(mean);
            Gate::Linear { weight, bias: Some(bias) }
        }
        Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => {
            let up_weight = up_weight * factor;
            let up_bias = up_bias - up_weight.dot(mean);
            Gate::Mlp { up_weight, up_bias, down_weight, down_bias }
        }
    }
}

/// x·σ(x).
pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The derivative of [`silu`].
pub(crate) fn silu_slope(x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    sigmoid * (1.0 + x * (1.0 - sigmoid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn mlp() -> Gate {
        let Gate::Mlp { up_weight, down_weight, .. } = Gate::start(RouterKind::Mlp { hidden_size: 3 }, 2, 4, 5, 0)
        else {
            unreachable!("an MLP was asked for")
        };
        Gate::Mlp { up_weight, up_bias: array![0.1, 0.2, -0.3], down_weight, down_bias: array![0.5, -0.5] }
    }

    #[test]
    fn standardisation_can_be_folded_in() {
        let states = array![[1.0, 2.0, -1.0, 0.5], [0.0, 4.0, 3.0, 2.5]];
        let (mean, factor) = (array![0.5, 3.0, 1.0, 1.5], array![2.0, 0.0, 1.5, 0.25]);
        let standardised = (&states - &mean) * &factor;
        for gate in [mlp(), Gate::start(RouterKind::Linear, 2, 4, 1, 0)] {
            let expected = gate.scores(standardised.view());
            let found = unstandardised(gate, &mean, &factor).scores(states.view());
            // Rounding of f64.
            assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-12), "{expected} {found}");
        }
    }

    #[test]
    fn experts_in_another_order_have_their_scores_in_that_order() {
        let states = array![[1.0, 2.0, -1.0, 0.5]];
        let gate = mlp();
        let (before, after) = (gate.scores(states.view()), gate.permuted(&[1, 0]).unwrap().scores(states.view()));
        assert_eq!([before[[0, 0]], before[[0, 1]]], [after[[0, 1]], after[[0, 0]]]);
        assert!(gate.permuted(&[0, 0]).is_err() && gate.permuted(&[0]).is_err());
    }

    #[test]
    fn parameters_in_one_are_the_parameters() {
        for gate in [mlp(), Gate::start(RouterKind::Linear, 2, 4, 1, 0)] {
            let doubled: Vec<f64> = gate.flat().iter().map(|x| 2.0 * x).collect();
            let doubled = gate.with_flat(&doubled);
            assert!(doubled.flat().iter().zip(gate.flat()).all(|(a, b)| *a == 2.0 * b));
            let again = Gate::from_stored(&doubled.to_stored(), 2, 4).unwrap();
            // Rounding to f32.
            assert!(again.flat().iter().zip(doubled.flat()).all(|(a, b)| (a - b).abs() <= 1e-7 * b.abs()));
            assert!(Gate::from_stored(&doubled.to_stored(), 2, 5).is_err());
        }
    }

    #[test]
    fn the_slope_of_silu_is_its_difference_quotient() {
        for x in [-3.0, -0.5, 0.0, 0.7, 4.0] {
            let h = 1e-6;
            let quotient = (silu(x + h) - silu(x - h)) / (2.0 * h);
            // The error of a central difference: h² and ε/h.
            assert!((quotient - silu_slope(x)).abs() < 1e-9);
        }
    }

    #[test]
    fn of_equal_scores_the_first_expert_counts() {
        let gate = Gate::Linear { weight: array![[0.0], [0.0], [0.0]], bias: None };
        assert_eq!(gate.routes(array![[1.0], [2.0]].view()), [0, 0]);
    }
}
