//! The Python module `model_glue_core`: merging of tensors and of recipes without a program in between.
//!
//! Everything that takes time runs on worker threads with the interpreter released. Weights are those of `glue merge`,
//! to the bit: both run the same engine.

mod cpu;
mod dlpack;
mod errors;
mod merging;
mod model;
mod operators;
mod plan;
mod pool;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// Merges language models: tensors in memory by `merge`, recipes by `Plan`.
#[pymodule]
fn model_glue_core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    cpu::check().map_err(PyImportError::new_err)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<dlpack::Tensor>()?;
    module.add_class::<plan::Plan>()?;
    module.add_function(wrap_pyfunction!(merging::merge, module)?)?;
    module.add_function(wrap_pyfunction!(operators::operators, module)?)?;
    module.add_function(wrap_pyfunction!(pool::set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(pool::get_num_threads, module)?)
}
