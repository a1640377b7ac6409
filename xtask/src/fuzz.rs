//! `cargo xtask fuzz`: random input for the parsers, with cargo-fuzz.
//!
//! The targets are a package of their own in `fuzz/`, outside the workspace. By default they are built with no
//! sanitizer, which a stable compiler can do: libFuzzer still follows which code an input reaches, and panics, failed
//! assertions, hangs and memory beyond a limit are found. `--sanitizer address` also watches memory accesses and
//! needs a nightly compiler.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::shell;

/// Maximum length of an input, in bytes. Short inputs run faster and find the same bugs.
const MAX_LEN: u32 = 4096;
/// Time limit of one input, in seconds: more than all its templates and texts may take on a busy machine.
const TIMEOUT: u32 = 300;
/// Limit on resident memory, in MiB; libFuzzer checks it once a second.
const RESIDENT: u32 = 2048;
/// Limit on address space without a sanitizer, in KiB, against a single huge allocation.
const ADDRESS_SPACE: u32 = 16 << 20;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Minutes per target.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Number of targets to run at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Sanitizer to build with. `address` needs a nightly compiler.
    #[arg(long, value_enum, default_value_t = Sanitizer::None)]
    sanitizer: Sanitizer,
    /// Targets to run (default: all).
    targets: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sanitizer {
    None,
    Address,
}

/// What came of a target.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    executions: u64,
    /// Edges of the control flow that inputs reached.
    coverage: u64,
    /// What ended it early, and the input that did.
    finding: Option<String>,
}

/// Runs the targets and prints a table of what came of each.
///
/// # Errors
/// A tool is missing, a target's name is unknown, or an input that crashes a target was found.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    if !(args.minutes > 0.0 && args.minutes < 1e6) {
        bail!("--minutes {}: expected a number above 0", args.minutes);
    }
    let known = check_tools(&repo, args.sanitizer)?;
    if let Some(unknown) = args.targets.iter().find(|name| !known.contains(name)) {
        bail!("there is no fuzz target `{unknown}`; expected one of {}", known.join(", "));
    }
    let targets: Vec<&String> =
        known.iter().filter(|name| args.targets.is_empty() || args.targets.contains(name)).collect();
    // The dependencies are those of the workspace, in the same versions; cargo adds the few that fuzzing needs.
    fs::copy(repo.path("Cargo.lock"), repo.path("fuzz/Cargo.lock")).context("cannot write fuzz/Cargo.lock")?;
    let build = build(&repo, args.sanitizer, &targets)?;

    let seconds = (args.minutes * 60.0).ceil() as u64;
    println!("{} targets, {seconds} s each, {} at a time", targets.len(), args.jobs.max(1));
    // Files of targets that read from a directory; in memory where the system offers that.
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let campaign = Campaign { repo: &repo, build, sanitizer: args.sanitizer, seconds, scratch: scratch.path() };
    let waiting = Mutex::new(targets.iter().copied().collect::<VecDeque<_>>());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some(target) = next(&waiting) {
                    let start = Instant::now();
                    let outcome = campaign.fuzz(target);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        println!("{target}: {}", words(&outcome));
                        outcomes.push((target, start.elapsed().as_secs_f64(), outcome));
                    }
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|(target, ..)| *target);
    println!("\n{:<16} {:>12} {:>10} {:>9}  result", "target", "executions", "per second", "coverage");
    for (target, elapsed, outcome) in &outcomes {
        let (executions, coverage) = outcome.as_ref().map_or((0, 0), |outcome| (outcome.executions, outcome.coverage));
        let rate = executions as f64 / elapsed.max(1e-9);
        println!("{target:<16} {executions:>12} {rate:>10.0} {coverage:>9}  {}", words(outcome));
    }
    let failed = outcomes.iter().filter(|(.., outcome)| outcome.as_ref().map_or(true, |o| o.finding.is_some())).count();
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {} targets failed; logs are in fuzz/artifacts", outcomes.len()),
    }
}

fn next<'a>(waiting: &Mutex<VecDeque<&'a String>>) -> Option<&'a String> {
    waiting.lock().ok()?.pop_front()
}

fn words(outcome: &Result<Outcome>) -> String {
    match outcome {
        Ok(Outcome { finding: Some(finding), .. }) => finding.clone(),
        Ok(outcome) => format!("no finding in {} executions", outcome.executions),
        Err(error) => format!("{error:#}"),
    }
}

/// The names of all targets, once cargo-fuzz and the compiler are known to be there.
fn check_tools(repo: &Repo, sanitizer: Sanitizer) -> Result<Vec<String>> {
    if sanitizer == Sanitizer::Address && !shell::works(cargo(repo, sanitizer).arg("--version")) {
        bail!("no nightly compiler\nhint: rustup toolchain install nightly, or leave --sanitizer address out");
    }
    if !shell::works(cargo(repo, sanitizer).args(["fuzz", "--version"])) {
        bail!("cargo-fuzz is not installed\nhint: cargo install cargo-fuzz --locked");
    }
    let list = shell::read(cargo(repo, sanitizer).args(["fuzz", "list", "--fuzz-dir", "fuzz"]))?;
    Ok(list.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect())
}

/// Builds the targets and returns the folder of their binaries.
fn build(repo: &Repo, sanitizer: Sanitizer, targets: &[&String]) -> Result<PathBuf> {
    let version = shell::read(Command::new("rustc").arg("-vV").current_dir(&repo.root))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("output of rustc -vV")?;
    let name = if sanitizer == Sanitizer::None { "none" } else { "address" };
    let mut command = cargo(repo, sanitizer);
    command.args(["fuzz", "build", "--fuzz-dir", "fuzz", "--target-dir", "fuzz/target"]);
    command.args(["--sanitizer", name, "--target", host]);
    if let [target] = targets {
        command.arg(target);
    }
    shell::run(&mut command)?;
    Ok(repo.path("fuzz/target").join(host).join("release"))
}

/// What all targets have in common.
struct Campaign<'a> {
    repo: &'a Repo,
    /// The folder of the binaries.
    build: PathBuf,
    sanitizer: Sanitizer,
    seconds: u64,
    /// The folder for temporary files of targets.
    scratch: &'a Path,
}

impl Campaign<'_> {
    /// Runs one target for the whole time, or to its first finding.
    fn fuzz(&self, target: &str) -> Result<Outcome> {
        let (start, mut total) = (Instant::now(), Outcome::default());
        loop {
            let left = self.seconds.saturating_sub(start.elapsed().as_secs());
            let outcome = self.start(target, left.max(1))?;
            total.executions += outcome.executions;
            total.coverage = total.coverage.max(outcome.coverage);
            total.finding = outcome.finding;
            // A target leaves early when many inputs together have filled its memory.
            if total.finding.is_some() || start.elapsed().as_secs() >= self.seconds {
                return Ok(total);
            }
        }
    }

    /// Runs one process of a target; what it prints goes to a log.
    fn start(&self, target: &str, seconds: u64) -> Result<Outcome> {
        let fuzz = self.repo.path("fuzz");
        let artifacts = fuzz.join("artifacts").join(target);
        let (corpus, seeds) = (fuzz.join("corpus").join(target), fuzz.join("seeds").join(target));
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let path = artifacts.with_extension("log");
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        // An address sanitizer reserves more address space than any limit allows.
        let limit = if self.sanitizer == Sanitizer::None { ADDRESS_SPACE.to_string() } else { "unlimited".into() };
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v \"$0\"; ulimit -c 0; exec \"$@\"", &limit]);
        command.arg(self.build.join(target)).arg(corpus).args(Some(seeds).filter(|seeds| seeds.is_dir()));
        command.args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={MAX_LEN}"),
            format!("-timeout={TIMEOUT}"),
            format!("-rss_limit_mb={RESIDENT}"),
            format!("-artifact_prefix={}/", artifacts.display()),
            "-print_final_stats=1".into(),
        ]);
        command.current_dir(&self.repo.root).env("TMPDIR", self.scratch);
        command.stdout(log.try_clone()?).stderr(log);
        let status = command.status().with_context(|| format!("cannot start {target}"))?;
        let mut outcome = read_log(BufReader::new(File::open(&path)?));
        if status.success() {
            // It may have kept an input that was merely slow.
            outcome.finding = None;
        } else if outcome.finding.is_none() {
            outcome.finding = Some(format!("it ended with {status}; see {}", self.repo.relative(&path)));
        }
        if let Some(finding) = &mut outcome.finding {
            *finding = finding.replace(&format!("{}/", self.repo.root.display()), "");
        }
        Ok(outcome)
    }
}

/// What libFuzzer says at its end, and the input that it wrote when there was a finding.
fn read_log(log: impl BufRead) -> Outcome {
    let mut outcome = Outcome::default();
    let mut kind = String::from("finding");
    for line in log.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            outcome.executions = count.trim().parse().unwrap_or_default();
        } else if let Some((_, rest)) = line.split_once(" cov: ") {
            let digits = rest.split(' ').next().unwrap_or_default();
            outcome.coverage = digits.parse().unwrap_or(outcome.coverage);
        } else if let Some((_, rest)) = line.split_once("ERROR: libFuzzer: ") {
            kind = rest.split(" (").next().unwrap_or(rest).to_string();
        } else if let Some((_, file)) = line.split_once("Test unit written to ") {
            outcome.finding = Some(format!("{kind}: {}", file.trim()));
        }
    }
    outcome
}

/// `cargo`, or `cargo +nightly` through rustup: the cargo that started this program is a stable one and would pass
/// itself on.
fn cargo(repo: &Repo, sanitizer: Sanitizer) -> Command {
    let mut command = match sanitizer {
        Sanitizer::None => shell::cargo(),
        Sanitizer::Address => {
            let mut command = Command::new("cargo");
            command.arg("+nightly");
            for key in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
                command.env_remove(key);
            }
            command
        }
    };
    command.current_dir(&repo.root);
    command
}

#[cfg(test)]
mod tests {
    //! What is read from a log.
    use super::*;

    #[test]
    fn counts_and_findings_are_read() {
        let log = "#2\tINITED cov: 12 ft: 13 corp: 1/1b\n#9\tNEW    cov: 15 ft: 20 corp: 2/3b\n\
            ==7== ERROR: libFuzzer: out-of-memory (malloc(12))\n\
            artifact_prefix='x/'; Test unit written to x/oom-1\nstat::number_of_executed_units: 345\n";
        let outcome = read_log(log.as_bytes());
        assert_eq!((outcome.executions, outcome.coverage), (345, 15));
        assert_eq!(outcome.finding.as_deref(), Some("out-of-memory: x/oom-1"));
        assert_eq!(read_log(&b"Done 3 runs\n\xff\n"[..]), Outcome::default());
    }
}
