//! A difference to two factors of low rank.

use crate::options::RankRule;
use glue_linalg::{LinalgError, Svd, svd};
use glue_tensor::{ConvertError, Dtype, narrow, widen};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

/// The smallest number of `values`, which are singular values in descending order, whose squares add up to `share` of
/// the squares of all; 0 where all are 0. Sums are in `f64`, from the largest value on.
pub fn rank_for_energy(values: &[f32], share: f64) -> usize {
    let squares = || values.iter().map(|s| f64::from(*s).powi(2));
    let total: f64 = squares().sum();
    let mut kept = 0.0;
    let mut rank = 0;
    for square in squares() {
        if kept >= share * total {
            break;
        }
        kept += square;
        rank += 1;
    }
    rank
}

/// The factors of a matrix Δ ≈ L·R.
pub(crate) struct Factors {
    /// L = U√s, rows×rank.
    pub(crate) left: Array2<f32>,
    /// R = √s Vᵀ, rank×columns.
    pub(crate) right: Array2<f32>,
    /// Squares of the singular values that are kept, added up.
    pub(crate) kept: f64,
}

impl Factors {
    pub(crate) fn rank(&self) -> usize {
        self.left.ncols()
    }
}

/// As many singular triples of Δ as `rule` can ask for. A randomised decomposition of the first few could take the place
/// of the full one where the rank is fixed and small.
fn triples(delta: ArrayView2<'_, f32>, _rule: RankRule) -> Result<Svd<f32>, LinalgError> {
    svd(delta)
}

/// The factors of `delta`, which is not zero.
pub(crate) fn factors(delta: ArrayView2<'_, f32>, rule: RankRule) -> Result<Factors, LinalgError> {
    let parts = triples(delta, rule)?;
    let all = parts.values.to_vec();
    let rank = match rule {
        RankRule::Fixed(rank) => rank,
        RankRule::Energy { share, most } => rank_for_energy(&all, share).min(most.unwrap_or(usize::MAX)),
    };
    let rank = rank.clamp(1, all.len());
    let roots: Array1<f32> = all[..rank].iter().map(|s| s.sqrt()).collect();
    Ok(Factors {
        left: &parts.u.slice(s![.., ..rank]) * &roots,
        right: &parts.vt.slice(s![..rank, ..]) * &roots.insert_axis(Axis(1)),
        kept: all[..rank].iter().map(|s| f64::from(*s).powi(2)).sum(),
    })
}

/// `matrix` in row-major order as elements of `dtype`; afterwards it holds what those elements are.
pub(crate) fn stored(matrix: &mut Array2<f32>, dtype: Dtype) -> Result<Vec<u8>, ConvertError> {
    let mut values: Vec<f32> = matrix.iter().copied().collect();
    let mut bytes = vec![0; values.len() * dtype.size()];
    narrow(dtype, &values, &mut bytes)?;
    widen(dtype, &bytes, &mut values)?;
    matrix.iter_mut().zip(values).for_each(|(x, y)| *x = y);
    Ok(bytes)
}

/// The sum of squares of Δ − L·R, in place of Δ.
pub(crate) fn squares_left(mut delta: Array2<f32>, factors: &Factors) -> f64 {
    general_mat_mul(-1.0, &factors.left, &factors.right, 1.0, &mut delta);
    delta.iter().map(|x| f64::from(*x).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    //! Ranks and errors that can be worked out by hand.
    use super::*;
    use ndarray::array;
    use proptest::prelude::*;

    #[test]
    fn the_rank_is_the_smallest_that_holds_the_share() {
        // Squares 16, 9, 4, 1 of 30: shares 0.533, 0.833, 0.967, 1.
        let values = [4.0, 3.0, 2.0, 1.0, 0.0];
        let check = |share, expected| assert_eq!(rank_for_energy(&values, share), expected, "{share}");
        check(0.1, 1);
        check(0.5, 1);
        check(0.54, 2);
        check(25.0 / 30.0, 2);
        check(0.84, 3);
        check(0.97, 4);
        check(1.0, 4);
        assert_eq!(rank_for_energy(&[0.0, 0.0], 0.9), 0);
        assert_eq!(rank_for_energy(&[], 0.9), 0);
    }

    /// Singular values 4, 3, 2, 1: a diagonal with its rows exchanged and a sign.
    fn by_hand() -> Array2<f32> {
        array![[0.0, -3.0, 0.0, 0.0], [4.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 2.0, 0.0]]
    }

    #[test]
    fn a_matrix_worked_out_by_hand() {
        for (rule, rank, kept) in [
            (RankRule::Fixed(1), 1, 16.0),
            (RankRule::Fixed(3), 3, 29.0),
            (RankRule::Fixed(99), 4, 30.0),
            (RankRule::Energy { share: 0.8, most: None }, 2, 25.0),
            (RankRule::Energy { share: 0.95, most: None }, 3, 29.0),
            (RankRule::Energy { share: 0.95, most: Some(2) }, 2, 25.0),
        ] {
            let found = factors(by_hand().view(), rule).unwrap();
            assert_eq!(found.rank(), rank, "{rule:?}");
            // Singular values of integers below 5 come out to a few units of 6e-8 in the last place.
            assert!((found.kept - kept).abs() < 1e-4, "{rule:?}: {}", found.kept);
            let left = squares_left(by_hand(), &found);
            assert!((left - (30.0 - kept)).abs() < 1e-4, "{rule:?}: {left}");
            // Both factors carry the same share of each singular value.
            for k in 0..rank {
                let norm = |x: ndarray::ArrayView1<'_, f32>| x.dot(&x);
                let (l, r) = (norm(found.left.column(k)), norm(found.right.row(k)));
                assert!((l - r).abs() < 1e-5 * l, "{l} and {r}");
            }
        }
    }

    #[test]
    fn what_is_stored_is_what_is_counted_with() {
        let mut matrix = array![[1.0_f32, 1.003], [0.1, -2.0]];
        let bytes = stored(&mut matrix, Dtype::Bf16).unwrap();
        assert_eq!(bytes.len(), 8);
        assert_eq!(matrix, array![[1.0, 1.0], [0.100_097_656, -2.0]]);
        assert!(stored(&mut matrix, Dtype::I8).is_err());
    }

    proptest! {
        #[test]
        fn full_rank_restores_any_matrix(m in 1_usize..20, n in 1_usize..20, seed in 0_u32..100) {
            let number = |(i, j): (usize, usize)| ((i * 31 + j * 17 + seed as usize) * 2_654_435_761 % 1000) as f32 / 500.0 - 1.0;
            let a = Array2::from_shape_fn((m, n), number);
            let size: f64 = a.iter().map(|x| f64::from(*x).powi(2)).sum();
            let found = factors(a.view(), RankRule::Fixed(usize::MAX)).unwrap();
            prop_assert_eq!(found.rank(), m.min(n));
            // Backward error of a decomposition in f32, 6e-8 times a modest factor, squared.
            prop_assert!(squares_left(a, &found) <= (1e-5_f64).powi(2) * size + 1e-12);
        }
    }
}
