//! Writing a checkpoint so that it appears complete or not at all.
//!
//! [`Staging`] is a hidden directory beside the one wanted; committing renames it into place. [`Layout`] decides
//! every file and offset beforehand. [`CheckpointWriter`] reserves that space on disk before the first value is
//! computed, and then takes bytes for any tensor, at any offset, from any thread. [`OutputFile`] and
//! [`write_atomic`] write single files.

mod files;
mod layout;
mod output;
mod owned;
mod staging;

pub use files::CheckpointWriter;
pub use layout::{Layout, Placement, Shard, TensorSpec};
pub use output::{OutputFile, write_atomic};
pub use staging::Staging;

use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output directory exists and has something in it.
    #[error("{}: the directory exists and is not empty", path.display())]
    NotEmpty {
        /// The output directory.
        path: PathBuf,
    },
    /// Something that is not a directory is in the way.
    #[error("{}: exists and is not a directory", path.display())]
    NotADirectory {
        /// What is in the way.
        path: PathBuf,
    },
    /// The path has no last component that could be created.
    #[error("{}: not a path that a directory or file can be created at", path.display())]
    NoName {
        /// The path given.
        path: PathBuf,
    },
    /// Another process holds the staging directory.
    #[error("{}: another process is writing it (it holds {})", path.display(), lock.display())]
    Busy {
        /// The output directory.
        path: PathBuf,
        /// The lock file it holds.
        lock: PathBuf,
    },
    /// Something stands under the name of a staging directory that is not provably one.
    #[error("{}: glue prepares its output under this name and found {found} there, which it did not make; remove or rename it", path.display())]
    Foreign {
        /// What is in the way.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// The staging directory was moved away while it was being filled.
    #[error("{}: another process moved or replaced this directory while it was being filled", path.display())]
    Moved {
        /// Where it was.
        path: PathBuf,
    },
    /// A file is to be written where there is something that no file can replace.
    #[error("{}: expected a regular file or nothing, found {found}", path.display())]
    Special {
        /// The file.
        path: PathBuf,
        /// The kind of file that was found.
        found: &'static str,
    },
    /// A file grew beyond what the process may write, or the file system can hold.
    #[error("{}: the file size limit is reached; `ulimit -f` shows that of the process, file systems have their own", path.display())]
    TooLarge {
        /// What was being written.
        path: PathBuf,
    },
    /// The disk has no room.
    #[error("{}: no space left: {needed} bytes are needed and {free} are free", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// Bytes that were to be written.
        needed: u64,
        /// Bytes available to this user.
        free: u64,
    },
    /// The system refused an operation.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Two tensors of a layout share a name.
    #[error("tensor `{tensor}` appears twice in the output")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// A tensor has the name that safetensors headers keep for their metadata.
    #[error("no tensor can be called `{tensor}`: safetensors headers use that name themselves")]
    ReservedName {
        /// The name.
        tensor: String,
    },
    /// A tensor, or all of them, take more bytes than 64 bits count.
    #[error("the output overflows 64 bits at tensor `{tensor}` of shape {shape:?}")]
    SizeOverflow {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Bytes were written beyond a tensor's end.
    #[error("tensor `{tensor}` has {size} bytes; {length} bytes at offset {offset} do not fit")]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// Its size in bytes.
        size: u64,
        /// Where the write begins in the tensor.
        offset: u64,
        /// Bytes of the write.
        length: u64,
    },
    /// A tensor did not get as many bytes as it has.
    #[error("tensor `{tensor}` has {expected} bytes, but {found} were written")]
    WrongByteCount {
        /// The tensor.
        tensor: String,
        /// Its size in bytes.
        expected: u64,
        /// Bytes written.
        found: u64,
    },
    /// A file name with a path in it, or one that the writer keeps for itself.
    #[error("`{name}` cannot be the name of a file in the output")]
    FileName {
        /// The name.
        name: String,
    },
}

impl WriteError {
    /// The error of an operation on `path` that was to write `needed` bytes.
    fn at(path: &Path, needed: u64, error: io::Error) -> WriteError {
        let path = path.to_path_buf();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free = free_bytes(&path).unwrap_or(0);
                WriteError::NoSpace { path, needed, free }
            }
            io::ErrorKind::FileTooLarge => WriteError::TooLarge { path },
            _ => WriteError::Io { path, error },
        }
    }
}

/// Bytes available to this user on the file system of `path`, or of its nearest existing ancestor.
///
/// `None` when that cannot be told, as on file systems that report no size at all.
pub fn free_bytes(path: impl AsRef<Path>) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    if stat.f_blocks == 0 {
        return None;
    }
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Makes the entries of a directory durable.
fn sync_directory(path: &Path) -> Result<(), WriteError> {
    std::fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(|e| WriteError::at(path, 0, e))?;
    crate::abort::abort_point("directory synced");
    Ok(())
}
