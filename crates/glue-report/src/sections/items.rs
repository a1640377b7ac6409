//! Item by item: what flipped between the best single model and the final one, and what was forgotten.

use super::sizes::gain;
use crate::data::{Report, Role};
use crate::document::{Block, Cell, Table, score_cell};
use crate::format::{self, NONE};
use crate::summary::{change, is_clear, summary};
use glue_text::words;

/// Characters of a prompt and of an answer that are shown.
const PROMPT: usize = 280;
const ANSWER: usize = 140;

pub(super) fn flips(report: &Report) -> Vec<Block> {
    if report.flips.is_empty() {
        return Vec::new();
    }
    let (gained, lost) = report.flips.iter().fold((0, 0), |(gained, lost), flips| {
        let add = |a: usize, b: usize| a.saturating_add(b);
        (add(gained, flips.gained), add(lost, flips.lost))
    });
    let single = summary(report).best_single.map_or(String::new(), |best| format!(", {}", best.name));
    let mut blocks = vec![Block::text(format!(
        "Test items that the final model answers differently from the best single model{single}: {} became right, {} \
         became wrong.",
        words::count(gained as u64),
        words::count(lost as u64)
    ))];
    let mut table = Table::new("Items that flipped.", &["task", "#wrong → right", "#right → wrong", "#net"]);
    for flips in &report.flips {
        let net = flips.gained as f64 - flips.lost as f64;
        table.row(vec![
            Cell::new(&flips.task),
            Cell::new(words::count(flips.gained as u64)),
            Cell::new(words::count(flips.lost as u64)),
            Cell::new(format::signed(net, 0)),
        ]);
    }
    blocks.push(table.block());
    let columns = ["task", "#item", "end of the prompt", "expected", "best single", "final", "change"];
    let mut table = Table::new("Examples.", &columns);
    for (flips, flip) in report.flips.iter().flat_map(|flips| flips.examples.iter().map(move |flip| (flips, flip))) {
        let answer = |text: &str| Cell::verbatim(format::start(if text.is_empty() { NONE } else { text }, ANSWER));
        table.row(vec![
            Cell::new(&flips.task),
            Cell::new(flip.item.to_string()),
            Cell::verbatim(format::end(&flip.prompt, PROMPT)),
            answer(&flip.expected),
            answer(&flip.before),
            answer(&flip.after),
            if flip.gained { Cell::badge("gained", "good") } else { Cell::badge("lost", "bad") },
        ]);
    }
    if !table.rows.is_empty() {
        table.caption = words::things(table.rows.len(), "example", "examples") + " of items that flipped.";
        blocks.push(table.fold_above(0).block());
    }
    blocks
}

pub(super) fn forgetting(report: &Report) -> Vec<Block> {
    let rows = || report.test.iter().flat_map(|test| &test.rows);
    let bases: Vec<_> = rows().filter(|row| row.role == Role::Base).collect();
    let Some(last) = rows().find(|row| row.role == Role::Final).filter(|_| !bases.is_empty()) else {
        return Vec::new();
    };
    let summary = summary(report);
    let paired = report.test.iter().any(|test| !test.over_bases.is_empty());
    let errors = match paired {
        true => "paired item by item",
        false => "those of independent items, which are too large rather than too small",
    };
    let found = match summary.forgotten.len() {
        0 => "There is none".to_string(),
        1 => "There is one".to_string(),
        n => format!("There are {n}"),
    };
    let mut blocks = vec![Block::text(format!(
        "Tasks on which a base scores higher than the final model by more than two standard errors, {errors}. {found}."
    ))];
    let columns = ["task", "base", "#base score", "#final", "#change in points", "verdict"];
    let mut table = Table::new("The final model against its bases.", &columns);
    for base in bases {
        for task in &report.tasks {
            let Some(change) = change(report, base, last, &task.name) else { continue };
            let lost = change.value < 0.0 && is_clear(change.value, change.stderr);
            table.row(vec![
                Cell::new(&task.name),
                Cell::new(&base.name),
                score_cell(base.get(&task.name)),
                score_cell(last.get(&task.name)),
                gain(Some(change)).strong(lost),
                if lost { Cell::badge("forgotten", "bad") } else { Cell::new(NONE) },
            ]);
        }
    }
    if !table.rows.is_empty() {
        blocks.push(table.fold_above(12).block());
    }
    blocks
}
