//! Dot products in plain arithmetic that becomes SIMD.

/// Partial sums of a dot product: two registers of eight.
pub(super) const LANES: usize = 16;

/// The products of some rows with `x`, each row widened on the way. A product is a sum in an order that depends on its
/// length alone: not on the rows beside it.
///
/// Not inlined, and by index: then the lanes of all rows stay in registers.
#[inline(never)]
pub(super) fn dots<const N: usize, E: Copy>(x: &[f32], rows: [&[E]; N], widen: impl Fn(E) -> f32) -> [f32; N] {
    let (x, x_rest) = x.as_chunks::<LANES>();
    let n = x.len();
    let whole = rows.map(|row| &row.as_chunks::<LANES>().0[..n]);
    let mut lanes = [[0.0; LANES]; N];
    for c in 0..n {
        for row in 0..N {
            let w = &whole[row][c];
            for i in 0..LANES {
                lanes[row][i] += x[c][i] * widen(w[i]);
            }
        }
    }
    for row in 0..N {
        let rest = &rows[row][n * LANES..];
        for ((lane, x), w) in lanes[row].iter_mut().zip(x_rest).zip(rest) {
            *lane += x * widen(*w);
        }
    }
    lanes.each_ref().map(total)
}

/// The dot product.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dots(a, [b], |b| b)[0]
}

/// The sum of all lanes. Not inlined: the compiler would make the loops before it narrower to suit it.
#[inline(never)]
pub(super) fn total(lanes: &[f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    let mut lanes = *lanes;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::numbers;

    #[test]
    fn sums_are_those_of_f64_and_do_not_depend_on_company() {
        for k in [0, 1, 15, 16, 17, 100, 576] {
            let (x, rows) = (numbers(k, 1), numbers(4 * k, 2));
            let row = |row: usize| &rows[row * k..][..k];
            let all = dots(&x, [row(0), row(1), row(2), row(3)], |w| w);
            for (i, found) in all.into_iter().enumerate() {
                assert_eq!(found, dot(&x, row(i)));
                let exact: f64 = x.iter().zip(row(i)).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                // Sums of k products of numbers below 1, each rounded to 2^-24.
                assert!((f64::from(found) - exact).abs() < 1e-6 + 1e-7 * k as f64, "{k}: {found} {exact}");
            }
        }
    }
}
