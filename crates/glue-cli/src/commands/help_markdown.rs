//! `glue help-markdown`: the reference of the command line.

use crate::app::Cli;
use crate::failure::Failure;
use crate::reference::command_line;
use crate::shell::Shell;
use clap::CommandFactory;

/// Prints it.
pub(crate) fn run(shell: &mut Shell<'_>) -> Result<(), Failure> {
    shell.print(&command_line::markdown(Cli::command()))
}
