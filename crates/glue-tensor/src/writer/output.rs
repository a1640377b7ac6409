//! Single files that appear complete or not at all.
//!
//! [`write_atomic`] is for files inside a directory that is ours to fill: a link under the name is replaced, never
//! followed. [`OutputFile`] is for a file that a user named: links are followed, and what is no regular file (a device,
//! a pipe, `/dev/stdout`) is written into.

use super::{WriteError, sync_directory};
use crate::abort::{abort_midway, abort_point};
use crate::files::describe;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path` so that a reader, or the next start after a crash, sees the old content or the new.
///
/// Missing parents are created. A link at `path` is replaced, and what it leads to stays as it is. Several processes
/// and threads may write one path.
///
/// # Errors
/// [`WriteError::NoName`] when `path` cannot name a file, [`WriteError::Special`] when something other than a regular
/// file or a link is there, [`WriteError::NoSpace`], [`WriteError::Io`]; the old content then still stands.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), WriteError> {
    let path = std::path::absolute(path.as_ref()).map_err(|e| WriteError::at(path.as_ref(), 0, e))?;
    let mut replacement = Replacement::begin(path)?;
    abort_midway("file half written", &mut replacement.file, bytes);
    replacement.file.write_all(bytes).map_err(|e| WriteError::at(&replacement.target, bytes.len() as u64, e))?;
    replacement.commit()
}

/// A file that a user named to be written.
///
/// Links are followed. Over nothing or a regular file, the content goes to a temporary file beside it, which
/// [`OutputFile::commit`] renames into place, durably; a new file gets the mode 0666 less the umask, a replaced one
/// keeps its own. Dropping without commit leaves what was there. A device, a pipe, and whatever the process has open
/// (`/dev/stdout`, `/proc/self/fd/3`) are written into as the content comes.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    File(Replacement),
    Stream(File),
}

impl OutputFile {
    /// Opens the file for writing. Call it before the work, so that a path that cannot be written costs none. Missing
    /// parents are created. A named pipe that nobody reads yet is waited for, as a shell does.
    ///
    /// # Errors
    /// [`WriteError::NoName`] when `path` cannot name a file, [`WriteError::Special`] for a
    /// directory, [`WriteError::Io`].
    pub fn create(path: impl AsRef<Path>) -> Result<OutputFile, WriteError> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() || path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(WriteError::NoName { path: path.into() });
        }
        let sink = Sink::open(path).map_err(|error| match error {
            // The path as the user knows it.
            WriteError::Io { error, .. } => WriteError::Io { path: path.into(), error },
            other => other,
        })?;
        Ok(OutputFile { path: path.into(), sink })
    }

    /// The file, for writes at any position; `None` for a stream.
    pub fn file(&self) -> Option<&File> {
        match &self.sink {
            Sink::File(replacement) => Some(&replacement.file),
            Sink::Stream(_) => None,
        }
    }

    /// Lets `write` write all of the content, and makes it appear.
    ///
    /// # Errors
    /// [`WriteError::NoSpace`], [`WriteError::TooLarge`], [`WriteError::Io`].
    pub fn write_with(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), WriteError> {
        let (Sink::File(Replacement { file, .. }) | Sink::Stream(file)) = &self.sink;
        let mut buffered = BufWriter::new(file);
        write(&mut buffered).and_then(|()| buffered.flush()).map_err(|error| self.failed(error))?;
        drop(buffered);
        self.commit()
    }

    /// Makes appear what was written at positions of [`OutputFile::file`].
    ///
    /// # Errors
    /// [`WriteError::NoSpace`], [`WriteError::TooLarge`], [`WriteError::Io`].
    pub fn commit(self) -> Result<(), WriteError> {
        match self.sink {
            Sink::File(replacement) => replacement.commit(),
            Sink::Stream(_) => Ok(()),
        }
    }

    /// The error of a write, with the path as it was given.
    pub fn failed(&self, error: io::Error) -> WriteError {
        WriteError::at(&self.path, 0, error)
    }
}

/// Links that are followed from one path; as many as Linux follows.
const MAX_LINKS: usize = 40;

impl Sink {
    fn open(path: &Path) -> Result<Sink, WriteError> {
        let mut place = std::path::absolute(path).map_err(|e| WriteError::at(path, 0, e))?;
        for _ in 0..MAX_LINKS {
            let at = |error| WriteError::at(&place, 0, error);
            let metadata = match fs::symlink_metadata(&place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                metadata => Some(metadata.map_err(at)?),
            };
            match metadata {
                Some(metadata) if metadata.is_symlink() => {
                    if is_open_file(&place) {
                        return reopen(&place).map(Sink::Stream).map_err(at);
                    }
                    let target = fs::read_link(&place).map_err(at)?;
                    place = place.parent().unwrap_or(Path::new("/")).join(target);
                }
                Some(metadata) if metadata.is_dir() => {
                    return Err(WriteError::Special { path: path.into(), found: describe(metadata.file_type()) });
                }
                Some(metadata) => {
                    if let Some(stream) = standard_stream(&metadata).map_err(at)? {
                        return Ok(Sink::Stream(stream));
                    }
                    if !metadata.is_file() {
                        return OpenOptions::new().write(true).open(&place).map(Sink::Stream).map_err(at);
                    }
                    return Replacement::begin(place).map(Sink::File);
                }
                None => return Replacement::begin(place).map(Sink::File),
            }
        }
        Err(WriteError::Io { path: path.into(), error: rustix::io::Errno::LOOP.into() })
    }
}

/// Whether the link at `path` stands for a file that a process has open, as those in `/proc/self/fd` do: it cannot be
/// replaced, and its target is a name at best.
fn is_open_file(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        let parent = path.parent().unwrap_or(path);
        rustix::fs::statfs(parent).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        false
    }
}

/// Opens an open file once more. What is in a regular file stays, as the process that opened it expects.
fn reopen(path: &Path) -> io::Result<File> {
    match standard_stream(&fs::metadata(path)?)? {
        Some(stream) => Ok(stream),
        None => OpenOptions::new().append(true).open(path),
    }
}

/// Standard output or standard error, when that is what `metadata` is of: a second opening would write over what the
/// first one wrote, and a file that was replaced would not get what the process has still to print.
fn standard_stream(metadata: &Metadata) -> io::Result<Option<File>> {
    for stream in [io::stdout().as_fd().try_clone_to_owned(), io::stderr().as_fd().try_clone_to_owned()] {
        // A stream may be closed.
        let Ok(stream) = stream.map(File::from) else { continue };
        let own = stream.metadata()?;
        if (own.dev(), own.ino()) == (metadata.dev(), metadata.ino()) {
            return Ok(Some(stream));
        }
    }
    Ok(None)
}

/// A temporary file beside a path, renamed to it when it is complete.
#[derive(Debug)]
struct Replacement {
    target: PathBuf,
    temporary: PathBuf,
    file: File,
    committed: bool,
}

impl Replacement {
    /// Begins to replace what is at `target`, which must be absolute. The temporary file is new: nothing that stands
    /// under its name is opened, followed or emptied.
    fn begin(target: PathBuf) -> Result<Replacement, WriteError> {
        let at = |error| WriteError::at(&target, 0, error);
        let (parent, name) = split(&target)?;
        fs::create_dir_all(parent).map_err(|e| WriteError::at(parent, 0, e))?;
        let old = match fs::symlink_metadata(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            metadata => Some(metadata.map_err(at)?),
        };
        if let Some(metadata) = old.as_ref().filter(|metadata| !metadata.is_file() && !metadata.is_symlink()) {
            return Err(WriteError::Special { path: target, found: describe(metadata.file_type()) });
        }
        let mut number = 0u32;
        let (temporary, file) = loop {
            let temporary = parent.join(hidden(&name, &format!(".{}-{number}.partial", std::process::id())));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < u32::MAX => number += 1,
                file => break (temporary, file.map_err(at)?),
            }
        };
        let replacement = Replacement { target, temporary, file, committed: false };
        if let Some(old) = old.filter(Metadata::is_file) {
            let mode = Permissions::from_mode(old.mode() & 0o777);
            replacement.file.set_permissions(mode).map_err(|e| WriteError::at(&replacement.target, 0, e))?;
        }
        Ok(replacement)
    }

    fn commit(mut self) -> Result<(), WriteError> {
        let at = |error| WriteError::at(&self.target, 0, error);
        self.file.sync_all().map_err(at)?;
        abort_point("file synced");
        fs::rename(&self.temporary, &self.target).map_err(at)?;
        self.committed = true;
        abort_point("file renamed");
        let (parent, _) = split(&self.target)?;
        sync_directory(parent)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes and syncs the file `path` in a directory of ours; on failure removes it, so that the error tells of the space
/// there is without it.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let write = || {
        let no_links = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(no_links).open(path)?;
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

/// The directory and the name of a path.
pub(super) fn split(path: &Path) -> Result<(&Path, OsString), WriteError> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.to_os_string())),
        _ => Err(WriteError::NoName { path: path.to_path_buf() }),
    }
}

/// `.NAME` with `suffix` behind it.
pub(super) fn hidden(name: &OsString, suffix: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    hidden
}
