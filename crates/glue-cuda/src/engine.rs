//! Plans on a device: reductions and maps, pass after pass, where there are kernels for them.

use crate::backend::Backend;
use crate::error::DeviceError;
use crate::operands::SECTION;
use crate::pass::{Pass, Stop, Target};
use crate::resident_cache::{Key, Operands, Products, ResidentCache};
use glue_merge::device::Executor;
use glue_merge::{MergeError, Plan, Sink, Source, TensorSpec};
use std::sync::{Arc, Mutex};

/// How an [`Engine`] works.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Minimum number of elements: smaller tensors are merged by the host, since starting kernels would take longer
    /// than merging. Default 65 536.
    pub smallest: usize,
    /// Maximum number of bytes of device memory for one tensor: all operands and the result together. Larger tensors
    /// are merged in tiles. Default: nine eightieths of the free memory, so that eight threads fit.
    pub memory: Option<usize>,
    /// Whether the host merges a tensor for which device memory does not suffice, instead of an error. Default false.
    pub fall_back: bool,
    /// Maximum number of bytes of device memory for operands that stay there from one merge to the next, for a search.
    /// Only operands with a [`glue_merge::device::Identity`] stay. What does not fit is uploaded for each merge;
    /// operands that stay are freed when memory is needed for something else. Default 0.
    pub keep: usize,
    /// Elements per partial sum; only tests have reason to change it.
    pub(crate) section: usize,
    /// Elements by which operands, and results, are shifted from the start of their memory, to test kernels on
    /// unaligned addresses.
    pub(crate) shift: [usize; 2],
}

impl EngineOptions {
    /// Sets [`EngineOptions::memory`].
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        Self { memory: Some(bytes), ..self }
    }

    /// Sets [`EngineOptions::keep`].
    #[must_use]
    pub fn keeping(self, bytes: usize) -> Self {
        Self { keep: bytes, ..self }
    }

    /// Sets [`EngineOptions::fall_back`].
    #[must_use]
    pub fn falling_back(self) -> Self {
        Self { fall_back: true, ..self }
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { smallest: 1 << 16, memory: None, fall_back: false, keep: 0, section: SECTION, shift: [0; 2] }
    }
}

/// An [`Executor`] on a device.
///
/// Several threads may run plans at once. Each has a stream of its own, so that one tensor is uploaded while another is
/// merged. The host merges a tensor for which there is no kernel. It also merges a tensor in whose inputs the device
/// finds a NaN or an infinity, because the host's error names the element.
pub struct Engine<B: Backend> {
    pub(crate) backend: B,
    pub(crate) options: EngineOptions,
    streams: Mutex<Vec<B::Stream>>,
    /// Memory for later tensors.
    pool: Mutex<Vec<B::Memory>>,
    resident: Mutex<ResidentCache<B::Memory>>,
}

impl<B: Backend> Engine<B> {
    /// An engine on a device.
    pub fn new(backend: B, options: EngineOptions) -> Self {
        Self { backend, options, streams: Mutex::default(), pool: Mutex::default(), resident: Mutex::default() }
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// A stream that nobody uses.
    pub(crate) fn stream(&self) -> Result<B::Stream, DeviceError> {
        let idle = lock(&self.streams).pop();
        idle.map_or_else(|| self.backend.stream(), Ok)
    }

    pub(crate) fn return_stream(&self, stream: B::Stream) {
        lock(&self.streams).push(stream);
    }

    /// Memory of at least `bytes` bytes. When the device has none left, the pool and then resident operands are freed.
    pub(crate) fn take(&self, bytes: usize) -> Result<B::Memory, DeviceError> {
        let bytes = bytes.max(16).next_multiple_of(256);
        let pooled = {
            let mut pool = lock(&self.pool);
            let size = |m: &B::Memory| self.backend.size(m);
            // What is twice as long as needed would be wasted.
            let fitting = pool.iter().enumerate().filter(|(_, m)| size(m) >= bytes && size(m) / 2 <= bytes);
            let best = fitting.min_by_key(|(_, m)| size(m)).map(|(at, _)| at);
            best.map(|at| pool.swap_remove(at))
        };
        match pooled.map_or_else(|| self.backend.allocate(bytes), Ok) {
            Err(DeviceError::OutOfMemory { .. }) => {
                lock(&self.pool).clear();
                match self.backend.allocate(bytes) {
                    Err(DeviceError::OutOfMemory { .. }) => {
                        drop(lock(&self.resident).evict_unused());
                        self.backend.allocate(bytes)
                    }
                    other => other,
                }
            }
            other => other,
        }
    }

    /// An operand that an earlier merge left on the device.
    pub(crate) fn resident(&self, key: Key) -> Option<Arc<B::Memory>> {
        lock(&self.resident).get(key)
    }

    /// Keeps an operand, whose upload has ended, for later merges if it fits.
    pub(crate) fn keep(&self, key: Key, memory: &Arc<B::Memory>) {
        let evicted = lock(&self.resident).add(key, memory, self.backend.size(memory), self.options.keep);
        self.release(evicted);
    }

    /// Evicts all resident operands that nobody uses.
    pub(crate) fn evict_unused(&self) {
        let evicted = lock(&self.resident).evict_unused();
        self.release(evicted);
    }

    /// Where the inner products of these operands are remembered.
    pub(crate) fn products(&self, of: Operands) -> Arc<Products> {
        lock(&self.resident).products(of)
    }

    /// Puts memory into the pool unless somebody else still uses it. No work on it may be under way.
    pub(crate) fn release(&self, memory: impl IntoIterator<Item = Arc<B::Memory>>) {
        self.give_back(memory.into_iter().filter_map(Arc::into_inner));
    }

    /// Puts memory into the pool. No work on it may be under way.
    pub(crate) fn give_back(&self, memory: impl IntoIterator<Item = B::Memory>) {
        lock(&self.pool).extend(memory);
    }

    /// Bytes that a tensor may take.
    pub(crate) fn budget(&self) -> usize {
        self.options.memory.unwrap_or_else(|| {
            let pooled: usize = lock(&self.pool).iter().map(|m| self.backend.size(m)).sum();
            let reusable = pooled + lock(&self.resident).bytes();
            (self.backend.free() + reusable) / 80 * 9
        })
    }
}

impl<B: Backend> Executor for Engine<B> {
    fn advance(
        &self,
        plan: Plan,
        tensor: &TensorSpec<'_>,
        source: &dyn Source,
        sink: &dyn Sink,
    ) -> Result<Option<Plan>, MergeError> {
        let known = match &plan {
            Plan::Reduce(reduction) => reduction.describe().is_some(),
            Plan::Map(map) => map.kernel().is_some(),
            _ => false,
        };
        if !known || tensor.is_empty() || tensor.len() < self.options.smallest {
            return Ok(Some(plan));
        }
        let mut pass = match Pass::new(self, tensor, source, sink.float()) {
            Ok(pass) => pass,
            Err(stop) => return self.fall_back(stop, plan).map(Some),
        };
        let result = self.run(&mut pass, plan, &Target::Sink(sink));
        let waited = pass.finish();
        let rest = result?;
        waited.map_err(|e| MergeError::Io(e.into()))?;
        Ok(rest)
    }
}

impl<B: Backend> Engine<B> {
    /// Runs a plan as far as there are kernels, and returns the rest, which the host does.
    pub(crate) fn run(
        &self,
        pass: &mut Pass<'_, B>,
        mut plan: Plan,
        target: &Target<'_, B::Memory>,
    ) -> Result<Option<Plan>, MergeError> {
        loop {
            plan = match plan {
                Plan::Reduce(reduction) => {
                    let gathered = match reduction.describe() {
                        Some(gather) => pass.reduction(&gather),
                        None => Err(Stop::Unsupported),
                    };
                    match gathered {
                        Ok(gathered) => reduction.conclude(gathered)?,
                        Err(stop) => return self.fall_back(stop, Plan::Reduce(reduction)).map(Some),
                    }
                }
                Plan::Map(map) => {
                    let written = match map.kernel() {
                        Some(kernel) => pass.map(&kernel, target),
                        None => Err(Stop::Unsupported),
                    };
                    return match written {
                        Ok(()) => Ok(None),
                        Err(stop) => self.fall_back(stop, Plan::Map(map)).map(Some),
                    };
                }
                other => return Ok(Some(other)),
            };
        }
    }

    /// The plan for the host, if the host may do it.
    fn fall_back(&self, stop: Stop, plan: Plan) -> Result<Plan, MergeError> {
        match stop {
            Stop::Unsupported => Ok(plan),
            Stop::Error(e) => match e.downcast_ref() {
                Some(DeviceError::OutOfMemory { .. }) if self.options.fall_back => Ok(plan),
                _ => Err(MergeError::Io(e)),
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
