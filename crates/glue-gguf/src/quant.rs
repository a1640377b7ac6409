//! How values are stored, and their conversion from and to `f32`.
//!
//! F32, F16, BF16, Q8_0 and Q4_K to Q6_K are encoded here, to the same bytes as the reference. The other quantised
//! types are encoded, and all are decoded, by candle, block by block. MXFP4, in which gpt-oss is published, is decoded
//! here and not written.

use crate::k_quant::{encode_q4_k, encode_q5_k, encode_q6_k, in_blocks};
use candle_core::quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml};
use candle_core::{Device, Tensor};
use glue_tensor::{Dtype, narrow, widen};
use std::fmt;

/// A storage type of ggml.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, non_camel_case_types)]
#[non_exhaustive]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Bf16,
    Mxfp4,
}

/// Type, number in files, name, values of a block, bytes of a block.
const TYPES: [(GgmlType, u32, &str, usize, usize); 14] = [
    (GgmlType::F32, 0, "F32", 1, 4),
    (GgmlType::F16, 1, "F16", 1, 2),
    (GgmlType::Q4_0, 2, "Q4_0", 32, 18),
    (GgmlType::Q4_1, 3, "Q4_1", 32, 20),
    (GgmlType::Q5_0, 6, "Q5_0", 32, 22),
    (GgmlType::Q5_1, 7, "Q5_1", 32, 24),
    (GgmlType::Q8_0, 8, "Q8_0", 32, 34),
    (GgmlType::Q2_K, 10, "Q2_K", 256, 84),
    (GgmlType::Q3_K, 11, "Q3_K", 256, 110),
    (GgmlType::Q4_K, 12, "Q4_K", 256, 144),
    (GgmlType::Q5_K, 13, "Q5_K", 256, 176),
    (GgmlType::Q6_K, 14, "Q6_K", 256, 210),
    (GgmlType::Bf16, 30, "BF16", 1, 2),
    (GgmlType::Mxfp4, 39, "MXFP4", 32, 17),
];

/// Bytes of a block of MXFP4.
const MXFP4_BYTES: usize = 17;
/// The values of MXFP4, those of a float of one sign, two exponent bits and one bit behind the point.
const MXFP4_VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Values of a block of Q8_0.
const Q8_0_VALUES: usize = 32;

impl GgmlType {
    fn row(self) -> &'static (GgmlType, u32, &'static str, usize, usize) {
        // The order of the table is that of the type: a test goes through it.
        &TYPES[self as usize]
    }

    /// The type with this number in files; `None` for one that is not known here.
    pub fn from_number(number: u32) -> Option<GgmlType> {
        TYPES.iter().find(|row| row.1 == number).map(|row| row.0)
    }

    /// The number that stands for it in files.
    pub fn number(self) -> u32 {
        self.row().1
    }

    /// Values that are stored together.
    pub fn block_elements(self) -> usize {
        self.row().3
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of `n` values, which must be whole blocks.
    pub fn bytes(self, n: usize) -> u64 {
        (n / self.block_elements()) as u64 * self.block_bytes() as u64
    }

    /// Whether values are stored in blocks with common scales.
    pub fn is_quantised(self) -> bool {
        self.block_elements() > 1
    }

    /// All names, for messages.
    pub(crate) fn names() -> String {
        TYPES.map(|row| row.2).join(", ")
    }

    /// The type of safetensors files with the same values; `None` for quantised types.
    pub(crate) fn dtype(self) -> Option<Dtype> {
        match self {
            GgmlType::F32 => Some(Dtype::F32),
            GgmlType::F16 => Some(Dtype::F16),
            GgmlType::Bf16 => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// candle's name; `None` for a type that it does not have.
    fn candle(self) -> Option<GgmlDType> {
        Some(match self {
            GgmlType::F32 => GgmlDType::F32,
            GgmlType::F16 => GgmlDType::F16,
            GgmlType::Q4_0 => GgmlDType::Q4_0,
            GgmlType::Q4_1 => GgmlDType::Q4_1,
            GgmlType::Q5_0 => GgmlDType::Q5_0,
            GgmlType::Q5_1 => GgmlDType::Q5_1,
            GgmlType::Q8_0 => GgmlDType::Q8_0,
            GgmlType::Q2_K => GgmlDType::Q2K,
            GgmlType::Q3_K => GgmlDType::Q3K,
            GgmlType::Q4_K => GgmlDType::Q4K,
            GgmlType::Q5_K => GgmlDType::Q5K,
            GgmlType::Q6_K => GgmlDType::Q6K,
            GgmlType::Bf16 => GgmlDType::BF16,
            GgmlType::Mxfp4 => return None,
        })
    }

    /// Stores `values`, which must be whole blocks and finite, into `out`, which is emptied before.
    ///
    /// # Errors
    /// In words: values that are not finite, or become so in this type; a number of values that is not whole blocks.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), String> {
        if !values.len().is_multiple_of(self.block_elements()) {
            return Err(format!("{} values are no whole blocks of {self}", values.len()));
        }
        out.clear();
        let n_bytes = self.bytes(values.len()) as usize;
        if let Some(dtype) = self.dtype() {
            out.resize(n_bytes, 0);
            let finite = narrow(dtype, values, out).map_err(|error| error.to_string())?;
            return if finite { Ok(()) } else { Err(not_finite(self, values)) };
        }
        if values.iter().any(|x| !x.is_finite()) {
            return Err(not_finite(self, values));
        }
        match self {
            GgmlType::Q8_0 => {
                values.as_chunks::<Q8_0_VALUES>().0.iter().for_each(|block| encode_q8_0(block, out));
                return Ok(());
            }
            GgmlType::Q4_K => return in_blocks(values, |block| encode_q4_k(block, out)),
            GgmlType::Q5_K => return in_blocks(values, |block| encode_q5_k(block, out)),
            GgmlType::Q6_K => return in_blocks(values, |block| encode_q6_k(block, out)),
            _ => {}
        }
        let Some(kind) = self.candle() else { return Err(format!("{self} is read and not written")) };
        let quantise = || {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
            Ok::<_, candle_core::Error>(QTensor::quantize(&tensor, kind)?.data()?.into_owned())
        };
        *out = quantise().map_err(|error| error.to_string())?;
        if out.len() == n_bytes { Ok(()) } else { Err(format!("{} bytes instead of {n_bytes}", out.len())) }
    }

    /// Widens `n` values from `bytes` into `out`, which is emptied before.
    ///
    /// # Errors
    /// In words, when `bytes` are not those of `n` values.
    pub fn decode(self, bytes: &[u8], n: usize, out: &mut Vec<f32>) -> Result<(), String> {
        if !n.is_multiple_of(self.block_elements()) || bytes.len() as u64 != self.bytes(n) {
            return Err(format!("{} bytes are not those of {n} values of {self}", bytes.len()));
        }
        out.clear();
        if let Some(dtype) = self.dtype() {
            out.resize(n, 0.0);
            return widen(dtype, bytes, out).map(|_| ()).map_err(|error| error.to_string());
        }
        let Some(kind) = self.candle() else {
            bytes.as_chunks::<MXFP4_BYTES>().0.iter().for_each(|block| decode_mxfp4(block, out));
            return Ok(());
        };
        let dequantise = || {
            let tensor = qtensor_from_ggml(kind, bytes, vec![n], &Device::Cpu)?;
            tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>()
        };
        *out = dequantise().map_err(|error| error.to_string())?;
        Ok(())
    }
}

fn not_finite(kind: GgmlType, values: &[f32]) -> String {
    match values.iter().find(|x| !x.is_finite()) {
        Some(x) => format!("it holds {x}, which cannot be stored"),
        None => format!("it holds a value beyond the range of {kind}; bf16 and f32 have a larger one"),
    }
}

/// A scale, the largest magnitude over 127, and the values over it, halves rounded away from zero.
fn encode_q8_0(block: &[f32; Q8_0_VALUES], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut bytes = [0; 2];
    // The type is a float and the lengths fit, so that nothing is refused.
    let _ = narrow(Dtype::F16, &[scale], &mut bytes);
    out.extend(bytes);
    out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
}

/// A power of two, and 32 values of four bits: the lower halves of all bytes, then the upper ones.
fn decode_mxfp4(&[exponent, ref values @ ..]: &[u8; MXFP4_BYTES], out: &mut Vec<f32>) {
    // 2^-127 is subnormal, and 255 stands for no number.
    let scale = if exponent == 255 { f32::NAN } else { f64::powi(2.0, i32::from(exponent) - 127) as f32 };
    let value = |half: u8| {
        let magnitude = scale * MXFP4_VALUES[usize::from(half & 7)];
        if half & 8 == 0 { magnitude } else { -magnitude }
    };
    out.extend(values.iter().map(|byte| value(byte & 15)));
    out.extend(values.iter().map(|byte| value(byte >> 4)));
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_type_at_its_place_and_the_sizes_of_candle() {
        for (at, row) in TYPES.iter().enumerate() {
            assert_eq!(row.0 as usize, at);
            assert_eq!(GgmlType::from_number(row.1), Some(row.0));
            if let Some(kind) = row.0.candle() {
                assert_eq!((kind.block_size(), kind.type_size()), (row.3, row.4), "{}", row.0);
            }
        }
    }

    #[test]
    fn each_type_gives_back_values_within_its_step() {
        let values: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
        for (kind, .., tolerance) in [
            (GgmlType::F32, 0.0),
            (GgmlType::F16, 5e-4),
            (GgmlType::Bf16, 4e-3),
            (GgmlType::Q8_0, 5e-3),
            (GgmlType::Q4_0, 0.13),
            (GgmlType::Q4_1, 0.08),
            (GgmlType::Q5_0, 0.07),
            (GgmlType::Q5_1, 0.04),
            (GgmlType::Q2_K, 0.5),
            (GgmlType::Q3_K, 0.3),
            (GgmlType::Q4_K, 0.1),
            (GgmlType::Q5_K, 0.06),
            (GgmlType::Q6_K, 0.04),
        ] {
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            kind.encode(&values, &mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, kind.bytes(512));
            kind.decode(&bytes, 512, &mut back).unwrap();
            let worst = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{kind}: {worst}");
            assert!(kind.decode(&bytes[1..], 512, &mut back).is_err());
        }
    }

    #[test]
    fn a_block_of_q8_0_has_the_scale_and_values_worked_out_by_hand() {
        let mut values = [0.0; 32];
        values[..4].copy_from_slice(&[127.0, -126.5, 0.5, -0.4]);
        let mut bytes = Vec::new();
        GgmlType::Q8_0.encode(&values, &mut bytes).unwrap();
        // A scale of 1; halves are rounded away from zero.
        assert_eq!(bytes[..2], [0x00, 0x3c]);
        assert_eq!(bytes[2..6], [127, -127i8 as u8, 1, 0]);
        GgmlType::Q8_0.encode(&[0.0; 32], &mut bytes).unwrap();
        assert_eq!(bytes, [0; 34]);
    }

    #[test]
    fn a_block_of_mxfp4_has_the_values_worked_out_by_hand() {
        let mut block = [0u8; MXFP4_BYTES];
        block[..4].copy_from_slice(&[128, 0x71, 0x2f, 0x08]);
        let mut values = Vec::new();
        GgmlType::Mxfp4.decode(&block, 32, &mut values).unwrap();
        // Twice the values: 0.5 and 6, -6 and 1, -0 and 0.
        assert_eq!(values[..3], [1.0, -12.0, 0.0]);
        assert_eq!(values[16..19], [12.0, 2.0, 0.0]);
        assert!(GgmlType::Mxfp4.encode(&[0.0; 32], &mut Vec::new()).unwrap_err().contains("not written"));
    }

    #[test]
    fn values_that_a_type_cannot_hold_are_refused() {
        let mut bytes = Vec::new();
        let error = GgmlType::F16.encode(&[1e6], &mut bytes).unwrap_err();
        assert!(error.contains("beyond the range of F16"), "{error}");
        let mut values = [0.0; 32];
        values[7] = f32::NAN;
        for kind in [GgmlType::Q8_0, GgmlType::Q4_0] {
            assert!(kind.encode(&values, &mut bytes).unwrap_err().contains("NaN"));
        }
        assert!(GgmlType::Q8_0.encode(&[0.0; 31], &mut bytes).is_err());
    }
}
