//! The directory of a repository in the cache, as it is written.
//!
//! `blobs/HASH` is a file by the hash of its content, `snapshots/COMMIT/PATH` a link to one, `refs/REVISION` a commit.
//! Blobs get their names when their content was checked, a snapshot when all of its blobs are there, a reference last.

use crate::error::HubError;
use crate::listing::{FileHash, RemoteFile};
use glue_tensor::writer::free_bytes;
use glue_tensor::{abort_point, write_atomic};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The directory of a repository in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(crate) fn new(directory: PathBuf) -> Store {
        Store { directory }
    }

    /// Where the content with this hash is, if it is.
    pub(crate) fn blob(&self, hash: &FileHash) -> PathBuf {
        self.directory.join("blobs").join(hash.as_str())
    }

    /// Where what was received of it is.
    pub(crate) fn partial(&self, hash: &FileHash) -> PathBuf {
        self.directory.join("blobs").join(format!("{hash}.glue.incomplete"))
    }

    /// Whether a file's content is here whole.
    pub(crate) fn has(&self, file: &RemoteFile) -> bool {
        fs::metadata(self.blob(&file.hash)).is_ok_and(|system| system.is_file() && system.len() == file.size)
    }

    /// Bytes of a file that were received by an earlier attempt.
    pub(crate) fn received(&self, file: &RemoteFile) -> u64 {
        fs::metadata(self.partial(&file.hash)).map_or(0, |system| system.len().min(file.size))
    }

    /// The directory of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.directory.join("snapshots").join(commit)
    }

    /// Makes the directories.
    pub(crate) fn create(&self) -> Result<(), HubError> {
        for name in ["blobs", "snapshots", "refs"] {
            let path = self.directory.join(name);
            fs::create_dir_all(&path).map_err(HubError::io(path))?;
        }
        Ok(())
    }

    /// Refuses downloads of `needed` bytes that do not fit.
    pub(crate) fn check_space(&self, needed: u64) -> Result<(), HubError> {
        // Where the system does not say, it will say so when the disk is full.
        let Some(available) = free_bytes(&self.directory) else { return Ok(()) };
        if needed > available {
            return Err(HubError::Space { path: self.directory.clone(), needed, available });
        }
        Ok(())
    }

    /// Makes the snapshot of `commit` show `files`, all of whose blobs are here: at once, where there is none yet.
    pub(crate) fn link(&self, commit: &str, files: &[&RemoteFile]) -> Result<PathBuf, HubError> {
        let snapshot = self.snapshot(commit);
        if !snapshot.exists() {
            let staging = self.directory.join(format!(".snapshot-{}-{commit}", std::process::id()));
            if staging.exists() {
                fs::remove_dir_all(&staging).map_err(HubError::io(&staging))?;
            }
            for file in files {
                link_file(&staging, file)?;
            }
            abort_point("before a snapshot appears");
            match fs::rename(&staging, &snapshot) {
                Ok(()) => {
                    sync(&self.directory.join("snapshots"))?;
                    return Ok(snapshot);
                }
                Err(error) => {
                    let _ = fs::remove_dir_all(&staging);
                    // Where it is there, another process was faster.
                    if !snapshot.exists() {
                        return Err(HubError::Io { path: snapshot, error });
                    }
                }
            }
        }
        for file in files {
            link_file(&snapshot, file)?;
        }
        sync(&snapshot)?;
        Ok(snapshot)
    }

    /// Writes down that `revision` is `commit`.
    pub(crate) fn set_reference(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = self.directory.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&self.directory);
        fs::create_dir_all(parent).map_err(HubError::io(parent))?;
        Ok(write_atomic(&path, commit.as_bytes())?)
    }
}

/// A link to the blob of `file` in a snapshot, from wherever in it the file is.
fn link_file(snapshot: &Path, file: &RemoteFile) -> Result<(), HubError> {
    let path = snapshot.join(&file.path);
    let up = "../".repeat(file.path.split('/').count() + 1);
    let target = PathBuf::from(format!("{up}blobs/{}", file.hash));
    if fs::read_link(&path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(snapshot);
    fs::create_dir_all(parent).map_err(HubError::io(parent))?;
    let place = || {
        // Aside first, so that an earlier link is replaced at once.
        let aside = tempfile::Builder::new().prefix(".link-").make_in(parent, |at| symlink(&target, at))?;
        aside.persist(&path).map(drop).map_err(|error| error.error)
    };
    place().map_err(HubError::io(&path))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync(directory: &Path) -> Result<(), HubError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(HubError::io(directory))
}
