//! Random numbers as a function of seed and stream: a resumed training needs no state of a generator.
//!
//! PCG XSL RR 128/64 (O'Neill, *PCG*, HMC-CS-2014-0905).

use glue_tensor::random::at;
use rand::RngExt;
use rand::seq::SliceRandom;
#[cfg(test)]
use rand_distr::StandardNormal;
use rand_pcg::Lcg128Xsl64;

/// The numbers of this seed and stream, from the first one on.
pub(crate) fn generator(seed: u64, stream: u64) -> Lcg128Xsl64 {
    // Neighbouring seeds and streams must not give neighbouring states.
    let spread = |x: u64| u128::from(at(x, 0)) << 64 | u128::from(at(x ^ 0x5a5a_5a5a_5a5a_5a5a, 0));
    Lcg128Xsl64::new(spread(seed), spread(stream))
}

#[cfg(test)]
/// `n` numbers with mean 0 and variance 1.
pub(crate) fn normal(seed: u64, stream: u64, n: usize) -> Vec<f64> {
    let mut generator = generator(seed, stream);
    (0..n).map(|_| generator.sample(StandardNormal)).collect()
}

/// `n` numbers between -`bound` and `bound`.
pub(crate) fn uniform(seed: u64, stream: u64, n: usize, bound: f64) -> Vec<f64> {
    let mut generator = generator(seed, stream);
    (0..n).map(|_| bound * (2.0 * generator.random::<f64>() - 1.0)).collect()
}

/// 0 to `n` - 1 in a random order.
pub(crate) fn permutation(seed: u64, stream: u64, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut generator(seed, stream));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_stream_are_one_sequence() {
        assert_eq!(normal(1, 2, 5), normal(1, 2, 9)[..5]);
        assert_ne!(normal(1, 2, 5), normal(1, 3, 5));
        assert_ne!(normal(1, 2, 5), normal(2, 2, 5));
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let n = 20_000;
        let x = normal(7, 0, n);
        let mean = x.iter().sum::<f64>() / n as f64;
        let variance = x.iter().map(|x| x * x).sum::<f64>() / n as f64;
        // Four standard errors: 4/√n and 4·√(2/n).
        assert!(mean.abs() < 0.029 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        let u = uniform(7, 0, n, 0.5);
        assert!(u.iter().all(|u| u.abs() <= 0.5));
        let variance = u.iter().map(|u| u * u).sum::<f64>() / n as f64;
        // 1/12, and four standard errors of u²: 4·√(1/180)/√n.
        assert!((variance - 1.0 / 12.0).abs() < 0.0022, "{variance}");
    }

    #[test]
    fn a_permutation_has_everything_once() {
        let mut order = permutation(3, 1, 100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
