//! `glue eval` on the shipped zoo: the scores of transformers and lm-evaluation-harness, samples, cache and evaluators.

use glue_tests::checkpoint::{self, Tensor, Tensors};
use glue_tests::run::{Run, glue};
use glue_tests::shipped;
use glue_tests::{Zoo, run};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const MODELS: &[&str] =
    &["base-a", "a-chat", "a-code", "a-math", "a-noise", "a-reason", "base-b", "b-code", "b-math", "c-chat"];

/// Scores agree when they differ by one item at the most: the order of sums decides near ties.
fn agree(found: &Value, expected: f64, n: f64) -> bool {
    found.as_f64().is_some_and(|found| (found - expected).abs() <= 1.0 / n + 1e-9)
}

fn eval(directory: &Path, args: &[&str]) -> Run {
    glue(directory, ["eval"].iter().chain(args))
}

/// Split, task, metric to value, of one model.
type Rows = BTreeMap<(String, String, String), f64>;

fn reference(model: &str) -> Rows {
    let text = fs::read_to_string(shipped().join("results.csv")).expect("results.csv");
    let rows = text.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let rows = rows.filter(|row| row[0] == model).map(|row| {
        let value = row[4].parse().expect("a number");
        ((row[2].to_owned(), row[1].to_owned(), row[3].to_owned()), value)
    });
    rows.collect()
}

#[test]
fn every_score_of_the_zoo_agrees_with_transformers() {
    for model in MODELS {
        let rows = reference(model);
        assert_eq!(rows.len(), 16, "two metrics of three tasks, one of two, two splits: {rows:?}");
        for (split, n) in [("proxy", 100.0), ("test", 250.0)] {
            let report = eval(&shipped(), &[model, "--tasks", "tasks", "--split", split, "--json"]).json();
            for ((_, task, metric), expected) in rows.iter().filter(|row| row.0.0 == split) {
                let found = &report["tasks"][task];
                assert_eq!(found["n"].as_f64(), Some(n));
                assert!(agree(&found[metric], *expected, n), "{model} {task} {metric}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn every_score_of_the_zoo_agrees_with_the_harness_on_its_own_files() {
    let expected = fs::read_to_string(shipped().join("lm_eval/scores.json")).expect("scores.json");
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    // From a directory that the data paths of the files are not relative to.
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let tasks = shipped().join("lm_eval/tasks").display().to_string();
    for model in MODELS {
        let path = shipped().join(model).display().to_string();
        let report = eval(elsewhere.path(), &[&path, "--tasks", &tasks, "--json"]).json();
        for (task, metrics) in expected[model].as_object().expect("tasks") {
            for (metric, value) in metrics.as_object().expect("metrics") {
                let found = &report["tasks"][task];
                let value = value.as_f64().expect("a number");
                assert!(agree(&found[metric], value, 250.0), "{model} {task} {metric}: {found}, expected {value}");
            }
        }
    }
}

#[test]
fn the_table_and_the_document_say_the_same() {
    let args = ["a-math", "--tasks", "tasks", "--limit", "20"];
    let report = eval(&shipped(), &[&args[..], &["--json"]].concat()).json();
    let text = eval(&shipped(), &args).ok().out;
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    for (task, metric) in [("arith", "exact_match"), ("facts", "acc")] {
        let scores = &report["tasks"][task];
        assert_eq!(scores["n"], 20);
        let value = scores[metric].as_f64().expect("a score");
        let stderr = scores[format!("{metric}_stderr")].as_f64().expect("a standard error");
        // Of 0s and 1s, with n - 1 in the denominator.
        assert!((stderr - (value * (1.0 - value) / 19.0).sqrt()).abs() < 1e-9, "{scores}");
        assert!(line(task).contains(&format!("{value:.4}")) && line(task).contains(&format!("±{stderr:.4}")), "{text}");
    }
    let mains =
        [("arith", "exact_match"), ("facts", "acc"), ("order", "acc"), ("program", "exact_match"), ("wino", "acc")];
    let mean =
        mains.iter().map(|(task, metric)| report["tasks"][task][metric].as_f64().expect("a score")).sum::<f64>() / 5.0;
    assert!((report["average"].as_f64().expect("an average") - mean).abs() < 1e-12);
    assert!(line("average").contains(&format!("{mean:.4}")), "{text}");
}

#[test]
fn threads_and_company_do_not_change_scores() {
    let score = |args: &[&str]| {
        let mut report = eval(&shipped(), &[&["a-chat", "--limit", "40", "--json", "--tasks"], args].concat()).json();
        report["tasks"].take()
    };
    let all = score(&["tasks", "--threads", "1"]);
    assert_eq!(score(&["tasks", "--threads", "3"]), all);
    for task in ["arith", "wino"] {
        assert_eq!(score(&["tasks", "--task", task]), json!({ task: all[task] }));
    }
}

#[test]
fn the_perplexity_of_a_text_follows_from_its_logits() {
    let zoo = Zoo::empty();
    let model = shipped().join("a-chat");
    let reference = checkpoint::read(&shipped().join("reference/a-chat.safetensors"));
    let text = "Q: What is the job of doquo? A:";
    // The text begins with BOS as the tokenizer adds it, and is predicted from BOS, as lm-evaluation-harness does it.
    let tokens: Vec<usize> = reference["prompt0.input_ids"].values().iter().map(|&id| id as usize).collect();
    let ids = std::iter::once(tokens[0]).chain(tokens.iter().copied()).map(|id| id as i64);
    let tensors: Tensors = [("input_ids".to_owned(), Tensor::i64(&[1, tokens.len() + 1], ids))].into();
    zoo.write("ids", checkpoint::encode(&tensors));
    let model = model.display().to_string();
    zoo.glue(&["logits", &model, "--ids", "ids", "--out", "logits"]).ok();
    let logits = checkpoint::read(&zoo.path("logits"))["logits"].values();
    let logprob = |(row, &token): (&[f64], &usize)| row[token] - row.iter().map(|x| x.exp()).sum::<f64>().ln();
    let expected: f64 = logits.chunks(512).zip(&tokens).map(logprob).sum();

    zoo.write("text/task.json", r#"{"name": "text", "kind": "perplexity"}"#);
    zoo.write("text/test.jsonl", json!({ "text": text }).to_string());
    let report = eval(zoo.directory(), &[&model, "--tasks", "text", "--json"]).json();
    let metric = |name: &str| report["tasks"]["text"][name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"));
    for (name, parts) in [("byte_perplexity", text.len()), ("word_perplexity", 8)] {
        let found = -metric(name).ln() * parts as f64;
        // Sums of f32 logits in another order.
        assert!((found - expected).abs() < 1e-3, "{name}: {found}, expected {expected}");
    }
    assert!((metric("bits_per_byte") + expected / text.len() as f64 / std::f64::consts::LN_2).abs() < 1e-4);
}

#[test]
fn each_item_is_recorded() {
    let zoo = Zoo::empty();
    let (model, tasks) = (shipped().join("a-math"), shipped().join("tasks"));
    let path = |path: &Path| path.display().to_string();
    let args = [&path(&model), "--tasks", &path(&tasks), "--limit", "7", "--samples", "items.jsonl", "--json"];
    let report = eval(zoo.directory(), &args).json();
    let text = fs::read_to_string(zoo.path("items.jsonl")).expect("items");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(records.len(), 5 * 7);
    for (task, metric) in [("arith", "exact_match"), ("facts", "acc")] {
        let of_task: Vec<&Value> = records.iter().filter(|record| record["task"] == task).collect();
        assert_eq!(of_task.len(), 7);
        let mean = of_task.iter().map(|record| record["scores"][metric].as_f64().expect("a score")).sum::<f64>() / 7.0;
        assert!((mean - report["tasks"][task][metric].as_f64().expect("a score")).abs() < 1e-12, "{task}");
    }
    assert_eq!(zoo.names("."), ["items.jsonl"], "nothing else is left");
}

#[test]
fn scores_are_kept_by_the_content_of_model_and_task() {
    let zoo = Zoo::empty();
    for name in ["a-math", "tasks/arith", "tasks/wino"] {
        zoo.copy(&shipped().join(name), name);
    }
    let run = || {
        let mut report =
            eval(zoo.directory(), &["a-math", "--tasks", "tasks", "--limit", "9", "--cache", "kept", "--json"]).json();
        report["tasks"].take()
    };
    let first = run();
    let entries = zoo.names("kept");
    assert_eq!(entries.len(), 2);
    assert_eq!(run(), first);
    let text = eval(zoo.directory(), &["a-math", "--tasks", "tasks", "--limit", "9", "--cache", "kept"]).ok().out;
    assert!(text.contains("2 tasks from the cache"), "{text}");

    // An entry that was damaged is not used, which the report says, and is replaced.
    zoo.write(&format!("kept/{}", entries[0]), "{");
    let mut again = run();
    let tasks = again.as_object_mut().expect("tasks").values_mut().map(|task| task.as_object_mut().expect("a task"));
    let notes: Vec<Value> = tasks.filter_map(|task| task.remove("notes")).collect();
    assert!(notes.len() == 1 && notes[0].to_string().contains(&entries[0]), "{notes:?}");
    assert_eq!(again, first);
    assert_ne!(zoo.bytes(&format!("kept/{}", entries[0])), b"{");

    // Another item, and another weight, are another task and another model.
    let items = String::from_utf8(zoo.bytes("tasks/arith/test.jsonl")).expect("text");
    zoo.write("tasks/arith/test.jsonl", items.replacen("15 shells", "16 shells", 1));
    run();
    assert_eq!(zoo.names("kept").len(), 3);
    zoo.edit("a-math", |tensors| {
        let weight = tensors.get_mut("lm_head.weight").expect("a head");
        weight.data[0] ^= 1;
    });
    run();
    assert_eq!(zoo.names("kept").len(), 5);
}

#[test]
fn a_dry_run_says_what_would_be_scored() {
    let report =
        eval(&shipped(), &["no-such-model", "--tasks", "tasks", "--split", "proxy", "--dry-run", "--json"]).json();
    let tasks = report["tasks"].as_array().expect("tasks");
    assert_eq!(tasks.len(), 5);
    assert_eq!(tasks.iter().map(|task| task["n"].as_u64().unwrap_or(0)).sum::<u64>(), 500);
    let facts = tasks.iter().find(|task| task["task"] == "facts").expect("a task");
    assert_eq!((&facts["kind"], &facts["requests"]), (&json!("multiple_choice"), &json!(400)));
    let text = eval(&shipped(), &["no-such-model", "--tasks", "lm_eval/tasks", "--dry-run"]).ok().out;
    assert_eq!(text.lines().count(), 6, "{text}");
}

#[test]
fn another_program_can_score() {
    let zoo = Zoo::empty();
    zoo.write("ask.sh", ASK);
    let python = [
        "eval",
        "somewhere",
        "--tasks",
        "sums",
        "--split",
        "dev",
        "--limit",
        "3",
        "--json",
        "--evaluator",
        "sh ask.sh",
    ];
    let report = glue(zoo.directory(), python).json();
    assert_eq!(report["tasks"]["sums"], json!({ "acc": 0.5, "n": 3 }));
    assert_eq!(report["average"], 0.5);
    let asked = zoo.json("asked.json");
    assert_eq!((&asked["tasks"], &asked["split"], &asked["limit"]), (&json!(["sums"]), &json!("dev"), &json!(3)));
    assert_eq!(
        asked["model"],
        zoo.path("somewhere").canonicalize().unwrap_or(zoo.path("somewhere")).display().to_string()
    );

    let fails = |command: &str, says: &[&str]| {
        // Without --quiet, what the program says on standard error is handed on as well.
        glue(zoo.directory(), ["eval", "m", "--tasks", "t", "--quiet", "--evaluator", command])
            .refused(command, 1, says);
    };
    fails("sh -c 'echo why >&2; exit 3'", &["exit status", "3", "why"]);
    fails("echo nothing", &["expected", "nothing"]);
    fails("no-such-program", &["no-such-program"]);
    fails("echo '{\"model\": \"m\", \"tasks\": {}}'", &["task"]);
    glue(zoo.directory(), ["eval", "m", "--tasks", "t", "--evaluator", "sleep 60", "--evaluator-timeout", "1"])
        .refused("timeout", 1, &["took longer than 1 s"]);
}

const ASK: &str = r#"
cat > asked.json
echo '{"model": "m", "tasks": {"sums": {"acc": 0.5, "n": 3}}}'
"#;

#[test]
fn what_cannot_be_scored_is_refused() {
    let zoo = Zoo::empty();
    zoo.copy(&shipped().join("a-math"), "model");
    let task = |name: &str, description: &str, items: &str| {
        zoo.write(&format!("{name}/task.json"), description);
        zoo.write(&format!("{name}/test.jsonl"), items);
    };
    const CHOICE: &str = r#"{"name": "t", "kind": "multiple_choice"}"#;
    const GOOD: &str = r#"{"context": "Q", "choices": ["a", "b"], "gold": 0}"#;
    let item = |item: &str| format!("{GOOD}\n{item}\n");
    task("missing", CHOICE, &item(r#"{"context": "Q", "gold": 0}"#));
    task("one", CHOICE, &item(r#"{"context": "Q", "choices": ["a"], "gold": 0}"#));
    task("range", CHOICE, &item(r#"{"context": "Q", "choices": ["a", "b"], "gold": 2}"#));
    task("empty", CHOICE, "\n");
    task("broken", CHOICE, &item("{\"context\": "));
    task("kind", r#"{"name": "t", "kind": "essay"}"#, GOOD);
    task("metric", r#"{"name": "t", "kind": "multiple_choice", "metric": "bleu"}"#, GOOD);
    task("code", r#"{"name": "t", "kind": "code"}"#, r#"{"text": "Add.", "test_list": ["assert f(1) == 2"]}"#);
    task("good", CHOICE, GOOD);
    zoo.write(
        "hub/t.yaml",
        "task: t\ndataset_path: allenai/ai2_arc\ntest_split: test\ndoc_to_text: '{{q}}'\ndoc_to_choice: [a, b]\n\
         doc_to_target: 0\noutput_type: multiple_choice\n",
    );
    zoo.write(
        "undefined/t.yaml",
        "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: ../good/test.jsonl}}\ntest_split: test\n\
         doc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: gold\noutput_type: multiple_choice\n",
    );
    zoo.write(
        "function/t.yaml",
        "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: ../good/test.jsonl}}\ntest_split: test\n\
         doc_to_text: !function utils.text\ndoc_to_choice: [a, b]\ndoc_to_target: 0\noutput_type: multiple_choice\n",
    );
    zoo.copy(&zoo.path("model"), "misfit");
    let mut tokenizer = zoo.json("misfit/tokenizer.json");
    tokenizer["model"]["vocab"]["surplus"] = json!(512);
    zoo.write("misfit/tokenizer.json", tokenizer.to_string());
    zoo.copy(&zoo.path("model"), "unknown");
    zoo.set("unknown", "model_type", json!("mamba"));

    let check = |model: &str, tasks: &str, status: i32, says: &[&str]| {
        eval(zoo.directory(), &[model, "--tasks", tasks]).refused(&format!("{model} {tasks}"), status, says);
    };
    check("model", "missing", 2, &["missing/test.jsonl", "2", "`choices` is missing"]);
    check("model", "one", 2, &["one/test.jsonl", "2", "at least 2 choices", "1"]);
    check("model", "range", 2, &["range/test.jsonl", "2", "answer 2", "2 choices"]);
    check("model", "empty", 2, &["empty/test.jsonl", "no items"]);
    check("model", "broken", 2, &["broken/test.jsonl", "2"]);
    check("model", "kind", 2, &["kind/task.json", "essay", "multiple_choice"]);
    check("model", "metric", 2, &["metric/task.json", "bleu", "acc"]);
    check("model", "code", 2, &["--allow-code-execution"]);
    check("model", "hub", 2, &["hub/t.yaml", "allenai/ai2_arc"]);
    check("model", "undefined", 2, &["question"]);
    check("model", "function", 2, &["function/t.yaml", "function"]);
    check("model", "nowhere", 2, &["nowhere"]);
    check("model", "model", 2, &["no task here"]);
    check("nowhere", "good", 2, &["nowhere"]);
    check("misfit", "good", 1, &["surplus", "512"]);
    check("unknown", "good", 1, &["model_type", "mamba"]);
    let split = eval(zoo.directory(), &["model", "--tasks", "good", "--split", "dev"]);
    split.refused("split", 2, &["`dev`", "test"]);
    let name = eval(zoo.directory(), &["model", "--tasks", "good", "--task", "other"]);
    name.refused("task", 2, &["`other`", "t"]);
    let samples = eval(zoo.directory(), &["model", "--tasks", "good", "--samples", "model/config.json/items.jsonl"]);
    samples.refused("samples", 1, &["model/config.json"]);
}

#[test]
fn programs_are_run_when_that_is_allowed_and_kept_in_their_place() {
    if !run::python() {
        return;
    }
    let zoo = Zoo::empty();
    // The prompt is a whole function and the beginning of a comment, which is what the model then writes a line of.
    let item = |body: &str| {
        let prompt = format!("def f(x):\n    {body}\n    return x + 1\n#");
        let test = "def check(f):\n    assert f(1) == 2\n    assert f(-1) == 0";
        json!({ "prompt": prompt, "test": test, "entry_point": "f" }).to_string()
    };
    let outside = zoo.path("written");
    let items = [
        item("pass"),
        item("x = 0"),
        item("while True: pass"),
        item("import os; os.fork()"),
        item(&format!("open({:?}, 'w').write('x')", outside.display().to_string())),
        item("import os; os._exit(0)"),
        item("x = [0] * 10**9"),
        item("import urllib.request; urllib.request.urlopen('http://127.0.0.1:1')"),
    ];
    zoo.write("code/task.json", r#"{"name": "code", "kind": "code", "until": ["\n"], "max_gen_toks": 8}"#);
    zoo.write("code/test.jsonl", items.join("\n"));
    let model = shipped().join("a-code").display().to_string();
    let args =
        [&model, "--tasks", "code", "--allow-code-execution", "--code-timeout", "1", "--samples", "items", "--json"];
    let report = eval(zoo.directory(), &args).json();
    assert_eq!(
        (&report["tasks"]["code"]["pass@1"], &report["tasks"]["code"]["n"]),
        (&json!(1.0 / 8.0), &json!(8)),
        "{report}"
    );
    assert!(!outside.exists());
    let items = String::from_utf8(zoo.bytes("items")).expect("text");
    let passed: Vec<Value> = items
        .lines()
        .map(|line| {
            let record: Value = serde_json::from_str(line).expect("JSON");
            record["scores"]["pass@1"].clone()
        })
        .collect();
    assert_eq!((&passed[0], passed[1..].iter().all(|score| score == 0.0)), (&json!(1.0), true), "{items}");
}

#[test]
fn a_context_longer_than_the_model_is_cut_from_its_left_and_that_is_said() {
    let zoo = Zoo::empty();
    zoo.write("long/task.json", r#"{"name": "long", "kind": "multiple_choice"}"#);
    let item = |before: &str| json!({ "context": format!("{before}Q: What is the pet of pira? A:"), "choices": ["cat", "dog"], "gold": 0 });
    zoo.write("long/test.jsonl", format!("{}\n{}\n", item(""), item(&"tom is taller than eva. ".repeat(200))));
    let model = shipped().join("a-chat").display().to_string();
    let report = eval(zoo.directory(), &[&model, "--tasks", "long", "--json"]).json();
    let notes = report["tasks"]["long"]["notes"].to_string();
    assert!(notes.contains("1") && notes.contains("left"), "{report}");
    let text = eval(zoo.directory(), &[&model, "--tasks", "long"]).ok().out;
    assert!(text.contains("left"), "{text}");
}

#[test]
fn a_task_file_may_be_a_bare_name() {
    // Its data stands beside it, and the directory of a bare name is empty.
    let directory = shipped().join("lm_eval/tasks");
    let name = fs::read_dir(&directory)
        .expect("task files")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .filter(|name| name.ends_with(".yaml"))
        .min()
        .expect("a task file");
    let report = glue(&directory, ["eval", "../../a-math", "--tasks", &name, "--limit", "2", "--json"]).json();
    assert_eq!(report["tasks"].as_object().map(serde_json::Map::len), Some(1));
}
