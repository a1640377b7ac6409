//! The scores of items, candidate by candidate, in memory and optionally on disk.
//!
//! A file holds one record: its key, and the items of each round and task, with a checksum ([`glue_tensor::state`]). A
//! file that cannot be read, does not match its checksum, or has another key is replaced. A failure to write one costs
//! time later, but no result now.

use glue_eval::ItemScore;
use glue_tensor::{files, state, write_atomic};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use xxhash_rust::xxh3::xxh3_128;

/// Incremented whenever the same key would mean other scores, or the format of a file changes.
const VERSION: u32 = 2;

/// The items of one candidate: by round, and by task within.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Record {
    pub(crate) rounds: Vec<Vec<Vec<ItemScore>>>,
}

/// Records by key.
#[derive(Debug)]
pub(crate) struct Records {
    directory: Option<PathBuf>,
    known: Mutex<HashMap<u128, Record>>,
}

impl Records {
    /// In memory, and in `directory`, which is created if needed.
    pub(crate) fn open(directory: Option<PathBuf>) -> Result<Records, (PathBuf, io::Error)> {
        if let Some(directory) = &directory {
            fs::create_dir_all(directory).map_err(|error| (directory.clone(), error))?;
        }
        Ok(Records { directory, known: Mutex::default() })
    }

    pub(crate) fn is_on_disk(&self) -> bool {
        self.directory.is_some()
    }

    fn path(&self, hash: u128) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(format!("{hash:032x}.json")))
    }

    /// The record of a key; an empty one when there is none.
    pub(crate) fn get(&self, key: &str) -> Record {
        let hash = xxh3_128(key.as_bytes());
        if let Some(record) = self.known.lock().get(&hash) {
            return record.clone();
        }
        let read = || parse(&files::read(self.path(hash)?, files::DATA_BYTES).ok()?, hash);
        read().unwrap_or_default()
    }

    /// Keeps a record; of two with the same key, the one with more rounds.
    pub(crate) fn put(&self, key: &str, record: &Record) {
        let hash = xxh3_128(key.as_bytes());
        {
            let mut known = self.known.lock();
            let kept = known.entry(hash).or_default();
            if kept.rounds.len() >= record.rounds.len() {
                return;
            }
            kept.clone_from(record);
        }
        if let (Some(path), Ok(text)) = (self.path(hash), write(record, hash)) {
            let _ = write_atomic(&path, text.as_bytes());
        }
    }
}

/// The contents of a file: version, key and record.
type Entry<R> = (u32, String, R);

fn write(record: &Record, hash: u128) -> serde_json::Result<String> {
    let entry: Entry<&Record> = (VERSION, format!("{hash:032x}"), record);
    Ok(state::seal(&serde_json::to_string(&entry)?))
}

fn parse(bytes: &[u8], hash: u128) -> Option<Record> {
    let (version, key, record): Entry<Record> = serde_json::from_slice(state::unseal(bytes).ok()?).ok()?;
    (version == VERSION && key == format!("{hash:032x}")).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_to_the_last_bit_and_longer_ones_stay() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Records::open(Some(directory.path().join("new"))).unwrap();
        let items = vec![
            ItemScore { index: 3, sum: 0.1 + 0.2, weight: 1.0, loss: Some(1e-300) },
            ItemScore { index: 9, sum: -1.0 / 3.0, weight: 7.0, loss: None },
        ];
        let record = Record { rounds: vec![vec![items.clone(), vec![]], vec![vec![], items]] };
        let records = open();
        assert_eq!(records.get("a"), Record::default());
        records.put("a", &record);
        records.put("a", &Record { rounds: record.rounds[..1].to_vec() });
        assert_eq!(records.get("a"), record);
        assert_eq!(open().get("b"), Record::default());
        assert_eq!(open().get("a"), record);
        let file = fs::read_dir(directory.path().join("new")).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read_to_string(&file).unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.clone().into_bytes();
            broken[at] ^= 1 << (at % 8);
            fs::write(&file, &broken).unwrap();
            assert_eq!(open().get("a"), Record::default(), "byte {at}");
            fs::write(&file, &whole.as_bytes()[..at]).unwrap();
            assert_eq!(open().get("a"), Record::default(), "{at} bytes");
        }
        fs::write(&file, &whole).unwrap();
        assert_eq!(open().get("a"), record);
        // Without a directory there is nothing but memory.
        let memory = Records::open(None).unwrap();
        memory.put("a", &record);
        assert_eq!((memory.get("a"), memory.is_on_disk()), (record, false));
    }
}
