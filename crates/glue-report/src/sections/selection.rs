//! Selective merging of each cluster: strategies, convergence, what was accepted, what was rejected, and the weights.

use super::{kept, paragraph};
use crate::charts::lines::{Axes, Series, lines};
use crate::data::{Cost, Report, Selection, StrategyResult, Weights};
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
        blocks.push(decisions(selection).fold_above(12).block());
    }
    if let Some(recipe) = &selection.recipe {
        let title = format!("Recipe of the merge of cluster {}, as glue merge reads it", selection.cluster);
        blocks.push(Block::Code { title, text: recipe.clone(), open: false });
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
    let mut table = Table::new(caption, &["strategy", "#proxy", "#validation", "#evaluations"]);
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
    let series: Vec<Series> = selection
        .strategies
        .iter()
        .map(|strategy| Series { name: strategy.name.clone(), points: points(strategy) })
        .collect();
    let title = format!("Convergence of selective merging, cluster {}", selection.cluster);
    let id = format!("convergence-{}", slug(&selection.cluster));
    let axes = Axes {
        id: &id,
        title: &title,
        x_label: "evaluations",
        y_label: "best score so far on proxy",
        level: selection.best_member.map(|score| (score.value, "best member alone")),
    };
    let caption = "Best score so far on proxy; the axis does not begin at 0.";
    lines(&axes, &series).map(|svg| Block::figure(caption, "wide", svg))
}

/// The curve of a strategy, held until its last evaluation.
fn points(strategy: &StrategyResult) -> Vec<[f64; 2]> {
    let mut points: Vec<[f64; 2]> = strategy.curve.iter().map(|point| [point.evaluations as f64, point.best]).collect();
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

fn decisions(selection: &Selection) -> Table {
    let accepted = selection.decisions.iter().filter(|decision| decision.accepted).count();
    let rejected = selection.decisions.len() - accepted;
    let caption = format!("Candidates: {accepted} accepted, {rejected} rejected.");
    let mut table = Table::new(caption, &["candidate", "strategy", "#score", "verdict", "reason"]);
    for decision in &selection.decisions {
        table.row(vec![
            Cell::new(&decision.candidate),
            Cell::new(&decision.strategy),
            score_cell(decision.score),
            kept(decision.accepted, "accepted", "rejected"),
            Cell::new(&decision.reason),
        ]);
    }
    table
}
