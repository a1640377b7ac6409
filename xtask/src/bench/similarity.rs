//! `cargo xtask bench similarity`: all pairs of many checkpoints, against reading the same bytes once.
//!
//! Everything is in the page cache when the clock starts, or with `--cold` nothing, so that both wait for the disk. In
//! each round all files are read from their beginning to their end by as many threads as compare, then each metric
//! runs; what a metric reads less than everything is taken into account.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::checkpoint::{self, Shape};
use super::measure::{Run, best, median, timed};
use super::report::machine;
use crate::repo::Repo;
use crate::shell;

/// Options of `cargo xtask bench similarity`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of checkpoints.
    #[arg(long, default_value_t = 16)]
    models: usize,
    /// Size of each checkpoint, in billions of two-byte parameters.
    #[arg(long, default_value_t = 0.5)]
    size: f64,
    /// Metrics to measure.
    #[arg(long, value_delimiter = ',', default_value = "cosine_per_column,cosine_flat,l2_distance")]
    metrics: Vec<String>,
    /// Number of rounds; the median is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Threads for reading and for comparing.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Drop the files from the page cache before every read and every run.
    #[arg(long)]
    cold: bool,
    /// Also write the figures to this JSON file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How often the time of reading is allowed.
const AIM: f64 = 3.0;
/// Bytes asked for at a time.
const BUFFER: usize = 1 << 20;

/// Measures and prints the table.
///
/// # Errors
/// A checkpoint cannot be made, or a run fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "glue"]))?;
    let shape = Shape::of_size(args.size);
    let folder = repo.target.join("bench").join(format!("{}-{}", shape.folder(), args.models));
    eprintln!(
        "checkpoints: {} of {:.2} billion parameters in {}",
        args.models,
        shape.elements() as f64 / 1e9,
        folder.display()
    );
    checkpoint::make(&folder, shape, args.models)?;
    let models: Vec<PathBuf> = checkpoint::names(args.models).iter().map(|name| folder.join(name)).collect();
    let total = read(&models, args.threads)?.0;
    let mut reads = Vec::new();
    let mut measured: Vec<(Vec<Run>, u64)> = vec![(Vec::new(), 0); args.metrics.len()];
    for _ in 0..args.runs {
        forget(args, &models)?;
        reads.push(read(&models, args.threads)?.1);
        for (metric, (runs, bytes)) in args.metrics.iter().zip(&mut measured) {
            forget(args, &models)?;
            let log = folder.join("log.json");
            let mut command = Command::new(repo.glue("release"));
            command.arg("similarity").args(&models).args(["--metric", metric, "--json", "--threads"]);
            runs.push(timed(command.arg(args.threads.to_string()), &log)?);
            let report: Value = serde_json::from_reader(File::open(&log)?)?;
            *bytes = report["bytes_read"].as_u64().context("no `bytes_read` in the report")?;
        }
    }
    let reading = median(reads.iter().copied());
    let gigabytes = total as f64 / 1e9;
    println!(
        "{}; {} threads; {} checkpoints, {gigabytes:.1} GB, {}; medians of {} rounds",
        machine(),
        args.threads,
        args.models,
        if args.cold { "from the disk" } else { "from the page cache" },
        args.runs
    );
    println!("reading all of it: {reading:.2} s, {:.1} GB/s\n", gigabytes / reading);
    println!("| metric | GB read | s | best s | GB/s | times the read | anonymous MiB | aim | met |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|---|");
    let mut figures = Vec::new();
    for (metric, (runs, bytes)) in args.metrics.iter().zip(&measured) {
        let seconds = median(runs.iter().map(|run| run.seconds));
        let share = *bytes as f64 / total as f64;
        let times = seconds / (reading * share);
        let anonymous = runs.iter().map(|run| run.anonymous).max().unwrap_or(0) as f64 / (1 << 20) as f64;
        println!(
            "| {metric} | {:.1} | {seconds:.2} | {:.2} | {:.2} | {times:.2} | {anonymous:.0} | {AIM} | {} |",
            *bytes as f64 / 1e9,
            best(runs.iter().map(|run| run.seconds)),
            *bytes as f64 / 1e9 / seconds,
            if times <= AIM { "yes" } else { "no" },
        );
        let seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
        figures.push(json!({ "metric": metric, "bytes": bytes, "seconds": seconds, "times_the_read": times, "anonymous_mib": anonymous }));
    }
    if let Some(file) = &args.json {
        let text = format!(
            "{:#}\n",
            json!({ "machine": machine(), "cold": args.cold, "read_seconds": reads, "bytes": total, "metrics": figures })
        );
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Where that is asked for, has the system drop the files from its page cache.
fn forget(args: &Args, models: &[PathBuf]) -> Result<()> {
    for model in models.iter().filter(|_| args.cold) {
        let file = format!("if={}", model.join(checkpoint::WEIGHTS).display());
        shell::run(Command::new("dd").args([&file, "iflag=nocache", "count=0", "status=none"]))?;
    }
    Ok(())
}

/// Reads every checkpoint once: bytes and seconds.
fn read(models: &[PathBuf], threads: usize) -> Result<(u64, f64)> {
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let work = || -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        while let Some(model) = models.get(next.fetch_add(1, Ordering::Relaxed)) {
            bytes.fetch_add(read_file(&model.join(checkpoint::WEIGHTS), &mut buffer)?, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a reading thread panicked"))?)
    })?;
    Ok((bytes.into_inner(), start.elapsed().as_secs_f64()))
}

fn read_file(path: &Path, buffer: &mut [u8]) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut total = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(total),
            n => total += std::hint::black_box(&buffer[..n]).len() as u64,
        }
    }
}
