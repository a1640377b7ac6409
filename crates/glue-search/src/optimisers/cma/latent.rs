//! Between a space and the unbounded coordinates in which a normal distribution lives.
//!
//! A *real* coordinate has one latent coordinate, folded into its interval smoothly: the identity but for a quadratic
//! piece near each border, mirrored beyond, as in pycma. An optimum on the border is a minimum inside for the
//! distribution. x = (y + a)²/4a for y in [-a, a], and the like at 1.
//!
//! An *integer* coordinate, or one of two options, has one latent coordinate that is cut into cells of equal length. So
//! that the distribution never freezes within a cell, the chance to leave it on either side is kept at α/2 = 1/(2nλ) or
//! more by moving the mean and widening that coordinate: CMA-ES with margin, Hamano, Saito, Nomura and Shirakawa, GECCO
//! 2022 (arXiv 2205.13482), section 4.
//!
//! A *choice* among more than two options has one latent coordinate for each; the greatest wins. The margin is carried
//! over: the chance that an option beats the one with the greatest mean is kept at α or more by lifting its mean.

use crate::normal::{cdf, quantile};
use crate::space::{Domain, Space};

/// Width of the quadratic piece at each border.
const FOLD: f64 = 0.025;

/// Standard deviations beyond this share of a coordinate's length only wrap around.
const WIDEST: f64 = 1.0 / 3.0;

/// How one coordinate of the space is represented.
#[derive(Debug, Clone, Copy, PartialEq)]
enum LatentKind {
    Real,
    Cells(f64),
    Choice(usize),
}

impl LatentKind {
    fn width(self) -> usize {
        match self {
            Self::Choice(options) => options,
            _ => 1,
        }
    }
}

/// The latent coordinates of a space.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Latent {
    parts: Vec<LatentKind>,
    dimension: usize,
}

/// What the margin needs to know of a distribution: the standard deviation of latent coordinate i, and that of the
/// difference of two.
pub(super) struct Deviations<'a> {
    pub(super) of: &'a dyn Fn(usize) -> f64,
    pub(super) between: &'a dyn Fn(usize, usize) -> f64,
}

impl Latent {
    pub(super) fn new(space: &Space) -> Self {
        let part = |c: &crate::space::Coordinate| match (&c.domain, c.values()) {
            (Domain::Categorical { options }, _) if options.len() > 2 => LatentKind::Choice(options.len()),
            (_, Some(values)) => LatentKind::Cells(values as f64),
            (_, None) => LatentKind::Real,
        };
        let parts: Vec<LatentKind> = space.coordinates().iter().map(part).collect();
        let dimension = parts.iter().map(|p| p.width()).sum();
        Self { parts, dimension }
    }

    /// Number of latent coordinates.
    pub(super) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Each coordinate of the space with the first of its latent coordinates.
    fn parts(&self) -> impl Iterator<Item = (LatentKind, usize)> + '_ {
        self.parts.iter().scan(0, |at, part| {
            let first = *at;
            *at += part.width();
            Some((*part, first))
        })
    }

    /// Whether latent coordinate i is a real coordinate.
    pub(super) fn is_real(&self, i: usize) -> bool {
        self.parts().any(|(part, first)| part == LatentKind::Real && first == i)
    }

    /// The place in the unit box that a latent vector stands for.
    pub(super) fn to_unit(&self, y: &[f64]) -> Vec<f64> {
        self.parts()
            .map(|(part, first)| match part {
                LatentKind::Real => fold(y[first]),
                LatentKind::Cells(n) => ((y[first] * n).ceil().clamp(1.0, n) - 0.5) / n,
                LatentKind::Choice(n) => (winner(&y[first..first + n]) as f64 + 0.5) / n as f64,
            })
            .collect()
    }

    /// A latent vector in the middle of what stands for a place of the unit box.
    pub(super) fn latent_of(&self, unit: &[f64], sigma: f64) -> Vec<f64> {
        let mut y = Vec::with_capacity(self.dimension);
        for ((part, _), u) in self.parts().zip(unit) {
            match part {
                LatentKind::Real => y.push(unfold(*u)),
                LatentKind::Cells(n) => y.push(((u * n).floor().clamp(0.0, n - 1.0) + 0.5) / n),
                LatentKind::Choice(n) => {
                    let chosen = (u * n as f64).floor().clamp(0.0, n as f64 - 1.0) as usize;
                    y.extend((0..n).map(|i| if i == chosen { 0.5 + sigma } else { 0.5 }));
                }
            }
        }
        y
    }

    /// The middle of everything, where no option is preferred.
    pub(super) fn middle(&self) -> Vec<f64> {
        vec![0.5; self.dimension]
    }

    /// Keeps every discrete coordinate moving, and no other from wrapping around. `scale` are factors on the standard
    /// deviations of `spread`; `alpha` is the least chance of another value.
    pub(super) fn keep_margin(&self, mean: &mut [f64], scale: &mut [f64], spread: &Deviations<'_>, alpha: f64) {
        for (i, factor) in scale.iter_mut().enumerate() {
            let deviation = *factor * (spread.of)(i);
            if deviation > WIDEST {
                *factor *= WIDEST / deviation;
            }
        }
        for (part, first) in self.parts() {
            match part {
                LatentKind::Real => {}
                LatentKind::Cells(n) => {
                    let (m, a) = cell_margin(mean[first], scale[first], (spread.of)(first), n, alpha);
                    (mean[first], scale[first]) = (m, a);
                }
                LatentKind::Choice(n) => {
                    let best = first + winner(&mean[first..first + n]);
                    for i in (first..first + n).filter(|i| *i != best) {
                        let reach = -quantile(alpha) * (spread.between)(i, best);
                        mean[i] = mean[i].max(mean[best] - reach);
                    }
                }
            }
        }
    }
}

fn winner(y: &[f64]) -> usize {
    (1..y.len()).fold(0, |best, i| if y[i] > y[best] { i } else { best })
}

/// Section 4 of Hamano et al.: mean and scale of one coordinate with `n` cells. `deviation` is without the scale.
fn cell_margin(mean: f64, scale: f64, deviation: f64, n: f64, alpha: f64) -> (f64, f64) {
    let width = scale * deviation;
    // Borders k/n, k = 1 … n-1, around the mean; a value is (k-1)/n < y ≤ k/n.
    let cell = (mean * n).ceil().clamp(1.0, n);
    if cell == 1.0 || cell == n {
        let border = if n == 2.0 || cell == 1.0 { 1.0 / n } else { (n - 1.0) / n };
        let reach = -quantile(alpha) * width;
        return (border + (mean - border).clamp(-reach, reach), scale);
    }
    let (below, above) = ((cell - 1.0) / n, cell / n);
    let (low, high) = (cdf((below - mean) / width), cdf((mean - above) / width));
    if low.min(high) >= alpha / 2.0 || deviation <= 0.0 {
        return (mean, scale);
    }
    let inside = 1.0 - low - high;
    let (low_kept, high_kept) = (low.max(alpha / 2.0), high.max(alpha / 2.0));
    let share = (1.0 - low_kept - high_kept - inside) / (low_kept + high_kept + inside - 1.5 * alpha);
    let low = low_kept + share * (low_kept - alpha / 2.0);
    let high = high_kept + share * (high_kept - alpha / 2.0);
    let (to_low, to_high) = (-quantile(low), -quantile(high));
    let new_mean = (below * to_high + above * to_low) / (to_low + to_high);
    let new_scale = (above - below) / (deviation * (to_low + to_high));
    if new_mean.is_finite() && new_scale.is_finite() && new_scale > 0.0 { (new_mean, new_scale) } else { (mean, scale) }
}

/// From the line onto [0, 1], smooth, periodic.
fn fold(y: f64) -> f64 {
    // Mirrored at -FOLD and 1 + FOLD.
    let length = 1.0 + 2.0 * FOLD;
    let t = (y + FOLD).rem_euclid(2.0 * length);
    let y = if t > length { 2.0 * length - t } else { t } - FOLD;
    let curve = |y: f64| (y + FOLD) * (y + FOLD) / (4.0 * FOLD);
    let x = if y < FOLD {
        curve(y)
    } else if y > 1.0 - FOLD {
        1.0 - curve(1.0 - y)
    } else {
        y
    };
    x.clamp(0.0, 1.0)
}

/// The inverse of [`fold`] between the borders.
fn unfold(x: f64) -> f64 {
    let curve = |x: f64| (4.0 * FOLD * x).sqrt() - FOLD;
    if x < FOLD {
        curve(x)
    } else if x > 1.0 - FOLD {
        1.0 - curve(1.0 - x)
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Coordinate;
    use proptest::prelude::*;

    #[test]
    fn the_fold_is_continuous_and_reaches_the_borders() {
        assert_eq!((fold(-FOLD), fold(1.0 + FOLD)), (0.0, 1.0));
        assert_eq!((fold(0.3), fold(0.975)), (0.3, 0.975));
        let steps: Vec<f64> = (-3000..4000).map(|i| fold(f64::from(i) / 1000.0)).collect();
        // Slope at most 1.
        assert!(steps.windows(2).all(|w| (w[0] - w[1]).abs() <= 0.001 + 1e-12));
        for x in [0.0, 1e-9, 0.01, 0.025, 0.5, 0.98, 1.0] {
            assert!((fold(unfold(x)) - x).abs() < 1e-15, "{x}");
        }
    }

    #[test]
    fn latent_vectors_stand_for_values() {
        let space = Space::new(vec![
            Coordinate::categorical("c", ["a", "b", "c"]),
            Coordinate::integer("i", 1, 4),
            Coordinate::real("r", 0.0, 1.0),
            Coordinate::categorical("two", ["a", "b"]),
        ])
        .unwrap();
        let latent = Latent::new(&space);
        assert_eq!(latent.dimension(), 6);
        assert_eq!((0..6).map(|i| latent.is_real(i)).collect::<Vec<_>>(), [false, false, false, false, true, false]);
        let user = |y: &[f64]| space.to_user(&latent.to_unit(y));
        assert_eq!(user(&[0.1, 0.3, 0.2, 0.6, 0.4, 0.9]), [1.0, 3.0, 0.4, 1.0]);
        assert_eq!(user(&[9.0, 0.3, 0.2, -5.0, 0.4, 0.5]), [0.0, 1.0, 0.4, 0.0]);
        for point in [[0.0, 1.0, 0.0, 1.0], [2.0, 4.0, 0.7, 0.0]] {
            let unit = space.to_unit(&point).unwrap();
            let again = user(&latent.latent_of(&unit, 0.1));
            assert!(again.iter().zip(&point).all(|(a, b)| (a - b).abs() < 1e-15), "{again:?}");
        }
    }

    proptest! {
        #[test]
        fn other_cells_keep_their_chance(mean in -0.5_f64..1.5, exponent in -12.0_f64..0.5, n in 2_u32..9) {
            let (n, deviation, alpha) = (f64::from(n), 10.0_f64.powf(exponent), 0.01);
            let (m, a) = cell_margin(mean, 1.0, deviation, n, alpha);
            let width = a * deviation;
            let cell = (m * n).ceil().clamp(1.0, n);
            // 1e-6: quantile and Φ round, and a mean next to a border rounds relative to 1, not to the width.
            let slack = 1e-6 + 4.0 * f64::EPSILON / width;
            if cell > 1.0 {
                prop_assert!(cdf(((cell - 1.0) / n - m) / width) >= alpha / 2.0 - slack);
            }
            if cell < n {
                prop_assert!(cdf((m - cell / n) / width) >= alpha / 2.0 - slack);
            }
            // The value that the mean stands for stays, but for a mean on a border.
            let before = (mean * n).ceil().clamp(1.0, n);
            prop_assert!((cell - before).abs() <= 1.0);
        }
    }
}
