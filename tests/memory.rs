//! What `glue generate` and `glue eval` take when there is much to do: within the limit, and as `--dry-run` says.
#![cfg(target_os = "linux")]

use glue_tests::Zoo;
use glue_tests::checkpoint::{Tensor, Tensors};
use glue_tests::shipped;
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

const LAYERS: usize = 8;
const HIDDEN: usize = 256;
const INNER: usize = 256;
const PROMPTS: usize = 40;

/// Bytes that the allocator may keep for later allocations.
const ALLOCATOR: f64 = (64 << 20) as f64;

/// A Llama of eight layers without grouped heads, with the tokenizer of the shipped zoo: 16 KiB of keys and values for
/// each token.
fn model() -> Zoo {
    let zoo = Zoo::empty();
    let mut state = 1u64;
    let mut random = |shape: &[usize]| {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
        };
        Tensor::bf16(shape, (0..shape.iter().product::<usize>()).map(next).collect::<Vec<_>>())
    };
    let mut tensors = Tensors::new();
    tensors.insert("model.embed_tokens.weight".into(), random(&[512, HIDDEN]));
    tensors.insert("lm_head.weight".into(), random(&[512, HIDDEN]));
    let ones = |n: usize| Tensor::bf16(&[n], vec![1.0; n]);
    tensors.insert("model.norm.weight".into(), ones(HIDDEN));
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("self_attn.q_proj", [HIDDEN, HIDDEN]),
            ("self_attn.k_proj", [HIDDEN, HIDDEN]),
            ("self_attn.v_proj", [HIDDEN, HIDDEN]),
            ("self_attn.o_proj", [HIDDEN, HIDDEN]),
            ("mlp.gate_proj", [INNER, HIDDEN]),
            ("mlp.up_proj", [INNER, HIDDEN]),
            ("mlp.down_proj", [HIDDEN, INNER]),
        ] {
            tensors.insert(format!("model.layers.{layer}.{name}.weight"), random(&shape));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(format!("model.layers.{layer}.{name}.weight"), ones(HIDDEN));
        }
    }
    zoo.add("model", &tensors);
    zoo.copy(&shipped().join("base-a"), "shipped");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        zoo.write(&format!("model/{name}"), zoo.bytes(&format!("shipped/{name}")));
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "max_position_embeddings": 4096, "num_attention_heads": 4,
        "num_hidden_layers": LAYERS, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2,
    });
    zoo.write("model/config.json", config.to_string());
    // Prompts of some hundred tokens that have nothing in common.
    let mut prompts = String::new();
    for prompt in 0..PROMPTS {
        let words: Vec<String> = (0..90).map(|word| (prompt * 7919 + word * 104_729 + 1000).to_string()).collect();
        let _ = writeln!(prompts, "{}", words.join(" "));
    }
    zoo.write("one", prompts.lines().next().expect("a prompt"));
    zoo.write("prompts", prompts);
    zoo
}

/// The most memory that a command allocates, in bytes, and what it prints.
fn peak(zoo: &Zoo, args: &[&str]) -> (u64, String) {
    let mut child = zoo.command(args).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("glue starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("a status").is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let bytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10;
        peak = peak.max(bytes);
        thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{args:?}");
    (peak, String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn many_long_prompts_stay_within_the_limit_and_take_what_was_estimated() {
    let zoo = model();
    let run = |prompts: &str, more: &[&str]| {
        let fixed = ["generate", "model", "--prompts", prompts, "--max-new-tokens", "16", "--threads", "2", "--json"];
        [&fixed[..], more].concat().iter().map(|arg| arg.to_string()).collect::<Vec<String>>()
    };
    let measured = |args: Vec<String>| peak(&zoo, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let estimate = |prompts: &str, more: &[&str]| {
        let (_, plan) = measured(run(prompts, &[more, &["--dry-run"]].concat()));
        let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
        (plan["memory_bytes"].as_u64().expect("an estimate"), plan["at_a_time"].as_u64().expect("a number"))
    };
    // What comes on top whatever there is to do: the program, and buffers of matrix products, which follow from caches.
    let before = measured(run("one", &[])).0 - estimate("one", &[]).0;
    for (limit, cache) in [(96u64 << 20, "f32"), (96 << 20, "bf16")] {
        let limited = limit.to_string();
        let more = ["--max-memory", &limited, "--kv-cache", cache];
        let (estimate, at_a_time) = estimate("prompts", &more);
        assert!(estimate <= limit && estimate > limit / 2, "{estimate} of {limit}");
        assert!(at_a_time < PROMPTS as u64, "{at_a_time}");
        let (peak, _) = measured(run("prompts", &more));
        let taken = peak.saturating_sub(before);
        // What the allocator keeps comes on top; activations are counted at their widest.
        let (least, most) = (estimate as f64 * 0.85, estimate as f64 * 1.15 + ALLOCATOR);
        println!("limit {limit}, {cache}: estimated {estimate}, taken {taken}");
        assert!(
            (least..=most).contains(&(taken as f64)),
            "{cache}: estimated {estimate}, taken {taken}, before {before}"
        );
    }
}
