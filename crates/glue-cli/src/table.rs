//! Aligned columns of text.

use crate::visible::{one_line, visible};
use std::borrow::Cow;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The widest cell, in columns of a terminal: a path of ordinary length, where names of files and tensors can have any.
const MAX_WIDTH: usize = 255;

/// Alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Left.
    Left,
    /// Right, for numbers.
    Right,
}

/// Rows of cells, padded to columns two spaces apart when rendered.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    aligns: Vec<Align>,
    header: Option<Vec<String>>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without a header.
    pub(crate) fn new(aligns: &[Align]) -> Self {
        Self { aligns: aligns.to_vec(), header: None, rows: Vec::new() }
    }

    /// With a header.
    pub(crate) fn with_header(columns: &[(&str, Align)]) -> Self {
        Self {
            aligns: columns.iter().map(|c| c.1).collect(),
            header: Some(columns.iter().map(|c| c.0.to_string()).collect()),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells beyond the last column are not shown. A cell stays on its line.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cell = |cell: S| {
            let text: String = cell.into();
            visible(&one_line(&text), false).into_owned()
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// The table as text; `heading` styles the header. A cell wider than [`MAX_WIDTH`] is cut in the middle.
    pub(crate) fn render(&self, heading: impl Fn(&str) -> String) -> String {
        let header = self.header.as_deref().map(shown);
        let rows: Vec<_> = self.rows.iter().map(|row| shown(row)).collect();
        let width = |i: usize| {
            let cells = header.iter().chain(&rows).filter_map(|row| row.get(i));
            cells.map(|cell| cell.width()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.aligns.len()).map(width).collect();
        let line = |row: &Vec<Cow<'_, str>>| {
            let cells = row.iter().zip(&widths).zip(&self.aligns);
            let cells: Vec<String> = cells
                .map(|((cell, &width), align)| {
                    let space = " ".repeat(width - cell.width());
                    match align {
                        Align::Left => format!("{cell}{space}"),
                        Align::Right => format!("{space}{cell}"),
                    }
                })
                .collect();
            cells.join("  ").trim_end().to_string()
        };
        let header = header.as_ref().map(|row| heading(&line(row)));
        header.into_iter().chain(rows.iter().map(line)).map(|line| line + "\n").collect()
    }
}

fn shown(row: &[String]) -> Vec<Cow<'_, str>> {
    row.iter().map(|cell| shortened(cell)).collect()
}

/// The cell, or its beginning and its end in [`MAX_WIDTH`] columns.
fn shortened(cell: &str) -> Cow<'_, str> {
    // The length check comes first: measuring a name with millions of characters is slow.
    let fits = cell.len() <= MAX_WIDTH * 4 && cell.width() <= MAX_WIDTH;
    if fits {
        return Cow::Borrowed(cell);
    }
    let half = (MAX_WIDTH - 1) / 2;
    let start = end_of(cell.char_indices().map(|(at, c)| (at + c.len_utf8(), c)), half).unwrap_or(0);
    let mut tail = end_of(cell.char_indices().rev(), half).unwrap_or(cell.len()).max(start);
    // A combining mark would join the ellipsis.
    while let Some(mark) = cell[tail..].chars().next().filter(|&c| c.width() == Some(0)) {
        tail += mark.len_utf8();
    }
    Cow::Owned(format!("{}…{}", &cell[..start], &cell[tail..]))
}

/// The place of the last of these characters that fits into `columns`; there are never more than four without width to
/// a column.
fn end_of(characters: impl Iterator<Item = (usize, char)>, columns: usize) -> Option<usize> {
    let mut used = 0;
    characters
        .take(columns * 4)
        .take_while(|(_, c)| {
            used += c.width().unwrap_or(1);
            used <= columns
        })
        .last()
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    //! Padding, and cells of any width.
    use super::*;

    fn render(cells: &[&str]) -> Vec<String> {
        let mut table = Table::with_header(&[("name", Align::Left), ("n", Align::Right)]);
        cells.iter().for_each(|cell| table.row([*cell, "1"]));
        table.render(str::to_owned).lines().map(str::to_owned).collect()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::with_header(&[("name", Align::Left), ("n", Align::Right)]);
        table.row(["θ", "1000"]);
        table.row(["weights", "7"]);
        assert_eq!(table.render(str::to_uppercase), "NAME        N\nθ        1000\nweights     7\n");
    }

    #[test]
    fn wide_and_combining_characters_are_aligned() {
        let lines = render(&["模型", "e\u{301}e\u{301}", "abcd"]);
        assert_eq!(lines, ["name  n", "模型  1", "e\u{301}e\u{301}    1", "abcd  1"]);
    }

    #[test]
    fn a_cell_of_any_width_is_shown() {
        let names =
            ["x".repeat(5_000_000), "模".repeat(100_000), "e\u{301}".repeat(100_000), "\u{301}".repeat(100_000)];
        for name in &names {
            let lines = render(&[name]);
            assert!(lines[1].contains('…') && lines[1].width() <= MAX_WIDTH + 3, "{}", lines[1]);
            assert!(lines[1].ends_with("  1") && lines[1].len() < 10_000);
        }
        let name = format!("begin{}end", "-".repeat(70_000));
        assert!(render(&[&name])[1].starts_with("begin--") && render(&[&name])[1].ends_with("--end  1"));
        let fits = "-".repeat(MAX_WIDTH);
        assert_eq!(render(&[&fits])[1], format!("{fits}  1"));
    }

    #[test]
    fn a_cell_is_no_line() {
        let mut table = Table::new(&[Align::Left, Align::Right]);
        table.row(["a\nb", "\x1b[1m"]);
        assert_eq!(table.render(str::to_string), "a\\nb  \\u{1b}[1m\n");
    }
}
