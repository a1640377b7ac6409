//! The header of a safetensors file: read strictly, written canonically.
//!
//! A file is an 8-byte little-endian length, that many bytes of JSON, and the data. The JSON maps each tensor's name to
//! its type, shape and byte range in the data, and may map `__metadata__` to strings.
//!
//! Refused, apart from files of another form: a header beyond the end of the file or above [`MAX_HEADER_BYTES`], a name
//! given twice or longer than [`MAX_NAME_BYTES`], more than [`MAX_DIMENSIONS`], an unknown type, a range that is
//! reversed or disagrees with type and shape, ranges that overlap or leave a hole, data that the ranges do not cover to
//! the last byte, metadata that is not strings.
//!
//! The crate `safetensors` is the reference that the tests compare with. Headers are parsed here for two reasons: it
//! accepts two tensors of one name and keeps the last, and most of its errors name neither the tensor nor the bytes
//! ("invalid shape, data type, or offset for tensor"). Types of less than a byte, which it knows, are refused here.

use crate::dtype::Dtype;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

/// The longest header that is accepted, in bytes of JSON; the same limit as the reference implementation's.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The longest name of a tensor that is accepted, in bytes. Names stand in every message, table and output.
pub const MAX_NAME_BYTES: usize = 1024;

/// Maximum number of dimensions of a tensor; the same limit as PyTorch's.
pub const MAX_DIMENSIONS: usize = 64;

/// The key that is not a tensor.
pub(crate) const METADATA: &str = "__metadata__";

/// The header of one file, checked: every byte of the data belongs to exactly one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Tensors in the order of their data.
    pub tensors: Vec<HeaderTensor>,
    /// Free-form strings under `__metadata__`; empty when absent.
    pub metadata: BTreeMap<String, String>,
    /// Where the data starts, in bytes from the start of the file.
    pub data_start: u64,
}

/// One tensor as a header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderTensor {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Bytes of the data, counted from [`Header::data_start`].
    pub range: Range<u64>,
}

/// The rule that a header breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not even the length of the header fits in the file.
    #[error("the file has {found} bytes; a safetensors file starts with an 8-byte header length")]
    NoLength {
        /// Bytes in the file.
        found: u64,
    },
    /// The header is longer than [`MAX_HEADER_BYTES`].
    #[error("the header claims {length} bytes, more than the {MAX_HEADER_BYTES} allowed; this is no safetensors file")]
    TooLong {
        /// Length claimed.
        length: u64,
    },
    /// The header ends beyond the end of the file.
    #[error("the header claims {length} bytes, but only {available} follow its length: the file is truncated")]
    BeyondFile {
        /// Length claimed.
        length: u64,
        /// Bytes after the length field.
        available: u64,
    },
    /// The header is not UTF-8.
    #[error("the header is not UTF-8 at byte {at}")]
    Utf8 {
        /// First offending byte, counted from the start of the JSON.
        at: usize,
    },
    /// The header is not the JSON expected, or an entry has the wrong form.
    #[error("the header is not valid: {message}")]
    Json {
        /// What the JSON parser says, with line and column.
        message: String,
    },
    /// A name is longer than [`MAX_NAME_BYTES`].
    #[error("the name of tensor `{tensor}` has {length} bytes, more than the {MAX_NAME_BYTES} allowed")]
    NameTooLong {
        /// Its beginning.
        tensor: String,
        /// Its length.
        length: usize,
    },
    /// A shape has more than [`MAX_DIMENSIONS`].
    #[error("tensor `{tensor}` has {found} dimensions, more than the {MAX_DIMENSIONS} allowed")]
    TooManyDimensions {
        /// The tensor.
        tensor: String,
        /// Dimensions.
        found: usize,
    },
    /// Two entries have the same name.
    #[error("tensor `{tensor}` appears twice in the header")]
    DuplicateName {
        /// The name.
        tensor: String,
    },
    /// A type this crate does not know.
    #[error("tensor `{tensor}` has type `{dtype}`, which is not supported")]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// The type's name in the header.
        dtype: String,
    },
    /// The number of bytes does not fit in 64 bits.
    #[error("tensor `{tensor}` of type {dtype} has shape {shape:?}, whose size in bytes overflows")]
    SizeOverflow {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The byte range is reversed.
    #[error("tensor `{tensor}` ends at byte {end} of the data, before it begins at {begin}")]
    ReversedRange {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// The byte range is not as long as type and shape say.
    #[error("tensor `{tensor}` of type {dtype} and shape {shape:?} takes {expected} bytes, but its range has {found}")]
    SizeMismatch {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes by type and shape.
        expected: u64,
        /// Bytes in the range.
        found: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap: one ends at byte {end} of the data, the next begins at {begin}")]
    Overlap {
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins inside it.
        second: String,
        /// Where the first ends.
        end: u64,
        /// Where the second begins.
        begin: u64,
    },
    /// Bytes before a tensor belong to none.
    #[error("{} bytes of the data before tensor `{tensor}`, from byte {from} to {to}, belong to no tensor", to - from)]
    Hole {
        /// The tensor after the hole.
        tensor: String,
        /// First byte of the hole.
        from: u64,
        /// One past its last byte.
        to: u64,
    },
    /// The file ends before its data does.
    #[error(
        "the file is truncated: {missing} bytes are missing ({found} of {expected} bytes of data); the first tensor cut \
         off is `{tensor}`"
    )]
    Truncated {
        /// First tensor that does not lie wholly in the file.
        tensor: String,
        /// Bytes of data by the header.
        expected: u64,
        /// Bytes of data in the file.
        found: u64,
        /// The difference.
        missing: u64,
    },
    /// The file goes on after its data.
    #[error("{extra} bytes follow the last tensor ({found} bytes of data, {expected} by the header)")]
    TrailingBytes {
        /// Bytes of data by the header.
        expected: u64,
        /// Bytes of data in the file.
        found: u64,
        /// The difference.
        extra: u64,
    },
}

/// Reads the header of a file of `file_len` bytes from `prefix`, its first bytes.
///
/// `prefix` must reach to the end of the header; it may be the whole file, of which only the header is touched.
///
/// # Errors
/// The first [`HeaderError`] that applies. A `prefix` that ends inside the header counts as a file that does.
pub fn parse_header(prefix: &[u8], file_len: u64) -> Result<Header, HeaderError> {
    let Some((length, rest)) = prefix.split_first_chunk::<8>() else {
        return Err(HeaderError::NoLength { found: file_len.min(prefix.len() as u64) });
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLong { length });
    }
    let available = file_len.saturating_sub(8).min(rest.len() as u64);
    let json = match rest.get(..length as usize) {
        Some(json) if length <= available => json,
        _ => return Err(HeaderError::BeyondFile { length, available }),
    };
    let json = std::str::from_utf8(json).map_err(|e| HeaderError::Utf8 { at: e.valid_up_to() })?;
    if !json.starts_with('{') {
        return Err(HeaderError::Json { message: "it does not begin with `{`".to_string() });
    }
    let raw: RawHeader =
        serde_json::from_str(json).map_err(|e| HeaderError::Json { message: shortened(&e.to_string()) })?;

    if let Some((name, _)) = raw.entries.iter().find(|(name, _)| name.len() > MAX_NAME_BYTES) {
        return Err(HeaderError::NameTooLong { tensor: shortened(name), length: name.len() });
    }
    let mut names = HashSet::with_capacity(raw.entries.len());
    if let Some((name, _)) = raw.entries.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(HeaderError::DuplicateName { tensor: name.clone() });
    }
    let mut tensors =
        raw.entries.into_iter().map(|(name, entry)| check_entry(name, entry)).collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let data_start = 8 + length;
    check_coverage(&tensors, file_len - data_start)?;
    Ok(Header { tensors, metadata: raw.metadata, data_start })
}

/// `text` as it is, or its beginning and an ellipsis where it is long.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 120;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) if text.len() > 2 * SHOWN => format!("{}…", &text[..end]),
        _ => text.to_string(),
    }
}

fn check_entry(tensor: String, entry: RawEntry) -> Result<HeaderTensor, HeaderError> {
    let RawEntry { dtype, shape, data_offsets: (begin, end) } = entry;
    let Some(dtype) = Dtype::from_safetensors_name(&dtype) else {
        return Err(HeaderError::UnknownDtype { tensor, dtype: shortened(&dtype) });
    };
    if shape.len() > MAX_DIMENSIONS {
        return Err(HeaderError::TooManyDimensions { tensor, found: shape.len() });
    }
    if end < begin {
        return Err(HeaderError::ReversedRange { tensor, begin, end });
    }
    let expected = shape.iter().try_fold(dtype.size() as u64, |size, &extent| size.checked_mul(extent));
    let extents = shape.iter().map(|&extent| usize::try_from(extent).ok()).collect::<Option<Vec<_>>>();
    let (Some(expected), Some(extents)) = (expected, extents) else {
        return Err(HeaderError::SizeOverflow { tensor, dtype, shape });
    };
    let found = end - begin;
    if found != expected {
        return Err(HeaderError::SizeMismatch { tensor, dtype, shape, expected, found });
    }
    Ok(HeaderTensor { name: tensor, dtype, shape: extents, range: begin..end })
}

/// Checks that `tensors`, sorted by range, cover `found` bytes without overlap or hole.
fn check_coverage(tensors: &[HeaderTensor], found: u64) -> Result<(), HeaderError> {
    let mut expected = 0;
    for (i, tensor) in tensors.iter().enumerate() {
        let Range { start, end } = tensor.range;
        if start < expected {
            let first = tensors[i - 1].name.clone();
            return Err(HeaderError::Overlap { first, second: tensor.name.clone(), end: expected, begin: start });
        }
        if start > expected {
            return Err(HeaderError::Hole { tensor: tensor.name.clone(), from: expected, to: start });
        }
        expected = end;
    }
    if let Some(cut) = tensors.iter().find(|tensor| tensor.range.end > found) {
        let tensor = cut.name.clone();
        return Err(HeaderError::Truncated { tensor, expected, found, missing: expected - found });
    }
    if found > expected {
        return Err(HeaderError::TrailingBytes { expected, found, extra: found - expected });
    }
    Ok(())
}

/// The bytes that stand before the data: length and JSON, padded with spaces so that the data
/// starts at a multiple of 8.
///
/// `tensors` come in the order of their data, each with its range from the start of the data; the key order of the
/// JSON is that order. Ranges are taken as they are: [`crate::Layout`] computes contiguous ones.
pub fn encode_header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [usize], Range<u64>)>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut object = serde_json::Map::new();
    if !metadata.is_empty() {
        object.insert(METADATA.to_string(), serde_json::json!(metadata));
    }
    for (name, dtype, shape, range) in tensors {
        let entry = serde_json::json!({
            "dtype": dtype.safetensors_name(),
            "shape": shape,
            "data_offsets": [range.start, range.end],
        });
        object.insert(name.to_string(), entry);
    }
    let mut json = serde_json::Value::Object(object).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The JSON as it stands, with every entry kept, also those that share a name.
#[derive(Default)]
struct RawHeader {
    entries: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to entries")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                let mut metadata_seen = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        if std::mem::replace(&mut metadata_seen, true) {
                            return Err(A::Error::custom("`__metadata__` appears twice"));
                        }
                        header.metadata = map.next_value_seed(UniqueStrings)?;
                    } else {
                        let entry =
                            map.next_value().map_err(|e| A::Error::custom(format_args!("tensor `{name}`: {e}")))?;
                        header.entries.push((name, entry));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads `__metadata__`: strings only, each key once.
struct UniqueStrings;

impl<'de> DeserializeSeed<'de> for UniqueStrings {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for UniqueStrings {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`__metadata__` to be an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut strings = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map
                .next_value::<String>()
                .map_err(|e| A::Error::custom(format_args!("metadata `{key}` is not a string: {e}")))?;
            if strings.insert(key.clone(), value).is_some() {
                return Err(A::Error::custom(format_args!("metadata `{key}` appears twice")));
            }
        }
        Ok(strings)
    }
}
