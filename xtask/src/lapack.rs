//! The LAPACK back end of `glue-linalg`, against `faer` and against NumPy, where OpenBLAS is installed.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::repo::Repo;
use crate::shell::{self, cargo};

/// Runs the tests of `glue-linalg` and `glue-spectral` with the feature `lapack`. Without OpenBLAS
/// it says so and passes.
///
/// # Errors
/// A test failed.
pub(crate) fn check(_: &Repo) -> Result<()> {
    if !is_installed() {
        println!("skipped: OpenBLAS is not installed (apt-get install libopenblas-dev)");
        return Ok(());
    }
    let packages = ["-p", "glue-linalg", "-p", "glue-spectral", "--features", "glue-spectral/lapack"];
    shell::run(cargo().arg("test").args(packages).env("OPENBLAS_NUM_THREADS", "1"))
}

/// Asks `pkg-config`, as the build does, and looks where the linker does in case that is missing.
fn is_installed() -> bool {
    let folders =
        ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    shell::works(Command::new("pkg-config").args(["--exists", "openblas"]))
        || folders.iter().any(|folder| Path::new(folder).join("libopenblas.so").exists())
}
