//! `glue schema`: the JSON schema of merge configs.

use crate::failure::Failure;
use crate::shell::Shell;
use glue_merge::Registry;

/// Prints it.
pub(crate) fn run(registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    shell.print_json(&glue_recipe::schema(registry))
}
