//! Aligned columns of text.

use crate::visible::{one_line, visible};

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// At the left.
    Left,
    /// At the right: numbers.
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

    /// The text, each line with its break; `heading` styles the header's line.
    pub(crate) fn render(&self, heading: impl Fn(&str) -> String) -> String {
        let width = |i: usize| {
            let cells = self.header.iter().chain(&self.rows);
            cells.filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.aligns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).zip(&self.aligns);
            let cells: Vec<String> = cells
                .map(|((cell, &width), align)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                })
                .collect();
            cells.join("  ").trim_end().to_string()
        };
        let header = self.header.iter().map(|row| heading(&line(row)));
        header.chain(self.rows.iter().map(line)).map(|line| line + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    //! Padding.
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::with_header(&[("name", Align::Left), ("n", Align::Right)]);
        table.row(["θ", "1000"]);
        table.row(["weights", "7"]);
        assert_eq!(table.render(str::to_uppercase), "NAME        N\nθ        1000\nweights     7\n");
    }

    #[test]
    fn a_cell_is_no_line() {
        let mut table = Table::new(&[Align::Left, Align::Right]);
        table.row(["a\nb", "\x1b[1m"]);
        assert_eq!(table.render(str::to_string), "a\\nb  \\u{1b}[1m\n");
    }
}
