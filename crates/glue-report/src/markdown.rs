//! `report.md`: the same facts as the page, in tables.

use crate::check::check;
use crate::data::{Cost, Report};
use crate::document::{Block, Cell, Table};
use crate::error::ReportError;
use crate::format::printable;
use crate::sections;
use crate::summary::lines;
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
            let fence = "`".repeat(longest_run(text).max(2) + 1);
            format!("\n{}:\n\n{fence}sh\n{}\n{fence}\n", inline(title), clean(text).trim_end_matches('\n'))
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

/// `text` on one line, with everything that Markdown would take for markup escaped.
fn inline(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '\n' | '\r' | '\t' => escaped.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' | '$' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// `text` as a code span on one line.
fn code(text: &str) -> String {
    let text = clean(text).replace(['\n', '\r'], " ");
    if text.is_empty() {
        return String::new();
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// Length of the longest run of backticks.
fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

fn clean(text: &str) -> String {
    text.chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    //! Names that look like markup.
    use super::*;

    #[test]
    fn markup_in_names_is_escaped() {
        assert_eq!(inline("a|b_*<c>\n#"), "a\\|b\\_\\*\\<c\\> \\#");
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("`a"), "`` `a ``");
        assert_eq!(cell(&Cell::code("x|y")), "`x\\|y`");
    }
}
