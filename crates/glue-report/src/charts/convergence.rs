//! A search: every candidate at its score, and the best score so far as steps.

use super::drawing::{Drawing, Medium};
use super::plot::{BELOW, Plot, counts, padded, stairs};
use crate::format;
use crate::pictures::Convergence;
use crate::svg::{Anchor, Svg};
use glue_text::words;

const LEFT: f64 = 46.0;
const TOP: f64 = 26.0;
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 320.0;
/// From one line of the legend to the next.
const LINE: f64 = 18.0;
const SIZE: f64 = 12.0;
/// Between the plot and the legend.
const GAP: f64 = 16.0;
/// Width of what stands before a name in the legend.
const SAMPLE: f64 = 26.0;
const BEST: &str = "best so far";

/// The chart. The lowest twentieth of many candidates is left out: one model far below the others would squeeze the
/// rest into a line.
pub(crate) fn convergence(medium: Medium, search: &Convergence) -> Drawing {
    let mut all: Vec<(usize, f64)> = search.strategies.iter().flat_map(|strategy| strategy.points.clone()).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut scores: Vec<f64> = all.iter().map(|(_, score)| *score).collect();
    scores.sort_by(f64::total_cmp);
    let ends = scores.get(scores.len() / 20).zip(scores.last());
    let (low, high) = ends.map_or((0.0, 1.0), |(low, high)| padded(*low, *high));
    let end = search.evaluations.max(1) as f64;
    let plot = Plot { left: LEFT, top: TOP, width: WIDTH, height: HEIGHT, start: 0.0, end, low, high };
    let mut svg = Svg::new();
    plot.axes(&mut svg, ["evaluations", &search.score], &counts(end, 5), 5);

    let mut best: Vec<[f64; 2]> = Vec::new();
    for &(evaluation, score) in &all {
        let so_far = best.last().map_or(score, |[_, before]| before.max(score));
        best.push([evaluation as f64, so_far]);
    }
    if let Some(&[_, last]) = best.last() {
        best.push([search.evaluations as f64, last]);
    }
    let raised: Vec<[f64; 2]> = best.iter().map(|[x, y]| [*x, y.max(low)]).collect();
    let line: Vec<[f64; 2]> = stairs(&raised).into_iter().map(|point| plot.at(point)).collect();
    svg.path("stairs", &line);
    for (k, strategy) in search.strategies.iter().enumerate() {
        for &(evaluation, score) in strategy.points.iter().filter(|(_, score)| *score >= low) {
            svg.mark(&format!("mark s{}", k % 6), k, plot.at([evaluation as f64, score]), 3.4, None);
        }
    }

    let legend = LEFT + WIDTH + GAP;
    let max_chars = medium.max_chars(24);
    let mut widest = Svg::width_of(BEST, SIZE);
    svg.path("stairs", &[[legend, TOP + 4.0], [legend + SAMPLE - 8.0, TOP + 4.0]]);
    svg.text("t", Anchor::Start, [legend + SAMPLE, TOP + 8.0], BEST);
    for (k, strategy) in search.strategies.iter().enumerate() {
        let y = TOP + 4.0 + LINE * (k as f64 + 1.0);
        let name = format::middle(&strategy.name, max_chars);
        svg.mark(&format!("mark s{}", k % 6), k, [legend + (SAMPLE - 8.0) / 2.0, y], 3.4, None);
        svg.label("t", Anchor::Start, [legend + SAMPLE, y + 4.0], &name, Some(&strategy.name), false);
        widest = widest.max(Svg::width_of(&name, SIZE));
    }

    let outside = scores.iter().filter(|score| **score < low).count();
    let mut notes = vec!["The axis of scores does not begin at 0.".to_string()];
    if outside > 0 {
        notes.push(format!("{} below the axis.", words::things(outside, "candidate is", "candidates are")));
    }
    let names: Vec<&str> = search.strategies.iter().map(|strategy| strategy.name.as_str()).collect();
    let description = best.last().map_or("No candidate has a score.".to_string(), |[_, last]| {
        let (tried, last) = (words::things(all.len(), "candidate", "candidates"), format::score(*last));
        format!("The best of {tried} has {last}. Strategies: {}.", words::list(&names))
    });
    let legend_end = TOP + LINE * (search.strategies.len() as f64 + 1.0);
    Drawing {
        svg,
        class: "chart wide",
        size: [legend + SAMPLE + widest, (TOP + HEIGHT + BELOW).max(legend_end)],
        title: search.title.clone(),
        description,
        notes,
        series: true,
    }
}
