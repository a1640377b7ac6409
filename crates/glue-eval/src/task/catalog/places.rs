//! Where tasks of the harness are found when they are asked for by name.

use std::path::{Path, PathBuf};

/// The tasks directory of a checkout of the harness: the directory itself, or `lm_eval/tasks` or `tasks` in it.
pub(super) fn tasks_directory(path: &Path) -> Option<PathBuf> {
    let inner = ["lm_eval/tasks", "tasks"].iter().map(|inner| path.join(inner)).find(|inner| inner.is_dir());
    inner.or_else(|| path.is_dir().then(|| path.to_path_buf()))
}

/// The tasks of the installed package `lm_eval`: of the active virtual or conda environment, else of the `python3` or
/// `python` on the `PATH`. Python is not run.
pub(super) fn installed() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| variable(name));
    let path = variable("PATH").unwrap_or_default();
    let interpreters = std::env::split_paths(&path)
        .flat_map(|directory| ["python3", "python"].map(|name| directory.join(name)))
        .filter(|interpreter| interpreter.is_file());
    // `bin/python3` of a virtual environment is a link to another one: its own place counts first.
    let prefixes = interpreters.flat_map(|interpreter| {
        let real = interpreter.canonicalize().ok();
        [Some(interpreter), real].into_iter().flatten().filter_map(|path| Some(path.parent()?.parent()?.to_path_buf()))
    });
    let home = std::env::home_dir().map(|home| home.join(".local"));
    environments.chain(prefixes).chain(home).find_map(|prefix| in_prefix(&prefix))
}

/// The tasks of the package in an installation of Python.
fn in_prefix(prefix: &Path) -> Option<PathBuf> {
    let mut libraries: Vec<PathBuf> = ["lib", "lib64", "Lib"]
        .iter()
        .flat_map(|library| {
            let library = prefix.join(library);
            let entries = std::fs::read_dir(&library).ok().into_iter().flatten().flatten();
            let versions = entries.map(|entry| entry.path()).filter(|path| {
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python"))
            });
            versions.chain([library.clone()]).collect::<Vec<_>>()
        })
        .collect();
    libraries.sort();
    // The newest Python first.
    let packages = libraries
        .iter()
        .rev()
        .flat_map(|library| ["site-packages", "dist-packages"].map(|packages| library.join(packages)));
    packages.map(|packages| packages.join("lm_eval/tasks")).find(|tasks| tasks.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_checkout_or_an_installation() {
        let root = tempfile::tempdir().unwrap();
        let tasks = root.path().join("checkout/lm_eval/tasks");
        fs::create_dir_all(&tasks).unwrap();
        assert_eq!(tasks_directory(&root.path().join("checkout")), Some(tasks.clone()));
        assert_eq!(tasks_directory(&root.path().join("checkout/lm_eval")), Some(tasks.clone()));
        assert_eq!(tasks_directory(&tasks), Some(tasks));
        assert_eq!(tasks_directory(&root.path().join("nothing")), None);
        let installed = root.path().join("venv/lib/python3.12/site-packages/lm_eval/tasks");
        fs::create_dir_all(&installed).unwrap();
        fs::create_dir_all(root.path().join("venv/lib/python3.9/site-packages")).unwrap();
        assert_eq!(in_prefix(&root.path().join("venv")), Some(installed));
        assert_eq!(in_prefix(&root.path().join("checkout")), None);
    }
}
