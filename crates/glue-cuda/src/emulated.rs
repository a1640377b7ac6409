//! A device that is this machine's CPU: the kernels, compiled by its C++ compiler, one block after the other.

#![allow(unsafe_code)]

use crate::backend::{Backend, Kernel, TakePiece, inside};
use crate::error::DeviceError;
use glue_merge::BoxError;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::{HashMap, HashSet};
use std::ffi::{CString, c_char, c_void};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

type Launch = unsafe extern "C" fn(*const c_char, u32, u32, u32, *const c_void) -> bool;

/// The kernels as a library of the host; `None` where there is no C++ compiler.
static LIBRARY: LazyLock<Option<Mutex<libloading::Library>>> = LazyLock::new(|| {
    let path = build()?;
    // SAFETY: the library's initialisers fill a table of kernels and do nothing else.
    Some(Mutex::new(unsafe { libloading::Library::new(path) }.expect("the library that was just built")))
});

/// The names of the kernels in the PTX that devices load.
static EMBEDDED: LazyLock<HashMap<&str, HashSet<String>>> = LazyLock::new(|| {
    let entry = |part: &str| part.split('(').next().unwrap_or_default().to_owned();
    let entries = |text: &str| text.split(".visible .entry ").skip(1).map(entry).collect();
    crate::ptx::names().map(|file| (file, entries(&crate::ptx::text(file).unwrap()))).collect()
});

fn compiler() -> Option<&'static str> {
    ["c++", "g++", "clang++"].into_iter().find(|name| Command::new(name).arg("--version").output().is_ok())
}

/// Compiles what is out of date; of several processes, one compiles and the others wait.
fn build() -> Option<PathBuf> {
    let compiler = compiler()?;
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (kernels, host) = (crate_folder.join("../../kernels"), crate_folder.join("tests/host"));
    let target = std::env::current_exe().unwrap().parent().unwrap().join("emulated-kernels");
    fs::create_dir_all(&target).unwrap();
    let lock = File::create(target.join("lock")).unwrap();
    lock.lock().unwrap();
    let files = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect()
    };
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let is = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
    let headers = files(&kernels).into_iter().filter(|p| is(p, "cuh")).chain(files(&host));
    let newest = headers.filter_map(|p| modified(&p)).max();
    let sources = files(&kernels).into_iter().filter(|p| is(p, "cu")).chain([host.join("host.cpp")]);
    let mut objects = Vec::new();
    let mut changed = false;
    for source in sources {
        let object = target.join(source.file_name().unwrap()).with_extension("o");
        if modified(&object) < newest.max(modified(&source)) {
            let mut command = Command::new(compiler);
            command.args(["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-DGLUE_HOST"]);
            command.args(["-Wall", "-Werror", "-Wno-unknown-pragmas"]);
            command.arg("-I").arg(&host).arg("-c").arg(&source).arg("-o").arg(&object);
            assert!(command.status().unwrap().success(), "{} does not compile for the host", source.display());
            changed = true;
        }
        objects.push(object);
    }
    let library = target.join("libkernels.so");
    if changed || !library.exists() {
        let mut command = Command::new(compiler);
        assert!(command.arg("-shared").args(&objects).arg("-o").arg(&library).status().unwrap().success());
    }
    Some(library)
}

/// The CPU as a device with so much memory.
pub(crate) struct Emulated {
    used: Arc<AtomicUsize>,
    peak: AtomicUsize,
    uploaded: AtomicUsize,
    size: usize,
}

impl Emulated {
    /// `None`, having said so, where there is no C++ compiler.
    pub(crate) fn new(size: usize) -> Option<Self> {
        if LIBRARY.is_none() {
            eprintln!("not tested: there is no C++ compiler to compile the kernels for the host");
            return None;
        }
        Some(Self { used: Arc::default(), peak: AtomicUsize::default(), uploaded: AtomicUsize::default(), size })
    }

    /// The largest number of bytes that were allocated at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Bytes that were uploaded so far.
    pub(crate) fn uploaded(&self) -> usize {
        self.uploaded.load(Ordering::Relaxed)
    }
}

/// Bytes on either side of a piece of memory, which nothing may change.
const GUARD: usize = 256;
const MARK: u8 = 0xA5;

pub(crate) struct HostMemory {
    at: *mut u8,
    bytes: usize,
    used: Arc<AtomicUsize>,
}

// SAFETY: the bytes are changed by launches and copies alone, which the lock of the library serialises.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes + 2 * GUARD, 256).unwrap()
    }

    fn guards_hold(&self) -> bool {
        let holds = |from: usize| {
            (from..from + GUARD).all(|i| {
                // SAFETY: both guards lie inside the allocation.
                unsafe { *self.at.add(i) == MARK }
            })
        };
        holds(0) && holds(GUARD + self.bytes)
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let intact = self.guards_hold();
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
        // SAFETY: allocated with the same layout, and dropped once.
        unsafe { dealloc(self.at, Self::layout(self.bytes)) };
        assert!(intact || std::thread::panicking(), "a kernel wrote outside of its memory");
    }
}

impl Backend for Emulated {
    type Memory = HostMemory;
    type Stream = ();

    fn stream(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn allocate(&self, bytes: usize) -> Result<HostMemory, DeviceError> {
        let free = self.free();
        if bytes > free {
            return Err(DeviceError::OutOfMemory { needed: bytes, free });
        }
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(used, Ordering::Relaxed);
        let layout = HostMemory::layout(bytes);
        // SAFETY: the layout has a size above 0.
        let at = unsafe { alloc(layout) };
        assert!(!at.is_null());
        // SAFETY: the whole allocation. What a kernel reads before it is written is a large negative number.
        unsafe { at.write_bytes(MARK, layout.size()) };
        Ok(HostMemory { at, bytes, used: Arc::clone(&self.used) })
    }

    fn address(&self, memory: &HostMemory) -> u64 {
        memory.at as u64 + GUARD as u64
    }

    fn size(&self, memory: &HostMemory) -> usize {
        memory.bytes
    }

    fn free(&self) -> usize {
        self.size - self.used.load(Ordering::Relaxed)
    }

    fn multiprocessors(&self) -> u32 {
        2
    }

    fn upload(&self, (): &mut (), memory: &HostMemory, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        inside("upload", offset, bytes.len(), memory.bytes)?;
        self.uploaded.fetch_add(bytes.len(), Ordering::Relaxed);
        // SAFETY: inside, as was just checked; nothing else looks at it meanwhile.
        unsafe { memory.at.add(GUARD + offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn download(
        &self,
        (): &mut (),
        memory: &HostMemory,
        part: Range<usize>,
        take: TakePiece<'_>,
    ) -> Result<(), BoxError> {
        inside("download", part.start, part.len(), memory.bytes)?;
        // SAFETY: inside, as was just checked; nothing changes it meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(memory.at.add(GUARD + part.start), part.len()) };
        // Short pieces, so that a result comes as several.
        for (at, piece) in crate::backend::pieces(bytes.len(), 4096) {
            let _ = at;
            take(piece.start, &bytes[piece])?;
        }
        Ok(())
    }

    fn zero(&self, (): &mut (), memory: &HostMemory, bytes: usize) -> Result<(), DeviceError> {
        inside("zero", 0, bytes, memory.bytes)?;
        // SAFETY: inside, as was just checked.
        unsafe { memory.at.add(GUARD).write_bytes(0, bytes) };
        Ok(())
    }

    fn copy(&self, (): &mut (), from: &HostMemory, to: &HostMemory, bytes: usize) -> Result<(), DeviceError> {
        inside("copy", 0, bytes, from.bytes.min(to.bytes))?;
        // SAFETY: inside both, which are two allocations.
        unsafe { to.at.add(GUARD).copy_from_nonoverlapping(from.at.add(GUARD), bytes) };
        Ok(())
    }

    unsafe fn launch<A: Copy>(&self, (): &mut (), kernel: Kernel, grid: [u32; 2], args: &A) -> Result<(), DeviceError> {
        let library = LIBRARY.as_ref().unwrap().lock().unwrap_or_else(|e| e.into_inner());
        // What runs here must run on a device too.
        let embedded = EMBEDDED.get(kernel.file).is_some_and(|names| names.contains(&kernel.symbol()));
        assert!(embedded, "{} is not in the PTX of {}", kernel.symbol(), kernel.file);
        let name = CString::new(kernel.symbol()).unwrap();
        // SAFETY: the signature is that of tests/host/host.cpp; the caller vouches for the arguments.
        let found = unsafe {
            let launch: libloading::Symbol<'_, Launch> = library.get(b"host_launch").unwrap();
            launch(name.as_ptr(), grid[0], grid[1], kernel.threads, std::ptr::from_ref(args).cast())
        };
        match found {
            true => Ok(()),
            false => Err(DeviceError::Driver { call: "find a kernel", text: kernel.symbol() }),
        }
    }

    fn wait(&self, (): &mut ()) -> Result<(), DeviceError> {
        Ok(())
    }
}
