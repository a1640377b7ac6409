//! Comma-separated values with a header, or with names from elsewhere (RFC 4180), or values between tabs.
//!
//! As the loaders of data frames do, a column in which all cells are whole numbers, or numbers, becomes numbers; an
//! empty cell is null.

use super::{Names, Row};
use crate::error::{FilePosition, TaskError};
use serde_json::Value;
use std::path::Path;

/// Reads all records. With `names` the first line is a record too, unless they replace it.
pub(super) fn read(path: &Path, bytes: &[u8], separator: char, names: Option<&Names>) -> Result<Vec<Row>, TaskError> {
    let malformed = |line, message: String| TaskError::Malformed { place: FilePosition::at(path, line), message };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        malformed(line, "not UTF-8".into())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut records =
        records(text, separator).map_err(|line| malformed(line, "a quoted cell does not end".into()))?.into_iter();
    let first = if names.is_some_and(|names| !names.replace_header) { None } else { records.next() };
    let Some(header) = names.map(|names| names.names.clone()).or(first.map(|(_, cells)| cells)) else {
        return Ok(Vec::new());
    };
    let records: Vec<(usize, Vec<String>)> = records.collect();
    if let Some((line, cells)) = records.iter().find(|(_, cells)| cells.len() != header.len()) {
        let (what, verb) = if names.is_some() { ("names of columns", "are") } else { ("header", "has") };
        return Err(malformed(*line, format!("{} cells, but the {what} {verb} {}", cells.len(), header.len())));
    }
    let types: Vec<Type> =
        (0..header.len()).map(|i| Type::of(records.iter().map(|(_, cells)| cells[i].as_str()))).collect();
    let row = |(line, cells): (usize, Vec<String>)| {
        let values = cells.into_iter().zip(&types).map(|(cell, kind)| kind.value(cell));
        Row { line, fields: header.iter().cloned().zip(values).collect() }
    };
    Ok(records.into_iter().map(row).collect())
}

#[derive(Clone, Copy)]
enum Type {
    Integer,
    Number,
    Text,
}

impl Type {
    fn of<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> Type {
        let filled = cells.filter(|cell| !cell.is_empty());
        if filled.clone().all(|cell| cell.parse::<i64>().is_ok()) {
            Type::Integer
        } else if filled.clone().all(|cell| cell.parse::<f64>().is_ok_and(f64::is_finite)) {
            Type::Number
        } else {
            Type::Text
        }
    }

    fn value(self, cell: String) -> Value {
        match self {
            _ if cell.is_empty() => Value::Null,
            Type::Integer => cell.parse::<i64>().map_or(Value::Null, Value::from),
            Type::Number => cell.parse::<f64>().map_or(Value::Null, Value::from),
            Type::Text => Value::String(cell),
        }
    }
}

/// The records with the line on which each begins; the line of a quote that is never closed as an error.
fn records(text: &str, separator: char) -> Result<Vec<(usize, Vec<String>)>, usize> {
    let mut records = Vec::new();
    let (mut line, mut start) = (1, 1);
    let (mut cells, mut cell) = (Vec::new(), String::new());
    let mut quoted = None;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == '\n' {
            line += 1;
        }
        match c {
            '"' if quoted.is_some() && characters.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' if quoted.is_some() => quoted = None,
            c if quoted.is_some() => cell.push(c),
            '"' if cell.is_empty() => quoted = Some(line),
            c if c == separator => cells.push(std::mem::take(&mut cell)),
            '\r' if characters.peek() == Some(&'\n') => {}
            '\n' => {
                if !(cells.is_empty() && cell.is_empty()) {
                    cells.push(std::mem::take(&mut cell));
                    records.push((start, std::mem::take(&mut cells)));
                }
                start = line;
            }
            c => cell.push(c),
        }
    }
    if let Some(line) = quoted {
        return Err(line);
    }
    if !(cells.is_empty() && cell.is_empty()) {
        cells.push(cell);
        records.push((start, cells));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_and_their_types() {
        let text = "q,n,x,t\n\"a, \"\"b\"\"\nc\",1,1,1\r\n\nd,,2.5,x\n";
        let rows = read(Path::new("a.csv"), text.as_bytes(), ',', None).unwrap();
        let found: Vec<_> = rows.into_iter().map(|row| (row.line, Value::Object(row.fields))).collect();
        let first = json!({"q": "a, \"b\"\nc", "n": 1, "x": 1.0, "t": "1"});
        assert_eq!(found, [(2, first), (5, json!({"q": "d", "n": null, "x": 2.5, "t": "x"}))]);
    }

    #[test]
    fn tabs_separate_cells_too() {
        let rows = read(Path::new("a.tsv"), b"q\tn\na, b\t1\n", '\t', None).unwrap();
        assert_eq!(Value::Object(rows[0].fields.clone()), json!({"q": "a, b", "n": 1}));
    }

    #[test]
    fn names_from_elsewhere_stand_for_a_header() {
        let mut names = Names { names: vec!["q".into(), "n".into()], replace_header: false };
        let of = |text: &str, names: &Names| {
            let rows = read(Path::new("a.csv"), text.as_bytes(), ',', Some(names)).unwrap();
            rows.into_iter().map(|row| (row.line, Value::Object(row.fields))).collect::<Vec<_>>()
        };
        assert_eq!(of("a,1\nb,2\n", &names), [(1, json!({"q": "a", "n": 1})), (2, json!({"q": "b", "n": 2}))]);
        names.replace_header = true;
        assert_eq!(of("a,1\nb,2\n", &names), [(2, json!({"q": "b", "n": 2}))]);
        names.names.pop();
        let error = read(Path::new("a.csv"), b"a,1\nb,2\n", ',', Some(&names)).unwrap_err();
        assert_eq!(error.to_string(), "a.csv:2: 2 cells, but the names of columns are 1");
    }

    #[test]
    fn broken_files_are_refused_with_the_line() {
        for (text, expected) in [
            (&b"a,b\n1\n"[..], "a.csv:2: 1 cells, but the header has 2"),
            (b"a\n1\n\"x\n", "a.csv:3: a quoted cell does not end"),
            (b"a\n\xff\n", "a.csv:2: not UTF-8"),
        ] {
            assert_eq!(read(Path::new("a.csv"), text, ',', None).unwrap_err().to_string(), expected);
        }
    }
}
