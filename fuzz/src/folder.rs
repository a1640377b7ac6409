//! Folders for readers that take a directory: made once for each thread, with the input in one file of it.

use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A temporary directory that holds the files beside the one that is fuzzed.
pub struct Folder(TempDir);

impl Folder {
    /// A new directory with what `fill` puts into it.
    pub fn new(fill: impl FnOnce(&Path)) -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a temporary directory"));
        fill(folder.path());
        folder
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Its path, after `bytes` have become the file `name` in it.
    pub fn with(&self, name: &str, bytes: &[u8]) -> &Path {
        write(self.path(), name, bytes);
        self.path()
    }
}

/// Writes a file, with the folders above it.
pub fn write(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = directory.join(name);
    if let Err(first) = fs::write(&path, &bytes) {
        let parent = path.parent().unwrap_or_else(|| panic!("{first}"));
        fs::create_dir_all(parent).expect("a folder of a temporary directory");
        fs::write(path, bytes).expect("a temporary file");
    }
}
