//! Score over size: one mark for each model that can be used, and the frontier as steps.

use super::drawing::{Drawing, Medium};
use super::plot::{BELOW, Plot, error_bar, padded, stairs};
use crate::data::SizeRow;
use crate::format;
use crate::svg::{Anchor, BOLD, Svg};
use glue_text::words;

const LEFT: f64 = 46.0;
const TOP: f64 = 26.0;
const HEIGHT: f64 = 270.0;
const SIZE: f64 = 12.0;
const MARK: f64 = 5.0;
/// Least distance of the marks from the ends of the axis, in powers of ten.
const PAD: f64 = 0.08;

/// The chart. The axis of sizes is logarithmic; perfect routing is a dashed line.
pub(crate) fn sizes(medium: Medium, rows: &[SizeRow]) -> Drawing {
    let points: Vec<&SizeRow> = rows.iter().filter(|row| !row.is_oracle()).collect();
    let oracle = rows.iter().find(|row| row.is_oracle());
    let stderr = |row: &SizeRow| row.score.stderr.unwrap_or(0.0);
    let ends = points.iter().flat_map(|row| [row.score.value - stderr(row), row.score.value + stderr(row)]);
    let ends: Vec<f64> = ends.chain(oracle.map(|row| row.score.value)).collect();
    let low = ends.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let high = ends.iter().copied().reduce(f64::max).unwrap_or(1.0);
    let (low, high) = padded(low, high);
    let least = points.iter().map(|row| magnitude(row)).reduce(f64::min).unwrap_or(0.0);
    let most = points.iter().map(|row| magnitude(row)).reduce(f64::max).unwrap_or(0.0);
    let pad = ((most - least) * 0.12).max(PAD);
    // Narrow enough for the figures to be readable on a phone.
    let width = if medium == Medium::Page { 500.0 } else { 640.0 };
    let plot = Plot { left: LEFT, top: TOP, width, height: HEIGHT, start: least - pad, end: most + pad, low, high };
    let mut svg = Svg::new();
    let marks: Vec<(f64, String)> =
        round_sizes(plot.start, plot.end).into_iter().map(|size| ((size as f64).log10(), figure(size))).collect();
    plot.axes(&mut svg, ["parameters in all", "test average"], &marks, 5);

    let right = LEFT + width;
    // What labels must not cover.
    let mut taken: Vec<[f64; 4]> = Vec::new();
    if let Some(row) = oracle {
        let [_, y] = plot.at([plot.start, row.score.value]);
        svg.line("threshold", [LEFT, y], [right, y]);
        let text = format!("perfect routing {}", format::score(row.score.value));
        svg.text("t-s halo", Anchor::Start, [LEFT + 6.0, y + 14.0], &text);
        let name = [LEFT + 4.0, y + 2.0, Svg::width_of(&text, 11.0) + 4.0, 15.0];
        taken.extend([between([[LEFT, y], [right, y]]), name]);
    }
    let at = |row: &SizeRow| plot.at([magnitude(row), row.score.value]);
    let mut steps: Vec<[f64; 2]> = points.iter().filter(|row| row.pareto).map(|row| at(row)).collect();
    steps.sort_by(|a, b| a[0].total_cmp(&b[0]).then(b[1].total_cmp(&a[1])));
    if let Some(&[_, y]) = steps.last() {
        steps.push([right, y]);
    }
    let steps = stairs(&steps);
    svg.path("stairs", &steps);
    for row in &points {
        let [x, _] = at(row);
        if let Some(stderr) = row.score.stderr.filter(|stderr| *stderr > 0.0) {
            let end = |value: f64| plot.at([plot.start, value])[1];
            error_bar(&mut svg, x, [end(row.score.value + stderr), end(row.score.value - stderr)]);
        }
    }
    taken.extend(points.iter().map(|row| around(at(row))));
    taken.extend(steps.windows(2).map(|ends| between([ends[0], ends[1]])));
    for row in &points {
        let (class, form, size) = match (row.last, row.pareto) {
            (true, _) => ("mark-final", 3, MARK + 1.5),
            (false, true) => ("mark-frontier", 0, MARK),
            (false, false) => ("mark-beaten", 0, MARK),
        };
        svg.mark(class, form, at(row), size, Some(&in_words(row)));
    }
    // The final model first: its label gets the best place.
    let mut order = points.clone();
    order.sort_by_key(|row| !row.last);
    for row in order {
        let text = format!("{} {}", format::middle(&row.name, medium.max_chars(26)), format::score(row.score.value));
        let width = Svg::width_of(&text, SIZE) * if row.last { BOLD } else { 1.0 };
        let place = label_place(at(row), width, [LEFT, right], &taken);
        let [x, top, _, height] = place;
        taken.push(place);
        let class = if row.last { "t t-b halo" } else { "t halo" };
        svg.label(class, Anchor::Start, [x, top + height - 3.0], &text, Some(&row.what), false);
    }

    let described: Vec<String> = points.iter().map(|row| in_words(row)).collect();
    let notes = vec![
        "Diamond: the final model. Filled: on the frontier. Open: another model of at most this size is better."
            .to_string(),
        "The axis of parameters is logarithmic; that of scores does not begin at 0. Bars: standard errors.".to_string(),
    ];
    Drawing {
        svg,
        class: "chart wide",
        size: [right + 8.0, TOP + HEIGHT + BELOW],
        title: "Score over size".to_string(),
        description: if described.is_empty() { "No model.".to_string() } else { format!("{}.", described.join("; ")) },
        notes,
        series: true,
    }
}

fn in_words(row: &SizeRow) -> String {
    let last = if row.last { ", the final model" } else { "" };
    let size = words::short(row.parameters);
    format!("{} ({}{last}): {size} parameters, {}", row.name, row.what, format::with_error(row.score))
}

fn magnitude(row: &SizeRow) -> f64 {
    (row.parameters.max(1) as f64).log10()
}

/// The room that a mark takes: left, top, width, height.
fn around([x, y]: [f64; 2]) -> [f64; 4] {
    [x - MARK - 2.0, y - MARK - 2.0, 2.0 * MARK + 4.0, 2.0 * MARK + 4.0]
}

/// The room that a part of the steps takes.
fn between([[x, y], [u, v]]: [[f64; 2]; 2]) -> [f64; 4] {
    [x.min(u) - 2.0, y.min(v) - 2.0, (x - u).abs() + 4.0, (y - v).abs() + 4.0]
}

/// The place of a label near its mark that covers nothing: at its right, then left, above and below, then farther away.
/// Where there is none, the first place.
fn label_place([x, y]: [f64; 2], width: f64, [left, right]: [f64; 2], taken: &[[f64; 4]]) -> [f64; 4] {
    const HEIGHT: f64 = 15.0;
    let beside = MARK + 6.0;
    let mut places = Vec::new();
    for away in 0..6 {
        let shift = HEIGHT * f64::from(away);
        for dy in if away == 0 { vec![0.0] } else { vec![-shift, shift] } {
            let top = y - HEIGHT / 2.0 + dy;
            places.extend([[x + beside, top, width, HEIGHT], [x - beside - width, top, width, HEIGHT]]);
            if away > 0 {
                places.push([x - width / 2.0, top, width, HEIGHT]);
            }
        }
    }
    let inside = |place: &&[f64; 4]| {
        place[0] >= left
            && place[0] + width <= right
            && place[1] >= TOP - 8.0
            && place[1] + HEIGHT <= TOP + self::HEIGHT
    };
    let free = |place: &&[f64; 4]| !taken.iter().any(|other| overlap(**place, *other));
    let found = places.iter().filter(inside).find(free).or(places.iter().find(inside)).copied();
    // A label wider than the chart begins at its left.
    found.unwrap_or([left.min(right - width).max(0.0), y - HEIGHT / 2.0, width, HEIGHT])
}

fn overlap([x, y, width, height]: [f64; 4], [u, v, w, h]: [f64; 4]) -> bool {
    x < u + w && u < x + width && y < v + h && v < y + height
}

/// A round size without zeros at the end of its decimals.
fn figure(size: u64) -> String {
    let text = words::short(size);
    match text.split_once(' ') {
        Some((figure, unit)) if figure.contains('.') => {
            format!("{} {unit}", figure.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// Round sizes between two powers of ten: of 1, 2 and 5, or of every digit if those are fewer than two.
fn round_sizes(low: f64, high: f64) -> Vec<u64> {
    let with = |digits: &[f64]| -> Vec<u64> {
        let powers = low.floor().max(0.0) as i32..=high.ceil() as i32;
        let sizes = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        sizes.filter(|size| (low..=high).contains(&size.log10())).map(|size| size.round() as u64).collect()
    };
    let mut found = with(&[1.0, 2.0, 5.0]);
    if found.len() < 2 {
        found = with(&[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    }
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    //! Figures of the axis, and places of labels.
    use super::*;

    #[test]
    fn sizes_are_round() {
        let check = |low: f64, high: f64, expected: &[u64]| {
            assert_eq!(round_sizes(low.log10(), high.log10()), expected, "{low} to {high}");
        };
        check(0.9e8, 6e8, &[100_000_000, 200_000_000, 500_000_000]);
        check(1.1e8, 1.6e8, &[120_000_000, 150_000_000]);
        check(6.5e9, 8.5e9, &[7_000_000_000, 8_000_000_000]);
        check(0.5, 2.0, &[1, 2]);
        assert_eq!([figure(2_000_000), figure(1_200_000_000), figure(700)], ["2 M", "1.2 B", "700"]);
    }

    #[test]
    fn labels_cover_nothing() {
        let marks = [[100.0, 100.0], [104.0, 103.0], [98.0, 106.0], [330.0, 100.0]];
        let mut taken: Vec<[f64; 4]> = marks.map(around).to_vec();
        for mark in marks {
            let place = label_place(mark, 90.0, [46.0, 400.0], &taken);
            assert!(!taken.iter().any(|other| overlap(place, *other)), "{place:?}: {taken:?}");
            assert!(place[0] >= 46.0 && place[0] + 90.0 <= 400.0, "{place:?}");
            taken.push(place);
        }
    }
}
