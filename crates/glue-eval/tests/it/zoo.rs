//! The zoo: every model, task and split gives the scores of its reference, to within one item.

use glue_eval::{EvalOptions, GenerateRequest, LanguageModel, LocalModel, Report, Sampling, evaluate, load_tasks};
use glue_progress::NoProgress;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

fn zoo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo")
}

fn scores(model: &LocalModel, tasks: &str, split: &str) -> Report {
    let tasks = load_tasks(&[zoo().join(tasks)]).unwrap();
    let options = EvalOptions { split: Some(split.into()), ..EvalOptions::default() };
    evaluate(model, &tasks, &options, &NoProgress).unwrap()
}

/// Within one item: two runs of a model in f32 need not break ties in the same way.
fn check(report: &Report, task: &str, metric: &str, expected: f64) {
    let found = report.tasks.iter().find(|found| found.name == task).unwrap();
    let value = found.metric(metric).unwrap().value;
    let item = 1.0 / found.n as f64 + 1e-9;
    let place = format!("{} {} {task} {metric}", report.model, found.split);
    assert!((value - expected).abs() <= item, "{place}: {value}, expected {expected}");
}

#[test]
fn scores_of_the_zoo() {
    // model,task,split,metric,value
    let table = fs::read_to_string(zoo().join("results.csv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let theirs: Value = serde_json::from_slice(&fs::read(zoo().join("lm_eval/scores.json")).unwrap()).unwrap();
    let mut checked = 0;
    for (name, scored) in theirs.as_object().unwrap() {
        let model = LocalModel::open(zoo().join(name)).unwrap();
        for split in ["proxy", "test"] {
            let report = scores(&model, "tasks", split);
            for row in rows.iter().filter(|row| row[0] == name && row[2] == split) {
                check(&report, row[1], row[3], row[4].parse().unwrap());
                checked += 1;
            }
        }
        let report = scores(&model, "lm_eval/tasks", "test");
        for (task, metrics) in scored.as_object().unwrap() {
            for (metric, value) in metrics.as_object().unwrap() {
                check(&report, task, metric, value.as_f64().unwrap());
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 10 * 8 * 3);
}

#[test]
fn the_two_forms_ask_the_same() {
    let model = LocalModel::open(zoo().join("a-math")).unwrap();
    let (ours, theirs) = (scores(&model, "tasks", "test"), scores(&model, "lm_eval/tasks", "test"));
    for (ours, theirs) in ours.tasks.iter().zip(&theirs.tasks) {
        assert_eq!((&ours.name, &ours.metrics, ours.n), (&theirs.name, &theirs.metrics, theirs.n));
    }
}

#[test]
fn contexts_longer_than_the_model_are_cut_and_counted() {
    let model = LocalModel::open(zoo().join("base-a")).unwrap();
    assert!(scores(&model, "tasks", "proxy").tasks.iter().all(|task| task.notes.is_empty()));
    let report = scores(&model.with_max_length(20), "tasks", "proxy");
    // An answer may take 16 tokens, which leaves 4 to every prompt.
    let task = report.tasks.iter().find(|task| task.name == "arith").unwrap();
    assert!(task.notes[0].starts_with("100 of 100 prompts are longer than the model takes"), "{:?}", task.notes);
}

#[test]
fn a_model_is_known_by_its_files() {
    use glue_eval::LanguageModel;
    let hash = |name: &str| LocalModel::open(zoo().join(name)).unwrap().content_hash().unwrap().unwrap();
    assert_eq!(hash("base-a"), hash("base-a"));
    assert_ne!(hash("base-a"), hash("a-math"));
    let short = LocalModel::open(zoo().join("base-a")).unwrap().with_max_length(20);
    assert_ne!(hash("base-a"), short.content_hash().unwrap().unwrap());
}

/// What ends an answer is in `generation_config.json`: an answer that was kept is no answer of a model that ends later.
#[test]
fn a_content_hash_depends_on_the_defaults_of_generation() {
    use glue_eval::LanguageModel;
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(zoo().join("a-chat")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let hash = || LocalModel::open(copy.path()).unwrap().content_hash().unwrap().unwrap();
    let before = hash();
    assert_eq!(before, hash());
    let path = copy.path().join("generation_config.json");
    let mut defaults: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    defaults["eos_token_id"] = serde_json::json!([2, 5]);
    fs::write(&path, defaults.to_string()).unwrap();
    assert_ne!(hash(), before);
}

#[test]
fn requests_with_other_settings_do_not_take_each_others() {
    let model = LocalModel::open(zoo().join("a-chat")).unwrap();
    let request = |repetition_penalty: f64| GenerateRequest {
        context: "What is 3 and 4 and 3 and 4?",
        until: &[],
        max_new_tokens: 24,
        sampling: Sampling { repetition_penalty, ..Sampling::GREEDY },
        n: 1,
    };
    let text = |requests: &[GenerateRequest<'_>]| -> Vec<String> {
        let answers = model.generate(requests, &|_| ()).unwrap();
        answers.into_iter().map(|answers| answers[0].text.clone()).collect()
    };
    let (plain, penalised) = (text(&[request(1.0)]), text(&[request(1.8)]));
    assert_ne!(plain, penalised);
    assert_eq!(text(&[request(1.0), request(1.8)]), [plain, penalised].concat());
}
