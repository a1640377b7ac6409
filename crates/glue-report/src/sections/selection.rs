//! Selective merging of each cluster: strategies, convergence, what was accepted, what was rejected, and the weights.

use super::{kept, paragraph};
use crate::charts::lines::{Axes, Series, lines};
use crate::data::{Cost, CurvePoint, Decision, Report, Selection, StrategyResult, Weights};
use crate::document::{Block, Cell, Column, Table, score_cell};
use crate::format::{self, NONE};
use crate::svg::slug;
use glue_text::words;

pub(super) fn selections(report: &Report, cost: Option<&Cost>) -> Vec<Block> {
    let mut blocks = Vec::new();
    for selection in &report.selections {
        blocks.extend(one(report, selection, cost));
    }
    blocks
}

fn one(report: &Report, selection: &Selection, cost: Option<&Cost>) -> Vec<Block> {
    let clusters = report.clustering.iter().flat_map(|clustering| &clustering.clusters);
    let members =
        clusters.into_iter().find(|cluster| cluster.name == selection.cluster).map(|cluster| &cluster.members);
    let mut heading = format!("Cluster {}", selection.cluster);
    if let Some(members) = members {
        heading += &format!(": {}", format::start(&members.join(", "), 90));
    }
    let mut blocks = vec![Block::heading(heading)];
    let chosen = match &selection.chosen {
        Some(name) => format!("Taken: {name}. "),
        None => "No merge was taken. ".to_string(),
    };
    blocks.extend(paragraph(&format!("{chosen}{}", super::sentence(&selection.why))));
    for harmful in &selection.harmful {
        blocks
            .push(Block::Note { text: format!("{} is harmful: {}", harmful.model, super::sentence(&harmful.reason)) });
    }
    if !selection.strategies.is_empty() {
        blocks.push(strategies(selection, cost).block());
    }
    blocks.extend(convergence(selection));
    if let Some(weights) = selection.weights.as_ref().filter(|weights| !weights.rows.is_empty()) {
        blocks.push(weight_table(weights).block());
    }
    if !selection.decisions.is_empty() {
        blocks.push(tries(selection).fold_above(12).block());
    }
    if let Some(recipe) = &selection.recipe {
        let title = format!("Recipe of the merge of cluster {}, as glue merge reads it", selection.cluster);
        blocks.push(Block::Code { title, text: recipe.clone(), language: "yaml", open: false });
    }
    blocks
}

fn strategies(selection: &Selection, cost: Option<&Cost>) -> Table {
    let times: Vec<Option<f64>> = selection
        .strategies
        .iter()
        .map(|strategy| cost.and_then(|cost| cost.strategy(&selection.cluster, &strategy.name)))
        .collect();
    let timed = times.iter().any(Option::is_some);
    let noted = selection.strategies.iter().any(|strategy| strategy.note.is_some());
    let caption = "Strategies: the best score on the search items, and on the validation items.";
    let mut table = Table::new(caption, &["strategy", "#search", "#validation", "#evaluations"]);
    if timed {
        table.columns.push(Column::number("time"));
    }
    if noted {
        table.columns.push(Column::new("note"));
    }
    for (strategy, time) in selection.strategies.iter().zip(times) {
        let taken = selection.chosen.as_deref() == Some(strategy.name.as_str());
        let mut row = vec![
            Cell::new(&strategy.name).strong(taken).minor(if taken { "✓ taken" } else { "" }),
            score_cell(strategy.proxy),
            score_cell(strategy.validation).strong(taken),
            Cell::new(words::count(strategy.evaluations)),
        ];
        if timed {
            row.push(Cell::new(time.map_or(NONE.to_string(), words::duration)));
        }
        if noted {
            row.push(Cell::new(strategy.note.clone().unwrap_or_default()));
        }
        table.row(row);
    }
    table
}

fn convergence(selection: &Selection) -> Option<Block> {
    let best = |point: &CurvePoint| Some(point.best);
    let held_out = |point: &CurvePoint| point.validation;
    let mut series = Vec::new();
    for (number, strategy) in selection.strategies.iter().enumerate() {
        let name = strategy.name.clone();
        series.push(Series { name, number, held_out: false, points: points(strategy, &best) });
        let name = strategy.name.clone();
        series.push(Series { name, number, held_out: true, points: points(strategy, &held_out) });
    }
    let validated = series.iter().any(|series| series.held_out && !series.points.is_empty());
    let title = format!("Convergence of selective merging, cluster {}", selection.cluster);
    let id = format!("convergence-{}", slug(&selection.cluster));
    let axes = Axes {
        id: &id,
        title: &title,
        x_label: "evaluations",
        y_label: "best score so far on the search items",
        level: selection.best_member.map(|score| (score.value, "best member alone")),
    };
    let caption = match validated {
        true => {
            "Best score so far on the search items, and the score of the same candidate on the validation items: dotted, \
             with open marks. Where the two part, the search overfits. The axis does not begin at 0."
        }
        false => "Best score so far on the search items; the axis does not begin at 0.",
    };
    lines(&axes, &series).map(|svg| Block::figure(caption, "wide", svg))
}

/// One of the two curves of a strategy, held until its last evaluation.
fn points(strategy: &StrategyResult, score: &dyn Fn(&CurvePoint) -> Option<f64>) -> Vec<[f64; 2]> {
    let points = strategy.curve.iter().filter_map(|point| Some([point.evaluations as f64, score(point)?]));
    let mut points: Vec<[f64; 2]> = points.collect();
    let end = strategy.evaluations as f64;
    if let Some(&[count, best]) = points.last()
        && count < end
    {
        points.push([end, best]);
    }
    points
}

fn weight_table(weights: &Weights) -> Table {
    let mut table = Table::new(format!("Weights of the merge: {}.", weights.method), &["model"]);
    table.columns.extend(weights.groups.iter().map(|group| Column::number(group)));
    let largest =
        weights.rows.iter().flat_map(|row| &row.values).flatten().fold(0.0f64, |max, value| max.max(value.abs()));
    for row in &weights.rows {
        let mut cells = vec![Cell::new(&row.model)];
        for value in &row.values {
            cells.push(match value {
                Some(value) if *value > 0.0 && largest > 0.0 => Cell::new(format::score(*value)).bar(value / largest),
                Some(value) => Cell::new(format::score(*value)),
                None => Cell::new(NONE),
            });
        }
        table.row(cells);
    }
    table
}

/// What was tried: all of it if that is little, else the first and the best; the rest is in a file.
fn tries(selection: &Selection) -> Table {
    const ALL: usize = 24;
    const FIRST: usize = 8;
    const BEST: usize = 12;
    let all: Vec<(usize, &Decision)> = selection.decisions.iter().enumerate().collect();
    let accepted = all.iter().filter(|(_, decision)| decision.accepted).count();
    let rejected = all.len() - accepted;
    let mut caption = format!("Candidates: {accepted} accepted, {rejected} rejected.");
    let mut shown = all.clone();
    if all.len() > ALL {
        let value = |decision: &Decision| decision.score.map_or(f64::NEG_INFINITY, |score| score.value);
        let mut rest = all[FIRST..].to_vec();
        rest.sort_by(|a, b| value(b.1).total_cmp(&value(a.1)).then(a.0.cmp(&b.0)));
        shown = [&all[..FIRST], &rest[..BEST]].concat();
        caption += &format!(" Shown: the first {FIRST} and the best {BEST} of the others; all are in tries.csv.");
    }
    let mut table = Table::new(caption, &["candidate", "#number", "strategy", "#score", "verdict", "reason"]);
    for (number, decision) in shown {
        table.row(vec![
            Cell::new(&decision.candidate),
            Cell::new(words::count(number as u64 + 1)),
            Cell::new(&decision.strategy),
            score_cell(decision.score),
            kept(decision.accepted, "accepted", "rejected"),
            Cell::new(&decision.reason),
        ]);
    }
    table
}
