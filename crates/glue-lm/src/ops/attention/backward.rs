//! The gradient of attention with respect to queries, keys and values of the pass; what was kept is constant.
//!
//! With scores s = q·k·scale, capped to c, weights p = softmax(c), outputs o = Σ p·v and the gradient g of o:
//! dv = p·g, dc = p·(g·v − Σ p·(g·v)), ds = dc·dc/ds, dq = scale·Σ ds·k, dk = scale·Σ ds·q.

use super::super::dots::dot;
use super::super::elements;
use super::super::exp::tanh;
use super::super::kept::Numbers;
use super::{Attention, Segment, Span, softmax};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;

/// The gradients of q, k and v, of their shapes.
pub(super) fn gradients(op: &Attention, q: &Tensor, k: &Tensor, v: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
    let spec = &op.spec;
    let (width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let whole = Whole { q: elements(q)?, k: elements(k)?, v: elements(v)?, grad: elements(grad)? };
    // Heads of keys share nothing, so that each is done by one thread and no sum depends on how many there are.
    let heads: Vec<[Vec<f32>; 3]> = (0..spec.kv_heads).into_par_iter().map(|head| of_head(op, &whole, head)).collect();
    let mut out = [vec![0.0; whole.q.len()], vec![0.0; whole.k.len()], vec![0.0; whole.v.len()]];
    let group = width / spec.kv_heads;
    for (head, parts) in heads.iter().enumerate() {
        for ((out, part), (width, own)) in
            out.iter_mut().zip(parts).zip([(width, group), (kv_width, spec.head_dim), (kv_width, spec.head_dim)])
        {
            for (out, part) in out.chunks_exact_mut(width).zip(part.chunks_exact(own)) {
                out[head * own..][..own].copy_from_slice(part);
            }
        }
    }
    let [of_q, of_k, of_v] = out;
    Ok([
        Tensor::from_vec(of_q, q.shape(), &Device::Cpu)?,
        Tensor::from_vec(of_k, k.shape(), &Device::Cpu)?,
        Tensor::from_vec(of_v, v.shape(), &Device::Cpu)?,
    ])
}

struct Whole {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    grad: Vec<f32>,
}

/// The key and value of a position, and their row in the pass.
type Key<'a> = (&'a [f32], &'a [f32], Option<usize>);

/// Keys and values of each span of a segment that an earlier pass kept, as `f32`; nothing for the others.
fn kept<'s>(segment: &'s Segment) -> Vec<[Cow<'s, [f32]>; 2]> {
    let of_span = |span: &'s Span| match span {
        Span::Now(_) => [Cow::default(), Cow::default()],
        Span::Before(chunk, _) => chunk.numbers().map(Numbers::widened),
    };
    segment.spans.iter().map(of_span).collect()
}

/// The keys of a segment in order of position, for one head. `kept` are those of earlier passes.
fn keys<'a>(
    segment: &'a Segment,
    kept: &'a [[Cow<'_, [f32]>; 2]],
    whole: &'a Whole,
    width: usize,
    skip: usize,
    head_dim: usize,
) -> Vec<Key<'a>> {
    let of_span = |(span, [k, v]): (&'a Span, &'a [Cow<'_, [f32]>; 2])| -> Vec<Key<'a>> {
        let at = |data: &'a [f32], row: usize| &data[row * width + skip..][..head_dim];
        match span {
            Span::Now(rows) => rows.clone().map(|row| (at(&whole.k, row), at(&whole.v, row), Some(row))).collect(),
            Span::Before(_, len) => (0..*len).map(|row| (at(k, row), at(v, row), None)).collect(),
        }
    };
    segment.spans.iter().zip(kept).flat_map(of_span).collect()
}

/// Gradients of the query heads of one head of keys, and of that head: [rows, heads of the group · head_dim] and twice
/// [rows, head_dim].
fn of_head(op: &Attention, whole: &Whole, kv_head: usize) -> [Vec<f32>; 3] {
    let spec = &op.spec;
    let d = spec.head_dim;
    let (width, kv_width) = (spec.heads * d, spec.kv_heads * d);
    let group = spec.heads / spec.kv_heads;
    let mut of_q = vec![0.0; whole.q.len() / width * group * d];
    let mut of_k = vec![0.0; whole.k.len() / kv_width * d];
    let mut of_v = vec![0.0; of_k.len()];
    for segment in &*op.segments {
        let kept = kept(segment);
        let keys = keys(segment, &kept, whole, kv_width, kv_head * d, d);
        for (row, &position) in segment.rows.clone().zip(&segment.positions) {
            let first = spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let keys = &keys[first..position + 1];
            for head in 0..group {
                let at = row * width + (kv_head * group + head) * d;
                let (q, grad) = (&whole.q[at..][..d], &whole.grad[at..][..d]);
                let scores: Vec<f32> = keys.iter().map(|(k, ..)| dot(q, k)).collect();
                let mut weights = scores.clone();
                softmax(&mut weights, 0..keys.len(), spec.scale, spec.softcap);
                let along: Vec<f32> = keys.iter().map(|(_, v, _)| dot(grad, v)).collect();
                let mean: f32 = weights.iter().zip(&along).map(|(p, a)| p * a).sum();
                let of_q = &mut of_q[(row * group + head) * d..][..d];
                for (j, (k, _, now)) in keys.iter().enumerate() {
                    let slope = spec.softcap.map_or(1.0, |cap| 1.0 - tanh(scores[j] * spec.scale / cap).powi(2));
                    let of_score = weights[j] * (along[j] - mean) * slope * spec.scale;
                    of_q.iter_mut().zip(*k).for_each(|(o, k)| *o += of_score * k);
                    if let Some(now) = *now {
                        of_k[now * d..][..d].iter_mut().zip(q).for_each(|(o, q)| *o += of_score * q);
                        of_v[now * d..][..d].iter_mut().zip(grad).for_each(|(o, g)| *o += weights[j] * g);
                    }
                }
            }
        }
    }
    [of_q, of_k, of_v]
}
