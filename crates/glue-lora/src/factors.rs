//! A difference to two factors of low rank.

use crate::options::{Decomposition, RankRule};
use glue_linalg::{LinalgError, Randomised, Svd, svd_by_gram, truncated_svd};
use glue_tensor::{ConvertError, Dtype, narrow, widen};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

/// The smallest number of `values`, which are singular values in descending order, whose squares add up to `share` of
/// the squares of all; 0 where all are 0. Sums are in `f64`, from the largest value on.
pub fn rank_for_energy(values: &[f64], share: f64) -> usize {
    let total: f64 = values.iter().map(|s| s.powi(2)).sum();
    rank_for_sum(values, share * total)
}

/// The smallest number of `values` whose squares add up to `sum`; all of them where they do not.
fn rank_for_sum(values: &[f64], sum: f64) -> usize {
    let mut kept = 0.0;
    let mut rank = 0;
    for value in values {
        if kept >= sum {
            break;
        }
        kept += value.powi(2);
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

/// The rank that the randomised decomposition begins with where a share of the energy decides.
const FIRST_RANK: usize = 32;
/// Where more than this part of all triples is wanted, finding all takes little longer.
const SMALL_PART: usize = 4;

/// Whether the first triples of a matrix are found without the others; `side` is the smaller one of the matrix.
pub(crate) fn finds_first(rank: usize, side: usize, svd: Decomposition) -> bool {
    svd == Decomposition::Randomised && rank < side / SMALL_PART
}

/// The singular triples of `delta`, as many as `rule` can ask for at least, or all.
fn triples(delta: ArrayView2<'_, f32>, rule: RankRule, svd: Decomposition) -> Result<Svd<f64>, LinalgError> {
    let side = delta.nrows().min(delta.ncols());
    let (mut rank, sum, most) = match rule {
        RankRule::Fixed(rank) => (rank, f64::INFINITY, rank),
        RankRule::Energy { share, most } => {
            let most = most.unwrap_or(usize::MAX);
            (FIRST_RANK.min(most), share * squares(delta), most)
        }
    };
    while finds_first(rank, side, svd) {
        // Neighbouring triples of differences of weights are of almost the same size: more products tell them apart.
        let options = Randomised { oversampling: (rank / 2).max(10), power_iterations: 4, seed: 0 };
        let Svd { u, values, vt } = truncated_svd(delta, rank, &options)?;
        let values = values.mapv(f64::from);
        if rank >= most || values.iter().map(|s| s.powi(2)).sum::<f64>() >= sum {
            return Ok(Svd { u: u.mapv(f64::from), values, vt: vt.mapv(f64::from) });
        }
        rank = (4 * rank).min(most);
    }
    svd_by_gram(delta)
}

fn squares(matrix: ArrayView2<'_, f32>) -> f64 {
    matrix.iter().map(|x| f64::from(*x).powi(2)).sum()
}

/// The factors of `delta`, which is not zero: of at most as high a rank as it has numerically, whatever is asked for.
pub(crate) fn factors(delta: ArrayView2<'_, f32>, rule: RankRule, svd: Decomposition) -> Result<Factors, LinalgError> {
    let Svd { u, values, vt } = triples(delta, rule, svd)?;
    let all = values.to_vec();
    let rank = match rule {
        RankRule::Fixed(rank) => rank,
        RankRule::Energy { share, most } => rank_for_sum(&all, share * squares(delta)).min(most.unwrap_or(usize::MAX)),
    };
    let rank = rank.clamp(1, all.len());
    let roots: Array1<f64> = all[..rank].iter().map(|s| s.sqrt()).collect();
    Ok(Factors {
        left: (&u.slice(s![.., ..rank]) * &roots).mapv(|x| x as f32),
        right: (&vt.slice(s![..rank, ..]) * &roots.insert_axis(Axis(1))).mapv(|x| x as f32),
        kept: all[..rank].iter().map(|s| s.powi(2)).sum(),
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
    squares(delta.view())
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
            let found = factors(by_hand().view(), rule, Decomposition::Exact).unwrap();
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

    /// A matrix of singular values 1, 0.9, 0.81, …: no two far apart, as in differences of weights.
    fn falling(side: usize) -> Array2<f32> {
        let column = |seed: u32| {
            move |(i, j): (usize, usize)| {
                let x =
                    (i as u32).wrapping_mul(2_654_435_761).wrapping_add((j as u32 + seed).wrapping_mul(40_503)) % 1009;
                x as f32 / 504.5 - 1.0
            }
        };
        let orthonormal = |seed| {
            let random = Array2::from_shape_fn((side, side), column(seed));
            glue_linalg::polar_factor(random.view()).unwrap()
        };
        let values = Array1::from_shape_fn(side, |i| 0.9_f32.powi(i as i32));
        (&orthonormal(1) * &values).dot(&orthonormal(500).t())
    }

    #[test]
    fn randomised_factors_are_nearly_the_best() {
        let delta = falling(160);
        let size = squares(delta.view());
        let left = |rule, svd| {
            let found = factors(delta.view(), rule, svd).unwrap();
            (found.rank(), squares_left(delta.clone(), &found) / size, found.kept / size)
        };
        for rank in [4, 12, 30] {
            let rule = RankRule::Fixed(rank);
            let ((found, error, kept), (_, least, _)) =
                (left(rule, Decomposition::Randomised), left(rule, Decomposition::Exact));
            assert_eq!(found, rank);
            // Of a geometric series, what is left is 0.81^rank; the rest is rounding in f32.
            assert!((least - 0.81_f64.powi(rank as i32)).abs() < 1e-4, "{least}");
            assert!(error <= least * 1.02 + 1e-5, "rank {rank}: {error}, least {least}");
            assert!((kept + error - 1.0).abs() < 1e-4, "rank {rank}: {kept} and {error}");
        }
        // 0.81^16 is the first below 0.05; 0.81^44 is below 1e-4, which more than the first try takes.
        for (share, rank) in [(0.95, 15), (0.9999, 44)] {
            let rule = RankRule::Energy { share, most: None };
            let (found, error, _) = left(rule, Decomposition::Randomised);
            assert!(found.abs_diff(rank) <= 1 && error <= (1.0 - share) * 1.05 + 1e-5, "{share}: {found}, {error}");
            assert_eq!(left(RankRule::Energy { share, most: Some(7) }, Decomposition::Randomised).0, 7);
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
            let found = factors(a.view(), RankRule::Fixed(usize::MAX), Decomposition::Exact).unwrap();
            prop_assert!(found.rank() <= m.min(n));
            // Backward error of a decomposition in f32, 6e-8 times a modest factor, squared.
            prop_assert!(squares_left(a, &found) <= (1e-5_f64).powi(2) * size + 1e-12);
        }
    }
}
