//! The end of a run: the final model and the report.

use crate::error::PipelineError;
use crate::figures;
use crate::run::{Context, Source, config_hash};
use crate::scores::{ModelScores, Scored};
use crate::stage::{Cost, Stage};
use crate::stages::candidates::ExpertCandidate;
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
use glue_text::words;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The directory of the final model, in that of the run.
pub const FINAL: &str = "final";

/// The result of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finished {
    /// The data of the report.
    pub report: report::Report,
    /// Time, memory and disk.
    pub cost: report::Cost,
    /// `report.html`.
    pub html: PathBuf,
    /// The final model.
    pub model: PathBuf,
}

/// The results of all stages.
pub(crate) struct ReportInputs<'a> {
    pub(crate) headers: &'a Compatible,
    pub(crate) similarity: &'a Matrix,
    pub(crate) clusters: &'a Clusters,
    pub(crate) baselines: &'a [Scored],
    pub(crate) selected: &'a [Selected],
    /// The directory of the stage `select`.
    pub(crate) selected_in: &'a Path,
    pub(crate) candidates: &'a [ExpertCandidate],
    pub(crate) decided: &'a Decided,
    pub(crate) decided_in: &'a Path,
    pub(crate) tested: &'a Tested,
    pub(crate) model_hashes: &'a Value,
    pub(crate) costs: &'a [(Stage, Cost)],
}

pub(crate) fn finish(
    source: &Source,
    context: &Context<'_>,
    inputs: &ReportInputs<'_>,
) -> Result<Finished, PipelineError> {
    let model = place_final(context, inputs)?;
    let report = describe(source, context, inputs, &model)?;
    let cost = cost_of(inputs);
    let write = |name: &str, bytes: &[u8]| write_atomic(context.out.join(name), bytes);
    let refuse = |error: report::ReportError| PipelineError::Unsuitable(format!("the report: {}", error.chain()));
    write("report.md", report::markdown(&report, Some(&cost)).map_err(refuse)?.as_bytes())?;
    write("cost.json", report::cost_json(&cost).map_err(refuse)?.as_bytes())?;
    write("report.json", report::json(&report).map_err(refuse)?.as_bytes())?;
    write("report.html", report::html(&report, Some(&cost)).map_err(refuse)?.as_bytes())?;
    Ok(Finished { report, cost, html: context.out.join("report.html"), model })
}

/// Places the final model. Files of the run are hard-linked if the file system supports it, those of the zoo are
/// copied.
fn place_final(context: &Context<'_>, inputs: &ReportInputs<'_>) -> Result<PathBuf, PipelineError> {
    let out = context.out.join(FINAL);
    let from = decided_path(context, inputs.decided, inputs.decided_in);
    if out.exists() {
        fs::remove_dir_all(&out).map_err(|e| PipelineError::io(&out, e))?;
        glue_tensor::abort_point("earlier final model removed");
    }
    let staging = Staging::create(&out)?;
    copy(&from, &from, staging.path(), inputs.decided.made, context.links)?;
    context.zoo.check_unchanged()?;
    glue_tensor::abort_point("final model copied");
    staging.commit()?;
    Ok(out)
}

/// Copies what is in `from`, which is or is below the directory `model`.
fn copy(model: &Path, from: &Path, to: &Path, link: bool, links: Links) -> Result<(), PipelineError> {
    let at = |e| PipelineError::io(from, e);
    let mut entries = fs::read_dir(from).map_err(at)?.collect::<std::io::Result<Vec<_>>>().map_err(at)?;
    // Weights last: an incomplete copy does not open as a model.
    entries.sort_by_key(|entry| entry.path().extension().is_some_and(|extension| extension == "safetensors"));
    for entry in entries {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(at)?.is_dir() {
            fs::create_dir(&target).map_err(|e| PipelineError::io(&target, e))?;
            copy(model, &path, &target, link, links)?;
        } else if !(link && fs::hard_link(&path, &target).is_ok()) {
            // Weights may be links to anywhere; other files only where `links` allows.
            let is_weights = path.extension().is_some_and(|extension| extension == "safetensors");
            let links = if is_weights { Links::Follow } else { links };
            let mut source = open_to_copy(model, &path, links)?;
            let mut write = || std::io::copy(&mut source, &mut fs::File::create_new(&target)?);
            write().map_err(|e| PipelineError::io(&target, e))?;
        }
    }
    Ok(())
}

fn cost_of(inputs: &ReportInputs<'_>) -> report::Cost {
    let stage = |(stage, cost): &(Stage, Cost)| report::StageCost {
        stage: stage.name().into(),
        seconds: cost.seconds,
        peak_bytes: cost.peak_memory,
        disk_bytes: Some(cost.disk),
        resumed: cost.found,
    };
    let strategies = inputs.selected.iter().flat_map(|selected| {
        let cluster = &selected.selection.cluster;
        let path = inputs.selected_in.join(format!("cluster-{cluster}")).join(glue_select::output::TIMINGS);
        // A search writes its times into a separate file; without it the report leaves them out.
        let times = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Timings>(&text).ok());
        let times = times.unwrap_or_default();
        let of = |(strategy, seconds)| report::StrategyCost { cluster: cluster.clone(), strategy, seconds };
        times.strategies.into_iter().map(of).collect::<Vec<_>>()
    });
    report::Cost {
        machine: machine(),
        threads: Some(rayon::current_num_threads()),
        stages: inputs.costs.iter().map(stage).collect(),
        strategies: strategies.collect(),
    }
}

/// The processor, its hardware threads and the memory of this machine; `None` where the system does not say.
fn machine() -> Option<String> {
    let line = |file: &str, key: &str| {
        let text = fs::read_to_string(file).ok()?;
        let value = text.lines().find(|line| line.starts_with(key))?.split_once(':')?.1;
        Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let processor = line("/proc/cpuinfo", "model name");
    let threads = std::thread::available_parallelism().ok();
    let threads = threads.map(|n| words::things(n.get(), "hardware thread", "hardware threads"));
    let memory = line("/proc/meminfo", "MemTotal").and_then(|kib| kib.strip_suffix(" kB")?.parse::<u64>().ok());
    let memory = memory.map(|kib| format!("{} of memory", words::bytes(kib * 1024)));
    let known: Vec<String> = [processor, threads, memory].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(", "))
}

fn describe(
    source: &Source,
    context: &Context<'_>,
    inputs: &ReportInputs<'_>,
    model: &Path,
) -> Result<report::Report, PipelineError> {
    let decided = inputs.decided;
    let best = inputs.candidates.iter().find(|candidate| candidate.name == decided.best);
    let kind = match (&decided.mixture, best.map(|candidate| candidate.made)) {
        (Some(_), _) => report::FinalKind::Mixture,
        (None, Some(true)) => report::FinalKind::Merged,
        (None, _) => report::FinalKind::Single,
    };
    let tasks = context.tasks.iter().map(|task| {
        let name = task.name();
        let proxy = inputs.baselines.iter().find_map(Scored::scores).and_then(|scores| scores.task(name));
        let tested = inputs.tested.items.iter().find(|(task, _)| task == name).map(|(_, n)| *n);
        let split = |split: &str, items: Option<usize>| {
            items.map(|items| report::SplitSize { split: split.to_string(), items })
        };
        let config = &context.config.tasks;
        report::Task {
            name: name.into(),
            metric: proxy.map(|task| task.metric.clone()).unwrap_or_default(),
            description: task.description().map(String::from),
            splits: [split(&config.proxy, proxy.map(|task| task.items.len())), split(&config.test, tested)]
                .into_iter()
                .flatten()
                .collect(),
        }
    });
    let row = |scores: &ModelScores| report::ScoreRow { name: scores.name.clone(), scores: scores.scores() };
    let (bytes, dtype) = size(model)?;
    let mixture = decided.mixture.as_ref();
    let run = |title: &str, command: String| report::Command { title: title.into(), command };
    let final_path = FINAL.to_string();
    let config_path = source.path.display().to_string();
    let mut commands = vec![run("everything", format!("glue run {} --out DIR", quoted(&config_path)))];
    for selected in inputs.selected {
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
            inputs: input_artifacts(source, context, inputs),
            outputs: output_artifacts(model)?,
        },
        tasks: tasks.collect(),
        models: inputs.headers.models.clone(),
        compatibility: inputs.headers.pairs.clone(),
        similarity: Some(figures::similarity(inputs.similarity)),
        dendrogram: Some(inputs.clusters.dendrogram.clone()),
        clustering: Some(inputs.clusters.clustering.clone()),
        individual: vec![report::ScoreTable {
            split: context.config.tasks.proxy.clone(),
            purpose: "Decides what is merged and mixed".into(),
            rows: inputs.baselines.iter().filter_map(Scored::scores).map(row).collect(),
        }],
        selections: inputs.selected.iter().map(|selected| selected.selection.clone()).collect(),
        candidates: inputs.candidates.iter().map(ExpertCandidate::describe).collect(),
        mixture: decided.mixture.clone(),
        router: decided.router.clone(),
        test: Some(inputs.tested.test.clone()),
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
            usage: vec![run("generate text", format!("glue generate {final_path} --prompt \"…\""))],
        }),
        limits: report::Limits {
            seconds: context.config.limits.seconds,
            memory_bytes: context.config.limits.memory_bytes(),
            expert_parameters: context.config.limits.parameters.map(|limit| limit as u64),
            evaluations: context.config.select.budget.evaluations,
        },
        warnings: warnings(inputs),
    };
    Ok(report)
}

fn title(source: &Source) -> String {
    let parent = source.path.parent().and_then(Path::file_name);
    parent.or(source.path.file_stem()).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a reader should know before trusting the rest.
fn warnings(inputs: &ReportInputs<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let left_out = |(name, why): (&str, &str)| format!("Model {name} could not be scored and is left out: {why}.");
    warnings.extend(inputs.baselines.iter().filter_map(Scored::unscored).map(left_out));
    let tested = inputs.tested.unscored.iter().map(|(name, why)| {
        format!("Model {name} could not be scored on the test items and is missing from their tables: {why}.")
    });
    warnings.extend(tested);
    for selected in inputs.selected {
        for strategy in &selected.selection.strategies {
            if let (Some(proxy), Some(held)) = (strategy.proxy, strategy.validation)
                && let (Some(a), Some(b)) = (proxy.stderr, held.stderr)
                && proxy.value - held.value > 2.0 * (a * a + b * b).sqrt()
            {
                warnings.push(format!(
                    "In cluster {}, the merge of strategy {} scores {:.3} on the search items and {:.3} on the validation items, more than two standard errors less: the search may have overfitted.",
                    selected.selection.cluster, strategy.name, proxy.value, held.value
                ));
            }
        }
    }
    warnings
}

fn input_artifacts(source: &Source, context: &Context<'_>, inputs: &ReportInputs<'_>) -> Vec<report::Artifact> {
    let config = report::Artifact {
        name: "configuration".into(),
        path: source.path.display().to_string(),
        hash: format!("xxh3:{}", config_hash(source)),
        bytes: Some(source.text.len() as u64),
    };
    let models = context.zoo.models.iter().map(|model| {
        let hash = inputs.model_hashes[&model.name].as_str().unwrap_or_default();
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
fn output_artifacts(model: &Path) -> Result<Vec<report::Artifact>, PipelineError> {
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

/// Bytes of the tensors of the final model, and the type of the largest.
fn size(model: &Path) -> Result<(u64, String), PipelineError> {
    let mut files = Vec::new();
    collect(model, &mut files)?;
    let mut bytes = 0;
    let mut dtype = String::new();
    let mut largest = 0;
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
            if n > largest {
                (largest, dtype) = (n, tensor.dtype.to_string());
            }
        }
    }
    Ok((bytes, dtype))
}

/// A word, quoted for a POSIX shell if needed.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
