//! The files of a model directory that are copied to an output unchanged, and where links may lead.
//!
//! A model from somebody else may hold links, and a `vocab.json` that leads to a private file would put a copy of that
//! file into every output made from the model. So a file to be copied must lie in the model
//! directory, links resolved. Two more places are allowed: those that links inside the directory lead to, and the
//! `blobs` of a hub cache, whose `models--ORG--NAME/snapshots/REVISION` holds nothing but links to `../../blobs`.
//! Weights may be links to anywhere: they must be safetensors files, and the output gets numbers computed from them.

use crate::files::{self, FileVersion};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Which links are followed to a file that is to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// Those that stay in the model directory, or lead to the blobs of the hub cache that it is a snapshot of.
    #[default]
    Inside,
    /// All.
    Follow,
}

/// Why a file cannot be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SideFileError {
    /// The system refused an operation, or the file is no regular file or too large.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A link leads out of the model directory.
    #[error(
        "{}: a link to {}, outside of the model directory; its content would become part of the output. Put a copy of the \
         file in place of the link, or allow such links with --follow-links",
        path.display(), target.display()
    )]
    LeadsOut {
        /// The file.
        path: PathBuf,
        /// Where it leads, all links resolved.
        target: PathBuf,
    },
    /// The path led to one file when it was opened and to another when it was looked at.
    #[error("{}: another file took its place while it was opened; run the command again", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
}

/// Opens the file at `path` in `directory` to be copied: a regular file, where `links` allow it to be.
///
/// What is checked is the file that was opened, not its path before or after.
///
/// # Errors
/// [`SideFileError`]; the file and where it leads are named.
pub fn open_to_copy(directory: &Path, path: &Path, links: Links) -> Result<File, SideFileError> {
    let at = |error| SideFileError::Io { path: path.to_path_buf(), error };
    let file = files::open(path).map_err(at)?;
    if links == Links::Follow {
        return Ok(file);
    }
    let target = path.canonicalize().map_err(at)?;
    let (opened, found) = (file.metadata().map_err(at)?, std::fs::symlink_metadata(&target).map_err(at)?);
    if !FileVersion::of(path, &opened).is_same_file(&FileVersion::of(path, &found)) {
        return Err(SideFileError::Replaced { path: path.to_path_buf() });
    }
    let directory = directory.canonicalize().map_err(at)?;
    let allowed = target.starts_with(&directory) || blobs(&directory).is_some_and(|blobs| target.starts_with(blobs));
    if allowed { Ok(file) } else { Err(SideFileError::LeadsOut { path: path.to_path_buf(), target }) }
}

/// The bytes of the file at `path` in `directory`, to be copied.
///
/// # Errors
/// As [`open_to_copy`].
pub fn read_to_copy(directory: &Path, path: &Path, links: Links) -> Result<Vec<u8>, SideFileError> {
    let file = open_to_copy(directory, path, links)?;
    files::read_open(file, files::DATA_BYTES).map_err(|error| SideFileError::Io { path: path.to_path_buf(), error })
}

/// Where a hub cache keeps the files that `snapshot` links to, if that is one.
fn blobs(snapshot: &Path) -> Option<PathBuf> {
    let snapshots = snapshot.parent().filter(|parent| parent.ends_with("snapshots"))?;
    Some(snapshots.parent()?.join("blobs"))
}

#[cfg(test)]
mod tests {
    //! Where links lead.
    use super::*;
    use glue_progress::ErrorChain;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn check(root: &Path, directory: &str, expected: Result<&str, &str>) {
        let directory = root.join(directory);
        match (read_to_copy(&directory, &directory.join("vocab.json"), Links::Inside), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected.as_bytes()),
            (Err(error), Err(expected)) => {
                let error = error.to_string();
                assert!(error.contains(expected) && error.contains("--follow-links"), "{error}");
            }
            (found, _) => panic!("{}: {found:?}", directory.display()),
        }
        assert!(read_to_copy(&directory, &directory.join("vocab.json"), Links::Follow).is_ok());
    }

    #[test]
    fn links_may_stay_inside_or_lead_to_the_blobs_of_the_same_cache() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().canonicalize().unwrap();
        let place = |directory: &str, target: &str| {
            fs::create_dir_all(root.join(directory)).unwrap();
            symlink(target, root.join(directory).join("vocab.json")).unwrap();
        };
        fs::write(root.join("secret"), "secret").unwrap();
        fs::create_dir_all(root.join("models--a--b/blobs")).unwrap();
        fs::write(root.join("models--a--b/blobs/1234"), "blob").unwrap();
        symlink("../../secret", root.join("models--a--b/blobs/5678")).unwrap();

        place("inside", "other.json");
        fs::write(root.join("inside/other.json"), "other").unwrap();
        check(&root, "inside", Ok("other"));
        symlink("inside", root.join("link-to-directory")).unwrap();
        check(&root, "link-to-directory", Ok("other"));
        place("outside", "../secret");
        check(&root, "outside", Err(root.join("secret").to_str().unwrap()));
        place("through", "inside/link");
        fs::create_dir(root.join("through/inside")).unwrap();
        symlink("../../secret", root.join("through/inside/link")).unwrap();
        check(&root, "through", Err("outside of the model directory"));
        // A directory whose name starts with the same letters.
        fs::create_dir(root.join("outside-2")).unwrap();
        fs::write(root.join("outside-2/secret"), "secret").unwrap();
        fs::remove_file(root.join("outside/vocab.json")).unwrap();
        place("outside", "../outside-2/secret");
        check(&root, "outside", Err("outside of the model directory"));

        place("models--a--b/snapshots/1", "../../blobs/1234");
        check(&root, "models--a--b/snapshots/1", Ok("blob"));
        place("models--a--b/snapshots/2", "../../blobs/5678");
        check(&root, "models--a--b/snapshots/2", Err("outside of the model directory"));
        place("models--c--d/snapshots/1", "../../../models--a--b/blobs/1234");
        check(&root, "models--c--d/snapshots/1", Err("outside of the model directory"));
    }

    #[test]
    fn devices_and_missing_files_are_named() {
        let root = tempfile::tempdir().unwrap();
        symlink("/dev/zero", root.path().join("vocab.json")).unwrap();
        for (name, expected) in [("vocab.json", "found a character device"), ("none", "none")] {
            let error = read_to_copy(root.path(), &root.path().join(name), Links::Follow).unwrap_err().chain();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
    }
}
