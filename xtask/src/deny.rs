//! `cargo xtask deny`: licences, advisories and sources of every dependency, with cargo-deny and `deny.toml`.
//!
//! Not a step of `cargo xtask test`: it needs a tool that a fresh machine lacks, and the database of advisories, which
//! is fetched.

use anyhow::{Result, bail};

use crate::repo::Repo;
use crate::shell::{self, cargo};

/// Options of `cargo xtask deny`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Skip the advisories, which need the network.
    #[arg(long)]
    offline: bool,
}

/// Checks the workspace against the policy.
///
/// # Errors
/// cargo-deny is not installed, or a dependency is against the policy.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    if !shell::works(cargo().args(["deny", "--version"])) {
        bail!("cargo-deny is not installed\nhint: cargo install cargo-deny --locked");
    }
    let mut command = cargo();
    command.current_dir(&repo.root).arg("deny");
    if args.offline {
        command.args(["--offline", "check", "bans", "licenses", "sources"]);
    } else {
        command.arg("check");
    }
    shell::run(&mut command)
}
