//! Configurations and checkpoints that are refused, each by the name of the key or the tensor; and tensors in memory.

use crate::support::{ARCHS, arch, close, data, floats, tokens, values, whole};
use glue_lm::{Architecture, LmError, Model, Tree, Want, Weight, Weights};
use glue_progress::ErrorChain;
use glue_tensor::{Checkpoint, Config, Dtype, narrow};
use serde_json::{Value, json};

/// The configuration of an arch with `changes`; a change to null takes the key away.
fn config(name: &str, changes: Value) -> Config {
    let text = std::fs::read(data("archs").join(name).join("config.json")).unwrap();
    let mut value: Value = serde_json::from_slice(&text).unwrap();
    for (key, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => value.as_object_mut().unwrap().shift_remove(key),
            change => value.as_object_mut().unwrap().insert(key.clone(), change.clone()),
        };
    }
    Config::from_value(value).unwrap()
}

/// The tensors of an arch in memory, narrowed to `dtype`.
fn tensors(name: &str, dtype: Dtype) -> Vec<(String, Weight)> {
    let checkpoint = Checkpoint::open(data("archs").join(name)).unwrap();
    let one = |view: glue_tensor::TensorView<'_>| {
        let (values, shape) = floats(&checkpoint, view.name());
        let mut bytes = vec![0; values.len() * dtype.size()];
        narrow(dtype, &values, &mut bytes).unwrap();
        (view.name().to_owned(), Weight::owned(dtype, shape, bytes).unwrap())
    };
    checkpoint.views().map(one).collect()
}

#[test]
fn keys_that_change_the_computation() {
    let check = |name: &str, changes: Value, expected: &str| {
        let error = Architecture::from_config(&config(name, changes.clone())).expect_err(&changes.to_string());
        assert!(error.to_string().contains(expected), "{changes}: {error}");
    };
    let refused = [
        ("llama2", json!({"model_type": "gpt2"}), "`model_type` in the configuration is \"gpt2\""),
        ("llama2", json!({"architectures": ["LlamaForSequenceClassification"]}), "`architectures`"),
        (
            "llama2",
            json!({"model_type": null, "architectures": ["Foo"]}),
            "`architectures` in the configuration is \"Foo\"",
        ),
        ("llama2", json!({"model_type": null, "architectures": null}), "`model_type` is missing"),
        (
            "llama2",
            json!({"quantization_config": {"bits": 4}}),
            "`quantization_config` in the configuration is {\"bits\":4}",
        ),
        ("llama2", json!({"hidden_act": "mish"}), "`hidden_act` in the configuration is \"mish\""),
        ("gemma2", json!({"hidden_activation": "mish"}), "`hidden_activation`"),
        ("llama2", json!({"hidden_size": null}), "`hidden_size` is missing"),
        ("llama2", json!({"vocab_size": null}), "`vocab_size` is missing"),
        ("llama2", json!({"num_hidden_layers": null}), "`num_hidden_layers` is missing"),
        (
            "llama2",
            json!({"num_attention_heads": 0}),
            "`num_attention_heads` in the configuration should be a positive",
        ),
        ("llama2", json!({"num_key_value_heads": 3}), "`num_key_value_heads`"),
        (
            "llama2",
            json!({"head_dim": null, "hidden_size": 30}),
            "`hidden_size` in the configuration should be a multiple",
        ),
        ("llama2", json!({"rms_norm_eps": 0}), "`rms_norm_eps`"),
        ("llama2", json!({"attention_bias": "yes"}), "`attention_bias` in the configuration should be true or false"),
        (
            "llama2",
            json!({"rope_parameters": {"rope_type": "spiral"}}),
            "`rope_parameters.rope_type` in the configuration is \"spiral\"",
        ),
        ("llama2", json!({"rope_parameters": {"rope_type": "linear"}}), "`rope_parameters.factor` is missing"),
        (
            "llama2",
            json!({"rope_parameters": null, "rope_scaling": {"type": "yarn", "factor": -1}}),
            "`rope_scaling.factor`",
        ),
        (
            "llama2",
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            "`partial_rotary_factor`",
        ),
        (
            "phi3",
            json!({"rope_parameters": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1]}}),
            "`rope_parameters.short_factor` in the configuration should be a list of 4",
        ),
        ("llama2", json!({"rope_theta": -1.0, "rope_parameters": null}), "rope_theta`"),
        ("llama2", json!({"attn_logit_softcapping": 50.0}), "`attn_logit_softcapping` in the configuration is 50.0"),
        ("llama2", json!({"final_logit_softcapping": 30.0}), "`final_logit_softcapping`"),
        ("llama2", json!({"query_pre_attn_scalar": 64}), "`query_pre_attn_scalar`"),
        ("llama2", json!({"logits_scaling": 8.0}), "`logits_scaling`"),
        ("llama2", json!({"residual_multiplier": 0.2}), "`residual_multiplier`"),
        ("llama2", json!({"alibi": true}), "`alibi`"),
        ("llama2", json!({"num_experts": 8}), "`num_experts`"),
        ("llama2", json!({"position_embedding_type": "alibi"}), "`position_embedding_type`"),
        ("llama2", json!({"num_nextn_predict_layers": 1}), "`num_nextn_predict_layers`"),
        ("llama2", json!({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}), "`layer_types`"),
        (
            "qwen2",
            json!({"layer_types": ["full_attention", "linear_attention", "full_attention"]}),
            "`layer_types` in the configuration is \"linear_attention\"",
        ),
        (
            "qwen2",
            json!({"layer_types": ["full_attention"]}),
            "`layer_types` in the configuration should be a list of 3",
        ),
        ("mistral-window", json!({"attention_bias": true}), "`attention_bias`"),
        ("mistral-window", json!({"sliding_window": 0}), "`sliding_window`"),
        ("gemma2", json!({"use_bidirectional_attention": true}), "`use_bidirectional_attention`"),
        ("mixtral", json!({"num_experts_per_tok": 5}), "`num_experts_per_tok`"),
        ("mixtral", json!({"norm_topk_prob": false}), "`norm_topk_prob`"),
    ];
    for (name, changes, expected) in refused {
        check(name, changes, expected);
    }
}

#[test]
fn keys_of_ordinary_configurations_are_accepted() {
    for changes in [
        json!({"_name_or_path": "x/y", "auto_map": {"AutoConfig": "c.C"}, "id2label": {"0": "a"}, "do_sample": true, "temperature": 0.6}),
        json!({"pretraining_tp": 2, "use_cache": false, "attention_dropout": 0.1, "router_jitter_noise": 0.1}),
        json!({"quantization_config": null, "is_encoder_decoder": false, "alibi": false, "logits_scaling": 1.0}),
        json!({"position_embedding_type": "rope", "num_nextn_predict_layers": 0, "num_experts": 1, "clip_qkv": null}),
        json!({"model_type": null}),
        json!({"architectures": null}),
    ] {
        let changed = Architecture::from_config(&config("llama2", changes.clone()));
        let plain = Architecture::from_config(&config("llama2", json!({}))).unwrap();
        assert_eq!(changed.unwrap_or_else(|error| panic!("{changes}: {error}")), plain);
    }
}

/// The configuration classes of transformers 5.23, asked for each key with `CONFIG_MAPPING[type]().KEY`.
#[test]
fn defaults_of_absent_keys() {
    let without = |name: &str| {
        let absent = ["num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act"];
        let more = ["hidden_activation", "rope_parameters", "sliding_window", "tie_word_embeddings", "layer_types"];
        let more_still =
            ["query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "attention_bias"];
        let keys = absent.into_iter().chain(more).chain(more_still).map(|key| (key.to_owned(), Value::Null));
        let mut changes: serde_json::Map<_, _> = keys.collect();
        changes.insert("hidden_size".into(), 2048.into());
        changes.insert("num_attention_heads".into(), 32.into());
        Architecture::from_config(&config(name, Value::Object(changes))).unwrap()
    };
    type Row = (&'static str, usize, usize, usize, f32, Option<usize>, f32, Option<bool>);
    let table: [Row; 8] = [
        ("llama2", 32, 64, 2048, 1e-6, None, 1e4, None),
        ("mistral-window", 8, 64, 131_072, 1e-6, Some(4096), 1e4, None),
        ("mixtral", 8, 64, 131_072, 1e-5, None, 1e6, None),
        ("qwen2", 32, 64, 32_768, 1e-6, None, 1e4, None),
        ("qwen3", 32, 128, 32_768, 1e-6, None, 1e4, None),
        ("gemma2", 4, 256, 8192, 1e-6, Some(4096), 1e4, Some(true)),
        ("phi3", 32, 64, 4096, 1e-5, None, 1e4, None),
        ("olmo2", 32, 64, 2048, 1e-5, None, 1e4, None),
    ];
    for (name, kv_heads, head_dim, max_positions, eps, window, theta, tied) in table {
        let found = without(name);
        assert_eq!(
            (found.kv_heads, found.head_dim, found.max_positions),
            (kv_heads, head_dim, max_positions),
            "{name}"
        );
        assert_eq!((found.norm_eps, found.layers[0].window, found.tied), (eps, window, tied), "{name}");
        // The second frequency of d dimensions is theta^(-2/d).
        let second = f64::from(theta).powf(-2.0 / head_dim as f64) as f32;
        assert_eq!(found.ropes[0].at_length(1)[1], second, "{name}");
    }
    let gemma = without("gemma2");
    assert_eq!(
        (gemma.attention_softcap, gemma.final_softcap, gemma.attention_scale),
        (Some(50.0), Some(30.0), 1.0 / 16.0)
    );
    assert_eq!(gemma.layers.iter().map(|layer| layer.window).collect::<Vec<_>>(), [Some(4096), None, Some(4096)]);
}

/// What is done to the tensors before the model is put together.
type Change<'a> = &'a dyn Fn(&mut Vec<(String, Weight)>);

#[test]
fn tensors_missing_misshapen_or_left_over() {
    let check = |name: &str, changes: Value, change: Change<'_>, expected: &str| {
        let mut tensors = tensors(name, Dtype::F32);
        change(&mut tensors);
        let error = Model::new(&config(name, changes), Weights::from_tensors(tensors)).unwrap_err();
        assert_eq!(error.chain(), expected);
    };
    let drop = |name: &'static str| move |tensors: &mut Vec<(String, Weight)>| tensors.retain(|(n, _)| n != name);
    let add = |name: &'static str, shape: &'static [usize]| {
        move |tensors: &mut Vec<(String, Weight)>| {
            let zeros = vec![0; 4 * shape.iter().product::<usize>()];
            tensors.push((name.to_owned(), Weight::owned(Dtype::F32, shape.to_vec(), zeros).unwrap()));
        }
    };
    let same = |_: &mut Vec<(String, Weight)>| ();
    check(
        "llama2",
        json!({}),
        &drop("model.layers.1.mlp.up_proj.weight"),
        "tensor `model.layers.1.mlp.up_proj.weight` of shape [64, 32] is missing from the checkpoint",
    );
    check(
        "llama2",
        json!({}),
        &drop("lm_head.weight"),
        "tensor `lm_head.weight` of shape [99, 32] is missing from the checkpoint",
    );
    check(
        "llama2",
        json!({"vocab_size": 100}),
        &same,
        "tensor `model.embed_tokens.weight` should have shape [100, 32] by the configuration, but has [99, 32]",
    );
    check(
        "llama2",
        json!({"num_hidden_layers": 2}),
        &same,
        "tensor `model.layers.2.input_layernorm.weight` is in the checkpoint, but `num_hidden_layers` is 2, counted from 0",
    );
    check(
        "llama-bias",
        json!({"mlp_bias": false}),
        &same,
        "tensor `model.layers.0.mlp.down_proj.bias` is in the checkpoint, but the configuration asks for no such bias",
    );
    check(
        "llama2",
        json!({"attention_bias": true}),
        &same,
        "tensor `model.layers.0.self_attn.q_proj.bias` of shape [32] is missing from the checkpoint",
    );
    check(
        "llama2",
        json!({}),
        &add("model.layers.0.self_attn.q_norm.weight", &[8]),
        "tensor `model.layers.0.self_attn.q_norm.weight` is in the checkpoint, but a model of type llama with this \
         configuration has no use for it",
    );
}

#[test]
fn tensors_that_carry_nothing_are_accepted() {
    let zeros = |shape: &[usize]| {
        Weight::owned(Dtype::F32, shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()]).unwrap()
    };
    let mut tied = tensors("llama3-scaled-tied", Dtype::F32);
    tied.push(("lm_head.weight".to_owned(), zeros(&[99, 32])));
    tied.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), zeros(&[4])));
    let model = Model::new(&config("llama3-scaled-tied", json!({})), Weights::from_tensors(tied)).unwrap();
    let text = tokens(9, 99, 1);
    assert_eq!(whole(&model, &text), whole(&arch("llama3-scaled-tied"), &text));
}

#[test]
fn a_head_that_is_absent_is_the_embedding_unless_the_configuration_says_otherwise() {
    let mut without = tensors("llama3-scaled-tied", Dtype::F32);
    without.retain(|(name, _)| name != "lm_head.weight");
    let silent = config("llama3-scaled-tied", json!({"tie_word_embeddings": null}));
    let model = Model::new(&silent, Weights::from_tensors(without)).unwrap();
    let text = tokens(9, 99, 1);
    assert_eq!(whole(&model, &text), whole(&arch("llama3-scaled-tied"), &text));
}

#[test]
fn tensors_in_memory_are_the_tensors_on_disk() {
    for name in ARCHS {
        let model = Model::new(&config(name, json!({})), Weights::from_tensors(tensors(name, Dtype::F32))).unwrap();
        let text = tokens(15, model.vocab_size(), 2);
        assert_eq!(whole(&model, &text), whole(&arch(name), &text), "{name}");
    }
}

/// Widening is exact: a model of half-precision weights is the f32 model of the same numbers.
#[test]
fn stored_types_compute_as_their_widened_numbers() {
    for name in ARCHS {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let half = tensors(name, dtype);
            let wide = half.iter().map(|(name, weight)| {
                let view = weight.bytes();
                let mut values = vec![0.0; view.len() / dtype.size()];
                glue_tensor::widen(dtype, view, &mut values).unwrap();
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (name.clone(), Weight::owned(Dtype::F32, weight.shape().to_vec(), bytes).unwrap())
            });
            let wide = Model::new(&config(name, json!({})), Weights::from_tensors(wide)).unwrap();
            let half = Model::new(&config(name, json!({})), Weights::from_tensors(half.clone())).unwrap();
            let text = tokens(15, 99, 2);
            close(name, &whole(&half, &text), &whole(&wide, &text), 0.0);
        }
    }
}

#[test]
fn stacked_experts_are_the_experts() {
    let separate = tensors("mixtral", Dtype::F32);
    let get = |name: String| separate.iter().find(|(n, _)| *n == name).unwrap().1.bytes().to_vec();
    let mut stacked: Vec<_> = separate.iter().filter(|(name, _)| !name.contains("block_sparse_moe")).cloned().collect();
    for layer in 0..3 {
        let part = |expert: usize, part: &str| {
            get(format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight"))
        };
        let gate_up: Vec<u8> = (0..4).flat_map(|e| [part(e, "w1"), part(e, "w3")].concat()).collect();
        let down: Vec<u8> = (0..4).flat_map(|e| part(e, "w2")).collect();
        let gate = get(format!("model.layers.{layer}.block_sparse_moe.gate.weight"));
        for (name, shape, bytes) in [
            ("experts.gate_up_proj", vec![4, 128, 32], gate_up),
            ("experts.down_proj", vec![4, 32, 64], down),
            ("gate.weight", vec![4, 32], gate),
        ] {
            let weight = Weight::owned(Dtype::F32, shape, bytes).unwrap();
            stacked.push((format!("model.layers.{layer}.mlp.{name}"), weight));
        }
    }
    let model = Model::new(&config("mixtral", json!({})), Weights::from_tensors(stacked)).unwrap();
    let text = tokens(15, 99, 2);
    assert_eq!(whole(&model, &text), whole(&arch("mixtral"), &text));
}

#[test]
fn trees_and_tokens_of_another_model() {
    let model = arch("llama2");
    let mut tree = Tree::new();
    tree.push(None, &[1, 99]);
    let error = model.forward(&mut tree, &Want::ALL).unwrap_err();
    assert!(matches!(error, LmError::Token { token: 99, vocab_size: 99 }), "{error}");

    let mut tree = Tree::new();
    let branch = tree.push(None, &[1, 2]);
    model.forward(&mut tree, &Want::ALL).unwrap();
    tree.extend(branch, &[3]);
    let other = Model::open(data("zoo").join("a-math")).unwrap();
    let error = other.forward(&mut tree, &Want::ALL).unwrap_err();
    assert_eq!(error.to_string(), "the tree holds keys and values of a model with 3 layers, and this one has 4");
    assert_eq!(values(&model.forward(&mut tree, &Want::ALL).unwrap().logits).len(), 99);
}

/// The configuration of a model in `archs-extra` with `changes`, as [`config`] makes them.
fn further_config(name: &str, changes: &Value) -> Config {
    let text = std::fs::read(data("archs-extra").join(name).join("config.json")).unwrap();
    let mut value: Value = serde_json::from_slice(&text).unwrap();
    for (key, change) in changes.as_object().unwrap() {
        value.as_object_mut().unwrap().insert(key.clone(), change.clone());
    }
    Config::from_value(value).unwrap()
}

#[test]
fn keys_of_further_families() {
    for (name, changes, expected) in [
        ("gemma3", json!({"attn_logit_softcapping": 50.0}), "`attn_logit_softcapping`"),
        ("gemma3", json!({"use_bidirectional_attention": true}), "`use_bidirectional_attention`"),
        ("gemma3", json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}), "`rope_parameters.rope_type`"),
        ("gemma3", json!({"rope_parameters": {"full_attention": 3}}), "`rope_parameters.full_attention`"),
        ("gemma3", json!({"sliding_window_pattern": 0, "layer_types": null}), "`sliding_window_pattern`"),
        ("olmo3", json!({"sliding_window_pattern": 2}), "`sliding_window_pattern`"),
        ("smollm3", json!({"no_rope_layers": [1, 1, 0]}), "`no_rope_layers` in the configuration should be a list"),
        ("smollm3", json!({"no_rope_layers": [1, 2, 1, 0]}), "`no_rope_layers`"),
        ("granite", json!({"logits_scaling": 0}), "`logits_scaling` in the configuration should be a positive number"),
        ("granite", json!({"logit_scale": 2.0}), "`logit_scale`"),
        ("glm4", json!({"embedding_multiplier": 2.0}), "`embedding_multiplier`"),
        ("glm4", json!({"rope_parameters": {"partial_rotary_factor": 0.1}}), "partial_rotary_factor"),
        ("cohere2", json!({"use_parallel_block": false}), "`use_parallel_block` in the configuration is false"),
        ("cohere2", json!({"position_embedding_type": "alibi"}), "`position_embedding_type`"),
        ("cohere2", json!({"use_qk_norm": true}), "`use_qk_norm`"),
        ("gpt-oss", json!({"quantization_config": {"quant_method": "fp8"}}), "only the `quant_method` mxfp4 is"),
        ("gpt-oss", json!({"hidden_act": "gelu"}), "`hidden_act`"),
        ("gpt-oss", json!({"swiglu_limit": 0}), "`swiglu_limit`"),
        ("llama4", json!({"attention_chunk_size": 0}), "`attention_chunk_size`"),
        ("llama4", json!({"moe_layers": ["x"]}), "`moe_layers` in the configuration should be a list of layers"),
        (
            "llama4",
            json!({"layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"]}),
            "layers are full_attention or chunked_attention",
        ),
        ("llama4", json!({"floor_scale": 0}), "`floor_scale`"),
        ("deepseek-v2", json!({"topk_method": "noaux_tc"}), "`topk_method`"),
        ("deepseek-v2", json!({"norm_topk_prob": true}), "`norm_topk_prob`"),
        ("deepseek-v2", json!({"n_group": 4}), "`n_group` in the configuration should be a divisor of 6 experts"),
        ("deepseek-v2", json!({"topk_group": null}), "`topk_group` is missing"),
        ("deepseek-v2", json!({"moe_layer_freq": 2}), "`moe_layer_freq`"),
        ("deepseek-v2", json!({"num_key_value_heads": 1}), "`num_key_value_heads`"),
        ("deepseek-v3", json!({"scoring_func": "softmax"}), "`scoring_func`"),
        (
            "deepseek-v3",
            json!({"topk_group": 1}),
            "`topk_group` in the configuration should be at most 4 groups, with \
            at least 3",
        ),
        ("deepseek-v3", json!({"n_group": 8}), "with at least 2 of them in each group"),
        ("qwen3-moe", json!({"shared_expert_intermediate_size": 8}), "`shared_expert_intermediate_size`"),
        (
            "qwen3-moe",
            json!({"model_type": "qwen4"}),
            "llama4_text, deepseek_v2, deepseek_v3, gemma3, mistral3, llama4 is",
        ),
    ] {
        let error = Architecture::from_config(&further_config(name, &changes)).expect_err(&changes.to_string());
        assert!(error.to_string().contains(expected), "{name}, {changes}: {error}");
    }
}

/// The configuration classes of transformers 5.24, asked for each key with `CONFIG_MAPPING[type](hidden_size=2048,
/// num_attention_heads=32, num_hidden_layers=8).KEY`.
#[test]
fn defaults_of_absent_keys_in_further_families() {
    let of = |model_type: &str| {
        let config = json!({"model_type": model_type, "hidden_size": 2048, "num_attention_heads": 32, "vocab_size": 99,
            "num_hidden_layers": 8, "intermediate_size": 64, "num_experts_per_tok": 2});
        Architecture::from_config(&Config::from_value(config).unwrap()).unwrap()
    };
    type Row = (&'static str, usize, usize, usize, f32, Option<usize>, f64, Option<bool>);
    let table: [Row; 11] = [
        ("qwen3_moe", 4, 64, 32_768, 1e-6, None, 1e4, None),
        ("gemma3_text", 4, 256, 131_072, 1e-6, Some(4096), 1e6, Some(true)),
        ("olmo3", 32, 64, 2048, 1e-5, Some(4096), 5e5, None),
        ("smollm3", 4, 64, 32_768, 1e-6, None, 2e6, Some(true)),
        ("granite", 32, 64, 2048, 1e-6, None, 1e4, None),
        ("glm4", 2, 128, 131_072, 1.5625e-7, None, 1e4, None),
        ("cohere2", 32, 64, 8192, 1e-5, Some(4096), 1e4, Some(true)),
        ("gpt_oss", 8, 64, 131_072, 1e-5, Some(128), 150_000.0, None),
        ("llama4_text", 8, 128, 131_072, 1e-5, None, 5e5, None),
        ("deepseek_v2", 32, 192, 2048, 1e-6, None, 1e4, None),
        ("deepseek_v3", 32, 192, 4096, 1e-6, None, 1e4, None),
    ];
    for (name, kv_heads, head_dim, max_positions, eps, window, theta, tied) in table {
        let found = of(name);
        let sizes = (found.kv_heads, found.head_dim, found.max_positions);
        assert_eq!(sizes, (kv_heads, head_dim, max_positions), "{name}");
        assert_eq!((found.norm_eps, found.layers[0].window, found.tied), (eps, window, tied), "{name}");
        // The second frequency of d rotated dimensions is theta^(-2/d).
        if name != "gpt_oss" {
            let second = theta.powf(-2.0 / found.ropes[0].dims as f64) as f32;
            assert_eq!(found.ropes[0].at_length(1)[1], second, "{name}");
        }
    }
    let windows = |name: &str| of(name).layers.iter().map(|layer| layer.window.is_some()).collect::<Vec<_>>();
    let local = |every: usize| (1..=8).map(|layer| layer % every != 0).collect::<Vec<_>>();
    assert_eq!([windows("gemma3_text"), windows("olmo3"), windows("cohere2")], [local(6), local(4), local(4)]);
    let rotated = |name: &str| of(name).layers.iter().map(|layer| layer.rope.is_some()).collect::<Vec<_>>();
    assert_eq!([rotated("smollm3"), rotated("llama4_text"), rotated("cohere2")], [local(4), local(4), local(4)]);
    let gemma = of("gemma3_text");
    assert_eq!((gemma.attention_scale, gemma.final_softcap, gemma.attention_softcap), (1.0 / 16.0, None, None));
    // Layers with a window have a base of their own.
    assert_eq!(gemma.ropes[1].at_length(1)[1], 1e4f64.powf(-2.0 / 256.0) as f32);
    // The yarn of gpt-oss has factor 32: 0.1 · ln 32 + 1.
    assert_eq!(of("gpt_oss").ropes[0].attention_factor, (0.1 * 32f64.ln() + 1.0) as f32);
    let llama = of("llama4_text");
    assert_eq!((llama.layers[0].chunk, llama.layers[3].chunk, llama.intermediate_size), (Some(8192), None, 16384));
    let (glm, cohere) = (of("glm4"), of("cohere2"));
    assert_eq!((glm.ropes[0].dims, glm.qkv_bias, glm.output_bias, cohere.logit_scale), (64, true, false, 0.0625));
    let experts = |name: &str| {
        let experts = of(name).experts.unwrap();
        (experts.count, experts.intermediate_size, experts.normalised, experts.scale, experts.shared)
    };
    assert_eq!(experts("qwen3_moe"), (128, 768, false, 1.0, None));
    assert_eq!(experts("gpt_oss"), (128, 64, true, 1.0, None));
    assert_eq!(experts("llama4_text"), (16, 64, false, 1.0, Some(64)));
    assert_eq!(experts("deepseek_v2"), (64, 1407, false, 1.0, Some(2 * 1407)));
    assert_eq!(experts("deepseek_v3"), (256, 2048, true, 2.5, Some(2048)));
    let mixed = |name: &str| of(name).layers.iter().filter(|layer| layer.experts).count();
    assert_eq!([mixed("deepseek_v2"), mixed("deepseek_v3"), mixed("qwen3_moe")], [8, 5, 8]);
}

/// Keys that change something as published configurations have them: of gemma-3-4b-it, which leaves out what is the
/// default of its class, Llama 4 Scout, Command R7B and gpt-oss-20b.
#[test]
fn configurations_as_published() {
    let of = |config: Value| Architecture::from_config(&Config::from_value(config).unwrap()).unwrap();
    let gemma = of(json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
        "mm_tokens_per_image": 256, "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    }));
    assert_eq!((gemma.heads, gemma.kv_heads, gemma.head_dim, gemma.vocab_size), (8, 4, 256, 262_208));
    assert_eq!((gemma.layers[4].window, gemma.layers[5].window, gemma.tied), (Some(1024), None, None));
    let [full, local] = [&gemma.ropes[gemma.layers[5].rope.unwrap()], &gemma.ropes[gemma.layers[4].rope.unwrap()]];
    assert_eq!((full.at_length(1)[0], local.at_length(1)[0]), (0.125, 1.0));

    let llama = of(json!({
        "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "vision_config": {},
        "text_config": {"model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192,
            "intermediate_size_mlp": 16384, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
            "num_hidden_layers": 48, "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
            "attention_chunk_size": 8192, "attn_temperature_tuning": 4, "floor_scale": 8192, "attn_scale": 0.1,
            "no_rope_layers": [], "use_qk_norm": true, "rope_theta": 500000.0, "vocab_size": 202_048,
            "max_position_embeddings": 10_485_760, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0,
            "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    }));
    assert!(llama.layers.iter().all(|layer| layer.experts) && llama.temperature.is_some());
    assert_eq!(llama.layers.iter().filter(|layer| layer.rope.is_none()).count(), 12);

    let cohere = of(json!({
        "architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", "hidden_size": 4096, "head_dim": 128,
        "intermediate_size": 14336, "layer_norm_eps": 1e-5, "layer_switch": 4, "logit_scale": 0.25,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 256_000,
        "order_of_interleaved_layers": "local_attn_first", "position_embedding_type": "rope_gptj", "rope_scaling": null,
        "rope_theta": 50000, "rotary_pct": 1.0, "sliding_window": 4096, "sliding_window_pattern": 4,
        "use_embedding_sharing": true, "use_gated_activation": true, "use_parallel_block": true, "use_qk_norm": false,
    }));
    assert_eq!((cohere.logit_scale, cohere.layers[2].window, cohere.layers[3].rope), (0.25, Some(4096), None));

    let oss = of(json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": true, "head_dim": 64,
        "experts_per_token": 4, "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
        "intermediate_size": 2880, "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
        "num_key_value_heads": 8, "num_local_experts": 32, "vocab_size": 201_088, "sliding_window": 128,
        "swiglu_limit": 7.0, "rope_theta": 150_000, "rms_norm_eps": 1e-5, "max_position_embeddings": 131_072,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn", "truncate": false,
            "original_max_position_embeddings": 4096},
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    }));
    assert_eq!(
        oss.ropes,
        of(json!({
            "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
            "num_hidden_layers": 24, "vocab_size": 201_088,
        }))
        .ropes
    );
}
