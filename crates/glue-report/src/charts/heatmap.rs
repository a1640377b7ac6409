//! The similarity of every pair of models, as a matrix of cells with their figures.

use super::heat;
use crate::data::{Scale, Similarity};
use crate::format;
use crate::svg::{Anchor, Svg};

const SIZE: f64 = 12.0;

/// The heatmap with its models in `order`, numbers into the names of `similarity`; `groups` are lengths of runs in that
/// order that belong together and get a frame.
pub(crate) fn heatmap(id: &str, similarity: &Similarity, order: &[usize], groups: &[usize]) -> String {
    let n = order.len();
    // Figures must stay readable, so that many models make a wide picture rather than small figures.
    let cell = if n <= 14 { 38.0 } else { 30.0 };
    let longest = similarity.names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(22);
    let label = Svg::width_of(longest, SIZE) + 10.0;
    let side = cell * n as f64;
    let (left, top) = (label, label);
    let [low, high] = domain(similarity);
    let share = |value: f64| {
        let share = if high > low { (value - low) / (high - low) } else { 1.0 };
        if similarity.scale == Scale::Distance { 1.0 - share } else { share }
    };
    let mut svg = Svg::new();
    for (place, &i) in order.iter().enumerate() {
        let name = &similarity.names[i];
        let short = format::middle(name, 22);
        let middle = cell * (place as f64 + 0.5) + 4.0;
        svg.label("t", Anchor::End, [left - 6.0, top + middle], &short, Some(name), false);
        svg.label("t", Anchor::Start, [left + middle, top - 6.0], &short, Some(name), true);
    }
    for (row, &i) in order.iter().enumerate() {
        for (column, &j) in order.iter().enumerate() {
            let (x, y) = (left + cell * column as f64, top + cell * row as f64);
            let (first, second) = (&similarity.names[i], &similarity.names[j]);
            let middle = [x + cell / 2.0, y + cell / 2.0 + 3.5];
            match similarity.matrix[i][j] {
                Some(value) => {
                    let step = heat(share(value));
                    let note = format!("{first} and {second}: {}", format::fixed(value, 4));
                    svg.rect(&format!("cell h{step}"), [x, y, cell, cell], Some(&note));
                    svg.text(&format!("t-c i{step}"), Anchor::Middle, middle, &format::short(value));
                }
                None => {
                    let note = format!("{first} and {second}: cannot be compared");
                    svg.rect("cell h-none", [x, y, cell, cell], Some(&note));
                    svg.text("t-c", Anchor::Middle, middle, format::NONE);
                }
            }
        }
    }
    let mut place = 0;
    for &length in groups {
        let (start, size) = (cell * place as f64, cell * length as f64);
        svg.rect("frame", [left + start, top + start, size, size], None);
        place += length;
    }
    let title = format!("{} of {}", similarity.metric, format::things(n, "model", "models"));
    let names: Vec<&str> = order.iter().map(|&i| similarity.names[i].as_str()).collect();
    let description = format!(
        "A matrix of all pairs, from {} (unlike) to {} (alike); frames mark clusters. In order: {}.",
        format::score(if similarity.scale == Scale::Distance { high } else { low }),
        format::score(if similarity.scale == Scale::Distance { low } else { high }),
        format::list(&names)
    );
    svg.finish(id, "chart scroll", [left + side + 2.0, top + side + 2.0], &title, &description)
}

/// Ends of the scale: 0 to 1 at least for similarities, from 0 for distances.
fn domain(similarity: &Similarity) -> [f64; 2] {
    let figures = || similarity.matrix.iter().flatten().copied().flatten();
    match similarity.scale {
        Scale::Similarity => [figures().fold(0.0, f64::min), figures().fold(1.0, f64::max)],
        Scale::Distance => [figures().fold(0.0, f64::min), figures().fold(0.0, f64::max)],
    }
}
