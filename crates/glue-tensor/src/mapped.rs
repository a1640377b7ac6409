//! Memory maps of files, and words for the moment when a mapped file loses its pages.
//!
//! If another process truncates a mapped file, or its disk cannot deliver a page, touching that page raises `SIGBUS`,
//! which ends a process without a word. [`report_lost_pages`] installs a handler that names the file on standard error
//! and exits with status 1 instead. It looks the address up in a table of all maps of this module, which it can read
//! without a lock and without memory of its own; a fault anywhere else goes to whatever handled it before.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// A file mapped for reading.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Mmap,
    /// In the table of maps; `None` for an empty file.
    slot: Option<&'static Slot>,
}

impl Mapped {
    /// Maps all of `file`, which is at `path`.
    pub(crate) fn new(file: &File, path: &Path) -> io::Result<Mapped> {
        #[allow(unsafe_code)]
        // SAFETY: the map is private to this type, read-only, and only ever seen as bytes, for which every value is
        // valid. What remains is the hazard that another process changes the file: `FileVersion` tells of it, and the
        // handler of this module reports the loss of pages.
        let map = unsafe { Mmap::map(file)? };
        let slot = (!map.is_empty()).then(|| MAPS.enter(map.as_ptr() as usize, map.len(), path));
        Ok(Mapped { map, slot })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.start.store(FREE, Ordering::Release);
        }
    }
}

/// Bytes of a path that the table keeps: its end, where it is longer.
const PATH_BYTES: usize = 512;
/// Maps in a piece of the table.
const SLOTS: usize = 64;

/// `start` of a slot that holds nothing.
const FREE: usize = 0;
/// `start` of a slot that is being filled. No map begins there.
const TAKEN: usize = 1;

/// A map of this process. All of it is atomic, so that the handler may look at any moment: it never sees the slot of
/// the map it faulted in half filled, since that one was filled before anybody could touch the map.
#[derive(Debug)]
struct Slot {
    start: AtomicUsize,
    n_bytes: AtomicUsize,
    path_bytes: AtomicUsize,
    path: [AtomicU8; PATH_BYTES],
}

/// A piece of the table of maps, and the rest of it. Pieces are never given back.
struct Maps {
    slots: [Slot; SLOTS],
    rest: OnceLock<Box<Maps>>,
}

static MAPS: Maps = Maps::new();

impl Maps {
    const fn new() -> Maps {
        Maps { slots: [const { Slot::new() }; SLOTS], rest: OnceLock::new() }
    }

    /// Notes a map.
    fn enter(&'static self, start: usize, n_bytes: usize, path: &Path) -> &'static Slot {
        let mut piece = self;
        loop {
            let free = piece
                .slots
                .iter()
                .find(|slot| slot.start.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok());
            if let Some(slot) = free {
                slot.fill(start, n_bytes, path);
                return slot;
            }
            piece = piece.rest.get_or_init(|| Box::new(Maps::new()));
        }
    }

    /// Copies the path of the file that is mapped at `address` to `path`, and gives its length.
    fn find(&self, address: usize, path: &mut [u8; PATH_BYTES]) -> Option<usize> {
        let mut piece = Some(self);
        while let Some(Maps { slots, rest }) = piece {
            if let Some(found) = slots.iter().find_map(|slot| slot.path_of(address, path)) {
                return Some(found);
            }
            piece = rest.get().map(|rest| &**rest);
        }
        None
    }
}

impl Slot {
    const fn new() -> Slot {
        Slot {
            start: AtomicUsize::new(FREE),
            n_bytes: AtomicUsize::new(0),
            path_bytes: AtomicUsize::new(0),
            path: [const { AtomicU8::new(0) }; PATH_BYTES],
        }
    }

    fn fill(&self, start: usize, n_bytes: usize, path: &Path) {
        use std::os::unix::ffi::OsStrExt;
        let path = path.as_os_str().as_bytes();
        let path = &path[path.len().saturating_sub(PATH_BYTES)..];
        for (to, &from) in self.path.iter().zip(path) {
            to.store(from, Ordering::Relaxed);
        }
        self.path_bytes.store(path.len(), Ordering::Relaxed);
        self.n_bytes.store(n_bytes, Ordering::Relaxed);
        self.start.store(start, Ordering::Release);
    }

    fn path_of(&self, address: usize, path: &mut [u8; PATH_BYTES]) -> Option<usize> {
        let start = self.start.load(Ordering::Acquire);
        if start == FREE || start == TAKEN || !(start..start + self.n_bytes.load(Ordering::Relaxed)).contains(&address)
        {
            return None;
        }
        for (to, from) in path.iter_mut().zip(&self.path) {
            *to = from.load(Ordering::Relaxed);
        }
        Some(self.path_bytes.load(Ordering::Relaxed).min(PATH_BYTES))
    }
}

/// What handled `SIGBUS` before, such as the standard library.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// From now on, a page of a mapped checkpoint that cannot be read ends the process with status 1 and an error on
/// standard error that names the file. For the start of a program; calling it again does nothing.
///
/// # Errors
/// What the system says when it takes no handler.
#[allow(unsafe_code)]
pub fn report_lost_pages() -> io::Result<()> {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if INSTALLED.set(()).is_err() {
        return Ok(());
    }
    // SAFETY: `sigaction` is a plain struct of the system for which all zeros is a valid value.
    let (mut before, mut action): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live structs; a null new action only asks for the present one.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Before the handler can run, because it reads this.
    let _ = BEFORE.set(before);
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and calls nothing that is not async-signal-safe:
    // it reads atomics, and calls write, sigaction, raise and _exit.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system hands a valid `siginfo_t`; for a SIGBUS that it raised itself (code above 0), the field of the
    // address is set.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let mut path = [0; PATH_BYTES];
    if code > 0
        && let Some(length) = MAPS.find(address, &mut path)
    {
        let parts: [&[u8]; 3] = [
            b"error: ",
            &path[..length],
            b": a part of the file that was there when it was opened cannot be read any more: it was truncated meanwhile, or \
              its disk failed\nhint: run the command again when the file is complete and nothing writes to it\n",
        ];
        for part in parts {
            // SAFETY: the pointer and the length are those of a live slice.
            let _ = unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
        }
        // SAFETY: `_exit` ends the process without running anything of it.
        unsafe { libc::_exit(1) }
    }
    // Not ours: whoever handled it before does so again, at once for a signal that somebody sent, and when the faulting
    // instruction is tried again otherwise.
    if let Some(before) = BEFORE.get() {
        // SAFETY: `before` is what the system gave as the action for this signal.
        unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
    }
    if code <= 0 {
        // SAFETY: raising a signal has no precondition.
        unsafe { libc::raise(signal) };
    }
}
