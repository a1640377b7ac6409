//! A journal: one line of JSON for everything that must not be lost, on disk before work continues.
//!
//! The first line is a header that says what the journal belongs to; opening it again requires the same header. A
//! process that is killed leaves at most one incomplete line, the last, which is cut off. Every line has a checksum of
//! itself and of the lines before it ([`glue_tensor::state`]): a line that was changed, removed, repeated or moved is
//! refused. The file is locked for as long as it is open, so that two processes never write to it, and a symbolic link
//! in its place is refused.

use glue_tensor::state::{self, Chain};
use glue_tensor::{abort_midway, abort_point};
use serde_json::Value;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// An open journal, locked.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    chain: Chain,
    /// Set when a line may have been written in part: nothing is appended after it.
    broken: bool,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is a journal already.
    #[error("{}: there is a journal already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{}: another process is writing to it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another search.
    #[error("{}: it belongs to another search: {}", path.display(), differences.join("; "))]
    Differs {
        /// The file.
        path: PathBuf,
        /// The differences, each as `key: was …, is …`.
        differences: Vec<String>,
    },
    /// A line other than the last was changed.
    #[error("{}:{line}: {found}: the line was changed, or lines before it were changed, removed or moved; restore the \
             journal from a copy, or remove it to start over", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        found: String,
    },
    /// The file cannot be read or written, or is not a regular file.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl Journal {
    /// A new journal at `path`, with `header` on disk.
    ///
    /// # Errors
    /// [`JournalError::Exists`] when there is a file, [`JournalError::Io`].
    pub fn create(path: &Path, header: &Value) -> Result<Journal, JournalError> {
        let at = |error| io_at(path, error);
        let file = match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(JournalError::Exists { path: path.into() });
            }
            file => file.map_err(at)?,
        };
        lock(path, &file)?;
        let mut journal = Journal { path: path.into(), file, chain: Chain::default(), broken: false };
        journal.append(header)?;
        journal.sync_parent()?;
        Ok(journal)
    }

    /// The journal at `path` and its entries, in order; a new one if there is none, or none with a complete header.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn resume(path: &Path, header: &Value) -> Result<(Journal, Vec<Value>), JournalError> {
        let at = |error| io_at(path, error);
        let file = match state::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Journal::create(path, header).map(|journal| (journal, Vec::new()));
            }
            file => file.map_err(at)?,
        };
        lock(path, &file)?;
        let mut journal = Journal { path: path.into(), file, chain: Chain::default(), broken: false };
        let mut bytes = Vec::new();
        journal.file.read_to_end(&mut bytes).map_err(at)?;
        let (mut entries, sound) = read(path, &bytes, &mut journal.chain)?;
        if sound < bytes.len() {
            journal.file.set_len(sound as u64).map_err(at)?;
        }
        journal.file.seek(SeekFrom::Start(sound as u64)).map_err(at)?;
        if entries.is_empty() {
            journal.append(header)?;
            journal.sync_parent()?;
            return Ok((journal, entries));
        }
        let found = entries.remove(0);
        let mut differences = Vec::new();
        compare("", &found, header, &mut differences);
        if !differences.is_empty() {
            return Err(JournalError::Differs { path: path.into(), differences });
        }
        Ok((journal, entries))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `entry`, which is on disk when this returns.
    ///
    /// # Errors
    /// [`JournalError::Io`]; the journal then refuses further entries: no line follows an incomplete one.
    pub fn append(&mut self, entry: &Value) -> Result<(), JournalError> {
        if self.broken {
            return Err(io_at(&self.path, io::Error::other("an earlier line could not be written")));
        }
        let line = self.chain.seal(&entry.to_string());
        abort_midway("journal line half written", &mut self.file, line.as_bytes());
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        abort_point("journal line synced");
        written.map_err(|error| {
            self.broken = true;
            io_at(&self.path, error)
        })
    }

    /// Brings the name of the file to disk.
    fn sync_parent(&self) -> Result<(), JournalError> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(|error| io_at(parent, error))
    }
}

fn io_at(path: &Path, error: io::Error) -> JournalError {
    JournalError::Io { path: path.into(), error }
}

fn lock(path: &Path, file: &File) -> Result<(), JournalError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => JournalError::Busy { path: path.into() },
        TryLockError::Error(error) => io_at(path, error),
    })
}

/// The complete lines, and their length in bytes.
fn read(path: &Path, bytes: &[u8], chain: &mut Chain) -> Result<(Vec<Value>, usize), JournalError> {
    let mut entries = Vec::new();
    let mut start = 0;
    while let Some(length) = bytes[start..].iter().position(|&byte| byte == b'\n') {
        let end = start + length + 1;
        let line = chain.unseal(&bytes[start..end]).map_err(|error| error.to_string());
        match line.and_then(|json| serde_json::from_slice(json).map_err(|error| error.to_string())) {
            Ok(entry) => entries.push(entry),
            // After a crash of the system, the file may have its length but not its last bytes.
            Err(_) if end == bytes.len() => break,
            Err(found) => {
                let line = entries.len() + 1;
                return Err(JournalError::Damaged { path: path.into(), line, found });
            }
        }
        start = end;
    }
    Ok((entries, start))
}

/// What differs between two headers, by key.
fn compare(at: &str, was: &Value, is: &Value, differences: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (was, is) {
        let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
        for key in keys {
            let inner = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            compare(&inner, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), differences);
        }
    } else if was != is {
        let shown = |value: &Value| if value.is_null() { "nothing".to_string() } else { value.to_string() };
        differences.push(format!("{at}: was {}, is {}", shown(was), shown(is)));
    }
}

#[cfg(test)]
mod tests {
    //! What a process leaves that is killed at any point.
    use super::*;
    use glue_progress::ErrorChain;
    use serde_json::json;
    use std::fs;

    fn header() -> Value {
        json!({"of": "a test", "config": {"seed": 1}})
    }

    fn written(path: &Path) -> Vec<u8> {
        let mut journal = Journal::create(path, &header()).expect("a new journal");
        for i in 0..3 {
            journal.append(&json!({"i": i, "score": 0.1 + f64::from(i)})).expect("an entry");
        }
        drop(journal);
        fs::read(path).expect("a journal")
    }

    #[test]
    fn a_journal_that_is_cut_off_anywhere_continues() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal.jsonl");
        let bytes = written(&path);
        for length in 0..=bytes.len() {
            fs::write(&path, &bytes[..length]).expect("a torn journal");
            let (mut journal, entries) = Journal::resume(&path, &header()).expect("a torn journal is opened");
            let complete = bytes[..length].iter().filter(|&&byte| byte == b'\n').count().saturating_sub(1);
            assert_eq!(entries.len(), complete, "{length} bytes");
            journal.append(&json!("more")).expect("an entry");
            drop(journal);
            let (_, again) = Journal::resume(&path, &header()).expect("a journal");
            assert_eq!((again.len(), again.last()), (complete + 1, Some(&json!("more"))), "{length} bytes");
            assert_eq!(again[..complete], entries);
        }
    }

    #[test]
    fn numbers_come_back_to_the_bit() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal.jsonl");
        let numbers = [0.1 + 0.2, 1.0 / 3.0, f64::MIN_POSITIVE, 5e-324, 0.674_000_000_000_000_1];
        let mut journal = Journal::create(&path, &header()).expect("a new journal");
        journal.append(&json!(numbers)).expect("an entry");
        drop(journal);
        assert_eq!(Journal::resume(&path, &header()).expect("a journal").1, [json!(numbers)]);
    }

    #[test]
    fn refusals() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal.jsonl");
        let bytes = written(&path);
        let says = |error: JournalError, words: &str| assert!(error.chain().contains(words), "{error}");
        says(Journal::create(&path, &header()).expect_err("it is there"), "there is a journal already");
        let other = json!({"of": "a test", "config": {"seed": 2}, "limit": 3});
        let found = Journal::resume(&path, &other).expect_err("another header");
        says(found, "config.seed: was 1, is 2; limit: was nothing, is 3");
        let held = Journal::resume(&path, &header()).expect("a journal");
        says(Journal::resume(&path, &header()).expect_err("it is locked"), "another process is writing to it");
        drop(held);
        let target = directory.path().join("target");
        fs::rename(&path, &target).expect("a journal");
        std::os::unix::fs::symlink(&target, &path).expect("a link");
        says(Journal::create(&path, &header()).expect_err("a link"), "there is a journal already");
        says(Journal::resume(&path, &header()).expect_err("a link"), "expected a regular file, found a symbolic link");
        assert!(fs::read(&target).expect("a journal") == bytes);
    }

    #[test]
    fn a_changed_byte_is_refused_or_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal.jsonl");
        let bytes = written(&path);
        let (_, whole) = Journal::resume(&path, &header()).expect("a journal");
        let last = bytes[..bytes.len() - 1].iter().rposition(|&byte| byte == b'\n').expect("lines");
        let mut refused = 0;
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                fs::write(&path, damaged).expect("a damaged journal");
                match Journal::resume(&path, &header()) {
                    // A crash may damage the end: those evaluations are repeated.
                    Ok((_, entries)) => {
                        assert!(at >= last, "byte {at}, bit {bit}");
                        assert_eq!(entries, whole[..entries.len()]);
                    }
                    Err(error) => {
                        let words = error.chain();
                        assert!(
                            words.contains("journal.jsonl:") && words.contains("remove it to start over"),
                            "{words}"
                        );
                        refused += 1;
                    }
                }
            }
        }
        assert_eq!(refused, 3 * last);
    }

    #[test]
    fn lines_that_were_removed_repeated_or_swapped_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal.jsonl");
        let bytes = written(&path);
        let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
        for (order, line) in [(&[0, 2, 3][..], 2), (&[0, 1, 1, 2, 3], 3), (&[0, 2, 1, 3], 2), (&[1, 2, 3], 1)] {
            let text: Vec<u8> = order.iter().flat_map(|&i: &usize| lines[i].to_vec()).collect();
            fs::write(&path, text).expect("another journal");
            let error = Journal::resume(&path, &header()).expect_err("another journal").chain();
            assert!(
                error.contains(&format!("journal.jsonl:{line}: the checksum does not match")),
                "{order:?}: {error}"
            );
        }
    }
}
