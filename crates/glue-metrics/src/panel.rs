//! The hot loop: a sum over elements for every pair of N models at once.
//!
//! A *panel* holds a short stretch of all models, interleaved: step by step, and in each step eight neighbouring
//! elements of model 0, then of model 1, and so on. It fits the first-level cache, and all N(N+1)/2 pairs are formed
//! from one trip to memory; nine pairs at a time keep their running sums in registers. Products are summed in f32
//! over at most [`STEPS`] steps and then in f64: the rounding of so short a sum is below 1e-6 of its terms, and does
//! not grow with the tensor.
//!
//! Lanes are never added to each other here. Where the eight elements are eight columns they stay apart for good;
//! where they are neighbours in a sum, [`total`] adds them.

/// Elements side by side.
pub(crate) const LANES: usize = 8;
/// Steps that are summed in f32.
pub(crate) const STEPS: usize = 64;

/// Eight elements side by side, aligned so that none of them straddles two cache lines.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(32))]
pub(crate) struct Lane(pub(crate) [f32; LANES]);

/// Sums of eight lanes.
pub(crate) type Total = [f64; LANES];

impl Lane {
    pub(crate) const ZERO: Lane = Lane([0.0; LANES]);
}

/// Pairs among `n`, each with itself included.
pub(crate) const fn pairs(n: usize) -> usize {
    n * (n + 1) / 2
}

/// Index of a pair in the lower triangle, row by row.
pub(crate) const fn pair(i: usize, j: usize) -> usize {
    let (i, j) = if i < j { (j, i) } else { (i, j) };
    i * (i + 1) / 2 + j
}

/// What is summed. Always fused: results do not depend on the processor; one without the instruction is slow.
pub(crate) trait Term: Sync + Send + 'static {
    /// `sum` and the term of one element of a pair.
    fn add(sum: f32, x: f32, y: f32) -> f32;
}

/// x·y.
#[derive(Debug)]
pub(crate) struct Product;

impl Term for Product {
    #[inline(always)]
    fn add(sum: f32, x: f32, y: f32) -> f32 {
        x.mul_add(y, sum)
    }
}

/// (x − y)².
#[derive(Debug)]
pub(crate) struct SquaredDifference;

impl Term for SquaredDifference {
    #[inline(always)]
    fn add(sum: f32, x: f32, y: f32) -> f32 {
        (x - y).mul_add(x - y, sum)
    }
}

/// Models on each side of a tile: nine sums and six operands fit the sixteen registers of AVX2.
const SIDE: usize = 3;

/// Adds the panel's terms to `totals`, lane by lane; `totals[pair(i, j)]`.
///
/// `panel` holds `n` lanes per step and at most [`STEPS`] steps.
pub(crate) fn accumulate<T: Term>(panel: &[Lane], n: usize, totals: &mut [Total]) {
    let whole = n - n % SIDE;
    for i in (0..whole).step_by(SIDE) {
        for j in (0..=i).step_by(SIDE) {
            tile::<T, SIDE, SIDE>(panel, n, i, j, totals);
        }
    }
    // One model or two are left: tiles as long as they were high, or too few sums would be under way.
    let height = n - whole;
    let mut j = 0;
    while height > 0 && j < n {
        let width = (n - j).min(if height == 1 { 8 } else { 4 });
        match (height, width) {
            (1, 8) => tile::<T, 1, 8>(panel, n, whole, j, totals),
            (1, 7) => tile::<T, 1, 7>(panel, n, whole, j, totals),
            (1, 6) => tile::<T, 1, 6>(panel, n, whole, j, totals),
            (1, 5) => tile::<T, 1, 5>(panel, n, whole, j, totals),
            (1, 4) => tile::<T, 1, 4>(panel, n, whole, j, totals),
            (1, 3) => tile::<T, 1, 3>(panel, n, whole, j, totals),
            (1, 2) => tile::<T, 1, 2>(panel, n, whole, j, totals),
            (1, _) => tile::<T, 1, 1>(panel, n, whole, j, totals),
            (_, 4) => tile::<T, 2, 4>(panel, n, whole, j, totals),
            (_, 3) => tile::<T, 2, 3>(panel, n, whole, j, totals),
            (_, 2) => tile::<T, 2, 2>(panel, n, whole, j, totals),
            (_, _) => tile::<T, 2, 1>(panel, n, whole, j, totals),
        }
        j += width;
    }
}

#[inline(always)]
fn tile<T: Term, const I: usize, const J: usize>(panel: &[Lane], n: usize, i0: usize, j0: usize, totals: &mut [Total]) {
    let sums = tile_sums::<T, I, J>(panel, n, i0, j0);
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            if j0 + j <= i0 + i {
                let total = &mut totals[pair(i0 + i, j0 + j)];
                for (total, sum) in total.iter_mut().zip(sum) {
                    *total += f64::from(*sum);
                }
            }
        }
    }
}

/// Apart from its caller, so that the sums stay in registers.
#[inline(never)]
#[expect(clippy::needless_range_loop, reason = "three arrays are walked side by side")]
fn tile_sums<T: Term, const I: usize, const J: usize>(
    panel: &[Lane],
    n: usize,
    i0: usize,
    j0: usize,
) -> [[[f32; LANES]; J]; I] {
    let mut sums = [[[0.0; LANES]; J]; I];
    for step in panel.chunks_exact(n) {
        let (Some(x), Some(y)) = (step[i0..].first_chunk::<I>(), step[j0..].first_chunk::<J>()) else {
            break;
        };
        for (sums, x) in sums.iter_mut().zip(x) {
            for (sum, y) in sums.iter_mut().zip(y) {
                for l in 0..LANES {
                    sum[l] = T::add(sum[l], x.0[l], y.0[l]);
                }
            }
        }
    }
    sums
}

/// The sum over lanes.
pub(crate) fn total(lanes: &Total) -> f64 {
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Term>(n: usize, length: usize, term: impl Fn(f64, f64) -> f64) {
        let value = |m: usize, e: usize| ((e * 31 + m * 17 + e * m) % 23) as f32 / 8.0 - 1.25;
        let models: Vec<Vec<f32>> = (0..n).map(|m| (0..length).map(|e| value(m, e)).collect()).collect();
        let mut panel = vec![Lane([f32::NAN; LANES]); n * length.div_ceil(LANES)];
        for (m, values) in models.iter().enumerate() {
            for (slot, values) in panel[m..].iter_mut().step_by(n).zip(values.chunks(LANES)) {
                *slot = Lane::ZERO;
                slot.0[..values.len()].copy_from_slice(values);
            }
        }
        let mut totals = vec![[0.0; LANES]; pairs(n)];
        accumulate::<T>(&panel, n, &mut totals);
        for i in 0..n {
            for j in 0..n {
                let expected: f64 =
                    models[i].iter().zip(&models[j]).map(|(x, y)| term(f64::from(*x), f64::from(*y))).sum();
                // Multiples of 1/64 below 2^24/64: every product and partial sum is exact in f32.
                assert_eq!(total(&totals[pair(i, j)]), expected, "{n} models, {length} elements, pair {i} {j}");
            }
        }
    }

    #[test]
    fn every_pair_of_any_number_of_models_has_its_sum() {
        for n in 1..=10 {
            for length in [1, 7, 8, 9, 500, 512] {
                check::<Product>(n, length, |x, y| x * y);
                check::<SquaredDifference>(n, length, |x, y| (x - y) * (x - y));
            }
        }
    }

    #[test]
    fn pairs_number_the_lower_triangle_without_gaps() {
        let mut seen: Vec<usize> = (0..7).flat_map(|i| (0..=i).map(move |j| pair(i, j))).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..pairs(7)).collect::<Vec<_>>());
        assert_eq!(pair(2, 5), pair(5, 2));
    }
}
