//! `report.html`: one file with its styles and pictures inside, which needs nothing from anywhere and no script.

use crate::charts::{CHART_STYLE, SERIES_STYLE};
use crate::check::check;
use crate::data::{Cost, Report};
use crate::document::{Block, Section};
use crate::error::ReportError;
use crate::format;
use crate::palette;
use crate::sections;
use crate::summary::{Line, answer as answer_lines, summary, unfinished};
use glue_text::{printable, words};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value};
use serde::Serialize;

const TEMPLATE: &str = include_str!("template/report.html");
const STYLE: &str = include_str!("template/style.css");

/// What the template is filled with.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Page {
    pub(crate) kind: &'static str,
    pub(crate) title: String,
    pub(crate) facts: Vec<String>,
    pub(crate) unfinished: Option<String>,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) lines: Vec<Line>,
    pub(crate) warnings: Vec<String>,
    /// What stands below the lines.
    pub(crate) answer: Vec<Block>,
    pub(crate) sections: Vec<Section>,
    pub(crate) footer: &'static str,
}

/// One of the few figures that stand out at the beginning.
#[derive(Debug, Serialize)]
pub(crate) struct Tile {
    figure: String,
    unit: &'static str,
    label: String,
}

impl Page {
    /// The page as one file.
    pub(crate) fn render(&self) -> Result<String, ReportError> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.add_global("style", format!("{}\n{CHART_STYLE}{SERIES_STYLE}{STYLE}", palette::css()));
        environment.add_global("generator", concat!("Model-GLUE ", env!("CARGO_PKG_VERSION")));
        let page = environment.render_str(TEMPLATE, Value::from(Serde(self)))?;
        // Names may hold characters that XML has no place for.
        Ok(page.chars().map(printable).collect())
    }
}

/// `report.html`: a page for readers who were not there. It is well-formed XML as well. Without `cost` it is a function
/// of the data alone.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Shape`], [`ReportError::Name`], [`ReportError::Join`] for data that
/// contradicts itself.
pub fn html(report: &Report, cost: Option<&Cost>) -> Result<String, ReportError> {
    check(report, cost)?;
    let mut answer = sections::sizes(report, cost);
    answer.extend(sections::overview(report));
    let page = Page {
        kind: "Report of a run",
        title: report.run.title.clone(),
        facts: facts(report, cost),
        unfinished: unfinished(report),
        tiles: tiles(report),
        lines: answer_lines(report),
        warnings: report.warnings.clone(),
        answer,
        sections: sections::story(report, cost),
        footer: "All figures are in report.json; times, memory and disk in cost.json.",
    };
    page.render()
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
            Some(stderr) => format!("average of the final model, ±\u{a0}{}", format::score(stderr)),
            None => "average of the final model".to_string(),
        };
        tiles.push(Tile { figure: format::score(last.average.value), unit: "", label });
    }
    if let (Some(gain), Some(single)) = (summary.gain, &summary.best_single) {
        let stderr =
            gain.stderr.map_or(String::new(), |stderr| format!(", ±\u{a0}{}", format::fixed(stderr * 100.0, 1)));
        let clear = if gain.is_clear() { "" } else { ": no clear difference" };
        let name = format::middle(&single.name, 32);
        // Where the final model is the best single one, there is nothing to compare.
        let same = report.outcome.as_ref().is_some_and(|last| last.made_of == [[single.name.as_str()]]);
        tiles.push(match same {
            true => Tile { figure: "0".to_string(), unit: "points", label: format!("gained: final is {name}") },
            false => Tile {
                figure: format::signed(gain.value * 100.0, 1),
                unit: "points",
                label: format!("over the best single model, {name}{stderr}{clear}"),
            },
        });
    }
    if let Some(last) = report.outcome.as_ref().filter(|last| last.parameters > 0) {
        let (figure, unit) = scale(last.parameters);
        let mut label = "parameters of the final model".to_string();
        let active = last.parameters_active.filter(|active| *active < last.parameters);
        if let Some(active) = active {
            label += &format!(", {} active", words::short(active));
        }
        if let Some(times) = sections::times_best_single(report, last.parameters) {
            label += &format!("; {times} the best single model");
        }
        tiles.push(Tile { figure, unit, label });
    }
    if let (Some(share), Some(oracle)) = (summary.of_oracle, &summary.oracle) {
        let label = format!("of perfect routing between single models, {}", format::score(oracle.average.value));
        tiles.push(Tile { figure: format::fixed(share * 100.0, 1), unit: "%", label });
    }
    tiles
}

/// A number of parameters and its unit.
fn scale(parameters: u64) -> (String, &'static str) {
    let short = words::short(parameters);
    let (figure, unit) = short.split_once(' ').unwrap_or((&short, ""));
    let unit = ["K", "M", "B", "T"].into_iter().find(|known| *known == unit).unwrap_or("");
    (figure.to_string(), unit)
}
