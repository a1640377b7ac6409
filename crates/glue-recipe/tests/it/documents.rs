//! Manifest, model card, estimate and schema.

use crate::common::golden;
use glue_merge::Registry;
use glue_recipe::estimate::Rates;
use glue_recipe::{MergePlan, PlanOptions, Recipe, RunError, card, estimate, manifest, plan, schema};
use glue_tensor::Layout;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};

fn planned(text: &str) -> MergePlan {
    let mut options = PlanOptions::default();
    options.directory = golden();
    plan(&Recipe::parse(text, "r.yml", &Registry::builtin()).unwrap().remove(0), &options).unwrap()
}

const TIES: &str = "merge_method: ties\nbase_model: models/base\nseed: 5\nparameters: {weight: 1, density: 0.5}\nmodels: \
                    [{model: models/ft1}, {model: models/ft2}]\n";

#[test]
fn a_manifest_says_whether_an_output_is_current() {
    let plan = planned(TIES);
    let hashes = manifest::hash_inputs(&plan, &|| false).unwrap();
    let layout = Layout::new(plan.layout_specs(), 50_000, "model").unwrap();
    let written = manifest::manifest(&plan, &layout, &hashes);
    assert_eq!(written["operator"], "ties");
    assert_eq!(written["seed"], 5);
    assert_eq!(written["recipe"], TIES);
    assert_eq!(written["output"]["files"].as_array().unwrap().len(), layout.shards().len());
    let files = |model: usize| written["inputs"][model]["files"].as_array().unwrap();
    let names: Vec<&str> = files(0).iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["model.safetensors", "config.json", "generation_config.json"]);
    let weights = std::fs::read(golden().join("models/base/model.safetensors")).unwrap();
    assert_eq!(files(0)[0]["xxh3_128"], glue_tensor::ContentHash::of(&weights).to_string());

    let read: Value = serde_json::from_str(&written.to_string()).unwrap();
    assert!(manifest::is_current(&read, &plan, &hashes));
    let differs = |text: &str| {
        let plan = planned(text);
        !manifest::is_current(&read, &plan, &manifest::hash_inputs(&plan, &|| false).unwrap())
    };
    assert!(differs(&TIES.replace("seed: 5", "seed: 6")));
    assert!(differs(&TIES.replace("ft2", "ft3")));
    assert!(!manifest::is_current(&Value::Null, &plan, &hashes));
    let mut changed = hashes.clone();
    changed[1].files[0].hash.0 ^= 1;
    assert!(!manifest::is_current(&read, &plan, &changed));
}

#[test]
fn hashing_stops_when_it_is_told_to() {
    let (plan, asked) = (planned(TIES), AtomicUsize::new(0));
    let stopped = manifest::hash_inputs(&plan, &|| asked.fetch_add(1, Ordering::Relaxed) >= 1);
    assert!(matches!(stopped, Err(RunError::Stopped)), "{stopped:?}");
    // Three models of one file each: every thread may have begun another.
    assert!((2..=3).contains(&asked.into_inner()));
}

#[test]
fn a_card_names_models_method_and_recipe() {
    let plan = planned(&format!("{TIES}# ```\n"));
    let card = card::card(&plan, "Merged");
    let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).expect("front matter").0;
    assert_eq!(
        front,
        "library_name: transformers\npipeline_tag: text-generation\ntags:\n- merge\n- model-glue\n- ties"
    );
    for part in
        ["# Merged\n", "- `models/base` (base)\n", "````yaml\nmerge_method: ties\n", "```\n````\n", "Seed 5.", "arXiv"]
    {
        assert!(card.contains(part), "no {part:?} in:\n{card}");
    }
}

#[test]
fn an_estimate_counts_bytes_passes_and_buffers() {
    let plan = planned("merge_method: passthrough\nmodels: [{model: models/ft1}]\n");
    let copy = estimate(&plan, 4);
    let bytes = plan.models[0].dir.checkpoint().total_bytes();
    assert_eq!((copy.read_bytes, copy.write_bytes), (bytes, bytes));
    let ties = estimate(&planned(TIES), 4);
    assert_eq!((ties.read_bytes, ties.write_bytes), (3 * bytes, bytes));
    assert!(ties.scan_bytes > ties.read_bytes && ties.peak_memory_bytes > 0);
    assert!(estimate(&planned(TIES), 8).peak_memory_bytes > ties.peak_memory_bytes);
    let rates = Rates { read: 1e3, scan: 1e9, write: 1e9 };
    assert_eq!(ties.seconds(&rates), ties.read_bytes as f64 / 1e3);
}

#[test]
fn the_schema_knows_every_operator_parameter_and_key() {
    let registry = Registry::builtin();
    let schema = schema(&registry);
    for key in ["merge_method", "models", "slices", "modules", "base_model", "on_missing", "tokenizer_source"] {
        assert!(schema["properties"][key]["description"].is_string(), "{key}");
    }
    let operators: Vec<&str> = schema["properties"]["merge_method"]["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["const"].as_str().unwrap())
        .collect();
    for def in registry.iter() {
        assert!(operators.contains(&def.name), "{}", def.name);
        for spec in def.params {
            assert!(schema["$defs"]["parameters"]["properties"][spec.name].is_object(), "{}", spec.name);
        }
    }
    let density = &schema["$defs"]["parameters"]["properties"]["density"]["anyOf"][0]["anyOf"][0]["anyOf"][0];
    assert_eq!(density["exclusiveMinimum"], 0.0);
    assert_eq!(density["maximum"], 1.0);
}
