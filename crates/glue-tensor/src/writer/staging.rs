//! A directory that appears complete or not at all.

use super::{WriteError, sync_directory};
use crate::abort::{abort_midway, abort_point};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

/// Held exclusively for as long as the staging directory is in use; the system releases it when the process dies.
const LOCK_FILE: &str = ".lock";

/// A hidden directory `.NAME.partial` beside the directory wanted, renamed to it by [`Staging::commit`].
///
/// Its name depends on the output's name alone, so that what a killed process left behind is found by the next one,
/// which empties it; a lock tells that case from a process still at work. Dropping without commit removes it.
#[derive(Debug)]
pub struct Staging {
    out_dir: PathBuf,
    path: PathBuf,
    lock: Option<File>,
}

impl Staging {
    /// Prepares to create `out_dir`, which must not exist or be an empty directory. Missing parents are created.
    ///
    /// # Errors
    /// [`WriteError::NotEmpty`] and [`WriteError::NotADirectory`] when `out_dir` is taken, [`WriteError::Busy`] when
    /// another process (or another `Staging` of this one) is writing it, [`WriteError::Io`] otherwise.
    pub fn create(out_dir: impl AsRef<Path>) -> Result<Staging, WriteError> {
        let out_dir = resolve(out_dir.as_ref())?;
        check_vacant(&out_dir)?;
        let (parent, name) = split(&out_dir)?;
        fs::create_dir_all(parent).map_err(|e| WriteError::at(parent, 0, e))?;
        let path = parent.join(hidden(&name, ".partial"));
        let lock = acquire(&path, &out_dir)?;
        // From here on, dropping cleans up.
        let staging = Staging { out_dir, path, lock: Some(lock) };
        abort_point("staging directory locked");
        staging.empty()?;
        Ok(staging)
    }

    /// The staging directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that [`Staging::commit`] makes appear.
    pub fn out_dir(&self) -> &Path {
        &self.out_dir
    }

    /// Writes `bytes` to the file `name`, durably; an earlier file of that name is replaced.
    ///
    /// # Errors
    /// [`WriteError::FileName`] unless `name` is a plain file name, [`WriteError::NoSpace`], [`WriteError::Io`].
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let mut components = Path::new(name).components();
        let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain || name == LOCK_FILE {
            return Err(WriteError::FileName { name: name.to_string() });
        }
        write_durably(&self.path.join(name), bytes)
    }

    /// Makes the directory appear at [`Staging::out_dir`], durably, with all that was written to it.
    ///
    /// # Errors
    /// [`WriteError::NotEmpty`], [`WriteError::NotADirectory`] when `out_dir` was taken meanwhile, [`WriteError::Io`]; nothing appears then, and
    /// the staging directory is removed.
    pub fn commit(mut self) -> Result<(), WriteError> {
        sync_directory(&self.path)?;
        fs::rename(&self.path, &self.out_dir).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                WriteError::NotEmpty { path: self.out_dir.clone() }
            }
            io::ErrorKind::NotADirectory => WriteError::NotADirectory { path: self.out_dir.clone() },
            _ => WriteError::at(&self.out_dir, 0, error),
        })?;
        abort_point("staging directory renamed");
        // The lock outlives the rename: without it, another process could take the directory over and empty it. A
        // crash right here leaves a complete directory with a stray empty file in it.
        let lock = self.lock.take();
        let lock_path = self.out_dir.join(LOCK_FILE);
        fs::remove_file(&lock_path).map_err(|e| WriteError::at(&lock_path, 0, e))?;
        drop(lock);
        abort_point("output unlocked");
        sync_directory(&self.out_dir)?;
        let (parent, _) = split(&self.out_dir)?;
        sync_directory(parent)
    }

    /// Removes whatever a killed process left, except the lock: weights first, and an index after its shards, so that
    /// what is left when this process is killed too does not open as a model.
    fn empty(&self) -> Result<(), WriteError> {
        let at = |e| WriteError::at(&self.path, 0, e);
        let mut entries = fs::read_dir(&self.path).map_err(at)?.collect::<io::Result<Vec<_>>>().map_err(at)?;
        entries.retain(|entry| entry.file_name() != LOCK_FILE);
        entries.sort_by_key(|entry| entry.path().extension().is_none_or(|extension| extension != "safetensors"));
        for entry in entries {
            let is_dir = entry.file_type().map_err(at)?.is_dir();
            let removed = if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
            removed.map_err(|e| WriteError::at(&entry.path(), 0, e))?;
            abort_point("leftover removed");
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Nobody is left to tell of a failure; the next run removes what this one could not. The lock goes last,
            // and the directory only if nobody took it over in that instant.
            let _ = self.empty();
            let _ = fs::remove_file(self.path.join(LOCK_FILE));
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Writes `bytes` to `path` so that a reader, or the next start after a crash, sees the old content or the new.
///
/// Missing parents are created. Several processes may write one path; several threads of one process must not.
///
/// # Errors
/// [`WriteError::NoName`] when `path` cannot name a file, [`WriteError::NoSpace`], [`WriteError::Io`]; the old content
/// then still stands.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), WriteError> {
    let path = std::path::absolute(path.as_ref()).map_err(|e| WriteError::at(path.as_ref(), 0, e))?;
    let (parent, name) = split(&path)?;
    fs::create_dir_all(parent).map_err(|e| WriteError::at(parent, 0, e))?;
    let temporary = parent.join(hidden(&name, &format!(".{}.partial", std::process::id())));
    let written = write_durably(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, &path).map_err(|e| WriteError::at(&path, 0, e)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    abort_point("file renamed");
    sync_directory(parent)
}

/// Writes and syncs the file `path`; on failure removes it, so that the error tells of the space there is without it.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let write = || {
        let mut file = File::create(path)?;
        abort_midway("file half written", &mut file, bytes);
        file.write_all(bytes)?;
        file.sync_all()?;
        abort_point("file synced");
        Ok(())
    };
    write().map_err(|error| {
        let _ = fs::remove_file(path);
        WriteError::at(path, bytes.len() as u64, error)
    })
}

/// The absolute path of `out_dir`, through a symbolic link if it is one to a directory.
fn resolve(out_dir: &Path) -> Result<PathBuf, WriteError> {
    let resolved = match fs::canonicalize(out_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(out_dir),
        resolved => resolved,
    };
    resolved.map_err(|e| WriteError::at(out_dir, 0, e))
}

fn split(path: &Path) -> Result<(&Path, OsString), WriteError> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.to_os_string())),
        _ => Err(WriteError::NoName { path: path.to_path_buf() }),
    }
}

fn hidden(name: &OsString, suffix: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    hidden
}

fn check_vacant(out_dir: &Path) -> Result<(), WriteError> {
    match fs::read_dir(out_dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(WriteError::NotEmpty { path: out_dir.to_path_buf() }),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound if out_dir.is_symlink() => {
                Err(WriteError::NotADirectory { path: out_dir.to_path_buf() })
            }
            io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::NotADirectory => Err(WriteError::NotADirectory { path: out_dir.to_path_buf() }),
            _ => Err(WriteError::at(out_dir, 0, error)),
        },
    }
}

/// Creates the staging directory, if need be, and locks it.
fn acquire(staging: &Path, out_dir: &Path) -> Result<File, WriteError> {
    let path = staging.join(LOCK_FILE);
    let at = |e| WriteError::at(&path, 0, e);
    loop {
        match fs::create_dir(staging) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(WriteError::at(staging, 0, error));
            }
            _ => {}
        }
        let lock = match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            // Its owner has just committed or dropped it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(at)?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(WriteError::Busy { path: out_dir.to_path_buf(), lock: path });
            }
            Err(TryLockError::Error(error)) => return Err(at(error)),
        }
        // Between opening and locking, the owner may have moved the file away: then the lock is on nothing.
        if is_same_file(&lock, &path).map_err(at)? {
            return Ok(lock);
        }
    }
}

fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((held.dev(), held.ino()) == (found.dev(), found.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
