//! Scores that are kept: a file for each pair of a model and a task.
//!
//! The key of a model is the hash of everything its answers depend on; the key of a task is the hash of all rendered
//! items and of how they are scored, so that another split, limit or number of examples is another task. An entry has a
//! checksum ([`glue_tensor::state`]). One that does not match it, or is that of another pair, is never used: the task
//! is scored again, the entry replaced, and the report says so in a note.

use crate::error::EvalError;
use crate::report::{Sample, TaskReport};
use glue_tensor::{WriteError, files, state, write_atomic};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Counted up whenever the same items and answers would be scored otherwise, or an entry has another form.
const VERSION: u32 = 4;

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
        // Both are of fixed length in practice; the length keeps any two from running together. Entries of another
        // version have other names.
        let _ = write!(hasher, "{VERSION}:{}:{}{}", key.model.len(), key.model, key.task);
        self.directory.join(format!("{}.json", hasher.finish()))
    }

    /// The entry of a key. One without samples is none where they are wanted.
    ///
    /// # Errors
    /// In words, for a file that is not what was written.
    pub(crate) fn get(&self, key: &Key, samples: bool) -> Result<Option<(TaskReport, Vec<Sample>)>, String> {
        let path = self.file(key);
        let entry = match files::read(&path, files::DATA_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| error.to_string()).and_then(|bytes| parse(&bytes)),
        };
        let entry = entry.and_then(|entry| match (&entry.model, &entry.task) == (&key.model, &key.task) {
            true => Ok(entry),
            false => Err("it belongs to another model or task".into()),
        });
        let entry = entry.map_err(|why| {
            format!("the cached score in {} was not used ({why}); the task was scored again", path.display())
        })?;
        let report = TaskReport { cached: true, ..entry.report };
        Ok(match entry.samples {
            None if samples => None,
            Some(lines) if samples => {
                let sample = |(json, index)| Sample { task: report.name.clone(), index, json };
                let kept = lines.into_iter().zip(report.items.iter().map(|item| item.index)).map(sample).collect();
                Some((report, kept))
            }
            _ => Some((report, Vec::new())),
        })
    }

    /// Writes an entry, complete or not at all.
    ///
    /// # Errors
    /// [`EvalError::Io`] if it cannot be written.
    pub(crate) fn put(&self, key: &Key, report: &TaskReport, samples: Option<&[Sample]>) -> Result<(), EvalError> {
        let path = self.file(key);
        let entry = Entry {
            model: key.model.clone(),
            task: key.task.clone(),
            report: report.clone(),
            samples: samples.map(|samples| samples.iter().map(|sample| sample.json.clone()).collect()),
        };
        let json = serde_json::to_string(&entry).map_err(io::Error::from);
        let written = json.and_then(|json| write_atomic(&path, state::seal(&json).as_bytes()).map_err(as_io));
        written.map_err(|error| EvalError::Io { path, error })
    }
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    model: String,
    task: String,
    report: TaskReport,
    /// The records of the items, one line each.
    samples: Option<Vec<String>>,
}

fn parse(bytes: &[u8]) -> Result<Entry, String> {
    let json = state::unseal(bytes).map_err(|error| error.to_string())?;
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

fn as_io(error: WriteError) -> io::Error {
    io::Error::other(error)
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
    use crate::report::{ItemScore, MetricReport};
    use crate::scale::Scale;

    fn entry() -> (Key, TaskReport, Vec<Sample>) {
        let key = Key { model: "a".into(), task: "b".into() };
        let metric = MetricReport { name: "acc".into(), value: 0.1 + 0.2, stderr: None, higher_is_better: true };
        let wild =
            MetricReport { name: "ppl".into(), value: f64::INFINITY, stderr: Some(1e-300), higher_is_better: false };
        let report = TaskReport {
            name: "t".into(),
            metrics: vec![metric, wild],
            main: "acc".into(),
            scale: Scale::Fraction,
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
        assert_eq!(cache.get(&key, false), Ok(None));
        cache.put(&key, &report, None).unwrap();
        assert_eq!(cache.get(&key, false), Ok(Some((report.clone(), Vec::new()))));
        assert_eq!(cache.get(&key, true), Ok(None), "there are no samples in it");
        cache.put(&key, &report, Some(&samples)).unwrap();
        assert_eq!(cache.get(&key, true), Ok(Some((report.clone(), samples))));
        let other = Key { model: "ab".into(), task: "".into() };
        assert_eq!(cache.get(&other, false), Ok(None));
    }

    #[test]
    fn an_entry_that_was_changed_is_never_used_and_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let (key, report, samples) = entry();
        cache.put(&key, &report, Some(&samples)).unwrap();
        let file = cache.file(&key);
        let whole = fs::read(&file).unwrap();
        let refused = |bytes: &[u8], what: &str| {
            fs::write(&file, bytes).unwrap();
            let note = cache.get(&key, false).expect_err(what);
            assert!(note.contains(&*file.to_string_lossy()) && note.contains("scored again"), "{what}: {note}");
        };
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            refused(&damaged, &format!("byte {at}"));
        }
        refused(b"", "nothing");
        refused(&whole[..whole.len() / 2], "half");
        // A sound entry of another pair under this name.
        let other = Key { model: "c".into(), task: "b".into() };
        cache.put(&other, &report, None).unwrap();
        refused(&fs::read(cache.file(&other)).unwrap(), "of another model");
        cache.put(&key, &report, None).unwrap();
        assert_eq!(cache.get(&key, false), Ok(Some((report, Vec::new()))));
    }
}
