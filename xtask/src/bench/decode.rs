//! `cargo xtask bench decode`: how fast a prompt is read and continued token by token, on one and on two threads.
//!
//! A token that is decoded reads all weights once, so that the rate is bounded by that of memory: it is compared with a
//! plain read of as many bytes in the same process. The model is made here, in the shapes of Llama-3.2-1B with random
//! weights, or given. Rounds are interleaved, so that a drift of the machine's speed meets all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::language_model;
use super::measure::{Run, median};
use super::report::machine;
use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask bench decode`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model directory (default: a random model in the shapes of Llama-3.2-1B).
    #[arg(long)]
    model: Option<PathBuf>,
    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<u16>,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// New tokens.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    new: u32,
    /// Number of rounds; the median is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Python environment with transformers, or with gguf, torch and xllamacpp for llama.cpp.
    #[arg(long, value_name = "VENV_DIR")]
    venv: Option<PathBuf>,
    /// Also write the figures to this JSON file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Who reads and writes tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Runtime {
    Glue,
    /// With keys and values in bfloat16.
    GlueBf16,
    Transformers,
    LlamaCpp,
}

const RUNTIMES: [Runtime; 4] = [Runtime::Glue, Runtime::GlueBf16, Runtime::Transformers, Runtime::LlamaCpp];

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Runtime::Glue => "glue",
            Runtime::GlueBf16 => "glue, cache in bf16",
            Runtime::Transformers => "transformers, f32",
            Runtime::LlamaCpp => "llama.cpp, bf16",
        }
    }

    /// Whether it needs the Python environment.
    fn is_other(self) -> bool {
        matches!(self, Runtime::Transformers | Runtime::LlamaCpp)
    }
}

/// What one runtime did with a number of threads.
struct Measured {
    runtime: Runtime,
    threads: u16,
    rounds: Vec<(Value, Run)>,
}

/// What is the same for all rounds.
struct Place<'a> {
    args: &'a Args,
    repo: &'a Repo,
    model: &'a Path,
    folder: &'a Path,
    python: Option<PathBuf>,
}

/// Measures and prints the table.
///
/// # Errors
/// Something does not build or run.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--example", "decode_speed"]))?;
    let folder = repo.target.join("bench").join("decode");
    fs::create_dir_all(&folder)?;
    let model = language_model::model(&repo, args.model.as_deref())?;
    let python = language_model::python(args.venv.as_deref())?;
    let place = Place { args, repo: &repo, model: &model, folder: &folder, python };
    let mut measured: Vec<Measured> = Vec::new();
    let mut skipped = Vec::new();
    for &threads in &args.threads {
        measured.extend(RUNTIMES.map(|runtime| Measured { runtime, threads, rounds: Vec::new() }));
    }
    for _ in 0..args.runs {
        for measured in &mut measured {
            if skipped.contains(&measured.runtime) {
                continue;
            }
            match place.round(measured.runtime, measured.threads)? {
                Some(round) => measured.rounds.push(round),
                None => skipped.push(measured.runtime),
            }
        }
    }
    measured.retain(|measured| !measured.rounds.is_empty());
    println!("{}", table(args, &model, &measured).join("\n"));
    for runtime in &skipped {
        println!("{}: not measured, see --venv", runtime.name());
    }
    if let Some(file) = &args.json {
        let figures: Vec<Value> = measured.iter().map(figures).collect();
        let document = json!({ "machine": machine(), "model": model.display().to_string(), "figures": figures });
        fs::write(file, format!("{document:#}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

impl Place<'_> {
    /// One round; `None` where the runtime is not installed.
    fn round(&self, runtime: Runtime, threads: u16) -> Result<Option<(Value, Run)>> {
        let [threads, prompt, new] = [threads.into(), self.args.prompt, self.args.new].map(|n: u32| n.to_string());
        let mut command = match (&self.python, runtime.is_other()) {
            (_, false) => {
                let mut command = language_model::example(self.repo, "decode_speed");
                let cache = if runtime == Runtime::GlueBf16 { "bf16" } else { "f32" };
                command.arg(self.model).args([&threads, &prompt, &new]).arg(cache);
                command
            }
            (Some(python), true) => {
                let mut command = Command::new(python);
                command.arg(self.repo.path("tests/interop/decode_speed.py")).arg(self.model);
                command.args(["--threads", &threads, "--prompt", &prompt, "--new", &new, "--with"]);
                command.arg(if runtime == Runtime::Transformers { "transformers" } else { "llama.cpp" });
                // Weights are written once for each model.
                let name = self.model.to_string_lossy().replace(['/', '\\', ':'], "-");
                command.arg("--work").arg(self.folder.join(format!("gguf{name}")));
                command.env("OMP_NUM_THREADS", &threads);
                command
            }
            (None, true) => return Ok(None),
        };
        language_model::round(&mut command, &self.folder.join("round.json"), runtime.name())
    }
}

impl Measured {
    /// The median of a figure over the rounds; NaN where a runtime does not have it.
    fn median(&self, key: &str) -> f64 {
        median(self.rounds.iter().filter_map(|(figures, _)| figures[key].as_f64()))
    }
}

fn table(args: &Args, model: &Path, measured: &[Measured]) -> Vec<String> {
    let mut lines = vec![
        format!("{}; {}; medians of {} rounds", machine(), model.display(), args.runs),
        format!("a prompt of {} tokens and {} new ones; read: a plain read of as many bytes", args.prompt, args.new),
        String::new(),
        "| runtime | threads | prefill tokens/s | decode tokens/s | weights GB/s | read GB/s | of read | anonymous MiB \
         | resident MiB |"
            .to_owned(),
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|".to_owned(),
    ];
    for measured in measured {
        let number = |x: f64, digits: usize| if x.is_nan() { "–".to_owned() } else { format!("{x:.digits$}") };
        let (rate, read) = (measured.median("decode_bytes_per_second"), measured.median("read_bytes_per_second"));
        let peak = |of: fn(&Run) -> u64| measured.rounds.iter().map(|(_, run)| of(run)).max().unwrap_or(0) >> 20;
        lines.push(format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            measured.runtime.name(),
            measured.threads,
            number(measured.median("prefill_tokens_per_second"), 0),
            number(measured.median("decode_tokens_per_second"), 1),
            number(rate / 1e9, 1),
            number(read / 1e9, 1),
            number(rate / read, 2),
            peak(|run| run.anonymous),
            peak(|run| run.resident),
        ));
    }
    lines
}

fn figures(measured: &Measured) -> Value {
    json!({
        "runtime": measured.runtime.name(),
        "threads": measured.threads,
        "prefill_tokens_per_second": measured.median("prefill_tokens_per_second"),
        "decode_tokens_per_second": measured.median("decode_tokens_per_second"),
        "rounds": measured.rounds.iter().map(|(figures, _)| figures).collect::<Vec<_>>(),
        "peak_anonymous_bytes": measured.rounds.iter().map(|(_, run)| run.anonymous).max(),
        "peak_resident_bytes": measured.rounds.iter().map(|(_, run)| run.resident).max(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_every_column_and_a_dash_for_what_is_not_known() {
        let args = Args { model: None, threads: vec![2], prompt: 512, new: 64, runs: 1, venv: None, json: None };
        let of = |runtime, figures| Measured { runtime, threads: 2, rounds: vec![(figures, Run::default())] };
        let glue = json!({
            "prefill_tokens_per_second": 100.4, "decode_tokens_per_second": 10.0,
            "decode_bytes_per_second": 8e9, "read_bytes_per_second": 10e9,
        });
        let other = json!({"prefill_tokens_per_second": 50.0, "decode_tokens_per_second": 5.25});
        let lines = table(&args, Path::new("m"), &[of(Runtime::Glue, glue), of(Runtime::LlamaCpp, other)]);
        assert_eq!(lines[5], "| glue | 2 | 100 | 10.0 | 8.0 | 10.0 | 0.80 | 0 | 0 |");
        assert_eq!(lines[6], "| llama.cpp, bf16 | 2 | 50 | 5.2 | – | – | – | 0 | 0 |");
    }
}
