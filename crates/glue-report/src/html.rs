//! `report.html`: one file with its styles and pictures inside, which needs nothing from anywhere and no script.

use crate::charts::{CHART_STYLE, SERIES_STYLE};
use crate::check::check;
use crate::data::{Cost, Report};
use crate::document::{Block, Section};
use crate::error::ReportError;
use crate::format;
use crate::palette;
use crate::sections;
use crate::summary::{lines, summary};
use glue_text::{printable, words};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value};
use serde::Serialize;

const TEMPLATE: &str = include_str!("template/report.html");
const STYLE: &str = include_str!("template/style.css");

/// What the template is filled with.
#[derive(Debug, Serialize)]
struct Page<'a> {
    title: &'a str,
    facts: Vec<String>,
    tiles: Vec<Tile>,
    lines: [Line; 5],
    warnings: &'a [String],
    overview: Option<Block>,
    sections: Vec<Section>,
    style: String,
    generator: &'static str,
}

/// One of the few figures that stand out at the beginning.
#[derive(Debug, Serialize)]
struct Tile {
    figure: String,
    unit: &'static str,
    label: String,
}

#[derive(Debug, Serialize)]
struct Line {
    label: &'static str,
    text: String,
    command: Option<String>,
}

/// `report.html`: a page for readers who were not there. It is well-formed XML as well. Without `cost` it is a function
/// of the data alone.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Shape`], [`ReportError::Name`], [`ReportError::Join`] for data that
/// contradicts itself.
pub fn html(report: &Report, cost: Option<&Cost>) -> Result<String, ReportError> {
    check(report, cost)?;
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    let lines = lines(report).map(|line| Line { label: line.label, text: line.text, command: line.command });
    let page = Page {
        title: &report.run.title,
        facts: facts(report, cost),
        tiles: tiles(report),
        lines,
        warnings: &report.warnings,
        overview: sections::overview(report),
        sections: sections::story(report, cost),
        style: format!("{}\n{CHART_STYLE}{SERIES_STYLE}{STYLE}", palette::css()),
        generator: concat!("Model-GLUE ", env!("CARGO_PKG_VERSION")),
    };
    let page = environment.render_str(TEMPLATE, Value::from(Serde(&page)))?;
    // Names may hold characters that XML has no place for.
    Ok(page.chars().map(printable).collect())
}

/// What was run, in a line below the title.
fn facts(report: &Report, cost: Option<&Cost>) -> Vec<String> {
    let mut facts =
        vec![words::things(report.models.len(), "model", "models"), words::things(report.tasks.len(), "task", "tasks")];
    if let Some(clustering) = &report.clustering {
        facts.push(words::things(clustering.clusters.len(), "cluster", "clusters"));
    }
    facts.push(format!("seed {}", report.run.seed));
    facts.extend(report.run.versions.first().map(|version| format!("{} {}", version.name, version.version)));
    if let Some(cost) = cost.filter(|cost| !cost.stages.is_empty()) {
        facts.push(words::duration(cost.seconds()));
        facts.extend(cost.peak_bytes().map(|bytes| format!("{} of memory", words::bytes(bytes))));
    }
    facts
}

fn tiles(report: &Report) -> Vec<Tile> {
    let summary = summary(report);
    let mut tiles = Vec::new();
    if let Some(last) = &summary.last {
        let label = match last.average.stderr {
            Some(stderr) => format!("average of the final model, ± {}", format::score(stderr)),
            None => "average of the final model".to_string(),
        };
        tiles.push(Tile { figure: format::score(last.average.value), unit: "", label });
    }
    if let (Some(gain), Some(single)) = (summary.gain, &summary.best_single) {
        let stderr = gain.stderr.map_or(String::new(), |stderr| format!(", ± {}", format::fixed(stderr * 100.0, 1)));
        let label = format!("over the best single model, {}{stderr}", format::middle(&single.name, 32));
        tiles.push(Tile { figure: format::signed(gain.value * 100.0, 1), unit: "points", label });
    }
    if let (Some(share), Some(oracle)) = (summary.of_oracle, &summary.oracle) {
        let label = format!("of the oracle, {}", format::score(oracle.average.value));
        tiles.push(Tile { figure: format::fixed(share * 100.0, 1), unit: "%", label });
    }
    tiles
}
