//! Replays, cutoffs and budgets, with a scorer that counts.
use super::*;
use crate::testing::{Counting, described};
use glue_progress::NoProgress;
use serde_json::json;
use std::path::Path;
use std::slice::from_ref;

fn open<'a>(scorer: &'a Counting, path: &Path, budget: Budget) -> EvaluationLog<'a> {
    let (journal, entries) = Journal::resume(path, &json!({})).expect("a journal");
    EvaluationLog::new(scorer, journal, entries, budget, &NoProgress).expect("a log")
}

fn averages(batch: &Batch) -> Vec<f64> {
    batch.outcomes.iter().map(|outcome| outcome.as_ref().map_or(f64::NAN, |scores| scores.average)).collect()
}

#[test]
fn nothing_is_scored_twice() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let scorer = Counting::new(|text| text.len() as f64);
    let asked = ["aa", "b", "aa"].map(described);
    {
        let mut log = open(&scorer, &path, Budget::default());
        assert_eq!(averages(&log.score("s", &asked, Purpose::Search(None))), [2.0, 1.0, 2.0]);
        let against = Against { cutoff: 0.5, incumbent: &asked[0].candidate };
        assert_eq!(averages(&log.score("s", &asked, Purpose::Search(Some(against)))), [2.0, 1.0, 2.0]);
        assert_eq!((log.status().evaluations, scorer.calls()), (2, 2));
    }
    let mut again = open(&scorer, &path, Budget::default());
    assert_eq!(averages(&again.score("s", &asked, Purpose::Search(None))), [2.0, 1.0, 2.0]);
    let progress = again.status();
    assert_eq!((progress.evaluations, progress.replayed, scorer.calls()), (2, 2, 2));
    // Validation items are another question.
    again.score("s", &asked, Purpose::Validation);
    assert_eq!((again.status().evaluations, scorer.calls()), (2, 4));
}

#[test]
fn a_dropped_candidate_answers_higher_cutoffs_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let scorer = Counting::new(|text| text.len() as f64);
    let (low, best) = ([described("a")], described("bbbb"));
    let dropped = |batch: &Batch| batch.outcomes[0].as_ref().is_ok_and(|scores| scores.dropped);
    let race = |log: &mut EvaluationLog<'_>, cutoff| {
        log.score("s", &low, Purpose::Search(Some(Against { cutoff, incumbent: &best.candidate })))
    };
    // The second time everything comes from the journal: the key of an entry tells one race from another.
    for calls in [3, 0] {
        let before = scorer.calls();
        let mut log = open(&scorer, &path, Budget::default());
        log.score("s", from_ref(&best), Purpose::Search(None));
        assert!(dropped(&race(&mut log, 2.0)));
        assert!(dropped(&race(&mut log, 3.0)));
        assert!(!dropped(&race(&mut log, 0.5)));
        // Once all items are scored, no cutoff matters.
        assert!(!dropped(&race(&mut log, 9.0)));
        assert_eq!((scorer.calls() - before, log.status().items_saved), (calls, 50));
    }
    // Without scores of an incumbent there is no race.
    let mut log = open(&scorer, &directory.path().join("other"), Budget::default());
    assert!(!dropped(&race(&mut log, 9.0)));
}

#[test]
fn a_budget_ends_a_batch_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let scorer = Counting::new(|text| text.len() as f64);
    let budget = Budget { evaluations: Some(2), seconds: None };
    let mut log = open(&scorer, &directory.path().join("journal"), budget);
    // Models alone do not count.
    assert!(log.score("baseline", &["x", "yy", "zzz"].map(described), Purpose::Baseline).stop.is_none());
    assert_eq!((log.status().evaluations, log.status().remaining), (0, Some(2)));
    let batch = log.score("s", &["a", "bb", "a", "ccc", "bb"].map(described), Purpose::Search(None));
    assert_eq!(averages(&batch), [1.0, 2.0, 1.0]);
    assert!(matches!(batch.stop, Some(StopReason::Evaluations { evaluations: 2 })));
    assert!(log.score("s", &[described("bb")], Purpose::Search(None)).stop.is_none());
    assert!(log.score("s", &[described("d")], Purpose::Validation).stop.is_none());
}

#[test]
fn without_time_nothing_is_evaluated_but_replays_are_free() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let scorer = Counting::new(|text| text.len() as f64);
    open(&scorer, &path, Budget::default()).score("s", &["a", "bb"].map(described), Purpose::Search(None));
    let mut late = open(&scorer, &path, Budget { evaluations: None, seconds: Some(0.0) });
    let batch = late.score("s", &["a", "bb", "ccc"].map(described), Purpose::Search(None));
    assert_eq!(averages(&batch), [1.0, 2.0]);
    assert!(matches!(batch.stop, Some(StopReason::Seconds { .. })));
}

#[test]
fn every_finished_candidate_is_told() {
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);
    impl Progress for Told {
        fn begin(&self, what: &str, unit: Unit, total: Option<u64>) {
            self.0.lock().push(format!("{what}, {total:?} {unit}"));
        }

        fn advance(&self, units: u64) {
            self.0.lock().extend((units > 0).then(|| format!("+{units}")));
        }

        fn message(&self, text: &str) {
            self.0.lock().push(text.into());
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let scorer = Counting::new(|text| if text == "bad" { f64::NAN } else { text.len() as f64 });
    let told = |expected: &[&str], again: &[&str]| {
        let told = Told::default();
        let (journal, entries) = Journal::resume(&path, &json!({})).expect("a journal");
        let mut log = EvaluationLog::new(&scorer, journal, entries, Budget::default(), &told).expect("a log");
        log.begin("searching", 4);
        let best = described("four");
        log.score("baseline", from_ref(&best), Purpose::Baseline);
        let against = Against { cutoff: 4.0, incumbent: &best.candidate };
        log.score("average", &["two", "five5", "bad"].map(described), Purpose::Search(Some(against)));
        log.begin("validating", 1);
        log.score("finalists", &[described("five5")], Purpose::Validation);
        assert_eq!(*told.0.lock(), [expected, again].concat());
    };
    told(
        &[
            "searching, Some(4) evaluations",
            "+1",
            "baseline: four: 4, best so far 4 (1 of 4)",
            "+1",
            "average: two: about 3, dropped after 50 of 100 items, best so far 4 (2 of 4, 50 % of the items saved)",
            "+1",
            "average: five5: 5, best so far 5 (3 of 4, 25 % of the items saved)",
            "+1",
            "average: bad failed: task length: expected a finite acc, found NaN (4 of 4)",
        ],
        &["validating, Some(1) evaluations", "+1", "finalists: five5: 5 (1 of 1)"],
    );
    // From the journal, they are only counted.
    told(&["searching, Some(4) evaluations", "+1", "+3"], &["validating, Some(1) evaluations", "+1"]);
}

#[test]
fn a_gradient_is_computed_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let scorer = Counting::new(|_| 0.0).with_gradient(|text, items| LossGradient {
        loss: 0.1 * text.len() as f64 / 3.0,
        tensors: vec![("t".into(), items.iter().map(|item| 1.0 / (3 + item.1) as f64).collect())],
        left_out: Vec::new(),
    });
    let asked = [(0, 3), (1, 0)];
    let at = described("aa").candidate;
    let first = open(&scorer, &path, Budget::default()).loss_gradient(&at, &asked).expect("a gradient");
    assert_eq!((first.loss, scorer.calls()), (0.1 * 2.0 / 3.0, 1));
    // Bit by bit from the journal, whatever time is left; other items are another question.
    let mut late = open(&scorer, &path, Budget { evaluations: None, seconds: Some(0.0) });
    assert_eq!(late.loss_gradient(&at, &asked).expect("a gradient"), first);
    assert!(matches!(late.loss_gradient(&at, &asked[..1]), Err(StopReason::Seconds { .. })));
    assert_eq!((scorer.calls(), late.status().evaluations), (1, 0));
}

#[test]
fn scores_that_are_nan_are_failures() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    let scorer = Counting::new(|text| if text == "a" { f64::NAN } else { 1.0 });
    for _ in 0..2 {
        let mut log = open(&scorer, &path, Budget::default());
        let batch = log.score("s", &["a", "b"].map(described), Purpose::Search(None));
        let message = batch.outcomes[0].as_ref().expect_err("no number").message.clone();
        assert_eq!(message, "task length: expected a finite acc, found NaN");
        assert!(batch.outcomes[1].is_ok());
    }
    assert_eq!(scorer.calls(), 2);
}
