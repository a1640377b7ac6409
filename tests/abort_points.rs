//! Commands that crash at any of their steps, several times over: the output is absent or complete, and the next run
//! writes the same files to the byte.
//!
//! Builds with debug assertions count the points at which something is written, synced or renamed, and abort at the one
//! that `GLUE_ABORT_AT` names (`glue_tensor::abort`). Two more kills of each command come from outside.

use glue_tests::number::Numbers;
use glue_tests::{Run, Zoo, run, shipped};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

/// Names and contents.
type Files = Vec<(String, Vec<u8>)>;

/// A command and its output.
struct Job<'a> {
    zoo: &'a Zoo,
    args: &'a [&'a str],
    /// Arguments added to `args` after an earlier run.
    resume: &'a [&'a str],
    /// The output directory.
    out: &'a str,
    /// The last file written in `out`; empty for a directory that appears complete.
    last: &'a str,
    /// Outputs beside `out`, to be removed before the next run.
    beside: &'a [&'a str],
    /// Whether the file of this name in `out` holds times.
    holds_times: fn(&str) -> bool,
    /// Restores what the command changed in its input.
    reset: &'a dyn Fn(),
}

impl<'a> Job<'a> {
    fn new(zoo: &'a Zoo, args: &'a [&'a str], out: &'a str) -> Job<'a> {
        Job { zoo, args, resume: &[], out, last: "", beside: &[], holds_times: |_| false, reset: &|| {} }
    }

    fn command(&self, again: bool) -> std::process::Command {
        let resume = if again { self.resume } else { &[] };
        let mut command = self.zoo.command(&[self.args, resume].concat());
        command.stdout(Stdio::null());
        command
    }

    /// Removes all outputs of earlier runs.
    fn clear(&self) {
        for name in self.beside.iter().chain([&self.out]) {
            remove(&self.zoo.path(name));
        }
        (self.reset)();
    }

    fn is_complete(&self) -> bool {
        // The report of a run is there from its first stage on, and says that the run has not finished.
        let last = self.zoo.path(self.out).join(self.last);
        let finished = |bytes: Vec<u8>| !bytes.windows(12).any(|window| window == b"Not finished");
        last.is_dir() || fs::read(last).is_ok_and(finished)
    }

    /// Whether it is to be run again after a kill: an output that appeared complete is not written again.
    fn is_left_to_do(&self) -> bool {
        !self.is_complete() || !self.resume.is_empty()
    }

    /// Name and content of all that was made but for times, and for what a kill right after the end may leave.
    fn files(&self) -> Files {
        self.files_in(self.out)
    }

    fn files_in(&self, directory: &str) -> Files {
        let mut files = self.zoo.listing(directory);
        files.retain(|(name, _)| {
            let file = name.rsplit('/').next().unwrap_or(name);
            file != ".lock" && !(file.starts_with('.') && file.ends_with(".partial")) && !(self.holds_times)(name)
        });
        files
    }

    /// Runs it undisturbed: what it makes, and the names of the points passed.
    fn whole(&self) -> (Files, Vec<String>) {
        self.clear();
        let trace = self.zoo.path("trace");
        remove(&trace);
        Run::of(self.command(false).env("GLUE_ABORT_TRACE", &trace)).ok();
        let points = fs::read_to_string(&trace).expect("the binary has points to abort at");
        (self.files(), points.lines().map(String::from).collect())
    }

    /// Checks that the output after an aborted run equals that of a whole run, or is incomplete.
    fn check(&self, expected: &[(String, Vec<u8>)], when: &str) {
        if self.is_complete() {
            return same(&self.files(), expected, when);
        }
        // Whatever opens as a model lacks nothing: only the renaming to `out` was left to do.
        let staging = format!(".{}.partial", self.out);
        let is_model = || self.zoo.glue(&["inspect", &staging]).status == Some(0);
        if self.beside.contains(&&*staging) && self.zoo.path(&staging).join("config.json").exists() && is_model() {
            same(&self.files_in(&staging), expected, &format!("{staging} opens as a model {when}"));
        }
    }

    /// Aborts it `kills` times, at points of every name and spread over all that it passes, up to three times before it
    /// may end.
    fn abort(&self, kills: usize, seed: u64) {
        let (expected, points) = self.whole();
        let trace = self.zoo.path("trace");
        let mut numbers = Numbers::new(seed);
        let mut missed: BTreeSet<&str> = points.iter().map(String::as_str).collect();
        let (mut killed, mut chains) = (0, 0);
        while killed < kills {
            self.clear();
            let (mut when, mut ended) = (String::new(), false);
            // Every other chain has two more kills.
            for link in 0..if chains % 2 == 0 { 3.min(kills - killed) } else { 1 } {
                // The first goes to a name that was not hit yet, the others come anywhere: they may find nothing left.
                let wanted = |name: &&str| points.iter().position(|point| point == name);
                let first = missed.first().filter(|_| link == 0).and_then(wanted);
                let same = |i: &usize| first.is_none_or(|first| points[*i] == points[first]);
                let choice: Vec<usize> = (0..points.len()).filter(same).collect();
                let at = 1 + choice[(numbers.unit() * choice.len() as f64) as usize];
                remove(&trace);
                let mut command = self.command(link > 0);
                let status = command.env("GLUE_ABORT_AT", at.to_string()).env("GLUE_ABORT_TRACE", &trace).status();
                let status = status.expect("glue starts");
                when = format!("{when}, {at} of {}", points.len());
                ended = status.success();
                if ended {
                    break;
                }
                assert_eq!(status.signal(), Some(6), "{when}: it ended with {status}");
                killed += 1;
                let passed = fs::read_to_string(&trace).expect("a trace");
                let name = passed.lines().last().unwrap_or_default();
                when = format!("{when}, `{name}`");
                missed.remove(name);
                self.check(&expected, &when);
                if !self.is_left_to_do() {
                    break;
                }
            }
            self.finish(&expected, ended, &when);
            chains += 1;
        }
        println!("{killed} kills in {chains} runs of {} points", points.len());
        assert!(missed.is_empty(), "no kill at {missed:?}");
    }

    /// Kills it `kills` times from outside, each time when it has passed some number of points, and runs it to its end.
    fn kill(&self, kills: usize, seed: u64) {
        let (expected, points) = self.whole();
        let trace = self.zoo.path("trace");
        let mut numbers = Numbers::new(seed);
        let mut killed = 0;
        // The last points may be passed before the kill comes.
        for _ in 0..10 * kills {
            self.clear();
            remove(&trace);
            let at = 1 + (0.9 * numbers.unit() * points.len() as f64) as usize;
            let passed =
                || fs::read(&trace).is_ok_and(|lines| lines.iter().filter(|byte| **byte == b'\n').count() >= at);
            let running = run::kill_when(self.command(false).env("GLUE_ABORT_TRACE", &trace), passed);
            killed += usize::from(running);
            let when = format!("after SIGKILL, at {at} of {}", points.len());
            self.check(&expected, &when);
            self.finish(&expected, !running, &when);
            if killed == kills {
                return;
            }
        }
        panic!("only {killed} of {kills} kills came in time");
    }

    /// Runs it to its end, if it has not `ended`.
    fn finish(&self, expected: &[(String, Vec<u8>)], ended: bool, when: &str) {
        if !ended && self.is_left_to_do() {
            let run = Run::of(&mut self.command(true));
            assert_eq!((run.status, run.err.as_str()), (Some(0), ""), "{when}");
        }
        same(&self.files(), expected, when);
    }
}

fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

fn same(found: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)], when: &str) {
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{when}");
    for ((name, a), (_, b)) in found.iter().zip(expected) {
        assert!(a == b, "{name} differs: {when}");
    }
}

const MERGE: &str = "merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.5}
";

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn merge() {
    let zoo = Zoo::small();
    zoo.write("out.yml", MERGE);
    let args = ["merge", "out.yml", "out", "--max-shard-size", "200", "--quiet"];
    let job = Job { beside: &[".out.partial"], ..Job::new(&zoo, &args, "out") };
    job.abort(34, 1);
    job.kill(2, 1);
}

/// The models of the shipped zoo with these names, and its tasks.
fn zoo(models: &[&str]) -> Zoo {
    let zoo = Zoo::empty();
    for name in models.iter().chain([&"tasks"]) {
        zoo.copy(&shipped().join(name), name);
    }
    zoo
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn search() {
    let zoo = zoo(&["base-a", "a-chat", "a-math"]);
    zoo.write(
        "search.yml",
        "models: [a-chat, a-math]\nbase: base-a\ntasks: [tasks/facts]\nlimit: 4\n\
         strategies: [average, {evolutionary: {evaluations: 6, population: 3}}]\n",
    );
    let args = ["search", "search.yml", "--out", "out", "--resume", "--quiet"];
    let job = Job {
        resume: &["--resume"],
        beside: &["out.journal.jsonl", "out.metrics.jsonl", ".out.partial"],
        holds_times: |name| ["timings.json", "journal.jsonl"].contains(&name),
        ..Job::new(&zoo, &args[..4], "out")
    };
    job.abort(30, 2);
    job.kill(2, 2);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn run_of_a_zoo() {
    let zoo = zoo(&["base-a", "base-b", "a-chat", "a-math", "b-code"]);
    // Small, and yet something is merged and something mixed.
    zoo.write(
        "zoo.yml",
        "models: [a-chat, a-math, b-code]\nbase: [base-a, base-b]\n\
         tasks: {path: [tasks/arith, tasks/program], limit: 12}\nselect: {strategies: [average], filter: false}\n\
         stack: false\nmixture: {levels: [model], dense: [0.5]}\n",
    );
    let args = ["run", "zoo.yml", "--out", "out", "--quiet"];
    let job = Job {
        resume: &["--resume"],
        last: "report.html",
        holds_times: |name| {
            let file = name.rsplit('/').next().unwrap_or(name);
            // Manifests of stages, and the note of a cluster, have the checksums of files that hold times.
            let times = [
                "cost.json",
                "timings.json",
                "throughput.json",
                "journal.jsonl",
                "metrics.jsonl",
                "report.html",
                "report.md",
            ];
            times.contains(&file) || ["manifest.json", "cluster-1.json"].contains(&file)
        },
        ..Job::new(&zoo, &args, "out")
    };
    job.abort(36, 3);
    job.kill(2, 3);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn merges_of_merges() {
    let zoo = Zoo::small();
    zoo.write("stages.yml", format!("name: first\n{MERGE}---\nmerge_method: slerp\nbase_model: base\nmodels: [{{model: first}}]\nparameters: {{t: 0.25}}\n"));
    let args = ["multi", "stages.yml", "out", "--work-dir", "work", "--quiet"];
    let job = Job { beside: &["work", ".out.partial"], ..Job::new(&zoo, &args, "out") };
    job.abort(16, 4);
    job.kill(2, 4);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn mixtures_and_their_routers() {
    let zoo = zoo(&["a-chat", "a-math"]);
    zoo.write(
        "mix.yml",
        "base_model: a-math\ngate_mode: random\nlevel: block\nrouting: sample\ndense_layers: 3\n\
         experts: [{source_model: a-math}, {source_model: a-chat}]\n",
    );
    let mix = ["mix", "mix.yml", "mixture", "--quiet"];
    let job = Job { beside: &[".mixture.partial"], ..Job::new(&zoo, &mix, "mixture") };
    job.abort(20, 5);
    job.kill(2, 5);

    // The mixture that is trained is changed in place.
    job.clear();
    zoo.glue(&mix).ok();
    zoo.copy(&zoo.path("mixture"), "untrained");
    let reset = || zoo.copy(&zoo.path("untrained"), "mixture");
    let train = [
        "train-router",
        "mixture",
        "--tasks",
        "tasks/facts",
        "--limit",
        "8",
        "--epochs",
        "3",
        "--state",
        "state",
        "--quiet",
    ];
    let job = Job {
        resume: &["--resume"],
        // Which of its files tell that it is done is not for this test to know: it is always run again.
        last: "none",
        beside: &["state"],
        reset: &reset,
        ..Job::new(&zoo, &train, "mixture")
    };
    job.abort(14, 6);
    job.kill(2, 6);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn adapters() {
    let zoo = zoo(&["base-a", "a-math"]);
    let args = ["extract-lora", "base-a", "a-math", "out", "--rank", "1", "--quiet"];
    let job = Job { beside: &[".out.partial"], ..Job::new(&zoo, &args, "out") };
    job.abort(18, 7);
    job.kill(2, 7);

    job.clear();
    zoo.glue(&["extract-lora", "base-a", "a-math", "adapter", "--rank", "1", "--quiet"]).ok();
    let args = ["merge-lora", "--method", "passthrough", "--adapter", "adapter", "out", "--quiet"];
    let job = Job { beside: &[".out.partial"], ..Job::new(&zoo, &args, "out") };
    job.abort(20, 8);
    job.kill(2, 8);
}
