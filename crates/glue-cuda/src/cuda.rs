//! The CUDA driver, by `cust`: primary context, streams, pinned staging buffers, kernels from the embedded PTX.

#![allow(unsafe_code, reason = "calls of the driver, and memory that only the device reads")]

use crate::backend::{Backend, Kernel, TakePiece, inside, pieces};
use crate::error::DeviceError;
use crate::ptx;
use cust::context::{Context, CurrentContext};
use cust::device::{Device, DeviceAttribute};
use cust::error::CudaError;
use cust::event::{Event, EventFlags};
use cust::memory::{cuda_free_locked, cuda_malloc_locked};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::sys;
use glue_merge::BoxError;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// The CUDA version whose PTX the kernels are.
const NEEDED_DRIVER: (i32, i32) = (12, 1);
/// The compute capability that they are compiled for.
const NEEDED_DEVICE: (i32, i32) = (7, 0);
/// Bytes of a staging buffer; a stream has two.
const STAGING: usize = 16 << 20;

/// A CUDA device.
pub struct Cuda {
    // Unloaded before the context goes.
    modules: Mutex<HashMap<&'static str, Arc<Loaded>>>,
    context: Arc<Shared>,
    name: String,
    capability: (i32, i32),
    driver: (i32, i32),
    multiprocessors: u32,
}

/// The primary context of the device.
struct Shared(Context);

// SAFETY: a context may be current in any number of threads at once; every call of the driver is made after it has been
// made current in the calling thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn enter(&self) -> Result<(), DeviceError> {
        CurrentContext::set_current(&self.0).map_err(|e| refused("use its context", e))
    }
}

struct Loaded(Module);

// SAFETY: a module is a handle of its context, which any thread may use.
unsafe impl Send for Loaded {}
// SAFETY: as above; it is never changed.
unsafe impl Sync for Loaded {}

fn refused(call: &'static str, e: CudaError) -> DeviceError {
    // Saying what an error means is a call of the driver too, and may fail.
    let mut text = String::new();
    if write!(text, "{e}").is_err() {
        text = format!("{e:?}");
    }
    DeviceError::Driver { call, text }
}

/// The result of a call that `cust` does not wrap.
fn checked(call: &'static str, result: sys::CUresult) -> Result<(), DeviceError> {
    match result {
        sys::cudaError_enum::CUDA_SUCCESS => Ok(()),
        e => Err(DeviceError::Driver { call, text: format!("{e:?}") }),
    }
}

impl Cuda {
    /// The device of this number, from 0.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`], [`DeviceError::NoDevice`], [`DeviceError::DriverTooOld`] or
    /// [`DeviceError::DeviceTooOld`]; what else the driver refuses.
    pub fn new(number: u32) -> Result<Self, DeviceError> {
        match cust::init(cust::CudaFlags::empty()) {
            Ok(()) => {}
            Err(CudaError::NoDevice) => return Err(DeviceError::NoDevice),
            Err(e) => return Err(DeviceError::NoDriver(format!("it does not start ({e:?})"))),
        }
        let version = cust::CudaApiVersion::get().map_err(|e| refused("say its version", e))?;
        let driver = (version.major(), version.minor());
        if driver < NEEDED_DRIVER {
            let found = format!("{}.{}", driver.0, driver.1);
            return Err(DeviceError::DriverTooOld { found, needed: "12.1" });
        }
        if number >= Device::num_devices().map_err(|e| refused("count its devices", e))? {
            return Err(DeviceError::NoDevice);
        }
        let device = Device::get_device(number).map_err(|e| refused("open a device", e))?;
        let name = device.name().map_err(|e| refused("name a device", e))?;
        let attribute = |a| device.get_attribute(a).map_err(|e| refused("describe a device", e));
        let capability =
            (attribute(DeviceAttribute::ComputeCapabilityMajor)?, attribute(DeviceAttribute::ComputeCapabilityMinor)?);
        if capability < NEEDED_DEVICE {
            let found = format!("{}.{}", capability.0, capability.1);
            return Err(DeviceError::DeviceTooOld { device: name, found, needed: "7.0" });
        }
        let multiprocessors = attribute(DeviceAttribute::MultiprocessorCount)? as u32;
        let context = Context::new(device).map_err(|e| refused("make a context", e))?;
        let context = Arc::new(Shared(context));
        Ok(Self { context, name, capability, driver, multiprocessors, modules: Mutex::default() })
    }

    /// Name of the device, with its compute capability and the CUDA version of the driver.
    pub fn describe(&self) -> String {
        let ((major, minor), (driver, sub)) = (self.capability, self.driver);
        format!("{}, compute capability {major}.{minor}, driver for CUDA {driver}.{sub}", self.name)
    }

    /// The module of a file, compiled for the device when it is first asked for.
    fn module(&self, file: &'static str) -> Result<Arc<Loaded>, DeviceError> {
        let mut modules = self.modules.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(module) = modules.get(file) {
            return Ok(Arc::clone(module));
        }
        let missing = || DeviceError::Driver { call: "find a kernel", text: format!("no file {file}") };
        let ptx = ptx::text(file).ok_or_else(missing)?;
        let module = Module::from_ptx(ptx, &[]).map_err(|e| refused("compile a kernel", e))?;
        let module = Arc::new(Loaded(module));
        modules.insert(file, Arc::clone(&module));
        Ok(module)
    }
}

/// A piece of device memory.
pub struct CudaMemory {
    at: sys::CUdeviceptr,
    bytes: usize,
    context: Arc<Shared>,
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated by cuMemAlloc and freed once. The driver waits for what is under way on it.
            let _ = unsafe { sys::cuMemFree_v2(self.at) };
        }
    }
}

/// A stream with two staging buffers.
pub struct CudaStream {
    inner: Stream,
    staging: [Pinned; 2],
    context: Arc<Shared>,
}

// SAFETY: a stream is a handle of its context, which any thread may use; the staging buffers belong to the stream.
unsafe impl Send for CudaStream {}

/// Host memory that the device copies from and to by itself, and the end of the last copy that uses it.
struct Pinned {
    at: *mut u8,
    used: Event,
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            let _ = self.inner.synchronize();
            for pinned in &self.staging {
                // SAFETY: allocated by cuda_malloc_locked and freed once, when nothing is under way.
                let _ = unsafe { cuda_free_locked(pinned.at) };
            }
        }
    }
}

impl CudaStream {
    fn done(&self, slot: usize) -> Result<(), DeviceError> {
        self.staging[slot].used.synchronize().map_err(|e| refused("wait for a copy", e))
    }

    fn mark(&self, slot: usize) -> Result<(), DeviceError> {
        self.staging[slot].used.record(&self.inner).map_err(|e| refused("mark a copy", e))
    }
}

impl Backend for Cuda {
    type Memory = CudaMemory;
    type Stream = CudaStream;

    fn stream(&self) -> Result<CudaStream, DeviceError> {
        self.context.enter()?;
        let inner = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(|e| refused("make a stream", e))?;
        let pinned = || {
            let used = Event::new(EventFlags::DISABLE_TIMING).map_err(|e| refused("make an event", e))?;
            // SAFETY: freed with the stream; bytes need no initial value, as they are written before they are read.
            let at = unsafe { cuda_malloc_locked::<u8>(STAGING) }.map_err(|e| refused("pin host memory", e))?;
            Ok::<_, DeviceError>(Pinned { at, used })
        };
        Ok(CudaStream { inner, staging: [pinned()?, pinned()?], context: Arc::clone(&self.context) })
    }

    fn allocate(&self, bytes: usize) -> Result<CudaMemory, DeviceError> {
        self.context.enter()?;
        let mut at = 0;
        // SAFETY: writes one address.
        match unsafe { sys::cuMemAlloc_v2(&mut at, bytes) } {
            sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(DeviceError::OutOfMemory { needed: bytes, free: self.free() })
            }
            result => {
                checked("allocate memory", result)?;
                Ok(CudaMemory { at, bytes, context: Arc::clone(&self.context) })
            }
        }
    }

    fn address(&self, memory: &CudaMemory) -> u64 {
        memory.at
    }

    fn size(&self, memory: &CudaMemory) -> usize {
        memory.bytes
    }

    fn free(&self) -> usize {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        let known = self.context.enter().is_ok() && unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) } == OK;
        if known { free } else { 0 }
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn upload(
        &self,
        stream: &mut CudaStream,
        memory: &CudaMemory,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        inside("upload", offset, bytes.len(), memory.bytes)?;
        self.context.enter()?;
        for (slot, piece) in pieces(bytes.len(), STAGING) {
            stream.done(slot)?;
            let staging = stream.staging[slot].at;
            let from = &bytes[piece.clone()];
            // SAFETY: a piece is no longer than the staging buffer, which no copy uses any more; the destination was
            // checked to be inside.
            let copied = unsafe {
                staging.copy_from_nonoverlapping(from.as_ptr(), from.len());
                let to = memory.at + (offset + piece.start) as u64;
                sys::cuMemcpyHtoDAsync_v2(to, staging.cast::<c_void>(), from.len(), stream.inner.as_inner())
            };
            checked("copy to the device", copied)?;
            stream.mark(slot)?;
        }
        Ok(())
    }

    fn download(
        &self,
        stream: &mut CudaStream,
        memory: &CudaMemory,
        part: Range<usize>,
        take: TakePiece<'_>,
    ) -> Result<(), BoxError> {
        inside("download", part.start, part.len(), memory.bytes)?;
        self.context.enter()?;
        // One copy is under way while the piece before it is looked at.
        let mut before: Option<(usize, Range<usize>)> = None;
        for next in pieces(part.len(), STAGING).map(Some).chain([None]) {
            if let Some((slot, piece)) = &next {
                stream.done(*slot)?;
                // SAFETY: a piece is no longer than the staging buffer, which nothing uses any more; the source was
                // checked to be inside.
                let copied = unsafe {
                    let from = memory.at + (part.start + piece.start) as u64;
                    let to = stream.staging[*slot].at.cast::<c_void>();
                    sys::cuMemcpyDtoHAsync_v2(to, from, piece.len(), stream.inner.as_inner())
                };
                checked("copy from the device", copied)?;
                stream.mark(*slot)?;
            }
            if let Some((slot, piece)) = before {
                stream.done(slot)?;
                // SAFETY: the copy has ended, and the next one to this buffer begins after `take` has returned.
                let bytes = unsafe { std::slice::from_raw_parts(stream.staging[slot].at, piece.len()) };
                take(piece.start, bytes)?;
            }
            before = next;
        }
        Ok(())
    }

    fn zero(&self, stream: &mut CudaStream, memory: &CudaMemory, bytes: usize) -> Result<(), DeviceError> {
        inside("zero", 0, bytes, memory.bytes)?;
        self.context.enter()?;
        // SAFETY: inside, as was just checked.
        checked("set memory", unsafe { sys::cuMemsetD8Async(memory.at, 0, bytes, stream.inner.as_inner()) })
    }

    fn copy(
        &self,
        stream: &mut CudaStream,
        from: &CudaMemory,
        to: &CudaMemory,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        inside("copy", 0, bytes, from.bytes.min(to.bytes))?;
        self.context.enter()?;
        // SAFETY: inside both, as was just checked.
        checked("copy memory", unsafe { sys::cuMemcpyDtoDAsync_v2(to.at, from.at, bytes, stream.inner.as_inner()) })
    }

    unsafe fn launch<A: Copy>(
        &self,
        stream: &mut CudaStream,
        kernel: Kernel,
        grid: [u32; 2],
        args: &A,
    ) -> Result<(), DeviceError> {
        self.context.enter()?;
        let module = self.module(kernel.file)?;
        let function = module.0.get_function(kernel.symbol()).map_err(|e| refused("find a kernel", e))?;
        let params = [std::ptr::from_ref(args).cast_mut().cast::<c_void>()];
        // SAFETY: every kernel takes one struct, which the driver copies before it returns; the caller vouches for it.
        unsafe { stream.inner.launch(&function, (grid[0], grid[1], 1), (kernel.threads, 1, 1), 0, &params) }
            .map_err(|e| refused("start a kernel", e))
    }

    fn wait(&self, stream: &mut CudaStream) -> Result<(), DeviceError> {
        self.context.enter()?;
        stream.inner.synchronize().map_err(|e| refused("finish a kernel", e))
    }
}

const OK: sys::CUresult = sys::cudaError_enum::CUDA_SUCCESS;
