//! Configurations in the old form and the new.
//!
//! `data/configs/ARCH.json` are `config.json` files that transformers 5.23 saves for small random models.

use glue_progress::ErrorChain;
use glue_tensor::config::Rope;
use glue_tensor::{Config, ConfigError, Dtype};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn path(arch: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/configs/{arch}.json"))
}

fn of(value: Value) -> Config {
    Config::from_value(value).unwrap()
}

#[test]
fn saved_configurations_are_read() {
    let check = |arch: &str, model_type: &str, heads: (usize, usize, usize), theta: f64, kind: &str| {
        let config = Config::open(path(arch)).unwrap();
        assert_eq!(config.model_type(), Some(model_type), "{arch}");
        assert_eq!(config.num_layers(), Some(3), "{arch}");
        assert_eq!((config.hidden_size(), config.intermediate_size()), (Some(32), Some(64)), "{arch}");
        let found = (config.num_heads(), config.num_kv_heads(), config.head_dim());
        assert_eq!(found, (Some(heads.0), Some(heads.1), Some(heads.2)), "{arch}");
        assert_eq!((config.vocab_size(), config.max_position_embeddings()), (Some(99), Some(128)), "{arch}");
        assert_eq!(config.dtype(), Some(Dtype::F32), "{arch}");
        assert_eq!(config.architectures().len(), 1, "{arch}");
        let rope = config.rope().unwrap();
        assert_eq!((rope.theta, rope.kind.as_str(), rope.partial), (theta, kind, 1.0), "{arch}");
    };
    check("gemma2", "gemma2", (4, 2, 8), 1e4, "default");
    check("llama-bias", "llama", (4, 2, 8), 1e4, "default");
    check("llama-linear-rope", "llama", (4, 2, 8), 1e4, "linear");
    check("llama2", "llama", (4, 4, 8), 1e4, "default");
    check("llama3-scaled-tied", "llama", (4, 2, 8), 5e5, "llama3");
    check("mistral-window", "mistral", (4, 2, 8), 1e4, "default");
    check("mixtral", "mixtral", (4, 2, 8), 1e6, "default");
    check("olmo2", "olmo2", (4, 2, 8), 1e4, "default");
    check("phi3", "phi3", (4, 2, 8), 1e4, "default");
    check("qwen2", "qwen2", (4, 2, 8), 1e4, "default");
    check("qwen3", "qwen3", (4, 2, 16), 1e4, "default");
}

#[test]
fn files_are_kept_with_the_order_of_their_keys() {
    for entry in fs::read_dir(path("x").parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let written = String::from_utf8(Config::open(&path).unwrap().to_bytes()).unwrap();
        // Only the spelling of small numbers differs: Python writes 1e-05 where this crate writes 0.00001 or 1e-5.
        let line = |line: &str| line.replace("0.00001,", "1e-05,").replace("1e-6,", "1e-06,");
        assert_eq!(
            written.lines().map(line).collect::<Vec<_>>(),
            text.lines().collect::<Vec<_>>(),
            "{}",
            path.display()
        );
        let of_text: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), of_text, "{}", path.display());
    }
}

#[test]
fn old_and_new_rope_agree() {
    let check = |old: Value, new: Value| {
        let (old, new) = (of(old), of(new));
        assert_eq!(old.ropes(), new.ropes(), "{old:?}");
    };
    check(json!({ "rope_theta": 5e5 }), json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 5e5 } }));
    check(
        json!({ "rope_theta": 1e4, "rope_scaling": { "type": "linear", "factor": 4.0 } }),
        json!({ "rope_parameters": { "rope_type": "linear", "factor": 4.0, "rope_theta": 1e4 } }),
    );
    check(
        json!({ "rope_theta": 1e4, "partial_rotary_factor": 0.4, "rope_scaling": null }),
        json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4 } }),
    );
    check(
        json!({ "rope_theta": 1e4, "rope_scaling": { "type": "su", "long_factor": [1.0], "short_factor": [1.0] } }),
        json!({ "rope_parameters": { "rope_type": "longrope", "rope_theta": 1e4, "long_factor": [1.0], "short_factor": [1.0] } }),
    );
    check(
        json!({ "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": { "rope_type": "linear", "factor": 8.0 } }),
        json!({ "rope_parameters": {
            "full_attention": { "rope_type": "linear", "rope_theta": 1e6, "factor": 8.0 },
            "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
        } }),
    );
    check(
        json!({ "rotary_emb_base": 10000, "rotary_pct": 0.25 }),
        json!({ "rope_theta": 1e4, "partial_rotary_factor": 0.25 }),
    );
}

#[test]
fn rope_of_each_layer_type() {
    let config = of(json!({ "rope_parameters": {
        "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
        "full_attention": { "rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0 },
    } }));
    let types: Vec<_> = config.ropes().into_iter().map(|rope| rope.layer_type.unwrap()).collect();
    assert_eq!(types, ["sliding_attention", "full_attention"]);
    let Rope { theta, kind, parameters, .. } = config.rope().unwrap();
    assert_eq!((theta, kind.as_str(), Value::Object(parameters)), (1e6, "yarn", json!({ "factor": 2.0 })));
    assert_eq!(of(json!({ "hidden_size": 8 })).rope(), None);
    let defaulted = of(json!({ "rope_scaling": { "type": "dynamic", "factor": 2 } })).rope().unwrap();
    assert_eq!((defaulted.theta, defaulted.kind.as_str()), (1e4, "dynamic"));
}

#[test]
fn other_names_for_the_same() {
    let gpt2 = of(
        json!({ "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_inner": null, "n_positions": 1024 }),
    );
    let found = (gpt2.num_layers(), gpt2.hidden_size(), gpt2.num_heads(), gpt2.num_kv_heads(), gpt2.head_dim());
    assert_eq!(found, (Some(12), Some(768), Some(12), Some(12), Some(64)));
    assert_eq!((gpt2.intermediate_size(), gpt2.max_position_embeddings()), (None, Some(1024)));
    let mpt = of(json!({ "n_layers": 2, "d_model": 64, "n_heads": 4, "max_seq_len": 2048 }));
    assert_eq!((mpt.num_layers(), mpt.hidden_size(), mpt.max_position_embeddings()), (Some(2), Some(64), Some(2048)));
    assert_eq!(of(json!({ "hidden_size": 8, "num_attention_heads": 0 })).head_dim(), None);
}

#[test]
fn tied_embeddings() {
    let check = |value: Value, expected| assert_eq!(of(value).tie_word_embeddings(), expected);
    check(json!({ "model_type": "llama", "tie_word_embeddings": true }), Some(true));
    check(json!({ "model_type": "gemma", "tie_word_embeddings": false }), Some(false));
    for untied in ["llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "mixtral", "granite", "glm4", "gpt_oss"] {
        check(json!({ "model_type": untied }), Some(false));
    }
    for tied in ["gemma", "gemma2", "gemma3_text", "smollm3"] {
        check(json!({ "model_type": tied }), Some(true));
    }
    check(json!({ "model_type": "brand-new" }), None);
    check(json!({}), None);
    check(json!({ "model_type": "gemma3", "text_config": { "model_type": "gemma3_text" } }), Some(true));
}

#[test]
fn the_language_part_of_a_multimodal_model() {
    let value = json!({
        "model_type": "llava", "dtype": "bfloat16", "hidden_size": 1, "tie_word_embeddings": false,
        "text_config": { "hidden_size": 32, "num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"], "torch_dtype": "float16" },
        "vision_config": { "hidden_size": 64, "num_hidden_layers": 9 },
    });
    let mut config = of(value);
    assert_eq!((config.hidden_size(), config.num_layers(), config.model_type()), (Some(32), Some(4), Some("llava")));
    assert_eq!(config.dtype(), Some(Dtype::Bf16));
    assert_eq!(config.tie_word_embeddings(), Some(false));
    config.set("vocab_size", 100.into()).unwrap();
    config.set("dtype", "float32".into()).unwrap();
    let cut = config.with_layers(&[3, 0]).unwrap().with_dtype(Dtype::F8E4M3).to_value();
    let language = json!({ "hidden_size": 32, "num_hidden_layers": 2, "layer_types": ["d", "a"], "torch_dtype": "float8_e4m3fn", "vocab_size": 100 });
    assert_eq!(cut["text_config"], language);
    assert_eq!((&cut["dtype"], &cut["vision_config"]["num_hidden_layers"]), (&json!("float8_e4m3fn"), &json!(9)));
}

#[test]
fn layers_are_cut_and_stacked() {
    let check = |before: Value, kept: &[usize], after: Value| {
        assert_eq!(of(before).with_layers(kept).unwrap().to_value(), after);
    };
    check(json!({ "n_layer": 4 }), &[0, 1, 1], json!({ "n_layer": 3 }));
    check(
        json!({ "num_hidden_layers": 3, "layer_types": ["s", "f", "t"], "no_rope_layers": [1, 1, 0], "rope_scaling": null }),
        &[2, 0],
        json!({ "num_hidden_layers": 2, "layer_types": ["t", "s"], "no_rope_layers": [0, 1], "rope_scaling": null }),
    );
    check(
        json!({ "num_hidden_layers": 4, "max_window_layers": 28, "first_k_dense_replace": 2, "mlp_only_layers": [1, 3] }),
        &[0, 2, 3, 1],
        json!({ "num_hidden_layers": 4, "max_window_layers": 4, "first_k_dense_replace": 2, "mlp_only_layers": [2, 3] }),
    );
    check(
        json!({ "num_hidden_layers": 2, "architectures": ["A", "B"], "eos_token_id": [1, 2], "layer_types": ["too", "many", "entries"] }),
        &[0],
        json!({ "num_hidden_layers": 1, "architectures": ["A", "B"], "eos_token_id": [1, 2], "layer_types": ["too", "many", "entries"] }),
    );
    let config = Config::open(path("gemma2")).unwrap();
    assert_eq!(config.with_layers(&[0, 1, 2]).unwrap(), config, "all layers in order change nothing");
}

#[test]
fn layers_that_are_not_there() {
    assert!(matches!(of(json!({})).with_layers(&[0]), Err(ConfigError::NoLayerCount)));
    let error = of(json!({ "num_hidden_layers": 3 })).with_layers(&[0, 3]).unwrap_err();
    assert!(matches!(error, ConfigError::NoSuchLayer { layer: 3, count: 3 }), "{error}");
}

#[test]
fn dtype_goes_where_it_was() {
    let check = |before: Value, after: Value| assert_eq!(of(before).with_dtype(Dtype::Bf16).to_value(), after);
    check(json!({ "dtype": "float32" }), json!({ "dtype": "bfloat16" }));
    check(json!({ "torch_dtype": "float32" }), json!({ "torch_dtype": "bfloat16" }));
    check(
        json!({ "torch_dtype": null, "dtype": "float32" }),
        json!({ "torch_dtype": "bfloat16", "dtype": "bfloat16" }),
    );
    check(json!({}), json!({ "torch_dtype": "bfloat16" }));
    assert_eq!(of(json!({ "torch_dtype": "torch.float16" })).dtype(), Some(Dtype::F16));
    assert_eq!(of(json!({ "torch_dtype": "auto" })).dtype(), None);
}

#[test]
fn malformed_values_are_refused_not_ignored() {
    let check = |value: Value, words: &[&str]| {
        let message = Config::from_value(value).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{message}");
        }
    };
    check(json!([]), &["not a JSON object"]);
    check(json!({ "num_hidden_layers": "3" }), &["`num_hidden_layers`", "a whole number", "\"3\""]);
    check(json!({ "hidden_size": -1 }), &["`hidden_size`", "-1"]);
    check(json!({ "text_config": { "vocab_size": 1.5 } }), &["`vocab_size`", "1.5"]);
    check(json!({ "rope_theta": "1e4" }), &["`rope_theta`", "a number"]);
    check(json!({ "rope_scaling": 2 }), &["`rope_scaling`", "an object"]);
    check(json!({ "tie_word_embeddings": "yes" }), &["`tie_word_embeddings`", "true or false"]);
    check(json!({ "architectures": "A" }), &["`architectures`"]);
    check(json!({ "layer_types": { "0": "full" } }), &["`layer_types`"]);
    let mut config = of(json!({ "vocab_size": 3 }));
    assert!(config.set("vocab_size", json!("four")).is_err());
    assert_eq!(config.vocab_size(), Some(3), "a refused change changes nothing");
}

#[test]
fn files_that_are_none() {
    assert!(matches!(Config::open(path("nowhere")), Err(ConfigError::Io { .. })));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "{\"a\": ").unwrap();
    let message = Config::open(file.path()).unwrap_err().chain();
    assert!(message.contains("not valid JSON") && message.contains("line 1"), "{message}");
}

#[test]
fn counts_beyond_any_model_are_refused_by_key_and_bound() {
    let check = |value: Value, key: &str| match Config::from_value(value) {
        Err(ConfigError::TooLarge { key: found, max, .. }) => assert!(found == key && max > 0),
        other => panic!("{key}: {other:?}"),
    };
    for key in ["num_hidden_layers", "n_layer", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"]
    {
        check(json!({ key: u64::MAX }), key);
        check(json!({ "text_config": { key: 1_000_000_000 } }), key);
    }
    for key in [
        "num_local_experts",
        "max_position_embeddings",
        "sliding_window",
        "moe_intermediate_size",
        "hidden_size",
        "kv_lora_rank",
        "v_head_dim",
        "num_nextn_predict_layers",
        "attention_chunk_size",
    ] {
        check(json!({ key: u64::MAX }), key);
    }
    of(json!({ "num_hidden_layers": 10_000, "max_position_embeddings": 10_485_760, "vocab_size": 1_000_000 }));
    let long = json!({ "mlp_only_layers": vec![0; 10_001] });
    assert!(matches!(Config::from_value(long), Err(ConfigError::WrongType { found, .. }) if found.len() < 1000));
}
