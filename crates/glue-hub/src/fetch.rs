//! Fetching of a repository: planned from its listing, then done.

use crate::client::{HubClient, Repository};
use crate::error::HubError;
use crate::listing::{Listing, RemoteFile, is_commit};
use crate::select::Selection;
use crate::store::Store;
use crate::transfer::Transfers;
use glue_progress::{Progress, Unit};
use glue_tensor::hub::{HubCache, HubName, RepositoryKind};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Files that are received at the same time.
const AT_ONCE: usize = 4;
/// The branch on which the hub keeps a dataset's tables where its own files are of another form.
const CONVERTED: &str = "refs/convert/parquet";

/// What is to be fetched.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    kind: RepositoryKind,
    id: String,
    revision: Option<String>,
    selection: Selection,
}

impl FetchRequest {
    /// A model or an adapter, `ORG/NAME` or `ORG/NAME@REVISION`. Without a revision, the branch `main`.
    ///
    /// # Errors
    /// [`HubError::Name`].
    pub fn model(name: &str) -> Result<FetchRequest, HubError> {
        FetchRequest::new(RepositoryKind::Model, name)
    }

    /// A dataset. Without a revision, the branch `main`, or where that holds no tables, the one on which the hub keeps
    /// them as Parquet files.
    ///
    /// # Errors
    /// [`HubError::Name`].
    pub fn dataset(name: &str) -> Result<FetchRequest, HubError> {
        FetchRequest::new(RepositoryKind::Dataset, name)
    }

    fn new(kind: RepositoryKind, name: &str) -> Result<FetchRequest, HubError> {
        let parsed = HubName::parse(name).ok_or_else(|| HubError::Name { name: name.to_string() })?;
        let revision = parsed.revision.map(String::from);
        Ok(FetchRequest { kind, id: parsed.id.to_string(), revision, selection: Selection::default() })
    }

    /// Other files than the usual ones.
    pub fn select(self, selection: Selection) -> FetchRequest {
        FetchRequest { selection, ..self }
    }
}

/// A repository that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// The directory of its files.
    pub snapshot: PathBuf,
    /// Bytes that were received now.
    pub received: u64,
}

/// What fetching a repository will do.
#[derive(Debug)]
pub struct FetchPlan<'a> {
    client: &'a HubClient,
    store: Store,
    request: FetchRequest,
    revision: String,
    commit: String,
    files: Vec<RemoteFile>,
}

impl<'a> FetchPlan<'a> {
    /// Asks the hub for the commit and its files, and looks which of them are in the cache. Writes nothing.
    ///
    /// # Errors
    /// What [`HubClient::listing`] met; [`HubError::NoFiles`] if none of the files is wanted.
    pub fn new(
        client: &'a HubClient,
        cache: &HubCache,
        request: FetchRequest,
        progress: &dyn Progress,
    ) -> Result<FetchPlan<'a>, HubError> {
        let kind = request.kind;
        let mut revision = request.revision.clone().unwrap_or_else(|| "main".to_string());
        let mut listing = client.listing(kind, &request.id, &revision, progress)?;
        if kind == RepositoryKind::Dataset && request.revision.is_none() && !Selection::has_tables(&listing.files) {
            revision = CONVERTED.to_string();
            listing = client.listing(kind, &request.id, &revision, progress)?;
        }
        let Listing { commit, files } = listing;
        let name = || HubError::Name { name: request.id.clone() };
        let store = Store::new(cache.repository(kind, &request.id).ok_or_else(name)?);
        let mut files = request.selection.of(kind, &files).map_err(|message| HubError::NoFiles {
            repository: request.id.clone(),
            commit: commit.clone(),
            message,
        })?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(FetchPlan { client, store, request, revision, commit, files })
    }

    /// `ORG/NAME`.
    pub fn repository(&self) -> &str {
        &self.request.id
    }

    /// Model or dataset.
    pub fn kind(&self) -> RepositoryKind {
        self.request.kind
    }

    /// The branch, tag or commit that was asked for.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The commit that it is.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The files that are wanted, sorted by path.
    pub fn files(&self) -> &[RemoteFile] {
        &self.files
    }

    /// Where they will be.
    pub fn snapshot(&self) -> PathBuf {
        self.store.snapshot(&self.commit)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Bytes that are neither in the cache nor received by an earlier attempt.
    pub fn bytes_to_download(&self) -> u64 {
        self.missing().iter().map(|file| file.size - self.store.received(file)).sum()
    }

    /// Files that are not here, each content once, the largest first.
    fn missing(&self) -> Vec<&RemoteFile> {
        let mut seen = HashSet::new();
        let mut missing: Vec<&RemoteFile> =
            self.files.iter().filter(|file| !self.store.has(file) && seen.insert(&file.hash)).collect();
        missing.sort_by_key(|file| Reverse(file.size));
        missing
    }

    /// Downloads what is missing, four files at once, and makes the snapshot appear.
    ///
    /// # Errors
    /// [`HubError::Space`] before anything is written; [`HubError::Checksum`]; what the connection or the system met.
    /// What was received until then is kept, and the next attempt resumes from there.
    pub fn run(&self, progress: &dyn Progress) -> Result<Fetched, HubError> {
        self.store.create()?;
        let missing = self.missing();
        let received = self.bytes_to_download();
        if !missing.is_empty() {
            self.store.check_space(received)?;
            progress.begin(&format!("downloading {}", self.request.id), Unit::Bytes, Some(received));
            self.transfer(&missing, progress)?;
        }
        let snapshot = self.store.link(&self.commit, &self.files.iter().collect::<Vec<_>>())?;
        if !is_commit(&self.revision) {
            self.store.set_reference(&self.revision, &self.commit)?;
        }
        Ok(Fetched { snapshot, received })
    }

    fn transfer(&self, missing: &[&RemoteFile], progress: &dyn Progress) -> Result<(), HubError> {
        let (next, failed, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let stop = || failed.load(Ordering::Relaxed) || progress.is_cancelled();
        let transfers = Transfers {
            client: self.client,
            store: &self.store,
            repository: Repository { kind: self.request.kind, id: &self.request.id },
            commit: &self.commit,
            progress,
            stop: &stop,
        };
        let work = || {
            while let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !stop()) {
                progress.item(&file.path);
                if let Err(error) = transfers.receive(file) {
                    let mut first = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    // The others stop because of the first failure.
                    if !failed.swap(true, Ordering::Relaxed) {
                        *first = Some(error);
                    }
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(missing.len()) {
                scope.spawn(work);
            }
        });
        match failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(error) => Err(error),
            None if progress.is_cancelled() => Err(HubError::Cancelled),
            None => Ok(()),
        }
    }
}
