//! A disk of its own for one program: a tmpfs of limited size, in a mount namespace that nobody else is in.
//!
//! The kernel counts all that is in it however it is held, unlinked, mapped and preallocated files too, and frees it
//! with the process.

use super::Limits;
use super::files::scratch_rights;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// How a process comes to a mount namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespace {
    /// By itself, which takes the right to mount.
    Mounts,
    /// Together with a user namespace, in which anyone has that right, where the system lets everyone make some.
    User,
}

/// What the child mounts, written down before the fork.
pub(super) struct PrivateDisk {
    namespace: Namespace,
    place: CString,
    options: CString,
    /// Files of `/proc/self` that keep the user's and the group's number, and what is written to them.
    identity: [(&'static CStr, String); 3],
    /// Of Landlock, for kernels from the newest to the oldest.
    rights: [u64; 3],
}

/// The argument of `landlock_add_rule`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

impl PrivateDisk {
    /// One for the directory `place`, which must exist, as large as `limits` allow.
    pub(super) fn new(namespace: Namespace, place: &Path, limits: &Limits) -> io::Result<PrivateDisk> {
        // A zero would be no limit. The root is an entry too.
        let bytes = limits.scratch_bytes.max(1);
        let entries = limits.scratch_entries.saturating_add(1);
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(PrivateDisk {
            namespace,
            place: CString::new(place.as_os_str().as_bytes())?,
            options: CString::new(format!("size={bytes},nr_inodes={entries},mode=0700"))?,
            identity: [
                (c"/proc/self/setgroups", "deny".to_owned()),
                (c"/proc/self/uid_map", format!("{user} {user} 1")),
                (c"/proc/self/gid_map", format!("{group} {group} 1")),
            ],
            rights: scratch_rights().map(|rights| rights.bits()),
        })
    }

    /// Has `command` mount the disk in its process before it becomes the program.
    #[allow(unsafe_code)]
    pub(super) fn apply_to(self, command: &mut Command) {
        // SAFETY: the closure runs between fork and exec; `mount` is made for that, and allocates nothing, errors
        // included.
        unsafe {
            command.pre_exec(move || self.mount().map(drop));
        }
    }

    /// Moves the calling process, which must have one thread, into a namespace, mounts the disk there, and makes its
    /// root the working directory. Async-signal-safe.
    #[allow(unsafe_code)]
    pub(super) fn mount(&self) -> io::Result<OwnedFd> {
        let checked = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
        // SAFETY: the pointers are to strings that end in a zero and live as long as `self`, or null where the call
        // allows it; the kernel writes to none of them. The descriptor is a new one.
        unsafe {
            match self.namespace {
                Namespace::Mounts => checked(libc::unshare(libc::CLONE_NEWNS))?,
                Namespace::User => checked(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?,
            };
            if self.namespace == Namespace::User {
                for (path, text) in &self.identity {
                    let file = checked(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
                    let file = OwnedFd::from_raw_fd(file);
                    if libc::write(file.as_raw_fd(), text.as_ptr().cast(), text.len()) != text.len() as isize {
                        return Err(io::Error::last_os_error());
                    }
                }
            }
            let (none, slash) = (std::ptr::null(), c"/".as_ptr());
            // So that nothing mounted here appears elsewhere.
            checked(libc::mount(none, slash, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
            let flags = libc::MS_NOSUID | libc::MS_NODEV;
            let name = c"tmpfs".as_ptr();
            checked(libc::mount(name, self.place.as_ptr(), name, flags, self.options.as_ptr().cast()))?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
            let root = OwnedFd::from_raw_fd(checked(libc::open(self.place.as_ptr(), flags))?);
            checked(libc::fchdir(root.as_raw_fd()))?;
            Ok(root)
        }
    }

    /// Adds to rules of Landlock that `root` is a scratch directory. Async-signal-safe.
    #[allow(unsafe_code)]
    pub(super) fn allow(&self, rules: &OwnedFd, root: &OwnedFd) -> io::Result<()> {
        const PATH_BENEATH: libc::c_int = 1;
        for allowed_access in self.rights {
            let rule = PathBeneath { allowed_access, parent_fd: root.as_raw_fd() };
            // SAFETY: the kernel reads the structure, which is laid out as it expects, and knows the descriptors to be
            // open.
            let added = unsafe {
                libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, &raw const rule, 0)
            };
            if added == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // A right that this kernel does not know.
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}
