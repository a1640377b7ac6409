//! Families of models that can be merged, and how similar their members are.

use super::{ExpertModel, ExploreInputs};
use crate::error::PipelineError;
use crate::run::Context;
use crate::stages::select::{base_of, template};
use glue_metrics::{Matrix, Metric, NamedCheckpoint, SimilarityOptions, similarity};
use glue_select::RecipeTemplate;

/// Which models can be merged with which, with the base that their task vectors start from.
pub(super) struct Families {
    /// The family of each model.
    pub(super) of_model: Vec<usize>,
    pub(super) templates: Vec<RecipeTemplate>,
    /// Of task vectors, for families with a base.
    task_vectors: Vec<Matrix>,
    weights: Matrix,
}

impl Families {
    pub(super) fn new(
        context: &Context<'_>,
        inputs: &ExploreInputs<'_>,
        models: &[ExpertModel],
    ) -> Result<Families, PipelineError> {
        let mut firsts: Vec<usize> = Vec::new();
        let mut of_model = Vec::new();
        for (i, model) in models.iter().enumerate() {
            let known = firsts.iter().position(|&first| inputs.compatible.mergeable(&models[first].name, &model.name));
            of_model.push(known.unwrap_or(firsts.len()));
            if known.is_none() {
                firsts.push(i);
            }
        }
        let is_base = |name: &str| context.zoo.models.iter().any(|model| model.base && model.name == name);
        let mut templates = Vec::new();
        let mut task_vectors = Vec::new();
        for family in 0..firsts.len() {
            let names: Vec<String> =
                (0..models.len()).filter(|&i| of_model[i] == family).map(|i| models[i].name.clone()).collect();
            let (bases, members): (Vec<String>, Vec<String>) = names.into_iter().partition(|name| is_base(name));
            let base = base_of(&members, &bases, inputs.compatible, inputs.matrix);
            templates.push(template(context, base.as_deref()));
            if let Some(base) = base.filter(|_| members.len() > 1) {
                task_vectors.push(task_vector_cosines(context, &members, &base)?);
            }
        }
        Ok(Families { of_model, templates, task_vectors, weights: inputs.matrix.clone() })
    }

    /// The similarity of two models of a family.
    pub(super) fn similarity(&self, a: &str, b: &str) -> Option<f64> {
        let in_matrix = |matrix: &Matrix| {
            let at = |name: &str| matrix.models().iter().position(|model| model == name);
            let (i, j) = (at(a)?, at(b)?);
            matrix.dissimilarity(i, j).map(|distance| -distance)
        };
        // A base has no task vector; its pairs come last.
        match self.task_vectors.is_empty() {
            true => in_matrix(&self.weights),
            false => self.task_vectors.iter().find_map(in_matrix),
        }
    }
}

/// The cosines of the task vectors of models from their base.
fn task_vector_cosines(context: &Context<'_>, members: &[String], base: &str) -> Result<Matrix, PipelineError> {
    let model = |name: &str| context.zoo.models.iter().find(|model| model.name == name);
    let named: Vec<NamedCheckpoint<'_>> = members
        .iter()
        .filter_map(|name| Some(NamedCheckpoint { name: name.clone(), checkpoint: model(name)?.dir.checkpoint() }))
        .collect();
    let base =
        model(base).map(|model| NamedCheckpoint { name: model.name.clone(), checkpoint: model.dir.checkpoint() });
    let metric = Metric::find("delta_cosine_flat")?;
    let progress = context.labelled("task vectors");
    let found = similarity(&named, base.as_ref(), metric, &SimilarityOptions::default(), &progress);
    Ok(found.map_err(|e| context.stopped_or(e.into()))?.matrix())
}
