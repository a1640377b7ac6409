//! Candidates scored by a program: what it is given, what it answers, and what is left behind.
#![cfg(unix)]

use crate::common::{plan_options, template};
use glue_eval::external::ExternalEvaluator;
use glue_progress::CancelToken;
use glue_select::contract::{Candidate, ItemRole, Rival, Scorer, Scores, Stopped, Strata};
use glue_select::external::{ExternalOptions, ExternalScorer};
use glue_select::recipe_text::weighted;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn candidate(weight: f64) -> Candidate {
    weighted(&template(), "task_arithmetic", &[("a-math".into(), weight), ("a-code".into(), 0.5)], &[])
}

/// A program that finds the weights of the merged model, and answers with the length of a file of it.
fn scorer(directory: &Path, cancel: CancelToken, script: &str) -> ExternalScorer {
    let program = directory.join("program.sh");
    std::fs::write(&program, script).unwrap();
    let candidates = directory.join("candidates");
    std::fs::create_dir_all(&candidates).unwrap();
    let options = ExternalOptions {
        plan: plan_options(),
        tasks: vec!["sums".into()],
        split: Some("proxy".into()),
        validation_split: Some("test".into()),
        directory: candidates,
        parallel: 2,
        cancel,
        ..ExternalOptions::default()
    };
    ExternalScorer::new(ExternalEvaluator::from_argv("sh", [program]), options, |_| {})
}

const ANSWER: &str = r#"
request=$(cat)
model=$(printf '%s' "$request" | sed 's/.*"model":"\([^"]*\)".*/\1/')
split=$(printf '%s' "$request" | sed 's/.*"split":"\([^"]*\)".*/\1/')
test -s "$model/model.safetensors" && test -s "$model/config.json" && test -s "$model/tokenizer.json" || exit 1
grep -q 'a-noise' "$model/glue.json" && exit 7
echo "$split" >> "$(dirname "$0")/calls"
case $split in proxy) x=0.5;; *) x=0.25;; esac
echo "{\"tasks\": {\"sums\": {\"acc\": $x, \"acc_stderr\": 0.1, \"n\": 12}}, \"average\": $x}"
"#;

#[test]
fn a_program_scores_the_written_candidate_once() {
    let directory = tempfile::tempdir().unwrap();
    let scorer = scorer(directory.path(), CancelToken::default(), ANSWER);
    let candidates = [candidate(0.1), candidate(0.2), Candidate { recipe: "merge_method: x\n".into() }];
    // The program scores all items, whatever the candidates race against.
    let incumbent = Scores { tasks: Vec::new(), average: 0.9, stderr: None, dropped: false };
    let strata = Strata::default();
    let rival = Some(Rival { cutoff: 0.9, incumbent: &incumbent, strata: &strata });
    for _ in 0..2 {
        let results = scorer.score(&candidates, ItemRole::Search, rival, &|_, _| {}).unwrap();
        for scores in results[..2].iter().map(|result| result.as_ref().unwrap()) {
            assert_eq!((scores.average, scores.tasks[0].n, scores.dropped), (0.5, 12, false));
            assert_eq!((scores.tasks[0].task.as_str(), scores.tasks[0].metric.as_str()), ("sums", "acc"));
        }
        assert!(results[2].is_err());
    }
    let validation = scorer.score(&candidates[..1], ItemRole::Validation, None, &|_, _| {}).unwrap();
    assert_eq!(validation[0].as_ref().unwrap().average, 0.25);
    let calls = std::fs::read_to_string(directory.path().join("calls")).unwrap();
    assert_eq!(calls.lines().collect::<Vec<_>>(), ["proxy", "proxy", "test"]);
    // Nothing of the candidates is left.
    assert_eq!(std::fs::read_dir(directory.path().join("candidates")).unwrap().count(), 0);
}

#[test]
fn a_program_that_fails_fails_its_candidate() {
    let directory = tempfile::tempdir().unwrap();
    let scorer = scorer(directory.path(), CancelToken::default(), ANSWER);
    let mut harmful = candidate(0.1);
    harmful.recipe = harmful.recipe.replace("a-math", "a-noise");
    let results = scorer.score(&[harmful, candidate(0.3)], ItemRole::Search, None, &|_, _| {}).unwrap();
    let message = &results[0].as_ref().unwrap_err().message;
    assert!(message.contains("expected exit status 0, found exit status: 7"), "{message}");
    assert!(results[1].is_ok());
    assert_eq!(std::fs::read_dir(directory.path().join("candidates")).unwrap().count(), 0);
}

#[test]
fn stopping_ends_the_program() {
    let (directory, stop) = (tempfile::tempdir().unwrap(), Arc::new(AtomicBool::new(false)));
    let scorer = scorer(
        directory.path(),
        CancelToken::from_flag(Arc::clone(&stop)),
        "touch \"$(dirname \"$0\")/began\"; sleep 600\n",
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !directory.path().join("began").exists() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let result = scorer.score(&[candidate(0.1)], ItemRole::Search, None, &|_, _| {});
        assert_eq!(result.unwrap_err(), Stopped);
    });
    assert_eq!(std::fs::read_dir(directory.path().join("candidates")).unwrap().count(), 0);
}
