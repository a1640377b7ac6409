//! Assignment of attention heads: KV heads among themselves, and inside each pair of them query heads and value
//! dimensions.
//!
//! With reference unit i and model unit j, the gains are
//!
//! * k\[i, j\] of pairing two KV heads, from what has no nested units (keys),
//! * q\[(i, a), (j, b)\] of pairing two query heads besides (queries),
//! * v\[(i, d), (j, e)\] of pairing two value dimensions (values),
//! * o\[(i, a, d), (j, b, e)\] of pairing both (outputs),
//!
//! and what is sought is KV heads p, query heads q_i and value dimensions v_i that maximise the sum of all. For a pair
//! (i, j), query heads given the value dimensions are an assignment problem, and the other way round: they are solved
//! in turn until neither gains, from several starts. Each pair then has one gain, and p is again an assignment
//! problem. The result is never worse than what it started from.

use crate::assignment::{assign, improve};
use crate::error::AlignError;
use crate::permutation::Permutation;
use rayon::prelude::*;

/// Numbers of KV heads, of query heads for each, and of value dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadShape {
    pub(crate) kv_heads: usize,
    pub(crate) queries: usize,
    pub(crate) values: usize,
}

/// Gains, row by row: each a square matrix over the units its comment names; empty where there are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadGains {
    /// KV heads.
    pub(crate) k: Vec<f64>,
    /// (KV head, query head).
    pub(crate) q: Vec<f64>,
    /// (KV head, value dimension).
    pub(crate) v: Vec<f64>,
    /// (KV head, query head, value dimension).
    pub(crate) o: Vec<f64>,
}

/// What is permuted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) kv_heads: bool,
    pub(crate) queries: bool,
    pub(crate) values: bool,
}

/// Permutations of one layer's heads; the nested ones by the index of their KV head in the permuted model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) kv_heads: Permutation,
    pub(crate) queries: Vec<Permutation>,
    pub(crate) values: Vec<Permutation>,
}

impl Heads {
    pub(crate) fn identity(shape: HeadShape) -> Heads {
        Heads {
            kv_heads: Permutation::identity(shape.kv_heads),
            queries: vec![Permutation::identity(shape.queries); shape.kv_heads],
            values: vec![Permutation::identity(shape.values); shape.kv_heads],
        }
    }
}

#[derive(Debug, Clone)]
struct Inner {
    queries: Permutation,
    values: Permutation,
    gain: f64,
}

struct Pair<'a> {
    gains: &'a HeadGains,
    shape: HeadShape,
    i: usize,
    j: usize,
}

impl Pair<'_> {
    fn k(&self) -> f64 {
        self.gains.k.get(self.i * self.shape.kv_heads + self.j).copied().unwrap_or(0.0)
    }

    fn q(&self, a: usize, b: usize) -> f64 {
        let g = self.shape.queries;
        let n = self.shape.kv_heads * g;
        self.gains.q.get((self.i * g + a) * n + self.j * g + b).copied().unwrap_or(0.0)
    }

    fn v(&self, d: usize, e: usize) -> f64 {
        let w = self.shape.values;
        let n = self.shape.kv_heads * w;
        self.gains.v.get((self.i * w + d) * n + self.j * w + e).copied().unwrap_or(0.0)
    }

    fn o(&self, a: usize, d: usize, b: usize, e: usize) -> f64 {
        let HeadShape { kv_heads, queries: g, values: w } = self.shape;
        let n = kv_heads * g * w;
        let (row, column) = ((self.i * g + a) * w + d, (self.j * g + b) * w + e);
        self.gains.o.get(row * n + column).copied().unwrap_or(0.0)
    }

    /// Gains of query heads, given the value dimensions.
    fn query_gains(&self, values: &Permutation) -> Vec<f64> {
        let g = self.shape.queries;
        let gain = |a, b| {
            let outputs: f64 = (0..self.shape.values).map(|d| self.o(a, d, b, values.source(d))).sum();
            self.q(a, b) + outputs
        };
        (0..g * g).map(|n| gain(n / g, n % g)).collect()
    }

    /// Gains of value dimensions, given the query heads.
    fn value_gains(&self, queries: &Permutation) -> Vec<f64> {
        let w = self.shape.values;
        let gain = |d, e| {
            let outputs: f64 = (0..self.shape.queries).map(|a| self.o(a, d, queries.source(a), e)).sum();
            self.v(d, e) + outputs
        };
        (0..w * w).map(|n| gain(n / w, n % w)).collect()
    }

    fn total(&self, queries: &Permutation, values: &Permutation) -> f64 {
        let HeadShape { queries: g, values: w, .. } = self.shape;
        let q: f64 = (0..g).map(|a| self.q(a, queries.source(a))).sum();
        let v: f64 = (0..w).map(|d| self.v(d, values.source(d))).sum();
        let o: f64 =
            (0..g).map(|a| (0..w).map(|d| self.o(a, d, queries.source(a), values.source(d))).sum::<f64>()).sum();
        self.k() + q + v + o
    }

    /// Query heads and value dimensions in turn, until neither gains.
    fn climb(&self, mut queries: Permutation, mut values: Permutation, free: Free) -> Result<Inner, AlignError> {
        let HeadShape { queries: g, values: w, .. } = self.shape;
        loop {
            let mut changed = false;
            if free.queries {
                let (better, _, gained) = improve(self.query_gains(&values), g, &queries)?;
                (queries, changed) = (better, gained);
            }
            if free.values {
                let (better, _, gained) = improve(self.value_gains(&queries), w, &values)?;
                (values, changed) = (better, changed || gained);
            }
            // With one of them fixed there is nothing to take turns with.
            let done = !(changed && free.queries && free.values);
            if done {
                let gain = self.total(&queries, &values);
                return Ok(Inner { queries, values, gain });
            }
        }
    }

    /// The best of several climbs; `current` is tried first and wins ties.
    fn best(&self, current: Option<(Permutation, Permutation)>, free: Free) -> Result<Inner, AlignError> {
        let HeadShape { queries: g, values: w, .. } = self.shape;
        let identity = || (Permutation::identity(g), Permutation::identity(w));
        let (queries, values) = current.unwrap_or_else(identity);
        let mut best = self.climb(queries, values, free)?;
        if !(free.queries && free.values) || g < 2 {
            return Ok(best);
        }
        let own_queries = assign((0..g * g).map(|n| self.q(n / g, n % g)).collect(), g)?.0;
        let own_values = assign((0..w * w).map(|n| self.v(n / w, n % w)).collect(), w)?.0;
        let mut starts = vec![(own_queries.clone(), own_values)];
        // Where values say nothing by themselves, the outputs of the first query head do, once its counterpart is
        // known.
        for b in 0..g {
            let gains = (0..w * w).map(|n| self.v(n / w, n % w) + self.o(0, n / w, b, n % w)).collect();
            starts.push((own_queries.clone(), assign(gains, w)?.0));
        }
        for (queries, values) in starts {
            let found = self.climb(queries, values, free)?;
            if found.gain > best.gain + best.gain.abs() * 1e-9 {
                best = found;
            }
        }
        Ok(best)
    }
}

/// Better permutations than `current`, or `current` itself; with their gain and whether they differ from `current`.
pub(crate) fn solve(
    gains: &HeadGains,
    shape: HeadShape,
    free: Free,
    current: &Heads,
) -> Result<(Heads, f64, bool), AlignError> {
    let n = shape.kv_heads;
    let pair = |i: usize, j: usize| {
        let here = current.kv_heads.source(i) == j;
        let start = here.then(|| (current.queries[i].clone(), current.values[i].clone()));
        Pair { gains, shape, i, j }.best(start, free)
    };
    let pairs: Vec<Option<Inner>> = (0..n * n)
        .into_par_iter()
        .map(|at| {
            let (i, j) = (at / n, at % n);
            (free.kv_heads || current.kv_heads.source(i) == j).then(|| pair(i, j)).transpose()
        })
        .collect::<Result<_, _>>()?;
    let gain_of = |inner: &Option<Inner>| inner.as_ref().map_or(0.0, |inner| inner.gain);
    let kv_heads = if free.kv_heads {
        improve(pairs.iter().map(gain_of).collect(), n, &current.kv_heads)?.0
    } else {
        current.kv_heads.clone()
    };
    let chosen: Vec<&Inner> = (0..n).filter_map(|i| pairs[i * n + kv_heads.source(i)].as_ref()).collect();
    let heads = Heads {
        queries: chosen.iter().map(|inner| inner.queries.clone()).collect(),
        values: chosen.iter().map(|inner| inner.values.clone()).collect(),
        kv_heads,
    };
    let changed = heads != *current;
    Ok((heads, chosen.iter().map(|inner| inner.gain).sum(), changed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: HeadShape = HeadShape { kv_heads: 3, queries: 2, values: 4 };

    fn hidden(seed: u64) -> Heads {
        let random = |len, stream| Permutation::random(len, seed, stream);
        Heads {
            kv_heads: random(SHAPE.kv_heads, 0),
            queries: (0..3).map(|i| random(SHAPE.queries, 10 + i)).collect(),
            values: (0..3).map(|i| random(SHAPE.values, 20 + i)).collect(),
        }
    }

    proptest! {
        #[test]
        fn heads_are_found_from_the_outputs_alone(seed: u64) {
            let HeadShape { kv_heads, queries: g, values: w } = SHAPE;
            let (truth, n) = (hidden(seed), kv_heads * g * w);
            let mut o: Vec<f64> = (0..n * n).map(|i| Permutation::random(9, seed, i as u64).source(0) as f64 / 20.0).collect();
            for i in 0..kv_heads {
                for a in 0..g {
                    for d in 0..w {
                        let j = truth.kv_heads.source(i);
                        let (b, e) = (truth.queries[i].source(a), truth.values[i].source(d));
                        o[((i * g + a) * w + d) * n + (j * g + b) * w + e] = 1.0;
                    }
                }
            }
            let gains = HeadGains { o, ..HeadGains::default() };
            let free = Free { kv_heads: true, queries: true, values: true };
            let (found, gain, changed) = solve(&gains, SHAPE, free, &Heads::identity(SHAPE)).unwrap();
            prop_assert_eq!(&found, &truth);
            prop_assert_eq!(changed, truth != Heads::identity(SHAPE));
            // Twenty-four ones, exact but for the rounding of the assignment.
            prop_assert!((gain - n as f64).abs() < 1e-9);
            let (again, _, changed) = solve(&gains, SHAPE, free, &found).unwrap();
            prop_assert_eq!((again, changed), (found, false));
        }
    }
}
