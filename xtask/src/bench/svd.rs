//! `cargo xtask bench svd`: the merge of one matrix by singular values, against the same by NumPy and torch.
//!
//! Every runtime is a process of its own that reads the same files; what is timed is the merge alone, from matrices in
//! memory to the merged one. Rounds are interleaved, so that a drift of the machine's speed meets all. glue merges a
//! matrix on one thread, whatever is asked for; the others get `--threads`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::gaussian::Gaussian;
use super::measure::{Run, best, median, timed};
use super::report::machine;
use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask bench svd`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Operator to measure.
    #[arg(long, default_value = "tsv_m", value_parser = ["tsv_m", "iso_c"])]
    operator: String,
    /// Rows and columns of the matrix.
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Number of models.
    #[arg(long, default_value_t = 4)]
    models: usize,
    /// Number of rounds; the median is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Threads of OpenBLAS, NumPy and torch.
    #[arg(long, default_value_t = 1)]
    threads: u16,
    /// Python with NumPy, and optionally torch.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Also write the figures to this JSON file.
    #[arg(long)]
    json: Option<PathBuf>,
}

const EXAMPLE: &str = "merge_matrix";
const OPENBLAS: &str = "does not build: it needs OpenBLAS, as by `apt-get install libopenblas-dev`";

/// One way to merge the matrix.
struct Way {
    name: String,
    command: Result<Vec<String>, String>,
    runs: Vec<Run>,
    seconds: Vec<f64>,
    merged: Vec<f32>,
}

impl Way {
    fn new(name: &str, command: Result<Vec<String>, String>) -> Self {
        Self { name: name.into(), command, runs: Vec::new(), seconds: Vec::new(), merged: Vec::new() }
    }
}

/// Measures and prints the table.
///
/// # Errors
/// The example does not build, or a run fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    let folder = repo.target.join("bench").join("svd");
    fs::create_dir_all(&folder)?;
    let base = matrices(&folder, args)?;
    let mut ways = ways(args, &repo, &folder)?;
    for _ in 0..args.runs {
        for way in &mut ways {
            let Ok(words) = &way.command else { continue };
            let log = folder.join("log.json");
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            for key in ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
                command.env(key, args.threads.to_string());
            }
            way.runs.push(timed(&mut command, &log)?);
            let report: Value = serde_json::from_str(fs::read_to_string(&log)?.trim())
                .with_context(|| format!("{} printed no JSON document", way.name))?;
            way.seconds.push(report["seconds"].as_f64().context("no `seconds` in the report")?);
            way.merged = read(&folder.join("merged.f32"))?;
        }
    }
    println!("{}", table(args, &base, &ways));
    if let Some(file) = &args.json {
        let figures: Vec<Value> = ways
            .iter()
            .map(|way| json!({ "runtime": way.name, "seconds": way.seconds, "missing": way.command.as_ref().err() }))
            .collect();
        let text = format!(
            "{:#}\n",
            json!({ "machine": machine(), "operator": args.operator, "size": args.size, "models": args.models, "runtimes": figures })
        );
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Writes the matrices: weights of 0.02, task vectors of 0.002. Returns the base.
fn matrices(folder: &Path, args: &Args) -> Result<Vec<f32>> {
    let gaussian = Gaussian::new();
    let sample = |stream: usize, scale: f32| {
        let mut out = vec![0.0; args.size * args.size];
        gaussian.fill(stream as u64, &mut out);
        out.iter_mut().for_each(|x| *x *= scale);
        out
    };
    let base = sample(0, 0.02);
    write(&folder.join("base.f32"), &base)?;
    for i in 0..args.models {
        let mut model = sample(i + 1, 0.002);
        model.iter_mut().zip(&base).for_each(|(x, base)| *x += base);
        write(&folder.join(format!("model-{i}.f32")), &model)?;
    }
    Ok(base)
}

fn write(path: &Path, values: &[f32]) -> Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<f32>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// What can be measured, and what cannot, with the reason.
fn ways(args: &Args, repo: &Repo, folder: &Path) -> Result<Vec<Way>> {
    let shape: Vec<String> = [args.size, args.size, args.models].iter().map(usize::to_string).collect();
    let words = |program: &Path, before: &[&str], after: &[&str]| {
        let mut words = vec![program.display().to_string()];
        words.extend(before.iter().map(ToString::to_string));
        words.extend([folder.display().to_string(), args.operator.clone()]);
        words.extend(shape.iter().cloned());
        words.extend(after.iter().map(ToString::to_string));
        words
    };
    let faer = build(repo, folder, "faer", &[])?;
    let mut ways = vec![Way::new("glue, faer", Ok(words(&faer, &[], &[])))];
    if args.operator == "tsv_m" {
        ways.push(Way::new("glue, faer, `svd: randomised`", Ok(words(&faer, &[], &["svd=randomised"]))));
    }
    let lapack = build(repo, folder, "lapack", &["--features", "lapack"]);
    ways.push(Way::new("glue, LAPACK", lapack.map(|lapack| words(&lapack, &[], &[])).map_err(|_| OPENBLAS.into())));
    let script = repo.path("tests/interop/merge_matrix.py").display().to_string();
    for runtime in ["numpy", "torch"] {
        let command = match &args.python {
            None => Err("needs `--python`".into()),
            Some(python) if !shell::works(Command::new(python).args(["-c", &format!("import {runtime}")])) => {
                Err(format!("is not there: `pip install {runtime}`"))
            }
            Some(python) => Ok(words(python, &[&script, runtime], &["--threads", &args.threads.to_string()])),
        };
        ways.push(Way::new(runtime, command));
    }
    Ok(ways)
}

/// Builds the example and puts it where the next build does not overwrite it.
fn build(repo: &Repo, folder: &Path, name: &str, features: &[&str]) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "-p", "glue-spectral", "--example", EXAMPLE]).args(features);
    shell::run(&mut cargo)?;
    let program = folder.join(format!("{EXAMPLE}-{name}"));
    fs::copy(repo.target.join("release/examples").join(EXAMPLE), &program)?;
    Ok(program)
}

fn table(args: &Args, base: &[f32], ways: &[Way]) -> String {
    let Args { operator, size, models, threads, runs, .. } = args;
    let mut lines = vec![
        format!(
            "{}; {operator} of {models} models, {size}×{size}; glue on 1 thread, the others on {threads}; medians of {runs} rounds",
            machine()
        ),
        "differs: norm of the difference from the first, over the norm of what was added to the base".to_owned(),
        String::new(),
        "| runtime | s | best s | times glue's | anonymous MiB | differs |".to_owned(),
        "|---|--:|--:|--:|--:|--:|".to_owned(),
    ];
    let first = median(ways.first().iter().flat_map(|way| way.seconds.iter().copied()));
    for way in ways {
        lines.push(match &way.command {
            Err(reason) => format!("| {} | {reason} | | | | |", way.name),
            Ok(_) => {
                let seconds = median(way.seconds.iter().copied());
                let anonymous = way.runs.iter().map(|run| run.anonymous).max().unwrap_or(0) as f64 / f64::from(1 << 20);
                format!(
                    "| {} | {seconds:.2} | {:.2} | {:.2} | {anonymous:.0} | {:.1e} |",
                    way.name,
                    best(way.seconds.iter().copied()),
                    seconds / first,
                    difference(&way.merged, ways.first().map_or(&[], |way| &way.merged), base),
                )
            }
        });
    }
    lines.join("\n")
}

/// ‖a − b‖ / ‖b − base‖.
fn difference(a: &[f32], b: &[f32], base: &[f32]) -> f64 {
    let norm = |x: &[f32], y: &[f32]| {
        x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
    };
    norm(a, b) / norm(b, base)
}

#[cfg(test)]
mod tests {
    //! The table, without a measurement.
    use super::*;

    #[test]
    fn a_row_for_each_way_and_a_reason_for_what_is_missing() {
        let args = Args { operator: "tsv_m".into(), size: 1, models: 2, runs: 1, threads: 1, python: None, json: None };
        let measured = |name: &str, seconds, merged| Way {
            seconds: vec![seconds],
            merged: vec![merged],
            ..Way::new(name, Ok(Vec::new()))
        };
        let ways =
            [measured("glue", 2.0, 3.0), measured("numpy", 5.0, 2.5), Way::new("torch", Err("is not there".into()))];
        let text = table(&args, &[1.0], &ways);
        let rows: Vec<&str> = text.lines().skip(5).collect();
        assert_eq!(
            rows,
            [
                "| glue | 2.00 | 2.00 | 1.00 | 0 | 0.0e0 |",
                "| numpy | 5.00 | 5.00 | 2.50 | 0 | 2.5e-1 |",
                "| torch | is not there | | | | |",
            ]
        );
    }
}
