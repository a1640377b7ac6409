//! Reading a file that somebody else wrote: nothing in the header is believed before it is checked.

use super::value::ARRAY;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, Metadata, TensorEntry, VERSION, Value, aligned};
use crate::error::GgufError;
use crate::quant::GgmlType;
use glue_tensor::{FileVersion, files};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that header, keys and infos may take together.
const MAX_HEADER_BYTES: u64 = 256 << 20;
/// Keys of a file.
const MAX_KEYS: u64 = 100_000;
/// Tensors of a file.
const MAX_TENSORS: u64 = 1_000_000;
/// Values of all arrays together: more than tokens, scores, kinds and merges of the largest vocabulary there is.
const MAX_ARRAY_VALUES: u64 = 4 << 20;
/// Bytes of a name.
const MAX_NAME_BYTES: u64 = 1024;
/// Bytes of a text.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// A GGUF file, its header read and checked, its tensors still on disk.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    version: FileVersion,
    metadata: Metadata,
    tensors: Vec<TensorEntry>,
    index: HashMap<String, usize>,
    data_start: u64,
}

impl GgufFile {
    /// Opens the file at `path` and checks its header: limits on all counts and lengths, known types, and tensors that
    /// lie within the file and do not overlap.
    ///
    /// # Errors
    /// [`GgufError::Io`], and [`GgufError::Malformed`] with the key or tensor that is wrong.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile, GgufError> {
        let path = path.as_ref().to_path_buf();
        let io = |error| GgufError::Io { path: path.clone(), error };
        let file = files::open(&path).map_err(io)?;
        let system = file.metadata().map_err(io)?;
        let version = FileVersion::of(&path, &system);
        let mut header = Header {
            reader: BufReader::new(&file),
            position: 0,
            file_bytes: system.len(),
            array_values: MAX_ARRAY_VALUES,
        };
        let read = header.read();
        let (metadata, tensors, data_start) = read.map_err(|fault| match fault {
            Fault::Io(error) => GgufError::Io { path: path.clone(), error },
            Fault::Malformed(message) => GgufError::Malformed { path: path.clone(), message },
        })?;
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(GgufFile { path, file, version, metadata, tensors, index, data_start })
    }

    /// The path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.index.get(name).map(|&at| &self.tensors[at])
    }

    /// Reads `n` values of `tensor` from value `first` on as `f32` into `out`, which is emptied before.
    ///
    /// # Errors
    /// [`GgufError::Tensor`] unless both are whole blocks of its type within the tensor; [`GgufError::Io`].
    pub fn read(&self, tensor: &TensorEntry, first: usize, n: usize, out: &mut Vec<f32>) -> Result<(), GgufError> {
        let block = tensor.kind.block_elements();
        let within = first.checked_add(n).is_some_and(|end| end <= tensor.n_elements());
        if !within || !first.is_multiple_of(block) || !n.is_multiple_of(block) {
            let message = format!("values {first} to {first} + {n} are no whole blocks of {block} within it");
            return Err(GgufError::Tensor { path: self.path.clone(), tensor: tensor.name.clone(), message });
        }
        let mut bytes = vec![0; tensor.kind.bytes(n) as usize];
        let at = self.data_start + tensor.offset + tensor.kind.bytes(first);
        self.file.read_exact_at(&mut bytes, at).map_err(|error| GgufError::Io { path: self.path.clone(), error })?;
        tensor
            .kind
            .decode(&bytes, n, out)
            .map_err(|message| GgufError::Quantise { tensor: tensor.name.clone(), message })
    }

    /// The same for the tensor called `name`.
    pub(crate) fn read_named(&self, name: &str, first: usize, n: usize, out: &mut Vec<f32>) -> Result<(), GgufError> {
        let Some(tensor) = self.tensor(name) else {
            let (path, tensor) = (self.path.clone(), name.to_string());
            return Err(GgufError::Tensor { path, tensor, message: "it is not there".to_string() });
        };
        self.read(tensor, first, n, out)
    }

    /// Checks that the file is still the one that was opened.
    ///
    /// # Errors
    /// [`GgufError::Changed`].
    pub fn check_unchanged(&self) -> Result<(), GgufError> {
        Ok(self.version.check()?)
    }
}

enum Fault {
    Io(std::io::Error),
    Malformed(String),
}

type Parsed<T> = Result<T, Fault>;

fn malformed<T>(message: impl Into<String>) -> Parsed<T> {
    Err(Fault::Malformed(message.into()))
}

struct Header<'a> {
    reader: BufReader<&'a File>,
    position: u64,
    file_bytes: u64,
    /// Values that arrays may still have.
    array_values: u64,
}

impl Header<'_> {
    fn read(&mut self) -> Parsed<(Metadata, Vec<TensorEntry>, u64)> {
        if self.file_bytes < 24 || self.bytes::<4>("the header")? != MAGIC {
            return malformed("not a GGUF file: it does not begin with a header that says GGUF");
        }
        let version = self.u32("the version")?;
        match version {
            2 | VERSION => {}
            _ if (1..=VERSION).contains(&version.swap_bytes()) => {
                return malformed("written for big-endian machines, which is not supported");
            }
            _ => return malformed(format!("GGUF version {version}, where 2 and {VERSION} can be read")),
        }
        let n_tensors = self.count("tensors", MAX_TENSORS)?;
        let n_keys = self.count("keys", MAX_KEYS)?;
        let mut metadata = Metadata::new();
        for _ in 0..n_keys {
            let key = self.text("a key", MAX_NAME_BYTES)?;
            if metadata.get(&key).is_some() {
                return malformed(format!("key `{key}` comes twice"));
            }
            let value = self.value(&key)?;
            metadata.set(key, value);
        }
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some(value) => match value.as_u64() {
                Some(n) if n.is_power_of_two() && (8..=1 << 20).contains(&n) => n,
                _ => return malformed(format!("`{ALIGNMENT_KEY}` is {value:?}, not a power of two from 8 to 1048576")),
            },
        };
        let mut tensors = Vec::new();
        for _ in 0..n_tensors {
            tensors.push(self.entry()?);
        }
        let Some(start) = aligned(self.position, alignment) else { return malformed("its header has no end") };
        self.check_places(&tensors, start, alignment)?;
        Ok((metadata, tensors, start))
    }

    fn check_places(&self, tensors: &[TensorEntry], start: u64, alignment: u64) -> Parsed<()> {
        // A file without tensors need not be padded.
        let available = self.file_bytes.saturating_sub(start);
        let mut order: Vec<&TensorEntry> = tensors.iter().collect();
        order.sort_by_key(|tensor| (tensor.offset, tensor.n_bytes()));
        let mut before: Option<(&str, u64)> = None;
        let mut names = std::collections::HashSet::new();
        for tensor in order {
            let (name, bytes) = (&tensor.name, tensor.n_bytes());
            if !names.insert(name) {
                return malformed(format!("tensor `{name}` comes twice"));
            }
            if !tensor.offset.is_multiple_of(alignment) {
                return malformed(format!(
                    "tensor `{name}` begins at {}, not a multiple of {alignment}",
                    tensor.offset
                ));
            }
            let end = match tensor.offset.checked_add(bytes) {
                Some(end) if end <= available => end,
                _ => {
                    return malformed(format!(
                        "tensor `{name}` has {bytes} bytes at {} of its data, but there are {available}: the file is \
                         truncated",
                        tensor.offset
                    ));
                }
            };
            if let Some((other, other_end)) = before.filter(|&(_, other_end)| other_end > tensor.offset) {
                return malformed(format!(
                    "tensor `{name}` begins at {}, within `{other}`, which ends at {other_end}",
                    tensor.offset
                ));
            }
            before = Some((name, end));
        }
        Ok(())
    }

    fn entry(&mut self) -> Parsed<TensorEntry> {
        let name = self.text("a tensor's name", MAX_NAME_BYTES)?;
        let n_dimensions = self.u32("the dimensions of a tensor")? as usize;
        if !(1..=MAX_DIMENSIONS).contains(&n_dimensions) {
            return malformed(format!("tensor `{name}` has {n_dimensions} dimensions, not 1 to {MAX_DIMENSIONS}"));
        }
        let mut shape = vec![0; n_dimensions];
        let mut n_elements = 1u64;
        for size in shape.iter_mut().rev() {
            let n = self.u64("the shape of a tensor")?;
            // So few values that no product with the bytes of a block overflows.
            n_elements = match n_elements.checked_mul(n) {
                Some(product @ 1..=0xff_ffff_ffff) => product,
                _ => return malformed(format!("tensor `{name}` has a dimension of {n}, or too many values")),
            };
            *size = n as usize;
        }
        let number = self.u32("the type of a tensor")?;
        let Some(kind) = GgmlType::from_number(number) else {
            return malformed(format!("tensor `{name}` has type {number}; known are {}", GgmlType::names()));
        };
        let row = shape[n_dimensions - 1];
        if !row.is_multiple_of(kind.block_elements()) {
            let block = kind.block_elements();
            return malformed(format!(
                "tensor `{name}` has rows of {row} values, no whole blocks of {block} of {kind}"
            ));
        }
        let offset = self.u64("the place of a tensor")?;
        Ok(TensorEntry { name, kind, shape, offset })
    }

    fn value(&mut self, key: &str) -> Parsed<Value> {
        let kind = self.u32(key)?;
        if kind != ARRAY {
            return self.scalar(key, kind);
        }
        let kind = self.u32(key)?;
        if kind == ARRAY {
            return malformed(format!("key `{key}` is an array of arrays, which no model has"));
        }
        let n = self.u64(key)?;
        if n > self.array_values || n > self.remaining() {
            return malformed(format!("key `{key}` is an array of {n} values, more than there is room for"));
        }
        self.array_values -= n;
        (0..n).map(|_| self.scalar(key, kind)).collect::<Parsed<Vec<Value>>>().map(Value::Array)
    }

    fn scalar(&mut self, key: &str, kind: u32) -> Parsed<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.bytes(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.bytes(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes(key)?)),
            4 => Value::U32(self.u32(key)?),
            5 => Value::I32(i32::from_le_bytes(self.bytes(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes(key)?)),
            7 => match self.bytes::<1>(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [n] => return malformed(format!("key `{key}` is a yes or no with the byte {n}")),
            },
            8 => Value::String(self.text(key, MAX_TEXT_BYTES)?),
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(i64::from_le_bytes(self.bytes(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes(key)?)),
            _ => return malformed(format!("key `{key}` has type {kind}, which does not exist")),
        })
    }

    /// Bytes that the header may still have.
    fn remaining(&self) -> u64 {
        self.file_bytes.min(MAX_HEADER_BYTES) - self.position
    }

    fn take(&mut self, n: u64, what: &str) -> Parsed<()> {
        if n > self.remaining() {
            return malformed(format!("it ends within {what}, or its header has more than {MAX_HEADER_BYTES} bytes"));
        }
        self.position += n;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        self.take(N as u64, what)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(Fault::Io)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    fn count(&mut self, what: &str, max: u64) -> Parsed<u64> {
        match self.u64(what)? {
            n if n <= max => Ok(n),
            n => malformed(format!("it claims {n} {what}, and at most {max} can be read")),
        }
    }

    fn text(&mut self, what: &str, max: u64) -> Parsed<String> {
        let n = self.u64(what)?;
        if n > max {
            return malformed(format!("{what} has a text of {n} bytes; at most {max} can be read"));
        }
        self.take(n, what)?;
        let mut bytes = vec![0; n as usize];
        self.reader.read_exact(&mut bytes).map_err(Fault::Io)?;
        String::from_utf8(bytes).or_else(|_| malformed(format!("{what} has a text that is not UTF-8")))
    }
}
