//! `cargo xtask new-operator NAME`: a crate with a working merge operator, as a start for your own.
//!
//! With `--out` it is a project by itself, anywhere: a library that needs `glue-merge` alone, and a program that is
//! `glue` with one operator more. Without it, it is a crate of this workspace; that one has no program, since `glue`
//! itself lists it and so depends on it. Both come from the files in `template`; `tests/external` is such a project
//! with another operator in it, and a test here sees to it that the rest of it stays what the template gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask new-operator`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the operator in merge configs, such as geometric_median.
    name: String,
    /// Create a separate project in this new folder, instead of a crate in this workspace.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const LIB: (&str, &str) = ("src/lib.rs", include_str!("template/lib.rs"));
const EXAMPLE: (&str, &str) = ("example.yml", include_str!("template/example.yml"));
const README: (&str, &str) = ("README.md", include_str!("template/README.md"));
const INSIDE: [(&str, &str); 4] = [("Cargo.toml", include_str!("template/inside.toml")), LIB, EXAMPLE, README];
const OUTSIDE: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("template/outside.toml")),
    ("src/main.rs", include_str!("template/main.rs")),
    (".gitignore", include_str!("template/gitignore")),
    LIB,
    EXAMPLE,
    README,
];
/// Settings of the compiler, where the repository's own are out of sight.
const SETTINGS: (&str, &str) = (".cargo/config.toml", include_str!("template/cargo-config.toml"));

/// The files of a crate: where they go in it, and what is in them.
type Files = Vec<(&'static str, String)>;

/// Makes the crate, or leaves everything as it was.
///
/// # Errors
/// A name that will not do or is taken, a folder that exists already, or one that cannot be written to.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    let facts = Facts::of(&repo)?;
    let packages: Vec<&str> = repo.packages.iter().map(|package| package.name.as_str()).collect();
    check_name(&args.name, &facts.operators, &packages)?;
    let place = Place::new(&repo.root, &args.name, args.out.as_deref())?;
    write(&place, &files(&facts, &args.name, &place)?, &facts.edition)?;
    println!("{}", next_steps(&facts, &args.name, &place));
    Ok(())
}

/// What the template takes from the repository, so that a crate is built as the project itself is.
#[derive(Debug)]
struct Facts {
    edition: String,
    rust_version: String,
    version: String,
    license: String,
    /// The sections on profiles of the workspace's manifest.
    profiles: String,
    /// The settings for the compiler of `.cargo/config.toml`.
    target: String,
    lock: String,
    /// Names of the operators that there are.
    operators: Vec<String>,
}

impl Facts {
    fn of(repo: &Repo) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(repo.path(file)).with_context(|| format!("cannot read {file}"));
        let (manifest, config) = (read("Cargo.toml")?, read(".cargo/config.toml")?);
        let package = |key| package_value(&manifest, key).with_context(|| format!("Cargo.toml has no {key}"));
        Ok(Self {
            edition: package("edition")?,
            rust_version: package("rust-version")?,
            version: package("version")?,
            license: package("license")?,
            profiles: from_line(&manifest, "[profile."),
            target: from_line(&config, "[target."),
            lock: read("Cargo.lock")?,
            operators: operators(&repo.path("crates"))?,
        })
    }
}

/// Names of the operators that the sources below a folder define.
fn operators(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            names.extend(operators(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(defined(
                &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
            ));
        }
    }
    Ok(names)
}

/// Names of the operators that a source file defines, outside of comments and tests.
fn defined(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines: Vec<&str> = code.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
    let name = |pair: &[&str]| {
        let named = pair[0].ends_with("OperatorDef {").then_some(pair[1])?;
        Some(named.strip_prefix("name: \"")?.strip_suffix("\",")?.to_owned())
    };
    lines.windows(2).filter_map(name).collect()
}

/// A value of the section `[workspace.package]`.
fn package_value(manifest: &str, key: &str) -> Option<String> {
    let section = manifest.split_once("[workspace.package]\n")?.1;
    let mut lines = section.lines().take_while(|line| !line.starts_with('['));
    let (_, value) = lines.find_map(|line| line.split_once(" = ").filter(|(name, _)| *name == key))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// The text from the first line on that begins so.
fn from_line(text: &str, start: &str) -> String {
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with(start)).collect();
    lines.join("\n")
}

/// Checks that an operator, and a crate with it, may have this name.
fn check_name(name: &str, operators: &[String], packages: &[&str]) -> Result<()> {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !(name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split('_').all(word)) {
        bail!(
            "no operator can be called `{name}`: expected lower-case letters and digits, a letter first, in words joined by \
             single underscores, such as `geometric_median`"
        );
    }
    if operators.iter().any(|operator| operator == name) {
        bail!("there is an operator `{name}` already: choose another name");
    }
    let package = package_name(name);
    if packages.contains(&package.as_str()) {
        bail!("there is a package {package} already: choose another name");
    }
    Ok(())
}

fn package_name(name: &str) -> String {
    format!("glue-{}", name.replace('_', "-"))
}

/// Where a crate goes.
#[derive(Debug)]
struct Place {
    /// Its folder, which does not exist yet.
    folder: PathBuf,
    /// A folder of the same file system, to write in first.
    stage: PathBuf,
    /// Whether it is a project of its own.
    outside: bool,
    /// Whether it sees the repository's settings of the compiler, which it does below its root.
    below_root: bool,
    /// The folder of the workspace's crates, as the manifest says it.
    crates: String,
}

impl Place {
    fn new(root: &Path, name: &str, out: Option<&Path>) -> Result<Self> {
        let resolved =
            |path: &Path| path.canonicalize().with_context(|| format!("cannot make a folder in {}", path.display()));
        let root = resolved(root)?;
        let folder = match out {
            None => root.join("crates").join(package_name(name)),
            Some(out) => {
                let out = std::path::absolute(out).with_context(|| format!("--out {}", out.display()))?;
                match (out.parent(), out.file_name()) {
                    (Some(parent), Some(folder)) => resolved(parent)?.join(folder),
                    _ => bail!("--out {}: expected a folder that can be made", out.display()),
                }
            }
        };
        if folder.symlink_metadata().is_ok() {
            bail!("{} exists already, and nothing is overwritten: name another --out", folder.display());
        }
        let parent = folder.parent().unwrap_or(&root).to_owned();
        if out.is_some() && parent == root.join("crates") {
            bail!(
                "what is in crates/ is a member of the workspace: leave out --out to make one, or name a folder elsewhere"
            );
        }
        let below_root = folder.starts_with(&root);
        let crates = match folder.strip_prefix(&root) {
            // A repository may be moved as a whole.
            Ok(inside) => format!("{}crates", "../".repeat(inside.components().count())),
            Err(_) => {
                let crates = root.join("crates");
                let text = crates.to_str().with_context(|| format!("{} is not UTF-8", crates.display()))?;
                text.replace('\\', "/")
            }
        };
        // In crates/ even half a crate would be a member of the workspace.
        let stage = if out.is_some() { parent } else { root };
        Ok(Self { folder, stage, outside: out.is_some(), below_root, crates })
    }
}

/// The files of a crate with the operator `name`.
fn files(facts: &Facts, name: &str, place: &Place) -> Result<Files> {
    let package = package_name(name);
    let program = if place.outside { "cargo run --release --features cli --" } else { "glue" };
    // What JSON quotes, TOML reads as the same text.
    let path = |of: &str| serde_json::to_string(&format!("{}/{of}", place.crates));
    let (merge, cli) = (path("glue-merge")?, path("glue-cli")?);
    let values = [
        ("name", name),
        ("package", &package),
        ("lib", &package.replace('-', "_")),
        ("program", program),
        ("edition", &facts.edition),
        ("rust-version", &facts.rust_version),
        ("version", &facts.version),
        ("license", &facts.license),
        ("glue-merge", &merge),
        ("glue-cli", &cli),
        ("profiles", &facts.profiles),
        ("target", &facts.target),
    ];
    let filled = |(file, template): &(&'static str, &str)| (*file, fill(template, &values));
    if !place.outside {
        return Ok(INSIDE.iter().map(filled).collect());
    }
    let mut files: Files = OUTSIDE.iter().map(filled).collect();
    // The versions that the project is tested with; and nothing has to be looked up.
    files.push(("Cargo.lock", facts.lock.clone()));
    if !place.below_root {
        files.push(filled(&SETTINGS));
    }
    Ok(files)
}

/// A template with `{{key}}` replaced by the value of the key.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(template.to_owned(), |text, (key, value)| text.replace(&format!("{{{{{key}}}}}"), value))
}

/// Writes the files beside the place, then moves all of them there at once.
fn write(place: &Place, files: &Files, edition: &str) -> Result<()> {
    let stage = tempfile::Builder::new()
        .prefix(".new-operator-")
        .tempdir_in(&place.stage)
        .with_context(|| format!("cannot write in {}", place.stage.display()))?;
    // One level below, since a temporary folder is for its owner alone.
    let made = stage.path().join("crate");
    for (file, text) in files {
        let path = made.join(file);
        fs::create_dir_all(path.parent().unwrap_or(&made))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // How lines are broken is a matter of the place: rustfmt looks for its settings from the file upwards.
    if shell::works(Command::new("rustfmt").arg("--version")) {
        let sources =
            files.iter().map(|(file, _)| made.join(file)).filter(|p| p.extension().is_some_and(|e| e == "rs"));
        shell::run(Command::new("rustfmt").args(["--edition", edition]).args(sources))?;
    }
    fs::rename(&made, &place.folder).with_context(|| format!("cannot make {}", place.folder.display()))
}

fn next_steps(facts: &Facts, name: &str, place: &Place) -> String {
    let (package, folder) = (package_name(name), place.folder.display());
    if place.outside {
        return format!(
            "{package} is in {folder}; the operator is src/lib.rs. There:\n  cargo test\n  cargo run --release --features cli -- ops \
             {name}\n  cargo run --release --features cli -- merge example.yml merged\ndocs/new-operator.md explains the next steps."
        );
    }
    let (lib, version) = (package.replace('-', "_"), &facts.version);
    format!(
        "{package} is in {folder}; the operator is src/lib.rs. For `glue` to list it:\n  \
         Cargo.toml, [workspace.dependencies]: {package} = {{ path = \"crates/{package}\", version = \"{version}\" }}\n  \
         crates/glue-cli/Cargo.toml, [dependencies]: {package}.workspace = true\n  \
         crates/glue-cli/src/bin/glue.rs: .with(&[&{lib}::DEF]) after the registry\n  \
         docs/architecture.md, table of crates: | `{package}` | the operator `{name}` | `glue-merge` | now |\n  \
         and `{package}` in the row of glue-cli; then cargo xtask codegen, and cargo xtask test."
    )
}

#[cfg(test)]
mod tests;
