//! The command line of Model-GLUE: the binary `glue`, and the entry point for a `glue` with operators of your own.
//!
//! A binary with additional merge operators, optimisers or search strategies passes extended [`Registries`] to
//! [`main`]. Commands, help, config checks and the reference documents follow from them:
//!
//! ```no_run
//! use glue_cli::Registries;
//! use glue_merge::{BaseRule, InputRule, Operand, OperatorDef, Plan};
//! use std::process::ExitCode;
//!
//! const BASE_ONLY: OperatorDef = OperatorDef {
//!     name: "base_only",
//!     summary: "Forgets every fine-tune.",
//!     formula: "θ0",
//!     reference: "none",
//!     inputs: InputRule::at_least(1),
//!     base: BaseRule::Required,
//!     params: &[],
//!     plan: |_, _| Ok(Plan::Copy(Operand::Base)),
//!     ..OperatorDef::DEFAULT
//! };
//!
//! fn main() -> ExitCode {
//!     glue_cli::main(Registries::default().with(&[&BASE_ONLY]))
//! }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `app` | every command and option, as clap sees them |
//! | `commands` | one file per command |
//! | `failure` | errors with their exit status and their hint |
//! | `shell` | standard output and standard error, colours |
//! | `progress` | the progress bar, the log, `metrics.jsonl` |
//! | `interrupt` | signals that stop a command |
//! | `outputs` | files that are written because an option names them |
//! | `numbers` | ranges of numbers on the command line |
//! | `visible` | text from others without control characters |
//! | `units`, `table` | sizes, counts and times as text; aligned columns |
//! | `registries` | operators, optimisers and strategies by name |
//! | `reference` | generated Markdown: operators, command line |
//! | `allocator` | mimalloc; counts the memory of templates and tokenizers |
//! | `cpu` | check that the processor has the instructions that the binary was compiled for |
//!
//! **Invariant:** only this crate prints, and only through `shell`.
//!
//! Exit status: 0 success, 1 failure, 2 wrong usage or invalid config, 128+N after signal N (130 for Ctrl-C).

mod allocator;
mod app;
mod commands;
mod cpu;
mod failure;
mod interrupt;
mod numbers;
mod outputs;
mod pictures;
mod progress;
mod reference;
mod registries;
mod shell;
mod table;
mod units;
mod visible;

pub use allocator::Allocator;
pub use registries::Registries;
pub use shell::Streams;

use app::{Cli, Command};
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, FromArgMatches};
use failure::Failure;
use shell::Shell;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line of this process with the operators, optimisers and strategies of `registries`.
///
/// Returns what `fn main` should return. A closed standard output (`glue ops | head`) is not a failure. Replaces the
/// panic hook: panics that become errors print nothing.
pub fn main(registries: Registries) -> ExitCode {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !glue_lm::bounded::panics_are_caught() {
            hook(panic);
        }
    }));
    if let Err(message) = cpu::check() {
        let mut streams = Streams::standard();
        // If standard error is closed, nobody can be reached.
        let _ = writeln!(streams.err, "error: {message}");
        return ExitCode::FAILURE;
    }
    // Without it, a truncated input still ends the process, but without a message.
    let _ = glue_tensor::mapped::report_lost_pages();
    interrupt::survive_file_size_limit();
    run_from(std::env::args_os(), &registries, Streams::standard())
}

/// Runs the command line `args`, program name first, and prints to `streams`.
///
/// Like [`main`], but without the standard streams of the process.
pub fn run_from<I, T>(args: I, registries: &Registries, streams: Streams<'_>) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut shell = Shell::new(streams, app::colour_asked_for(&args));
    let parsed = Cli::command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let done = match parsed {
        Ok(cli) => {
            shell.apply(&cli.global);
            dispatch(&cli, registries, &mut shell)
        }
        Err(error) => refuse(error, &mut shell),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&shell),
    }
}

fn dispatch(cli: &Cli, registries: &Registries, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let registry = &registries.operators;
    match &cli.command {
        Command::Merge(args) => commands::merge::run(args, &cli.global, registry, shell),
        Command::Soup(args) => commands::soup::run(args, &cli.global, shell),
        Command::Multi(args) => commands::multi::run(args, &cli.global, registry, shell),
        Command::Mix(args) => commands::mix::run(args, &cli.global, shell),
        Command::TrainRouter(args) => commands::train_router::run(args, &cli.global, shell),
        Command::Inspect(args) => commands::inspect::run(args, shell),
        Command::Check(args) => commands::check::run(args, shell),
        Command::Similarity(args) => commands::similarity::run(args, &cli.global, shell),
        Command::Cluster(args) => commands::cluster::run(args, &cli.global, shell),
        Command::Align(args) => commands::align::run(args, &cli.global, shell),
        #[cfg(feature = "hub")]
        Command::Fetch(args) => commands::fetch::run(args, &cli.global, shell),
        #[cfg(feature = "hub")]
        Command::Push(args) => commands::push::run(args, shell),
        Command::Export(args) => commands::export::run(args, &cli.global, shell),
        Command::Import(args) => commands::import::run(args, &cli.global, shell),
        Command::ExtractLora(args) => commands::extract_lora::run(args, &cli.global, shell),
        Command::MergeLora(args) => commands::merge_lora::run(args, &cli.global, registry, shell),
        Command::Calibrate(args) => commands::calibrate::run(args, &cli.global, registry, shell),
        Command::Search(args) => commands::search::run(args, &cli.global, registries.for_search(), shell),
        Command::Report(args) => commands::report::run(args, shell),
        Command::Run(args) => commands::run::run(args, &cli.global, registries.for_search(), shell),
        Command::Eval(args) => commands::eval::run(args, &cli.global, shell),
        Command::Tasks(args) => commands::tasks::run(args, &cli.global, shell),
        Command::Generate(args) => commands::generate::run(args, &cli.global, shell),
        Command::Logits(args) => commands::logits::run(args, &cli.global, shell),
        Command::Ops(args) => commands::ops::run(args, registry, shell),
        Command::Man(args) => commands::completions::man(args),
        Command::Completions(args) => commands::completions::run(args, shell),
        Command::SearchWorker(args) => commands::search_worker::run(args, &cli.global, registry, shell),
        Command::HelpMarkdown => commands::help_markdown::run(shell),
        Command::Schema => commands::schema::run(registry, shell),
    }
}

/// Prints help and version. Every other error of clap is wrong usage.
fn refuse(mut error: clap::Error, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let hint = app::hint_for(&error);
    if hint.is_some() {
        // A better one than clap's, which would take the option for a value.
        error.remove(ContextKind::Suggested);
    }
    let message = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => shell.print(&shell.styled_out(&message)),
        _ => Err(Failure::already_worded(shell.styled_err(&message), hint)),
    }
}
