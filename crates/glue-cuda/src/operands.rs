//! Tiles of a tensor in device memory, and which of them there are.

use crate::args::{self, MAX_INPUTS, Tile, WIDE};
use crate::backend::Backend;
use glue_merge::TensorSpec;
use glue_merge::device::Float;
use std::ops::Range;
use std::sync::Arc;

/// Elements of a section, over which a partial sum is taken. The bits of a sum depend on it. Tiles end where sections
/// end, so that no sum depends on the size of the device's memory.
pub(crate) const SECTION: usize = 1 << 26;
/// Maximum number of blocks of a kernel that sums. The bits of a sum depend on it.
const SUM_BLOCKS: usize = 1024;
/// Threads per block.
pub(crate) const THREADS: u32 = 256;

/// The base and the inputs of one tile.
pub(crate) struct Operands<M> {
    pub(crate) float: Float,
    pub(crate) base: Option<Arc<M>>,
    pub(crate) inputs: Vec<Arc<M>>,
    /// Which elements of the tensor.
    pub(crate) range: Range<usize>,
    /// Where the first of them lies in each memory, in bytes.
    pub(crate) at: usize,
}

impl<M> Operands<M> {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// The tile as kernels take it; `outs` are the addresses and element sizes of what is written besides.
    pub(crate) fn tile<B: Backend<Memory = M>>(&self, backend: &B, outs: &[(u64, usize)]) -> Tile {
        let address = |memory: &Arc<M>| backend.address(memory) + self.at as u64;
        let mut input = [0; MAX_INPUTS];
        for (to, from) in input.iter_mut().zip(&self.inputs) {
            *to = address(from);
        }
        let base = self.base.as_ref().map_or(0, address);
        let mut tile = Tile {
            base,
            input,
            len: self.len() as i64,
            offset: self.range.start as u64,
            inputs: self.inputs.len() as u32,
            head: 0,
            aligned: 0,
            unused: 0,
        };
        align(&mut tile, self.float, outs);
        tile
    }
}

/// Settles where the chunks of a tile begin.
pub(crate) fn align(tile: &mut Tile, float: Float, outs: &[(u64, usize)]) {
    let inputs = &tile.input[..tile.inputs as usize];
    let operands = inputs.iter().copied().chain(Some(tile.base).filter(|base| *base != 0));
    let arrays: Vec<_> = operands.map(|at| (at, float.size())).chain(outs.iter().copied()).collect();
    let head = args::head(&arrays);
    tile.head = head.unwrap_or(0);
    tile.aligned = u32::from(head.is_some());
}

/// Blocks of a kernel with a thread for every chunk.
pub(crate) fn blocks(tile: &Tile) -> u32 {
    args::chunks(tile.len as usize, tile.head).div_ceil(THREADS as usize).max(1) as u32
}

/// Blocks of a kernel that sums over a section.
pub(crate) fn sum_blocks(section: usize) -> u32 {
    section.div_ceil(WIDE * THREADS as usize).clamp(1, SUM_BLOCKS) as u32
}

/// How a tensor is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cutting {
    /// Elements of a section, whole rows.
    pub(crate) section: usize,
    /// The tiles.
    pub(crate) tiles: Vec<Range<usize>>,
}

impl Cutting {
    /// Cuts a tensor into tiles of at most `available` bytes, at `bytes_each` bytes per element; `None` if not even one
    /// section fits.
    pub(crate) fn new(tensor: &TensorSpec<'_>, bytes_each: usize, available: usize, section: usize) -> Option<Self> {
        let len = tensor.len();
        // A vector is cut anywhere; what works on rows leaves it to the host then.
        let row = if tensor.shape.len() > 1 { tensor.row_len().max(1) } else { 1 };
        let section = (section / row).max(1) * row;
        let fitting = available / bytes_each.max(1);
        let tile = if fitting >= len { len } else { fitting / section * section };
        if tile == 0 {
            return None;
        }
        Some(Self { section, tiles: (0..len).step_by(tile).map(|at| at..(at + tile).min(len)).collect() })
    }

    /// Whether no row of this length is cut.
    pub(crate) fn keeps_rows(&self, row: usize) -> bool {
        self.tiles.len() <= 1 || (row > 0 && self.section.is_multiple_of(row))
    }

    /// The sections of a tile of so many elements.
    pub(crate) fn sections(&self, len: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let section = self.section;
        (0..len).step_by(section).map(move |at| at..(at + section).min(len))
    }
}

/// Groups of at most 8 vectors whose products cover those of all pairs of `n`: each a list of vectors.
pub(crate) fn groups(n: usize) -> Vec<Vec<usize>> {
    if n <= 8 {
        return vec![(0..n).collect()];
    }
    let fours: Vec<Vec<usize>> = (0..n).collect::<Vec<_>>().chunks(4).map(<[usize]>::to_vec).collect();
    let pair = |i: usize, j: usize| fours[j].iter().chain(&fours[i]).copied().collect();
    (0..fours.len()).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| pair(i, j)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize]) -> TensorSpec<'_> {
        TensorSpec::new("t", shape).with_operands(true, 2)
    }

    #[test]
    fn tiles_are_whole_sections_and_rows() {
        let whole = Cutting::new(&tensor(&[10, 7]), 8, 10_000, 16).unwrap();
        assert_eq!(whole.section, 14);
        assert_eq!(whole.tiles.first(), Some(&(0..70)));
        let cut = Cutting::new(&tensor(&[10, 7]), 8, 8 * 30, 16).unwrap();
        assert_eq!(cut.tiles, [0..28, 28..56, 56..70]);
        assert_eq!(cut.sections(28).collect::<Vec<_>>(), [0..14, 14..28]);
        assert_eq!(Cutting::new(&tensor(&[10, 7]), 8, 8 * 13, 16), None);
        assert_eq!(Cutting::new(&tensor(&[40]), 8, 8 * 35, 16).unwrap().tiles, [0..32, 32..40]);
        // A row longer than a section is not cut.
        assert_eq!(Cutting::new(&tensor(&[2, 50]), 8, 8 * 60, 16).unwrap().tiles, [0..50, 50..100]);
    }

    #[test]
    fn groups_cover_all_pairs_with_at_most_eight() {
        for n in 1..=31 {
            let groups = groups(n);
            assert!(groups.iter().all(|g| g.len() <= 8 && g.is_sorted()));
            for i in 0..n {
                for j in 0..=i {
                    assert!(groups.iter().any(|g| g.contains(&i) && g.contains(&j)), "{i}, {j} of {n}");
                }
            }
        }
        assert_eq!(groups(9).len(), 3);
    }
}
