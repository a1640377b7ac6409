//! A whole run.

use crate::config::{ItemUse, ZooConfig};
use crate::error::PipelineError;
use crate::live::Live;
use crate::progress::{Labelled, StageProgress};
use crate::scores::{Baseline, ModelScores, RoleItems, prepare, shared_with_test, tasks};
use crate::stage::{Stage, StageBudget, Stages, hash};
use crate::stages::finish::{self, Finished, ReportInputs, finish, report_so_far};
use crate::stages::frontier::{self, ExploreInputs};
use crate::stages::{compare, mixture, select, test};
use crate::zoo::Zoo;
use glue_eval::{LanguageModel, LocalModel, RoutedModel, Task};
use glue_lm::AnyTextModel;
use glue_progress::CancelToken;
use glue_recipe::SharedExecutor;
pub use glue_select::search::Registries;
use glue_tensor::{Links, files, state};
use serde_json::json;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a run is made.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where the result goes.
    pub out: PathBuf,
    /// Whether to resume the run in that directory.
    pub resume: bool,
    /// The first stage to re-run.
    pub from: Option<Stage>,
    /// The last stage to run.
    pub until: Option<Stage>,
    /// Ends the run, also while a model is at work; finished stages are kept. A cancelled progress does so between
    /// calls of a model.
    pub cancel: CancelToken,
    /// What merges candidates and results. Default: the CPU.
    pub executor: SharedExecutor,
    /// Whether files that a result gets a copy of may be links that lead out of their model directory.
    pub links: Links,
    /// How often the report is rewritten while a stage works; it is rewritten after every stage, too.
    pub report_every: Duration,
}

/// A config with its text and its path.
#[derive(Debug, Clone)]
pub struct Source {
    /// The config.
    pub config: ZooConfig,
    /// The text.
    pub text: String,
    /// The file, as the user named it. Relative paths start at its directory.
    pub path: PathBuf,
}

/// Everything that stages have in common.
pub(crate) struct Context<'a> {
    pub(crate) config: &'a ZooConfig,
    /// The directory of the config, relative to the working directory.
    pub(crate) directory: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) zoo: Zoo,
    pub(crate) tasks: Arc<[Task]>,
    pub(crate) registries: Registries<'a>,
    pub(crate) progress: &'a dyn StageProgress,
    pub(crate) live: &'a Live<'a>,
    pub(crate) cancel: CancelToken,
    pub(crate) executor: SharedExecutor,
    pub(crate) links: Links,
}

impl<'a> Context<'a> {
    /// The directory of a model of the zoo.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.zoo.path_of(name)
    }

    pub(crate) fn layers_of(&self, name: &str) -> usize {
        let model = self.zoo.models.iter().find(|model| model.name == name);
        model.and_then(|model| model.dir.config().num_layers()).unwrap_or(0)
    }

    /// A path in the run, relative to its directory, with the final name of its stage.
    pub(crate) fn inside(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.out).unwrap_or(path);
        let part = |part: &std::ffi::OsStr| part.to_string_lossy().trim_end_matches(".work").to_string();
        below.iter().map(part).collect::<Vec<_>>().join("/")
    }

    /// The directory of a candidate, relative to the working directory.
    pub(crate) fn outside_path(&self, path: &str, made: bool) -> PathBuf {
        if made { self.out.join(path) } else { path.into() }
    }

    /// The same as text.
    pub(crate) fn outside(&self, path: &str, made: bool) -> String {
        self.outside_path(path, made).display().to_string()
    }

    /// The progress of one piece of work.
    pub(crate) fn labelled(&self, label: &str) -> Labelled<'_> {
        Labelled { progress: self.progress, cancel: &self.cancel, label: label.into() }
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.progress.is_cancelled()
    }

    /// Maximum seconds of a search, if earlier ones took `spent` seconds.
    pub(crate) fn seconds_of(&self, own: Option<f64>, spent: f64) -> Option<f64> {
        let remaining = self.config.limits.seconds.map(|all| (all - spent).max(0.0));
        match (own, remaining) {
            (Some(own), Some(remaining)) => Some(own.min(remaining)),
            (own, remaining) => own.or(remaining),
        }
    }

    /// The items of a role, read and rendered. Prompts in a chat template are put into that of the first model.
    pub(crate) fn items(&self, role: ItemUse) -> Result<RoleItems, PipelineError> {
        let chat = match self.config.tasks.apply_chat_template {
            true => {
                let model = &self.zoo.models[0];
                let opened = self.open_any(&model.path);
                Some(opened.map_err(|error| PipelineError::Run { model: model.name.clone(), error })?)
            }
            false => None,
        };
        prepare(&self.tasks, &self.config.tasks, role, self.config.seed, chat.as_deref())
    }

    /// Scores a model of the zoo by itself.
    fn baseline(
        &self,
        model: &crate::zoo::ZooModel,
        search: &RoleItems,
        validation: &RoleItems,
    ) -> Result<Baseline, PipelineError> {
        let opened = self.open_any(&model.path);
        let opened = opened.map_err(|error| PipelineError::Run { model: model.name.clone(), error })?;
        let progress = self.labelled(&model.name);
        let score = |items| ModelScores::of(&model.name, &*opened, items, &progress).map_err(|e| self.stopped_or(e));
        let search = score(search)?;
        let validation = if search.scores().is_some() { score(validation)?.scores().cloned() } else { None };
        Ok(Baseline { search, validation })
    }

    /// [`PipelineError::Stopped`] if the run was cancelled, otherwise `error`.
    pub(crate) fn stopped_or(&self, error: PipelineError) -> PipelineError {
        if self.is_cancelled() { PipelineError::Stopped } else { error }
    }

    /// Opens a model or a mixture of any kind.
    pub(crate) fn open_any(
        &self,
        path: &Path,
    ) -> Result<Box<dyn LanguageModel>, Box<dyn std::error::Error + Send + Sync>> {
        let name = path.display().to_string();
        Ok(match AnyTextModel::open(path)? {
            AnyTextModel::Routed(mixture) => Box::new(RoutedModel::new(*mixture, name)?.with_cancel(&self.cancel)),
            AnyTextModel::One(text) => Box::new(LocalModel::new(*text, name)?.with_cancel(self.cancel.clone())),
            _ => return Err("a kind of model that cannot be scored".into()),
        })
    }
}

/// How a run ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// With a report and a final model.
    Finished(Box<Finished>),
    /// After the stage given by [`RunOptions::until`].
    Until(Stage),
}

/// Runs the stages of `source`.
///
/// # Errors
/// [`PipelineError`]; finished stages stay in `out` for a run with `resume`.
pub fn run(
    source: &Source,
    registries: Registries<'_>,
    options: &RunOptions,
    progress: &dyn StageProgress,
) -> Result<Ended, PipelineError> {
    let config = &source.config;
    let directory = source.path.parent().unwrap_or(Path::new("")).to_path_buf();
    // Everything that can be refused is refused before the output is touched.
    let zoo = Zoo::open(config, &directory)?;
    for model in &zoo.models {
        model.dir.check_links(options.links)?;
    }
    let tasks: Arc<[Task]> = tasks(&config.tasks, &directory)?.into();
    let _lock = lock_output(&options.out, options.resume)?;
    let live = Live::new(progress, options.report_every, |report, cost| {
        // Without it the report is older; the one after the stage tells what is wrong.
        let _ = finish::write(&options.out, report, cost);
    });
    let context = Context {
        config,
        directory,
        out: options.out.clone(),
        zoo,
        tasks,
        registries,
        progress: &live,
        live: &live,
        cancel: options.cancel.clone(),
        executor: options.executor.clone(),
        links: options.links,
    };
    stages(source, &context, options)
}

fn stages(source: &Source, context: &Context<'_>, options: &RunOptions) -> Result<Ended, PipelineError> {
    let config = context.config;
    let go_on = || if context.is_cancelled() { Err(PipelineError::Stopped) } else { Ok(()) };
    let hashes = context.zoo.hashes()?;
    let names: Vec<_> = context.zoo.models.iter().map(|model| (&model.name, model.base)).collect();
    let identity = json!({ "models": hashes, "names": names });
    context.zoo.check_unchanged()?;
    let shared_items = shared_with_test(&context.tasks, &config.tasks, config.seed);
    let mut inputs = ReportInputs {
        headers: None,
        similarity: None,
        clusters: None,
        baselines: &[],
        selected: &[],
        selected_in: Path::new(""),
        explored: None,
        decided: None,
        tested: None,
        model_hashes: &hashes,
        shared_items: &shared_items,
    };
    let mut made = Stages::new(&options.out, identity, options.from, options.until, &context.zoo);
    let ended = |stage: Stage| Ok(Ended::Until(stage));

    go_on()?;
    let Some(headers) =
        made.run(Stage::Compatibility, json!(null), StageBudget::default(), context.progress, |_| {
            compare::compare_headers(&context.zoo)
        })?
    else {
        return ended(Stage::Compatibility);
    };
    inputs.headers = Some(&headers.result);
    report_so_far(source, context, &inputs, (Stage::Compatibility, made.costs()))?;
    let own = json!(config.cluster.metric);
    let Some(similarity) = made.run(Stage::Similarity, own, StageBudget::default(), context.progress, |place| {
        compare::measure(&context.zoo, &config.cluster, place, &context.labelled("all models"))
            .map_err(|e| context.stopped_or(e))
    })?
    else {
        return ended(Stage::Compatibility);
    };
    inputs.similarity = Some(&similarity.result);
    report_so_far(source, context, &inputs, (Stage::Similarity, made.costs()))?;
    let own = json!(config.cluster);
    let Some(clusters) = made.run(Stage::Clusters, own, StageBudget::default(), context.progress, |_| {
        compare::group(&similarity.result, &config.cluster)
    })?
    else {
        return ended(Stage::Similarity);
    };
    inputs.clusters = Some(&clusters.result);
    report_so_far(source, context, &inputs, (Stage::Clusters, made.costs()))?;
    go_on()?;
    // Earlier stages do not depend on the tasks. Items are read role by role, the test items last.
    let items = |role| context.items(role);
    let (search, validation) = (items(ItemUse::Search)?, items(ItemUse::Validation)?);
    let scoring = json!({
        "search": search.content_hashes(),
        "validation": validation.content_hashes(),
        "seed": config.seed,
    });
    let Some(baselines) = made.run(Stage::Baselines, scoring, StageBudget::default(), context.progress, |place| {
        let mut all: Vec<Baseline> = Vec::new();
        for (i, model) in context.zoo.models.iter().enumerate() {
            let path = place.join(format!("model-{i}.json"));
            let scores = match crate::stage::read_json(&path, Stage::Baselines)? {
                Some(known) => known,
                None => {
                    let scores = context.baseline(model, &search, &validation)?;
                    crate::stage::write_json(&path, &scores)?;
                    scores
                }
            };
            all.push(scores);
        }
        match all.iter().find_map(|baseline| baseline.search.unscored()) {
            Some((model, why)) if all.iter().all(|baseline| baseline.scores().is_none()) => {
                Err(PipelineError::NoScores { model: model.into(), reason: why.into() })
            }
            _ => Ok(all),
        }
    })?
    else {
        return ended(Stage::Clusters);
    };
    inputs.baselines = &baselines.result;
    report_so_far(source, context, &inputs, (Stage::Baselines, made.costs()))?;
    go_on()?;
    // Budgets are not part of a key: a larger one continues.
    let mut own = json!({ "select": config.select.without_limits(), "dtype": config.dtype });
    if let Some(statistics) = select::hash_statistics(context)? {
        own["statistics"] = statistics;
    }
    let Some(selected) = made.run(Stage::Select, own, select::stage_budget(config), context.progress, |place| {
        select::select(context, &clusters.result, &headers.result, &similarity.result, &baselines.result, place)
    })?
    else {
        return ended(Stage::Baselines);
    };
    inputs.selected = &selected.result;
    inputs.selected_in = &selected.directory;
    report_so_far(source, context, &inputs, (Stage::Select, made.costs()))?;
    go_on()?;
    let own = json!({
        "frontier": config.frontier.enabled,
        "stack": config.stack,
        "candidates": config.mixture.candidates,
        "experts": config.mixture.experts,
        "size": [config.limits.size, config.limits.parameters],
    });
    let budget = StageBudget { evaluations: Some(config.frontier.evaluations), ..StageBudget::default() };
    let Some(explored) = made.run(Stage::Frontier, own, budget, context.progress, |place| {
        let inputs = ExploreInputs {
            clusters: &clusters.result,
            compatible: &headers.result,
            matrix: &similarity.result,
            baselines: &baselines.result,
            selected: &selected.result,
            selected_in: &selected.directory,
            prepared: [&search, &validation],
        };
        frontier::explore(context, &inputs, place)
    })?
    else {
        return ended(Stage::Select);
    };
    inputs.explored = Some(&explored.result);
    report_so_far(source, context, &inputs, (Stage::Frontier, made.costs()))?;
    go_on()?;
    let own = match config.mixture.enabled {
        true => json!({ "mixture": config.mixture, "router": items(ItemUse::Router)?.content_hashes() }),
        false => json!(null),
    };
    let Some(decided) = made.run(Stage::Mixture, own, StageBudget::default(), context.progress, |place| {
        mixture::mix(context, &headers.result, &explored.result, &validation, place)
    })?
    else {
        return ended(Stage::Frontier);
    };
    inputs.decided = Some((&decided.result, &decided.directory));
    report_so_far(source, context, &inputs, (Stage::Mixture, made.costs()))?;
    go_on()?;
    if options.until == Some(Stage::Mixture) {
        return ended(Stage::Mixture);
    }
    let token = test::TestSetToken::new(&explored.result, &decided.result, &decided.directory);
    let items = token.items(context)?;
    let Some(tested) =
        made.run(Stage::Test, json!(items.content_hashes()), StageBudget::default(), context.progress, |place| {
            test::test(context, &token, &items, &baselines.result, &selected.result, place)
        })?
    else {
        return ended(Stage::Mixture);
    };
    inputs.tested = Some((&tested.result, &tested.directory));
    report_so_far(source, context, &inputs, (Stage::Test, made.costs()))?;
    if options.until == Some(Stage::Test) {
        return ended(Stage::Test);
    }
    context.progress.stage(Stage::Report, false);
    Ok(Ended::Finished(Box::new(finish(source, context, &inputs, made.costs())?)))
}

/// The lock of a run, held until it ends.
///
/// A run removes and replaces what is in its directory. A directory is therefore resumed only if its lock file marks it
/// as a run, and if it holds nothing but files and directories: a link would lead out of it.
fn lock_output(out: &Path, resume: bool) -> Result<File, PipelineError> {
    let in_out = |error| PipelineError::io(out, error);
    let occupied = |found: &str| PipelineError::Occupied { path: out.into(), found: found.into() };
    let entries: Vec<String> = match fs::read_dir(out) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, _>>()
            .map_err(in_out)?,
        Err(_) if !out.exists() => Vec::new(),
        Err(error) => return Err(in_out(error)),
    };
    let path = out.join(LOCK);
    let at = |error| PipelineError::io(&path, error);
    check_plain(out, LOCK)?;
    check_plain(out, STAGES)?;
    let marked = match files::read(&path, MARKER.len() as u64) {
        // A run that was killed at its start leaves a part of the marker and nothing else.
        Ok(found) => found == MARKER || MARKER.starts_with(&found) && entries.len() == 1,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => false,
        Err(error) => return Err(at(error)),
    };
    match (entries.iter().min(), marked, resume) {
        (None, ..) | (Some(_), true, true) => {}
        (Some(_), true, false) => return Err(occupied("a run; `--resume` continues it")),
        (Some(first), false, _) => return Err(occupied(&format!("`{first}`, which is not from a run"))),
    }
    fs::create_dir_all(out).map_err(in_out)?;
    let lock = state::open_lock(&path).map_err(at)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(occupied("a run in another process")),
        Err(TryLockError::Error(error)) => return Err(at(error)),
    }
    // Before anything else: whatever a killed process leaves is then marked as a run.
    lock.write_all_at(MARKER, 0).and_then(|()| lock.sync_all()).map_err(at)?;
    fs::create_dir_all(out.join(STAGES)).map_err(in_out)?;
    Ok(lock)
}

/// Refuses anything but files and directories under `name` in the directory of a run.
fn check_plain(out: &Path, name: &str) -> Result<(), PipelineError> {
    let mut open = vec![out.join(name)];
    while let Some(path) = open.pop() {
        let at = |error| PipelineError::io(&path, error);
        let kind = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(at)?.file_type(),
        };
        if kind.is_dir() {
            let entries = match fs::read_dir(&path) {
                // Another process has just moved it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(at)?,
            };
            for entry in entries {
                open.push(entry.map_err(at)?.path());
            }
        } else if !kind.is_file() {
            let inside = path.strip_prefix(out).unwrap_or(&path).display();
            let found = format!("`{inside}`, which is {}: a run has only files and directories", files::describe(kind));
            return Err(PipelineError::Occupied { path: out.into(), found });
        }
    }
    Ok(())
}

const LOCK: &str = ".lock";
const STAGES: &str = "stages";

/// The contents of the lock file.
const MARKER: &[u8] = b"glue run\n";

/// A hash of the config of a run.
pub(crate) fn config_hash(source: &Source) -> String {
    hash(&source.text)
}
