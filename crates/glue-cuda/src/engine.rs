//! Plans on a device: reductions and maps pass after pass, as far as there are kernels.

use crate::backend::Backend;
use crate::error::DeviceError;
use crate::kept::{Kept, Key, Operands, Products};
use crate::operands::SECTION;
use crate::pass::{Pass, Stop, Target};
use glue_merge::device::Executor;
use glue_merge::{MergeError, Plan, Sink, Source, TensorSpec};
use std::sync::{Arc, Mutex};

/// How an [`Engine`] works.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Tensors of fewer elements are left to the host: starting kernels would take longer than merging. Default 65 536.
    pub smallest: usize,
    /// Most bytes of device memory that a tensor may take, all its operands and the result together; what does not fit
    /// is merged in tiles. Default: nine tenths of what is free, by eight for as many threads.
    pub memory: Option<usize>,
    /// Whether a tensor for which memory does not suffice is left to the host instead of being an error. Default false.
    pub fall_back: bool,
    /// Most bytes of device memory for operands that stay there from one merge to the next, as a search wants it, of
    /// tensors that say by a [`glue_merge::device::Identity`] what they hold. What does not fit is uploaded each time; memory
    /// that is needed for something else is given up. Default 0.
    pub keep: usize,
    /// Elements that sums are taken over at once; only tests have reason to change it.
    pub(crate) section: usize,
    /// Elements by which operands, and results, are moved off the beginning of their memory, to check that the kernels
    /// cope with it.
    pub(crate) shift: [usize; 2],
}

impl EngineOptions {
    /// These, with so many bytes for a tensor.
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        Self { memory: Some(bytes), ..self }
    }

    /// These, with so many bytes for operands that stay on the device.
    #[must_use]
    pub fn keeping(self, bytes: usize) -> Self {
        Self { keep: bytes, ..self }
    }

    /// These, leaving what does not fit to the host.
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
/// Several threads may run plans at once: each has a lane of its own, so that one tensor is uploaded while another is
/// merged. What the device has no kernel for is left to the host, and so is a tensor in whose inputs it finds a NaN or
/// an infinity: the host knows what to do about it.
pub struct Engine<B: Backend> {
    pub(crate) backend: B,
    pub(crate) options: EngineOptions,
    lanes: Mutex<Vec<B::Lane>>,
    room: Mutex<Vec<B::Memory>>,
    kept: Mutex<Kept<B::Memory>>,
}

impl<B: Backend> Engine<B> {
    /// An engine on a device.
    pub fn new(backend: B, options: EngineOptions) -> Self {
        Self { backend, options, lanes: Mutex::default(), room: Mutex::default(), kept: Mutex::default() }
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// A lane that nobody uses.
    pub(crate) fn lane(&self) -> Result<B::Lane, DeviceError> {
        let idle = lock(&self.lanes).pop();
        idle.map_or_else(|| self.backend.lane(), Ok)
    }

    pub(crate) fn give_back_lane(&self, lane: B::Lane) {
        lock(&self.lanes).push(lane);
    }

    /// Memory of at least so many bytes. Where there is none, what is kept for later is freed first.
    pub(crate) fn take(&self, bytes: usize) -> Result<B::Memory, DeviceError> {
        let bytes = bytes.max(16).next_multiple_of(256);
        let kept = {
            let mut room = lock(&self.room);
            let size = |m: &B::Memory| self.backend.size(m);
            // What is twice as long as needed would be wasted.
            let fitting = room.iter().enumerate().filter(|(_, m)| size(m) >= bytes && size(m) / 2 <= bytes);
            let best = fitting.min_by_key(|(_, m)| size(m)).map(|(at, _)| at);
            best.map(|at| room.swap_remove(at))
        };
        match kept.map_or_else(|| self.backend.allocate(bytes), Ok) {
            Err(DeviceError::OutOfMemory { .. }) => {
                lock(&self.room).clear();
                match self.backend.allocate(bytes) {
                    Err(DeviceError::OutOfMemory { .. }) => {
                        drop(lock(&self.kept).give_up());
                        self.backend.allocate(bytes)
                    }
                    other => other,
                }
            }
            other => other,
        }
    }

    /// An operand that is on the device since an earlier merge.
    pub(crate) fn kept(&self, key: Key) -> Option<Arc<B::Memory>> {
        lock(&self.kept).get(key)
    }

    /// Keeps an operand, which is all there, for later merges if there is room.
    pub(crate) fn keep_operand(&self, key: Key, memory: &Arc<B::Memory>) {
        let gone = lock(&self.kept).add(key, memory, self.backend.size(memory), self.options.keep);
        self.release(gone);
    }

    /// Where the inner products of these operands are remembered.
    pub(crate) fn products(&self, of: Operands) -> Arc<Products> {
        lock(&self.kept).products(of)
    }

    /// Keeps memory for other tensors unless somebody else still uses it. Nothing may be under way on it.
    pub(crate) fn release(&self, memory: impl IntoIterator<Item = Arc<B::Memory>>) {
        self.give_back(memory.into_iter().filter_map(Arc::into_inner));
    }

    /// Keeps memory for later. Nothing may be under way on it.
    pub(crate) fn give_back(&self, memory: impl IntoIterator<Item = B::Memory>) {
        lock(&self.room).extend(memory);
    }

    /// Bytes that a tensor may take.
    pub(crate) fn budget(&self) -> usize {
        self.options.memory.unwrap_or_else(|| {
            let room: usize = lock(&self.room).iter().map(|m| self.backend.size(m)).sum();
            let kept = room + lock(&self.kept).bytes();
            (self.backend.free() + kept) / 80 * 9
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
        let mut pass = match Pass::streaming(self, tensor, source, sink.float()) {
            Ok(pass) => pass,
            Err(stop) => return self.left(stop, plan).map(Some),
        };
        let result = self.run(&mut pass, plan, sink);
        let waited = pass.finish();
        let left = result?;
        waited.map_err(|e| MergeError::Io(e.into()))?;
        Ok(left)
    }
}

impl<B: Backend> Engine<B> {
    fn run(&self, pass: &mut Pass<'_, B>, mut plan: Plan, sink: &dyn Sink) -> Result<Option<Plan>, MergeError> {
        loop {
            plan = match plan {
                Plan::Reduce(reduction) => {
                    let gathered = match reduction.describe() {
                        Some(gather) => pass.reduce(&gather),
                        None => Err(Stop::Unsupported),
                    };
                    match gathered {
                        Ok(gathered) => reduction.conclude(gathered)?,
                        Err(stop) => return self.left(stop, Plan::Reduce(reduction)).map(Some),
                    }
                }
                Plan::Map(map) => {
                    let written = match map.kernel() {
                        Some(kernel) => pass.map(&kernel, &Target::Sink(sink)),
                        None => Err(Stop::Unsupported),
                    };
                    return match written {
                        Ok(()) => Ok(None),
                        Err(stop) => self.left(stop, Plan::Map(map)).map(Some),
                    };
                }
                other => return Ok(Some(other)),
            };
        }
    }

    /// The plan that is left to the host, if it may be.
    fn left(&self, stop: Stop, plan: Plan) -> Result<Plan, MergeError> {
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
