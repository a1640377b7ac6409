//! What single models can do, on the splits that decisions were made by.

use crate::data::{Report, ScoreRow, Task};
use crate::document::{Block, Cell, Column, Table, score_cell};

pub(super) fn individual(report: &Report) -> Vec<Block> {
    let tables = report.individual.iter().filter(|table| !table.rows.is_empty());
    let mut blocks = Vec::new();
    for scores in tables {
        let rows: Vec<(&str, &ScoreRow)> = scores.rows.iter().map(|row| (row.name.as_str(), row)).collect();
        let caption = format!(
            "Scores on {} (± standard error; bold: the best of its column). {}",
            scores.split,
            super::sentence(&scores.purpose)
        );
        blocks.push(table(caption, "model", &rows, &report.tasks).block());
    }
    blocks
}

/// A row for each model, a column for each task and one for the average; bars behind the figures, the best in bold.
fn table(caption: String, first: &str, rows: &[(&str, &ScoreRow)], tasks: &[Task]) -> Table {
    let mut table = Table::new(caption, &[first]);
    table.columns.extend(tasks.iter().map(|task| Column::number(&task.name)));
    table.columns.push(Column::number("average"));
    let values: Vec<Vec<_>> = rows
        .iter()
        .map(|(_, row)| {
            let scores = tasks.iter().map(|task| row.get(&task.name));
            scores.chain([row.average(tasks)]).collect()
        })
        .collect();
    let columns = tasks.len() + 1;
    let best: Vec<Option<f64>> = (0..columns)
        .map(|k| {
            values.iter().filter_map(|row: &Vec<Option<crate::data::Score>>| row[k]).map(|s| s.value).reduce(f64::max)
        })
        .collect();
    for ((name, _), scores) in rows.iter().zip(&values) {
        let mut cells = vec![Cell::new(*name)];
        for (score, best) in scores.iter().zip(&best) {
            let mut cell = score_cell(*score);
            if let Some(score) = score {
                cell = cell.bar(score.value).strong(Some(score.value) == *best && rows.len() > 1);
            }
            cells.push(cell);
        }
        table.row(cells);
    }
    table
}
