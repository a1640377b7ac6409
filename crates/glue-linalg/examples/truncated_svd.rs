//! Approximates a matrix by its first singular triples, and compares the error with the best one there is.

use glue_linalg::{LinalgError, Randomised, add_product, singular_values, truncated_svd};
use ndarray::Array2;

fn main() -> Result<(), LinalgError> {
    let rank = 4;
    let a = Array2::from_shape_fn((200, 150), |(i, j)| 1.0 / (1.0 + i as f64 + (j as f64).powf(1.5)));
    let first = truncated_svd(a.view(), rank, &Randomised::default())?;
    let mut residual = a.clone();
    add_product(-1.0, (&first.u * &first.values).view(), first.vt.view(), residual.view_mut());
    println!("spectral norm of the residual: {:.3e}", singular_values(residual.view())?[0]);
    println!("singular value {}, the least error: {:.3e}", rank + 1, singular_values(a.view())?[rank]);
    Ok(())
}
