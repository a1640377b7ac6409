//! Core Space: low-rank changes of one matrix, expressed in bases that hold all of them, where they are small.
//!
//! Panariello et al., *Accurate and efficient low-rank model merging in Core Space*, arXiv 2509.17786: of the changes
//! Δt = Bt·At, the columns of the Bt side by side span the columns of every Δt, and the rows of the At, one below the
//! other, span their rows. With the singular vectors
//!
//! ```text
//! [B1 … BT] = U·S·Wᵀ      [A1; …; AT] = Z·S'·Vᵀ
//! Mt = Uᵀ·Bt·At·V          Δt = U·Mt·Vᵀ
//! ```
//!
//! each Mt holds all of Δt. U and V have orthonormal columns, so that sums, norms, inner products and singular values
//! of the Mt are those of the Δt. An operator merges the Mt to M, and U·M·Vᵀ is the merged change. M = P·diag(σ)·Qᵀ
//! gives its factors U·P·√σ and √σ·Qᵀ·Vᵀ.
//!
//! The scale of an adapter is part of its B. U and V have as many columns as the stacks have independent columns and
//! rows: a direction that no adapter has would add zeros to every Mt, which operators that keep a fraction of the
//! elements would count. Singular values of M below the rounding of `f32`, in which it is merged, are left out.
//!
//! The largest matrices are the stacks: rows × Σ rt and Σ rt × columns, in `f64`.

use glue_linalg::{LinalgError, Svd, product, svd};
use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};

/// One change of low rank, left·right.
pub(crate) struct Factor {
    /// rows×r.
    pub(crate) left: Array2<f64>,
    /// r×columns.
    pub(crate) right: Array2<f64>,
}

/// Bases that hold several changes of one matrix.
pub(crate) struct CoreSpace {
    /// U, rows×p.
    left: Array2<f64>,
    /// Vᵀ, q×columns.
    right: Array2<f64>,
}

/// The factors of a merged change.
pub(crate) struct MergedFactors {
    /// rows×r.
    pub(crate) left: Array2<f32>,
    /// r×columns.
    pub(crate) right: Array2<f32>,
}

impl CoreSpace {
    /// The bases of `changes`, of which there is at least one and all have the same rows and columns.
    pub(crate) fn of(changes: &[&Factor]) -> Result<CoreSpace, LinalgError> {
        let lefts: Vec<ArrayView2<'_, f64>> = changes.iter().map(|change| change.left.view()).collect();
        let rights: Vec<ArrayView2<'_, f64>> = changes.iter().map(|change| change.right.view()).collect();
        let stack = |axis, parts: &[ArrayView2<'_, f64>]| {
            concatenate(Axis(axis), parts).expect("changes of one matrix have the same rows and columns")
        };
        let left = {
            let Svd { u, values, .. } = svd(stack(1, &lefts).view())?;
            let rank = numerical_rank(&values, u.nrows().max(values.len()) as f64 * f64::EPSILON);
            u.slice(s![.., ..rank]).to_owned()
        };
        let Svd { vt, values, .. } = svd(stack(0, &rights).view())?;
        let rank = numerical_rank(&values, vt.ncols().max(values.len()) as f64 * f64::EPSILON);
        Ok(CoreSpace { left, right: vt.slice(s![..rank, ..]).to_owned() })
    }

    /// Rows and columns of the cores; either is 0 if every change is zero.
    pub(crate) fn dim(&self) -> (usize, usize) {
        (self.left.ncols(), self.right.nrows())
    }

    /// Uᵀ·left·right·V, rounded to `f32`, row by row.
    pub(crate) fn core(&self, change: &Factor) -> Result<Vec<f32>, LinalgError> {
        let left = product(self.left.t(), change.left.view())?;
        let right = product(change.right.view(), self.right.t())?;
        Ok(product(left.view(), right.view())?.iter().map(|x| *x as f32).collect())
    }

    /// Factors of U·`core`·Vᵀ, at most `max_rank` singular triples of it; `None` for a change of zero.
    pub(crate) fn factors(
        &self,
        core: ArrayView2<'_, f64>,
        max_rank: usize,
    ) -> Result<Option<MergedFactors>, LinalgError> {
        let Svd { u, values, vt } = svd(core)?;
        let rank = numerical_rank(&values, f64::from(f32::EPSILON)).min(max_rank);
        if rank == 0 {
            return Ok(None);
        }
        let roots: Array1<f64> = values.iter().take(rank).map(|value| value.sqrt()).collect();
        let left = product(self.left.view(), (&u.slice(s![.., ..rank]) * &roots).view())?;
        let right = product((&vt.slice(s![..rank, ..]) * &roots.insert_axis(Axis(1))).view(), self.right.view())?;
        Ok(Some(MergedFactors { left: left.mapv(|x| x as f32), right: right.mapv(|x| x as f32) }))
    }

    /// The sum of squares of U·`core`·Vᵀ − left·right, to about 10⁻¹⁶ of that of `core`, without either product.
    pub(crate) fn residual(&self, core: ArrayView2<'_, f64>, factors: &MergedFactors) -> Result<f64, LinalgError> {
        let (left, right) = (factors.left.mapv(f64::from), factors.right.mapv(f64::from));
        let within =
            product(product(self.left.t(), left.view())?.view(), product(right.view(), self.right.t())?.view())?;
        let inner: f64 = core.iter().zip(&within).map(|(x, y)| x * y).sum();
        let grams = (product(left.t(), left.view())?, product(right.view(), right.t())?);
        let own: f64 = grams.0.iter().zip(&grams.1).map(|(x, y)| x * y).sum();
        Ok((squares(core) - 2.0 * inner + own).max(0.0))
    }
}

/// The sum of squares.
pub(crate) fn squares(matrix: ArrayView2<'_, f64>) -> f64 {
    matrix.iter().map(|x| x * x).sum()
}

/// How many of `values`, in descending order, are above `fraction` of the first.
fn numerical_rank(values: &Array1<f64>, fraction: f64) -> usize {
    let least = fraction * values.first().copied().unwrap_or(0.0);
    values.iter().take_while(|value| **value > least).count()
}

#[cfg(test)]
mod tests {
    //! What is merged in the core is merged.
    use super::*;

    /// Numbers between −1 and 1, no row or column like another.
    fn matrix(rows: usize, columns: usize, seed: usize) -> Array2<f64> {
        let number = |(i, j): (usize, usize)| {
            let mut x = (i * 1000 + j + seed * 1_000_000) as u64;
            for _ in 0..3 {
                x = (x ^ (x >> 15)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            (x >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        Array2::from_shape_fn((rows, columns), number)
    }

    fn change(rows: usize, columns: usize, rank: usize, seed: usize) -> Factor {
        Factor { left: matrix(rows, rank, seed), right: matrix(rank, columns, seed + 50) }
    }

    fn wide(core: Vec<f32>, dim: (usize, usize)) -> Array2<f64> {
        Array2::from_shape_vec(dim, core).unwrap().mapv(f64::from)
    }

    fn largest(matrix: &Array2<f64>) -> f64 {
        matrix.iter().fold(0.0, |largest, x| x.abs().max(largest))
    }

    #[test]
    fn cores_hold_all_of_the_changes() {
        for (rows, columns, ranks) in [(20, 30, [2, 3]), (30, 7, [4, 4]), (5, 6, [5, 4]), (8, 8, [1, 1])] {
            let changes = [change(rows, columns, ranks[0], 1), change(rows, columns, ranks[1], 2)];
            let space = CoreSpace::of(&[&changes[0], &changes[1]]).unwrap();
            let total = ranks[0] + ranks[1];
            assert_eq!(space.dim(), (total.min(rows), total.min(columns)));
            for change in &changes {
                let core = wide(space.core(change).unwrap(), space.dim());
                let whole = change.left.dot(&change.right);
                // Of numbers below 8, rounded to f32: half a unit is 2.4e-7.
                assert!(largest(&(space.left.dot(&core).dot(&space.right) - &whole)) < 5e-6);
                assert!((squares(core.view()) / squares(whole.view()) - 1.0).abs() < 1e-6, "an isometry");
                let factors = space.factors(core.view(), usize::MAX).unwrap().unwrap();
                assert_eq!(factors.left.ncols(), change.left.ncols(), "the rank is that of the change");
                let again = factors.left.dot(&factors.right).mapv(f64::from);
                assert!(largest(&(again - &whole)) < 1e-5);
            }
        }
    }

    #[test]
    fn equal_changes_share_a_basis_and_zeros_have_none() {
        let one = change(12, 9, 3, 4);
        assert_eq!(CoreSpace::of(&[&one, &one]).unwrap().dim(), (3, 3));
        let zero = Factor { left: Array2::zeros((12, 2)), right: matrix(2, 9, 5) };
        let space = CoreSpace::of(&[&zero]).unwrap();
        assert_eq!(space.dim(), (0, 2));
        let space = CoreSpace::of(&[&one, &zero]).unwrap();
        assert_eq!(space.dim(), (3, 5));
        let core = wide(space.core(&zero).unwrap(), space.dim());
        assert!(core.iter().all(|x| *x == 0.0));
        assert!(space.factors(core.view(), 9).unwrap().is_none());
    }

    #[test]
    fn the_residual_is_that_of_the_products() {
        let one = change(15, 11, 6, 7);
        let space = CoreSpace::of(&[&one]).unwrap();
        let core = wide(space.core(&one).unwrap(), space.dim());
        for rank in [1, 3, 5] {
            let factors = space.factors(core.view(), rank).unwrap().unwrap();
            assert_eq!((factors.left.dim(), factors.right.dim()), ((15, rank), (rank, 11)));
            let difference = space.left.dot(&core).dot(&space.right) - factors.left.dot(&factors.right).mapv(f64::from);
            let (found, expected) = (space.residual(core.view(), &factors).unwrap(), squares(difference.view()));
            // In f64 but for the two products of f32, of which the one in the test is rounded once more.
            assert!((found - expected).abs() < 1e-5 * expected, "{found} for {expected}");
        }
    }
}
