//! Causal attention of packed segments over spans of keys, with grouped queries, a window and a soft cap.
//!
//! Nothing is padded and nothing gathered: a segment names, in order of position, where its keys lie, in this pass or
//! in what earlier passes kept, and each span is read in place.
//!
//! The keys of a single query are done in pieces, whose results are combined by their largest scores and sums (Dao et
//! al., "Flash-Decoding", 2023): each piece is read once for all heads, and pieces run side by side. Pieces begin at
//! fixed positions, so that neither threads nor the layout of the cache change a result.

mod backward;
mod single;

use super::dots::{LANES, dot, total};
use super::exp::{exp, tanh};
use super::floats;
use super::kept::{Chunk, Numbers};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// What is the same for all queries of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AttentionSpec {
    /// Query heads.
    pub(crate) heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub(crate) kv_heads: usize,
    /// Numbers in a head.
    pub(crate) head_dim: usize,
    /// Factor on the scores before the soft cap.
    pub(crate) scale: f32,
    /// `cap · tanh(score / cap)` before the softmax.
    pub(crate) softcap: Option<f32>,
    /// A query sees this many positions, its own included; all before it when absent.
    pub(crate) window: Option<usize>,
}

/// Where the keys and values of consecutive positions are.
#[derive(Debug, Clone)]
pub(crate) enum Span {
    /// These rows of the keys and values of this pass.
    Now(Range<usize>),
    /// The first rows of what was kept.
    Before(Arc<Chunk>, usize),
}

impl Span {
    fn len(&self) -> usize {
        match self {
            Span::Now(rows) => rows.len(),
            Span::Before(_, len) => *len,
        }
    }
}

/// Queries that see the same keys, up to their own positions.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Rows of the queries.
    pub(crate) rows: Range<usize>,
    /// Position of each of these rows, ascending.
    pub(crate) positions: Vec<usize>,
    /// Keys of the positions 0, 1, 2, … in order, at least up to the last query's.
    pub(crate) spans: Vec<Span>,
}

/// Attention of `q` [Tq, heads · head_dim] to keys and values, `k` and `v` [T, kv_heads · head_dim] being those of this
/// pass: [Tq, heads · head_dim]. The segments cover the rows of `q` in order.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: Arc<[Segment]>,
    spec: &AttentionSpec,
) -> Result<Tensor> {
    q.apply_op3(k, v, Attention { segments, spec: *spec })
}

struct Attention {
    segments: Arc<[Segment]>,
    spec: AttentionSpec,
}

/// Queries done together: their scores against a few thousand keys stay in cache.
const QUERY_BLOCK: usize = 64;

/// From this many queries and keys on, a general matrix product beats plain loops.
const PRODUCT_FROM: (usize, usize) = (8, 32);

/// Multiplications from which tasks are handed to other threads.
const PARALLEL_FROM: usize = 1 << 18;

/// A part of the work.
enum Task {
    /// All heads that share a head of keys, for the queries of a block.
    Heads { block: usize, kv_head: usize },
    /// All heads, for the only query of a block and the keys at these positions.
    Keys { block: usize, keys: Range<usize> },
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_at: &Layout,
        k: &CpuStorage,
        k_at: &Layout,
        v: &CpuStorage,
        v_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let spec = &self.spec;
        let (width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let rows = self.segments.last().map_or(0, |segment| segment.rows.end);
        if q_at.dims() != [rows, width] || k_at.dims() != v_at.dims() || k_at.dims().get(1) != Some(&kv_width) {
            bail!("queries {:?}, keys {:?}, values {:?} for {spec:?}", q_at.shape(), k_at.shape(), v_at.shape());
        }
        let (q, k, v) = (floats(q, q_at)?, floats(k, k_at)?, floats(v, v_at)?);

        let mut blocks = Vec::new();
        let mut tasks = Vec::new();
        let mut work = 0;
        for segment in &*self.segments {
            for start in (0..segment.rows.len()).step_by(QUERY_BLOCK) {
                let queries = start..(start + QUERY_BLOCK).min(segment.rows.len());
                let block = Block::new(segment, queries, spec, k, v);
                work += 2 * block.queries.len() * block.seen.len() * width;
                match block.queries.len() {
                    1 => {
                        let pieces = single::pieces(&block.seen);
                        tasks.extend(pieces.map(|keys| Task::Keys { block: blocks.len(), keys }));
                    }
                    _ => {
                        tasks.extend((0..spec.kv_heads).map(|kv_head| Task::Heads { block: blocks.len(), kv_head }));
                    }
                }
                blocks.push(block);
            }
        }
        let run = |scratch: &mut Scratch, task: &Task| match task {
            Task::Heads { block, kv_head } => blocks[*block].heads(q, *kv_head, scratch),
            Task::Keys { block, keys } => blocks[*block].keys(q, keys, scratch),
        };
        let parts: Vec<Vec<f32>> = if work < PARALLEL_FROM || tasks.len() == 1 {
            let mut scratch = Scratch::default();
            tasks.iter().map(|task| run(&mut scratch, task)).collect()
        } else {
            tasks.par_iter().map_init(Scratch::default, run).collect()
        };

        let mut out = vec![0.0; q.len()];
        let group = spec.heads / spec.kv_heads * spec.head_dim;
        let mut tasks = tasks.iter().zip(&parts).peekable();
        while let Some((task, part)) = tasks.next() {
            match *task {
                Task::Heads { block, kv_head } => {
                    let rows = out[blocks[block].row * width..].chunks_exact_mut(width);
                    for (row, part) in rows.zip(part.chunks_exact(group)) {
                        row[kv_head * group..][..group].copy_from_slice(part);
                    }
                }
                Task::Keys { block, .. } => {
                    let same =
                        |(task, _): &(&Task, &Vec<f32>)| matches!(task, Task::Keys { block: b, .. } if *b == block);
                    let mut pieces = vec![part.as_slice()];
                    pieces.extend(std::iter::from_fn(|| tasks.next_if(same)).map(|(_, part)| part.as_slice()));
                    single::combine(&pieces, spec, &mut out[blocks[block].row * width..][..width]);
                }
            }
        }
        Ok((CpuStorage::F32(out), q_at.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [of_q, of_k, of_v] = backward::gradients(self, q, k, v, grad)?;
        Ok((Some(of_q), Some(of_k), Some(of_v)))
    }
}

/// Memory that tasks of a thread use one after the other.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    /// One head of a span, widened.
    head: Vec<f32>,
}

/// Keys and values of consecutive positions, as many as there are rows.
struct Lying<'a> {
    k: Numbers<'a>,
    v: Numbers<'a>,
    /// The position of the first.
    start: usize,
    rows: usize,
}

/// Some queries of a segment, with the keys and values they may see.
struct Block<'a> {
    spec: &'a AttentionSpec,
    /// Row of `q` of the first query.
    row: usize,
    queries: Range<usize>,
    positions: &'a [usize],
    spans: Vec<Lying<'a>>,
    /// First position that any query sees, and the one after the last.
    seen: Range<usize>,
}

impl<'a> Block<'a> {
    fn new(segment: &'a Segment, queries: Range<usize>, spec: &'a AttentionSpec, k: &'a [f32], v: &'a [f32]) -> Self {
        let positions = &segment.positions[queries.clone()];
        let first = spec.window.map_or(0, |window| (positions[0] + 1).saturating_sub(window));
        let seen = first..positions[positions.len() - 1] + 1;
        let width = spec.kv_heads * spec.head_dim;
        let mut spans = Vec::with_capacity(segment.spans.len());
        let mut at = 0;
        for span in &segment.spans {
            let ([k, v], first_row) = match span {
                Span::Now(rows) => ([Numbers::F32(k), Numbers::F32(v)], rows.start),
                Span::Before(kept, _) => (kept.numbers(), 0),
            };
            // The part of the span that some query of the block sees.
            let (start, end) = (seen.start.max(at), seen.end.min(at + span.len()));
            if start < end {
                let rows = (first_row + start - at) * width..(first_row + end - at) * width;
                spans.push(Lying { k: k.slice(rows.clone()), v: v.slice(rows), start, rows: end - start });
            }
            at += span.len();
        }
        debug_assert!(at >= seen.end, "keys of {at} positions for a query at {}", seen.end - 1);
        Block { spec, row: segment.rows.start + queries.start, queries, positions, spans, seen }
    }

    /// The query heads that share `kv_head`: [queries, heads of the group · head_dim].
    fn heads(&self, q: &[f32], kv_head: usize, scratch: &mut Scratch) -> Vec<f32> {
        let AttentionSpec { heads, kv_heads, head_dim, scale, softcap, window } = *self.spec;
        let (n, keys, group) = (self.queries.len(), self.seen.len(), heads / kv_heads);
        let mut out = vec![0.0; n * group * head_dim];
        let scores = &mut scratch.scores;
        scores.clear();
        scores.resize(n * keys, 0.0);
        for index in 0..group {
            let q = &q[(self.row * heads + kv_head * group + index) * head_dim..];
            for span in &self.spans {
                let k = self.head(span.k, kv_head, &mut scratch.head);
                let out = Strided { data: &mut scores[span.start - self.seen.start..], stride: keys };
                self.scores(q, k, span, out);
            }
            for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let first = window.map_or(0, |window| (self.positions[i] + 1).saturating_sub(window));
                softmax(
                    scores,
                    first.max(self.seen.start) - self.seen.start..self.positions[i] + 1 - self.seen.start,
                    scale,
                    softcap,
                );
            }
            for span in &self.spans {
                let v = self.head(span.v, kv_head, &mut scratch.head);
                let weights = &scores[span.start - self.seen.start..];
                let out = Strided { data: &mut out[index * head_dim..], stride: group * head_dim };
                self.mix(weights, keys, v, span, out);
            }
        }
        out
    }

    /// One head of a span, in place or widened, from its first row on; with the distance between rows.
    fn head<'s>(&self, data: Numbers<'s>, kv_head: usize, scratch: &'s mut Vec<f32>) -> (&'s [f32], usize) {
        let AttentionSpec { kv_heads, head_dim, .. } = *self.spec;
        match data {
            Numbers::F32(values) => (&values[kv_head * head_dim..], kv_heads * head_dim),
            Numbers::Bf16(bits) => {
                scratch.clear();
                for row in bits.chunks_exact(kv_heads * head_dim) {
                    scratch.extend(row[kv_head * head_dim..][..head_dim].iter().map(|&bits| super::kept::widen(bits)));
                }
                (scratch, head_dim)
            }
        }
    }

    /// Dot products of every query with the keys of a span. Keys after a query's position may be left out.
    fn scores(&self, q: &[f32], (k, k_stride): (&[f32], usize), span: &Lying<'_>, out: Strided<'_>) {
        let AttentionSpec { heads, head_dim, .. } = *self.spec;
        let (n, keys) = (self.queries.len(), span.rows);
        if n >= PRODUCT_FROM.0 && keys >= PRODUCT_FROM.1 {
            let q = strided(q, n, head_dim, heads * head_dim);
            let k = strided(k, keys, head_dim, k_stride);
            return matmul(out.matrix(n, keys), Accum::Replace, q, k.transpose(), 1.0, Par::Seq);
        }
        for i in 0..n {
            let q = &q[i * heads * head_dim..][..head_dim];
            let seen = (self.positions[i] + 1).saturating_sub(span.start).min(keys);
            for (o, k) in out.data[i * out.stride..][..seen].iter_mut().zip(k.chunks(k_stride)) {
                *o = dot(q, &k[..head_dim]);
            }
        }
    }

    /// Adds to every query's output the values of a span, weighted. Weights of keys that are not seen are 0.
    fn mix(&self, weights: &[f32], stride: usize, (v, v_stride): (&[f32], usize), span: &Lying<'_>, out: Strided<'_>) {
        let head_dim = self.spec.head_dim;
        let (n, keys) = (self.queries.len(), span.rows);
        if n >= PRODUCT_FROM.0 && keys >= PRODUCT_FROM.1 {
            let (weights, v) = (strided(weights, n, keys, stride), strided(v, keys, head_dim, v_stride));
            return matmul(out.matrix(n, head_dim), Accum::Add, weights, v, 1.0, Par::Seq);
        }
        for i in 0..n {
            let out = &mut out.data[i * out.stride..][..head_dim];
            let seen = (self.positions[i] + 1).saturating_sub(span.start).min(keys);
            for (&w, v) in weights[i * stride..][..seen].iter().zip(v.chunks(v_stride)) {
                for (o, &v) in out.iter_mut().zip(&v[..head_dim]) {
                    *o += w * v;
                }
            }
        }
    }
}

/// Rows that begin `stride` apart.
struct Strided<'a> {
    data: &'a mut [f32],
    stride: usize,
}

impl<'a> Strided<'a> {
    fn matrix(self, rows: usize, columns: usize) -> MatMut<'a, f32> {
        MatMut::from_column_major_slice_with_stride_mut(self.data, columns, rows, self.stride).transpose_mut()
    }
}

/// A matrix whose rows begin `stride` apart.
///
/// By way of its transpose: the constructor of faer 0.24 for row-major slices with a stride exchanges the two strides.
fn strided(data: &[f32], rows: usize, columns: usize, stride: usize) -> MatRef<'_, f32> {
    MatRef::from_column_major_slice_with_stride(data, columns, rows, stride).transpose()
}

/// Softmax over the scores at `seen`, scaled and capped; the rest becomes 0.
fn softmax(scores: &mut [f32], seen: Range<usize>, scale: f32, softcap: Option<f32>) {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let scores = &mut scores[seen];
    let (_, sum) = weigh(scores, scale, softcap);
    let factor = 1.0 / sum;
    scores.iter_mut().for_each(|s| *s *= factor);
}

/// Turns scores, scaled and capped, into e^(score − largest). Returns the largest and the sum.
fn weigh(scores: &mut [f32], scale: f32, softcap: Option<f32>) -> (f32, f32) {
    match softcap {
        None => scores.iter_mut().for_each(|s| *s *= scale),
        Some(cap) => scores.iter_mut().for_each(|s| *s = cap * tanh(*s * scale / cap)),
    }
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - largest);
            lanes[i] += chunk[i];
        }
    }
    let mut sum = total(&lanes);
    for s in rest {
        *s = exp(*s - largest);
        sum += *s;
    }
    (largest, sum)
}

#[cfg(test)]
mod tests;
