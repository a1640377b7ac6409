//! `merge`: models as mappings of tensors in memory, by the engine that merges files.

use crate::dlpack::{Buffer, Tensor};
use crate::model::{Model, Zoo};
use crate::{errors, operators, pool};
use glue_merge::device::HostExecutor;
use glue_merge::{BaseRule, BoxError, Driver, Operator, Registry};
use glue_recipe::engine::{Destination, EngineOptions, merge_all};
use glue_recipe::recipe::OnNonfinite;
use glue_tensor::Dtype;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping, PyString};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Merges models that are in memory, tensor by tensor, as `glue merge` merges them on disk: to the bit.
///
/// `tensors` has a mapping from names to tensors for each model, such as a `state_dict()`, and `base` is one too. A
/// tensor is anything with `__dlpack__` on the CPU: of torch, numpy, jax. It is read in place, and must be contiguous
/// and not be written to during the merge. All models have the same names and shapes. `method` is an operator, and
/// `params` has its parameters: a value for all models, or a sequence with one for each. `operators()` lists both.
/// `statistics`, for operators that need some, has a mapping from `NAME.STATISTIC` for each model, or one for the base.
/// `dtype` is the type of the results; by default, each has the type it has in the base or the first model. Integers
/// are copied from there. Tensors that share memory in every model, such as a tied embedding and head, are merged once
/// and share memory in the result.
///
/// Returns the merged tensors by name, in the order of the base or the first model.
///
/// Raises ValueError for what does not fit together or the operator refuses, TypeError for what is no tensor.
#[pyfunction]
#[pyo3(signature = (tensors, method, params=None, base=None, *, statistics=None, seed=0, dtype=None))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn merge<'py>(
    py: Python<'py>,
    tensors: &Bound<'py, PyAny>,
    method: &str,
    params: Option<&Bound<'py, PyMapping>>,
    base: Option<&Bound<'py, PyAny>>,
    statistics: Option<&Bound<'py, PyAny>>,
    seed: u64,
    dtype: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let dtype = dtype.map(parse_dtype).transpose()?;
    let inputs = Model::list(tensors, "tensors", "model")?;
    let base = base.map(|base| Model::new(base, "the base".into())).transpose()?;
    let (operator, params) = operators::parse(method, params, inputs.len())?;
    if base.is_some() && operator.def().base == BaseRule::Unused {
        let message = format!("{method} has no use for a base: to merge it too, put it among `tensors`");
        return Err(PyValueError::new_err(message));
    }
    let statistics = statistics.map(|given| Model::list(given, "statistics", "statistics")).transpose()?;
    let zoo = Zoo::new(base, inputs, statistics, &operator)?;

    let copy = Operator::new(Registry::builtin().get("passthrough").map_err(|e| errors::of_merge(&e.into()))?);
    let as_it_is = copy.params(1).check().map_err(|error| errors::of_merge(&error.into()))?;
    let owners = zoo.owners();
    // The tensors that are merged, and where the result of each is.
    let (mut jobs, mut places) = (Vec::new(), HashMap::new());
    for (i, info) in zoo.infos().enumerate().filter(|(i, _)| owners[*i] == *i) {
        places.insert(i, jobs.len());
        jobs.push(zoo.job(info, (&operator, &params), (&copy, &as_it_is), seed, dtype)?);
    }
    if zoo.lacks_statistics(&jobs) {
        let message =
            format!("`statistics` has none of the names that {method} looks for: NAME.STATISTIC of any tensor");
        return Err(PyValueError::new_err(message));
    }
    let results = Results::of(jobs.iter().map(|job| job.spec.len() * job.dtype.size()))?;
    let options = EngineOptions { executor: &HostExecutor, on_nonfinite: OnNonfinite::Error, block: Driver::BLOCK };
    let merged = pool::run(py, |token| merge_all(&jobs, &results, &options, token))?;
    merged.map_err(|error| errors::of_engine(&error))?;

    let results = results.shared();
    let merged = PyDict::new(py);
    for (info, owner) in zoo.infos().zip(owners) {
        let place = places[&owner];
        let tensor = Tensor::new(&info.name, jobs[place].dtype, &info.shape, Arc::clone(&results[place]));
        merged.set_item(&info.name, tensor)?;
    }
    Ok(merged)
}

/// An element type by name, such as "bfloat16", or as torch or numpy have it.
///
/// # Errors
/// `ValueError` for a type that no result can have.
pub(crate) fn parse_dtype(value: &Bound<'_, PyAny>) -> PyResult<Dtype> {
    // Types of numpy and jax that are classes have a name; others are written as their names.
    let text = match value.cast::<PyString>() {
        Ok(text) => text.clone(),
        Err(_) => value.getattr_opt("__name__")?.map_or_else(|| value.str(), |name| name.str())?,
    };
    let text = text.to_str()?;
    Dtype::from_torch_name(text).filter(|dtype| dtype.is_float()).ok_or_else(|| {
        let names: Vec<&str> = Dtype::ALL.iter().filter(|dtype| dtype.is_float()).map(|d| d.torch_name()).collect();
        PyValueError::new_err(format!("dtype must be one of {}; found {text}", names.join(", ")))
    })
}

/// The merged tensors, by job.
pub(crate) struct Results(Vec<Mutex<Buffer>>);

impl Results {
    /// Memory for results of so many bytes.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(crate) fn of(bytes: impl Iterator<Item = usize>) -> PyResult<Results> {
        bytes.map(|len| Buffer::zeroed(len).map(Mutex::new)).collect::<PyResult<_>>().map(Results)
    }

    /// The results, to be handed to Python.
    pub(crate) fn shared(self) -> Vec<Arc<Buffer>> {
        self.0.into_iter().map(|buffer| Arc::new(buffer.into_inner().unwrap_or_else(PoisonError::into_inner))).collect()
    }
}

impl Destination for Results {
    fn write(&self, job: usize, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        let mut buffer = self.0[job].lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset)?;
        let end = start.checked_add(bytes.len()).ok_or("a result that is longer than memory")?;
        buffer.bytes_mut().get_mut(start..end).ok_or("a result that is longer than its tensor")?.copy_from_slice(bytes);
        Ok(())
    }
}
