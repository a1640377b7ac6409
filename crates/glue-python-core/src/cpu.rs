//! Checks that the processor has the instructions that the module was compiled for: an import error in words, instead
//! of a process that ends with "illegal instruction".

/// Checks the processor.
///
/// # Errors
/// What it lacks.
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
#[inline(never)]
pub(crate) fn check() -> Result<(), String> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // The standard library would answer at compile time, from the very assumption that is checked here.
    let basic = __cpuid(1).ecx;
    let extended = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    let needed = [
        ("AVX", basic >> 28),
        ("FMA", basic >> 12),
        ("F16C", basic >> 29),
        ("AVX2", extended >> 5),
        ("BMI1", extended >> 3),
        ("BMI2", extended >> 8),
    ];
    let lacking: Vec<&str> = needed.iter().filter(|(_, bit)| bit & 1 == 0).map(|(name, _)| *name).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let lacking = lacking.join(", ");
    Err(format!("model_glue_core was compiled for x86-64-v3, and this processor lacks {lacking}: build it from source"))
}

/// Checks the processor: what is asked for is the baseline of its architecture.
///
/// # Errors
/// None.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
pub(crate) fn check() -> Result<(), String> {
    Ok(())
}
