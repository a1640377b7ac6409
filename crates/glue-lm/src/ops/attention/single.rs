//! A single query, as in decoding: pieces of its keys, each read once for all heads, and what they make together.
//!
//! With m the largest score of a piece, a piece gives Σ e^(s − m)·v, m and Σ e^(s − m) for each head. Over all pieces,
//! M being the largest m, the output is Σ e^(m − M)·(its first) / Σ e^(m − M)·(its last).

use super::super::dots::dots;
use super::super::exp::exp;
use super::super::kept::{Numbers, widen};
use super::{AttentionSpec, Block, Scratch, weigh};
use std::ops::Range;

/// Positions in a piece. Pieces begin at its multiples.
const PIECE: usize = 128;

/// Rows done at a time: a query, and what values are added to, are loaded once for all of them.
const ROWS: usize = 4;

/// The pieces of some positions.
pub(super) fn pieces(seen: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, end) = (seen.start, seen.end);
    (start / PIECE..end.div_ceil(PIECE)).map(move |piece| (piece * PIECE).max(start)..((piece + 1) * PIECE).min(end))
}

impl Block<'_> {
    /// What the keys at these positions make of the only query: for each head its weighted values, the largest score
    /// and the sum of the weights.
    pub(super) fn keys(&self, q: &[f32], keys: &Range<usize>, scratch: &mut Scratch) -> Vec<f32> {
        let AttentionSpec { heads, kv_heads, head_dim, scale, softcap, .. } = *self.spec;
        let (n, width, kv_width) = (keys.len(), heads * head_dim, kv_heads * head_dim);
        let q = &q[self.row * width..][..width];
        let scores = &mut scratch.scores;
        scores.clear();
        scores.resize(heads * n, 0.0);
        // The parts of the spans that lie among these positions, with the place of their first key.
        let parts = || {
            self.spans.iter().filter_map(|span| {
                let (start, end) = (keys.start.max(span.start), keys.end.min(span.start + span.rows));
                let elements = || (start - span.start) * kv_width..(end - span.start) * kv_width;
                (start < end).then(|| (span.k.slice(elements()), span.v.slice(elements()), start - keys.start))
            })
        };
        for (k, _, at) in parts() {
            match k {
                Numbers::F32(k) => score_rows(self.spec, q, k, |x| x, at, n, scores),
                Numbers::Bf16(k) => score_rows(self.spec, q, k, widen, at, n, scores),
            }
        }
        let mut out = vec![0.0; heads * (head_dim + 2)];
        for (scores, out) in scores.chunks_exact_mut(n).zip(out.chunks_exact_mut(head_dim + 2)) {
            let (largest, sum) = weigh(scores, scale, softcap, None);
            (out[head_dim], out[head_dim + 1]) = (largest, sum);
        }
        for (_, v, at) in parts() {
            match v {
                Numbers::F32(v) => mix_rows(self.spec, scores, v, |x| x, at, n, &mut out),
                Numbers::Bf16(v) => mix_rows(self.spec, scores, v, widen, at, n, &mut out),
            }
        }
        out
    }
}

/// The dot products of all heads of a query with rows of keys, into `scores` [heads, n] from column `at` on.
fn score_rows<E: Copy>(
    spec: &AttentionSpec,
    q: &[f32],
    k: &[E],
    widen: impl Fn(E) -> f32 + Copy,
    at: usize,
    n: usize,
    scores: &mut [f32],
) {
    let (dim, group, width) = (spec.head_dim, spec.heads / spec.kv_heads, spec.kv_heads * spec.head_dim);
    for (part, rows) in k.chunks(ROWS * width).enumerate() {
        for head in 0..spec.heads {
            let q = &q[head * dim..][..dim];
            let key = |row: usize| &rows[row * width + head / group * dim..][..dim];
            let scores = &mut scores[head * n + at + part * ROWS..];
            if rows.len() == ROWS * width {
                scores[..ROWS].copy_from_slice(&dots(q, [0, 1, 2, 3].map(key), widen));
            } else {
                for (row, score) in scores.iter_mut().enumerate().take(rows.len() / width) {
                    [*score] = dots(q, [key(row)], widen);
                }
            }
        }
    }
}

/// Adds rows of values, weighted, to the outputs of all heads. In the order of the rows, however they are grouped.
fn mix_rows<E: Copy>(
    spec: &AttentionSpec,
    weights: &[f32],
    v: &[E],
    widen: impl Fn(E) -> f32 + Copy,
    at: usize,
    n: usize,
    out: &mut [f32],
) {
    let (dim, group, width) = (spec.head_dim, spec.heads / spec.kv_heads, spec.kv_heads * spec.head_dim);
    let add_rows = |first: usize, rows: &[E], out: &mut [f32]| {
        for head in 0..spec.heads {
            let column = head / group * dim;
            let out = &mut out[head * (dim + 2)..][..dim];
            let w = &weights[head * n + at + first..];
            if rows.len() == ROWS * width {
                let [a, b, c, d] = [0, 1, 2, 3].map(|row| &rows[row * width + column..][..dim]);
                for i in 0..dim {
                    let sum = out[i] + w[0] * widen(a[i]);
                    let sum = sum + w[1] * widen(b[i]);
                    let sum = sum + w[2] * widen(c[i]);
                    out[i] = sum + w[3] * widen(d[i]);
                }
            } else {
                for (row, &w) in rows.chunks_exact(width).zip(w) {
                    for (o, &v) in out.iter_mut().zip(&row[column..][..dim]) {
                        *o += w * widen(v);
                    }
                }
            }
        }
    };
    for (group, rows) in v.chunks(ROWS * width).enumerate() {
        add_rows(group * ROWS, rows, out);
    }
}

/// The output of all heads from what the pieces gave, in order of position, and the score of each head without a value.
pub(super) fn combine(pieces: &[&[f32]], spec: &AttentionSpec, sinks: Option<&[f32]>, out: &mut [f32]) {
    let dim = spec.head_dim;
    for (head, out) in out.chunks_exact_mut(dim).enumerate() {
        let of_head = || pieces.iter().map(|piece| &piece[head * (dim + 2)..][..dim + 2]);
        let sink = sinks.map(|sinks| sinks[head]);
        let largest = of_head().map(|part| part[dim]).fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
        let mut sum = 0.0;
        for part in of_head() {
            let factor = exp(part[dim] - largest);
            sum += factor * part[dim + 1];
            out.iter_mut().zip(part).for_each(|(o, x)| *o += factor * x);
        }
        if let Some(sink) = sink {
            sum += exp(sink - largest);
        }
        let factor = 1.0 / sum;
        out.iter_mut().for_each(|o| *o *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_what_is_seen_and_begin_at_fixed_positions() {
        let ends = |seen: Range<usize>| pieces(&seen).map(|piece| (piece.start, piece.end)).collect::<Vec<_>>();
        assert_eq!(ends(0..1), [(0, 1)]);
        assert_eq!(ends(0..128), [(0, 128)]);
        assert_eq!(ends(5..300), [(5, 128), (128, 256), (256, 300)]);
        assert_eq!(ends(256..257), [(256, 257)]);
    }
}
