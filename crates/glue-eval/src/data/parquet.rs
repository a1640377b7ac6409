//! Parquet, row by row.

use super::Row;
use crate::error::{FilePosition, TaskError};
use glue_lm::bounded::{self, Limits};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Duration;

/// More than any items take: the reader panics on some damaged files, and a small file may unfold to any size.
const LIMITS: Limits = Limits { memory: 8 << 30, time: Duration::from_secs(600) };

pub(super) fn read(path: &Path) -> Result<Vec<Row>, TaskError> {
    let of_file = path.to_path_buf();
    bounded::run(LIMITS, move || rows(&of_file)).unwrap_or_else(|exceeded| {
        Err(TaskError::Malformed {
            place: FilePosition::file(path),
            message: format!("cannot read Parquet: {exceeded}"),
        })
    })
}

fn rows(path: &Path) -> Result<Vec<Row>, TaskError> {
    let malformed = |error: parquet::errors::ParquetError| TaskError::Malformed {
        place: FilePosition::file(path),
        message: error.to_string(),
    };
    let file = glue_tensor::files::open(path).map_err(TaskError::io(path))?;
    let reader = SerializedFileReader::new(file).map_err(malformed)?;
    let rows = reader.get_row_iter(None).map_err(malformed)?;
    rows.zip(1..)
        .map(|(row, line)| {
            let columns = row.map_err(malformed)?.into_columns();
            let mut fields = Map::new();
            for (name, field) in columns {
                let value = value(&field).ok_or_else(|| TaskError::WrongField {
                    place: FilePosition::at(path, line),
                    field: name.clone(),
                    expected: "text, a number, a truth value, a list or a structure of them".into(),
                    found: "binary data or a time".into(),
                })?;
                fields.insert(name, value);
            }
            Ok(Row { line, fields })
        })
        .collect()
}

/// A field as JSON; `None` for what JSON has no form for.
fn value(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::from(*x),
        Field::Byte(x) => Value::from(*x),
        Field::Short(x) => Value::from(*x),
        Field::Int(x) => Value::from(*x),
        Field::Long(x) => Value::from(*x),
        Field::UByte(x) => Value::from(*x),
        Field::UShort(x) => Value::from(*x),
        Field::UInt(x) => Value::from(*x),
        Field::ULong(x) => Value::from(*x),
        Field::Float16(x) => Value::from(x.to_f64()),
        Field::Float(x) => Value::from(f64::from(*x)),
        Field::Double(x) => Value::from(*x),
        Field::Str(text) => Value::from(text.as_str()),
        // A column without the mark of text may hold some nevertheless.
        Field::Bytes(bytes) => Value::from(std::str::from_utf8(bytes.data()).ok()?),
        Field::Group(row) => {
            let fields = row.get_column_iter().map(|(name, field)| Some((name.clone(), value(field)?)));
            Value::Object(fields.collect::<Option<_>>()?)
        }
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Option<_>>()?,
        Field::MapInternal(map) => {
            let entries = map.entries().iter().map(|(key, field)| match value(key)? {
                Value::String(key) => Some((key, value(field)?)),
                _ => None,
            });
            Value::Object(entries.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
