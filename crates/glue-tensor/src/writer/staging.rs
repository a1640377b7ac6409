//! A directory that appears complete or not at all.

use super::WriteError;
use super::output::{hidden, split, write_durably};
use super::owned::{LOCK_FILE, OwnedDirectory};
use super::sync_directory;
use crate::abort::abort_point;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// A hidden directory `.NAME.partial` beside the directory wanted, renamed to it by [`Staging::commit`].
///
/// Its name depends on the output's name alone, so that what a killed process left behind is found by the next one,
/// which empties it; a lock tells that case from a process still at work. What stands under that name and is not
/// provably such a directory (a link, a folder of somebody else, a copy) is refused and left as it is. Dropping
/// without commit removes it.
#[derive(Debug)]
pub struct Staging {
    out_dir: PathBuf,
    path: PathBuf,
    /// `None` once it is committed.
    owned: Option<OwnedDirectory>,
}

impl Staging {
    /// Prepares to create `out_dir`, which must not exist or be an empty directory. Missing parents are created.
    ///
    /// # Errors
    /// [`WriteError::NotEmpty`] and [`WriteError::NotADirectory`] when `out_dir` is taken, [`WriteError::Busy`] when
    /// another process (or another `Staging` of this one) is writing it, [`WriteError::Foreign`] when the hidden name
    /// is taken by something that is not provably ours, [`WriteError::Io`] otherwise.
    pub fn create(out_dir: impl AsRef<Path>) -> Result<Staging, WriteError> {
        let out_dir = resolve(out_dir.as_ref())?;
        check_vacant(&out_dir)?;
        let (parent, name) = split(&out_dir)?;
        fs::create_dir_all(parent).map_err(|e| WriteError::at(parent, 0, e))?;
        let path = parent.join(hidden(&name, ".partial"));
        let owned = OwnedDirectory::claim(&path, &out_dir)?;
        abort_point("staging directory locked");
        owned.empty()?;
        Ok(Staging { out_dir, path, owned: Some(owned) })
    }

    /// The staging directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that [`Staging::commit`] makes appear.
    pub fn out_dir(&self) -> &Path {
        &self.out_dir
    }

    /// Writes `bytes` to the file `name`, durably; an earlier file of that name is replaced. `DIRECTORY/NAME` is a file
    /// in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`WriteError::FileName`] unless `name` is a plain file name, or two with `/` between, [`WriteError::NoSpace`],
    /// [`WriteError::Io`].
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let components: Vec<Component<'_>> = Path::new(name).components().collect();
        let is_plain = |part: &Component<'_>| matches!(part, Component::Normal(part) if *part != LOCK_FILE);
        if !(1..=2).contains(&components.len()) || !components.iter().all(is_plain) {
            return Err(WriteError::FileName { name: name.to_string() });
        }
        let path = self.path.join(name);
        let directory = path.parent().filter(|_| components.len() == 2);
        if let Some(directory) = directory {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(WriteError::at(directory, 0, error));
                }
                // A link is not one of ours.
                _ if directory.is_symlink() => return Err(WriteError::FileName { name: name.to_string() }),
                _ => {}
            }
        }
        write_durably(&path, bytes)?;
        directory.map_or(Ok(()), sync_directory)
    }

    /// Makes the directory appear at [`Staging::out_dir`], durably, with all that was written to it.
    ///
    /// # Errors
    /// [`WriteError::NotEmpty`], [`WriteError::NotADirectory`] when `out_dir` was taken meanwhile,
    /// [`WriteError::Moved`] when something else stands in the staging directory's place, [`WriteError::Io`]; nothing
    /// appears then, and the staging directory is removed.
    pub fn commit(mut self) -> Result<(), WriteError> {
        let Some(owned) = &self.owned else { return Ok(()) };
        owned.sync().map_err(|e| WriteError::at(&self.path, 0, e))?;
        if !owned.is_in_place() {
            return Err(WriteError::Moved { path: self.path.clone() });
        }
        fs::rename(&self.path, &self.out_dir).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                WriteError::NotEmpty { path: self.out_dir.clone() }
            }
            io::ErrorKind::NotADirectory => WriteError::NotADirectory { path: self.out_dir.clone() },
            _ => WriteError::at(&self.out_dir, 0, error),
        })?;
        abort_point("staging directory renamed");
        // The lock outlives the rename: without it, another process could take the directory over and empty it. A
        // crash right here leaves a complete directory with a stray lock file in it.
        self.owned.take().map_or(Ok(()), OwnedDirectory::release)?;
        abort_point("output unlocked");
        sync_directory(&self.out_dir)?;
        let (parent, _) = split(&self.out_dir)?;
        sync_directory(parent)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(owned) = self.owned.take() {
            owned.discard();
        }
    }
}

/// The absolute path of `out_dir`, through a symbolic link if it is one to a directory.
fn resolve(out_dir: &Path) -> Result<PathBuf, WriteError> {
    let resolved = match fs::canonicalize(out_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(out_dir),
        resolved => resolved,
    };
    resolved.map_err(|e| WriteError::at(out_dir, 0, e))
}

fn check_vacant(out_dir: &Path) -> Result<(), WriteError> {
    match fs::read_dir(out_dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(WriteError::NotEmpty { path: out_dir.to_path_buf() }),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound if out_dir.is_symlink() => {
                Err(WriteError::NotADirectory { path: out_dir.to_path_buf() })
            }
            io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::NotADirectory => Err(WriteError::NotADirectory { path: out_dir.to_path_buf() }),
            _ => Err(WriteError::at(out_dir, 0, error)),
        },
    }
}
