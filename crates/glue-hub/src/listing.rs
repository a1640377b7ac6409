//! What a repository of a hub holds at a commit.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt;

/// The files of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// All files, as the hub lists them.
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteFile {
    /// Its path, with slashes; never one that leads out of the repository.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// What its content has to have.
    pub hash: FileHash,
}

/// The hash of a file's content, by which a cache names it: the SHA-256 of a large file, else the hash that Git gives a
/// blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHash(String);

impl FileHash {
    /// A hash in hexadecimal digits: 64 for SHA-256, 40 for Git. `None` for another text.
    pub fn parse(text: &str) -> Option<FileHash> {
        is_hex(text, &[40, 64]).then(|| FileHash(text.to_string()))
    }

    /// In lower-case hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A hasher for a content of `size` bytes.
    pub(crate) fn hasher(&self, size: u64) -> ContentHasher {
        if self.0.len() == 64 {
            return ContentHasher::Sha256(Sha256::new());
        }
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {size}\0"));
        ContentHasher::Git(hasher)
    }
}

impl fmt::Display for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Hashes content as it comes.
pub(crate) enum ContentHasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl ContentHasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            ContentHasher::Sha256(hasher) => hasher.update(bytes),
            ContentHasher::Git(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            ContentHasher::Sha256(hasher) => hex(&hasher.finalize()),
            ContentHasher::Git(hasher) => hex(&hasher.finalize()),
        }
    }
}

/// Whether `text` is a commit of Git.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, &[40])
}

fn is_hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a path that a hub names stays within the directory that it is joined to, and can be a file's.
pub(crate) fn is_safe_path(path: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
    path.len() <= 1024 && path.split('/').all(part) && !path.chars().any(|c| c.is_control() || c == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256() {
        let of = |hash: &str, content: &[u8]| {
            let mut hasher = FileHash::parse(hash).unwrap().hasher(content.len() as u64);
            content.chunks(3).for_each(|bytes| hasher.update(bytes));
            hasher.finish()
        };
        // `echo hello | git hash-object --stdin`, and sha256sum.
        assert_eq!(of(&"0".repeat(40), b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of(&"0".repeat(64), b"hello\n"), sha256);
        for text in ["", "00", &"g".repeat(40), &"A".repeat(40), &"0".repeat(41)] {
            assert_eq!(FileHash::parse(text), None, "{text}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        assert!(["a", "a/b.c", ".gitattributes", "a..b", "ä/b c"].iter().all(|path| is_safe_path(path)));
        let bad = ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\nb", "a\0"];
        assert!(!bad.iter().any(|path| is_safe_path(path)));
    }
}
