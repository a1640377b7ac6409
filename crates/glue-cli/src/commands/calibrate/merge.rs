//! `glue calibrate --merge`: Gram matrices for RegMean++, of all models of a merge config.

use super::sequences::{self, Selection};
use super::{Args, Expert, TextModelOfFiles, idle_experts, recipes, refusal};
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_calibrate::{LayerMerger, LayerwiseEstimate, LayerwiseModel, LayerwisePlan, Sequence, calibrate_layerwise};
use glue_lm::Model;
use glue_merge::{Plan, Registry, StatisticOf, StatisticSpec};
use glue_progress::Progress;
use glue_recipe::recipe::{Body, InputModel};
use glue_recipe::{
    Action, At, FilePosition, MergePlan, PlanOptions, PlannedModel, Position, Recipe, RunOptions, TensorPlan,
};
use glue_select::local::partly_merged_model;
use glue_tensor::{ContentHash, Role, TensorName, writer};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A model of the config, with what it reads.
struct Input {
    name: String,
    opened: TextModelOfFiles,
    sequences: Vec<Sequence>,
    source: Value,
    /// Where its statistics go.
    out: PathBuf,
}

/// Measures, writes and prints.
pub(super) fn run(
    config: &Path,
    args: &Args,
    global: &Global,
    registry: &Registry,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let recipes = recipes::read(config, false, registry, shell)?;
    let [recipe] = recipes.as_slice() else {
        return Err(refused(format!(
            "{}: the config holds {} documents, expected one",
            config.display(),
            recipes.len()
        )));
    };
    let listed = models_of(recipe)?;
    let mut options = PlanOptions::default();
    options.seed = global.seed;
    options.without_statistics = true;
    let plan = recipes::plan(recipe, &options)?;
    let planned = planned_models(recipe, &plan, &listed)?;
    let own = own_data(&args.data, &listed)?;

    let pool = recipes::pool(global)?;
    let hash = ContentHash::of(recipe.text.as_bytes()).to_string();
    let mut inputs = Vec::with_capacity(listed.len());
    for ((input, planned), own) in listed.iter().zip(&planned).zip(&own) {
        // With an adapter, the name has the paths of both.
        let path = match &planned.adapter {
            Some(_) => Path::new(&planned.name),
            None => planned.dir.path(),
        };
        let selection = Selection::of(args, path).only(own);
        if selection.is_empty() {
            let nothing = format!("model {} has no data to read", planned.name);
            return Err(
                refused(nothing).hint(Some("add --data MODEL=FILE for it, or --text or --tasks for all models"))
            );
        }
        let opened = TextModelOfFiles::open(path)?;
        let (sequences, mut source) = pool.install(|| sequences::read(&selection, &opened.text))?;
        let names: Vec<&str> = listed.iter().map(|input| input.model.value.as_str()).collect();
        source["merge"] = json!({ "config": config.display().to_string(), "xxh3_128": hash, "models": names });
        let out = input.statistics.as_ref().map_or_else(PathBuf::new, |statistics| PathBuf::from(&statistics.value));
        inputs.push(Input { name: planned.name.clone(), opened, sequences, source, out });
    }
    let data: Vec<(&Model, &[Sequence])> =
        inputs.iter().map(|input| (&input.opened.text.model, input.sequences.as_slice())).collect();
    let layerwise = LayerwisePlan::new(&data, args.max_memory).map_err(refusal)?;
    let threads = pool.current_num_threads();
    let estimate = layerwise.estimate(threads);
    let mut report = Report::new(config, &inputs, &estimate, merge_bytes(&plan, threads));
    if args.dry_run {
        return report.print(shell);
    }
    let start = Instant::now();
    let progress = CommandProgress::new(shell);
    let models: Vec<LayerwiseModel<'_>> = inputs
        .iter()
        .map(|input| LayerwiseModel {
            model: &input.opened.text.model,
            files: input.opened.files(),
            sequences: &input.sequences,
            source: &input.source,
            out_dir: &input.out,
        })
        .collect();
    let mut merger = RecipeMerger { recipe, options, cancel: Cancel(&progress) };
    let done = pool.install(|| calibrate_layerwise(&models, &layerwise, &mut merger, &progress));
    drop(progress);
    let done = done.map_err(refusal)?;
    report.dry_run = false;
    for (model, done) in report.models.iter_mut().zip(&done) {
        model.idle_experts = Some(idle_experts(done, &model.model, shell));
    }
    report.seconds = Some(start.elapsed().as_secs_f64());
    report.print(shell)
}

fn refused(message: String) -> Failure {
    Failure::refused(std::io::Error::new(std::io::ErrorKind::InvalidInput, message))
}

/// A refusal of what stands at a place of the config.
fn refused_at(recipe: &Recipe, at: Position, what: &str) -> Failure {
    let place: FilePosition = at.of(&recipe.origin);
    refused(format!("{place}: {what}"))
}

/// The models of a config that can be measured layer by layer.
fn models_of(recipe: &Recipe) -> Result<Vec<&InputModel>, Failure> {
    let operator = &recipe.operator;
    let uses = operator.value.statistic().filter(|statistic| statistic.of == StatisticOf::Inputs);
    if uses.is_none_or(|statistic| statistic.name != StatisticSpec::GRAM) {
        let what = format!(
            "`{}` does not use the statistic `gram` of each model, which --merge measures; expected an operator that \
             does, such as regmean",
            operator.value.def().name
        );
        return Err(refused_at(recipe, operator.at, &what));
    }
    let models = match recipe.parts.as_slice() {
        [part] if part.module.is_none() => match &part.body {
            Body::Models(models) => models,
            _ => return Err(refused_at(recipe, part.at, "--merge needs whole models (`models`), not slices")),
        },
        [part, ..] => return Err(refused_at(recipe, part.at, "--merge needs whole models (`models`), not modules")),
        [] => return Err(refused_at(recipe, recipe.at, "--merge needs `models`")),
    };
    let mut places: BTreeMap<&str, &str> = BTreeMap::new();
    for input in models {
        let name = &input.model.value;
        let Some(statistics) = &input.statistics else {
            let what = format!("`{name}` has no `statistics`, the directory that its Gram matrices are written to");
            return Err(refused_at(recipe, input.model.at, &what));
        };
        if let Some(other) = places.insert(&statistics.value, name) {
            let what = format!(
                "the statistics of `{other}` and `{name}` would both be written to `{}`, expected a directory for each",
                statistics.value
            );
            return Err(refused_at(recipe, statistics.at, &what));
        }
    }
    Ok(models.iter().collect())
}

/// The planned model of each of these.
fn planned_models<'a>(
    recipe: &Recipe,
    plan: &'a MergePlan,
    listed: &[&InputModel],
) -> Result<Vec<&'a PlannedModel>, Failure> {
    let number = |input: &&InputModel| plan.models.iter().position(|model| model.name == input.model.value);
    let numbers: Vec<usize> = listed.iter().filter_map(number).collect();
    if numbers.len() != listed.len() {
        // A base that is not used may be one of the models by another path.
        return Err(refused_at(recipe, recipe.operator.at, "a model of the config is also given by another path"));
    }
    let of_another = |tensor: &&TensorPlan| tensor.inputs().iter().any(|input| !numbers.contains(&input.model));
    if let Some(tensor) = plan.tensors.iter().find(|tensor| tensor.layer.is_some() && of_another(tensor)) {
        let what = format!(
            "`{}` of the base would stand in for that of a model (`on_missing: base`), and the base is not measured",
            tensor.name
        );
        return Err(refused_at(recipe, recipe.operator.at, &what));
    }
    Ok(numbers.iter().map(|&number| &plan.models[number]).collect())
}

/// For each model, the data that `--data` gives to it.
fn own_data<'a>(data: &'a [(String, String)], listed: &[&InputModel]) -> Result<Vec<Vec<&'a str>>, Failure> {
    let mut own = vec![Vec::new(); listed.len()];
    for (model, name) in data {
        let short = |path: &str| Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        let whole = listed.iter().position(|input| input.model.value == *model);
        let by_name: Vec<usize> =
            (0..listed.len()).filter(|&i| short(&listed[i].model.value).as_deref() == Some(model.as_str())).collect();
        let found = whole.or(match by_name.as_slice() {
            [only] => Some(*only),
            _ => None,
        });
        let Some(found) = found else {
            let names: Vec<&str> = listed.iter().map(|input| input.model.value.as_str()).collect();
            let why = if by_name.len() > 1 { "is the name of several models" } else { "is no model" };
            return Err(refused(format!("--data {model}={name}: `{model}` {why} of the config: {}", names.join(", "))));
        };
        own[found].push(name.as_str());
    }
    Ok(own)
}

/// Peak bytes of the buffers that merging a layer takes, with the layer itself.
fn merge_bytes(plan: &MergePlan, threads: usize) -> u64 {
    let mut layers: BTreeMap<usize, u64> = BTreeMap::new();
    let mut buffers = 0;
    for tensor in &plan.tensors {
        let (Some((layer, _)), Action::Merge { params, inputs, .. }) = (tensor.layer, &tensor.action) else { continue };
        *layers.entry(layer).or_default() += tensor.n_bytes();
        let spec = plan.spec(tensor).with_statistic(plan.operator.statistic());
        let unit = plan.operator.unit(&spec);
        if let Ok(Plan::Reduce(reduction)) = plan.operator.plan(&unit, params) {
            let statistic: usize = unit.statistic_shape().iter().flatten().product();
            let values = inputs.len() * (unit.len() + statistic) + 2 * unit.len();
            buffers = buffers.max(reduction.working_bytes() + (size_of::<f32>() * values) as u64);
        }
    }
    layers.values().max().copied().unwrap_or(0) + threads as u64 * buffers
}

/// Merges the layers of a config.
struct RecipeMerger<'a> {
    recipe: &'a Recipe,
    /// Without statistics; models stay open.
    options: PlanOptions,
    cancel: Cancel<'a>,
}

impl RecipeMerger<'_> {
    fn merged(
        &self,
        recipe: &Recipe,
        options: &PlanOptions,
        keep: impl Fn(&TensorPlan) -> bool,
    ) -> Result<Model, Box<dyn Error + Send + Sync>> {
        let plan = glue_recipe::plan(recipe, options)?;
        Ok(partly_merged_model(plan, keep, &RunOptions::default(), &self.cancel)?)
    }
}

impl LayerMerger for RecipeMerger<'_> {
    fn embedding(&mut self) -> Result<Model, Box<dyn Error + Send + Sync>> {
        self.merged(self.recipe, &self.options, |tensor| TensorName::parse(&tensor.name).role == Role::Embedding)
    }

    fn layer(&mut self, layer: usize, statistics: &[PathBuf]) -> Result<Model, Box<dyn Error + Send + Sync>> {
        let mut recipe = self.recipe.clone();
        for part in &mut recipe.parts {
            let Body::Models(models) = &mut part.body else { continue };
            for (input, path) in models.iter_mut().zip(statistics) {
                let path = path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
                input.statistics = Some(At::new(path.to_owned(), input.model.at));
            }
        }
        let mut options = self.options.clone();
        options.without_statistics = false;
        self.merged(&recipe, &options, |tensor| tensor.layer.is_some_and(|(number, _)| number == layer))
    }
}

/// Hears when to stop, and shows nothing: merging a layer is a part of what is counted.
struct Cancel<'a>(&'a dyn Progress);

impl Progress for Cancel<'_> {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// The result, and the plan of a dry run.
#[derive(Debug, Serialize)]
struct Report {
    config: String,
    dry_run: bool,
    statistics: Vec<&'static str>,
    models: Vec<ModelReport>,
    passes: usize,
    tensors: usize,
    bytes_written: u64,
    /// Peak bytes of sums, activations, residual streams in memory, and merging a layer.
    memory: u64,
    memory_of_sums: u64,
    /// Bytes of residual streams.
    streams: u64,
    /// Whether they are kept in a file.
    streams_in_file: bool,
    free: Option<u64>,
    /// Null in a dry run.
    seconds: Option<f64>,
}

/// What is said of one model.
#[derive(Debug, Serialize)]
struct ModelReport {
    model: String,
    output: String,
    source: Value,
    sequences: usize,
    /// Tokens that the model reads.
    tokens: usize,
    /// Experts that no token came to; null in a dry run.
    idle_experts: Option<Vec<Expert>>,
}

impl Report {
    fn new(config: &Path, inputs: &[Input], estimate: &LayerwiseEstimate, merging: u64) -> Report {
        let model = |input: &Input| ModelReport {
            model: input.name.clone(),
            output: input.out.display().to_string(),
            source: input.source.clone(),
            sequences: input.sequences.len(),
            tokens: input.sequences.iter().map(Sequence::read).sum(),
            idle_experts: None,
        };
        let streams = if estimate.spooled { 0 } else { estimate.stream_bytes };
        Report {
            config: config.display().to_string(),
            dry_run: true,
            statistics: vec![StatisticSpec::GRAM],
            models: inputs.iter().map(model).collect(),
            passes: estimate.passes,
            tensors: estimate.tensors,
            bytes_written: estimate.output_bytes,
            // A layer is merged when the sums are written.
            memory: streams + (estimate.sum_bytes + estimate.activation_bytes).max(merging + estimate.activation_bytes),
            memory_of_sums: estimate.sum_bytes,
            streams: estimate.stream_bytes,
            streams_in_file: estimate.spooled,
            free: inputs.first().and_then(|input| writer::free_bytes(&input.out)),
            seconds: None,
        }
    }

    fn print(&self, shell: &mut Shell<'_>) -> Result<(), Failure> {
        if shell.json() {
            return shell.print_json(self);
        }
        let mut models = Table::with_header(&[
            ("model", Align::Left),
            ("statistics", Align::Left),
            ("sequences", Align::Right),
            ("tokens", Align::Right),
        ]);
        for model in &self.models {
            let (sequences, tokens) = (units::count(model.sequences as u64), units::count(model.tokens as u64));
            models.row([model.model.clone(), model.output.clone(), sequences, tokens]);
        }
        let mut table = Table::new(&[Align::Left, Align::Left]);
        let mut row = |name: &str, value: String| table.row([name.to_string(), value]);
        row("config", self.config.clone());
        row("tensors", units::count(self.tensors as u64));
        row("written", units::bytes(self.bytes_written));
        if self.passes > 1 {
            row("passes", format!("up to {} through a layer", self.passes));
        }
        if self.dry_run {
            let place = if self.streams_in_file { "in a file" } else { "in memory" };
            row(
                "memory",
                format!("{}, of which sums {}", units::bytes(self.memory), units::bytes(self.memory_of_sums)),
            );
            row("residual streams", format!("{} {place}", units::bytes(self.streams)));
            row("free", self.free.map_or("unknown".to_string(), units::bytes));
        }
        if let Some(seconds) = self.seconds {
            row("time", units::duration(seconds));
            row("next", format!("glue merge {} OUT_DIR", self.config));
        }
        let heading = |heading: &str| shell.heading(heading);
        let text = format!("{}\n{}", models.render(heading), table.render(|heading| heading.to_string()));
        shell.print(&text)
    }
}
