//! Files that a training keeps: numbers to the bit, under a header that says what they belong to.
//!
//! A line that names the format, the length of a JSON header (u64, little-endian), the header, the arrays as
//! little-endian `f64` or `f32`, and the XXH3-128 of all before it. A file appears complete or not at all.

use crate::error::RouterError;
use glue_tensor::{ContentHash, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::io;
use std::path::Path;

const MAGIC: &[u8] = b"glue-router state 1\n";
const HASH: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// What the numbers belong to, as its owner words it.
    about: Value,
    arrays: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    wide: bool,
    len: usize,
}

/// Numbers under a name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Numbers {
    F64(Vec<f64>),
    F32(Vec<f32>),
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StateFile {
    pub(crate) about: Value,
    pub(crate) arrays: Vec<(String, Numbers)>,
}

impl StateFile {
    /// The numbers of this name, if they are there and `f64`.
    pub(crate) fn wide(&self, name: &str) -> Option<&[f64]> {
        self.arrays.iter().find(|(found, _)| found == name).and_then(|(_, numbers)| match numbers {
            Numbers::F64(values) => Some(values.as_slice()),
            Numbers::F32(_) => None,
        })
    }

    /// The numbers of this name, if they are there and `f32`.
    pub(crate) fn narrow(&self, name: &str) -> Option<&[f32]> {
        self.arrays.iter().find(|(found, _)| found == name).and_then(|(_, numbers)| match numbers {
            Numbers::F32(values) => Some(values.as_slice()),
            Numbers::F64(_) => None,
        })
    }

    /// Writes the file in one step, over an older one.
    pub(crate) fn write(&self, path: &Path) -> Result<(), RouterError> {
        let entry = |(name, numbers): &(String, Numbers)| match numbers {
            Numbers::F64(values) => Entry { name: name.clone(), wide: true, len: values.len() },
            Numbers::F32(values) => Entry { name: name.clone(), wide: false, len: values.len() },
        };
        let header = Header { about: self.about.clone(), arrays: self.arrays.iter().map(entry).collect() };
        let header = serde_json::to_vec(&header).map_err(|error| broken(path, error.to_string()))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header);
        for (_, numbers) in &self.arrays {
            match numbers {
                Numbers::F64(values) => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
                Numbers::F32(values) => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            }
        }
        let hash = ContentHash::of(&bytes).0.to_le_bytes();
        bytes.extend(hash);
        Ok(write_atomic(path, &bytes)?)
    }

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// [`RouterError::StateFile`] for a file that is damaged or something else; [`RouterError::Io`].
    pub(crate) fn read(path: &Path) -> Result<Option<StateFile>, RouterError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RouterError::Io { path: path.to_path_buf(), error }),
        };
        parse(&bytes).map(Some).map_err(|reason| broken(path, reason))
    }
}

fn broken(path: &Path, reason: String) -> RouterError {
    RouterError::StateFile { path: path.to_path_buf(), reason }
}

fn parse(bytes: &[u8]) -> Result<StateFile, String> {
    let Some((content, hash)) = bytes.split_last_chunk::<HASH>() else {
        return Err(format!("{} bytes are too few for saved states", bytes.len()));
    };
    let Some(rest) = content.strip_prefix(MAGIC) else {
        return Err("these are no saved states of a router".into());
    };
    if ContentHash::of(content).0.to_le_bytes() != *hash {
        return Err("the checksum does not fit the content".into());
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or("it ends within its header")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|error| error.to_string())?;
    let (header, mut rest) = rest.split_at_checked(length).ok_or("it ends within its header")?;
    let header: Header = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    let mut arrays = Vec::with_capacity(header.arrays.len());
    for entry in header.arrays {
        let size = if entry.wide { 8 } else { 4 };
        let bytes = entry.len.checked_mul(size).and_then(|size| rest.split_at_checked(size));
        let (values, after) = bytes.ok_or_else(|| format!("it ends within `{}`", entry.name))?;
        rest = after;
        let numbers = if entry.wide {
            Numbers::F64(values.as_chunks::<8>().0.iter().map(|&x| f64::from_le_bytes(x)).collect())
        } else {
            Numbers::F32(values.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect())
        };
        arrays.push((entry.name, numbers));
    }
    Ok(StateFile { about: header.about, arrays })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_come_back_to_the_bit_and_damage_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.state");
        assert_eq!(StateFile::read(&path).unwrap(), None);
        let wide = vec![0.1, -0.0, f64::MIN_POSITIVE / 3.0, 1e300];
        let file = StateFile {
            about: json!({"epoch": 3}),
            arrays: vec![
                ("a".into(), Numbers::F64(wide.clone())),
                ("b".into(), Numbers::F32(vec![1.5, f32::EPSILON])),
                ("none".into(), Numbers::F64(Vec::new())),
            ],
        };
        file.write(&path).unwrap();
        let again = StateFile::read(&path).unwrap().unwrap();
        assert_eq!(again, file);
        assert!(again.wide("a").unwrap().iter().zip(&wide).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!((again.narrow("b").map(<[f32]>::len), again.wide("b"), again.narrow("c")), (Some(2), None, None));

        let bytes = fs::read(&path).unwrap();
        for at in [0, 25, 60, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(matches!(StateFile::read(&path), Err(RouterError::StateFile { .. })), "byte {at}");
        }
        for len in [0, 10, 30, bytes.len() - 1] {
            fs::write(&path, &bytes[..len]).unwrap();
            assert!(matches!(StateFile::read(&path), Err(RouterError::StateFile { .. })), "{len} bytes");
        }
    }
}
