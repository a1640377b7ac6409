//! Every command and option, as clap sees them. The help, the completions and the reference document follow from this.

use crate::commands::{
    align, calibrate, check, cluster, completions, eval, export, extract_lora, generate, import, inspect, logits,
    merge, merge_lora, mix, multi, ops, report, run, search, search_worker, similarity, soup, tasks, train_router,
};
#[cfg(feature = "hub")]
use crate::commands::{fetch, push};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand, ValueEnum};
use std::ffi::OsString;

/// Merge, mix, evaluate and run large language models
///
/// `glue run` turns a folder of models into one stronger model. The other commands do its steps one by one.
///
/// A model is a directory with config.json and safetensors files, as on a model hub. Merge configs are YAML in
/// mergekit's format. Tasks are directories of JSON Lines files, or YAML files of lm-evaluation-harness.
#[derive(Debug, Parser)]
#[command(
    name = "glue",
    version,
    after_help = AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  glue fetch org/model                      Download a model from the Hugging Face hub
  glue run --init zoo/                      Write zoo/zoo.yml for the models in zoo/
  glue run zoo/zoo.yml --out result         Make one stronger model of them, with a report
  glue report first second                  Compare two runs
  glue merge config.yml merged --dry-run    Show what a merge would do
  glue merge config.yml merged
  glue ops ties                             Describe a merge operator
  glue inspect models/*                     Show which models can be merged
  glue check merged                         Show what a hub or vLLM would object to
  glue eval merged --tasks tasks
  glue generate merged --prompt 'Once upon a time'

Exit status: 0 success, 1 failure, 2 wrong usage or invalid config, 128+N signal N (130 for Ctrl-C).";

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print the result as one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print no progress and no notes, only errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    /// Log progress to standard error as lines of text or JSON (default: a bar on a terminal, else text)
    #[arg(long, global = true, value_name = "FORMAT", hide_possible_values = false)]
    pub(crate) log_format: Option<LogFormat>,

    /// Number of threads, up to 1024 (default: all processors). Results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// Seed for random numbers; overrides the seed in the config
    #[arg(long, global = true, value_name = "N", alias = "random-seed")]
    pub(crate) seed: Option<u64>,

    /// When to use colours; auto means on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = false)]
    pub(crate) color: ColorChoice,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On terminals, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How progress is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people, with the time since the start.
    #[default]
    Text,
    /// JSON Lines.
    Json,
}

/// The commands, in the order of the help: from the whole pipeline to single steps.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(run::Args),
    Report(report::Args),
    Search(search::Args),
    Merge(merge::Args),
    Multi(multi::Args),
    Soup(soup::Args),
    Mix(mix::Args),
    TrainRouter(train_router::Args),
    Eval(Box<eval::Args>),
    Tasks(tasks::Args),
    Generate(generate::Args),
    Export(export::Args),
    Import(import::Args),
    #[cfg(feature = "hub")]
    Fetch(fetch::Args),
    #[cfg(feature = "hub")]
    Push(push::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Similarity(similarity::Args),
    Cluster(cluster::Args),
    Align(align::Args),
    Calibrate(calibrate::Args),
    ExtractLora(extract_lora::Args),
    MergeLora(merge_lora::Args),
    Logits(logits::Args),
    Ops(ops::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(completions::ManArgs),
    #[command(hide = true)]
    SearchWorker(search_worker::Args),
    /// Print the reference of the command line in Markdown
    #[command(hide = true)]
    HelpMarkdown,
    /// Print the JSON schema of merge configs
    #[command(hide = true)]
    Schema,
}

/// The value of `--color` in `args`, before they are parsed: parse errors are coloured too.
pub(crate) fn colour_asked_for(args: &[OsString]) -> ColorChoice {
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let joined = words.iter().find_map(|word| word.strip_prefix("--color="));
    let next = || {
        let at = words.iter().position(|word| word == "--color")?;
        words.get(at + 1).map(|word| &**word)
    };
    joined.or_else(next).and_then(|word| ColorChoice::from_str(word, false).ok()).unwrap_or_default()
}

/// Options of mergekit that have no counterpart of the same name here, and what to do instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("--copy-tokenizer", "tokenizer files are always copied; tokenizer_source in the config chooses the model"),
    ("--no-copy-tokenizer", "tokenizer files are always part of the output"),
    ("--lazy-unpickle", "checkpoints are memory-mapped, never loaded as a whole"),
    ("--no-lazy-unpickle", "checkpoints are memory-mapped, never loaded as a whole"),
    ("--low-cpu-memory", "memory depends on the number of threads, not on the size of the model"),
    ("--no-low-cpu-memory", "memory depends on the number of threads, not on the size of the model"),
    ("--write-model-card", "a model card is always written"),
    ("--no-write-model-card", "a model card is always written; delete README.md if you do not want it"),
    ("--cuda", "--device cuda merges on a GPU"),
    ("--no-cuda", "merging on the CPU is the default"),
    ("--gpu-rich", "--device cuda merges on a GPU"),
    ("--read-to-gpu", "--device cuda merges on a GPU and brings the weights there itself"),
    ("--no-read-to-gpu", "merging on the CPU is the default"),
    ("--multi-gpu", "--device cuda merges on one GPU; merging is limited by the disk, not by the device"),
    ("--no-multi-gpu", "at most one GPU is used"),
    ("--trust-remote-code", "code in a checkpoint is never run"),
    ("--no-trust-remote-code", "code in a checkpoint is never run"),
    ("--allow-crimes", "there is no such switch; errors name the option that allows what they refuse"),
    ("--no-allow-crimes", "models of different architectures are refused where their tensors do not fit"),
    ("--unsafe-truncate-embeddings", "on_vocabulary: truncate in the config merges the rows that all models have"),
    ("--no-unsafe-truncate-embeddings", "rows of embeddings are never cut unless the config says so"),
    (
        "--transformers-cache",
        "models are named by their paths or as ORG/NAME, and `glue fetch` downloads into the hub's cache, HF_HUB_CACHE",
    ),
    ("--lora-merge-cache", "adapters are applied while a model is read, and nothing is written in between"),
    ("--lora-merge-dtype", "adapters are applied in 32 bits while a model is read"),
    ("--clone-tensors", "layers that occur twice are always written twice"),
    ("--no-clone-tensors", "layers that occur twice are always written twice"),
    ("--safe-serialization", "safetensors is the only format of output"),
    ("--no-safe-serialization", "safetensors is the only format of output"),
    ("--async-write", "outputs are written while merging goes on"),
    ("--no-async-write", "outputs are written while merging goes on"),
    ("--write-threads", "--threads is the number of all threads, which also write"),
    ("--num-threads", "it is called --threads here"),
    ("-j", "it is called --threads here"),
    ("--verbosity", "--log-format json logs everything there is"),
    ("-v", "--log-format json logs everything there is"),
];

/// A hint for an argument that clap does not know.
pub(crate) fn hint_for(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let (name, why) = ELSEWHERE.iter().find(|row| row.0 == argument)?;
    Some(format!("leave out {name}: {why}"))
}

#[cfg(test)]
mod tests {
    //! The definition as a whole.
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_is_documented() {
        let mut command = Cli::command();
        command.build();
        let mut commands = vec![&command];
        while let Some(command) = commands.pop() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            commands.extend(command.get_subcommands());
        }
    }

    #[test]
    fn an_option_of_several_commands_reads_the_same_in_each() {
        let mut command = Cli::command();
        command.build();
        for option in ["device", "expert", "follow-links", "max-shard-size", "task"] {
            let of = |command: &clap::Command| {
                let arg = command.get_arguments().find(|arg| arg.get_long() == Some(option))?;
                arg.get_long_help().or(arg.get_help()).map(ToString::to_string)
            };
            let mut texts: Vec<String> = command.get_subcommands().filter_map(of).collect();
            assert!(texts.len() > 1, "{option}");
            texts.dedup();
            assert_eq!(texts.len(), 1, "{option}: {texts:?}");
        }
    }

    #[test]
    fn colours_are_known_before_parsing() {
        let check = |args: &[&str], expected| {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            assert_eq!(colour_asked_for(&args), expected, "{args:?}");
        };
        check(&["glue", "ops"], ColorChoice::Auto);
        check(&["glue", "--color=always", "ops"], ColorChoice::Always);
        check(&["glue", "ops", "--color", "never"], ColorChoice::Never);
        check(&["glue", "ops", "--color", "purple"], ColorChoice::Auto);
        check(&["glue", "ops", "--color"], ColorChoice::Auto);
    }
}
