//! Horizontal bars of one task with error bars: a panel, many of which stand side by side.

use crate::data::Score;
use crate::format;
use crate::svg::{Anchor, Svg, ticks};

/// What a bar stands for; each has a fill of its own that can be told from the others without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Plain and pale.
    Single,
    /// Plain and dark.
    Best,
    /// A dashed outline on a pale ground.
    Reference,
    /// Hatched.
    Merged,
    /// Dotted.
    Mixture,
    /// Solid.
    Final,
    /// An outline only.
    Oracle,
}

impl Fill {
    /// Class of its fill in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Fill::Single => "b-single",
            Fill::Best => "b-best",
            Fill::Reference => "b-reference",
            Fill::Merged => "b-merged",
            Fill::Mixture => "b-mixture",
            Fill::Final => "b-final",
            Fill::Oracle => "b-oracle",
        }
    }
}

/// One bar.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) fill: Fill,
    pub(crate) score: Option<Score>,
}

const WIDTH: f64 = 344.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 86.0;
const TOP: f64 = 6.0;
const ROW: f64 = 22.0;
const THICK: f64 = 13.0;
const BOTTOM: f64 = 22.0;
const SIZE: f64 = 12.0;

/// Lowest and highest value that panels side by side must all have room for, errors included: 0 and 1 at least.
pub(crate) fn domain<'a>(bars: impl IntoIterator<Item = &'a Bar>) -> [f64; 2] {
    let mut domain = [0.0f64, 1.0f64];
    for score in bars.into_iter().filter_map(|bar| bar.score) {
        let stderr = score.stderr.unwrap_or(0.0);
        // An error bar may leave the range that a share can have; then it is cut, not the scale stretched.
        if score.value < 0.0 || score.value > 1.0 {
            domain = [domain[0].min(score.value - stderr), domain[1].max(score.value + stderr)];
        }
    }
    domain
}

/// The panel of a task.
pub(crate) fn panel(id: &str, title: &str, bars: &[Bar], [low, high]: [f64; 2]) -> String {
    let mut svg = Svg::new();
    let plot = WIDTH - LEFT - RIGHT;
    let x_of = |value: f64| LEFT + plot * (value.clamp(low, high) - low) / (high - low);
    let bottom = TOP + ROW * bars.len() as f64;
    let (marks, decimals) = ticks(low, high, 2);
    for mark in marks {
        svg.line("grid", [x_of(mark), TOP], [x_of(mark), bottom + 2.0]);
        svg.text("t-s", Anchor::Middle, [x_of(mark), bottom + 16.0], &format::fixed(mark, decimals));
    }
    for (row, bar) in bars.iter().enumerate() {
        let middle = TOP + ROW * (row as f64 + 0.5);
        let strong = matches!(bar.fill, Fill::Final | Fill::Best);
        let short = Svg::fit(&bar.name, LEFT - 8.0, SIZE);
        let class = if strong { "t t-b" } else { "t" };
        svg.label(class, Anchor::End, [LEFT - 8.0, middle + 4.0], &short, Some(&bar.name), false);
        let Some(score) = bar.score else {
            svg.text("t-s", Anchor::Start, [x_of(0.0) + 4.0, middle + 4.0], "not scored");
            continue;
        };
        let (zero, end) = (x_of(0.0), x_of(score.value));
        let note = format!("{}: {}", bar.name, format::with_error(score));
        let place = [zero.min(end), middle - THICK / 2.0, (end - zero).abs(), THICK];
        svg.rect(bar.fill.class(), place, Some(&note));
        if let Some(stderr) = score.stderr.filter(|stderr| *stderr > 0.0) {
            let (from, to) = (x_of(score.value - stderr), x_of(score.value + stderr));
            for class in ["error-halo", "error"] {
                svg.line(class, [from, middle], [to, middle]);
                for x in [from, to] {
                    svg.line(class, [x, middle - 3.0], [x, middle + 3.0]);
                }
            }
        }
        let stderr = score.stderr.map_or(String::new(), |stderr| format!(" ±{}", format::bare(stderr)));
        let text = format!("{}{stderr}", format::score(score.value));
        svg.text(class, Anchor::End, [WIDTH - 2.0, middle + 4.0], &text);
    }
    svg.line("axis", [x_of(0.0), TOP], [x_of(0.0), bottom + 2.0]);
    let described: Vec<String> = bars
        .iter()
        .map(|bar| format!("{} {}", bar.name, bar.score.map_or("not scored".to_string(), format::with_error)))
        .collect();
    svg.finish(id, "chart panel", [WIDTH, bottom + BOTTOM], title, &format!("{}.", described.join("; ")))
}
