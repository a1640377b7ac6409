//! The cache of the Hugging Face hub, as other programs leave it on disk. Nothing is downloaded.
//!
//! The layout is specified in the hub's documentation ("Understand caching"): `models--ORG--NAME/snapshots/COMMIT`
//! holds the files of a commit, and `refs/REVISION` names the commit of a branch or tag.

use super::is_id;
use crate::files;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::path::{Path, PathBuf};

/// What a repository of the hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryKind {
    /// A model, or an adapter.
    Model,
    /// Data.
    Dataset,
}

impl RepositoryKind {
    fn prefix(self) -> &'static str {
        match self {
            RepositoryKind::Model => "models",
            RepositoryKind::Dataset => "datasets",
        }
    }
}

/// A model or adapter by its name on the hub: `ORG/NAME`, or `ORG/NAME@REVISION` with a branch, a tag or a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubName<'a> {
    /// `ORG/NAME`.
    pub id: &'a str,
    /// A branch, a tag or a commit; `main` where none is named.
    pub revision: Option<&'a str>,
}

impl<'a> HubName<'a> {
    /// The name that `text` is; `None` if it is of another form.
    pub fn parse(text: &'a str) -> Option<HubName<'a>> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        (is_id(id) && revision.is_none_or(is_revision)).then_some(HubName { id, revision })
    }
}

impl fmt::Display for HubName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)?;
        self.revision.map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// Whether `text` can name a revision, and leads nowhere else as a path.
fn is_revision(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
    };
    text.len() <= 256 && text.split('/').all(part)
}

/// A cache of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    directory: PathBuf,
}

impl HubCache {
    /// The cache in this directory, which need not exist.
    pub fn new(directory: impl Into<PathBuf>) -> HubCache {
        HubCache { directory: directory.into() }
    }

    /// The cache that the environment names: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else `~/.cache/huggingface/hub`.
    /// `None` where there is no home directory either.
    pub fn from_env() -> Option<HubCache> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let hub = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let hub = hub.or_else(|| Some(variable("HF_HOME")?.join("hub")));
        let hub = hub.or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface/hub")));
        let hub = hub.or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface/hub")));
        hub.map(HubCache::new)
    }

    /// The directory of a repository, which need not exist. `None` for a name that leads elsewhere.
    pub fn repository(&self, kind: RepositoryKind, id: &str) -> Option<PathBuf> {
        if id.split('/').any(|part| part.is_empty() || part.starts_with('.')) || id.contains('\\') {
            return None;
        }
        Some(self.directory.join(format!("{}--{}", kind.prefix(), id.replace('/', "--"))))
    }

    /// The snapshot of a branch, tag or commit, if it is here.
    pub fn snapshot(&self, kind: RepositoryKind, id: &str, revision: &str) -> Option<PathBuf> {
        let repository = self.repository(kind, id)?;
        if !is_revision(revision) {
            return None;
        }
        let commit = files::read_to_string(repository.join("refs").join(revision), 1024).ok();
        let commit = commit.as_deref().map_or(revision, str::trim);
        let snapshot = repository.join("snapshots").join(commit);
        (!commit.is_empty() && !commit.contains(['/', '.', '\\']) && snapshot.is_dir()).then_some(snapshot)
    }

    /// All snapshots, that of the main branch first, and then those that were written last.
    pub fn snapshots(&self, kind: RepositoryKind, id: &str) -> Vec<PathBuf> {
        let Some(repository) = self.repository(kind, id) else { return Vec::new() };
        let entries = std::fs::read_dir(repository.join("snapshots")).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        let main = self.snapshot(kind, id, "main");
        let time = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
        found.sort_by_cached_key(|path| (Some(path) != main.as_ref(), Reverse(time(path)), path.clone()));
        found
    }

    /// The directory of a model or adapter by its name on the hub.
    pub fn find(&self, name: HubName<'_>) -> Option<PathBuf> {
        match name.revision {
            Some(revision) => self.snapshot(RepositoryKind::Model, name.id, revision),
            None => self.snapshots(RepositoryKind::Model, name.id).into_iter().next(),
        }
    }
}

/// Where the model or adapter is that somebody names: at that path, if there is something; else, if it is a name on the
/// hub, in the cache that the environment names. The path itself where it is nowhere, so that an error names it.
pub fn locate(path: &Path) -> Cow<'_, Path> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Cow::Borrowed(path);
    }
    path.to_str().and_then(cached).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// [`locate`] for a path that starts at `directory`, where names on the hub do not.
pub fn locate_below(directory: &Path, path: &str) -> PathBuf {
    let below = directory.join(path);
    if std::fs::symlink_metadata(&below).is_ok() {
        return below;
    }
    cached(path).unwrap_or(below)
}

/// The snapshot in the cache that the environment names, if `name` is one on the hub and it is there.
fn cached(name: &str) -> Option<PathBuf> {
    HubCache::from_env()?.find(HubName::parse(name)?)
}

/// What a person can do about a name of the hub that is nowhere here; nothing for a path.
pub(crate) fn download_hint(path: &Path) -> String {
    match path.to_str().and_then(HubName::parse) {
        Some(name) => format!("; nor does the cache of the Hugging Face hub have it: `glue fetch {name}` gets it"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let name = |text| HubName::parse(text).map(|name| (name.id, name.revision));
        assert_eq!(name("org/name"), Some(("org/name", None)));
        assert_eq!(name("org/name@v1.0"), Some(("org/name", Some("v1.0"))));
        assert_eq!(name("org/name@refs/pr/3"), Some(("org/name", Some("refs/pr/3"))));
        for text in ["name", "a/b/c", "/org/name", "org/name@", "org/name@../x", "org/name@a//b", "org/name@.git"] {
            assert_eq!(name(text), None, "{text}");
        }
        assert_eq!(HubName::parse("org/name@v1").unwrap().to_string(), "org/name@v1");
    }

    #[test]
    fn snapshots_are_found_by_branch_tag_and_commit() {
        let root = tempfile::tempdir().unwrap();
        let cache = HubCache::new(root.path());
        let repository = root.path().join("models--org--name");
        let of = |text| cache.find(HubName::parse(text).unwrap());
        assert_eq!(of("org/name"), None);
        for commit in ["aaa", "bbb", "ccc"] {
            fs::create_dir_all(repository.join("snapshots").join(commit)).unwrap();
        }
        fs::create_dir_all(repository.join("refs/refs/pr")).unwrap();
        for (reference, commit) in
            [("main", "bbb\n"), ("v1", "aaa"), ("refs/pr/1", "ccc"), ("gone", "ddd"), ("bad", "../..")]
        {
            fs::write(repository.join("refs").join(reference), commit).unwrap();
        }
        for (name, commit) in
            [("org/name", "bbb"), ("org/name@v1", "aaa"), ("org/name@refs/pr/1", "ccc"), ("org/name@ccc", "ccc")]
        {
            assert_eq!(of(name), Some(repository.join("snapshots").join(commit)), "{name}");
        }
        for name in ["org/name@gone", "org/name@bad", "org/name@v2", "org/other"] {
            assert_eq!(of(name), None, "{name}");
        }
        // Without a main branch the newest counts.
        fs::remove_file(repository.join("refs/main")).unwrap();
        fs::remove_dir(repository.join("snapshots/aaa")).unwrap();
        fs::remove_dir(repository.join("snapshots/bbb")).unwrap();
        assert_eq!(of("org/name"), Some(repository.join("snapshots/ccc")));
        assert_eq!(cache.repository(RepositoryKind::Dataset, "../x"), None);
    }
}
