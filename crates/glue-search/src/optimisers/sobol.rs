//! Sobol points: a sequence that fills the box more evenly than random points do, scrambled by the seed.
//!
//! Coordinate j of point i is the exclusive or of the direction numbers v_jk of those bits k that are set in the Gray
//! code of i. For a polynomial x^s + a_1 x^(s-1) + … + 1: v_k = a_1 v_(k-1) ⊕ … ⊕ v_(k-s) ⊕ v_(k-s)/2^s. Sobol', USSR
//! Comput. Math. Math. Phys. 7 (1967); Bratley and Fox, ACM TOMS 14 (1988); direction numbers of Joe and Kuo (2008).
//!
//! Scrambling is nested and uniform: whether a bit is flipped depends on all bits before it and on the seed. Every
//! point is then uniform by itself, and the net stays one. Owen, *Randomly permuted (t, m, s)-nets and (t,
//! s)-sequences*, 1995.
//!
//! Coordinates beyond the table are uniform random numbers: a mixture known as padding (Owen, *Latin supercube
//! sampling*, ACM TOMACS 8, 1998).

use super::sampler::{Points, Sampler};
use super::sobol_table::JOE_KUO;
use super::{POPULATION, from_state};
use crate::def::{OptimiserDef, OptimiserSetup};
use crate::params::ParamSpec;
use crate::random::{Random, mix};
use serde::{Deserialize, Serialize};

/// Scrambled Sobol points.
pub const SOBOL: OptimiserDef = OptimiserDef {
    name: "sobol",
    summary: "Points that fill the box evenly (128 coordinates; the rest random); no waiting for results.",
    reference: "Sobol' 1967; Joe & Kuo 2008, SIAM J. Sci. Comput. 30; Owen 1995",
    multi_objective: true,
    params: &[
        POPULATION,
        ParamSpec::flag("scramble", "Whether the seed permutes the points; without it they are always the same.", true),
    ],
    build: |setup| Ok(Box::new(Sampler::new(setup, Sobol::new(setup)))),
    restore: |_, state| Ok(Box::new(from_state::<Sampler<Sobol>>("sobol", state)?)),
};

const BITS: u32 = 32;

/// The direction numbers of coordinate `j`, below the table's end.
fn directions(j: usize) -> [u32; BITS as usize] {
    let mut v = [0_u32; BITS as usize];
    let Some((a, initial)) = j.checked_sub(1).map(|j| JOE_KUO[j]) else {
        return std::array::from_fn(|k| 1 << (BITS - 1 - k as u32));
    };
    let s = initial.len();
    for k in 0..BITS as usize {
        v[k] = if k < s {
            initial[k] << (BITS - 1 - k as u32)
        } else {
            let taps = (1..s).filter(|i| a >> (s - 1 - i) & 1 == 1);
            taps.fold(v[k - s] ^ (v[k - s] >> s), |sum, i| sum ^ v[k - i])
        };
    }
    v
}

/// Coordinate `j` of point `index`, as 32 bits behind the binary point.
fn sobol(index: u32, j: usize) -> u32 {
    let gray = index ^ (index >> 1);
    let v = directions(j);
    (0..BITS as usize).filter(|k| gray >> k & 1 == 1).fold(0, |x, k| x ^ v[k])
}

/// Turns each bit or not, by a random function of the bits above it.
fn scrambled(x: u32, key: u64) -> u32 {
    (0..BITS).fold(0, |sum, k| {
        let above = if k == 0 { 0 } else { x >> (BITS - k) };
        // A one in front makes prefixes of different length different.
        let flip = mix(key ^ mix(1_u64 << k | u64::from(above))) as u32 & 1;
        let bit = x >> (BITS - 1 - k) & 1;
        sum | (bit ^ flip) << (BITS - 1 - k)
    })
}

#[derive(Serialize, Deserialize)]
struct Sobol {
    seed: u64,
    scramble: bool,
    /// For coordinates beyond the table.
    random: Random,
    dimension: usize,
    next: u32,
}

impl Sobol {
    fn new(setup: &OptimiserSetup<'_>) -> Self {
        Self {
            seed: setup.seed,
            scramble: setup.params.flag("scramble"),
            random: Random::new(setup.seed, 0),
            dimension: setup.space.dimension(),
            next: 0,
        }
    }
}

impl Points for Sobol {
    fn point(&mut self) -> Vec<f64> {
        let index = self.next;
        self.next = self.next.wrapping_add(1);
        let coordinate = |j: usize| {
            let x = sobol(index, j);
            let x = if self.scramble { scrambled(x, mix(mix(self.seed) ^ j as u64)) } else { x };
            // Scrambled points lie in the middle of their cells, so that none is on the border.
            (f64::from(x) + if self.scramble { 0.5 } else { 0.0 }) * f64::from(-(BITS as i32)).exp2()
        };
        let mut point: Vec<f64> = (0..self.dimension.min(JOE_KUO.len() + 1)).map(coordinate).collect();
        point.resize_with(self.dimension, || self.random.uniform());
        point
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_promises() {
        crate::check_optimiser(&SOBOL).unwrap();
    }

    #[test]
    fn the_same_points_as_scipy() {
        // scipy.stats.qmc.Sobol(128, scramble=False, bits=32).random(1024) of SciPy 1.17.1, times 2^32.
        let known = [
            (5, 1, 3_758_096_384),
            (100, 2, 3_321_888_768),
            (777, 20, 1_019_215_872),
            (1000, 63, 1_916_796_928),
            (1023, 127, 3_007_315_968),
            (513, 90, 490_733_568),
        ];
        for (index, j, expected) in known {
            assert_eq!(sobol(index, j), expected, "point {index}, coordinate {j}");
        }
    }

    #[test]
    fn one_point_in_each_cell_of_a_net() {
        // The first two coordinates are a (0, m, 2)-net in base 2, and each coordinate a (0, m, 1)-net; scrambled or
        // not.
        const M: u32 = 8;
        for key in [None, Some(1), Some(99)] {
            let x = |i: u32, j: usize| key.map_or(sobol(i, j), |key| scrambled(sobol(i, j), mix(key ^ j as u64)));
            for first in 0..=M {
                let mut seen = vec![false; 1 << M];
                for i in 0..1_u32 << M {
                    let high = |x: u32, bits: u32| if bits == 0 { 0 } else { x >> (BITS - bits) };
                    let cell = high(x(i, 0), first) << (M - first) | high(x(i, 1), M - first);
                    assert!(!std::mem::replace(&mut seen[cell as usize], true), "{key:?} {first} {i}");
                }
            }
            for j in [2, 50, 127] {
                let mut cells: Vec<u32> = (0..1_u32 << M).map(|i| x(i, j) >> (BITS - M)).collect();
                cells.sort_unstable();
                assert!(cells.iter().enumerate().all(|(i, c)| i as u32 == *c), "coordinate {j}");
            }
        }
    }

    #[test]
    fn scrambling_is_uniform_over_seeds() {
        // The first point is 0 unscrambled; over seeds its place has mean 1/2 and variance 1/12.
        let n = 20_000_u64;
        let at = |seed: u64| f64::from(scrambled(0, mix(seed))) / 2.0_f64.powi(32);
        let mean = (0..n).map(at).sum::<f64>() / n as f64;
        let variance = (0..n).map(|s| (at(s) - mean).powi(2)).sum::<f64>() / n as f64;
        // Five standard errors.
        assert!((mean - 0.5).abs() < 0.0103 && (variance - 1.0 / 12.0).abs() < 0.0027, "{mean} {variance}");
    }

    #[test]
    fn an_integral_converges_faster_than_by_chance() {
        // ∏ (1 + (x_j - ½)/2) over ten coordinates has the integral 1; by chance the error is about 0.45/√1024 = 0.014.
        let n = 1024;
        let product =
            |i: u32| (0..10).map(|j| 1.0 + (f64::from(sobol(i, j)) / 2.0_f64.powi(32) - 0.5) / 2.0).product::<f64>();
        let error = ((0..n).map(product).sum::<f64>() / f64::from(n) - 1.0).abs();
        assert!(error < 0.004, "{error}");
    }
}
