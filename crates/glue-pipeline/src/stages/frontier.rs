//! The size–score frontier: the best single model, the best merge, and the best experts for each number of models.
//!
//! [`glue_select::frontier`] walks from all useful models down to one on the search items. Here its partitions, the
//! merges that the searches in the clusters found, and stacked layers are scored on the validation items, and the one
//! rule ([`glue_eval::decision`]) decides: first which model is the best of the size of one, then how many models are
//! worth their parameters under perfect routing. Which mixture that becomes is decided in the next stage.

use crate::config::MixtureCandidates;
use crate::error::PipelineError;
use crate::run::Context;
use crate::scores::{Baseline, ModelScores, RoleItems, Scored};
use crate::stages::compare::{Clusters, Compatible};
use crate::stages::select::{Selected, SelectedMerge, config_of, known, merged_name, merged_path, scorer};
use families::Families;
use glue_eval::decision::{ALPHA, Contender, Ruling, TaskOutcome, decide};
use glue_metrics::Matrix;
use glue_recipe::{PlanOptions, Recipe, RunOptions};
use glue_report::{self as report, CandidateKind};
use glue_select::context::DescribedCandidate;
use glue_select::evaluation_log::{Budget, EvaluationLog, Purpose, StopReason};
use glue_select::frontier::{FRONTIER, Frontier, FrontierInputs, Source, Step, frontier};
use glue_select::journal::Journal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

mod families;

/// A model that could be an expert, or the final model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExpertModel {
    pub(crate) name: String,
    pub(crate) kind: CandidateKind,
    /// Its directory: relative to the run if the run made it, otherwise to the working directory. Empty for a merge
    /// that is not needed.
    pub(crate) path: String,
    pub(crate) made: bool,
    /// The models of the zoo that it is made of.
    pub(crate) members: Vec<String>,
    /// How they are merged, in words; empty for a model of the zoo.
    pub(crate) merge: String,
    pub(crate) recipe: Option<String>,
    pub(crate) parameters: u64,
    pub(crate) search: Option<ModelScores>,
    pub(crate) validation: Option<ModelScores>,
    pub(crate) reason: String,
}

impl ExpertModel {
    /// How complex it is: the kind, then the number of parameters.
    pub(crate) fn complexity(&self) -> (u32, u64) {
        let kind = match self.kind {
            CandidateKind::Alone | CandidateKind::Specialist => 0,
            CandidateKind::Merged => 1,
            CandidateKind::Stacked => 2,
        };
        (kind, self.parameters)
    }

    fn outcomes(&self) -> Option<Vec<TaskOutcome<'_>>> {
        self.validation.as_ref().map(ModelScores::outcomes)
    }
}

/// How complex a mixture is: more than any single model, then by its parameters.
pub(crate) fn mixture_complexity(parameters: u64) -> (u32, u64) {
    (3, parameters)
}

/// What a point of the frontier is known as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Label {
    /// All useful models as they are.
    Members,
    /// The merges of clusters, and the models that would not merge: the paper's mixture.
    Paper,
}

/// A partition with two experts or more, or one of the two ends of the path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Its experts, as numbers of models.
    pub(crate) experts: Vec<usize>,
    /// For each task the expert that is the best at it on the search items.
    pub(crate) routing: Vec<usize>,
    pub(crate) step: String,
    pub(crate) labels: Vec<Label>,
}

/// The result of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explored {
    /// The models of the zoo that can be used, then merges, then stacked layers.
    pub(crate) models: Vec<ExpertModel>,
    /// Models that were left out, and why.
    pub(crate) left_out: Vec<report::LeftOut>,
    /// By descending number of experts.
    pub(crate) points: Vec<Point>,
    /// The best single model by its score on the search items.
    pub(crate) single: usize,
    /// The model that the rule chose of those of the size of one.
    pub(crate) one: usize,
    /// The best merge.
    pub(crate) merge: Option<usize>,
    /// The point that the rule chose under perfect routing; `None` if no mixture is worth its parameters.
    pub(crate) chosen: Option<usize>,
    pub(crate) decisions: Vec<report::RuleRow>,
    pub(crate) trials: Vec<report::Decision>,
    pub(crate) evaluations: u64,
    pub(crate) note: Option<String>,
}

impl Explored {
    /// Parameters of all experts of a point.
    pub(crate) fn parameters(&self, point: &Point) -> u64 {
        point.experts.iter().map(|&expert| self.models[expert].parameters).sum()
    }

    /// Scores of a point on the validation items under perfect routing.
    fn outcomes(&self, point: &Point) -> Option<Vec<TaskOutcome<'_>>> {
        let task = |(t, &expert): (usize, &usize)| Some(self.models[expert].outcomes()?[t]);
        point.routing.iter().enumerate().map(task).collect()
    }

    /// The scores of a point under perfect routing, on search or on validation items.
    pub(crate) fn routed(&self, point: &Point, validation: bool) -> Option<ModelScores> {
        let task = |(t, &expert): (usize, &usize)| {
            let model = &self.models[expert];
            let scores = if validation { model.validation.as_ref() } else { model.search.as_ref() };
            Some(scores?.tasks[t].clone())
        };
        let tasks = point.routing.iter().enumerate().map(task).collect::<Option<_>>()?;
        Some(ModelScores { name: "perfect routing".into(), tasks })
    }

    /// The weights of the tasks.
    pub(crate) fn weights(&self) -> Vec<f64> {
        self.models[self.single].search.as_ref().map(ModelScores::weights).unwrap_or_default()
    }

    /// A point in words: `scan, and the merge of news and mood`.
    pub(crate) fn words(&self, point: &Point) -> String {
        let names: Vec<&str> = point.experts.iter().map(|&expert| self.models[expert].name.as_str()).collect();
        names.join(", ")
    }
}

/// What the stage works with.
pub(crate) struct ExploreInputs<'a> {
    pub(crate) clusters: &'a Clusters,
    pub(crate) compatible: &'a Compatible,
    pub(crate) matrix: &'a Matrix,
    pub(crate) baselines: &'a [Baseline],
    pub(crate) selected: &'a [Selected],
    /// The directory of the stage that selected.
    pub(crate) selected_in: &'a Path,
    /// The items of the search and those of the validation.
    pub(crate) prepared: [&'a RoleItems; 2],
}

/// The journal of the merges that are scored.
const JOURNAL: &str = "journal.jsonl";

pub(crate) fn explore(
    context: &Context<'_>,
    inputs: &ExploreInputs<'_>,
    place: &Path,
) -> Result<Explored, PipelineError> {
    let (mut models, left_out) = singles(context, inputs);
    let average = |model: &ExpertModel| model.search.as_ref().map_or(f64::NEG_INFINITY, ModelScores::average);
    let best = (0..models.len()).reduce(|best, i| if average(&models[i]) > average(&models[best]) { i } else { best });
    let Some(single) = best else {
        let why = "no model remains: each was found harmful, or could not be scored";
        return Err(PipelineError::Unsuitable(why.into()));
    };
    let path = walk(context, inputs, &mut models, place)?;
    let mut points = path.points;
    points.extend(published(inputs, &mut models, context));
    one_model_merges(inputs, &mut models, context);
    if context.config.stack
        && let Some(stacked) = stack(context, inputs, &models, place)?
    {
        models.push(stacked);
    }
    let mut explored = Explored {
        models,
        left_out,
        points,
        single,
        one: single,
        merge: None,
        chosen: None,
        decisions: inputs.selected.iter().flat_map(|selected| selected.decisions.clone()).collect(),
        trials: path.trials,
        evaluations: path.evaluations,
        note: path.note,
    };
    explored.choose_one(context.config.seed);
    explored.choose_point(context);
    write_merges(context, &mut explored, place)?;
    Ok(explored)
}

/// The models of the zoo that can be used, and those that are left out.
fn singles(context: &Context<'_>, inputs: &ExploreInputs<'_>) -> (Vec<ExpertModel>, Vec<report::LeftOut>) {
    let mut models = Vec::new();
    let mut left_out = Vec::new();
    for (model, baseline) in context.zoo.models.iter().zip(inputs.baselines) {
        let mut leave = |reason: String| left_out.push(report::LeftOut { name: model.name.clone(), reason });
        let mut harmful = inputs.selected.iter().flat_map(|of| &of.selection.harmful);
        if let Some(harmful) = harmful.find(|harmful| harmful.model == model.name) {
            leave(format!("harmful: {}", harmful.reason));
            continue;
        }
        let (Some(search), Some(validation)) = (baseline.scores(), &baseline.validation) else {
            let why = baseline.search.unscored().map_or("it has no score on the validation items", |(_, why)| why);
            leave(format!("it could not be scored: {why}"));
            continue;
        };
        let cluster = inputs.clusters.of(&model.name);
        let alone = cluster.is_none_or(|cluster| cluster.members.len() == 1);
        models.push(ExpertModel {
            name: model.name.clone(),
            kind: if alone { CandidateKind::Alone } else { CandidateKind::Specialist },
            path: model.path.display().to_string(),
            made: false,
            members: vec![model.name.clone()],
            merge: String::new(),
            recipe: None,
            parameters: inputs.compatible.parameters(&model.name),
            search: Some(search.clone()),
            validation: Some(validation.clone()),
            reason: if model.base { "a base" } else { "a model of the zoo" }.into(),
        });
    }
    (models, left_out)
}

/// What the walk over partitions found.
struct Walked {
    points: Vec<Point>,
    trials: Vec<report::Decision>,
    evaluations: u64,
    note: Option<String>,
}

/// Walks from all useful models down to one, and scores the merges on the way on the validation items. Merges are added
/// to `models`.
fn walk(
    context: &Context<'_>,
    inputs: &ExploreInputs<'_>,
    models: &mut Vec<ExpertModel>,
    place: &Path,
) -> Result<Walked, PipelineError> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| PipelineError::Search { cluster: "all models".into(), error };
    let families = Families::new(context, inputs, models)?;
    let sources: Vec<Source> = models
        .iter()
        .zip(&families.of_model)
        .filter_map(|(model, &family)| {
            let scores = model.search.as_ref()?.as_of_merge();
            Some(Source { name: model.name.clone(), path: model.path.clone(), family, scores })
        })
        .collect();
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    let weights = &context.config.tasks.weights;
    let of_tasks = models.iter().find_map(|model| model.search.as_ref()).map(ModelScores::weights).unwrap_or_default();
    let config = config_of(context.config, &context.directory, &context.zoo, &names, None);
    let scorer = scorer(context, &config).map_err(failed)?;
    let scorer = known(context, inputs.baselines, &scorer);
    let path = place.join(JOURNAL);
    // The key of the stage has everything that a score depends on.
    let header = json!({ "journal": "glue run: frontier" });
    let (journal, entries) = match path.exists() {
        true => Journal::resume(&path, &header).map_err(|e| failed(e.into()))?,
        false => (Journal::create(&path, &header).map_err(|e| failed(e.into()))?, Vec::new()),
    };
    let evaluations = if context.config.frontier.enabled { context.config.frontier.evaluations } else { 0 };
    let budget = Budget { evaluations: Some(evaluations), seconds: None };
    let progress = context.labelled("frontier");
    let log = EvaluationLog::new(&scorer, journal, entries, budget, &progress);
    let mut log = log.map_err(|e| failed(e.into()))?;
    log.begin("merging pairs of experts", evaluations);
    let similarity = |a: usize, b: usize| families.similarity(&sources[a].name, &sources[b].name);
    let frontier_inputs = FrontierInputs {
        sources: &sources,
        families: &families.templates,
        similarity: &similarity,
        weights: &of_tasks,
        operators: context.registries.operators,
        seed: context.config.seed,
    };
    let stopped = |error: StopReason| match error {
        StopReason::Stopped => PipelineError::Stopped,
        error => failed(error.into()),
    };
    let found = frontier(&frontier_inputs, &mut log).map_err(stopped)?;
    let merges: Vec<usize> = (models.len()..found.experts.len()).collect();
    let describe = |&i: &usize| DescribedCandidate {
        candidate: found.experts[i].candidate.clone(),
        what: found.experts[i].words(&sources),
        weights: Vec::new(),
    };
    let described: Vec<DescribedCandidate> = merges.iter().map(describe).collect();
    let batch = log.score(FRONTIER, &described, Purpose::Validation);
    if let Some(stop) = batch.stop {
        return Err(stopped(stop));
    }
    for (&i, outcome) in merges.iter().zip(batch.outcomes) {
        let expert = &found.experts[i];
        let members: Vec<String> = expert.parts.iter().map(|part| sources[part.model].name.clone()).collect();
        models.push(ExpertModel {
            name: expert.name.clone(),
            kind: CandidateKind::Merged,
            path: String::new(),
            made: true,
            merge: expert.words(&sources),
            recipe: Some(expert.candidate.recipe.clone()),
            parameters: inputs.compatible.parameters(&members[0]),
            members,
            search: Some(ModelScores::of_merge(&expert.name, &expert.scores, weights)),
            validation: outcome.ok().map(|scores| ModelScores::of_merge(&expert.name, &scores, weights)),
            reason: "the cheapest merge of a pair on the frontier".into(),
        });
    }
    let trials = found.trials.iter().map(|trial| report::Decision {
        strategy: FRONTIER.into(),
        candidate: trial.what.clone(),
        score: trial.average.map(|value| report::Score { value, stderr: None, n: None }),
        accepted: found.experts[names.len()..].iter().any(|expert| expert.words(&sources) == trial.what),
        reason: trial.reason.clone(),
    });
    let trials = trials.collect();
    Ok(Walked { points: points(&found), trials, evaluations: log.status().evaluations, note: found.ended })
}

/// The partitions of a path.
fn points(found: &Frontier) -> Vec<Point> {
    let name = |expert: usize| found.experts[expert].name.as_str();
    let point = |(i, partition): (usize, &glue_select::frontier::Partition)| Point {
        experts: partition.experts.clone(),
        routing: found.routing(&partition.experts),
        step: match partition.step {
            Step::Start => String::new(),
            Step::Dropped { expert } => format!("{} dropped", name(expert)),
            Step::Merged { first, second } => format!("{} and {} merged", name(first), name(second)),
        },
        labels: if i == 0 && partition.experts.len() > 1 { vec![Label::Members] } else { Vec::new() },
    };
    found.path.iter().enumerate().map(point).collect()
}

/// The paper's point: the merge of each cluster, or its best member if none is as good, and the models that are alone.
/// Merges are added to `models`. `None` if it has one expert.
fn published(inputs: &ExploreInputs<'_>, models: &mut Vec<ExpertModel>, context: &Context<'_>) -> Option<Point> {
    let mut experts = Vec::new();
    for cluster in &inputs.clusters.clustering.clusters {
        let selected = inputs.selected.iter().find(|selected| selected.selection.cluster == cluster.name);
        let merge = selected.and_then(|selected| {
            let path = merged_path(inputs.selected_in, selected)?;
            let finalist = selected.finalists.iter().find(|finalist| Some(&finalist.name) == selected.best.as_ref())?;
            finalist.validation.as_ref()?;
            let reason = format!("the merge of cluster {}", cluster.name);
            let merge = of_finalist(inputs, finalist, context.inside(&path), reason);
            Some(ExpertModel { name: merged_name(selected), ..merge })
        });
        if let Some(merge) = merge {
            models.push(merge);
            experts.push(models.len() - 1);
            continue;
        }
        let is_base = |name: &String| context.zoo.models.iter().any(|model| model.base && model.name == *name);
        let members = models
            .iter()
            .enumerate()
            .filter(|(_, model)| !model.made && cluster.members.contains(&model.name) && !is_base(&model.name));
        let average = |model: &ExpertModel| model.search.as_ref().map_or(f64::NEG_INFINITY, ModelScores::average);
        let best = members.reduce(|best, other| if average(other.1) > average(best.1) { other } else { best });
        experts.extend(best.map(|(i, _)| i));
    }
    if experts.len() < 2 {
        return None;
    }
    let value = |expert: usize, t: usize| {
        models[expert]
            .search
            .as_ref()
            .and_then(|scores| scores.tasks.get(t))
            .map_or(f64::NEG_INFINITY, |task| task.value)
    };
    let tasks = inputs.baselines.iter().find_map(Baseline::scores).map_or(0, |scores| scores.tasks.len());
    let best = |t: usize| experts.iter().copied().reduce(|a, b| if value(b, t) > value(a, t) { b } else { a });
    let routing = (0..tasks).filter_map(best).collect();
    Some(Point { experts, routing, step: "one merge for each cluster".into(), labels: vec![Label::Paper] })
}

/// Adds the finalists of all searches to `models`.
fn one_model_merges(inputs: &ExploreInputs<'_>, models: &mut Vec<ExpertModel>, context: &Context<'_>) {
    for selected in inputs.selected {
        for finalist in &selected.finalists {
            let known = models.iter().any(|model| model.recipe.as_ref() == Some(&finalist.recipe));
            if known || finalist.validation.is_none() || finalist.members.len() < 2 {
                continue;
            }
            let is_result = selected.best.as_ref() == Some(&finalist.name);
            let path = selected.merged.as_ref().filter(|_| is_result);
            let path = path.map(|path| context.inside(&inputs.selected_in.join(path)));
            let reason = format!("a finalist of the search in cluster {}", selected.selection.cluster);
            models.push(of_finalist(inputs, finalist, path.unwrap_or_default(), reason));
        }
    }
}

/// A finalist of a search as an expert, with the directory of its files.
fn of_finalist(inputs: &ExploreInputs<'_>, finalist: &SelectedMerge, path: String, reason: String) -> ExpertModel {
    ExpertModel {
        name: finalist.name.clone(),
        kind: CandidateKind::Merged,
        path,
        made: true,
        members: finalist.members.clone(),
        merge: finalist.what.clone(),
        recipe: Some(finalist.recipe.clone()),
        parameters: inputs.compatible.parameters(&finalist.members[0]),
        search: finalist.search.clone(),
        validation: finalist.validation.clone(),
        reason,
    }
}

impl Explored {
    /// Applies the rule to all models of the size of one.
    fn choose_one(&mut self, seed: u64) {
        let incumbent = &self.models[self.single];
        let Some(tasks) = incumbent.outcomes() else { return };
        let incumbent = Contender { complexity: incumbent.complexity(), tasks };
        let challengers: Vec<usize> = (0..self.models.len())
            .filter(|&i| self.models[i].kind == CandidateKind::Merged || self.models[i].kind == CandidateKind::Stacked)
            .filter(|&i| self.models[i].validation.is_some())
            .collect();
        let contenders: Vec<Contender<'_>> = challengers
            .iter()
            .filter_map(|&i| {
                let model = &self.models[i];
                Some(Contender { complexity: model.complexity(), tasks: model.outcomes()? })
            })
            .collect();
        let ruling = decide(&incumbent, &contenders, &self.weights(), ALPHA, seed);
        let name = |i: usize| self.models[challengers[i]].name.clone();
        let rows = rows("one model: merge or single", &self.models[self.single].name, &ruling, &name);
        // The best merge, whether it is significantly better or not: the winner, or that of the highest gain.
        let gain = |i: usize| ruling.comparisons[i].gain.value;
        let merges = (0..challengers.len()).filter(|&i| self.models[challengers[i]].kind == CandidateKind::Merged);
        let best = merges.reduce(|best, i| if gain(i) > gain(best) { i } else { best });
        let winner = ruling.winner.map(|i| challengers[i]);
        let merged = winner.filter(|&i| self.models[i].kind == CandidateKind::Merged);
        self.merge = merged.or(best.map(|i| challengers[i]));
        self.one = winner.unwrap_or(self.single);
        self.decisions.extend(rows);
    }

    /// Whether a point is a mixture that the config allows as the final model.
    pub(crate) fn may_be_final(&self, context: &Context<'_>, point: &Point) -> bool {
        let (config, limits) = (&context.config.mixture, &context.config.limits);
        let largest = self.models.iter().filter(|model| !model.made).map(|model| model.parameters).max().unwrap_or(0);
        let limit = limits.size.map(|size| size * largest as f64).into_iter().chain(limits.parameters);
        let kind = match config.candidates {
            MixtureCandidates::Both => true,
            MixtureCandidates::Members => point.experts.iter().all(|&expert| !self.models[expert].made),
            MixtureCandidates::Merged => point.labels.contains(&Label::Paper),
        };
        let n = point.experts.len();
        kind && n > 1 && n <= config.experts && self.parameters(point) as f64 <= limit.fold(f64::INFINITY, f64::min)
    }

    /// Applies the rule to the number of models under perfect routing.
    fn choose_point(&mut self, context: &Context<'_>) {
        let of_points: Vec<usize> =
            (0..self.points.len()).filter(|&i| self.may_be_final(context, &self.points[i])).collect();
        let Some(tasks) = self.models[self.one].outcomes() else { return };
        let incumbent = Contender { complexity: self.models[self.one].complexity(), tasks };
        let mut challengers = Vec::new();
        let mut contenders = Vec::new();
        for i in of_points {
            if let Some(tasks) = self.outcomes(&self.points[i]) {
                let complexity = mixture_complexity(self.parameters(&self.points[i]));
                challengers.push(i);
                contenders.push(Contender { complexity, tasks });
            }
        }
        let ruling = decide(&incumbent, &contenders, &self.weights(), ALPHA, context.config.seed);
        let name = |i: usize| self.words(&self.points[challengers[i]]);
        let question = "how many models, with perfect routing";
        let rows = rows(question, &self.models[self.one].name, &ruling, &name);
        self.chosen = ruling.winner.map(|i| challengers[i]);
        self.decisions.extend(rows);
    }
}

/// A ruling as the report shows it.
pub(crate) fn rows(
    question: &str,
    incumbent: &str,
    ruling: &Ruling,
    name: &dyn Fn(usize) -> String,
) -> Vec<report::RuleRow> {
    let row = |comparison: &glue_eval::decision::Comparison| report::RuleRow {
        question: question.into(),
        incumbent: comparison.incumbent.map_or_else(|| incumbent.to_string(), name),
        challenger: name(comparison.challenger),
        gain: comparison.gain.value,
        stderr: comparison.gain.stderr,
        p: comparison.gain.p,
        challengers: comparison.challengers,
        accepted: comparison.significant,
    };
    ruling.comparisons.iter().map(row).collect()
}

/// Writes the merges that are needed: the best merge, the model that was chosen, and the experts of points that become
/// mixtures.
fn write_merges(context: &Context<'_>, explored: &mut Explored, place: &Path) -> Result<(), PipelineError> {
    let mut needed: Vec<usize> = explored.merge.into_iter().chain([explored.one]).collect();
    let built = explored.chosen.map(|chosen| explored.built(chosen)).unwrap_or_default();
    needed.extend(built.iter().flat_map(|&point| explored.points[point].experts.clone()));
    needed.sort_unstable();
    needed.dedup();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for i in needed {
        let model = &explored.models[i];
        let Some(recipe) = model.recipe.clone().filter(|_| model.path.is_empty()) else { continue };
        let name = format!("merge-{}", names.len() + 1);
        names.insert(name.clone(), i);
        let path = place.join(&name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|e| PipelineError::io(&path, e))?;
        }
        merge(context, &model.name, &recipe, &path)?;
        explored.models[i].path = context.inside(&path);
    }
    Ok(())
}

impl Explored {
    /// The points that become mixtures if `chosen` is the one that the rule chose: itself, all smaller ones, all
    /// members, and the paper's.
    pub(crate) fn built(&self, chosen: usize) -> Vec<usize> {
        let size = self.points[chosen].experts.len();
        let wanted = |point: &Point| {
            let n = point.experts.len();
            n > 1
                && (n < size || !point.labels.is_empty())
                && point.experts.iter().all(|&i| self.models[i].validation.is_some())
        };
        let others = (0..self.points.len()).filter(|&i| i != chosen && wanted(&self.points[i]));
        std::iter::once(chosen).chain(others).collect()
    }
}

/// Writes the merge of a recipe; the number of its parameters.
pub(crate) fn merge(context: &Context<'_>, name: &str, recipe: &str, path: &Path) -> Result<u64, PipelineError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| PipelineError::Run { model: name.into(), error };
    let recipes = Recipe::parse(recipe, name, context.registries.operators).map_err(|e| failed(e.into()))?;
    let mut from = PlanOptions::default();
    from.links = context.links;
    let plan = glue_recipe::plan(&recipes[0], &from).map_err(|e| failed(e.into()))?;
    let parameters = plan.layout_specs().iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum();
    let options = RunOptions { executor: context.executor.get(), ..RunOptions::default() };
    glue_recipe::run(&plan, path, &options, &context.labelled(name))
        .map_err(|e| context.stopped_or(failed(e.into())))?;
    Ok(parameters)
}

/// The first three quarters of the layers of the best model, stacked below the last three quarters of the second best
/// that fits, as hand-made frankenmerges do: the middle half of the layers comes from both.
fn stack(
    context: &Context<'_>,
    inputs: &ExploreInputs<'_>,
    models: &[ExpertModel],
    place: &Path,
) -> Result<Option<ExpertModel>, PipelineError> {
    let average = |model: &ExpertModel| model.search.as_ref().map_or(f64::NEG_INFINITY, ModelScores::average);
    let mut singles: Vec<&ExpertModel> = models.iter().filter(|model| !model.made).collect();
    singles.sort_by(|a, b| average(b).total_cmp(&average(a)));
    let pair = singles.iter().enumerate().find_map(|(i, first)| {
        let second = singles[i + 1..].iter().find(|second| inputs.compatible.mergeable(&first.name, &second.name))?;
        Some((*first, *second))
    });
    let Some((first, second)) = pair else { return Ok(None) };
    let layers = context.layers_of(&first.name);
    if layers < 2 {
        return Ok(None);
    }
    let overlap = (layers / 4).max(1);
    let dtype = context.config.dtype.as_ref().map(|dtype| format!("dtype: {dtype}\n")).unwrap_or_default();
    let source = |model: &ExpertModel, from: usize, to: usize| {
        let path = serde_json::Value::from(model.path.clone());
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
    let parameters = merge(context, &name, &text, &path)?;
    let [search, validation] = inputs.prepared;
    let scored = [context.score(&name, &path, search)?, context.score(&name, &path, validation)?];
    let reason = scored.iter().find_map(Scored::unscored).map(|(_, why)| format!("it could not be scored: {why}"));
    let [search, validation] = scored.map(|scored| scored.scores().cloned());
    Ok(Some(ExpertModel {
        name,
        kind: CandidateKind::Stacked,
        path: context.inside(&path),
        made: true,
        members: vec![first.name.clone(), second.name.clone()],
        merge: format!("layers of {} below layers of {}", first.name, second.name),
        recipe: Some(text),
        parameters,
        search,
        validation,
        reason: reason.unwrap_or_else(|| "stacked layers of the two best models".into()),
    }))
}

impl Context<'_> {
    /// Scores the model in `path` on the items of `prepared`.
    pub(crate) fn score(&self, name: &str, path: &Path, prepared: &RoleItems) -> Result<Scored, PipelineError> {
        let model = self.open_any(path).map_err(|error| PipelineError::Run { model: name.into(), error })?;
        ModelScores::of(name, &*model, prepared, &self.labelled(name)).map_err(|e| self.stopped_or(e))
    }

    /// The same with the record of each item, if the items were prepared for that.
    pub(crate) fn score_with_samples(
        &self,
        name: &str,
        path: &Path,
        prepared: &RoleItems,
    ) -> Result<(Scored, Vec<glue_eval::Sample>), PipelineError> {
        let model = self.open_any(path).map_err(|error| PipelineError::Run { model: name.into(), error })?;
        ModelScores::with_samples(name, &*model, prepared, &self.labelled(name)).map_err(|e| self.stopped_or(e))
    }
}

impl ExpertModel {
    /// As the report shows it.
    pub(crate) fn describe(&self, kept: bool) -> report::ExpertCandidate {
        report::ExpertCandidate {
            name: self.name.clone(),
            kind: self.kind,
            members: self.members.clone(),
            score: self.validation.as_ref().map(ModelScores::score),
            parameters: Some(self.parameters),
            kept,
            reason: self.reason.clone(),
        }
    }
}
