//! Task files of lm-evaluation-harness: prompts and scores are those of lm_eval 0.4.13, and what it would run in Python
//! is refused.

use crate::support::{Table, data};
use glue_eval::{EvalOptions, Task, evaluate, load_tasks, select};
use glue_progress::{ErrorChain, NoProgress};
use serde_json::Value;
use std::fs;

fn expected() -> Value {
    // Made by data/harness/make.py.
    serde_json::from_slice(&fs::read(data("harness/expected.json")).unwrap()).unwrap()
}

fn tasks() -> Vec<Task> {
    load_tasks(&[data("harness/tasks")]).unwrap()
}

fn named(name: &str) -> Vec<Task> {
    select(tasks(), &[name]).unwrap()
}

#[test]
fn every_prompt_is_that_of_the_harness() {
    let expected = expected();
    let names: Vec<String> = tasks().iter().map(|task| task.name().to_string()).collect();
    assert_eq!(names.len(), 9);
    for name in names {
        let model = Table::default();
        evaluate(&model, &named(&name), &EvalOptions::default(), &NoProgress).unwrap();
        let asked = model.asked.into_inner().unwrap();
        let wanted = expected["tasks"][&name]["requests"].as_array().unwrap();
        let wanted = wanted.iter().flat_map(|item| item.as_array().unwrap());
        let text = |value: &Value| value.as_str().map(String::from);
        // The second part of a request for text is its settings.
        let wanted: Vec<Vec<String>> =
            wanted.map(|request| request.as_array().unwrap().iter().filter_map(text).collect()).collect();
        assert_eq!(asked.len(), wanted.len(), "{name}");
        for (asked, wanted) in asked.iter().zip(&wanted) {
            assert_eq!(asked, wanted, "{name}");
        }
    }
}

#[test]
fn every_score_is_that_of_the_harness() {
    let expected = expected();
    let report = evaluate(&Table::default(), &tasks(), &EvalOptions::default(), &NoProgress).unwrap();
    let mut compared = 0;
    for task in &report.tasks {
        for (key, wanted) in expected["tasks"][&task.name]["scores"].as_object().unwrap() {
            let (metric, filter) = key.split_once(',').unwrap();
            let (metric, is_error) = metric.strip_suffix("_stderr").map_or((metric, false), |metric| (metric, true));
            let metric = task.metric(metric).or(task.metric(&format!("{metric},{filter}"))).unwrap();
            if is_error && metric.name.contains("perplexity") {
                // The harness draws resamples; how the two agree is a test of the metrics.
                continue;
            }
            let found = if is_error { metric.stderr.unwrap() } else { metric.value };
            let wanted = wanted.as_f64().unwrap();
            // The order of sums differs, by some rounding errors.
            assert!((found - wanted).abs() <= 1e-12 * wanted.abs(), "{} {key}: {found}, expected {wanted}", task.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 40);
}

#[test]
fn groups_and_tags_select_tasks() {
    let names = |tasks: Vec<Task>| tasks.iter().map(|task| task.name().to_string()).collect::<Vec<_>>();
    assert_eq!(names(named("choices")), ["choice_many_shots", "choice_shots"]);
    assert_eq!(names(named("some")), ["choice_shots", "roll"]);
    let error = select(tasks(), &["nothing"]).unwrap_err().chain();
    assert!(error.starts_with("no task, group or tag is named `nothing`; tasks are choice_first, "), "{error}");
    // A group by itself, with another value for a key of one of its tasks.
    let group = load_tasks(&[data("harness/tasks/some.yaml")]).unwrap();
    assert_eq!(group.iter().map(Task::name).collect::<Vec<_>>(), ["roll", "choice_shots"]);
    let report = evaluate(&Table::default(), &group, &EvalOptions::default(), &NoProgress).unwrap();
    assert_eq!(report.tasks[1].num_fewshot, 1);
}

#[test]
fn splits_by_name_and_by_role() {
    let run = |split: &str| {
        let options = EvalOptions { split: Some(split.into()), ..EvalOptions::default() };
        evaluate(&Table::default(), &named("choice_letters"), &options, &NoProgress)
    };
    // The file has no test_split, so that what is scored is the validation split.
    assert_eq!((run("validation").unwrap().tasks[0].n, run("test").unwrap().tasks[0].n), (12, 20));
    let error = run("dev").unwrap_err().chain();
    assert!(error.ends_with("has no split `dev`; it has test, train, validation"), "{error}");
}

#[test]
fn examples_from_the_scored_split_are_mentioned() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("t.yaml");
    let text = fs::read_to_string(data("harness/tasks/_base_yaml.yaml")).unwrap();
    let text = text.replace("data/", &format!("{}/", data("harness/data").display()));
    fs::write(&file, format!("{text}\ntask: t\nnum_fewshot: 2\n")).unwrap();
    let tasks = load_tasks(&[&file]).unwrap();
    let report = evaluate(&Table::default(), &tasks, &EvalOptions::default(), &NoProgress).unwrap();
    let expected = "examples are drawn from the split `test` that is scored, the item itself included";
    assert_eq!(report.tasks[0].notes, [expected]);
    let zero = EvalOptions { num_fewshot: Some(0), ..EvalOptions::default() };
    let report = evaluate(&Table::default(), &tasks, &zero, &NoProgress).unwrap();
    assert_eq!((report.tasks[0].num_fewshot, report.tasks[0].notes.len()), (0, 0));
}

/// What a file with these keys, over a base that is sound, is refused with; the directory and its files left out.
fn refused(keys: &str, items: &str) -> String {
    const BASE: &str = "task: t\ndataset_path: json\ndataset_kwargs:\n  data_files: {test: items.jsonl}\n";
    const REST: &[(&str, &str)] = &[
        ("test_split", "test_split: test\n"),
        ("output_type", "output_type: multiple_choice\n"),
        ("doc_to_text", "doc_to_text: q\n"),
        ("doc_to_choice", "doc_to_choice: choices\n"),
        ("doc_to_target", "doc_to_target: gold\n"),
    ];
    let directory = tempfile::tempdir().unwrap();
    let mut text = BASE.to_string();
    for (key, line) in REST {
        let given = keys.lines().any(|line| line.trim_start().starts_with(&format!("{key}:")));
        text.push_str(if given { "" } else { line });
    }
    let start = text.lines().count();
    text.push_str(keys);
    let file = directory.path().join("t.yaml");
    fs::write(&file, text).unwrap();
    fs::write(directory.path().join("items.jsonl"), items).unwrap();
    let error = match load_tasks(&[&file]) {
        Err(error) => error.chain(),
        Ok(tasks) => evaluate(&Table::default(), &tasks, &EvalOptions::default(), &NoProgress).unwrap_err().chain(),
    };
    // Lines of the YAML file are counted from the first of the given keys.
    let error = error.replace(&format!("{}/", directory.path().display()), "");
    match error.strip_prefix("t.yaml:").and_then(|rest| rest.split_once(':')) {
        Some((line, rest)) => match line.parse::<usize>() {
            Ok(line) => format!("key line {}:{rest}", line as i64 - start as i64),
            Err(_) => error,
        },
        None => error,
    }
}

const ITEM: &str = "{\"q\": \"Why?\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n";

#[test]
fn what_needs_python_or_is_unknown_is_refused_by_the_name_of_the_key() {
    for (keys, expected) in [
        (
            "process_docs: !function utils.f\n",
            "key line 1: `process_docs` is not supported: `utils.f` is a Python function that cannot be evaluated here: \
             utils.py: utils.py: No such file or directory (os error 2); --allow-python runs it in a sandbox with the \
             Python that is installed",
        ),
        (
            "metric_list:\n  - metric: !function utils.pass_at_k\n",
            "key line 2: `metric` is not supported: `utils.pass_at_k` is a Python function that cannot be evaluated here: \
             utils.py: utils.py: No such file or directory (os error 2); --allow-python runs it in a sandbox with the \
             Python that is installed",
        ),
        (
            "process_results: f\n",
            "key line 1: `process_results` should be a function, as `!function utils.process_docs`, but is \"f\"",
        ),
        ("doc_to_image: i\n", "key line 1: `doc_to_image` is not supported: images are not supported"),
        (
            "output_type: chat\n",
            "key line 1: `output_type` should be multiple_choice, generate_until, loglikelihood or \
             loglikelihood_rolling, but is \"chat\"",
        ),
        (
            "metric_list:\n  - metric: acc\n  - metric: bleu\n",
            "key line 2: `metric` should be one of acc, acc_norm, acc_bytes, acc_mutual_info, exact_match, f1, mcc, \
             brier_score, likelihood, but is \"bleu\"",
        ),
        (
            "metric_list:\n  - metric: acc\n    aggregation: f1\n",
            "key line 3: `aggregation` should be one of mean, nanmean, median, perplexity, but is \"f1\"",
        ),
        (
            "output_type: generate_until\ngeneration_kwargs: {num_beams: 4}\n",
            "key line 2: `num_beams` is not supported: answers are made one token after another, without beams",
        ),
        (
            "output_type: generate_until\ngeneration_kwargs: {do_sample: true}\n",
            "key line 2: `do_sample` should be false, or `temperature` above 0, but is true",
        ),
        (
            "output_type: generate_until\nfilter_list:\n  - name: x\n    filter: [{function: own}]\n",
            "key line 4: `function` should be one of take_first, take_first_k, majority_vote, remove_whitespace, lowercase, \
             uppercase, map, regex, multi_choice_regex, regex_pos, format_span, custom, but is \"own\"",
        ),
        (
            "doc_to_text: '{{ q'\n",
            "key line 1: `doc_to_text`: unexpected end of input, expected end of variable block (line 1 of the template)",
        ),
        ("test_split: dev\n", "key line 1: `test_split` should be a split of data_files (test), but is \"dev\""),
        ("num_fewshot: -1\n", "key line 1: `num_fewshot` should be a whole number from 0 to 10000, but is -1"),
        ("include: other.yaml\n", "other.yaml: No such file or directory (os error 2)"),
        ("include: t.yaml\n", "t.yaml: the file includes itself"),
    ] {
        assert_eq!(refused(keys, ITEM), expected, "{keys}");
    }
}

#[test]
fn items_are_refused_with_their_line() {
    let second = |item: &str| format!("{ITEM}\n{item}\n");
    for (keys, items, expected) in [
        (
            "",
            second("{\"q\": \"Why?\", \"choices\": [\"a\"], \"gold\": 0}"),
            "items.jsonl:3: a question needs at least 2 choices, but this one has 1",
        ),
        (
            "",
            second("{\"q\": \"Why?\", \"choices\": [\"a\", \"b\"], \"gold\": 2}"),
            "items.jsonl:3: the answer 2 is none of the 2 choices",
        ),
        (
            "",
            second("{\"q\": \"Why?\", \"choices\": [\"a\", \"b\"], \"gold\": -1}"),
            "items.jsonl:3: the answer -1 is none of the 2 choices",
        ),
        (
            "",
            second("{\"q\": \"Why?\", \"choices\": [\"a\", \"b\"], \"gold\": \"c\"}"),
            "items.jsonl:3: the answer 'c' is none of the 2 choices",
        ),
        ("", second("{\"q\": \"Why?\", \"choices\": [\"a\", \"b\"]}"), "items.jsonl:3: the field `gold` is missing"),
        (
            "",
            second("{\"q\": \"Why?\", \"choices\": [1, 2], \"gold\": 0}"),
            "items.jsonl:3: `doc_to_choice` should be a list of texts, but is a list of 2",
        ),
        (
            "",
            second("{\"q\": 3, \"choices\": [\"a\", \"b\"], \"gold\": 0}"),
            "items.jsonl:3: `doc_to_text` should be text, but is 3",
        ),
        (
            "doc_to_text: '{{question}}'\n",
            ITEM.into(),
            "items.jsonl:1: `doc_to_text`: the item has no field `question`",
        ),
        (
            "doc_to_choice: '{{q}}'\n",
            ITEM.into(),
            "items.jsonl:1: `doc_to_choice`: expected a value at character 1 of a Python literal",
        ),
        (
            "doc_to_choice: [a, b]\nnum_fewshot: 2\n",
            ITEM.into(),
            "t.yaml: 2 examples are wanted in the prompts of `t`, but the split `test` has only 1",
        ),
        ("", "{\"q\": \n".into(), "items.jsonl:1: invalid JSON: EOF while parsing a value at column 6"),
        ("", "\n".into(), "items.jsonl: the split `test` of the task `t` has no items"),
        (
            "output_type: generate_until\ndoc_to_choice: null\ndoc_to_target: '{{choices}}'\n",
            second("{\"q\": \"Why?\", \"choices\": \"x\", \"gold\": 0}"),
            "items.jsonl:3: `doc_to_target` should be a list of texts, as for the first item; the harness reads a template's \
             result in brackets as a list, and not the name of a field, but is \"x\"",
        ),
    ] {
        assert_eq!(refused(keys, &items), expected, "{keys} {items}");
    }
}

#[test]
fn data_files_are_found_beside_above_and_below_the_working_directory() {
    let missing = refused("dataset_kwargs: {data_files: {test: no.jsonl}}\n", ITEM);
    assert!(missing.contains("there is no file `no.jsonl`"), "of two keys of one name the last counts: {missing}");
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("a/b");
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir_all(directory.path().join("data")).unwrap();
    fs::write(directory.path().join("data/items.jsonl"), ITEM).unwrap();
    let text = "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: data/items.jsonl}}\ntest_split: test\n\
                output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: choices\ndoc_to_target: gold\n";
    fs::write(deep.join("t.yaml"), text).unwrap();
    assert_eq!(load_tasks(&[&deep]).unwrap()[0].splits(), ["test"]);
    fs::write(deep.join("t.yaml"), text.replace("data/items", "data/no")).unwrap();
    let error = load_tasks(&[&deep]).unwrap_err().chain();
    assert!(error.contains("t.yaml:3: there is no file `data/no.jsonl` in "), "{error}");
    fs::write(deep.join("t.yaml"), text.replace("dataset_path: json", "dataset_path: org/that-nobody-has")).unwrap();
    let error = load_tasks(&[&deep]).unwrap_err().chain();
    assert!(
        error.contains("t.yaml:2: the data `org/that-nobody-has` is missing: ")
            && error.contains("glue fetch --dataset"),
        "{error}"
    );
}

/// A task whose functions are in a Python file beside it, written to a directory of its own.
fn with_functions(yaml: &str, python: &str, items: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("t.yaml"), yaml).unwrap();
    fs::write(directory.path().join("utils.py"), python).unwrap();
    fs::write(directory.path().join("items.jsonl"), items).unwrap();
    directory
}

const CHOICES: &str = "task: t\ndataset_path: json\ndataset_kwargs:\n  data_files: {test: items.jsonl}\ntest_split: test\n\
    output_type: multiple_choice\nprocess_docs: !function utils.process_docs\ndoc_to_text: !function utils.doc_to_text\n\
    doc_to_choice: '{{choices}}'\ndoc_to_target: gold\n";

const FUNCTIONS: &str = r#"
import missing_library

ASK = "Ask: "


def process_docs(dataset):
    kept = dataset.filter(lambda doc: doc["keep"])
    return kept.map(lambda doc: {"choices": [c.strip() for c in doc["raw"].split("|")], "gold": int(doc["label"]) - 1})


def doc_to_text(doc):
    return f"{ASK}{doc['q']}?"


def process_results(doc, results):
    logprobs = [logprob for logprob, _ in results]
    best = logprobs.index(max(logprobs))
    return {"acc": float(best == doc["gold"]), "pair": (doc["gold"], best), "spread": max(logprobs) - min(logprobs)}


def agree(items):
    return sum(1 for gold, said in items if gold == said) / len(items)


def library(doc, results):
    return {"acc": missing_library.score(doc)}
"#;

const ROWS: &str = "{\"q\": \"a\", \"raw\": \"x | y\", \"label\": \"1\", \"keep\": true}\n\
    {\"q\": \"b\", \"raw\": \"x | y\", \"label\": \"1\", \"keep\": false}\n\
    {\"q\": \"c\", \"raw\": \"v | w | z\", \"label\": \"2\", \"keep\": true}\n";

#[test]
fn functions_make_items_prompts_and_scores() {
    let yaml = format!(
        "{CHOICES}process_results: !function utils.process_results\nmetric_list:\n  - metric: acc\n  - metric: pair\n    \
         aggregation: !function utils.agree\n  - metric: spread\n    higher_is_better: false\n"
    );
    let directory = with_functions(&yaml, FUNCTIONS, ROWS);
    let tasks = load_tasks(&[directory.path()]).unwrap();
    assert!(tasks[0].needs_python().is_none());
    let table = Table::default();
    let report = evaluate(&table, &tasks, &EvalOptions::default(), &NoProgress).unwrap();
    let asked = table.asked.lock().unwrap();
    let prompts: Vec<&str> = asked.iter().map(|asked| asked[0].as_str()).collect();
    assert_eq!(prompts, ["Ask: a?", "Ask: a?", "Ask: c?", "Ask: c?", "Ask: c?"]);
    let task = &report.tasks[0];
    let value = |name: &str| task.metric(name).map(|metric| (metric.value, metric.higher_is_better)).unwrap();
    assert_eq!((task.n, value("acc").0), (2, value("pair").0), "both are the share of what is right");
    assert!(value("acc").1 && !value("spread").1 && value("spread").0 > 0.0);
    assert_eq!(task.metric("pair").unwrap().stderr, None);
}

#[test]
fn a_function_that_fails_names_its_item() {
    let python = FUNCTIONS.replace("return f\"{ASK}{doc['q']}?\"", "return doc['nothing']");
    let directory = with_functions(CHOICES, &python, ROWS);
    let tasks = load_tasks(&[directory.path()]).unwrap();
    let error = evaluate(&Table::default(), &tasks, &EvalOptions::default(), &NoProgress).unwrap_err().chain();
    let expected = "items.jsonl:1: `doc_to_text`: `utils.doc_to_text`: KeyError: 'nothing' (line 13)";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_key_without_its_function_is_one_without_its_refusal() {
    let broken = CHOICES.replace("utils.process_docs", "utils.nothing").replace("utils.doc_to_text", "utils.nothing");
    let directory = with_functions(&format!("{broken}process_results: !function utils.library\n"), FUNCTIONS, ROWS);
    let own = "include: t.yaml\ntask: u\nprocess_results: null\nprocess_docs: null\ndoc_to_text: q\n\
               doc_to_choice: [v, w]\ndoc_to_target: 0\n";
    fs::write(directory.path().join("u.yaml"), own).unwrap();
    let tasks = load_tasks(&[directory.path().join("u.yaml")]).unwrap();
    assert!(tasks[0].needs_python().is_none());
    let report = evaluate(&Table::default(), &tasks, &EvalOptions::default(), &NoProgress).unwrap();
    assert_eq!(report.tasks[0].n, 3);
    let tasks = load_tasks(&[directory.path().join("t.yaml")]).unwrap();
    let error = evaluate(&Table::default(), &tasks, &EvalOptions::default(), &NoProgress).unwrap_err().chain();
    assert!(error.contains("the file defines no `nothing`; --allow-python"), "{error}");
}

#[test]
fn the_installed_python_runs_what_is_not_evaluated() {
    if !crate::support::python() {
        return;
    }
    let python = format!("import decimal\n{FUNCTIONS}")
        .replace("import missing_library\n", "")
        .replace("missing_library.score(doc)", "float(decimal.Decimal(doc['gold']))");
    let yaml = format!("{CHOICES}process_results: !function utils.library\nmetric_list:\n  - metric: acc\n");
    let directory = with_functions(&yaml, &python, ROWS);
    let tasks = load_tasks(&[directory.path()]).unwrap();
    let needed = tasks[0].needs_python().unwrap().to_string();
    assert!(needed.contains("the module `decimal` is not evaluated here"), "{needed}");
    let options = EvalOptions { allow_python: true, ..EvalOptions::default() };
    let report = evaluate(&Table::default(), &tasks, &options, &NoProgress).unwrap();
    assert_eq!(report.tasks[0].metric("acc").map(|acc| acc.value), Some(0.5));
}
