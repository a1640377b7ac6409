//! The operators, and values of their parameters.

use crate::errors;
use glue_merge::{Operator, Params, Registry, Setting};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyMapping, PySequence, PyString};

/// All operators of the program `glue`.
pub(crate) fn registry() -> Registry {
    Registry::builtin().with(glue_spectral::DEFS)
}

/// Every merge operator, with parameters, defaults and docs: what `glue ops --json` prints.
#[pyfunction]
pub(crate) fn operators(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let all: Vec<_> = registry().iter().map(glue_recipe::operator_document).collect();
    let text = serde_json::to_string(&all).map_err(|error| PyValueError::new_err(error.to_string()))?;
    py.import("json")?.call_method1("loads", (text,))
}

/// A parameter as it is given.
enum Given {
    /// For the tensor, or for every model.
    All(Setting),
    /// One for each model.
    Each(Vec<Setting>),
}

/// The operator `method` and its parameters for so many models.
///
/// # Errors
/// `TypeError` for values of other types than numbers, booleans, strings and sequences of them; `ValueError` for what
/// the operator does not know or allow, and for sequences of another length.
pub(crate) fn parse(
    method: &str,
    params: Option<&Bound<'_, PyMapping>>,
    n_inputs: usize,
) -> PyResult<(Operator, Params)> {
    let mut given = Vec::new();
    for item in params.map(|params| params.items()).transpose()?.iter().flatten() {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let key: String = key.extract().map_err(|_| PyTypeError::new_err("names of parameters must be strings"))?;
        let value = read(&key, &value, n_inputs)?;
        given.push((key, value));
    }
    let registry = registry();
    let wraps = registry.get(method).map_err(|error| errors::of_merge(&error.into()))?.wraps();
    let inner = given.iter().find(|(key, _)| Some(key.as_str()) == wraps).map(|(key, value)| match value {
        Given::All(Setting::Text(name)) => Ok(name.as_str()),
        _ => Err(PyTypeError::new_err(format!("`{key}` must be the name of an operator"))),
    });
    let operator = registry.operator(method, inner.transpose()?).map_err(|error| errors::of_merge(&error))?;
    let builder = given.iter().fold(operator.params(n_inputs), |builder, (key, value)| match value {
        Given::All(setting) => builder.set(key, setting.clone()),
        Given::Each(settings) => builder.each(key, settings.iter().cloned()),
    });
    let params = builder.check().map_err(|error| errors::of_merge(&error.into()))?;
    Ok((operator, params))
}

fn read(key: &str, value: &Bound<'_, PyAny>, n_inputs: usize) -> PyResult<Given> {
    if let Some(setting) = setting(value)? {
        return Ok(Given::All(setting));
    }
    let wrong = |found: &Bound<'_, PyAny>| -> PyErr {
        let kind = found.get_type().name().map_or_else(|_| "another type".into(), |name| name.to_string());
        PyTypeError::new_err(format!(
            "`{key}` must be a number, a boolean, a string, or a sequence with one for each model; found {kind}"
        ))
    };
    if value.is_instance_of::<PyDict>() {
        return Err(wrong(value));
    }
    let values = value.cast::<PySequence>().ok().map(|values| values.to_list()).or_else(|| {
        // Arrays of numbers are no sequences.
        value.hasattr("tolist").ok().filter(|has| *has)?;
        Some(value.call_method0("tolist").and_then(|list| Ok(list.cast_into()?)))
    });
    let values = values.ok_or_else(|| wrong(value))??;
    if values.len() != n_inputs {
        return Err(PyValueError::new_err(format!(
            "`{key}` has {} values for {n_inputs} models (the base not counted)",
            values.len()
        )));
    }
    values.iter().map(|value| setting(&value)?.ok_or_else(|| wrong(&value))).collect::<PyResult<_>>().map(Given::Each)
}

/// A single value; `None` if it is none.
fn setting(value: &Bound<'_, PyAny>) -> PyResult<Option<Setting>> {
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Some(Setting::Text(text.extract()?)));
    }
    if value.is_instance_of::<PyBool>() || value.get_type().name()?.to_str()?.starts_with("bool") {
        return Ok(Some(Setting::Flag(value.is_truthy()?)));
    }
    if value.cast::<PySequence>().is_ok() || !(value.hasattr("__float__")? || value.hasattr("__index__")?) {
        return Ok(None);
    }
    // An array of several numbers has the method, and refuses.
    Ok(value.extract::<f64>().ok().map(Setting::Number))
}
