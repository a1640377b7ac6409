//! `glue completions` and `glue man`: what shells and `man` know of the command line.

use crate::app::Cli;
use crate::failure::Failure;
use crate::shell::Shell;
use clap::CommandFactory;
use std::path::PathBuf;

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

/// Write the man pages
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Directory for one page per command
    out_dir: PathBuf,
}

/// Writes a page for the program, and one for each command.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    let directory = &args.out_dir;
    let written = std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    written.map_err(|error| Failure::failed(error).context(directory.display().to_string()))
}
