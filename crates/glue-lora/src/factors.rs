//! A difference to two factors of low rank.

use crate::options::{Decomposition, RankRule};
use glue_linalg::{LinalgError, Randomised, Svd, add_product, svd_by_gram, truncated_svd};
use glue_tensor::{ConvertError, Dtype, first_nonfinite, narrow, widen};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

/// The smallest rank that keeps a fraction of the energy: how many of `values`, singular values in descending order,
/// are needed for their squares to add up to `fraction` of the sum of all squares. 0 where all are 0. Sums are in
/// `f64`, largest value first.
pub fn rank_for_energy(values: &[f64], fraction: f64) -> usize {
    let total: f64 = values.iter().map(|s| s.powi(2)).sum();
    rank_for_sum(values, fraction * total)
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

/// The rank that the randomised decomposition starts with where a fraction of the energy decides.
const FIRST_RANK: usize = 32;
/// Where more than one in this many triples is needed, finding all takes little longer.
const SMALL_PART: usize = 4;

/// Whether the first triples of a matrix are found without the others; `side` is the smaller one of the matrix.
pub(crate) fn finds_first(rank: usize, side: usize, svd: Decomposition) -> bool {
    svd == Decomposition::Randomised && rank < side / SMALL_PART
}

/// The singular triples of `delta`, as many as `rule` can ask for at least, or all.
fn triples(delta: ArrayView2<'_, f32>, rule: RankRule, svd: Decomposition) -> Result<Svd<f64>, LinalgError> {
    let side = delta.nrows().min(delta.ncols());
    let (mut rank, sum, max_rank) = match rule {
        RankRule::Fixed(rank) => (rank, f64::INFINITY, rank),
        RankRule::Energy { fraction, max_rank } => {
            let max_rank = max_rank.unwrap_or(usize::MAX);
            (FIRST_RANK.min(max_rank), fraction * squares(delta), max_rank)
        }
    };
    while finds_first(rank, side, svd) {
        // Neighbouring triples of differences of weights are of almost the same size: more products tell them apart.
        let options = Randomised { oversampling: (rank / 2).max(10), power_iterations: 4, seed: 0 };
        let Svd { u, values, vt } = truncated_svd(delta, rank, &options)?;
        let values = values.mapv(f64::from);
        if rank >= max_rank || values.iter().map(|s| s.powi(2)).sum::<f64>() >= sum {
            return Ok(Svd { u: u.mapv(f64::from), values, vt: vt.mapv(f64::from) });
        }
        rank = (4 * rank).min(max_rank);
    }
    svd_by_gram(delta)
}

fn squares(matrix: ArrayView2<'_, f32>) -> f64 {
    matrix.iter().map(|x| f64::from(*x).powi(2)).sum()
}

/// The factors of `delta`, which is not zero. Their rank never exceeds its numerical rank.
pub(crate) fn factors(delta: ArrayView2<'_, f32>, rule: RankRule, svd: Decomposition) -> Result<Factors, LinalgError> {
    let Svd { u, values, vt } = triples(delta, rule, svd)?;
    let all = values.to_vec();
    let rank = match rule {
        RankRule::Fixed(rank) => rank,
        RankRule::Energy { fraction, max_rank } => {
            rank_for_sum(&all, fraction * squares(delta)).min(max_rank.unwrap_or(usize::MAX))
        }
    };
    let rank = rank.clamp(1, all.len());
    let roots: Array1<f64> = all[..rank].iter().map(|s| s.sqrt()).collect();
    Ok(Factors {
        left: (&u.slice(s![.., ..rank]) * &roots).mapv(|x| x as f32),
        right: (&vt.slice(s![..rank, ..]) * &roots.insert_axis(Axis(1))).mapv(|x| x as f32),
        kept: all[..rank].iter().map(|s| s.powi(2)).sum(),
    })
}

/// Why a factor cannot be stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StoreError {
    /// Its type holds no such numbers at all.
    Convert(ConvertError),
    /// An element is beyond the range of its type.
    Overflow { value: f32, dtype: Dtype },
}

impl From<ConvertError> for StoreError {
    fn from(error: ConvertError) -> Self {
        Self::Convert(error)
    }
}

/// `matrix` in row-major order as elements of `dtype`, all of them finite; `matrix` then holds the rounded values.
pub(crate) fn stored(matrix: &mut Array2<f32>, dtype: Dtype) -> Result<Vec<u8>, StoreError> {
    let mut values: Vec<f32> = matrix.iter().copied().collect();
    let mut bytes = vec![0; values.len() * dtype.size()];
    if !narrow(dtype, &values, &mut bytes)? {
        let at = first_nonfinite(dtype, &bytes)?.unwrap_or(0);
        return Err(StoreError::Overflow { value: values[at], dtype });
    }
    widen(dtype, &bytes, &mut values)?;
    matrix.iter_mut().zip(values).for_each(|(x, y)| *x = y);
    Ok(bytes)
}

/// The sum of squares of Δ − L·R, in place of Δ.
pub(crate) fn residual_squares(mut delta: Array2<f32>, factors: &Factors) -> f64 {
    add_product(-1.0, factors.left.view(), factors.right.view(), delta.view_mut());
    squares(delta.view())
}

#[cfg(test)]
mod tests {
    //! Ranks and errors that can be worked out by hand.
    use super::*;
    use ndarray::array;
    use proptest::prelude::*;

    #[test]
    fn the_rank_is_the_smallest_that_keeps_the_fraction() {
        // Squares 16, 9, 4, 1 of 30: fractions 0.533, 0.833, 0.967, 1.
        let values = [4.0, 3.0, 2.0, 1.0, 0.0];
        let check = |fraction, expected| assert_eq!(rank_for_energy(&values, fraction), expected, "{fraction}");
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
            (RankRule::Energy { fraction: 0.8, max_rank: None }, 2, 25.0),
            (RankRule::Energy { fraction: 0.95, max_rank: None }, 3, 29.0),
            (RankRule::Energy { fraction: 0.95, max_rank: Some(2) }, 2, 25.0),
        ] {
            let found = factors(by_hand().view(), rule, Decomposition::Exact).unwrap();
            assert_eq!(found.rank(), rank, "{rule:?}");
            // Singular values of integers below 5 come out to a few units of 6e-8 in the last place.
            assert!((found.kept - kept).abs() < 1e-4, "{rule:?}: {}", found.kept);
            let residual = residual_squares(by_hand(), &found);
            assert!((residual - (30.0 - kept)).abs() < 1e-4, "{rule:?}: {residual}");
            // Both factors carry the root of each singular value.
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
            let parts = glue_linalg::svd(random.view()).unwrap();
            parts.u.dot(&parts.vt)
        };
        let values = Array1::from_shape_fn(side, |i| 0.9_f32.powi(i as i32));
        (&orthonormal(1) * &values).dot(&orthonormal(500).t())
    }

    #[test]
    fn randomised_factors_are_nearly_the_best() {
        let delta = falling(160);
        let size = squares(delta.view());
        let extract = |rule, svd| {
            let found = factors(delta.view(), rule, svd).unwrap();
            (found.rank(), residual_squares(delta.clone(), &found) / size, found.kept / size)
        };
        for rank in [4, 12, 30] {
            let rule = RankRule::Fixed(rank);
            let ((found, error, kept), (_, least, _)) =
                (extract(rule, Decomposition::Randomised), extract(rule, Decomposition::Exact));
            assert_eq!(found, rank);
            // Of a geometric series, the residual is 0.81^rank; the rest is rounding in f32.
            assert!((least - 0.81_f64.powi(rank as i32)).abs() < 1e-4, "{least}");
            assert!(error <= least * 1.02 + 1e-5, "rank {rank}: {error}, least {least}");
            assert!((kept + error - 1.0).abs() < 1e-4, "rank {rank}: {kept} and {error}");
        }
        // 0.81^16 is the first below 0.05; 0.81^44 is below 1e-4, which more than the first try takes.
        for (fraction, rank) in [(0.95, 15), (0.9999, 44)] {
            let rule = RankRule::Energy { fraction, max_rank: None };
            let (found, error, _) = extract(rule, Decomposition::Randomised);
            assert!(
                found.abs_diff(rank) <= 1 && error <= (1.0 - fraction) * 1.05 + 1e-5,
                "{fraction}: {found}, {error}"
            );
            assert_eq!(extract(RankRule::Energy { fraction, max_rank: Some(7) }, Decomposition::Randomised).0, 7);
        }
    }

    #[test]
    fn what_is_stored_is_what_is_counted_with() {
        let mut matrix = array![[1.0_f32, 1.003], [0.1, -2.0]];
        let bytes = stored(&mut matrix, Dtype::Bf16).unwrap();
        assert_eq!(bytes.len(), 8);
        assert_eq!(matrix, array![[1.0, 1.0], [0.100_097_656, -2.0]]);
        assert_eq!(stored(&mut matrix, Dtype::I8), Err(ConvertError::NotFloat { dtype: Dtype::I8 }.into()));
    }

    /// The largest number of float16 is 65504, and of 8 bits 448; what is rounded up beyond it is an infinity, or NaN.
    #[test]
    fn what_its_type_cannot_hold_is_not_stored() {
        let check = |value: f32, dtype, fits: bool| {
            let found = stored(&mut array![[1.0, value]], dtype);
            let expected = StoreError::Overflow { value, dtype };
            assert_eq!(found.err(), (!fits).then_some(expected), "{value} as {dtype}");
        };
        check(65504.0, Dtype::F16, true);
        check(-65520.0, Dtype::F16, false);
        check(448.0, Dtype::F8E4M3, true);
        check(1e3, Dtype::F8E4M3, false);
        check(1e5, Dtype::Bf16, true);
        check(3.4e38, Dtype::Bf16, false);
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
            prop_assert!(residual_squares(a, &found) <= (1e-5_f64).powi(2) * size + 1e-12);
        }
    }
}
