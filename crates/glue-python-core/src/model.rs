//! Models in memory, and how each of their tensors is merged.

use crate::dlpack::Imported;
use crate::errors;
use glue_merge::{Operator, Params, StatisticOf, TensorSpec};
use glue_recipe::engine::{OperandView, TensorJob};
use glue_tensor::names::is_fused_experts;
use glue_tensor::{Dtype, Names, Role, TensorInfo, TensorView};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyMapping;
use std::collections::HashMap;

/// A mapping of tensors.
pub(crate) struct Model {
    /// What errors call it.
    label: String,
    tensors: Vec<Imported>,
    by_name: HashMap<String, usize>,
}

impl Model {
    /// Takes all tensors of `mapping`.
    ///
    /// # Errors
    /// `TypeError` for what is no mapping from strings to tensors, and what [`Imported::new`] refuses.
    pub(crate) fn new(mapping: &Bound<'_, PyAny>, label: String) -> PyResult<Model> {
        let mapping = mapping.cast::<PyMapping>().map_err(|_| {
            let kind = mapping.get_type().name().map_or_else(|_| "something else".into(), |name| name.to_string());
            PyTypeError::new_err(format!("{label} must be a mapping from names to tensors, found {kind}"))
        })?;
        let (mut tensors, mut by_name) = (Vec::new(), HashMap::new());
        for item in mapping.items()? {
            let (name, tensor): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
            let name: String =
                name.extract().map_err(|_| PyTypeError::new_err(format!("names in {label} must be strings")))?;
            let tensor = Imported::new(&tensor, &name, &format!("tensor `{name}` of {label}"))?;
            by_name.insert(name, tensors.len());
            tensors.push(tensor);
        }
        Ok(Model { label, tensors, by_name })
    }

    /// A model for each mapping of a sequence, labelled by its number.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub(crate) fn list(mappings: &Bound<'_, PyAny>, argument: &str, label: &str) -> PyResult<Vec<Model>> {
        if mappings.cast::<PyMapping>().is_ok() {
            return Err(PyTypeError::new_err(format!("`{argument}` must be a list of mappings, found one mapping")));
        }
        let mappings = mappings.try_iter()?.enumerate();
        mappings.map(|(i, mapping)| Model::new(&mapping?, format!("{label} {}", i + 1))).collect()
    }

    fn get(&self, name: &str) -> Option<&Imported> {
        self.by_name.get(name).map(|at| &self.tensors[*at])
    }

    fn operand<'a>(&'a self, tensor: &'a Imported) -> OperandView<'a> {
        let view = TensorView::in_memory(&tensor.info, tensor.bytes());
        OperandView { view, low_rank: None, model: &self.label, order: None }
    }
}

/// The models of a merge.
pub(crate) struct Zoo {
    base: Option<Model>,
    inputs: Vec<Model>,
    statistics: Option<Vec<Model>>,
    names: Names,
}

impl Zoo {
    /// The models, checked: that there are as many as the operator takes, with the same names and shapes, and as many
    /// statistics as it uses.
    ///
    /// # Errors
    /// `ValueError` with the first tensor that does not fit.
    pub(crate) fn new(
        base: Option<Model>,
        inputs: Vec<Model>,
        statistics: Option<Vec<Model>>,
        operator: &Operator,
    ) -> PyResult<Zoo> {
        let Some(reference) = base.as_ref().or(inputs.first()) else {
            return Err(PyValueError::new_err("`tensors` is empty: give a mapping for each model"));
        };
        operator.check_operands(inputs.len(), base.is_some()).map_err(|error| errors::of_merge(&error))?;
        for model in base.iter().chain(&inputs) {
            check_fit(reference, model)?;
        }
        if let Some(given) = &statistics {
            let name = operator.def().name;
            let Some(spec) = operator.statistic() else {
                return Err(PyValueError::new_err(format!("{name} has no use for statistics")));
            };
            let (expected, found) = (spec.of.count(inputs.len()), given.len());
            if found != expected {
                let of = if spec.of == StatisticOf::Base { "the base" } else { "each model" };
                let message =
                    format!("`statistics` has {found} mappings; {name} needs {expected}, `{}` of {of}", spec.name);
                return Err(PyValueError::new_err(message));
            }
        }
        let names = Names::infer(reference.tensors.iter().map(|tensor| tensor.info.name.as_str()));
        Ok(Zoo { base, inputs, statistics, names })
    }

    /// The base, or the first model.
    fn reference(&self) -> &Model {
        self.base.as_ref().unwrap_or(&self.inputs[0])
    }

    /// The tensors, in the order of the base or the first model.
    pub(crate) fn infos(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.reference().tensors.iter().map(|tensor| &tensor.info)
    }

    /// For each tensor, the one whose result it shares: itself, unless both have the same memory in every model, as a
    /// head has that is tied to the embedding. The embedding is then the one that is merged, as on disk.
    pub(crate) fn owners(&self) -> Vec<usize> {
        let key = |info: &TensorInfo| {
            let operands =
                self.operands(&info.name).map(|(_, tensor)| (tensor.bytes().as_ptr() as usize, tensor.info.dtype));
            (operands.collect::<Vec<_>>(), info.shape.clone())
        };
        let keys: Vec<_> = self.infos().map(key).collect();
        let mut owners = HashMap::new();
        for (i, (info, key)) in self.infos().zip(&keys).enumerate() {
            let is_head = self.names.parse(&info.name).role == Role::Head;
            owners
                .entry(key)
                .and_modify(|owner: &mut (bool, usize)| *owner = (*owner).min((is_head, i)))
                .or_insert((is_head, i));
        }
        let own = |(i, (info, key)): (usize, (&TensorInfo, _))| if info.n_bytes() == 0 { i } else { owners[key].1 };
        self.infos().zip(&keys).enumerate().map(own).collect()
    }

    /// A tensor in the base and in every model.
    fn operands<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Model, &'a Imported)> {
        self.base.iter().chain(&self.inputs).filter_map(move |model| Some((model, model.get(name)?)))
    }

    /// How a tensor is merged: by `merge`, or by `copy` if it has no floating-point numbers.
    ///
    /// # Errors
    /// `ValueError` for statistics that do not fit.
    pub(crate) fn job<'a>(
        &'a self,
        info: &'a TensorInfo,
        merge: (&'a Operator, &'a Params),
        copy: (&'a Operator, &'a Params),
        seed: u64,
        dtype: Option<Dtype>,
    ) -> PyResult<TensorJob<'a>> {
        let all: Vec<OperandView<'_>> =
            self.operands(&info.name).map(|(model, tensor)| model.operand(tensor)).collect();
        let spec = TensorSpec::new(&info.name, &info.shape)
            .with_stacked(is_fused_experts(&info.name, &info.shape))
            .with_layer(self.layer(&info.name))
            .with_seed(seed);
        if !info.dtype.is_float() {
            let (operator, params) = copy;
            let (spec, inputs) = (spec.with_operands(false, 1), vec![all[0]]);
            let (own_bases, statistics) = (Vec::new(), Vec::new());
            let dtype = info.dtype;
            return Ok(TensorJob { spec, dtype, operator, params, base: None, inputs, own_bases, statistics });
        }
        let (operator, params) = merge;
        let mut inputs = all;
        let base = self.base.as_ref().map(|_| inputs.remove(0));
        let statistics = self.statistics_of(info, operator)?;
        let spec = spec
            .with_operands(base.is_some(), inputs.len())
            .with_statistic(operator.statistic().filter(|_| !statistics.is_empty()));
        operator.plan(&operator.unit(&spec), params).map_err(|error| errors::of_merge(&error))?;
        let dtype = dtype.unwrap_or(info.dtype);
        Ok(TensorJob { spec, dtype, operator, params, base, inputs, own_bases: Vec::new(), statistics })
    }

    /// Whether statistics are given of which no job has any: they are of another model.
    pub(crate) fn lacks_statistics(&self, jobs: &[TensorJob<'_>]) -> bool {
        self.statistics.is_some() && jobs.iter().all(|job| job.statistics.is_empty())
    }

    /// The layer of a tensor, and the number of layers of its stack.
    fn layer(&self, name: &str) -> Option<(usize, usize)> {
        let parsed = self.names.parse(name);
        let stack = self.names.stacks().iter().find(|stack| stack.prefix == parsed.prefix)?;
        Some((parsed.layer?, stack.layers.last()? + 1))
    }

    /// The statistics of a tensor: of all models that should have one, or of none.
    fn statistics_of<'a>(&'a self, info: &TensorInfo, operator: &Operator) -> PyResult<Vec<OperandView<'a>>> {
        let (Some(models), Some(spec)) = (&self.statistics, operator.statistic()) else { return Ok(Vec::new()) };
        let name = format!("{}.{}", info.name, spec.name);
        let found: Vec<_> = models.iter().map(|model| (model, model.get(&name))).collect();
        let Some((has, _)) = found.iter().find(|(_, tensor)| tensor.is_some()) else { return Ok(Vec::new()) };
        let expected = spec.shape_for(&info.shape, is_fused_experts(&info.name, &info.shape));
        let operand = |&(model, tensor): &(&'a Model, Option<&'a Imported>)| {
            let refused = |message: String| Err(PyValueError::new_err(message));
            let label = &model.label;
            let Some(tensor) = tensor else {
                return refused(format!("`{name}` is in {} and not in {label}", has.label));
            };
            let TensorInfo { shape, dtype, .. } = &tensor.info;
            if *shape != expected || !dtype.is_float() {
                return refused(format!(
                    "`{name}` of {label} has type {dtype} and shape {shape:?}, expected floating-point numbers of shape \
                     {expected:?}"
                ));
            }
            Ok(model.operand(tensor))
        };
        found.iter().map(operand).collect()
    }
}

/// Checks that `model` has the tensors of `reference`, and no other.
fn check_fit(reference: &Model, model: &Model) -> PyResult<()> {
    let refused = |message: String| Err(PyValueError::new_err(message));
    let (first, second) = (&reference.label, &model.label);
    if let Some(other) = model.tensors.iter().find(|other| reference.get(&other.info.name).is_none()) {
        return refused(format!("tensor `{}` is in {second} and not in {first}", other.info.name));
    }
    for Imported { info: expected, .. } in &reference.tensors {
        let name = &expected.name;
        let Some(Imported { info: found, .. }) = model.get(name) else {
            return refused(format!("tensor `{name}` is in {first} and not in {second}"));
        };
        if found.shape != expected.shape {
            let (expected, found) = (&expected.shape, &found.shape);
            return refused(format!("tensor `{name}` has shape {expected:?} in {first} and {found:?} in {second}"));
        }
        if found.dtype.is_float() != expected.dtype.is_float() {
            let (expected, found) = (expected.dtype.torch_name(), found.dtype.torch_name());
            return refused(format!("tensor `{name}` has type {expected} in {first} and {found} in {second}"));
        }
    }
    Ok(())
}
