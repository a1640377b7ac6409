//! Counter-based random bits: a value follows from a seed and an index alone, whatever was drawn before and wherever.

/// The increment of SplitMix64: 2⁶⁴ divided by the golden ratio, odd.
pub const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection on 64 bits whose outputs look independent.
#[must_use]
pub const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Element `index` of the SplitMix64 sequence of `seed`.
#[must_use]
pub const fn at(seed: u64, index: u64) -> u64 {
    mix(seed.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)))
}

#[cfg(test)]
mod tests {
    //! Against the published sequence of seed 0.
    use super::at;

    #[test]
    fn first_values_of_seed_zero() {
        let expected = [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F];
        assert_eq!([at(0, 0), at(0, 1), at(0, 2)], expected);
    }
}
