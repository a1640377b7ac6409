//! Worker processes: the same scores as in this process, and candidates that kill their worker.
//!
//! The workers are this same test program, which serves when it is started with a variable of the environment.

use crate::common::{plan_options, proxy_items, template, zoo};
use glue_eval::load_tasks;
use glue_progress::CancelToken;
use glue_select::contract::{Candidate, CandidateError, ItemRole, Rival, Scorer, Scores, Stopped, Strata};
use glue_select::local::{LocalOptions, LocalScorer};
use glue_select::recipe_text::weighted;
use glue_select::workers::{WorkerError, WorkerPool, serve};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const VARIABLE: &str = "GLUE_TEST_WORKER";

fn scorer() -> LocalScorer {
    let tasks = load_tasks(&[zoo().join("tasks/facts"), zoo().join("tasks/order")]).unwrap();
    let options = LocalOptions { plan: plan_options(), items: proxy_items(), ..LocalOptions::default() };
    LocalScorer::new(tasks, options).unwrap()
}

/// Does to some recipes what a broken driver or a lack of memory would.
struct Fragile {
    inner: LocalScorer,
    marks: PathBuf,
}

impl Scorer for Fragile {
    fn score(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        rival: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let recipe = &candidates[0].recipe;
        let first_time = || std::fs::File::create_new(self.marks.join("died once")).is_ok();
        if recipe.starts_with("# fatal") || (recipe.starts_with("# fragile") && first_time()) {
            eprintln!("out of something");
            std::process::exit(3);
        }
        if recipe.starts_with("# babble") && first_time() {
            println!("what a nice candidate");
        }
        if recipe.starts_with("# sleep") {
            std::thread::sleep(Duration::from_secs(600));
        }
        self.inner.score(candidates, role, rival, done)
    }
}

/// Not a test: what the worker processes of the tests run.
#[test]
fn worker_process() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let make = |setup: &Value| match setup.get("marks").and_then(Value::as_str) {
        Some(marks) => Ok(Box::new(Fragile { inner: scorer(), marks: marks.into() }) as Box<dyn Scorer>),
        None => Err("no marks".into()),
    };
    let ended = serve(std::io::stdin().lock(), std::io::stdout().lock(), make);
    std::process::exit(i32::from(ended.is_err()));
}

fn command() -> Vec<OsString> {
    let me = std::env::current_exe().unwrap().into_os_string();
    let words = ["workers::worker_process", "--exact", "--nocapture", "--test-threads=2"];
    let variable = OsString::from(format!("{VARIABLE}=1"));
    [OsString::from("env"), variable, me].into_iter().chain(words.map(OsString::from)).collect()
}

fn candidates() -> Vec<Candidate> {
    let merge =
        |x: f64| weighted(&template(), "task_arithmetic", &[("a-math".into(), x), ("a-chat".into(), 1.0 - x)], &[]);
    let mut candidates: Vec<Candidate> = [0.1, 0.3, 0.5, 0.7, 0.9].map(merge).to_vec();
    candidates.push(Candidate { recipe: "merge_method: tise\nmodels: []\n".into() });
    candidates
}

fn with(comment: &str, candidate: &Candidate) -> Candidate {
    Candidate { recipe: format!("# {comment}\n{}", candidate.recipe) }
}

fn score(pool: &WorkerPool, candidates: &[Candidate], rival: Option<Rival<'_>>) -> Vec<Result<Scores, CandidateError>> {
    pool.score(candidates, ItemRole::Search, rival, &|_, _| {}).unwrap()
}

#[test]
fn workers_score_as_this_process_does_and_survive_what_kills_them() {
    let marks = tempfile::tempdir().unwrap();
    let pool = WorkerPool::start(command(), 2, json!({"marks": marks.path()}), CancelToken::default()).unwrap();
    let (here, all) = (scorer(), candidates());
    let expected = here.score(&all, ItemRole::Search, None, &|_, _| {}).unwrap();
    assert_eq!(score(&pool, &all, None), expected);
    assert!(expected[5].as_ref().unwrap_err().message.contains("did you mean `ties`"));
    // A race against the best, with strata.
    let scored: Vec<&Scores> = expected.iter().flatten().collect();
    let strata = Strata::of(&scored[..2]);
    let best = scored
        .iter()
        .copied()
        .fold(scored[0], |best, scores| if scores.average > best.average { scores } else { best });
    let rival = Some(Rival { cutoff: best.average, incumbent: best, strata: &strata });
    let raced = here.score(&all, ItemRole::Search, rival, &|_, _| {}).unwrap();
    assert!(raced.iter().flatten().any(|scores| scores.dropped), "{raced:?}");
    assert_eq!(score(&pool, &all, rival), raced);
    assert_eq!(pool.restarts(), 0);

    // Once is an accident.
    let again = score(&pool, &[with("fragile", &all[0]), all[1].clone()], None);
    assert_eq!(again, expected[..2]);
    assert_eq!(pool.restarts(), 1);
    std::fs::remove_file(marks.path().join("died once")).unwrap();
    assert_eq!(score(&pool, &[with("babble", &all[2])], None), expected[2..3]);
    assert_eq!(pool.restarts(), 2);
    // Twice is the candidate, and others do not suffer from it.
    let lost = score(&pool, &[with("fatal", &all[0]), all[1].clone(), all[2].clone()], None);
    assert_eq!(lost[1..], expected[1..3]);
    let message = &lost[0].as_ref().unwrap_err().message;
    assert!(message.starts_with("two workers died while scoring this candidate: worker `env "), "{message}");
    assert!(
        message.contains("exit status: 3") && message.ends_with("its standard error ended with:\nout of something"),
        "{message}"
    );
    assert_eq!(score(&pool, &all, None), expected);
}

#[test]
fn workers_that_do_not_get_ready_are_an_error() {
    let refused = WorkerPool::start(command(), 2, json!({}), CancelToken::default()).unwrap_err().to_string();
    assert!(refused.contains("no marks"), "{refused}");
    let start = |words: &[&str], count| {
        WorkerPool::start(words.iter().map(OsString::from).collect(), count, Value::Null, CancelToken::default())
            .unwrap_err()
    };
    assert_eq!(start(&[], 1), WorkerError::Nothing { found: "no command" });
    assert_eq!(start(&["true"], 0), WorkerError::Nothing { found: "no worker" });
    let message = start(&["no such program"], 1).to_string();
    assert!(message.starts_with("worker `no such program`: starting it: "), "{message}");
    let message = start(&["sh", "-c", "echo hello; echo why >&2; exit 4"], 1).to_string();
    assert!(message.contains("it ended (exit status: 4); its standard error ended with:\nwhy"), "{message}");
    let message = start(&["sh", "-c", r#"echo '{"type": "hello", "version": 1}'; sleep 600"#], 1).to_string();
    assert!(message.contains("expected version 3 of the protocol, found version 1"), "{message}");
}

#[test]
fn a_pool_that_is_told_to_stop_does_not_wait() {
    let (marks, stop) = (tempfile::tempdir().unwrap(), Arc::new(AtomicBool::new(false)));
    let pool =
        WorkerPool::start(command(), 2, json!({"marks": marks.path()}), CancelToken::from_flag(Arc::clone(&stop)))
            .unwrap();
    let candidates: Vec<Candidate> = candidates().iter().map(|candidate| with("sleep", candidate)).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
        });
        let result = pool.score(&candidates, ItemRole::Search, None, &|_, _| {});
        assert_eq!(result.unwrap_err(), Stopped);
    });
    drop(pool);
    // The workers would sleep for ten minutes; a busy machine may take its time.
    assert!(begun.elapsed() < Duration::from_secs(60));
}
