//! `glue merge`: one merge, from a config to a checkpoint.

use super::execute::execute;
use super::export::GgufOptions;
use super::merge_gguf::{self, GgufMerge};
use super::merge_report;
use super::recipes::{self, Output};
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use glue_cuda::DeviceUse;
use glue_merge::Registry;
use serde_json::Value;
use std::path::PathBuf;

/// Merge models as described in a config
///
/// The config is YAML in mergekit's format. Model paths in it are relative to the working directory. A merge of whole
/// models needs no file: --method, --model, --base and --param say the same, and OUT_DIR is the only argument.
///
/// OUT_DIR appears once it is complete. It holds weights, config.json, tokenizer files, a model card, and glue.json,
/// which records the inputs. It must not exist yet, or be empty.
///
/// If its name ends in .gguf, the merged model is written as that file, which is the one that `glue export` would make
/// of the output directory. The directory is not written: besides the file, disk space is needed for the largest tensor
/// only, in a temporary file beside it. What llama.cpp cannot compute is refused before any weight is read.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "glue merge [OPTIONS] <CONFIG> <OUT_DIR>\n       \
                      glue merge [OPTIONS] <CONFIG> <FILE.gguf>\n       \
                      glue merge [OPTIONS] --method <METHOD> --model <MODEL[:WEIGHT]>... <OUT_DIR>",
    after_help = "Examples:
  glue merge ties.yml merged
  glue merge ties.yml merged --dry-run
  glue merge dare.yml merged --seed 7 --max-shard-size 2GB
  glue merge ties.yml merged-q8_0.gguf --type q8_0
  glue merge ties.yml merged --quiet --json > merged.json
  glue merge --method ties --base models/base --model models/math:0.6 --model models/code:0.4 --param density=0.5 merged"
)]
pub(crate) struct Args {
    /// Merge config (YAML, mergekit's format); - reads it from standard input
    #[arg(value_name = "CONFIG", required_unless_present = "method")]
    config: Option<PathBuf>,

    /// Output directory, or a GGUF file if the name ends in .gguf
    #[arg(value_name = "OUT_DIR", required_unless_present = "method")]
    out_dir: Option<PathBuf>,

    #[command(flatten)]
    inline: Inline,

    #[command(flatten)]
    output: Output,

    #[command(flatten, next_help_heading = "With a GGUF file as the output")]
    gguf: GgufOptions,
}

/// A merge without a config.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Instead of a config")]
struct Inline {
    /// Merge operator, as `merge_method` of a config; `glue ops` lists them
    #[arg(long)]
    method: Option<String>,

    /// Model to merge, with its weight after a colon; once for each model
    #[arg(long, value_name = "MODEL[:WEIGHT]", requires = "method")]
    model: Vec<String>,

    /// Base model
    #[arg(long, value_name = "MODEL", requires = "method")]
    base: Option<String>,

    /// Parameter of the operator, for all models: a value, or a list over the layers such as [0,0.5,1]
    #[arg(long, value_name = "KEY=VALUE", requires = "method", value_parser = parse_parameter)]
    param: Vec<(String, Value)>,
}

pub(super) fn parse_parameter(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE, such as density=0.5")?;
    let value = value.trim();
    // A list, a number or a flag; anything else is a word.
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((key.trim().into(), value))
}

impl Inline {
    fn config(&self, method: &str) -> String {
        config(method, self.base.as_deref(), &self.model, &self.param)
    }
}

/// The config of a merge of `models`, each with its weight after a colon. Lines of JSON are YAML.
pub(super) fn config(method: &str, base: Option<&str>, models: &[String], params: &[(String, Value)]) -> String {
    let mut text = format!("merge_method: {}\n", Value::from(method));
    if let Some(base) = base {
        text += &format!("base_model: {}\n", Value::from(base));
    }
    text += "models:\n";
    for model in models {
        let (model, weight) = weighed(model);
        text += &format!("  - model: {}\n", Value::from(model));
        if let Some(weight) = weight {
            text += &format!("    parameters: {{weight: {weight}}}\n");
        }
    }
    if !params.is_empty() {
        text += "parameters:\n";
        for (key, value) in params {
            text += &format!("  {}: {value}\n", Value::from(key.as_str()));
        }
    }
    text
}

/// A model and its weight. What follows a colon and is no number belongs to the path.
pub(super) fn weighed(model: &str) -> (&str, Option<f64>) {
    let weighed = model.rsplit_once(':').and_then(|(model, weight)| Some((model, weight.parse().ok()?)));
    weighed.map_or((model, None), |(model, weight)| (model, Some(weight)))
}

/// Merges, or shows what would be done.
pub(crate) fn run(args: &Args, global: &Global, registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    // Without a config, the only argument is the output.
    let (out_dir, recipes) = match (&args.inline.method, &args.config, &args.out_dir) {
        (None, Some(config), Some(out_dir)) => (out_dir, recipes::read(config, args.output.strict, registry, shell)?),
        (Some(method), Some(out_dir), None) => {
            let text = args.inline.config(method);
            (out_dir, recipes::parse(&text, "command line", args.output.strict, registry, shell)?)
        }
        (_, None, _) | (None, _, None) => {
            return Err(Failure::refused(std::io::Error::other("OUT_DIR is missing: where to write the merged model")));
        }
        (Some(_), Some(config), Some(_)) => {
            let both = format!("--method stands for a config, but {} is given too", config.display());
            return Err(Failure::refused(std::io::Error::other(both)));
        }
    };
    let [recipe] = recipes.as_slice() else {
        let found = format!("the config holds {} documents", recipes.len());
        return Err(Failure::refused(std::io::Error::other(found)).hint(Some("glue multi merges several documents")));
    };
    let to_file = merge_gguf::is_gguf(out_dir);
    refuse_options_of_the_other_form(args, to_file)?;
    let plan = recipes::plan(recipe, &recipes::plan_options(global, &args.output))?;
    let pool = recipes::pool(global)?;
    if to_file {
        let merge = GgufMerge::new(&plan, out_dir, &args.gguf)?;
        merge.notes().iter().for_each(|note| shell.note(note));
        if args.output.dry_run {
            return merge.expected(&args.output, pool.current_num_threads())?.print(shell);
        }
        let device = args.output.device.open(DeviceUse::Merge, shell)?;
        return merge.execute(&args.output, &pool, &device, shell)?.print(shell);
    }
    if args.output.dry_run {
        let report = merge_report::expected(&plan, out_dir, &args.output, pool.current_num_threads())?;
        return report.print(shell);
    }
    let device = args.output.device.open(DeviceUse::Merge, shell)?;
    execute(&plan, out_dir, &args.output, &pool, &device, shell)?.print(shell)
}

/// Refuses options that say nothing about the output: those of a GGUF file for a directory, and the other way round.
fn refuse_options_of_the_other_form(args: &Args, to_file: bool) -> Result<(), Failure> {
    let refused = |message: String| Err(Failure::refused(std::io::Error::other(message)));
    match args.gguf.given() {
        Some(option) if !to_file => {
            refused(format!("{option} is for GGUF files; the name of the output must end in .gguf for one"))
        }
        _ if to_file && args.output.max_shard_size.is_some() => {
            refused("--max-shard-size is for output directories; a GGUF file is one file".to_string())
        }
        _ => Ok(()),
    }
}
