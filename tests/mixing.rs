//! `glue mix` and `glue train-router` on the shipped zoo, and the commands that run mixtures.

use glue_tests::checkpoint::{self, Tensor};
use glue_tests::run::{Run, glue};
use glue_tests::{Zoo, shipped};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::Path;

/// Mixtures and their inputs. Paths in configs are relative to the zoo.
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

    fn mix(&self, description: &str, out: &str, args: &[&str]) -> Run {
        fs::write(self.path("mix.yml"), description).expect("a description");
        glue(&shipped(), [&["mix", &self.text("mix.yml"), &self.text(out), "--quiet"], args].concat())
    }

    fn train(&self, mixture: &str, args: &[&str]) -> Run {
        let mixture = self.text(mixture);
        glue(&shipped(), [&["train-router", &mixture, "--tasks", "tasks", "--quiet"], args].concat())
    }

    /// Logits of a model, by name within the place, or in the zoo.
    fn logits(&self, model: &str) -> Vec<f64> {
        let ids = self.path("ids.safetensors");
        if !ids.exists() {
            let ids_of = |row: i64| (0..9).map(move |i| (7 + 31 * row + 13 * i * i) % 380 + 3);
            let tensor = Tensor::i64(&[2, 9], ids_of(0).chain(ids_of(1)));
            fs::write(&ids, checkpoint::encode(&BTreeMap::from([("input_ids".to_string(), tensor)]))).expect("ids");
        }
        let out = self.text("logits.safetensors");
        let _ = fs::remove_file(&out);
        let model = if self.path(model).exists() { self.text(model) } else { model.to_string() };
        glue(&shipped(), ["logits", &model, "--ids", &self.text("ids.safetensors"), "--out", &out, "--quiet"]).ok();
        checkpoint::read(Path::new(&out))["logits"].values()
    }

    fn average(&self, model: &str, split: &str, limit: &str) -> f64 {
        let model = self.text(model);
        let args = ["eval", &model, "--tasks", "tasks", "--split", split, "--limit", limit, "--json", "--quiet"];
        glue(&shipped(), args).json()["average"].as_f64().expect("an average")
    }
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Files of a directory, by name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(directory).expect("a path within").display().to_string();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

#[test]
fn identical_experts_are_the_dense_model_and_so_is_no_mixed_layer() {
    let place = Place::new();
    let dense = place.logits("a-math");
    let check = |description: &str, out: &str| {
        place.mix(description, out, &[]).ok();
        let found = difference(&place.logits(out), &dense);
        // Sums of products in another order, over four layers, on logits of about ten.
        assert!(found < 1e-4, "{out}: {found}\n{description}");
    };
    let same = "experts: [{source_model: a-math}, {source_model: a-math}, {source_model: a-math}]\n";
    for level in ["ffn", "block", "model"] {
        for (routing, pools) in [("token", &["mean"][..]), ("sample", &["mean", "first", "last"])] {
            for pool in pools {
                for router in ["linear", "{kind: mlp, hidden_size: 5}"] {
                    let pool = if routing == "sample" { format!("pool: {pool}\n") } else { String::new() };
                    let head = format!(
                        "base_model: a-math\ngate_mode: random\nlevel: {level}\nrouting: {routing}\nrouter: {router}\ndense_layers: 1\n{pool}"
                    );
                    let out = format!(
                        "{level}-{routing}-{}-{}",
                        pool.trim().replace(": ", "-"),
                        &router[..4].replace('{', "k")
                    );
                    check(&format!("{head}experts_per_token: 2\n{same}"), &out);
                }
            }
        }
        let head = format!("base_model: a-math\ngate_mode: random\nlevel: {level}\n");
        let others = "experts: [{source_model: a-code}, {source_model: a-chat}]\n";
        check(&format!("{head}dense_layers: 4\n{others}"), &format!("{level}-dense"));
        check(&format!("{head}experts_per_token: 1\nexperts: [{{source_model: a-math}}]\n"), &format!("{level}-one"));
    }
}

#[test]
fn a_router_is_trained_and_nothing_else_changes() {
    let place = Place::new();
    let experts =
        "experts: [{source_model: a-chat}, {source_model: a-math}, {source_model: a-code}, {source_model: a-reason}]\n";
    let head = "base_model: a-math\ngate_mode: random\nlevel: model\nrouting: sample\nexperts_per_token: 1\n";
    place.mix(&format!("{head}{experts}"), "mixture", &[]).ok();
    let before = files(&place.path("mixture"));
    let given = ["facts=a-chat", "arith=a-math", "program=a-code", "order=a-reason", "wino=a-reason"];
    let mut args = vec!["--limit", "120", "--json"];
    given.iter().for_each(|pair| args.extend(["--expert", pair]));
    let report = place.train("mixture", &args).json();
    let accuracy = report["gates"][0]["accuracy"]["validation"].as_f64().expect("an accuracy");
    assert!(accuracy >= 0.97, "{accuracy}");
    let after = files(&place.path("mixture"));
    let changed: Vec<&String> =
        after.iter().filter(|(name, bytes)| before.get(*name) != Some(bytes)).map(|(n, _)| n).collect();
    assert_eq!(changed, ["README.md", "glue.json", "model-00002-of-00002.safetensors"]);
    let (old, new) = (checkpoint_of(&before), checkpoint_of(&after));
    let differing: Vec<&String> = old.keys().filter(|name| old[*name] != new[*name]).collect();
    assert_eq!(differing, ["model.gate.bias", "model.gate.weight"]);

    // What it is for: each task goes to the model that is best at it.
    let mixed = place.average("mixture", "test", "60");
    let best = ["a-chat", "a-math", "a-code", "a-reason"].map(|model| {
        let args = ["eval", model, "--tasks", "tasks", "--split", "test", "--limit", "60", "--json", "--quiet"];
        glue(&shipped(), args).json()["average"].as_f64().expect("an average")
    });
    assert!(best.iter().all(|&single| mixed > single + 0.1), "{mixed} and {best:?}");

    // The same again, from the same seed.
    place.mix(&format!("{head}{experts}"), "again", &[]).ok();
    place.train("again", &args).ok();
    let (a, b) = (files(&place.path("mixture")), files(&place.path("again")));
    // The model card names the directory.
    assert!(a.keys().eq(b.keys()) && a.keys().all(|name| a[name] == b[name] || name == "README.md"));
}

#[test]
fn gates_learn_from_the_loss_of_answers() {
    let place = Place::new();
    let description = "base_model: a-math\ngate_mode: uniform_random\nlevel: ffn\nexperts_per_token: 2\nexperts: [{source_model: a-math}, {source_model: a-code}, {source_model: a-reason}]\n";
    place.mix(description, "mixture", &[]).ok();
    let before = files(&place.path("mixture"));
    let report = place.train("mixture", &["--loss", "lm", "--limit", "10", "--epochs", "3", "--json"]).json();
    let start = report["start"].as_f64().or(report["start"]["validation"].as_f64()).expect("a loss");
    let epochs = report["epochs"].as_array().expect("epochs");
    let best = epochs.iter().filter_map(|epoch| epoch["validation"].as_f64()).fold(f64::INFINITY, f64::min);
    assert!(best < start, "{best} is not below {start}: {report}");
    let old = checkpoint_of(&before);
    let new = checkpoint_of(&files(&place.path("mixture")));
    assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
    for (name, bytes) in &old {
        let is_gate = name.ends_with("block_sparse_moe.gate.weight");
        assert_eq!(is_gate, new[name] != *bytes, "{name}: every gate changes, and nothing else");
    }
}

/// All tensors in the files of a model, as bytes.
fn checkpoint_of(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let mut tensors = BTreeMap::new();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (tensor, info) in header.as_object().expect("a header") {
            if let Some([from, to]) =
                info["data_offsets"].as_array().map(|all| [0, 1].map(|i| all[i].as_u64().expect("an offset") as usize))
            {
                tensors.insert(tensor.clone(), bytes[8 + length + from..8 + length + to].to_vec());
            }
        }
    }
    tensors
}

#[test]
fn whole_models_mix_whatever_their_vocabularies() {
    let place = Place::new();
    let description = "base_model: base-a\ngate_mode: random\nlevel: model\nwhole: true\nexperts: [{source_model: a-math}, {source_model: c-chat}]\n";
    place.mix(description, "mixture", &[]).ok();
    let args = [
        "--expert",
        "facts=c-chat",
        "--expert",
        "wino=c-chat",
        "--expert",
        "arith=a-math",
        "--expert",
        "order=a-math",
        "--expert",
        "program=a-math",
        "--limit",
        "100",
    ];
    place.train("mixture", &args).ok();
    let out = glue(
        &shipped(),
        ["eval", &place.text("mixture"), "--tasks", "tasks", "--split", "test", "--limit", "80", "--json", "--quiet"],
    )
    .json();
    for (task, expert) in [("wino", "c-chat"), ("arith", "a-math")] {
        let alone = glue(
            &shipped(),
            [
                "eval", expert, "--tasks", "tasks", "--task", task, "--split", "test", "--limit", "80", "--json",
                "--quiet",
            ],
        )
        .json();
        let metric = if task == "wino" { "acc" } else { "exact_match" };
        let (mixed, alone) = (&out["tasks"][task][metric], &alone["tasks"][task][metric]);
        let gap = mixed.as_f64().expect("a score") - alone.as_f64().expect("a score");
        // One item in eighty may go astray for every percent that routing is not perfect.
        assert!(gap.abs() <= 0.04, "{task}: {mixed} and {alone}");
    }
    let said = glue(
        &shipped(),
        [
            "generate",
            &place.text("mixture"),
            "--prompt",
            "ann has 21 books and gets 5 more. How many? A:",
            "--max-new-tokens",
            "4",
            "--quiet",
        ],
    )
    .ok()
    .out;
    assert!(!said.trim().is_empty());
    let inspected = glue(&shipped(), ["inspect", &place.text("mixture")]).ok().out;
    assert!(inspected.contains("a-math") && inspected.contains("c-chat"), "{inspected}");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let place = Place::new();
    let check = |description: &str, says: &[&str]| {
        place.mix(description, "out", &[]).refused(description, 2, says);
        assert!(!place.path("out").exists(), "{description}");
    };
    let head = "base_model: a-math\ngate_mode: random\n";
    check(&format!("{head}level: ffn\nexperts: [{{source_model: a-math}}, {{source_model: c-chat}}]\n"), &["c-chat"]);
    check(&format!("{head}level: block\nexperts: [{{source_model: a-math}}, {{source_model: c-chat}}]\n"), &["c-chat"]);
    check(
        &format!("{head}experts_per_token: 3\nexperts: [{{source_model: a-math}}, {{source_model: a-code}}]\n"),
        &["experts_per_token"],
    );
    check(
        "base_model: a-math\ngate_mode: hidden\nexperts: [{source_model: a-math}, {source_model: a-code}]\n",
        &["mix.yml:3:", "expert `a-math` has no `positive_prompts`", "`gate_mode: hidden`", "hint:", "--tasks"],
    );
    check(&format!("{head}levl: ffn\nexperts: [{{source_model: a-math}}]\n"), &["levl"]);
    check(&format!("{head}experts: []\n"), &["experts"]);

    // An expert without a tokenizer.
    let silent = place.path("silent");
    fs::create_dir(&silent).expect("a directory");
    for (name, bytes) in files(&shipped().join("a-code")) {
        if !name.starts_with("tokenizer") && !name.contains('/') {
            fs::write(silent.join(name), bytes).expect("a file");
        }
    }
    let text = place.text("silent");
    check(
        &format!("{head}level: model\nwhole: true\nexperts: [{{source_model: a-math}}, {{source_model: '{text}'}}]\n"),
        &["silent has no tokenizer, and with `whole` each expert reads text"],
    );

    // Tasks that are not needed, and an expert that no task wants.
    let two = "experts: [{source_model: a-math}, {source_model: a-code}]\n";
    fs::write(place.path("mix.yml"), format!("{head}{two}")).expect("a description");
    let mix = |args: &[&str]| glue(&shipped(), [&["mix", &place.text("mix.yml"), &place.text("out")], args].concat());
    mix(&["--tasks", "tasks"]).refused("tasks", 2, &["--tasks provides prompts", "`gate_mode: random`"]);
    fs::write(place.path("mix.yml"), format!("base_model: a-math\n{two}")).expect("a description");
    let args = ["--tasks", "tasks/arith", "--expert", "math=a-math"];
    let says = ["expert `a-code` has no prompts, and no task is its own: arith goes to `a-math`", "hint:", "--expert"];
    mix(&args).refused("no task", 2, &says);
    mix(&["--tasks", "tasks/arith", "--expert", "math=nobody"]).refused("nobody", 2, &["`nobody`", "a-math, a-code"]);
    mix(&["--tasks", "nowhere"]).refused("nowhere", 2, &["nowhere"]);
    assert!(!place.path("out").exists());

    // A gate that is missing, by its name.
    place
        .mix(
            &format!("{head}level: block\nexperts: [{{source_model: a-math}}, {{source_model: a-code}}]\n"),
            "mixture",
            &[],
        )
        .ok();
    for (name, bytes) in files(&place.path("mixture")) {
        // Names of the same length, so that the rest of the files stays sound.
        let (from, to) = (b"model.layers.2.gate.weight", b"model.layers.2.gtae.weight");
        if let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
            let mut renamed = bytes.clone();
            renamed[at..at + to.len()].copy_from_slice(to);
            fs::write(place.path("mixture").join(&name), renamed).expect("a file");
        }
    }
    let mixture = place.text("mixture");
    let run = glue(&shipped(), ["eval", &mixture, "--tasks", "tasks", "--limit", "1"]);
    run.refused("eval", 1, &["`model.layers.2.gate.weight`"]);
    let run = glue(&shipped(), ["train-router", &mixture, "--tasks", "tasks", "--limit", "5"]);
    run.refused("train-router", 2, &["gate tensor `model.layers.2.gate.weight` is missing"]);
}

/// Prompts of the train items of a task, as they are asked.
fn contexts(task: &str) -> Vec<String> {
    let text = fs::read_to_string(shipped().join("tasks").join(task).join("train.jsonl")).expect("items");
    let prompt = |line: &str| {
        let item: Value = serde_json::from_str(line).expect("an item");
        item["context"].as_str().or(item["query"].as_str()).expect("a context").trim_end().to_string()
    };
    text.lines().map(prompt).collect()
}

#[test]
fn prompts_come_from_the_items_of_tasks() {
    let place = Place::new();
    let description = "base_model: base-a\ngate_mode: hidden_avg\nlevel: model\nrouting: sample\nexperts_per_token: 1\ndense_layers: 2\n\
                       tasks: [tasks/arith, tasks/facts, tasks/program, tasks/order]\nexperts:\n- {source_model: a-chat}\n\
                       - {source_model: a-math}\n- {source_model: a-code}\n- {source_model: a-reason, name: thinker, skills: reason}\n";
    let dry = place.mix(description, "mixture", &["--dry-run"]).ok().out;
    assert!(dry.contains("prompts for a-chat, a-math, a-code, thinker will come from items of"), "{dry}");
    let report = place.mix(description, "mixture", &["--prompts", "20", "--limit", "60", "--json"]).json();
    let notes: Vec<&str> = report["notes"].as_array().expect("notes").iter().filter_map(Value::as_str).collect();
    // Unassigned tasks go to the expert with the lowest loss.
    for (expert, task) in [("a-chat", "facts"), ("a-math", "arith"), ("a-code", "program"), ("thinker", "order")] {
        let note = format!("the prompts of expert `{expert}` come from items of {task} (split train): 20");
        assert!(notes.contains(&note.as_str()), "{note}: {notes:?}");
    }
    assert_eq!(report["conditions"].as_array().map(Vec::len), Some(1));
    let manifest: Value =
        serde_json::from_slice(&fs::read(place.path("mixture/glue.json")).expect("a manifest")).expect("JSON");
    let list = |expert: &str, kind: &str| -> Vec<String> {
        let list = manifest["mixture"]["prompts"][expert][kind].as_array().expect("prompts");
        list.iter().map(|prompt| prompt.as_str().expect("a text").to_string()).collect()
    };
    let (own, others) = (contexts("arith"), [contexts("facts"), contexts("program"), contexts("order")].concat());
    let (positive, negative) = (list("a-math", "positive"), list("a-math", "negative"));
    assert_eq!((positive.len(), negative.len()), (20, 20));
    assert!(positive.iter().all(|prompt| own.contains(prompt)), "{positive:?}");
    assert!(negative.iter().all(|prompt| others.contains(prompt)), "{negative:?}");

    // The same prompts in the config give the same gates, and so do options in place of config keys.
    let quoted = |expert: &str| {
        let of = |kind| serde_json::to_string(&list(expert, kind)).expect("JSON");
        format!("positive_prompts: {}, negative_prompts: {}", of("positive"), of("negative"))
    };
    let mut by_hand =
        description.lines().filter(|line| !line.starts_with("tasks:")).collect::<Vec<_>>().join("\n") + "\n";
    by_hand = by_hand.replace(", skills: reason", "");
    for (model, expert) in [("a-chat", "a-chat"), ("a-math", "a-math"), ("a-code", "a-code"), ("a-reason", "thinker")] {
        by_hand =
            by_hand.replace(&format!("source_model: {model}"), &format!("source_model: {model}, {}", quoted(expert)));
    }
    place.mix(&by_hand, "by-hand", &[]).ok();
    let gates = |name: &str| checkpoint_of(&files(&place.path(name)))["model.gate.weight"].clone();
    assert_eq!(gates("mixture"), gates("by-hand"));
    let bare = by_hand.lines().filter(|line| !line.starts_with("- ")).collect::<Vec<_>>().join("\n");
    let bare = format!(
        "{bare}\n- source_model: a-chat\n- source_model: a-math\n- source_model: a-code\n- {{source_model: a-reason, name: thinker}}\n"
    );
    let mut args = vec!["--prompts", "20", "--limit", "60", "--expert", "reason=thinker", "--tasks"];
    args.extend(["tasks/arith", "tasks/facts", "tasks/program", "tasks/order"]);
    place.mix(&bare, "flags", &args).ok();
    assert_eq!(gates("mixture"), gates("flags"));

    // Without any training most items find their expert.
    let report = glue(
        &shipped(),
        ["eval", &place.text("mixture"), "--tasks", "tasks", "--split", "test", "--limit", "40", "--json", "--quiet"],
    )
    .json();
    for (task, expert) in [("facts", 0), ("arith", 1), ("program", 2), ("order", 3)] {
        let share = &report["routing"]["tasks"][task]["shares"][expert];
        assert!(share.as_f64().expect("a share") > 0.8, "{task}: {}", report["routing"]["tasks"][task]);
    }
}

#[test]
fn gates_that_tell_experts_apart_badly_are_warned_of_with_the_number() {
    let place = Place::new();
    // The same again and again: the means of five and of six differ by the share of the first token alone.
    let long = "leo has 15 shells and gets 15 more. How many? A: ".repeat(5);
    let description = format!(
        "base_model: base-a\ngate_mode: hidden_avg\nexperts:\n- {{source_model: a-math, positive_prompts: [\"{long}\"]}}\n\
         - {{source_model: a-code, positive_prompts: [\"{long}leo has 15 shells and gets 15 more. How many? A: \"]}}\n"
    );
    let report = place.mix(&description, "mixture", &["--json"]).json();
    let conditions: Vec<f64> =
        report["conditions"].as_array().expect("conditions").iter().filter_map(Value::as_f64).collect();
    assert_eq!(conditions.len(), 4);
    let notes: Vec<&str> = report["notes"].as_array().expect("notes").iter().filter_map(Value::as_str).collect();
    for (gate, condition) in conditions.iter().enumerate() {
        let note = format!("gate {gate} is ill-conditioned: its condition number is {condition:.3e}");
        assert_eq!(*condition > 100.0, notes.iter().any(|other| other.starts_with(&note)), "{note}: {notes:?}");
    }
    assert!(conditions[0] > 100.0, "{conditions:?}");
    // Rows of unit length at an angle of α: √((1 + cos α)/(1 − cos α)).
    let tensors = checkpoint::read(&place.path("mixture"));
    let weight = tensors["model.layers.0.block_sparse_moe.gate.weight"].values();
    let (a, b) = weight.split_at(weight.len() / 2);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let sum: Vec<f64> = a.iter().zip(b).map(|(a, b)| a + b).collect();
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let expected = (dot(&sum, &sum) / dot(&difference, &difference)).sqrt();
    // Gates are stored in f16: each row is off by some 3e-4, and their difference is ten times that or more.
    assert!((conditions[0] / expected - 1.0).abs() < 0.2, "{} {expected}", conditions[0]);
}

#[test]
fn what_experts_did_is_shown_as_table_json_and_pictures() {
    let place = Place::new();
    let description = "base_model: a-math\ngate_mode: random\nlevel: block\nrouting: sample\nexperts_per_token: 1\ndense_layers: 2\n\
                       experts: [{source_model: a-math}, {source_model: a-code}]\n";
    place.mix(description, "mixture", &[]).ok();
    let pictures = place.text("pictures");
    let mixture = place.text("mixture");
    let eval = |args: &[&str]| {
        let all = ["eval", &mixture, "--tasks", "tasks", "--split", "test", "--limit", "6", "--pictures", &pictures];
        glue(&shipped(), [&all, args].concat())
    };
    let report = eval(&["--json", "--quiet"]).json();
    let routing = &report["routing"];
    assert_eq!(routing["experts"], serde_json::json!(["a-math", "a-code"]));
    assert_eq!(
        (&routing["tasks"]["arith"]["skill"], &routing["tasks"]["wino"]["skill"]),
        (&"math".into(), &"reason".into())
    );
    let confusion = &routing["confusion"];
    assert_eq!(confusion["rows"], "skill");
    // Two gates, six items; two tasks take reason.
    for (skill, decisions) in [("math", 12.0), ("knowledge", 12.0), ("code", 12.0), ("reason", 24.0)] {
        let counts: Vec<f64> =
            confusion["counts"][skill].as_array().expect("counts").iter().filter_map(Value::as_f64).collect();
        assert_eq!(counts.iter().sum::<f64>(), decisions, "{skill}: {confusion}");
    }
    let load: f64 = confusion["load"].as_array().expect("a load").iter().filter_map(Value::as_f64).sum();
    // Rounding of two quotients.
    assert!((load - 1.0).abs() < 1e-12);

    let names: Vec<String> = files(&place.path("pictures")).into_keys().collect();
    let expected =
        ["experts", "layer-2", "layer-3"].map(|name| ["skill", "task"].map(|rows| format!("{name}.{rows}.svg")));
    assert_eq!(names, expected.concat());
    let svg = fs::read_to_string(place.path("pictures/experts.skill.svg")).expect("a picture");
    assert!(svg.starts_with("<svg ") && svg.contains(">Experts chosen by skill</title>"), "{svg}");
    for skill in ["math", "knowledge", "code", "reason"] {
        let counts = &confusion["counts"][skill];
        let (a, b) = (counts[0].as_f64().expect("a count"), counts[1].as_f64().expect("a count"));
        assert!(svg.contains(&format!(">{skill}<")), "{skill}");
        assert!(svg.contains(&format!(">{:.0} %<", 100.0 * a / (a + b))), "{skill}: {counts}");
    }
    let text = eval(&["--quiet"]).ok().out;
    assert!(text.contains("EXPERTS BY TASK") && text.contains("EXPERTS BY SKILL"), "{text}");
    let share = 100.0 * routing["tasks"]["facts"]["shares"][0].as_f64().expect("a share");
    let row = text.lines().rfind(|line| line.starts_with("facts ")).expect("a row");
    assert!(row.contains(&format!("{share:.1} %")), "{row}");
    let dense = glue(&shipped(), ["eval", "a-math", "--tasks", "tasks", "--limit", "1", "--pictures", &pictures]);
    dense.refused("dense", 2, &["a-math has no experts"]);
}

/// Models with adapters are mixed as the merged models are: the gates, whose prompts they read, included.
#[test]
fn models_with_adapters_are_experts_and_base() {
    let place = Place::new();
    let adapter = |model: &str| {
        let out = place.text(&format!("{model}-adapter"));
        glue(&shipped(), ["extract-lora", "base-a", model, &out, "--rank", "3", "--quiet"]).ok();
        format!("base-a+{out}")
    };
    let (math, code) = (adapter("a-math"), adapter("a-code"));
    let written = |adapted: &str, out: &str| {
        let config = format!("merge_method: passthrough\nmodels: [{{model: {adapted}}}]\n");
        fs::write(place.path("merge.yml"), config).expect("a config");
        glue(&shipped(), ["merge", &place.text("merge.yml"), &place.text(out), "--quiet"]).ok();
        place.text(out)
    };
    let (plain_math, plain_code) = (written(&math, "math"), written(&code, "code"));
    let describe = |base: &str, math: &str, code: &str| {
        format!(
            "base_model: {base}\ngate_mode: hidden\nexperts_per_token: 1\nexperts:\n\
             - {{source_model: {math}, name: math, positive_prompts: [\"1 + 1\"]}}\n\
             - {{source_model: {code}, name: code, positive_prompts: [\"def\"]}}\n"
        )
    };
    let weights = |mixture: &str| checkpoint::read(&place.path(mixture));
    place.mix(&describe(&plain_math, &plain_math, &plain_code), "expected", &[]).ok();
    let before = place.names("");
    let description = describe(&math, &math, &code);
    let note = place.mix(&description, "found", &["--dry-run"]).ok().out;
    assert!(note.contains("will be written to") && note.contains("found.models"), "{note}");
    assert_eq!(place.names(""), before, "a dry run writes nothing");
    place.mix(&description, "found", &[]).ok();
    assert!(weights("found") == weights("expected"));
    let manifest = place.json("found/glue.json");
    assert_eq!(manifest["inputs"][0]["model"], math);
    assert_eq!(manifest["inputs"][0]["made_from"][0]["model"], math);
    assert!(manifest["inputs"][0]["made_from"][0]["adapter"].is_string(), "{manifest:#}");
    let card = String::from_utf8(place.bytes("found/README.md")).expect("text");
    assert!(card.contains(&format!("`{code}`")) && !card.contains("found.models"), "{card}");
    let directories: Vec<String> = place.names("found.models").into_iter().filter(|name| name.ends_with('/')).collect();
    assert_eq!(directories, ["base-a+a-code-adapter/", "base-a+a-math-adapter/"]);

    // Another mixture uses them again; another adapter of the name is another model.
    let modified = |name: &str| fs::metadata(place.path(name)).and_then(|file| file.modified()).expect("a file");
    let [one, two] = ["math", "code"].map(|name| format!("found.models/base-a+a-{name}-adapter/model.safetensors"));
    let times = (modified(&one), modified(&two));
    fs::remove_dir_all(place.path("a-code-adapter")).expect("a directory that was just made");
    glue(&shipped(), ["extract-lora", "base-a", "a-code", &place.text("a-code-adapter"), "--rank", "2", "--quiet"])
        .ok();
    place.mix(&description, "again", &["--work-dir", &place.text("found.models")]).ok();
    assert_eq!(modified(&one), times.0);
    assert_ne!(modified(&two), times.1);
    assert!(weights("again") != weights("expected"));
}
