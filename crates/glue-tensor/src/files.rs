//! Reading files that somebody else wrote.
//!
//! A model directory or a config folder may hold anything under any name: a link to a device that never ends, a pipe that
//! nobody writes to, a file of a terabyte. [`open`] accepts regular files only and never waits for one, and [`read`] and
//! [`read_to_string`] stop at a limit, so that what is read is bounded before it is in memory.

use std::fs::{File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Enough for every `config.json`, recipe, manifest or index that is written in earnest; in bytes.
pub const CONFIG_BYTES: u64 = 64 << 20;

/// Enough for a `tokenizer.json`, a vocabulary, or the items of a task; in bytes.
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
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > max_bytes {
        return Err(too_large(max_bytes));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|_| too_large(max_bytes))?);
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
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
    String::from_utf8(read(path, max_bytes)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(ErrorKind::InvalidData, format!("not valid UTF-8 at byte {at}"))
    })
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
