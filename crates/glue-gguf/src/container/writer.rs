//! Writing a file whose layout is known before its first value is computed.

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, Metadata, TensorEntry, VERSION, Value, aligned};
use crate::error::GgufError;
use crate::quant::GgmlType;
use glue_tensor::writer::free_bytes;
use glue_tensor::{OutputFile, WriteError};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a file will be: its header, and where each tensor goes.
#[derive(Debug, Clone)]
pub(crate) struct FileLayout {
    header: Vec<u8>,
    entries: Vec<TensorEntry>,
    total: u64,
}

impl FileLayout {
    /// Lays out `tensors` (name, type, shape with the outermost dimension first) in their order.
    ///
    /// # Errors
    /// [`WriteError::SizeOverflow`] beyond 64 bits.
    pub(crate) fn new(metadata: &Metadata, tensors: Vec<(String, GgmlType, Vec<usize>)>) -> Result<Self, GgufError> {
        let mut entries = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        for (name, kind, shape) in tensors {
            let entry = TensorEntry { name, kind, shape, offset };
            let end = offset.checked_add(entry.n_bytes()).and_then(|end| aligned(end, DEFAULT_ALIGNMENT));
            let Some(end) = end else {
                return Err(WriteError::SizeOverflow { tensor: entry.name, shape: entry.shape }.into());
            };
            entries.push(entry);
            offset = end;
        }
        let header = encode_header(metadata, &entries);
        let total = header.len() as u64 + offset;
        Ok(FileLayout { header, entries, total })
    }

    /// Bytes of the file.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total
    }

    /// The tensors with their places.
    pub(crate) fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }
}

fn encode_header(metadata: &Metadata, entries: &[TensorEntry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    let alignment = Value::U32(DEFAULT_ALIGNMENT as u32);
    let mut keys: Vec<(&str, &Value)> = metadata.iter().filter(|&(key, _)| key != ALIGNMENT_KEY).collect();
    keys.push((ALIGNMENT_KEY, &alignment));
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        encode_text(&mut bytes, key);
        bytes.extend(value.type_number().to_le_bytes());
        encode_value(&mut bytes, value);
    }
    for entry in entries {
        encode_text(&mut bytes, &entry.name);
        bytes.extend((entry.shape.len() as u32).to_le_bytes());
        for &size in entry.shape.iter().rev() {
            bytes.extend((size as u64).to_le_bytes());
        }
        bytes.extend(entry.kind.number().to_le_bytes());
        bytes.extend(entry.offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    bytes
}

fn encode_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn encode_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(n) => bytes.extend(n.to_le_bytes()),
        Value::I8(n) => bytes.extend(n.to_le_bytes()),
        Value::U16(n) => bytes.extend(n.to_le_bytes()),
        Value::I16(n) => bytes.extend(n.to_le_bytes()),
        Value::U32(n) => bytes.extend(n.to_le_bytes()),
        Value::I32(n) => bytes.extend(n.to_le_bytes()),
        Value::F32(x) => bytes.extend(x.to_le_bytes()),
        Value::Bool(yes) => bytes.push(u8::from(*yes)),
        Value::String(text) => encode_text(bytes, text),
        Value::U64(n) => bytes.extend(n.to_le_bytes()),
        Value::I64(n) => bytes.extend(n.to_le_bytes()),
        Value::F64(x) => bytes.extend(x.to_le_bytes()),
        Value::Array(values) => {
            // An empty array has the type of texts.
            bytes.extend(values.first().map_or(8, Value::type_number).to_le_bytes());
            bytes.extend((values.len() as u64).to_le_bytes());
            for value in values {
                encode_value(bytes, value);
            }
        }
    }
}

/// Fills a file, tensor after tensor, under a temporary name beside the one wanted.
#[derive(Debug)]
pub struct GgufWriter {
    output: OutputFile,
    layout: FileLayout,
    /// The tensor that is being filled, and how many of its bytes are written.
    at: (usize, u64),
}

impl GgufWriter {
    /// Begins the file at `path`.
    ///
    /// # Errors
    /// [`GgufError::Write`], also when the whole file does not fit on the disk, and for a path that is no regular file:
    /// a header cannot be followed by tensors at their places in a pipe.
    pub(crate) fn create(path: &Path, layout: FileLayout) -> Result<GgufWriter, GgufError> {
        if let Some(free) = free_bytes(path).filter(|&free| free < layout.total) {
            return Err(WriteError::NoSpace { path: path.to_path_buf(), needed: layout.total, free }.into());
        }
        let output = OutputFile::create(path)?;
        let Some(file) = output.file() else {
            return Err(WriteError::Special { path: path.to_path_buf(), found: "a stream" }.into());
        };
        file.set_len(layout.total)
            .and_then(|()| file.write_all_at(&layout.header, 0))
            .map_err(|error| output.failed(error))?;
        Ok(GgufWriter { output, layout, at: (0, 0) })
    }

    /// Writes the next bytes: those of the first tensor, then those of the second, and so on. What lies between two
    /// tensors is left to the writer.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] for bytes beyond the end of a tensor, and what the system says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        while self.layout.entries.get(self.at.0).is_some_and(|entry| entry.n_bytes() == self.at.1) {
            self.at = (self.at.0 + 1, 0);
        }
        let (tensor, offset) = self.at;
        let length = bytes.len() as u64;
        let entry = self.layout.entries.get(tensor).filter(|entry| length <= entry.n_bytes() - offset);
        let Some(entry) = entry else {
            let (tensor, size) =
                self.layout.entries.get(tensor).map(|entry| (entry.name.clone(), entry.n_bytes())).unwrap_or_default();
            return Err(WriteError::OutOfRange { tensor, size, offset, length }.into());
        };
        let place = self.layout.header.len() as u64 + entry.offset + offset;
        if let Some(file) = self.output.file() {
            file.write_all_at(bytes, place).map_err(|error| self.output.failed(error))?;
        }
        self.at.1 += length;
        Ok(())
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`WriteError::WrongByteCount`] when a tensor is not complete, and what the system says.
    pub fn finish(self) -> Result<(), GgufError> {
        let (tensor, found) = self.at;
        let rest = self.layout.entries.iter().enumerate().skip(tensor);
        for (at, entry) in rest {
            let found = if at == tensor { found } else { 0 };
            if entry.n_bytes() != found {
                let (tensor, expected) = (entry.name.clone(), entry.n_bytes());
                return Err(WriteError::WrongByteCount { tensor, expected, found }.into());
            }
        }
        Ok(self.output.commit()?)
    }
}
