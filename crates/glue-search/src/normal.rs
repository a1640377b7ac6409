//! The normal distribution: Φ, its upper tail, and its quantiles.
//!
//! Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …) near zero (Marsaglia, *Evaluating the normal distribution*, J. Stat.
//! Softw. 11, 2004), and Laplace's continued fraction for the tail. Quantiles by Wichura's algorithm AS 241, PPND16
//! (Appl. Statist. 37, 1988), to about one part in 10^16.

/// Φ(-x) for x ≥ 0, and 1 - Φ(-x) below: the chance to exceed `x`.
pub(crate) fn upper_tail(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - upper_tail(-x);
    }
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x < 3.0 {
        let (mut term, mut sum, mut k) = (x, x, 1.0);
        while term > sum * 1e-17 {
            k += 2.0;
            term *= x * x / k;
            sum += term;
        }
        return 0.5 - density * sum;
    }
    // x + 1/(x + 2/(x + 3/(x + …))), from far enough inside; 100 levels leave less than 1e-16 at x = 3.
    let fraction = (1..=100).rev().fold(x, |inner, k| x + f64::from(k) / inner);
    density / fraction
}

/// Φ(x): the chance to stay below `x`.
pub(crate) fn cdf(x: f64) -> f64 {
    upper_tail(-x)
}

/// The number that is not exceeded with probability `p`; infinite for 0 and 1.
pub(crate) fn quantile(p: f64) -> f64 {
    let ratio = |r: f64, above: &[f64; 8], below: &[f64; 8]| {
        let value = |c: &[f64; 8]| c.iter().rev().fold(0.0, |sum, c| sum * r + c);
        value(above) / value(below)
    };
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(0.180_625 - q * q, &CENTRE.0, &CENTRE.1);
    }
    let tail = p.min(1.0 - p);
    if tail <= 0.0 {
        return q.signum() * f64::INFINITY;
    }
    let r = (-tail.ln()).sqrt();
    let size = if r <= 5.0 { ratio(r - 1.6, &MIDDLE.0, &MIDDLE.1) } else { ratio(r - 5.0, &FAR.0, &FAR.1) };
    q.signum() * size
}

/// Coefficients of numerator and denominator, ascending.
type Ratio = ([f64; 8], [f64; 8]);

#[allow(clippy::excessive_precision)] // as published
const CENTRE: Ratio = (
    [
        3.387_132_872_796_366_608_0,
        1.331_416_678_917_843_774_5e2,
        1.971_590_950_306_551_442_7e3,
        1.373_169_376_550_946_112_5e4,
        4.592_195_393_154_987_145_7e4,
        6.726_577_092_700_870_085_3e4,
        3.343_057_558_358_812_810_5e4,
        2.509_080_928_730_122_672_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091_125_2e1,
        6.871_870_074_920_579_083_0e2,
        5.394_196_021_424_751_107_7e3,
        2.121_379_430_158_659_586_7e4,
        3.930_789_580_009_271_061_0e4,
        2.872_908_573_572_194_267_4e4,
        5.226_495_278_852_854_561_0e3,
    ],
);

#[allow(clippy::excessive_precision)] // as published
const MIDDLE: Ratio = (
    [
        1.423_437_110_749_683_577_34,
        4.630_337_846_156_545_295_90,
        5.769_497_221_460_691_405_50,
        3.647_848_324_763_204_605_04,
        1.270_458_252_452_368_382_58,
        2.417_807_251_774_506_117_70e-1,
        2.272_384_498_926_918_458_33e-2,
        7.745_450_142_783_414_076_40e-4,
    ],
    [
        1.0,
        2.053_191_626_637_758_821_87,
        1.676_384_830_183_803_849_40,
        6.897_673_349_851_000_045_50e-1,
        1.481_039_764_274_800_745_90e-1,
        1.519_866_656_361_645_719_66e-2,
        5.475_938_084_995_344_946_00e-4,
        1.050_750_071_644_416_843_24e-9,
    ],
);

#[allow(clippy::excessive_precision)] // as published
const FAR: Ratio = (
    [
        6.657_904_643_501_103_777_20,
        5.463_784_911_164_114_369_90,
        1.784_826_539_917_291_335_80,
        2.965_605_718_285_048_912_30e-1,
        2.653_218_952_657_612_309_30e-2,
        1.242_660_947_388_078_438_60e-3,
        2.711_555_568_743_487_578_15e-5,
        2.010_334_399_292_288_132_65e-7,
    ],
    [
        1.0,
        5.998_322_065_558_879_376_90e-1,
        1.369_298_809_227_358_053_10e-1,
        1.487_536_129_085_061_485_25e-2,
        7.868_691_311_456_132_591_00e-4,
        1.846_318_317_510_054_681_80e-5,
        1.421_511_758_316_445_888_70e-7,
        2.044_263_103_389_939_785_64e-15,
    ],
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_probabilities() {
        // scipy.stats.norm.sf of SciPy 1.17.1
        let known = [
            (0.0, 0.5),
            (0.5, 0.308_537_538_725_986_9),
            (1.0, 0.158_655_253_931_457_05),
            (2.0, 0.022_750_131_948_179_21),
            (2.999, 0.001_354_336_533_727_105_7),
            (3.0, 0.001_349_898_031_630_094_6),
            (5.0, 2.866_515_718_791_939e-7),
            (10.0, 7.619_853_024_160_47e-24),
        ];
        for (x, p) in known {
            let found = upper_tail(x);
            // The series subtracts from ½: absolute 1e-16 near its end, 1e-12 relative.
            assert!((found / p - 1.0).abs() < 1e-12, "{x}: {found}");
            assert!((cdf(x) - (1.0 - p)).abs() < 1e-15);
        }
    }

    #[test]
    fn quantiles_invert_the_probabilities() {
        // The three sections of the approximation and their borders.
        for p in [1e-300, 1e-20, 1e-11, 1e-5, 0.01, 0.074, 0.075, 0.076, 0.3, 0.5] {
            let x = quantile(p);
            assert!((cdf(x) / p - 1.0).abs() < 1e-11, "{p}: {x} {}", cdf(x));
            if p > 1e-15 {
                assert!((quantile(1.0 - p) + x).abs() < 1e-5 * x.abs().max(1.0), "{p}");
            }
        }
        assert_eq!((quantile(0.0), quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
    }
}
