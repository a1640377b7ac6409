//! Residual streams of batches of sequences between two layers: in memory, or in a file without a name.

use crate::error::CalibrateError;
use crate::run::tree_of;
use crate::sequence::{Sequence, batches};
use glue_lm::Tree;
use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The residual streams of one model's sequences.
pub(crate) struct Streams<'a> {
    sequences: &'a [Sequence],
    pub(crate) batches: Vec<Range<usize>>,
    width: usize,
    store: Store,
}

enum Store {
    /// By batch.
    Memory(Vec<Vec<f32>>),
    /// Batch after batch; `starts` has the first row of each.
    File { file: File, directory: PathBuf, starts: Vec<u64> },
}

impl<'a> Streams<'a> {
    /// Streams of so many numbers a row, of `sequences` in batches of at most `rows` tokens; in a file in the directory
    /// `spool` if there is one. All of them have to be [set](Streams::set) first.
    pub(crate) fn new(
        sequences: &'a [Sequence],
        rows: usize,
        width: usize,
        spool: Option<&Path>,
    ) -> Result<Streams<'a>, CalibrateError> {
        let batches = batches(sequences, rows);
        let store = match spool {
            None => Store::Memory(vec![Vec::new(); batches.len()]),
            Some(directory) => {
                let directory = directory.to_path_buf();
                let failed = |error| CalibrateError::Spool { directory: directory.clone(), error };
                let file = tempfile::tempfile_in(&directory).map_err(failed)?;
                let start = |next: &mut u64, batch: &Range<usize>| {
                    let read: usize = sequences[batch.clone()].iter().map(Sequence::read).sum();
                    Some(std::mem::replace(next, *next + read as u64))
                };
                let starts = batches.iter().scan(0, start).collect();
                Store::File { file, directory, starts }
            }
        };
        Ok(Streams { sequences, batches, width, store })
    }

    /// Bytes of the streams of so many tokens.
    pub(crate) fn bytes(tokens: u64, width: usize) -> u64 {
        tokens * (size_of::<f32>() * width) as u64
    }

    /// What is read of batch `index`.
    pub(crate) fn tree(&self, index: usize) -> Tree {
        tree_of(&self.sequences[self.batches[index].clone()])
    }

    /// The streams of batch `index`, [rows, width].
    pub(crate) fn get(&self, index: usize) -> Result<Cow<'_, [f32]>, CalibrateError> {
        match &self.store {
            Store::Memory(all) => Ok(Cow::Borrowed(&all[index])),
            Store::File { file, directory, starts } => {
                let read: usize = self.sequences[self.batches[index].clone()].iter().map(Sequence::read).sum();
                let mut bytes = vec![0; size_of::<f32>() * read * self.width];
                file.read_exact_at(&mut bytes, Streams::bytes(starts[index], self.width))
                    .map_err(|error| CalibrateError::Spool { directory: directory.clone(), error })?;
                let value = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                Ok(Cow::Owned(bytes.chunks_exact(size_of::<f32>()).map(value).collect()))
            }
        }
    }

    /// Replaces the streams of batch `index`.
    pub(crate) fn set(&mut self, index: usize, values: Vec<f32>) -> Result<(), CalibrateError> {
        match &mut self.store {
            Store::Memory(all) => all[index] = values,
            Store::File { file, directory, starts } => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                file.write_all_at(&bytes, Streams::bytes(starts[index], self.width))
                    .map_err(|error| CalibrateError::Spool { directory: directory.clone(), error })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_memory_holds() {
        let sequences: Vec<Sequence> = [3, 4, 9, 2, 2].map(|n| Sequence::text(vec![1; n])).into();
        let directory = tempfile::tempdir().unwrap();
        let mut both = [None, Some(directory.path())].map(|spool| Streams::new(&sequences, 8, 5, spool).unwrap());
        // Two rounds, in any order.
        for round in 0..2 {
            for index in [1, 2, 0] {
                let rows = both[0].tree(index).pending();
                let values: Vec<f32> = (0..rows * 5).map(|i| (i + 100 * index + 1000 * round) as f32 / 7.0).collect();
                for streams in &mut both {
                    streams.set(index, values.clone()).unwrap();
                    assert_eq!(streams.get(index).unwrap(), values);
                }
            }
            for index in 0..3 {
                assert_eq!(both[0].get(index).unwrap(), both[1].get(index).unwrap());
            }
        }
        assert_eq!(both[0].batches, [0..2, 2..3, 3..5]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the file has no name");
    }
}
