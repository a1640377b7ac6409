//! `cargo xtask results`: the whole pipeline on the shipped zoo with several seeds, and what it is
//! worth on the test split.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bench::machine;
use crate::demo::CONFIG;
use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask results`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of seeds on the shipped zoo, from 0; with 0, its section stays as it is.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Config of a zoo of real models, or the directory of a finished run of one, whose section is written too; without
    /// it, that section stays as it is.
    #[arg(long, value_name = "ZOO.YML|RUN")]
    real: Option<PathBuf>,
    /// Threads per run.
    #[arg(long, default_value_t = 2)]
    threads: u16,
}

const RESULTS: &str = "docs/results.md";
const REAL: &str = "## Real models";
const SHIPPED: &str = "## The shipped zoo";

/// Runs the pipeline once for each seed, and on a real zoo if there is one, and writes `docs/results.md`.
///
/// # Errors
/// It does not build, or does not run.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "glue"]))?;
    let scratch = tempfile::tempdir()?;
    let glue = std::path::absolute(repo.glue("release"))?;
    let timed = |config: &Path, seed: u64| -> Result<Timed> {
        let out = scratch.path().join(format!("{seed}-{}", config.display().to_string().replace('/', "-")));
        let mut command = Command::new(&glue);
        command.arg("run").arg(config).args(["--quiet", "--json", "--seed", &seed.to_string()]);
        command.args(["--threads", &args.threads.to_string()]).arg("--out").arg(&out).current_dir(&repo.root);
        let start = Instant::now();
        let text = shell::read(&mut command)?;
        let report: Value = serde_json::from_str(&text).context("the report")?;
        let cost = fs::read_to_string(out.join("cost.json")).context("cost.json")?;
        let cost: Value = serde_json::from_str(&cost).context("cost.json")?;
        Ok(Timed { seed, report, cost, seconds: start.elapsed().as_secs_f64() })
    };
    let before = fs::read_to_string(repo.path(RESULTS)).unwrap_or_default();
    let real = match &args.real {
        Some(run) if run.is_dir() => real(&finished(run)?, args.threads),
        Some(config) => real(&timed(&std::path::absolute(config)?, 0)?, args.threads),
        None => section(&before, REAL),
    };
    let shipped = match args.seeds {
        0 => section(&before, SHIPPED),
        seeds => {
            let rows: Vec<Timed> = (0..seeds).map(|seed| timed(Path::new(CONFIG), seed)).collect::<Result<_>>()?;
            shipped(&rows, args.threads)
        }
    };
    let begin = "# Results\n\nWritten by `cargo xtask results`. Scores are on test items, which decided nothing. A gain is over the best \
                 single model on the same items, with its paired standard error.\n";
    fs::write(repo.path(RESULTS), format!("{begin}\n{}\n{}", real.trim_end().to_owned() + "\n", shipped))?;
    Ok(())
}

/// A run with its time.
struct Timed {
    seed: u64,
    report: Value,
    cost: Value,
    seconds: f64,
}

/// A run that is finished, with the time of its stages.
fn finished(run: &Path) -> Result<Timed> {
    let read = |name: &str| -> Result<Value> {
        let text = fs::read_to_string(run.join(name)).with_context(|| run.join(name).display().to_string())?;
        serde_json::from_str(&text).with_context(|| run.join(name).display().to_string())
    };
    let (report, cost) = (read("report.json")?, read("cost.json")?);
    let seconds = cost["stages"].as_array().into_iter().flatten().map(|stage| number(&stage["seconds"])).sum();
    Ok(Timed { seed: 0, report, cost, seconds })
}

/// A section of a document with its heading; empty if there is none.
fn section(document: &str, heading: &str) -> String {
    let Some(start) = document.find(heading) else { return String::new() };
    let rest = &document[start + heading.len()..];
    let end = rest.find("\n## ").map_or(rest.len(), |end| end + 1);
    format!("{heading}{}", &rest[..end])
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn words(value: &Value) -> String {
    value.as_array().map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

/// The section of a zoo of real models: its frontier, and what can be used, by size.
fn real(run: &Timed, threads: u16) -> String {
    let data = &run.report["data"];
    let models = data["models"].as_array().map_or(0, Vec::len);
    let tasks = data["tasks"].as_array().map_or(0, Vec::len);
    let merges: u64 = data["selections"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|of| of["strategies"].as_array().into_iter().flatten())
        .filter_map(|strategy| strategy["evaluations"].as_u64())
        .sum();
    let mut text = format!(
        "{REAL}\n\nSmolLM2-135M-Instruct and {} fine-tunes of it, {tasks} tasks; {}, {threads} threads; {:.0} minutes in all. {} merges \
         were scored for the frontier, {merges} in the search of the cluster. Harmful: {}.\n\n",
        models.saturating_sub(1),
        machine(),
        run.seconds / 60.0,
        data["frontier"]["evaluations"],
        harmful(data),
    );
    text += &sizes(data);
    text += "\nThe frontier: scores under perfect routing, on search items and on validation items.\n\n\
             | models | experts | step | search | validation |\n|--:|---|---|--:|--:|\n";
    for point in data["frontier"]["points"].as_array().into_iter().flatten() {
        let experts = point["experts"].as_array().into_iter().flatten();
        let named: Vec<String> = experts
            .map(|expert| {
                let merge = expert["merge"].as_str().filter(|merge| !merge.is_empty());
                merge.map_or_else(|| words(&expert["members"]), str::to_owned)
            })
            .collect();
        let labels = words(&point["labels"]);
        let step = [point["step"].as_str().unwrap_or_default(), &labels];
        let step: Vec<&str> = step.into_iter().filter(|part| !part.is_empty()).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.3} | {:.3} |",
            named.len(),
            named.join("; "),
            step.join("; "),
            number(&point["search"]["value"]),
            number(&point["validation"]["value"])
        );
    }
    let stages = run.cost["stages"].as_array().into_iter().flatten();
    let stages: Vec<String> = stages
        .map(|stage| format!("{} {:.0} s", stage["stage"].as_str().unwrap_or_default(), number(&stage["seconds"])))
        .collect();
    let _ = writeln!(text, "\nTime by stage: {}.", stages.join(", "));
    text
}

/// Names of harmful models.
fn harmful(data: &Value) -> String {
    let of = data["selections"].as_array().into_iter().flatten();
    let names: Vec<&str> = of
        .flat_map(|of| of["harmful"].as_array().into_iter().flatten())
        .filter_map(|of| of["model"].as_str())
        .collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// What can be used, by size.
fn sizes(data: &Value) -> String {
    let mut text = String::from("| what | parameters | active | score | gain |\n|---|--:|--:|--:|--:|\n");
    for row in data["sizes"].as_array().into_iter().flatten() {
        let millions = |key: &str| format!("{:.2} M", number(&row[key]) / 1e6);
        let gain = match row["gain"].is_object() {
            true => {
                format!("{:+.1} ± {:.1}", 100.0 * number(&row["gain"]["value"]), 100.0 * number(&row["gain"]["stderr"]))
            }
            false => "–".into(),
        };
        let last = if row["last"].as_bool() == Some(true) { " (final)" } else { "" };
        let _ = writeln!(
            text,
            "| {}: {}{last} | {} | {} | {:.3} ± {:.3} | {gain} |",
            row["what"].as_str().unwrap_or_default(),
            row["name"].as_str().unwrap_or_default(),
            millions("parameters"),
            millions("parameters_active"),
            number(&row["score"]["value"]),
            number(&row["score"]["stderr"])
        );
    }
    text
}

/// The section of the shipped zoo.
fn shipped(rows: &[Timed], threads: u16) -> String {
    let mut text = format!(
        "{SHIPPED}\n\n`glue run {CONFIG}` with {} seeds; {}, {threads} threads. The oracle asks each task's best single model.\n\n\
         | seed | best single | best merge (1×) | mixture of merged clusters | mixture of members | final | final is | seconds |\n\
         |--:|--:|--:|--:|--:|--:|---|--:|\n",
        rows.len(),
        machine(),
    );
    let mut columns: [Vec<f64>; 5] = Default::default();
    for Timed { seed, report, seconds, .. } in rows {
        let sizes = report["data"]["sizes"].as_array().cloned().unwrap_or_default();
        let row =
            |begin: &str| sizes.iter().find(|row| row["what"].as_str().is_some_and(|what| what.starts_with(begin)));
        let last = sizes.iter().find(|row| row["last"].as_bool() == Some(true));
        let kinds = ["best single model", "best merge", "mixture of merged clusters", "mixture of members"];
        let found = kinds.map(row).into_iter().chain([last]);
        let mut cells = Vec::new();
        for (column, row) in columns.iter_mut().zip(found) {
            column.extend(row.map(|row| number(&row["score"]["value"])));
            cells.push(row.map_or("–".into(), |row| {
                let size = number(&row["parameters"]) / 1e6;
                format!("{:.3} ({size:.2} M)", number(&row["score"]["value"]))
            }));
        }
        let _ = writeln!(text, "| {seed} | {} | {} | {seconds:.0} |", cells.join(" | "), described(report));
    }
    let names = ["best single", "best merge", "mixture of merged clusters", "mixture of members", "final"];
    let all: Vec<String> =
        names.iter().zip(&columns).map(|(name, values)| format!("{name} {}", spread(values))).collect();
    let _ = writeln!(text, "\nMean ± standard deviation over seeds: {}.\n\nSeed 0 in full:\n", all.join("; "));
    text += &rows.first().map(|row| sizes(&row.report["data"])).unwrap_or_default();
    text
}

/// What the final model of a report is, in words.
pub(crate) fn described(report: &Value) -> String {
    let mixture = &report["data"]["mixture"];
    let experts: Vec<&str> = mixture["experts"]
        .as_array()
        .map(|all| all.iter().filter_map(|expert| expert["name"].as_str()).collect())
        .unwrap_or_default();
    match experts.is_empty() {
        true => report["final"]["kind"].as_str().unwrap_or_default().to_string(),
        false => format!(
            "level {}, from layer {}: {}",
            mixture["level"].as_str().unwrap_or_default(),
            mixture["dense_layers"],
            experts.join(", ")
        ),
    }
}

/// Mean and standard deviation in words.
fn spread(values: &[f64]) -> String {
    let n = values.len() as f64;
    if values.is_empty() {
        return "–".into();
    }
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    format!("{mean:.3} ± {deviation:.3}")
}
