//! `cargo xtask test`: every check that a change must pass, in the order in which they are likely to fail fast.
//!
//! What the tools print is left as it is, so that their own summary lines stay readable. Everything is built with one
//! package selection, `--workspace`: another one would unify features differently and build the dependencies twice.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::shell::{self, cargo};
use crate::{codegen, lapack, package, tidy};

type Step = (&'static str, fn(&Repo) -> Result<()>);

const STEPS: &[Step] = &[
    ("format", |_| shell::run(cargo().args(["fmt", "--all", "--check"]))),
    ("tidy", tidy::check),
    ("clippy", |_| shell::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))),
    // Builds the binary `glue` as well, which the end-to-end tests start: `glue-cli` has integration tests.
    ("tests", tests),
    ("docs", |_| shell::run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))),
    ("generated files", codegen::check),
    ("glue-merge alone", alone),
    ("a project outside the workspace", external),
    ("LAPACK", lapack::check),
    ("packages", package::check),
];

/// What an edit is checked with before the next one: no program is linked but the unit tests.
const QUICK: &[Step] = &[
    ("format", |_| shell::run(cargo().args(["fmt", "--all", "--check"]))),
    ("tidy", tidy::check),
    ("unit tests", |_| {
        let nextest = shell::works(cargo().args(["nextest", "--version"]));
        let runner: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
        shell::run(cargo().args(runner).args(["--workspace", "--lib", "--no-fail-fast"]))
    }),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Check formatting, tidiness and unit tests only.
    #[arg(long)]
    quick: bool,
}

/// Runs every step and stops at the first that fails.
///
/// # Errors
/// A step failed; the message names it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    let start = Instant::now();
    let steps = if args.quick { QUICK } else { STEPS };
    for (number, (name, step)) in steps.iter().enumerate() {
        println!("== {}/{} {name}", number + 1, steps.len());
        let start = Instant::now();
        step(&repo).with_context(|| {
            format!(
                "step `{name}` failed after {:.1} s; the steps after it were not run",
                start.elapsed().as_secs_f64()
            )
        })?;
        println!("== {name}: passed in {:.1} s", start.elapsed().as_secs_f64());
    }
    println!("xtask test: all {} steps passed in {:.1} s", steps.len(), start.elapsed().as_secs_f64());
    Ok(())
}

/// With cargo-nextest where it is installed: it runs the tests of all packages side by side. All are run, whichever
/// fails.
fn tests(_: &Repo) -> Result<()> {
    if shell::works(cargo().args(["nextest", "--version"])) {
        shell::run(cargo().args(["nextest", "run", "--workspace", "--no-fail-fast"]))?;
        shell::run(cargo().args(["test", "--workspace", "--doc"]))
    } else {
        shell::run(cargo().args(["test", "--workspace", "--no-fail-fast"]))
    }
}

/// The contract crate is what other projects depend on alone: it must build without the features that its neighbours
/// turn on, and bring nothing with it.
fn alone(_: &Repo) -> Result<()> {
    let tree = shell::read(cargo().args(["tree", "-p", "glue-merge", "-e", "normal,build,dev"]))?;
    if tree.trim().lines().count() != 1 {
        bail!("glue-merge must depend on nothing, but cargo tree says\n{tree}");
    }
    shell::run(cargo().args(["check", "-p", "glue-merge"]))
}

/// A project that is not part of the workspace and sees only what is public. Its library needs `glue-merge` and nothing
/// else; its program is built by the end-to-end tests.
fn external(repo: &Repo) -> Result<()> {
    let folder = repo.path("tests/external");
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        bail!("tests/external/Cargo.toml is missing: the test of the public interface from outside the workspace");
    }
    // The versions of the workspace, which are known not to need a network.
    fs::copy(repo.path("Cargo.lock"), folder.join("Cargo.lock")).context("cannot copy Cargo.lock to tests/external")?;
    // In the workspace's target folder, where `glue-merge` may be built already.
    shell::run(cargo().args(["test", "--manifest-path"]).arg(&manifest).arg("--target-dir").arg(&repo.target))?;
    let edges = ["tree", "-e", "normal,build,dev", "--prefix", "none", "--manifest-path"];
    let tree = shell::read(cargo().args(edges).arg(manifest))?;
    // The tests depend on `glue-merge` once more, for its conformance suite.
    let packages: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if packages.len() != 2 {
        bail!("an operator must need glue-merge and nothing else, but cargo tree says\n{tree}");
    }
    Ok(())
}
