//! What of the file system a confined program sees, and its scratch directory.

use super::{Limits, SandboxError};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The version of Landlock whose rights are asked for; of an older kernel's, those it has.
const KNOWN: ABI = ABI::V7;

/// What a Python needs of a system beside its own files. Of `/proc` nothing that belongs to a process: a rule is for the directory of
/// the process that made it.
const SYSTEM: &[&str] = &[
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
];

/// Places and the rights on them, opened once.
pub(super) struct View {
    rules: Vec<(PathFd, BitFlags<AccessFs>)>,
}

impl View {
    /// A view in which `directories` can be read, and `programs` be read and executed; `None` if the kernel has no Landlock.
    pub(super) fn new(directories: &[PathBuf], programs: &[PathBuf]) -> Result<Option<View>, SandboxError> {
        let created: Option<OwnedFd> = ruleset().map_err(confinement)?.into();
        if created.is_none() {
            return Ok(None);
        }
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let wanted = SYSTEM
            .iter()
            .map(|place| (PathBuf::from(place), read))
            .chain(directories.iter().map(|place| (place.clone(), read)))
            .chain(programs.iter().map(|place| (place.clone(), AccessFs::ReadFile | AccessFs::Execute)));
        let mut rules = Vec::new();
        for (place, mut rights) in wanted {
            // A prefix of `/` would show everything.
            let Ok(metadata) = fs::metadata(&place) else { continue };
            if place == Path::new("/") {
                continue;
            }
            if !metadata.is_dir() {
                rights &= AccessFs::from_file(KNOWN);
            }
            if place == Path::new("/dev/null") {
                rights |= AccessFs::WriteFile;
            }
            let Ok(opened) = PathFd::new(&place) else { continue };
            rules.push((opened, rights));
        }
        Ok(Some(View { rules }))
    }

    /// The rules for one program, to be put in force in its process: the view, and `scratch` for everything but executing and devices.
    pub(super) fn with_scratch(&self, scratch: &Path) -> Result<OwnedFd, SandboxError> {
        let full = AccessFs::ReadFile
            | AccessFs::ReadDir
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::MakeSym
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let scratch = PathFd::new(scratch)
            .map_err(|error| SandboxError::Confinement { problem: format!("Landlock: {error}") })?;
        let add = || -> Result<RulesetCreated, RulesetError> {
            let mut created = ruleset()?;
            for (place, rights) in &self.rules {
                created = created.add_rule(PathBeneath::new(place, *rights))?;
            }
            created.add_rule(PathBeneath::new(scratch, full))
        };
        let created: Option<OwnedFd> = add().map_err(confinement)?.into();
        created.ok_or_else(|| SandboxError::Confinement { problem: "Landlock is there no more".to_owned() })
    }
}

fn confinement(error: RulesetError) -> SandboxError {
    SandboxError::Confinement { problem: format!("Landlock: {error}") }
}

fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()
}

/// Whether what is beneath `scratch` is more than the limits allow; a tree too deep to be walked is.
pub(super) fn exceeds(scratch: &Path, limits: &Limits) -> bool {
    let (mut bytes, mut entries, mut open) = (0_u64, 0_usize, vec![scratch.to_owned()]);
    while let Some(directory) = open.pop() {
        let list = match fs::read_dir(&directory) {
            Ok(list) => list,
            // It may have been removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound || error.kind() == ErrorKind::NotADirectory => continue,
            Err(_) => return true,
        };
        for entry in list.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            entries += 1;
            // Blocks, not the length: a hole takes no space.
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                open.push(entry.path());
            }
            if bytes > limits.scratch_bytes || entries > limits.scratch_entries {
                return true;
            }
        }
    }
    false
}

/// A directory that is removed when dropped, however deep what was made in it.
pub(super) struct Scratch {
    outer: tempfile::TempDir,
}

impl Scratch {
    pub(super) fn new() -> std::io::Result<Scratch> {
        let outer = tempfile::Builder::new().prefix("glue-program-").tempdir()?;
        fs::create_dir(outer.path().join("scratch"))?;
        Ok(Scratch { outer })
    }

    /// The directory, which has a parent of its own: where what is found deep is brought up to on removal.
    pub(super) fn path(&self) -> PathBuf {
        self.outer.path().join("scratch")
    }
}

impl Drop for Scratch {
    /// Removes directory by directory from the top, without recursion: a tree of a hundred thousand levels has paths longer than the
    /// system allows, and a recursive walk would run out of descriptors or of stack.
    fn drop(&mut self) {
        let mut number = 0_u64;
        let mut open = vec![self.path()];
        while let Some(directory) = open.pop() {
            let Ok(list) = fs::read_dir(&directory) else { continue };
            for entry in list.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    number += 1;
                    // The program chose the mode, and moving a directory needs the right to write in it.
                    let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700));
                    let raised = self.outer.path().join(number.to_string());
                    if fs::rename(entry.path(), &raised).is_ok() {
                        open.push(raised);
                    }
                } else {
                    let _ = fs::remove_file(entry.path());
                }
            }
            let _ = fs::remove_dir(&directory);
        }
        // The outer directory is empty now and goes with its own drop.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_deep_tree_with_links_is_removed_and_what_it_points_to_is_not() {
        let keep = tempfile::tempdir().unwrap();
        fs::write(keep.path().join("kept"), "x").unwrap();
        let scratch = Scratch::new().unwrap();
        let outer = scratch.outer.path().to_owned();
        symlink(keep.path(), scratch.path().join("link")).unwrap();
        let mut directory = scratch.path();
        for _ in 0..500 {
            directory.push("d");
        }
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!outer.exists());
        assert!(keep.path().join("kept").exists());
    }

    #[test]
    fn size_counts_what_is_allocated() {
        let scratch = Scratch::new().unwrap();
        let limits = Limits { scratch_bytes: 100_000, scratch_entries: 3, ..Limits::default() };
        assert!(!exceeds(&scratch.path(), &limits));
        fs::write(scratch.path().join("large"), vec![1; 200_000]).unwrap();
        assert!(exceeds(&scratch.path(), &limits));
        fs::remove_file(scratch.path().join("large")).unwrap();
        for i in 0..4 {
            fs::write(scratch.path().join(i.to_string()), "").unwrap();
        }
        assert!(exceeds(&scratch.path(), &limits));
    }
}
