//! Element types of tensors, with their names in safetensors headers and in `config.json`.
//!
//! These are the types of the crate `safetensors` whose elements take whole bytes. Its types of 4 and 6 bits (`F4`,
//! `F6_E2M3`, `F6_E3M2`) are refused: offsets of elements are counted in bytes throughout.

use std::fmt;

/// The type of one element of a tensor, as safetensors files store it (little endian).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 8-bit float, 4 exponent and 3 mantissa bits, finite and NaN only (`float8_e4m3fn`).
    F8E4M3,
    /// 8-bit float, 5 exponent and 2 mantissa bits, with infinities (`float8_e5m2`).
    F8E5M2,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// 8-bit power of two, 2^(byte − 127); 255 is NaN (`float8_e8m0fnu`). Scales of block-quantised weights.
    F8E8M0,
    /// 8-bit float, 4 exponent and 3 mantissa bits, one zero and one NaN (`float8_e4m3fnuz`).
    F8E4M3Fnuz,
    /// 8-bit float, 5 exponent and 2 mantissa bits, one zero and one NaN (`float8_e5m2fnuz`).
    F8E5M2Fnuz,
    /// Two binary32: real and imaginary part.
    C64,
}

/// Type, bytes per element, safetensors name, torch name.
const TABLE: [(Dtype, usize, &str, &str); 19] = [
    (Dtype::F64, 8, "F64", "float64"),
    (Dtype::F32, 4, "F32", "float32"),
    (Dtype::F16, 2, "F16", "float16"),
    (Dtype::Bf16, 2, "BF16", "bfloat16"),
    (Dtype::F8E4M3, 1, "F8_E4M3", "float8_e4m3fn"),
    (Dtype::F8E5M2, 1, "F8_E5M2", "float8_e5m2"),
    (Dtype::I64, 8, "I64", "int64"),
    (Dtype::I32, 4, "I32", "int32"),
    (Dtype::I16, 2, "I16", "int16"),
    (Dtype::I8, 1, "I8", "int8"),
    (Dtype::U64, 8, "U64", "uint64"),
    (Dtype::U32, 4, "U32", "uint32"),
    (Dtype::U16, 2, "U16", "uint16"),
    (Dtype::U8, 1, "U8", "uint8"),
    (Dtype::Bool, 1, "BOOL", "bool"),
    (Dtype::F8E8M0, 1, "F8_E8M0", "float8_e8m0fnu"),
    (Dtype::F8E4M3Fnuz, 1, "F8_E4M3FNUZ", "float8_e4m3fnuz"),
    (Dtype::F8E5M2Fnuz, 1, "F8_E5M2FNUZ", "float8_e5m2fnuz"),
    (Dtype::C64, 8, "C64", "complex64"),
];

/// Other names torch gives the same types.
const ALIASES: [(&str, Dtype); 7] = [
    ("double", Dtype::F64),
    ("float", Dtype::F32),
    ("half", Dtype::F16),
    ("long", Dtype::I64),
    ("int", Dtype::I32),
    ("short", Dtype::I16),
    ("float8_e4m3", Dtype::F8E4M3),
];

impl Dtype {
    /// Every element type: those that can be merged first, widest first.
    pub const ALL: [Dtype; 19] = {
        let mut all = [Dtype::F64; 19];
        let mut i = 0;
        while i < TABLE.len() {
            all[i] = TABLE[i].0;
            i += 1;
        }
        all
    };

    /// Bytes one element takes.
    pub const fn size(self) -> usize {
        TABLE[self as usize].1
    }

    /// The name in a safetensors header, such as `BF16`.
    pub const fn safetensors_name(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// The name torch and `config.json` use, such as `bfloat16`.
    pub const fn torch_name(self) -> &'static str {
        TABLE[self as usize].3
    }

    /// The type a safetensors header calls `name`; `None` for a name outside this table.
    pub fn from_safetensors_name(name: &str) -> Option<Dtype> {
        TABLE.iter().find(|row| row.2 == name).map(|row| row.0)
    }

    /// The type torch calls `name`, with or without the prefix `torch.`; `None` for any other name.
    pub fn from_torch_name(name: &str) -> Option<Dtype> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        let by_name = TABLE.iter().find(|row| row.3 == name).map(|row| row.0);
        by_name.or_else(|| ALIASES.iter().find(|(alias, _)| *alias == name).map(|row| row.1))
    }

    /// Whether elements can be widened to f32 and narrowed back, which merging needs. Tensors of other
    /// types can only be copied.
    pub const fn is_float(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F8E4M3 | Dtype::F8E5M2)
    }

    /// Whether elements are integers or truth values.
    pub const fn is_integer(self) -> bool {
        use Dtype::{Bool, I8, I16, I32, I64, U8, U16, U32, U64};
        matches!(self, I64 | I32 | I16 | I8 | U64 | U32 | U16 | U8 | Bool)
    }
}

/// Writes the safetensors name.
impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.safetensors_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_own_discriminant_and_names_read_back() {
        for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
            assert_eq!(dtype as usize, i);
            assert_eq!(Dtype::from_safetensors_name(dtype.safetensors_name()), Some(dtype));
            assert_eq!(Dtype::from_torch_name(dtype.torch_name()), Some(dtype));
            assert_eq!(Dtype::from_torch_name(&format!("torch.{}", dtype.torch_name())), Some(dtype));
        }
    }

    #[test]
    fn unknown_names_are_none() {
        for name in ["", "bf16", "F4", "F6_E2M3", "torch.", "float4_e2m1fn_x2"] {
            assert_eq!(Dtype::from_safetensors_name(name), None, "{name}");
            assert_eq!(Dtype::from_torch_name(name), None, "{name}");
        }
    }
}
