//! The data of a task file: the files of each split.

use super::parts::below;
use crate::data::{Format, Names, Row, SplitFiles, Wanted, format_of};
use crate::error::{FilePosition, TaskError};
use crate::task::fields::{Fields, texts};
use crate::{data, data::DataSources};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys of `dataset_kwargs` about tables.
const TABLES: &[&str] = &["column_names", "names", "header"];

/// A split, or a part of one that the task file names.
#[derive(Debug, Clone)]
pub(super) struct Split {
    /// As in the task file: `test`, or `test[:100]`.
    pub(super) name: String,
    files: Vec<(PathBuf, Format)>,
    names: Option<Arc<Names>>,
    slice: Option<Slice>,
}

impl Split {
    /// The first of its files.
    pub(super) fn first_file(&self) -> Option<&PathBuf> {
        self.files.first().map(|(path, _)| path)
    }

    /// Its rows, file by file.
    pub(super) fn read(&self) -> Result<Vec<(PathBuf, Vec<Row>)>, TaskError> {
        let names = self.names.as_deref();
        let read = self.files.iter().map(|(file, format)| Ok((file.clone(), data::read(file, *format, names)?)));
        let mut read: Vec<(PathBuf, Vec<Row>)> = read.collect::<Result<_, TaskError>>()?;
        let Some(slice) = self.slice else { return Ok(read) };
        let range = slice.range(read.iter().map(|(_, rows)| rows.len()).sum());
        let mut start = 0;
        for (_, rows) in &mut read {
            let count = rows.len();
            let here = |at: usize| at.saturating_sub(start).min(count);
            let (from, to) = (here(range.start), here(range.end));
            rows.truncate(to);
            rows.drain(..from.min(to));
            start += count;
        }
        Ok(read)
    }
}

/// Items by their place: `[:100]`, `[10%:]`, `[-5:]`, as the `datasets` library counts them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Slice {
    from: Option<Bound>,
    to: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    Items(i64),
    Percent(i64),
}

impl Bound {
    fn parse(text: &str) -> Option<Bound> {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (-100..=100).contains(percent)).map(Bound::Percent),
            None => text.parse().ok().map(Bound::Items),
        }
    }

    /// The place among `n` items.
    fn at(self, n: usize) -> usize {
        let all = i64::try_from(n).unwrap_or(i64::MAX);
        let at = match self {
            Bound::Items(at) => at,
            // Rounded to the nearest, and to the even one of two.
            Bound::Percent(percent) => (percent as f64 * n as f64 / 100.0).round_ties_even() as i64,
        };
        usize::try_from(if at < 0 { all.saturating_add(at).max(0) } else { at.min(all) }).unwrap_or(n)
    }
}

impl Slice {
    /// The split and the part of it that an expression names.
    fn parse(text: &str) -> Option<(&str, Slice)> {
        let (name, rest) = text.split_once('[')?;
        let (from, to) = rest.strip_suffix(']')?.split_once(':')?;
        let bound = |text: &str| match text.trim() {
            "" => Some(None),
            text => Bound::parse(text).map(Some),
        };
        Some((name, Slice { from: bound(from)?, to: bound(to)? }))
    }

    fn range(self, n: usize) -> Range<usize> {
        let from = self.from.map_or(0, |bound| bound.at(n));
        from..self.to.map_or(n, |bound| bound.at(n)).max(from)
    }
}

/// The splits of a task.
#[derive(Debug, Default)]
pub(super) struct Splits {
    /// What they are splits of, for errors.
    origin: String,
    pub(super) list: Vec<Split>,
}

impl Splits {
    pub(super) fn get(&self, name: &str) -> Option<&Split> {
        self.list.iter().find(|split| split.name == name)
    }

    /// The split that a key names, which may be a part of one.
    pub(super) fn named(&mut self, fields: &Fields<'_>, key: &str) -> Result<Option<String>, TaskError> {
        let Some(name) = fields.optional_text(key)? else { return Ok(None) };
        if self.get(name).is_some() {
            return Ok(Some(name.into()));
        }
        if let Some((whole, slice)) = Slice::parse(name)
            && let Some(split) = self.get(whole)
        {
            let split = Split { name: name.into(), slice: Some(slice), ..split.clone() };
            self.list.push(split);
            return Ok(Some(name.into()));
        }
        let known: Vec<&str> = self.list.iter().map(|split| split.name.as_str()).collect();
        let expected = format!("a split of {} ({})", self.origin, known.join(", "));
        Err(fields.wrong(key, &expected, &Value::from(name)))
    }
}

/// The splits of `dataset_path`, `dataset_name` and `dataset_kwargs`.
pub(super) fn splits(fields: &Fields<'_>, sources: &DataSources) -> Result<Splits, TaskError> {
    let path = fields.text("dataset_path")?;
    let nothing = Value::Object(serde_json::Map::new());
    let kwargs = below(fields, "dataset_kwargs", fields.get("dataset_kwargs").unwrap_or(&nothing))?;
    let known = &["data_files", "data_dir", "trust_remote_code", "encoding", "revision", "token", "streaming"];
    kwargs.only(&[known, TABLES])?;
    let names = names(&kwargs)?.map(Arc::new);
    let format = match path {
        "json" => Some(Format::Json),
        "parquet" => Some(Format::Parquet),
        "csv" => Some(Format::Csv),
        "text" => Some(Format::Text),
        _ => None,
    };
    let files = match format {
        Some(format) => local(&kwargs, format, sources)?,
        None => repository(fields, &kwargs, path, sources)?,
    };
    let directory = files.iter().flat_map(|(_, files)| files).find_map(|(file, _)| file.parent());
    let origin = match (format, directory) {
        (None, Some(directory)) => format!("`{path}` in {}", directory.display()),
        _ => "data_files".into(),
    };
    let list =
        files.into_iter().map(|(name, files)| Split { name, files, names: names.clone(), slice: None }).collect();
    Ok(Splits { origin, list })
}

/// `column_names` and `header`, as pandas understands them: a table with names has no header, unless `header` is 0.
fn names(kwargs: &Fields<'_>) -> Result<Option<Names>, TaskError> {
    let header = match kwargs.map.get("header") {
        None | Some(Value::Null) => false,
        Some(Value::Number(line)) if line.as_u64() == Some(0) => true,
        Some(Value::String(word)) if word == "infer" => false,
        Some(other) => return Err(kwargs.wrong("header", "null, 0 or `infer`", other)),
    };
    let names = match kwargs.texts("column_names")? {
        Some(names) => Some(names),
        None => kwargs.texts("names")?,
    };
    match names {
        Some(names) => Ok(Some(Names { names, replace_header: header })),
        None if matches!(kwargs.map.get("header"), Some(Value::Null)) => {
            Err(TaskError::MissingField { place: kwargs.place.clone(), field: "column_names".into() })
        }
        None => Ok(None),
    }
}

/// The splits of a repository of the hub, or of a directory.
fn repository(
    fields: &Fields<'_>,
    kwargs: &Fields<'_>,
    path: &str,
    sources: &DataSources,
) -> Result<SplitFiles, TaskError> {
    let config = match fields.get("dataset_name") {
        None => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(other) => return Err(fields.wrong("dataset_name", "text", other)),
    };
    if let Some(files) = kwargs.get("data_files").filter(|files| is_remote(files)) {
        return Err(kwargs.wrong("data_files", "files of the repository, not addresses", files));
    }
    let wanted = Wanted {
        config: config.as_deref(),
        data_dir: kwargs.optional_text("data_dir")?,
        data_files: kwargs.get("data_files"),
    };
    let beside = fields.place.path.parent().unwrap_or(Path::new(""));
    sources.find(path, beside, wanted).map_err(|reason| TaskError::MissingData {
        place: fields.place_of("dataset_path"),
        repository: path.into(),
        config,
        reason,
        needs_python: false,
    })
}

fn is_remote(files: &Value) -> bool {
    match files {
        Value::String(text) => text.contains("://"),
        Value::Array(items) => items.iter().any(is_remote),
        Value::Object(map) => map.values().any(is_remote),
        _ => false,
    }
}

/// The splits of files that `data_files` names.
fn local(kwargs: &Fields<'_>, format: Format, sources: &DataSources) -> Result<SplitFiles, TaskError> {
    kwargs.only(&[&["data_files", "trust_remote_code"], if format == Format::Csv { TABLES } else { &[] }])?;
    let value = kwargs.required("data_files")?;
    let wrong = || kwargs.wrong("data_files", "a path, a list of paths, or one of these for each split", value);
    let named: Vec<(String, Vec<String>)> = match value {
        Value::Object(splits) => {
            let splits = splits.iter().map(|(split, files)| Some((split.clone(), texts(files)?)));
            splits.collect::<Option<_>>().ok_or_else(wrong)?
        }
        other => vec![("train".to_string(), texts(other).ok_or_else(wrong)?)],
    };
    let task = kwargs.place.path.as_path();
    let of_file = |path: PathBuf| {
        // The name tells the dialect of a table.
        let tabs = format == Format::Csv && format_of(&path.to_string_lossy()) == Some(Format::Tsv);
        (path, if tabs { Format::Tsv } else { format })
    };
    let resolve = |(split, files): (String, Vec<String>)| {
        let mut found = Vec::new();
        let place = kwargs.place_of("data_files");
        for file in files {
            let paths = match on_hub(&file) {
                Some((repository, file)) => in_repository(repository, file, &place, sources)?,
                None => resolve(task, &place, &file)?,
            };
            found.extend(paths.into_iter().map(of_file));
        }
        Ok((split, found))
    };
    named.into_iter().map(resolve).collect()
}

/// The repository and the path in it of an address `hf://datasets/ORG/NAME/PATH`.
fn on_hub(file: &str) -> Option<(&str, &str)> {
    let rest = file.strip_prefix("hf://datasets/")?;
    let end = rest.match_indices('/').nth(1)?.0;
    let (repository, path) = (&rest[..end], &rest[end + 1..]);
    // What is here is one revision.
    Some((repository.split('@').next().unwrap_or(repository), path))
}

/// The files of a repository of the hub that a pattern matches.
fn in_repository(
    repository: &str,
    file: &str,
    place: &FilePosition,
    sources: &DataSources,
) -> Result<Vec<PathBuf>, TaskError> {
    let pattern = Value::from(file);
    let wanted = Wanted { data_files: Some(&pattern), ..Wanted::default() };
    let beside = place.path.parent().unwrap_or(Path::new(""));
    let found = sources.find(repository, beside, wanted).map_err(|reason| TaskError::MissingData {
        place: place.clone(),
        repository: repository.into(),
        config: None,
        reason,
        needs_python: false,
    })?;
    Ok(found.into_iter().flat_map(|(_, files)| files).map(|(path, _)| path).collect())
}

/// Where a data file is: beside the task file, else below the working directory, else beside an ancestor of the task
/// file's directory, the nearest first. Of a pattern, all files that it matches in the first of these that has one.
fn resolve(task: &Path, place: &FilePosition, file: &str) -> Result<Vec<PathBuf>, TaskError> {
    if file.contains("://") {
        return Err(TaskError::Unsupported {
            place: place.clone(),
            key: "data_files".into(),
            reason: format!("`{file}` is an address; download the file and name its path"),
        });
    }
    let directory = task.parent().unwrap_or(Path::new(""));
    // The directory of a bare file name is empty, which is no path.
    let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let absolute = std::path::absolute(here).map_err(TaskError::io(here))?;
    let mut candidates = vec![directory.join(file), PathBuf::from(file)];
    candidates.extend(absolute.ancestors().skip(1).map(|ancestor| ancestor.join(file)));
    let malformed = |message: String| TaskError::Malformed { place: place.clone(), message };
    for path in candidates {
        if path.is_file() {
            return Ok(vec![path]);
        }
        if file.contains(['*', '?', '[']) {
            let base = path.to_string_lossy().into_owned();
            // What is special in the names of directories stays as it is.
            let pattern = match base.strip_suffix(file) {
                Some(prefix) => format!("{}{file}", glob::Pattern::escape(prefix)),
                None => base,
            };
            let found = glob::glob(&pattern).map_err(|error| malformed(format!("`{file}`: {error}")))?;
            let mut found: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).collect();
            found.sort();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    Err(malformed(format!(
        "there is no file `{file}` in {}, the working directory, or a directory above the task file",
        directory.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_those_of_the_datasets_library() {
        for (text, n, expected) in [
            ("test[:3]", 10, 0..3),
            ("test[3:]", 10, 3..10),
            ("test[2:50]", 10, 2..10),
            ("test[-4:-1]", 10, 6..9),
            ("test[:15%]", 10, 0..2),
            ("test[25%:]", 10, 2..10),
            ("test[-30%:]", 10, 7..10),
            ("test[8:2]", 10, 8..8),
        ] {
            let (name, slice) = Slice::parse(text).unwrap();
            assert_eq!((name, slice.range(n)), ("test", expected), "{text}");
        }
        assert!(["test", "test[3]", "test[a:]", "test[:101%]"].iter().all(|text| Slice::parse(text).is_none()));
    }
}
