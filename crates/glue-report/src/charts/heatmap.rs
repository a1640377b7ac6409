//! The similarity of every pair of models, as a matrix of cells with their figures.

use super::drawing::{Drawing, Medium};
use super::{HEAT_STEPS, dendrogram, heat};
use crate::data::{Cluster, Dendrogram, Scale, Similarity};
use crate::format;
use crate::svg::{Anchor, Svg};
use glue_text::words;
use std::collections::BTreeSet;

const SIZE: f64 = 12.0;
/// Of the figures.
const SMALL: f64 = 10.5;

/// The heatmap with its models in `order`, numbers into the names of `similarity`; `groups` are lengths of runs in that
/// order that belong together and get a frame.
pub(crate) fn heatmap(medium: Medium, similarity: &Similarity, order: &[usize], groups: &[usize]) -> Drawing {
    let n = order.len();
    let figures = || order.iter().flat_map(|&i| order.iter().map(move |&j| similarity.matrix[i][j]));
    let colours = Colours::of(similarity, order, groups);
    let shown = |figure: Option<f64>| match figure {
        Some(value) => in_cell(similarity.scale, value, colours.decimals),
        None => format::NONE.to_string(),
    };
    let widest = figures().map(|figure| Svg::width_of(&shown(figure), SMALL)).fold(0.0, f64::max);
    // Figures must stay readable: many models make a wide picture, not small figures.
    let cell = (if n <= 14 { 38.0f64 } else { 30.0 }).max(widest + 4.0);
    let max_chars = medium.max_chars(22);
    let label = Svg::widest(order.iter().map(|&i| similarity.names[i].as_str()), max_chars, SIZE) + 10.0;
    let side = cell * n as f64;
    let (left, top) = (label, label);
    let mut svg = Svg::new();
    for (place, &i) in order.iter().enumerate() {
        let name = &similarity.names[i];
        let short = format::middle(name, max_chars);
        let middle = cell * (place as f64 + 0.5) + 4.0;
        svg.label("t", Anchor::End, [left - 6.0, top + middle], &short, Some(name), false);
        svg.label("t", Anchor::Start, [left + middle, top - 6.0], &short, Some(name), true);
    }
    for (row, &i) in order.iter().enumerate() {
        for (column, &j) in order.iter().enumerate() {
            let (x, y) = (left + cell * column as f64, top + cell * row as f64);
            let (first, second) = (&similarity.names[i], &similarity.names[j]);
            let middle = [x + cell / 2.0, y + cell / 2.0 + 3.5];
            let figure = similarity.matrix[i][j];
            match figure {
                Some(value) => {
                    let step = heat(colours.fraction(similarity.scale, value));
                    let note = format!("{first} and {second}: {}", precise(similarity.scale, value, colours.decimals));
                    svg.rect(&format!("cell h{step}"), [x, y, cell, cell], Some(&note));
                    svg.text(&format!("t-c i{step}"), Anchor::Middle, middle, &shown(figure));
                }
                None => {
                    let note = format!("{first} and {second}: cannot be compared");
                    svg.rect("cell h-none", [x, y, cell, cell], Some(&note));
                    svg.text("t-c", Anchor::Middle, middle, &shown(figure));
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
    let [least, most] = colours.ends(similarity.scale);
    let names: Vec<&str> = order.iter().map(|&i| similarity.names[i].as_str()).collect();
    let mut notes = vec![format!("From {least}, not similar, to {most}, most similar.")];
    notes.extend(colours.note(similarity.scale));
    if figures().any(|figure| figure.is_none()) {
        notes.push("A dash: nothing to compare.".to_string());
    }
    if !groups.is_empty() {
        notes.push("A frame: a cluster.".to_string());
    }
    Drawing {
        svg,
        class: "chart broad",
        size: [left + side + 2.0, top + side + 2.0],
        title: format!("{} of {}", similarity.metric, words::things(n, "model", "models")),
        description: format!(
            "A matrix of all pairs, from {least} (not similar) to {most} (most similar); frames mark clusters. In order: {}.",
            words::list(&names)
        ),
        notes,
        series: false,
    }
}

/// A figure in its cell. Similarities are near 1, distances of any size.
fn in_cell(scale: Scale, value: f64, decimals: usize) -> String {
    match scale {
        Scale::Similarity => format::short(value, decimals),
        Scale::Distance => format::without_zero(&format::significant(value, 3)),
    }
}

/// A figure beside the pointer.
fn precise(scale: Scale, value: f64, decimals: usize) -> String {
    match scale {
        Scale::Similarity => format::fixed(value, decimals + 1),
        Scale::Distance => format::significant(value, 6),
    }
}

/// What the colours stand for.
pub(crate) struct Colours {
    /// The figure of the palest colour of a similarity, the deepest of a distance.
    low: f64,
    /// Above `low`.
    high: f64,
    /// Whether the ends are those of the figures that are close to each other, and not of the whole range.
    adapted: bool,
    /// Whether there are figures outside of the ends, of pairs that are less similar.
    outside: bool,
    /// Decimals that tell similarities apart.
    decimals: usize,
}

impl Colours {
    /// Figures are close that differ by less than this fraction of the whole range.
    const CLOSE: f64 = 0.15;

    /// The colours of a similarity whose models are shown in `order`. Where the pairs inside the groups, or all pairs
    /// if there are no such groups, are close to each other, the scale is theirs: fine-tunes of one base would be all
    /// of one colour otherwise. The whole range is 0 to 1 at least for similarities, and from 0 for distances.
    pub(crate) fn of(similarity: &Similarity, order: &[usize], groups: &[usize]) -> Colours {
        let figures = || similarity.matrix.iter().flatten().copied().flatten();
        let low = figures().fold(0.0, f64::min);
        let high = match similarity.scale {
            Scale::Similarity => figures().fold(1.0, f64::max),
            Scale::Distance => Some(figures().fold(0.0, f64::max)).filter(|high| *high > low).unwrap_or(1.0),
        };
        let pair = |i: usize, j: usize| similarity.matrix[order[i]][order[j]].filter(|_| i != j);
        let all: Vec<f64> = (0..order.len()).flat_map(|i| (0..order.len()).filter_map(move |j| pair(i, j))).collect();
        let mut start = 0;
        let mut inside = Vec::new();
        for &length in groups {
            let group = start..start + length;
            inside.extend(group.clone().flat_map(|i| group.clone().filter_map(move |j| pair(i, j))));
            start += length;
        }
        let close = if inside.is_empty() { &all } else { &inside };
        let least = close.iter().copied().fold(f64::INFINITY, f64::min);
        let most = close.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range = most - least;
        // Figures of which all digits shown are the same do not differ.
        if !(range > 1e-6 * (high - low) && range < Colours::CLOSE * (high - low)) {
            return Colours { low, high, adapted: false, outside: false, decimals: 3 };
        }
        // A step of colour is left for the pairs that are less similar.
        let step = range / (HEAT_STEPS as f64 - 1.0);
        let decimals = (1.0 - range.log10().floor()).clamp(3.0, 7.0) as usize;
        let (low, high, outside) = match similarity.scale {
            Scale::Similarity if all.iter().any(|figure| *figure < least) => (least - step, most, true),
            Scale::Distance if all.iter().any(|figure| *figure > most) => (least, most + step, true),
            _ => (least, most, false),
        };
        Colours { low, high, adapted: true, outside, decimals }
    }

    /// How similar a figure is, from 0 to 1, on the scale of the colours.
    fn fraction(&self, scale: Scale, value: f64) -> f64 {
        let fraction = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        if scale == Scale::Distance { 1.0 - fraction } else { fraction }
    }

    /// The figures of the palest and of the deepest colour.
    fn ends(&self, scale: Scale) -> [String; 2] {
        match scale {
            Scale::Similarity => [self.low, self.high].map(|end| format::fixed(end, self.decimals)),
            Scale::Distance => [self.high, self.low].map(|end| format::significant(end, 3)),
        }
    }

    /// What to say of a scale that is not the usual one.
    pub(crate) fn note(&self, scale: Scale) -> Option<String> {
        let [least, most] = self.ends(scale);
        let outside = if self.outside { " Less similar pairs all have the palest." } else { "" };
        self.adapted.then(|| {
            format!(
                "Colours span only {least} to {most}, the range of similar models, to show how these differ.{outside}"
            )
        })
    }
}

/// The order of a heatmap, that of the dendrogram if there is one, with the members of each cluster together; and the
/// lengths of the clusters in it. Models of no cluster come last.
pub(crate) fn order(
    similarity: &Similarity,
    dendrogram: Option<&Dendrogram>,
    clusters: &[Cluster],
) -> (Vec<usize>, Vec<usize>) {
    let number = |name: &String| similarity.names.iter().position(|known| known == name);
    let mut order: Vec<usize> = Vec::new();
    if let Some(tree) = dendrogram {
        order.extend(dendrogram::order(tree).into_iter().filter_map(|leaf| tree.names.get(leaf).and_then(number)));
    }
    for i in 0..similarity.names.len() {
        if !order.contains(&i) {
            order.push(i);
        }
    }
    let mut seen = BTreeSet::new();
    order.retain(|i| seen.insert(*i));
    let cluster_of = |i: &usize| {
        clusters.iter().position(|cluster| cluster.members.contains(&similarity.names[*i])).unwrap_or(usize::MAX)
    };
    let mut first: Vec<usize> = Vec::new();
    for i in &order {
        if !first.contains(&cluster_of(i)) {
            first.push(cluster_of(i));
        }
    }
    // A stable sort: within a cluster the order of the dendrogram stays.
    order.sort_by_key(|i| first.iter().position(|cluster| *cluster == cluster_of(i)));
    let sizes = first.iter().filter(|cluster| **cluster != usize::MAX);
    let groups = sizes.map(|cluster| order.iter().filter(|i| cluster_of(i) == *cluster).count()).collect();
    // Models without a cluster come last in the lengths, and therefore in the order.
    order.sort_by_key(|i| cluster_of(i) == usize::MAX);
    (order, groups)
}
