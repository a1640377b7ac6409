//! The structs that kernels take, as `kernels/*.cu` declare them, and how the elements of a tile are laid out.

use glue_merge::device::Float;
use glue_merge::select::Threshold;

/// Maximum number of operands of a kernel, the base not counted.
pub(crate) const MAX_INPUTS: usize = 32;
/// Elements of a chunk.
pub(crate) const WIDE: usize = 8;
/// Bins of a histogram.
pub(crate) const BINS: usize = 2048;
/// Maximum number of histograms in one pass.
pub(crate) const TARGETS: usize = 2 * MAX_INPUTS;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Tile {
    pub(crate) base: u64,
    pub(crate) input: [u64; MAX_INPUTS],
    pub(crate) len: i64,
    pub(crate) offset: u64,
    pub(crate) inputs: u32,
    pub(crate) head: u32,
    pub(crate) aligned: u32,
    pub(crate) unused: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Out {
    pub(crate) at: u64,
    pub(crate) kind: u32,
    pub(crate) unused: u32,
}

impl Out {
    pub(crate) fn new(at: u64, float: Float) -> Self {
        let kind = match float {
            Float::F32 => 0,
            Float::F16 => 1,
            Float::Bf16 => 2,
        };
        Self { at, kind, unused: 0 }
    }
}

/// A border as kernels take it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct CutArg {
    index: u64,
    bits: u32,
    unused: u32,
}

impl From<Threshold> for CutArg {
    /// Keys have 31 bits, so that a threshold above them keeps none however it is compared; and no tensor is so long
    /// that an index needs more than 62.
    fn from(cut: Threshold) -> Self {
        Self { index: (cut.index as u64).min(1 << 62), bits: cut.bits.min(1 << 31), unused: 0 }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Linear {
    pub(crate) t: Tile,
    pub(crate) out: Out,
    pub(crate) c: [f32; MAX_INPUTS],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct TaskArgs<T> {
    pub(crate) t: Tile,
    pub(crate) out: Out,
    pub(crate) factor: [f32; MAX_INPUTS],
    pub(crate) weight: [f32; MAX_INPUTS],
    pub(crate) lambda: f32,
    pub(crate) normalize: u32,
    pub(crate) trim: T,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct NormArgs<T> {
    pub(crate) t: Tile,
    pub(crate) begin: i64,
    pub(crate) end: i64,
    pub(crate) partials: u64,
    pub(crate) trim: T,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Nothing {
    pub(crate) unused: [u32; 2],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Between {
    pub(crate) cut: [[CutArg; 2]; MAX_INPUTS],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Marked {
    pub(crate) marks: u64,
    pub(crate) stride: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Random {
    pub(crate) keys: [[u32; 2]; 10],
    pub(crate) stream: [u32; MAX_INPUTS],
    pub(crate) kept_below: [u32; MAX_INPUTS],
    pub(crate) scale: [f32; MAX_INPUTS],
    pub(crate) whole: u32,
    pub(crate) unused: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Ranked {
    pub(crate) t: Tile,
    pub(crate) marks: u64,
    pub(crate) stride: u64,
    pub(crate) row: i64,
    pub(crate) keys: [[u32; 2]; 10],
    pub(crate) stream: [u32; MAX_INPUTS],
    pub(crate) start: [u64; MAX_INPUTS],
    pub(crate) rise: [u64; MAX_INPUTS],
    pub(crate) whole: u32,
    pub(crate) unused: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Sce {
    pub(crate) t: Tile,
    pub(crate) out: Out,
    pub(crate) cut: CutArg,
    pub(crate) all: u32,
    pub(crate) unused: u32,
    pub(crate) weight: [f32; MAX_INPUTS],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Energies {
    pub(crate) t: Tile,
    pub(crate) begin: i64,
    pub(crate) end: i64,
    pub(crate) partials: u64,
    pub(crate) cut: CutArg,
    pub(crate) all: u32,
    pub(crate) unused: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct GramArgs {
    pub(crate) t: Tile,
    pub(crate) begin: i64,
    pub(crate) end: i64,
    pub(crate) partials: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Sums {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) blocks: u32,
    pub(crate) sums: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Histogram {
    pub(crate) t: Tile,
    pub(crate) counts: u64,
    pub(crate) low: [u32; TARGETS],
    pub(crate) stream: [u8; TARGETS],
    pub(crate) shift: [u8; TARGETS],
    pub(crate) step: u32,
    pub(crate) unused: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Equals {
    pub(crate) t: Tile,
    pub(crate) begin: i64,
    pub(crate) end: i64,
    pub(crate) segment: i64,
    pub(crate) counts: u64,
    pub(crate) stream: u32,
    pub(crate) bits: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Stock {
    pub(crate) t: Tile,
    pub(crate) out: Out,
    pub(crate) row: i64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Convert {
    pub(crate) t: Tile,
    pub(crate) out: Out,
    pub(crate) bad: u64,
}

/// Numbers for each input, 0 beyond.
pub(crate) fn row<T: Copy + Default, U: Copy>(values: &[U], of: impl Fn(U) -> T) -> [T; MAX_INPUTS] {
    let mut row = [T::default(); MAX_INPUTS];
    for (to, value) in row.iter_mut().zip(values) {
        *to = of(*value);
    }
    row
}

/// Elements before the first that lies on a boundary of 16 bytes in all arrays, given their addresses and the sizes of
/// their elements; `None` where there is no such element among the first of a chunk.
pub(crate) fn head(arrays: &[(u64, usize)]) -> Option<u32> {
    (0..WIDE as u32).find(|h| arrays.iter().all(|(at, size)| (at + u64::from(*h) * *size as u64).is_multiple_of(16)))
}

/// Chunks of a tile.
pub(crate) fn chunks(len: usize, head: u32) -> usize {
    (len + if head == 0 { 0 } else { WIDE - head as usize }).div_ceil(WIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_end_where_all_arrays_are_aligned() {
        assert_eq!(head(&[(256, 2), (512, 2), (1024, 4)]), Some(0));
        assert_eq!(head(&[(258, 2), (514, 2)]), Some(7));
        // Three elements of two bytes and three of four bytes before the boundary.
        assert_eq!(head(&[(256 + 10, 2), (256 + 4, 4)]), Some(3));
        assert_eq!(head(&[(256, 2), (258, 2)]), None);
        assert_eq!(head(&[]), Some(0));
    }

    #[test]
    fn chunks_cover_head_and_tail() {
        assert_eq!(chunks(1, 0), 1);
        assert_eq!(chunks(16, 0), 2);
        // Seven elements, one chunk, two elements.
        assert_eq!(chunks(17, 7), 3);
        assert_eq!(chunks(0, 0), 0);
    }

    #[test]
    fn borders_survive_the_way_to_a_device() {
        let none = CutArg::from(Threshold::NONE);
        assert_eq!((none.bits, none.index), (1 << 31, 0));
        let all = CutArg::from(Threshold::ALL);
        assert_eq!((all.bits, all.index), (0, 1 << 62));
    }
}
