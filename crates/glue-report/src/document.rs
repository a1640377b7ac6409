//! A report as sections of text, tables and pictures: made once, written as HTML and as Markdown.

use serde::Serialize;

/// A section.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Section {
    /// Id in the page.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) blocks: Vec<Block>,
}

/// What a section consists of.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Block {
    /// A paragraph.
    Text { text: String },
    /// A heading below that of the section.
    Heading { text: String },
    /// Something the reader should not miss.
    Note { text: String },
    /// A table.
    Table { table: Table },
    /// Pictures that belong together, with what all of them show. `size` is a class: `small`, `half`, or `full`.
    Figures { caption: String, size: &'static str, charts: Vec<Chart> },
    /// Text for a machine, in a language that Markdown names. Closed ones show their title only; Markdown leaves those
    /// out.
    Code { title: String, text: String, language: &'static str, open: bool },
}

/// A picture.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Chart {
    /// Heading above it; may be empty.
    pub(crate) title: String,
    pub(crate) svg: String,
}

/// A table.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Table {
    pub(crate) caption: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Number of the row that stands out: that of the final model.
    pub(crate) highlight: Option<usize>,
    /// Whether it is folded away because only some readers want it.
    pub(crate) folded: bool,
}

/// A column; numbers stand at the right.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) number: bool,
}

/// A cell. The first of a row is its heading.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// Less important text after it.
    pub(crate) minor: String,
    pub(crate) strong: bool,
    pub(crate) code: bool,
    /// Whether it is a text of others with its line breaks.
    pub(crate) verbatim: bool,
    /// Lines below the text, each with less important text after it.
    pub(crate) lines: Vec<(String, String)>,
    /// A class for a badge: `good`, `bad` or `plain`.
    pub(crate) badge: Option<&'static str>,
    /// Length of a bar behind it in percent.
    pub(crate) bar: Option<String>,
}

impl Table {
    /// A table with the columns of a list of names; those that begin with `#` hold numbers.
    pub(crate) fn new(caption: impl Into<String>, columns: &[&str]) -> Table {
        Table {
            caption: caption.into(),
            columns: columns.iter().map(|name| Column::new(name)).collect(),
            ..Table::default()
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Folds the table away if it is longer than so many rows.
    pub(crate) fn fold_above(mut self, rows: usize) -> Table {
        self.folded = self.rows.len() > rows;
        self
    }

    pub(crate) fn block(self) -> Block {
        Block::Table { table: self }
    }
}

impl Column {
    /// A column; one whose name begins with `#` holds numbers.
    pub(crate) fn new(name: &str) -> Column {
        match name.strip_prefix('#') {
            Some(name) => Column { name: name.to_string(), number: true },
            None => Column { name: name.to_string(), number: false },
        }
    }

    /// A column of numbers, whatever its name begins with.
    pub(crate) fn number(name: &str) -> Column {
        Column { name: name.to_string(), number: true }
    }
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), ..Cell::default() }
    }

    pub(crate) fn code(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), code: true, ..Cell::default() }
    }

    pub(crate) fn verbatim(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), verbatim: true, ..Cell::default() }
    }

    /// A cell of lines.
    pub(crate) fn lines(lines: Vec<(String, String)>) -> Cell {
        Cell { lines, ..Cell::default() }
    }

    pub(crate) fn badge(text: &str, class: &'static str) -> Cell {
        Cell { text: text.to_string(), badge: Some(class), ..Cell::default() }
    }

    pub(crate) fn minor(mut self, minor: impl Into<String>) -> Cell {
        self.minor = minor.into();
        self
    }

    pub(crate) fn strong(mut self, strong: bool) -> Cell {
        self.strong = strong;
        self
    }

    /// A bar behind the text for a share of 0 to 1.
    pub(crate) fn bar(mut self, share: f64) -> Cell {
        self.bar = Some(format!("{:.1}", share.clamp(0.0, 1.0) * 100.0));
        self
    }
}

impl Block {
    pub(crate) fn text(text: impl Into<String>) -> Block {
        Block::Text { text: text.into() }
    }

    pub(crate) fn heading(text: impl Into<String>) -> Block {
        Block::Heading { text: text.into() }
    }

    pub(crate) fn figure(caption: impl Into<String>, size: &'static str, svg: String) -> Block {
        Block::Figures { caption: caption.into(), size, charts: vec![Chart { title: String::new(), svg }] }
    }
}

/// A cell for a score with its standard error, or a dash.
pub(crate) fn score_cell(score: Option<crate::data::Score>) -> Cell {
    use crate::format;
    let Some(score) = score else { return Cell::new(format::NONE) };
    let minor = score.stderr.map_or(String::new(), |stderr| format!("± {}", format::score(stderr)));
    Cell::new(format::score(score.value)).minor(minor)
}
