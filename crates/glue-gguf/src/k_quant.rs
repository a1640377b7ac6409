//! Q4_K, Q5_K and Q6_K, to the same bytes as the reference quantiser without statistics of activations.
//!
//! In Q4_K and Q5_K, a block of 256 values is 8 groups of 32. A value x of a group is stored as the whole number l for which s·l − m is
//! nearest to x; s and m are those of the group, themselves 6-bit multiples of two numbers of the block. For each group,
//! candidates of s are tried. Given the numbers l of a candidate, s and m are those of least weighted squares
//!
//! Σ w (s·l − m − x)², with w = √(mean of x²) + |x|,
//!
//! and the candidate with the smallest sum is taken. In Q6_K, groups have 16 values, m is 0, and w = x². All sums are in `f32` in the order of the values, as those of the
//! reference are: another order gives other bytes.

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

/// A group: scale, what is subtracted, and the numbers.
#[derive(Clone, Copy)]
struct Group {
    scale: f32,
    minus: f32,
    numbers: [u8; GROUP],
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
    let mut groups = [Group { scale: 0.0, minus: 0.0, numbers: [0; GROUP] }; GROUPS];
    for (group, values) in groups.iter_mut().zip(block.as_chunks::<GROUP>().0) {
        *group = fit(values, form);
    }
    let (scale, scale_multiples) = multiples(groups.map(|group| group.scale), out)?;
    let (minus, minus_multiples) = multiples(groups.map(|group| group.minus), out)?;
    for at in 0..4 {
        out.push(scale_multiples[at] | scale_multiples[at + 4] >> 4 << 6);
    }
    for at in 0..4 {
        out.push(minus_multiples[at] | minus_multiples[at + 4] >> 4 << 6);
    }
    for at in 4..8 {
        out.push(scale_multiples[at] & 15 | (minus_multiples[at] & 15) << 4);
    }
    for (at, (group, values)) in groups.iter_mut().zip(block.as_chunks::<GROUP>().0).enumerate() {
        let scale = scale * f32::from(scale_multiples[at]);
        let minus = minus * f32::from(minus_multiples[at]);
        if scale != 0.0 {
            group.numbers = values.map(|x| nearest((x + minus) / scale, form.largest) as u8);
        }
    }
    Ok(groups.map(|group| group.numbers))
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

/// The whole number from 0 to `largest` that is nearest, halves to even.
fn nearest(x: f32, largest: f32) -> f32 {
    x.round_ties_even().clamp(0.0, largest)
}

/// Scale and subtrahend of a group by weighted least squares over the candidates.
fn fit(values: &[f32; GROUP], form: &Form) -> Group {
    let squares = values.iter().fold(0.0, |sum, x| sum + x * x);
    let level = (squares / GROUP as f32).sqrt();
    let weights = values.map(|x| level + x.abs());
    let (mut lowest, mut highest) = (values[0], values[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * values[0]);
    for (x, w) in values.iter().zip(&weights).skip(1) {
        lowest = if *x < lowest { *x } else { lowest };
        highest = if *x > highest { *x } else { highest };
        sum_w += w;
        sum_x += w * x;
    }
    // The subtrahend is not negative: 0 can be stored whatever the values are.
    lowest = if lowest > 0.0 { 0.0 } else { lowest };
    if highest == lowest {
        return Group { scale: 0.0, minus: -lowest, numbers: [0; GROUP] };
    }
    let error = |scale: f32, minimum: f32, numbers: &[f32; GROUP]| {
        values.iter().zip(&weights).zip(numbers).fold(0.0, |sum, ((x, w), number)| {
            let off = scale * number + minimum - x;
            sum + w * (off * off)
        })
    };
    let whole = |inverse: f32, minimum: f32| values.map(|x| nearest(inverse * (x - minimum), form.largest));
    let inverse = form.largest / (highest - lowest);
    let (mut scale, mut minimum) = (1.0 / inverse, lowest);
    let mut numbers = whole(inverse, minimum);
    let mut least = error(scale, minimum, &numbers);
    for at in 0..=form.last {
        // From the minimum of the best candidate so far.
        let inverse = (form.first + 0.1 * f32::from(at) + form.largest) / (highest - minimum);
        let tried = whole(inverse, minimum);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((x, w), number) in values.iter().zip(&weights).zip(&tried) {
            sum_l += w * number;
            sum_ll += w * number * number;
            sum_xl += w * number * x;
        }
        let determinant = sum_w * sum_ll - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut its_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut its_minimum = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
        if its_minimum > 0.0 {
            (its_scale, its_minimum) = (sum_xl / sum_ll, 0.0);
        }
        let its_error = error(its_scale, its_minimum, &tried);
        if its_error < least {
            (least, scale, minimum, numbers) = (its_error, its_scale, its_minimum, tried);
        }
    }
    Group { scale, minus: -minimum, numbers: numbers.map(|number| number as u8) }
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
    let mut groups = [(0.0, [0u8; SMALL_GROUP]); SMALL_GROUPS];
    let mut largest = 0.0f32;
    for (group, values) in groups.iter_mut().zip(block.as_chunks::<SMALL_GROUP>().0) {
        *group = fit_symmetric(values);
        if group.0.abs() > largest.abs() {
            largest = group.0;
        }
    }
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
    let multiples = groups.map(|(scale, _)| (inverse * scale).round_ties_even().min(127.0));
    let mut numbers = [0u8; VALUES];
    for (at, values) in block.as_chunks::<SMALL_GROUP>().0.iter().enumerate() {
        let scale = stored[0] * multiples[at];
        let group = match scale {
            0.0 => groups[at].1,
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
    x.round_ties_even().clamp(-MIDDLE, MIDDLE - 1.0) + MIDDLE
}

/// The scale of a group of Q6_K by least squares over the candidates, and what is stored for its values.
fn fit_symmetric(values: &[f32; SMALL_GROUP]) -> (f32, [u8; SMALL_GROUP]) {
    let farthest = values.iter().fold(0.0f32, |farthest, x| if x.abs() > farthest.abs() { *x } else { farthest });
    if farthest.abs() < TINY {
        return (0.0, [0; SMALL_GROUP]);
    }
    let sums = |stored: &[f32; SMALL_GROUP]| {
        values.iter().zip(stored).fold((0.0f32, 0.0f32), |(sum_lx, sum_ll), (x, stored)| {
            let (w, l) = (x * x, stored - MIDDLE);
            (sum_lx + w * x * l, sum_ll + w * l * l)
        })
    };
    let whole = |inverse: f32| values.map(|x| number(inverse * x));
    let mut stored = whole(-MIDDLE / farthest);
    let (sum_lx, sum_ll) = sums(&stored);
    let mut scale = if sum_ll == 0.0 { 0.0 } else { sum_lx / sum_ll };
    let mut best = scale * sum_lx;
    for step in (-9i8..=9).filter(|step| *step != 0) {
        let tried = whole(-(MIDDLE + 0.1 * f32::from(step)) / farthest);
        let (sum_lx, sum_ll) = sums(&tried);
        if sum_ll > 0.0 && sum_lx * sum_lx > best * sum_ll {
            (stored, scale) = (tried, sum_lx / sum_ll);
            best = scale * sum_lx;
        }
    }
    (scale, stored.map(|stored| stored as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_and_zeros_have_no_scale() {
        for (value, minus) in [(0.0, 0.0), (-2.0, 2.0)] {
            let group = fit(&[value; GROUP], &Q4);
            assert_eq!((group.scale, group.minus, group.numbers), (0.0, minus, [0; GROUP]));
        }
        // What lies above 0 has a scale from 0 on.
        let group = fit(&[3.0; GROUP], &Q4);
        assert!((group.scale * f32::from(group.numbers[0]) - 3.0).abs() < 1e-6 && group.minus == 0.0);
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
