//! Items of a task on disk: JSON Lines, JSON, Parquet, CSV and lines of text.

mod csv;
mod hub;
mod parquet;
mod repository;

pub use hub::DataSources;
pub(crate) use repository::{SplitFiles, Wanted, format_of};

use crate::error::{FilePosition, TaskError};
use glue_tensor::files;
use serde_json::{Map, Value};
use std::path::Path;

/// The fields of one item, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Its line, counted from 1; in a file without lines, its number.
    pub(crate) line: usize,
    pub(crate) fields: Map<String, Value>,
}

/// What a data file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Parquet,
    /// One object on each line, or an array of objects.
    Json,
    Csv,
    /// Cells between tabs.
    Tsv,
    /// Each line is an item with the field `text`.
    Text,
}

/// Names of the columns of a table, where its first line has none, or others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) names: Vec<String>,
    /// Whether the first line is a header all the same.
    pub(crate) replace_header: bool,
}

/// Reads all rows of a file; a table with these names of its columns, if any.
///
/// # Errors
/// [`TaskError`] for a file that cannot be read, or a row that is no object, with its line.
pub(crate) fn read(path: &Path, format: Format, names: Option<&Names>) -> Result<Vec<Row>, TaskError> {
    let bytes = || files::read(path, files::DATA_BYTES).map_err(TaskError::io(path));
    match format {
        Format::Json => json(path, &bytes()?),
        Format::Parquet => parquet::read(path),
        Format::Csv => csv::read(path, &bytes()?, ',', names),
        Format::Tsv => csv::read(path, &bytes()?, '\t', names),
        Format::Text => text(path, &bytes()?),
    }
}

/// What something is, for an error.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.chars().count() > 40 => {
            format!("\"{}…\"", text.chars().take(40).collect::<String>().escape_debug())
        }
        Value::String(text) => format!("\"{}\"", text.escape_debug()),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
    }
}

fn text(path: &Path, bytes: &[u8]) -> Result<Vec<Row>, TaskError> {
    let line = |(line, number): (&[u8], usize)| {
        let text = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line))
            .map_err(|_| TaskError::Malformed { place: FilePosition::at(path, number), message: "not UTF-8".into() })?;
        Ok(Row { line: number, fields: Map::from_iter([("text".to_string(), Value::from(text))]) })
    };
    let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines.into_iter().zip(1..).map(line).collect()
}

fn json(path: &Path, bytes: &[u8]) -> Result<Vec<Row>, TaskError> {
    let malformed = |line, message: String| TaskError::Malformed { place: FilePosition::at(path, line), message };
    let object = |line, value| match value {
        Value::Object(fields) => Ok(Row { line, fields }),
        other => Err(malformed(line, format!("an item should be an object, but is {}", describe(&other)))),
    };
    if bytes.trim_ascii_start().starts_with(b"[") {
        let items: Vec<Value> = serde_json::from_slice(bytes)
            .map_err(|error| malformed(error.line(), format!("invalid JSON: {}", bare(&error))))?;
        return items.into_iter().zip(1..).map(|(item, number)| object(number, item)).collect();
    }
    let mut rows = Vec::new();
    for (line, number) in bytes.split(|&byte| byte == b'\n').zip(1..) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value = serde_json::from_slice(line).map_err(|error| {
            malformed(number, format!("invalid JSON: {} at column {}", bare(&error), error.column()))
        })?;
        rows.push(object(number, value)?);
    }
    Ok(rows)
}

/// The message without the place in the text, which counts lines from where parsing began.
fn bare(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_string(),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(text: &str, expected: Result<&[(usize, Value)], &str>) {
        let found = json(Path::new("a.jsonl"), text.as_bytes());
        match expected {
            Ok(rows) => {
                let found: Vec<_> =
                    found.unwrap().into_iter().map(|row| (row.line, Value::Object(row.fields))).collect();
                assert_eq!(found, rows);
            }
            Err(message) => assert_eq!(found.unwrap_err().to_string(), message),
        }
    }

    #[test]
    fn lines_are_counted_with_those_that_are_empty() {
        check("{\"a\": 1}\n\n{\"a\": 2}\r\n", Ok(&[(1, json!({"a": 1})), (3, json!({"a": 2}))]));
        check("[{\"a\": 1},\n{\"a\": 2}]", Ok(&[(1, json!({"a": 1})), (2, json!({"a": 2}))]));
        check("", Ok(&[]));
    }

    #[test]
    fn what_is_no_item_is_refused_with_its_line() {
        check("{\"a\": 1}\n{\"a\": }\n", Err("a.jsonl:2: invalid JSON: expected value at column 7"));
        check("{\"a\": 1}\n3\n", Err("a.jsonl:2: an item should be an object, but is 3"));
        check("{}\n\"\u{fffd}", Err("a.jsonl:2: invalid JSON: EOF while parsing a string at column 4"));
    }

    #[test]
    fn each_line_of_a_text_is_an_item() {
        let rows = text(Path::new("a.txt"), b"a\r\n\n b \n").unwrap();
        let found: Vec<_> = rows.iter().map(|row| (row.line, row.fields["text"].as_str().unwrap())).collect();
        assert_eq!(found, [(1, "a"), (2, ""), (3, " b ")]);
        assert_eq!(text(Path::new("a.txt"), b"a\n\xff").unwrap_err().to_string(), "a.txt:2: not UTF-8");
    }

    #[test]
    fn the_three_formats_hold_the_same() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats");
        let rows = |name: &str, format| {
            let rows = read(&data.join(name), format, None).unwrap();
            rows.into_iter().map(|row| Value::Object(row.fields)).collect::<Vec<_>>()
        };
        let expected = rows("items.jsonl", Format::Json);
        assert_eq!(expected.len(), 3);
        assert_eq!(rows("items.parquet", Format::Parquet), expected);
        let flat: Vec<_> = expected
            .into_iter()
            .map(|mut item| {
                let fields = item.as_object_mut().unwrap();
                fields.retain(|_, value| !value.is_array() && !value.is_object());
                item
            })
            .collect();
        assert_eq!(rows("items.csv", Format::Csv), flat);
    }
}
