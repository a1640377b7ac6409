//! `glue` with the operator `{{name}}` beside the built-in ones.

use std::process::ExitCode;

fn main() -> ExitCode {
    glue_cli::main(glue_merge::Registry::builtin().with(&[&{{lib}}::DEF]))
}
