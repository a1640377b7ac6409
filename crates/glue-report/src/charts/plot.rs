//! The area of a chart in which values stand over counts or sizes, with its axes.

use crate::format;
use crate::svg::{Anchor, Svg, ticks};

/// Below the area: ticks, their figures and the name of the axis.
pub(crate) const BELOW: f64 = 40.0;

/// An area with the ranges of its axes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plot {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) start: f64,
    /// Above `start`.
    pub(crate) end: f64,
    pub(crate) low: f64,
    /// Above `low`.
    pub(crate) high: f64,
}

impl Plot {
    /// Where a point stands.
    pub(crate) fn at(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let along = self.left + self.width * (x - self.start) / (self.end - self.start);
        [along, self.top + self.height * (self.high - y) / (self.high - self.low)]
    }

    /// Draws both axes with their names, the figures of the horizontal one where they are given, and about so many on
    /// the vertical one.
    pub(crate) fn axes(
        &self,
        svg: &mut Svg,
        [x_label, y_label]: [&str; 2],
        x_figures: &[(f64, String)],
        figures: usize,
    ) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        let (marks, decimals) = ticks(self.low, self.high, figures);
        for mark in marks {
            let [_, y] = self.at([self.start, mark]);
            svg.line("grid", [self.left, y], [right, y]);
            svg.text("t-s", Anchor::End, [self.left - 6.0, y + 4.0], &format::fixed(mark, decimals));
        }
        for (figure, text) in x_figures {
            let [x, y] = self.at([*figure, self.low]);
            svg.line("axis", [x, y], [x, y + 4.0]);
            svg.text("t-s", Anchor::Middle, [x, y + 17.0], text);
        }
        svg.line("axis", [self.left, bottom], [right, bottom]);
        svg.text("t-s", Anchor::Start, [0.0, 12.0], y_label);
        svg.text("t-s", Anchor::Middle, [self.left + self.width / 2.0, bottom + BELOW - 5.0], x_label);
    }
}

/// About so many round counts from 0 to `end`, as figures of an axis.
pub(crate) fn counts(end: f64, figures: usize) -> Vec<(f64, String)> {
    let (marks, decimals) = ticks(0.0, end, figures);
    marks.into_iter().map(|mark| (mark, format::fixed(mark, decimals))).collect()
}

/// Draws a value's standard error as a vertical bar with ends, on a halo that keeps it apart from what lies below.
pub(crate) fn error_bar(svg: &mut Svg, x: f64, [top, bottom]: [f64; 2]) {
    for class in ["error-halo", "error"] {
        svg.line(class, [x, top], [x, bottom]);
        for y in [top, bottom] {
            svg.line(class, [x - 3.0, y], [x + 3.0, y]);
        }
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
