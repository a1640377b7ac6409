//! A LoRA adapter: its base model, the tensors it changes, and their ranks.

use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_tensor::adapter::Change;
use glue_tensor::{Adapter, AdapterError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The report on an adapter. The fields are those of the JSON document.
#[derive(Debug, Serialize)]
struct Report {
    path: String,
    /// `lora`.
    adapter: &'static str,
    /// The base model named in its configuration.
    base_model: Option<String>,
    rank: usize,
    alpha: f64,
    rslora: bool,
    fan_in_fan_out: bool,
    parameters: u64,
    dtypes: Vec<&'static str>,
    bytes: u64,
    n_tensors: usize,
    /// Number of model tensors that get a low-rank product.
    low_rank: usize,
    /// Number of model tensors that are replaced.
    full: usize,
    /// By the last part of the module's name.
    modules: Vec<Modules>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<Tensor>>,
}

/// Modules with the same last part of their names.
#[derive(Debug, Default, Serialize)]
struct Modules {
    name: String,
    changed: usize,
    replaced: usize,
    least_rank: Option<usize>,
    most_rank: Option<usize>,
    parameters: u64,
}

/// A tensor of the model that is changed.
#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    rank: Option<usize>,
    scale: Option<f64>,
    transposed: bool,
    replaced: bool,
    bytes: u64,
}

/// Prints the report on the adapter at `path`.
pub(super) fn run(path: &Path, list_tensors: bool, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let adapter = Adapter::open(path).map_err(|error| match error {
        AdapterError::NotFound { .. } | AdapterError::NotADirectory { .. } => Failure::refused(error),
        error => Failure::failed(error),
    })?;
    let report = gather(path, &adapter, list_tensors);
    if shell.json() {
        return shell.print_json(&report);
    }
    let text = render(&report, |text| shell.heading(text));
    shell.print(&text)
}

fn gather(path: &Path, adapter: &Adapter, list_tensors: bool) -> Report {
    let (config, checkpoint) = (adapter.config(), adapter.checkpoint());
    let mut modules: BTreeMap<&str, Modules> = BTreeMap::new();
    for (name, change) in adapter.changes() {
        // A target parameter has a name of its own; a weight or bias has that of its module.
        let is_parameter = change.low_rank.as_ref().is_some_and(|low_rank| low_rank.experts > 1);
        let of_module = name.rsplit_once('.').filter(|_| !is_parameter);
        let module = of_module.map_or(name.as_str(), |(module, _)| module);
        let last = module.rsplit('.').next().unwrap_or(module);
        let found = modules.entry(last).or_default();
        found.name = last.to_string();
        found.replaced += usize::from(change.full.is_some());
        if let Some(low_rank) = &change.low_rank {
            found.changed += 1;
            found.least_rank = Some(found.least_rank.map_or(low_rank.rank, |least| least.min(low_rank.rank)));
            found.most_rank = found.most_rank.max(Some(low_rank.rank));
        }
        found.parameters += parameters(adapter, change);
    }
    let mut dtypes: Vec<&str> = checkpoint.tensors().iter().map(|info| info.dtype.safetensors_name()).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    let tensor = |(name, change): (&String, &Change)| Tensor {
        name: name.clone(),
        rank: change.low_rank.as_ref().map(|low_rank| low_rank.rank),
        scale: change.low_rank.as_ref().map(|low_rank| low_rank.scale),
        transposed: change.low_rank.as_ref().is_some_and(|low_rank| low_rank.transposed),
        replaced: change.full.is_some(),
        bytes: adapter.n_bytes(change),
    };
    Report {
        path: path.display().to_string(),
        adapter: "lora",
        base_model: config.base_model.clone(),
        rank: config.rank,
        alpha: config.alpha,
        rslora: config.use_rslora,
        fan_in_fan_out: config.fan_in_fan_out,
        parameters: checkpoint.n_parameters(),
        dtypes,
        bytes: checkpoint.total_bytes(),
        n_tensors: checkpoint.tensors().len(),
        low_rank: adapter.changes().values().filter(|change| change.low_rank.is_some()).count(),
        full: adapter.changes().values().filter(|change| change.full.is_some()).count(),
        modules: modules.into_values().collect(),
        tensors: list_tensors.then(|| adapter.changes().iter().map(tensor).collect()),
    }
}

fn parameters(adapter: &Adapter, change: &Change) -> u64 {
    let factors = change.low_rank.iter().flat_map(|low_rank| [&low_rank.a, &low_rank.b]);
    change.full.iter().chain(factors).map(|name| adapter.tensor(name).info().n_elements() as u64).sum()
}

fn render(report: &Report, heading: impl Fn(&str) -> String) -> String {
    let mut facts = Table::new(&[Align::Left, Align::Left]);
    facts.row(["adapter", "LoRA"]);
    if let Some(base) = &report.base_model {
        facts.row(["made for", base]);
    }
    let by = if report.rslora { "√rank" } else { "rank" };
    facts.row(["rank", &format!("{}, unless rank_pattern overrides it", report.rank)]);
    facts.row(["scale", &format!("{} / {by}, unless alpha_pattern overrides it", report.alpha)]);
    if report.fan_in_fan_out {
        facts.row(["weights", "stored as [in, out]"]);
    }
    facts.row(["changes", &units::things(report.low_rank, "tensor", "tensors")]);
    if report.full > 0 {
        facts.row(["replaces", &units::things(report.full, "tensor", "tensors")]);
    }
    facts.row(["parameters", &units::parameters(report.parameters)]);
    facts.row(["type", &report.dtypes.join(", ")]);
    facts.row(["size", &units::bytes(report.bytes)]);
    let mut modules = Table::with_header(&[
        ("MODULE", Align::Left),
        ("CHANGED", Align::Right),
        ("REPLACED", Align::Right),
        ("RANK", Align::Right),
        ("PARAMETERS", Align::Right),
    ]);
    for module in &report.modules {
        let rank = match (module.least_rank, module.most_rank) {
            (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
            (Some(rank), _) => rank.to_string(),
            _ => "–".to_string(),
        };
        modules.row([
            module.name.clone(),
            units::count(module.changed as u64),
            units::count(module.replaced as u64),
            rank,
            units::count(module.parameters),
        ]);
    }
    let mut text = format!("{}\n{}\n{}", heading(&report.path), facts.render(str::to_string), modules.render(&heading));
    if let Some(tensors) = &report.tensors {
        let mut table = Table::with_header(&[
            ("TENSOR OF THE MODEL", Align::Left),
            ("RANK", Align::Right),
            ("SCALE", Align::Right),
            ("REPLACED", Align::Left),
        ]);
        for tensor in tensors {
            table.row([
                tensor.name.clone(),
                tensor.rank.map_or("–".to_string(), |rank| rank.to_string()),
                tensor.scale.map_or("–".to_string(), |scale| scale.to_string()),
                if tensor.replaced { "yes" } else { "no" }.to_string(),
            ]);
        }
        text += &format!("\n{}", table.render(&heading));
    }
    text
}
