//! The sections of a report: first what came out, then how, in the order in which the run went.

mod cost;
mod frontier;
mod items;
mod mixture;
mod reproduce;
mod scores;
mod selection;
mod sizes;
mod test;
mod zoo;

pub(crate) use frontier::p_value;
pub use sizes::{TextTable, size_table};
pub(crate) use sizes::{sizes, times_best_single};
pub(crate) use test::overview;

use crate::data::{Cost, Report};
use crate::document::{Block, Section};

/// All sections that are not empty.
pub(crate) fn story(report: &Report, cost: Option<&Cost>) -> Vec<Section> {
    let sections = [
        Section { id: "activity", title: "Under way", blocks: activity(report) },
        Section { id: "frontier", title: "The size–score frontier", blocks: frontier::frontier(report) },
        Section { id: "test", title: "The test", blocks: test::test(report) },
        Section { id: "flips", title: "Item by item", blocks: items::flips(report) },
        Section { id: "forgetting", title: "Forgetting", blocks: items::forgetting(report) },
        Section { id: "decisions", title: "Decisions", blocks: frontier::decisions(report) },
        Section { id: "inputs", title: "Inputs", blocks: zoo::inputs(report) },
        Section { id: "compatibility", title: "Compatibility", blocks: zoo::compatibility(report) },
        Section { id: "similarity", title: "Similarity and clusters", blocks: zoo::similarity(report) },
        Section { id: "scores", title: "Scores of single models", blocks: scores::individual(report) },
        Section { id: "selection", title: "Selective merging", blocks: selection::selections(report, cost) },
        Section { id: "candidates", title: "Candidates for the mixture", blocks: mixture::candidates(report) },
        Section { id: "mixture", title: "The mixture", blocks: mixture::mixture(report) },
        Section { id: "router", title: "The router", blocks: mixture::router(report) },
        Section { id: "cost", title: "Cost", blocks: cost::cost(report, cost) },
        Section { id: "reproduce", title: "Reproduction", blocks: reproduce::reproduce(report) },
    ];
    sections.into_iter().filter(|section: &Section| !section.blocks.is_empty()).collect::<Vec<_>>()
}

/// The last messages of a stage that is not complete.
fn activity(report: &Report) -> Vec<Block> {
    let messages = report.run.activity.iter().flat_map(|activity| &activity.messages);
    messages.map(|message| Block::text(sentence(message))).collect()
}

/// `yes` with a badge, or another word.
fn kept(kept: bool, yes: &str, no: &str) -> crate::document::Cell {
    match kept {
        true => crate::document::Cell::badge(yes, "good"),
        false => crate::document::Cell::badge(no, "bad"),
    }
}

/// A paragraph, unless it is empty.
fn paragraph(text: &str) -> Option<Block> {
    (!text.is_empty()).then(|| Block::text(sentence(text)))
}

/// Text with a full stop at its end. Its first letter stays as it is: it may begin with the name of a model.
fn sentence(text: &str) -> String {
    let text = text.trim();
    let stop = if text.is_empty() || text.ends_with(['.', '!', '?', ':', '…']) { "" } else { "." };
    format!("{text}{stop}")
}
