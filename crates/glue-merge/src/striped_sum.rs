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
        dots::<_, _, false>(std::slice::from_mut(self), offset, [x, y], &[], [(0, 1)]);
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

/// `sum + x·y`. The product of two numbers of 24 bits has 48 of the 53 that an `f64` holds: fused or not, the bits are
/// the same.
#[inline(always)]
fn plus_product(sum: f64, x: f64, y: f64) -> f64 {
    if cfg!(target_feature = "fma") { x.mul_add(y, sum) } else { sum + x * y }
}

/// Stripes that are summed side by side in registers.
const LANES: usize = 4;

/// Adds the inner product of each of some pairs of vectors, or of their differences from `base`, to a sum of its own.
/// The bits are those of [`StripedSum::dot`] of each pair; here each element is converted once for all pairs.
#[inline(always)]
pub(crate) fn dots<const N: usize, const P: usize, const FROM_BASE: bool>(
    sums: &mut [StripedSum],
    offset: usize,
    vectors: [&[f32]; N],
    base: &[f32],
    pairs: [(usize, usize); P],
) {
    let n = vectors.iter().map(|x| x.len()).min().unwrap_or(0);
    let head = (offset.wrapping_neg() % STRIPES).min(n);
    let first = offset % STRIPES;
    let rows = (n - head) / STRIPES;
    let tail = head + rows * STRIPES;
    let one = |sums: &mut [StripedSum], stripe: usize, j: usize| {
        let x = vectors.map(|x| f64::from(if FROM_BASE { x[j] - base[j] } else { x[j] }));
        for (sum, (a, b)) in sums.iter_mut().zip(pairs) {
            sum.0[stripe] = plus_product(sum.0[stripe], x[a], x[b]);
        }
    };
    (0..head).for_each(|j| one(sums, first + j, j));
    let body = vectors.map(|x| &x[head..tail].as_chunks::<STRIPES>().0[..rows]);
    let base_body = if FROM_BASE { &base[head..tail].as_chunks::<STRIPES>().0[..rows] } else { &[] };
    for lanes in (0..STRIPES).step_by(LANES) {
        let mut acc = [[0.0; LANES]; P];
        for (acc, sum) in acc.iter_mut().zip(&*sums) {
            acc.copy_from_slice(&sum.0[lanes..lanes + LANES]);
        }
        for row in 0..rows {
            let x: [[f64; LANES]; N] = body.map(|x| {
                std::array::from_fn(|l| {
                    let (x, at) = (&x[row], lanes + l);
                    f64::from(if FROM_BASE { x[at] - base_body[row][at] } else { x[at] })
                })
            });
            for (acc, (a, b)) in acc.iter_mut().zip(pairs) {
                for l in 0..LANES {
                    acc[l] = plus_product(acc[l], x[a][l], x[b][l]);
                }
            }
        }
        for (acc, sum) in acc.iter().zip(&mut *sums) {
            sum.0[lanes..lanes + LANES].copy_from_slice(acc);
        }
    }
    (tail..n).for_each(|j| one(sums, j - tail, j));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pairs at once, from any index on, are the sums of one pair after the other in plain arithmetic.
    #[test]
    fn pairs_at_once_have_the_bits_of_each() {
        let value = |i: usize, v: usize| ((i * 7919 + v * 104_729) % 1013) as f32 / 31.0 - 16.0 + 1e-3 * v as f32;
        for (offset, n) in [(0, 1000), (5, 1000), (15, 1), (3, 13), (16, 64), (7, 0)] {
            let vectors: [Vec<f32>; 3] = std::array::from_fn(|v| (0..n).map(|i| value(i, v)).collect());
            let pairs = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)];
            let mut sums = [StripedSum::default(); 6];
            dots::<_, _, false>(&mut sums, offset, vectors.each_ref().map(|x| &x[..]), &[], pairs);
            for (sum, (a, b)) in sums.iter().zip(pairs) {
                let mut plain = [0.0; STRIPES];
                for (i, (x, y)) in vectors[a].iter().zip(&vectors[b]).enumerate() {
                    plain[(offset + i) % STRIPES] += f64::from(*x) * f64::from(*y);
                }
                assert_eq!(sum.0, plain, "{a} and {b} of {n} from {offset}");
            }
            // Differences from a base are rounded to f32 first.
            let tau: [Vec<f32>; 2] = [1, 2].map(|v| vectors[v].iter().zip(&vectors[0]).map(|(x, y)| x - y).collect());
            let (mut expected, mut found) = (StripedSum::default(), [StripedSum::default()]);
            expected.dot(offset, &tau[0], &tau[1]);
            dots::<_, _, true>(&mut found, offset, [&vectors[1], &vectors[2]], &vectors[0], [(0, 1)]);
            assert_eq!(found, [expected], "differences of {n} from {offset}");
        }
    }

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
