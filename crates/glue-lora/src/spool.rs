//! Factors on the disk until all ranks are known, and with them the layout of the adapter.

use crate::error::LoraError;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are copied at once.
const STEP: u64 = 4 << 20;

/// A file that threads append to.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    file: File,
    end: AtomicU64,
}

impl Spool {
    /// A new file in `directory`.
    pub(crate) fn create(directory: &Path) -> Result<Spool, LoraError> {
        let path = directory.join("factors.partial");
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => Ok(Spool { path, file, end: AtomicU64::new(0) }),
            Err(error) => Err(LoraError::Io { path, error }),
        }
    }

    fn failed(&self, error: io::Error) -> LoraError {
        LoraError::Io { path: self.path.clone(), error }
    }

    /// Appends `bytes` and says where they are.
    pub(crate) fn append(&self, bytes: &[u8]) -> Result<Range<u64>, LoraError> {
        let start = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(bytes, start).map_err(|error| self.failed(error))?;
        Ok(start..start + bytes.len() as u64)
    }

    /// Hands the bytes in `range` to `take`, part by part, with their offset in the range.
    pub(crate) fn copy(
        &self,
        range: &Range<u64>,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), LoraError>,
    ) -> Result<(), LoraError> {
        let mut buffer = vec![0; STEP.min(range.end - range.start) as usize];
        let mut at = range.start;
        while at < range.end {
            let part = &mut buffer[..STEP.min(range.end - at) as usize];
            self.file.read_exact_at(part, at).map_err(|error| self.failed(error))?;
            take(at - range.start, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Removes the file.
    pub(crate) fn remove(self) -> Result<(), LoraError> {
        std::fs::remove_file(&self.path).map_err(|error| self.failed(error))
    }
}
