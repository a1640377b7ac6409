//! Where data repositories are looked for: directories of the user, and the cache of the Hugging Face hub.

use super::repository::{self, SplitFiles, Wanted};
use glue_tensor::hub::{HubCache, RepositoryKind};
use std::path::{Path, PathBuf};

/// Where the data of tasks that name a repository of the hub, such as `openai/gsm8k`, is looked for.
///
/// In this order: `ORG/NAME` below each directory, below the working directory, beside the task file, and in the cache
/// of the hub. Nothing is downloaded.
#[derive(Debug, Clone)]
pub struct DataSources {
    directories: Vec<PathBuf>,
    hub: Option<HubCache>,
}

impl DataSources {
    /// These directories, and the cache that the environment names ([`HubCache::from_env`]).
    pub fn new(directories: impl IntoIterator<Item = PathBuf>) -> DataSources {
        DataSources { directories: directories.into_iter().collect(), hub: HubCache::from_env() }
    }

    /// Another cache of the hub, or none.
    #[must_use]
    pub fn with_hub_cache(self, hub: Option<PathBuf>) -> DataSources {
        DataSources { hub: hub.map(HubCache::new), ..self }
    }

    /// The splits of a repository.
    ///
    /// # Errors
    /// Why there are none, for a person: what is wrong with each copy that was found, or that there is none.
    pub(crate) fn find(&self, name: &str, beside: &Path, wanted: Wanted<'_>) -> Result<SplitFiles, String> {
        let mut reasons = Vec::new();
        for directory in self.copies(name, beside) {
            match repository::splits(&directory, wanted) {
                Ok(splits) => return Ok(splits),
                Err(reason) => reasons.push(format!("{}: {reason}", directory.display())),
            }
        }
        Err(if reasons.is_empty() { "there is no copy of it here".into() } else { reasons.join("; ") })
    }

    /// Directories that hold the repository.
    fn copies(&self, name: &str, beside: &Path) -> Vec<PathBuf> {
        if name.is_empty() {
            return Vec::new();
        }
        let mut found: Vec<PathBuf> = self.directories.iter().map(|directory| directory.join(name)).collect();
        found.extend([PathBuf::from(name), beside.join(name)]);
        found.extend(self.snapshots(name));
        found.retain(|directory| directory.is_dir());
        found.dedup();
        found
    }

    /// Its snapshots in the cache: that of its main branch, else the newest; then that of its conversion to Parquet.
    fn snapshots(&self, name: &str) -> Vec<PathBuf> {
        const CONVERTED: &str = "refs/convert/parquet";
        let Some(hub) = &self.hub else { return Vec::new() };
        let converted = hub.snapshot(RepositoryKind::Dataset, name, CONVERTED);
        let mut all = hub.snapshots(RepositoryKind::Dataset, name).into_iter();
        let main = all.find(|snapshot| Some(snapshot) != converted.as_ref());
        main.into_iter().chain(converted).collect()
    }
}

impl Default for DataSources {
    /// The working directory and the cache of the hub.
    fn default() -> DataSources {
        DataSources::new([])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn directories_come_before_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let hub = root.path().join("hub");
        let repository = hub.join("datasets--org--name");
        write(repository.join("refs/main"), "abc\n");
        write(repository.join("snapshots/abc/test.jsonl"), "{}");
        write(repository.join("snapshots/old/test.jsonl"), "{}");
        let sources = |data: &[&str]| {
            DataSources::new(data.iter().map(|data| root.path().join(data))).with_hub_cache(Some(hub.clone()))
        };
        let find = |sources: &DataSources| {
            let splits = sources.find("org/name", root.path(), Wanted::default())?;
            Ok::<PathBuf, String>(splits[0].1[0].0.strip_prefix(root.path()).unwrap().to_path_buf())
        };
        assert_eq!(find(&sources(&[])).unwrap(), Path::new("hub/datasets--org--name/snapshots/abc/test.jsonl"));
        write(root.path().join("mine/org/name/test.jsonl"), "{}");
        assert_eq!(find(&sources(&["other", "mine"])).unwrap(), Path::new("mine/org/name/test.jsonl"));
        let nothing = sources(&[]).find("org/else", root.path(), Wanted::default()).unwrap_err();
        assert_eq!(nothing, "there is no copy of it here");
    }

    #[test]
    fn the_conversion_to_parquet_serves_a_repository_of_a_script() {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("datasets--org--name");
        write(repository.join("refs/main"), "abc");
        write(repository.join("snapshots/abc/name.py"), "");
        write(repository.join("refs/refs/convert/parquet"), "def");
        write(repository.join("snapshots/def/en/test/0000.parquet"), "");
        let sources = DataSources::new([]).with_hub_cache(Some(root.path().to_path_buf()));
        let wanted = |config| Wanted { config: Some(config), ..Wanted::default() };
        let splits = sources.find("org/name", root.path(), wanted("en")).unwrap();
        assert_eq!(splits[0].0, "test");
        let error = sources.find("org/name", root.path(), wanted("de")).unwrap_err();
        assert_eq!(error.matches("no configuration `de`").count(), 2, "{error}");
        assert!(sources.find("../datasets--org--name", root.path(), wanted("en")).is_err());
    }
}
