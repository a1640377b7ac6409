//! Rotary position embeddings (Su et al., arXiv 2104.09864) and the ways they are scaled to longer texts.
//!
//! Dimensions i and i + d/2 of a head are a pair, in some families 2i and 2i + 1, rotated at position p by the angle
//! p·θᵢ. Unscaled, θᵢ = base^(-2i/d).
//!
//! | `rope_type` | frequencies | source |
//! |---|---|---|
//! | `default` | θᵢ | |
//! | `linear` | θᵢ / factor | kaiokendev, 2023; arXiv 2306.15595 |
//! | `dynamic` | base · (factor·n/m − factor + 1)^(d/(d−2)) for sequences of n > m tokens | bloc97, emozilla, 2023 |
//! | `llama3` | long waves / factor, short waves unchanged, smooth in between | Llama 3.1 |
//! | `yarn` | between θᵢ/factor and θᵢ by a ramp over i; cos and sin × attention factor | arXiv 2309.00071 |
//! | `longrope` | θᵢ / fᵢ, with one list of fᵢ up to the original length and another beyond | arXiv 2402.13753 |
//!
//! Where the frequencies depend on the length of a sequence (`dynamic`, `longrope`), the length that counts for a token
//! is that of the longest branch of its tree that runs through it in the pass that computes it. Keys kept from earlier
//! passes stay as they were rotated then, as in transformers; [`crate::Model::same_rotation`] says whether a cache
//! still fits.

use crate::error::LmError;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use glue_tensor::config;
use parking_lot::RwLock;
use rayon::prelude::*;
use serde_json::Value;
use std::f64::consts::TAU;
use std::sync::Arc;

/// What the frequencies of a rotary embedding are.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Frequencies {
    /// The same at every length, one per pair of dimensions, in radians per position.
    Fixed(Vec<f32>),
    /// `dynamic`: from a base that grows with sequences longer than `original`.
    Dynamic {
        /// The unscaled base.
        base: f64,
        /// `factor`.
        factor: f64,
        /// Length up to which nothing is scaled.
        original: usize,
    },
    /// `longrope`: one set up to the length `original`, another beyond.
    Long {
        /// Frequencies of sequences of up to `original` tokens.
        short: Vec<f32>,
        /// Frequencies of longer ones.
        long: Vec<f32>,
        /// Where the sets change.
        original: usize,
    },
}

/// The rotary embedding of some or all layers of a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// Leading dimensions of each head that are rotated; even, at least 2 and at most the dimensions of a head.
    pub dims: usize,
    /// The frequencies.
    pub frequencies: Frequencies,
    /// Factor on cos and sin; 1 unless `yarn` or `longrope` sets it.
    pub attention_factor: f32,
    /// Whether neighbours are rotated together, dimensions 2i and 2i + 1, and not i and i + d/2.
    pub interleaved: bool,
}

/// What a rotary embedding takes from the rest of the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub(crate) head_dim: usize,
    pub(crate) max_positions: usize,
    /// `original_max_position_embeddings` at the top of the configuration.
    pub(crate) original: Option<usize>,
    pub(crate) interleaved: bool,
}

impl Rope {
    /// Checks one rotary embedding of a configuration. Errors name keys under `prefix`.
    pub(crate) fn from_config(
        rope: &config::Rope,
        context: Context,
        prefix: &str,
    ) -> std::result::Result<Rope, LmError> {
        let keys = Keys { rope, prefix };
        if !(rope.theta.is_finite() && rope.theta > 0.0) {
            return Err(keys.bad("rope_theta", "a positive number", rope.theta.into()));
        }
        let dims = (context.head_dim as f64 * rope.partial) as usize;
        if dims < 2 || !dims.is_multiple_of(2) || dims > context.head_dim {
            let expected = format!("a share of {} dimensions that is a positive even number", context.head_dim);
            return Err(keys.bad("partial_rotary_factor", &expected, rope.partial.into()));
        }
        let plain = || frequencies(rope.theta, dims);
        // Scaled kinds take the original length from the top of the configuration, then from their own parameters.
        let original = || match (context.original, &rope.layer_type) {
            (Some(original), None) => Ok::<_, LmError>(original as f64),
            _ => Ok(keys.positive("original_max_position_embeddings")?.unwrap_or(context.max_positions as f64)),
        };
        let fixed = |values: Vec<f64>, attention_factor: f64| Rope {
            dims,
            frequencies: Frequencies::Fixed(values.into_iter().map(|f| f as f32).collect()),
            attention_factor: attention_factor as f32,
            interleaved: context.interleaved,
        };
        Ok(match rope.kind.as_str() {
            "default" => fixed(plain(), 1.0),
            "linear" => {
                let factor = keys.required("factor")?;
                fixed(plain().into_iter().map(|f| f / factor).collect(), 1.0)
            }
            "dynamic" => {
                if dims < 4 {
                    return Err(keys.bad("rope_type", "a kind for heads of 2 dimensions", "dynamic".into()));
                }
                let frequencies = Frequencies::Dynamic {
                    base: rope.theta,
                    factor: keys.required("factor")?,
                    original: context.max_positions,
                };
                Rope { dims, frequencies, attention_factor: 1.0, interleaved: context.interleaved }
            }
            "llama3" => {
                let (factor, original) = (keys.required("factor")?, original()?);
                let (low, high) = (keys.required("low_freq_factor")?, keys.required("high_freq_factor")?);
                if low > high {
                    return Err(keys.bad("high_freq_factor", "at least `low_freq_factor`", high.into()));
                }
                let scale = |f: f64| {
                    let turns = original * f / TAU;
                    // Llama 4 has a step in place of the slope.
                    let smooth = match low == high {
                        true => f64::from(turns >= low),
                        false => ((turns - low) / (high - low)).clamp(0.0, 1.0),
                    };
                    (1.0 - smooth) * f / factor + smooth * f
                };
                fixed(plain().into_iter().map(scale).collect(), 1.0)
            }
            "yarn" => {
                let original = original()?;
                let factor = keys.positive("factor")?.unwrap_or(context.max_positions as f64 / original);
                let (values, attention_factor) = yarn(&keys, plain(), dims, original, factor)?;
                fixed(values, attention_factor)
            }
            "longrope" => {
                let original = original()?;
                let factor = keys.positive("factor")?.unwrap_or(context.max_positions as f64 / original);
                let inferred = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                let attention_factor = keys.positive("attention_factor")?.unwrap_or(inferred);
                let set = |key| -> std::result::Result<Vec<f32>, LmError> {
                    let factors = keys.list(key, dims / 2)?;
                    Ok(plain().into_iter().zip(factors).map(|(f, factor)| (f / factor) as f32).collect())
                };
                Rope {
                    dims,
                    frequencies: Frequencies::Long {
                        short: set("short_factor")?,
                        long: set("long_factor")?,
                        original: original as usize,
                    },
                    attention_factor: attention_factor as f32,
                    interleaved: context.interleaved,
                }
            }
            other => {
                return Err(LmError::Unsupported {
                    key: format!("{prefix}.rope_type"),
                    value: Value::from(other).to_string(),
                    reason: "one of default, linear, dynamic, llama3, yarn, longrope is".to_owned(),
                });
            }
        })
    }

    /// Whether [`Rope::at_length`] is not the same at all lengths.
    pub fn depends_on_length(&self) -> bool {
        !matches!(self.frequencies, Frequencies::Fixed(_))
    }

    /// A number that is the same for two lengths at which the frequencies are the same.
    pub(crate) fn length_class(&self, length: usize) -> usize {
        match self.frequencies {
            Frequencies::Fixed(_) => 0,
            Frequencies::Dynamic { original, .. } => {
                if length > original {
                    length
                } else {
                    0
                }
            }
            Frequencies::Long { original, .. } => usize::from(length > original),
        }
    }

    /// The frequencies for a sequence of `length` tokens: `dims / 2` of them, in radians per position.
    pub fn at_length(&self, length: usize) -> Vec<f32> {
        match &self.frequencies {
            Frequencies::Fixed(values) => values.clone(),
            Frequencies::Dynamic { base, factor, original } => {
                let stretch = factor * length.max(*original) as f64 / *original as f64 - (factor - 1.0);
                let d = self.dims as f64;
                let base = base * stretch.powf(d / (d - 2.0));
                frequencies(base, self.dims).into_iter().map(|f| f as f32).collect()
            }
            Frequencies::Long { short, long, original } => if length > *original { long } else { short }.clone(),
        }
    }
}

fn frequencies(base: f64, dims: usize) -> Vec<f64> {
    (0..dims / 2).map(|i| base.powf(-2.0 * i as f64 / dims as f64)).collect()
}

/// What YaRN multiplies queries and keys with, 1 + 0.1 · mscale · ln(factor).
pub(crate) fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Frequencies and attention factor of YaRN.
fn yarn(
    keys: &Keys<'_>,
    plain: Vec<f64>,
    dims: usize,
    original: f64,
    factor: f64,
) -> std::result::Result<(Vec<f64>, f64), LmError> {
    let magnitude = |mscale: f64| yarn_magnitude(factor, mscale);
    let inferred = match (keys.number("mscale")?, keys.number("mscale_all_dim")?) {
        (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => magnitude(mscale) / magnitude(all),
        _ => magnitude(1.0),
    };
    let attention_factor = keys.positive("attention_factor")?.unwrap_or(inferred);
    let truncate = match keys.rope.parameters.get("truncate") {
        None => true,
        Some(Value::Bool(truncate)) => *truncate,
        Some(other) => return Err(keys.bad("truncate", "true or false", other.clone())),
    };
    // The dimension whose wave turns `rotations` times in the original length.
    let d = dims as f64;
    let dimension = |rotations: f64| d * (original / (rotations * TAU)).ln() / (2.0 * keys.rope.theta.ln());
    let mut low = dimension(keys.positive("beta_fast")?.unwrap_or(32.0));
    let mut high = dimension(keys.positive("beta_slow")?.unwrap_or(1.0));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(d - 1.0));
    if low == high {
        high += 0.001;
    }
    let scale = |(i, f): (usize, f64)| {
        let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        f / factor * interpolated + f * (1.0 - interpolated)
    };
    Ok((plain.into_iter().enumerate().map(scale).collect(), attention_factor))
}

/// Reads parameters of a rotary embedding, with errors that name them.
struct Keys<'a> {
    rope: &'a config::Rope,
    prefix: &'a str,
}

impl Keys<'_> {
    fn bad(&self, key: &str, expected: &str, found: Value) -> LmError {
        let key = format!("{}.{key}", self.prefix);
        LmError::BadValue { key, expected: expected.to_owned(), found: found.to_string() }
    }

    fn number(&self, key: &str) -> std::result::Result<Option<f64>, LmError> {
        let Some(value) = self.rope.parameters.get(key) else {
            return Ok(None);
        };
        value.as_f64().map(Some).ok_or_else(|| self.bad(key, "a number", value.clone()))
    }

    fn positive(&self, key: &str) -> std::result::Result<Option<f64>, LmError> {
        match self.number(key)? {
            Some(value) if value <= 0.0 => Err(self.bad(key, "a positive number", value.into())),
            value => Ok(value),
        }
    }

    fn required(&self, key: &str) -> std::result::Result<f64, LmError> {
        self.positive(key)?.ok_or_else(|| LmError::MissingKey { key: format!("{}.{key}", self.prefix) })
    }

    fn list(&self, key: &str, len: usize) -> std::result::Result<Vec<f64>, LmError> {
        let Some(value) = self.rope.parameters.get(key) else {
            return Err(LmError::MissingKey { key: format!("{}.{key}", self.prefix) });
        };
        let numbers = value.as_array().map(|list| list.iter().filter_map(Value::as_f64).filter(|&f| f > 0.0).collect());
        match numbers {
            Some(numbers) if Vec::len(&numbers) == len && value.as_array().map(Vec::len) == Some(len) => Ok(numbers),
            _ => Err(self.bad(key, &format!("a list of {len} positive numbers"), value.clone())),
        }
    }
}

/// Cosines and sines of some rows of a pass, [rows, dims / 2] each.
#[derive(Debug)]
pub(crate) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    interleaved: bool,
}

impl Angles {
    fn with_capacity(rows: usize, half: usize, interleaved: bool) -> Angles {
        Angles { cos: Vec::with_capacity(rows * half), sin: Vec::with_capacity(rows * half), half, interleaved }
    }

    fn rows(&self) -> usize {
        self.cos.len() / self.half
    }

    fn push_computed(&mut self, position: usize, frequencies: &[f32], factor: f32) {
        for &f in frequencies {
            // The product in f32 and the functions of it exactly: what transformers computes.
            let (sin, cos) = f64::from(position as f32 * f).sin_cos();
            self.cos.push(cos as f32 * factor);
            self.sin.push(sin as f32 * factor);
        }
    }

    fn push_row(&mut self, from: &Angles, row: usize) {
        let range = row * self.half..(row + 1) * self.half;
        self.cos.extend_from_slice(&from.cos[range.clone()]);
        self.sin.extend_from_slice(&from.sin[range]);
    }

    /// The rows named.
    pub(crate) fn select(&self, rows: &[usize]) -> Angles {
        let mut selected = Angles::with_capacity(rows.len(), self.half, self.interleaved);
        rows.iter().for_each(|&row| selected.push_row(self, row));
        selected
    }
}

/// A rotary embedding with the angles computed so far.
#[derive(Debug)]
pub(crate) struct RopeTables {
    rope: Rope,
    /// Angles at the positions from 0 on, at lengths of class 0 and 1; `dynamic` beyond its original length has none.
    tables: [RwLock<Arc<Angles>>; 2],
}

impl RopeTables {
    pub(crate) fn new(rope: Rope) -> RopeTables {
        let empty = || RwLock::new(Arc::new(Angles::with_capacity(0, rope.dims / 2, rope.interleaved)));
        RopeTables { tables: [empty(), empty()], rope }
    }

    /// The angles of rows at `positions`, each in a sequence as long as the entry of `lengths` beside it.
    pub(crate) fn angles(&self, positions: &[usize], lengths: &[usize]) -> Angles {
        let mut angles = Angles::with_capacity(positions.len(), self.rope.dims / 2, self.rope.interleaved);
        let mut runs = positions.iter().zip(lengths).map(|(&p, &l)| (p, self.rope.length_class(l), l)).peekable();
        while let Some(&(_, length_class, length)) = runs.peek() {
            let run = std::iter::from_fn(|| runs.next_if(|row| row.1 == length_class)).map(|row| row.0);
            if length_class < self.tables.len() {
                let run: Vec<usize> = run.collect();
                let table = self.table(length_class, length, run.iter().max().map_or(0, |&last| last + 1));
                run.into_iter().for_each(|position| angles.push_row(&table, position));
            } else {
                let frequencies = self.rope.at_length(length);
                run.for_each(|position| angles.push_computed(position, &frequencies, self.rope.attention_factor));
            }
        }
        angles
    }

    fn table(&self, length_class: usize, length: usize, rows: usize) -> Arc<Angles> {
        let known = Arc::clone(&self.tables[length_class].read());
        if known.rows() >= rows {
            return known;
        }
        let rows = rows.next_power_of_two().max(256);
        let mut table = Angles::with_capacity(rows, self.rope.dims / 2, self.rope.interleaved);
        let frequencies = self.rope.at_length(length);
        (0..rows).for_each(|position| table.push_computed(position, &frequencies, self.rope.attention_factor));
        let table = Arc::new(table);
        *self.tables[length_class].write() = Arc::clone(&table);
        table
    }

    pub(crate) fn rope(&self) -> &Rope {
        &self.rope
    }
}

/// Numbers from which rows are handed to other threads.
const PARALLEL_FROM: usize = 1 << 16;

/// Rows that a task rotates.
const ROWS: usize = 32;

/// Rotates every head of `x` [rows, heads · head_dim] by the angles of its row.
pub(crate) fn rotate(x: &Tensor, angles: &Arc<Angles>, head_dim: usize) -> Result<Tensor> {
    x.apply_op1(Rotate { angles: Arc::clone(angles), head_dim, back: false })
}

struct Rotate {
    angles: Arc<Angles>,
    head_dim: usize,
    /// Rotated the other way.
    back: bool,
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotary-embedding"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let Angles { cos, sin, half, interleaved } = &*self.angles;
        let (rows, width) = at.shape().dims2()?;
        let Some((start, end)) = at.contiguous_offsets() else {
            bail!("operand of shape {:?} is not contiguous", at.shape())
        };
        if rows != self.angles.rows() || width % self.head_dim != 0 || 2 * half > self.head_dim {
            bail!("{} rows of angles for heads of {} in {:?}", self.angles.rows(), self.head_dim, at.shape())
        }
        let mut out = x.as_slice::<f32>()?[start..end].to_vec();
        let sign = if self.back { -1.0 } else { 1.0 };
        let rotate = |(first_row, rows): (usize, &mut [f32])| {
            let skip = first_row * half;
            let angles = cos[skip..].chunks_exact(*half).zip(sin[skip..].chunks_exact(*half));
            for (row, (cos, sin)) in rows.chunks_exact_mut(width).zip(angles) {
                for head in row.chunks_exact_mut(self.head_dim) {
                    if *interleaved {
                        for (([a, b], &c), &s) in head[..2 * half].as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
                            let s = sign * s;
                            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                        }
                        continue;
                    }
                    let (first, second) = head[..2 * half].split_at_mut(*half);
                    for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                        let s = sign * s;
                        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                    }
                }
            }
        };
        if out.len() < PARALLEL_FROM {
            rotate((0, &mut out));
        } else {
            let parts = out.par_chunks_mut(ROWS * width).enumerate();
            parts.for_each(|(part, rows)| rotate((part * ROWS, rows)));
        }
        Ok((CpuStorage::F32(out), at.shape().clone()))
    }

    /// The transpose of a rotation is the rotation back, with the same factor.
    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Rotate { angles: Arc::clone(&self.angles), head_dim: self.head_dim, back: !self.back };
        grad.contiguous()?.apply_op1_no_bwd(&back).map(Some)
    }
}

#[cfg(test)]
mod tests;
