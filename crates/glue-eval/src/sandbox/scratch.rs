//! Directories on the disk that programs are started in: made, measured, removed, and found again after a kill.

use super::Limits;
use super::process::Process;
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "glue-program-";
/// A file that is locked as long as the process lives that made the directory.
const LOCK: &str = "lock";
/// The directory for the program; the one above is where what is found deep is brought up to on removal.
const INNER: &str = "scratch";

/// A directory that is removed when dropped, however deep what was made in it.
pub(super) struct Scratch {
    outer: tempfile::TempDir,
    /// Locked as long as it is open.
    _lock: File,
}

impl Scratch {
    /// An empty one, in the system's place for temporary files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn new() -> io::Result<Scratch> {
        let outer = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        // It has its name once it is locked, so that nobody finds it without. Where files cannot be locked, nobody
        // removes the directory after a kill.
        let unnamed = outer.path().join("unlocked");
        let lock = File::create_new(&unnamed)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::rename(unnamed, outer.path().join(LOCK))?;
        }
        fs::create_dir(outer.path().join(INNER))?;
        Ok(Scratch { outer, _lock: lock })
    }

    /// The directory, absolute.
    pub(super) fn path(&self) -> PathBuf {
        self.outer.path().join(INNER)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = directory(CWD, self.outer.path().as_os_str()).map(|outer| empty(&outer));
        // The directory itself goes with its own drop.
    }
}

/// Removes what killed processes left in the system's place for temporary files: directories of the name above, the
/// user's own, with a lock in them that nobody holds.
pub(super) fn remove_abandoned() {
    let Ok(list) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in list.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        // Another process may do the same, and what fails is left to the next start.
        let _ = remove_if_abandoned(&entry.path());
    }
}

fn remove_if_abandoned(path: &Path) -> rustix::io::Result<()> {
    let own = |file: &OwnedFd, kind: FileType| {
        let stat = fstat(file)?;
        let is = FileType::from_raw_mode(stat.st_mode) == kind && stat.st_uid == rustix::process::geteuid().as_raw();
        if is { Ok(()) } else { Err(Errno::PERM) }
    };
    let outer = directory(CWD, path.as_os_str())?;
    own(&outer, FileType::Directory)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = openat(&outer, LOCK, flags, Mode::empty())?;
    own(&lock, FileType::RegularFile)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    empty(&outer)?;
    unlinkat(CWD, path, AtFlags::REMOVEDIR)
}

/// Opens a directory that is no link.
fn directory(at: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Removes all that is in `outer`, its lock last. Directory by directory from the top, without recursion: a tree of a
/// hundred thousand levels has paths longer than the system allows, and a recursive walk would run out of descriptors
/// or of stack. No link is followed, even if a program should still be there to put some.
fn empty(outer: &OwnedFd) -> rustix::io::Result<()> {
    let mut number = 0_u64;
    let mut open = Vec::new();
    for entry in Dir::read_from(outer)?.flatten() {
        let name = entry.file_name();
        if is_entry(name) && name.to_bytes() != LOCK.as_bytes() {
            open.push(name.to_owned());
        }
    }
    while let Some(name) = open.pop() {
        let inner = match openat(
            outer,
            &*name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(inner) => inner,
            Err(_) => {
                let _ = unlinkat(outer, &*name, AtFlags::empty());
                continue;
            }
        };
        for entry in Dir::read_from(&inner)?.flatten() {
            let below = entry.file_name();
            // That it is a directory is what removing it says.
            if is_entry(below) && unlinkat(&inner, below, AtFlags::empty()) == Err(Errno::ISDIR) {
                allow_all(&inner, below);
                let raised = loop {
                    number += 1;
                    let raised = number.to_string();
                    // Numbers may be taken, where a removal was not finished.
                    match renameat(&inner, below, outer, &*raised) {
                        Ok(()) => break Some(raised),
                        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                        Err(_) => break None,
                    }
                };
                open.extend(raised.and_then(|raised| std::ffi::CString::new(raised).ok()));
            }
        }
        let _ = unlinkat(outer, &*name, AtFlags::REMOVEDIR);
    }
    unlinkat(outer, LOCK, AtFlags::empty())
}

fn is_entry(name: &CStr) -> bool {
    !matches!(name.to_bytes(), b"." | b"..")
}

/// Gives the user all rights on a directory, whose mode the program chose: moving it needs the right to write in it.
fn allow_all(at: &OwnedFd, name: &CStr) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(found) = openat(at, name, flags, Mode::empty()) {
        let _ = rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU);
    }
}

/// Whether what a program has on the disk is more than the limits allow: what is beneath `scratch`, and files without a
/// name that `process` has open or mapped. A tree too deep to be walked is too much.
pub(super) fn exceeds(scratch: &Path, process: &Process, limits: &Limits) -> bool {
    let mut used = Usage::default();
    let mut open = vec![scratch.to_owned()];
    while let Some(directory) = open.pop() {
        let list = match fs::read_dir(&directory) {
            Ok(list) => list,
            // It may have been removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound || error.kind() == ErrorKind::NotADirectory => continue,
            Err(_) => return true,
        };
        for entry in list.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            used.add(&metadata);
            if metadata.is_dir() {
                open.push(entry.path());
            }
            if used.exceeds(limits) {
                return true;
            }
        }
    }
    used.add_unnamed(scratch, process, limits);
    used.exceeds(limits)
}

/// What was counted.
#[derive(Default)]
struct Usage {
    bytes: u64,
    entries: usize,
}

impl Usage {
    fn add(&mut self, metadata: &fs::Metadata) {
        self.entries += 1;
        // Blocks, not the length: a hole takes no space.
        self.bytes = self.bytes.saturating_add(metadata.blocks().saturating_mul(512));
    }

    fn exceeds(&self, limits: &Limits) -> bool {
        self.bytes > limits.scratch_bytes || self.entries > limits.scratch_entries
    }

    /// Adds the files beneath `scratch` that have no name any more.
    fn add_unnamed(&mut self, scratch: &Path, process: &Process, limits: &Limits) {
        let proc = PathBuf::from(format!("/proc/{}", process.number()));
        let mut seen = HashSet::new();
        let Ok(device) = fs::metadata(scratch).map(|metadata| metadata.dev()) else { return };
        for entry in fs::read_dir(proc.join("fd")).into_iter().flatten().flatten() {
            // Of the file, not of the link to it.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if metadata.is_file() && metadata.nlink() == 0 && metadata.dev() == device && seen.insert(metadata.ino()) {
                self.add(&metadata);
            }
        }
        let maps = fs::read(proc.join("maps")).unwrap_or_default();
        let prefix = scratch.as_os_str().as_encoded_bytes();
        for line in maps.split(|&byte| byte == b'\n') {
            // Range, rights, offset, device, number of the file, and the path to the end of the line.
            let text = String::from_utf8_lossy(line);
            let mut fields = text.split_whitespace();
            let (range, number) = (fields.next(), fields.nth(3).and_then(|number| number.parse::<u64>().ok()));
            let (Some(range), Some(number)) = (range, number) else { continue };
            let ours = line.windows(prefix.len()).any(|part| part == prefix) && line.ends_with(b" (deleted)");
            if !ours || !seen.insert(number) {
                continue;
            }
            // Only who may inspect any process is led to the file; otherwise it counts as long as it can be.
            match fs::metadata(proc.join("map_files").join(range)) {
                Ok(metadata) => self.add(&metadata),
                Err(_) => {
                    self.entries += 1;
                    self.bytes = self.bytes.saturating_add(limits.file_bytes);
                }
            }
            if self.exceeds(limits) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    #[test]
    fn a_deep_tree_with_links_is_removed_and_what_it_points_to_is_not() {
        let keep = tempfile::tempdir().unwrap();
        fs::write(keep.path().join("kept"), "x").unwrap();
        let scratch = Scratch::new().unwrap();
        let outer = scratch.outer.path().to_owned();
        symlink(keep.path(), scratch.path().join("link")).unwrap();
        let mut directory = scratch.path();
        for _ in 0..500 {
            directory.push("d");
        }
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "x").unwrap();
        symlink(keep.path(), directory.join("link")).unwrap();
        drop(scratch);
        assert!(!outer.exists());
        assert!(keep.path().join("kept").exists());
    }

    /// A process of the test's own to look at, which does nothing.
    fn idle() -> Process {
        Process::new(Command::new("sleep").arg("60").spawn().unwrap().id())
    }

    #[test]
    fn size_counts_what_is_allocated() {
        let (scratch, process) = (Scratch::new().unwrap(), idle());
        let limits = Limits { scratch_bytes: 100_000, scratch_entries: 3, ..Limits::default() };
        assert!(!exceeds(&scratch.path(), &process, &limits));
        fs::write(scratch.path().join("large"), vec![1; 200_000]).unwrap();
        assert!(exceeds(&scratch.path(), &process, &limits));
        fs::remove_file(scratch.path().join("large")).unwrap();
        for i in 0..4 {
            fs::write(scratch.path().join(i.to_string()), "").unwrap();
        }
        assert!(exceeds(&scratch.path(), &process, &limits));
    }

    #[test]
    fn only_what_is_provably_abandoned_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let made = |name: &str, lock: bool| {
            let path = place.path().join(name);
            fs::create_dir_all(path.join("scratch/deep/deeper")).unwrap();
            fs::write(path.join("scratch/deep/file"), "x").unwrap();
            if lock {
                fs::write(path.join(LOCK), "").unwrap();
            }
            path
        };
        let (abandoned, other, held) = (made("abandoned", true), made("other", false), made("held", true));
        let lock = File::open(held.join(LOCK)).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        // Half removed by somebody who was killed too.
        fs::create_dir_all(abandoned.join("1/x")).unwrap();
        fs::write(abandoned.join("2"), "").unwrap();
        let link = place.path().join("link");
        symlink(&held, &link).unwrap();
        let by_link = made("by-link", false);
        symlink(held.join(LOCK), by_link.join(LOCK)).unwrap();

        assert_eq!(remove_if_abandoned(&abandoned), Ok(()));
        assert!(!abandoned.exists());
        for kept in [&other, &held, &link, &by_link] {
            assert!(remove_if_abandoned(kept).is_err(), "{kept:?}");
            assert!(kept.join("scratch/deep/file").exists(), "{kept:?}");
        }
        drop(lock);
        assert!(remove_if_abandoned(&link).is_err());
        assert_eq!(remove_if_abandoned(&held), Ok(()));
    }
}
