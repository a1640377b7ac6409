//! `glue export` and `glue import`: a model through a GGUF file and back.

use glue_tests::checkpoint::{self, Tensor};
use glue_tests::run::Run;
use glue_tests::zoo::{Zoo, shipped};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// A model of the shipped zoo, and tokens for it.
fn zoo() -> Zoo {
    let zoo = Zoo::empty();
    zoo.copy(&shipped().join("a-chat"), "model");
    let ids = Tensor::i64(&[2, 5], [1, 6, 7, 8, 9, 1, 10, 11, 12, 13]);
    zoo.write("ids", checkpoint::encode(&BTreeMap::from([("input_ids".to_string(), ids)])));
    zoo
}

fn logits(zoo: &Zoo, model: &str) -> Vec<f64> {
    zoo.glue(&["logits", model, "--ids", "ids", "--out", "logits", "--quiet"]).ok();
    checkpoint::read(&zoo.path("logits"))["logits"].values()
}

#[test]
fn a_model_comes_back_from_a_file_as_it_was() {
    let zoo = zoo();
    let planned = zoo.glue(&["export", "model", "model.gguf", "--dry-run", "--json"]).json();
    assert!(!zoo.path("model.gguf").exists());
    let exported = zoo.glue(&["export", "model", "model.gguf", "--json"]).json();
    for key in ["bytes", "tensors", "type", "bytes_by_type", "notes"] {
        assert_eq!(planned[key], exported[key], "{key}");
    }
    assert_eq!(exported["type"], "f16");
    let size = fs::metadata(zoo.path("model.gguf")).expect("a file").len();
    assert_eq!(exported["bytes"], size);

    zoo.glue(&["import", "model.gguf", "again", "--dry-run"]).ok();
    assert!(!zoo.path("again").exists());
    let imported = zoo.glue(&["import", "model.gguf", "again", "--json"]).json();
    assert_eq!((&imported["family"], &imported["dtype"]), (&Value::from("llama"), &Value::from("float16")));
    assert!(logits(&zoo, "model") == logits(&zoo, "again"));
    let text = |model: &str| {
        let args = ["generate", model, "--prompt", "What is 3 and 4?", "--max-new-tokens", "8", "--json"];
        zoo.glue(&args).json()["prompts"][0]["answers"][0]["text"].clone()
    };
    assert!(text("model").as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(text("model"), text("again"));
}

#[test]
fn a_file_is_a_model_for_those_who_run_one() {
    let zoo = zoo();
    zoo.glue(&["export", "model", "model.gguf", "--quiet"]).ok();
    let run = |model: &str| {
        let args = ["generate", model, "--prompt", "What is 3 and 4?", "--max-new-tokens", "8", "--json"];
        Run::of(zoo.command(&args).env("XDG_CACHE_HOME", zoo.path("cache")))
    };
    let text = |run: Run| {
        let document: Value = serde_json::from_str(&run.out).expect("JSON");
        document["prompts"][0]["answers"][0]["text"].clone()
    };
    let expected = text(run("model").ok());
    assert_eq!(text(run("model.gguf").ok_with_note("is imported to")), expected);
    // Imported once, as long as the file is the same.
    assert_eq!(text(run("model.gguf").ok()), expected);
    assert_eq!(fs::read_dir(zoo.path("cache/model-glue/gguf")).expect("a directory").count(), 1);
    zoo.glue(&["export", "model", "model.gguf", "--type", "f32", "--overwrite", "--quiet"]).ok();
    run("model.gguf").ok_with_note("is imported to");
}

#[test]
fn rounded_weights_stay_close_and_say_that_they_are_rounded() {
    let zoo = zoo();
    let export = ["export", "model", "small.gguf", "--type", "q8_0", "--threads"];
    zoo.glue(&[&export[..], &["1"]].concat()).ok();
    let one = zoo.bytes("small.gguf");
    zoo.glue(&[&export[..], &["3", "--overwrite"]].concat()).ok();
    assert!(one == zoo.bytes("small.gguf"), "threads change nothing");
    zoo.glue(&["import", "small.gguf", "noted"]).ok_with_note("quantised");
    let report = zoo.glue(&["import", "small.gguf", "again", "--dtype", "bf16", "--json", "--quiet"]).json();
    assert_eq!(report["quantised"], true);
    let (before, after) = (logits(&zoo, "model"), logits(&zoo, "again"));
    let largest = before.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let worst = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // A step of Q8_0 is a 127th of the largest weight of its block.
    assert!(worst > 0.0 && worst < largest / 20.0, "{worst} of {largest}");
}

#[test]
fn what_is_there_is_kept_and_what_cannot_be_is_refused() {
    let zoo = zoo();
    zoo.write("taken.gguf", "precious");
    zoo.glue(&["export", "model", "taken.gguf"]).refused("taken", 1, &["exists already", "--overwrite"]);
    assert_eq!(zoo.bytes("taken.gguf"), b"precious");
    zoo.glue(&["export", "nowhere", "x.gguf"]).refused("no model", 2, &["nowhere"]);
    zoo.glue(&["import", "taken.gguf", "out"]).refused("no GGUF", 1, &["taken.gguf", "not a GGUF file"]);
    zoo.glue(&["export", "model", "x.gguf", "--type", "q3_k"]).refused("a type", 2, &["q4_k_m"]);
    assert!(!zoo.path("out").exists() && !zoo.path("x.gguf").exists());
}
