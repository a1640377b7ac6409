//! Gaussian samples at the speed of a table look-up.
//!
//! A sample is one of 2¹⁶ equally likely quantiles of the standard normal distribution, chosen by 16 bits of a
//! SplitMix64 sequence (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014). That is
//! coarse for statistics and far finer than the eight bits that bfloat16 keeps.

/// The number of quantiles.
const COUNT: usize = 1 << 16;

/// The quantiles, in ascending order.
pub(super) struct Gaussian(Vec<f32>);

impl Gaussian {
    /// Inverts the distribution function by adding up the density from the left.
    pub(super) fn new() -> Self {
        const STEP: f64 = 2e-5;
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        let (mut quantiles, mut x, mut below) = (Vec::with_capacity(COUNT), -6.0, 0.0);
        for i in 0..COUNT / 2 {
            let wanted = (i as f64 + 0.5) / COUNT as f64;
            while below < wanted {
                below += STEP * density(x + STEP / 2.0);
                x += STEP;
            }
            // The last step went too far; the density hardly changes within one.
            quantiles.push((x - (below - wanted) / density(x)) as f32);
        }
        for i in (0..COUNT / 2).rev() {
            quantiles.push(-quantiles[i]);
        }
        Self(quantiles)
    }

    /// Fills `out` with samples that depend on `stream` and on the position in `out` only.
    pub(super) fn fill(&self, stream: u64, out: &mut [f32]) {
        let mut state = mix(stream);
        for four in out.chunks_mut(4) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let bits = mix(state);
            for (i, value) in four.iter_mut().enumerate() {
                *value = self.0[usize::from((bits >> (16 * i)) as u16)];
            }
        }
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `z`.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    //! The table against known quantiles, and samples against the moments they must have.
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        let table = Gaussian::new().0;
        assert_eq!(table.len(), COUNT);
        assert!(table.windows(2).all(|w| w[0] <= w[1]));
        for (share, expected) in [(0.5, 0.0), (0.841_344_75, 1.0), (0.975, 1.959_964), (0.001, -3.090_232)] {
            let found = table[(share * COUNT as f64) as usize];
            // Neighbouring quantiles are up to 0.005 apart at a share of 0.001.
            assert!((found - expected).abs() < 0.006, "{share}: {found}, expected {expected}");
        }
    }

    #[test]
    fn samples_have_mean_0_and_variance_1() {
        let mut samples = vec![0.0; 1 << 20];
        Gaussian::new().fill(1, &mut samples);
        let n = samples.len() as f64;
        let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = samples.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
        // Five standard errors: 5 / sqrt(2^20), and sqrt(2) times that.
        assert!(mean.abs() < 0.005 && (variance - 1.0).abs() < 0.007, "{mean} {variance}");
    }

    #[test]
    fn streams_differ_and_repeat() {
        let gaussian = Gaussian::new();
        let draw = |stream| {
            let mut out = [0.0; 7];
            gaussian.fill(stream, &mut out);
            out
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
