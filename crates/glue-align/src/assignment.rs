//! Exact linear assignment: the permutation that maximises a sum of gains, by the shortest augmenting paths of
//! Jonker and Volgenant (Computing 38, 1987).
//!
//! The solver subtracts and compares costs over and over. In floating point those differences carry rounding errors,
//! with which it can settle on a worse assignment or never end; so gains are first rounded to integers of 36 bits, on
//! which every sum and difference of the algorithm is exact in f64. That is finer than the gains themselves are known:
//! they are sums of f32 products.

use crate::error::AlignError;
use crate::permutation::Permutation;
use lapjv::{Matrix, lapjv};

/// Bits of the largest gain. Prices of the solver are sums of at most n of them, which leaves 2^53 for n up to 2^17.
const BITS: i32 = 36;

/// The permutation p that maximises Σ gains[i, p(i)], and that sum, for `gains` row by row, `n` by `n` and finite.
///
/// Units are rows, and the units assigned to them columns. Among equal assignments the choice is a function of the
/// gains alone.
pub(crate) fn assign(gains: Vec<f64>, n: usize) -> Result<(Permutation, f64), AlignError> {
    let failed = |message: String| AlignError::Assignment { units: n, message };
    if n < 2 {
        return Ok((Permutation::identity(n), gains.first().copied().unwrap_or(0.0)));
    }
    let largest = largest(&gains);
    if largest == 0.0 {
        return Ok((Permutation::identity(n), 0.0));
    }
    let scale = f64::powi(2.0, BITS) / largest;
    let mut costs = gains;
    for cost in &mut costs {
        *cost = -(*cost * scale).round();
    }
    let costs = Matrix::from_shape_vec((n, n), costs).map_err(|error| failed(error.to_string()))?;
    let (columns, _) = lapjv(&costs).map_err(|error| failed(error.to_string()))?;
    let total: f64 = columns.iter().enumerate().map(|(row, &column)| -costs[(row, column)]).sum();
    let sources = columns.into_iter().map(|column| column as u32).collect();
    let permutation = Permutation::new(sources).map_err(|error| failed(error.to_string()))?;
    Ok((permutation, total / scale))
}

/// The better of the best assignment and `current`, with its sum and whether it is another than `current`.
///
/// Another assignment is better only if its sum is greater by more than rounding: n units of the last of 34 bits, four
/// times what [`assign`] rounds by. So what is aligned already stays as it is, however many ties there are.
pub(crate) fn improve(
    gains: Vec<f64>,
    n: usize,
    current: &Permutation,
) -> Result<(Permutation, f64, bool), AlignError> {
    let now = total(&gains, n, current);
    let tolerance = n as f64 * largest(&gains) * f64::powi(2.0, 2 - BITS);
    let (best, gain) = assign(gains, n)?;
    if gain > now + tolerance { Ok((best, gain, true)) } else { Ok((current.clone(), now, false)) }
}

/// Σ gains[i, p(i)].
pub(crate) fn total(gains: &[f64], n: usize, permutation: &Permutation) -> f64 {
    (0..n).map(|i| gains[i * n + permutation.source(i)]).sum()
}

pub(crate) fn largest(gains: &[f64]) -> f64 {
    gains.iter().fold(0.0, |largest: f64, gain| largest.max(gain.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By trying every permutation.
    fn best_of_all(gains: &[f64], n: usize) -> f64 {
        fn search(gains: &[f64], n: usize, row: usize, used: &mut Vec<bool>) -> f64 {
            if row == n {
                return 0.0;
            }
            let mut best = f64::NEG_INFINITY;
            for column in 0..n {
                if !used[column] {
                    used[column] = true;
                    best = best.max(gains[row * n + column] + search(gains, n, row + 1, used));
                    used[column] = false;
                }
            }
            best
        }
        search(gains, n, 0, &mut vec![false; n])
    }

    proptest! {
        #[test]
        fn no_other_permutation_is_better(n in 1usize..7, seed: u64, coarse: bool, scale in -30i32..30) {
            let gains: Vec<f64> = (0..n * n)
                .map(|i| {
                    let x = Permutation::random(1000, seed, i as u64).source(0) as f64 - 500.0;
                    // Coarse gains have many ties.
                    (if coarse { (x / 250.0).round() } else { x }) * f64::powi(2.0, scale)
                })
                .collect();
            let (permutation, gain) = assign(gains.clone(), n).unwrap();
            // n values, each rounded to 36 bits of the largest.
            let tolerance = n as f64 * largest(&gains) * 2e-11;
            prop_assert!((total(&gains, n, &permutation) - gain).abs() <= tolerance);
            prop_assert!((best_of_all(&gains, n) - gain).abs() <= tolerance);
        }

        #[test]
        fn hidden_permutations_are_found(n in 2usize..200, seed: u64) {
            let hidden = Permutation::random(n, seed, 0);
            let gains: Vec<f64> = (0..n * n)
                .map(|i| {
                    let noise = Permutation::random(64, seed, i as u64 + 1).source(0) as f64 / 64.0;
                    if hidden.source(i / n) == i % n { 1.5 + noise } else { noise }
                })
                .collect();
            prop_assert_eq!(assign(gains, n).unwrap().0, hidden);
        }
    }

    #[test]
    fn ties_keep_what_is_there() {
        let current = Permutation::random(8, 1, 1);
        let (kept, gain, changed) = improve(vec![2.5; 64], 8, &current).unwrap();
        assert_eq!((kept, gain, changed), (current, 20.0, false));
        let (identity, gain) = assign(vec![0.0; 9], 3).unwrap();
        assert_eq!((identity.is_identity(), gain), (true, 0.0));
    }
}
