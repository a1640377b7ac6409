//! `cargo xtask dist`: what a release consists of, for this machine's target: an archive with the program, its man
//! pages and completions, a bill of materials, and checksums. The same sources give the same archive.
//!
//! On x86-64, an archive holds two builds: `glue` runs on every processor and gives way to `glue-x86-64-v3` beside it
//! where that can run (`crates/glue-cli/src/cpu.rs`). Each is built in a target folder of its own, since other flags
//! mean that everything is built again.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

use crate::repo::Repo;
use crate::shell::{self, cargo};

/// The C library that a build with zig runs with, and all later ones.
const GLIBC: &str = "2.17";

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Link with zig, so that the program runs with glibc 2.17 and later (pip install cargo-zigbuild ziglang; default:
    /// it runs with this machine's C library and later ones)
    #[arg(long)]
    zig: bool,
}

/// How the program is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Build {
    /// The level of the instruction set; `None` where there is but one build.
    pub(crate) level: Option<&'static str>,
    /// Whether zig links it.
    pub(crate) zig: bool,
}

impl Build {
    /// All builds for this machine's target, the one that runs everywhere first.
    pub(crate) fn all(zig: bool) -> Vec<Build> {
        let levels: &[Option<&str>] =
            if cfg!(target_arch = "x86_64") { &[Some("x86-64"), Some("x86-64-v3")] } else { &[None] };
        levels.iter().map(|&level| Build { level, zig }).collect()
    }

    /// What is added to the name of the program.
    pub(crate) fn suffix(self) -> String {
        self.level.filter(|level| *level != "x86-64").map_or(String::new(), |level| format!("-{level}"))
    }

    /// The folder that cargo builds it in.
    pub(crate) fn target_dir(self, repo: &Repo) -> PathBuf {
        let zig = if self.zig { "-zig" } else { "" };
        repo.target.join("dist-builds").join(format!("{}{zig}", self.level.unwrap_or("native")))
    }

    /// Compiler flags, in place of those in `.cargo/config.toml`.
    pub(crate) fn flags(self) -> String {
        self.level.map_or(String::new(), |level| format!("-C target-cpu={level}"))
    }

    /// Builds the program, and returns its path.
    ///
    /// # Errors
    /// It cannot be built, or a tool is missing.
    pub(crate) fn run(self, repo: &Repo) -> Result<PathBuf> {
        let triple = triple()?;
        let mut command = cargo();
        if self.zig && !shell::works(cargo().args(["zigbuild", "--version"])) {
            bail!("cargo-zigbuild is not installed\nhint: pip install cargo-zigbuild ziglang");
        }
        let target = if self.zig { format!("{triple}.{GLIBC}") } else { triple.clone() };
        command.arg(if self.zig { "zigbuild" } else { "build" });
        command.args(["--profile", "dist", "--locked", "--package", "glue-cli", "--bin", "glue", "--target", &target]);
        command.arg("--target-dir").arg(self.target_dir(repo)).env("RUSTFLAGS", self.flags());
        shell::run(&mut command)?;
        Ok(self.target_dir(repo).join(triple).join("dist/glue"))
    }
}

/// Builds the archive of this machine's target into `target/dist`, and checks it.
///
/// # Errors
/// A tool is missing, something cannot be built, or what was built does not run.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    let version = &repo.packages.iter().find(|package| package.name == "glue-cli").context("no glue-cli")?.version;
    let name = format!("glue-{version}-{}", triple()?);
    let out = repo.target.join("dist");
    let folder = out.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let builds = Build::all(args.zig);
    for build in &builds {
        let program = build.run(&repo)?;
        fs::copy(&program, folder.join(format!("glue{}", build.suffix())))?;
    }
    for file in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        fs::copy(repo.path(file), folder.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    let program = folder.join("glue");
    shell::run(Command::new(&program).arg("man").arg(folder.join("man/man1")))?;
    fs::create_dir_all(folder.join("completions"))?;
    for (shell, file) in [("bash", "glue.bash"), ("zsh", "_glue"), ("fish", "glue.fish")] {
        let script = shell::read(Command::new(&program).args(["completions", shell]))?;
        fs::write(folder.join("completions").join(file), script)?;
    }
    check(&folder, &builds)?;
    let archive = out.join(format!("{name}.tar.gz"));
    pack(&folder, &name, &archive, time_of_sources(&repo)?)?;
    let mut files = vec![archive];
    files.extend(materials(&repo, &out, &name)?);
    let sums: Result<Vec<String>> = files.iter().map(|file| sum(file)).collect();
    fs::write(out.join(format!("{name}.sha256")), sums?.concat())?;
    for file in &files {
        println!("{} ({:.1} MB)", file.display(), fs::metadata(file)?.len() as f64 / 1e6);
    }
    Ok(())
}

/// The target of this machine, such as `x86_64-unknown-linux-gnu`.
pub(crate) fn triple() -> Result<String> {
    let about = shell::read(Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(String::from).context("rustc does not say its host")
}

/// Every build runs, and they compute the same.
fn check(folder: &Path, builds: &[Build]) -> Result<()> {
    let of = |build: &Build| -> Result<String> {
        let mut program = Command::new(folder.join(format!("glue{}", build.suffix())));
        shell::read(program.args(["ops", "--json"]))
    };
    let first = of(&builds[0])?;
    for build in builds {
        if of(build)? != first {
            bail!("glue{} is not the same program as glue", build.suffix());
        }
    }
    match needs(&folder.join("glue")) {
        Some(needs) => println!("glue needs {needs}"),
        None => println!("what glue needs of the system was not looked at: readelf is not installed"),
    }
    Ok(())
}

/// The shared libraries that a program needs, and the oldest C library that has what it uses.
fn needs(program: &Path) -> Option<String> {
    let read = |option: &str| {
        let output = Command::new("readelf").arg("--wide").arg(option).arg(program).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (dynamic, versions) = (read("--dynamic")?, read("--version-info")?);
    let between = |text: &str, start: char, end: char| Some(text.split_once(start)?.1.split_once(end)?.0.to_string());
    let needed = dynamic.lines().filter(|line| line.contains("(NEEDED)"));
    let libraries: Vec<String> = needed.filter_map(|line| between(line, '[', ']')).collect();
    let number = |text: &str| -> Option<(u32, u32)> {
        let (major, rest) = text.split_once('.')?;
        Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
    };
    let words = versions.split_whitespace().filter_map(|word| number(word.strip_prefix("GLIBC_")?));
    let glibc = words.max().map_or(String::new(), |(major, minor)| format!(", and glibc {major}.{minor} or later"));
    Some(match libraries.is_empty() {
        true => "no shared library".to_string(),
        false => format!("{}{glibc}", libraries.join(", ")),
    })
}

/// When the sources were last changed, in seconds: `SOURCE_DATE_EPOCH`, or the time of the last commit.
fn time_of_sources(repo: &Repo) -> Result<u64> {
    if let Ok(time) = std::env::var("SOURCE_DATE_EPOCH") {
        return time.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {time:?}"));
    }
    let time = shell::read(Command::new("git").current_dir(&repo.root).args(["log", "-1", "--format=%ct"]))?;
    time.trim().parse().context("the time of the last commit")
}

/// Packs `folder` as `name`, sorted, with the same time and owner for all files.
fn pack(folder: &Path, name: &str, archive: &Path, time: u64) -> Result<()> {
    let file = File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    let mut tar = Builder::new(GzEncoder::new(file, Compression::best()));
    let mut files = Vec::new();
    list(folder, &mut files)?;
    files.sort();
    for path in files {
        let content = fs::read(&path)?;
        let mut header = Header::new_gnu();
        let is_program = path.parent() == Some(folder) && path.file_name().is_some_and(is_name_of_program);
        header.set_mode(if is_program { 0o755 } else { 0o644 });
        header.set_mtime(time);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, Path::new(name).join(path.strip_prefix(folder)?), content.as_slice())?;
    }
    tar.into_inner()?.finish()?.sync_all()?;
    Ok(())
}

fn is_name_of_program(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name == "glue" || name.starts_with("glue-x86-64"))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The bill of materials, by cargo-cyclonedx where that is installed.
fn materials(repo: &Repo, out: &Path, name: &str) -> Result<Option<PathBuf>> {
    if !shell::works(cargo().args(["cyclonedx", "--version"])) {
        println!("no bill of materials: cargo-cyclonedx is not installed (cargo install cargo-cyclonedx)");
        return Ok(None);
    }
    let file = format!("{name}.cdx");
    let mut command = cargo();
    command.args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--target", &triple()?]);
    command.args(["--override-filename", &file, "--manifest-path"]).arg(repo.path("crates/glue-cli/Cargo.toml"));
    shell::run(&mut command)?;
    // It writes one for every member of the workspace, beside its manifest.
    let mut found = None;
    for package in &repo.packages {
        let written = package.folder.join(format!("{file}.json"));
        if written.exists() && package.name == "glue-cli" {
            let target = out.join(format!("{file}.json"));
            fs::copy(&written, &target)?;
            found = Some(target);
        }
        if written.exists() {
            fs::remove_file(written)?;
        }
    }
    found.map(Some).context("cargo-cyclonedx wrote nothing for glue-cli")
}

/// The line of a file in a list of SHA-256 sums, as `sha256sum --check` reads it.
fn sum(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{hash}  {}\n", path.file_name().unwrap_or_default().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_archive() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a");
        fs::create_dir_all(folder.join("man/man1")).unwrap();
        for file in ["glue", "glue-x86-64-v3", "README.md", "man/man1/glue.1"] {
            fs::write(folder.join(file), file).unwrap();
        }
        let archives = ["one", "two"].map(|name| root.path().join(name));
        for archive in &archives {
            pack(&folder, "glue-1", archive, 7).unwrap();
        }
        assert_eq!(fs::read(&archives[0]).unwrap(), fs::read(&archives[1]).unwrap());
        let listed = shell::read(Command::new("tar").arg("-tvzf").arg(&archives[0])).unwrap();
        let modes: Vec<&str> = listed.lines().map(|line| &line[..10]).collect();
        assert_eq!(modes, ["-rw-r--r--", "-rwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--"], "{listed}");
        assert!(listed.contains("glue-1/man/man1/glue.1"));
    }

    #[test]
    fn sums_are_those_of_sha256sum() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "hello\n").unwrap();
        assert_eq!(sum(&path).unwrap(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03  file\n");
    }
}
