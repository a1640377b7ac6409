//! Random numbers that are a function of (seed, name, element): noise on experts, and gates to begin with.
//!
//! Element n is that of the SplitMix64 sequence of a key (see [`glue_tensor::random`]), at once and on any thread.
//! Normal numbers are the two of a Box-Muller pair, one pair for two neighbouring elements.

use crate::gates::{Gate, Gates};
use crate::sites::Sites;
use crate::spec::RouterKind;
use glue_tensor::random::{at, mix};
use std::f64::consts::TAU;

/// A sequence of random numbers that can be entered anywhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoiseStream {
    key: u64,
}

impl NoiseStream {
    /// The sequence that `names` have under `seed`.
    pub(crate) fn new(seed: u64, names: &[&str]) -> NoiseStream {
        // FNV-1a over the names, each ended by a byte that is in no text.
        let bytes = names.iter().flat_map(|name| name.bytes().chain([0xFF]));
        let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
        NoiseStream { key: mix(at(seed, 0) ^ hash) }
    }

    fn word(self, n: u64) -> u64 {
        at(self.key, n)
    }

    /// Uniform in [−1, 1), in steps of 2⁻⁵².
    pub(crate) fn uniform(self, n: u64) -> f64 {
        (self.word(n) >> 11) as f64 * 2f64.powi(-52) - 1.0
    }

    /// Normal, of mean 0 and deviation 1.
    pub(crate) fn normal(self, n: u64) -> f64 {
        let (radius, angle) = self.pair(n / 2);
        radius * if n.is_multiple_of(2) { angle.cos() } else { angle.sin() }
    }

    fn pair(self, pair: u64) -> (f64, f64) {
        // In (0, 1], so that the logarithm is finite.
        let u = ((self.word(2 * pair) >> 11) + 1) as f64 * 2f64.powi(-53);
        let v = (self.word(2 * pair + 1) >> 11) as f64 * 2f64.powi(-53);
        ((-2.0 * u.ln()).sqrt(), TAU * v)
    }

    /// Adds normal numbers of deviation `scale` to `values`, which are the elements from `offset` on.
    pub(crate) fn add_normal(self, offset: u64, scale: f64, values: &mut [f32]) {
        // One pair serves two neighbours, unless the block begins or ends between them.
        let (head, rest) = values.split_at_mut(usize::from(!offset.is_multiple_of(2)).min(values.len()));
        let first = offset + head.len() as u64;
        let add = |value: &mut f32, normal: f64| *value = (f64::from(*value) + scale * normal) as f32;
        head.iter_mut().for_each(|value| add(value, self.normal(offset)));
        for (pair, values) in (first / 2..).zip(rest.chunks_mut(2)) {
            let (radius, angle) = self.pair(pair);
            values.iter_mut().zip([angle.cos(), angle.sin()]).for_each(|(value, part)| add(value, radius * part));
        }
    }
}

/// Gates of random numbers for `sites`. What belongs to an expert depends on its name and not on its place among the
/// others.
pub(crate) fn random_gates(sites: &Sites, uniform: bool, seed: u64) -> Gates {
    let hidden = sites.hidden_size;
    let fill = |names: &[&str], width: usize, deviation: f64| -> Vec<f32> {
        let stream = NoiseStream::new(seed, names);
        let bound = (width.max(1) as f64).sqrt().recip();
        let number = |n| if uniform { bound * stream.uniform(n) } else { deviation * stream.normal(n) };
        (0..width as u64).map(|n| number(n) as f32).collect()
    };
    let rows = |prefix: &str, part: &str, width: usize| -> Vec<f32> {
        sites.experts.iter().flat_map(|expert| fill(&[prefix, part, expert], width, 1.0)).collect()
    };
    let gate = |prefix: &String| match sites.router {
        RouterKind::Linear => Gate::Linear { weight: rows(prefix, "weight", hidden), bias: None },
        RouterKind::Mlp { hidden_size } => {
            let deviation = (hidden.max(1) as f64).sqrt().recip();
            let unit = |unit: usize| fill(&[prefix, "up.weight", &unit.to_string()], hidden, deviation);
            Gate::Mlp {
                up_weight: (0..hidden_size).flat_map(unit).collect(),
                up_bias: vec![0.0; hidden_size],
                down_weight: rows(prefix, "down.weight", hidden_size),
                down_bias: vec![0.0; sites.experts.len()],
            }
        }
    };
    Gates {
        experts: sites.experts.len(),
        hidden_size: hidden,
        gates: sites.prefixes.iter().map(gate).collect(),
        shared: sites.shared.iter().map(|name| fill(&[name], hidden, 1.0)).collect(),
    }
}

/// Gates of zeros for `sites`: their shapes.
pub(crate) fn zero_gates(sites: &Sites) -> Gates {
    let (n, hidden) = (sites.experts.len(), sites.hidden_size);
    let zeros = |shape: &Vec<usize>| vec![0.0; shape.iter().product()];
    let gate = Gate::shapes(sites.router, n, hidden).without_bias().map(zeros, zeros);
    Gates {
        experts: n,
        hidden_size: hidden,
        gates: vec![gate; sites.prefixes.len()],
        shared: vec![vec![0.0; hidden]; sites.shared.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_noise() {
        let stream = NoiseStream::new(7, &["a", "w"]);
        let mut whole = vec![1.0; 1001];
        stream.add_normal(0, 0.5, &mut whole);
        for length in [1, 3, 64, 333] {
            let mut cut = vec![1.0; 1001];
            for (b, block) in cut.chunks_mut(length).enumerate() {
                stream.add_normal((b * length) as u64, 0.5, block);
            }
            assert_eq!(cut, whole, "blocks of {length}");
        }
    }

    #[test]
    fn seed_and_every_name_matter() {
        let first = |seed, names: &[&str]| NoiseStream::new(seed, names).word(0);
        let one = first(1, &["a", "b"]);
        assert_eq!(one, first(1, &["a", "b"]));
        for other in [first(2, &["a", "b"]), first(1, &["ab", ""]), first(1, &["b", "a"])] {
            assert_ne!(one, other);
        }
    }

    /// Of 200 000 numbers the mean deviates by 0.0022 and the variance by 0.0032 (one standard deviation); five of
    /// them.
    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let stream = NoiseStream::new(3, &["x"]);
        let n = 200_000u64;
        let values: Vec<f64> = (0..n).map(|i| stream.normal(i)).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.011, "{mean}");
        assert!((variance - 1.0).abs() < 0.016, "{variance}");
        let lag = values.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / n as f64;
        assert!(lag.abs() < 0.011, "{lag}");
    }
}
