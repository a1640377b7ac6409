//! `cargo xtask results`: the whole pipeline on the shipped zoo with several seeds, and what it is
//! worth on the test split.

use std::fmt::Write;
use std::fs;
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
    /// Number of seeds, from 0.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Threads per run.
    #[arg(long, default_value_t = 2)]
    threads: u16,
}

/// Runs the pipeline once for each seed and writes `docs/results.md`.
///
/// # Errors
/// It does not build, or does not run.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "glue"]))?;
    let scratch = tempfile::tempdir()?;
    let glue = std::path::absolute(repo.glue("release"))?;
    let mut rows = Vec::new();
    for seed in 0..args.seeds {
        let out = scratch.path().join(seed.to_string());
        let mut command = Command::new(&glue);
        command.args(["run", CONFIG, "--quiet", "--json", "--seed", &seed.to_string()]);
        command.args(["--threads", &args.threads.to_string()]).arg("--out").arg(&out).current_dir(&repo.root);
        let start = Instant::now();
        let text = shell::read(&mut command)?;
        let report: Value = serde_json::from_str(&text).context("the report")?;
        rows.push((seed, report, start.elapsed().as_secs_f64()));
    }
    fs::write(repo.path("docs/results.md"), document(&rows, args.threads)?)?;
    Ok(())
}

fn average(report: &Value, key: &str) -> Result<f64> {
    report[key]["average"].as_f64().with_context(|| format!("no average of `{key}`"))
}

fn document(rows: &[(u64, Value, f64)], threads: u16) -> Result<String> {
    let mut text = format!(
        "# Results\n\nWritten by `cargo xtask results` on {}, {threads} threads: `glue run {CONFIG}` with {} seeds. Test scores, mean \
         over five tasks; the standard error of one is about 0.01. The merge is what selective merging made of the largest \
         cluster by itself; the oracle asks each task's best single model.\n\n\
         | seed | best single | merge | final | of the oracle | final is | seconds |\n|--:|--:|--:|--:|--:|---|--:|\n",
        machine(),
        rows.len()
    );
    let (mut merges, mut finals) = (Vec::new(), Vec::new());
    for (seed, report, seconds) in rows {
        let single = average(report, "best_single")?;
        let merge = average(report, "merged").ok();
        let last = average(report, "final")?;
        let what = described(report);
        let share = report["final"]["of_oracle"].as_f64().unwrap_or_default();
        let merged = merge.map_or("–".into(), |merge| format!("{merge:.4}"));
        let _ = writeln!(
            text,
            "| {seed} | {single:.4} | {merged} | {last:.4} | {:.1} % | {what} | {seconds:.0} |",
            100.0 * share
        );
        merges.extend(merge);
        finals.push(last);
    }
    let _ = writeln!(text, "\nFinal {}; merge alone {}.", spread(&finals), spread(&merges));
    Ok(text)
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
    format!("{mean:.4}, standard deviation over seeds {deviation:.4}")
}
