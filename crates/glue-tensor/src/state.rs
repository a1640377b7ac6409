//! Files that a program writes to read them again: journals, caches, records of finished stages, locks.
//!
//! Each document stands on a line of its own with its checksum, `{"xxh3":"…","content":…}`, so that a file is
//! still JSON, or JSON Lines. [`seal`] makes such a line and [`unseal`] accepts it only byte for byte. The
//! checksum is that of the content and of the checksum before it: in a [`Chain`] of lines none can be removed,
//! repeated, swapped or changed without being noticed. XXH3-128 finds accidents and edits; it is no defence
//! against somebody who recomputes it.
//!
//! [`open`] and [`open_lock`] never follow a symbolic link: what a program empties, appends to or locks
//! is a file of its own.

use crate::ContentHash;
use crate::files::describe;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

const BEFORE: &str = "{\"xxh3\":\"";
const BETWEEN: &str = "\",\"content\":";
const AFTER: &str = "}\n";
/// Digits of a checksum.
const DIGITS: usize = 32;

/// Why a line is not one that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// It does not have the form of a document with its checksum.
    #[error("expected a JSON document with its checksum, found something else")]
    Form,
    /// The checksum does not match the content and the lines before it.
    #[error("the checksum does not match the content")]
    Checksum,
}

/// A sequence of lines, each with a checksum that includes the one before. A new chain is before the first line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    last: Option<ContentHash>,
}

impl Chain {
    /// The next line, its break included, with `json`, a JSON document.
    pub fn seal(&mut self, json: &str) -> String {
        let checksum = self.checksum(json.as_bytes());
        self.last = Some(checksum);
        format!("{BEFORE}{checksum}{BETWEEN}{json}{AFTER}")
    }

    /// The document on the next line, whose break is included in `line`. After an error the chain
    /// is unchanged.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn unseal<'a>(&mut self, line: &'a [u8]) -> Result<&'a [u8], SealError> {
        let rest = line.strip_prefix(BEFORE.as_bytes()).and_then(|rest| rest.strip_suffix(AFTER.as_bytes()));
        let (digits, rest) = rest.and_then(|rest| rest.split_at_checked(DIGITS)).ok_or(SealError::Form)?;
        let json = rest.strip_prefix(BETWEEN.as_bytes()).ok_or(SealError::Form)?;
        let checksum = self.checksum(json);
        if checksum.to_string().as_bytes() != digits {
            return Err(SealError::Checksum);
        }
        self.last = Some(checksum);
        Ok(json)
    }

    fn checksum(&self, json: &[u8]) -> ContentHash {
        match self.last {
            None => ContentHash::of(json),
            Some(last) => ContentHash::of(&[&last.0.to_le_bytes()[..], json].concat()),
        }
    }
}

/// `json`, a JSON document, with its checksum: the content of a file.
pub fn seal(json: &str) -> String {
    Chain::default().seal(json)
}

/// The document in `bytes`, which [`seal`] wrote.
///
/// # Errors
/// [`SealError`].
pub fn unseal(bytes: &[u8]) -> Result<&[u8], SealError> {
    Chain::default().unseal(bytes)
}

/// The hash of a file's content, read piece by piece.
///
/// # Errors
/// As [`crate::files::open`].
pub fn hash_file(path: impl AsRef<Path>) -> io::Result<ContentHash> {
    let mut file = crate::files::open(path)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(ContentHash(hasher.digest128())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Opens a regular file for reading and writing, without following a symbolic link.
///
/// # Errors
/// What the system says, or [`ErrorKind::InvalidInput`] with the kind of file that was found instead.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    open_with(path.as_ref(), OFlags::RDWR)
}

/// Opens a regular file to be locked, without following a symbolic link, and creates it if there is none.
///
/// # Errors
/// As [`open`].
pub fn open_lock(path: impl AsRef<Path>) -> io::Result<File> {
    open_with(path.as_ref(), OFlags::RDWR | OFlags::CREATE)
}

fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    let found = |kind| io::Error::new(ErrorKind::InvalidInput, format!("expected a regular file, found {kind}"));
    // Not waiting for the other end of a pipe.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)) {
        Err(Errno::LOOP) => return Err(found("a symbolic link")),
        file => File::from(file?),
    };
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(found(describe(kind))) }
}

#[cfg(test)]
mod tests {
    //! Damage of every kind, and files that are not a program's own.
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_changed_byte_is_noticed() {
        let sealed = seal(r#"{"score": 0.1, "of": ["a", null]}"#);
        assert_eq!(unseal(sealed.as_bytes()), Ok(&br#"{"score": 0.1, "of": ["a", null]}"#[..]));
        assert!(serde_json::from_str::<serde_json::Value>(&sealed).is_ok_and(|value| value["content"]["score"] == 0.1));
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut damaged = sealed.clone().into_bytes();
                damaged[at] ^= 1 << bit;
                assert!(unseal(&damaged).is_err(), "byte {at}, bit {bit}");
            }
            assert!(unseal(&sealed.as_bytes()[..at]).is_err(), "{at} bytes");
        }
        assert!(unseal(format!("{sealed}{sealed}").as_bytes()).is_err());
    }

    #[test]
    fn files_and_bytes_have_the_same_hash() {
        let root = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        fs::write(root.path().join("file"), &bytes).unwrap();
        assert_eq!(hash_file(root.path().join("file")).unwrap(), ContentHash::of(&bytes));
    }

    #[test]
    fn lines_stay_in_their_order() {
        let mut chain = Chain::default();
        let lines: Vec<String> = ["1", "2", "2", "[3]"].iter().map(|json| chain.seal(json)).collect();
        let reads = |order: &[usize]| {
            let mut chain = Chain::default();
            order.iter().all(|&i| chain.unseal(lines[i].as_bytes()).is_ok())
        };
        assert!(reads(&[0, 1, 2, 3]) && reads(&[0, 1]));
        for wrong in [&[1][..], &[0, 2], &[0, 0], &[0, 1, 1], &[0, 1, 3], &[0, 2, 1], &[0, 1, 2, 2]] {
            assert!(!reads(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn links_and_pipes_are_refused_and_nothing_is_made_behind_them() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("secret"), "text").unwrap();
        symlink("secret", path("link")).unwrap();
        symlink("nothing", path("dangling")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        for (name, kind) in [("link", "a symbolic link"), ("dangling", "a symbolic link"), ("pipe", "a named pipe")] {
            for error in [open(path(name)).unwrap_err(), open_lock(path(name)).unwrap_err()] {
                assert_eq!(error.to_string(), format!("expected a regular file, found {kind}"), "{name}");
            }
        }
        assert!(!path("nothing").exists());
        assert_eq!(open(path("nothing")).unwrap_err().kind(), ErrorKind::NotFound);
        drop(open_lock(path("lock")).unwrap());
        open(path("lock")).unwrap();
    }
}
