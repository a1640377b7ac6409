//! The binary `glue`: the command line with what comes with the project.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: glue_cli::Allocator = glue_cli::Allocator;

fn main() -> ExitCode {
    glue_cli::main(glue_cli::Registries::default())
}
