//! Which format a mixture is written in, and its `config.json` there.

use super::Inputs;
use crate::config::RequestedFormat;
use crate::error::MixError;
use crate::sites::MixtureFormat;
use crate::spec::{Level, MixtureSpec, RouterKind, Routing};
use glue_tensor::{Config, Dtype, ModelDir};
use serde_json::{Map, Value, json};

/// What transformers assumes of absent keys, by model type, where Mixtral or Qwen2-MoE assume something else.
struct Defaults {
    model_type: &'static str,
    kv_heads: Option<usize>,
    max_positions: usize,
    sliding_window: Option<usize>,
    tokens: Option<(u64, u64)>,
}

const DEFAULTS: [Defaults; 3] = [
    Defaults { model_type: "llama", kv_heads: None, max_positions: 2048, sliding_window: None, tokens: Some((1, 2)) },
    Defaults {
        model_type: "mistral",
        kv_heads: Some(8),
        max_positions: 4096 * 32,
        sliding_window: Some(4096),
        tokens: Some((1, 2)),
    },
    Defaults { model_type: "qwen2", kv_heads: Some(32), max_positions: 32768, sliding_window: None, tokens: None },
];
const NORM_EPS: f64 = 1e-6;
const ROPE_THETA: f64 = 10_000.0;

/// Chooses the format, or refuses the one asked for.
pub(super) fn choose(inputs: &Inputs<'_>, spec: &MixtureSpec) -> Result<MixtureFormat, MixError> {
    let wanted = match inputs.config.format {
        RequestedFormat::Fixed(format) => format,
        RequestedFormat::Auto if inputs.shared.is_some() => MixtureFormat::Qwen2Moe,
        RequestedFormat::Auto if spec.mixed_layers.is_empty() => MixtureFormat::Native,
        RequestedFormat::Auto => match obstacle(inputs, spec, MixtureFormat::Mixtral) {
            None => MixtureFormat::Mixtral,
            Some(_) => MixtureFormat::Native,
        },
    };
    match obstacle(inputs, spec, wanted) {
        Some(why) => Err(MixError::Format { format: wanted.name(), why }),
        None => Ok(wanted),
    }
}

/// Why `format` cannot hold the mixture; `None` when it can.
fn obstacle(inputs: &Inputs<'_>, spec: &MixtureSpec, format: MixtureFormat) -> Option<String> {
    let base = inputs.base().config();
    let because = |why: &str| Some(why.to_string());
    if (inputs.shared.is_some()) != (format == MixtureFormat::Qwen2Moe) {
        return because(match format {
            MixtureFormat::Qwen2Moe => "it needs one entry under `shared_experts`",
            _ => "it has no shared expert; leave `shared_experts` out",
        });
    }
    if format == MixtureFormat::Native {
        return None;
    }
    if spec.level != Level::Ffn {
        return because("it has experts at level ffn only");
    }
    if spec.routing != Routing::Token {
        return because("it routes by token only");
    }
    if spec.router != RouterKind::Linear {
        return because("its gates are linear");
    }
    let known: &[&str] =
        if format == MixtureFormat::Mixtral { &["llama", "mistral"] } else { &["llama", "mistral", "qwen2"] };
    let model_type = base.model_type().unwrap_or("not given");
    if !known.contains(&model_type) {
        return Some(format!("the base's `model_type` is {model_type}, and it holds {}", known.join(", ")));
    }
    let is = |key: &str| base.get(key).and_then(Value::as_bool) == Some(true);
    for key in ["attention_bias", "mlp_bias"] {
        if is(key) {
            return Some(format!("the base has `{key}`"));
        }
    }
    let activation = base.get("hidden_act").and_then(Value::as_str).unwrap_or("silu");
    if activation != "silu" {
        return Some(format!("the base's `hidden_act` is {activation}, and programs that know the format assume silu"));
    }
    if base.rope().is_some_and(|rope| rope.partial != 1.0) {
        return because("the base rotates only a part of each head");
    }
    if format == MixtureFormat::Qwen2Moe {
        if window(base).is_some() || is("use_sliding_window") {
            return because("the base has a sliding window");
        }
        if base.head_dim().zip(base.num_heads()).map(|(dim, heads)| dim * heads) != base.hidden_size() {
            return because("the base's heads together are not as wide as its residual stream");
        }
        if spec.mixed_layers.is_empty() {
            return because("no layer is mixed");
        }
    }
    None
}

/// The window of all layers of a Mistral model.
fn window(base: &Config) -> Option<u64> {
    let value = base.to_value();
    match (base.model_type(), value.get("sliding_window")) {
        (Some("mistral"), None) => defaults(base).and_then(|row| row.sliding_window).map(|window| window as u64),
        (Some("mistral"), Some(window)) => window.as_u64(),
        _ => None,
    }
}

fn defaults(base: &Config) -> Option<&'static Defaults> {
    DEFAULTS.iter().find(|row| Some(row.model_type) == base.model_type())
}

/// The configuration of a dense model with weights of type `dtype`.
pub(super) fn dense_config(dir: &ModelDir, dtype: Option<Dtype>) -> Config {
    match dtype {
        Some(dtype) => dir.config().with_dtype(dtype),
        None => dir.config().clone(),
    }
}

/// The configuration of the mixture as `format`: the base's keys as they are written there, what the base leaves to the
/// defaults of its family, and the keys of the format.
pub(super) fn config(
    base: &ModelDir,
    format: MixtureFormat,
    spec: &MixtureSpec,
    dtype: Option<Dtype>,
) -> Result<Config, MixError> {
    let config = dense_config(base, dtype);
    let Value::Object(mut map) = config.to_value() else {
        return Err(super::fit::unfit(base, "config.json", Value::Null, "a configuration is an object"));
    };
    fill_in_defaults(&mut map, &config);
    let experts = spec.experts.len();
    let layers = config.num_layers().unwrap_or(0);
    let dense: Vec<usize> = (0..layers).filter(|layer| !spec.mixed_layers.contains(layer)).collect();
    map.insert("num_experts_per_tok".into(), spec.experts_per_token.into());
    let of_format = match format {
        MixtureFormat::Mixtral => json!({
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": experts,
            "sliding_window": window(&config),
            "router_jitter_noise": 0.0,
        }),
        _ => json!({
            "model_type": "qwen2_moe",
            "architectures": ["Qwen2MoeForCausalLM"],
            "num_experts": experts,
            "moe_intermediate_size": config.intermediate_size(),
            "shared_expert_intermediate_size": config.intermediate_size(),
            "decoder_sparse_step": 1,
            "mlp_only_layers": dense,
            "norm_topk_prob": true,
            "qkv_bias": true,
            "use_sliding_window": false,
            "sliding_window": null,
        }),
    };
    for (key, value) in of_format.as_object().into_iter().flatten() {
        map.insert(key.clone(), value.clone());
    }
    for (key, value) in [("output_router_logits", json!(false)), ("router_aux_loss_coef", json!(0.001))] {
        map.entry(key).or_insert(value);
    }
    map.shift_remove("auto_map");
    Ok(Config::from_value(Value::Object(map))?)
}

fn fill_in_defaults(map: &mut Map<String, Value>, config: &Config) {
    let Some(row) = defaults(config) else {
        return;
    };
    let mut fill = |key: &str, value: Value| {
        if map.get(key).is_none_or(Value::is_null) && !value.is_null() {
            map.insert(key.to_string(), value);
        }
    };
    // Null means as many as heads; absence is the family's default.
    let kv_heads = match (config.to_value().get("num_key_value_heads"), row.kv_heads) {
        (None, Some(default)) => Some(default),
        _ => config.num_kv_heads(),
    };
    fill("num_key_value_heads", json!(kv_heads));
    fill("max_position_embeddings", row.max_positions.into());
    fill("rms_norm_eps", NORM_EPS.into());
    fill("hidden_act", "silu".into());
    fill("tie_word_embeddings", false.into());
    if config.ropes().is_empty() {
        fill("rope_theta", ROPE_THETA.into());
    }
    // The two families agree on these; null, which means none, stays.
    if let Some((bos, eos)) = row.tokens {
        map.entry("bos_token_id").or_insert(bos.into());
        map.entry("eos_token_id").or_insert(eos.into());
    }
}
