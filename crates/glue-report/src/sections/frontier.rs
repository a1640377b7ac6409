//! The size–score frontier, point by point, and the decisions.

use super::paragraph;
use super::sizes::gain;
use crate::charts::drawing::Medium;
use crate::charts::frontier as chart;
use crate::data::{FrontierExpert, FrontierPoint, Report, Score};
use crate::document::{Block, Cell, Table, score_cell};
use crate::format::{self, NONE};
use glue_text::words;

pub(super) fn frontier(report: &Report) -> Vec<Block> {
    let Some(frontier) = report.frontier.as_ref().filter(|frontier| !frontier.points.is_empty()) else {
        return Vec::new();
    };
    let merges = words::things(frontier.evaluations as usize, "merge was", "merges were");
    let mut blocks = vec![Block::text(format!(
        "What is the best score for each number of models? The search begins with every useful model as an expert and \
         then merges, step by step, the experts that lose least. Each task goes to the expert that is best at it on the \
         search items; the validation items show what holds. {merges} evaluated."
    ))];
    blocks.extend(frontier.note.as_deref().and_then(paragraph));
    let drawing = chart::frontier(Medium::Page, frontier);
    let caption = "Score under perfect routing over the number of models; bars are standard errors. The axis of scores \
                   does not begin at 0.";
    blocks.push(Block::figure(caption, "wide", drawing.inline("frontier-chart")));
    let columns = ["#models", "experts and their tasks", "step", "#search", "#validation", "#parameters", "known as"];
    let mut table = Table::new("The frontier, from the most models to one.", &columns);
    let is_chosen = |point: &FrontierPoint| point.labels.iter().any(|label| label == FrontierPoint::CHOSEN);
    table.highlight = frontier.points.iter().position(is_chosen);
    for point in &frontier.points {
        table.row(vec![
            Cell::new(words::count(point.experts.len() as u64)),
            Cell::lines(experts(&point.experts)),
            Cell::new(if point.step.is_empty() { NONE } else { &point.step }),
            score_cell(point.search),
            score_cell(point.validation),
            Cell::new(words::short(point.parameters)),
            Cell::new(point.labels.join(", ")).strong(is_chosen(point)),
        ]);
    }
    blocks.push(table.block());
    blocks
}

/// A line for each expert that has tasks: what it is, and its tasks. Those without tasks are named in one line.
fn experts(experts: &[FrontierExpert]) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut idle: Vec<&str> = Vec::new();
    for expert in experts {
        if expert.tasks.is_empty() {
            idle.push(&expert.name);
            continue;
        }
        let what = match (expert.members.len() > 1, expert.merge.is_empty()) {
            (false, _) => expert.name.clone(),
            (true, true) => format!("{}: merge of {}", expert.name, words::list(&expert.members)),
            (true, false) => format!("{}: {}", expert.name, expert.merge),
        };
        lines.push((what, format!("→ {}", expert.tasks.join(", "))));
    }
    if !idle.is_empty() {
        lines.push((words::list(&idle), "→ no task".to_string()));
    }
    lines
}

pub(super) fn decisions(report: &Report) -> Vec<Block> {
    if report.decisions.is_empty() {
        return Vec::new();
    }
    let accepted = report.decisions.iter().filter(|row| row.accepted).count();
    let count = words::things(report.decisions.len(), "decision", "decisions");
    let mut blocks = vec![Block::text(format!(
        "One rule decides everything: a challenger replaces the incumbent only if its gain on the validation items is \
         significant, with a p-value that is corrected for the number of challengers. Ties go to the simpler and smaller \
         model. Of {count}, {accepted} replaced the incumbent."
    ))];
    let columns = ["question", "incumbent", "challenger", "#gain", "#corrected p", "#challengers", "decision"];
    let mut table = Table::new("Every decision; gains in points ± standard error, paired item by item.", &columns);
    for row in &report.decisions {
        table.row(vec![
            Cell::new(&row.question),
            Cell::new(&row.incumbent).strong(!row.accepted),
            Cell::new(&row.challenger).strong(row.accepted),
            gain(Some(Score { value: row.gain, stderr: row.stderr, n: None })),
            Cell::new(p_value(row.p)),
            Cell::new(words::count(row.challengers as u64)),
            if row.accepted { Cell::badge("replaced", "good") } else { Cell::new("incumbent stays") },
        ]);
    }
    blocks.push(table.fold_above(30).block());
    blocks
}

/// A p-value with three decimals.
pub(crate) fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_string() } else { format::fixed(p, 3) }
}
