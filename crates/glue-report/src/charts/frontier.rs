//! The size–score frontier: the score over the number of models, on the search items and on the validation items.

use super::drawing::{Drawing, Medium};
use super::plot::{BELOW, Plot, error_bar, padded};
use crate::data::{Frontier, FrontierPoint, Score};
use crate::format;
use crate::svg::{Anchor, Svg};
use glue_text::words;

const LEFT: f64 = 46.0;
const TOP: f64 = 26.0;
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 220.0;
const SIZE: f64 = 12.0;
/// Between the plot and the names of the lines.
const GAP: f64 = 14.0;
const LINE: f64 = 18.0;

type Pick = fn(&FrontierPoint) -> Option<Score>;

/// The two lines: name, class, class of the marks, form of the marks, score.
const LINES: [(&str, &str, &str, usize, Pick); 2] = [
    ("search items", "line s1", "mark s1", 1, |point| point.search),
    ("validation items", "line s0", "mark s0", 0, |point| point.validation),
];

/// The chart, with error bars on the validation items and a ring around the chosen point.
pub(crate) fn frontier(medium: Medium, frontier: &Frontier) -> Drawing {
    let count = |point: &FrontierPoint| point.experts.len() as f64;
    let mut points: Vec<&FrontierPoint> = frontier.points.iter().collect();
    points.sort_by_key(|point| point.experts.len());
    let ends = points.iter().flat_map(|point| {
        let stderr = point.validation.and_then(|score| score.stderr).unwrap_or(0.0);
        let held_out = point.validation.map(|score| score.value);
        [point.search.map(|score| score.value), held_out.map(|v| v - stderr), held_out.map(|v| v + stderr)]
    });
    let ends: Vec<f64> = ends.flatten().collect();
    let low = ends.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let high = ends.iter().copied().reduce(f64::max).unwrap_or(1.0);
    let (low, high) = padded(low, high);
    let most = points.last().map_or(1.0, |point| count(point));
    let pad = (most * 0.05).max(0.3);
    let start = points.first().map_or(0.0, |point| count(point)) - pad;
    let plot = Plot { left: LEFT, top: TOP, width: WIDTH, height: HEIGHT, start, end: most + pad, low, high };
    let mut svg = Svg::new();
    let every = (points.len() / 12 + 1).max(1);
    let mut counts: Vec<usize> = points.iter().map(|point| point.experts.len()).collect();
    counts.dedup();
    let figure = |n: &usize| (*n as f64, words::count(*n as u64));
    let marks: Vec<(f64, String)> = counts.iter().step_by(every).map(figure).collect();
    plot.axes(&mut svg, ["models", "score under perfect routing"], &marks, 4);

    // The merges of clusters are a point beside the path.
    let on_path = |point: &&&FrontierPoint| point.labels.iter().all(|label| label != FrontierPoint::PAPER);
    for (_, class, _, _, score) in LINES {
        let line = points.iter().filter(on_path).filter_map(|point| Some(plot.at([count(point), score(point)?.value])));
        svg.path(class, &line.collect::<Vec<_>>());
    }
    for point in &points {
        let [x, _] = plot.at([count(point), low]);
        if let Some((value, stderr)) = point.validation.and_then(|score| Some((score.value, score.stderr?))) {
            let end = |value: f64| plot.at([start, value])[1];
            error_bar(&mut svg, x, [end(value + stderr), end(value - stderr)]);
        }
    }
    for (name, _, class, form, score) in LINES {
        for point in &points {
            let Some(score) = score(point) else { continue };
            let models = words::things(point.experts.len(), "model", "models");
            let note = format!("{models}, {name}: {}", format::with_error(score));
            svg.mark(class, form, plot.at([count(point), score.value]), 4.0, Some(&note));
        }
    }
    let is_chosen = |point: &&&FrontierPoint| point.labels.iter().any(|label| label == FrontierPoint::CHOSEN);
    let chosen = points.iter().find(is_chosen);
    if let Some((point, score)) = chosen.and_then(|point| Some((point, point.validation.or(point.search)?))) {
        svg.mark("ring", 0, plot.at([count(point), score.value]), 8.0, None);
    }

    let legend = LEFT + WIDTH + GAP;
    let mut widest: f64 = 0.0;
    let ring = chosen.map(|_| ("chosen", "", "ring", 0));
    let entries = LINES.map(|(name, line, mark, form, _)| (name, line, mark, form)).into_iter().chain(ring);
    for (k, (name, line, mark, form)) in entries.enumerate() {
        let y = TOP + 6.0 + LINE * k as f64;
        if !line.is_empty() {
            svg.path(line, &[[legend, y], [legend + 20.0, y]]);
        }
        svg.mark(mark, form, [legend + 10.0, y], if line.is_empty() { 6.0 } else { 4.0 }, None);
        svg.text("t", Anchor::Start, [legend + 28.0, y + 4.0], name);
        widest = widest.max(Svg::width_of(name, SIZE));
    }
    let described: Vec<String> = frontier
        .points
        .iter()
        .map(|point| {
            let score = |score: Option<Score>| score.map_or("not scored".to_string(), format::with_error);
            let models = words::things(point.experts.len(), "model", "models");
            format!("{models}: search {}, validation {}", score(point.search), score(point.validation))
        })
        .collect();
    let notes = match medium {
        Medium::Page => Vec::new(),
        Medium::File => vec![
            "Each task goes to the expert that is best at it on the search items. Bars: standard errors.".to_string(),
            "The axis of scores does not begin at 0.".to_string(),
        ],
    };
    Drawing {
        svg,
        class: "chart wide",
        size: [legend + 28.0 + widest, TOP + HEIGHT + BELOW],
        title: "Score over the number of models".to_string(),
        description: if described.is_empty() { "No point.".to_string() } else { format!("{}.", described.join("; ")) },
        notes,
        series: true,
    }
}
