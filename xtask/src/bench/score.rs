//! `cargo xtask bench score`: how fast multiple-choice questions are scored, beside transformers on the same tokens.
//!
//! Two sets of questions: each by itself, and after tokens that all share, as from a prompt with examples. transformers
//! batches by length, applies its head to the rows that count, and runs the shared tokens with each sequence, as
//! lm_eval does, or once, as one can do by hand. The sums of all scores must agree. Rounds are interleaved.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::language_model;
use super::measure::{Run, median};
use super::report::machine;
use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask bench score`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model directory (default: a random model in the shapes of Llama-3.2-1B).
    #[arg(long)]
    model: Option<PathBuf>,
    /// Threads of each runtime.
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// Number of questions, each with four choices.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    questions: u32,
    /// Tokens in front of all questions of the second set.
    #[arg(long, default_value_t = 700, value_parser = clap::value_parser!(u32).range(1..))]
    shared: u32,
    /// Number of rounds; the median is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Python environment with transformers.
    #[arg(long, value_name = "VENV_DIR")]
    venv: Option<PathBuf>,
    /// Also write the figures to this JSON file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Who scores, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Runtime {
    Glue,
    Transformers,
    /// With the shared tokens run once.
    TransformersPrefix,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Runtime::Glue => "glue",
            Runtime::Transformers => "transformers, f32",
            Runtime::TransformersPrefix => "transformers, f32, shared tokens once",
        }
    }
}

/// What one runtime did with one set of questions.
struct Measured {
    runtime: Runtime,
    shared: u32,
    rounds: Vec<(Value, Run)>,
}

/// Relative difference of sums of scores from which they are not the same.
const TOLERANCE: f64 = 1e-5;

/// Measures and prints the table.
///
/// # Errors
/// Something does not build or run, or scores differ.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--example", "score_speed"]))?;
    let folder = repo.target.join("bench").join("score");
    fs::create_dir_all(&folder)?;
    let model = language_model::model(&repo, args.model.as_deref())?;
    let python = language_model::python(args.venv.as_deref())?;
    let sets = [
        (Runtime::Glue, 0),
        (Runtime::Transformers, 0),
        (Runtime::Glue, args.shared),
        (Runtime::Transformers, args.shared),
        (Runtime::TransformersPrefix, args.shared),
    ];
    let mut measured = sets.map(|(runtime, shared)| Measured { runtime, shared, rounds: Vec::new() });
    let mut skipped = false;
    for _ in 0..args.runs {
        for measured in &mut measured {
            let mut command = match (measured.runtime, &python) {
                (Runtime::Glue, _) => {
                    let mut command = language_model::example(&repo, "score_speed");
                    command.arg(&model).args([&args.threads.to_string(), &args.questions.to_string()]);
                    command.arg(measured.shared.to_string());
                    command
                }
                (runtime, Some(python)) => of_transformers(args, &repo, &model, python, runtime, measured.shared),
                (_, None) => {
                    skipped = true;
                    continue;
                }
            };
            match language_model::round(&mut command, &folder.join("round.json"), measured.runtime.name())? {
                Some(round) => measured.rounds.push(round),
                None => skipped = true,
            }
        }
    }
    check_scores(&measured)?;
    println!("{}", table(args, &model, &measured).join("\n"));
    if skipped {
        println!("transformers: not measured, see --venv");
    }
    if let Some(file) = &args.json {
        let figures: Vec<Value> = measured.iter().filter(|m| !m.rounds.is_empty()).map(figures).collect();
        let document = json!({ "machine": machine(), "model": model.display().to_string(), "figures": figures });
        fs::write(file, format!("{document:#}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn of_transformers(args: &Args, repo: &Repo, model: &Path, python: &Path, runtime: Runtime, shared: u32) -> Command {
    let mut command = Command::new(python);
    command.arg(repo.path("tests/interop/score_speed.py")).arg(model);
    let [threads, questions, shared] = [args.threads.into(), args.questions, shared].map(|n: u32| n.to_string());
    command.args(["--threads", &threads, "--questions", &questions, "--shared", &shared]);
    if runtime == Runtime::TransformersPrefix {
        command.arg("--prefix");
    }
    command.env("OMP_NUM_THREADS", &threads);
    command
}

/// All runtimes score the same.
fn check_scores(measured: &[Measured]) -> Result<()> {
    for one in measured {
        let first = measured.iter().find(|other| other.shared == one.shared && !other.rounds.is_empty());
        let Some(expected) = first.and_then(|first| first.rounds[0].0["logprob"].as_f64()) else { continue };
        for (figures, _) in &one.rounds {
            let found = figures["logprob"].as_f64().context("no `logprob` among the figures")?;
            ensure!(
                (found - expected).abs() <= TOLERANCE * expected.abs(),
                "{} scores {found} in sum, the first runtime {expected}",
                one.runtime.name()
            );
        }
    }
    Ok(())
}

impl Measured {
    fn median(&self, key: &str) -> f64 {
        median(self.rounds.iter().filter_map(|(figures, _)| figures[key].as_f64()))
    }
}

fn table(args: &Args, model: &Path, measured: &[Measured]) -> Vec<String> {
    let mut lines = vec![
        format!("{}; {} threads; {}; medians of {} rounds", machine(), args.threads, model.display(), args.runs),
        format!("{} questions of four choices; tokens: each sequence by itself", args.questions),
        String::new(),
        "| shared tokens | runtime | s | questions/s | tokens/s | `glue` is faster by | anonymous MiB |".to_owned(),
        "|--:|---|--:|--:|--:|--:|--:|".to_owned(),
    ];
    for one in measured.iter().filter(|one| !one.rounds.is_empty()) {
        let seconds = one.median("seconds");
        let glue = measured.iter().find(|other| other.shared == one.shared && other.runtime == Runtime::Glue);
        let faster = match (one.runtime, glue) {
            (Runtime::Transformers | Runtime::TransformersPrefix, Some(glue)) => {
                format!("{:.1}", seconds / glue.median("seconds"))
            }
            _ => String::new(),
        };
        lines.push(format!(
            "| {} | {} | {seconds:.2} | {:.1} | {:.0} | {faster} | {} |",
            one.shared,
            one.runtime.name(),
            one.median("questions_per_second"),
            one.median("tokens_per_second"),
            one.rounds.iter().map(|(_, run)| run.anonymous).max().unwrap_or(0) >> 20,
        ));
    }
    lines
}

fn figures(measured: &Measured) -> Value {
    json!({
        "runtime": measured.runtime.name(),
        "shared_tokens": measured.shared,
        "seconds": measured.median("seconds"),
        "questions_per_second": measured.median("questions_per_second"),
        "rounds": measured.rounds.iter().map(|(figures, _)| figures).collect::<Vec<_>>(),
        "peak_anonymous_bytes": measured.rounds.iter().map(|(_, run)| run.anonymous).max(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(runtime: Runtime, seconds: f64, logprob: f64) -> Measured {
        let figures = json!({
            "seconds": seconds, "questions_per_second": 64.0 / seconds, "tokens_per_second": 1000.0, "logprob": logprob,
        });
        Measured { runtime, shared: 0, rounds: vec![(figures, Run::default())] }
    }

    #[test]
    fn a_row_says_how_much_faster_glue_is() {
        let args = Args { model: None, threads: 2, questions: 64, shared: 700, runs: 1, venv: None, json: None };
        let all = [measured(Runtime::Glue, 8.0, -10.0), measured(Runtime::Transformers, 32.0, -10.0)];
        let lines = table(&args, Path::new("m"), &all);
        assert_eq!(lines[5], "| 0 | glue | 8.00 | 8.0 | 1000 |  | 0 |");
        assert_eq!(lines[6], "| 0 | transformers, f32 | 32.00 | 2.0 | 1000 | 4.0 | 0 |");
    }

    #[test]
    fn scores_that_differ_are_an_error() {
        let of = |logprob| [measured(Runtime::Glue, 8.0, -1000.0), measured(Runtime::Transformers, 32.0, logprob)];
        assert!(check_scores(&of(-1000.001)).is_ok());
        assert!(check_scores(&of(-1000.1)).is_err());
        assert!(check_scores(&of(f64::NAN)).is_err());
    }
}
