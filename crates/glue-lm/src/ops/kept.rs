//! Keys and values that earlier passes computed, in chunks that stay where they are.
//!
//! A chunk is allocated once for the rows it may hold: all rows of a pass, and a few more to grow into. What a cache
//! holds is thus neither copied nor doubled when it grows. Clones share chunks; only the last one is copied, when a
//! clone goes its own way.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The type in which keys and values are kept between passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KvCacheType {
    /// As they are computed. A text in several passes is the text in one pass, up to the order of sums. The default.
    #[default]
    F32,
    /// Rounded to bfloat16: half the memory, and half the bytes that attention reads, at a relative error of 2^-9 of
    /// each key and value.
    Bf16,
}

impl KvCacheType {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            KvCacheType::F32 => 4,
            KvCacheType::Bf16 => 2,
        }
    }
}

/// Rows that a chunk has room for beyond those it is made for. The capacity is a multiple of it.
pub(crate) const GROWTH: usize = 16;

/// Numbers in the type they are kept in.
#[derive(Debug)]
enum Values {
    F32(Vec<f32>),
    /// The upper halves of `f32`s.
    Bf16(Vec<u16>),
}

/// Some numbers of a chunk, or of the pass.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

impl<'a> Numbers<'a> {
    /// Some of them.
    pub(crate) fn slice(self, range: Range<usize>) -> Numbers<'a> {
        match self {
            Numbers::F32(values) => Numbers::F32(&values[range]),
            Numbers::Bf16(values) => Numbers::Bf16(&values[range]),
        }
    }

    /// As `f32`.
    pub(crate) fn widened(self) -> Cow<'a, [f32]> {
        match self {
            Numbers::F32(values) => Cow::Borrowed(values),
            Numbers::Bf16(values) => values.iter().map(|&bits| widen(bits)).collect(),
        }
    }
}

/// The number whose upper half this is.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

impl Values {
    fn with_capacity(kind: KvCacheType, capacity: usize) -> Values {
        match kind {
            KvCacheType::F32 => Values::F32(Vec::with_capacity(capacity)),
            KvCacheType::Bf16 => Values::Bf16(Vec::with_capacity(capacity)),
        }
    }

    fn extend(&mut self, more: &[f32]) {
        match self {
            Values::F32(values) => values.extend_from_slice(more),
            Values::Bf16(values) => values.extend(more.iter().map(|&x| half::bf16::from_f32(x).to_bits())),
        }
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Values::F32(values) => values.truncate(len),
            Values::Bf16(values) => values.truncate(len),
        }
    }

    /// The same numbers with room for `capacity`.
    fn copy(&self, capacity: usize) -> Values {
        match self {
            Values::F32(values) => {
                let mut copy = Vec::with_capacity(capacity);
                copy.extend_from_slice(values);
                Values::F32(copy)
            }
            Values::Bf16(values) => {
                let mut copy = Vec::with_capacity(capacity);
                copy.extend_from_slice(values);
                Values::Bf16(copy)
            }
        }
    }

    fn numbers(&self) -> Numbers<'_> {
        match self {
            Values::F32(values) => Numbers::F32(values),
            Values::Bf16(values) => Numbers::Bf16(values),
        }
    }
}

/// Keys and values of consecutive positions, each [rows, kv_heads · head_dim], keys after rope.
#[derive(Debug)]
pub(crate) struct Chunk {
    k: Values,
    v: Values,
    rows: usize,
    /// Rows that fit.
    capacity: usize,
    width: usize,
}

impl Chunk {
    /// A chunk for these rows and some more.
    pub(crate) fn new(kind: KvCacheType, k: &[f32], v: &[f32], width: usize) -> Chunk {
        let rows = k.len() / width.max(1);
        let capacity = rows.next_multiple_of(GROWTH);
        let mut chunk = Chunk {
            k: Values::with_capacity(kind, capacity * width),
            v: Values::with_capacity(kind, capacity * width),
            rows: 0,
            capacity,
            width,
        };
        chunk.push(k, v);
        chunk
    }

    /// Adds rows, which fit.
    fn push(&mut self, k: &[f32], v: &[f32]) {
        self.k.extend(k);
        self.v.extend(v);
        self.rows += k.len() / self.width.max(1);
        debug_assert!(self.rows <= self.capacity);
    }

    fn truncate(&mut self, rows: usize) {
        self.k.truncate(rows * self.width);
        self.v.truncate(rows * self.width);
        self.rows = self.rows.min(rows);
    }

    /// Keys and values of all rows.
    pub(crate) fn numbers(&self) -> [Numbers<'_>; 2] {
        [self.k.numbers(), self.v.numbers()]
    }

    /// Where the keys lie in memory.
    #[cfg(test)]
    pub(crate) fn address(&self) -> usize {
        match &self.k {
            Values::F32(values) => values.as_ptr() as usize,
            Values::Bf16(values) => values.as_ptr() as usize,
        }
    }
}

impl Clone for Chunk {
    /// A copy that has as much room to grow into.
    fn clone(&self) -> Chunk {
        let capacity = self.capacity * self.width;
        Chunk { k: self.k.copy(capacity), v: self.v.copy(capacity), ..*self }
    }
}

/// The keys and values of one branch in one layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyValue {
    chunks: Vec<Arc<Chunk>>,
}

impl KeyValue {
    /// Adds rows, each of `width` numbers, after the first `done` ones. Rows beyond them are of a pass that failed, and
    /// are dropped.
    pub(crate) fn append(&mut self, done: usize, kind: KvCacheType, [k, v]: [&[f32]; 2], width: usize) {
        self.truncate(done);
        let mut taken = 0;
        if let Some(last) = self.chunks.last_mut().filter(|last| last.rows < last.capacity) {
            taken = (last.capacity - last.rows).min(k.len() / width.max(1)) * width;
            Arc::make_mut(last).push(&k[..taken], &v[..taken]);
        }
        if taken < k.len() {
            self.chunks.push(Arc::new(Chunk::new(kind, &k[taken..], &v[taken..], width)));
        }
    }

    fn truncate(&mut self, rows: usize) {
        let mut all: usize = self.chunks.iter().map(|chunk| chunk.rows).sum();
        while all > rows
            && let Some(last) = self.chunks.last_mut()
        {
            all -= last.rows;
            if all >= rows {
                self.chunks.pop();
            } else {
                Arc::make_mut(last).truncate(rows - all);
                break;
            }
        }
    }

    /// The chunks that hold the first `rows` rows, each with how many of them.
    pub(crate) fn first(&self, rows: usize) -> impl Iterator<Item = (&Arc<Chunk>, usize)> {
        let mut left = rows;
        self.chunks.iter().map_while(move |chunk| {
            let here = chunk.rows.min(left);
            left -= here;
            (here > 0).then_some((chunk, here))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(range: Range<usize>, width: usize) -> Vec<f32> {
        (range.start * width..range.end * width).map(|i| i as f32).collect()
    }

    fn keys(kept: &KeyValue, n: usize) -> Vec<f32> {
        let of_chunk = |(chunk, n): (&Arc<Chunk>, usize)| chunk.numbers()[0].slice(0..n * 3).widened().into_owned();
        kept.first(n).flat_map(of_chunk).collect()
    }

    fn addresses(kept: &KeyValue) -> Vec<usize> {
        kept.chunks.iter().map(|chunk| chunk.address()).collect()
    }

    #[test]
    fn rows_stay_where_they_are_while_others_come() {
        for kind in [KvCacheType::F32, KvCacheType::Bf16] {
            let mut kept = KeyValue::default();
            let mut before = Vec::new();
            let mut done = 0;
            for n in [20, 1, 1, 9, 1, 1, 40, 1] {
                let new = rows(done..done + n, 3);
                kept.append(done, kind, [&new, &new], 3);
                done += n;
                let now = addresses(&kept);
                assert!(now.starts_with(&before), "{kind:?} after {done} rows");
                before = now;
            }
            // 20 rows with room for 32, of which ten come one by one and one in front of 40; 41 with room for 48.
            assert_eq!(before.len(), 3, "{kind:?}");
            // Whole numbers below 257 are exact in either type.
            assert_eq!(keys(&kept, done), rows(0..done, 3), "{kind:?}");
            assert_eq!(keys(&kept, 21), rows(0..21, 3));
        }
    }

    #[test]
    fn clones_share_chunks_and_go_their_own_way() {
        let mut one = KeyValue::default();
        let new = rows(0..17, 3);
        one.append(0, KvCacheType::F32, [&new, &new], 3);
        let mut two = one.clone();
        assert_eq!(addresses(&one), addresses(&two));
        let (a, b) = (rows(17..18, 3), rows(40..41, 3));
        one.append(17, KvCacheType::F32, [&a, &a], 3);
        two.append(17, KvCacheType::F32, [&b, &b], 3);
        assert_eq!(keys(&one, 18), rows(0..18, 3));
        assert_eq!(keys(&two, 18), [rows(0..17, 3), b].concat());
    }

    #[test]
    fn rows_of_a_failed_pass_are_dropped() {
        for done in [0, 5, 16, 20] {
            let mut kept = KeyValue::default();
            let first = rows(0..16, 3);
            kept.append(0, KvCacheType::F32, [&first, &first], 3);
            let failed = rows(90..100, 3);
            kept.append(16, KvCacheType::F32, [&failed, &failed], 3);
            let mut expected = keys(&kept, done);
            let new = rows(50..53, 3);
            kept.append(done, KvCacheType::F32, [&new, &new], 3);
            expected.extend(&new);
            assert_eq!(keys(&kept, done + 3), expected, "{done}");
        }
    }

    #[test]
    fn numbers_are_rounded_to_bfloat16() {
        let values = [1.0, 1.0 + 1.0 / 256.0, -3.0e38, f32::NAN, 1e-40];
        let mut kept = KeyValue::default();
        kept.append(0, KvCacheType::Bf16, [&values, &values], 5);
        let (chunk, _) = kept.first(1).next().unwrap();
        for (found, x) in chunk.numbers()[1].widened().iter().zip(values) {
            // Half a unit in the last of eight bits; subnormal numbers have fewer.
            assert!((found - x).abs() <= x.abs() / 256.0 + 1e-40 || (found.is_nan() && x.is_nan()), "{found} {x}");
        }
    }
}
