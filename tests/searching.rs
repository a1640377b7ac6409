//! `glue search` on family A of the shipped zoo: its results, which interruptions do not change.

use glue_tests::run::{Run, binary, command, glue, kill_when};
use glue_tests::{Zoo, shipped};
use serde_json::Value;
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const MODELS: &str = "models: [a-chat, a-math, a-code, a-reason, a-noise]\nbase: base-a\ntasks: [tasks]\n";

/// A search of a second or so.
const SMALL: &str =
    "limit: 6\nstrategies:\n  - coefficient: {points: 2}\n  - evolutionary: {evaluations: 12, population: 6}\n";

/// A directory for configs and results. Searches run in that of the zoo, since paths of models are relative.
struct Place(Zoo);

impl Deref for Place {
    type Target = Zoo;

    fn deref(&self) -> &Zoo {
        &self.0
    }
}

impl Place {
    fn new() -> Place {
        Place(Zoo::empty())
    }

    fn config(&self, rest: &str) -> String {
        let path = self.path("search.yml");
        fs::write(&path, format!("{MODELS}{rest}")).expect("a config");
        path.display().to_string()
    }

    fn search(&self, config: &str, out: &str, args: &[&str]) -> Run {
        glue(&shipped(), [&["search", config, "--out", &self.text(out)], args].concat())
    }
}

/// Files of a result that must not depend on time, by name.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(directory).expect("a path within").display().to_string();
            if path.is_dir() {
                open.push(path);
            } else if name != "timings.json" && name != "journal.jsonl" {
                found.push((name, fs::read(&path).expect("a file")));
            }
        }
    }
    found.sort();
    found
}

fn summary(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("search.json")).expect("search.json")).expect("JSON")
}

#[test]
fn every_strategy_drops_the_harmful_model_and_beats_the_best_single() {
    let place = Place::new();
    let config = place.config(
        "strategies: [average, coefficient, {similarity: {points: 4}}, {dissimilarity: {points: 4, method: task_arithmetic}}, \
         {soce: {parts: 4}}, {evolutionary: {evaluations: 45}}, {gradient: {steps: 4}}]\nfilter: true\nracing: off\n",
    );
    let printed = place.search(&config, "out", &["--json"]).json();
    let reference: Value =
        serde_json::from_slice(&fs::read(shipped().join("summary.json")).expect("summary.json")).expect("JSON");
    let single = reference["singles_proxy"]["a-math"].as_f64().expect("a score");
    let uniform = reference["merges"]["average/A_without_noise"]["proxy_avg"].as_f64().expect("a score");
    let best = printed["models"].as_array().expect("models").iter().map(|row| row["proxy"].as_f64().expect("a score"));
    // One item of 500 at the most: the order of sums decides near ties.
    assert!((best.fold(0.0, f64::max) - single).abs() <= 0.002 + 1e-9);
    let math =
        printed["models"].as_array().expect("models").iter().find(|row| row["name"] == "a-math").expect("a-math");
    let finalists = summary(&place.path("out"))["finalists"].as_array().expect("finalists").clone();
    for row in printed["strategies"].as_array().expect("strategies") {
        let name = row["name"].as_str().expect("a name");
        assert!(!row["recipe"].as_str().expect("a recipe").contains("a-noise"), "{name} kept it: {row}");
        // The mean of a distribution was not scored on the search items; the other finalists were.
        let of_finalists = finalists.iter().filter(|finalist| finalist["strategy"] == name);
        let best = of_finalists.filter_map(|finalist| finalist["proxy"].as_f64()).fold(f64::NAN, f64::max);
        let proxy = row["proxy"].as_f64().unwrap_or(best);
        assert!(proxy >= single - 1e-9, "{name}: {proxy} is below the best single model, {single}");
        let [held, held_single] = [row, math].map(|row| row["validation"]["average"].as_f64().expect("a score"));
        assert!(held >= held_single - 1e-9, "{name}: {held} is below the best single model, {held_single}");
        if ["coefficient", "evolutionary", "gradient"].contains(&name) {
            assert!(proxy > uniform, "{name}: {proxy} is not above the uniform average of the useful four, {uniform}");
        }
    }
    let noise = printed["filter"].as_array().expect("verdicts").iter().find(|verdict| verdict["model"] == "a-noise");
    assert_eq!(noise.map(|verdict| &verdict["harmful"]), Some(&Value::Bool(true)));
    // What was found is a model, and its recipe makes the same one.
    let out = place.path("out");
    glue(&shipped(), ["merge", &place.text("out/best.yml"), &place.text("again")]).ok();
    let weights = |directory: PathBuf| fs::read(directory.join("model.safetensors")).expect("weights");
    assert!(weights(place.path("again")) == weights(out.join("best")));
    let candidates = summary(&out)["candidates"].as_array().expect("candidates").clone();
    assert!(candidates.iter().all(|tried| tried["reason"].as_str().is_some_and(|reason| !reason.is_empty())));
    let svg = fs::read_to_string(out.join("convergence.svg")).expect("a picture");
    assert!(svg.contains("best so far") && svg.contains("prefers-color-scheme: dark"), "a legend and two themes");
}

#[test]
fn heuristics_drop_the_harmful_model_by_themselves() {
    let place = Place::new();
    let config = place.config("strategies: [average, {coefficient: {points: 3}}]\nfilter: false\nlimit: 50\n");
    let printed = place.search(&config, "out", &["--json"]).json();
    for row in printed["strategies"].as_array().expect("strategies") {
        assert!(!row["recipe"].as_str().expect("a recipe").contains("a-noise"), "{row}");
    }
    let candidates = summary(&place.path("out"))["candidates"].clone();
    let dropped = candidates.as_array().expect("candidates").iter().find(|tried| {
        tried["strategy"] == "average" && tried["what"].as_str().is_some_and(|what| what.contains("a-noise"))
    });
    assert_eq!(dropped.map(|tried| &tried["verdict"]), Some(&Value::from("rejected")));
}

#[test]
fn killed_and_resumed_to_the_same_bits() {
    let place = Place::new();
    let config = place.config(SMALL);
    place.search(&config, "whole", &[]).ok();
    let expected = files(&place.path("whole"));
    let args = ["search", &config, "--out", &place.text("out"), "--resume", "--quiet"];
    let journal = place.path("out.journal.jsonl");
    for lines in [4, 12] {
        let reached = || fs::read_to_string(&journal).is_ok_and(|text| text.lines().count() >= lines);
        assert!(kill_when(&mut command(&shipped(), args), reached), "it ended before its journal had {lines} lines");
        assert!(journal.exists() && !place.path("out").exists());
    }
    glue(&shipped(), args).ok();
    assert!(files(&place.path("out")) == expected);
    assert!(!journal.exists());
}

#[test]
fn a_journal_that_ends_anywhere_leads_to_the_same_end() {
    let place = Place::new();
    let config = place.config(SMALL);
    place.search(&config, "whole", &[]).ok();
    let expected = files(&place.path("whole"));
    let journal = fs::read(place.path("whole/journal.jsonl")).expect("a journal");
    for (i, share) in [0.3, 0.6, 0.95].into_iter().enumerate() {
        let cut = (journal.len() as f64 * share) as usize;
        let name = format!("out{i}");
        fs::write(place.path(&format!("{name}.journal.jsonl")), &journal[..cut]).expect("a torn journal");
        // Without --resume nothing is overwritten.
        place.search(&config, &name, &[]).refused("a journal", 2, &["there is a journal already", "--resume"]);
        place.search(&config, &name, &["--resume"]).ok();
        assert!(files(&place.path(&name)) == expected, "cut at {cut}");
    }
    // Complete is complete.
    let again = place.search(&config, "whole", &["--resume"]).ok();
    assert!(again.out.contains("is complete"), "{}", again.out);
    place.search(&config, "whole", &[]).refused("taken", 1, &["choose another --out"]);
    // Of another seed.
    fs::write(place.path("other.journal.jsonl"), &journal).expect("a journal");
    place.search(&config, "other", &["--resume", "--seed", "7"]).refused(
        "another seed",
        2,
        &["it belongs to another search", "config.seed: was 0, is 7"],
    );
}

#[test]
fn a_larger_budget_continues() {
    let place = Place::new();
    let config = place.config(SMALL);
    place.search(&config, "whole", &[]).ok();
    place.search(&config, "part", &["--evaluations", "12"]).ok();
    let part = summary(&place.path("part"));
    assert_eq!((&part["evaluations"], &part["budget"]["evaluations"]), (&Value::from(12), &Value::from(12)));
    // With the same budget there is nothing to do, with a larger one the result is replaced.
    let again = place.search(&config, "part", &["--resume", "--evaluations", "12"]).ok();
    assert!(again.out.contains("is complete"), "{}", again.out);
    place.search(&config, "part", &["--resume"]).ok();
    assert!(files(&place.path("part")) == files(&place.path("whole")));
    assert!(!place.path("part.journal.jsonl").exists());
}

#[test]
fn workers_and_threads_change_nothing() {
    let place = Place::new();
    let config = place.config(SMALL);
    place.search(&config, "one", &["--threads", "1"]).ok();
    let expected = files(&place.path("one"));
    place.search(&config, "threads", &["--threads", "3"]).ok();
    assert!(files(&place.path("threads")) == expected);
    // This build links no driver: `auto` is the CPU, in workers too, which leave the note to the search.
    let workers = place.search(&config, "workers", &["--workers", "2", "--device", "auto"]);
    workers.ok_with_note("merging on the CPU: this program was built without CUDA");
    assert!(files(&place.path("workers")) == expected);
    let refused = place.search(&config, "device", &["--device", "cuda"]);
    refused.refused("a device", 1, &["built without CUDA", "docs/cuda.md", "--device auto"]);
    assert!(!place.path("device").exists() && !place.path("device.journal.jsonl").exists());
}

#[test]
fn any_command_can_score() {
    let place = Place::new();
    let script = place.path("evaluate.sh");
    let text = format!(
        "#!/bin/sh\nmodel=$(sed 's/.*\"model\": *\"\\([^\"]*\\)\".*/\\1/')\nexec '{}' eval \"$model\" --tasks tasks --split proxy \
         --limit 6 --json\n",
        binary().display()
    );
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("an executable script");
    let rest = "strategies: [average]\nlimit: 6\nvalidation: 0\nracing: false\n";
    let own = place.search(&place.config(rest), "own", &["--json"]).json();
    let config = place.config(&format!("{rest}evaluator: 'sh {}'\n", script.display()));
    let other = place.search(&config, "other", &["--json"]).json();
    assert_eq!(own["strategies"][0]["what"], other["strategies"][0]["what"]);
    for model in 0..5 {
        let average = |of: &Value| of["models"][model]["search"]["average"].as_f64().expect("a score");
        assert!((average(&own) - average(&other)).abs() < 1e-12);
    }
    let config = place.config(&format!("{rest}evaluator: 'false'\n"));
    place.search(&config, "failing", &[]).refused("failing", 1, &["no model could be scored", "a-chat", "exit status"]);
}

#[test]
fn stopped_by_ctrl_c_it_says_how_to_go_on() {
    let place = Place::new();
    let config = place.config("strategies: [coefficient]\n");
    let args = ["search", &config, "--out", &place.text("out")];
    let child = command(&shipped(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("glue starts");
    let start = Instant::now();
    while fs::read(place.path("out.journal.jsonl")).map_or(0, |text| text.iter().filter(|&&b| b == b'\n').count()) < 3 {
        assert!(start.elapsed() < Duration::from_secs(30), "no work has begun");
        sleep(Duration::from_millis(2));
    }
    // Nobody else may write to it meanwhile.
    place.search(&config, "out", &["--resume"]).refused("busy", 1, &["another process is writing to it"]);
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.is_ok_and(|status| status.success()));
    let run = Run::from(&child.wait_with_output().expect("a child ends"));
    assert_eq!(run.status, Some(130), "{run:?}");
    assert!(run.err.contains("evaluations, saved in") && run.err.contains("--resume"), "{run:?}");
    assert!(!place.path("out").exists());
}

#[test]
fn mistakes_are_refused_before_anything_is_scored() {
    let place = Place::new();
    let check = |rest: &str, says: &[&str]| {
        let config = place.config(rest);
        place.search(&config, "out", &[]).refused(rest, 2, says);
        assert!(!place.path("out.journal.jsonl").exists(), "{rest}");
    };
    check("modles: [a]\n", &["search.yml:4:1", "modles"]);
    check("validation: 0.9\n", &["search.yml:4:", "expected a fraction from 0 to 0.5, found 0.9"]);
    check("strategies: [greedy]\n", &["`strategies`", "average, coefficient", "found `greedy`"]);
    check("strategies: [{evolutionary: {sgima: 1}}]\n", &["cma_es has no parameter `sgima`"]);
    check("space: {methods: [taks_arithmetic]}\nstrategies: [evolutionary]\n", &["taks_arithmetic"]);
    check("split: nothing\n", &["no split `nothing`", "proxy, test, train"]);
    check("budget: {evaluations: many}\n", &["search.yml:4:"]);
    let mixed = place.path("mixed.yml");
    fs::write(&mixed, "models: [a-chat, c-chat]\ntasks: [tasks]\n").expect("a config");
    let run = place.search(&mixed.display().to_string(), "out", &[]);
    run.refused("mixed", 2, &["`a-chat` and `c-chat` cannot be merged"]);
}

#[test]
fn a_dry_run_says_what_it_would_take() {
    let place = Place::new();
    let config = place.config(SMALL);
    let plan = place.search(&config, "out", &["--dry-run", "--json"]).json();
    assert_eq!(plan["models"].as_array().map(Vec::len), Some(5));
    let methods: Vec<&str> =
        plan["spaces"].as_array().expect("spaces").iter().filter_map(|s| s["method"].as_str()).collect();
    assert_eq!(methods, ["task_arithmetic", "ties", "dare_ties", "sce", "wudi", "tsv_m"]);
    let coordinates = plan["spaces"][0]["coordinates"].as_array().expect("coordinates");
    assert!(coordinates.iter().any(|coordinate| coordinate["name"] == "weight[a-math]"), "{plan}");
    // Five models and the base, two shares for each of four, and the optimiser's twelve.
    assert_eq!(plan["evaluations"]["most"], 6 + 8 + 12);
    let text = place.search(&config, "out", &["--dry-run"]).ok().out;
    assert!(text.contains("weight[a-math]") && text.contains("evaluations") || text.contains("EVALUATIONS"), "{text}");
    assert!(!place.path("out.journal.jsonl").exists() && !place.path("out").exists());
    let init = || glue(place.directory(), ["search", "--init", "new"]);
    init().ok();
    let example = fs::read_to_string(place.path("new/search.yml"));
    assert!(example.is_ok_and(|text| text.contains("strategies:") && text.contains("validation: 0.5")));
    init().refused("twice", 2, &["new/search.yml exists; delete it to write a new one"]);
}
