//! `cargo xtask gpu-check`: every kernel on the GPU of this machine, against the CPU and against its bandwidth.
//!
//! The program that does it is a binary of `glue-cuda`, which can be built here and run elsewhere.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::cuda_stub;
use crate::repo::Repo;
use crate::shell::{self, cargo};

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only build the program and print its path, to run it on another machine.
    #[arg(long)]
    build_only: bool,
    /// Options for the program, after `--`.
    #[arg(last = true)]
    options: Vec<OsString>,
}

/// Builds the program, with the stub of the driver unless `CUDA_LIBRARY_PATH` says where another one is, and runs it.
///
/// # Errors
/// It does not build, or a check fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    let mut build = cargo();
    build.args(["build", "--release", "-p", "glue-cuda", "--features", "cuda", "--bin", "gpu-check"]);
    if env::var_os("CUDA_LIBRARY_PATH").is_none() {
        build.env("CUDA_LIBRARY_PATH", cuda_stub::make(&repo)?);
    }
    shell::run(&mut build)?;
    let program = repo.target.join("release").join("gpu-check");
    if args.build_only {
        println!("{}", program.display());
        return Ok(());
    }
    shell::run(Command::new(program).args(&args.options))
}
