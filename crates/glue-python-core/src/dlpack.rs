//! Tensors that cross the border between Python and Rust, by DLPack: those of Python are read where they lie, results
//! are owned by Rust and handed on without a copy.
//!
//! The one module with `unsafe` code. `dlpark` does the protocol (capsules, versions, deleters); what remains here is
//! what no library can know: that the bytes a descriptor points to stay what they are while they are read, and where
//! the bytes of a result live.

use dlpark::ffi::{DLDataType, DLDevice};
use dlpark::metadata::Dynamic;
use dlpark::python::{DlpackExporter, ExportRequest, ImportRequest, ImportedDlpack, export_dlpack};
use dlpark::{DlpackFlags, Managed, ManagedTensorBase, ffi};
use glue_tensor::{Dtype, TensorInfo};
use pyo3::exceptions::{PyException, PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

/// Element types that DLPack and glue both have.
const TYPES: [(DLDataType, Dtype); 15] = [
    (DLDataType::F64, Dtype::F64),
    (DLDataType::F32, Dtype::F32),
    (DLDataType::F16, Dtype::F16),
    (DLDataType::BF16, Dtype::Bf16),
    (DLDataType::F8E4M3FN, Dtype::F8E4M3),
    (DLDataType::F8E5M2, Dtype::F8E5M2),
    (DLDataType::I64, Dtype::I64),
    (DLDataType::I32, Dtype::I32),
    (DLDataType::I16, Dtype::I16),
    (DLDataType::I8, Dtype::I8),
    (DLDataType::U64, Dtype::U64),
    (DLDataType::U32, Dtype::U32),
    (DLDataType::U16, Dtype::U16),
    (DLDataType::U8, Dtype::U8),
    (DLDataType::BOOL, Dtype::Bool),
];

/// A tensor of Python's, held until this is dropped.
pub(crate) struct Imported {
    /// Name, type and shape.
    pub(crate) info: TensorInfo,
    /// The first element. As many follow as `info` says.
    start: *const u8,
    /// Keeps the elements.
    _tensor: ImportedDlpack,
}

impl Imported {
    /// Takes the tensor that `object` gives. `place` says where it is, for errors: "tensor `w` of model 2".
    ///
    /// # Errors
    /// `TypeError` for an object without `__dlpack__` or of an element type that glue does not have; `ValueError` for a
    /// tensor that is not on the CPU or not contiguous, or that its owner does not give.
    pub(crate) fn new(object: &Bound<'_, PyAny>, name: &str, place: &str) -> PyResult<Imported> {
        let py = object.py();
        if !object.hasattr("__dlpack__")? {
            let kind = object.get_type().name()?;
            let message =
                format!("{place} is of type {kind}, which has no __dlpack__: give tensors of torch, numpy, jax");
            return Err(PyTypeError::new_err(message));
        }
        let refused = |error: PyErr| {
            if !error.is_instance_of::<PyException>(py) {
                return error;
            }
            let reason = error.value(py).to_string();
            // Those of torch have a backtrace.
            let reason = reason.lines().next().unwrap_or_default();
            let refused = PyValueError::new_err(format!("{place} cannot be read through DLPack: {reason}"));
            refused.set_cause(py, Some(error));
            refused
        };
        let elsewhere = |device: DLDevice| {
            let (kind, number) = (device.device_type.0, device.device_id);
            let message =
                format!("{place} is on another device (DLPack type {kind}, number {number}): call `.cpu()` on it");
            PyValueError::new_err(message)
        };
        let request = ImportRequest::new(object.as_borrowed()).map_err(refused)?;
        if let Some(device) = request.device().ok().filter(|device| *device != DLDevice::CPU) {
            return Err(elsewhere(device));
        }
        let tensor = request.import(None, None).map_err(refused)?;
        let (info, start) = {
            let broken = |error: dlpark::tensor::Error| {
                PyValueError::new_err(format!("{place} has a broken DLPack descriptor: {error}"))
            };
            let view = tensor.validate().map_err(broken)?;
            if view.device() != DLDevice::CPU {
                return Err(elsewhere(view.device()));
            }
            let Some((_, dtype)) = TYPES.iter().find(|(dlpack, _)| dlpack.matches(view.dtype())) else {
                let DLDataType { code, bits, lanes } = view.dtype();
                let found = format!("DLPack code {}, {bits} bits, {lanes} lanes", code.0);
                let message = format!("{place} has an element type that glue does not merge or copy ({found})");
                return Err(PyTypeError::new_err(message));
            };
            if !is_contiguous(view.shape(), view.strides()) {
                let message =
                    format!("{place} is not contiguous: call `.contiguous()` (torch) or `numpy.ascontiguousarray`");
                return Err(PyValueError::new_err(message));
            }
            let shape: Result<Vec<usize>, _> = view.shape().iter().map(|extent| usize::try_from(*extent)).collect();
            let shape = shape.map_err(|_| PyValueError::new_err(format!("{place} has a negative extent")))?;
            #[allow(unsafe_code)]
            // SAFETY: only an address is computed; the protocol vouches for the descriptor, which was validated.
            let start = unsafe { view.offset_bytes_ptr() }.map_err(broken)?;
            (TensorInfo::in_memory(name, *dtype, shape), start)
        };
        Ok(Imported { info, start, _tensor: tensor })
    }

    /// The elements where they lie, row-major.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.info.n_bytes() == 0 {
            return &[];
        }
        #[allow(unsafe_code)]
        // SAFETY: the producer vouches, by the protocol, for a buffer that holds the elements of the descriptor until
        // its deleter is called, which is when this is dropped. The tensor is on the CPU and contiguous, so
        // that these are the bytes from `start` on, as many as type and shape say: `Imported::new` checked all of it,
        // and took `start` from the descriptor. Every byte is a valid `u8`. What the protocol leaves open is that
        // somebody writes to the buffer in the meantime: that is forbidden to callers by the documentation of `merge`,
        // as by every extension that releases the interpreter while it reads an array.
        unsafe {
            std::slice::from_raw_parts(self.start, self.info.n_bytes())
        }
    }
}

/// Whether elements follow each other in row-major order. The strides of axes with one index do not matter.
fn is_contiguous(shape: &[i64], strides: Option<&[i64]>) -> bool {
    let Some(strides) = strides.filter(|_| !shape.contains(&0)) else { return true };
    let mut expected: i64 = 1;
    shape.iter().zip(strides).rev().all(|(&extent, &stride)| {
        let follows = extent == 1 || stride == expected;
        expected = expected.saturating_mul(extent);
        follows
    })
}

/// Where results are aligned, as DLPack asks for.
const ALIGNMENT: usize = 256;

/// Memory of a result. Once it is shared, Rust never makes a reference into it any more: Python may write to it.
#[derive(Debug)]
pub(crate) struct Buffer {
    start: NonNull<u8>,
    /// Of at least one byte.
    layout: Layout,
    len: usize,
}

#[allow(unsafe_code)]
// SAFETY: the memory belongs to this value alone, as that of a `Vec` does; nothing about it is tied to a thread.
unsafe impl Send for Buffer {}
#[allow(unsafe_code)]
// SAFETY: a shared `Buffer` gives nothing but its address.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Memory for `len` bytes, all 0.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(crate) fn zeroed(len: usize) -> PyResult<Buffer> {
        let refused = || PyMemoryError::new_err(format!("cannot allocate {len} bytes for a result"));
        let layout = Layout::from_size_align(len.max(1), ALIGNMENT).map_err(|_| refused())?;
        #[allow(unsafe_code)]
        // SAFETY: the layout has at least one byte.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        Ok(Buffer { start, layout, len })
    }

    /// The memory, to be filled before it is shared.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        #[allow(unsafe_code)]
        // SAFETY: `start` is the start of `len` initialised bytes that this value owns, and it is borrowed exclusively:
        // it is not shared yet, so no tensor of Python's points to it.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len)
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: `start` came from `alloc_zeroed` with this layout, and is freed once.
        unsafe {
            dealloc(self.start.as_ptr(), self.layout);
        }
    }
}

/// A merged tensor. Give it to `torch.from_dlpack`, `numpy.from_dlpack` or their like: they share its memory.
#[pyclass(frozen, module = "model_glue_core")]
pub(crate) struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    buffer: Arc<Buffer>,
}

impl Tensor {
    /// A tensor of these bytes; those of several tensors may be the same.
    pub(crate) fn new(name: &str, dtype: Dtype, shape: &[usize], buffer: Arc<Buffer>) -> Tensor {
        Tensor { name: name.into(), dtype, shape: shape.into(), buffer }
    }

    fn managed<M: ManagedTensorBase>(&self) -> PyResult<Managed<M>> {
        let (dlpack, _) = TYPES.iter().find(|(_, dtype)| *dtype == self.dtype).ok_or_else(|| {
            PyTypeError::new_err(format!("{} has no element type of DLPack", self.dtype.torch_name()))
        })?;
        let tensor = Dynamic::compact(self.shape.as_slice()).initialize_as::<M>(Arc::clone(&self.buffer));
        let mut tensor = tensor.map_err(|error| PyValueError::new_err(error.to_string()))?;
        tensor.set_data(self.buffer.start.as_ptr().cast()).set_dtype(*dlpack).set_device(DLDevice::CPU);
        #[allow(unsafe_code)]
        // SAFETY: the data is the start of a buffer of exactly the elements of this type and shape, aligned to 256
        // bytes, which the context, a share of the buffer, keeps alive until the deleter drops it. Shape and strides
        // are copies in the descriptor itself. Consumers may write to it: see `Buffer`.
        Ok(unsafe { tensor.finish() })
    }
}

impl DlpackExporter for Tensor {
    fn device(&self) -> DLDevice {
        DLDevice::CPU
    }

    fn flags(&self) -> DlpackFlags {
        DlpackFlags::empty()
    }

    fn prepare_export(&self, _: Python<'_>, _: &ExportRequest<'_>) -> PyResult<()> {
        Ok(())
    }

    fn export_legacy(&self, _: Python<'_>) -> PyResult<Managed<ffi::DLManagedTensor>> {
        self.managed()
    }

    fn export_versioned(&self, _: Python<'_>) -> PyResult<Managed<ffi::DLManagedTensorVersioned>> {
        self.managed()
    }
}

#[pymethods]
impl Tensor {
    /// Name in the model.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Element type, as torch calls it: "bfloat16".
    #[getter]
    fn dtype(&self) -> &'static str {
        self.dtype.torch_name()
    }

    /// Extents, outermost first; empty for a scalar.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    /// Bytes of its elements.
    #[getter]
    fn nbytes(&self) -> usize {
        self.buffer.len
    }

    /// A capsule of the same memory, each time a new one: versioned (DLPack 1) if `max_version` allows it. `copy=True`
    /// and other devices are a `BufferError`.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(u32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Py<PyAny>> {
        export_dlpack(self, py, ExportRequest::parse(stream, max_version, dl_device, copy)?)
    }

    /// The CPU: (1, 0).
    fn __dlpack_device__(&self) -> (u32, i32) {
        (DLDevice::CPU.device_type.0, DLDevice::CPU.device_id)
    }

    fn __repr__(&self) -> String {
        format!("Tensor({:?}, dtype={}, shape={:?})", self.name, self.dtype(), self.shape)
    }
}
