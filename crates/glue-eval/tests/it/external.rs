//! Evaluators as small scripts: what they are given, and how they go wrong.
#![cfg(unix)]

use glue_eval::external::{ExternalEvaluator, Request, Scores};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const ANSWER: &str = r#"{"model": "m", "tasks": {"t": {"acc": 0.75, "n": 4}}}"#;

fn tasks() -> Vec<String> {
    vec!["arith".to_owned(), "with space".to_owned()]
}

fn evaluate(evaluator: &ExternalEvaluator) -> Result<Scores, String> {
    let tasks = tasks();
    let request =
        Request { model: Path::new("models/ż"), tasks: &tasks, split: Some("test"), limit: None, seed: Some(7) };
    evaluator.evaluate(&request, &|_| ()).map_err(|error| error.to_string())
}

fn sh(script: &str) -> ExternalEvaluator {
    ExternalEvaluator::from_argv("sh", ["-c", script])
}

#[test]
fn the_request_is_as_documented() {
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen.json");
    let script = format!(
        r#"cat > '{}'; echo '{{"model": "m", "tasks": {{"arith": {{"acc": 0.5, "n": 1}}, "with space": {{"acc": 1, "n": 1}}}}}}'"#,
        seen.display()
    );
    let scores = evaluate(&sh(&script)).unwrap();
    let names: Vec<_> = scores.tasks.iter().map(|scores| scores.task.clone()).collect();
    assert_eq!(names, tasks());
    assert!((scores.average - 0.75).abs() < 1e-12, "the mean of 0.5 and 1.0: {}", scores.average);
    let request: serde_json::Value = serde_json::from_slice(&fs::read(seen).unwrap()).unwrap();
    let expected = serde_json::json!({
        "model": std::env::current_dir().unwrap().join("models/ż"), "tasks": ["arith", "with space"], "split": "test", "limit": null, "seed": 7
    });
    assert_eq!(request, expected);
}

#[test]
fn a_command_in_one_string_is_split_as_a_shell_does() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("my script.sh");
    fs::write(&script, format!("[ \"$1\" = 'a  b' ] && [ \"$2\" = '$HOME' ] && [ $# = 2 ] && echo '{ANSWER}'"))
        .unwrap();
    let command = format!("sh '{}' \"a  b\" \\$HOME", script.display());
    let evaluator = ExternalEvaluator::new(&command).unwrap();
    assert_eq!(evaluate(&evaluator).unwrap().average, 0.75);
    assert_eq!(evaluator.command(), format!("sh '{}' 'a  b' '$HOME'", script.display()));
    for (command, problem) in [("", "found nothing"), ("  ", "found nothing"), ("a 'b", "not completed")] {
        let error = ExternalEvaluator::new(command).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("evaluator `{command}`: expected a program")) && error.ends_with(problem),
            "{error}"
        );
    }
}

#[test]
fn errors_name_the_command_and_show_what_it_said() {
    let error = evaluate(&ExternalEvaluator::new("/nowhere/evaluator --fast").unwrap()).unwrap_err();
    assert!(error.starts_with("evaluator `/nowhere/evaluator --fast`: starting it: No such file"), "{error}");

    let error = evaluate(&sh("for i in $(seq 30); do echo line $i >&2; done; exit 3")).unwrap_err();
    assert!(error.contains("expected exit status 0, found exit status: 3; it said:\nline 19\n"), "{error}");
    assert!(error.ends_with("line 30"), "{error}");

    let error = evaluate(&sh("kill -9 $$")).unwrap_err();
    assert!(error.contains("signal: 9") && error.ends_with("it said nothing on its standard error"), "{error}");

    let error = evaluate(&sh("echo Loading the model; echo a warning >&2")).unwrap_err();
    assert!(error.contains("its answer: expected one JSON document, found `Loading the model`"), "{error}");
    assert!(error.ends_with("; it said:\na warning"), "{error}");

    let error = evaluate(&sh(r#"echo '{"tasks": {"t": {"acc": 0.75}}}'"#)).unwrap_err();
    assert!(error.contains("expected `tasks.t.n` to be the number of items, found none"), "{error}");

    // A status is an error even with an answer.
    assert!(evaluate(&sh(&format!("echo '{ANSWER}'; exit 1"))).is_err());
    // An answer twice is none.
    assert!(evaluate(&sh(&format!("echo '{ANSWER}'; echo '{ANSWER}'"))).unwrap_err().contains("trailing characters"));
}

#[test]
fn lines_are_handed_on_as_they_come() {
    let lines = Mutex::new(Vec::new());
    let request = Request { model: Path::new("m"), tasks: &[], split: None, limit: Some(3), seed: None };
    let script = sh(&format!("echo one >&2; sleep 0.3; printf 'two\\r\\nthr\\377ee' >&2; echo '{ANSWER}'"));
    let started = Instant::now();
    let scores = script.evaluate(&request, &|line| lines.lock().unwrap().push((line.to_owned(), started.elapsed())));
    assert_eq!(scores.unwrap().tasks[0].metrics, [("acc".to_owned(), 0.75)]);
    let lines = lines.into_inner().unwrap();
    let text: Vec<_> = lines.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(text, ["one", "two", "thr\u{fffd}ee"]);
    assert!(lines[1].1 - lines[0].1 >= Duration::from_millis(200), "the first line came when it was written");
}

#[test]
fn a_program_that_reads_nothing_or_says_much_does_not_block() {
    // More than a pipe holds in each direction.
    let many: Vec<String> = (0..20_000).map(|i| format!("a task with a long name, number {i}")).collect();
    let request = Request { model: Path::new("m"), tasks: &many, split: None, limit: None, seed: None };
    let deaf = sh(&format!(
        "exec <&-; i=0; while [ $i -lt 20000 ]; do echo 'a line of the log' >&2; i=$((i+1)); done; echo '{ANSWER}'"
    ));
    assert_eq!(deaf.evaluate(&request, &|_| ()).unwrap().average, 0.75);
}

/// The process whose number is in that file has been killed; it takes a moment to be gone.
#[cfg(target_os = "linux")]
#[track_caller]
fn assert_ends(note: &Path) {
    let stat = format!("/proc/{}/stat", fs::read_to_string(note).unwrap().trim());
    // One that nobody has waited for yet, in state Z, runs no more.
    let runs =
        || fs::read_to_string(&stat).is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'));
    let deadline = Instant::now() + Duration::from_secs(5);
    while runs() {
        assert!(Instant::now() < deadline, "what the program started is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn time_is_limited_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let note = directory.path().join("pid");
    let limit = Duration::from_millis(500);
    for end in ["wait", "trap '' TERM INT HUP; while true; do sleep 1; done"] {
        let script = format!("sleep 100 & echo $! > '{}'; echo started >&2; {end}", note.display());
        let started = Instant::now();
        let error = evaluate(&sh(&script).with_timeout(limit)).unwrap_err();
        assert!(error.contains("took longer than 0.5 s; it said:\nstarted"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_ends(&note);
    }
    // A program that ends in time, and leaves one behind that keeps its output open, has answered.
    let script = format!("sleep 100 & echo $! > '{}'; echo '{ANSWER}'", note.display());
    let started = Instant::now();
    assert_eq!(evaluate(&sh(&script)).unwrap().average, 0.75);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_ends(&note);
}

#[test]
#[cfg(target_os = "linux")]
fn a_callback_that_panics_ends_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let note = directory.path().join("pid");
    let script = sh(&format!("echo $$ > '{}'; echo now >&2; sleep 100", note.display()));
    let request = Request { model: Path::new("m"), tasks: &[], split: None, limit: None, seed: None };
    let caught = std::panic::catch_unwind(|| script.evaluate(&request, &|line| panic!("{line}")));
    assert!(caught.is_err());
    assert_ends(&note);
}
