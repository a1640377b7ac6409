//! `glue calibrate` on the shipped zoo: its output, which does not depend on threads or passes, and its refusals.

use glue_tests::run::Run;
use glue_tests::{Tensors, Zoo, shipped};
use serde_json::Value;

/// A directory with a copy of the base model and the tasks of the zoo.
fn place() -> Zoo {
    let zoo = Zoo::empty();
    zoo.copy(&shipped().join("base-a"), "base");
    zoo.copy(&shipped().join("tasks"), "tasks");
    zoo
}

fn calibrate(zoo: &Zoo, out: &str, args: &[&str]) -> Run {
    zoo.glue(&[&["calibrate", "base", "--out", out, "--quiet"], args].concat())
}

fn values(tensors: &Tensors, name: &str) -> Vec<f64> {
    tensors.get(name).unwrap_or_else(|| panic!("{name} is missing")).values()
}

#[test]
fn statistics_of_items_are_a_checkpoint_with_a_manifest() {
    let zoo = place();
    let report = calibrate(&zoo, "out", &["--tasks", "tasks", "--limit", "4", "--json"]).json();
    let (model, found) = (zoo.read("base"), zoo.read("out"));
    assert_eq!((&report["sequences"], &report["passes"]), (&Value::from(20), &Value::from(1)));
    assert_eq!(report["tensors"], found.len());

    let mut expected = 0;
    for (name, weight) in &model {
        let fisher = &found[&format!("{name}.fisher")];
        assert_eq!((fisher.dtype.as_str(), &fisher.shape), ("F32", &weight.shape), "{name}");
        let fisher = fisher.values();
        assert!(fisher.iter().all(|&x| x >= 0.0) && fisher.iter().any(|&x| x > 0.0), "{name}");
        expected += 1;
        if weight.shape.len() < 2 || name.contains("embed_tokens") {
            continue;
        }
        expected += 2;
        let width = weight.shape[1];
        let (activation, gram) = (format!("{name}.activation"), format!("{name}.gram"));
        assert_eq!((&found[&activation].shape, &found[&gram].shape), (&vec![width], &vec![width, width]), "{name}");
        let (activation, gram) = (values(&found, &activation), values(&found, &gram));
        for i in 0..width {
            // The square of a mean is at most the mean of the squares; both are rounded to f32.
            assert!(activation[i].powi(2) <= gram[i * width + i] * (1.0 + 1e-5) + 1e-12, "{name} {i}");
            assert!(activation[i] > 0.0, "{name} {i}");
            assert!((0..i).all(|j| gram[i * width + j] == gram[j * width + i]), "{name} {i}");
        }
    }
    assert_eq!(found.len(), expected);
    let of = |part: &str| values(&found, &format!("model.layers.2.{part}.weight.gram"));
    assert!(of("self_attn.q_proj") == of("self_attn.v_proj") && of("mlp.gate_proj") == of("mlp.up_proj"));
    assert!(of("self_attn.q_proj") != of("mlp.up_proj"));

    let manifest = zoo.json("out/glue.json");
    assert_eq!(manifest["source"]["tasks"]["wino"], 4);
    assert_eq!((&manifest["source"]["split"], &manifest["source"]["limit"]), (&"train".into(), &Value::from(4)));
    assert_eq!(manifest["calibration"]["tokens"], report["tokens"]);
    assert_eq!(manifest["calibration"]["sequences"], 20);
    assert_eq!(manifest["inputs"][0]["model"], "base");
    assert!(manifest["inputs"][0]["files"].as_array().is_some_and(|files| files.len() >= 4));
}

#[test]
fn the_log_likelihood_is_that_of_an_evaluation() {
    let zoo = place();
    let tasks = ["--tasks", "tasks", "--task", "wino", "--split", "proxy", "--limit", "12"];
    let report = calibrate(&zoo, "out", &[&tasks[..], &["--what", "fisher", "--json"]].concat()).json();
    zoo.glue(&[&["eval", "base", "--samples", "items.jsonl", "--quiet"], &tasks[..]].concat()).ok();
    let items = String::from_utf8(zoo.bytes("items.jsonl")).expect("text");
    let of_item = |line: &str| {
        let item: Value = serde_json::from_str(line).expect("a record");
        let gold = item["target"][0].as_u64().expect("a choice") as usize;
        item["loglikelihoods"][gold].as_f64().expect("a number")
    };
    let all: Vec<f64> = items.lines().map(of_item).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    assert_eq!(all.len(), 12);
    // Batches are other ones, and logits are rounded in f32.
    assert!((report["log_likelihood"].as_f64().expect("a number") - mean).abs() < 1e-4, "{report} {mean}");
}

#[test]
fn threads_and_passes_change_no_byte() {
    let zoo = place();
    let args = ["--tasks", "tasks", "--limit", "3"];
    calibrate(&zoo, "one", &[&args[..], &["--threads", "1"]].concat()).ok();
    calibrate(&zoo, "three", &[&args[..], &["--threads", "3"]].concat()).ok();
    calibrate(&zoo, "less", &[&args[..], &["--threads", "2", "--max-memory", "500KB"]].concat()).ok();
    assert_eq!(zoo.listing("one"), zoo.listing("three"));
    assert_eq!(zoo.listing("one"), zoo.listing("less"));
    let passes = |args: &[&str]| {
        let shown =
            calibrate(&zoo, "no", &[&["--tasks", "tasks", "--limit", "3", "--dry-run", "--json"], args].concat());
        let shown = shown.json();
        (shown["passes"].as_u64().expect("a count"), shown["memory_of_sums"].as_u64().expect("bytes"))
    };
    let (one, less) = (passes(&[]), passes(&["--max-memory", "500KB"]));
    assert!(one.0 == 1 && less.0 > 3 && less.1 < one.1, "{one:?} {less:?}");
    assert!(!zoo.path("no").exists());
}

#[test]
fn texts_are_read_whole_and_what_is_gathered_can_be_chosen() {
    let zoo = place();
    zoo.write("text.txt", "ann has 21 books\n\nsam has 26 coins and gets 14 more\nThe pan is too big\n");
    let run = |out: &str, args: &[&str]| {
        calibrate(&zoo, out, &[&["--text", "text.txt", "--what", "activation,gram", "--json"], args].concat()).json()
    };
    let report = run("out", &[]);
    assert_eq!(report["sequences"], 3);
    // A text is scored from its first token on: what begins it is put before it.
    assert_eq!(report["tokens"], report["scored_tokens"]);
    assert_eq!(report["log_likelihood"], Value::Null);
    let names = zoo.read("out");
    assert!(names.keys().all(|name| name.ends_with(".activation") || name.ends_with(".gram")), "{names:?}");
    assert_eq!(zoo.json("out/glue.json")["source"]["text"][0]["texts"], 3);
    assert_eq!(run("first", &["--limit", "1"])["sequences"], 1);
    assert_eq!(run("short", &["--max-tokens", "1"])["tokens"], run("again", &["--limit", "1"])["tokens"]);
    let shown = calibrate(&zoo, "words", &["--text", "text.txt", "--dry-run"]).ok().out;
    assert!(shown.contains("activation, gram, fisher") && shown.contains("memory"), "{shown}");
}

#[test]
fn merges_take_what_is_written() {
    let zoo = place();
    zoo.copy(&shipped().join("a-math"), "math");
    for (model, out) in [("base", "of-base"), ("math", "of-math")] {
        zoo.glue(&["calibrate", model, "--out", out, "--quiet", "--tasks", "tasks", "--limit", "6"]).ok();
    }
    let both = "models:\n- {model: base, statistics: of-base}\n- {model: math, statistics: of-math}\n";
    for method in ["fisher", "regmean"] {
        zoo.merge(&format!("merge_method: {method}\n{both}"), method, &["--quiet"]).ok();
    }
    let aim = "merge_method: aim\nbase_model: base\nbase_statistics: of-base\nmodels:\n- {model: math}\n\
               parameters: {operator: task_arithmetic, weight: 1}\n";
    zoo.merge(aim, "aim", &["--quiet"]).ok();
    let [base, math] = ["base", "math"].map(|model| zoo.read(model));
    let weight = "model.layers.1.mlp.up_proj.weight";
    let of = |tensors: &Tensors| values(tensors, weight);
    let (first, second) = (of(&base), of(&math));
    let share = |merged: &str| -> Vec<f64> {
        let merged = of(&zoo.read(merged));
        let moved = first.iter().zip(&second).filter(|(first, second)| (*second - *first).abs() > 1e-2);
        assert!(moved.count() > 100);
        let all = first.iter().zip(&second).zip(&merged).filter(|((first, second), _)| (*second - *first).abs() > 1e-2);
        all.map(|((first, second), merged)| (merged - first) / (second - first)).collect()
    };
    // Weighted by what each model's items say, every element is between the two; the outputs are of 11 bits.
    let fisher = share("fisher");
    assert!(fisher.iter().all(|share| (-0.1..=1.1).contains(share)));
    assert!(fisher.iter().any(|&share| share < 0.3) && fisher.iter().any(|&share| share > 0.7));
    // Columns that the base uses most keep 0.4 of the difference, the others more.
    let aim = share("aim");
    assert!(aim.iter().all(|share| (0.3..=1.1).contains(share)) && aim.iter().any(|&share| share < 0.9));
    let regmean = share("regmean");
    assert!(regmean.iter().all(|share| share.is_finite()) && regmean != fisher);
}

#[test]
fn what_cannot_be_gathered_is_refused_and_leaves_nothing() {
    let zoo = place();
    let tasks = ["--tasks", "tasks", "--limit", "1"];
    let refused = |name: &str, args: &[&str], says: &[&str]| {
        let args = [&["calibrate"], args, &["--out", "out", "--quiet"]].concat();
        zoo.glue(&args).refused(name, 2, says);
        assert!(!zoo.path("out").exists(), "{name}");
    };
    refused("no model", &[&["absent"], &tasks[..]].concat(), &["absent"]);
    refused("no split", &["base", "--tasks", "tasks", "--split", "holiday"], &["holiday", "train"]);
    refused("no task", &["base", "--tasks", "tasks", "--task", "chess"], &["chess"]);
    refused("neither", &["base"], &["--tasks"]);
    refused("both", &["base", "--tasks", "tasks", "--text", "text.txt"], &["cannot be used with"]);
    refused("statistic", &["base", "--tasks", "tasks", "--what", "hessian"], &["hessian", "gram"]);
    refused("no text", &["base", "--text", "text.txt"], &["text.txt"]);
    zoo.write("empty.txt", "\n \n");
    refused("nothing in it", &["base", "--text", "empty.txt"], &["no sequences", "hint:"]);

    std::fs::remove_file(zoo.path("base/tokenizer.json")).expect("a file");
    let run = calibrate(&zoo, "out", &tasks);
    assert!(run.status == Some(1) && run.err.contains("tokenizer"), "{run:?}");
    assert!(!zoo.path("out").exists());
}

#[test]
fn mixtures_and_places_that_are_taken_are_refused() {
    let zoo = place();
    let mixture = "base_model: base\ngate_mode: random\nexperts: [{source_model: base}, {source_model: base}]\n";
    let tasks = ["--tasks", "tasks", "--limit", "1"];
    for (name, config, says) in [
        ("mixture", mixture.to_string(), ["fisher of a mixture of experts", "dense model", "--what activation,gram"]),
        ("native", format!("level: block\n{mixture}"), ["native format", "dense model", "that it was made from"]),
    ] {
        zoo.write("mix.yml", config);
        zoo.glue(&["mix", "mix.yml", name, "--quiet"]).ok();
        let run = zoo.glue(&[&["calibrate", name, "--out", "out", "--quiet"], &tasks[..]].concat());
        run.refused(name, 2, &[&says[..], &["hint:"]].concat());
    }
    let args = ["calibrate", "mixture", "--out", "out", "--what", "activation,gram", "--json", "--quiet"];
    let run = zoo.glue(&[&args[..], &tasks[..]].concat());
    // Two experts are used by every token.
    assert_eq!(run.ok().json()["idle_experts"], serde_json::json!([]));
    zoo.write("taken/file", "something");
    calibrate(&zoo, "taken", &tasks).refused("taken", 2, &["taken", "not empty", "hint:"]);
    assert_eq!(zoo.names("taken"), ["file"]);
    let hidden = |name: &String| name.starts_with('.');
    assert!(!zoo.names("").iter().any(hidden), "{:?}", zoo.names(""));
}

#[test]
fn methods_with_statistics_are_searched_like_others() {
    let zoo = Zoo::empty();
    const NAMES: [&str; 5] = ["chat", "math", "code", "reason", "noise"];
    for part in ["base-a", "tasks"] {
        zoo.copy(&shipped().join(part), part);
    }
    for name in NAMES {
        let (model, out) = (format!("a-{name}"), format!("of-{name}"));
        zoo.copy(&shipped().join(&model), &model);
        let args = ["calibrate", &model, "--out", &out, "--tasks", "tasks", "--limit", "2", "--quiet"];
        zoo.glue(&[&args[..], &["--what", "fisher,gram"]].concat()).ok();
    }
    let config = |space: &str| {
        format!(
            "models: [a-chat, a-math, a-code, a-reason, a-noise]\nbase: base-a\ntasks: [tasks]\nlimit: 50\nspace:\n{space}\
             strategies: [{{evolutionary: {{evaluations: 8, population: 4}}}}]\n"
        )
    };
    let methods = "  methods: [fisher, regmean]\n";
    let own = NAMES.map(|name| format!("a-{name}: of-{name}")).join(", ");
    zoo.write("search.yml", config(&format!("{methods}  statistics: {{{own}}}\n")));
    zoo.glue(&["search", "search.yml", "--out", "found"]).ok();
    // What the search depends on.
    let inputs = &zoo.json("found/search.json")["inputs"]["models"];
    assert!(["a-chat", "base-a", "of-chat", "of-math"].iter().all(|path| !inputs[path].is_null()), "{inputs}");
    // The optimiser gets the models that the filter left, and their statistics.
    let candidates = zoo.json("found/search.json")["candidates"].as_array().expect("candidates").clone();
    let searched: Vec<&Value> = candidates.iter().filter(|tried| tried["strategy"] == "evolutionary").collect();
    assert!(searched.iter().filter(|tried| tried["scores"].is_object()).count() >= 4, "{searched:?}");
    for tried in searched {
        let recipe = tried["recipe"].as_str().expect("a recipe");
        let models = recipe.matches("model: a-").count();
        let of = |name: &str| recipe.contains(&format!("model: a-{name}\n    statistics: of-{name}\n"));
        let with = NAMES.into_iter().filter(|name| of(name)).count();
        assert_eq!(with, if recipe.contains("fisher") || recipe.contains("regmean") { models } else { 0 }, "{recipe}");
        assert!(models < 5, "the noise was left out: {recipe}");
    }
    zoo.glue(&["merge", "found/best.yml", "again"]).ok();
    assert!(zoo.bytes("again/model.safetensors") == zoo.bytes("found/best/model.safetensors"));

    // Where the config names no methods, those that the statistics are for are among the usual ones.
    zoo.write("search.yml", config(&format!("  statistics: {{{own}}}\n")));
    let plan = zoo.glue(&["search", "search.yml", "--out", "planned", "--dry-run", "--json"]).json();
    let methods_of = |plan: &Value| -> Vec<String> {
        let spaces = plan["spaces"].as_array().cloned().unwrap_or_default();
        spaces.iter().filter_map(|space| Some(space["method"].as_str()?.to_string())).collect()
    };
    let usual = ["task_arithmetic", "ties", "dare_ties", "sce", "wudi", "tsv_m"];
    assert_eq!(methods_of(&plan), [&usual[..], &["fisher", "regmean"]].concat());

    let refused = |space: &str, says: &[&str]| {
        zoo.write("search.yml", config(space));
        zoo.glue(&["search", "search.yml", "--out", "refused"]).refused(space, 2, says);
    };
    refused(&format!("{methods}  statistics: {{a-chat: of-chat}}\n"), &["statistics.a-math", "glue calibrate a-math"]);
    let gone = own.replace("of-math", "nowhere");
    refused(&format!("{methods}  statistics: {{{gone}}}\n"), &["nowhere", "no such file or directory"]);
}
