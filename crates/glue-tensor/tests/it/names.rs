//! Layers and roles over the tensor names of real architectures.
//!
//! `data/names/ARCH.txt`: one tensor per line, as `NAME LAYER ROLE POSITION`, with `-` for no layer. Names of the
//! eleven architectures that have a file in `data/configs` are those that transformers 5.23 saves; the others follow
//! published checkpoints, with two layers.

use glue_tensor::names::{Names, TensorName};
use std::fs;
use std::path::Path;

fn lists() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/names");
    let mut lists: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_string(), fs::read_to_string(&path).unwrap()))
        .collect();
    lists.sort();
    lists
}

fn first_words(list: &str) -> Vec<&str> {
    list.lines().map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn every_name_is_understood() {
    let lists = lists();
    assert!(lists.len() >= 20, "the data is missing: {}", lists.len());
    for (arch, list) in &lists {
        let names = Names::infer(first_words(list));
        for line in list.lines() {
            let parsed = names.parse(line.split(' ').next().unwrap());
            let layer = parsed.layer.map_or("-".to_string(), |layer| layer.to_string());
            let found = format!("{} {layer} {:?} {:?}", parsed.name, parsed.role, parsed.position);
            assert_eq!(found, line, "in {arch}");
        }
    }
}

#[test]
fn stacks_and_the_main_one() {
    let check = |arch: &str, stacks: &[(&str, usize)], main: &str| {
        let lists = lists();
        let (_, list) = lists.iter().find(|(name, _)| name == arch).unwrap();
        let names = Names::infer(first_words(list));
        let found: Vec<_> = names.stacks().iter().map(|stack| (stack.prefix.as_str(), stack.layers.len())).collect();
        assert_eq!(found, stacks, "{arch}");
        assert_eq!(names.main_stack().unwrap().prefix, main, "{arch}");
    };
    check("llama2", &[("model.layers.", 3)], "model.layers.");
    check("mixtral", &[("model.layers.", 3)], "model.layers.");
    check("gpt2", &[("h.", 2)], "h.");
    check("t5", &[("decoder.block.", 2), ("encoder.block.", 2)], "decoder.block.");
    let vision = "model.vision_tower.vision_model.encoder.layers.";
    check("llava", &[("model.language_model.layers.", 2), (vision, 3)], "model.language_model.layers.");
    check("unusual-stack", &[("net.stages.", 3)], "net.stages.");
}

#[test]
fn renaming_a_layer_changes_its_number_only() {
    for (arch, list) in lists() {
        let names = Names::infer(first_words(&list));
        for name in first_words(&list) {
            let parsed = names.parse(name);
            let renamed = parsed.rename_layer(17);
            match parsed.layer {
                None => assert_eq!(renamed, name, "{arch}"),
                Some(layer) => {
                    let back = names.parse(&renamed);
                    assert_eq!((back.layer, back.suffix, back.role), (Some(17), parsed.suffix, parsed.role), "{arch}");
                    assert_eq!(back.rename_layer(layer), name, "{arch}");
                }
            }
        }
    }
}

#[test]
fn experts_are_counted_apart_from_layers() {
    let check = |name: &str, layer: Option<usize>, expert: Option<usize>| {
        let parsed = TensorName::parse(name);
        assert_eq!((parsed.layer, parsed.expert), (layer, expert), "{name}");
    };
    check("model.layers.3.block_sparse_moe.experts.7.w1.weight", Some(3), Some(7));
    check("model.layers.3.mlp.experts.gate_up_proj", Some(3), None);
    check("model.layers.3.mlp.gate.weight", Some(3), None);
    check("lm_head.weight", None, None);
}

#[test]
fn odd_names_do_no_harm() {
    for name in ["", ".", "..", "0", "0.weight", ".0.", "layers.", "layers.0", "layers..x", "layers.-1.x", "h.٣.x"] {
        let parsed = Names::infer([name]).parse(name);
        assert_eq!((parsed.layer, parsed.suffix), (None, name), "{name}");
    }
    let huge = "layers.99999999999999999999999999.w";
    assert_eq!(TensorName::parse(huge).layer, None);
}

#[test]
fn numbers_that_no_layer_has_count_nothing() {
    for number in ["10000", "999999999", "18446744073709551615", "99999999999999999999999999"] {
        let name = format!("model.layers.{number}.mlp.up_proj.weight");
        let names = Names::infer(["model.layers.0.mlp.up_proj.weight", name.as_str()]);
        assert_eq!(names.main_stack().unwrap().layers, [0]);
        assert_eq!((names.parse(&name).layer, TensorName::parse(&name).layer), (None, None));
    }
    assert_eq!(TensorName::parse("model.layers.9999.mlp.up_proj.weight").layer, Some(9999));
}

#[test]
fn fused_experts_have_three_axes_in_an_mlp() {
    let check = |name: &str, shape: &[usize], expected| {
        assert_eq!(glue_tensor::names::is_fused_experts(name, shape), expected, "{name} {shape:?}");
    };
    check("model.layers.0.mlp.experts.gate_up_proj", &[8, 64, 32], true);
    check("model.layers.0.feed_forward.experts.down_proj", &[8, 32, 64], true);
    check("model.layers.0.block_sparse_moe.input_linear.weight", &[8, 64, 32], true);
    check("model.layers.0.mlp.experts.gate_up_proj_bias", &[8, 64], false);
    check("model.layers.0.mlp.experts.3.up_proj.weight", &[64, 32], false);
    check("model.layers.0.linear_attn.conv1d.weight", &[64, 1, 4], false);
    check("model.layers.0.mlp.dwconv.weight", &[64, 1, 3], false);
}
