//! `glue eval` and `glue tasks` with tasks of lm-evaluation-harness by name: groups, data, several models, results in
//! the layout of the harness.

use glue_tests::run::{Run, glue};
use glue_tests::shipped;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A directory of tasks and data for the models of the shipped zoo.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a temporary directory");
    let write = |path: &str, text: &str| {
        let path = place.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    };
    let base = "dataset_path: org/quiz\noutput_type: multiple_choice\ntest_split: test\nvalidation_split: validation\n\
                doc_to_text: \"{{q}}\"\ndoc_to_choice: choices\ndoc_to_target: gold\nmetadata: {version: 1}\n";
    write("tasks/_base", base);
    for name in ["sea", "sky"] {
        let text =
            format!("include: _base\ntask: quiz_{name}\ntask_alias: {name}\ntag: quizzes\ndataset_name: {name}\n");
        write(&format!("tasks/{name}.yaml"), &text);
        let item =
            |i: usize| format!("{{\"q\": \"{name} {i}?\", \"choices\": [\"yes\", \"no {i}\"], \"gold\": {}}}\n", i % 2);
        let items: String = (0..10).map(item).collect();
        write(&format!("data/org/quiz/{name}/test.jsonl"), &items);
        // The first of these is a test item too.
        let items: String = [0].into_iter().chain(20..29).map(item).collect();
        write(&format!("data/org/quiz/{name}/validation.jsonl"), &items);
    }
    write(
        "tasks/quiz.yaml",
        "group: quiz\ngroup_alias: The quiz\ntask: [quizzes]\naggregate_metric_list: {metric: acc}\nmetadata: {version: 3}\n",
    );
    write("tasks/lost.yaml", "include: _base\ntask: lost\ndataset_path: org/lost\n");
    write("tasks/seen.yaml", "include: _base\ntask: seen\ndoc_to_image: picture\n");
    place
}

fn model(name: &str) -> String {
    shipped().join(name).display().to_string()
}

fn run(place: &Path, args: &[&str]) -> Run {
    let more = ["--include-path", "tasks", "--data", "data"];
    glue(place, args.iter().chain(&more))
}

#[test]
fn a_group_is_scored_by_its_name() {
    let place = place();
    let report = run(place.path(), &["eval", &model("base-a"), "--tasks", "quiz", "--json"]).json();
    let acc = |name: &str| report["tasks"][name]["acc"].as_f64().expect("a number");
    let expected = (acc("quiz_sea") + acc("quiz_sky")) / 2.0;
    let found = report["groups"]["quiz"]["acc"].as_f64().expect("a number");
    assert!((found - expected).abs() < 1e-12 && report["groups"]["quiz"]["n"] == 20, "{report}");
    let table = run(place.path(), &["eval", &model("base-a"), "--tasks", "quiz", "--limit", "0.25"]).ok().out;
    let names: Vec<&str> = table.lines().map(|line| line.split("  ").next().unwrap_or_default().trim_end()).collect();
    assert!(table.contains("The quiz") && table.contains(" - sea") && table.contains(" - sky"), "{names:?}");
    // A quarter of ten, rounded up.
    assert!(table.lines().any(|line| line.starts_with(" - sea") && line.contains("  3  test")), "{table}");
    let run = run(place.path(), &["eval", &model("base-a"), "--tasks", "quiz_see"]);
    run.refused("a name that is not there", 2, &["`quiz_see`", "quiz_sea"]);
}

#[test]
fn missing_data_is_refused_with_the_command_that_gets_it() {
    let place = place();
    run(place.path(), &["eval", &model("base-a"), "--tasks", "quiz,lost"]).refused(
        "missing data",
        2,
        &["`org/lost`", "glue fetch --dataset org/lost", "--data"],
    );
}

#[test]
fn several_models_are_compared_with_the_first() {
    let place = place();
    let models = [model("base-a"), model("a-chat")];
    let args = ["eval", &models[0], &models[1], "--tasks", "quiz", "--json"];
    let report = run(place.path(), &args).json();
    let score = |model: usize, name: &str| report["models"][model]["tasks"][name]["acc"].as_f64().expect("a number");
    for name in ["quiz_sea", "quiz_sky"] {
        let found = &report["differences"][name][0];
        let expected = score(1, name) - score(0, name);
        let difference = found["difference"].as_f64().expect("a number");
        assert!((difference - expected).abs() < 1e-12, "{found}");
        assert!(found["p"].as_f64().is_none_or(|p| p > 0.0 && p <= 1.0), "{found}");
    }
    let table = run(place.path(), &args[..5]).ok().out;
    assert!(table.contains("- first") && table.contains("average"), "{table}");
    run(place.path(), &["eval", &models[0], &models[1], "--tasks", "quiz", "--samples", "x"]).refused(
        "samples of two models",
        2,
        &["--samples takes one model"],
    );
}

#[test]
fn results_have_the_layout_of_the_harness() {
    let place = place();
    run(place.path(), &["eval", &model("base-a"), "--tasks", "quiz", "--output-path", "out"]).ok();
    let directory =
        fs::read_dir(place.path().join("out")).expect("out").next().expect("a directory").expect("an entry");
    let mut files: Vec<_> =
        fs::read_dir(directory.path()).expect("files").map(|file| file.expect("an entry").path()).collect();
    files.sort();
    let names: Vec<String> =
        files.iter().map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    assert!(names[0].starts_with("results_20") && names[0].ends_with(".json"), "{names:?}");
    assert!(names[1].starts_with("samples_quiz_sea_20") && names[1].ends_with(".jsonl"), "{names:?}");
    assert_eq!(names.len(), 3);
    let results: Value = serde_json::from_slice(&fs::read(&files[0]).expect("results")).expect("JSON");
    assert_eq!(results["group_subtasks"]["quiz"], serde_json::json!(["quiz_sea", "quiz_sky"]));
    assert_eq!((&results["versions"]["quiz"], &results["versions"]["quiz_sea"]), (&"3".into(), &1.into()));
    assert_eq!((&results["results"]["quiz_sky"]["alias"], &results["n-shot"]["quiz"]), (&"sky".into(), &0.into()));
    assert_eq!(results["groups"]["quiz"]["acc,none"], results["results"]["quiz"]["acc,none"]);
    assert!(results["results"]["quiz_sea"]["acc_stderr,none"].is_f64(), "{}", results["results"]);
    assert_eq!(results["n-samples"]["quiz_sea"], serde_json::json!({"original": 10, "effective": 10}));
    let samples = fs::read_to_string(&files[1]).expect("samples");
    let samples: Vec<Value> = samples.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(samples.len(), 10);
    assert_eq!(samples[3]["doc"]["q"], "sea 3?");
    assert_eq!(samples[3]["arguments"]["gen_args_1"]["arg_1"], " no 3");
    let mean = samples.iter().map(|sample| sample["acc"].as_f64().expect("a number")).sum::<f64>() / 10.0;
    assert_eq!(results["results"]["quiz_sea"]["acc,none"].as_f64(), Some(mean));
}

#[test]
fn tasks_are_listed_with_what_they_lack() {
    let place = place();
    let all = run(place.path(), &["tasks", "--all", "--json"]).json();
    let status = |name: &str| {
        let entry = all["names"].as_array().expect("names").iter().find(|entry| entry["name"] == name);
        entry.expect("a name").clone()
    };
    assert_eq!((&status("quiz")["kind"], &status("quiz")["status"]), (&"group".into(), &"runs".into()));
    assert_eq!(status("lost")["command"], "glue fetch --dataset org/lost");
    assert_eq!((&status("seen")["status"], &status("seen")["key"]), (&"refused".into(), &"doc_to_image".into()));
    let counts = &all["counts"];
    let of = |key: &str| counts[key].as_u64().expect("a number");
    // Where the harness is installed, its tasks are listed too.
    assert!(of("runs") >= 2 && of("missing_data") >= 1 && of("refused") >= 1, "{counts}");
    let listed = run(place.path(), &["tasks", "quiz"]).ok().out;
    assert!(listed.contains("quiz") && listed.contains("- quizzes") && listed.contains("- quiz_sea"), "{listed}");
}

#[test]
fn a_search_on_the_test_split_is_refused() {
    let place = place();
    let search = |more: &str| {
        let models = [model("a-chat"), model("a-code")];
        let config = format!(
            "models: [{}, {}]\nbase: {}\ntasks: [{}/tasks/sea.yaml, {}/tasks/sky.yaml]\nstrategies: [average]\nfilter: false\n{more}",
            models[0],
            models[1],
            model("base-a"),
            place.path().display(),
            place.path().display(),
        );
        fs::write(place.path().join("search.yml"), config).expect("a file");
        // Where the data is, as the paths of a config have no directory of data.
        glue(&place.path().join("data"), ["search", "../search.yml", "--out", "../out", "--dry-run"])
    };
    for (more, refused) in [
        ("split: test\n", true),
        ("split: \"test[:50%]\"\n", true),
        ("split: test\nallow_test_split: true\n", false),
        ("split: validation\n", false),
    ] {
        let run = search(more);
        let said = run.err.contains("allow_test_split: true");
        assert_eq!(said, refused, "{more}: {}", run.err);
        if !refused {
            assert!(run.err.contains("are also among the test items"), "{more}: {}", run.err);
        }
    }
}
