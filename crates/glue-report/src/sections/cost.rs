//! Time, memory and disk of each stage, and the limits the run was given.

use crate::data::{Cost, Report};
use crate::document::{Block, Cell, Table};
use crate::format::{self, NONE};
use glue_text::words;

pub(super) fn cost(report: &Report, cost: Option<&Cost>) -> Vec<Block> {
    let mut blocks = Vec::new();
    if let Some(cost) = cost {
        let machine = cost.machine.as_ref().map(|machine| format!("Machine: {machine}."));
        let threads = cost.threads.map(|threads| format!("{}.", words::things(threads, "thread", "threads")));
        let text: Vec<String> = machine.into_iter().chain(threads).collect();
        if !text.is_empty() {
            blocks.push(Block::text(text.join(" ")));
        }
        if !cost.stages.is_empty() {
            blocks.push(stages(cost).block());
        }
    }
    blocks.extend(limits(report, cost).map(Table::block));
    blocks
}

fn stages(cost: &Cost) -> Table {
    let mut table = Table::new("Stages, in their order.", &["stage", "#time", "#share", "#peak memory", "#disk"]);
    let total = cost.seconds();
    let size = |bytes: Option<u64>| Cell::new(bytes.map_or(NONE.to_string(), words::bytes));
    for stage in &cost.stages {
        let share = if total > 0.0 { stage.seconds / total } else { 0.0 };
        table.row(vec![
            Cell::new(&stage.stage).minor(if stage.resumed { "from an earlier start" } else { "" }),
            Cell::new(words::duration(stage.seconds)),
            Cell::new(format::percent(share)).bar(share),
            size(stage.peak_bytes),
            size(stage.disk_bytes),
        ]);
    }
    table.row(vec![
        Cell::new("all").strong(true),
        Cell::new(words::duration(total)).strong(true),
        Cell::new(""),
        size(cost.peak_bytes()).strong(true),
        size(cost.disk_bytes()).strong(true),
    ]);
    table
}

fn limits(report: &Report, cost: Option<&Cost>) -> Option<Table> {
    let limits = &report.limits;
    let mut table = Table::new("Limits.", &["limit", "#set to", "#used"]);
    let mut row = |name: &str, limit: Option<String>, used: Option<String>| {
        if let Some(limit) = limit {
            let used = used.unwrap_or(NONE.to_string());
            table.row(vec![Cell::new(name), Cell::new(limit), Cell::new(used)]);
        }
    };
    let evaluations = report.selections.iter().flat_map(|selection| &selection.strategies);
    let evaluations = evaluations.map(|strategy| strategy.evaluations);
    let evaluations: u64 = evaluations.chain(report.frontier.iter().map(|frontier| frontier.evaluations)).sum();
    let experts = report.mixture.as_ref().map(|mixture| words::count(mixture.parameters_experts));
    row("time", limits.seconds.map(words::duration), cost.map(|cost| words::duration(cost.seconds())));
    row("memory", limits.memory_bytes.map(words::bytes), cost.and_then(Cost::peak_bytes).map(words::bytes));
    row("parameters of experts", limits.expert_parameters.map(words::count), experts);
    row("evaluations", limits.evaluations.map(words::count), Some(words::count(evaluations)));
    (!table.rows.is_empty()).then_some(table)
}
