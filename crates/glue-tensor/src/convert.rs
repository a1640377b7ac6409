//! Widening stored floats to f32 and narrowing f32 back: the loops every byte of every checkpoint passes through.
//!
//! Byte slices need no alignment, because safetensors offsets promise none. The loops carry no branch on the data, so
//! that the compiler turns them into SIMD; the check for infinities and NaN rides in the same pass, on integer bits,
//! both ways: of what was read, and of what comes out of rounding to a type with a smaller range.

use crate::dtype::Dtype;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Why a conversion was refused. No case depends on the values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// [`Dtype::is_float`] says no: such elements are copied as bytes, never converted.
    #[error("{dtype} cannot be converted to or from f32")]
    NotFloat {
        /// The type asked for.
        dtype: Dtype,
    },
    /// The byte slice and the f32 slice have different numbers of elements.
    #[error("{floats} elements of {dtype} take {expected} bytes, but the byte slice has {found}")]
    Length {
        /// The type of the byte slice.
        dtype: Dtype,
        /// Elements in the f32 slice.
        floats: usize,
        /// Bytes those elements take as `dtype`.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

/// Elements per step of the conversions in two passes: few enough that what the first pass loads is still in L1.
const STEP: usize = 512;

fn check_lengths(dtype: Dtype, bytes: usize, floats: usize) -> Result<(), ConvertError> {
    if !dtype.is_float() {
        return Err(ConvertError::NotFloat { dtype });
    }
    match floats.checked_mul(dtype.size()) {
        Some(expected) if expected == bytes => Ok(()),
        expected => Err(ConvertError::Length { dtype, floats, expected: expected.unwrap_or(usize::MAX), found: bytes }),
    }
}

/// Widens `bytes`, little-endian elements of `dtype`, into `out`, and returns whether every value in `out` is finite.
///
/// Exact for every type but F64, which is rounded to nearest even; an F64 beyond the range of f32 becomes infinite and
/// is reported as not finite. NaN stays NaN.
///
/// # Errors
/// [`ConvertError::NotFloat`] unless `dtype` [is a float](Dtype::is_float), [`ConvertError::Length`] when `bytes` does
/// not hold exactly `out.len()` elements.
pub fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<bool, ConvertError> {
    check_lengths(dtype, bytes.len(), out.len())?;
    Ok(match dtype {
        Dtype::F64 => widen_f64(bytes, out),
        Dtype::F32 => widen_f32(bytes, out),
        Dtype::F16 => widen_f16(bytes, out),
        Dtype::Bf16 => widen_bf16(bytes, out),
        Dtype::F8E4M3 => widen_f8(bytes, out, &E4M3, E4M3_NOT_FINITE),
        Dtype::F8E5M2 => widen_f8(bytes, out, &E5M2, E5M2_NOT_FINITE),
        _ => return Err(ConvertError::NotFloat { dtype }),
    })
}

/// Narrows `values` into `out` as little-endian elements of `dtype`, rounding to nearest, ties to even, and returns
/// whether every element in `out` is finite.
///
/// NaN stays NaN and keeps its sign. Overflow gives infinity, except in F8_E4M3, which has none: there a magnitude that
/// rounds beyond 448 becomes NaN, as in torch's `.to(float8_e4m3fn)`.
///
/// # Errors
/// [`ConvertError::NotFloat`] unless `dtype` [is a float](Dtype::is_float), [`ConvertError::Length`] when `out` does
/// not hold exactly `values.len()` elements.
pub fn narrow(dtype: Dtype, values: &[f32], out: &mut [u8]) -> Result<bool, ConvertError> {
    check_lengths(dtype, out.len(), values.len())?;
    Ok(match dtype {
        Dtype::F64 => narrow_f64(values, out),
        Dtype::F32 => narrow_f32(values, out),
        Dtype::F16 => narrow_f16(values, out),
        Dtype::Bf16 => narrow_bf16(values, out),
        Dtype::F8E4M3 => narrow_f8(values, out, f8_bits::<4, 3>, E4M3_NOT_FINITE),
        Dtype::F8E5M2 => narrow_f8(values, out, f8_bits::<5, 2>, E5M2_NOT_FINITE),
        _ => return Err(ConvertError::NotFloat { dtype }),
    })
}

/// The index of the first element of `bytes`, little-endian elements of `dtype`, that is a NaN or an infinity; `None`
/// if all are finite. An F64 beyond the range of f32 counts as an infinity, as in [`widen`].
///
/// # Errors
/// [`ConvertError::NotFloat`] unless `dtype` [is a float](Dtype::is_float), [`ConvertError::Length`] when `bytes` does
/// not hold whole elements.
pub fn first_nonfinite(dtype: Dtype, bytes: &[u8]) -> Result<Option<usize>, ConvertError> {
    let n = bytes.len() / dtype.size();
    check_lengths(dtype, bytes.len(), n)?;
    let first = |finite: fn(&[u8]) -> bool| {
        let chunks = bytes.chunks(STEP * dtype.size()).enumerate();
        let (c, chunk) = chunks.into_iter().find(|(_, chunk)| !finite(chunk))?;
        let at = chunk.chunks(dtype.size()).position(|element| !finite(element))?;
        Some(c * STEP + at)
    };
    Ok(match dtype {
        Dtype::F64 => first(|bytes| {
            let largest = bytes.as_chunks().0.iter().fold(0, |m, b| m.max(magnitude(f64::from_le_bytes(*b) as f32)));
            largest < F32_NOT_FINITE
        }),
        Dtype::F32 => first(|bytes| {
            let largest = bytes.as_chunks().0.iter().fold(0, |m, b| m.max(magnitude(f32::from_le_bytes(*b))));
            largest < F32_NOT_FINITE
        }),
        Dtype::F16 => first(|bytes| largest_u16(bytes) < F16_NOT_FINITE),
        Dtype::Bf16 => first(|bytes| largest_u16(bytes) < BF16_NOT_FINITE),
        Dtype::F8E4M3 => first(|bytes| bytes.iter().fold(0, |m, b| m.max(b & 0x7f)) < E4M3_NOT_FINITE),
        Dtype::F8E5M2 => first(|bytes| bytes.iter().fold(0, |m, b| m.max(b & 0x7f)) < E5M2_NOT_FINITE),
        _ => return Err(ConvertError::NotFloat { dtype }),
    })
}

/// The least bits of a magnitude that is not finite.
const F32_NOT_FINITE: u32 = 0x7f80_0000;
const F16_NOT_FINITE: u16 = 0x7c00;
const BF16_NOT_FINITE: u16 = 0x7f80;
const E4M3_NOT_FINITE: u8 = 0x7f;
const E5M2_NOT_FINITE: u8 = 0x7c;

/// The bits of |x|, which order as |x| does.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// The largest of 16-bit elements without their signs.
fn largest_u16(bytes: &[u8]) -> u16 {
    bytes.as_chunks().0.iter().fold(0, |largest, b| largest.max(u16::from_le_bytes(*b) & 0x7fff))
}

fn narrow_f64(values: &[f32], out: &mut [u8]) -> bool {
    let mut largest = 0;
    for (o, &x) in out.as_chunks_mut().0.iter_mut().zip(values) {
        *o = f64::from(x).to_le_bytes();
        largest = largest.max(magnitude(x));
    }
    largest < F32_NOT_FINITE
}

/// In two passes over each step, as [`widen_f32`].
fn narrow_f32(values: &[f32], out: &mut [u8]) -> bool {
    let mut largest = 0;
    for (values, out) in values.chunks(STEP).zip(out.as_chunks_mut().0.chunks_mut(STEP)) {
        for &x in values {
            largest = largest.max(magnitude(x));
        }
        for (o, x) in out.iter_mut().zip(values) {
            *o = x.to_le_bytes();
        }
    }
    largest < F32_NOT_FINITE
}

fn narrow_bf16(values: &[f32], out: &mut [u8]) -> bool {
    let mut largest = 0;
    for (o, &x) in out.as_chunks_mut().0.iter_mut().zip(values) {
        let bits = bf16_bits(x);
        *o = bits.to_le_bytes();
        largest = largest.max(bits & 0x7fff);
    }
    largest < BF16_NOT_FINITE
}

#[inline(always)]
fn narrow_f8(values: &[f32], out: &mut [u8], bits_of: impl Fn(f32) -> u8, first_not_finite: u8) -> bool {
    let mut largest = 0;
    for (o, &x) in out.iter_mut().zip(values) {
        *o = bits_of(x);
        largest = largest.max(*o & 0x7f);
    }
    largest < first_not_finite
}

fn widen_f64(bytes: &[u8], out: &mut [f32]) -> bool {
    let mut largest = 0;
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *o = f64::from_le_bytes(*b) as f32;
        largest = largest.max(magnitude(*o));
    }
    largest < F32_NOT_FINITE
}

/// In two passes over each step: loads that run right behind stores at the same offset in their pages stall, which a
/// fused pass did on one alignment in sixty-four (ten times slower), and a plain copy does not.
fn widen_f32(bytes: &[u8], out: &mut [f32]) -> bool {
    let mut largest = 0;
    for (out, bytes) in out.chunks_mut(STEP).zip(bytes.as_chunks::<4>().0.chunks(STEP)) {
        for b in bytes {
            largest = largest.max(magnitude(f32::from_le_bytes(*b)));
        }
        for (o, b) in out.iter_mut().zip(bytes) {
            *o = f32::from_le_bytes(*b);
        }
    }
    largest < F32_NOT_FINITE
}

fn widen_bf16(bytes: &[u8], out: &mut [f32]) -> bool {
    let mut largest = 0;
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        let bits = u16::from_le_bytes(*b);
        *o = f32::from_bits(u32::from(bits) << 16);
        largest = largest.max(bits & 0x7fff);
    }
    largest < BF16_NOT_FINITE
}

fn widen_f16(bytes: &[u8], out: &mut [f32]) -> bool {
    let mut largest = 0;
    let mut aligned = [f16::ZERO; STEP];
    for (out, bytes) in out.chunks_mut(STEP).zip(bytes.chunks(2 * STEP)) {
        let aligned = &mut aligned[..out.len()];
        for (a, b) in aligned.iter_mut().zip(bytes.as_chunks::<2>().0) {
            let bits = u16::from_le_bytes(*b);
            *a = f16::from_bits(bits);
            largest = largest.max(bits & 0x7fff);
        }
        aligned.convert_to_f32_slice(out);
    }
    largest < F16_NOT_FINITE
}

fn narrow_f16(values: &[f32], out: &mut [u8]) -> bool {
    let mut largest = 0;
    let mut aligned = [f16::ZERO; STEP];
    for (values, out) in values.chunks(STEP).zip(out.chunks_mut(2 * STEP)) {
        let aligned = &mut aligned[..values.len()];
        aligned.convert_from_f32_slice(values);
        for (o, a) in out.as_chunks_mut::<2>().0.iter_mut().zip(aligned) {
            let bits = a.to_bits();
            *o = bits.to_le_bytes();
            largest = largest.max(bits & 0x7fff);
        }
    }
    largest < F16_NOT_FINITE
}

fn widen_f8(bytes: &[u8], out: &mut [f32], table: &[f32; 256], first_not_finite: u8) -> bool {
    let mut largest = 0;
    for (o, &b) in out.iter_mut().zip(bytes) {
        *o = table[usize::from(b)];
        largest = largest.max(b & 0x7f);
    }
    largest < first_not_finite
}

/// Round to nearest even on the integer bits; a NaN is made quiet first, so that no carry can turn it into infinity.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if is_nan { quiet } else { rounded }) as u16
}

/// The 8-bit float with `E` exponent bits, `M` mantissa bits and bias 2^(E-1) - 1 nearest to `x`, ties to even.
///
/// Below the smallest normal number the f32 adder does the rounding: adding 2^(23 - M + smallest exponent) leaves just
/// the bits that the target's subnormals keep.
#[inline(always)]
fn f8_bits<const E: u32, const M: u32>(x: f32) -> u8 {
    let bias = (1 << (E - 1)) - 1;
    let sign = (x.to_bits() >> 24) & 0x80;
    let magnitude = x.to_bits() & 0x7fff_ffff;

    let smallest_normal = (128 - bias) << 23;
    let aligner = (128 - bias + 23 - M) << 23;
    let subnormal = (f32::from_bits(magnitude) + f32::from_bits(aligner)).to_bits().wrapping_sub(aligner);

    let shift = 23 - M;
    let odd = (magnitude >> shift) & 1;
    let normal = (magnitude.wrapping_sub((127 - bias) << 23).wrapping_add((1 << (shift - 1)) - 1 + odd)) >> shift;

    // E5M2 overflows to infinity; E4M3 has none, and after its largest number comes its only NaN.
    let (overflow, nan) = if E == 5 { (0x7c, 0x7f) } else { (0x7f, 0x7f) };
    let finite = if magnitude < smallest_normal { subnormal } else { normal };
    (sign | if magnitude > 0x7f80_0000 { nan } else { finite.min(overflow) }) as u8
}

const E4M3: [f32; 256] = f8_table(4, 3);
const E5M2: [f32; 256] = f8_table(5, 2);

const fn f8_table(e: u32, m: u32) -> [f32; 256] {
    let bias = (1u32 << (e - 1)) - 1;
    let mut table = [0.0; 256];
    let mut byte = 0u32;
    while byte < 256 {
        let sign = (byte & 0x80) << 24;
        let exponent = (byte & 0x7f) >> m;
        let mantissa = byte & ((1 << m) - 1);
        let special = if e == 5 { exponent == 31 } else { byte & 0x7f == 0x7f };
        let magnitude = if special {
            if e == 5 && mantissa == 0 { 0x7f80_0000 } else { 0x7fc0_0000 }
        } else if exponent == 0 {
            // mantissa · 2^(1 - bias - m): exact, for both factors are small powers of two times small integers.
            (mantissa as f32 * f32::from_bits((128 - bias - m) << 23)).to_bits()
        } else {
            ((exponent + 127 - bias) << 23) | (mantissa << (23 - m))
        };
        table[byte as usize] = f32::from_bits(sign | magnitude);
        byte += 1;
    }
    table
}
