//! `cargo xtask wheel`: the Python wheel of the program, with maturin, checked in a clean environment; with `--core`
//! that of the extension module too, with its tests.
//!
//! Both run on systems whose C library is at least as new as that of the machine that builds them, or with `--zig` as
//! glibc 2.17. The program is there in the builds of an archive (`dist.rs`), so that it runs on every processor; the
//! extension module says on import what it needs.
//!
//! Not a step of `cargo xtask test`: it needs Python and tools that a fresh machine lacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::dist::{Build, triple};
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

    /// Link with zig, so that the wheels are installed with glibc 2.17 and later (pip install ziglang cargo-zigbuild).
    #[arg(long)]
    zig: bool,
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
    let program = build_program(&repo, args.zig, &wheels)?;
    check(&args.python, &program, &environment)?;
    println!("{} installs and runs", program.display());
    if args.core {
        // A package outside of the workspace has a target folder of its own otherwise.
        let core =
            build(&repo, CORE, args.zig, Command::new("maturin").env("CARGO_TARGET_DIR", &repo.target), &wheels)?;
        let version = |wheel: &Path| Some(wheel.file_name()?.to_str()?.split('-').nth(1)?.to_owned());
        if version(&program) != version(&core) {
            bail!("{} and {} must have one version", program.display(), core.display());
        }
        check_core(&repo, &wheels, &environment)?;
        println!("{} installs and passes its tests", core.display());
    }
    Ok(())
}

/// Builds the wheel of the program: the build for every processor is the program, the others are scripts beside it.
fn build_program(repo: &Repo, zig: bool, wheels: &Path) -> Result<PathBuf> {
    let builds = Build::all(zig);
    let (first, others) = builds.split_first().context("there is no build")?;
    let mut beside = Vec::new();
    for build in others {
        let program = build.run(repo)?;
        let script = repo.path(PROGRAM).join(format!("data/scripts/glue{}", build.suffix()));
        fs::copy(&program, &script).with_context(|| format!("cannot write {}", script.display()))?;
        beside.push(script);
    }
    let mut maturin = Command::new("maturin");
    maturin.env("CARGO_TARGET_DIR", first.target_dir(repo)).env("RUSTFLAGS", first.flags());
    let wheel = build(repo, PROGRAM, zig, &mut maturin, wheels);
    for script in beside {
        fs::remove_file(script)?;
    }
    wheel
}

/// Builds the wheel of `folder` with `maturin`, to which options are added.
fn build(repo: &Repo, folder: &str, zig: bool, maturin: &mut Command, wheels: &Path) -> Result<PathBuf> {
    // The workspace's profile for what is handed to others; a package outside of it knows its own.
    let profile = if folder == CORE { "release" } else { "dist" };
    maturin.current_dir(repo.path(folder)).args(["build", "--profile", profile, "--target", &triple()?]);
    if zig {
        maturin.args(["--zig", "--compatibility", "manylinux2014"]);
    }
    shell::run(maturin.arg("--out").arg(wheels))?;
    newest(wheels, if folder == CORE { "model_glue_core" } else { "model_glue" })
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
    // Alone, the build for every processor does not give way to another.
    let alone = environment.join("alone");
    fs::create_dir_all(&alone)?;
    fs::copy(bin.join("glue"), alone.join("glue"))?;
    shell::run(Command::new(alone.join("glue")).arg("--version"))?;
    for build in Build::all(false) {
        shell::run(Command::new(bin.join(format!("glue{}", build.suffix()))).arg("--version"))?;
    }
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
