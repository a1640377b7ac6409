//! `glue push`: a finished model to the Hugging Face hub, through the hub's own program.

use super::{check, fetch};
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use glue_hub::{CardMessages, HubClient, HubError};
use glue_tensor::files;
use glue_tensor::hub::{CARD_FILE, is_id};
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Upload a model to the Hugging Face hub
///
/// Checks the model card as the hub does, and then uploads with `hf upload`, which resumes and deduplicates. Where `hf`
/// is not installed (pip install huggingface_hub), the command is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue push merged org/merged --dry-run
  glue push merged org/merged --private
  glue push merged org/merged --create-pr")]
pub(crate) struct Args {
    /// Model directory
    model: PathBuf,

    /// ORG/NAME of the repository, which is created if it does not exist
    #[arg(value_name = "ORG/NAME", value_parser = parse_id)]
    repository: String,

    /// Branch to upload to (default: main)
    #[arg(long, value_name = "BRANCH")]
    revision: Option<String>,

    /// Make the repository private if it is created
    #[arg(long)]
    private: bool,

    /// Open a pull request instead of changing the branch
    #[arg(long)]
    create_pr: bool,

    /// First line of the commit's message
    #[arg(long, value_name = "TEXT")]
    commit_message: Option<String>,

    /// Check only, and print the command; without a connection, the hub is not asked
    #[arg(long)]
    dry_run: bool,
}

fn parse_id(text: &str) -> Result<String, String> {
    if is_id(text) { Ok(text.to_string()) } else { Err("expected ORG/NAME".into()) }
}

/// Checks and uploads.
pub(crate) fn run(args: &Args, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = &args.model;
    if !path.is_dir() {
        let why = if path.exists() { "not a directory" } else { "no such directory" };
        return Err(Failure::refused(io::Error::other(format!("{}: {why}", path.display()))));
    }
    let mut refused = check::refusals_of_hub(path);
    let answer = if refused.is_empty() { of_hub(args, shell)? } else { None };
    if let Some(messages) = &answer {
        messages.warnings.iter().for_each(|warning| shell.note(&format!("{CARD_FILE}: {warning}")));
        refused.extend(messages.errors.iter().map(|error| format!("{CARD_FILE}: {error}")));
    }
    if !refused.is_empty() {
        let why = format!("the hub would refuse {}: {}", path.display(), refused.join("; "));
        return Err(Failure::failed(io::Error::other(why)));
    }
    let command = command(args);
    let uploads = !args.dry_run && is_installed();
    if uploads {
        // What it prints is progress; standard output is for the result.
        let status = Command::new("hf").args(&command).stdout(Stdio::inherit()).status().map_err(Failure::failed)?;
        if !status.success() {
            let why = format!("`{}` failed ({status})", shown(&command));
            return Err(Failure::failed(io::Error::other(why)).hint(Some("run it again to continue")));
        }
    }
    if shell.json() {
        return shell.print_json(&json!({
            "model": path.display().to_string(),
            "repository": args.repository,
            "checked_by_hub": answer.is_some(),
            "warnings": answer.map(|messages| messages.warnings).unwrap_or_default(),
            "command": std::iter::once("hf".to_string()).chain(command).collect::<Vec<_>>(),
            "uploaded": uploads,
        }));
    }
    if uploads {
        return Ok(());
    }
    if !args.dry_run {
        shell.note("`hf` is not installed (pip install huggingface_hub); this is the command");
    }
    shell.print(&format!("{}\n", shown(&command)))
}

/// What the hub says of the card; `None` where there is no connection and none is needed.
fn of_hub(args: &Args, shell: &Shell<'_>) -> Result<Option<CardMessages>, Failure> {
    let path = args.model.join(CARD_FILE);
    let card = match files::read_to_string(&path, files::CONFIG_BYTES) {
        Ok(card) => card,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::failed(error).context(path.display().to_string())),
    };
    let progress = CommandProgress::new(shell);
    match HubClient::from_env().and_then(|client| client.check_card(&card, &progress)) {
        Ok(messages) => Ok(Some(messages)),
        Err(HubError::Network { .. } | HubError::Offline) if args.dry_run => {
            drop(progress);
            shell.note("there is no connection to the hub: the card was checked by what is known of its rules");
            Ok(None)
        }
        Err(error) => Err(fetch::failure(error)),
    }
}

/// The arguments of `hf`.
fn command(args: &Args) -> Vec<String> {
    let mut command: Vec<String> =
        ["upload".into(), args.repository.clone(), args.model.display().to_string(), ".".into()].into();
    for (option, value) in [("--revision", &args.revision), ("--commit-message", &args.commit_message)] {
        if let Some(value) = value {
            command.extend([option.to_string(), value.clone()]);
        }
    }
    for (option, given) in [("--private", args.private), ("--create-pr", args.create_pr)] {
        if given {
            command.push(option.into());
        }
    }
    command
}

/// The command as a shell takes it.
fn shown(command: &[String]) -> String {
    let words = std::iter::once("hf").chain(command.iter().map(String::as_str));
    // A word with a zero byte is no argument of a program.
    shlex::try_join(words.clone()).unwrap_or_else(|_| words.collect::<Vec<_>>().join(" "))
}

/// Whether the hub's own program can be run.
fn is_installed() -> bool {
    let mut hf = Command::new("hf");
    hf.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    hf.status().is_ok_and(|status| status.success())
}
