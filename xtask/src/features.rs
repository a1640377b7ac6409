//! `cargo xtask features`: crates with optional parts, compiled without them and with each alone.
//!
//! Not a part of `cargo xtask test`: dependencies are compiled again, since a crate by itself asks for fewer of their
//! features than the workspace does.

use anyhow::Result;

use crate::repo::Repo;
use crate::shell;

/// Each crate and its features.
const CRATES: &[(&str, &[&str])] = &[("glue-lm", &["mixtures", "gradients"]), ("glue-cli", &["hub", "server"])];

/// # Errors
/// A combination does not compile, or with a warning.
pub(crate) fn run() -> Result<()> {
    let repo = Repo::find()?;
    for (name, features) in CRATES {
        let alone = features.iter().map(|feature| Some(*feature));
        for feature in std::iter::once(None).chain(alone) {
            let mut command = shell::cargo();
            command.arg("clippy").arg("--manifest-path").arg(repo.path(&format!("crates/{name}/Cargo.toml")));
            command.arg("--target-dir").arg(repo.target.join("features")).arg("--no-default-features");
            command.args(feature.map(|feature| ["--features", feature]).into_iter().flatten());
            shell::run(command.args(["--", "-D", "warnings"]))?;
        }
        println!("{name}: compiles without {}, and with each of them alone", features.join(" and "));
    }
    Ok(())
}
