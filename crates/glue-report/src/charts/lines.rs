//! Lines over a count, as steps: the best score so far.

use super::plot::{BELOW, Plot, counts, padded, stairs};
use crate::format;
use crate::svg::{Anchor, Svg};

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Number of its colour and mark. Two series of one number belong together.
    pub(crate) number: usize,
    /// Whether it is on items that were held out: a dotted line with open marks.
    pub(crate) held_out: bool,
    /// Count and value, the count ascending. A value holds until the next.
    pub(crate) points: Vec<[f64; 2]>,
}

impl Series {
    /// Classes of its marks.
    fn mark(&self) -> String {
        format!("{} s{}", if self.held_out { "mark-open" } else { "mark" }, self.number % 6)
    }
}

/// What is drawn beside the lines.
#[derive(Debug, Clone)]
pub(crate) struct Axes<'a> {
    pub(crate) id: &'a str,
    pub(crate) title: &'a str,
    pub(crate) x_label: &'a str,
    pub(crate) y_label: &'a str,
    /// A level to compare with, and its name.
    pub(crate) level: Option<(f64, &'a str)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 46.0;
const TOP: f64 = 26.0;
const LABEL: f64 = 15.0;
const SIZE: f64 = 12.0;
/// Maximum width that labels take from the lines.
const MAX_LABELS: f64 = 280.0;

/// The chart. Series without points are left out; `None` if nothing is left.
pub(crate) fn lines(axes: &Axes<'_>, series: &[Series]) -> Option<String> {
    let series: Vec<&Series> = series.iter().filter(|series| !series.points.is_empty()).collect();
    let points = || series.iter().flat_map(|series| &series.points);
    points().next()?;
    let label = |series: &Series| {
        let last = series.points.last().map_or(0.0, |[_, value]| *value);
        match series.held_out {
            true => format!("{} val. {}", format::middle(&series.name, 19), format::score(last)),
            false => format!("{} {}", format::middle(&series.name, 24), format::score(last)),
        }
    };
    let widest = series.iter().map(|series| Svg::width_of(&label(series), SIZE)).fold(0.0, f64::max);
    let right = widest.min(MAX_LABELS) + 28.0;
    let level = axes.level.map(|(value, _)| value);
    let values = || points().map(|point| point[1]).chain(level);
    let (low, high) = padded(values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let end = points().map(|point| point[0]).fold(1.0, f64::max);
    let (width, height) = (WIDTH - LEFT - right, HEIGHT - TOP - BELOW);
    let plot = Plot { left: LEFT, top: TOP, width, height, start: 0.0, end, low, high };
    let at = |point| plot.at(point);

    let mut svg = Svg::new();
    plot.axes(&mut svg, [axes.x_label, axes.y_label], &counts(end, 4), 4);
    if let Some((value, name)) = axes.level {
        let [_, y] = at([0.0, value]);
        svg.line("threshold", [LEFT, y], [WIDTH - right, y]);
        svg.text("t-s halo", Anchor::End, [WIDTH - right - 4.0, y - 5.0], name);
    }
    let mut labels: Vec<(f64, usize)> = Vec::new();
    for (k, series) in series.iter().enumerate() {
        let drawn: Vec<[f64; 2]> = stairs(&series.points).into_iter().map(at).collect();
        let colour = series.number % 6;
        match series.held_out {
            true => svg.path(&format!("line s{colour} held-out"), &drawn),
            false => svg.path(&format!("line s{colour} d{colour}"), &drawn),
        }
        // Marks only where the line rises, and not so many that they touch.
        let mut last = f64::NEG_INFINITY;
        for point in series.points.iter().map(|point| at(*point)) {
            if point[0] >= last + 14.0 && series.points.len() <= 400 {
                svg.mark(&series.mark(), series.number, point, 3.4, None);
                last = point[0];
            }
        }
        if let Some(&[x, y]) = drawn.last() {
            labels.push((y, k));
            svg.line("leader", [x, y], [(WIDTH - right).max(x), y]);
        }
    }
    let ends: Vec<f64> = labels.iter().map(|(y, _)| *y).collect();
    for ((y, k), place) in labels.iter().zip(spread(&ends, LABEL, TOP, HEIGHT - BELOW)) {
        let series = series[*k];
        let x = WIDTH - right;
        svg.line("leader", [x + 2.0, *y], [x + 9.0, place]);
        svg.mark(&series.mark(), series.number, [x + 15.0, place], 3.4, None);
        svg.label("t", Anchor::Start, [x + 23.0, place + 4.0], &label(series), Some(&series.name), false);
    }
    let described: Vec<String> = series
        .iter()
        .filter_map(|series| {
            let ([_, first], [count, last]) = (series.points.first()?, series.points.last()?);
            let (first, last) = (format::score(*first), format::score(*last));
            Some(format!("{} from {first} to {last} after {} {}", series.name, format::fixed(*count, 0), axes.x_label))
        })
        .collect();
    let height = HEIGHT.max(TOP + BELOW + LABEL * series.len() as f64);
    Some(svg.finish(axes.id, "chart wide", [WIDTH, height], axes.title, &format!("{}.", described.join("; "))))
}

/// Places near `wanted`, in its order, no two nearer than `gap`, from `low` on and to `high` where there is room.
fn spread(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]).then(a.cmp(&b)));
    let mut places = wanted.to_vec();
    let mut next = low;
    for &i in &order {
        places[i] = places[i].max(next);
        next = places[i] + gap;
    }
    let mut last = high;
    for &i in order.iter().rev() {
        places[i] = places[i].min(last);
        last = places[i] - gap;
    }
    // Too many for the room: from the top down, whatever lies below.
    if order.first().is_some_and(|&i| places[i] < low) {
        for (rank, &i) in order.iter().enumerate() {
            places[i] = low + gap * rank as f64;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    //! Labels.
    use super::*;

    #[test]
    fn labels_do_not_overlap() {
        let check = |wanted: &[f64], high: f64| {
            let mut places = spread(wanted, 10.0, 0.0, high);
            places.sort_by(f64::total_cmp);
            // Sums of tens are exact to a few units in the last place.
            assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 10.0 - 1e-9), "{places:?}");
            assert!(places[0] >= 0.0, "{places:?}");
        };
        check(&[5.0, 5.0, 5.0], 100.0);
        check(&[99.0, 98.0, 97.0], 100.0);
        check(&[50.0; 20], 100.0);
        assert_eq!(spread(&[20.0, 60.0], 10.0, 0.0, 100.0), [20.0, 60.0]);
    }
}
