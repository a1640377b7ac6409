//! What is written: names, bytes, configurations, files.

use crate::common::{LAYERS, WIDTH, Zoo, files_of, json_of, llama};
use glue_mixture::{
    Form, Gate, Gates, MixConfig, MixError, MixPlan, Mixture, RunOptions, Sites, Unwatched, read_gates, run,
};
use glue_tensor::{Checkpoint, Config, Dtype, ModelDir, widen};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const EXPERTS: [&str; 3] = ["x", "y", "z"];

fn bytes(dir: &Path, tensor: &str) -> Vec<u8> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    checkpoint.get(tensor).unwrap_or_else(|| panic!("{tensor} is missing")).data().to_vec()
}

fn values(dir: &Path, tensor: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let view = checkpoint.get(tensor).unwrap_or_else(|| panic!("{tensor} is missing"));
    let mut values = vec![0.0; view.info().n_elements()];
    widen(view.dtype(), view.data(), &mut values).unwrap();
    values
}

fn names(dir: &Path) -> BTreeSet<String> {
    Checkpoint::open(dir).unwrap().tensors().iter().map(|info| info.name.clone()).collect()
}

/// Every tensor of the base outside `mixed` is there, byte by byte.
fn check_trunk(zoo: &Zoo, out: &Path, mixed: impl Fn(&str) -> bool) {
    for name in names(&zoo.path("base")).iter().filter(|name| !mixed(name)) {
        assert_eq!(bytes(out, name), bytes(&zoo.path("base"), name), "{name}");
    }
}

#[test]
fn ffn_in_the_form_of_mixtral() {
    let zoo = Zoo::usual();
    let out = zoo.mix(&zoo.text("experts_per_token: 2", &EXPERTS), "out");
    check_trunk(&zoo, &out, |name| name.contains(".mlp."));
    for layer in 0..LAYERS {
        for (e, expert) in EXPERTS.iter().enumerate() {
            for (classic, dense) in [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")] {
                let ours = format!("model.layers.{layer}.block_sparse_moe.experts.{e}.{classic}.weight");
                let theirs = format!("model.layers.{layer}.mlp.{dense}.weight");
                assert_eq!(bytes(&out, &ours), bytes(&zoo.path(expert), &theirs), "{ours}");
            }
        }
        let gate = format!("model.layers.{layer}.block_sparse_moe.gate.weight");
        assert!(values(&out, &gate).iter().all(|x| *x != 0.0), "{gate}");
    }
    assert_eq!(names(&out).len(), 3 + LAYERS * (6 + 3 * 3 + 1));
    let config = json_of(&out.join("config.json"));
    for (key, value) in [
        ("model_type", json!("mixtral")),
        ("architectures", json!(["MixtralForCausalLM"])),
        ("num_local_experts", json!(3)),
        ("num_experts_per_tok", json!(2)),
        ("sliding_window", Value::Null),
        ("torch_dtype", json!("float32")),
        // Absent in the base, where it means the default of Llama and not that of Mixtral.
        ("rope_theta", json!(10_000.0)),
        ("max_position_embeddings", json!(2048)),
        ("num_key_value_heads", json!(1)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    assert!(out.join("tokenizer.json").is_file());
    assert!(!out.join("modeling_glue_mixture.py").exists());
}

#[test]
fn hybrid_in_the_form_of_mixtral_repeats_the_dense_mlp_behind_gates_of_zeros() {
    let zoo = Zoo::usual();
    let text = zoo.text("dense_layers: 2", &EXPERTS);
    let plan = zoo.plan(&text).unwrap();
    // Two more copies of three matrices of 8 by 4 in f32, in each of two layers.
    assert!(plan.notes[0].contains(&format!("{} bytes more", 2 * 2 * 3 * 8 * 4 * 4)), "{:?}", plan.notes);
    let out = zoo.mix(&text, "out");
    for layer in 0..2 {
        assert_eq!(values(&out, &format!("model.layers.{layer}.block_sparse_moe.gate.weight")), vec![0.0; 3 * WIDTH]);
        for e in 0..3 {
            let ours = format!("model.layers.{layer}.block_sparse_moe.experts.{e}.w2.weight");
            let dense = format!("model.layers.{layer}.mlp.down_proj.weight");
            assert_eq!(bytes(&out, &ours), bytes(&zoo.path("base"), &dense));
        }
    }
    let sites = Sites::open(&out).unwrap();
    assert_eq!(
        (sites.form, sites.layers, sites.experts.join(" ")),
        (Form::Mixtral, vec![0, 1, 2], "x y z".to_string())
    );
    assert_eq!(read_gates(&out).unwrap().gates.len(), 3);
}

#[test]
fn a_shared_expert_asks_for_the_form_of_qwen2_moe() {
    let zoo = Zoo::usual();
    zoo.add("s", &llama(5.0));
    let lines = "dense_layers: 1\nshared_experts:\n- source_model: '@s'\n  residual_scale: 0.5";
    let out = zoo.mix(&zoo.text(lines, &EXPERTS), "out");
    check_trunk(&zoo, &out, |name| name.contains(".mlp.") && !name.contains("layers.0."));
    for layer in 1..LAYERS {
        let part = |part: &str| format!("model.layers.{layer}.mlp.{part}");
        assert_eq!(bytes(&out, &part("experts.1.up_proj.weight")), bytes(&zoo.path("y"), &part("up_proj.weight")));
        assert_eq!(bytes(&out, &part("shared_expert.up_proj.weight")), bytes(&zoo.path("s"), &part("up_proj.weight")));
        let half: Vec<f32> = values(&zoo.path("s"), &part("down_proj.weight")).iter().map(|x| x * 0.5).collect();
        assert_eq!(values(&out, &part("shared_expert.down_proj.weight")), half);
        assert_eq!(values(&out, &part("shared_expert_gate.weight")).len(), WIDTH);
    }
    // Llama has no biases; Qwen's attention has, and zeros change nothing.
    assert_eq!(values(&out, "model.layers.0.self_attn.k_proj.bias"), vec![0.0; 2]);
    let config = json_of(&out.join("config.json"));
    for (key, value) in [
        ("model_type", json!("qwen2_moe")),
        ("mlp_only_layers", json!([0])),
        ("norm_topk_prob", json!(true)),
        ("num_experts", json!(3)),
        ("moe_intermediate_size", json!(8)),
        ("shared_expert_intermediate_size", json!(8)),
        ("decoder_sparse_step", json!(1)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let sites = Sites::open(&out).unwrap();
    assert_eq!((sites.form, sites.layers, sites.shared.len()), (Form::Qwen2Moe, vec![1, 2], 2));
}

#[test]
fn native_levels_keep_names_and_bytes() {
    let zoo = Zoo::usual();
    for (level, prefix, unit, router) in [
        ("ffn", "mlp.experts.", "mlp.up_proj.weight", "linear"),
        ("block", "experts.", "mlp.up_proj.weight", "{kind: mlp, hidden_size: 5}"),
        ("model", "experts.", "self_attn.q_proj.weight", "linear"),
    ] {
        let lines = format!("level: {level}\nrouting: sample\npool: last\nrouter: {router}\ndense_layers: 1");
        let out = zoo.mix(&zoo.text(&lines, &EXPERTS), level);
        check_trunk(&zoo, &out, |name| {
            ["layers.1.", "layers.2."].iter().any(|layer| name.contains(layer))
                && (level != "ffn" || name.contains(".mlp."))
        });
        for (e, expert) in EXPERTS.iter().enumerate() {
            let inner = unit.trim_start_matches(if level == "ffn" { "mlp." } else { "" });
            let ours = format!("model.layers.2.{prefix}{e}.{inner}");
            assert_eq!(bytes(&out, &ours), bytes(&zoo.path(expert), &format!("model.layers.2.{unit}")), "{ours}");
        }
        let config = ModelDir::open(&out).unwrap().config().clone();
        let Some(Mixture::Shared(spec, base)) = Mixture::from_config(&config).unwrap() else {
            panic!("{level}: not a mixture with a shared trunk");
        };
        assert_eq!((spec.dense_layers, spec.mixed_layers, spec.experts_per_token), (1, vec![1, 2], 2));
        assert_eq!(base.to_value(), json_of(&zoo.path("base").join("config.json")));
        assert_eq!(read_gates(&out).unwrap().gates.len(), if level == "model" { 1 } else { 2 });
        assert!(out.join("modeling_glue_mixture.py").is_file());
        assert!(std::fs::read_to_string(out.join("README.md")).unwrap().contains("trust_remote_code"));
    }
}

#[test]
fn a_mixture_without_mixed_layers_is_the_base() {
    let zoo = Zoo::usual();
    for level in ["ffn", "block", "model"] {
        let out = zoo.mix(&zoo.text(&format!("level: {level}\ndense_layers: {LAYERS}"), &EXPERTS), level);
        assert_eq!(names(&out), names(&zoo.path("base")), "{level}");
        check_trunk(&zoo, &out, |_| false);
        assert!(out.join("model.safetensors").is_file());
    }
}

#[test]
fn whole_models_of_any_shape_and_vocabulary() {
    let zoo = Zoo::usual();
    let other = llama(9.0)
        .with("model.embed_tokens.weight", Dtype::F16, &[9, 2])
        .with_config("hidden_size", json!(2))
        .with_vocabulary(Some(vec!["q", "r"]));
    zoo.add("other", &other);
    let out = zoo.mix(&zoo.text("whole: true\nrouter_layer: 1", &["x", "other"]), "out");
    for (part, model) in [("experts/0", "x"), ("experts/1", "other"), ("router", "base")] {
        let ours = files_of(&out.join(part));
        let weights = names(&zoo.path(model));
        assert_eq!(names(&out.join(part)), weights);
        weights.iter().for_each(|name| assert_eq!(bytes(&out.join(part), name), bytes(&zoo.path(model), name)));
        assert_eq!(ours["tokenizer.json"], files_of(&zoo.path(model))["tokenizer.json"]);
        assert_eq!(json_of(&out.join(part).join("config.json")), json_of(&zoo.path(model).join("config.json")));
    }
    assert_eq!(names(&out), ["gate.bias", "gate.weight"].map(str::to_string).into());
    assert_eq!(values(&out, "gate.bias"), [0.0, 0.0]);
    let config = Config::open(out.join("config.json")).unwrap();
    let Some(Mixture::Whole(spec)) = Mixture::from_config(&config).unwrap() else {
        panic!("not a mixture of whole models");
    };
    assert_eq!((spec.router_model.as_str(), spec.router_layer), ("router", 1));
    // One of the experts may read the prompts.
    let text = zoo.resolve(
        "base_model: '@x'\ngate_mode: random\nwhole: true\nexperts: [{source_model: '@other'}, {source_model: '@x'}]",
    );
    let out = zoo.mix(&text, "shared");
    assert_eq!(json_of(&out.join("config.json"))["router_model"], "experts/1");
    assert!(!out.join("router").exists());
}

#[test]
fn noise_and_scale() {
    let zoo = Zoo::usual();
    let experts = "experts:\n- {source_model: '@x', noise_scale: 0.5}\n- {source_model: '@y', residual_scale: 2}\n- {source_model: '@z'}";
    let text = |seed: u64, order: &str| format!("base_model: '@base'\ngate_mode: random\nseed: {seed}\n{order}\n");
    let out = zoo.mix(&text(1, experts), "out");
    let name = |e: usize, part: &str| format!("model.layers.1.block_sparse_moe.experts.{e}.{part}.weight");
    let noise = |dir: &Path, e: usize| -> Vec<f32> {
        let original = values(&zoo.path("x"), "model.layers.1.mlp.up_proj.weight");
        values(dir, &name(e, "w3")).iter().zip(original).map(|(a, b)| a - b).collect()
    };
    let first = noise(&out, 0);
    let deviation = (first.iter().map(|x| x * x).sum::<f32>() / first.len() as f32).sqrt();
    // 32 numbers: their deviation lies within 40 % of 0.5 but for one time in a thousand, and the seed is fixed.
    assert!((deviation - 0.5).abs() < 0.2, "{deviation}");
    let doubled: Vec<f32> =
        values(&zoo.path("y"), "model.layers.1.mlp.down_proj.weight").iter().map(|x| 2.0 * x).collect();
    assert_eq!(values(&out, &name(1, "w2")), doubled);
    assert_eq!(values(&out, &name(1, "w1")), values(&zoo.path("y"), "model.layers.1.mlp.gate_proj.weight"));
    // The seed matters; the order of the experts and the number of threads do not.
    let reordered =
        experts.replace("- {source_model: '@z'}", "").replace("experts:\n", "experts:\n- {source_model: '@z'}\n");
    assert_eq!(noise(&zoo.mix(&text(1, &reordered), "reordered"), 1), first);
    assert_ne!(noise(&zoo.mix(&text(2, experts), "seed"), 0), first);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let serial = one.install(|| zoo.mix(&text(1, experts), "serial"));
    assert_eq!(
        files_of(&serial)["model-00001-of-00002.safetensors"],
        files_of(&out)["model-00001-of-00002.safetensors"]
    );
}

#[test]
fn permuting_experts_permutes_gates() {
    let zoo = Zoo::usual();
    let one = read_gates(zoo.mix(&zoo.text("level: block", &["x", "y", "z"]), "one")).unwrap();
    let other = read_gates(zoo.mix(&zoo.text("level: block", &["z", "x", "y"]), "other")).unwrap();
    for (a, b) in one.gates.iter().zip(&other.gates) {
        let (Gate::Linear { weight: a, .. }, Gate::Linear { weight: b, .. }) = (a, b) else { panic!("linear gates") };
        let rows = |w: &[f32]| -> Vec<Vec<f32>> { w.chunks(WIDTH).map(<[f32]>::to_vec).collect() };
        let (a, b) = (rows(a), rows(b));
        assert_eq!([&b[1], &b[2], &b[0]], [&a[0], &a[1], &a[2]]);
    }
}

#[test]
fn types_and_shards() {
    let zoo = Zoo::new();
    zoo.add("base", &llama(0.0).with_dtype(Dtype::F16));
    zoo.add("x", &llama(1.0).with_dtype(Dtype::Bf16));
    zoo.add("y", &llama(2.0));
    // Without `dtype` the type of the base.
    let out = zoo.mix(&zoo.text("", &["x", "y"]), "own");
    assert!(Checkpoint::open(&out).unwrap().tensors().iter().all(|info| info.dtype == Dtype::F16));
    assert_eq!(
        values(&out, "model.layers.0.block_sparse_moe.experts.1.w1.weight"),
        values(&zoo.path("y"), "model.layers.0.mlp.gate_proj.weight")
    );
    let text = zoo.text("dtype: bfloat16\nlevel: block", &["x", "y"]);
    let plan = zoo.plan(&text).unwrap();
    let out = zoo.path("sharded");
    run(&plan, &plan.random_gates(), &out, &RunOptions { max_shard_bytes: 500 }, &Unwatched).unwrap();
    let index = json_of(&out.join("model.safetensors.index.json"));
    let shards: BTreeSet<&str> =
        index["weight_map"].as_object().unwrap().values().map(|v| v.as_str().unwrap()).collect();
    assert!(shards.len() > 3, "{shards:?}");
    let present: BTreeSet<String> = files_of(&out).into_keys().filter(|name| name.contains("safetensors")).collect();
    let expected =
        shards.iter().map(|name| name.to_string()).chain(["model.safetensors.index.json".to_string()]).collect();
    assert_eq!(present, expected);
    // Gates stay f32 in the native form.
    for info in Checkpoint::open(&out).unwrap().tensors() {
        assert_eq!(info.dtype, if info.name.contains(".gate.") { Dtype::F32 } else { Dtype::Bf16 }, "{}", info.name);
    }
    let estimate = plan.estimate(2);
    assert_eq!(estimate.write_bytes, Checkpoint::open(&out).unwrap().total_bytes());
    assert_eq!(estimate.parameters, Checkpoint::open(&out).unwrap().n_parameters());
}

#[test]
fn active_parameters_are_those_that_a_token_meets() {
    let zoo = Zoo::usual();
    let mlp = 3 * 8 * WIDTH as u64 * LAYERS as u64;
    let dense = Checkpoint::open(zoo.path("base")).unwrap().n_parameters();
    let gates = (3 * WIDTH * LAYERS) as u64;
    let estimate = zoo.plan(&zoo.text("experts_per_token: 2", &EXPERTS)).unwrap().estimate(1);
    assert_eq!((estimate.parameters, estimate.active_parameters), (dense + 2 * mlp + gates, dense + mlp + gates));
}

#[test]
fn nothing_is_left_of_a_run_that_fails_and_nothing_is_overwritten() {
    let zoo = Zoo::usual();
    let plan = zoo.plan(&zoo.text("", &EXPERTS)).unwrap();
    let mut gates = plan.random_gates();
    gates.gates.pop();
    let failed = run(&plan, &gates, &zoo.path("out"), &RunOptions::default(), &Unwatched);
    assert!(matches!(&failed, Err(MixError::Gates { what, .. }) if what == "number of gates"), "{failed:?}");
    // A value that f16 cannot hold shows up while tensors are written.
    let huge = zoo
        .text("dtype: float16", &EXPERTS)
        .replace("source_model: '", "noise_scale: 1e30, source_model: '")
        .replace("- ", "- {");
    let huge: String =
        huge.lines().map(|l| if l.starts_with("- {") { format!("{l}}}\n") } else { format!("{l}\n") }).collect();
    let plan = zoo.plan(&huge).unwrap();
    let failed = run(&plan, &plan.random_gates(), &zoo.path("out"), &RunOptions::default(), &Unwatched);
    assert!(matches!(&failed, Err(MixError::NotFinite { .. })), "{failed:?}");
    let mut left: Vec<_> = std::fs::read_dir(zoo.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["base", "x", "y", "z"]);
    let plan = zoo.plan(&zoo.text("", &EXPERTS)).unwrap();
    let failed = run(&plan, &plan.random_gates(), &zoo.path("x"), &RunOptions::default(), &Unwatched);
    assert!(matches!(failed, Err(MixError::Write(_))), "{failed:?}");
}

/// The configurations that mergekit 0.1.5 writes for the same description; `transformers_version` is its own.
#[test]
fn configurations_are_those_of_mergekit() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/moe");
    for mode in ["cheap_embed", "hidden", "hidden_avg"] {
        let zoo = Zoo::new();
        let mut tiny = llama(0.0);
        tiny.config = json_of(&data.join("../zoo/base-a/config.json"));
        for name in ["base-a", "a-chat", "a-math", "a-code", "a-reason"] {
            let mut tiny = tiny.clone();
            let layer = tiny.tensors.clone();
            let copies = layer
                .iter()
                .filter(|t| t.0.contains("layers.0."))
                .map(|t| (t.0.replace("layers.0.", "layers.3."), t.1, t.2.clone()));
            tiny.tensors.extend(copies);
            zoo.add(name, &tiny);
        }
        let text = std::fs::read_to_string(data.join(mode).join("config.yml")).unwrap();
        let at = |path: &str| zoo.path(path).display().to_string();
        let text = text.replace("base_model: base-a", &format!("base_model: {}", at("base-a")));
        let text = text.replace("source_model: ", &format!("source_model: {}/", zoo.dir.path().display()));
        let plan = MixPlan::new(&MixConfig::parse(&text, "config.yml").unwrap()).unwrap();
        assert_eq!(plan.gate_request().mode.to_string(), mode);
        let gates: Gates = plan.random_gates();
        let out: PathBuf = zoo.path("out");
        run(&plan, &gates, &out, &RunOptions::default(), &Unwatched).unwrap();
        let (ours, theirs) = (json_of(&out.join("config.json")), json_of(&data.join(mode).join("config.json")));
        for (key, value) in theirs.as_object().unwrap() {
            let same = ours[key] == *value || ours[key].as_f64().is_some_and(|x| Some(x) == value.as_f64());
            assert!(same, "{mode}: `{key}` is {} and should be {value}", ours[key]);
        }
        // Ours has the older names beside the newer ones, as the base has.
        let extra: Vec<&String> = ours.as_object().unwrap().keys().filter(|key| theirs.get(*key).is_none()).collect();
        assert_eq!(extra, ["rope_theta", "torch_dtype"], "{mode}");
    }
}
