//! `report.md`: the same facts as the page, in tables.

use crate::check::check;
use crate::data::{Cost, Report};
use crate::document::{Block, Cell, Table};
use crate::error::ReportError;
use crate::sections;
use crate::summary::lines;
use glue_text::markdown::{code, fenced, inline};
use std::fmt::Write;

/// `report.md`, in the dialect of GitHub: the five lines and the tables, without pictures, recipes and configuration.
/// Without `cost` it is a function of the data alone.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Shape`], [`ReportError::Name`], [`ReportError::Join`] for data that
/// contradicts itself.
pub fn markdown(report: &Report, cost: Option<&Cost>) -> Result<String, ReportError> {
    check(report, cost)?;
    let mut text = format!("# {}\n\n", inline(&report.run.title));
    // Writing to a string does not fail.
    for line in lines(report) {
        let _ = write!(text, "- **{}:** {}", line.label, inline(&line.text));
        match line.command {
            Some(command) => {
                let _ = writeln!(text, " Run it: {}", code(&command));
            }
            None => text.push('\n'),
        }
    }
    for warning in &report.warnings {
        let _ = write!(text, "\n> **Warning:** {}\n", inline(warning));
    }
    for section in sections::story(report, cost) {
        let _ = write!(text, "\n## {}\n", section.title);
        for block in &section.blocks {
            text.push_str(&written(block));
        }
    }
    Ok(text)
}

fn written(block: &Block) -> String {
    match block {
        Block::Text { text } => format!("\n{}\n", inline(text)),
        Block::Heading { text } => format!("\n### {}\n", inline(text)),
        Block::Note { text } => format!("\n> {}\n", inline(text)),
        Block::Table { table } => self::table(table),
        Block::Code { title, text, open: true } => {
            format!("\n{}:\n\n{}", inline(title), fenced("sh", text))
        }
        Block::Code { .. } | Block::Figures { .. } => String::new(),
    }
}

fn table(table: &Table) -> String {
    let mut text = format!("\n{}\n\n|", inline(&table.caption));
    for column in &table.columns {
        let _ = write!(text, " {} |", inline(&column.name));
    }
    text.push_str("\n|");
    for column in &table.columns {
        text.push_str(if column.number { "---:|" } else { "---|" });
    }
    for row in &table.rows {
        text.push_str("\n|");
        for cell in row {
            let _ = write!(text, " {} |", self::cell(cell));
        }
    }
    text + "\n"
}

fn cell(cell: &Cell) -> String {
    let mut text = if cell.code { code(&cell.text).replace('|', "\\|") } else { inline(&cell.text) };
    if cell.strong && !text.is_empty() {
        text = format!("**{text}**");
    }
    if !cell.minor.is_empty() {
        text = format!("{text} {}", inline(&cell.minor));
    }
    text
}

#[cfg(test)]
mod tests {
    //! Names that look like markup.
    use super::*;

    #[test]
    fn markup_in_names_is_escaped() {
        assert_eq!(cell(&Cell::code("x|y")), "`x\\|y`");
    }
}
