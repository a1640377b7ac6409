//! `cargo xtask package`: every published crate can be packaged, and its package holds what it needs.
//!
//! Nothing is uploaded, and no package is compiled: the crates are what the other checks compile. What a package
//! alone can lack is a file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::repo::{Package, Repo};
use crate::shell::{self, cargo};

/// Files in every package.
const FILES: [&str; 4] = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// The largest package that crates.io takes, in bytes.
const LARGEST: u64 = 10 << 20;

/// Makes and checks the packages of the repository that this is run in.
///
/// # Errors
/// See [`check`].
pub(crate) fn run() -> Result<()> {
    check(&Repo::find()?)
}

/// Makes a package of every published crate, in `target/package`, and checks what is in it.
///
/// # Errors
/// A crate cannot be packaged, or a package lacks a file or is too large; the message lists every problem.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let (published, others): (Vec<_>, Vec<_>) = repo.packages.iter().partition(|package| package.is_published);
    let mut command = cargo();
    // All at once: cargo takes those that depend on each other in their order.
    command.args(["package", "--workspace", "--no-verify", "--offline", "--allow-dirty", "--quiet"]);
    for package in others {
        command.args(["--exclude", &package.name]);
    }
    shell::run(&mut command)?;
    let (mut problems, mut bytes) = (Vec::new(), 0);
    for package in &published {
        let archive = repo.target.join("package").join(format!("{}-{}.crate", package.name, package.version));
        let size = fs::metadata(&archive).with_context(|| format!("cannot find {}", archive.display()))?.len();
        let mut found = contents(package, &archive)?;
        if size > LARGEST {
            found.push(format!("its package has {size} bytes, more than the {LARGEST} that crates.io takes"));
        }
        problems.extend(found.into_iter().map(|problem| format!("{}: {problem}", package.name)));
        bytes += size;
    }
    if !problems.is_empty() {
        bail!("{} problems in packages\n{}", problems.len(), problems.join("\n"));
    }
    println!("{} packages of {:.1} MB together hold what they need", published.len(), bytes as f64 / 1e6);
    Ok(())
}

/// What an archive lacks, one line each.
fn contents(package: &Package, archive: &Path) -> Result<Vec<String>> {
    let unpacked = tempfile::tempdir().context("cannot make a folder")?;
    shell::run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(unpacked.path()))?;
    let root = unpacked.path().join(format!("{}-{}", package.name, package.version));
    let mut problems: Vec<String> = FILES
        .iter()
        .filter(|file| fs::metadata(root.join(file)).map_or(true, |found| !found.is_file() || found.len() == 0))
        .map(|file| format!("its package has no {file}"))
        .collect();
    let packaged = files(&root.join("src"))?;
    let missing = files(&package.folder.join("src"))?.into_iter().filter(|file| !packaged.contains(file));
    problems.extend(missing.map(|file| format!("its package has no src/{}", file.display())));
    for file in files(&root)? {
        if file.extension().is_some_and(|e| e == "rs") {
            let text =
                fs::read_to_string(root.join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
            let folder = root.join(&file).parent().map(Path::to_path_buf).unwrap_or_default();
            let lost = embedded(&text).into_iter().filter(|name| !is_inside(&root, &folder.join(name)));
            problems
                .extend(lost.map(|name| format!("{} embeds {name}, which its package does not hold", file.display())));
        }
    }
    Ok(problems)
}

/// Whether a file exists below a folder.
fn is_inside(folder: &Path, file: &Path) -> bool {
    match (folder.canonicalize(), file.canonicalize()) {
        (Ok(folder), Ok(file)) => file.starts_with(folder),
        _ => false,
    }
}

/// Every file below a folder, relative to it.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap_or(&path).to_path_buf());
            }
        }
    }
    Ok(found)
}

/// The files that a source embeds by name, as it names them.
fn embedded(text: &str) -> Vec<&str> {
    let macros = ["include_str!(\"", "include_bytes!(\"", "include!(\""];
    let names = |name: &'static str| text.split(name).skip(1).filter_map(|rest| rest.split('"').next());
    macros.into_iter().flat_map(names).collect()
}

#[cfg(test)]
mod tests {
    //! What is looked for in a package.
    use super::*;

    #[test]
    fn embedded_files_are_found() {
        // Put together so that this file itself embeds nothing.
        let text =
            ["const A: &str = include", "_str!(\"a/b.html\"); f(include", "_bytes!(\"c.gz\"), include", "!(x));"];
        assert_eq!(embedded(&text.concat()), ["a/b.html", "c.gz"]);
    }

    #[test]
    fn a_package_that_lacks_files_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let embeds = ["include", "_str!(\"../data.txt\")"].concat();
        for file in FILES {
            write(&format!("a-0.1.0/{file}"), "text");
        }
        write("a-0.1.0/src/lib.rs", &embeds);
        write("repository/src/lib.rs", &embeds);
        write("repository/src/embedded.gz", "");
        let archive = folder.path().join("a.crate");
        let pack = || {
            let mut tar = Command::new("tar");
            shell::run(tar.arg("-czf").arg(&archive).arg("-C").arg(folder.path()).arg("a-0.1.0")).unwrap();
        };
        let (name, version) = ("a".to_owned(), "0.1.0".to_owned());
        let package = Package { name, version, folder: folder.path().join("repository"), ..Package::default() };
        fs::remove_file(folder.path().join("a-0.1.0/README.md")).unwrap();
        pack();
        let found = contents(&package, &archive).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        for (found, word) in found.iter().zip(["README.md", "src/embedded.gz", "src/lib.rs embeds ../data.txt"]) {
            assert!(found.contains(word), "{found} does not say {word}");
        }
        write("a-0.1.0/README.md", "text");
        write("a-0.1.0/src/embedded.gz", "");
        write("a-0.1.0/data.txt", "");
        pack();
        assert_eq!(contents(&package, &archive).unwrap(), Vec::<String>::new());
    }
}
