//! The end of a run: the final model in its place, and the report.

use crate::error::PipelineError;
use crate::figures;
use crate::run::{Context, Source, config_hash};
use crate::scores::{ModelScores, Scored};
use crate::stage::{Cost, Stage};
use crate::stages::candidates::Candidate;
use crate::stages::compare::{Clusters, Compatible};
use crate::stages::mixture::{Decided, decided_path};
use crate::stages::select::Selected;
use crate::stages::test::Tested;
use glue_metrics::Matrix;
use glue_progress::ErrorChain;
use glue_report as report;
use glue_select::search::Timings;
use glue_tensor::side_files::open_to_copy;
use glue_tensor::{Checkpoint, ContentHash, Links, Staging, write_atomic};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The directory of the final model, inside of a run's.
pub const FINAL: &str = "final";

/// What a run ended with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finished {
    /// Everything that is in the report.
    pub report: report::Report,
    /// What it took.
    pub cost: report::Cost,
    /// `report.html`.
    pub html: PathBuf,
    /// The final model.
    pub model: PathBuf,
}

/// What all stages came to.
pub(crate) struct Parts<'a> {
    pub(crate) headers: &'a Compatible,
    pub(crate) similarity: &'a Matrix,
    pub(crate) clusters: &'a Clusters,
    pub(crate) singles: &'a [Scored],
    pub(crate) selected: &'a [Selected],
    /// The directory of the stage that selected.
    pub(crate) selected_in: &'a Path,
    pub(crate) candidates: &'a [Candidate],
    pub(crate) decided: &'a Decided,
    pub(crate) decided_in: &'a Path,
    pub(crate) tested: &'a Tested,
    pub(crate) model_hashes: &'a Value,
    pub(crate) costs: &'a [(Stage, Cost)],
}

pub(crate) fn finish(source: &Source, context: &Context<'_>, parts: &Parts<'_>) -> Result<Finished, PipelineError> {
    let model = place_final(context, parts)?;
    let report = describe(source, context, parts, &model)?;
    let cost = cost_of(parts);
    let write = |name: &str, bytes: &[u8]| write_atomic(context.out.join(name), bytes);
    let refuse = |error: report::ReportError| PipelineError::Unsuitable(format!("the report: {}", error.chain()));
    write("report.md", report::markdown(&report, Some(&cost)).map_err(refuse)?.as_bytes())?;
    write("cost.json", report::cost_json(&cost).map_err(refuse)?.as_bytes())?;
    write("report.json", report::json(&report).map_err(refuse)?.as_bytes())?;
    write("report.html", report::html(&report, Some(&cost)).map_err(refuse)?.as_bytes())?;
    Ok(Finished { report, cost, html: context.out.join("report.html"), model })
}

/// Puts the final model to its place. Files of the run are linked where the file system can, those of the zoo are copied.
fn place_final(context: &Context<'_>, parts: &Parts<'_>) -> Result<PathBuf, PipelineError> {
    let out = context.out.join(FINAL);
    let from = decided_path(context, parts.decided, parts.decided_in);
    if out.exists() {
        fs::remove_dir_all(&out).map_err(|e| PipelineError::io(&out, e))?;
        glue_tensor::abort_point("earlier final model removed");
    }
    let staging = Staging::create(&out)?;
    copy(&from, &from, staging.path(), parts.decided.made, context.links)?;
    context.zoo.check_unchanged()?;
    glue_tensor::abort_point("final model copied");
    staging.commit()?;
    Ok(out)
}

/// Copies what is in `from`, which is or is below the directory `model`.
fn copy(model: &Path, from: &Path, to: &Path, link: bool, links: Links) -> Result<(), PipelineError> {
    let at = |e| PipelineError::io(from, e);
    let mut entries = fs::read_dir(from).map_err(at)?.collect::<std::io::Result<Vec<_>>>().map_err(at)?;
    // Weights last, so that nothing half copied opens as a model.
    entries.sort_by_key(|entry| entry.path().extension().is_some_and(|extension| extension == "safetensors"));
    for entry in entries {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(at)?.is_dir() {
            fs::create_dir(&target).map_err(|e| PipelineError::io(&target, e))?;
            copy(model, &path, &target, link, links)?;
        } else if !(link && fs::hard_link(&path, &target).is_ok()) {
            // Weights may lie anywhere; everything else must not be what a link outside gives away.
            let is_weights = path.extension().is_some_and(|extension| extension == "safetensors");
            let links = if is_weights { Links::Follow } else { links };
            let mut source = open_to_copy(model, &path, links)?;
            let mut write = || std::io::copy(&mut source, &mut fs::File::create_new(&target)?);
            write().map_err(|e| PipelineError::io(&target, e))?;
        }
    }
    Ok(())
}

fn cost_of(parts: &Parts<'_>) -> report::Cost {
    let stage = |(stage, cost): &(Stage, Cost)| report::StageCost {
        stage: stage.name().into(),
        seconds: cost.seconds,
        peak_bytes: cost.peak_memory,
        disk_bytes: Some(cost.disk),
        resumed: cost.found,
    };
    let strategies = parts.selected.iter().flat_map(|selected| {
        let cluster = &selected.selection.cluster;
        let path = parts.selected_in.join(format!("cluster-{cluster}")).join(glue_select::output::TIMINGS);
        // A search leaves its times apart from its result; without them the report says nothing of them.
        let times = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Timings>(&text).ok());
        let times = times.unwrap_or_default();
        let of = |(strategy, seconds)| report::StrategyCost { cluster: cluster.clone(), strategy, seconds };
        times.strategies.into_iter().map(of).collect::<Vec<_>>()
    });
    report::Cost {
        machine: None,
        threads: Some(rayon::current_num_threads()),
        stages: parts.costs.iter().map(stage).collect(),
        strategies: strategies.collect(),
    }
}

fn describe(
    source: &Source,
    context: &Context<'_>,
    parts: &Parts<'_>,
    model: &Path,
) -> Result<report::Report, PipelineError> {
    let decided = parts.decided;
    let best = parts.candidates.iter().find(|candidate| candidate.name == decided.best);
    let kind = match (&decided.mixture, best.map(|candidate| candidate.made)) {
        (Some(_), _) => report::FinalKind::Mixture,
        (None, Some(true)) => report::FinalKind::Merged,
        (None, _) => report::FinalKind::Single,
    };
    let tasks = context.tasks.iter().map(|task| {
        let name = task.name();
        let proxy = parts.singles.iter().find_map(Scored::scores).and_then(|scores| scores.task(name));
        let tested = parts.tested.items.iter().find(|(task, _)| task == name).map(|(_, n)| *n);
        let split = |split: &str, items: Option<usize>| {
            items.map(|items| report::SplitSize { split: split.to_string(), items })
        };
        let config = &context.config.tasks;
        report::Task {
            name: name.into(),
            metric: proxy.map(|task| task.metric.clone()).unwrap_or_default(),
            description: None,
            splits: [split(&config.proxy, proxy.map(|task| task.items.len())), split(&config.test, tested)]
                .into_iter()
                .flatten()
                .collect(),
            chance: None,
        }
    });
    let row = |scores: &ModelScores| report::ScoreRow { name: scores.name.clone(), scores: scores.scores() };
    let (bytes, dtype) = size(model)?;
    let mixture = decided.mixture.as_ref();
    let run = |title: &str, command: String| report::Command { title: title.into(), command };
    let final_path = FINAL.to_string();
    let config_path = source.path.display().to_string();
    let mut commands = vec![run("all of it", format!("glue run {} --out DIR", quoted(&config_path)))];
    for selected in parts.selected {
        let recipe = format!("stages/05-select/cluster-{}/best.yml", selected.selection.cluster);
        commands.push(run(
            &format!("the merge of cluster {}", selected.selection.cluster),
            format!("glue merge {recipe} merged-{}", selected.selection.cluster),
        ));
    }
    commands.push(run(
        "score the final model",
        format!(
            "glue eval {final_path} --tasks {} --split {}",
            quoted(&context.directory.join(&context.config.tasks.paths[0]).display().to_string()),
            context.config.tasks.test,
        ),
    ));
    let report = report::Report {
        run: report::Run {
            title: title(source),
            config_path,
            config: source.text.clone(),
            seed: context.config.seed,
            versions: vec![report::Version { name: "glue".into(), version: env!("CARGO_PKG_VERSION").into() }],
            commands,
            inputs: inputs(source, context, parts),
            outputs: outputs(model)?,
            stopped_after: None,
        },
        tasks: tasks.collect(),
        models: parts.headers.models.clone(),
        compatibility: parts.headers.pairs.clone(),
        similarity: Some(figures::similarity(parts.similarity)),
        dendrogram: Some(parts.clusters.dendrogram.clone()),
        clustering: Some(parts.clusters.clustering.clone()),
        individual: vec![report::ScoreTable {
            split: context.config.tasks.proxy.clone(),
            purpose: "decides what is merged and mixed".into(),
            rows: parts.singles.iter().filter_map(Scored::scores).map(row).collect(),
        }],
        selections: parts.selected.iter().map(|selected| selected.selection.clone()).collect(),
        candidates: parts.candidates.iter().map(Candidate::describe).collect(),
        mixture: decided.mixture.clone(),
        router: decided.router.clone(),
        test: Some(parts.tested.test.clone()),
        outcome: Some(report::Final {
            name: "final".into(),
            kind,
            why: decided.why.clone(),
            path: final_path.clone(),
            parameters: mixture
                .map(|mixture| mixture.parameters_total)
                .or(best.map(|candidate| candidate.parameters))
                .unwrap_or(0),
            parameters_active: mixture.map(|mixture| mixture.parameters_active),
            bytes: Some(bytes),
            dtype,
            usage: vec![run("ask it something", format!("glue generate {final_path} --prompt \"…\""))],
        }),
        limits: report::Limits {
            seconds: context.config.limits.seconds,
            memory_bytes: context.memory,
            disk_bytes: None,
            expert_parameters: context.config.limits.parameters.map(|limit| limit as u64),
            evaluations: context.config.select.budget.evaluations,
        },
        warnings: warnings(parts),
    };
    Ok(report)
}

fn title(source: &Source) -> String {
    let parent = source.path.parent().and_then(Path::file_name);
    parent.or(source.path.file_stem()).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a reader should know before believing the rest.
fn warnings(parts: &Parts<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let left_out = |(name, why): (&str, &str)| format!("Model {name} could not be scored and is left out: {why}.");
    warnings.extend(parts.singles.iter().filter_map(Scored::unscored).map(left_out));
    let tested = parts.tested.unscored.iter().map(|(name, why)| {
        format!("Model {name} could not be scored on the test items and stands in no table of them: {why}.")
    });
    warnings.extend(tested);
    for selected in parts.selected {
        for strategy in &selected.selection.strategies {
            if let (Some(proxy), Some(held)) = (strategy.proxy, strategy.validation)
                && let (Some(a), Some(b)) = (proxy.stderr, held.stderr)
                && proxy.value - held.value > 2.0 * (a * a + b * b).sqrt()
            {
                warnings.push(format!(
                    "In cluster {}, the merge of strategy {} scores {:.3} on the items that were searched and {:.3} on those held out: more than two standard errors less, so that the search may have fitted the items.",
                    selected.selection.cluster, strategy.name, proxy.value, held.value
                ));
            }
        }
    }
    warnings
}

fn inputs(source: &Source, context: &Context<'_>, parts: &Parts<'_>) -> Vec<report::Artifact> {
    let config = report::Artifact {
        name: "configuration".into(),
        path: source.path.display().to_string(),
        hash: format!("xxh3:{}", config_hash(source)),
        bytes: Some(source.text.len() as u64),
    };
    let models = context.zoo.models.iter().map(|model| {
        let hash = parts.model_hashes[&model.name].as_str().unwrap_or_default();
        report::Artifact {
            name: format!("model {}", model.name),
            path: model.path.display().to_string(),
            hash: format!("xxh3:{}", crate::stage::hash(hash)),
            bytes: Some(model.dir.checkpoint().total_bytes()),
        }
    });
    std::iter::once(config).chain(models).collect()
}

/// Files of the final model.
fn outputs(model: &Path) -> Result<Vec<report::Artifact>, PipelineError> {
    let mut files = Vec::new();
    collect(model, &mut files)?;
    files.sort();
    let artifact = |path: &PathBuf| {
        let bytes = fs::read(path).map_err(|e| PipelineError::io(path, e))?;
        let below = path.strip_prefix(model).unwrap_or(path).display().to_string();
        Ok(report::Artifact {
            name: below.clone(),
            path: format!("{FINAL}/{below}"),
            hash: format!("xxh3:{}", ContentHash::of(&bytes)),
            bytes: Some(bytes.len() as u64),
        })
    };
    files.iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")).map(artifact).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), PipelineError> {
    for entry in fs::read_dir(directory).map_err(|e| PipelineError::io(directory, e))? {
        let path = entry.map_err(|e| PipelineError::io(directory, e))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Bytes of the tensors of the final model, and their usual type.
fn size(model: &Path) -> Result<(u64, String), PipelineError> {
    let mut files = Vec::new();
    collect(model, &mut files)?;
    let mut bytes = 0;
    let mut dtype = String::new();
    let mut most = 0;
    let mut seen: Vec<&Path> = Vec::new();
    for directory in files.iter().filter_map(|file| file.parent()) {
        if seen.contains(&directory) {
            continue;
        }
        seen.push(directory);
        let Ok(checkpoint) = Checkpoint::open(directory) else { continue };
        bytes += checkpoint.total_bytes();
        for tensor in checkpoint.tensors() {
            let n: usize = tensor.shape.iter().product();
            if n > most {
                (most, dtype) = (n, tensor.dtype.to_string());
            }
        }
    }
    Ok((bytes, dtype))
}

/// A word as a POSIX shell needs it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
