//! One weight tensor in the type it is stored in: mapped from a file or owned, widened to `f32` where it is used.

use glue_tensor::{Checkpoint, Dtype, widen};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Why a tensor cannot be a weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// Integers are not weights of a layer that this crate runs.
    #[error("elements are {dtype}; a weight must be of a floating-point type")]
    NotFloat {
        /// The type found.
        dtype: Dtype,
    },
    /// Shape, type and number of bytes contradict each other.
    #[error("shape {shape:?} of {dtype} takes {expected} bytes, but there are {found}")]
    Length {
        /// The type given.
        dtype: Dtype,
        /// The shape given.
        shape: Vec<usize>,
        /// Bytes it takes; `usize::MAX` when that number does not fit.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

#[derive(Clone)]
enum Store {
    Mapped(Arc<Checkpoint>, Arc<str>),
    Owned(Arc<[u8]>),
}

/// One tensor of a model, little-endian elements of its stored type in row-major order.
///
/// Cheap to clone: clones share the bytes.
#[derive(Clone)]
pub struct Weight {
    store: Store,
    /// The part of the store that is this weight.
    bytes: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Weight {
    /// A tensor of `shape` in memory.
    ///
    /// # Errors
    /// [`WeightError::NotFloat`] for an integer type, [`WeightError::Length`] when `bytes` does not hold exactly the
    /// elements of `shape`.
    pub fn owned(dtype: Dtype, shape: Vec<usize>, bytes: impl Into<Arc<[u8]>>) -> Result<Weight, WeightError> {
        let bytes = bytes.into();
        if !dtype.is_float() {
            return Err(WeightError::NotFloat { dtype });
        }
        let expected = shape.iter().try_fold(dtype.size(), |n, &extent| n.checked_mul(extent));
        if expected != Some(bytes.len()) {
            let expected = expected.unwrap_or(usize::MAX);
            return Err(WeightError::Length { dtype, shape, expected, found: bytes.len() });
        }
        Ok(Weight { bytes: 0..bytes.len(), store: Store::Owned(bytes), dtype, shape })
    }

    /// The tensor `name` of a checkpoint, in place in its file; `None` when the checkpoint has no such tensor.
    ///
    /// # Errors
    /// [`WeightError::NotFloat`] for an integer type.
    pub fn mapped(checkpoint: &Arc<Checkpoint>, name: &str) -> Option<Result<Weight, WeightError>> {
        let view = checkpoint.get(name)?;
        let dtype = view.dtype();
        if !dtype.is_float() {
            return Some(Err(WeightError::NotFloat { dtype }));
        }
        Some(Ok(Weight {
            store: Store::Mapped(Arc::clone(checkpoint), name.into()),
            bytes: 0..view.data().len(),
            dtype,
            shape: view.shape().to_vec(),
        }))
    }

    /// StoredElements type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements: little-endian, row-major, at any alignment.
    pub fn bytes(&self) -> &[u8] {
        let all = match &self.store {
            Store::Mapped(checkpoint, name) => checkpoint.get(name).map_or(&[][..], |view| view.data()),
            Store::Owned(bytes) => bytes,
        };
        &all[self.bytes.clone()]
    }

    /// Elements of one row: the product of all extents but the first.
    pub(crate) fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Some of the rows (indices of the first dimension), sharing the bytes.
    ///
    /// # Panics
    /// When `rows` reaches beyond the first extent.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Weight {
        assert!(
            rows.start <= rows.end && rows.end <= self.shape[0],
            "rows {rows:?} of a weight of shape {:?}",
            self.shape
        );
        let row_bytes = self.row_len() * self.dtype.size();
        let start = self.bytes.start + rows.start * row_bytes;
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        Weight { store: self.store.clone(), bytes: start..start + rows.len() * row_bytes, dtype: self.dtype, shape }
    }

    /// The slice `index` of the first dimension, with that dimension taken away.
    ///
    /// # Panics
    /// When `index` is not below the first extent.
    pub(crate) fn index(&self, index: usize) -> Weight {
        let mut slice = self.rows(index..index + 1);
        slice.shape.remove(0);
        slice
    }

    /// All elements as `f32`.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.bytes.len() / self.dtype.size()];
        widen_into(self.dtype, self.bytes(), &mut out);
        out
    }

    /// The elements in a form that can be read in place.
    pub(crate) fn stored(&self) -> StoredElements<'_> {
        let bytes = self.bytes();
        let little = cfg!(target_endian = "little");
        let (floats, halves) = (bytemuck::try_cast_slice(bytes), bytemuck::try_cast_slice(bytes));
        match (self.dtype, floats, halves) {
            (Dtype::F32, Ok(values), _) if little => StoredElements::F32(values),
            (Dtype::Bf16, _, Ok(bits)) if little => StoredElements::Bf16(bits),
            _ => StoredElements::Bytes { dtype: self.dtype, bytes },
        }
    }

    /// The bytes from `start` on as elements of another type.
    #[cfg(test)]
    pub(crate) fn reinterpreted(&self, start: usize, dtype: Dtype, shape: Vec<usize>) -> Weight {
        let end = start + shape.iter().product::<usize>() * dtype.size();
        Weight { store: self.store.clone(), bytes: self.bytes.start + start..self.bytes.start + end, dtype, shape }
    }

    /// What [`Rows::get`] reads from: the bytes are looked up once, not for each block.
    pub(crate) fn reader(&self) -> Rows<'_> {
        Rows { dtype: self.dtype, bytes: self.bytes(), row_len: self.row_len() }
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.store {
            Store::Mapped(_, name) => name,
            Store::Owned(_) => "owned",
        };
        write!(f, "Weight({place}, {} {:?})", self.dtype, self.shape)
    }
}

/// The elements of a weight, row after row.
#[derive(Clone, Copy)]
pub(crate) enum StoredElements<'a> {
    F32(&'a [f32]),
    /// The upper halves of `f32`s.
    Bf16(&'a [u16]),
    /// Of another type, or not aligned.
    Bytes {
        dtype: Dtype,
        bytes: &'a [u8],
    },
}

impl<'a> StoredElements<'a> {
    /// Some elements as `f32`, in place or in `scratch`, which has room for them.
    pub(crate) fn widen<'s>(&self, elements: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        let len = elements.len();
        match self {
            StoredElements::F32(values) => return &values[elements],
            StoredElements::Bf16(bits) => {
                for (out, &bits) in scratch.iter_mut().zip(&bits[elements]) {
                    *out = f32::from_bits(u32::from(bits) << 16);
                }
            }
            StoredElements::Bytes { dtype, bytes } => {
                let size = dtype.size();
                widen_into(*dtype, &bytes[elements.start * size..elements.end * size], &mut scratch[..len]);
            }
        }
        &scratch[..len]
    }
}

/// Rows of a weight, widened on demand.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
    row_len: usize,
}

impl<'a> Rows<'a> {
    /// Rows as `f32`: in place when they are stored so and lie aligned, else widened into `scratch`.
    pub(crate) fn get<'s>(&self, rows: Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        let row_bytes = self.row_len * self.dtype.size();
        let bytes = &self.bytes[rows.start * row_bytes..rows.end * row_bytes];
        if let Some(floats) = in_place(self.dtype, bytes) {
            return floats;
        }
        scratch.resize(rows.len() * self.row_len, 0.0);
        widen_into(self.dtype, bytes, scratch);
        scratch
    }

    /// Writes one row to `out`, which has the length of a row.
    pub(crate) fn copy(&self, row: usize, out: &mut [f32]) {
        let row_bytes = self.row_len * self.dtype.size();
        widen_into(self.dtype, &self.bytes[row * row_bytes..(row + 1) * row_bytes], out);
    }
}

/// The bytes as `f32`, when that is what they are, aligned and in this machine's byte order.
fn in_place(dtype: Dtype, bytes: &[u8]) -> Option<&[f32]> {
    (dtype == Dtype::F32 && cfg!(target_endian = "little")).then(|| bytemuck::try_cast_slice(bytes).ok()).flatten()
}

/// Widens; that the type is a float and that the lengths agree was checked when the weight was made.
fn widen_into(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    let widened = widen(dtype, bytes, out);
    debug_assert!(widened.is_ok(), "{widened:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn rows_and_indices_share_the_elements_they_name() {
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let weight = Weight::owned(Dtype::F32, vec![3, 2, 4], bytes_of(&values)).unwrap();
        assert_eq!(weight.rows(1..3).to_f32(), values[8..]);
        assert_eq!(weight.rows(1..3).rows(1..2).to_f32(), values[16..]);
        let slice = weight.index(1);
        assert_eq!((slice.shape(), slice.to_f32()), (&[2, 4][..], values[8..16].to_vec()));
        let mut scratch = Vec::new();
        assert_eq!(slice.reader().get(1..2, &mut scratch), &values[12..16]);
    }

    #[test]
    fn half_types_are_widened_by_the_row() {
        let weight = Weight::owned(Dtype::Bf16, vec![2, 2], vec![0x80, 0x3f, 0, 0x40, 0x40, 0x40, 0x80, 0x40]).unwrap();
        let mut scratch = Vec::new();
        assert_eq!(weight.reader().get(1..2, &mut scratch), &[3.0, 4.0]);
        let mut row = [0.0; 2];
        weight.reader().copy(0, &mut row);
        assert_eq!(row, [1.0, 2.0]);
    }

    #[test]
    fn contradictions_are_refused() {
        let short = Weight::owned(Dtype::F16, vec![2, 2], vec![0; 6]).unwrap_err();
        assert_eq!(short.to_string(), "shape [2, 2] of F16 takes 8 bytes, but there are 6");
        let huge = Weight::owned(Dtype::F16, vec![usize::MAX, 2], vec![0; 6]).unwrap_err();
        assert!(matches!(huge, WeightError::Length { expected: usize::MAX, .. }));
        let whole = Weight::owned(Dtype::I32, vec![1], vec![0; 4]).unwrap_err();
        assert_eq!(whole, WeightError::NotFloat { dtype: Dtype::I32 });
    }
}
