//! RegMean++ on the shipped zoo: `glue calibrate --merge`, and merges with what it writes.

use glue_tests::run::Run;
use glue_tests::{Tensors, Zoo, shipped};
use serde_json::Value;

/// Two models with the embedding and the norms of the base, so that what a matrix reads does not depend on whose norm
/// comes before it, and a config.
fn place() -> Zoo {
    let zoo = Zoo::empty();
    for (from, name) in [("base-a", "base"), ("a-math", "models/math"), ("a-code", "models/code"), ("tasks", "tasks")] {
        zoo.copy(&shipped().join(from), name);
    }
    let base = zoo.read("base");
    for name in ["models/math", "models/code"] {
        zoo.edit(name, |tensors: &mut Tensors| {
            for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains("norm") || name.contains("embed"))
            {
                *tensor = base[name].clone();
            }
        });
    }
    zoo.write("regmean.yml", CONFIG);
    zoo
}

const CONFIG: &str = "merge_method: regmean
models:
- {model: models/math, statistics: statistics/math}
- {model: models/code, statistics: statistics/code, parameters: {weight: 2}}
";

const DATA: [&str; 6] = ["--tasks", "tasks", "--data", "math=arith", "--data", "models/code=program"];

fn calibrate(zoo: &Zoo, args: &[&str]) -> Run {
    zoo.glue(&[&["calibrate", "--merge", "regmean.yml", "--limit", "6", "--quiet"], args].concat())
}

/// The tensors whose names contain all of these.
fn some<'a>(tensors: &'a Tensors, parts: &'a [&str]) -> impl Iterator<Item = (&'a String, &'a glue_tests::Tensor)> {
    tensors.iter().filter(move |(name, _)| parts.iter().all(|part| name.contains(part)))
}

#[test]
fn statistics_are_those_of_the_merge_that_they_make() {
    let zoo = place();
    let report = calibrate(&zoo, &[&DATA[..], &["--json"]].concat()).json();
    assert_eq!(report["statistics"], serde_json::json!(["gram"]));
    let of_model = &report["models"][0];
    assert_eq!((&of_model["model"], &of_model["sequences"]), (&"models/math".into(), &6.into()));
    assert_eq!(of_model["source"]["tasks"], serde_json::json!({"arith": 6}));
    zoo.glue(&["merge", "regmean.yml", "merged", "--quiet"]).ok();
    for (name, task, model) in [("math", "arith", "models/math"), ("code", "program", "models/code")] {
        let found = zoo.read(&format!("statistics/{name}"));
        let plain = |model: &str, out: &str| {
            let args = ["calibrate", model, "--out", out, "--what", "gram", "--tasks", "tasks", "--task", task];
            zoo.glue(&[&args[..], &["--limit", "6", "--quiet"]].concat()).ok();
            zoo.read(out)
        };
        let (merged, own) = (plain("merged", &format!("of-merged-{name}")), plain(model, &format!("of-{name}")));
        assert!(found.keys().eq(own.keys()));
        // The merged model's layers make the residual streams, and the norms are the same.
        let mut compared = 0;
        for part in ["q_proj", "k_proj", "v_proj", "lm_head"] {
            for (name, tensor) in some(&found, &[part]) {
                assert_eq!(tensor, &merged[name], "{name}: to the bit");
                compared += 1;
            }
        }
        assert!(compared > 9, "{compared}");
        // Before the first layer nothing differs from the model itself, and then everything.
        for (name, tensor) in some(&found, &["layers."]) {
            assert_eq!(tensor == &own[name], name.contains("layers.0."), "{name}");
        }
        // What is read inside of a layer comes of the model's own sublayers.
        assert!(some(&found, &["layers.1", "down_proj"]).all(|(name, tensor)| tensor != &merged[name]));
        let manifest = zoo.json(&format!("statistics/{name}/glue.json"));
        assert_eq!(manifest["calibration"]["measured_on"], "merged layers");
        assert_eq!(manifest["source"]["merge"]["models"], serde_json::json!(["models/math", "models/code"]));
        assert_eq!(manifest["inputs"][0]["model"], model);
    }
}

#[test]
fn equal_models_merge_to_themselves() {
    let zoo = place();
    zoo.copy(&zoo.path("models/math"), "models/twin");
    let config = |names: &[&str]| {
        let models = names.iter().map(|name| format!("- {{model: models/{name}, statistics: of-{name}}}\n"));
        format!("merge_method: regmean\nmodels:\n{}", models.collect::<String>())
    };
    for (names, data) in [
        (&["math"][..], &["--data", "math=arith"][..]),
        (&["math", "twin"], &["--data", "math=arith", "--data", "twin=order"]),
    ] {
        zoo.write("regmean.yml", config(names));
        calibrate(&zoo, &[&["--tasks", "tasks"], data].concat()).ok();
        let out = format!("merged-{}", names.len());
        zoo.glue(&["merge", "regmean.yml", &out, "--quiet"]).ok();
        assert_eq!(zoo.read(&out), zoo.read("models/math"), "{names:?}");
        std::fs::remove_dir_all(zoo.path("of-math")).expect("statistics");
    }
}

#[test]
fn threads_and_memory_change_no_byte_and_a_dry_run_writes_nothing() {
    let zoo = place();
    let shown = calibrate(&zoo, &[&DATA[..], &["--dry-run", "--json"]].concat()).json();
    let less = calibrate(&zoo, &[&DATA[..], &["--dry-run", "--json", "--max-memory", "50KB"]].concat()).json();
    assert!(!zoo.path("statistics").exists());
    assert_eq!(
        (&shown["passes"], &shown["streams_in_file"], &shown["seconds"]),
        (&1.into(), &false.into(), &Value::Null)
    );
    let number = |value: &Value| value.as_u64().expect("a number");
    assert!(number(&less["passes"]) > 1 && less["streams_in_file"] == true, "{less}");
    assert!(number(&less["memory_of_sums"]) < number(&shown["memory_of_sums"]), "{less} {shown}");
    assert!(number(&less["memory"]) < number(&shown["memory"]), "{less} {shown}");
    assert!(calibrate(&zoo, &[&DATA[..], &["--dry-run"]].concat()).ok().out.contains("residual streams"));

    let run = |args: &[&str]| {
        calibrate(&zoo, &[&DATA[..], args].concat()).ok();
        let found = ["math", "code"].map(|name| zoo.listing(&format!("statistics/{name}")));
        std::fs::remove_dir_all(zoo.path("statistics")).expect("statistics");
        found
    };
    let one = run(&["--threads", "1"]);
    let written: usize =
        one.iter().flatten().filter(|(name, _)| name.ends_with("tensors")).map(|(_, bytes)| bytes.len()).sum();
    let announced = number(&shown["bytes_written"]) as usize;
    assert!((announced..announced + announced / 10).contains(&written), "{written} {announced}");
    assert!(run(&["--threads", "3"]) == one);
    assert!(run(&["--threads", "2", "--max-memory", "50KB"]) == one);
}

#[test]
fn texts_of_each_model_are_read_without_tasks() {
    let zoo = place();
    zoo.write("math.txt", "ann has 21 books\nsam has 26 coins\n");
    zoo.write("all.txt", "the pan is too big\n");
    let report = calibrate(&zoo, &["--text", "all.txt", "--data", "math=math.txt", "--json"]).json();
    let texts = |model: usize| report["models"][model]["source"]["text"][0]["path"].clone();
    assert_eq!((texts(0), texts(1)), ("math.txt".into(), "all.txt".into()));
    assert_eq!((&report["models"][0]["sequences"], &report["models"][1]["sequences"]), (&2.into(), &1.into()));
    zoo.glue(&["merge", "regmean.yml", "merged", "--quiet"]).ok();
}

#[test]
fn configs_that_cannot_be_measured_are_refused_and_leave_nothing() {
    let zoo = place();
    let models = "models:\n- {model: models/math, statistics: a}\n- {model: models/code, statistics: b}\n";
    let refused = |name: &str, config: &str, args: &[&str], says: &[&str]| {
        zoo.write("regmean.yml", config);
        calibrate(&zoo, args).refused(name, 2, says);
        assert!(!zoo.path("a").exists() && !zoo.path("b").exists() && !zoo.path("statistics").exists(), "{name}");
    };
    let tasks = ["--tasks", "tasks"];
    let regmean = format!("merge_method: regmean\n{models}");
    refused(
        "another statistic",
        &format!("merge_method: fisher\n{models}"),
        &tasks,
        &["regmean.yml:1:15: `fisher`", "gram"],
    );
    let two = format!("{regmean}---\n{regmean}");
    refused("two documents", &two, &tasks, &["2 documents"]);
    refused(
        "no place",
        &regmean.replace(", statistics: b", ""),
        &tasks,
        &["regmean.yml:4:", "`models/code` has no `statistics`"],
    );
    refused(
        "one place",
        &regmean.replace(": b", ": a"),
        &tasks,
        &["regmean.yml:4:", "`models/math` and `models/code`", "`a`"],
    );
    let slices =
        "merge_method: regmean\nslices:\n- sources:\n  - {model: models/math, layer_range: [0, 2], statistics: a}\n";
    refused("slices", slices, &tasks, &["slices"]);
    refused("no model", &regmean.replace("models/code", "models/chess"), &tasks, &["models/chess", "hint:"]);
    refused(
        "data of no model",
        &regmean,
        &["--tasks", "tasks", "--data", "chess=arith"],
        &["`chess` is no model", "models/math"],
    );
    refused("no such task", &regmean, &["--tasks", "tasks", "--data", "math=chess"], &["chess"]);
    refused(
        "no data",
        &regmean,
        &["--data", "math=regmean.yml"],
        &["model models/code has no data", "hint:", "--data"],
    );
    refused("neither", &regmean, &[], &["--tasks"]);
    refused("data form", &regmean, &["--tasks", "tasks", "--data", "math"], &["MODEL=NAME"]);
    refused("both", &regmean, &["models/math", "--tasks", "tasks"], &["cannot be used with"]);
    refused("place and merge", &regmean, &["--out", "x", "--tasks", "tasks"], &["cannot be used with"]);
    zoo.write("c/file", "something");
    refused("taken", &regmean.replace(": b", ": c"), &tasks, &["c", "not empty", "hint:"]);
    let hidden = |name: &String| name.starts_with('.');
    assert!(!zoo.names("").iter().any(hidden), "{:?}", zoo.names(""));
}

/// A gate may send no token to an expert, which is a warning.
fn measured(run: Run) {
    let warned = run.err.lines().all(|line| line.starts_with("warning: no token came to"));
    assert!(run.status == Some(0) && warned, "{run:?}");
}

/// Experts are fitted like other matrices.
#[test]
fn experts_of_mixtures_are_merged_by_regression() {
    let zoo = place();
    for (out, experts) in [("one", ["math", "code"]), ("two", ["code", "math"])] {
        let experts = experts.map(|name| format!("{{source_model: models/{name}}}")).join(", ");
        zoo.write(
            "mix.yml",
            format!("base_model: base\ngate_mode: random\nexperts: [{experts}]\nexperts_per_token: 1\n"),
        );
        zoo.glue(&["mix", "mix.yml", out, "--quiet"]).ok();
    }
    let config =
        "merge_method: regmean\nmodels: [{model: one, statistics: of-one}, {model: two, statistics: of-two}]\n";
    zoo.write("regmean.yml", config);
    let tasks = ["--tasks", "tasks", "--limit", "6", "--quiet"];
    for (model, out) in [("one", "of-one"), ("two", "of-two")] {
        measured(zoo.glue(&[&["calibrate", model, "--out", out, "--what", "gram,activation"], &tasks[..]].concat()));
    }
    let mean = "merge_method: linear\nmodels: [{model: one}, {model: two}]\nparameters: {weight: 1}\n";
    zoo.merge(mean, "mean", &["--quiet"]).ok();
    let fitted_apart_from_means = |out: &str| {
        zoo.glue(&["merge", "regmean.yml", out, "--quiet"]).ok();
        let (fitted, mean, one) = (zoo.read(out), zoo.read("mean"), zoo.read("one"));
        let experts = some(&fitted, &["experts"]).map(|(name, tensor)| (tensor != &mean[name], tensor != &one[name]));
        let experts: Vec<(bool, bool)> = experts.collect();
        assert!(
            experts.len() >= 12 && experts.iter().filter(|apart| **apart == (true, true)).count() >= experts.len() - 2,
            "{experts:?}"
        );
    };
    fitted_apart_from_means("fitted");
    std::fs::remove_dir_all(zoo.path("of-one")).expect("statistics");
    std::fs::remove_dir_all(zoo.path("of-two")).expect("statistics");
    measured(calibrate(&zoo, &["--tasks", "tasks"]));
    fitted_apart_from_means("layer-by-layer");
}

#[test]
fn adapted_models_are_measured_like_written_ones() {
    let zoo = place();
    zoo.glue(&["extract-lora", "models/math", "models/code", "lora", "--rank", "2", "--quiet"]).ok();
    std::fs::remove_dir_all(zoo.path("models/code")).expect("a model");
    zoo.glue(&["merge", "--method", "passthrough", "--model", "models/math+lora", "models/code", "--quiet"]).ok();
    let weights = |out: &str| -> Vec<(String, Vec<u8>)> {
        zoo.listing(out).into_iter().filter(|(name, _)| name.ends_with("safetensors")).collect()
    };
    let one = |model: &str, out: &str| {
        zoo.glue(&["calibrate", model, "--out", out, "--tasks", "tasks", "--limit", "2", "--quiet"]).ok();
        weights(out)
    };
    assert!(one("models/math+lora", "of-adapted") == one("models/code", "of-written"));
    let input = &zoo.json("of-adapted/glue.json")["inputs"][0];
    assert!(input["adapter"].as_str().is_some_and(|path| path.ends_with("lora")), "{input}");
    let files = input["files"].as_array().expect("files");
    assert!(files.iter().any(|file| file["name"] == "adapter_config.json"), "{input}");

    let both = || {
        calibrate(&zoo, &["--tasks", "tasks", "--data", "math=arith"]).ok();
        let found = zoo.read("statistics/code");
        zoo.glue(&["merge", "regmean.yml", "merged", "--quiet"]).ok();
        std::fs::remove_dir_all(zoo.path("statistics")).expect("statistics");
        std::fs::remove_dir_all(zoo.path("merged")).expect("a model");
        found
    };
    let written = both();
    zoo.write("regmean.yml", CONFIG.replace("models/code,", "models/math+lora,"));
    let adapted = both();
    assert!(adapted.keys().eq(written.keys()));
    for (name, tensor) in &adapted {
        // Merged layers differ by the rounding of the written model.
        let (found, expected) = (tensor.values(), written[name].values());
        let size = expected.iter().fold(0.0f64, |size, x| size.max(x.abs()));
        let off = found.iter().zip(&expected).fold(0.0f64, |off, (x, y)| off.max((x - y).abs()));
        let limit = if name.contains("layers.0.") { 0.0 } else { 1e-2 * size };
        assert!(off <= limit, "{name}: {off} of {size}");
    }
}
