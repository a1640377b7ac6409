//! Candidates, mixture and router.

use super::{kept, paragraph};
use crate::charts::drawing::Medium;
use crate::charts::{letter, load, routing};
use crate::data::{CandidateKind, FinalKind, Mixture, Report, Router};
use crate::document::{Block, Cell, Chart, Column, Table, score_cell};
use crate::format::{self, NONE};
use glue_text::words;

pub(super) fn candidates(report: &Report) -> Vec<Block> {
    if report.candidates.is_empty() {
        return Vec::new();
    }
    let kept_count = report.candidates.iter().filter(|candidate| candidate.kept).count();
    let caption = format!("Candidates: {kept_count} of {} went on to the mixture.", report.candidates.len());
    let columns = ["candidate", "kind", "made of", "#score", "#parameters", "verdict", "reason"];
    let mut table = Table::new(caption, &columns);
    for candidate in &report.candidates {
        let kind = match candidate.kind {
            CandidateKind::Merged => "merged cluster",
            CandidateKind::Alone => "single model",
            CandidateKind::Specialist => "specialist",
            CandidateKind::Stacked => "stacked layers",
        };
        table.row(vec![
            Cell::new(&candidate.name),
            Cell::new(kind),
            Cell::new(if candidate.members.is_empty() { NONE.to_string() } else { candidate.members.join(", ") }),
            score_cell(candidate.score),
            Cell::new(candidate.parameters.map_or(NONE.to_string(), words::short)),
            kept(candidate.kept, "kept", "left out"),
            Cell::new(&candidate.reason),
        ]);
    }
    vec![table.block()]
}

pub(super) fn mixture(report: &Report) -> Vec<Block> {
    let mut blocks = Vec::new();
    let last = report.outcome.as_ref();
    if let Some(last) = last {
        blocks.extend(paragraph(&last.why));
    }
    let Some(mixture) = &report.mixture else {
        // Without a mixture the reason is all there is to say.
        let said = last.is_some_and(|last| last.kind != FinalKind::Mixture && !last.why.is_empty());
        return if said { blocks } else { Vec::new() };
    };
    blocks.push(Block::text(shape(mixture)));
    blocks.push(facts(mixture, report.limits.expert_parameters).block());
    if !mixture.experts.is_empty() {
        blocks.push(experts(mixture).block());
    }
    if !mixture.steps.is_empty() {
        blocks.push(steps(mixture).fold_above(16).block());
    }
    if !mixture.left_out.is_empty() {
        let mut table = Table::new("Left out of the mixture.", &["candidate", "reason"]);
        for left_out in &mixture.left_out {
            table.row(vec![Cell::new(&left_out.name), Cell::new(&left_out.reason)]);
        }
        blocks.push(table.block());
    }
    blocks
}

fn shape(mixture: &Mixture) -> String {
    let what = match mixture.level.as_str() {
        "ffn" => "The MLPs of each mixed layer are experts",
        "block" => "Whole decoder layers are experts",
        "model" => "Whole models are experts",
        _ => "Experts are mixed",
    };
    let dense = match mixture.dense_layers {
        0 => String::new(),
        dense => format!("; the first {dense} of {} layers are shared", mixture.layers),
    };
    let per = words::things(mixture.experts_per_token, "expert", "experts");
    format!("{what}{dense}. Each {} passes through {per} of {}.", mixture.routing, mixture.experts.len())
}

fn facts(mixture: &Mixture, budget: Option<u64>) -> Table {
    let columns = [
        "level",
        "routed by",
        "#shared layers",
        "#parameters",
        "#active for a token",
        "#in experts",
        "#limit for experts",
    ];
    let mut table = Table::new("The mixture in figures.", &columns);
    table.row(vec![
        Cell::new(&mixture.level),
        Cell::new(&mixture.routing),
        Cell::new(format!("{} of {}", mixture.dense_layers, mixture.layers)),
        Cell::new(words::count(mixture.parameters_total)),
        Cell::new(words::count(mixture.parameters_active)),
        Cell::new(words::count(mixture.parameters_experts)),
        Cell::new(budget.map_or("none".to_string(), words::count)),
    ]);
    table
}

fn experts(mixture: &Mixture) -> Table {
    let mut table = Table::new("Experts.", &["expert", "source", "#parameters", "tasks"]);
    for expert in &mixture.experts {
        table.row(vec![
            Cell::new(&expert.name),
            Cell::new(&expert.source),
            Cell::new(expert.parameters.map_or(NONE.to_string(), words::count)),
            Cell::new(expert.purpose.as_deref().unwrap_or(NONE)),
        ]);
    }
    table
}

fn steps(mixture: &Mixture) -> Table {
    let mut table = Table::new("The greedy choice, step by step.", &["#step", "tried", "#score", "verdict", "reason"]);
    for (k, step) in mixture.steps.iter().enumerate() {
        table.row(vec![
            Cell::new(words::count(k as u64 + 1)),
            Cell::new(&step.action),
            step.score.map_or(score_cell(None), |score| score_cell(Some(score)).bar(score.value)),
            kept(step.kept, "kept", "left out"),
            Cell::new(&step.reason),
        ]);
    }
    table
}

pub(super) fn router(report: &Report) -> Vec<Block> {
    let Some(router) = &report.router else { return Vec::new() };
    let mut blocks: Vec<Block> = paragraph(&router.method).into_iter().collect();
    if let Some(accuracy) = router.accuracy {
        let text = format!(
            "On {} it sends {} of samples to the expert that is right for their skill.",
            router.split,
            match accuracy.stderr {
                Some(stderr) => format!("{} ± {}", format::fixed(accuracy.value * 100.0, 1), format::percent(stderr)),
                None => format::percent(accuracy.value),
            }
        );
        blocks.push(Block::text(text));
    }
    let confused =
        router.confusion.as_ref().filter(|confusion| !confusion.skills.is_empty() && !confusion.experts.is_empty());
    let mut charts = Vec::new();
    if let Some(found) = confused {
        let svg = routing::routing(Medium::Page, &found.into()).inline("confusion");
        charts.push(Chart { title: "Confusion: skill by expert".to_string(), svg });
    }
    if !router.load.is_empty() && !router.experts.is_empty() {
        let svg = load::load("load", &router.experts, &router.load);
        charts.push(Chart { title: "Load of experts by task".to_string(), svg });
    }
    if !charts.is_empty() {
        let caption = format!(
            "Letters are experts: {}.{}",
            keys(router),
            if confused.is_some() { " A frame: the right expert of a skill." } else { "" }
        );
        blocks.push(Block::Figures { caption, size: "pair", charts });
    }
    blocks.extend(load_table(router).map(|table| table.fold_above(0).block()));
    blocks
}

fn keys(router: &Router) -> String {
    let confused = router.confusion.as_ref().map_or(&[][..], |confusion| &confusion.experts);
    let loaded: &[String] = if router.load.is_empty() { &[] } else { &router.experts };
    let named = |names: &[String]| {
        let named: Vec<String> = names.iter().enumerate().map(|(k, name)| format!("{} {name}", letter(k))).collect();
        named.join(", ")
    };
    match (confused.is_empty(), loaded.is_empty()) {
        (false, false) if confused != loaded => format!("confusion: {}; load: {}", named(confused), named(loaded)),
        (true, _) => named(loaded),
        _ => named(confused),
    }
}

fn load_table(router: &Router) -> Option<Table> {
    if router.load.is_empty() {
        return None;
    }
    let mut table = Table::new("Load of experts by task, in figures.", &["task"]);
    table.columns.extend(router.experts.iter().map(|expert| Column::number(expert)));
    for load in &router.load {
        let mut row = vec![Cell::new(&load.task)];
        row.extend(load.shares.iter().map(|share| Cell::new(format::percent(*share)).bar(*share)));
        table.row(row);
    }
    Some(table)
}
