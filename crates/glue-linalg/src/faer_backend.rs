//! The decompositions by `faer`, always on one thread: blocks cut to the number of threads would round otherwise.

use crate::scalar::{NoResult, Thin};
use crate::views::view;
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::qr::no_pivoting::factor as qr;
use faer::linalg::svd::ComputeSvdVectors;
use faer::linalg::{cholesky::llt, evd, householder, svd as faer_svd};
use faer::traits::RealField;
use faer::{Auto, Conj, Mat, MatRef, Par, Spec};
use ndarray::{Array2, NdFloat};

/// A copy by columns, to be overwritten by its factors.
fn to_faer<T: NdFloat + RealField>(a: &Array2<T>) -> Mat<T> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)])
}

fn to_ndarray<T: NdFloat + RealField>(a: MatRef<'_, T>) -> Array2<T> {
    Array2::from_shape_fn(a.shape(), |(i, j)| a[(i, j)])
}

fn values<T: NdFloat + RealField>(s: &Diag<T>) -> Vec<T> {
    s.column_vector().iter().copied().collect()
}

pub(crate) fn svd<T: NdFloat + RealField>(a: &Array2<T>) -> Result<Thin<T>, NoResult>
where
    faer_svd::SvdParams: Auto<T>,
{
    let (m, n) = a.dim();
    let k = m.min(n);
    let (mut u, mut v, mut s) = (Mat::zeros(m, k), Mat::zeros(n, k), Diag::zeros(k));
    let thin = ComputeSvdVectors::Thin;
    let params = Spec::default();
    let mut memory = MemBuffer::new(faer_svd::svd_scratch::<T>(m, n, thin, thin, Par::Seq, params));
    let stack = MemStack::new(&mut memory);
    faer_svd::svd(view(a.view()), s.as_mut(), Some(u.as_mut()), Some(v.as_mut()), Par::Seq, stack, params)
        .map_err(|_| NoResult(None))?;
    Ok((to_ndarray(u.as_ref()), values(&s), to_ndarray(v.transpose())))
}

pub(crate) fn singular_values<T: NdFloat + RealField>(a: &Array2<T>) -> Result<Vec<T>, NoResult>
where
    faer_svd::SvdParams: Auto<T>,
{
    let (m, n) = a.dim();
    let mut s = Diag::zeros(m.min(n));
    let none = ComputeSvdVectors::No;
    let params = Spec::default();
    let mut memory = MemBuffer::new(faer_svd::svd_scratch::<T>(m, n, none, none, Par::Seq, params));
    let stack = MemStack::new(&mut memory);
    faer_svd::svd(view(a.view()), s.as_mut(), None, None, Par::Seq, stack, params).map_err(|_| NoResult(None))?;
    Ok(values(&s))
}

pub(crate) fn eigen<T: NdFloat + RealField>(a: &Array2<T>) -> Result<(Vec<T>, Array2<T>), NoResult>
where
    evd::SelfAdjointEvdParams: Auto<T>,
{
    let n = a.nrows();
    let (mut u, mut s) = (Mat::zeros(n, n), Diag::zeros(n));
    let params = Spec::default();
    let scratch = evd::self_adjoint_evd_scratch::<T>(n, evd::ComputeEigenvectors::Yes, Par::Seq, params);
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    evd::self_adjoint_evd(view(a.view()), s.as_mut(), Some(u.as_mut()), Par::Seq, stack, params)
        .map_err(|_| NoResult(None))?;
    Ok((values(&s), to_ndarray(u.as_ref())))
}

pub(crate) fn cholesky_solve<T: NdFloat + RealField>(a: &Array2<T>, b: &Array2<T>) -> Result<Array2<T>, NoResult>
where
    llt::factor::LltParams: Auto<T>,
{
    let n = a.nrows();
    let (mut factor, mut x) = (to_faer(a), to_faer(b));
    let params = Spec::default();
    let mut memory = MemBuffer::new(llt::factor::cholesky_in_place_scratch::<T>(n, Par::Seq, params));
    let stack = MemStack::new(&mut memory);
    llt::factor::cholesky_in_place(factor.as_mut(), Default::default(), Par::Seq, stack, params).map_err(|e| {
        let llt::factor::LltError::NonPositivePivot { index } = e;
        NoResult(Some(index))
    })?;
    let mut memory = MemBuffer::new(llt::solve::solve_in_place_scratch::<T>(n, b.ncols(), Par::Seq));
    llt::solve::solve_in_place(factor.as_ref(), x.as_mut(), Par::Seq, MemStack::new(&mut memory));
    Ok(to_ndarray(x.as_ref()))
}

pub(crate) fn orthonormal<T: NdFloat + RealField>(a: &Array2<T>) -> Result<Array2<T>, NoResult>
where
    qr::QrParams: Auto<T>,
{
    let (m, n) = a.dim();
    let block = qr::recommended_block_size::<T>(m, n);
    let (mut basis, mut factor, params) = (to_faer(a), Mat::zeros(block, n), Spec::default());
    let mut memory = MemBuffer::new(qr::qr_in_place_scratch::<T>(m, n, block, Par::Seq, params));
    qr::qr_in_place(basis.as_mut(), factor.as_mut(), Par::Seq, MemStack::new(&mut memory), params);
    let mut q = Mat::identity(m, n);
    let scratch = householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<T>(m, block, n);
    householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        basis.as_ref(),
        factor.as_ref(),
        Conj::No,
        q.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    Ok(to_ndarray(q.as_ref()))
}
