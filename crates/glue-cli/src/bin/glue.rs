//! The binary `glue`: the command line with what comes with the project.

use std::process::ExitCode;

/// Running a model allocates and frees activations of the same sizes over and over; the system's allocator gives them back
/// to the kernel each time, which costs a fifth of an evaluation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    glue_cli::main(glue_cli::Registries::default())
}
