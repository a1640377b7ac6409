//! `cargo xtask wheel`: the Python wheel of the program, with maturin, checked in a clean environment; with `--core`
//! that of the extension module too, with its tests.
//!
//! Both run on systems whose C library is at least as new as that of the machine that builds them.
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

    /// Build the extension module `model_glue_core` too, and run its tests. Installs pytest and numpy from PyPI.
    #[arg(long)]
    core: bool,
}

/// The folder of the wheel of the program.
const PROGRAM: &str = "crates/glue-python";
/// The folder of the wheel of the extension module.
const CORE: &str = "crates/glue-python-core";

/// Builds the wheels in `target/wheels`, installs them into an environment of their own, and runs them there.
///
/// # Errors
/// A tool is missing, a wheel cannot be built, what is installed does not run, or a test fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    if !shell::works(Command::new("maturin").arg("--version")) {
        bail!("maturin is not installed\nhint: pip install maturin");
    }
    let wheels = repo.target.join("wheels");
    let environment = wheels.join("environment");
    let program = build(&repo, PROGRAM, "model_glue", &wheels)?;
    check(&args.python, &program, &environment)?;
    println!("{} installs and runs", program.display());
    if args.core {
        let core = build(&repo, CORE, "model_glue_core", &wheels)?;
        let version = |wheel: &Path| Some(wheel.file_name()?.to_str()?.split('-').nth(1)?.to_owned());
        if version(&program) != version(&core) {
            bail!("{} and {} must have one version", program.display(), core.display());
        }
        check_core(&repo, &wheels, &environment)?;
        println!("{} installs and passes its tests", core.display());
    }
    Ok(())
}

/// Builds the wheel `name` of `folder`.
fn build(repo: &Repo, folder: &str, name: &str, wheels: &Path) -> Result<PathBuf> {
    let mut build = Command::new("maturin");
    build.current_dir(repo.path(folder)).args(["build", "--release", "--out"]).arg(wheels);
    // A package outside of the workspace has a target folder of its own otherwise.
    shell::run(build.env("CARGO_TARGET_DIR", &repo.target))?;
    newest(wheels, name)
}

/// The wheel `name` that was written last.
fn newest(wheels: &Path, name: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(wheels).with_context(|| format!("cannot read {}", wheels.display()))? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if file.ends_with(".whl") && file.split('-').next() == Some(name) {
            found.push((path.metadata()?.modified()?, path));
        }
    }
    let newest = found.into_iter().max().map(|(_, path)| path);
    newest.with_context(|| format!("no wheel of {name} in {}", wheels.display()))
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

/// Installs the extension module as what the program's wheel asks for with `[api]`, and runs its tests.
fn check_core(repo: &Repo, wheels: &Path, environment: &Path) -> Result<()> {
    let python = environment.join("bin/python");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let local = ["--no-index", "--find-links"];
    shell::run(Command::new(&python).args(pip).args(local).arg(wheels).arg("model-glue[api]"))?;
    shell::run(Command::new(&python).args(pip).args(["numpy", "pytest"]))?;
    let tests = ["-B", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests"];
    shell::run(Command::new(&python).current_dir(repo.path(CORE)).env_remove("GLUE").args(tests))
}
