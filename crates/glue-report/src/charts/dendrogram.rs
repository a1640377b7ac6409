//! The dendrogram, models from top to bottom, with the threshold of the clusters.

use super::drawing::{Drawing, Medium};
use crate::data::{Cluster, Dendrogram, Scale};
use crate::format;
use crate::svg::{Anchor, BOLD, Svg, ticks};
use glue_text::words;

/// Width of the names of clusters, left of those of models.
const CLUSTER: f64 = 18.0;
/// Least room left of the plot, for the half of a figure below its edge.
const LEFT: f64 = 30.0;
const TOP: f64 = 26.0;
const ROW: f64 = 26.0;
const SIZE: f64 = 12.0;
/// Fraction of the plot between the models and the nearest join, which keeps it visible.
const LEAD: f64 = 0.08;

/// The models, by number, in an order in which no two branches cross. The parts that never join follow one another in
/// the order of their first models.
pub(crate) fn order(dendrogram: &Dendrogram) -> Vec<usize> {
    let n = dendrogram.names.len();
    let mut members: Vec<Vec<usize>> = (0..n).map(|i| vec![i]).collect();
    let mut open: Vec<bool> = vec![true; n];
    for join in &dendrogram.joins {
        let (Some(first), Some(second)) = (members.get(join.first).cloned(), members.get(join.second).cloned()) else {
            continue;
        };
        open[join.first] = false;
        open[join.second] = false;
        let (a, b) = if first.iter().min() <= second.iter().min() { (first, second) } else { (second, first) };
        members.push([a, b].concat());
        open.push(true);
    }
    let mut parts: Vec<Vec<usize>> =
        members.into_iter().zip(open).filter_map(|(part, open)| open.then_some(part)).collect();
    parts.sort_by_key(|part| part.iter().min().copied());
    parts.concat()
}

/// Positions of figures on the axis, from 0 (most similar) to 1.
struct Axis {
    scale: Scale,
    /// Nearest and farthest distance drawn, as logarithms if `logarithmic`.
    near: f64,
    far: f64,
    logarithmic: bool,
}

impl Axis {
    fn new(scale: Scale, figures: &[f64]) -> Axis {
        let distances: Vec<f64> = figures.iter().map(|&figure| distance(scale, figure)).collect();
        let far = distances.iter().copied().fold(0.0, f64::max);
        let near = distances.iter().copied().filter(|distance| *distance > 1e-6).fold(f64::INFINITY, f64::min);
        // Relatives differ by hundredths where strangers differ by one: only a logarithm shows both.
        let logarithmic = near.is_finite() && far > 8.0 * near;
        match logarithmic {
            // The axis ends with a figure of its own where one is near.
            true => Axis { scale, near: near.log10(), far: round_up(far).log10(), logarithmic },
            false => Axis { scale, near: 0.0, far: if far > 0.0 { far } else { 1.0 }, logarithmic },
        }
    }

    fn fraction(&self, figure: f64) -> f64 {
        let distance = distance(self.scale, figure);
        let value = if self.logarithmic { distance.max(1e-12).log10() } else { distance };
        let fraction = ((value - self.near) / (self.far - self.near)).clamp(0.0, 1.0);
        if self.logarithmic { LEAD + (1.0 - LEAD) * fraction } else { fraction }
    }

    /// Round figures on the axis with their labels.
    fn ticks(&self) -> Vec<(f64, String)> {
        if !self.logarithmic {
            let (distances, decimals) = ticks(0.0, self.far, 4);
            return distances.into_iter().map(|d| self.figure(d)).map(|f| (f, format::fixed(f, decimals))).collect();
        }
        let (low, high) = (self.near.floor() as i32, self.far.ceil() as i32);
        let mut found = Vec::new();
        for power in low..=high {
            for unit in [1.0, 2.0, 5.0] {
                let distance = unit * 10f64.powi(power);
                let log = distance.log10();
                if log >= self.near - 1e-9 && log <= self.far + 1e-9 {
                    // 0.995 needs one decimal more than 0.99.
                    let decimals = (-power).max(0) as usize;
                    found.push((self.figure(distance), format::fixed(self.figure(distance), decimals)));
                }
            }
        }
        found
    }

    fn figure(&self, distance: f64) -> f64 {
        if self.scale == Scale::Similarity { 1.0 - distance } else { distance }
    }
}

/// The next of 1, 2 and 5 times a power of ten, if it is less than a tenth away.
fn round_up(distance: f64) -> f64 {
    let power = 10f64.powf(distance.log10().floor());
    let next = [1.0, 2.0, 5.0, 10.0].map(|unit| unit * power).into_iter().find(|next| *next >= distance);
    next.filter(|next| *next < distance * 1.1).unwrap_or(distance)
}

fn distance(scale: Scale, figure: f64) -> f64 {
    match scale {
        Scale::Similarity => (1.0 - figure).max(0.0),
        Scale::Distance => figure.max(0.0),
    }
}

/// The dendrogram; clusters are named beside their models, and the threshold, if any, is a dashed line.
pub(crate) fn dendrogram(
    medium: Medium,
    dendrogram: &Dendrogram,
    clusters: &[Cluster],
    threshold: Option<f64>,
) -> Drawing {
    let order = order(dendrogram);
    let mut figures: Vec<f64> = dendrogram.joins.iter().filter_map(|join| join.height).collect();
    figures.extend(threshold);
    let max_chars = medium.max_chars(13);
    let names = Svg::widest(dendrogram.names.iter().map(String::as_str), max_chars, SIZE);
    let left = (if clusters.is_empty() { 0.0 } else { CLUSTER } + names + 8.0).max(LEFT);
    let plot = if medium == Medium::Page { 250.0 } else { 400.0 };
    let axis = Axis::new(dendrogram.scale, &figures);
    let x_of = |figure: f64| left + plot * axis.fraction(figure);
    let bottom = TOP + ROW * order.len() as f64;
    let width = left + plot + 14.0;
    let mut svg = Svg::new();
    let mut last = f64::NEG_INFINITY;
    for (figure, text) in axis.ticks() {
        let x = x_of(figure);
        svg.line("grid", [x, TOP], [x, bottom + 3.0]);
        let half = Svg::width_of(&text, 11.0) / 2.0;
        if x - half > last + 4.0 {
            svg.text("t-s", Anchor::Middle, [x, bottom + 17.0], &text);
            last = x + half;
        }
    }
    let mut ends: Vec<Option<[f64; 2]>> = vec![None; order.len()];
    let cluster_of =
        |name: &str| clusters.iter().position(|cluster| cluster.members.iter().any(|member| member == name));
    let mut before = None;
    for (row, &model) in order.iter().enumerate() {
        let y = TOP + ROW * (row as f64 + 0.5);
        let name = &dendrogram.names[model];
        let cluster = cluster_of(name);
        if row > 0 && cluster != before {
            svg.line("divide", [0.0, y - ROW / 2.0], [left + plot, y - ROW / 2.0]);
        }
        before = cluster;
        let short = format::middle(name, max_chars);
        svg.label("t", Anchor::End, [left - 8.0, y + 4.0], &short, Some(name), false);
        if let Some(cluster) = cluster {
            let title = format!("cluster {}", clusters[cluster].name);
            let short = format::middle(&clusters[cluster].name, 3);
            svg.label("t-s t-b", Anchor::Start, [0.0, y + 4.0], &short, Some(&title), false);
        }
        ends[model] = Some([left, y]);
    }
    for join in &dendrogram.joins {
        let nodes = [join.first, join.second].map(|node| ends.get(node).copied().flatten());
        ends.push(match (join.height, nodes) {
            (Some(height), [Some([x1, y1]), Some([x2, y2])]) => {
                let x = x_of(height);
                svg.path("branch", &[[x1, y1], [x, y1], [x, y2], [x2, y2]]);
                Some([x, (y1 + y2) / 2.0])
            }
            _ => None,
        });
    }
    if let Some(threshold) = threshold {
        let x = x_of(threshold);
        svg.line("threshold", [x, TOP - 4.0], [x, bottom + 3.0]);
        let text = format!("threshold {}", format::plain(threshold));
        let half = Svg::width_of(&text, 11.0) * BOLD / 2.0;
        let middle = x.min(width - half).max(half);
        svg.text("t-s t-b", Anchor::Middle, [middle, TOP - 10.0], &text);
    }
    let what = match dendrogram.scale {
        Scale::Similarity => "similarity",
        Scale::Distance => "distance",
    };
    svg.text("t-s", Anchor::Middle, [left + plot / 2.0, bottom + 34.0], &format!("{what}, most similar at the left"));
    let names: Vec<&str> = order.iter().map(|&i| dendrogram.names[i].as_str()).collect();
    let spaced = axis.logarithmic.then_some("spaced by the logarithm of its distance from the same");
    let mut notes: Vec<String> = spaced.iter().map(|spaced| format!("The {what} is {spaced}.")).collect();
    if !clusters.is_empty() {
        notes.push("Left of each name: its cluster.".to_string());
    }
    let spaced = spaced.map_or(String::new(), |spaced| format!(", {spaced}"));
    Drawing {
        svg,
        class: "chart",
        size: [width, bottom + 40.0],
        title: format!("Dendrogram of {}, {} linkage", words::things(order.len(), "model", "models"), dendrogram.link),
        description: format!("Models joined at their {what}{spaced}. From top to bottom: {}.", words::list(&names)),
        notes,
        series: false,
    }
}

#[cfg(test)]
mod tests {
    //! The order of the models.
    use super::*;
    use crate::data::Join;

    #[test]
    fn parts_that_join_are_neighbours() {
        let check = |n: usize, joins: &[(usize, usize)], expected: &[usize]| {
            let joins = joins.iter().map(|&(first, second)| Join { first, second, height: None }).collect();
            let names = (0..n).map(|i| i.to_string()).collect();
            assert_eq!(order(&Dendrogram { names, joins, ..Dendrogram::default() }), expected);
        };
        check(0, &[], &[]);
        check(1, &[], &[0]);
        check(4, &[(1, 3), (0, 2)], &[0, 2, 1, 3]);
        check(4, &[(0, 3), (1, 2), (4, 5)], &[0, 3, 1, 2]);
        // The second join first, since the first model is in it.
        check(3, &[(1, 2), (0, 3)], &[0, 1, 2]);
    }
}
