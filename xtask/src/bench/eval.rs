//! `cargo xtask bench eval`: the scoring of one model of the shipped zoo, beside transformers and
//! lm_eval on the same items.
//!
//! Rounds are interleaved, so that a drift of the machine's speed meets all. `glue` is timed as a whole command and by
//! what it says of itself (from texts to scores, without loading), which is what the reference script times too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::measure::{Run, best, median, timed};
use super::report::machine;
use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask bench eval`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model of the shipped zoo to score.
    #[arg(long, default_value = "a-math")]
    model: String,
    /// Number of rounds; the median is reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Threads of each runtime.
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// Python environment with transformers, and optionally lm_eval.
    #[arg(long, value_name = "VENV_DIR")]
    venv: Option<PathBuf>,
    /// Also write the figures to this JSON file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What was measured of one split.
#[derive(Default)]
struct Measured {
    glue: Vec<Run>,
    glue_scoring: Vec<f64>,
    transformers: Vec<Value>,
    lm_eval: Option<Run>,
    items: u64,
}

/// Measures and prints the table.
///
/// # Errors
/// Something does not build or run, or scores differ.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "glue"]))?;
    let folder = repo.target.join("bench").join("eval");
    fs::create_dir_all(&folder)?;
    let python = args.venv.as_deref().map(|venv| std::path::absolute(venv.join("bin/python"))).transpose()?;
    let mut lines = vec![
        format!("{}; {} threads; model {}; medians of {} rounds", machine(), args.threads, args.model, args.runs),
        "scoring: from texts to scores, without loading; whole: the command; tokens: each sequence by itself"
            .to_owned(),
        String::new(),
        "| split | items | runtime | scoring s | whole s | items/s | tokens/s | times faster |".to_owned(),
        "|---|--:|---|--:|--:|--:|--:|--:|".to_owned(),
    ];
    let mut document = Vec::new();
    for split in ["proxy", "test"] {
        let measured =
            measure(args, &repo, &folder, python.as_deref(), split).with_context(|| format!("split {split}"))?;
        lines.extend(rows(split, &measured));
        document.push(figures(split, &measured));
    }
    println!("{}", lines.join("\n"));
    if let Some(file) = &args.json {
        let text = format!("{:#}\n", json!({ "machine": machine(), "splits": document }));
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn measure(args: &Args, repo: &Repo, folder: &Path, python: Option<&Path>, split: &str) -> Result<Measured> {
    let zoo = repo.path("tests/data/zoo");
    let (model, tasks) = (zoo.join(&args.model), zoo.join("tasks"));
    let mut measured = Measured::default();
    for _ in 0..args.runs {
        let log = folder.join("glue.json");
        let mut glue = Command::new(repo.glue("release"));
        glue.arg("eval").arg(&model).arg("--tasks").arg(&tasks).args(["--split", split, "--json", "--threads"]);
        measured.glue.push(timed(glue.arg(args.threads.to_string()), &log)?);
        let report = document(&log)?;
        measured.glue_scoring.push(report["seconds"].as_f64().context("no `seconds` in the report")?);
        let tasks_done = report["tasks"].as_object().context("no `tasks` in the report")?;
        measured.items = tasks_done.values().filter_map(|task| task["n"].as_u64()).sum();
        let Some(python) = python else { continue };
        let log = folder.join("transformers.json");
        let mut reference = Command::new(python);
        reference.arg(repo.path("tests/interop/transformers_eval.py")).arg(&model).arg("--tasks").arg(&tasks);
        reference.args(["--split", split, "--repeat", "1", "--threads", &args.threads.to_string()]);
        timed(&mut reference, &log)?;
        measured.transformers.push(document(&log)?);
    }
    if let (Some(python), "test") = (python, split)
        && Command::new(python).args(["-c", "import lm_eval"]).status().is_ok_and(|status| status.success())
    {
        measured.lm_eval = Some(lm_eval(args, &zoo, folder, python)?);
    }
    Ok(measured)
}

/// lm_eval as people run it, on the same items.
fn lm_eval(args: &Args, zoo: &Path, folder: &Path, python: &Path) -> Result<Run> {
    let mut command = Command::new(python);
    command.args(["-m", "lm_eval", "run", "--model", "hf", "--batch_size", "64", "--device", "cpu"]);
    command.arg("--model_args").arg(format!("pretrained={},dtype=float32", zoo.join(&args.model).display()));
    command.args(["--tasks", "arith,facts,order,program,wino", "--include_path", "lm_eval/tasks"]);
    // Data paths of those tasks are relative to the zoo.
    command.current_dir(zoo).env("HF_HUB_OFFLINE", "1").env("OMP_NUM_THREADS", args.threads.to_string());
    timed(&mut command, &folder.join("lm_eval.txt"))
}

/// The JSON document that a program printed, last of all that it printed.
fn document(log: &Path) -> Result<Value> {
    let text = fs::read_to_string(log)?;
    let start = text.find("\n{").map_or(0, |at| at + 1);
    let start = if text.starts_with('{') { 0 } else { start };
    serde_json::from_str(text[start..].trim()).with_context(|| format!("{} holds no JSON document", log.display()))
}

fn rows(split: &str, measured: &Measured) -> Vec<String> {
    let tokens = measured.transformers.first().and_then(|run| run["tokens"].as_f64());
    let glue = median(measured.glue_scoring.iter().copied());
    let row = |runtime: &str, scoring: Option<f64>, whole: Option<f64>| {
        let number =
            |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
        let basis = scoring.or(whole);
        let rate = |count: Option<f64>| number(count.zip(basis).map(|(count, seconds)| count / seconds), 0);
        let whole_glue = median(measured.glue.iter().map(|run| run.seconds));
        let faster = match (scoring, whole) {
            (Some(scoring), _) => scoring / glue,
            (None, Some(whole)) => whole / whole_glue,
            (None, None) => f64::NAN,
        };
        format!(
            "| {split} | {} | {runtime} | {} | {} | {} | {} | {faster:.1} |",
            measured.items,
            number(scoring, 3),
            number(whole, 2),
            rate(Some(measured.items as f64)),
            rate(tokens),
        )
    };
    let mut rows = vec![row("glue", Some(glue), Some(median(measured.glue.iter().map(|run| run.seconds))))];
    if !measured.transformers.is_empty() {
        let seconds = |key: &str| median(measured.transformers.iter().filter_map(|run| run[key].as_f64()));
        let scoring = seconds("seconds_score");
        rows.push(row("transformers", Some(scoring), Some(scoring + seconds("seconds_load"))));
    }
    if let Some(run) = measured.lm_eval {
        rows.push(row("lm_eval", None, Some(run.seconds)));
    }
    rows
}

fn figures(split: &str, measured: &Measured) -> Value {
    json!({
        "split": split,
        "items": measured.items,
        "glue_seconds": measured.glue.iter().map(|run| run.seconds).collect::<Vec<_>>(),
        "glue_scoring_seconds": measured.glue_scoring,
        "glue_best_scoring_seconds": best(measured.glue_scoring.iter().copied()),
        "glue_anonymous_bytes": measured.glue.iter().map(|run| run.anonymous).max(),
        "transformers": measured.transformers,
        "lm_eval_seconds": measured.lm_eval.map(|run| run.seconds),
    })
}
