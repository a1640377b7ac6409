//! `glue check`: what a hub and the programs that run models would object to in a model directory.

mod card;
mod files;
mod model;

use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_tensor::{Checkpoint, Config};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// Check a model directory before it is published or served
///
/// Reports what a model hub, transformers, vLLM and llama.cpp would object to: missing files, an index that does not
/// fit its shards, weights that disagree with config.json, a tokenizer without chat template, metadata of the model
/// card. Reads headers, configuration, tokenizer and card, no weights, and runs nothing.
///
/// The exit status is 1 if there is an error, and 0 if there are only warnings.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue check merged
  glue check merged --json")]
pub(crate) struct Args {
    /// Model directory
    #[arg(value_name = "MODEL")]
    model: PathBuf,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// Somebody refuses the model, or runs it wrongly.
    Error,
    /// Something is missing that many expect.
    Warning,
}

/// Somebody who would object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Who {
    #[serde(rename = "hub")]
    Hub,
    #[serde(rename = "transformers")]
    Transformers,
    #[serde(rename = "vLLM")]
    Vllm,
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Hub => "hub",
            Who::Transformers => "transformers",
            Who::Vllm => "vLLM",
            Who::LlamaCpp => "llama.cpp",
        }
    }
}

/// Everybody who runs a model.
const RUNNERS: &[Who] = &[Who::Transformers, Who::Vllm, Who::LlamaCpp];

/// Something that somebody would object to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// Who objects.
    who: Vec<Who>,
    /// The file it is about.
    file: String,
    /// What is wrong.
    message: String,
}

/// The findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, who: &[Who], file: &str, message: impl Into<String>) {
        self.add(Level::Error, who, file, message);
    }

    fn warning(&mut self, who: &[Who], file: &str, message: impl Into<String>) {
        self.add(Level::Warning, who, file, message);
    }

    fn add(&mut self, level: Level, who: &[Who], file: &str, message: impl Into<String>) {
        self.0.push(Finding { level, who: who.to_vec(), file: file.into(), message: message.into() });
    }
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

/// Checks and prints.
pub(crate) fn run(args: &Args, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = &args.model;
    if !path.is_dir() {
        let why = if path.exists() { "not a directory" } else { "no such directory" };
        return Err(Failure::refused(io::Error::other(format!("{}: {why}", path.display()))));
    }
    let findings = check(path);
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    if shell.json() {
        shell.print_json(&Report { model: path.display().to_string(), errors, warnings, findings: &findings })?;
    } else {
        let mut table = Table::new(&[Align::Left; 4]);
        for Finding { level, who, file, message } in &findings {
            let level = if *level == Level::Error { "error" } else { "warning" };
            let who: Vec<&str> = who.iter().map(|who| who.name()).collect();
            table.row([level, &who.join(", "), file, message]);
        }
        let summary =
            format!("{}, {}", units::things(errors, "error", "errors"), units::things(warnings, "warning", "warnings"));
        shell.print(&format!("{}{summary}\n", table.render(|heading| heading.to_string())))?;
    }
    if errors > 0 { Err(Failure::Unfit) } else { Ok(()) }
}

/// What a hub would refuse, with the file that it is about.
#[cfg(feature = "hub")]
pub(super) fn refusals_of_hub(path: &Path) -> Vec<String> {
    let of_hub = |finding: &Finding| finding.level == Level::Error && finding.who.contains(&Who::Hub);
    check(path).into_iter().filter(of_hub).map(|finding| format!("{}: {}", finding.file, finding.message)).collect()
}

/// Everything that somebody would object to, errors first.
fn check(path: &Path) -> Vec<Finding> {
    let mut findings = Findings::default();
    let config = files::config(path, &mut findings);
    let checkpoint = files::weights(path, &mut findings);
    if let Some(config) = &config {
        model::of_config(path, config, &mut findings);
        model::of_generation(path, config, &mut findings);
        if let Some(checkpoint) = &checkpoint {
            model::of_weights(config, checkpoint, &mut findings);
        }
    }
    model::of_tokenizer(path, config.as_ref(), checkpoint.as_ref(), &mut findings);
    files::others(path, &mut findings);
    card::check(path, &mut findings);
    findings.0.sort_by_key(|finding| finding.level);
    findings.0
}

/// Rows of the embedding of tokens; `None` where it cannot be found.
fn embedding_rows(config: &Config, checkpoint: &Checkpoint) -> Option<usize> {
    model::embedding(config, checkpoint).map(|info| info.shape[0])
}
