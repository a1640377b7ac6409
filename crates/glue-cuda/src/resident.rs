//! Tensors that stay on the device while many candidates of a search are merged from them.

use crate::backend::Backend;
use crate::engine::Engine;
use crate::error::DeviceError;
use crate::kept::Products;
use crate::operands::Operands;
use crate::pass::{Pass, Stop, Target};
use glue_merge::device::{Float, Kernel};
use glue_merge::{BoxError, MergeError, Plan, Source, TensorSpec};
use std::sync::Arc;

/// The operands of one tensor, on the device.
pub struct Resident<'e, B: Backend> {
    engine: &'e Engine<B>,
    operands: Arc<Operands<B::Memory>>,
    shape: Vec<usize>,
    products: Arc<Products>,
}

/// A merged tensor, on the device.
pub struct Merged<B: Backend> {
    memory: B::Memory,
    float: Float,
    len: usize,
}

impl<B: Backend> Merged<B> {
    /// How an element is stored.
    pub fn float(&self) -> Float {
        self.float
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn into_memory(self) -> B::Memory {
        self.memory
    }

    /// The memory, whose first bytes are the elements.
    pub fn memory(&self) -> &B::Memory {
        &self.memory
    }
}

impl<B: Backend> Engine<B> {
    /// Brings the operands of a tensor to the device, to stay there until the result is dropped.
    ///
    /// # Errors
    /// [`MergeError::Io`] with what the source or the device refuses, [`DeviceError::Unsupported`] for a tensor that no
    /// kernel takes: one of more than 32 operands, or with a NaN or an infinity among its elements.
    pub fn keep(&self, tensor: &TensorSpec<'_>, source: &dyn Source) -> Result<Resident<'_, B>, MergeError> {
        let refused = |stop| MergeError::Io(reason(stop, tensor.name));
        let mut pass = Pass::streaming(self, tensor, source, Float::F32).map_err(refused)?;
        let kept = match pass.cutting.tiles.len() {
            1 => pass.tile(0),
            _ => Err(Stop::from(DeviceError::OutOfMemory { wanted: tensor.len() * 4, free: self.budget() })),
        };
        pass.finish().map_err(|e| MergeError::Io(e.into()))?;
        Ok(Resident {
            engine: self,
            operands: kept.map_err(refused)?,
            shape: tensor.shape.to_vec(),
            products: Arc::default(),
        })
    }

    /// Room for a merged tensor of `len` elements.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or what the driver refuses.
    pub fn room(&self, len: usize, float: Float) -> Result<Merged<B>, DeviceError> {
        Ok(Merged { memory: self.take(len * float.size())?, float, len })
    }

    /// Copies a merged tensor to the host, little-endian.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn fetch(&self, merged: &Merged<B>) -> Result<Vec<u8>, BoxError> {
        let mut bytes = vec![0; merged.len * merged.float.size()];
        let mut lane = self.lane()?;
        let all = 0..bytes.len();
        self.backend.download(&mut lane, &merged.memory, all, &mut |at, piece| {
            bytes[at..at + piece.len()].copy_from_slice(piece);
            Ok(())
        })?;
        self.give_back_lane(lane);
        Ok(bytes)
    }
}

impl<B: Backend> Resident<'_, B> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.operands.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Merges one candidate, which `plan` was made for, into `out`. Nothing is copied but numbers.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] (inside of [`MergeError::Io`]) where there is no kernel for a step of the plan or
    /// `out` has another length; what a reduction or the device refuses.
    pub fn merge(&self, plan: Plan, tensor: &TensorSpec<'_>, out: &mut Merged<B>) -> Result<(), MergeError> {
        self.merge_counted(plan, tensor, out).map(drop)
    }

    /// Merges, and says how many bytes kernels had to read and write; inner products are gathered anew when they were
    /// not known before.
    pub(crate) fn merge_counted(
        &self,
        plan: Plan,
        tensor: &TensorSpec<'_>,
        out: &mut Merged<B>,
    ) -> Result<u64, MergeError> {
        if out.len != self.len() || tensor.shape != self.shape {
            let what = format!("{} elements of shape {:?} into room for {}", self.len(), tensor.shape, out.len);
            return Err(MergeError::Io(DeviceError::Unsupported(what).into()));
        }
        if self.is_empty() {
            return Ok(0);
        }
        let refused = |stop| MergeError::Io(reason(stop, tensor.name));
        let mut pass = Pass::resident(self.engine, &self.operands, &self.products, tensor).map_err(refused)?;
        let result = self.run(&mut pass, plan, out);
        let moved = pass.moved;
        let waited = pass.finish();
        result.map_err(|failure| match failure {
            Failure::Stop(stop) => refused(stop),
            Failure::Merge(e) => e,
        })?;
        waited.map_err(|e| MergeError::Io(e.into()))?;
        Ok(moved)
    }

    /// Keeps the memory for other tensors instead of freeing it.
    pub fn give_back(self) {
        if let Some(operands) = Arc::into_inner(self.operands) {
            self.engine.release(operands.base);
            self.engine.release(operands.inputs);
        }
    }

    /// Merges `base · θ0 + Σ inputs[i] · θi`: a candidate as a list of numbers, with no plan in between.
    ///
    /// # Errors
    /// As [`Resident::merge`].
    pub fn combine(&self, base: f32, inputs: &[f32], out: &mut Merged<B>) -> Result<(), MergeError> {
        let refused = |stop| MergeError::Io(reason(stop, "a combination"));
        if out.len != self.len() {
            return Err(refused(Stop::Unsupported));
        }
        if self.is_empty() {
            return Ok(());
        }
        let tensor =
            TensorSpec::new("", &self.shape).with_operands(self.operands.base.is_some(), self.operands.inputs.len());
        let mut pass = Pass::resident(self.engine, &self.operands, &self.products, &tensor).map_err(refused)?;
        let done = pass.map(&Kernel::Linear { base, inputs }, &Target::Memory(&out.memory, out.float));
        let waited = pass.finish();
        done.map_err(refused)?;
        waited.map_err(|e| MergeError::Io(e.into()))
    }

    fn run(&self, pass: &mut Pass<'_, B>, mut plan: Plan, out: &Merged<B>) -> Result<(), Failure> {
        let target = Target::Memory(&out.memory, out.float);
        loop {
            plan = match plan {
                Plan::Copy(operand) => return Ok(pass.copy(operand, &target)?),
                Plan::Map(map) => return Ok(pass.map(&map.kernel().ok_or(Stop::Unsupported)?, &target)?),
                Plan::Reduce(reduction) => {
                    let gather = reduction.describe().ok_or(Stop::Unsupported)?;
                    let gathered = pass.reduce(&gather)?;
                    reduction.conclude(gathered).map_err(Failure::Merge)?
                }
                _ => return Err(Stop::Unsupported.into()),
            }
        }
    }

    /// Forgets the inner products that are known, so that the next candidate takes as long as the first.
    pub(crate) fn forget(&self) {
        self.products.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }
}

enum Failure {
    Stop(Stop),
    Merge(MergeError),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

fn reason(stop: Stop, what: &str) -> BoxError {
    match stop {
        Stop::Unsupported => DeviceError::Unsupported(what.into()).into(),
        Stop::Error(e) => e,
    }
}
