//! Sums in `f64` that come out the same however the elements are cut into blocks.

/// Number of running sums; element `i` of a tensor goes to sum `i % STRIPES`.
const STRIPES: usize = 16;

/// A sum over the elements of a tensor, kept as 16 running sums so that the compiler can use SIMD. The index of an
/// element in the tensor decides which of them it goes to, so blocks of any length give the same bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StripedSum([f64; STRIPES]);

impl Default for StripedSum {
    fn default() -> Self {
        Self([0.0; STRIPES])
    }
}

impl StripedSum {
    /// Adds `term(x[j], y[j])` for all `j`; `offset` is the index in the tensor of the first element.
    #[inline]
    pub fn add2(&mut self, offset: usize, x: &[f32], y: &[f32], term: impl Fn(f32, f32) -> f64) {
        let n = x.len().min(y.len());
        let (x, y) = (&x[..n], &y[..n]);
        let head = (offset.wrapping_neg() % STRIPES).min(n);
        let first = offset % STRIPES;
        for j in 0..head {
            self.0[first + j] += term(x[j], y[j]);
        }
        let (x, y) = (&x[head..], &y[head..]);
        let mut sums = self.0;
        let (xs, ys) = (x.chunks_exact(STRIPES), y.chunks_exact(STRIPES));
        let (x_rest, y_rest) = (xs.remainder(), ys.remainder());
        for (x, y) in xs.zip(ys) {
            for l in 0..STRIPES {
                sums[l] += term(x[l], y[l]);
            }
        }
        self.0 = sums;
        for (l, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
            self.0[l] += term(*x, *y);
        }
    }

    /// Adds `term(x[j])` for all `j`; `offset` is the index in the tensor of the first element.
    #[inline]
    pub fn add(&mut self, offset: usize, x: &[f32], term: impl Fn(f32) -> f64) {
        self.add2(offset, x, x, |x, _| term(x));
    }

    /// Adds `Σ x[j]·y[j]`.
    pub fn dot(&mut self, offset: usize, x: &[f32], y: &[f32]) {
        self.add2(offset, x, y, |x, y| f64::from(x) * f64::from(y));
    }

    /// Adds what was summed over the elements that follow.
    pub fn combine(&mut self, later: &Self) {
        for (sum, more) in self.0.iter_mut().zip(later.0) {
            *sum += more;
        }
    }

    /// [Combines](Self::combine) each of several sums with its own.
    pub(crate) fn combine_all(sums: &mut [Self], later: &[Self]) {
        sums.iter_mut().zip(later).for_each(|(sum, later)| sum.combine(later));
    }

    /// The sum.
    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_do_not_change_the_bits() {
        let x: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1013) as f32 / 31.0 - 16.0).collect();
        let mut whole = StripedSum::default();
        whole.dot(0, &x, &x);
        for length in [1, 7, 16, 53, 999] {
            let mut cut = StripedSum::default();
            for (b, block) in x.chunks(length).enumerate() {
                cut.dot(b * length, block, block);
            }
            assert_eq!(cut, whole, "blocks of {length}");
        }
        let plain: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((whole.total() / plain - 1.0).abs() < 1e-14);
    }
}
