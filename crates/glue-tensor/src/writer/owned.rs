//! A directory that is provably ours, held by descriptor.
//!
//! What stands under the name of a staging directory may be anybody's: a link in a cloned repository, a folder of
//! the user. Ours is a directory that this user owns, entered without following a link, with a lock file whose
//! content names the directory's own inode. A copy or a clone has another inode, so that no such file can be carried
//! to where it would be believed. Everything is removed relative to the descriptor: a name that changes hands
//! meanwhile leads nowhere.

use super::WriteError;
use crate::abort::abort_point;
use crate::files::describe;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Held exclusively for as long as the directory is in use; the system releases it when the process dies.
pub(super) const LOCK_FILE: &str = ".lock";

/// Directories are opened so, relative to one that is open already or by path.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A lock file is opened so: no link is followed, and nothing is waited for.
const LOCK: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// More often than this, no other process can have been in between.
const ATTEMPTS: usize = 1000;

/// A directory with our marker, locked.
#[derive(Debug)]
pub(super) struct OwnedDirectory {
    path: PathBuf,
    directory: File,
    /// Held for as long as it is open.
    _lock: File,
}

/// What came of one attempt.
enum Attempt {
    Owned(OwnedDirectory),
    /// Another process moved or removed it in that moment.
    Gone,
}

impl OwnedDirectory {
    /// Creates the directory at `path`, or takes over one that a killed process left. What is in it stays.
    ///
    /// # Errors
    /// [`WriteError::Busy`], which names `purpose`, when another process holds it; [`WriteError::Foreign`] for anything
    /// that is not provably ours, which is left as it is; [`WriteError::Io`].
    pub(super) fn claim(path: &Path, purpose: &Path) -> Result<OwnedDirectory, WriteError> {
        for _ in 0..ATTEMPTS {
            if let Attempt::Owned(owned) = Self::attempt(path, purpose)? {
                return Ok(owned);
            }
        }
        Err(WriteError::Busy { path: purpose.into(), lock: path.join(LOCK_FILE) })
    }

    fn attempt(path: &Path, purpose: &Path) -> Result<Attempt, WriteError> {
        let at = |error: Errno| WriteError::at(path, 0, error.into());
        let foreign = |found: &str| WriteError::Foreign { path: path.into(), found: found.into() };
        let created = match fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(WriteError::at(path, 0, error)),
        };
        let directory = match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
            Ok(directory) => File::from(directory),
            Err(Errno::NOENT) => return Ok(Attempt::Gone),
            Err(error) => match fs::symlink_metadata(path) {
                Err(_) => return Ok(Attempt::Gone),
                Ok(metadata) if !metadata.is_dir() => return Err(foreign(describe(metadata.file_type()))),
                Ok(_) => return Err(at(error)),
            },
        };
        let metadata = directory.metadata().map_err(|error| WriteError::at(path, 0, error))?;
        // Some network file systems give what root creates to somebody else.
        if !created && metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(foreign(&format!("a directory of another user (number {})", metadata.uid())));
        }
        // From here on, a process that commits or drops the directory may do so at any moment, and what is found in it
        // then says nothing about what stands under the name.
        let unless_gone = |error: WriteError| match is_at(&directory, path) {
            true => Err(error),
            false => Ok(Attempt::Gone),
        };
        let lock_path = path.join(LOCK_FILE);
        let mut fresh = false;
        let lock = match rustix::fs::openat(&directory, LOCK_FILE, LOCK, Mode::empty()) {
            Err(Errno::NOENT) if entries(&directory).map_err(at)?.is_empty() => {
                let flags = LOCK | OFlags::CREATE | OFlags::EXCL;
                fresh = true;
                match rustix::fs::openat(&directory, LOCK_FILE, flags, Mode::RUSR | Mode::WUSR) {
                    Err(Errno::EXIST | Errno::NOENT) => return Ok(Attempt::Gone),
                    lock => lock,
                }
            }
            Err(Errno::NOENT) => return unless_gone(foreign("a directory of something else")),
            // A link (`LOOP`), a directory, a socket.
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
                return unless_gone(foreign(&format!("a directory whose `{LOCK_FILE}` is no lock file")));
            }
            lock => lock,
        };
        let lock = File::from(lock.map_err(|error| WriteError::at(&lock_path, 0, error.into()))?);
        let lock_at = |error| WriteError::at(&lock_path, 0, error);
        if !lock.metadata().map_err(lock_at)?.is_file() {
            return unless_gone(foreign(&format!("a directory whose `{LOCK_FILE}` is no lock file")));
        }
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return unless_gone(WriteError::Busy { path: purpose.into(), lock: lock_path });
            }
            Err(TryLockError::Error(error)) => return Err(lock_at(error)),
        }
        // Between opening and locking, the owner may have moved the directory away: then the lock is on nothing.
        if !is_at(&directory, path) {
            if fresh {
                rustix::fs::unlinkat(&directory, LOCK_FILE, AtFlags::empty()).map_err(at)?;
            }
            return Ok(Attempt::Gone);
        }
        if !holds(&directory, &lock).map_err(at)? {
            return Ok(Attempt::Gone);
        }
        let marker = marker(metadata.ino());
        let mut found = Vec::new();
        (&lock).take(marker.len() as u64 + 1).read_to_end(&mut found).map_err(lock_at)?;
        if found != marker {
            // A process that is killed right at the start leaves a beginning of its marker, and nothing beside it.
            let begun = marker.starts_with(&found) && entries(&directory).map_err(at)?.len() == 1;
            if !begun {
                return Err(foreign("a directory of something else"));
            }
            lock.write_all_at(&marker, 0).and_then(|()| lock.sync_all()).map_err(lock_at)?;
        }
        Ok(Attempt::Owned(OwnedDirectory { path: path.into(), directory, _lock: lock }))
    }

    /// Whether it still stands at its path.
    pub(super) fn is_in_place(&self) -> bool {
        is_at(&self.directory, &self.path)
    }

    /// Makes its entries durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    /// Removes all that is in it, except the lock. Links are removed, never followed. Weights go first, and an index
    /// after its shards, so that what is left when this process is killed does not open as a model.
    pub(super) fn empty(&self) -> Result<(), WriteError> {
        let at = |name: &CStr, error: Errno| {
            WriteError::at(&self.path.join(name.to_string_lossy().as_ref()), 0, error.into())
        };
        let mut raised = 0u64;
        // What was below has come up; see there.
        loop {
            let mut names = entries(&self.directory).map_err(|error| at(c"", error))?;
            names.retain(|name| name.to_bytes() != LOCK_FILE.as_bytes());
            if names.is_empty() {
                return Ok(());
            }
            names.sort_by_key(|name| !name.to_bytes().ends_with(b".safetensors"));
            for name in names {
                match rustix::fs::unlinkat(&self.directory, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    // Linux says ISDIR, POSIX says PERM.
                    Err(Errno::ISDIR | Errno::PERM) => {
                        self.dissolve(&name, &mut raised).map_err(|error| at(&name, error))?;
                    }
                    Err(error) => return Err(at(&name, error)),
                }
                abort_point("leftover removed");
            }
        }
    }

    /// Removes the directory `name`; directories in it are moved up, so that no depth takes more descriptors or stack.
    fn dissolve(&self, name: &CStr, raised: &mut u64) -> Result<(), Errno> {
        let inner = File::from(rustix::fs::openat(&self.directory, name, DIRECTORY, Mode::empty())?);
        let (outer_stat, inner_stat) = (rustix::fs::fstat(&self.directory)?, rustix::fs::fstat(&inner)?);
        if outer_stat.st_dev != inner_stat.st_dev {
            // Another file system is mounted there.
            return Err(Errno::BUSY);
        }
        for entry in entries(&inner)? {
            match rustix::fs::unlinkat(&inner, &entry, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => loop {
                    let up = CString::new(format!(".removed-{raised}")).unwrap_or_default();
                    *raised += 1;
                    match rustix::fs::renameat(&inner, &entry, &self.directory, &up) {
                        // Left there by a process that was killed.
                        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                        moved => break moved?,
                    }
                },
                removed => removed?,
            }
        }
        rustix::fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR)
    }

    /// Removes the lock file, wherever the directory is by now, and gives the lock up.
    pub(super) fn release(self) -> Result<(), WriteError> {
        rustix::fs::unlinkat(&self.directory, LOCK_FILE, AtFlags::empty())
            .map_err(|error| WriteError::at(&self.path.join(LOCK_FILE), 0, error.into()))
    }

    /// Removes the directory with all that is in it, unless it was moved away. Nobody is left to tell of a failure; the
    /// next claim finds what stays.
    pub(super) fn discard(self) {
        if !self.is_in_place() {
            return;
        }
        let _ = self.empty();
        let path = self.path.clone();
        // The lock goes last, and the directory only if nobody took it over in that instant.
        if self.release().is_ok() {
            let _ = fs::remove_dir(path);
        }
    }
}

/// What the lock file of a directory with this inode says.
fn marker(inode: u64) -> Vec<u8> {
    format!("glue: staging directory, inode {inode}\n").into_bytes()
}

/// The names in a directory.
fn entries(directory: &File) -> Result<Vec<CString>, Errno> {
    let names = Dir::read_from(directory)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    let mut names = names.collect::<Result<Vec<CString>, Errno>>()?;
    names.retain(|name| !matches!(name.to_bytes(), b"." | b".."));
    Ok(names)
}

/// Whether `directory` is what stands at `path`, itself and not through a link.
fn is_at(directory: &File, path: &Path) -> bool {
    let same = |held: &fs::Metadata, found: &fs::Metadata| (held.dev(), held.ino()) == (found.dev(), found.ino());
    matches!((directory.metadata(), fs::symlink_metadata(path)), (Ok(held), Ok(found)) if same(&held, &found))
}

/// Whether `lock` is the lock file in `directory`.
fn holds(directory: &File, lock: &File) -> Result<bool, Errno> {
    let held = rustix::fs::fstat(lock)?;
    match rustix::fs::statat(directory, LOCK_FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((held.st_dev, held.st_ino) == (found.st_dev, found.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
