//! `glue` with the operator `median` beside those that come with it.

use std::process::ExitCode;

fn main() -> ExitCode {
    glue_cli::main(glue_cli::Registries::default().with(&[&glue_median::DEF]))
}
