//! Reading files from untrusted sources.
//!
//! A model directory or a config folder may hold anything under any name: a link to a device that never ends, a pipe
//! that nobody writes to, a file of a terabyte. [`open`] accepts regular files only and never waits for one, and
//! [`read`] and [`read_to_string`] stop at a limit, which bounds memory. Only a file that the user names on the command
//! line may be a pipe: [`read_named`].
//!
//! A file may also change while it is in use. [`FileVersion`] identifies the file that was opened, and says at the end
//! whether it is unchanged.

use std::fs::{File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Size limit for a `config.json`, recipe, manifest or index, in bytes.
pub const CONFIG_BYTES: u64 = 64 << 20;

/// Size limit for a `tokenizer.json`, a vocabulary, or the items of a task, in bytes.
pub const DATA_BYTES: u64 = 2 << 30;

/// Opens a regular file for reading; links are followed.
///
/// # Errors
/// What the system says, or [`ErrorKind::InvalidInput`] with the kind of file that was found instead. A pipe is refused
/// at once, not waited for.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    let path = path.as_ref();
    // Before opening, because opening a device can have an effect of its own.
    check_regular(&std::fs::metadata(path)?)?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?);
    // After opening, because the name may lead elsewhere by now.
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// All bytes of a regular file.
///
/// # Errors
/// As [`open`], and [`ErrorKind::FileTooLarge`] for a file of more than `max_bytes`, or one that grows beyond that.
pub fn read(path: impl AsRef<Path>, max_bytes: u64) -> io::Result<Vec<u8>> {
    read_open(open(path)?, max_bytes)
}

/// All bytes of a regular file, and the version of the file.
///
/// # Errors
/// As [`read`].
pub fn read_version(path: impl AsRef<Path>, max_bytes: u64) -> io::Result<(Vec<u8>, FileVersion)> {
    let path = path.as_ref();
    let file = open(path)?;
    let version = FileVersion::of(path, &file.metadata()?);
    Ok((read_open(file, max_bytes)?, version))
}

/// All bytes of `file`, from its current position.
///
/// # Errors
/// What the system says, and [`ErrorKind::FileTooLarge`] for more than `max_bytes`.
pub fn read_open(file: File, max_bytes: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > max_bytes {
        return Err(too_large(max_bytes));
    }
    read_all(file, usize::try_from(length).map_err(|_| too_large(max_bytes))?, max_bytes)
}

fn read_all(reader: impl Read, expected: usize, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(expected);
    reader.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(max_bytes));
    }
    Ok(bytes)
}

/// All text of a regular file.
///
/// # Errors
/// As [`read`], and [`ErrorKind::InvalidData`] for bytes that are not UTF-8.
pub fn read_to_string(path: impl AsRef<Path>, max_bytes: u64) -> io::Result<String> {
    utf8(read(path, max_bytes)?)
}

/// All text of a file that the user named on the command line. It may be a pipe (`/dev/stdin`, a process substitution),
/// which is waited for.
///
/// # Errors
/// What the system says, [`ErrorKind::FileTooLarge`] for more than `max_bytes`, and [`ErrorKind::InvalidData`] for
/// bytes that are not UTF-8.
pub fn read_named(path: impl AsRef<Path>, max_bytes: u64) -> io::Result<String> {
    utf8(read_open(File::open(path)?, max_bytes)?)
}

/// All text that `reader` gives, such as standard input.
///
/// # Errors
/// As [`read_named`].
pub fn read_text(reader: impl Read, max_bytes: u64) -> io::Result<String> {
    utf8(read_all(reader, 0, max_bytes)?)
}

fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(ErrorKind::InvalidData, format!("not valid UTF-8 at byte {at}"))
    })
}

/// The identity, length and times of a file when it was opened.
///
/// Times are those of the file system, in nanoseconds. The time of the last status change is among them, which no
/// program can set back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVersion {
    path: PathBuf,
    device: u64,
    inode: u64,
    n_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    links: u64,
}

impl FileVersion {
    /// The version that `metadata` describes, of the file at `path`.
    pub fn of(path: impl Into<PathBuf>, metadata: &Metadata) -> FileVersion {
        use std::os::unix::fs::MetadataExt;
        FileVersion {
            path: path.into(),
            device: metadata.dev(),
            inode: metadata.ino(),
            n_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            links: metadata.nlink(),
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether both are versions of the same file.
    pub fn is_same_file(&self, other: &FileVersion) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Checks that the path leads to the same file, and that nobody has written to it since.
    ///
    /// # Errors
    /// [`FileChanged`], which names the file.
    pub fn check(&self) -> Result<(), FileChanged> {
        let change = |change: String| FileChanged { path: self.path.clone(), change };
        let now = std::fs::metadata(&self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => change("it was removed or renamed".into()),
            _ => change(format!("it cannot be looked at any more: {error}")),
        })?;
        let now = FileVersion::of(&self.path, &now);
        // A hard link made or removed elsewhere changes the status and nothing in the file.
        let linked = self.links != now.links;
        if *self == now || linked && *self == (FileVersion { changed: self.changed, links: self.links, ..now.clone() })
        {
            return Ok(());
        }
        Err(change(match () {
            () if !self.is_same_file(&now) => "another file has taken its place".into(),
            () if self.n_bytes != now.n_bytes => format!("it had {} bytes and has {} now", self.n_bytes, now.n_bytes),
            () if self.modified != now.modified => "somebody has written to it".into(),
            () => "its status (owner, mode or times) has changed".into(),
        }))
    }
}

/// A file was changed or replaced after it was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: the file changed while it was in use: {change}; run the command again when nothing writes to it", path.display())]
pub struct FileChanged {
    path: PathBuf,
    change: String,
}

impl FileChanged {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn check_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let kind = if metadata.is_dir() { ErrorKind::IsADirectory } else { ErrorKind::InvalidInput };
    Err(io::Error::new(kind, format!("expected a regular file, found {}", describe(metadata.file_type()))))
}

/// The kind of a file in words, with its article.
pub fn describe(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_char_device() => "a character device",
        () if kind.is_block_device() => "a block device",
        () if kind.is_socket() => "a socket",
        () => "a special file",
    }
}

fn too_large(max_bytes: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("more than the {max_bytes} bytes that such a file may have"))
}

#[cfg(test)]
mod tests {
    //! Whatever stands under a name.
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn regular_files_up_to_the_limit_are_read() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("file"), root.path().join("link"));
        fs::write(&file, "text").unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(read_to_string(&link, 4).unwrap(), "text");
        assert_eq!(read(&file, 3).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read(root.path().join("none"), 3).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(&file, b"a\xff").unwrap();
        assert!(read_to_string(&file, 4).unwrap_err().to_string().contains("not valid UTF-8 at byte 1"));
    }

    #[test]
    fn a_version_tells_every_kind_of_change() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        let version = || {
            fs::write(&file, "text").unwrap();
            read_version(&file, 4).unwrap().1
        };
        let check = |change: &dyn Fn(), expected: &str| {
            let version = version();
            version.check().unwrap();
            // The clock of a file system has a grain of a few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            let error = version.check().unwrap_err();
            assert_eq!(error.path(), file);
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(&|| fs::write(&file, "longer text").unwrap(), "it had 4 bytes and has 11 now");
        check(&|| fs::write(&file, "TEXT").unwrap(), "somebody has written to it");
        check(&|| fs::remove_file(&file).unwrap(), "it was removed or renamed");
        let replace = || {
            fs::write(root.path().join("other"), "text").unwrap();
            fs::rename(root.path().join("other"), &file).unwrap();
        };
        check(&replace, "another file has taken its place");
        let set_back = || {
            let modified = fs::metadata(&file).unwrap().modified().unwrap();
            fs::write(&file, "TEXT").unwrap();
            File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        };
        check(&set_back, "its status");
        let version = version();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::hard_link(&file, root.path().join("link")).unwrap();
        version.check().unwrap();
    }

    #[test]
    fn a_file_on_the_command_line_may_be_a_pipe_but_has_a_limit() {
        let error = read_named("/dev/zero", 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"text").unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read_named(path, 4).unwrap(), "text");
    }

    #[test]
    fn devices_pipes_and_directories_are_refused_without_waiting() {
        let root = tempfile::tempdir().unwrap();
        let (zero, pipe) = (root.path().join("zero"), root.path().join("pipe"));
        symlink("/dev/zero", &zero).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        for (path, found) in [(&*zero, "a character device"), (&*pipe, "a named pipe"), (root.path(), "a directory")] {
            let error = read(path, 10).unwrap_err().to_string();
            assert_eq!(error, format!("expected a regular file, found {found}"));
        }
    }
}
