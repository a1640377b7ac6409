//! Task files of the harness as they are: YAML with other files included.

use super::functions;
use crate::error::{FilePosition, TaskError};
use glue_tensor::files;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The keys of a file, with those of the files it includes where it has not its own.
#[derive(Debug, Clone)]
pub(in crate::task) struct Document {
    pub(in crate::task) path: PathBuf,
    pub(in crate::task) map: Map<String, Value>,
    /// The file and then the included ones, with their texts.
    pub(in crate::task) sources: Vec<(PathBuf, String)>,
}

/// Reads a file and what it includes.
///
/// # Errors
/// [`TaskError`] for a file that cannot be read, is no YAML, or includes itself.
pub(in crate::task) fn load(path: &Path) -> Result<Document, TaskError> {
    let mut open = Vec::new();
    load_within(path, &mut open)
}

fn load_within(path: &Path, open: &mut Vec<PathBuf>) -> Result<Document, TaskError> {
    let text = files::read_to_string(path, files::CONFIG_BYTES).map_err(TaskError::io(path))?;
    let text = super::lenient::indent_quoted(text);
    let identity = path.canonicalize().map_err(TaskError::io(path))?;
    if open.contains(&identity) {
        return Err(TaskError::Malformed {
            place: FilePosition::file(path),
            message: "the file includes itself".into(),
        });
    }
    open.push(identity);
    let marked = functions::mark(&text);
    let mut value = super::lenient::parse(&marked).map_err(|error| {
        let place = match error.location() {
            Some(location) => FilePosition::at(path, usize::try_from(location.line()).unwrap_or(1)),
            None => FilePosition::file(path),
        };
        TaskError::Malformed { place, message: format!("invalid YAML: {}", error.render()) }
    })?;
    functions::resolve(&mut value, path.parent().unwrap_or(Path::new("")));
    let Value::Object(mut map) = value else {
        let message = "a task file should be a map of keys".into();
        return Err(TaskError::Malformed { place: FilePosition::file(path), message });
    };
    let mut sources = vec![(path.to_path_buf(), text)];
    let included = match map.shift_remove("include") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(other) => super::super::fields::texts(&other).ok_or_else(|| TaskError::WrongField {
            place: FilePosition::file(path),
            field: "include".into(),
            expected: "a path or a list of paths".into(),
            found: crate::data::describe(&other),
        })?,
    };
    let mut merged = Map::new();
    for include in included {
        let directory = path.parent().unwrap_or(Path::new(""));
        let document = load_within(&directory.join(include), open)?;
        merged.extend(document.map);
        sources.extend(document.sources);
    }
    merged.extend(map);
    open.pop();
    Ok(Document { path: path.to_path_buf(), map: merged, sources })
}
