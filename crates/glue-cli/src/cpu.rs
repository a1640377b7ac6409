//! Which build runs on which processor: the first thing in `main`.
//!
//! A binary that was compiled for x86-64-v3 checks that the processor has those instructions; without this, an older
//! one fails with "illegal instruction". The check is compiled for the newer processor too, but uses none of the
//! instructions that it asks for.
//!
//! A binary that was compiled for every x86-64 processor, as archives and wheels hold it, is slower by a factor. It
//! gives way to the best build that the processor can run and that lies beside it, `glue-x86-64-v4` or
//! `glue-x86-64-v3`. All of them compute the same bits.

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

/// Lets a build for this processor that lies beside this one take over, if there is one; it does not come back then.
///
/// # Errors
/// None: this build runs on every processor.
#[cfg(all(target_arch = "x86_64", not(target_feature = "avx2"), unix))]
pub(crate) fn check() -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    use std::path::PathBuf;
    use std::process::Command;
    let mut args = std::env::args_os();
    let name = args.next();
    let Ok(own) = std::env::current_exe() else { return Ok(()) };
    // A build that took over looks for files with two levels in their names, and finds none.
    let beside = |level: &str| {
        let mut path = own.clone().into_os_string();
        path.push(format!("-{level}"));
        PathBuf::from(path)
    };
    if let Some(better) = levels().map(beside).find(|path| path.is_file()) {
        let mut better = Command::new(better);
        better.args(args);
        if let Some(name) = name {
            better.arg0(name);
        }
        // Where it cannot be started, this one does the work.
        let _ = better.exec();
    }
    Ok(())
}

/// The levels of the architecture that this processor has beyond the first, the highest first.
#[cfg(all(target_arch = "x86_64", not(target_feature = "avx2"), unix))]
fn levels() -> impl Iterator<Item = &'static str> {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    let third = has!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe");
    let fourth = third && has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    [("x86-64-v4", fourth), ("x86-64-v3", third)].into_iter().filter(|(_, has)| *has).map(|(level, _)| level)
}

/// Checks the processor, where that is possible.
///
/// # Errors
/// None: the binary asks for nothing beyond the baseline of its architecture.
#[cfg(not(any(all(target_arch = "x86_64", target_feature = "avx2"), all(target_arch = "x86_64", unix))))]
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
        "this binary was compiled for x86-64-v3, and this processor lacks {}\nhint: the released \
         archives and wheels hold a build for every processor; from source, RUSTFLAGS=\"-C target-cpu=x86-64\" makes one",
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
