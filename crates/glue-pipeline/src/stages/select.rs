//! Selective merging inside each cluster.

use crate::config::{ItemUse, ZooConfig};
use crate::error::PipelineError;
use crate::run::Context;
use crate::scores::{Baseline, ModelScores};
use crate::stage::{Hashes, Stage, StageBudget, check_files, hashes, read_json, write_json};
use crate::stages::compare::{Clusters, Compatible};
use crate::stages::known::KnownScores;
use crate::zoo::Zoo;
use glue_eval::statistics::{Estimate, fraction_stderr, macro_average};
use glue_merge::Registry;
use glue_metrics::Matrix;
use glue_recipe::PlanOptions;
use glue_report as report;
use glue_select::config::{BudgetConfig, SearchConfig, Validation};
use glue_select::context::Verdict;
use glue_select::contract::{Scores, TaskScore};
use glue_select::convergence::steps;
use glue_select::evaluation_log::Budget;
use glue_select::local::{LocalOptions, LocalScorer};
use glue_select::model_set::ModelSet;
use glue_select::recipe_text::{RecipeTemplate, alone};
use glue_select::search::{Options, Prepared, SelectError, Timings};
use glue_select::space::SpaceConfig;
use glue_select::summary::{Row, Summary};
use glue_tensor::{Checkpoint, CheckpointError, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The result of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Selected {
    /// For the report.
    pub(crate) selection: report::Selection,
    /// The members that were searched over.
    pub(crate) members: Vec<String>,
    /// Members with a weight in the merge.
    pub(crate) used: Vec<String>,
    /// The base that was used.
    pub(crate) base: Option<String>,
    /// The result of the search as a directory of the stage, if it is a merge that scores at least as much as the best
    /// member on the search items: the published condition for merging a cluster.
    pub(crate) merged: Option<String>,
    /// The name of the result among the finalists.
    pub(crate) best: Option<String>,
    /// The merges among which the result was chosen.
    pub(crate) finalists: Vec<SelectedMerge>,
    /// Every application of the decision rule.
    pub(crate) decisions: Vec<report::RuleRow>,
    /// Evaluations of merges on the search items.
    pub(crate) evaluations: u64,
}

/// A finalist of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SelectedMerge {
    /// Unique in the run.
    pub(crate) name: String,
    /// What it is, in words.
    pub(crate) what: String,
    pub(crate) recipe: String,
    pub(crate) members: Vec<String>,
    pub(crate) search: Option<ModelScores>,
    pub(crate) validation: Option<ModelScores>,
}

/// Marks a cluster as finished.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// The budget within which the search ended.
    budget: StageBudget,
    /// Of the output of the search.
    files: Hashes,
    selected: Selected,
}

/// The base of a cluster: of the bases that can be merged with all of its members, the most similar one.
pub(crate) fn base_of(
    members: &[String],
    bases: &[String],
    compatible: &Compatible,
    matrix: &Matrix,
) -> Option<String> {
    let index = |name: &str| matrix.models().iter().position(|model| model == name);
    let nearness = |base: &&String| {
        let each = members.iter().map(|member| match (index(base), index(member)) {
            (Some(i), Some(j)) => matrix.dissimilarity(i, j).unwrap_or(f64::INFINITY),
            _ => f64::INFINITY,
        });
        each.sum::<f64>() / members.len().max(1) as f64
    };
    let fits = |base: &&String| members.iter().all(|member| compatible.mergeable(base, member));
    let near = bases.iter().filter(fits).map(|base| (nearness(&base), base));
    // A base outside of the cluster does not count.
    let near = near.filter(|(distance, _)| distance.is_finite());
    near.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, base)| base.clone())
}

pub(crate) fn select(
    context: &Context<'_>,
    clusters: &Clusters,
    compatible: &Compatible,
    matrix: &Matrix,
    baselines: &[Baseline],
    place: &Path,
) -> Result<Vec<Selected>, PipelineError> {
    let zoo = &context.zoo;
    let is_scored = |name: &String| {
        let at = zoo.models.iter().position(|model| model.name == *name);
        at.and_then(|at| baselines.get(at)).is_none_or(|single| single.scores().is_some())
    };
    let is_base = |name: &String| zoo.models.iter().any(|model| model.base && model.name == *name);
    let mut found = Vec::new();
    for cluster in &clusters.clustering.clusters {
        let bases: Vec<String> = cluster.members.iter().filter(|name| is_base(name)).cloned().collect();
        // A base that computes NaN gives no task vectors.
        let bases: Vec<String> = bases.into_iter().filter(is_scored).collect();
        let members: Vec<String> = cluster.members.iter().filter(|name| !is_base(name)).cloned().collect();
        // Without a member that can be scored there is nothing to search.
        if !members.iter().any(is_scored) {
            continue;
        }
        // A member that cannot be merged with the first stays alone, however similar its weights are.
        let members: Vec<String> = match members.first() {
            Some(first) => members.iter().filter(|name| compatible.mergeable(first, name)).cloned().collect(),
            None => continue,
        };
        if members.len() < 2 {
            continue;
        }
        let path = place.join(format!("cluster-{}.json", cluster.name));
        let directory = place.join(format!("cluster-{}", cluster.name));
        let budget = stage_budget(context.config);
        // Within a larger budget the search continues from its journal.
        if let Some(note) = read_json::<Note>(&path, Stage::Select)?.filter(|note| note.budget == budget) {
            check_files(&directory, &note.files, Stage::Select)?;
            found.push(note.selected);
            continue;
        }
        let base = base_of(&members, &bases, compatible, matrix);
        let selected = search(context, &cluster.name, &members, base.as_deref(), baselines, place)?;
        let note = Note { budget, files: hashes(&directory)?, selected };
        write_json(&path, &note)?;
        found.push(note.selected);
    }
    Ok(found)
}

/// What the stage may spend.
pub(crate) fn stage_budget(config: &ZooConfig) -> StageBudget {
    StageBudget {
        evaluations: config.select.budget.evaluations,
        seconds: config.select.budget.seconds,
        all_seconds: config.limits.seconds,
    }
}

/// The config of a search over `members`.
pub(crate) fn config_of(
    config: &ZooConfig,
    directory: &Path,
    zoo: &Zoo,
    members: &[String],
    base: Option<&str>,
) -> SearchConfig {
    let path = |name: &str| zoo.path_of(name).display().to_string();
    let below = |paths: &[String]| paths.iter().map(|path| directory.join(path).display().to_string()).collect();
    let tasks = &config.tasks;
    let select = &config.select;
    SearchConfig {
        models: members.iter().map(|name| path(name)).collect(),
        base: base.map(path),
        tasks: tasks.requests(directory),
        include_path: below(&tasks.include_path),
        data: below(&tasks.data),
        only: tasks.only.clone(),
        split: tasks.split(ItemUse::Search).to_string(),
        limit: tasks.limit,
        validation: Some(Validation::Split { split: tasks.split(ItemUse::Validation).to_string() }),
        weights: tasks.weights.clone(),
        perplexity: tasks.perplexity,
        strategies: select.strategies.clone(),
        filter: select.filter,
        space: select.space.as_ref().map(|space| space_of(space, directory, zoo, members, base)),
        budget: BudgetConfig { evaluations: select.budget.evaluations, seconds: select.budget.seconds },
        racing: select.racing,
        item_fraction: select.item_fraction,
        parallel: None,
        memory: config.limits.memory.clone(),
        workers: 0,
        evaluator: None,
        evaluator_timeout: None,
        allow_code_execution: tasks.allow_code_execution,
        allow_test_split: tasks.allow_test_split,
        num_fewshot: tasks.num_fewshot,
        apply_chat_template: tasks.apply_chat_template,
        seed: config.seed,
        dtype: config.dtype.clone(),
    }
}

/// Hashes of the statistics in the config, by path; `None` if there are none.
pub(crate) fn hash_statistics(context: &Context<'_>) -> Result<Option<Value>, PipelineError> {
    let space = context.config.select.space.iter();
    let paths = space.flat_map(|space| space.statistics.values());
    let hash = |path: &String| {
        let checkpoint = Checkpoint::open(context.directory.join(path))?;
        Ok((path.clone(), Value::from(checkpoint.content_hash().to_string())))
    };
    let all = paths.map(hash).collect::<Result<serde_json::Map<_, _>, CheckpointError>>();
    let all = all.map_err(|error| PipelineError::Statistics(Box::new(error)))?;
    Ok((!all.is_empty()).then(|| Value::Object(all)))
}

/// The space of a cluster: statistics of its models, by path, and of its base.
fn space_of(space: &SpaceConfig, directory: &Path, zoo: &Zoo, members: &[String], base: Option<&str>) -> SpaceConfig {
    let outside = |path: &String| directory.join(path).display().to_string();
    let own = space.statistics.iter().filter(|(name, _)| members.contains(name));
    let by_path = |(name, path): (&String, &String)| (zoo.path_of(name).display().to_string(), outside(path));
    SpaceConfig {
        statistics: own.map(by_path).collect(),
        base_statistics: base.and_then(|base| space.statistics.get(base)).map(outside),
        ..space.clone()
    }
}

/// Seconds of the searches that ended, but for the one into `own`, which counts its own.
fn spent(place: &Path, own: &Path) -> f64 {
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let directory = entry.ok()?.path();
        let text = fs::read(directory.join(glue_select::output::TIMINGS)).ok().filter(|_| directory != own)?;
        Some(serde_json::from_slice::<Timings>(&text).ok()?.seconds)
    };
    fs::read_dir(place).into_iter().flatten().filter_map(of).sum()
}

/// A scorer of merges in this process.
pub(crate) fn scorer(
    context: &Context<'_>,
    config: &SearchConfig,
) -> Result<LocalScorer, Box<dyn std::error::Error + Send + Sync>> {
    let mut plan = PlanOptions::default();
    plan.links = context.links;
    let mut options = LocalOptions {
        plan,
        registry: context.registries.operators.clone(),
        executor: context.executor.clone(),
        cancel: context.cancel.clone(),
        ..LocalOptions::from_config(config)?
    };
    options.items.search_splits = context.config.tasks.own_splits(ItemUse::Search);
    options.items.validation_splits = context.config.tasks.own_splits(ItemUse::Validation);
    Ok(LocalScorer::new(std::sync::Arc::clone(&context.tasks), options)?)
}

/// The scorer with what is known of single models. With another type of weights they are other models.
pub(crate) fn known<'a>(context: &Context<'_>, baselines: &[Baseline], scorer: &'a LocalScorer) -> KnownScores<'a> {
    let template = template(context, None);
    let of = |(model, baseline): (&crate::zoo::ZooModel, &Baseline)| {
        let scores = [baseline.search.scores()?, baseline.validation.as_ref()?].map(ModelScores::as_of_merge);
        Some((alone(&template, &model.path.display().to_string()).recipe, scores))
    };
    let known = context.zoo.models.iter().zip(baselines).filter_map(of);
    KnownScores { scorer, known: if template.dtype.is_none() { known.collect() } else { HashMap::new() } }
}

/// What recipes of the run have in common.
pub(crate) fn template(context: &Context<'_>, base: Option<&str>) -> RecipeTemplate {
    RecipeTemplate {
        base_model: base.map(|name| context.path_of(name).display().to_string()),
        dtype: context.config.dtype.clone(),
        ..RecipeTemplate::default()
    }
}

fn search(
    context: &Context<'_>,
    cluster: &str,
    members: &[String],
    base: Option<&str>,
    baselines: &[Baseline],
    place: &Path,
) -> Result<Selected, PipelineError> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| PipelineError::Search { cluster: cluster.into(), error };
    let config = config_of(context.config, &context.directory, &context.zoo, members, base);
    let models = ModelSet::open(&config).map_err(|e| failed(e.into()))?;
    let prepared = Prepared::new(&config, &models, context.registries).map_err(|e| failed(e.into()))?;
    let scorer = scorer(context, &config).map_err(failed)?;
    let scorer = known(context, baselines, &scorer);
    let out = place.join(format!("cluster-{cluster}"));
    let budget = Budget {
        evaluations: config.budget.evaluations,
        seconds: context.seconds_of(config.budget.seconds, spent(place, &out)),
    };
    let journal = glue_select::search::journal_path(&out);
    // Killed between the result and its note: the search is replayed from the journal in the result.
    if out.exists() {
        let kept = out.join(glue_select::output::JOURNAL);
        // Killed while the result was being removed: the journal is next to it already.
        if kept.exists() {
            let lines = fs::read(&kept).map_err(|e| PipelineError::io(&kept, e))?;
            write_atomic(&journal, &lines)?;
        }
        glue_tensor::abort_point("journal taken back");
        fs::remove_dir_all(&out).map_err(|e| PipelineError::io(&out, e))?;
    }
    let resume = journal.exists();
    let progress = context.labelled(&format!("cluster {cluster}"));
    let options = Options { out: &out, resume, budget, executor: context.executor.clone(), links: context.links };
    let (summary, _) = prepared.run(&scorer, &options, &progress).map_err(|error| match error {
        SelectError::Stopped { .. } => PipelineError::Stopped,
        error => failed(error.into()),
    })?;
    Ok(describe(cluster, members, base, &summary, &config, context.registries.operators))
}

/// The score of a merge as the report shows it, with the standard error of a macro average of fractions.
fn score(scores: &Scores) -> report::Score {
    let task = |task: &TaskScore| Estimate { value: task.value, stderr: fraction_stderr(task.value, task.n) };
    report::Score {
        value: scores.average,
        stderr: macro_average(&scores.tasks.iter().map(task).collect::<Vec<_>>()).stderr,
        n: Some(scores.tasks.iter().map(|task| task.n).sum()),
    }
}

fn describe(
    cluster: &str,
    members: &[String],
    base: Option<&str>,
    summary: &Summary,
    config: &SearchConfig,
    operators: &Registry,
) -> Selected {
    let name_of = |path: &str| {
        let at = config.models.iter().position(|model| model == path);
        at.map_or_else(|| path.to_string(), |at| members[at].clone())
    };
    let all = steps(summary);
    let strategies = summary.strategies.iter().map(|row| {
        let mut best = None::<f64>;
        let mut count = 0;
        let mut curve = Vec::new();
        for step in all.iter().filter(|step| step.strategy == row.row.name) {
            count += 1;
            if let Some(average) = step.average.filter(|_| !step.dropped) {
                let better = best.is_none_or(|best| average > best);
                best = Some(best.map_or(average, |best| best.max(average)));
                if better {
                    curve.push(report::CurvePoint { evaluations: count, best: average, validation: step.validation });
                }
            }
        }
        if let (Some(best), Some(last)) = (best, curve.last())
            && last.evaluations < count
        {
            curve.push(report::CurvePoint { evaluations: count, best, validation: None });
        }
        report::StrategyResult {
            name: row.row.name.clone(),
            proxy: row.row.search.as_ref().map(score),
            validation: row.row.validation.as_ref().map(score),
            evaluations: row.evaluations,
            curve,
            note: row.ended.clone(),
        }
    });
    let average = |row: &Row| row.search.as_ref().filter(|scores| !scores.dropped).map(|scores| scores.average);
    let best_member = summary.models.iter().find(|row| row.name == summary.best_single);
    let best = summary.best_row();
    let members_of = |recipe: &str| -> Vec<String> {
        let all = models_of(recipe, operators);
        all.iter().map(|path| name_of(path)).filter(|name| members.contains(name)).collect()
    };
    let helps = match (best.and_then(|row| average(&row.row)), best_member.and_then(average)) {
        (Some(merge), Some(member)) => merge >= member,
        (merge, member) => merge.is_some() && member.is_none(),
    };
    let used = best.map(|row| members_of(&row.row.recipe)).unwrap_or_default();
    let merged = (helps && used.len() > 1).then(|| format!("cluster-{cluster}/{}", glue_select::output::MODEL));
    let why = match &merged {
        Some(_) => summary.reason.clone(),
        None => format!("No merge scores as much as {} on the search items. {}", summary.best_single, summary.reason),
    };
    let named = |name: &str| format!("{name} (cluster {cluster})");
    let finalists = summary.finalists.iter().map(|finalist| {
        let row = &finalist.row;
        let name = named(&row.name);
        SelectedMerge {
            what: row.what.clone(),
            recipe: row.recipe.clone(),
            members: members_of(&row.recipe),
            search: row
                .search
                .as_ref()
                .filter(|s| !s.dropped)
                .map(|scores| ModelScores::of_merge(&name, scores, &config.weights)),
            validation: row.validation.as_ref().map(|scores| ModelScores::of_merge(&name, scores, &config.weights)),
            name,
        }
    });
    let finalists: Vec<SelectedMerge> = finalists.collect();
    let result = best.and_then(|best| finalists.iter().find(|finalist| finalist.recipe == best.row.recipe));
    let result = result.map(|finalist| finalist.name.clone());
    let is_finalist = |name: &str| summary.finalists.iter().any(|finalist| finalist.row.name == name);
    let model = |name: &str| if is_finalist(name) { named(name) } else { name.to_string() };
    let rulings = summary.ruling.iter().map(|row| report::RuleRow {
        question: format!("Cluster {cluster}: {}", row.question),
        incumbent: model(&row.incumbent),
        challenger: model(&row.challenger),
        gain: row.gain,
        stderr: row.stderr,
        p: row.p,
        challengers: row.challengers,
        accepted: row.accepted,
    });
    let rulings = rulings.collect();
    let decisions = summary.candidates.iter().map(|trial| report::Decision {
        strategy: trial.strategy.clone(),
        candidate: trial.what.clone(),
        score: trial.scores.as_ref().map(score),
        accepted: trial.verdict == Verdict::Accepted,
        reason: trial.reason.clone(),
    });
    let harmful = summary.filter.iter().filter(|verdict| verdict.harmful);
    let selection = report::Selection {
        cluster: cluster.into(),
        strategies: strategies.collect(),
        chosen: merged.as_ref().map(|_| summary.best.clone()),
        why,
        best_member: best_member.and_then(|row| row.search.as_ref()).map(score),
        decisions: decisions.collect(),
        harmful: harmful
            .map(|verdict| report::Harmful { model: verdict.model.clone(), reason: verdict.reason.clone() })
            .collect(),
        weights: best.map(|row| crate::weights::table(&row.row.recipe, operators, &name_of)),
        recipe: best.map(|row| row.row.recipe.clone()),
    };
    Selected {
        selection,
        members: members.to_vec(),
        used,
        base: base.map(String::from),
        merged,
        best: result,
        finalists,
        decisions: rulings,
        evaluations: summary.evaluations,
    }
}

/// Paths of the models that a recipe merges.
fn models_of(recipe: &str, operators: &Registry) -> Vec<String> {
    glue_recipe::Recipe::parse(recipe, "best.yml", operators)
        .ok()
        .and_then(|recipes| recipes.into_iter().next())
        .map(|recipe| {
            let base = recipe.base.iter().map(|base| base.value.clone()).collect::<Vec<_>>();
            recipe.models().map(|model| model.value.clone()).filter(|model| !base.contains(model)).collect()
        })
        .unwrap_or_default()
}

/// A cluster's merge as a directory.
pub(crate) fn merged_path(stage: &Path, selected: &Selected) -> Option<PathBuf> {
    selected.merged.as_ref().map(|merged| stage.join(merged))
}

/// A name for the merge of a cluster.
pub(crate) fn merged_name(selected: &Selected) -> String {
    format!("merged-{}", selected.selection.cluster)
}
