//! The files of a checkpoint while they are being filled.

use super::{Layout, Staging, WriteError, free_bytes, sync_directory};
use crate::abort::abort_point;
use crate::header::encode_header;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

/// Until [`CheckpointWriter::finish`], files end in this, so that no tool takes them for a checkpoint.
const UNFINISHED: &str = ".partial";

/// Fills the files of a [`Layout`] by positional writes, from any number of threads.
#[derive(Debug)]
pub struct CheckpointWriter {
    directory: PathBuf,
    layout: Layout,
    files: Vec<OpenShard>,
    written: Vec<AtomicU64>,
    total: AtomicU64,
    write_back: Option<WriteBack>,
}

#[derive(Debug)]
struct OpenShard {
    path: PathBuf,
    file: Arc<File>,
    data_start: u64,
}

/// Bytes after which the system is asked to begin writing them to disk.
const WRITE_BACK: u64 = 64 << 20;

/// A thread that brings files to disk while they are still being filled, so that making them durable at the end takes
/// little time.
#[derive(Debug)]
struct WriteBack {
    files: Sender<Arc<File>>,
    thread: JoinHandle<()>,
}

impl WriteBack {
    fn start() -> io::Result<WriteBack> {
        let (files, queue) = mpsc::channel::<Arc<File>>();
        let thread = std::thread::Builder::new().name("write-back".into()).spawn(move || {
            while let Ok(mut file) = queue.recv() {
                // What has come in meanwhile is one request.
                while let Ok(next) = queue.try_recv() {
                    if !Arc::ptr_eq(&file, &next) {
                        // An error comes again when the file is made durable at the end, and is reported there.
                        let _ = file.sync_data();
                    }
                    file = next;
                }
                let _ = file.sync_data();
            }
        })?;
        Ok(WriteBack { files, thread })
    }
}

impl CheckpointWriter {
    /// Creates the files in `staging`, reserves their space on disk, and writes their headers.
    ///
    /// `metadata` goes into every header; `format` is `pt` unless given, which transformers asks for.
    ///
    /// # Errors
    /// [`WriteError::NoSpace`] when the whole checkpoint does not fit on the disk, [`WriteError::Io`].
    pub fn create(
        staging: &Staging,
        layout: Layout,
        metadata: &BTreeMap<String, String>,
    ) -> Result<CheckpointWriter, WriteError> {
        let directory = staging.path().to_path_buf();
        let mut metadata = metadata.clone();
        metadata.entry("format".to_string()).or_insert_with(|| "pt".to_string());
        let headers: Vec<Vec<u8>> = layout
            .shards()
            .iter()
            .map(|shard| {
                let entries = shard.tensors.iter().map(|&i| {
                    let spec = &layout.tensors()[i];
                    let range = layout.placements()[i].range.clone();
                    (spec.name.as_str(), spec.dtype, spec.shape.as_slice(), range)
                });
                encode_header(entries, &metadata)
            })
            .collect();
        let needed = layout.total_bytes() + headers.iter().map(|header| header.len() as u64).sum::<u64>();
        if let Some(free) = free_bytes(&directory).filter(|&free| free < needed) {
            return Err(WriteError::NoSpace { path: staging.out_dir().to_path_buf(), needed, free });
        }
        let mut files = Vec::with_capacity(headers.len());
        for (shard, header) in layout.shards().iter().zip(&headers) {
            let path = directory.join(format!("{}{UNFINISHED}", shard.name));
            let at = |e| WriteError::at(&path, needed, e);
            let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(at)?;
            let data_start = header.len() as u64;
            reserve(&file, data_start + shard.n_bytes).map_err(at)?;
            file.write_all_at(header, 0).map_err(at)?;
            abort_point("checkpoint file begun");
            files.push(OpenShard { path, file: Arc::new(file), data_start });
        }
        let written = layout.tensors().iter().map(|_| AtomicU64::new(0)).collect();
        // Without the thread, all is written at the end.
        let write_back = if needed > 2 * WRITE_BACK { WriteBack::start().ok() } else { None };
        Ok(CheckpointWriter { directory, layout, files, written, total: AtomicU64::new(0), write_back })
    }

    /// The layout being filled.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes `bytes` into tensor `tensor` (its index in the layout), `offset` bytes from the tensor's start.
    ///
    /// Every byte must be written once: [`CheckpointWriter::finish`] counts them.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] when they do not fit in the tensor, [`WriteError::NoSpace`], [`WriteError::Io`].
    ///
    /// # Panics
    /// When `tensor` is not an index of the layout.
    pub fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let place = &self.layout.placements()[tensor];
        let size = place.range.end - place.range.start;
        let length = bytes.len() as u64;
        if offset > size || length > size - offset {
            let tensor = self.layout.tensors()[tensor].name.clone();
            return Err(WriteError::OutOfRange { tensor, size, offset, length });
        }
        let shard = &self.files[place.shard];
        let at = shard.data_start + place.range.start + offset;
        shard.file.write_all_at(bytes, at).map_err(|e| WriteError::at(&shard.path, length, e))?;
        self.written[tensor].fetch_add(length, Ordering::Relaxed);
        abort_point("checkpoint bytes written");
        let before = self.total.fetch_add(length, Ordering::Relaxed);
        if let Some(write_back) = &self.write_back
            && before / WRITE_BACK != (before + length) / WRITE_BACK
        {
            // The thread ends only when this sender is dropped.
            let _ = write_back.files.send(Arc::clone(&shard.file));
        }
        Ok(())
    }

    /// Makes the files durable, writes the index, and gives every file its final name.
    ///
    /// # Errors
    /// [`WriteError::WrongByteCount`] for a tensor that got fewer or more bytes than it has, [`WriteError::NoSpace`],
    /// [`WriteError::Io`].
    pub fn finish(mut self) -> Result<(), WriteError> {
        for ((spec, place), written) in self.layout.tensors().iter().zip(self.layout.placements()).zip(&self.written) {
            let (expected, found) = (place.range.end - place.range.start, written.load(Ordering::Relaxed));
            if found != expected {
                return Err(WriteError::WrongByteCount { tensor: spec.name.clone(), expected, found });
            }
        }
        if let Some(WriteBack { files, thread }) = self.write_back.take() {
            drop(files);
            // It has nothing to report; were it gone, the files are made durable here all the same.
            let _ = thread.join();
        }
        for (shard, open) in self.layout.shards().iter().zip(&self.files) {
            open.file.sync_all().map_err(|e| WriteError::at(&open.path, shard.n_bytes, e))?;
            abort_point("checkpoint file synced");
        }
        if let Some((name, bytes)) = self.layout.index() {
            super::output::write_durably(&self.directory.join(name), &bytes)?;
        }
        for (shard, open) in self.layout.shards().iter().zip(&self.files) {
            rename(&open.path, &self.directory.join(&shard.name))?;
            abort_point("checkpoint file renamed");
        }
        sync_directory(&self.directory)
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), WriteError> {
    fs::rename(from, to).map_err(|e| WriteError::at(to, 0, e))
}

/// Gives `file` its final length, with blocks on disk behind it where the file system can do that.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, length)) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(length)
}
