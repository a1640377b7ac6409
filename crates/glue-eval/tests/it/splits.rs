//! Shares of splits: what is scored, and what is refused.

use crate::support::{Table, data};
use glue_eval::{EvalOptions, Prepared, Report, SplitExpression, Task, evaluate, load_tasks, preview};
use glue_progress::{ErrorChain, NoProgress};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A directory with the tasks `a` and `b`, of which the second has each item twice, with another number.
fn tasks() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, copies) in [("a", 1), ("b", 2)] {
        let place = directory.path().join(name);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("task.json"), r#"{"kind": "multiple_choice"}"#).unwrap();
        let item = |i: usize| {
            format!("{{\"id\": {i}, \"context\": \"{}?\", \"choices\": [\"x\", \"y\"], \"gold\": 1}}", i / copies)
        };
        fs::write(place.join("test.jsonl"), (0..20).map(|i| item(i) + "\n").collect::<String>()).unwrap();
    }
    directory
}

fn options(split: &str, splits: &[(&str, &str)]) -> EvalOptions {
    let splits = splits.iter().map(|(task, split)| ((*task).into(), (*split).into())).collect();
    EvalOptions { split: Some(split.into()), splits, ..EvalOptions::default() }
}

/// The report, and the questions asked.
fn run(directory: &Path, options: &EvalOptions) -> (Report, Vec<String>) {
    let model = Table::default();
    let report = evaluate(&model, &load_tasks(&[directory]).unwrap(), options, &NoProgress).unwrap();
    let asked = model.asked.into_inner().unwrap();
    (report, asked.into_iter().step_by(2).map(|request| request[0].clone()).collect())
}

#[test]
fn shares_of_one_split_are_disjoint_and_complete() {
    let directory = tasks();
    let of = |split: &str| run(&directory.path().join("a"), &options(split, &[]));
    let shares = [of("test[:60%]"), of("test[60%:80%]"), of("test[80%:]")];
    let found: Vec<_> = shares.iter().map(|(report, _)| (report.tasks[0].n, report.tasks[0].split.as_str())).collect();
    assert_eq!(found, [(12, "test[:60%]"), (4, "test[60%:80%]"), (4, "test[80%:]")]);
    let all: BTreeSet<&String> = shares.iter().flat_map(|(_, asked)| asked).collect();
    assert_eq!(all.len(), 20);
    // In the order of the file.
    let numbers: Vec<u32> = shares[0].1.iter().map(|asked| asked.trim_end_matches('?').parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers != (0..12).collect::<Vec<_>>());

    // In another file, in another order, the same are chosen.
    let other = tasks();
    let file = other.path().join("a/test.jsonl");
    let lines = fs::read_to_string(&file).unwrap();
    fs::write(&file, lines.lines().rev().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let (_, mut asked) = run(&other.path().join("a"), &options("test[:60%]", &[]));
    asked.reverse();
    assert_eq!(asked, shares[0].1);
}

#[test]
fn equal_items_are_in_one_share() {
    let directory = tasks();
    let of = |split: &str| run(&directory.path().join("b"), &options(split, &[])).1;
    let (below, above) = (of("test[:55%]"), of("test[55%:]"));
    // A cut in the middle of a pair would leave a question on both sides; the numbers of items do not count.
    assert!(below.iter().all(|question| !above.contains(question)));
    assert_eq!((below.len(), above.len()), (10, 10));
}

#[test]
fn prepared_items_are_those_of_the_share() {
    let directory = tasks();
    let tasks = || load_tasks(&[directory.path()]).unwrap();
    let of = |splits: &[(&str, &str)]| Prepared::new(tasks(), &options("test[:50%]", splits), None).unwrap();
    let (plain, other) = (of(&[]), of(&[("b", "test[50%:]")]));
    assert_eq!((plain.counts(), other.counts()), (vec![10, 10], vec![10, 10]));
    let (plain, other) = (plain.content_hashes(), other.content_hashes());
    assert_eq!(plain[0], other[0]);
    assert_ne!(plain[1], other[1]);
    let shown = preview(&tasks(), &options("test", &[("a", "test[ 0% : 25% ]")])).unwrap();
    assert_eq!((shown[0].items, shown[0].split.as_str(), shown[1].items), (5, "test[:25%]", 20));
}

#[test]
fn splits_that_are_not_there_are_refused() {
    let directory = tasks();
    let refused = |split: &str, splits: &[(&str, &str)]| {
        let tasks = load_tasks(&[directory.path()]).unwrap();
        let error = evaluate(&Table::default(), &tasks, &options(split, splits), &NoProgress).unwrap_err().chain();
        error.replace(&format!("{}/", directory.path().display()), "")
    };
    for (split, expected) in [
        ("dev[:5%]", "a/task.json: the task `a` has no split `dev`; it has test"),
        ("test[:2%]", "a/task.json: the share `test[:2%]` of the task `a` has none of its 20 items"),
        (
            "test[:0.5]",
            "the split `test[:0.5]`: each bound should be a whole number of percent from 0% to 100%; for example \
             `train[:60%]`, `train[60%:]`, `test`",
        ),
    ] {
        assert_eq!(refused(split, &[]), expected);
    }
    let error = refused("test", &[("a", "test"), ("c", "test[:5%]")]);
    assert_eq!(error, "the split `test[:5%]` is given for a task `c`; tasks are a, b");
}

#[test]
fn files_of_the_harness_have_shares_too() {
    let tasks = || load_tasks(&[data("harness/tasks/choice_letters.yaml")]).unwrap();
    let count = |split: &str| {
        let report = evaluate(&Table::default(), &tasks(), &options(split, &[]), &NoProgress).unwrap();
        (report.tasks[0].n, report.tasks[0].split.clone())
    };
    assert_eq!(count("validation[:25%]"), (3, "validation[:25%]".into()));
    assert_eq!(count("validation[25%:]"), (9, "validation[25%:]".into()));
    // Without a name it is the split that the file names, and its role is another name for it.
    let task: &Task = &tasks()[0];
    let resolve = |split: Option<&str>| {
        let split: Option<SplitExpression> = split.map(|split| split.parse().unwrap());
        task.resolve_split(split.as_ref()).map(|split| split.to_string()).map_err(|error| error.chain())
    };
    assert_eq!(resolve(None), Ok("validation".into()));
    assert_eq!(resolve(Some("train[:5%]")), Ok("train[:5%]".into()));
    assert!(
        resolve(Some("dev[:5%]")).is_err_and(|error| error.ends_with("no split `dev`; it has test, train, validation"))
    );
}
