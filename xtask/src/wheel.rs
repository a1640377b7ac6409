//! `cargo xtask wheel`: the Python wheel of the program, with maturin, checked in a clean environment.
//!
//! It runs on systems whose C library is at least as new as that of the machine that builds it.
//!
//! Not a step of `cargo xtask test`: it needs Python and tools that a fresh machine lacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask wheel`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The Python that makes the clean environment.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
}

/// Builds the wheel in `target/wheels`, installs it into an environment of its own, and runs it there.
///
/// # Errors
/// A tool is missing, the wheel cannot be built, or what is installed does not run.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    if !shell::works(Command::new("maturin").arg("--version")) {
        bail!("maturin is not installed\nhint: pip install maturin");
    }
    let wheels = repo.target.join("wheels");
    let mut build = Command::new("maturin");
    build.current_dir(repo.path("crates/glue-python")).args(["build", "--release", "--out"]).arg(&wheels);
    shell::run(&mut build)?;
    let wheel = newest(&wheels)?;
    check(&args.python, &wheel, &wheels.join("environment"))?;
    println!("{} installs and runs", wheel.display());
    Ok(())
}

/// The wheel that was written last.
fn newest(wheels: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(wheels).with_context(|| format!("cannot read {}", wheels.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            found.push((path.metadata()?.modified()?, path));
        }
    }
    found.into_iter().max().map(|(_, path)| path).with_context(|| format!("no wheel in {}", wheels.display()))
}

/// Installs `wheel` into a new environment and uses program, command and module there.
fn check(python: &str, wheel: &Path, environment: &Path) -> Result<()> {
    if environment.exists() {
        fs::remove_dir_all(environment)?;
    }
    shell::run(Command::new(python).args(["-m", "venv"]).arg(environment))?;
    let bin = environment.join("bin");
    let pip = ["-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"];
    shell::run(Command::new(bin.join("python")).args(pip).arg(wheel))?;
    let module = "import model_glue; assert any(op['name'] == 'ties' for op in model_glue.run('ops')['operators']); \
                  assert model_glue.run('ops', 'ties', json_output=False)";
    let error = "import model_glue\ntry: model_glue.run('inspect', 'nowhere')\nexcept model_glue.GlueError as error: \
                 assert error.status != 0 and 'nowhere' in str(error), error\nelse: raise SystemExit('no error')";
    for program in ["glue", "model-glue"] {
        shell::run(Command::new(bin.join(program)).arg("--version"))?;
    }
    for code in [module, error] {
        shell::run(Command::new(bin.join("python")).args(["-c", code]))?;
    }
    Ok(())
}
