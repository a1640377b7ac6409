//! `glue mix` and `glue train-router` on the shipped zoo, and what runs on their mixtures.

use glue_tests::checkpoint::{self, Tensor};
use glue_tests::run::{Run, glue};
use glue_tests::shipped;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Mixtures and what goes into them. Paths in descriptions are relative to the zoo.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
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
    // The gate got a bias, so that it has moved to a file of its own.
    assert!(changed.iter().all(|name| name.contains("gates") || name.ends_with(".index.json")), "{changed:?}");
    assert!(!changed.is_empty());

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
    let gates: Vec<&String> = a.keys().filter(|name| name.contains("gates")).collect();
    assert!(!gates.is_empty() && gates.iter().all(|name| a[*name] == b[*name]));
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
        &["positive_prompts"],
    );
    check(&format!("{head}levl: ffn\nexperts: [{{source_model: a-math}}]\n"), &["levl"]);
    check(&format!("{head}experts: []\n"), &["experts"]);

    // A gate that is missing, in words.
    place
        .mix(
            &format!("{head}level: block\nexperts: [{{source_model: a-math}}, {{source_model: a-code}}]\n"),
            "mixture",
            &[],
        )
        .ok();
    for (name, bytes) in files(&place.path("mixture")) {
        if name.ends_with(".index.json") {
            let text = String::from_utf8(bytes)
                .expect("text")
                .replace("model.layers.2.gate.weight", "model.layers.2.gte.weight");
            fs::write(place.path("mixture").join(&name), text).expect("an index");
        }
    }
    let run = glue(&shipped(), ["eval", &place.text("mixture"), "--tasks", "tasks", "--limit", "1"]);
    assert!(run.err.contains("gate") || run.err.contains("gte"), "{}", run.err);
}
