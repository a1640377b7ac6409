//! Conversion against exhaustive tables and against the `half` crate.

use glue_tensor::{ConvertError, Dtype, first_nonfinite, narrow, widen};
use half::{bf16, f16};
use proptest::prelude::*;

/// The value of an 8-bit float from its definition: sign, exponent and mantissa fields, bias 2^(e-1) - 1.
fn f8_value(byte: u8, exponent_bits: i32, mantissa_bits: i32) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let field = i32::from(byte & 0x7f);
    let (exponent, mantissa) = (field >> mantissa_bits, field & ((1 << mantissa_bits) - 1));
    let bias = (1 << (exponent_bits - 1)) - 1;
    let fraction = mantissa as f32 / (1 << mantissa_bits) as f32;
    match (exponent_bits, exponent, mantissa) {
        (4, 15, 7) => f32::NAN,
        (5, 31, 0) => sign * f32::INFINITY,
        (5, 31, _) => f32::NAN,
        (_, 0, _) => sign * fraction * 2f32.powi(1 - bias),
        _ => sign * (1.0 + fraction) * 2f32.powi(exponent - bias),
    }
}

fn widen_one(dtype: Dtype, bytes: &[u8]) -> (f32, bool) {
    let mut out = [0.0];
    let finite = widen(dtype, bytes, &mut out).unwrap();
    (out[0], finite)
}

fn narrow_one(dtype: Dtype, x: f32) -> Vec<u8> {
    let mut out = vec![0; dtype.size()];
    narrow(dtype, &[x], &mut out).unwrap();
    out
}

/// Checks `bytes`, one element of `dtype`: it widens to `expected`, and back to itself unless it is NaN.
fn check_pattern(dtype: Dtype, bytes: &[u8], expected: f32) {
    let (found, finite) = widen_one(dtype, bytes);
    assert_eq!(finite, expected.is_finite(), "{dtype} {bytes:x?}");
    if expected.is_nan() {
        assert!(found.is_nan(), "{dtype} {bytes:x?} gave {found}");
        let back = widen_one(dtype, &narrow_one(dtype, found)).0;
        assert!(back.is_nan(), "{dtype} {bytes:x?} came back as {back}");
        assert_eq!(back.is_sign_negative(), found.is_sign_negative(), "{dtype} {bytes:x?}");
    } else {
        assert_eq!(found.to_bits(), expected.to_bits(), "{dtype} {bytes:x?}");
        assert_eq!(narrow_one(dtype, found), bytes, "{dtype} {bytes:x?}");
    }
}

#[test]
fn every_16_bit_pattern_round_trips() {
    for bits in 0..=u16::MAX {
        check_pattern(Dtype::Bf16, &bits.to_le_bytes(), bf16::from_bits(bits).to_f32());
        check_pattern(Dtype::F16, &bits.to_le_bytes(), f16::from_bits(bits).to_f32());
    }
}

#[test]
fn every_8_bit_pattern_round_trips() {
    for byte in 0..=u8::MAX {
        check_pattern(Dtype::F8E4M3, &[byte], f8_value(byte, 4, 3));
        check_pattern(Dtype::F8E5M2, &[byte], f8_value(byte, 5, 2));
    }
}

/// Between each two neighbours, narrowing picks the nearer, and the even one halfway.
#[test]
fn f8_rounds_to_nearest_even() {
    for (dtype, e, m, last, beyond) in [(Dtype::F8E4M3, 4, 3, 0x7e, 480.0), (Dtype::F8E5M2, 5, 2, 0x7b, 65536.0)] {
        for low in 0..=last {
            let (a, b) = (f8_value(low, e, m), if low == last { beyond } else { f8_value(low + 1, e, m) });
            let half = a + (b - a) / 2.0;
            let even = low + (low & 1);
            for (x, expected) in [(a, low), (half.next_down(), low), (half, even), (half.next_up(), low + 1)] {
                assert_eq!(narrow_one(dtype, x), [expected], "{dtype} {x}");
                assert_eq!(narrow_one(dtype, -x), [expected | 0x80], "{dtype} -{x}");
            }
        }
    }
}

/// The values `torch.tensor(x).to(dtype).view(torch.uint8)` documents in `c10/util/Float8_*.h`.
#[test]
fn f8_overflow_is_nan_or_infinity() {
    let check = |dtype, x: f32, expected: u8| assert_eq!(narrow_one(dtype, x), [expected], "{dtype} {x}");
    for (x, expected) in [(448.0, 0x7e), (464.0, 0x7e), (465.0, 0x7f), (1e30, 0x7f), (f32::INFINITY, 0x7f)] {
        check(Dtype::F8E4M3, x, expected);
        check(Dtype::F8E4M3, -x, expected | 0x80);
    }
    for (x, expected) in [(57344.0, 0x7b), (61439.0, 0x7b), (61440.0, 0x7c), (1e30, 0x7c), (f32::INFINITY, 0x7c)] {
        check(Dtype::F8E5M2, x, expected);
        check(Dtype::F8E5M2, -x, expected | 0x80);
    }
}

#[test]
fn one_value_that_is_not_finite_is_seen_anywhere() {
    let n = 1037;
    for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.is_float()) {
        for at in [0, 1, 7, 512, 1023, n - 1] {
            let mut values = vec![1.0; n];
            let mut bytes = vec![0; n * dtype.size()];
            assert_eq!(narrow(dtype, &values, &mut bytes), Ok(true), "{dtype}");
            assert_eq!(widen(dtype, &bytes, &mut values), Ok(true), "{dtype}");
            assert_eq!(first_nonfinite(dtype, &bytes), Ok(None), "{dtype}");
            values[at] = f32::NAN;
            assert_eq!(narrow(dtype, &values, &mut bytes), Ok(false), "{dtype} at {at}");
            assert_eq!(widen(dtype, &bytes, &mut values), Ok(false), "{dtype} at {at}");
            assert_eq!(first_nonfinite(dtype, &bytes), Ok(Some(at)), "{dtype} at {at}");
        }
    }
}

/// The largest number of each type, and what is beyond it. F64 and F32 hold all of f32.
#[test]
fn what_a_type_cannot_hold_is_seen_while_narrowing() {
    let largest = [
        (Dtype::F16, 65519.0, 65520.0),
        (Dtype::Bf16, 3.389_5e38, f32::MAX),
        (Dtype::F8E4M3, 464.0, 465.0),
        (Dtype::F8E5M2, 61439.0, 61440.0),
        (Dtype::F32, f32::MAX, f32::INFINITY),
        (Dtype::F64, f32::MAX, f32::NEG_INFINITY),
    ];
    for (dtype, held, beyond) in largest {
        for sign in [1.0, -1.0] {
            let mut bytes = vec![0; 600 * dtype.size()];
            let mut values = vec![sign * held; 600];
            assert_eq!(narrow(dtype, &values, &mut bytes), Ok(true), "{dtype}");
            values[555] = sign * beyond;
            assert_eq!(narrow(dtype, &values, &mut bytes), Ok(false), "{dtype}");
            assert_eq!(first_nonfinite(dtype, &bytes), Ok(Some(555)), "{dtype}");
        }
    }
}

#[test]
fn f64_rounds_and_overflow_is_reported() {
    let check = |x: f64, expected: f32| {
        let found = widen_one(Dtype::F64, &x.to_le_bytes());
        assert_eq!(found, (expected, expected.is_finite()), "{x}");
    };
    check(0.1, 0.1);
    check(1.0 + f64::from(f32::EPSILON) / 2.0, 1.0);
    check(1e-60, 0.0);
    check(1e39, f32::INFINITY);
    check(-1e39, f32::NEG_INFINITY);
}

#[test]
fn what_cannot_be_converted_is_refused() {
    let mut floats = [0.0; 2];
    for dtype in Dtype::ALL.into_iter().filter(|dtype| !dtype.is_float()) {
        assert_eq!(widen(dtype, &[0; 16][..2 * dtype.size()], &mut floats), Err(ConvertError::NotFloat { dtype }));
        assert_eq!(narrow(dtype, &floats, &mut [0; 16][..2 * dtype.size()]), Err(ConvertError::NotFloat { dtype }));
        assert_eq!(first_nonfinite(dtype, &[0; 16][..2 * dtype.size()]), Err(ConvertError::NotFloat { dtype }));
    }
    let length = ConvertError::Length { dtype: Dtype::Bf16, floats: 2, expected: 4, found: 5 };
    assert_eq!(widen(Dtype::Bf16, &[0; 5], &mut floats), Err(length.clone()));
    assert_eq!(narrow(Dtype::Bf16, &floats, &mut [0; 5]), Err(length));
}

/// Any bit pattern, with NaN, infinities, subnormals and values around 1 all likely.
fn any_f32() -> impl Strategy<Value = f32> {
    prop_oneof![any::<u32>().prop_map(f32::from_bits), (-2.0f32..2.0), (-1e-4f32..1e-4), (-70000.0f32..70000.0)]
}

proptest! {
    #[test]
    fn narrowing_agrees_with_half(values in prop::collection::vec(any_f32(), 0..1200)) {
        let mut bytes = vec![0; 2 * values.len()];
        let check = |bytes: &[u8], to_bits: fn(f32) -> u16, is_nan: fn(u16) -> bool| {
            for (pair, &x) in bytes.chunks_exact(2).zip(&values) {
                let found = u16::from_le_bytes([pair[0], pair[1]]);
                assert!(found == to_bits(x) || (x.is_nan() && is_nan(found)), "{x}: {found:#x}");
            }
        };
        narrow(Dtype::Bf16, &values, &mut bytes).unwrap();
        check(&bytes, |x| bf16::from_f32(x).to_bits(), |bits| bf16::from_bits(bits).is_nan());
        narrow(Dtype::F16, &values, &mut bytes).unwrap();
        check(&bytes, |x| f16::from_f32(x).to_bits(), |bits| f16::from_bits(bits).is_nan());
    }

    #[test]
    fn f32_and_f64_keep_every_value(values in prop::collection::vec(any_f32(), 0..1200), offset in 0usize..8) {
        for dtype in [Dtype::F32, Dtype::F64] {
            let mut bytes = vec![0; offset + dtype.size() * values.len()];
            narrow(dtype, &values, &mut bytes[offset..]).unwrap();
            let mut back = vec![0.0; values.len()];
            let finite = widen(dtype, &bytes[offset..], &mut back).unwrap();
            prop_assert_eq!(finite, values.iter().all(|x| x.is_finite()));
            for (x, y) in values.iter().zip(&back) {
                prop_assert!(x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()));
            }
        }
    }

    #[test]
    fn neither_length_nor_alignment_changes_a_value(n in 0usize..1100, offset in 0usize..8, seed in any::<u32>()) {
        for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            let byte = |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes()[3];
            let bytes: Vec<u8> = (0..offset + n * dtype.size()).map(byte).collect();
            let mut out = vec![0.0; n];
            let finite = widen(dtype, &bytes[offset..], &mut out).unwrap();
            let first = first_nonfinite(dtype, &bytes[offset..]).unwrap();
            prop_assert_eq!(first, out.iter().position(|x| !x.is_finite()));
            let one_by_one: Vec<_> = bytes[offset..].chunks(dtype.size()).map(|one| widen_one(dtype, one)).collect();
            prop_assert_eq!(finite, one_by_one.iter().all(|(_, finite)| *finite));
            for (x, (y, _)) in out.iter().zip(&one_by_one) {
                prop_assert_eq!(x.to_bits(), y.to_bits());
            }
        }
    }
}
