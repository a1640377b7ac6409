//! One file: received in as many pieces as it takes, checked, and given its name.
//!
//! What was received stays in `blobs/HASH.glue.incomplete`, which is locked while it grows. Where a file system does
//! not keep locks, two processes write the same bytes to the same places, for the name is the hash of the content:
//! neither harms the other.

use crate::client::{HubClient, Repository, TRIES, network};
use crate::error::HubError;
use crate::listing::{ContentHasher, RemoteFile};
use crate::store::{Store, sync};
use glue_progress::Progress;
use glue_tensor::abort_point;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Bytes that are received at a time.
const PIECE: usize = 1 << 18;

/// What transfers of a repository at a commit have in common.
#[derive(Clone, Copy)]
pub(crate) struct Transfers<'a> {
    pub(crate) client: &'a HubClient,
    pub(crate) store: &'a Store,
    pub(crate) repository: Repository<'a>,
    pub(crate) commit: &'a str,
    pub(crate) progress: &'a dyn Progress,
    /// Whether to give up: cancelled, or another transfer failed.
    pub(crate) stop: &'a (dyn Fn() -> bool + Sync),
}

impl Transfers<'_> {
    /// Makes the content of `file` be in the store.
    pub(crate) fn receive(&self, file: &RemoteFile) -> Result<(), HubError> {
        let Some(partial) = self.open(file)? else { return Ok(()) };
        let path = self.store.partial(&file.hash);
        let resumed = partial.metadata().map_err(HubError::io(&path))?.len() > 0;
        let mut found = self.fill(file, &partial, &path)?;
        if found != file.hash.as_str() && resumed {
            // What an earlier attempt left was not the beginning of this file.
            self.progress.message(&format!("{} is downloaded again: what was there of it was damaged", file.path));
            self.progress.extend(file.size);
            partial.set_len(0).map_err(HubError::io(&path))?;
            found = self.fill(file, &partial, &path)?;
        }
        if found != file.hash.as_str() {
            fs::remove_file(&path).map_err(HubError::io(&path))?;
            let (file, expected) = (file.path.clone(), file.hash.to_string());
            return Err(HubError::Checksum { file, repository: self.repository.id.to_string(), expected, found });
        }
        partial.sync_all().map_err(HubError::io(&path))?;
        abort_point("before a download gets its name");
        let blob = self.store.blob(&file.hash);
        fs::rename(&path, &blob).map_err(HubError::io(&blob))?;
        sync(blob.parent().unwrap_or(&blob))
    }

    /// What was received of `file`, locked; `None` once all of it is here, for which it waits if another process is
    /// about it.
    fn open(&self, file: &RemoteFile) -> Result<Option<File>, HubError> {
        let path = self.store.partial(&file.hash);
        let mut waits = false;
        while !self.store.has(file) {
            if (self.stop)() {
                return Err(HubError::Cancelled);
            }
            let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let opened = options.map_err(HubError::io(&path))?;
            match opened.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    if !waits {
                        waits = true;
                        self.progress.message(&format!("another process is downloading {}", file.path));
                    }
                    sleep(Duration::from_millis(200));
                }
                // Without locks there is no harm, either.
                Ok(()) | Err(TryLockError::Error(_)) => {
                    // Between opening and locking, another process may have given it its name.
                    let same =
                        |named: fs::Metadata, own: fs::Metadata| (named.dev(), named.ino()) == (own.dev(), own.ino());
                    let named = fs::metadata(&path).and_then(|named| Ok(same(named, opened.metadata()?)));
                    if named.unwrap_or(false) {
                        return Ok(Some(opened));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Receives what is missing. Returns the hash of the whole.
    fn fill(&self, file: &RemoteFile, partial: &File, path: &Path) -> Result<String, HubError> {
        let mut hasher = file.hash.hasher(file.size);
        let mut buffer = vec![0; PIECE];
        let mut received = hash_beginning(file, partial, &mut hasher, &mut buffer, self.stop).map_err(|error| {
            if (self.stop)() { HubError::Cancelled } else { HubError::Io { path: path.to_path_buf(), error } }
        })?;
        // Bytes of a longer file than this one is.
        partial.set_len(received).map_err(HubError::io(path))?;
        let mut failures = 0;
        while received < file.size {
            let before = received;
            let end = self.piece(file, partial, path, &mut received, &mut hasher, &mut buffer);
            failures = if received > before { 0 } else { failures + 1 };
            match end {
                Err(error) if error.is_transient() && failures < TRIES => {
                    self.client.wait(failures, &error, self.progress, self.stop)?;
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        Ok(hasher.finish())
    }

    /// Receives until the connection ends.
    fn piece(
        &self,
        file: &RemoteFile,
        partial: &File,
        path: &Path,
        received: &mut u64,
        hasher: &mut ContentHasher,
        buffer: &mut [u8],
    ) -> Result<(), HubError> {
        let (start, response) = self.client.content(self.repository, self.commit, file, *received)?;
        if start != *received {
            // The hub sends the whole.
            self.progress.extend(*received);
            (*received, *hasher) = (0, file.hash.hasher(file.size));
        }
        let host = &self.client.endpoint().origin().host;
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        while *received < file.size {
            if (self.stop)() {
                return Err(HubError::Cancelled);
            }
            let n = body.read(buffer).map_err(|error| network(host, error.into()))?;
            if n == 0 {
                let early = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended early");
                return Err(network(host, early.into()));
            }
            let bytes = &buffer[..n.min(usize::try_from(file.size - *received).unwrap_or(n))];
            partial.write_all_at(bytes, *received).map_err(HubError::io(path))?;
            hasher.update(bytes);
            *received += bytes.len() as u64;
            self.progress.advance(bytes.len() as u64);
        }
        Ok(())
    }
}

/// Hashes what an earlier attempt received, and returns its length.
fn hash_beginning(
    file: &RemoteFile,
    partial: &File,
    hasher: &mut ContentHasher,
    buffer: &mut [u8],
    stop: &dyn Fn() -> bool,
) -> io::Result<u64> {
    let mut received = 0;
    while received < file.size {
        if stop() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = usize::try_from(file.size - received).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = partial.read_at(&mut buffer[..most], received)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        received += n as u64;
    }
    Ok(received)
}
