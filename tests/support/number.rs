//! Element types, and numbers that look random.

/// SplitMix64: the same numbers from the same seed on any machine.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [−`width`, `width`).
    pub fn around_zero(&mut self, width: f32) -> f32 {
        ((self.unit() * 2.0 - 1.0) as f32) * width
    }
}

/// A binary floating-point format of at most 16 bits, as safetensors stores it.
#[derive(Debug, Clone, Copy)]
pub struct Small {
    /// Name in a header.
    pub name: &'static str,
    /// Bytes of an element.
    pub size: usize,
    exponent_bits: u32,
    mantissa_bits: u32,
}

/// `BF16`.
pub const BF16: Small = Small { name: "BF16", size: 2, exponent_bits: 8, mantissa_bits: 7 };
/// `F16`.
pub const F16: Small = Small { name: "F16", size: 2, exponent_bits: 5, mantissa_bits: 10 };
/// `F8_E4M3`.
pub const F8_E4M3: Small = Small { name: "F8_E4M3", size: 1, exponent_bits: 4, mantissa_bits: 3 };
/// `F8_E5M2`.
pub const F8_E5M2: Small = Small { name: "F8_E5M2", size: 1, exponent_bits: 5, mantissa_bits: 2 };

/// All of them.
pub const SMALL: [Small; 4] = [BF16, F16, F8_E4M3, F8_E5M2];

impl Small {
    fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// The number that `bits` stand for. Infinities and NaN come out as large numbers: no test writes any.
    pub fn decode(self, bits: u16) -> f64 {
        let mantissa = f64::from(bits & ((1 << self.mantissa_bits) - 1)) / f64::from(1u32 << self.mantissa_bits);
        let exponent = i32::from((bits >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1));
        let negative = bits >> (self.exponent_bits + self.mantissa_bits) & 1 == 1;
        let magnitude = match exponent {
            0 => mantissa * 2f64.powi(1 - self.bias()),
            _ => (1.0 + mantissa) * 2f64.powi(exponent - self.bias()),
        };
        if negative { -magnitude } else { magnitude }
    }

    /// Half the distance of the two neighbours of `x`: how far rounding to nearest may move it.
    pub fn half_step(self, x: f64) -> f64 {
        let exponent = if x == 0.0 { i32::MIN } else { x.abs().log2().floor() as i32 };
        2f64.powi(exponent.max(1 - self.bias()) - self.mantissa_bits as i32 - 1)
    }
}
