//! The container: a header with keys and values, the infos of the tensors, and their data.
//!
//! `docs/gguf.md` of the project ggml describes it. Numbers are little-endian here; files of big-endian machines are
//! refused. Versions 2 and 3, which differ in nothing else, are read, and version 3 is written.

mod reader;
mod value;
mod writer;

pub use reader::GgufFile;
pub use value::{Metadata, Value};
pub(crate) use writer::FileLayout;
pub use writer::GgufWriter;

use crate::quant::GgmlType;

/// The first four bytes of each GGUF file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written.
pub(crate) const VERSION: u32 = 3;
/// Tensors begin at multiples of so many bytes unless the key says otherwise.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// The key of another alignment.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// Limit on the dimensions of a tensor.
pub(crate) const MAX_DIMENSIONS: usize = 4;

/// What a file says about one of its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How its values are stored.
    pub kind: GgmlType,
    /// Sizes of its dimensions, the outermost first, as Hugging Face counts them; the file has them the other way.
    pub shape: Vec<usize>,
    /// Where its data begins, in bytes from the beginning of the data of all tensors.
    pub offset: u64,
}

impl TensorEntry {
    /// Number of values.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its data.
    pub fn n_bytes(&self) -> u64 {
        self.kind.bytes(self.n_elements())
    }

    /// Values of the innermost dimension: those of one row.
    pub fn row_length(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// `bytes`, rounded up to a multiple of `alignment`; `None` beyond 64 bits.
pub(crate) fn aligned(bytes: u64, alignment: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(alignment)
}
