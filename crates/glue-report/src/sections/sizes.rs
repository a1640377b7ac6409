//! What can be used, by size: the table and the picture at the beginning of a report.

use super::paragraph;
use crate::charts::drawing::Medium;
use crate::charts::sizes as chart;
use crate::data::{Cost, Report, Score, SizeRow};
use crate::document::{Block, Cell, Column, Table, score_cell};
use crate::format::{self, NONE};
use glue_text::words;

/// The table, and the picture if there is more than one size to compare.
pub(crate) fn sizes(report: &Report, cost: Option<&Cost>) -> Vec<Block> {
    if report.sizes.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![table(report, cost, true).block()];
    if report.router.is_some() && report.test.is_some() {
        let text =
            "The router was trained on other items of the same tasks. On tasks unlike these it has not been tested";
        blocks.extend(paragraph(text));
    }
    let mut sizes: Vec<u64> = report.sizes.iter().filter(|row| !row.is_oracle()).map(|row| row.parameters).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.len() > 1 {
        let drawing = chart::sizes(Medium::Page, &report.sizes);
        let caption = format!("{}. {}", drawing.title, drawing.notes.join(" "));
        blocks.push(Block::figure(caption, "wide", drawing.inline("sizes")));
    }
    blocks
}

/// A table for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextTable {
    /// Names of the columns, and whether they hold numbers, which stand at the right.
    pub columns: Vec<(String, bool)>,
    /// The rows: a cell for each column.
    pub rows: Vec<Vec<String>>,
}

/// The table of sizes as plain text, the same as on the page without the paths: what can be used, with its size, its
/// score on the test items, and its gain over the best single model. `◆` marks the final model, `●` what is on the
/// size–score frontier. Empty where the test has not run.
pub fn size_table(report: &Report, cost: Option<&Cost>) -> TextTable {
    if report.sizes.is_empty() {
        return TextTable::default();
    }
    let table = table(report, cost, false);
    let cell = |cell: &Cell| [cell.text.as_str(), &cell.minor].join(" ").trim().to_string();
    TextTable {
        columns: table.columns.iter().map(|column| (column.name.clone(), column.number)).collect(),
        rows: table.rows.iter().map(|row| row.iter().map(cell).collect()).collect(),
    }
}

/// How many times the parameters of the best single model a number of them is: `2.00×`.
pub(crate) fn times_best_single(report: &Report, parameters: u64) -> Option<String> {
    let single = report.sizes.iter().find(|row| row.what == SizeRow::BEST_SINGLE).filter(|row| row.parameters > 0)?;
    Some(format!("{}×", format::fixed(parameters as f64 / single.parameters as f64, 2)))
}

fn table(report: &Report, cost: Option<&Cost>, paths: bool) -> Table {
    let rows = &report.sizes;
    let speeds: Vec<Option<f64>> =
        rows.iter().map(|row| cost.and_then(|cost| cost.items_per_second(&row.name))).collect();
    let timed = speeds.iter().any(Option::is_some);
    let caption = "What can be used, by size. ◆ the final model; ● on the size–score frontier: no other model of at most \
                   this size is better. Scores and gains over the best single model are on the test items, ± standard \
                   error, the latter in points and paired item by item.";
    let mut table = Table::new(caption, &["model", "what it is", "#parameters", "#score", "#gain", "#active", "#disk"]);
    if timed {
        table.columns.push(Column::number("items/s"));
    }
    if paths {
        table.columns.push(Column::new("path"));
    }
    table.highlight = rows.iter().position(|row| row.last);
    for (row, speed) in rows.iter().zip(speeds) {
        let marks = [(row.last, "◆"), (row.pareto, "●")].into_iter().filter(|(has, _)| *has).map(|(_, mark)| mark);
        let times = times_best_single(report, row.parameters).filter(|_| row.parameters > 0);
        let amount = |n: u64| if n == 0 { NONE.to_string() } else { words::short(n) };
        let mut cells = vec![
            Cell::new(&row.name).minor(marks.collect::<Vec<_>>().join(" ")).strong(row.last),
            Cell::new(&row.what),
            Cell::new(amount(row.parameters)).minor(times.unwrap_or_default()),
            score_cell(Some(row.score)).strong(row.last).bar(row.score.value),
            gain(row.gain),
            Cell::new(amount(row.parameters_active)),
            Cell::new(row.bytes.map_or(NONE.to_string(), words::bytes)),
        ];
        if timed {
            cells.push(Cell::new(speed.map_or(NONE.to_string(), |speed| format::significant(speed, 3))));
        }
        if paths {
            cells.push(row.path.as_ref().map_or(Cell::new(NONE), Cell::code));
        }
        table.row(cells);
    }
    table
}

/// A gain in points.
pub(super) fn gain(gain: Option<Score>) -> Cell {
    let Some(gain) = gain else { return Cell::new(NONE) };
    let stderr = gain.stderr.map_or(String::new(), |stderr| format!("± {}", format::fixed(stderr * 100.0, 1)));
    Cell::new(format::signed(gain.value * 100.0, 1)).minor(stderr)
}
