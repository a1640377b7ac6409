//! `cargo xtask fuzz`: random input for the parsers, with cargo-fuzz.
//!
//! The targets are a package of their own in `fuzz/`, outside the workspace, because they need a nightly compiler.

use std::process::Command;

use anyhow::{Result, bail};

use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs, in minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Only these targets.
    targets: Vec<String>,
}

/// Runs the targets one after the other and stops at the first crash.
///
/// # Errors
/// A tool is missing, a target's name is unknown, or an input that crashes a target was found.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    if !(args.minutes > 0.0 && args.minutes < 1e6) {
        bail!("--minutes {} is not a time to run for", args.minutes);
    }
    if !repo.path("fuzz/Cargo.toml").is_file() {
        bail!("fuzz/Cargo.toml is missing: there are no fuzz targets");
    }
    if !shell::works(nightly(&repo).arg("--version")) {
        bail!("no nightly compiler\nhint: rustup toolchain install nightly");
    }
    if !shell::works(nightly(&repo).args(["fuzz", "--version"])) {
        bail!("cargo-fuzz is not installed\nhint: cargo install cargo-fuzz");
    }
    let list = shell::read(nightly(&repo).args(["fuzz", "list", "--fuzz-dir", "fuzz"]))?;
    let known: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let Some(unknown) = args.targets.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no fuzz target `{unknown}`; there are: {}", known.join(", "));
    }
    let seconds = (args.minutes * 60.0).ceil();
    for target in known.iter().filter(|name| args.targets.is_empty() || args.targets.iter().any(|t| t == *name)) {
        println!("== {target} for {seconds} s");
        let limit = format!("-max_total_time={seconds}");
        shell::run(nightly(&repo).args(["fuzz", "run", "--fuzz-dir", "fuzz", target, "--", &limit]))?;
    }
    Ok(())
}

/// `cargo +nightly` through rustup: the cargo that started this program is a stable one and would pass itself on.
fn nightly(repo: &Repo) -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly").current_dir(&repo.root);
    for key in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(key);
    }
    command
}
