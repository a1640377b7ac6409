//! Random numbers as a function of seed, stream and position.
//!
//! The generator is PCG XSL RR 128/64 (O'Neill, *PCG*, HMC-CS-2014-0905), which can jump: where it stands is a count of
//! the numbers drawn, and that is all there is to store. A normal number is the quantile of one uniform number, so
//! that it costs one draw and leaves nothing behind for the next.

use crate::normal::quantile;
use rand_pcg::Lcg128Xsl64;
use rand_pcg::rand_core::Rng;
use serde::{Deserialize, Serialize};

/// A stream of random numbers that stores itself as seed, stream and position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Position", into = "Position")]
pub struct Random {
    position: Position,
    generator: Lcg128Xsl64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Position {
    seed: u64,
    stream: u64,
    drawn: u64,
}

impl From<Position> for Random {
    fn from(position: Position) -> Self {
        let mut generator = start(position);
        generator.advance(position.drawn.into());
        Self { position, generator }
    }
}

impl From<Random> for Position {
    fn from(random: Random) -> Self {
        random.position
    }
}

fn start(position: Position) -> Lcg128Xsl64 {
    // Neighbouring seeds must not give neighbouring states.
    let spread = |x: u64| u128::from(mix(x)) << 64 | u128::from(mix(x ^ 0xa5a5_a5a5_a5a5_a5a5));
    Lcg128Xsl64::new(spread(position.seed), spread(position.stream))
}

/// A bijection of 64 bits that leaves none of them where it was: the finaliser of SplitMix64 (Steele, Lea and Flood,
/// OOPSLA 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Random {
    /// The numbers of this seed and stream, from the first one on. Different streams of a seed are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        Position { seed, stream, drawn: 0 }.into()
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.position.drawn += 1;
        self.generator.next_u64()
    }

    /// Uniform in (0, 1), both ends excluded, on a grid of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) * (-52.0_f64).exp2()
    }

    /// A point of the unit box, uniform.
    pub fn point(&mut self, dimension: usize) -> Vec<f64> {
        (0..dimension).map(|_| self.uniform()).collect()
    }

    /// Normal with mean 0 and variance 1.
    pub fn normal(&mut self) -> f64 {
        quantile(self.uniform())
    }

    /// Cauchy with median 0 and scale 1.
    pub fn cauchy(&mut self) -> f64 {
        (std::f64::consts::PI * (self.uniform() - 0.5)).tan()
    }

    /// Uniform in `0 .. n`; 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        // The bias, n·2^-64, is beyond what any search could notice.
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_stream_goes_on_where_it_stood() {
        let mut random = Random::new(11, 3);
        for _ in 0..1000 {
            random.normal();
        }
        let text = serde_json::to_string(&random).unwrap();
        assert_eq!(text, r#"{"seed":11,"stream":3,"drawn":1000}"#);
        let mut restored: Random = serde_json::from_str(&text).unwrap();
        assert_eq!(restored, random);
        assert!((0..100).all(|_| restored.bits() == random.bits()));
    }

    #[test]
    fn seeds_and_streams_differ() {
        let first = |seed, stream| Random::new(seed, stream).bits();
        let all = [first(0, 0), first(1, 0), first(0, 1), first(1, 1), first(u64::MAX, 0)];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a));
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = Random::new(5, 0);
        let n = 200_000;
        let normal: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let moment = |k: i32| normal.iter().map(|x| x.powi(k)).sum::<f64>() / f64::from(n);
        // Five standard errors: √(1/n), √(2/n), √(15/n), √(96/n).
        assert!(moment(1).abs() < 0.0112 && (moment(2) - 1.0).abs() < 0.0159);
        assert!(moment(3).abs() < 0.0434 && (moment(4) - 3.0).abs() < 0.1096);
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[random.below(7)] += 1);
        // Five standard errors of a binomial with mean 10 000.
        assert!(counts.iter().all(|c: &i32| (c - 10_000).abs() < 463), "{counts:?}");
        let positive = (0..n).filter(|_| random.cauchy() > 1.0).count();
        // A quarter lies above the scale.
        assert!((positive as f64 / f64::from(n) - 0.25).abs() < 0.005);
    }
}
