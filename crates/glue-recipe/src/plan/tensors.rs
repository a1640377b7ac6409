//! Which tensors the output has, and what each is made from.

mod cuts;
mod modules;
mod order;
mod statistics;

use super::models::{Models, View};
use super::{Action, PlanOptions, TensorPlan, TensorRef, spec};
use crate::error::RecipeError;
use crate::recipe::{OnMissing, OnVocabulary, Recipe};
use crate::settings::{self, ParamSite, Settings};
use glue_merge::{MergeError, ParamError, Params};
use glue_tensor::{Role, TensorInfo};
use glue_yaml::At;
use modules::Modules;
use std::collections::{BTreeMap, BTreeSet};

/// Position of tensors after the layers in a gradient over layers; those before the layers are at 0.
const AFTER_LAYERS: f64 = 1.0;

/// Errors that are reported one by one: models that do not fit together have one for every tensor.
const REPORTED: usize = 8;

/// The tensors of the output, and what its configuration must say of them.
pub(super) struct Assembled {
    pub(super) tensors: Vec<TensorPlan>,
    /// The model that the configuration comes from.
    pub(super) config_from: usize,
    /// Layers of that model that the output is made of; `None` when they are all there as they are.
    pub(super) layers: Option<Vec<usize>>,
    /// Whether the output has a head of its own; `None` when that does not matter.
    pub(super) separate_head: Option<bool>,
    /// Rows that embeddings were cut to.
    pub(super) vocabulary: Option<usize>,
    pub(super) dropped: Vec<(String, String)>,
    pub(super) notes: Vec<String>,
}

/// Consecutive layers of one model, from `start` on.
#[derive(Clone, Copy)]
struct LayerRun {
    model: usize,
    start: usize,
}

/// An input of a slice.
struct Input<'a> {
    run: LayerRun,
    /// What its task vector is taken from, where that is not the base.
    own_base: Option<LayerRun>,
    /// Parameters, the most specific first.
    levels: Vec<&'a Settings>,
}

/// A model where a recipe lists it.
struct Listed<'a> {
    model: &'a At<String>,
    start: usize,
    /// Its own base.
    base: Option<&'a At<String>>,
    /// Whether statistics are given with it.
    statistics: Option<&'a At<String>>,
    /// Parameters, the most specific first.
    levels: Vec<&'a Settings>,
}

/// Consecutive layers of the output, with the layers of the models that they are made from.
struct OutputSlice<'a> {
    len: usize,
    base: Option<LayerRun>,
    inputs: Vec<Input<'a>>,
    /// Parameters for all inputs, the most specific first.
    levels: Vec<&'a Settings>,
}

impl OutputSlice<'_> {
    /// The base and the inputs.
    fn operands(&self) -> impl Iterator<Item = LayerRun> {
        self.base.into_iter().chain(self.inputs.iter().map(|input| input.run))
    }

    /// The base, the inputs, and the bases that these have of their own.
    fn runs(&self) -> impl Iterator<Item = LayerRun> {
        self.operands().chain(self.inputs.iter().filter_map(|input| input.own_base))
    }
}

/// Position of a tensor in the output: in a layer, before the layers, or after them.
enum OutputPosition<'a> {
    Layer { cut_layer: usize, output_layer: usize, suffix: &'a str },
    Before(&'a str),
    After(&'a str),
}

struct Assembler<'a> {
    recipe: &'a Recipe,
    options: &'a PlanOptions,
    models: &'a Models,
    modules: Modules,
    out: Assembled,
    /// Tensors with their place in the order of the output.
    tensors: Vec<((u8, usize), TensorPlan)>,
    any_tied: bool,
    head: bool,
    /// Whether any tensor has a statistic.
    measured: bool,
    /// What is wrong with parts and tensors: the first [`REPORTED`].
    errors: Vec<RecipeError>,
    /// How much more is.
    more: usize,
}

pub(super) fn assemble(recipe: &Recipe, options: &PlanOptions, models: &Models) -> Result<Assembled, RecipeError> {
    let first = recipe.models().next().map_or(0, |name| models.index(&name.value));
    let out = Assembled {
        tensors: Vec::new(),
        config_from: first,
        layers: None,
        separate_head: None,
        vocabulary: None,
        dropped: Vec::new(),
        notes: models.notes.clone(),
    };
    let (tensors, any_tied, head, measured) = (Vec::new(), false, false, false);
    let names: Vec<&str> = (0..models.list.len()).flat_map(|model| models.names(model)).collect();
    let modules = Modules::new(recipe, &names);
    let (errors, more) = (Vec::new(), 0);
    let mut assembler =
        Assembler { recipe, options, models, modules, out, tensors, any_tied, head, measured, errors, more };
    assembler.check_coverage()?;
    for part in 0..recipe.parts.len() {
        let done = assembler.part(part);
        assembler.keep(done);
    }
    assembler.finish()
}

impl<'a> Assembler<'a> {
    /// Keeps an error to be reported with others.
    fn keep(&mut self, done: Result<(), RecipeError>) {
        let errors = match done {
            Ok(()) => return,
            Err(RecipeError::Several { errors }) => errors,
            Err(error) => vec![error],
        };
        for error in errors {
            if self.errors.iter().any(|known| is_same_lack(known, &error)) {
                continue;
            }
            if self.errors.len() < REPORTED {
                self.errors.push(error);
            } else {
                self.more += 1;
            }
        }
    }

    /// Without a default part, some tensor may belong to none.
    fn check_coverage(&self) -> Result<(), RecipeError> {
        for model in 0..self.models.list.len() {
            for name in self.models.names(model) {
                if self.modules.of(name).is_none() {
                    return Err(RecipeError::Uncovered {
                        place: self.recipe.place(self.recipe.parts[0].at),
                        tensor: name.into(),
                        model: self.models.name(model).into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn part(&mut self, index: usize) -> Result<(), RecipeError> {
        let (recipe, models) = (self.recipe, self.models);
        let part = &recipe.parts[index];
        let whole = part.module.is_none();
        let view = |model| View::new(models, model, &|name| self.modules.of(name) == Some(index), whole);
        let views: BTreeMap<usize, View> = (0..models.list.len()).map(|model| (model, view(model))).collect();
        let cuts = self.cuts(part, &views)?;
        let Some(reference) = cuts[0].runs().next() else { return Ok(()) };
        let reference = &views[&reference.model];
        if let (true, Some(module)) = (reference.empty, &part.module) {
            return Err(RecipeError::EmptyModule {
                place: recipe.place(part.at),
                module: module.clone(),
                model: models.name(reference.model).into(),
            });
        }
        self.config_layers(part, &cuts, &views)?;

        let total: usize = cuts.iter().map(|cut| cut.len).sum();
        let union = |cut: &OutputSlice<'_>, names: &dyn Fn(LayerRun) -> Vec<String>| -> BTreeSet<String> {
            cut.runs().flat_map(names).collect()
        };
        let (first, last) = (&cuts[0], &cuts[cuts.len() - 1]);
        for name in union(first, &|run| views[&run.model].before.clone()) {
            let done = self.tensor(first, &views, reference, &OutputPosition::Before(&name), total);
            self.keep(done);
        }
        let mut output_layer = 0;
        for cut in &cuts {
            for cut_layer in 0..cut.len {
                let suffixes = union(cut, &|run| views[&run.model].suffixes(run.start + cut_layer).to_vec());
                for suffix in &suffixes {
                    let spot = OutputPosition::Layer { cut_layer, output_layer, suffix };
                    let done = self.tensor(cut, &views, reference, &spot, total);
                    self.keep(done);
                }
                output_layer += 1;
            }
        }
        for name in union(last, &|run| views[&run.model].after.clone()) {
            let done = self.tensor(last, &views, reference, &OutputPosition::After(&name), total);
            self.keep(done);
        }
        let tied = |run: LayerRun| views[&run.model].tied_to().is_some();
        self.any_tied |= cuts.iter().any(|cut| cut.runs().any(tied));
        Ok(())
    }

    /// Decides about one tensor of the output.
    fn tensor(
        &mut self,
        cut: &OutputSlice<'a>,
        views: &BTreeMap<usize, View>,
        reference: &View,
        spot: &OutputPosition<'_>,
        total: usize,
    ) -> Result<(), RecipeError> {
        let local = |run: LayerRun| match spot {
            OutputPosition::Layer { cut_layer, suffix, .. } => {
                format!("{}{}.{suffix}", views[&run.model].prefix, run.start + cut_layer)
            }
            OutputPosition::Before(name) | OutputPosition::After(name) => name.to_string(),
        };
        let (name, layer, order) = match spot {
            OutputPosition::Layer { output_layer, suffix, .. } => {
                let name = format!("{}{output_layer}.{suffix}", reference.prefix);
                (name, Some((*output_layer, total)), (1, *output_layer))
            }
            OutputPosition::Before(name) => (name.to_string(), reference.other_layer(name), (0, 0)),
            OutputPosition::After(name) => (name.to_string(), None, (2, 0)),
        };
        let t = match (spot, layer) {
            (OutputPosition::Layer { cut_layer, .. }, _) => along(*cut_layer, cut.len),
            (OutputPosition::Before(_), Some((layer, layers))) => along(layer, layers),
            (OutputPosition::Before(_), None) => 0.0,
            (OutputPosition::After(_), _) => AFTER_LAYERS,
        };

        let found: Vec<(LayerRun, Option<TensorRef>)> = cut
            .runs()
            .map(|run| {
                let name = local(run);
                let there = self.models.info(run.model, &name).is_some();
                (run, there.then_some(TensorRef { model: run.model, name }))
            })
            .collect();
        let is_head = reference.role(&name) == Role::Head && layer.is_none();
        let Some(found) = self.with_tied_heads(&name, is_head, found, views) else {
            let why = "every model ties its head to the embedding";
            self.out.dropped.push((name, why.into()));
            return Ok(());
        };

        let first = found.iter().find_map(|(_, tensor)| tensor.clone());
        let Some(first) = first else { return Ok(()) };
        let first_info = self.info(&first).clone();
        if !first_info.dtype.is_float() {
            self.check_alike(&name, reference, &first, found.iter().filter_map(|(_, tensor)| tensor.as_ref()))?;
            let (shape, dtype) = (first_info.shape, first_info.dtype);
            // Integers are positions and the like, the same in all models; other numbers are weights.
            if !dtype.is_integer() && found.iter().filter(|(_, tensor)| tensor.is_some()).count() > 1 {
                let model = self.models.name(first.model).into();
                return Err(RecipeError::CopyOnly { tensor: name, model, dtype });
            }
            self.tensors.push((order, TensorPlan { name, shape, dtype, layer, action: Action::Copy(first) }));
            return Ok(());
        }
        let Some(operands) = self.without_gaps(&name, cut, found, &first, &local)? else {
            return Ok(());
        };
        let shape = self.check_alike(&name, reference, &first, operands.iter())?;

        let mut operands = operands.into_iter();
        let base = cut.base.and_then(|_| operands.next());
        let inputs: Vec<TensorRef> = operands.by_ref().take(cut.inputs.len()).collect();
        let mut own = |input: &Input<'_>| input.own_base.and_then(|_| operands.next());
        let own_bases: Vec<Option<TensorRef>> = cut.inputs.iter().map(&mut own).collect();
        let params = self.params(cut, &name, &inputs, t, &local)?;
        let statistics = self.statistics(&name, &shape, base.as_ref(), &inputs)?;
        let dtype = self.options.dtype.or(self.recipe.out_dtype).or(self.recipe.dtype).unwrap_or(first_info.dtype);
        let tensor = TensorPlan {
            name,
            shape,
            dtype,
            layer,
            action: Action::Merge { params, base, inputs, own_bases, statistics },
        };
        self.check_operator(&tensor)?;
        // A head of another kind, such as a classifier's, says nothing about ties.
        let rows = self.models.dir(reference.model).config().vocab_size();
        self.head |= is_head && tensor.shape.len() == 2 && rows.is_none_or(|rows| rows == tensor.shape[0]);
        self.tensors.push((order, tensor));
        Ok(())
    }

    fn info(&self, tensor: &TensorRef) -> &'a TensorInfo {
        self.models.info(tensor.model, &tensor.name).expect("references are made for tensors that are there")
    }

    /// Puts the embedding in place of the head where a model ties them; `None` when all do and there is no head.
    fn with_tied_heads(
        &self,
        name: &str,
        is_head: bool,
        mut found: Vec<(LayerRun, Option<TensorRef>)>,
        views: &BTreeMap<usize, View>,
    ) -> Option<Vec<(LayerRun, Option<TensorRef>)>> {
        if !is_head {
            return Some(found);
        }
        let shape = |model, name: &str| self.models.info(model, name).map(|info| info.shape.as_slice());
        let head = found.iter().find_map(|(_, tensor)| tensor.as_ref()).and_then(|t| shape(t.model, &t.name));
        // Other tensors of a head, such as a bias, and heads of other kinds are not tied.
        let embedding = |run: LayerRun| {
            let tied = views[&run.model].tied_to()?;
            let matrix = shape(run.model, tied)?.len() == 2
                && head.is_some_and(|head| head.len() == 2)
                && name.ends_with("weight");
            (matrix && (head == shape(run.model, tied) || self.models.info(run.model, name).is_none()))
                .then(|| tied.to_string())
        };
        if found.iter().all(|(run, _)| embedding(*run).is_some()) {
            return None;
        }
        for (run, tensor) in &mut found {
            if let Some(embedding) = embedding(*run) {
                *tensor = Some(TensorRef { model: run.model, name: embedding });
            }
        }
        Some(found)
    }

    /// Every operand, with those that are missing replaced as the recipe says; `None` when the tensor is left out.
    fn without_gaps(
        &mut self,
        name: &str,
        cut: &OutputSlice<'_>,
        found: Vec<(LayerRun, Option<TensorRef>)>,
        present: &TensorRef,
        local: &dyn Fn(LayerRun) -> String,
    ) -> Result<Option<Vec<TensorRef>>, RecipeError> {
        let mut operands = Vec::with_capacity(found.len());
        for (run, tensor) in found {
            let stand_in = || {
                // The base of an operator that has no use for one serves here all the same.
                let fixed =
                    self.recipe.base.as_ref().map(|base| LayerRun { model: self.models.index(&base.value), ..run });
                let base = cut.base.or(fixed)?;
                let name = local(base);
                self.models.info(base.model, &name).map(|_| TensorRef { model: base.model, name })
            };
            match (tensor, self.recipe.on_missing) {
                (Some(tensor), _) => operands.push(tensor),
                (None, OnMissing::Skip) => {
                    let why = format!("`{}` does not have it", self.models.name(run.model));
                    self.out.dropped.push((name.into(), why));
                    return Ok(None);
                }
                (None, on_missing) => match stand_in().filter(|_| on_missing == OnMissing::Base) {
                    Some(tensor) => {
                        let (base, model) = (self.models.name(tensor.model), self.models.name(run.model));
                        self.out
                            .notes
                            .push(format!("`{name}`: that of `{base}` stands in for `{model}`, which lacks it"));
                        operands.push(tensor);
                    }
                    None => {
                        return Err(RecipeError::TensorMissing {
                            tensor: name.into(),
                            looked_for: local(run),
                            present: self.models.name(present.model).into(),
                            missing: self.models.name(run.model).into(),
                        });
                    }
                },
            }
        }
        Ok(Some(operands))
    }

    /// Checks that all have the shape of the first, and numbers of the same nature. Where the recipe cuts vocabularies,
    /// the shape is that of the fewest rows.
    fn check_alike<'t>(
        &mut self,
        name: &str,
        reference: &View,
        first: &TensorRef,
        others: impl Iterator<Item = &'t TensorRef>,
    ) -> Result<Vec<usize>, RecipeError> {
        let expected = self.info(first);
        let mut shape = expected.shape.clone();
        let mut cut = false;
        let of_positions = ["position", "wpe", "token_type"].iter().any(|other| name.contains(other));
        for other in others {
            let info = self.info(other);
            let vocabulary = matches!(reference.role(name), Role::Embedding | Role::Head)
                && !of_positions
                && info.shape.len() == expected.shape.len()
                && info.shape.get(1..) == expected.shape.get(1..);
            if vocabulary && self.recipe.on_vocabulary == OnVocabulary::Truncate {
                cut |= info.shape[0] != shape[0];
                shape[0] = shape[0].min(info.shape[0]);
                continue;
            }
            let (first, second) = (self.models.name(first.model).into(), self.models.name(other.model).into());
            if info.shape != expected.shape {
                return Err(RecipeError::ShapesDiffer {
                    tensor: name.into(),
                    first,
                    first_shape: expected.shape.as_slice().into(),
                    second,
                    second_shape: info.shape.as_slice().into(),
                    vocabulary,
                });
            }
            if info.dtype.is_float() != expected.dtype.is_float() {
                return Err(RecipeError::DtypesDiffer {
                    tensor: name.into(),
                    first,
                    first_dtype: expected.dtype,
                    second,
                    second_dtype: info.dtype,
                });
            }
        }
        if cut {
            self.out.vocabulary = Some(shape[0]);
        }
        Ok(shape)
    }

    /// Parameters at one tensor. Filters see the name in the output for what holds for the tensor, and the name in
    /// the input for what holds for an input.
    fn params(
        &self,
        cut: &OutputSlice<'_>,
        name: &str,
        inputs: &[TensorRef],
        t: f64,
        local: &dyn Fn(LayerRun) -> String,
    ) -> Result<Params, RecipeError> {
        let operator = &self.recipe.operator.value;
        let names: Vec<String> = cut.inputs.iter().map(|input| local(input.run)).collect();
        let own = cut.inputs.iter().zip(&names);
        let own = own.map(|(input, tensor)| (input.levels.as_slice(), ParamSite { tensor, t }));
        let params = settings::params(operator, &cut.levels, ParamSite { tensor: name, t }, own);
        params.map_err(|error| {
            let model = match &error {
                ParamError::Missing { input: Some(i), .. } => {
                    inputs.get(*i).and(cut.inputs.get(*i)).map(|input| self.models.name(input.run.model).to_string())
                }
                _ => None,
            };
            self.refused(name, model, error.into())
        })
    }

    /// Asks the operator whether it can merge a tensor.
    fn check_operator(&self, tensor: &TensorPlan) -> Result<(), RecipeError> {
        let Action::Merge { params, .. } = &tensor.action else { return Ok(()) };
        let seed = self.options.seed.or(self.recipe.seed).unwrap_or(0);
        let operator = &self.recipe.operator.value;
        let plan = operator.plan(&operator.unit(&spec(tensor, operator, seed)), params);
        plan.map(|_| ()).map_err(|error| self.refused(&tensor.name, None, error))
    }

    fn refused(&self, tensor: &str, model: Option<String>, error: MergeError) -> RecipeError {
        let (place, tensor) = (self.recipe.place(self.recipe.operator.at), tensor.into());
        match (error, model) {
            (MergeError::Param(ParamError::Missing { operator, key, .. }), Some(model)) => {
                RecipeError::ParamMissing { place, tensor, operator, key, model: model.into() }
            }
            (error, _) => RecipeError::Tensor { place, tensor, error: Box::new(error) },
        }
    }

    fn finish(mut self) -> Result<Assembled, RecipeError> {
        if self.more > 0 {
            self.errors.push(RecipeError::More { count: self.more });
        }
        if let Some(error) = RecipeError::all(std::mem::take(&mut self.errors)) {
            return Err(error);
        }
        self.check_measured()?;
        self.tensors.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| order::natural(&x.name, &y.name)));
        self.out.tensors = self.tensors.into_iter().map(|(_, tensor)| tensor).collect();
        let mut names = BTreeSet::new();
        if let Some(twice) = self.out.tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
            return Err(RecipeError::TensorTwice { tensor: twice.name.clone() });
        }
        self.out.separate_head = if self.head { Some(true) } else { self.any_tied.then_some(false) };
        Ok(self.out)
    }
}

/// Position of a layer in its slice, from 0 to 1; 1 for a single layer.
fn along(layer: usize, layers: usize) -> f64 {
    if layers <= 1 { 1.0 } else { layer as f64 / (layers - 1) as f64 }
}

/// Whether both say the same of one parameter: what is wrong at one tensor is wrong at most others.
fn is_same_lack(one: &RecipeError, other: &RecipeError) -> bool {
    match (one, other) {
        (RecipeError::ParamMissing { key, model, .. }, RecipeError::ParamMissing { key: k, model: m, .. }) => {
            key == k && model == m
        }
        (RecipeError::Tensor { error, .. }, RecipeError::Tensor { error: other, .. }) => match (&**error, &**other) {
            (
                MergeError::Param(ParamError::Missing { key, .. }),
                MergeError::Param(ParamError::Missing { key: k, .. }),
            ) => key == k,
            (MergeError::Param(one), MergeError::Param(other)) => one.to_string() == other.to_string(),
            _ => false,
        },
        _ => false,
    }
}
