//! Layouts in which the same model is stored: experts one by one or together, and language models inside of multimodal
//! ones.

use crate::support::{close, data, floats, further, tokens, values, whole};
use glue_lm::{LmError, Model, Tree, Want, Weight, Weights};
use glue_progress::ErrorChain;
use glue_tensor::{Checkpoint, Config, Dtype};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A shape and elements.
type Tensor = (Vec<usize>, Vec<f32>);
type Tensors = BTreeMap<String, Tensor>;

fn read(name: &str) -> (Value, Tensors) {
    let dir = data("archs-extra").join(name);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let one = |view: glue_tensor::TensorView<'_>| {
        let (values, shape) = floats(&checkpoint, view.name());
        (view.name().to_owned(), (shape, values))
    };
    (Config::open(dir.join("config.json")).unwrap().to_value(), checkpoint.views().map(one).collect())
}

fn open(config: Value, tensors: &Tensors) -> Result<Model, LmError> {
    let one = |(name, (shape, values)): (&String, &Tensor)| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name.clone(), Weight::owned(Dtype::F32, shape.clone(), bytes).unwrap())
    };
    Model::new(&Config::from_value(config).unwrap(), Weights::from_tensors(tensors.iter().map(one)))
}

fn transposed(shape: &[usize], values: &[f32]) -> Tensor {
    let (rows, columns) = (shape[0], shape[1]);
    let at = |i: usize| values[i % rows * columns + i / rows];
    (vec![columns, rows], (0..values.len()).map(at).collect())
}

/// The experts in a tensor each, from one for all of them, [out, in] unless `turned`.
fn apart(tensors: &Tensors, turned: bool) -> Tensors {
    let mut out = Tensors::new();
    for (name, (shape, values)) in tensors {
        let stacked = name.strip_suffix(".gate_up_proj").map(|at| (at, true));
        let stacked =
            stacked.or(name.strip_suffix(".experts.down_proj").map(|_| (name.trim_end_matches(".down_proj"), false)));
        let Some((at, gate_up)) = stacked.filter(|_| shape.len() == 3) else {
            out.insert(name.clone(), (shape.clone(), values.clone()));
            continue;
        };
        for (number, values) in values.chunks(shape[1] * shape[2]).enumerate() {
            let (shape, values) = match turned {
                true => transposed(&shape[1..], values),
                false => (shape[1..].to_vec(), values.to_vec()),
            };
            let parts = if gate_up { &["gate_proj", "up_proj"][..] } else { &["down_proj"] };
            let rows = shape[0] / parts.len();
            for (part, values) in parts.iter().zip(values.chunks(rows * shape[1])) {
                out.insert(format!("{at}.{number}.{part}.weight"), (vec![rows, shape[1]], values.to_vec()));
            }
        }
    }
    out
}

/// The other way.
fn together(tensors: &Tensors) -> Tensors {
    let mut out = Tensors::new();
    let mut stacked: BTreeMap<(String, usize, u8), Tensor> = BTreeMap::new();
    for (name, tensor) in tensors {
        let part = name.split_once(".experts.").and_then(|(at, rest)| Some((at, rest.split_once('.')?)));
        match part {
            Some((at, (number, part))) => {
                let (place, order) = match part {
                    "gate_proj.weight" => ("gate_up_proj", 0),
                    "up_proj.weight" => ("gate_up_proj", 1),
                    _ => ("down_proj", 0),
                };
                let key = (format!("{at}.experts.{place}"), number.parse().unwrap(), order);
                stacked.insert(key, tensor.clone());
            }
            None => {
                out.insert(name.clone(), tensor.clone());
            }
        }
    }
    for ((name, number, order), (shape, values)) in stacked {
        let (all, numbers) = out.entry(name).or_insert((vec![0, 0, shape[1]], Vec::new()));
        all[0] = number + 1;
        if number == 0 {
            all[1] += shape[0];
        }
        debug_assert!(order < 2);
        numbers.extend(values);
    }
    out
}

#[test]
fn experts_apart_and_together_are_the_same_model() {
    for name in ["qwen3-moe", "qwen2-moe", "deepseek-v2", "deepseek-v3"] {
        let (config, stored) = read(name);
        let is_together = stored.keys().any(|name| name.ends_with("experts.gate_up_proj"));
        let other = if is_together { apart(&stored, false) } else { together(&stored) };
        assert_ne!(other.len(), stored.len(), "{name}");
        let text = tokens(15, 37, 2);
        let expected = whole(&Model::open(data("archs-extra").join(name)).unwrap(), &text);
        assert_eq!(whole(&open(config, &other).unwrap(), &text), expected, "{name}");
    }
}

/// Products with a transposed matrix add in another order.
#[test]
fn experts_of_llama_4_apart_are_those_together() {
    let (config, stored) = read("llama4");
    let text = tokens(15, 37, 2);
    let found = whole(&open(config, &apart(&stored, true)).unwrap(), &text);
    close("llama4", &found, &whole(&further("llama4"), &text), 2e-5);
}

/// A text model with its names as `rename` says, and its configuration as the language part of another.
fn wrapped(name: &str, model_type: &str, rename: impl Fn(&str) -> String) -> (Value, Tensors) {
    let (mut text, tensors) = read(name);
    text.as_object_mut().unwrap().shift_remove("architectures");
    let config = json!({"model_type": model_type, "text_config": text, "vision_config": {"hidden_size": 8}});
    let mut tensors: Tensors = tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
    tensors.insert("vision_tower.patch.weight".to_owned(), (vec![2, 2], vec![0.0; 4]));
    tensors.insert("multi_modal_projector.linear.weight".to_owned(), (vec![1], vec![0.0]));
    (config, tensors)
}

#[test]
fn language_models_inside_of_others_in_both_layouts() {
    let text = tokens(15, 37, 3);
    let before = |name: &str| format!("language_model.{name}");
    let after = |name: &str| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.to_owned(),
    };
    for (name, model_type) in [("gemma3", "gemma3"), ("llama4", "llama4"), ("llama4-two", "llama4")] {
        let expected = whole(&further(name), &text);
        for rename in [&before as &dyn Fn(&str) -> String, &after] {
            let (config, tensors) = wrapped(name, model_type, rename);
            let model = open(config, &tensors).unwrap();
            assert_eq!(whole(&model, &text), expected, "{name}");
            let aside = ["multi_modal_projector.linear.weight", "vision_tower.patch.weight"];
            assert_eq!(model.left_aside(), aside, "{name}");
            assert!(model.architecture().wrapped);
        }
    }
    assert!(further("gemma3").left_aside().is_empty() && !further("gemma3").architecture().wrapped);
    assert!(further("mistral3-wrapped").left_aside().iter().any(|name| name.contains("vision_tower")));
}

#[test]
fn parts_that_belong_to_nothing_known_are_refused() {
    let refused = |config: Value, tensors: &Tensors| open(config, tensors).unwrap_err().chain().to_string();
    let (config, tensors) = wrapped("gemma3", "gemma3", |name| format!("language_model.{name}"));
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config
    };
    let check = |found: String, expected: &str| assert!(found.contains(expected), "{found}");
    check(refused(with("text_config", Value::Null), &tensors), "`text_config` is missing");
    check(
        refused(with("text_config", json!({"model_type": "llama"})), &tensors),
        "`text_config.model_type` in the configuration is \"llama\", which is not supported: in a model of type gemma3, \
         gemma3_text is",
    );
    check(refused(with("quantization_config", json!({"bits": 4})), &tensors), "`quantization_config`");
    check(
        refused(with("architectures", json!(["Gemma3ForCausalLM"])), &tensors),
        "run as Gemma3ForConditionalGeneration",
    );
    check(refused(with("text_config", json!({"model_type": "gemma3_text", "alibi": true})), &tensors), "`alibi`");
    let mut more = tensors.clone();
    more.insert("audio_tower.x.weight".to_owned(), (vec![1], vec![0.0]));
    check(refused(config.clone(), &more), "tensor `audio_tower.x.weight` is in the checkpoint, but a model of type");
    // A text model has no other parts.
    let (text, mut plain) = read("gemma3");
    plain.insert("vision_tower.x.weight".to_owned(), (vec![1], vec![0.0]));
    check(refused(text, &plain), "tensor `vision_tower.x.weight` is in the checkpoint");
}

/// The layers of DeepSeek V3 for the prediction of further tokens stand after the last.
#[test]
fn layers_for_further_tokens_are_left_aside() {
    let (mut config, mut tensors) = read("deepseek-v3");
    let layers = config["num_hidden_layers"].as_u64().unwrap();
    let name = format!("model.layers.{layers}.eh_proj.weight");
    tensors.insert(name.clone(), (vec![2, 2], vec![0.0; 4]));
    config["num_nextn_predict_layers"] = 1.into();
    let model = open(config.clone(), &tensors).unwrap();
    assert_eq!(model.left_aside(), [name.as_str()]);
    config["num_nextn_predict_layers"] = 0.into();
    let error = open(config, &tensors).unwrap_err().to_string();
    assert!(error.contains(&format!("`num_hidden_layers` is {layers}, counted from 0")), "{error}");
}

/// What gpt-oss packs in 4 bits is what its numbers give when they are stored as they are, [in, out].
#[test]
fn packed_experts_are_their_numbers() {
    let dir = data("archs-extra").join("gpt-oss-mxfp4");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let mut tensors: Vec<(String, Weight)> = Vec::new();
    let mut wide: Vec<(String, Weight)> = Vec::new();
    for view in checkpoint.views() {
        let weight = Weight::owned(view.dtype(), view.shape().to_vec(), view.data().to_vec()).unwrap();
        tensors.push((view.name().to_owned(), weight.clone()));
        let Some(name) = view.name().strip_suffix("_blocks") else {
            if !view.name().ends_with("_scales") {
                wide.push((view.name().to_owned(), weight));
            }
            continue;
        };
        let scales = checkpoint.get(&format!("{name}_scales")).unwrap();
        let [experts, rows, blocks, _] = view.shape() else { panic!("{:?}", view.shape()) };
        let width = blocks * 32;
        let mut numbers = vec![0.0f32; experts * rows * width];
        for (at, number) in numbers.iter_mut().enumerate() {
            let (expert, column, row) = (at / (rows * width), at / rows % width, at % rows);
            let stored = (expert * rows + row) * width + column;
            let code = view.data()[stored / 2] >> (4 * (stored % 2)) & 15;
            let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
            let power = 2f32.powi(i32::from(scales.data()[stored / 32]) - 127);
            *number = if code > 7 { -size } else { size } * power;
        }
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        wide.push((name.to_owned(), Weight::owned(Dtype::F32, vec![*experts, width, *rows], bytes).unwrap()));
    }
    let config = Config::open(dir.join("config.json")).unwrap();
    let text = tokens(15, 37, 3);
    let expected = whole(&further("gpt-oss-mxfp4"), &text);
    let packed = Model::new(&config, Weights::from_tensors(tensors.clone())).unwrap();
    assert_eq!(whole(&packed, &text), expected);
    let numbers = Model::new(&config, Weights::from_tensors(wide)).unwrap();
    close("numbers", &whole(&numbers, &text), &expected, 2e-5);

    let without = tensors.iter().filter(|(name, _)| !name.ends_with("layers.1.mlp.experts.down_proj_scales")).cloned();
    let error = Model::new(&config, Weights::from_tensors(without)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor `model.layers.1.mlp.experts.down_proj_scales` of shape [3, 32, 2] is missing from the checkpoint"
    );
    let floats = tensors.iter().map(|(name, weight)| match name.ends_with("down_proj_scales") {
        true => (name.clone(), Weight::owned(Dtype::F32, vec![3, 32, 2], vec![0; 4 * 192]).unwrap()),
        false => (name.clone(), weight.clone()),
    });
    let error = Model::new(&config, Weights::from_tensors(floats)).unwrap_err().chain().to_string();
    assert!(error.ends_with("elements are F32; packed numbers are stored as U8"), "{error}");
}

/// A gate chooses the same experts whatever the row is computed with: the last layer runs for wanted rows only.
#[test]
fn rows_wanted_alone_go_to_the_same_experts() {
    for name in ["llama4", "deepseek-v3", "gpt-oss"] {
        let model = further(name);
        let text = tokens(20, 37, 4);
        let mut tree = Tree::new();
        tree.push(None, &text);
        let last = values(&model.forward(&mut tree, &Want::LAST).unwrap().logits);
        close(name, &last, &whole(&model, &text)[19 * 37..], 2e-5);
    }
}
