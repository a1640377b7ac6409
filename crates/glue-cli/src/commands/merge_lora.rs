//! `glue merge-lora`: several LoRA adapters merged to one, without the matrices that they change.

use super::merge::{config, parse_parameter, weighed};
use super::recipes;
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_lora::LoraError;
use glue_lora::merge::{LoraMerge, MergeOptions, MergePlan, PlannedModule, plan, run as merge};
use glue_merge::{BaseRule, Registry};
use glue_recipe::Recipe;
use glue_tensor::{Adapter, AdapterError, Dtype, WriteError};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Merge LoRA adapters into one adapter
///
/// Merges adapters of one base model without reading the model. Each change B·A is expressed in bases that span the
/// changes of all adapters, where it is a small matrix of the same norm and singular values (Core Space, arXiv
/// 2509.17786). The operator merges these, and the result is an adapter again. Adapters may differ in rank, alpha and
/// modules. DoRA and whole tensors (modules_to_save, biases) are refused: merge MODEL+ADAPTER with glue merge.
///
/// OUT_DIR appears once it is complete, with the adapter and glue.json, which records the inputs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue merge-lora --method ties --adapter math-adapter:0.6 --adapter code-adapter:0.4 --param density=0.5 merged
  glue merge-lora --method tsv_m --adapter math-adapter --adapter code-adapter merged --rank 32
  glue merge-lora --method passthrough --adapter math-adapter smaller --rank 8
  glue merge-lora --method task_arithmetic --adapter math-adapter --adapter code-adapter merged --dry-run")]
pub(crate) struct Args {
    /// Output directory
    out_dir: PathBuf,

    /// Merge operator, as `merge_method` of a config; `glue ops` lists them
    #[arg(long)]
    method: String,

    /// Adapter to merge, with its weight after a colon; once for each adapter
    #[arg(long, value_name = "ADAPTER[:WEIGHT]", required = true)]
    adapter: Vec<String>,

    /// Parameter of the operator, for all adapters: a value, or a list over the layers such as [0,0.5,1]
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_parameter)]
    param: Vec<(String, Value)>,

    /// Maximum rank of a module (default: the rank of the merged change)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rank: Option<u32>,

    /// Data type of the adapter, such as bfloat16 (default: that of the adapters, or float32 if they differ)
    #[arg(long, value_name = "TYPE", value_parser = recipes::parse_dtype)]
    dtype: Option<Dtype>,

    /// Refuse a parameter that has no effect. By default that is a warning
    #[arg(long)]
    strict: bool,

    /// Show the plan with memory and disk; reads headers only
    #[arg(long)]
    dry_run: bool,
}

/// Merges, or shows what would be merged.
pub(crate) fn run(args: &Args, global: &Global, registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let opened: Vec<Result<Adapter, Failure>> = args.adapter.iter().map(|adapter| open(weighed(adapter).0)).collect();
    let mut failures = Vec::new();
    let adapters: Vec<Adapter> =
        opened.into_iter().filter_map(|opened| opened.map_err(|failure| failures.push(failure)).ok()).collect();
    match failures.len() {
        0 => {}
        1 => return Err(failures.swap_remove(0)),
        _ => return Err(Failure::Several(failures)),
    }
    let recipe = recipe(args, &adapters, registry, shell)?;
    let options = MergeOptions {
        rank: args.rank.map(|rank| rank as usize),
        dtype: args.dtype,
        seed: global.seed.unwrap_or(0),
        recipe: recipe.text.clone(),
    };
    let params = |site: glue_lora::merge::ModuleSite<'_>| recipe.params_at(site.tensor, site.t);
    let plan = plan(&adapters, recipe.operator.value, &options, &params).map_err(failure)?;
    for note in &plan.notes {
        shell.note(note);
    }
    let pool = recipes::pool(global)?;
    if args.dry_run {
        return look_ahead(args, &plan, pool.current_num_threads(), shell);
    }
    let progress = CommandProgress::new(shell);
    let start = Instant::now();
    let done = pool.install(|| merge(&plan, &args.out_dir, &progress));
    drop(progress);
    print(args, &done.map_err(failure)?, start.elapsed(), shell)
}

fn open(path: &str) -> Result<Adapter, Failure> {
    Adapter::open(path).map_err(|error| match error {
        AdapterError::NotFound { .. } | AdapterError::NotADirectory { .. } | AdapterError::NoConfig { .. } => {
            Failure::refused(error)
        }
        error => Failure::failed(error),
    })
}

/// The config that says the same of models. An operator that needs a base gets one of zeros; it is called as the
/// adapters call the model that they are for.
fn recipe(args: &Args, adapters: &[Adapter], registry: &Registry, shell: &Shell<'_>) -> Result<Recipe, Failure> {
    let needs_base = registry.get(&args.method).is_ok_and(|def| def.base == BaseRule::Required);
    let named = adapters.iter().find_map(|adapter| adapter.config().base_model.clone());
    let base = needs_base.then(|| named.unwrap_or_else(|| "base".into()));
    let text = config(&args.method, base.as_deref(), &args.adapter, &args.param);
    let mut recipes = recipes::parse(&text, "command line", args.strict, registry, shell)?;
    Ok(recipes.swap_remove(0))
}

fn failure(error: LoraError) -> Failure {
    match error {
        LoraError::Several { errors } => Failure::Several(errors.into_iter().map(failure).collect()),
        LoraError::Stopped => Failure::Interrupted,
        error @ (LoraError::WholeTensor { .. } | LoraError::Dora { .. }) => Failure::refused(error)
            .hint(Some("glue merge applies an adapter to its base and merges the results: name them BASE+ADAPTER")),
        error @ LoraError::Params { .. } => Failure::refused(error)
            .hint(Some("ADAPTER:WEIGHT gives an adapter its weight, --param KEY=VALUE gives all adapters a parameter")),
        error @ LoraError::StatisticNeeded { .. } => {
            Failure::refused(error).hint(Some("glue ops lists the operators; most of them use no statistic"))
        }
        error @ (LoraError::Option { .. }
        | LoraError::Operands(_)
        | LoraError::AdapterTwice { .. }
        | LoraError::AdaptersDiffer { .. }
        | LoraError::NoChange { .. }) => Failure::refused(error),
        LoraError::Write(error @ (WriteError::NotEmpty { .. } | WriteError::NotADirectory { .. })) => {
            let hint = "choose another OUT_DIR, or move the existing files away; nothing is overwritten";
            Failure::failed(error).hint(Some(hint))
        }
        error => Failure::failed(error),
    }
}

fn look_ahead(args: &Args, plan: &MergePlan<'_>, threads: usize, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let memory = plan.memory(threads);
    if shell.json() {
        let module = |module: &PlannedModule| {
            json!({
                "module": module.module(),
                "experts": module.kind.matrices(),
                "rows": module.rows,
                "columns": module.columns,
                "ranks": module.ranks,
                "max_rank": plan.max_rank(module),
            })
        };
        return shell.print_json(&json!({
            "dry_run": true,
            "adapters": plan.adapters.iter().map(|adapter| adapter.path().display().to_string()).collect::<Vec<_>>(),
            "operator": plan.operator.def().name,
            "output": args.out_dir.display().to_string(),
            "dtype": plan.dtype.torch_name(),
            "modules": plan.modules.iter().map(module).collect::<Vec<_>>(),
            "max_bytes": plan.max_bytes(),
            "memory": memory,
            "threads": threads,
            "notes": plan.notes,
        }));
    }
    let mut table = Table::with_header(&[
        ("MODULE", Align::Left),
        ("SHAPE", Align::Left),
        ("RANKS", Align::Left),
        ("MAX RANK", Align::Right),
    ]);
    for module in &plan.modules {
        table.row([
            module.module().to_string(),
            format!("[{}, {}]", module.rows, module.columns),
            ranks(&module.ranks),
            units::count(plan.max_rank(module) as u64),
        ]);
    }
    let mut facts = Table::new(&[Align::Left, Align::Left]);
    facts.row(["output", &format!("{} (not written: dry run)", args.out_dir.display())]);
    facts.row(["operator", plan.operator.def().name]);
    facts.row(["modules", &units::count(plan.modules.len() as u64)]);
    facts.row(["factors", &format!("{} at most, twice while they are written", units::bytes(plan.max_bytes()))]);
    facts.row(["memory", &format!("about {}, {threads} threads", units::bytes(memory))]);
    let text = format!("{}\n{}", table.render(|line| shell.heading(line)), facts.render(str::to_string));
    shell.print(&text)
}

fn ranks(ranks: &[usize]) -> String {
    let one = |rank: &usize| if *rank == 0 { "-".to_string() } else { rank.to_string() };
    ranks.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn print(args: &Args, done: &LoraMerge, time: Duration, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        let mut document = serde_json::to_value(done).map_err(Failure::failed)?;
        document["output"] = args.out_dir.display().to_string().into();
        document["seconds"] = time.as_secs_f64().into();
        return shell.print_json(&document);
    }
    let mut table = Table::with_header(&[
        ("MODULE", Align::Left),
        ("SHAPE", Align::Left),
        ("RANKS", Align::Left),
        ("CORE", Align::Left),
        ("RANK", Align::Right),
        ("ERROR", Align::Right),
    ]);
    for module in &done.modules {
        table.row([
            module.module.clone(),
            format!("[{}, {}]", module.rows, module.columns),
            ranks(&module.ranks),
            format!("[{}, {}]", module.core[0], module.core[1]),
            units::count(module.rank as u64),
            format!("{:.2e}", module.relative_error),
        ]);
    }
    let mut text = table.render(|line| shell.heading(line));
    text += &format!(
        "\n{}: {}, {} parameters, {} in {}; relative error {:.2e}\n",
        args.out_dir.display(),
        units::things(done.modules.len(), "module", "modules"),
        units::short(done.parameters),
        units::bytes(done.bytes),
        units::duration(time.as_secs_f64()),
        done.relative_error,
    );
    for tensor in &done.zero {
        text += &format!("merged to no change: {tensor}\n");
    }
    shell.print(&text)
}
