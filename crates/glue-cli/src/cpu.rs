//! Checks that the processor has the instructions that the binary was compiled for.
//!
//! Without this, an older processor fails with "illegal instruction". The check is the first thing in `main`. It is
//! compiled for the newer processor too, but uses none of the instructions that it asks for.

/// Checks the processor, where that is possible.
///
/// # Errors
/// A message for the user when instructions are missing.
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
#[inline(never)]
pub(crate) fn check() -> Result<(), String> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // The standard library would answer at compile time, from the very assumption that is checked here.
    let newest = __cpuid(0).eax;
    let basic = __cpuid(1).ecx;
    let extended = if newest >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    missing(basic, extended)
}

/// Checks the processor, where that is possible.
///
/// # Errors
/// None: the binary asks for nothing beyond the baseline of its architecture.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
pub(crate) fn check() -> Result<(), String> {
    Ok(())
}

/// Bits of leaf 1, register ecx, then of leaf 7, register ebx.
#[cfg(target_arch = "x86_64")]
const NEEDED: [(&str, usize, u32); 6] =
    [("AVX", 0, 28), ("FMA", 0, 12), ("F16C", 0, 29), ("AVX2", 1, 5), ("BMI1", 1, 3), ("BMI2", 1, 8)];

#[cfg(target_arch = "x86_64")]
#[cfg_attr(not(target_feature = "avx2"), allow(dead_code))]
fn missing(basic: u32, extended: u32) -> Result<(), String> {
    let registers = [basic, extended];
    if NEEDED.iter().all(|(_, register, bit)| registers[*register] >> bit & 1 == 1) {
        return Ok(());
    }
    let names: Vec<&str> =
        NEEDED.iter().filter(|(_, register, bit)| registers[*register] >> bit & 1 == 0).map(|row| row.0).collect();
    Err(format!(
        "this binary was compiled for x86-64-v3, and this processor lacks {}\nhint: build it from source with \
         target-cpu=x86-64; .cargo/config.toml says how",
        names.join(", ")
    ))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    //! Which bits are asked for.
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(u32::MAX, u32::MAX), Ok(()));
        let without_avx2 = missing(u32::MAX, !(1 << 5)).unwrap_err();
        assert!(without_avx2.contains("lacks AVX2\n"), "{without_avx2}");
        let nothing = missing(0, 0).unwrap_err();
        assert!(nothing.contains("AVX, FMA, F16C, AVX2, BMI1, BMI2"));
    }

    #[test]
    fn the_processor_that_runs_this_will_do() {
        assert_eq!(check(), Ok(()));
    }
}
