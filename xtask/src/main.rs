//! Automation for developers, run as `cargo xtask COMMAND`.
//!
//! It runs cargo and the built binary `glue`; it links none of the project's crates, so that it still works, and can
//! say what is wrong, when they do not compile.
//!
//! **Invariant:** one file per command, and no command changes `RUSTFLAGS`: everything would be built again.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod codegen;
mod deny;
mod fuzz;
mod repo;
mod shell;
mod test;
mod tidy;

/// Automation for developers of Model-GLUE.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check a change must pass: formatting, lints, tests, docs, tidy, generated files.
    Test,
    /// Check what the compiler does not: the arrows between crates, module docs, links, stray paths.
    Tidy,
    /// Write the references that are generated from the code.
    Codegen(codegen::Args),
    /// Measure a release build, on a machine that does nothing else.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Feed the parsers random input.
    Fuzz(fuzz::Args),
    /// Check licences, advisories and sources of the dependencies.
    Deny(deny::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Test => test::run(),
        Command::Tidy => tidy::run(),
        Command::Codegen(args) => codegen::run(&args),
        Command::Bench(bench) => bench::run(&bench),
        Command::Fuzz(args) => fuzz::run(&args),
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
