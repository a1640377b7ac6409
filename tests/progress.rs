//! What long jobs tell while they run: log lines on standard error, `metrics.jsonl`; and that `--threads` is kept.

use glue_tests::run::{Run, command, glue};
use glue_tests::{Zoo, shipped};
use serde_json::Value;
use std::fs;
use std::process::Stdio;

/// A search of a second or so: five baselines, and one candidate after another.
const SEARCH: &str = "models: [a-chat, a-math, a-code, a-reason, a-noise]\nbase: base-a\ntasks: [tasks]\nlimit: 6\n\
                      strategies: [average]\nfilter: false\n";

fn search(zoo: &Zoo, out: &str, args: &[&str]) -> Run {
    zoo.write("search.yml", SEARCH);
    glue(&shipped(), [&["search", &zoo.text("search.yml"), "--out", &zoo.text(out)], args].concat())
}

/// How many models and merges a search scored.
fn scored(zoo: &Zoo, out: &str) -> usize {
    let summary = zoo.json(&format!("{out}/search.json"));
    let merges = summary["evaluations"].as_u64().expect("a number") as usize;
    assert!(merges >= 3, "{merges} evaluations of merges");
    5 + merges
}

#[test]
fn a_search_logs_a_line_for_each_candidate() {
    let zoo = Zoo::empty();
    let run = search(&zoo, "out", &[]).ok();
    let lines = run.log.iter().filter(|line| line.contains("best so far"));
    let expected = scored(&zoo, "out");
    assert_eq!(lines.count(), expected, "{:#?}", run.log);
    assert!(run.log[0].contains("] searching: 0 of "), "{:#?}", run.log);
    assert!(run.log.iter().any(|line| line.contains(&format!("] searching: {expected} of "))), "{:#?}", run.log);

    let run = search(&zoo, "json", &["--log-format", "json"]);
    let events: Vec<Value> = run.err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert!(run.status == Some(0) && named("begin") > 0 && named("begin") == named("end"), "{events:#?}");
    assert!(named("message") >= expected, "{events:#?}");
    assert!(events.is_sorted_by(|a, b| a["seconds"].as_f64() <= b["seconds"].as_f64()), "{events:#?}");
    // Errors are events, too.
    let run = search(&zoo, "json", &["--log-format", "json"]);
    let error: Value = serde_json::from_str(run.err.trim_end()).expect("one event");
    assert_eq!((run.status, &error["event"]), (Some(1), &"error".into()));
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("--out")), "{error}");

    let run = search(&zoo, "quiet", &["--quiet"]).ok();
    assert!(run.log.is_empty(), "{:#?}", run.log);
}

#[test]
fn an_evaluation_logs_each_kind_of_request() {
    let args = ["eval", "a-math", "--tasks", "tasks/arith", "--tasks", "tasks/facts", "--limit", "8"];
    let run = glue(&shipped(), args).ok();
    // What is generated is slower than what is scored: it has a count and a rate of its own.
    for phase in ["scoring all tasks", "generating answers to all tasks"] {
        let of_phase: Vec<&String> = run.log.iter().filter(|line| line.contains(phase)).collect();
        assert_eq!(of_phase.len(), 2, "{:#?}", run.log);
        let count = |line: &str| line.split(" of ").nth(1).map(|rest| rest.split(' ').next().unwrap_or("").to_string());
        assert!(of_phase[0].contains(": 0 of ") && count(of_phase[0]) == count(of_phase[1]), "{of_phase:#?}");
        assert!(of_phase[1].contains(" requests in "), "{of_phase:#?}");
    }
}

#[test]
fn metrics_are_beside_the_output_and_matter_to_nothing() {
    let zoo = Zoo::empty();
    search(&zoo, "out", &[]).ok();
    let text = fs::read_to_string(zoo.path("out.metrics.jsonl")).expect("metrics");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for (step, line) in lines.iter().enumerate() {
        assert_eq!((&line["run"], &line["step"], &line["phase"]), (&0.into(), &step.into(), &line["phase"]));
        assert!(line["seconds"].is_number() && line["name"].is_string() && line["value"].is_number(), "{line}");
    }
    for name in ["evaluations", "average", "best", "phase_seconds"] {
        assert!(lines.iter().any(|line| line["name"] == name), "{name}: {text}");
    }
    let best: Vec<f64> =
        lines.iter().filter(|line| line["name"] == "best").filter_map(|line| line["value"].as_f64()).collect();
    assert!(best.len() == scored(&zoo, "out") && best.is_sorted(), "{best:?}");

    // One that cannot be written.
    fs::create_dir(zoo.path("other.metrics.jsonl")).expect("a directory");
    search(&zoo, "other", &[]).ok_with_note("metrics are no longer recorded");
    assert!(zoo.bytes("other/search.json") == zoo.bytes("out/search.json"));
}

#[test]
fn the_number_of_threads_holds_for_candidates_too() {
    let zoo = Zoo::empty();
    zoo.write("search.yml", SEARCH);
    let args = ["search", &zoo.text("search.yml"), "--out", &zoo.text("out"), "--threads", "2", "--quiet"];
    // As many as a pool would have by default.
    const ALL: usize = 16;
    let mut child = command(&shipped(), args);
    let mut child = child.env("RAYON_NUM_THREADS", ALL.to_string()).stdout(Stdio::null()).spawn().expect("glue starts");
    let tasks = format!("/proc/{}/task", child.id());
    let mut most = 0;
    while child.try_wait().expect("a child").is_none() {
        most = most.max(fs::read_dir(&tasks).map_or(0, Iterator::count));
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    assert!(child.wait().expect("a child").success());
    assert!(most < ALL, "{most} threads");
}
