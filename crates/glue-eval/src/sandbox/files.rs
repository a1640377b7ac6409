//! What of the file system a confined program sees, by rules of Landlock.

use super::SandboxError;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The version of Landlock whose rights are asked for; of an older kernel's, those it has.
const KNOWN: ABI = ABI::V7;

/// What a Python needs of a system beside its own files. Of `/proc` nothing that belongs to a process: a rule is for
/// the directory of the process that made it.
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
    /// A view in which `directories` can be read, and `programs` be read and executed; `None` if the kernel has no
    /// Landlock.
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

    /// The rules for one program, to be put in force in its process: the view, and `scratch` for everything but
    /// executing and devices. A scratch directory that only the process will see is left to it.
    pub(super) fn rules(&self, scratch: Option<&Path>) -> Result<OwnedFd, SandboxError> {
        let scratch = scratch.map(PathFd::new).transpose();
        let scratch = scratch.map_err(|error| SandboxError::Confinement { problem: format!("Landlock: {error}") })?;
        let add = || -> Result<RulesetCreated, RulesetError> {
            let mut created = ruleset()?;
            for (place, rights) in &self.rules {
                created = created.add_rule(PathBeneath::new(place, *rights))?;
            }
            match scratch {
                Some(scratch) => created.add_rule(PathBeneath::new(scratch, scratch_rights()[0])),
                None => Ok(created),
            }
        };
        let created: Option<OwnedFd> = add().map_err(confinement)?.into();
        created.ok_or_else(|| SandboxError::Confinement { problem: "Landlock is there no more".to_owned() })
    }
}

/// The rights on a scratch directory: everything but executing and devices. First all of them, then those of the second
/// version of Landlock, then those of the first.
pub(super) fn scratch_rights() -> [BitFlags<AccessFs>; 3] {
    let all = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    [all, all & AccessFs::from_all(ABI::V2), all & AccessFs::from_all(ABI::V1)]
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
