//! `glue extract-lora`: the difference of a fine-tuned model from its base, as a LoRA adapter.

use super::recipes;
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use glue_lora::{
    Decomposition, ExtractOptions, ExtractPlan, Extraction, LoraError, OtherReport, RankRule, extract, plan,
};
use glue_tensor::{Dtype, ModelDir, ModelDirError};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Extract a LoRA adapter from a fine-tuned model and its base
///
/// Every layer matrix that differs becomes a module of the adapter: a low-rank approximation of the difference, in
/// PEFT's format. Other differences are listed, or stored in full with --save-full. OUT_DIR appears once it is
/// complete, with the adapter and glue.json, which records rank, energy and error of each module.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue extract-lora models/base models/math math-adapter
  glue extract-lora models/base models/math math-adapter --energy 0.9 --max-rank 64
  glue extract-lora models/base models/math math-adapter --modules q_proj,v_proj --rank 8
  glue extract-lora models/base models/math math-adapter --dry-run")]
pub(crate) struct Args {
    /// Base model directory
    base: PathBuf,

    /// Fine-tuned model directory
    fine: PathBuf,

    /// Output directory
    out_dir: PathBuf,

    /// Rank of every module (default: 16)
    #[arg(long, value_name = "N", conflicts_with = "energy", value_parser = clap::value_parser!(u32).range(1..))]
    rank: Option<u32>,

    /// Use the smallest rank of each module that keeps this fraction of the energy (sum of squared singular values)
    #[arg(long, value_name = "FRACTION")]
    energy: Option<f64>,

    /// Maximum rank of a module, with --energy
    #[arg(long, value_name = "N", requires = "energy", value_parser = clap::value_parser!(u32).range(1..))]
    max_rank: Option<u32>,

    /// Decomposition: exact is the best approximation; randomised is close to it and much faster at small ranks
    #[arg(long, value_name = "HOW", default_value = "randomised", value_parser = svd())]
    svd: Decomposition,

    /// Names of modules, or their endings, such as q_proj (default: every layer matrix)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    modules: Vec<String>,

    /// Also extract embeddings
    #[arg(long)]
    embeddings: bool,

    /// Also extract the language model head
    #[arg(long)]
    head: bool,

    /// Store other tensors that differ, such as norms, in full
    #[arg(long)]
    save_full: bool,

    /// Data type of the adapter, such as bfloat16
    #[arg(long, value_name = "TYPE", default_value = "float32", value_parser = recipes::parse_dtype)]
    dtype: Dtype,

    /// Show the plan with memory and disk; reads headers only
    #[arg(long)]
    dry_run: bool,
}

fn svd() -> impl TypedValueParser<Value = Decomposition> {
    PossibleValuesParser::new(["randomised", "exact"]).map(|name| match name.as_str() {
        "exact" => Decomposition::Exact,
        _ => Decomposition::Randomised,
    })
}

/// Extracts, or shows what would be extracted.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let (base, fine) = (open(&args.base)?, open(&args.fine)?);
    let options = ExtractOptions {
        rank: match args.energy {
            Some(fraction) => RankRule::Energy { fraction, max_rank: args.max_rank.map(|rank| rank as usize) },
            None => RankRule::Fixed(args.rank.unwrap_or(16) as usize),
        },
        svd: args.svd,
        modules: args.modules.clone(),
        embeddings: args.embeddings,
        head: args.head,
        save_full: args.save_full,
        dtype: args.dtype,
    };
    let plan = plan(&base, &fine, &options).map_err(|error| failure(error, args))?;
    let pool = recipes::pool(global)?;
    if args.dry_run {
        return look_ahead(args, &plan, pool.current_num_threads(), shell);
    }
    let progress = CommandProgress::new(shell);
    let start = Instant::now();
    let done = pool.install(|| extract(&plan, &args.out_dir, &progress));
    drop(progress);
    print(args, &done.map_err(|error| failure(error, args))?, start.elapsed(), shell)
}

fn open(path: &Path) -> Result<ModelDir, Failure> {
    ModelDir::open(path).map_err(|error| match error {
        ModelDirError::NotFound { .. } | ModelDirError::WithAdapter { .. } => Failure::refused(error),
        error => Failure::failed(error),
    })
}

fn failure(error: LoraError, args: &Args) -> Failure {
    match error {
        LoraError::Stopped => Failure::Interrupted,
        LoraError::Several { errors } => {
            Failure::Several(errors.into_iter().map(|error| failure(error, args)).collect())
        }
        error @ (LoraError::Option { .. } | LoraError::NoSuchModule { .. }) => Failure::refused(error),
        error @ (LoraError::TensorMissing { .. } | LoraError::ShapesDiffer { .. }) => Failure::refused(error)
            .hint(Some("BASE must be the model that FINE was trained from, with the same vocabulary")),
        error @ LoraError::NoDifference { .. } if !args.save_full => Failure::refused(error)
            .hint(Some("--embeddings, --head and --save-full extract more than the layer matrices")),
        error => Failure::failed(error),
    }
}

fn look_ahead(args: &Args, plan: &ExtractPlan<'_>, threads: usize, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let memory = plan.memory(threads);
    if shell.json() {
        let module = |candidate: &glue_lora::ModuleCandidate| {
            json!({
                "module": candidate.module,
                "rows": candidate.rows,
                "columns": candidate.columns,
                "most_rank": plan.max_rank(candidate),
            })
        };
        return shell.print_json(&json!({
            "dry_run": true,
            "base": args.base.display().to_string(),
            "fine": args.fine.display().to_string(),
            "output": args.out_dir.display().to_string(),
            "modules": plan.candidates.iter().map(module).collect::<Vec<_>>(),
            "others": plan.others,
            "most_bytes": plan.max_bytes(),
            "memory": memory,
            "threads": threads,
        }));
    }
    let mut table = Table::with_header(&[("MODULE", Align::Left), ("SHAPE", Align::Left), ("MAX RANK", Align::Right)]);
    for candidate in &plan.candidates {
        table.row([
            candidate.module.clone(),
            format!("[{}, {}]", candidate.rows, candidate.columns),
            units::count(plan.max_rank(candidate) as u64),
        ]);
    }
    let mut facts = Table::new(&[Align::Left, Align::Left]);
    facts.row(["output", &format!("{} (not written: dry run)", args.out_dir.display())]);
    facts.row(["modules", &units::count(plan.candidates.len() as u64)]);
    facts.row(["others", &units::things(plan.others.len(), "tensor", "tensors")]);
    facts.row(["factors", &format!("{} at most, twice while they are written", units::bytes(plan.max_bytes()))]);
    facts.row(["memory", &format!("about {}, {threads} threads", units::bytes(memory))]);
    let text = format!("{}\n{}", table.render(|line| shell.heading(line)), facts.render(str::to_string));
    shell.print(&text)
}

fn print(args: &Args, done: &Extraction, time: Duration, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        let mut document = serde_json::to_value(done).map_err(Failure::failed)?;
        document["output"] = args.out_dir.display().to_string().into();
        document["seconds"] = time.as_secs_f64().into();
        return shell.print_json(&document);
    }
    let mut table = Table::with_header(&[
        ("MODULE", Align::Left),
        ("SHAPE", Align::Left),
        ("RANK", Align::Right),
        ("ENERGY", Align::Right),
        ("ERROR", Align::Right),
        ("CHANGE", Align::Right),
    ]);
    for module in &done.modules {
        table.row([
            module.module.clone(),
            format!("[{}, {}]", module.rows, module.columns),
            units::count(module.rank as u64),
            format!("{:.4}", module.energy),
            format!("{:.2e}", module.relative_error),
            format!("{:.2e}", module.relative_change),
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
    text += &others("stored whole", &done.saved);
    text += &others("differs and is not in the adapter", &done.remaining);
    shell.print(&text)
}

fn others(what: &str, others: &[OtherReport]) -> String {
    let line = |other: &OtherReport| {
        let change = other.relative_change.map_or(String::new(), |change| format!(", changed by {change:.2e}"));
        format!("{what}: {} {:?}{change}\n", other.tensor, other.shape)
    };
    others.iter().map(line).collect()
}
