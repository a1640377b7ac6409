//! The end of a run: the final model and the report.

mod artifacts;
mod card;

use crate::config::ItemUse;
use crate::error::PipelineError;
use crate::figures;
use crate::run::{Context, Source};
use crate::scores::{Baseline, ModelScores};
use crate::stage::{Cost, Stage};
use crate::stages::compare::{Clusters, Compatible};
use crate::stages::finish::artifacts::{input_artifacts, output_artifacts, size};
use crate::stages::finish::card::Named;
use crate::stages::frontier::{ExpertModel, Explored, Label, Point};
use crate::stages::mixture::{Decided, decided_path};
use crate::stages::select::Selected;
use crate::stages::test::{FINAL_ROW, THROUGHPUT, Tested};
use glue_metrics::Matrix;
use glue_mixture::Sites;
use glue_progress::ErrorChain;
use glue_report as report;
use glue_select::search::Timings;
use glue_tensor::side_files::open_to_copy;
use glue_tensor::{Links, Staging, write_atomic};
use glue_text::words;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The directory of the final model, in that of the run.
pub const FINAL: &str = "final";

/// The directory of the best merge, in that of the run; absent if nothing was merged.
pub const MERGED: &str = "merged";

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

/// The results of stages, as far as they have run.
pub(crate) struct ReportInputs<'a> {
    pub(crate) headers: Option<&'a Compatible>,
    pub(crate) similarity: Option<&'a Matrix>,
    pub(crate) clusters: Option<&'a Clusters>,
    pub(crate) baselines: &'a [Baseline],
    pub(crate) selected: &'a [Selected],
    /// The directory of the stage `select`.
    pub(crate) selected_in: &'a Path,
    pub(crate) explored: Option<&'a Explored>,
    /// The decision with the directory of its stage.
    pub(crate) decided: Option<(&'a Decided, &'a Path)>,
    /// The scores on the test items with the directory of their stage.
    pub(crate) tested: Option<(&'a Tested, &'a Path)>,
    pub(crate) model_hashes: &'a Value,
    /// Which items of other roles are also test items, in sentences.
    pub(crate) shared_items: &'a [String],
}

/// Everything that the report of a whole run needs.
struct Whole<'a> {
    explored: &'a Explored,
    decided: &'a Decided,
    decided_in: &'a Path,
    tested: &'a Tested,
}

impl<'a> ReportInputs<'a> {
    fn whole(&self) -> Option<Whole<'a>> {
        let (decided, decided_in) = self.decided?;
        Some(Whole { explored: self.explored?, decided, decided_in, tested: self.tested?.0 })
    }
}

/// The end of a run: places the models and writes the report.
pub(crate) fn finish(
    source: &Source,
    context: &Context<'_>,
    inputs: &ReportInputs<'_>,
    costs: &[(Stage, Cost)],
) -> Result<Finished, PipelineError> {
    let whole = inputs.whole().ok_or_else(|| PipelineError::Unsuitable("the report: a stage has not run".into()))?;
    let Whole { explored, decided, decided_in, .. } = whole;
    let from = decided_path(context, explored, decided, decided_in);
    let one = &explored.models[explored.one];
    let made = decided.last.is_some() || one.made;
    let run = title(source);
    let zoo_model = context.zoo.models.iter().find(|model| !made && model.name == one.name);
    let named = Named {
        run: &run,
        directory: FINAL,
        kind: kind(&whole),
        made_of: &made_of(&whole),
        why: &decided.why,
        unchanged: zoo_model.map(|model| (model, &inputs.model_hashes[&model.name])),
    };
    let model = place(context, &from, made, &named)?;
    if let Some(merge) = explored.merge.map(|merge| &explored.models[merge]) {
        let made_of = [merge.members.clone()];
        let kind = report::FinalKind::Merged;
        let named = Named { directory: MERGED, kind, made_of: &made_of, why: "", unchanged: None, ..named };
        place(context, &context.outside_path(&merge.path, merge.made), true, &named)?;
    }
    let report = describe(source, context, inputs, Some(&model))?;
    let cost = cost_of(inputs, costs)?;
    write(&context.out, &report, &cost)?;
    Ok(Finished { report, cost, html: context.out.join("report.html"), model })
}

/// The report of a run that has come as far as `last`.
pub(crate) fn report_so_far(
    source: &Source,
    context: &Context<'_>,
    inputs: &ReportInputs<'_>,
    (last, costs): (Stage, &[(Stage, Cost)]),
) -> Result<(), PipelineError> {
    let mut report = describe(source, context, inputs, None)?;
    report.run.unfinished = Some(last.name().into());
    let cost = cost_of(inputs, costs)?;
    write(&context.out, &report, &cost)?;
    context.live.set(report, cost);
    Ok(())
}

/// Writes the files of a report into the directory of a run.
pub(crate) fn write(out: &Path, report: &report::Report, cost: &report::Cost) -> Result<(), PipelineError> {
    let write = |name: &str, bytes: &[u8]| write_atomic(out.join(name), bytes);
    let refuse = |error: report::ReportError| PipelineError::Unsuitable(format!("the report: {}", error.chain()));
    write("report.md", report::markdown(report, Some(cost)).map_err(refuse)?.as_bytes())?;
    write("cost.json", report::cost_json(cost).map_err(refuse)?.as_bytes())?;
    write("report.json", report::json(report).map_err(refuse)?.as_bytes())?;
    write("tries.csv", report::tries_csv(report).as_bytes())?;
    write("report.html", report::html(report, Some(cost)).map_err(refuse)?.as_bytes())?;
    Ok(())
}

/// Places a model in the directory of the run, with a card of its own. Files that the run `made` are hard-linked if the
/// file system supports it, those of the zoo are copied.
fn place(context: &Context<'_>, from: &Path, made: bool, named: &Named<'_>) -> Result<PathBuf, PipelineError> {
    let out = context.out.join(named.directory);
    if out.exists() {
        fs::remove_dir_all(&out).map_err(|e| PipelineError::io(&out, e))?;
        glue_tensor::abort_point("earlier final model removed");
    }
    let staging = Staging::create(&out)?;
    copy(from, from, staging.path(), made, context.links)?;
    named.write(&staging)?;
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

fn cost_of(inputs: &ReportInputs<'_>, costs: &[(Stage, Cost)]) -> Result<report::Cost, PipelineError> {
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
    Ok(report::Cost {
        machine: machine(),
        threads: Some(rayon::current_num_threads()),
        stages: costs.iter().map(stage).collect(),
        strategies: strategies.collect(),
        throughput: match inputs.tested {
            Some((_, place)) => crate::stage::read_json(&place.join(THROUGHPUT), Stage::Test)?.unwrap_or_default(),
            None => Vec::new(),
        },
    })
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
    model: Option<&Path>,
) -> Result<report::Report, PipelineError> {
    let last = inputs.decided.and_then(|(decided, _)| Some(&decided.mixtures[decided.last?]));
    let point = last.and_then(|last| Some(&inputs.explored?.points[last.point]));
    let tasks = context.tasks.iter().map(|task| {
        let name = task.name();
        let known = inputs.baselines.iter().find(|baseline| baseline.scores().is_some());
        let search = known.and_then(Baseline::scores).and_then(|scores| scores.task(name));
        let validation = known.and_then(|known| known.validation.as_ref()).and_then(|scores| scores.task(name));
        let tested = inputs.tested.and_then(|(tested, _)| tested.items.iter().find(|(task, _)| task == name));
        let tested = tested.map(|(_, n)| *n);
        let config = &context.config.tasks;
        let split = |role: ItemUse, items: Option<usize>| {
            let own = config.own_splits(role).remove(name);
            let split = own.unwrap_or_else(|| config.split(role).to_string());
            items.map(|items| report::SplitSize { split, items })
        };
        let items = |task: Option<&crate::scores::TaskItems>| task.map(|task| task.items.len());
        report::Task {
            name: name.into(),
            metric: search.map(|task| task.metric.clone()).unwrap_or_default(),
            description: task.description().map(String::from),
            splits: [
                split(ItemUse::Search, items(search)),
                split(ItemUse::Validation, items(validation)),
                split(ItemUse::Test, tested),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    });
    let row = |scores: &ModelScores| report::ScoreRow { name: scores.name.clone(), scores: scores.scores() };
    let outcome = match (model, inputs.whole()) {
        (Some(model), Some(whole)) => Some(outcome(&whole, model)?),
        _ => None,
    };
    let mixture =
        last.zip(inputs.explored).zip(inputs.decided).map(|((last, explored), (decided, _))| report::Mixture {
            steps: decided.steps.clone(),
            left_out: left_out(explored, &explored.points[last.point]),
            ..last.mixture.clone()
        });
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
            quoted(&context.config.tasks.requests(&context.directory)[0]),
            context.config.tasks.split(ItemUse::Test),
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
            outputs: model.map(output_artifacts).transpose()?.unwrap_or_default(),
            unfinished: None,
            activity: None,
        },
        tasks: tasks.collect(),
        models: inputs.headers.map(|headers| headers.models.clone()).unwrap_or_default(),
        compatibility: inputs.headers.map(|headers| headers.pairs.clone()).unwrap_or_default(),
        similarity: inputs.similarity.map(figures::similarity),
        dendrogram: inputs.clusters.map(|clusters| clusters.dendrogram.clone()),
        clustering: inputs.clusters.map(|clusters| clusters.clustering.clone()),
        individual: vec![
            report::ScoreTable {
                split: context.config.tasks.split(ItemUse::Search).to_string(),
                purpose: "Search items: merges are searched on them".into(),
                rows: inputs.baselines.iter().filter_map(Baseline::scores).map(row).collect(),
            },
            report::ScoreTable {
                split: context.config.tasks.split(ItemUse::Validation).to_string(),
                purpose: "Validation items: finished candidates are compared on them".into(),
                rows: inputs.baselines.iter().filter_map(|of| of.validation.as_ref()).map(row).collect(),
            },
        ],
        selections: inputs.selected.iter().map(|selected| selected.selection.clone()).collect(),
        frontier: inputs.explored.map(frontier),
        decisions: decisions(inputs),
        sizes: inputs.whole().map(|whole| sizes(context, &whole)).transpose()?.unwrap_or_default(),
        flips: inputs.tested.map(|(tested, _)| tested.flips.clone()).unwrap_or_default(),
        candidates: inputs.explored.map(|explored| candidates(explored, point)).unwrap_or_default(),
        mixture: mixture.clone(),
        router: last.map(|last| last.router.clone()),
        test: inputs.tested.map(|(tested, _)| tested.test.clone()),
        outcome,
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

/// Every application of the rule so far.
fn decisions(inputs: &ReportInputs<'_>) -> Vec<report::RuleRow> {
    match (inputs.explored, inputs.decided) {
        (Some(explored), decided) => {
            let decided = decided.into_iter().flat_map(|(decided, _)| &decided.decisions);
            explored.decisions.iter().chain(decided).cloned().collect()
        }
        (None, _) => inputs.selected.iter().flat_map(|selected| selected.decisions.clone()).collect(),
    }
}

/// The final model.
fn outcome(whole: &Whole<'_>, model: &Path) -> Result<report::Final, PipelineError> {
    let Whole { explored, decided, .. } = whole;
    let one = &explored.models[explored.one];
    let mixture = decided.last.map(|last| &decided.mixtures[last].mixture);
    let (bytes, dtype) = size(model)?;
    let command = format!("glue generate {FINAL} --prompt \"…\"");
    Ok(report::Final {
        name: FINAL_ROW.into(),
        kind: kind(whole),
        why: decided.why.clone(),
        path: FINAL.into(),
        parameters: mixture.map_or(one.parameters, |mixture| mixture.parameters_total),
        parameters_active: mixture.map(|mixture| mixture.parameters_active),
        bytes: Some(bytes),
        dtype,
        usage: vec![report::Command { title: "generate text".into(), command }],
        made_of: made_of(whole),
        opened_by: opened_by(model, mixture.is_some())?,
    })
}

/// Which programs open the final model.
fn opened_by(model: &Path, is_mixture: bool) -> Result<String, PipelineError> {
    let text = match is_mixture {
        true => {
            let sites = Sites::open(model).map_err(|error| PipelineError::Unsuitable(error.chain()))?;
            sites.format.opened_by().to_string()
        }
        false => "`glue`, transformers, vLLM and other programs that run models of this architecture open this \
                  directory; llama.cpp opens the GGUF file that `glue export` makes of it."
            .to_string(),
    };
    // A report is no Markdown.
    Ok(text.replace('`', ""))
}

/// What the final model is.
fn kind(whole: &Whole<'_>) -> report::FinalKind {
    match whole.decided.last {
        Some(_) => report::FinalKind::Mixture,
        None if whole.explored.models[whole.explored.one].made => report::FinalKind::Merged,
        None => report::FinalKind::Single,
    }
}

/// The models that each expert of the final model is made of, or those of the one model that it is.
fn made_of(whole: &Whole<'_>) -> Vec<Vec<String>> {
    let explored = whole.explored;
    let experts = match whole.decided.last {
        Some(last) => explored.points[whole.decided.mixtures[last].point].experts.clone(),
        None => vec![explored.one],
    };
    experts.into_iter().map(|expert| explored.models[expert].members.clone()).collect()
}

/// Everything that could have been an expert.
fn candidates(explored: &Explored, point: Option<&Point>) -> Vec<report::ExpertCandidate> {
    let kept = |i: usize| match point {
        Some(point) => point.experts.contains(&i),
        None => i == explored.one,
    };
    let left_out = explored.left_out.iter().map(|left_out| report::ExpertCandidate {
        name: left_out.name.clone(),
        members: vec![left_out.name.clone()],
        reason: left_out.reason.clone(),
        ..report::ExpertCandidate::default()
    });
    // Finalists that no partition has are in the decisions.
    let partitions =
        explored.points.iter().flat_map(|point| &point.experts).chain(&explored.merge).chain([&explored.one]);
    let used: Vec<usize> = partitions.copied().collect();
    let shown = |(i, model): &(usize, &ExpertModel)| !model.made || used.contains(i) || model.recipe.is_none();
    let models = explored.models.iter().enumerate().filter(shown);
    models.map(|(i, model)| model.describe(kept(i))).chain(left_out).collect()
}

/// What the final mixture leaves out.
fn left_out(explored: &Explored, point: &Point) -> Vec<report::LeftOut> {
    let used: Vec<&String> = point.experts.iter().flat_map(|&expert| &explored.models[expert].members).collect();
    let others = explored.models.iter().filter(|model| !model.made && !used.contains(&&model.name));
    let reason = "the other experts are as good at every task, or its gain is not worth its parameters";
    let others = others.map(|model| report::LeftOut { name: model.name.clone(), reason: reason.into() });
    explored.left_out.iter().cloned().chain(others).collect()
}

/// The frontier as the report shows it.
fn frontier(explored: &Explored) -> report::Frontier {
    let tasks = explored.models[explored.single].search.iter().flat_map(|scores| &scores.tasks);
    let tasks: Vec<&str> = tasks.map(|task| task.task.as_str()).collect();
    let point = |(i, point): (usize, &Point)| {
        let expert = |&at: &usize| {
            let model = &explored.models[at];
            let own = point.routing.iter().zip(&tasks).filter(|(expert, _)| **expert == at);
            report::FrontierExpert {
                name: model.name.clone(),
                members: model.members.clone(),
                merge: model.merge.clone(),
                tasks: own.map(|(_, task)| task.to_string()).collect(),
            }
        };
        let mut labels = Vec::new();
        if explored.chosen == Some(i) {
            labels.push(report::FrontierPoint::CHOSEN.to_string());
        }
        labels.extend(point.labels.iter().map(|label| match label {
            Label::Members => report::FrontierPoint::MEMBERS.to_string(),
            Label::Paper => report::FrontierPoint::PAPER.to_string(),
        }));
        if point.experts == [explored.single] {
            labels.push(report::FrontierPoint::BEST_SINGLE.to_string());
        }
        report::FrontierPoint {
            experts: point.experts.iter().map(expert).collect(),
            step: point.step.clone(),
            parameters: explored.parameters(point),
            search: explored.routed(point, false).map(|scores| scores.score()),
            validation: explored.routed(point, true).map(|scores| scores.score()),
            labels,
        }
    };
    report::Frontier {
        points: explored.points.iter().enumerate().map(point).collect(),
        evaluations: explored.evaluations,
        note: explored.note.clone(),
    }
}

/// The table of what can be used, by size.
fn sizes(context: &Context<'_>, whole: &Whole<'_>) -> Result<Vec<report::SizeRow>, PipelineError> {
    let Whole { explored, decided, decided_in, tested } = *whole;
    let tasks: Vec<report::Task> = tested.test.rows.first().map_or_else(Vec::new, |row| {
        let task = |score: &report::TaskScore| report::Task { name: score.task.clone(), ..report::Task::default() };
        row.scores.iter().map(task).collect()
    });
    let score = |name: &str| tested.test.rows.iter().find(|row| row.name == name).and_then(|row| row.average(&tasks));
    let gain = |name: &str| {
        let (value, stderr) = *tested.gains.get(name)?;
        Some(report::Score { value, stderr: Some(stderr), n: None })
    };
    let usage = |path: &str| {
        let command = format!("glue generate {path} --prompt \"…\"");
        Some(report::Command { title: "generate text".into(), command })
    };
    let model_row = |name: &str, what: &str, model: &ExpertModel, path: Option<String>| {
        let bytes = size(&context.outside_path(&model.path, model.made)).map(|(bytes, _)| bytes);
        Ok::<_, PipelineError>(score(name).map(|score| report::SizeRow {
            name: name.into(),
            what: what.into(),
            parameters: model.parameters,
            parameters_active: model.parameters,
            bytes: bytes.ok(),
            score,
            gain: gain(name),
            pareto: false,
            last: false,
            usage: path.as_deref().and_then(usage),
            path,
        }))
    };
    let is_single = |row: &&report::TestRow| matches!(row.role, report::Role::Single | report::Role::Base);
    let value = |row: &report::TestRow| row.average(&tasks).map_or(f64::NEG_INFINITY, |score| score.value);
    let singles = tested.test.rows.iter().filter(is_single);
    let best = singles.reduce(|best, row| if value(row) > value(best) { row } else { best });
    let mut rows = Vec::new();
    let mut last_row = None;
    if let Some(best) = best
        && let Some(model) = explored.models.iter().find(|model| !model.made && model.name == best.name)
    {
        let is_last = decided.last.is_none() && explored.models[explored.one].name == best.name;
        let path = is_last.then(|| FINAL.to_string());
        rows.extend(model_row(&best.name, report::SizeRow::BEST_SINGLE, model, path)?.map(|row| report::SizeRow {
            gain: None,
            last: is_last,
            ..row
        }));
        last_row = is_last.then_some(());
    }
    if let Some(model) = explored.merge.map(|merge| &explored.models[merge]) {
        let is_last = decided.last.is_none() && explored.models[explored.one].name == model.name;
        let row = model_row(&model.name, report::SizeRow::BEST_MERGE, model, Some(MERGED.into()))?;
        rows.extend(row.map(|row| report::SizeRow { last: is_last, ..row }));
        last_row = last_row.or(is_last.then_some(()));
    }
    for (i, mixture) in decided.mixtures.iter().enumerate() {
        let is_last = decided.last == Some(i);
        let name = if is_last { FINAL_ROW } else { &mixture.name };
        let point = &explored.points[mixture.point];
        let what = match point.labels.first() {
            Some(Label::Paper) => report::SizeRow::PAPER.to_string(),
            Some(Label::Members) => report::SizeRow::MEMBERS.to_string(),
            None => format!("mixture of {}", words::things(point.experts.len(), "model", "models")),
        };
        let directory = decided_in.join(&mixture.path);
        let path = if is_last { FINAL.to_string() } else { context.inside(&directory) };
        rows.extend(score(name).map(|score| report::SizeRow {
            name: name.into(),
            what: format!("{what}: {}", explored.words(point)),
            parameters: mixture.mixture.parameters_total,
            parameters_active: mixture.mixture.parameters_active,
            bytes: size(&directory).ok().map(|(bytes, _)| bytes),
            score,
            gain: gain(name),
            pareto: false,
            last: is_last,
            usage: usage(&path),
            path: Some(path),
        }));
        last_row = last_row.or(is_last.then_some(()));
    }
    if last_row.is_none() {
        let model = &explored.models[explored.one];
        let row = model_row(FINAL_ROW, &model.name, model, Some(FINAL.into()))?;
        rows.extend(row.map(|row| report::SizeRow { last: true, ..row }));
    }
    report::SizeRow::mark_pareto(&mut rows);
    Ok(rows)
}

fn title(source: &Source) -> String {
    let parent = source.path.parent().and_then(Path::file_name);
    parent.or(source.path.file_stem()).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a reader should know before trusting the rest.
fn warnings(inputs: &ReportInputs<'_>) -> Vec<String> {
    let mut warnings = inputs.shared_items.to_vec();
    let left_out = |(name, why): (&str, &str)| format!("Model {name} could not be scored and is left out: {why}.");
    warnings.extend(inputs.baselines.iter().filter_map(|baseline| baseline.search.unscored()).map(left_out));
    let unscored = inputs.tested.into_iter().flat_map(|(tested, _)| &tested.unscored);
    let tested = unscored.map(|(name, why)| {
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

/// A word, quoted for a POSIX shell if needed.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
