//! Scores that are kept: a file for each pair of a model and a task.
//!
//! The key of a model is the hash of everything its answers depend on; the key of a task is the hash of all rendered items
//! and of how they are scored, so that another split, limit or number of examples is another task. An entry that cannot be
//! read, or is that of another pair, counts as none and is replaced.

use crate::error::EvalError;
use crate::report::{ItemScore, MetricReport, Sample, TaskReport};
use glue_tensor::{WriteError, write_atomic};
use serde_json::{Value, json};
use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Counted up whenever the same items and answers would be scored otherwise, or an entry has another form.
const VERSION: u32 = 2;

/// A directory with an entry for each model and task that was scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    directory: PathBuf,
}

/// The two hashes by which an entry is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) model: String,
    pub(crate) task: String,
}

impl Cache {
    /// Uses a directory, which is made if there is none.
    ///
    /// # Errors
    /// [`EvalError::Io`] if it cannot be made.
    pub fn open(directory: impl AsRef<Path>) -> Result<Cache, EvalError> {
        let directory = directory.as_ref().to_path_buf();
        fs::create_dir_all(&directory).map_err(|error| EvalError::Io { path: directory.clone(), error })?;
        Ok(Cache { directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    fn file(&self, key: &Key) -> PathBuf {
        let mut hasher = Hasher::new();
        // Both are of fixed length in practice; the length keeps any two from running together.
        let _ = write!(hasher, "{}:{}{}", key.model.len(), key.model, key.task);
        self.directory.join(format!("{}.json", hasher.finish()))
    }

    /// The entry of a key. One without samples is none where they are wanted.
    pub(crate) fn get(&self, key: &Key, samples: bool) -> Option<(TaskReport, Vec<Sample>)> {
        let entry: Value = serde_json::from_slice(&fs::read(self.file(key)).ok()?).ok()?;
        let is = |name: &str, expected: &Value| entry.get(name) == Some(expected);
        if !(is("version", &json!(VERSION)) && is("model", &json!(key.model)) && is("task", &json!(key.task))) {
            return None;
        }
        let report = report(entry.get("report")?)?;
        let kept = match entry.get("samples") {
            Some(Value::Array(lines)) if samples => lines
                .iter()
                .zip(&report.items)
                .map(|(line, item)| {
                    Some(Sample { task: report.name.clone(), index: item.index, json: line.as_str()?.into() })
                })
                .collect::<Option<_>>()?,
            _ if samples => return None,
            _ => Vec::new(),
        };
        Some((report, kept))
    }

    /// Writes an entry, complete or not at all.
    ///
    /// # Errors
    /// [`EvalError::Io`] if it cannot be written.
    pub(crate) fn put(&self, key: &Key, report: &TaskReport, samples: Option<&[Sample]>) -> Result<(), EvalError> {
        // Numbers as text keep all their digits, and may be infinite.
        let metric = |metric: &MetricReport| {
            json!({"name": metric.name, "value": format!("{:?}", metric.value),
                "stderr": metric.stderr.map(|stderr| format!("{stderr:?}")), "higher_is_better": metric.higher_is_better})
        };
        let entry = json!({
            "version": VERSION, "model": key.model, "task": key.task,
            "report": {
                "name": report.name, "metrics": report.metrics.iter().map(metric).collect::<Vec<_>>(),
                "main": report.main, "n": report.n, "split": report.split, "num_fewshot": report.num_fewshot,
                "notes": report.notes, "items": report.items.iter().map(ItemScore::to_json).collect::<Vec<_>>(),
            },
            "samples": samples.map(|samples| samples.iter().map(|sample| sample.json.as_str()).collect::<Vec<_>>()),
        });
        let path = self.file(key);
        write_atomic(&path, entry.to_string().as_bytes()).map_err(|error| EvalError::Io { path, error: as_io(error) })
    }
}

fn as_io(error: WriteError) -> io::Error {
    io::Error::other(error)
}

fn report(value: &Value) -> Option<TaskReport> {
    let text = |value: &Value, key: &str| value.get(key)?.as_str().map(String::from);
    let count = |key: &str| value.get(key)?.as_u64().and_then(|n| usize::try_from(n).ok());
    let metric = |value: &Value| {
        Some(MetricReport {
            name: text(value, "name")?,
            value: value.get("value")?.as_str()?.parse().ok()?,
            stderr: match value.get("stderr")? {
                Value::Null => None,
                stderr => Some(stderr.as_str()?.parse().ok()?),
            },
            higher_is_better: value.get("higher_is_better")?.as_bool()?,
        })
    };
    Some(TaskReport {
        name: text(value, "name")?,
        metrics: value.get("metrics")?.as_array()?.iter().map(metric).collect::<Option<_>>()?,
        main: text(value, "main")?,
        n: count("n")?,
        split: text(value, "split")?,
        num_fewshot: count("num_fewshot")?,
        notes: value.get("notes")?.as_array()?.iter().map(|note| Some(note.as_str()?.into())).collect::<Option<_>>()?,
        cached: true,
        items: value.get("items")?.as_array()?.iter().map(ItemScore::from_json).collect::<Option<_>>()?,
    })
}

/// Hashes what is written to it, by XXH3-128.
pub(crate) struct Hasher(Xxh3);

impl Hasher {
    pub(crate) fn new() -> Hasher {
        Hasher(Xxh3::new())
    }

    pub(crate) fn finish(&self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> (Key, TaskReport, Vec<Sample>) {
        let key = Key { model: "a".into(), task: "b".into() };
        let metric = MetricReport { name: "acc".into(), value: 0.1 + 0.2, stderr: None, higher_is_better: true };
        let wild =
            MetricReport { name: "ppl".into(), value: f64::INFINITY, stderr: Some(1e-300), higher_is_better: false };
        let report = TaskReport {
            name: "t".into(),
            metrics: vec![metric, wild],
            main: "acc".into(),
            n: 1,
            split: "test".into(),
            num_fewshot: 2,
            notes: vec!["note".into()],
            cached: true,
            items: vec![
                ItemScore { index: 3, sum: 0.1 + 0.2, weight: 1.0, loss: None },
                ItemScore { index: 7, sum: -1e-300, weight: 3.0, loss: Some(f64::INFINITY) },
            ],
        };
        let samples = vec![Sample { task: "t".into(), index: 3, json: r#"{"x":0.1}"#.into() }];
        (key, report, samples)
    }

    #[test]
    fn entries_come_back_to_the_last_bit() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().join("new")).unwrap();
        let (key, report, samples) = entry();
        assert_eq!(cache.get(&key, false), None);
        cache.put(&key, &report, None).unwrap();
        assert_eq!(cache.get(&key, false), Some((report.clone(), Vec::new())));
        assert_eq!(cache.get(&key, true), None, "there are no samples in it");
        cache.put(&key, &report, Some(&samples)).unwrap();
        assert_eq!(cache.get(&key, true), Some((report.clone(), samples)));
        let other = Key { model: "ab".into(), task: "".into() };
        assert_eq!(cache.get(&other, false), None);
    }

    #[test]
    fn a_broken_entry_is_none_and_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let (key, report, _) = entry();
        cache.put(&key, &report, None).unwrap();
        let file = cache.file(&key);
        let whole = fs::read_to_string(&file).unwrap();
        for broken in
            ["", "{", "[]", &whole[..whole.len() / 2], &whole.replace("\"b\"", "\"c\""), &whole.replace("0.3", "x")]
        {
            fs::write(&file, broken).unwrap();
            assert_eq!(cache.get(&key, false), None, "{broken}");
        }
        cache.put(&key, &report, None).unwrap();
        assert_eq!(cache.get(&key, false), Some((report, Vec::new())));
    }
}
