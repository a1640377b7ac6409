//! Replacing gates on disk: nothing else changes, and what a crash leaves is mended.

use crate::common::{Zoo, files_of, json_of};
use glue_mixture::{Gate, Gates, MixError, RouterKind, Sites, gate_dtype, mend_gates, read_gates, write_gates};
use glue_progress::ErrorChain;
use glue_tensor::{Checkpoint, Dtype, ModelDir};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const EXPERTS: [&str; 3] = ["x", "y", "z"];

/// Mixtures of every format in which gates stand differently.
const FORMS: [&str; 5] =
    ["", "level: block", "level: model", "whole: true", "format: native\nrouter: {kind: mlp, hidden_size: 6}"];

fn changed(mut gates: Gates) -> Gates {
    let change = |values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x = 0.25 - *x);
    gates.gates.iter_mut().for_each(|gate| match gate {
        Gate::Linear { weight, .. } => change(weight),
        Gate::Mlp { up_weight, .. } => change(up_weight),
    });
    gates
}

/// The same gates with a hidden layer of this width.
fn widened(mut gates: Gates, inner: usize) -> Gates {
    gates.gates.iter_mut().for_each(|gate| *gate = gate.to_mlp(3, inner).unwrap());
    gates
}

#[test]
fn gates_are_replaced_alone() {
    let zoo = Zoo::usual();
    for (i, lines) in FORMS.into_iter().enumerate() {
        let out = zoo.mix(&zoo.text(lines, &EXPERTS), &format!("out-{i}"));
        let before = files_of(&out);
        let gates = changed(read_gates(&out).unwrap());
        write_gates(&out, &gates).unwrap();
        assert_eq!(read_gates(&out).unwrap(), gates, "{lines}");
        let after = files_of(&out);
        let changed: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
        assert_eq!((before.len(), changed.len()), (after.len(), 3), "{lines}: {changed:?}");
        assert_eq!((changed[0].as_str(), changed[1].as_str()), ("README.md", "glue.json"), "{lines}");
        let card = std::fs::read_to_string(out.join("README.md")).unwrap();
        assert!(card.contains("\nGates: trained.\n") && !card.contains("Gates: `"), "{card}");
    }
}

#[test]
fn every_gate_of_a_hybrid_in_the_form_of_mixtral_can_be_replaced() {
    let zoo = Zoo::usual();
    let out = zoo.mix(&zoo.text("dense_layers: 2", &EXPERTS), "out");
    let before = files_of(&out);
    let gates = read_gates(&out).unwrap();
    let Gate::Linear { weight, .. } = &gates.gates[0] else { panic!("linear gates") };
    assert!(weight.iter().all(|x| *x == 0.0));
    let gates = changed(gates);
    write_gates(&out, &gates).unwrap();
    assert_eq!(read_gates(&out).unwrap(), gates);
    let after = files_of(&out);
    let changed: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
    assert_eq!(changed, ["README.md", "glue.json", "model-00002-of-00002.safetensors"]);
}

#[test]
fn gates_may_change_their_kind_in_the_native_form_only() {
    let zoo = Zoo::usual();
    for lines in ["level: block", "whole: true"] {
        let out = zoo.mix(&zoo.text(lines, &EXPERTS), &format!("out-{}", lines.len()));
        let gates = widened(read_gates(&out).unwrap(), 7);
        write_gates(&out, &gates).unwrap();
        assert_eq!(read_gates(&out).unwrap(), gates, "{lines}");
        assert_eq!(Sites::open(&out).unwrap().router, RouterKind::Mlp { hidden_size: 7 });
        ModelDir::open(&out).unwrap();
    }
    let out = zoo.mix(&zoo.text("", &EXPERTS), "mixtral");
    let gates = widened(read_gates(&out).unwrap(), 6);
    assert!(matches!(write_gates(&out, &gates), Err(MixError::Format { format: "mixtral", .. })));
}

/// The files with weights that are there, and the entries of the manifest, whose sizes and hash are those of the files.
fn check_manifest(out: &Path, replaced: bool) {
    let manifest = json_of(&out.join("glue.json"));
    assert_eq!(manifest["mixture"]["gates_replaced"].as_bool().unwrap_or(false), replaced);
    let listed = manifest["output"]["files"].as_array().unwrap();
    let names: BTreeSet<String> = listed.iter().map(|entry| entry["name"].as_str().unwrap().to_string()).collect();
    let there = files_of(out).into_keys().filter(|name| name.ends_with(".safetensors"));
    assert_eq!(names, there.collect(), "{}", out.display());
    let sites = Sites::open(out).unwrap();
    for entry in listed {
        let name = entry["name"].as_str().unwrap();
        let file = Checkpoint::open(out.join(name)).unwrap();
        assert_eq!(entry["bytes"], file.total_bytes(), "{name}");
        assert_eq!(entry["tensors"], file.tensors().len(), "{name}");
        let hash = file.files()[0].content_hash().to_string();
        let expected = sites.is_gate(&file.tensors()[0].name).then_some(hash);
        assert_eq!(entry["xxh3_128"].as_str(), expected.as_deref(), "{name}");
    }
}

#[test]
fn the_manifest_lists_the_files_there_are() {
    let zoo = Zoo::usual();
    for (i, lines) in FORMS.into_iter().enumerate() {
        let out = zoo.mix(&zoo.text(lines, &EXPERTS), &format!("out-{i}"));
        check_manifest(&out, false);
        write_gates(&out, &changed(read_gates(&out).unwrap())).unwrap();
        check_manifest(&out, true);
        if i > 0 {
            write_gates(&out, &widened(read_linear(&zoo, lines, i), 9)).unwrap();
            check_manifest(&out, true);
        }
    }
    // What another program wrote stays as it is, and so does what is missing.
    let out = zoo.mix(&zoo.text("", &EXPERTS), "other");
    std::fs::write(out.join("glue.json"), "{\"mixture\": 3}").unwrap();
    write_gates(&out, &changed(read_gates(&out).unwrap())).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("glue.json")).unwrap(), "{\"mixture\": 3}");
    std::fs::remove_file(out.join("glue.json")).unwrap();
    write_gates(&out, &changed(read_gates(&out).unwrap())).unwrap();
    assert!(!out.join("glue.json").exists());
}

/// Linear gates for a mixture of these lines.
fn read_linear(zoo: &Zoo, lines: &str, i: usize) -> Gates {
    let lines = lines.split("\nrouter").next().unwrap();
    read_gates(zoo.mix(&zoo.text(lines, &EXPERTS), &format!("linear-{i}"))).unwrap()
}

fn put(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

/// A copy of the files `before` in which those that `moved` names are already those of `after`.
fn half_way(
    zoo: &Zoo,
    name: &str,
    before: &BTreeMap<String, Vec<u8>>,
    after: &BTreeMap<String, Vec<u8>>,
    moved: &[&str],
) -> PathBuf {
    let out = zoo.path(name);
    std::fs::create_dir(&out).unwrap();
    put(&out, before);
    put(
        &out,
        &after.iter().filter(|(name, _)| moved.contains(&name.as_str())).map(|(n, b)| (n.clone(), b.clone())).collect(),
    );
    out
}

#[test]
fn a_replacement_that_was_cut_short_is_completed() {
    let zoo = Zoo::usual();
    let out = zoo.mix(&zoo.text("level: block", &EXPERTS), "out");
    assert!(!mend_gates(&out).unwrap());
    let before = files_of(&out);
    write_gates(&out, &widened(read_gates(&out).unwrap(), 7)).unwrap();
    assert!(!mend_gates(&out).unwrap());
    let after = files_of(&out);
    let gates = after.keys().find(|name| name.starts_with("model-gates-")).unwrap().as_str();
    let index = "model.safetensors.index.json";
    // The steps in their order, each the last before the crash. The file that the gates leave goes last but two.
    let check = |name: &str, moved: &[&str], expected: &BTreeMap<String, Vec<u8>>| {
        let half = half_way(&zoo, name, &before, &after, moved);
        assert!(mend_gates(&half).unwrap(), "{name}");
        assert!(files_of(&half) == *expected, "{name}: {:?}", files_of(&half).keys());
        assert!(!mend_gates(&half).unwrap(), "{name}");
        read_gates(&half).unwrap();
    };
    check("file", &[gates], &before);
    check("index", &[gates, index], &after);
    check("config", &[gates, index, "config.json"], &after);
    // In place: the gates are new, and only the manifest does not know.
    let linear = zoo.mix(&zoo.text("level: block", &EXPERTS), "linear");
    let before = files_of(&linear);
    write_gates(&linear, &changed(read_gates(&linear).unwrap())).unwrap();
    let after = files_of(&linear);
    let follows = ["glue.json", "README.md"];
    let weights = after.keys().map(String::as_str).filter(|name| after[*name] != before[*name]);
    let weights: Vec<&str> = weights.filter(|name| !follows.contains(name)).collect();
    let half = half_way(&zoo, "in-place", &before, &after, &weights);
    assert!(mend_gates(&half).unwrap());
    assert!(files_of(&half) == after);
    // Another width keeps the names: the file first, the configuration later.
    let before = files_of(&out);
    write_gates(&out, &widened(read_gates(zoo.mix(&zoo.text("level: block", &EXPERTS), "again")).unwrap(), 12))
        .unwrap();
    let after = files_of(&out);
    let half = half_way(&zoo, "wider", &before, &after, &[gates]);
    assert!(read_gates(&half).is_err());
    assert!(mend_gates(&half).unwrap());
    assert!(files_of(&half) == after);
}

#[test]
fn gates_are_known_as_they_will_be_stored() {
    let zoo = Zoo::usual();
    for (name, lines, expected) in [
        ("native", "level: block\ndtype: bfloat16", Dtype::F32),
        ("half", "dtype: bfloat16", Dtype::Bf16),
        ("own", "", Dtype::F32),
    ] {
        let out = zoo.mix(&zoo.text(lines, &EXPERTS), name);
        assert_eq!(gate_dtype(&out).unwrap(), expected, "{name}");
        let mut gates = changed(read_gates(&out).unwrap());
        // A third is exact in neither type.
        gates.gates.iter_mut().for_each(|gate| match gate {
            Gate::Linear { weight, .. } => weight.iter_mut().for_each(|x| *x /= 3.0),
            Gate::Mlp { .. } => {}
        });
        let stored = gates.stored_as(expected).unwrap();
        assert_eq!(stored == gates, expected == Dtype::F32, "{name}");
        write_gates(&out, &gates).unwrap();
        assert_eq!(read_gates(&out).unwrap(), stored, "{name}");
    }
    let huge = Gates {
        experts: 1,
        hidden_size: 1,
        gates: vec![Gate::Linear { weight: vec![1e30], bias: None }],
        shared: Vec::new(),
    };
    let error = huge.stored_as(Dtype::F16).unwrap_err();
    assert_eq!(error.to_string(), "gate 0: value 1000000000000000000000000000000 cannot be stored as F16");
}

#[test]
fn a_gate_that_is_missing_is_named() {
    let zoo = Zoo::usual();
    let out = zoo.mix(&zoo.text("level: block", &EXPERTS), "out");
    let gates = Checkpoint::open(&out).unwrap();
    let file = gates.files()[gates.info("model.layers.1.gate.weight").unwrap().file].path().to_path_buf();
    let bytes = std::fs::read(&file).unwrap();
    // A name of the same length.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("model.layers.1.gate.weight");
    assert!(text(&bytes));
    let rename = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let (from, to) = (b"layers.1.gate.weight", b"layers.1.gate.wieght");
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        let mut renamed = bytes.clone();
        renamed[at..at + to.len()].copy_from_slice(to);
        std::fs::write(path, renamed).unwrap();
    };
    drop(gates);
    rename(&file);
    rename(&out.join("model.safetensors.index.json"));
    let error = read_gates(&out).unwrap_err().chain();
    assert_eq!(error, format!("{}: gate tensor `model.layers.1.gate.weight` is missing", out.display()));
}
