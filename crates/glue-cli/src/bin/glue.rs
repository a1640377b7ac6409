//! The binary `glue`: the command line with the operators that come with the project.

use std::process::ExitCode;

fn main() -> ExitCode {
    glue_cli::main(glue_merge::Registry::builtin())
}
