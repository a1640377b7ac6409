//! `Plan`: a recipe checked against its models, whose tensors are merged one by one or written as a model directory.

use crate::dlpack::Tensor;
use crate::merging::{Results, parse_dtype};
use crate::{errors, operators, pool};
use glue_progress::ErrorChain;
use glue_recipe::run::{run, side_files};
use glue_recipe::{MergePlan, PlanMerger, PlanOptions, Recipe, RunOptions, manifest, plan};
use glue_tensor::{Links, files};
use pyo3::exceptions::{PyFileExistsError, PyKeyError, PyOSError, PyTypeError, PyUserWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A recipe, checked against the headers of its models: no weight is read before one is asked for.
///
/// `recipe` is YAML, or a dictionary of the same keys; `Plan.from_file` reads a file. Relative paths of models start at
/// `directory`, by default the working directory. `seed` and `dtype` override those of the recipe. `follow_links`
/// copies configuration and tokenizer files even where they are links out of a model directory.
///
/// Raises ValueError with line and column for what is wrong in the recipe or between its models, FileNotFoundError for
/// a model that is not there. A key without effect is a UserWarning.
#[pyclass(frozen, module = "model_glue_core")]
pub(crate) struct Plan {
    plan: Arc<MergePlan>,
    by_name: HashMap<String, usize>,
    /// Made when the first tensor is asked for: it may have to match experts.
    merger: OnceLock<PlanMerger<Arc<MergePlan>>>,
}

/// What a plan takes besides the recipe.
struct Options<'a, 'py> {
    directory: Option<PathBuf>,
    seed: Option<u64>,
    dtype: Option<&'a Bound<'py, PyAny>>,
    follow_links: bool,
}

impl Plan {
    fn of(py: Python<'_>, text: &str, origin: &str, given: &Options<'_, '_>) -> PyResult<Plan> {
        let mut options = PlanOptions::default();
        options.directory = given.directory.clone().unwrap_or_default();
        options.seed = given.seed;
        options.dtype = given.dtype.map(parse_dtype).transpose()?;
        options.links = if given.follow_links { Links::Follow } else { Links::Inside };
        let recipes = Recipe::parse(text, origin, &operators::registry()).map_err(|error| errors::of_recipe(&error))?;
        let [recipe] = recipes.as_slice() else {
            let message =
                format!("{origin} holds {} documents; a plan is of one (`glue multi` runs several)", recipes.len());
            return Err(PyValueError::new_err(message));
        };
        for warning in &recipe.warnings {
            let message = CString::new(warning.to_string().replace('\0', "")).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 2)?;
        }
        let plan = pool::run(py, |_| plan(recipe, &options))?.map_err(|error| errors::of_recipe(&error))?;
        let by_name = plan.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(Plan { plan: Arc::new(plan), by_name, merger: OnceLock::new() })
    }

    fn index(&self, name: &str) -> PyResult<usize> {
        let index = self.by_name.get(name).copied();
        index.ok_or_else(|| PyKeyError::new_err(format!("no tensor of the plan is called `{name}`")))
    }

    fn merger(&self, py: Python<'_>) -> PyResult<&PlanMerger<Arc<MergePlan>>> {
        if let Some(merger) = self.merger.get() {
            return Ok(merger);
        }
        let options = RunOptions::default();
        let made = pool::run(py, |token| PlanMerger::new(Arc::clone(&self.plan), &options, token))?;
        let made = made.map_err(|error| errors::of_engine(&error))?;
        // Another thread may have been first, with the same.
        Ok(self.merger.get_or_init(|| made))
    }

    /// Merges a tensor.
    fn merge(&self, py: Python<'_>, index: usize) -> PyResult<Tensor> {
        let (merger, tensor) = (self.merger(py)?, &self.plan.tensors[index]);
        let bytes = usize::try_from(tensor.n_bytes()).unwrap_or(usize::MAX);
        let result = Results::of(std::iter::once(bytes))?;
        let merged = pool::run(py, |token| {
            let merged = merger.merge(&[index], &result, &RunOptions::default(), token);
            // What failed may have failed because of a file that changed; and what did not may be of two versions.
            self.plan.check_unchanged().map(|()| merged)
        })?;
        let merged = merged.map_err(|error| PyOSError::new_err(error.chain()))?;
        merged.map_err(|error| errors::of_engine(&error))?;
        let mut buffers = result.shared();
        Ok(Tensor::new(&tensor.name, tensor.dtype, &tensor.shape, buffers.remove(0)))
    }

    fn write_new(&self, py: Python<'_>, directory: &Path, max_shard_bytes: u64) -> PyResult<()> {
        let options = RunOptions { max_shard_bytes, ..RunOptions::default() };
        pool::run(py, |token| run(&self.plan, directory, &options, token))?.map_err(|error| errors::of_run(&error))
    }

    /// Writes beside a model that glue has written, and takes its place.
    fn replace(&self, py: Python<'_>, directory: &Path, max_shard_bytes: u64) -> PyResult<()> {
        let failed = |error: &std::io::Error| errors::of_io(error, format!("{}: {error}", directory.display()));
        let directory = directory.canonicalize().map_err(|error| failed(&error))?;
        if !directory.join(manifest::FILE).is_file() {
            let message = format!(
                "{}: overwrite=True replaces directories that glue has written; this one has no {}",
                directory.display(),
                manifest::FILE
            );
            return Err(PyFileExistsError::new_err(message));
        }
        if self.plan.paths().any(|path| path.canonicalize().is_ok_and(|path| path == directory)) {
            let message = format!("{}: a model of the recipe cannot be overwritten by its result", directory.display());
            return Err(PyValueError::new_err(message));
        }
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
            return Err(PyValueError::new_err(format!(
                "{}: not a directory that can be replaced",
                directory.display()
            )));
        };
        let prefix = format!(".{}.", name.to_string_lossy());
        let beside = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(|error| failed(&error))?;
        let new = beside.path().join(name);
        self.write_new(py, &new, max_shard_bytes)?;
        // In one step, so that there is a complete model under the name at any time. The old one ends with `beside`.
        let (here, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(here, &new, here, &directory, exchange).map_err(|error| failed(&error.into()))?;
        beside.close().map_err(|error| failed(&error))
    }
}

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (recipe, directory=None, *, seed=None, dtype=None, follow_links=false))]
    fn new(
        py: Python<'_>,
        recipe: &Bound<'_, PyAny>,
        directory: Option<PathBuf>,
        seed: Option<u64>,
        dtype: Option<&Bound<'_, PyAny>>,
        follow_links: bool,
    ) -> PyResult<Plan> {
        let options = Options { directory, seed, dtype, follow_links };
        let text: String = match recipe.cast::<PyDict>() {
            // JSON is YAML.
            Ok(recipe) => py.import("json")?.call_method1("dumps", (recipe,))?.extract()?,
            Err(_) if recipe.is_instance_of::<PyString>() => recipe.extract()?,
            Err(_) => {
                let kind = recipe.get_type().name()?;
                let message = format!("the recipe must be YAML in a string, or a dictionary; found {kind}");
                return Err(PyTypeError::new_err(message + "\nhint: `Plan.from_file` reads a file"));
            }
        };
        Plan::of(py, &text, "recipe", &options)
    }

    /// The plan of the recipe in a YAML file; the other arguments are those of `Plan`.
    #[staticmethod]
    #[pyo3(signature = (path, directory=None, *, seed=None, dtype=None, follow_links=false))]
    fn from_file(
        py: Python<'_>,
        path: PathBuf,
        directory: Option<PathBuf>,
        seed: Option<u64>,
        dtype: Option<&Bound<'_, PyAny>>,
        follow_links: bool,
    ) -> PyResult<Plan> {
        let origin = path.display().to_string();
        let text = files::read_named(&path, files::CONFIG_BYTES);
        let text = text.map_err(|error| errors::of_io(&error, format!("{origin}: {error}")))?;
        Plan::of(py, &text, &origin, &Options { directory, seed, dtype, follow_links })
    }

    /// Names of the tensors of the result, in the order in which they are merged: those before the layers, each layer,
    /// those after.
    fn names(&self) -> Vec<&str> {
        self.plan.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
    }

    /// The shape of a tensor of the result. KeyError for a name that is not there.
    fn shape<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.plan.tensors[self.index(name)?].shape)
    }

    /// The element type of a tensor of the result, as torch calls it.
    fn dtype(&self, name: &str) -> PyResult<&'static str> {
        Ok(self.plan.tensors[self.index(name)?].dtype.torch_name())
    }

    /// Merges one tensor.
    fn tensor(&self, py: Python<'_>, name: &str) -> PyResult<Tensor> {
        self.merge(py, self.index(name)?)
    }

    /// An iterator of `(name, tensor)`: each is merged when it is asked for, and only that one is in memory. With
    /// `torch=True` they are tensors of torch: what `load_weights` of vLLM takes.
    #[pyo3(signature = (*, torch=false))]
    fn tensors(plan: Py<Plan>, py: Python<'_>, torch: bool) -> PyResult<Tensors> {
        let from_dlpack = if torch { Some(py.import("torch")?.getattr("from_dlpack")?.unbind()) } else { None };
        Ok(Tensors { plan, next: 0, from_dlpack })
    }

    /// The files of the result other than weights, as bytes by name: configuration, tokenizer, generation defaults,
    /// texts of licences. `write` adds the model card and `glue.json`.
    fn side_files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let files = pool::run(py, |_| side_files(&self.plan))?.map_err(|error| errors::of_run(&error))?;
        let all = PyDict::new(py);
        for (name, bytes) in files {
            all.set_item(name, PyBytes::new(py, &bytes))?;
        }
        Ok(all)
    }

    /// Merges everything into a new model directory, out of core, as `glue merge` does: to the bit. It appears at once,
    /// when it is complete.
    ///
    /// `overwrite` replaces a directory that glue has written. `max_shard_size` is the maximum number of bytes of
    /// tensors in a file; its default is that of `glue merge`. FileExistsError if the directory is there and not empty;
    /// OSError if it cannot be written.
    #[pyo3(signature = (directory, overwrite=false, *, max_shard_size=5_000_000_000))]
    fn write(&self, py: Python<'_>, directory: PathBuf, overwrite: bool, max_shard_size: u64) -> PyResult<()> {
        if max_shard_size == 0 {
            return Err(PyValueError::new_err("max_shard_size must be at least 1, found 0"));
        }
        let is_taken = || fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some());
        if overwrite && is_taken() {
            return self.replace(py, &directory, max_shard_size);
        }
        self.write_new(py, &directory, max_shard_size)
    }

    /// Notes about the merge, none of which needs an action.
    #[getter]
    fn notes(&self) -> Vec<&str> {
        self.plan.notes.iter().map(String::as_str).collect()
    }

    fn __len__(&self) -> usize {
        self.plan.tensors.len()
    }

    fn __repr__(&self) -> String {
        let (operator, models) = (self.plan.operator.def().name, self.plan.models.len());
        format!("Plan({operator} of {models} models, {} tensors)", self.plan.tensors.len())
    }
}

/// The tensors of a plan, merged one after the other.
#[pyclass(module = "model_glue_core")]
pub(crate) struct Tensors {
    plan: Py<Plan>,
    next: usize,
    /// That of torch.
    from_dlpack: Option<Py<PyAny>>,
}

#[pymethods]
impl Tensors {
    fn __iter__(this: Py<Tensors>) -> Py<Tensors> {
        this
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<(String, Bound<'py, PyAny>)>> {
        let plan = self.plan.get();
        let Some(name) = plan.plan.tensors.get(self.next).map(|tensor| tensor.name.clone()) else { return Ok(None) };
        let tensor = Bound::new(py, plan.merge(py, self.next)?)?.into_any();
        self.next += 1;
        let tensor = match &self.from_dlpack {
            Some(from_dlpack) => from_dlpack.bind(py).call1((tensor,))?,
            None => tensor,
        };
        Ok(Some((name, tensor)))
    }

    fn __length_hint__(&self) -> usize {
        self.plan.get().plan.tensors.len() - self.next
    }
}
