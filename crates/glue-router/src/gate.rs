//! A gate in memory: a score for each expert from a state.

use crate::error::RouterError;
use crate::random;
use glue_mixture::RouterKind;
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// A gate: scores = W·x + b, or scores = V·silu(U·x + a) + b.
#[derive(Debug, Clone, PartialEq)]
pub enum Gate {
    /// One matrix.
    Linear {
        /// [experts, width].
        weight: Array2<f64>,
        /// \[experts\]; none is zero.
        bias: Option<Array1<f64>>,
    },
    /// One hidden layer.
    Mlp {
        /// [inner, width].
        up: Array2<f64>,
        /// \[inner\].
        up_bias: Array1<f64>,
        /// [experts, inner].
        down: Array2<f64>,
        /// \[experts\].
        down_bias: Array1<f64>,
    },
}

impl Gate {
    /// How many experts it tells apart.
    pub fn experts(&self) -> usize {
        match self {
            Gate::Linear { weight, .. } => weight.nrows(),
            Gate::Mlp { down, .. } => down.nrows(),
        }
    }

    /// Width of the states it reads.
    pub fn width(&self) -> usize {
        match self {
            Gate::Linear { weight, .. } => weight.ncols(),
            Gate::Mlp { up, .. } => up.ncols(),
        }
    }

    /// Its form.
    pub fn kind(&self) -> RouterKind {
        match self {
            Gate::Linear { .. } => RouterKind::Linear,
            Gate::Mlp { up, .. } => RouterKind::Mlp { hidden_size: up.nrows() },
        }
    }

    /// Scores of states [n, width]: [n, experts].
    ///
    /// # Panics
    /// When the states are of another width.
    pub fn scores(&self, states: ArrayView2<'_, f64>) -> Array2<f64> {
        match self {
            Gate::Linear { weight, bias } => {
                let scores = states.dot(&weight.t());
                bias.as_ref().map_or_else(|| scores.clone(), |bias| &scores + bias)
            }
            Gate::Mlp { up, up_bias, down, down_bias } => {
                let inner = (states.dot(&up.t()) + up_bias).mapv(silu);
                inner.dot(&down.t()) + down_bias
            }
        }
    }

    /// The expert of the highest score for each state; of equals the first.
    ///
    /// # Panics
    /// When the states are of another width.
    pub fn routes(&self, states: ArrayView2<'_, f64>) -> Vec<usize> {
        let best = |row: ndarray::ArrayView1<'_, f64>| {
            row.iter().enumerate().fold(0, |best, (i, &score)| if score > row[best] { i } else { best })
        };
        self.scores(states).axis_iter(Axis(0)).map(best).collect()
    }

    /// A gate drawn at random: elements of weights with `draw(stream, n, columns)`, biases zero.
    pub(crate) fn drawn(
        kind: RouterKind,
        experts: usize,
        width: usize,
        draw: impl Fn(u64, usize, usize) -> Vec<f64>,
    ) -> Gate {
        let matrix = |stream, rows: usize, columns: usize| {
            // As many elements are drawn as the shape has.
            Array2::from_shape_vec((rows, columns), draw(stream, rows * columns, columns))
                .unwrap_or_else(|_| Array2::zeros((rows, columns)))
        };
        match kind {
            RouterKind::Linear => Gate::Linear { weight: matrix(0, experts, width), bias: None },
            RouterKind::Mlp { hidden_size } => Gate::Mlp {
                up: matrix(0, hidden_size, width),
                up_bias: Array1::zeros(hidden_size),
                down: matrix(1, experts, hidden_size),
                down_bias: Array1::zeros(experts),
            },
        }
    }

    /// The start of a training: each weight uniform within ±1/√columns, biases zero.
    pub fn start(kind: RouterKind, experts: usize, width: usize, seed: u64, gate: u64) -> Gate {
        Gate::drawn(kind, experts, width, |stream, n, columns| {
            random::uniform(seed, 2 * gate + stream, n, 1.0 / (columns.max(1) as f64).sqrt())
        })
    }

    /// The same with experts in another order: expert `i` is what `order[i]` was.
    ///
    /// # Errors
    /// [`RouterError::Mismatch`] when `order` is not one of all experts.
    pub fn permuted(&self, order: &[usize]) -> Result<Gate, RouterError> {
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
            Gate::Mlp { up, up_bias, down, down_bias } => Gate::Mlp {
                up: up.clone(),
                up_bias: up_bias.clone(),
                down: down.select(Axis(0), order),
                down_bias: down_bias.select(Axis(0), order),
            },
        })
    }

    /// The gate that reads x as this one reads (x - mean)·factor.
    pub(crate) fn unstandardised(self, mean: &Array1<f64>, factor: &Array1<f64>) -> Gate {
        match self {
            Gate::Linear { weight, bias } => {
                let weight = weight * factor;
                let bias = bias.unwrap_or_else(|| Array1::zeros(weight.nrows())) - weight.dot(mean);
                Gate::Linear { weight, bias: Some(bias) }
            }
            Gate::Mlp { up, up_bias, down, down_bias } => {
                let up = up * factor;
                let up_bias = up_bias - up.dot(mean);
                Gate::Mlp { up, up_bias, down, down_bias }
            }
        }
    }

    /// The gate as it is stored, in `f32`.
    pub fn to_stored(&self) -> glue_mixture::Gate {
        let matrix = |values: &Array2<f64>| values.iter().map(|&x| x as f32).collect();
        let vector = |values: &Array1<f64>| values.iter().map(|&x| x as f32).collect();
        match self {
            Gate::Linear { weight, bias } => {
                glue_mixture::Gate::Linear { weight: matrix(weight), bias: bias.as_ref().map(vector) }
            }
            Gate::Mlp { up, up_bias, down, down_bias } => glue_mixture::Gate::Mlp {
                up_weight: matrix(up),
                up_bias: vector(up_bias),
                down_weight: matrix(down),
                down_bias: vector(down_bias),
            },
        }
    }

    /// The gate of these stored values, for `experts` experts and states of `width`.
    ///
    /// # Errors
    /// [`RouterError::Mismatch`] when there are more or fewer values than that takes.
    pub fn from_stored(stored: &glue_mixture::Gate, experts: usize, width: usize) -> Result<Gate, RouterError> {
        let matrix = |what: &str, values: &[f32], rows: usize, columns: usize| {
            let wide = values.iter().map(|&x| f64::from(x)).collect();
            Array2::from_shape_vec((rows, columns), wide).map_err(|_| RouterError::Mismatch {
                what: format!("elements of the gate's {what}"),
                expected: rows * columns,
                found: values.len(),
            })
        };
        let vector = |what: &str, values: &[f32], len: usize| -> Result<Array1<f64>, RouterError> {
            Ok(matrix(what, values, 1, len)?.row(0).to_owned())
        };
        Ok(match stored {
            glue_mixture::Gate::Linear { weight, bias } => Gate::Linear {
                weight: matrix("weight", weight, experts, width)?,
                bias: bias.as_ref().map(|bias| vector("bias", bias, experts)).transpose()?,
            },
            glue_mixture::Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => {
                let inner = up_bias.len();
                Gate::Mlp {
                    up: matrix("up.weight", up_weight, inner, width)?,
                    up_bias: vector("up.bias", up_bias, inner)?,
                    down: matrix("down.weight", down_weight, experts, inner)?,
                    down_bias: vector("down.bias", down_bias, experts)?,
                }
            }
        })
    }

    /// All parameters in one, in the order of the fields.
    pub(crate) fn flat(&self) -> Vec<f64> {
        match self {
            Gate::Linear { weight, bias } => weight.iter().chain(bias.iter().flatten()).copied().collect(),
            Gate::Mlp { up, up_bias, down, down_bias } => {
                up.iter().chain(up_bias).chain(down).chain(down_bias).copied().collect()
            }
        }
    }

    /// The same with these parameters, as many as [`Gate::flat`] gives.
    pub(crate) fn with_flat(&self, values: &[f64]) -> Gate {
        let mut gate = self.clone();
        let mut values = values.iter();
        let mut fill = |old: &mut f64| {
            if let Some(&new) = values.next() {
                *old = new;
            }
        };
        match &mut gate {
            Gate::Linear { weight, bias } => {
                weight.iter_mut().for_each(&mut fill);
                bias.iter_mut().flatten().for_each(&mut fill);
            }
            Gate::Mlp { up, up_bias, down, down_bias } => {
                up.iter_mut().for_each(&mut fill);
                up_bias.iter_mut().for_each(&mut fill);
                down.iter_mut().for_each(&mut fill);
                down_bias.iter_mut().for_each(&mut fill);
            }
        }
        gate
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
        let Gate::Mlp { up, down, .. } = Gate::start(RouterKind::Mlp { hidden_size: 3 }, 2, 4, 5, 0) else {
            unreachable!("an MLP was asked for")
        };
        Gate::Mlp { up, up_bias: array![0.1, 0.2, -0.3], down, down_bias: array![0.5, -0.5] }
    }

    #[test]
    fn standardisation_can_be_folded_in() {
        let states = array![[1.0, 2.0, -1.0, 0.5], [0.0, 4.0, 3.0, 2.5]];
        let (mean, factor) = (array![0.5, 3.0, 1.0, 1.5], array![2.0, 0.0, 1.5, 0.25]);
        let standardised = (&states - &mean) * &factor;
        for gate in [mlp(), Gate::start(RouterKind::Linear, 2, 4, 1, 0)] {
            let expected = gate.scores(standardised.view());
            let found = gate.unstandardised(&mean, &factor).scores(states.view());
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
