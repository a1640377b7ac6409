//! Where things are: the repository, its target folder and its packages, as cargo sees them.

use std::collections::BTreeMap;
use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::shell;

/// The workspace.
#[derive(Debug)]
pub(crate) struct Repo {
    /// The folder that holds the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// The folder that cargo builds in.
    pub(crate) target: PathBuf,
    /// Every member of the workspace.
    pub(crate) packages: Vec<Package>,
}

/// Crates outside of the workspace: building it must not need Python.
const OUTSIDERS: [&str; 1] = ["crates/glue-python-core"];

/// A member of the workspace.
#[derive(Debug, Default, Clone)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// The folder of its `Cargo.toml`.
    pub(crate) folder: PathBuf,
    /// Whether it may be published.
    pub(crate) is_published: bool,
    /// Fields of its manifest that say what it is, by name; those that are absent or empty are left out.
    pub(crate) about: BTreeMap<&'static str, String>,
    /// Every dependency of every kind.
    pub(crate) dependencies: Vec<Dependency>,
}

/// The fields of [`Package::about`]: crates.io shows them.
pub(crate) const ABOUT: [&str; 6] = ["description", "license", "repository", "documentation", "keywords", "categories"];

/// A dependency of a member.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    /// The package depended on.
    pub(crate) name: String,
    /// Whether only tests, examples and benches see it.
    pub(crate) dev: bool,
}

impl Repo {
    /// Asks cargo; works in any folder of the workspace.
    ///
    /// # Errors
    /// `cargo metadata` fails, or prints something else than its documentation says.
    pub(crate) fn find() -> Result<Self> {
        let text = shell::read(shell::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
        let metadata: Value = serde_json::from_str(&text).context("output of cargo metadata")?;
        Ok(Self {
            root: PathBuf::from(string(&metadata, "workspace_root")?),
            target: PathBuf::from(string(&metadata, "target_directory")?),
            packages: array(&metadata, "packages")?.iter().map(package).collect::<Result<_>>()?,
        })
    }

    /// Every member, and the packages outside of the workspace that are crates of the project all the same.
    ///
    /// # Errors
    /// As [`Repo::find`]'s.
    pub(crate) fn with_outsiders(&self) -> Result<Vec<Package>> {
        let mut all = self.packages.clone();
        for folder in OUTSIDERS {
            let manifest = self.path(folder).join("Cargo.toml");
            let mut metadata = shell::cargo();
            metadata.args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"]).arg(manifest);
            let metadata: Value =
                serde_json::from_str(&shell::read(&mut metadata)?).context("output of cargo metadata")?;
            all.extend(array(&metadata, "packages")?.iter().map(package).collect::<Result<Vec<_>>>()?);
        }
        Ok(all)
    }

    /// The path of a file of the repository.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where cargo puts the binary `glue` under a profile's folder, `debug` or `release`.
    pub(crate) fn glue(&self, profile: &str) -> PathBuf {
        self.target.join(profile).join(format!("glue{EXE_SUFFIX}"))
    }

    /// A path as seen from the repository's root, with `/` between its parts.
    pub(crate) fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().replace('\\', "/")
    }
}

fn package(value: &Value) -> Result<Package> {
    let dependencies = array(value, "dependencies")?
        .iter()
        .map(|d| Ok(Dependency { name: string(d, "name")?, dev: d["kind"] == "dev" }))
        .collect::<Result<_>>()?;
    let manifest = PathBuf::from(string(value, "manifest_path")?);
    Ok(Package {
        name: string(value, "name")?,
        version: string(value, "version")?,
        folder: manifest.parent().context("cargo metadata has a manifest without a folder")?.to_path_buf(),
        // `publish = false` is an empty list of registries.
        is_published: value["publish"].as_array().is_none_or(|registries| !registries.is_empty()),
        about: ABOUT.into_iter().filter_map(|field| Some((field, about(&value[field])?))).collect(),
        dependencies,
    })
}

fn about(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn string(value: &Value, key: &str) -> Result<String> {
    let text = value[key].as_str().with_context(|| format!("cargo metadata has no {key}"))?;
    Ok(text.to_owned())
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("cargo metadata has no {key}"))
}
