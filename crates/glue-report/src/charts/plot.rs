//! The area of a chart in which values stand over a count, with its axes.

use crate::format;
use crate::svg::{Anchor, Svg, ticks};

/// Below the area: ticks, their figures and the name of the axis.
pub(crate) const BELOW: f64 = 40.0;

/// An area with the ranges of its axes. The count begins at 0; values need not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plot {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// The largest count, above 0.
    pub(crate) end: f64,
    pub(crate) low: f64,
    /// Above `low`.
    pub(crate) high: f64,
}

impl Plot {
    /// Where a count and a value stand.
    pub(crate) fn at(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let along = self.left + self.width * x / self.end;
        [along, self.top + self.height * (self.high - y) / (self.high - self.low)]
    }

    /// Draws both axes with their names and about so many figures on each.
    pub(crate) fn axes(&self, svg: &mut Svg, [x_label, y_label]: [&str; 2], figures: usize) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        let (marks, decimals) = ticks(self.low, self.high, figures);
        for mark in marks {
            let [_, y] = self.at([0.0, mark]);
            svg.line("grid", [self.left, y], [right, y]);
            svg.text("t-s", Anchor::End, [self.left - 6.0, y + 4.0], &format::fixed(mark, decimals));
        }
        let (marks, decimals) = ticks(0.0, self.end, figures);
        for mark in marks {
            let [x, y] = self.at([mark, self.low]);
            svg.line("axis", [x, y], [x, y + 4.0]);
            svg.text("t-s", Anchor::Middle, [x, y + 17.0], &format::fixed(mark, decimals));
        }
        svg.line("axis", [self.left, bottom], [right, bottom]);
        svg.text("t-s", Anchor::Start, [0.0, 12.0], y_label);
        svg.text("t-s", Anchor::Middle, [self.left + self.width / 2.0, bottom + BELOW - 5.0], x_label);
    }
}

/// A little more than the range of the values, which need not begin at 0 for lines.
pub(crate) fn padded(low: f64, high: f64) -> (f64, f64) {
    let pad = if high > low { (high - low) * 0.06 } else { 0.01 };
    (low - pad, high + pad)
}

/// The corners of a line that holds each value until the next.
pub(crate) fn stairs(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mut corners = Vec::with_capacity(points.len() * 2);
    for (i, &point) in points.iter().enumerate() {
        if let Some(before) = i.checked_sub(1).map(|i| points[i]) {
            corners.push([point[0], before[1]]);
        }
        corners.push(point);
    }
    corners
}

#[cfg(test)]
mod tests {
    //! Corners.
    use super::*;

    #[test]
    fn values_hold_until_the_next() {
        let found = stairs(&[[1.0, 0.5], [4.0, 0.7], [9.0, 0.7]]);
        assert_eq!(found, [[1.0, 0.5], [4.0, 0.5], [4.0, 0.7], [9.0, 0.7], [9.0, 0.7]]);
    }
}
