//! `glue similarity`, `glue cluster`, `glue inspect` of several models, and `glue align`, on the shipped zoo.

use glue_tests::checkpoint::{self, Tensors};
use glue_tests::run::{Run, glue};
use glue_tests::{Zoo, shipped};
use serde_json::{Value, json};
use std::fs;

const MODELS: [&str; 10] =
    ["a-chat", "a-code", "a-math", "a-noise", "a-reason", "b-code", "b-math", "base-a", "base-b", "c-chat"];

fn compare(args: &[&str]) -> Run {
    glue(&shipped(), [&args[..1], &MODELS, &args[1..]].concat())
}

fn reference() -> Value {
    checkpoint::json_file(&shipped().join("reference/similarity.json"))
}

#[test]
fn similarities_agree_with_the_reference() {
    let reference = reference();
    assert_eq!(reference["models"], json!(MODELS));
    for (name, args) in [
        ("cosine_per_column", &["similarity", "--json"][..]),
        ("cosine_per_column_mlp", &["similarity", "--class", "mlp", "--json"]),
        ("cosine_flat", &["similarity", "--metric", "cosine_flat", "--json"]),
        (
            "delta_cosine_flat_from_base-a",
            &["similarity", "--metric", "delta_cosine_flat", "--base", "base-a", "--json"],
        ),
        ("l2_distance", &["similarity", "--metric", "l2_distance", "--json"]),
    ] {
        let report = compare(args).json();
        assert_eq!(report["models"], json!(MODELS));
        let (found, expected) = (&report["matrix"], &reference["metrics"][name]);
        for i in 0..MODELS.len() {
            for j in 0..MODELS.len() {
                let (found, expected) = (&found[i][j], &expected[i][j]);
                match (found.as_f64(), expected.as_f64()) {
                    // Sums in another order: relative for the distances, which reach 90.
                    (Some(a), Some(b)) => assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{name} {i} {j}: {a} {b}"),
                    (None, None) => {}
                    // The reference leaves out deltas of one family from the base of the other, which are well defined.
                    (Some(_), None) if name.starts_with("delta") => {}
                    _ => panic!("{name} {i} {j}: {found} {expected}"),
                }
            }
        }
    }
}

#[test]
fn the_families_are_the_clusters() {
    let report = compare(&["cluster", "--json", "--sweep"]).json();
    let families = json!([
        ["a-chat", "a-code", "a-math", "a-noise", "a-reason", "base-a"],
        ["b-code", "b-math", "base-b"],
        ["c-chat"],
    ]);
    let sorted = |clusters: &Value| {
        let mut clusters: Vec<Vec<String>> = serde_json::from_value(clusters.clone()).expect("lists of names");
        clusters.iter_mut().for_each(|cluster| cluster.sort());
        clusters.sort();
        json!(clusters)
    };
    assert_eq!((sorted(&report["clusters"]), &report["threshold"]), (families.clone(), &json!(0.95)));
    let levels = report["sweep"].as_array().expect("levels");
    assert!(levels.iter().any(|level| sorted(&level["clusters"]) == families), "{levels:?}");
    for method in ["single", "complete", "average"] {
        let report = compare(&["cluster", "--method", method, "--json"]).json();
        assert_eq!(sorted(&report["clusters"]), families, "{method}");
    }
    let text = compare(&["cluster"]).ok().out;
    assert!(text.contains("b-code, b-math, base-b"), "{text}");
}

#[test]
fn figures_can_be_kept_and_drawn() {
    let zoo = Zoo::empty();
    let path = |name: &str| zoo.path(name).display().to_string();
    let report =
        compare(&["similarity", "--json", "--heatmap", &path("heat.svg"), "--csv", &path("m.csv"), "--per-layer"]);
    zoo.write("matrix.json", report.ok().out);
    let csv = String::from_utf8(zoo.bytes("m.csv")).expect("text");
    assert_eq!(csv.lines().count(), 11);
    let per_layer = zoo.json("matrix.json")["per_layer"].as_array().map(Vec::len);
    assert_eq!(per_layer, Some(12), "attention, MLP, and both, of four layers");
    let kept = zoo.glue(&["cluster", "--matrix", "matrix.json", "--dendrogram", "tree.svg", "--json"]).json();
    assert_eq!(kept["clusters"], compare(&["cluster", "--json"]).json()["clusters"]);
    for name in ["heat.svg", "tree.svg"] {
        let svg = String::from_utf8(zoo.bytes(name)).expect("text");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("c-chat"), "{name}");
    }
    let sampled = compare(&["similarity", "--sample", "0.2", "--seed", "3", "--json"]).json();
    assert!(sampled["bytes_read"].as_u64() < sampled["bytes_selected"].as_u64());
    let error = sampled["standard_errors"][0][1].as_f64().expect("an error");
    let full = reference()["metrics"]["cosine_per_column"][0][1].as_f64().expect("a figure");
    let found = sampled["matrix"][0][1].as_f64().expect("a figure");
    assert!(error > 0.0 && (found - full).abs() < 6.0 * error, "{found} {full} ±{error}");
}

#[test]
fn what_can_be_merged_is_told_from_headers() {
    let report = compare(&["inspect", "--json"]).json();
    let groups = report["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 2, "the two families have the same shapes: {groups:?}");
    let pair = |a: usize, b: usize| {
        let pairs = report["pairs"].as_array().expect("pairs").iter();
        pairs.clone().find(|pair| pair["first"] == a && pair["second"] == b).expect("a pair").clone()
    };
    assert_eq!(pair(0, 5)["verdict"], "mergeable");
    assert_eq!(pair(0, 9)["verdict"], "mixture-only");
    assert!(!pair(0, 9)["reasons"].as_array().expect("reasons").is_empty());
    let text = compare(&["inspect"]).ok().out;
    assert!(text.contains("mixture only") && text.contains("a-chat and c-chat"), "{text}");
}

/// Bytes of an element of the zoo's weights.
const SIZE: usize = 2;

/// Puts blocks of `length` rows of a matrix in the order of `from`.
fn rows(tensors: &mut Tensors, name: &str, from: &[usize], length: usize) {
    let tensor = tensors.get_mut(name).expect("a tensor");
    let block = length * tensor.shape[1] * SIZE;
    tensor.data = from.iter().flat_map(|&f| tensor.data[f * block..(f + 1) * block].to_vec()).collect();
}

/// The same with columns.
fn columns(tensors: &mut Tensors, name: &str, from: &[usize], length: usize) {
    let tensor = tensors.get_mut(name).expect("a tensor");
    let (row, block) = (tensor.shape[1] * SIZE, length * SIZE);
    let permuted =
        |row: &[u8]| from.iter().flat_map(|&f| row[f * block..(f + 1) * block].to_vec()).collect::<Vec<u8>>();
    tensor.data = tensor.data.chunks(row).flat_map(permuted).collect();
}

/// A copy of `base-a` whose neurons and heads stand in another order.
fn permuted(zoo: &Zoo) {
    zoo.copy(&shipped().join("base-a"), "permuted");
    zoo.edit("permuted", |tensors| {
        for layer in 0..4 {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            // 37 and 256 have no common divisor, so that every neuron has one place.
            let neurons: Vec<usize> = (0..256).map(|i| (37 * i + 11 + layer) % 256).collect();
            rows(tensors, &name("mlp.gate_proj"), &neurons, 1);
            rows(tensors, &name("mlp.up_proj"), &neurons, 1);
            columns(tensors, &name("mlp.down_proj"), &neurons, 1);
            // Two heads of keys and values with two of queries each, 32 wide.
            rows(tensors, &name("self_attn.k_proj"), &[1, 0], 32);
            rows(tensors, &name("self_attn.v_proj"), &[1, 0], 32);
            rows(tensors, &name("self_attn.q_proj"), &[3, 2, 0, 1], 32);
            columns(tensors, &name("self_attn.o_proj"), &[3, 2, 0, 1], 32);
        }
    });
}

#[test]
fn a_permuted_model_computes_the_same_and_finds_back() {
    let zoo = Zoo::empty();
    let original = shipped().join("base-a");
    permuted(&zoo);
    let ids: Tensors =
        [("input_ids".to_owned(), checkpoint::Tensor::i64(&[2, 20], (0..40).map(|i| 3 + i * 11 % 500)))].into();
    zoo.write("ids", checkpoint::encode(&ids));
    let original = original.display().to_string();
    let logits = |model: &str| {
        zoo.glue(&["logits", model, "--ids", "ids", "--out", "logits"]).ok();
        checkpoint::read(&zoo.path("logits"))["logits"].values()
    };
    let worst = logits(&original).iter().zip(logits("permuted")).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // Sums in another order.
    assert!(worst < 1e-4, "{worst}");

    let average = "merge_method: linear\nparameters: {weight: 1}\ndtype: float16\n";
    let merge = |model: &str, out: &str| {
        zoo.merge(&format!("{average}models: [{{model: {original}}}, {{model: {model}}}]\n"), out, &[]).ok();
        zoo.read(out)
    };
    let report = zoo.glue(&["align", &original, "permuted", "aligned", "--kinds", "neurons,heads", "--json"]).json();
    assert_eq!(
        (&report["converged"], report["cosine_after"].as_f64().map(|c| c > 0.999_999)),
        (&json!(true), Some(true))
    );
    let reference = checkpoint::read(&shipped().join("base-a"));
    assert!(zoo.read("aligned") == reference, "the permutation is recovered exactly");
    assert!(merge("permuted", "mixed") != reference);
    assert!(merge("aligned", "merged") == reference, "the average with the original is the original");
    assert!(zoo.path("aligned/tokenizer.json").exists() && zoo.path("aligned/alignment.json").exists());

    let dry = zoo.glue(&["align", &original, "permuted", "other", "--dry-run"]).ok().out;
    assert!(dry.contains("neurons") && !zoo.path("other").exists(), "{dry}");
    let c_chat = shipped().join("c-chat").display().to_string();
    zoo.glue(&["align", &original, &c_chat, "other"]).refused("shapes", 2, &["same shapes"]);
    assert!(!zoo.path("other").exists());
}

/// The first questions of each task, one on a line.
fn calibration(of_each: usize) -> String {
    let mut text = String::new();
    for task in ["arith", "facts", "order", "program", "wino"] {
        let path = shipped().join("tasks").join(task).join("train.jsonl");
        for line in fs::read_to_string(path).expect("a task").lines().take(of_each) {
            let item: Value = serde_json::from_str(line).expect("an item");
            text += item["context"].as_str().expect("a context");
            text += "\n\n";
        }
    }
    text
}

#[test]
fn a_permuted_model_finds_back_by_what_it_computes() {
    let zoo = Zoo::empty();
    let original = shipped().join("base-a").display().to_string();
    permuted(&zoo);
    zoo.write("text", calibration(40));
    let by = ["--method", "activations", "--text", "text"];
    let align =
        |model: &str, out: &str, more: &[&str]| zoo.glue(&[&["align", &original, model, out], &by[..], more].concat());
    let reference = checkpoint::read(&shipped().join("base-a"));
    for (out, more) in [("layers", &["--kinds", "neurons,heads", "--json"][..]), ("all", &["--json"])] {
        let report = align("permuted", out, more).json();
        let figure = |key: &str| report[key].as_f64().expect("a figure");
        assert!(zoo.read(out) == reference, "{out}: the permutation is recovered exactly");
        // Units of the one are units of the other, up to the order of sums.
        assert!(figure("correlation_after") > 0.99 && figure("correlation_before") < 0.9, "{report}");
        assert_eq!((&report["method"], report["tokens"].as_u64() > Some(1000)), (&json!("activations"), true));
    }
    // Nothing depends on the number of threads.
    let other = shipped().join("base-b").display().to_string();
    align(&other, "one", &["--threads", "1"]).ok();
    let said = align(&other, "two", &["--threads", "2"]).ok().out;
    assert!(zoo.read("one") == zoo.read("two"));
    assert!(said.contains("correlation of matched units"), "{said}");

    zoo.glue(&["align", &original, "permuted", "out", "--method", "activations"]).refused("no text", 2, &["--text"]);
    zoo.glue(&["align", &original, "permuted", "out", "--text", "text"]).refused(
        "no use",
        2,
        &["--method activations"],
    );
    zoo.write("empty", "\n");
    let of = |file: &str| zoo.glue(&["align", &original, "permuted", "out", "--method", "activations", "--text", file]);
    of("empty").refused("no tokens", 2, &["two tokens"]);
    of("nowhere").refused("no file", 2, &["nowhere"]);
    assert!(!zoo.path("out").exists());
}

#[test]
fn comparisons_that_mean_nothing_are_refused() {
    let zoo = Zoo::empty();
    let a = shipped().join("base-a").display().to_string();
    let check = |args: &[&str], says: &[&str]| {
        zoo.glue(args).refused(&format!("{args:?}"), 2, says);
    };
    check(&["similarity"], &["MODELS"]);
    check(&["similarity", "nowhere"], &["nowhere"]);
    check(&["similarity", &a, &a], &["two models"]);
    check(&["similarity", &a, "--metric", "euclid"], &["euclid", "cosine_flat"]);
    check(&["similarity", &a, "--metric", "delta_cosine_flat"], &["--base"]);
    check(&["similarity", &a, "--base", &a], &["does not use a base"]);
    check(&["similarity", &a, "--class", "brain"], &["brain", "attention"]);
    check(&["similarity", &a, "--layers", "9-4"], &["ends before"]);
    check(&["similarity", &a, "--layers", "90-94"], &["no tensor is selected"]);
    check(&["similarity", &a, "--sample", "2"], &["above 0 and at most 1"]);
    zoo.write("no-matrix", "{}");
    check(&["cluster", "--matrix", "no-matrix"], &["no-matrix"]);
    check(&["cluster"], &["MODELS"]);
    let metrics = zoo.glue(&["similarity", "--list-metrics", "--json"]).json();
    assert!(metrics["metrics"].as_array().is_some_and(|metrics| metrics.len() >= 7));
    zoo.copy(&shipped().join("base-b"), "nan");
    zoo.edit("nan", |tensors| {
        let tensor = tensors.get_mut("model.layers.2.mlp.up_proj.weight").expect("a tensor");
        tensor.data[1] = 0x7e;
    });
    zoo.glue(&["similarity", &a, "nan"]).refused("NaN", 1, &["model.layers.2.mlp.up_proj.weight", "nan"]);
    assert!(fs::read_dir(zoo.directory()).expect("entries").count() == 2);
}
