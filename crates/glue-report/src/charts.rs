//! The pictures of a report, each as one SVG of fixed coordinates, some of them also as files. All can be read without
//! colour: bars have patterns and names, lines have dashes, marks and names at their ends, cells have figures, segments
//! have letters.

pub(crate) mod bars;
pub(crate) mod convergence;
pub(crate) mod dendrogram;
pub(crate) mod drawing;
pub(crate) mod frontier;
pub(crate) mod heatmap;
pub(crate) mod lines;
pub(crate) mod load;
pub(crate) mod pairs;
pub(crate) mod plot;
pub(crate) mod routing;
pub(crate) mod sizes;

/// What the style sheets of a page and of a file have in common.
pub(crate) const CHART_STYLE: &str = include_str!("template/chart.css");

/// Additional styles of charts with series of points and lines.
pub(crate) const SERIES_STYLE: &str = include_str!("template/series.css");

/// Steps of the scale of heat; the style sheet has a colour and an ink for each, and so has `palette`.
pub(crate) const HEAT_STEPS: usize = 9;

/// The step of heat of a fraction, 0 to 1.
pub(crate) fn heat(fraction: f64) -> usize {
    let step = (fraction.clamp(0.0, 1.0) * HEAT_STEPS as f64) as usize;
    step.min(HEAT_STEPS - 1)
}

/// Letters for experts: `A` to `Z`, then `A1` and so on.
pub(crate) fn letter(i: usize) -> String {
    let letter = char::from(b'A' + (i % 26) as u8);
    if i < 26 { letter.to_string() } else { format!("{letter}{}", i / 26) }
}
