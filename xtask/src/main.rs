//! Automation for developers, run as `cargo xtask COMMAND`.
//!
//! It runs cargo and the built binary `glue` and links none of the project's crates. So it still works, and can say
//! what is wrong, when they do not compile.
//!
//! **Invariant:** one file per command, and no command changes `RUSTFLAGS` in a target folder that others use:
//! everything would be built again.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod codegen;
mod cuda_stub;
mod demo;
mod deny;
mod dist;
mod experiments;
mod features;
mod fuzz;
mod gpu_check;
mod kernels;
mod lapack;
mod new_operator;
mod package;
mod repo;
mod results;
mod shell;
mod test;
mod tidy;
mod wheel;

/// Automation for developers of Model-GLUE.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check that a change must pass: formatting, lints, tests, docs, tidy, generated files.
    Test(test::Args),
    /// Check what the compiler does not: dependencies between crates, module docs, links, wording, stray paths.
    Tidy,
    /// Generate the reference docs from the code.
    Codegen(codegen::Args),
    /// Run benchmarks of a release build, on an otherwise idle machine.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run the whole pipeline on the shipped zoo; the report is in target/demo.
    Demo,
    /// Run the pipeline on the shipped zoo with several seeds and write docs/results.md.
    Results(results::Args),
    /// Run the experiments on the shipped zoo and write docs/experiments.md.
    Experiments(experiments::Args),
    /// Create a crate with a working merge operator, as a start for your own.
    NewOperator(new_operator::Args),
    /// Fuzz the parsers.
    Fuzz(fuzz::Args),
    /// Compile the CUDA kernels to PTX, or check that the committed PTX is current.
    Kernels(kernels::Args),
    /// Build a stub of the CUDA driver, to link without one.
    CudaStub,
    /// Check and benchmark every kernel on this machine's GPU.
    GpuCheck(gpu_check::Args),
    /// Package every published crate and check what its package holds.
    Package,
    /// Build the archive of a release for this machine, with man pages, completions and checksums.
    Dist(dist::Args),
    /// Build the Python wheels with maturin, and check them in a clean environment.
    Wheel(wheel::Args),
    /// Compile crates with optional features without them, and with each alone.
    Features,
    /// Check licences, advisories and sources of the dependencies with cargo-deny.
    Deny(deny::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Tidy => tidy::run(),
        Command::Codegen(args) => codegen::run(&args),
        Command::Bench(bench) => bench::run(&bench),
        Command::Demo => demo::run(),
        Command::Results(args) => results::run(&args),
        Command::Experiments(args) => experiments::run(&args),
        Command::NewOperator(args) => new_operator::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::CudaStub => cuda_stub::run(),
        Command::GpuCheck(args) => gpu_check::run(&args),
        Command::Package => package::run(),
        Command::Dist(args) => dist::run(&args),
        Command::Wheel(args) => wheel::run(&args),
        Command::Features => features::run(),
        Command::Deny(args) => deny::run(&args),
    };
    exit_code(result)
}

fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    //! The command line itself.
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
