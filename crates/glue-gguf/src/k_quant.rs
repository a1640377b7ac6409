//! Q4_K, Q5_K and Q6_K, to the same bytes as the reference quantiser without statistics of activations.
//!
//! In Q4_K and Q5_K, a block of 256 values is 8 groups of 32. A value x of a group is stored as the whole number l for
//! which s·l − m is nearest to x. The numbers s and m are those of the group, 6-bit multiples of two numbers of the
//! block. For each group, candidates of s are tried. Given the numbers l of a candidate, s and m are those of least
//! weighted squares
//!
//! Σ w (s·l − m − x)², with w = √(mean of x²) + |x|,
//!
//! and the candidate with the smallest sum is taken. In Q6_K, groups have 16 values, m is 0, and w = x². All sums are
//! in `f32` in the order of the values, as those of the reference are: another order gives other bytes.

use glue_tensor::{Dtype, narrow, widen};

/// Values of a block.
pub(crate) const VALUES: usize = 256;
/// No type has scales for larger magnitudes, and sums of products of smaller ones are finite.
const LARGEST: f32 = 1e9;
const GROUP: usize = 32;
const GROUPS: usize = VALUES / GROUP;
/// The largest multiple that a scale of a group is stored as.
const LARGEST_MULTIPLE: f32 = 63.0;

/// What differs between the two types.
struct Form {
    /// The largest number that stands for a value.
    largest: f32,
    /// Candidates divide the range of a group by `largest + first + 0.1 i`, for i from 0 to `last`.
    first: f32,
    last: u8,
}

const Q4: Form = Form { largest: 15.0, first: -1.0, last: 20 };
const Q5: Form = Form { largest: 31.0, first: -0.5, last: 15 };

/// One number of each group. Groups are fitted side by side: sums of a group are in order all the same, and processors
/// add several at once.
type Lanes<const N: usize> = [f32; N];

/// The groups of a block: scales, what is subtracted, and the numbers, value by value.
struct Groups {
    scales: Lanes<GROUPS>,
    minus: Lanes<GROUPS>,
    numbers: [Lanes<GROUPS>; GROUP],
}

/// Value by value of all groups, of a block that has them group by group.
fn side_by_side<const N: usize, const LENGTH: usize>(block: &[f32; VALUES]) -> [Lanes<N>; LENGTH] {
    let mut values = [[0.0; N]; LENGTH];
    for (at, x) in block.iter().enumerate() {
        values[at % LENGTH][at / LENGTH] = *x;
    }
    values
}

/// Appends `values`, whole blocks, with `encode` for each.
///
/// # Errors
/// In words: those of `encode`, and values that no scale is for.
pub(crate) fn in_blocks(
    values: &[f32],
    encode: impl FnMut(&[f32; VALUES]) -> Result<(), String>,
) -> Result<(), String> {
    match values.iter().find(|x| x.abs() > LARGEST) {
        Some(x) => Err(format!("it holds {x}, for which no scale can be stored")),
        None => values.as_chunks::<VALUES>().0.iter().try_for_each(encode),
    }
}

/// Appends a block of Q4_K.
///
/// # Errors
/// In words: values beyond the range of the scales.
pub(crate) fn encode_q4_k(block: &[f32; VALUES], out: &mut Vec<u8>) -> Result<(), String> {
    let numbers = encode_scales(block, &Q4, out)?;
    for pair in numbers.as_chunks::<2>().0 {
        out.extend(pair[0].iter().zip(&pair[1]).map(|(low, high)| low | high << 4));
    }
    Ok(())
}

/// Appends a block of Q5_K.
///
/// # Errors
/// In words: values beyond the range of the scales.
pub(crate) fn encode_q5_k(block: &[f32; VALUES], out: &mut Vec<u8>) -> Result<(), String> {
    let numbers = encode_scales(block, &Q5, out)?;
    // Bit g of byte i is the fifth bit of value i of group g.
    let fifth = |at: usize| numbers.iter().rev().fold(0, |byte, group| byte << 1 | group[at] >> 4);
    out.extend((0..GROUP).map(fifth));
    for pair in numbers.as_chunks::<2>().0 {
        out.extend(pair[0].iter().zip(&pair[1]).map(|(low, high)| low & 15 | (high & 15) << 4));
    }
    Ok(())
}

/// Appends what both types begin with, the two numbers of the block and the multiples of the groups, and returns the
/// numbers that stand for the values.
fn encode_scales(block: &[f32; VALUES], form: &Form, out: &mut Vec<u8>) -> Result<[[u8; GROUP]; GROUPS], String> {
    let groups = fit(&side_by_side(block), form);
    let (scale, scale_multiples) = multiples(groups.scales, out)?;
    let (minus, minus_multiples) = multiples(groups.minus, out)?;
    for at in 0..4 {
        out.push(scale_multiples[at] | scale_multiples[at + 4] >> 4 << 6);
    }
    for at in 0..4 {
        out.push(minus_multiples[at] | minus_multiples[at + 4] >> 4 << 6);
    }
    for at in 4..8 {
        out.push(scale_multiples[at] & 15 | (minus_multiples[at] & 15) << 4);
    }
    let mut numbers = [[0; GROUP]; GROUPS];
    for (at, (group, values)) in numbers.iter_mut().zip(block.as_chunks::<GROUP>().0).enumerate() {
        let scale = scale * f32::from(scale_multiples[at]);
        let minus = minus * f32::from(minus_multiples[at]);
        *group = match scale {
            0.0 => groups.numbers.map(|of_all| of_all[at] as u8),
            _ => values.map(|x| nearest((x + minus) / scale, form.largest) as u8),
        };
    }
    Ok(numbers)
}

/// What positive numbers are multiples of, appended as `f16` and returned as it is read, and which multiples.
fn multiples(numbers: [f32; GROUPS], out: &mut Vec<u8>) -> Result<(f32, [u8; GROUPS]), String> {
    let largest = numbers.iter().copied().fold(0.0, f32::max);
    let inverse = if largest > 0.0 { LARGEST_MULTIPLE / largest } else { 0.0 };
    let mut bytes = [0; 2];
    let finite = narrow(Dtype::F16, &[largest / LARGEST_MULTIPLE], &mut bytes).map_err(|error| error.to_string())?;
    if !finite {
        return Err(format!("it holds values so far apart that their scale, {largest}, cannot be stored"));
    }
    out.extend(bytes);
    let mut stored = [0.0];
    widen(Dtype::F16, &bytes, &mut stored).map_err(|error| error.to_string())?;
    Ok((stored[0], numbers.map(|number| nearest(inverse * number, LARGEST_MULTIPLE) as u8)))
}

/// The nearest whole number, halves to even, for magnitudes below 2²²; larger ones stay larger. `round_ties_even` is a
/// call on processors without an instruction for it.
fn rounded(x: f32) -> f32 {
    const WHOLE: f32 = 12_582_912.0;
    (x + WHOLE) - WHOLE
}

/// The whole number from 0 to `largest` that is nearest.
fn nearest(x: f32, largest: f32) -> f32 {
    rounded(x).clamp(0.0, largest)
}

/// Scales and subtrahends by weighted least squares over the candidates.
fn fit(values: &[Lanes<GROUPS>; GROUP], form: &Form) -> Groups {
    let mut squares = [0.0; GROUPS];
    for x in values {
        (0..GROUPS).for_each(|g| squares[g] += x[g] * x[g]);
    }
    let level = squares.map(|sum| (sum / GROUP as f32).sqrt());
    let mut weights = *values;
    for w in &mut weights {
        (0..GROUPS).for_each(|g| w[g] = level[g] + w[g].abs());
    }
    let (mut lowest, mut highest, mut sum_w) = (values[0], values[0], weights[0]);
    let mut sum_x: Lanes<GROUPS> = std::array::from_fn(|g| weights[0][g] * values[0][g]);
    for (x, w) in values.iter().zip(&weights).skip(1) {
        for g in 0..GROUPS {
            lowest[g] = if x[g] < lowest[g] { x[g] } else { lowest[g] };
            highest[g] = if x[g] > highest[g] { x[g] } else { highest[g] };
            sum_w[g] += w[g];
            sum_x[g] += w[g] * x[g];
        }
    }
    // The subtrahend is not negative: 0 can be stored whatever the values are.
    lowest = lowest.map(|x| if x > 0.0 { 0.0 } else { x });
    let error = |scale: &Lanes<GROUPS>, minimum: &Lanes<GROUPS>, numbers: &[Lanes<GROUPS>; GROUP]| {
        let mut sum = [0.0; GROUPS];
        for ((x, w), l) in values.iter().zip(&weights).zip(numbers) {
            for g in 0..GROUPS {
                let off = scale[g] * l[g] + minimum[g] - x[g];
                sum[g] += w[g] * (off * off);
            }
        }
        sum
    };
    let whole = |inverse: &Lanes<GROUPS>, minimum: &Lanes<GROUPS>| {
        let mut numbers = *values;
        for l in &mut numbers {
            (0..GROUPS).for_each(|g| l[g] = nearest(inverse[g] * (l[g] - minimum[g]), form.largest));
        }
        numbers
    };
    // Where all values are equal, what follows has no meaning and is replaced at the end.
    let inverse = std::array::from_fn(|g| form.largest / (highest[g] - lowest[g]));
    let (mut scale, mut minimum) = (inverse.map(|inverse| 1.0 / inverse), lowest);
    let mut numbers = whole(&inverse, &minimum);
    let mut least = error(&scale, &minimum, &numbers);
    for at in 0..=form.last {
        // From the minimum of the best candidate so far.
        let divisor = form.first + 0.1 * f32::from(at) + form.largest;
        let tried = whole(&std::array::from_fn(|g| divisor / (highest[g] - minimum[g])), &minimum);
        let (mut sum_l, mut sum_ll, mut sum_xl) = ([0.0; GROUPS], [0.0; GROUPS], [0.0; GROUPS]);
        for ((x, w), l) in values.iter().zip(&weights).zip(&tried) {
            for g in 0..GROUPS {
                sum_l[g] += w[g] * l[g];
                sum_ll[g] += w[g] * l[g] * l[g];
                sum_xl[g] += w[g] * l[g] * x[g];
            }
        }
        let (mut its_scale, mut its_minimum, mut solved) = ([0.0; GROUPS], [0.0; GROUPS], [false; GROUPS]);
        for g in 0..GROUPS {
            let determinant = sum_w[g] * sum_ll[g] - sum_l[g] * sum_l[g];
            solved[g] = determinant > 0.0;
            its_scale[g] = (sum_w[g] * sum_xl[g] - sum_x[g] * sum_l[g]) / determinant;
            its_minimum[g] = (sum_ll[g] * sum_x[g] - sum_l[g] * sum_xl[g]) / determinant;
            if its_minimum[g] > 0.0 {
                (its_scale[g], its_minimum[g]) = (sum_xl[g] / sum_ll[g], 0.0);
            }
        }
        let its_error = error(&its_scale, &its_minimum, &tried);
        let better: [bool; GROUPS] = std::array::from_fn(|g| solved[g] && its_error[g] < least[g]);
        for g in (0..GROUPS).filter(|&g| better[g]) {
            (least[g], scale[g], minimum[g]) = (its_error[g], its_scale[g], its_minimum[g]);
            (0..GROUP).for_each(|i| numbers[i][g] = tried[i][g]);
        }
    }
    for g in (0..GROUPS).filter(|&g| highest[g] == lowest[g]) {
        (scale[g], minimum[g]) = (0.0, lowest[g]);
        numbers.iter_mut().for_each(|l| l[g] = 0.0);
    }
    Groups { scales: scale, minus: minimum.map(|x| -x), numbers }
}

/// Values of a group of Q6_K.
const SMALL_GROUP: usize = 16;
const SMALL_GROUPS: usize = VALUES / SMALL_GROUP;
/// Numbers of Q6_K are from −32 to 31; 32 is added to store them.
const MIDDLE: f32 = 32.0;
/// Magnitudes below this one are taken for 0.
const TINY: f32 = 1e-15;

/// Appends a block of Q6_K.
///
/// # Errors
/// In words: values beyond the range of the scale.
pub(crate) fn encode_q6_k(block: &[f32; VALUES], out: &mut Vec<u8>) -> Result<(), String> {
    let (scales, fitted) = fit_symmetric(&side_by_side(block));
    let largest = farthest(&scales);
    if largest.abs() < TINY {
        out.resize(out.len() + 210, 0);
        return Ok(());
    }
    let inverse = -128.0 / largest;
    let mut bytes = [0; 2];
    let finite = narrow(Dtype::F16, &[1.0 / inverse], &mut bytes).map_err(|error| error.to_string())?;
    if !finite {
        return Err(format!("it holds values so large that their scale, {largest}, cannot be stored"));
    }
    let mut stored = [0.0];
    widen(Dtype::F16, &bytes, &mut stored).map_err(|error| error.to_string())?;
    let multiples = scales.map(|scale| rounded(inverse * scale).min(127.0));
    let mut numbers = [0u8; VALUES];
    for (at, values) in block.as_chunks::<SMALL_GROUP>().0.iter().enumerate() {
        let scale = stored[0] * multiples[at];
        let group = match scale {
            0.0 => fitted.map(|of_all| of_all[at] as u8),
            _ => values.map(|x| number(x / scale) as u8),
        };
        numbers[at * SMALL_GROUP..][..SMALL_GROUP].copy_from_slice(&group);
    }
    // Of each half, the lower four bits of its quarters, then the upper two.
    let halves = numbers.as_chunks::<128>().0;
    for half in halves {
        out.extend((0..64).map(|at| half[at] & 15 | (half[at + 64] & 15) << 4));
    }
    for half in halves {
        out.extend((0..32).map(|at| (0..4).rev().fold(0, |byte, part| byte << 2 | half[at + 32 * part] >> 4)));
    }
    out.extend(multiples.map(|multiple| multiple as i8 as u8));
    out.extend(bytes);
    Ok(())
}

/// What is stored for a number of Q6_K: the whole number that is nearest, halves to even.
fn number(x: f32) -> f32 {
    rounded(x).clamp(-MIDDLE, MIDDLE - 1.0) + MIDDLE
}

/// The first of the numbers with the largest magnitude.
fn farthest(numbers: &[f32]) -> f32 {
    numbers.iter().fold(0.0, |farthest: f32, x| if x.abs() > farthest.abs() { *x } else { farthest })
}

/// Scales of the groups of Q6_K by least squares over the candidates, and what is stored for each value.
fn fit_symmetric(
    values: &[Lanes<SMALL_GROUPS>; SMALL_GROUP],
) -> (Lanes<SMALL_GROUPS>, [Lanes<SMALL_GROUPS>; SMALL_GROUP]) {
    const N: usize = SMALL_GROUPS;
    let farthest: Lanes<N> = std::array::from_fn(|g| farthest(&values.map(|x| x[g])));
    let whole = |divided: f32| {
        let inverse = farthest.map(|x| divided / x);
        let mut stored = *values;
        for x in &mut stored {
            (0..N).for_each(|g| x[g] = number(inverse[g] * x[g]));
        }
        stored
    };
    let sums = |stored: &[Lanes<N>; SMALL_GROUP]| {
        let (mut sum_lx, mut sum_ll) = ([0.0; N], [0.0; N]);
        for (x, stored) in values.iter().zip(stored) {
            for g in 0..N {
                let (w, l) = (x[g] * x[g], stored[g] - MIDDLE);
                sum_lx[g] += w * x[g] * l;
                sum_ll[g] += w * l * l;
            }
        }
        (sum_lx, sum_ll)
    };
    let mut stored = whole(-MIDDLE);
    let (sum_lx, sum_ll) = sums(&stored);
    let mut scale: Lanes<N> = std::array::from_fn(|g| if sum_ll[g] == 0.0 { 0.0 } else { sum_lx[g] / sum_ll[g] });
    let mut best: Lanes<N> = std::array::from_fn(|g| scale[g] * sum_lx[g]);
    for step in (-9i8..=9).filter(|step| *step != 0) {
        let tried = whole(-(MIDDLE + 0.1 * f32::from(step)));
        let (sum_lx, sum_ll) = sums(&tried);
        let better: [bool; N] = std::array::from_fn(|g| sum_ll[g] > 0.0 && sum_lx[g] * sum_lx[g] > best[g] * sum_ll[g]);
        for g in (0..N).filter(|&g| better[g]) {
            scale[g] = sum_lx[g] / sum_ll[g];
            best[g] = scale[g] * sum_lx[g];
            (0..SMALL_GROUP).for_each(|i| stored[i][g] = tried[i][g]);
        }
    }
    for g in (0..N).filter(|&g| farthest[g].abs() < TINY) {
        scale[g] = 0.0;
        stored.iter_mut().for_each(|x| x[g] = 0.0);
    }
    (scale, stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_and_zeros_have_no_scale() {
        let mut block = [0.0; VALUES];
        block[GROUP..2 * GROUP].fill(-2.0);
        block[2 * GROUP..3 * GROUP].fill(3.0);
        let groups = fit(&side_by_side(&block), &Q4);
        assert_eq!((groups.scales[0], groups.minus[0]), (0.0, 0.0));
        assert_eq!((groups.scales[1], groups.minus[1]), (0.0, 2.0));
        assert!(groups.numbers.iter().all(|of_all| of_all[0] == 0.0 && of_all[1] == 0.0));
        // What lies above 0 has a scale from 0 on.
        assert!((groups.scales[2] * groups.numbers[5][2] - 3.0).abs() < 1e-6 && groups.minus[2] == 0.0);
    }

    #[test]
    fn values_beyond_the_range_of_scales_are_refused() {
        let mut values = [0.0; VALUES];
        for large in [1e30, 9e8] {
            values[9] = large;
            let mut out = Vec::new();
            assert!(in_blocks(&values, |block| encode_q4_k(block, &mut out)).unwrap_err().contains("scale"));
            assert!(in_blocks(&values, |block| encode_q5_k(block, &mut out)).unwrap_err().contains("scale"));
            assert!(in_blocks(&values, |block| encode_q6_k(block, &mut out)).unwrap_err().contains("scale"));
        }
    }
}
