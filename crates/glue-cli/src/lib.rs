//! The command line of Model-GLUE: the binary `glue`, and the entry point for a `glue` with operators of your own.
//!
//! A binary that knows more than what comes with the project (merge operators, optimisers, strategies of selection) hands [`main`]
//! longer [`Registries`]; commands, help, checking of configs and the reference documents follow from them:
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
//! | `shell` | standard output and standard error, colours, the progress bar's permission |
//! | `progress` | the progress bar |
//! | `interrupt` | signals that stop a command |
//! | `outputs` | files that options name to be written |
//! | `numbers` | ranges of numbers on the command line |
//! | `visible` | text of others without control characters |
//! | `units`, `table` | sizes, counts and times in words; aligned columns |
//! | `registries` | operators, optimisers and strategies by name |
//! | `reference` | Markdown that is generated: operators, command line |
//! | `allocator` | mimalloc, with the memory of templates and tokenizers counted |
//! | `cpu` | whether the processor has what the binary was compiled for |
//!
//! **Invariant:** only this crate prints, and only through `shell`.
//!
//! Exit status: 0 success, 1 failure, 2 wrong usage or a config that is refused, 128 plus its number after a signal (130 Ctrl-C).

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
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use failure::Failure;
use shell::Shell;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line that the process was started with, with what `registries` know.
///
/// Returns what `fn main` should return. Standard output closed by its reader (`glue ops | head`) is no failure. The panic
/// hook of the process says nothing from here on of panics that become errors.
pub fn main(registries: Registries) -> ExitCode {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !glue_lm::bounded::panics_are_caught() {
            hook(panic);
        }
    }));
    if let Err(message) = cpu::check() {
        let mut streams = Streams::standard();
        // There is nobody else to tell.
        let _ = writeln!(streams.err, "error: {message}");
        return ExitCode::FAILURE;
    }
    // Without it, a truncated input still ends the process, only without a word.
    let _ = glue_tensor::mapped::report_lost_pages();
    interrupt::survive_file_size_limit();
    run_from(std::env::args_os(), &registries, Streams::standard())
}

/// Runs the command line `args`, program name first, and prints to `streams`.
///
/// Does what [`main`] does without touching the standard streams of the process.
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
        Err(error) => refuse(&error, &mut shell),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&mut shell),
    }
}

fn dispatch(cli: &Cli, registries: &Registries, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let registry = &registries.operators;
    match &cli.command {
        Command::Merge(args) => commands::merge::run(args, &cli.global, registry, shell),
        Command::Multi(args) => commands::multi::run(args, &cli.global, registry, shell),
        Command::Mix(args) => commands::mix::run(args, &cli.global, shell),
        Command::TrainRouter(args) => commands::train_router::run(args, &cli.global, shell),
        Command::Inspect(args) => commands::inspect::run(args, shell),
        Command::Similarity(args) => commands::similarity::run(args, &cli.global, shell),
        Command::Cluster(args) => commands::cluster::run(args, &cli.global, shell),
        Command::Align(args) => commands::align::run(args, &cli.global, shell),
        Command::ExtractLora(args) => commands::extract_lora::run(args, &cli.global, shell),
        Command::Calibrate(args) => commands::calibrate::run(args, &cli.global, shell),
        Command::Search(args) => commands::search::run(args, &cli.global, registries.lent(), shell),
        Command::Run(args) => commands::run::run(args, &cli.global, registries.lent(), shell),
        Command::Eval(args) => commands::eval::run(args, &cli.global, shell),
        Command::Generate(args) => commands::generate::run(args, &cli.global, shell),
        Command::Logits(args) => commands::logits::run(args, &cli.global, shell),
        Command::Ops(args) => commands::ops::run(args, registry, shell),
        Command::Completions(args) => commands::completions::run(args, shell),
        Command::SearchWorker(args) => commands::search_worker::run(args, &cli.global, registry, shell),
        Command::HelpMarkdown => commands::help_markdown::run(shell),
        Command::Schema => commands::schema::run(registry, shell),
    }
}

/// Help and version are output; everything else that clap returns is wrong usage.
fn refuse(error: &clap::Error, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let message = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => shell.print(&shell.styled_out(&message)),
        _ => Err(Failure::already_worded(shell.styled_err(&message), app::hint_for(error))),
    }
}
