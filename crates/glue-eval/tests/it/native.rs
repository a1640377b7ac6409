//! The project's own form of tasks: what it asks, what it scores, and what it refuses.

use glue_eval::{
    Cache, EvalError, EvalOptions, ItemScore, Kind, Prepared, Report, Unwatched, Watch, evaluate, load_tasks,
};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use crate::support::{Table, data};
use tempfile::TempDir;

/// A directory with one task in it.
fn task(description: &str, test: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("task.json"), description).unwrap();
    fs::write(directory.path().join("test.jsonl"), test).unwrap();
    directory
}

fn run(directory: &Path, model: &Table, options: &EvalOptions) -> Result<Report, EvalError> {
    evaluate(model, &load_tasks(&[directory])?, options, &Unwatched)
}

fn refused(description: &str, test: &str, options: &EvalOptions) -> String {
    let directory = task(description, test);
    let error = run(directory.path(), &Table::default(), options).unwrap_err().to_string();
    error.replace(&format!("{}/", directory.path().display()), "")
}

const CHOICES: &str = "{\"name\": \"t\", \"kind\": \"multiple_choice\"}";

#[test]
fn prompts_with_and_without_examples() {
    let items = "{\"context\": \"1?\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n\
                 {\"context\": \"2?\", \"choices\": [\"c\", \"d\"], \"gold\": [0, 1]}\n";
    let directory = task("{\"kind\": \"multiple_choice\", \"fewshot_delimiter\": \"\\n\"}", items);
    let model = Table::default();
    let report = run(directory.path(), &model, &EvalOptions::default()).unwrap();
    // Both choices of the second item are right.
    assert!(report.tasks[0].metric("acc").unwrap().value >= 0.5);
    assert_eq!(report.tasks[0].name, directory.path().file_name().unwrap().to_string_lossy());
    let asked = model.asked.into_inner().unwrap();
    assert_eq!(asked, [["1?", " a"], ["1?", " b"], ["2?", " c"], ["2?", " d"]]);

    fs::write(
        directory.path().join("train.jsonl"),
        "{\"context\": \"0?\", \"choices\": [\"x\", \"y\"], \"gold\": 1}\n",
    )
    .unwrap();
    let model = Table::default();
    let options = EvalOptions { num_fewshot: Some(1), limit: Some(1), ..EvalOptions::default() };
    let report = run(directory.path(), &model, &options).unwrap();
    assert_eq!((report.tasks[0].n, report.tasks[0].num_fewshot), (1, 1));
    assert_eq!(model.asked.into_inner().unwrap(), [["0? y\n1?", " a"], ["0? y\n1?", " b"]]);
}

#[test]
fn answers_are_stripped_and_may_equal_any_target() {
    let items = "{\"context\": \"1?\", \"target\": \"yes\"}\n{\"context\": \"2?\", \"target\": [\"no\", \"yes\"], \"until\": \".\"}\n\
                 {\"context\": \"3?\", \"target\": \"Yes\"}\n";
    let directory = task("{\"kind\": \"generate\", \"metric\": \"exact_match\", \"skill\": \"x\"}", items);
    let model = Table { answers: vec![" yes \n".into()], ..Table::default() };
    let report = run(directory.path(), &model, &EvalOptions { samples: true, ..EvalOptions::default() }).unwrap();
    let metric = report.tasks[0].main_metric().unwrap();
    assert_eq!((metric.name.as_str(), metric.value), ("exact_match", 2.0 / 3.0));
    // s² = 1/3 for two of three, so that s / √3 = 1/3.
    assert!((metric.stderr.unwrap() - 1.0 / 3.0).abs() < 1e-15);
    let mut lines = Vec::new();
    report.write_samples(&mut lines).unwrap();
    let lines: Vec<Value> =
        lines.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["answers"][0], " yes \n");
    assert_eq!(lines[1]["filtered"]["strip"][0], "yes");
    assert_eq!((&lines[1]["line"], &lines[1]["target"][1]), (&Value::from(2), &Value::from("yes")));
    assert_eq!(
        (&lines[2]["scores"]["exact_match"], &lines[1]["scores"]["exact_match"]),
        (&Value::from(0.0), &Value::from(1.0))
    );
}

#[test]
fn perplexities_of_texts() {
    let directory = task("{\"kind\": \"perplexity\"}", "{\"text\": \"one two\"}\n{\"text\": \"é\"}\n");
    let report = run(directory.path(), &Table::default(), &EvalOptions::default()).unwrap();
    let value = |name: &str| report.tasks[0].metric(name).unwrap().value;
    // The model counts a token for each character: 8 of them, 9 bytes and 3 words.
    let nats = value("perplexity").ln() * 8.0;
    for (name, count) in [("word_perplexity", 3.0), ("byte_perplexity", 9.0)] {
        assert!((value(name).ln() * count - nats).abs() < 1e-9 * nats, "{name}");
    }
    assert!((value("bits_per_byte") * 9.0 * std::f64::consts::LN_2 - nats).abs() < 1e-9 * nats);
    assert_eq!(report.tasks[0].main, "perplexity");
    assert!(!report.tasks[0].metrics[0].higher_is_better);
}

#[test]
fn truncation_is_said() {
    let items = "{\"context\": \"long context\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n\
                 {\"context\": \"short\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n";
    let directory = task(CHOICES, items);
    let model = Table { max_characters: Some(8), ..Table::default() };
    let report = run(directory.path(), &model, &EvalOptions::default()).unwrap();
    let expected = "1 of 2 prompts are longer than the model takes and were truncated from the left, by up to 4 tokens";
    assert_eq!(report.tasks[0].notes, [expected]);
    assert_eq!(report.to_json()["tasks"]["t"]["notes"][0], expected);
}

#[test]
fn what_is_not_sound_is_refused_with_file_and_line() {
    let good = "{\"context\": \"1?\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n";
    let options = EvalOptions::default();
    for (description, test, expected) in [
        (CHOICES, "{\"choices\": [\"a\", \"b\"], \"gold\": 1}", "test.jsonl:1: the field `context` is missing"),
        (CHOICES, "\n{\"context\": \"1?\", \"gold\": 1}", "test.jsonl:2: the field `choices` is missing"),
        (CHOICES, "{\"context\": \"1?\", \"choices\": [\"a\", \"b\"]}", "test.jsonl:1: the field `gold` is missing"),
        (
            CHOICES,
            "{\"context\": \"1?\", \"choices\": [\"a\"], \"gold\": 0}",
            "test.jsonl:1: a question needs at least 2 choices, but this one has 1",
        ),
        (
            CHOICES,
            "{\"context\": \"1?\", \"choices\": [\"a\", \"b\"], \"gold\": 2}",
            "test.jsonl:1: the answer 2 is none of the 2 choices",
        ),
        (
            CHOICES,
            "{\"context\": \"1?\", \"choices\": [\"a\", \"b\"], \"gold\": -1}",
            "test.jsonl:1: the answer -1 is none of the 2 choices",
        ),
        (
            CHOICES,
            "{\"context\": \"1?\", \"choices\": [\"a\", \"\"], \"gold\": 0}",
            "test.jsonl:1: `choices` should be a list of texts that are not empty, but is a list of 2",
        ),
        (
            CHOICES,
            "{\"context\": 1, \"choices\": [\"a\", \"b\"], \"gold\": 0}",
            "test.jsonl:1: `context` should be text, but is 1",
        ),
        (CHOICES, "", "test.jsonl: the split `test` of the task `t` has no items"),
        (CHOICES, "{\"context\"", "test.jsonl:1: invalid JSON: EOF while parsing an object at column 10"),
        ("{\"kind\": \"generate\"}", "{\"context\": \"1?\"}", "test.jsonl:1: the field `target` is missing"),
        (
            "{\"kind\": \"perplexity\"}",
            "{\"text\": \"\"}",
            "test.jsonl:1: `text` should be a text that is not empty, but is \"\"",
        ),
        ("{\"kind\": \"multiple_choice\",\n", good, "task.json:2: EOF while parsing a value at line 2 column 0"),
        ("[]", good, "task.json: a task should be an object, but is a list of 0"),
        ("{\"name\": \"t\"}", good, "task.json: the field `kind` is missing"),
        (
            "{\n \"kind\": \"quiz\"}",
            good,
            "task.json:2: `kind` should be one of multiple_choice, generate, generate_until, perplexity, rolling, \
             loglikelihood_rolling, code, but is \"quiz\"",
        ),
        (
            "{\"kind\": \"multiple_choice\",\n\n \"metric\": \"f1\"}",
            good,
            "task.json:3: `metric` should be a metric of a multiple_choice task, acc or acc_norm, but is \"f1\"",
        ),
        (
            "{\"kind\": \"generate\",\n \"max_gen_toks\": 0}",
            good,
            "task.json:2: `max_gen_toks` should be a whole number from 1 to 1048576, but is 0",
        ),
    ] {
        assert_eq!(refused(description, test, &options), expected, "{description} {test}");
    }
    let error = refused("{\"kind\": \"generate\",\n \"max_gen_tok\": 1}", good, &options);
    assert!(error.starts_with("task.json:2: unknown key `max_gen_tok`; known are name, kind, "), "{error}");
    let split = EvalOptions { split: Some("dev".into()), ..EvalOptions::default() };
    assert_eq!(refused(CHOICES, good, &split), "task.json: the task `t` has no split `dev`; it has test");
    let shots = EvalOptions { num_fewshot: Some(2), ..EvalOptions::default() };
    assert_eq!(refused(CHOICES, good, &shots), "task.json: the task `t` has no split `train`; it has test");
}

#[test]
fn folders_of_tasks_and_their_names() {
    let root = tempfile::tempdir().unwrap();
    let error = load_tasks(&[root.path()]).unwrap_err().to_string();
    assert!(error.ends_with("no task here: neither task.json nor a YAML file with `task`"), "{error}");
    for name in ["b", "a"] {
        fs::create_dir(root.path().join(name)).unwrap();
        fs::write(root.path().join(name).join("task.json"), CHOICES.replace("\"t\"", &format!("\"{name}\""))).unwrap();
    }
    let tasks = load_tasks(&[root.path()]).unwrap();
    assert_eq!(
        tasks.iter().map(|task| (task.name(), task.kind())).collect::<Vec<_>>(),
        [("a", Kind::MultipleChoice), ("b", Kind::MultipleChoice)]
    );
    fs::write(root.path().join("b/task.json"), CHOICES.replace("\"t\"", "\"a\"")).unwrap();
    let error = load_tasks(&[root.path()]).unwrap_err().to_string();
    assert!(error.starts_with("two tasks are named `a`: ") && error.contains("a/task.json and "), "{error}");
    let none: [&Path; 0] = [];
    let error = evaluate(&Table::default(), &load_tasks(&none).unwrap(), &EvalOptions::default(), &Unwatched);
    assert_eq!(error.unwrap_err().to_string(), "no tasks were given");
}

#[test]
fn both_forms_in_one_folder() {
    let tasks = load_tasks(&[data("harness/tasks"), data("mixed")]).unwrap();
    let kinds: Vec<&str> = tasks.iter().skip(9).map(|task| task.kind().name()).collect();
    assert_eq!(kinds, ["multiple_choice", "generate_until"]);
    // The same items in Parquet and as JSON Lines.
    let report = evaluate(&Table::default(), &tasks[9..10], &EvalOptions::default(), &Unwatched).unwrap();
    assert_eq!(report.tasks[0].n, 3);
}

#[test]
fn scores_are_kept_by_the_hash_of_model_and_task() {
    let items = "{\"context\": \"1?\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n{\"context\": \"2?\", \"choices\": [\"c\", \"d\"], \"gold\": 0}\n";
    let directory = task(CHOICES, items);
    let cache = tempfile::tempdir().unwrap();
    let options = EvalOptions { cache: Some(Cache::open(cache.path()).unwrap()), ..EvalOptions::default() };
    let model = Table { hash: Some("model".into()), ..Table::default() };
    let calls = |options: &EvalOptions, model: &Table| {
        let before = model.calls.load(Ordering::Relaxed);
        let report = run(directory.path(), model, options).unwrap();
        (report, model.calls.load(Ordering::Relaxed) - before)
    };
    let (first, asked) = calls(&options, &model);
    assert_eq!((asked, first.tasks[0].cached), (4, false));
    let (second, asked) = calls(&options, &model);
    assert_eq!((asked, second.tasks[0].cached), (0, true));
    assert_eq!(second.to_json(), first.to_json());
    // Another limit, another model and samples that are not kept are asked anew.
    assert_eq!(calls(&EvalOptions { limit: Some(1), ..options.clone() }, &model).1, 2);
    assert_eq!(calls(&options, &Table { hash: Some("other".into()), ..Table::default() }).1, 4);
    assert_eq!(calls(&EvalOptions { samples: true, ..options.clone() }, &model).1, 4);
    let (sampled, asked) = calls(&EvalOptions { samples: true, ..options.clone() }, &model);
    assert_eq!((asked, sampled.samples.len()), (0, 2));
    // A model that cannot be told from others is never kept.
    assert_eq!(calls(&options, &Table::default()).1, 4);
    assert_eq!(calls(&options, &Table::default()).1, 4);
    // Another delimiter is another task.
    fs::write(directory.path().join("task.json"), CHOICES.replace('}', ", \"target_delimiter\": \"\"}")).unwrap();
    assert_eq!(calls(&options, &model).1, 4);
    // What is broken is replaced.
    for entry in fs::read_dir(cache.path()).unwrap() {
        fs::write(entry.unwrap().path(), "{").unwrap();
    }
    assert_eq!(calls(&options, &model).1, 4);
    assert_eq!(calls(&options, &model).1, 0);
}

#[test]
fn progress_is_told_and_stopping_is_heard() {
    struct Counting(AtomicUsize, AtomicUsize, bool);
    impl Watch for Counting {
        fn begins(&self, requests: usize) {
            self.0.fetch_add(requests, Ordering::Relaxed);
        }
        fn answered(&self, more: usize) {
            self.1.fetch_add(more, Ordering::Relaxed);
        }
        fn is_stopped(&self) -> bool {
            self.2
        }
    }
    let tasks = load_tasks(&[data("harness/tasks")]).unwrap();
    let watch = Counting(AtomicUsize::new(0), AtomicUsize::new(0), false);
    evaluate(&Table::default(), &tasks, &EvalOptions::default(), &watch).unwrap();
    assert_eq!(watch.0.load(Ordering::Relaxed), watch.1.load(Ordering::Relaxed));
    assert!(watch.0.into_inner() > 300);
    let stopped = Counting(AtomicUsize::new(0), AtomicUsize::new(0), true);
    let error = evaluate(&Table::default(), &tasks, &EvalOptions::default(), &stopped).unwrap_err();
    assert!(matches!(error, EvalError::Stopped));
}

/// Wishes to end after so many answers.
struct Impatient(AtomicUsize, usize);

impl Watch for Impatient {
    fn begins(&self, _: usize) {}
    fn answered(&self, more: usize) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
    fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= self.1
    }
}

#[test]
fn an_interrupted_evaluation_goes_on_after_the_tasks_that_are_in_the_cache() {
    let items = |n: usize| -> String {
        (0..n).map(|i| format!("{{\"context\": \"{i}?\", \"choices\": [\"a\", \"b\"], \"gold\": 1}}\n")).collect()
    };
    let folders = [3, 5, 7].map(|n| task(&CHOICES.replace("\"t\"", &format!("\"t{n}\"")), &items(n)));
    let tasks = load_tasks(&folders.each_ref().map(|folder| folder.path())).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let options = EvalOptions { cache: Some(Cache::open(cache.path()).unwrap()), ..EvalOptions::default() };
    let model = Table { hash: Some("model".into()), ..Table::default() };
    // The second task is asked, but when its answers are there nobody wants them any more.
    let error = evaluate(&model, &tasks, &options, &Impatient(AtomicUsize::new(0), 7)).unwrap_err();
    assert!(matches!(error, EvalError::Stopped), "{error}");
    let before = model.calls.load(Ordering::Relaxed);
    let report = evaluate(&model, &tasks, &options, &Unwatched).unwrap();
    assert_eq!(model.calls.load(Ordering::Relaxed) - before, 2 * (5 + 7));
    assert_eq!(report.tasks.iter().map(|task| task.cached).collect::<Vec<_>>(), [true, false, false]);
    let whole = evaluate(&model, &tasks, &EvalOptions::default(), &Unwatched).unwrap();
    assert_eq!(report.to_json(), whole.to_json());
}

const HUMAN_EVAL: &str = "{\"task_id\": \"a/0\", \"prompt\": \"def add(a, b):\\n\", \"entry_point\": \"add\", \
    \"test\": \"def check(f):\\n    assert f(1, 2) == 3\"}\n";

#[test]
fn programs_run_only_with_permission() {
    let error = refused("{\"name\": \"code\", \"kind\": \"code\"}", HUMAN_EVAL, &EvalOptions::default());
    let expected =
        "the task `code` runs programs that the model writes, which must be allowed with --allow-code-execution";
    assert_eq!(error, expected);
    let allowed = EvalOptions { allow_code_execution: true, ..EvalOptions::default() };
    let error = refused("{\"kind\": \"code\"}", "{\"text\": \"Add.\"}", &allowed);
    assert_eq!(error, "test.jsonl:1: the field `tests` is missing");
}

/// Sandboxes need Linux and Python.
#[cfg(target_os = "linux")]
#[test]
fn programs_pass_their_tests_or_do_not() {
    if !crate::support::python() {
        return;
    }
    let allowed = EvalOptions { allow_code_execution: true, samples: true, ..EvalOptions::default() };
    let directory = task("{\"kind\": \"code\", \"repeats\": 8, \"temperature\": 0.8, \"k\": [1, 8]}", HUMAN_EVAL);
    let answers =
        vec!["    return a + b\n".to_string(), "    return a - b\n".to_string(), "    while True: pass\n".to_string()];
    let limits = glue_eval::sandbox::Limits {
        wall_time: std::time::Duration::from_secs(2),
        cpu_time: std::time::Duration::from_secs(1),
        ..Default::default()
    };
    let model = Table { answers, ..Table::default() };
    let report = run(directory.path(), &model, &EvalOptions { limits, ..allowed.clone() }).unwrap();
    let value = |name: &str| report.tasks[0].metric(name).unwrap().value;
    let sample: Value = serde_json::from_str(&report.samples[0].json).unwrap();
    let passed = sample["executions"].as_array().unwrap().iter().filter(|run| run["passed"] == true).count();
    assert!((1..8).contains(&passed), "the table gives some of each: {passed}");
    assert_eq!((value("pass@1"), value("pass@8")), (passed as f64 / 8.0, 1.0));

    // The form of MBPP: the answer stands alone, here in a fence.
    let item = "{\"text\": \"Add two numbers.\", \"test_list\": [\"assert add(1, 2) == 3\"], \"test_setup_code\": \"x = 1\"}\n";
    let directory = task("{\"kind\": \"code\"}", item);
    let answer = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\n";
    let report = run(directory.path(), &Table { answers: vec![answer.into()], ..Table::default() }, &allowed).unwrap();
    assert_eq!(report.tasks[0].main_metric().unwrap().value, 1.0);
}

#[test]
fn some_items_are_scored_as_they_are_among_all() {
    let directory = task(
        "{\"kind\": \"multiple_choice\", \"name\": \"t\"}",
        &(0..9)
            .map(|i| format!("{{\"context\": \"{i}?\", \"choices\": [\"a{i}\", \"b\", \"c\"], \"gold\": {}}}\n", i % 3))
            .collect::<String>(),
    );
    let (model, tasks) = (Table::default(), load_tasks(&[directory.path()]).unwrap());
    let options = EvalOptions { samples: true, ..EvalOptions::default() };
    let whole = evaluate(&model, &tasks, &options, &Unwatched).unwrap();
    let prepared = Prepared::new(tasks, &options, None).unwrap();
    assert_eq!(prepared.counts(), [9]);
    assert_eq!(prepared.evaluate(&model, None, &Unwatched).unwrap(), whole);
    assert_eq!(whole.tasks[0].items.iter().map(|item| item.index).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());

    let part = prepared.evaluate(&model, Some(&[vec![1, 4, 8]]), &Unwatched).unwrap();
    let picked: Vec<ItemScore> = [1, 4, 8].map(|i| whole.tasks[0].items[i]).to_vec();
    assert_eq!((part.tasks[0].n, &part.tasks[0].items), (3, &picked));
    assert_eq!(part.samples, [1, 4, 8].map(|i| whole.samples[i].clone()));
    // The main metric of a part follows from its items, and what is missing is right at best.
    let task = &prepared.tasks()[0];
    assert_eq!(task.main_over(&picked).as_ref(), part.tasks[0].main_metric());
    assert_eq!(task.main_over(&whole.tasks[0].items).as_ref(), whole.tasks[0].main_metric());
    assert_eq!(task.main_over(&[]), None);
    let known: Vec<Option<ItemScore>> = (0..9).map(|i| picked.iter().find(|item| item.index == i).copied()).collect();
    let right: f64 = picked.iter().map(|item| item.sum).sum();
    assert_eq!(task.main_at_best(&known), Some((right + 6.0) / 9.0));
    assert!(task.main_is_share());

    // An empty part is no error, and other items are another entry of a cache.
    let empty = prepared.evaluate(&model, Some(&[vec![]]), &Unwatched).unwrap();
    assert_eq!((empty.tasks[0].n, empty.tasks[0].items.len()), (0, 0));
}

#[test]
fn losses_are_those_of_what_is_right() {
    let items = "{\"context\": \"1?\", \"choices\": [\"a\", \"bbb\"], \"gold\": 1}\n\
                 {\"context\": \"2?\", \"choices\": [\"c\", \"dd\"], \"gold\": [0, 1]}\n";
    let directory = task(CHOICES, items);
    let report = run(directory.path(), &Table::default(), &EvalOptions { samples: true, ..EvalOptions::default() });
    let report = report.unwrap();
    for (item, sample) in report.tasks[0].items.iter().zip(&report.samples) {
        let record: Value = serde_json::from_str(&sample.json).unwrap();
        let logprobs: Vec<f64> =
            record["loglikelihoods"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let gold = if item.index == 0 { logprobs[1] } else { logprobs[0].max(logprobs[1]) };
        assert_eq!(item.loss, Some(-gold));
    }
}

#[test]
fn metrics_without_bounds_know_their_best() {
    let directory =
        task("{\"kind\": \"perplexity\", \"name\": \"t\"}", "{\"text\": \"one two\"}\n{\"text\": \"three\"}\n");
    let tasks = load_tasks(&[directory.path()]).unwrap();
    let report = evaluate(&Table::default(), &tasks, &EvalOptions::default(), &Unwatched).unwrap();
    let items = &report.tasks[0].items;
    assert!(!tasks[0].main_is_share() && items.iter().all(|item| item.loss == Some(-item.sum)));
    let best = tasks[0].main_at_best(&[Some(items[0]), None]).unwrap();
    let now = tasks[0].main_over(items).unwrap();
    assert!(!now.higher_is_better && best <= now.value, "{best} {now:?}");
    assert_eq!(tasks[0].main_at_best(&[Some(items[0]), Some(items[1])]), Some(now.value));
}
