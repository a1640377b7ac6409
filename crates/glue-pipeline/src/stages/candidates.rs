//! Candidates for experts: merges, single models, and stacked layers of two models (frankenmerge).

use crate::error::PipelineError;
use crate::run::Context;
use crate::scores::{ModelScores, Scored, gain, gain_words};
use crate::stages::compare::{Clusters, Compatible};
use crate::stages::select::{Selected, merged_name, merged_path};
use glue_eval::Prepared;
use glue_recipe::{PlanOptions, Recipe, RunOptions};
use glue_report::{self as report, CandidateKind};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A model that could become an expert, or the final model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExpertCandidate {
    pub(crate) name: String,
    pub(crate) kind: CandidateKind,
    /// Its directory: relative to the run if the run made it, otherwise to the working directory.
    pub(crate) path: String,
    pub(crate) made: bool,
    pub(crate) members: Vec<String>,
    pub(crate) cluster: String,
    pub(crate) parameters: u64,
    pub(crate) scores: ModelScores,
    pub(crate) kept: bool,
    pub(crate) reason: String,
}

/// What candidates are made from.
pub(crate) struct CandidateInputs<'a> {
    pub(crate) clusters: &'a Clusters,
    pub(crate) compatible: &'a Compatible,
    pub(crate) baselines: &'a [Scored],
    pub(crate) selected: &'a [Selected],
    /// The directory of the stage that selected.
    pub(crate) selected_in: &'a Path,
}

pub(crate) fn gather(
    context: &Context<'_>,
    inputs: &CandidateInputs<'_>,
    prepared: &Prepared,
    place: &Path,
) -> Result<Vec<ExpertCandidate>, PipelineError> {
    let CandidateInputs { clusters, compatible, baselines, selected, selected_in } = *inputs;
    let mut candidates = Vec::new();
    for of in selected {
        let Some(path) = merged_path(selected_in, of) else { continue };
        let name = merged_name(of);
        // The search scored it already, on the same items.
        let scores = context.score(&name, &path, prepared)?.required()?;
        candidates.push(ExpertCandidate {
            name,
            kind: CandidateKind::Merged,
            path: context.inside(&path),
            made: true,
            members: of.used.clone(),
            cluster: of.selection.cluster.clone(),
            parameters: compatible.parameters(&of.used[0]),
            reason: format!("the best merge of cluster {} on the validation items", of.selection.cluster),
            scores,
            kept: true,
        });
    }
    for (model, scores) in context.zoo.models.iter().zip(baselines) {
        let cluster = clusters.of(&model.name);
        let harmful = selected.iter().flat_map(|of| &of.selection.harmful).find(|harmful| harmful.model == model.name);
        let alone = cluster.is_none_or(|cluster| cluster.members.len() == 1);
        let reason = match (harmful, scores.unscored()) {
            (_, Some((_, why))) => format!("it could not be scored: {why}"),
            (Some(harmful), _) => format!("found harmful: {}", harmful.reason),
            _ if model.base => "a base, which may be better at some task than its fine-tunes".into(),
            _ if alone => "alone in its cluster".into(),
            _ => "a member, which may be better at some task than the merge".into(),
        };
        candidates.push(ExpertCandidate {
            name: model.name.clone(),
            kind: if alone { CandidateKind::Alone } else { CandidateKind::Specialist },
            path: model.path.display().to_string(),
            made: false,
            members: vec![model.name.clone()],
            cluster: cluster.map(|cluster| cluster.name.clone()).unwrap_or_default(),
            parameters: compatible.parameters(&model.name),
            kept: harmful.is_none() && scores.scores().is_some(),
            // A model without scores is not kept: they are never used.
            scores: scores.scores().cloned().unwrap_or(ModelScores { name: model.name.clone(), tasks: Vec::new() }),
            reason,
        });
    }
    if context.config.stack
        && let Some(stacked) = stack(context, compatible, &candidates, prepared, place)?
    {
        candidates.push(stacked);
    }
    Ok(candidates)
}

/// The first three quarters of the layers of the best model, stacked below the last three quarters of the second best
/// that fits, as hand-made frankenmerges do: the middle half of the layers comes from both.
fn stack(
    context: &Context<'_>,
    compatible: &Compatible,
    candidates: &[ExpertCandidate],
    prepared: &Prepared,
    place: &Path,
) -> Result<Option<ExpertCandidate>, PipelineError> {
    let mut baselines: Vec<&ExpertCandidate> = candidates.iter().filter(|c| c.kept && !c.made).collect();
    baselines.sort_by(|a, b| b.scores.average().total_cmp(&a.scores.average()));
    let pair = baselines.iter().enumerate().find_map(|(i, first)| {
        let second = baselines[i + 1..].iter().find(|second| compatible.mergeable(&first.name, &second.name))?;
        Some((*first, *second))
    });
    let Some((first, second)) = pair else { return Ok(None) };
    let layers = context.layers_of(&first.name);
    if layers < 2 {
        return Ok(None);
    }
    let overlap = (layers / 4).max(1);
    let dtype = context.config.dtype.as_ref().map(|dtype| format!("dtype: {dtype}\n")).unwrap_or_default();
    let source = |candidate: &ExpertCandidate, from: usize, to: usize| {
        let path = serde_json::Value::from(candidate.path.clone());
        format!("  - sources:\n      - model: {path}\n        layer_range: [{from}, {to}]\n")
    };
    let text = format!(
        "merge_method: passthrough\n{dtype}slices:\n{}{}",
        source(first, 0, layers - overlap),
        source(second, overlap, layers)
    );
    let name = format!("stacked-{}-{}", first.name, second.name);
    let path = place.join("stacked");
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(|e| PipelineError::io(&path, e))?;
    }
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| PipelineError::Run { model: name.clone(), error };
    let recipes = Recipe::parse(&text, "stacked.yml", context.registries.operators).map_err(|e| failed(e.into()))?;
    let mut from = PlanOptions::default();
    from.links = context.links;
    let plan = glue_recipe::plan(&recipes[0], &from).map_err(|e| failed(e.into()))?;
    let parameters = plan.layout_specs().iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum();
    glue_recipe::run(&plan, &path, &RunOptions::default(), &context.labelled(&name))
        .map_err(|e| context.stopped_or(failed(e.into())))?;
    let scored = context.score(&name, &path, prepared)?;
    let (scores, kept, reason) = match scored {
        Scored::Unscored { reason, .. } => {
            let scores = ModelScores { name: name.clone(), tasks: Vec::new() };
            (scores, false, format!("it could not be scored: {reason}"))
        }
        Scored::Scores(scores) => {
            let (more, error) = gain(&scores, &first.scores);
            let words = gain_words(more, error);
            let reason = match more > error {
                true => format!("better than `{}` alone: {words}", first.name),
                false => format!("not better than `{}` alone: {words}", first.name),
            };
            (scores, more > error, reason)
        }
    };
    if !kept {
        std::fs::remove_dir_all(&path).map_err(|e| PipelineError::io(&path, e))?;
    }
    Ok(Some(ExpertCandidate {
        reason,
        path: context.inside(&path),
        name: name.clone(),
        kind: CandidateKind::Stacked,
        made: true,
        members: vec![first.name.clone(), second.name.clone()],
        cluster: first.cluster.clone(),
        parameters,
        scores,
        kept,
    }))
}

impl ExpertCandidate {
    /// As the report shows it.
    pub(crate) fn describe(&self) -> report::ExpertCandidate {
        report::ExpertCandidate {
            name: self.name.clone(),
            kind: self.kind,
            members: self.members.clone(),
            score: (!self.scores.tasks.is_empty()).then(|| self.scores.score()),
            parameters: Some(self.parameters),
            kept: self.kept,
            reason: self.reason.clone(),
        }
    }
}

impl Context<'_> {
    /// Scores the model in `path` on the items of `prepared`.
    pub(crate) fn score(&self, name: &str, path: &Path, prepared: &Prepared) -> Result<Scored, PipelineError> {
        let model = self.open_any(path).map_err(|error| PipelineError::Run { model: name.into(), error })?;
        ModelScores::of(name, &*model, prepared, &self.labelled(name)).map_err(|e| self.stopped_or(e))
    }
}
