//! A checkpoint on disk: one safetensors file, or an index and its shards, memory-mapped.
//!
//! Opening reads headers only. Data is paged in by the system as it is touched, so a checkpoint larger than memory can
//! be streamed. **Hazard of every memory map:** if another process truncates a file while it is mapped, touching the
//! lost part kills this process ([`crate::mapped`] prints an error first), and if it rewrites a file in place, values
//! change underfoot, which [`Checkpoint::check_unchanged`] tells at the end. Checkpoints are therefore replaced by
//! renaming, never rewritten, which is what [`crate::Staging`] does.

use crate::dtype::Dtype;
use crate::files::{self, FileChanged, FileVersion};
use crate::header::{Header, HeaderError, MAX_NAME_BYTES, parse_header, shortened};
use crate::mapped::Mapped;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The name transformers gives an index of shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The name transformers gives a checkpoint in one file.
pub const SINGLE_FILE: &str = "model.safetensors";

/// Why a checkpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing is at the path.
    #[error("{}: no such file or directory", path.display())]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The directory holds no safetensors file.
    #[error("{}: no safetensors file{}", directory.display(), other_format_advice(found))]
    NoSafetensors {
        /// The directory.
        directory: PathBuf,
        /// Weights in another format that are there instead, by file name.
        found: Vec<String>,
    },
    /// The directory holds several candidates and none has the usual name.
    #[error(
        "{}: {} could each be the checkpoint; name one of them instead of the directory",
        directory.display(), candidates.join(", ")
    )]
    Ambiguous {
        /// The directory.
        directory: PathBuf,
        /// File names.
        candidates: Vec<String>,
    },
    /// The system refused an operation on a file.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file breaks a rule of the format.
    #[error("{}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// The rule.
        #[source]
        error: HeaderError,
    },
    /// The index is not the JSON expected.
    #[error("{}: not a safetensors index: {message}", file.display())]
    Index {
        /// The index.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The index names a shard outside its directory.
    #[error("{}: tensor `{tensor}` is mapped to `{shard}`, which is not a file below the index", file.display())]
    ShardPath {
        /// The index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard as named.
        shard: String,
    },
    /// The index names a shard that is not there.
    #[error("{}: shard `{shard}`, which holds {tensors} tensors, is missing", file.display())]
    ShardMissing {
        /// The index.
        file: PathBuf,
        /// The shard.
        shard: String,
        /// Tensors the index maps to it.
        tensors: usize,
    },
    /// The index maps a tensor to a shard that does not hold it.
    #[error("{}: tensor `{tensor}` is mapped to shard `{shard}`, which does not hold it", file.display())]
    TensorNotInShard {
        /// The index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// A shard holds a tensor that the index does not map to it.
    #[error(
        "{}: shard `{shard}` holds tensor `{tensor}`, which the index {}", file.display(),
        mapped_to.as_ref().map_or("does not mention".to_string(), |other| format!("maps to `{other}`"))
    )]
    TensorNotInIndex {
        /// The index.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard that holds it.
        shard: String,
        /// The shard the index names for it, if any: then both hold it.
        mapped_to: Option<String>,
    },
}

fn other_format_advice(found: &[String]) -> String {
    let Some(name) = found.first() else {
        return String::new();
    };
    let how = if name.ends_with(".gguf") {
        "GGUF is not read; use the original checkpoint, or load it with transformers \
         (`from_pretrained(DIR, gguf_file=FILE)`) and `save_pretrained(OUT, safe_serialization=True)`"
    } else {
        "convert it with transformers: `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT, \
         safe_serialization=True)`"
    };
    format!(" (found {}: {how})", found.join(", "))
}

/// What a header says of one tensor, and where its data is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Name, unique in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`] of the file that holds it.
    pub file: usize,
    /// Bytes of that file, counted from its start.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// What a header would say of a tensor that lies in memory; its bytes are counted from its own start.
    pub fn in_memory(name: impl Into<String>, dtype: Dtype, shape: Vec<usize>) -> TensorInfo {
        let elements = shape.iter().fold(1, |n: usize, extent| n.saturating_mul(*extent));
        TensorInfo { name: name.into(), dtype, shape, file: 0, range: 0..elements.saturating_mul(dtype.size()) }
    }

    /// Size of the data in bytes.
    pub fn n_bytes(&self) -> usize {
        self.range.len()
    }

    /// Number of elements; 1 for a scalar.
    pub fn n_elements(&self) -> usize {
        self.n_bytes() / self.dtype.size()
    }
}

/// A tensor's data in place, borrowed from the memory map, or from whoever has it in memory.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    info: &'a TensorInfo,
    data: &'a [u8],
    file: Option<&'a CheckpointFile>,
}

impl<'a> TensorView<'a> {
    /// A tensor of no file: little-endian elements in row-major order, at any alignment.
    ///
    /// # Panics
    /// `data` is not as long as `info` says.
    pub fn in_memory(info: &'a TensorInfo, data: &'a [u8]) -> TensorView<'a> {
        assert_eq!(data.len(), info.n_bytes(), "tensor {} of shape {:?} in memory", info.name, info.shape);
        TensorView { info, data, file: None }
    }

    fn in_file(info: &'a TensorInfo, file: &'a CheckpointFile) -> TensorView<'a> {
        TensorView { info, data: &file.map[info.range.clone()], file: Some(file) }
    }

    /// Name, unique in the checkpoint.
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &'a [usize] {
        &self.info.shape
    }

    /// The header's entry.
    pub fn info(&self) -> &'a TensorInfo {
        self.info
    }

    /// The file that holds it; `None` for a tensor in memory.
    pub fn file(&self) -> Option<&'a CheckpointFile> {
        self.file
    }

    /// The data: little-endian elements in row-major order, at any alignment.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The elements as they lie there; `None` unless they are F32 and begin on a boundary of 4 bytes, and on a
    /// machine that is not little-endian. They may be NaN or infinite.
    pub fn f32s(&self) -> Option<&'a [f32]> {
        let lies_so = self.dtype() == Dtype::F32 && cfg!(target_endian = "little");
        bytemuck::try_cast_slice(self.data()).ok().filter(|_| lies_so)
    }
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// XXH3-128 of a file's content; displayed as 32 lower-case hexadecimal digits, as `xxhsum -H2` prints them.
///
/// It tells versions of a file apart at the speed of memory. It is not cryptographic: it does not prove that nobody
/// made another file with the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub u128);

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> ContentHash {
        ContentHash(xxhash_rust::xxh3::xxh3_128(bytes))
    }

    /// The hash of `bytes`, or `None` once `stop` is true, which is asked for every mebibyte.
    pub fn of_unless(bytes: &[u8], stop: &dyn Fn() -> bool) -> Option<ContentHash> {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for chunk in bytes.chunks(1 << 20) {
            if stop() {
                return None;
            }
            hasher.update(chunk);
        }
        Some(ContentHash(hasher.digest128()))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Files that this process opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// One safetensors file of a checkpoint, mapped.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    version: FileVersion,
    map: Mapped,
    serial: u64,
    metadata: BTreeMap<String, String>,
}

impl CheckpointFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes, header included.
    pub fn n_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Tells it from every other file that this process opened, before or after, the same one included.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Strings under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file as it was when it was opened.
    pub fn version(&self) -> &FileVersion {
        &self.version
    }

    /// Hash of the whole file, header included. Reads all of it.
    pub fn content_hash(&self) -> ContentHash {
        ContentHash::of(&self.map)
    }

    /// The same, or `None` once `stop` is true, which is asked for every mebibyte.
    pub fn content_hash_unless(&self, stop: &dyn Fn() -> bool) -> Option<ContentHash> {
        ContentHash::of_unless(&self.map, stop)
    }

    fn open(path: PathBuf) -> Result<(CheckpointFile, Header), CheckpointError> {
        let at = |error| CheckpointError::Io { path: path.clone(), error };
        let file = files::open(&path).map_err(at)?;
        // The map keeps the file alive, so that no other one can take its number while the version is in use.
        let version = FileVersion::of(&path, &file.metadata().map_err(at)?);
        let map = Mapped::new(&file, &path).map_err(at)?;
        match parse_header(&map, map.len() as u64) {
            Ok(mut header) => {
                let metadata = std::mem::take(&mut header.metadata);
                let serial = OPENED.fetch_add(1, Ordering::Relaxed);
                Ok((CheckpointFile { path, version, map, serial, metadata }, header))
            }
            Err(error) => Err(CheckpointError::Header { file: path, error }),
        }
    }
}

/// The tensors of one model, readable from any thread.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    index: Option<FileVersion>,
    files: Vec<CheckpointFile>,
    tensors: Vec<TensorInfo>,
}

impl Checkpoint {
    /// Opens the checkpoint at `path`: a directory, a `.safetensors` file, or an index (`.json`).
    ///
    /// In a directory, the first of these that exists is read: `model.safetensors.index.json`, `model.safetensors`, the
    /// only other index, the only other safetensors file. Reads headers only.
    ///
    /// # Errors
    /// [`CheckpointError`]: nothing usable there, a file that breaks the format, or an index that disagrees with its
    /// shards in any name.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        let path = path.as_ref();
        let io_error = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => CheckpointError::NotFound { path: path.to_path_buf() },
            _ => CheckpointError::Io { path: path.to_path_buf(), error },
        };
        let entry = if std::fs::metadata(path).map_err(io_error)?.is_dir() {
            find_in_directory(path)?
        } else {
            path.to_path_buf()
        };
        let (index, files, mut tensors) = if entry.extension().is_some_and(|extension| extension == "json") {
            let (index, files, tensors) = open_index(&entry)?;
            (Some(index), files, tensors)
        } else {
            let (file, header) = CheckpointFile::open(entry)?;
            (None, vec![file], infos(header, 0).collect())
        };
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Checkpoint { path: path.to_path_buf(), index, files, tensors })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> &[CheckpointFile] {
        &self.files
    }

    /// Checks that all files are still those that were opened, and that nobody has written to them since: what was read
    /// from them in between, a hash included, is then of one and the same content.
    ///
    /// # Errors
    /// [`FileChanged`] with the first file that is not.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.index.iter().chain(self.files.iter().map(CheckpointFile::version)).try_for_each(FileVersion::check)
    }

    /// Hash of all files, headers included. Reads all of them.
    pub fn content_hash(&self) -> ContentHash {
        let hashes: Vec<String> = self.files.iter().map(|file| file.content_hash().to_string()).collect();
        ContentHash::of(hashes.concat().as_bytes())
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// All tensors with their data, in the order of their names.
    pub fn views(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|info| self.view(info))
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.info(name).map(|info| self.view(info))
    }

    /// What the header says of the tensor called `name`.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.tensors.binary_search_by(|info| info.name.as_str().cmp(name));
        found.ok().map(|i| &self.tensors[i])
    }

    /// Bytes of tensor data over all files.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|info| info.n_bytes() as u64).sum()
    }

    /// Elements of all tensors that can be merged ([`Dtype::is_float`]).
    pub fn n_parameters(&self) -> u64 {
        self.tensors.iter().filter(|info| info.dtype.is_float()).map(|info| info.n_elements() as u64).sum()
    }

    fn view<'a>(&'a self, info: &'a TensorInfo) -> TensorView<'a> {
        TensorView::in_file(info, &self.files[info.file])
    }
}

fn infos(header: Header, file: usize) -> impl Iterator<Item = TensorInfo> {
    header.tensors.into_iter().map(move |tensor| TensorInfo {
        name: tensor.name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        file,
        // The header was checked against the length of a map, so every offset fits in usize.
        range: (header.data_start + tensor.range.start) as usize..(header.data_start + tensor.range.end) as usize,
    })
}

/// The index or the single file that a directory's checkpoint is read from.
fn find_in_directory(directory: &Path) -> Result<PathBuf, CheckpointError> {
    for usual in [INDEX_FILE, SINGLE_FILE] {
        let path = directory.join(usual);
        if path.is_file() {
            return Ok(path);
        }
    }
    let io_error = |error| CheckpointError::Io { path: directory.to_path_buf(), error };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_error)? {
        names.push(entry.map_err(io_error)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let ending = |suffixes: &[&str]| -> Vec<String> {
        names.iter().filter(|name| suffixes.iter().any(|suffix| name.ends_with(suffix))).cloned().collect()
    };
    let mut candidates = ending(&[".safetensors.index.json"]);
    if candidates.is_empty() {
        candidates = ending(&[".safetensors"]);
    }
    match candidates.as_slice() {
        [only] => Ok(directory.join(only)),
        [] => {
            let mut found = ending(&[".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"]);
            found.retain(|name| !["training_args.bin", "optimizer.pt", "scheduler.pt"].contains(&name.as_str()));
            Err(CheckpointError::NoSafetensors { directory: directory.to_path_buf(), found })
        }
        _ => Err(CheckpointError::Ambiguous { directory: directory.to_path_buf(), candidates }),
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens every shard of an index and checks that the two agree on every name.
fn open_index(path: &Path) -> Result<(FileVersion, Vec<CheckpointFile>, Vec<TensorInfo>), CheckpointError> {
    let io_error = |error| CheckpointError::Io { path: path.to_path_buf(), error };
    let malformed = |message| CheckpointError::Index { file: path.to_path_buf(), message };
    let (bytes, version) = files::read_version(path, files::CONFIG_BYTES).map_err(io_error)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| malformed(shortened(&e.to_string())))?;
    let mut names = index.weight_map.iter().flat_map(|(tensor, shard)| [tensor, shard]);
    if let Some(name) = names.find(|name| name.len() > MAX_NAME_BYTES) {
        let (name, length) = (shortened(name), name.len());
        return Err(malformed(format!(
            "`{name}` has {length} bytes, more than the {MAX_NAME_BYTES} allowed in a name"
        )));
    }

    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for (tensor, shard) in &index.weight_map {
        let below = |c| matches!(c, Component::Normal(_) | Component::CurDir);
        if shard.is_empty() || !Path::new(shard).components().all(below) {
            let (tensor, shard) = (tensor.clone(), shard.clone());
            return Err(CheckpointError::ShardPath { file: path.to_path_buf(), tensor, shard });
        }
        *expected.entry(shard).or_default() += 1;
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut files = Vec::with_capacity(expected.len());
    let mut tensors: Vec<TensorInfo> = Vec::with_capacity(index.weight_map.len());
    for (&shard, &count) in &expected {
        let (file, header) = match CheckpointFile::open(directory.join(shard)) {
            Err(CheckpointError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                let shard = shard.to_string();
                return Err(CheckpointError::ShardMissing { file: path.to_path_buf(), shard, tensors: count });
            }
            opened => opened?,
        };
        for info in infos(header, files.len()) {
            let mapped_to = index.weight_map.get(&info.name);
            if mapped_to.map(String::as_str) != Some(shard) {
                return Err(CheckpointError::TensorNotInIndex {
                    file: path.to_path_buf(),
                    tensor: info.name,
                    shard: shard.to_string(),
                    mapped_to: mapped_to.cloned(),
                });
            }
            tensors.push(info);
        }
        files.push(file);
    }
    if tensors.len() < index.weight_map.len() {
        let found: HashSet<&str> = tensors.iter().map(|info| info.name.as_str()).collect();
        if let Some((tensor, shard)) = index.weight_map.iter().find(|(name, _)| !found.contains(name.as_str())) {
            let (tensor, shard) = (tensor.clone(), shard.clone());
            return Err(CheckpointError::TensorNotInShard { file: path.to_path_buf(), tensor, shard });
        }
    }
    Ok((version, files, tensors))
}
