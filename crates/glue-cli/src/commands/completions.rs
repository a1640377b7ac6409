//! `glue completions`: what a shell needs to complete commands and options.

use crate::app::Cli;
use crate::failure::Failure;
use crate::shell::Shell;
use clap::CommandFactory;

/// Print completions for a shell
///
/// Bash and zsh can read them at their start: source <(glue completions bash)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "glue", &mut script);
    shell.print(&String::from_utf8_lossy(&script))
}
