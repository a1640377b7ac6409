//! `glue merge CONFIG FILE.gguf`: the file that a merge and an export make one after the other.

use glue_tests::Tensors;
use glue_tests::checkpoint::Tensor;
use glue_tests::number::Numbers;
use glue_tests::run::{Run, binary};
use glue_tests::zoo::{Zoo, shipped};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Two models with the shapes of a shipped one: itself, and one with other values.
fn family(model: &str) -> Zoo {
    let zoo = Zoo::empty();
    let source = shipped().join("..").join(model);
    for (name, seed) in [("a", None), ("b", Some(1))] {
        zoo.copy(&source, name);
        let mut config = zoo.json(&format!("{name}/config.json"));
        config["_name"] = name.into();
        zoo.write(&format!("{name}/config.json"), config.to_string());
        if let Some(seed) = seed {
            let mut numbers = Numbers::new(seed);
            zoo.edit(name, |tensors| {
                for tensor in tensors.values_mut() {
                    let values: Vec<f64> = tensor.values();
                    *tensor = Tensor::f32(&tensor.shape, values.iter().map(|&x| x as f32 + numbers.around_zero(0.1)));
                }
            });
        }
    }
    zoo
}

/// Checks that a merge into a file gives the bytes of a merge and an export of its output.
#[track_caller]
fn check(zoo: &Zoo, config: &str, types: &[&str]) {
    zoo.write("m.yml", config);
    zoo.glue(&["merge", "m.yml", "merged", "--quiet"]).ok();
    for kind in types {
        zoo.glue(&["export", "merged", "exported.gguf", "--type", kind, "--overwrite", "--quiet"]).ok();
        let file = format!("merged-{kind}.gguf");
        let before = zoo.names("");
        zoo.glue(&["merge", "m.yml", &file, "--type", kind, "--quiet"]).ok();
        assert!(zoo.bytes(&file) == zoo.bytes("exported.gguf"), "{kind}: other bytes");
        let mut after = zoo.names("");
        after.retain(|name| *name != file);
        assert_eq!(after, before, "{kind}: nothing but the file");
    }
}

const LINEAR: &str = "merge_method: linear
models: [{model: a, parameters: {weight: 0.7}}, {model: b, parameters: {weight: 0.3}}]
";

#[test]
fn a_llama_has_the_bytes_of_a_merge_and_an_export() {
    let zoo = family("zoo/a-chat");
    check(&zoo, LINEAR, &["f16", "bf16", "f32", "q8_0", "q4_k_m"]);
}

#[test]
fn a_head_that_is_the_embedding_and_scaled_frequencies() {
    check(&family("archs/llama3-scaled-tied"), LINEAR, &["f32", "q8_0"]);
    // llama.cpp wants a head of this family even if it is the embedding.
    let zoo = family("archs/olmo2");
    for name in ["a", "b"] {
        zoo.set(name, "tie_word_embeddings", true.into());
        zoo.edit(name, |tensors| drop(tensors.remove("lm_head.weight")));
    }
    check(&zoo, LINEAR, &["f32"]);
}

#[test]
fn experts_are_stacked_as_they_are_merged() {
    check(&family("archs/mixtral"), LINEAR, &["f32", "f16"]);
    let zoo = family("archs/mixtral");
    for name in ["a", "b"] {
        zoo.edit(name, |tensors| {
            for tensor in tensors.values_mut() {
                *tensor = Tensor::bf16(&tensor.shape, tensor.values().iter().map(|&x| x as f32));
            }
        });
    }
    zoo.edit("b", exchange_experts);
    check(&zoo, LINEAR, &["f32"]);
    let unaligned = zoo.bytes("merged-f32.gguf");
    for name in ["merged", "merged-f32.gguf"] {
        std::fs::rename(zoo.path(name), zoo.path(&format!("unaligned-{name}"))).expect("an output");
    }
    check(&zoo, &format!("{LINEAR}align_experts: true\n"), &["f32"]);
    assert!(zoo.bytes("merged-f32.gguf") != unaligned);
    // All experts of a layer in one tensor, of which the file has two.
    let zoo = family("archs-extra/qwen3-moe");
    for name in ["a", "b"] {
        for (key, value) in
            [("mlp_only_layers", json!([])), ("decoder_sparse_step", 1.into()), ("norm_topk_prob", true.into())]
        {
            zoo.set(name, key, value);
        }
        zoo.edit(name, sparse_and_fused);
    }
    check(&zoo, LINEAR, &["f32"]);
}

/// Gives each expert the number of the one after it.
fn exchange_experts(tensors: &mut Tensors) {
    let before = tensors.clone();
    for (name, tensor) in tensors.iter_mut() {
        if let Some((head, rest)) = name.split_once(".experts.") {
            let (expert, kind) = rest.split_once('.').expect("a tensor of an expert");
            let next = (expert.parse::<usize>().expect("a number") + 1) % 4;
            *tensor = before[&format!("{head}.experts.{next}.{kind}")].clone();
        } else if name.ends_with("block_sparse_moe.gate.weight") {
            let row = tensor.data.len() / tensor.shape[0];
            tensor.data.rotate_left(row);
        }
    }
}

/// Gives every layer the experts of one that has some, in two tensors.
fn sparse_and_fused(tensors: &mut Tensors) {
    let names: Vec<String> = tensors.keys().filter(|name| name.contains(".mlp.")).cloned().collect();
    let layers: std::collections::BTreeSet<String> =
        names.iter().filter_map(|name| name.split('.').nth(2)).map(str::to_string).collect();
    let gate = names.iter().find(|name| name.ends_with("mlp.gate.weight")).expect("a layer with experts").clone();
    let sparse = gate.trim_end_matches("gate.weight").to_string();
    let gate = tensors[&gate].clone();
    let experts = gate.shape[0];
    let stacked = |parts: &[&str]| {
        let (mut data, mut rows, mut columns) = (Vec::new(), 0, 0);
        for expert in 0..experts {
            for part in parts {
                let one = &tensors[&format!("{sparse}experts.{expert}.{part}.weight")];
                data.extend_from_slice(&one.data);
                (rows, columns) = (one.shape[0] * parts.len(), one.shape[1]);
            }
        }
        Tensor { dtype: "F32".to_string(), shape: vec![experts, rows, columns], data }
    };
    let (gate_up, down) = (stacked(&["gate_proj", "up_proj"]), stacked(&["down_proj"]));
    names.iter().for_each(|name| drop(tensors.remove(name)));
    for layer in layers {
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}");
        tensors.insert(name("gate.weight"), gate.clone());
        tensors.insert(name("experts.gate_up_proj"), gate_up.clone());
        tensors.insert(name("experts.down_proj"), down.clone());
    }
}

#[test]
fn tokenizer_and_chat_template_come_from_where_the_config_says() {
    let zoo = family("zoo/a-chat");
    zoo.copy(&shipped().join("base-a"), "other");
    let template = zoo.path("other/tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&template).expect("a file")).expect("JSON");
    config["chat_template"] = "{{ messages[0].content }} of another".into();
    config["eos_token"] = "<pad>".into();
    zoo.write("other/tokenizer_config.json", config.to_string());
    let from_other = format!("{LINEAR}tokenizer_source: other\n");
    check(&zoo, &from_other, &["f16"]);
    let file = String::from_utf8_lossy(&zoo.bytes("merged-f16.gguf")).into_owned();
    assert!(file.contains("of another"), "the template of the other model");

    let zoo = family("zoo/a-chat");
    check(&zoo, &format!("{LINEAR}chat_template: chatml\n"), &["f16"]);
    assert!(String::from_utf8_lossy(&zoo.bytes("merged-f16.gguf")).contains("<|im_start|>"));
}

#[test]
fn a_dry_run_and_the_report_say_what_the_file_has() {
    let zoo = family("zoo/a-chat");
    zoo.write("m.yml", LINEAR);
    let planned = zoo.glue(&["merge", "m.yml", "out.gguf", "--type", "q8_0", "--dry-run", "--json"]).json();
    assert!(!zoo.path("out.gguf").exists());
    let done = zoo.glue(&["merge", "m.yml", "out.gguf", "--type", "q8_0", "--json"]).json();
    for key in ["gguf", "files", "tensors", "bytes_written", "output"] {
        assert!(!planned[key].is_null());
        assert_eq!(planned[key], done[key], "{key}");
    }
    let size = zoo.bytes("out.gguf").len() as u64;
    assert_eq!((&done["gguf"]["type"], &done["gguf"]["bytes"]), (&Value::from("q8_0"), &Value::from(size)));
    // The file, and the largest tensor as it is merged: the embedding, 512 rows of 128 values of 2 bytes.
    assert_eq!(planned["disk"]["needed"], size + 512 * 128 * 2);
    let text = zoo.glue(&["merge", "m.yml", "out.gguf", "--type", "q8_0", "--dry-run"]).ok().out;
    assert!(text.contains("Q8_0") && text.contains("--overwrite"), "{text}");
    // Without a config, and over the file that is there.
    let inline = ["merge", "--method", "linear", "--model", "a:0.7", "--model", "b:0.3", "out.gguf", "--type", "q8_0"];
    zoo.glue(&inline).refused("a file is there", 1, &["exists already", "--overwrite"]);
    let before = zoo.bytes("out.gguf");
    zoo.glue(&[&inline[..], &["--overwrite", "--threads", "1"]].concat()).ok();
    assert!(zoo.bytes("out.gguf") == before);
}

#[test]
fn what_cannot_be_exported_is_refused_before_a_weight_is_read() {
    let zoo = family("zoo/a-chat");
    zoo.write("m.yml", LINEAR);
    zoo.glue(&["merge", "m.yml", "out", "--type", "q8_0"]).refused("a directory", 2, &["--type", ".gguf"]);
    zoo.glue(&["merge", "m.yml", "out.gguf", "--max-shard-size", "1GB"]).refused("shards", 2, &["--max-shard-size"]);
    zoo.set("a", "hidden_act", "gelu".into());
    // A weight that a merge would refuse: nobody has read it.
    zoo.edit("b", |tensors| {
        let norm = tensors.get_mut("model.norm.weight").expect("a norm");
        norm.data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    for more in [&[][..], &["--dry-run"]] {
        let run = zoo.glue(&[&["merge", "m.yml", "out.gguf"], more].concat());
        run.refused("an activation", 1, &["out.gguf", "hidden_act", "gelu"]);
    }
    zoo.set("a", "hidden_act", "silu".into());
    zoo.glue(&["merge", "m.yml", "out.gguf"]).refused("a NaN", 1, &["model.norm.weight", "NaN"]);
    assert!(zoo.names("").iter().all(|name| !name.contains("out")), "{:?}", zoo.names(""));
}

/// A llama of some tens of MiB.
fn large(seed: u64) -> Tensors {
    const WIDTH: usize = 512;
    let mut numbers = Numbers::new(seed);
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| numbers.around_zero(1.0)).collect();
        tensors.insert(name, Tensor::f32(shape, values));
    };
    add("model.embed_tokens.weight".to_string(), &[WIDTH, WIDTH]);
    add("lm_head.weight".to_string(), &[WIDTH, WIDTH]);
    add("model.norm.weight".to_string(), &[WIDTH]);
    for layer in 0..4 {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{layer}.{norm}.weight"), &[WIDTH]);
        }
        for part in ["q", "k", "v", "o"] {
            add(format!("model.layers.{layer}.self_attn.{part}_proj.weight"), &[WIDTH, WIDTH]);
        }
        for part in ["gate", "up"] {
            add(format!("model.layers.{layer}.mlp.{part}_proj.weight"), &[3 * WIDTH, WIDTH]);
        }
        add(format!("model.layers.{layer}.mlp.down_proj.weight"), &[WIDTH, 3 * WIDTH]);
    }
    tensors
}

#[test]
fn stopped_by_ctrl_c_it_leaves_nothing() {
    let zoo = Zoo::empty();
    for (name, seed) in [("a", 1), ("b", 2)] {
        zoo.copy(&shipped().join("a-chat"), name);
        zoo.edit(name, |tensors| *tensors = large(seed));
        for (key, value) in
            [("hidden_size", 512), ("intermediate_size", 1536), ("num_key_value_heads", 4), ("head_dim", 128)]
        {
            zoo.set(name, key, value.into());
        }
    }
    zoo.write("m.yml", LINEAR);
    let before = zoo.names("");
    let args = ["merge", "m.yml", "out.gguf", "--type", "q4_k_m", "--threads", "1"];
    // Whatever started the tests may ignore signals.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(binary()).args(args).current_dir(zoo.directory());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("glue starts");
    let start = Instant::now();
    while zoo.names("").len() == before.len() {
        assert!(start.elapsed() < Duration::from_secs(20), "no work has begun");
        sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.is_ok_and(|status| status.success()), "glue had ended already");
    let run = Run::from(&child.wait_with_output().expect("a child ends"));
    assert_eq!((run.status, run.err.as_str()), (Some(130), "interrupted; no partial output is left\n"));
    assert_eq!(zoo.names(""), before);
    zoo.glue(&args).ok();
}
