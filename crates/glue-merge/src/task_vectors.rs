//! Task vectors, a chunk at a time, for operators and reductions that look at all of them at once.

use crate::contract::Block;

/// Elements of a chunk: those of a few task vectors stay in a first-level cache.
pub(crate) const CHUNK: usize = 1024;

/// The same range of elements of every task vector.
pub(crate) struct Chunk<'a> {
    /// Index in the block of its first element.
    pub(crate) at: usize,
    /// Number of elements.
    pub(crate) len: usize,
    /// Elements of the base.
    pub(crate) base: &'a [f32],
    taus: &'a mut [f32],
}

impl Chunk<'_> {
    /// The task vectors, one after the other.
    pub(crate) fn taus(&self) -> impl Iterator<Item = &[f32]> {
        self.taus.chunks_exact(self.len)
    }

    /// The task vectors, to be changed.
    pub(crate) fn taus_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.taus.chunks_exact_mut(self.len)
    }

    /// `sum = Σ τi`, added in the order of the inputs.
    pub(crate) fn sum(&self, sum: &mut [f32]) {
        sum.fill(0.0);
        for tau in self.taus() {
            sum.iter_mut().zip(tau).for_each(|(sum, tau)| *sum += tau);
        }
    }
}

/// `out = x − y`.
pub(crate) fn subtract(x: &[f32], y: &[f32], out: &mut [f32]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = x - y;
    }
}

/// Calls `see` with one chunk of the block after the other.
pub(crate) fn chunks(block: &Block<'_>, mut see: impl FnMut(Chunk<'_>)) {
    let mut taus = Vec::with_capacity(block.inputs.len() * CHUNK.min(block.len()));
    for (c, base) in block.base().chunks(CHUNK).enumerate() {
        let (at, len) = (c * CHUNK, base.len());
        taus.clear();
        for input in block.inputs {
            taus.extend(input[at..at + len].iter().zip(base).map(|(x, base)| x - base));
        }
        see(Chunk { at, len, base, taus: &mut taus });
    }
}
