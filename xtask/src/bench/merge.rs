//! `cargo xtask bench merge`: whole merges, against the copy of one checkpoint.
//!
//! All files are in the page cache when the clock starts, so that what is measured is not the disk's reading rate; with
//! `--cold`, none of them is. In each round a checkpoint is copied by `cp`, then flushed by `sync`, then the merge
//! runs, then mergekit if it was given: a drift of the machine's speed meets all of them. `cp` does not wait for the
//! disk and `glue` does, to survive a crash, which is why there are two rates to compare with.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cases::{self, Case};
use super::checkpoint::{self, Shape};
use super::measure::{Run, timed};
use super::report;
use crate::repo::Repo;
use crate::shell;

/// A base and three fine-tunes.
const CHECKPOINTS: usize = 4;

/// Options of `cargo xtask bench merge`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Size of each checkpoint, in billions of two-byte parameters.
    #[arg(long, default_value_t = 0.5)]
    size: f64,
    /// Shapes of a known model instead: two of its layers and its embeddings.
    #[arg(long, conflicts_with = "size")]
    shapes: Option<Shapes>,
    /// Drop the inputs from the page cache before every copy and every merge.
    #[arg(long)]
    cold: bool,
    /// Operators to measure (default: all).
    #[arg(long, value_delimiter = ',')]
    ops: Vec<String>,
    /// Number of rounds per operator; the median is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Python environment with mergekit, to run it on the same files.
    #[arg(long, value_name = "VENV_DIR")]
    mergekit: Option<PathBuf>,
    /// Number of rounds in which mergekit runs.
    #[arg(long, default_value_t = 1)]
    mergekit_runs: u32,
    /// Keep the last merged checkpoint of each operator.
    #[arg(long)]
    keep: bool,
    /// Also write the figures to this JSON file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Models whose shapes can be asked for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shapes {
    /// Llama-2-7B.
    #[value(name = "7b")]
    Llama2,
}

/// One round: the copy, the copy with the wait for the disk, the merge, and the merge by mergekit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) copy: f64,
    pub(super) copy_and_sync: f64,
    pub(super) glue: Run,
    pub(super) mergekit: Option<Run>,
}

/// Everything measured about one operator.
pub(super) struct Measured {
    pub(super) case: &'static Case,
    /// The bytes of one checkpoint's weights, which a copy reads and writes.
    pub(super) checkpoint: u64,
    /// The bytes of the merged weights.
    pub(super) output: u64,
    pub(super) rounds: Vec<Round>,
}

/// What rounds are run with.
struct Bench<'a> {
    args: &'a Args,
    glue: PathBuf,
    mergekit: Option<PathBuf>,
    folder: PathBuf,
}

/// Measures and prints the table.
///
/// # Errors
/// A checkpoint cannot be made, or a copy or a merge fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let cases = cases::chosen(&args.ops)?;
    let mergekit = args.mergekit.as_deref().map(mergekit_of).transpose()?;
    let repo = Repo::find()?;
    // All packages are selected, so that the binary is the one that a release build of the workspace gives.
    shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "glue"]))?;
    let shape = match args.shapes {
        Some(Shapes::Llama2) => checkpoint::LLAMA_2_7B,
        None => Shape::of_size(args.size),
    };
    let folder = repo.target.join("bench").join(shape.folder());
    eprintln!("checkpoints: 4 of {:.2} billion parameters in {}", shape.elements() as f64 / 1e9, folder.display());
    checkpoint::make(&folder, shape, CHECKPOINTS)?;
    let bench = Bench { args, glue: repo.glue("release"), mergekit, folder };
    // The first copy after a pause is the slowest, several times so on a virtual machine: it does not count.
    bench.warm()?;
    bench.copy()?;
    let mut measured = Vec::new();
    for case in cases {
        eprintln!("{} ...", case.name);
        measured.push(bench.measure(case).with_context(|| format!("operator {}", case.name))?);
    }
    print!("{}", report::table(&measured, args.cold));
    if let Some(file) = &args.json {
        let text = format!("{:#}\n", report::json(&measured, args.cold));
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The program in a Python environment, by an absolute path: it is started in another folder.
fn mergekit_of(environment: &Path) -> Result<PathBuf> {
    let program = std::path::absolute(environment.join("bin/mergekit-yaml"))?;
    if !program.is_file() {
        bail!("{} is missing\nhint: pip install mergekit in that environment", program.display());
    }
    Ok(program)
}

impl Bench<'_> {
    fn measure(&self, case: &'static Case) -> Result<Measured> {
        let config = format!("{}.yml", case.name);
        fs::write(self.folder.join(&config), case.config())?;
        let mut measured = Measured { case, checkpoint: self.warm()?, output: 0, rounds: Vec::new() };
        for round in 0..self.args.runs {
            let (copy, copy_and_sync) = self.copy()?;
            let out = format!("out-{}", case.name);
            let glue = self.merge(Command::new(&self.glue).args(["merge", &config, &out]), &out)?;
            measured.output = weights(&self.folder.join(&out))?;
            if !(self.args.keep && round + 1 == self.args.runs) {
                fs::remove_dir_all(self.folder.join(&out))?;
            }
            let mergekit = match &self.mergekit {
                Some(program) if round < self.args.mergekit_runs => {
                    let out = format!("out-mergekit-{}", case.name);
                    let mut command = Command::new(program);
                    // The checkpoints have no tokenizer to copy, and nothing is to be asked of a hub.
                    command
                        .args([&config, &out, "--no-copy-tokenizer", "--no-write-model-card"])
                        .env("HF_HUB_OFFLINE", "1");
                    let run = self.merge(&mut command, &out)?;
                    fs::remove_dir_all(self.folder.join(&out))?;
                    Some(run)
                }
                _ => None,
            };
            measured.rounds.push(Round { copy, copy_and_sync, glue, mergekit });
        }
        Ok(measured)
    }

    /// Runs a merge that writes the folder `out`, which must not be there when it starts.
    fn merge(&self, command: &mut Command, out: &str) -> Result<Run> {
        let path = self.folder.join(out);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        self.cool()?;
        timed(command.current_dir(&self.folder), &self.folder.join("log.txt"))
    }

    /// The seconds that `cp` takes for one checkpoint, and `cp` and `sync` together.
    fn copy(&self) -> Result<(f64, f64)> {
        let (from, to, log) = (self.folder.join("base").join(checkpoint::WEIGHTS), "copy", self.folder.join("log.txt"));
        // A file system that can would share the blocks and copy nothing.
        let mut copy = Command::new("cp");
        copy.arg("--reflink=never").arg(from).arg(to).current_dir(&self.folder);
        self.cool()?;
        let copied = timed(&mut copy, &log)?.seconds;
        let flushed = timed(Command::new("sync").arg(to).current_dir(&self.folder), &log)?.seconds;
        fs::remove_file(self.folder.join(to))?;
        Ok((copied, copied + flushed))
    }

    /// Drops every checkpoint from the page cache, if that was asked for.
    fn cool(&self) -> Result<()> {
        for name in checkpoint::names(CHECKPOINTS).iter().filter(|_| self.args.cold) {
            let file = File::open(self.folder.join(name).join(checkpoint::WEIGHTS))?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    /// Reads every checkpoint, so that it is in the page cache, and returns the bytes of one.
    fn warm(&self) -> Result<u64> {
        let mut bytes = 0;
        for name in checkpoint::names(CHECKPOINTS) {
            let mut file = File::open(self.folder.join(name).join(checkpoint::WEIGHTS))?;
            // Not `sink`, for which the standard library need not read at all.
            bytes = io::copy(&mut file, &mut Discard)?;
        }
        Ok(bytes)
    }
}

/// Takes bytes and forgets them.
struct Discard;

impl io::Write for Discard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(std::hint::black_box(bytes).len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of the weights in a folder.
fn weights(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("no merged checkpoint in {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            bytes += fs::metadata(path)?.len();
        }
    }
    if bytes == 0 {
        bail!("no weights in {}", folder.display());
    }
    Ok(bytes)
}
