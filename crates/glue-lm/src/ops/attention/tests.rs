//! Attention against the plain formula in f64, over every way its keys can lie.

use super::super::kept::KvCacheType;
use super::*;
use crate::ops::gradients::numbers;
use candle_core::Device;

const WIDE: AttentionSpec =
    AttentionSpec { heads: 6, kv_heads: 2, head_dim: 20, scale: 0.2236, softcap: None, window: None, chunk: None };

/// Without sinks.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: Arc<[Segment]>, spec: &AttentionSpec) -> Result<Tensor> {
    attention_with_sinks(q, k, v, segments, spec, None)
}

/// Numbers between -2 and 2.
fn values(rows: usize, width: usize, seed: u32) -> Vec<f32> {
    numbers(rows * width, seed).into_iter().map(|x| 2.0 * x).collect()
}

/// One sequence of `length` positions, every one of them a query.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    length: usize,
    /// What keys and values are kept in.
    kind: KvCacheType,
    sinks: Option<Arc<[f32]>>,
}

impl Sequence {
    fn new(spec: &AttentionSpec, length: usize, seed: u32) -> Sequence {
        let kv = spec.kv_heads * spec.head_dim;
        Sequence {
            q: values(length, spec.heads * spec.head_dim, seed),
            k: values(length, kv, seed + 1),
            v: values(length, kv, seed + 2),
            length,
            kind: KvCacheType::F32,
            sinks: None,
        }
    }

    fn expected(&self, spec: &AttentionSpec) -> Vec<f64> {
        let AttentionSpec { heads, kv_heads, head_dim, scale, softcap, window, chunk } = *spec;
        let mut out = vec![0.0; self.length * heads * head_dim];
        for p in 0..self.length {
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                let first = window.map_or(0, |w| (p + 1).saturating_sub(w)).max(chunk.map_or(0, |c| p / c * c));
                let at = |row: usize, column: usize| (row * kv_heads + kv_head) * head_dim + column;
                let scores: Vec<f64> = (first..=p)
                    .map(|j| {
                        let q = &self.q[(p * heads + head) * head_dim..][..head_dim];
                        let dot: f64 =
                            q.iter().enumerate().map(|(c, q)| f64::from(*q) * f64::from(self.k[at(j, c)])).sum();
                        let score = dot * f64::from(scale);
                        softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sink = self.sinks.as_ref().map_or(0.0, |sinks| (f64::from(sinks[head]) - largest).exp());
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum::<f64>() + sink;
                for (j, s) in scores.iter().enumerate() {
                    let weight = (s - largest).exp() / sum;
                    for c in 0..head_dim {
                        out[(p * heads + head) * head_dim + c] += weight * f64::from(self.v[at(first + j, c)]);
                    }
                }
            }
        }
        out
    }

    /// The queries from `start` on, keys before it cut into spans of `kept` positions.
    fn run(&self, spec: &AttentionSpec, start: usize, kept: usize) -> Vec<f32> {
        let (width, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let mut spans = Vec::new();
        for at in (0..start).step_by(kept) {
            let end = (at + kept).min(start);
            // Room beyond what is named, as in a cache that grew for another branch.
            let chunk = Chunk::new(self.kind, &self.k[at * kv..], &self.v[at * kv..], kv);
            spans.push(Span::Before(Arc::new(chunk), end - at));
        }
        let rows = self.length - start;
        // The pass holds a foreign row before and after.
        let around = |values: &[f32]| [&vec![9.0; kv], &values[start * kv..], &vec![9.0; kv]].concat();
        spans.push(Span::Now(1..1 + rows));
        let segment = Segment { rows: 0..rows, positions: (start..self.length).collect(), spans };
        let tensor =
            |v: Vec<f32>, width: usize| Tensor::from_vec(v.clone(), (v.len() / width, width), &Device::Cpu).unwrap();
        let (k, v) = (tensor(around(&self.k), kv), tensor(around(&self.v), kv));
        let q = tensor(self.q[start * width..].to_vec(), width);
        let out = attention_with_sinks(&q, &k, &v, Arc::from([segment]), spec, self.sinks.as_ref()).unwrap();
        assert_eq!(out.dims(), [rows, width]);
        out.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn check(&self, spec: &AttentionSpec, start: usize, kept: usize) {
        let expected = &self.expected(spec)[start * spec.heads * spec.head_dim..];
        for (i, (o, e)) in self.run(spec, start, kept).into_iter().zip(expected).enumerate() {
            // Scores up to about 40, rounded to 2^-24 of that, act as relative errors of the weights.
            assert!((f64::from(o) - e).abs() < 2e-5, "{spec:?}, from {start}, spans of {kept}, element {i}: {o} {e}");
        }
    }
}

#[test]
fn every_split_of_the_keys_gives_the_formula() {
    for spec in [
        WIDE,
        AttentionSpec { softcap: Some(5.0), ..WIDE },
        AttentionSpec { window: Some(7), ..WIDE },
        AttentionSpec { window: Some(40), softcap: Some(30.0), ..WIDE },
        AttentionSpec { heads: 2, kv_heads: 2, head_dim: 33, ..WIDE },
        AttentionSpec { chunk: Some(16), ..WIDE },
        AttentionSpec { chunk: Some(50), window: Some(30), ..WIDE },
    ] {
        let long = Sequence::new(&spec, 150, 1);
        for (start, kept) in [(0, 1), (1, 1), (149, 149), (149, 10), (100, 64), (31, 5), (75, 75)] {
            long.check(&spec, start, kept);
        }
        Sequence::new(&spec, 1, 2).check(&spec, 0, 1);
        Sequence::new(&spec, 9, 3).check(&spec, 4, 2);
    }
}

/// Sinks below, among and above the scores, which reach about 40.
#[test]
fn sinks_take_a_share_of_the_weights() {
    for spec in [WIDE, AttentionSpec { window: Some(7), ..WIDE }, AttentionSpec { chunk: Some(16), ..WIDE }] {
        let sinks = Some(Arc::from([-30.0, -1.0, 0.0, 4.5, 12.0, 60.0]));
        let sequence = Sequence { sinks, ..Sequence::new(&spec, 150, 1) };
        for (start, kept) in [(0, 1), (149, 149), (100, 64), (31, 5)] {
            sequence.check(&spec, start, kept);
        }
        let plain = Sequence::new(&spec, 150, 1);
        assert_ne!(sequence.run(&spec, 149, 149), plain.run(&spec, 149, 149));
    }
    let sequence = Sequence { sinks: Some(Arc::from([1.0])), ..Sequence::new(&WIDE, 2, 1) };
    let q = Tensor::from_slice(&sequence.q, (2, 120), &Device::Cpu).unwrap();
    let k = Tensor::from_slice(&sequence.k, (2, 40), &Device::Cpu).unwrap();
    let segment = Segment { rows: 0..2, positions: vec![0, 1], spans: vec![Span::Now(0..2)] };
    let error = attention_with_sinks(&q, &k, &k, Arc::from([segment]), &WIDE, sequence.sinks.as_ref()).unwrap_err();
    assert!(error.to_string().contains("1 sinks for 6 heads"), "{error}");
}

#[test]
fn rounded_keys_and_values_give_the_formula_of_rounded_ones() {
    for spec in [WIDE, AttentionSpec { softcap: Some(5.0), window: Some(40), ..WIDE }] {
        let mut sequence = Sequence::new(&spec, 150, 9);
        sequence.kind = KvCacheType::Bf16;
        for values in [&mut sequence.k, &mut sequence.v] {
            values.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
        }
        for (start, kept) in [(149, 149), (149, 10), (100, 64)] {
            sequence.check(&spec, start, kept);
        }
    }
}

#[test]
fn a_single_query_does_not_depend_on_how_its_keys_lie() {
    let sequence = Sequence::new(&WIDE, 300, 3);
    let one = sequence.run(&WIDE, 299, 299);
    for kept in [1, 7, 16, 128, 130] {
        assert_eq!(sequence.run(&WIDE, 299, kept), one, "spans of {kept}");
    }
}

#[test]
fn chosen_queries_are_as_among_all() {
    let sequence = Sequence::new(&WIDE, 90, 4);
    let (width, kv) = (WIDE.heads * WIDE.head_dim, WIDE.kv_heads * WIDE.head_dim);
    let positions = vec![3, 40, 41, 89];
    let q: Vec<f32> = positions.iter().flat_map(|&p| sequence.q[p * width..][..width].to_vec()).collect();
    let tensor = |v: &[f32], width: usize| Tensor::from_slice(v, (v.len() / width, width), &Device::Cpu).unwrap();
    let segment = Segment { rows: 0..4, positions: positions.clone(), spans: vec![Span::Now(0..90)] };
    let (k, v) = (tensor(&sequence.k, kv), tensor(&sequence.v, kv));
    let out = attention(&tensor(&q, width), &k, &v, Arc::from([segment]), &WIDE).unwrap().to_vec2::<f32>().unwrap();
    let expected = sequence.expected(&WIDE);
    for (row, p) in out.iter().zip(positions) {
        assert!(row.iter().zip(&expected[p * width..]).all(|(o, e)| (f64::from(*o) - e).abs() < 2e-5), "{p}");
    }
}

#[test]
fn segments_share_a_prefix_and_threads_change_nothing() {
    let spec =
        AttentionSpec { heads: 8, kv_heads: 4, head_dim: 64, scale: 0.125, softcap: None, window: None, chunk: None };
    let sequence = Sequence::new(&spec, 300, 7);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (sequence.run(&spec, 0, 1), sequence.run(&spec, 299, 100)))
    };
    let one = run(1);
    assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
    sequence.check(&spec, 200, 100);

    // Rows 0..4 are a prefix; 4..6 and 6..9 both follow it.
    let kv = spec.kv_heads * spec.head_dim;
    let width = spec.heads * spec.head_dim;
    let rows = |data: &[f32], width: usize, rows: Range<usize>| data[rows.start * width..rows.end * width].to_vec();
    let other = Sequence::new(&spec, 7, 8);
    let join = |a: &[f32], b: &[f32], width| [rows(a, width, 0..6), rows(b, width, 4..7)].concat();
    let tensor =
        |v: Vec<f32>, width: usize| Tensor::from_vec(v.clone(), (v.len() / width, width), &Device::Cpu).unwrap();
    let segments = [
        Segment { rows: 0..6, positions: (0..6).collect(), spans: vec![Span::Now(0..4), Span::Now(4..6)] },
        Segment { rows: 6..9, positions: (4..7).collect(), spans: vec![Span::Now(0..4), Span::Now(6..9)] },
    ];
    let q = tensor(join(&sequence.q, &other.q, width), width);
    let k = tensor(join(&sequence.k, &other.k, kv), kv);
    let v = tensor(join(&sequence.v, &other.v, kv), kv);
    let out = attention(&q, &k, &v, Arc::from(segments), &spec).unwrap().to_vec2::<f32>().unwrap();
    let replace = |a: &[f32], b: &[f32], width| [rows(a, width, 0..4), rows(b, width, 4..7)].concat();
    let branch = Sequence {
        q: replace(&sequence.q, &other.q, width),
        k: replace(&sequence.k, &other.k, kv),
        v: replace(&sequence.v, &other.v, kv),
        length: 7,
        kind: KvCacheType::F32,
        sinks: None,
    };
    let expected = branch.expected(&spec);
    for (row, p) in out[6..].iter().zip(4..) {
        assert!(row.iter().zip(&expected[p * width..]).all(|(o, e)| (f64::from(*o) - e).abs() < 2e-5), "{p}");
    }
}

#[test]
fn gradients_are_those_of_differences() {
    let narrow =
        AttentionSpec { heads: 4, kv_heads: 2, head_dim: 3, scale: 0.6, softcap: None, window: None, chunk: None };
    for spec in [
        narrow,
        AttentionSpec { softcap: Some(1.5), ..narrow },
        AttentionSpec { window: Some(3), ..narrow },
        AttentionSpec { heads: 2, window: Some(2), softcap: Some(2.0), ..narrow },
        AttentionSpec { chunk: Some(2), ..narrow },
    ] {
        let kept = Chunk::new(KvCacheType::F32, &values(3, 6, 5), &values(3, 6, 6), 6);
        // Two sequences over the same beginning, one of them with kept keys before it, and queries of some rows only.
        let segments: Arc<[Segment]> = Arc::from([
            Segment { rows: 0..5, positions: (0..5).collect(), spans: vec![Span::Now(0..3), Span::Now(3..5)] },
            Segment { rows: 5..7, positions: vec![3, 5], spans: vec![Span::Now(0..3), Span::Now(5..8)] },
            Segment {
                rows: 7..9,
                positions: vec![3, 4],
                spans: vec![Span::Before(Arc::new(kept), 3), Span::Now(8..10)],
            },
        ]);
        let (width, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        crate::ops::gradients::check_gradients(&[&[9, width], &[10, kv], &[10, kv]], 1.0, |x| {
            attention(&x[0], &x[1], &x[2], Arc::clone(&segments), &spec)
        });
        let sinks: Arc<[f32]> = (0..spec.heads).map(|head| head as f32 - 1.0).collect();
        crate::ops::gradients::check_gradients(&[&[9, width], &[10, kv], &[10, kv]], 1.0, |x| {
            attention_with_sinks(&x[0], &x[1], &x[2], Arc::clone(&segments), &spec, Some(&sinks))
        });
    }
}
