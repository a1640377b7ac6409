//! `glue completions`: scripts that complete commands and options in a shell.

use crate::app::Cli;
use crate::failure::Failure;
use crate::shell::Shell;
use clap::CommandFactory;

/// Print shell completions
///
/// For bash and zsh, add this to the startup file: source <(glue completions bash)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "glue", &mut script);
    shell.print(&String::from_utf8_lossy(&script))
}
