//! Causal attention of packed segments over spans of keys, with grouped queries, a window and a soft cap.
//!
//! Nothing is padded and nothing gathered: a segment names, in order of position, where its keys lie, in this pass or
//! in what earlier passes kept, and each span is read in place.

mod backward;

use super::exp::{exp, tanh};
use super::{PARALLEL_FROM, floats};
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
    /// A query sees the positions from the last multiple of this on; no such limit when absent.
    pub(crate) chunk: Option<usize>,
}

impl AttentionSpec {
    /// The first position that a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        let by_window = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        by_window.max(self.chunk.map_or(0, |chunk| position - position % chunk))
    }
}

/// Keys and values of earlier passes, each [positions, kv_heads · head_dim], keys after rope.
#[derive(Debug, Default)]
pub(crate) struct KeyValue {
    /// Keys.
    pub(crate) k: Vec<f32>,
    /// Values.
    pub(crate) v: Vec<f32>,
}

/// Where the keys and values of consecutive positions are.
#[derive(Debug, Clone)]
pub(crate) enum Span {
    /// These rows of the keys and values of this pass.
    Now(Range<usize>),
    /// The first rows of what was kept.
    Before(Arc<KeyValue>, usize),
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
/// pass: [Tq, heads · head_dim]. The segments cover the rows of `q` in order. `sinks` are scores, one for each head,
/// that take part in the softmax and have no value (Xiao et al., arXiv 2309.17453, as in gpt-oss).
pub(crate) fn attention_with_sinks(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: Arc<[Segment]>,
    spec: &AttentionSpec,
    sinks: Option<&Arc<[f32]>>,
) -> Result<Tensor> {
    q.apply_op3(k, v, Attention { segments, spec: *spec, sinks: sinks.cloned() })
}

struct Attention {
    segments: Arc<[Segment]>,
    spec: AttentionSpec,
    sinks: Option<Arc<[f32]>>,
}

/// Queries done together: their scores against a few thousand keys stay in cache.
const QUERY_BLOCK: usize = 64;

/// From this many queries and keys on, a general matrix product beats plain loops.
const PRODUCT_FROM: (usize, usize) = (8, 32);

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
        if self.sinks.as_ref().is_some_and(|sinks| sinks.len() != spec.heads) {
            bail!("{} sinks for {} heads", self.sinks.as_ref().map_or(0, |sinks| sinks.len()), spec.heads)
        }
        if q_at.dims() != [rows, width] || k_at.dims() != v_at.dims() || k_at.dims().get(1) != Some(&kv_width) {
            bail!("queries {:?}, keys {:?}, values {:?} for {spec:?}", q_at.shape(), k_at.shape(), v_at.shape());
        }
        let (q, k, v) = (floats(q, q_at)?, floats(k, k_at)?, floats(v, v_at)?);
        let mut out = vec![0.0; q.len()];

        let mut blocks = Vec::new();
        let mut rest = &mut out[..];
        let mut work = 0;
        for segment in &*self.segments {
            for start in (0..segment.rows.len()).step_by(QUERY_BLOCK) {
                let queries = start..(start + QUERY_BLOCK).min(segment.rows.len());
                let (block, after) = rest.split_at_mut(queries.len() * width);
                rest = after;
                work += queries.len() * (segment.positions[queries.end - 1] + 1) * width;
                blocks.push((Block::new(segment, queries, self, k, v), block));
            }
        }
        if work < PARALLEL_FROM {
            let mut scratch = Vec::new();
            blocks.iter_mut().for_each(|(block, out)| {
                (0..spec.kv_heads).for_each(|head| block.run(q, head, out, 0, &mut scratch));
            });
        } else {
            let group = spec.heads / spec.kv_heads * spec.head_dim;
            blocks.par_iter_mut().for_each_init(Vec::new, |scratch, (block, out)| {
                if block.queries.len() == 1 {
                    // A single row of output falls into pieces by head.
                    let heads = out.par_chunks_mut(group).enumerate();
                    heads
                        .for_each_init(Vec::new, |scratch, (head, out)| block.run(q, head, out, head * group, scratch));
                } else {
                    (0..spec.kv_heads).for_each(|head| block.run(q, head, out, 0, scratch));
                }
            });
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

/// Some queries of a segment, with the keys and values they may see.
struct Block<'a> {
    spec: &'a AttentionSpec,
    sinks: Option<&'a [f32]>,
    /// Row of `q` of the first query.
    row: usize,
    queries: Range<usize>,
    positions: &'a [usize],
    /// Keys, values, and the position of the first of them.
    spans: Vec<(&'a [f32], &'a [f32], usize)>,
    /// First position that any query sees, and the one after the last.
    seen: Range<usize>,
}

impl<'a> Block<'a> {
    fn new(segment: &'a Segment, queries: Range<usize>, op: &'a Attention, k: &'a [f32], v: &'a [f32]) -> Self {
        let spec = &op.spec;
        let positions = &segment.positions[queries.clone()];
        // The first query's: what later ones see begins no earlier.
        let first = spec.first_seen(positions[0]);
        let seen = first..positions[positions.len() - 1] + 1;
        let width = spec.kv_heads * spec.head_dim;
        let mut spans = Vec::with_capacity(segment.spans.len());
        let mut at = 0;
        for span in &segment.spans {
            let (k, v, first_row) = match span {
                Span::Now(rows) => (k, v, rows.start),
                Span::Before(kept, _) => (&kept.k[..], &kept.v[..], 0),
            };
            // The part of the span that some query of the block sees.
            let (start, end) = (seen.start.max(at), seen.end.min(at + span.len()));
            if start < end {
                let rows = (first_row + start - at) * width..(first_row + end - at) * width;
                spans.push((&k[rows.clone()], &v[rows], start));
            }
            at += span.len();
        }
        debug_assert!(at >= seen.end, "keys of {at} positions for a query at {}", seen.end - 1);
        let sinks = op.sinks.as_deref();
        Block { spec, sinks, row: segment.rows.start + queries.start, queries, positions, spans, seen }
    }

    /// The query heads that share `kv_head`. `out` holds the block's rows from column `skip` on.
    fn run(&self, q: &[f32], kv_head: usize, out: &mut [f32], skip: usize, scratch: &mut Vec<f32>) {
        let AttentionSpec { heads, kv_heads, head_dim, scale, softcap, .. } = *self.spec;
        let (n, keys) = (self.queries.len(), self.seen.len());
        let stride = heads * head_dim;
        scratch.clear();
        scratch.resize(n * keys, 0.0);
        for head in kv_head * (heads / kv_heads)..(kv_head + 1) * (heads / kv_heads) {
            let q = &q[self.row * heads * head_dim + head * head_dim..];
            for &(k, _, start) in &self.spans {
                let scores = Strided { data: &mut scratch[start - self.seen.start..], stride: keys };
                self.scores(q, &k[kv_head * head_dim..], start, scores);
            }
            for (i, scores) in scratch.chunks_exact_mut(keys).enumerate() {
                let first = self.spec.first_seen(self.positions[i]);
                softmax(
                    scores,
                    first.max(self.seen.start) - self.seen.start..self.positions[i] + 1 - self.seen.start,
                    scale,
                    softcap,
                    self.sinks.map(|sinks| sinks[head]),
                );
            }
            let out = &mut out[head * head_dim - skip..];
            for &(_, v, start) in &self.spans {
                let weights = &scratch[start - self.seen.start..];
                self.mix(weights, keys, &v[kv_head * head_dim..], start, Strided { data: &mut out[..], stride });
            }
        }
    }

    /// Rows of a span of keys or values that begins at this slice.
    fn span_len(&self, data: &[f32]) -> usize {
        data.len().div_ceil(self.spec.kv_heads * self.spec.head_dim)
    }

    /// Dot products of every query with the keys of a span. Keys after a query's position may be left out.
    fn scores(&self, q: &[f32], k: &[f32], start: usize, out: Strided<'_>) {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = *self.spec;
        let (n, keys) = (self.queries.len(), self.span_len(k));
        if n >= PRODUCT_FROM.0 && keys >= PRODUCT_FROM.1 {
            let q = strided(q, n, head_dim, heads * head_dim);
            let k = strided(k, keys, head_dim, kv_heads * head_dim);
            return matmul(out.matrix(n, keys), Accum::Replace, q, k.transpose(), 1.0, Par::Seq);
        }
        for i in 0..n {
            let q = &q[i * heads * head_dim..][..head_dim];
            let seen = (self.positions[i] + 1).saturating_sub(start).min(keys);
            for (o, k) in out.data[i * out.stride..][..seen].iter_mut().zip(k.chunks(kv_heads * head_dim)) {
                *o = dot(q, &k[..head_dim]);
            }
        }
    }

    /// Adds to every query's output the values of a span, weighted. Weights of keys that are not seen are 0.
    fn mix(&self, weights: &[f32], stride: usize, v: &[f32], start: usize, out: Strided<'_>) {
        let AttentionSpec { kv_heads, head_dim, .. } = *self.spec;
        let (n, keys) = (self.queries.len(), self.span_len(v));
        if n >= PRODUCT_FROM.0 && keys >= PRODUCT_FROM.1 {
            let (weights, v) = (strided(weights, n, keys, stride), strided(v, keys, head_dim, kv_heads * head_dim));
            return matmul(out.matrix(n, head_dim), Accum::Add, weights, v, 1.0, Par::Seq);
        }
        for i in 0..n {
            let out = &mut out.data[i * out.stride..][..head_dim];
            let seen = (self.positions[i] + 1).saturating_sub(start).min(keys);
            for (&w, v) in weights[i * stride..][..seen].iter().zip(v.chunks(kv_heads * head_dim)) {
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

/// Lanes of sums over one vector: two registers of eight.
const LANES: usize = 16;

#[inline]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    total(lanes) + rest
}

fn total(lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    let mut lanes = lanes;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Softmax over the scores at `seen`, scaled and capped, and over `sink`, whose share is lost; the rest becomes 0.
fn softmax(scores: &mut [f32], seen: Range<usize>, scale: f32, softcap: Option<f32>, sink: Option<f32>) {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let scores = &mut scores[seen];
    match softcap {
        None => scores.iter_mut().for_each(|s| *s *= scale),
        Some(cap) => scores.iter_mut().for_each(|s| *s = cap * tanh(*s * scale / cap)),
    }
    let largest = scores.iter().copied().fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - largest);
            lanes[i] += chunk[i];
        }
    }
    let mut sum = total(lanes);
    for s in rest {
        *s = exp(*s - largest);
        sum += *s;
    }
    if let Some(sink) = sink {
        sum += exp(sink - largest);
    }
    let factor = 1.0 / sum;
    scores.iter_mut().for_each(|s| *s *= factor);
}

#[cfg(test)]
mod tests;
