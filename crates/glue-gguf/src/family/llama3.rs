//! The scaling of Llama 3, which GGUF files store as one factor for each frequency.

use super::Scaling;
use std::f64::consts::TAU;

/// What the wavelength of each of `rotated / 2` frequencies is multiplied by.
///
/// Long wavelengths, beyond `original / low`, by `factor`; short ones, below `original / high`, by 1; those in between
/// by what interpolates between the inverses.
pub(crate) fn factors(theta: f64, rotated: u64, scaling: &Scaling) -> Option<Vec<f32>> {
    let Scaling::Llama3 { factor, low, high, original } = *scaling else { return None };
    let original = original as f64;
    let factor_of = |pair: u64| {
        // In f32, as the reference does, so that the values are the same.
        let frequency = 1.0f32 / (theta as f32).powf((2 * pair) as f32 / rotated as f32);
        let wavelength = TAU / f64::from(frequency);
        let value = if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        value as f32
    };
    Some((0..rotated / 2).map(factor_of).collect())
}

/// The scaling that `found` comes from, among those that models have: from 8192 positions with the factors 1 and 4 for
/// low and high frequencies, or 1 and 1 as in Llama 4, and other lengths that are powers of two. `None` when no such
/// scaling gives these values.
pub(crate) fn recover(theta: f64, found: &[f32]) -> Option<Scaling> {
    let factor = f64::from(found.iter().copied().fold(1.0, f32::max));
    let originals = [8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 16384, 32768, 65536, 131_072];
    let candidates = [4.0, 1.0].into_iter().flat_map(|high| originals.map(|original| (high, original)));
    candidates.into_iter().find_map(|(high, original)| {
        let scaling = Scaling::Llama3 { factor, low: 1.0, high, original };
        let made = factors(theta, 2 * found.len() as u64, &scaling)?;
        let close = made.iter().zip(found).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs());
        close.then_some(scaling)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scaling_of_llama_3_is_found_again_from_its_factors() {
        for (factor, high, original) in [(8.0, 4.0, 8192), (32.0, 4.0, 8192), (4.0, 4.0, 64), (16.0, 1.0, 8192)] {
            let scaling = Scaling::Llama3 { factor, low: 1.0, high, original };
            let values = factors(500_000.0, 64, &scaling).unwrap();
            assert_eq!(values[0], 1.0);
            assert_eq!(f64::from(values[31]), factor);
            assert_eq!(recover(500_000.0, &values), Some(scaling));
        }
        assert_eq!(recover(500_000.0, &[1.0, 2.0, 1.5, 7.0]), None);
    }
}
