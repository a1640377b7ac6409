//! `glue fetch`: models, adapters and datasets from the Hugging Face hub into its cache.

mod named;

use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_hub::{FetchPlan, FetchRequest, Fetched, HubClient, HubError, Selection};
use glue_tensor::hub::{HubCache, RepositoryKind};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Download models, adapters and datasets from the Hugging Face hub
///
/// Files go into the hub's cache (HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub), which all commands
/// and all Python programs share: afterwards `org/name` is the name of the model. A download that was interrupted goes
/// on where it ended. Every file is checked against the hash that the hub lists, and a model appears in the cache when
/// all of its files are there.
///
/// Of a model, safetensors files, configuration, tokenizer, card and licence are fetched. HF_TOKEN, or the token of `hf
/// auth login`, gives access to gated and private repositories; HF_ENDPOINT names another hub.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue fetch HuggingFaceTB/SmolLM2-135M-Instruct
  glue fetch org/model@v1.0 org/adapter
  glue fetch --for merge.yml
  glue fetch --dataset openai/gsm8k
  glue fetch org/model-GGUF --include '*Q4_K_M.gguf' --dry-run")]
pub(crate) struct Args {
    /// ORG/NAME, or ORG/NAME@REVISION with a branch, a tag or a commit
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Fetch every model, adapter and dataset that this config names and that is not here; can be repeated
    #[arg(long = "for", value_name = "CONFIG")]
    for_config: Vec<PathBuf>,

    /// The names are those of datasets
    #[arg(long)]
    dataset: bool,

    /// Fetch the files that match this pattern instead of the usual ones; can be repeated
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,

    /// Leave out the files that match this pattern; can be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Show what would be downloaded, with sizes
    #[arg(long)]
    dry_run: bool,
}

/// Fetches, or shows what would be fetched.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if args.names.is_empty() && args.for_config.is_empty() {
        let why = std::io::Error::new(std::io::ErrorKind::InvalidInput, "there is nothing to fetch");
        return Err(Failure::refused(why).hint(Some("give an ORG/NAME, or a config by --for")));
    }
    let requests = requests(args, global)?;
    if requests.is_empty() {
        shell.note("everything that the config names is here");
        return print(&[], args.dry_run, shell);
    }
    let client = HubClient::from_env().map_err(failure)?;
    let cache = HubCache::from_env().ok_or_else(|| {
        let why = "there is no home directory for the hub's cache: set HF_HUB_CACHE";
        Failure::refused(std::io::Error::new(std::io::ErrorKind::NotFound, why))
    })?;
    let progress = CommandProgress::new(shell);
    // All of them are looked at before anything is written.
    let plans = requests.into_iter().map(|request| FetchPlan::new(&client, &cache, request, &progress));
    let plans: Vec<FetchPlan<'_>> = plans.collect::<Result<_, _>>().map_err(failure)?;
    let mut rows = Vec::new();
    for plan in &plans {
        let fetched = match args.dry_run {
            true => None,
            false => Some(plan.run(&progress).map_err(failure)?),
        };
        rows.push((plan, fetched));
    }
    drop(progress);
    print(&rows, args.dry_run, shell)
}

fn requests(args: &Args, global: &Global) -> Result<Vec<FetchRequest>, Failure> {
    let selection = Selection::new(&args.include, &args.exclude).map_err(failure)?;
    let mut names: Vec<(RepositoryKind, String)> = Vec::new();
    let kind = if args.dataset { RepositoryKind::Dataset } else { RepositoryKind::Model };
    names.extend(args.names.iter().map(|name| (kind, name.clone())));
    for config in &args.for_config {
        names.extend(named::missing(config, global)?);
    }
    let mut requests = Vec::new();
    for (at, (kind, name)) in names.iter().enumerate() {
        if names[..at].contains(&(*kind, name.clone())) {
            continue;
        }
        let request = match kind {
            RepositoryKind::Model => FetchRequest::model(name),
            RepositoryKind::Dataset => FetchRequest::dataset(name),
        };
        requests.push(request.map_err(failure)?.select(selection.clone()));
    }
    Ok(requests)
}

/// The failure of a request to a hub.
pub(super) fn failure(error: HubError) -> Failure {
    match error {
        HubError::Cancelled => Failure::Paused {
            kept: "; what was downloaded is kept".into(),
            hint: "run the same command again to continue".into(),
        },
        HubError::Name { .. } | HubError::Pattern { .. } | HubError::Endpoint { .. } => Failure::refused(error),
        HubError::Offline => Failure::failed(error).hint(Some("unset it to download")),
        HubError::Network { .. } | HubError::Status { .. } => {
            Failure::failed(error).hint(Some("run the same command again to continue; what was downloaded is kept"))
        }
        error => Failure::failed(error),
    }
}

fn print(rows: &[(&FetchPlan<'_>, Option<Fetched>)], dry_run: bool, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        let rows: Vec<Value> = rows.iter().map(|(plan, fetched)| row(plan, fetched.as_ref())).collect();
        return shell.print_json(&json!({ "dry_run": dry_run, "repositories": rows }));
    }
    let mut text = String::new();
    for (plan, fetched) in rows {
        let mut facts = Table::new(&[Align::Left, Align::Left]);
        facts.row([
            match plan.kind() {
                RepositoryKind::Model => "model",
                RepositoryKind::Dataset => "dataset",
            },
            plan.repository(),
        ]);
        facts.row(["commit", &format!("{} ({})", plan.commit(), plan.revision())]);
        let files = units::things(plan.files().len(), "file", "files");
        let download = match fetched {
            None => format!("{} to download", units::bytes(plan.bytes_to_download())),
            Some(fetched) => format!("{} downloaded", units::bytes(fetched.received)),
        };
        facts.row(["size", &format!("{} in {files}, {download}", units::bytes(plan.bytes()))]);
        facts.row(["directory", &plan.snapshot().display().to_string()]);
        text.push_str(&facts.render(str::to_string));
    }
    shell.print(&text)
}

fn row(plan: &FetchPlan<'_>, fetched: Option<&Fetched>) -> Value {
    let files = plan.files().iter();
    json!({
        "name": plan.repository(),
        "kind": match plan.kind() {
            RepositoryKind::Model => "model",
            RepositoryKind::Dataset => "dataset",
        },
        "revision": plan.revision(),
        "commit": plan.commit(),
        "files": files.map(|file| json!({"path": file.path, "bytes": file.size, "hash": file.hash.as_str()}))
            .collect::<Vec<_>>(),
        "bytes": plan.bytes(),
        "bytes_to_download": fetched.is_none().then(|| plan.bytes_to_download()),
        "bytes_downloaded": fetched.map(|fetched| fetched.received),
        "directory": plan.snapshot().display().to_string(),
    })
}
