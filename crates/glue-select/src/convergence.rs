//! How the best score grew with the evaluations: as a table, and as a picture.
//!
//! The picture has a white ground of its own, so that it is the same on a dark page; colours are those of Okabe and Ito
//! (*Color Universal Design*, 2008), which people with any colour vision tell apart, and each strategy has a shape besides.

use crate::summary::Summary;
use plotters::prelude::*;
use std::collections::HashSet;
use std::fmt::Write;

/// One evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its number, counted from 1.
    pub evaluation: usize,
    /// Who asked for it: a strategy, or `single` for a model by itself.
    pub strategy: String,
    /// Its average; `None` when it failed.
    pub average: Option<f64>,
    /// Whether it was dropped before all items were scored.
    pub dropped: bool,
    /// The best average so far.
    pub best: Option<f64>,
}

/// The evaluations of a search in order, each once.
pub fn steps(summary: &Summary) -> Vec<Step> {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut best: Option<f64> = None;
    let mut steps = Vec::new();
    for tried in &summary.candidates {
        if !seen.insert(&tried.recipe) {
            continue;
        }
        let dropped = tried.scores.as_ref().is_some_and(|scores| scores.dropped);
        let average = tried.scores.as_ref().map(|scores| scores.average);
        if let Some(average) = average.filter(|_| !dropped) {
            best = Some(best.map_or(average, |best| best.max(average)));
        }
        steps.push(Step { evaluation: steps.len() + 1, strategy: tried.strategy.clone(), average, dropped, best });
    }
    steps
}

/// As CSV.
pub fn csv(steps: &[Step]) -> String {
    let mut text = String::from("evaluation,strategy,average,dropped,best\n");
    let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    for step in steps {
        let Step { evaluation, strategy, average, dropped, best } = step;
        let _ = writeln!(text, "{evaluation},{strategy},{},{dropped},{}", number(*average), number(*best));
    }
    text
}

/// Okabe and Ito, from the third on: black is for the best, and yellow is too pale on white.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// As a picture in SVG.
///
/// # Errors
/// What the drawing library says, in words.
pub fn svg(steps: &[Step]) -> Result<String, String> {
    let mut text = String::new();
    draw(steps, &mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn draw(steps: &[Step], text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let full = || steps.iter().filter(|step| !step.dropped).filter_map(|step| step.average.map(|y| (step, y)));
    let mut strategies: Vec<&str> = Vec::new();
    for step in steps {
        if !strategies.contains(&step.strategy.as_str()) {
            strategies.push(&step.strategy);
        }
    }
    // A model far below the others would press the rest into a line: the lowest twentieth is cut off.
    let mut values: Vec<f64> = full().map(|(_, y)| y).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = match (values.get(values.len() / 20), values.last()) {
        (Some(low), Some(high)) => (*low, *high),
        _ => (0.0, 1.0),
    };
    let room = ((high - low) * 0.06).max(1e-3);
    let (low, high) = (low - room, high + room);
    let root = SVGBackend::with_string(text, (800, 450)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..(steps.len() + 1) as f64, low..high)?;
    let style = ("sans-serif", 14).into_font().color(&BLACK);
    chart
        .configure_mesh()
        .x_desc("evaluations")
        .y_desc("average score, search part")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.3}"))
        .label_style(style.clone())
        .axis_desc_style(style.clone())
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (number, strategy) in strategies.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = full().filter(|(step, y)| step.strategy == *strategy && *y >= low);
        let points: Vec<(f64, f64)> = points.map(|(step, y)| (step.evaluation as f64, y)).collect();
        let series = match number % 3 {
            0 => chart.draw_series(points.iter().map(|&at| Circle::new(at, 3, colour.filled()).into_dyn()))?,
            1 => chart.draw_series(points.iter().map(|&at| TriangleMarker::new(at, 4, colour.filled()).into_dyn()))?,
            _ => chart.draw_series(points.iter().map(|&at| Cross::new(at, 3, colour.stroke_width(2)).into_dyn()))?,
        };
        series.label(*strategy).legend(move |(x, y)| match number % 3 {
            0 => Circle::new((x + 9, y), 3, colour.filled()).into_dyn(),
            1 => TriangleMarker::new((x + 9, y), 4, colour.filled()).into_dyn(),
            _ => Cross::new((x + 9, y), 3, colour.stroke_width(2)).into_dyn(),
        });
    }
    let mut stairs: Vec<(f64, f64)> = Vec::new();
    for step in steps {
        if let Some(best) = step.best {
            if let Some(&(_, before)) = stairs.last() {
                stairs.push((step.evaluation as f64, before.max(low)));
            }
            stairs.push((step.evaluation as f64, best.max(low)));
        }
    }
    chart
        .draw_series(LineSeries::new(stairs, BLACK.stroke_width(2)))?
        .label("best so far")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(style)
        .draw()?;
    root.present()?;
    Ok(())
}
