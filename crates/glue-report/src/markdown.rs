//! `report.md`: the same facts as the page, in tables.

use crate::check::check;
use crate::data::{Cost, Report};
use crate::document::{Block, Cell, Section, Table};
use crate::error::ReportError;
use crate::sections;
use crate::summary::{Line, answer, unfinished};
use glue_text::markdown::{code, fenced, inline};
use std::fmt::Write;

/// `report.md`, in the dialect of GitHub: the lines of the summary and the tables, without pictures, recipes and
/// configuration. Without `cost` it is a function of the data alone.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Shape`], [`ReportError::Name`], [`ReportError::Join`] for data that
/// contradicts itself.
pub fn markdown(report: &Report, cost: Option<&Cost>) -> Result<String, ReportError> {
    check(report, cost)?;
    let mut text = head(&report.run.title, unfinished(report).as_deref(), &answer(report), &report.warnings);
    for block in sections::sizes(report, cost) {
        text.push_str(&written(&block));
    }
    text.push_str(&body(&sections::story(report, cost)));
    Ok(text)
}

/// The title, the lines of the summary and the warnings.
pub(crate) fn head(title: &str, unfinished: Option<&str>, lines: &[Line], warnings: &[String]) -> String {
    let mut text = format!("# {}\n\n", inline(title));
    // Writing to a string does not fail.
    if let Some(unfinished) = unfinished {
        let _ = write!(text, "> **Not finished.** {}\n\n", inline(unfinished));
    }
    for line in lines {
        let _ = write!(text, "- **{}:** {}", line.label, inline(&line.text));
        match &line.command {
            Some(command) => {
                let _ = writeln!(text, " Run it: {}", code(command));
            }
            None => text.push('\n'),
        }
    }
    for warning in warnings {
        let _ = write!(text, "\n> **Warning:** {}\n", inline(warning));
    }
    text
}

/// The sections.
pub(crate) fn body(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let _ = write!(text, "\n## {}\n", section.title);
        for block in &section.blocks {
            text.push_str(&written(block));
        }
    }
    text
}

fn written(block: &Block) -> String {
    match block {
        Block::Text { text } => format!("\n{}\n", inline(text)),
        Block::Heading { text } => format!("\n### {}\n", inline(text)),
        Block::Note { text } => format!("\n> {}\n", inline(text)),
        Block::Table { table } => self::table(table),
        Block::Code { title, text, language, open: true } => {
            format!("\n{}:\n\n{}", inline(title), fenced(language, text))
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
    let lines = cell.lines.iter().map(|(line, minor)| format!("{} {}", inline(line), inline(minor)).trim_end().into());
    let all: Vec<String> = (!text.is_empty()).then_some(text).into_iter().chain(lines).collect();
    // A cell of a table has no other way to begin a line.
    all.join("<br>")
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
