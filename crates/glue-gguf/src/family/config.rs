//! Hyperparameters from `config.json`, and what of it a GGUF file cannot express.

use super::facts::{Deepseek, Experts, Facts, Granite, Llama4, Scaling, Window};
use super::{Family, Routing, WindowRule};
use crate::error::GgufError;
use glue_tensor::Config;
use glue_tensor::config::Rope;
use serde_json::Value;
use std::path::Path;

/// Keys that change the computation, and the values besides null, false, 0 and nothing that say that they do not.
const MUST_BE_OFF: &[(&str, &[&str])] = &[
    ("quantization_config", &[]),
    ("is_encoder_decoder", &[]),
    ("add_cross_attention", &[]),
    ("use_bidirectional_attention", &[]),
    ("alibi", &[]),
    ("position_embedding_type", &["rope", "rotary", "rope_gptj"]),
    ("attn_logit_softcapping", &[]),
    ("final_logit_softcapping", &[]),
    ("query_pre_attn_scalar", &[]),
    ("attention_multiplier", &["1.0", "1"]),
    ("embedding_multiplier", &["1.0", "1"]),
    ("residual_multiplier", &["1.0", "1"]),
    ("logits_scaling", &["1.0", "1"]),
    ("logit_scale", &["1.0", "1"]),
    ("scale_emb", &["1.0", "1"]),
    ("clip_qkv", &[]),
    ("qk_layernorm", &[]),
    ("use_parallel_residual", &[]),
    ("rope_local_base_freq", &[]),
    ("rope_interleave", &[]),
    ("no_rope_layers", &[]),
    ("no_rope_layer_interval", &[]),
    ("attention_chunk_size", &[]),
    ("attn_temperature_tuning", &[]),
    ("sliding_window_pattern", &[]),
    ("mlp_layer_types", &[]),
    ("mlp_only_layers", &[]),
    ("decoder_sparse_step", &["1"]),
    ("first_k_dense_replace", &[]),
    ("moe_intermediate_size", &[]),
    ("shared_expert_intermediate_size", &[]),
    ("n_routed_experts", &[]),
    ("n_shared_experts", &[]),
    ("num_experts", &["1"]),
    ("num_local_experts", &["1"]),
    ("kv_lora_rank", &[]),
    ("swiglu_alpha", &[]),
    ("swiglu_limit", &[]),
    ("num_nextn_predict_layers", &[]),
    ("num_kv_shared_layers", &[]),
];

fn is_off(value: &Value, harmless: &[&str]) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0) || harmless.contains(&number.to_string().as_str()),
        Value::String(text) => harmless.contains(&text.as_str()),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// A configuration, read with errors that name file and key.
struct Keys<'a> {
    path: &'a Path,
    config: &'a Config,
}

impl Keys<'_> {
    fn error(&self, key: &str, message: impl Into<String>) -> GgufError {
        GgufError::Config { path: self.path.to_path_buf(), key: key.to_string(), message: message.into() }
    }

    fn needed<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| self.error(key, "is missing from config.json"))
    }

    /// A whole number above 0.
    fn count(&self, key: &str) -> Result<Option<u64>, GgufError> {
        match self.config.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(n) if n > 0 => Ok(Some(n)),
                _ => Err(self.error(key, format!("expected a whole number above 0, found {value}"))),
            },
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.config.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) => Ok(Some(x)),
                None => Err(self.error(key, format!("expected a number, found {value}"))),
            },
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.config.get(key) {
            None => Ok(None),
            Some(value) => match value.as_bool() {
                Some(yes) => Ok(Some(yes)),
                None => Err(self.error(key, format!("expected true or false, found {value}"))),
            },
        }
    }
}

impl Facts {
    /// Reads the configuration of a model of `family` in the directory `path`, and notes on what llama.cpp does
    /// otherwise.
    ///
    /// # Errors
    /// [`GgufError::Config`] for what is missing, malformed, or cannot be expressed in a GGUF file.
    pub(crate) fn from_config(
        family: &Family,
        config: &Config,
        path: &Path,
        notes: &mut Vec<String>,
    ) -> Result<Facts, GgufError> {
        let keys = Keys { path, config };
        for (key, harmless) in MUST_BE_OFF.iter().filter(|(key, _)| !family.reads.contains(key)) {
            if let Some(value) = config.get(key).filter(|value| !is_off(value, harmless)) {
                let message =
                    format!("{value} cannot be expressed in a GGUF file of the architecture `{}`", family.arch);
                return Err(keys.error(key, message));
            }
        }
        let (key, expected) = family.activation;
        match config.get(key).and_then(Value::as_str) {
            None => {}
            Some(found) if found == expected || (expected == "silu" && found == "swish") => {}
            Some(found) => {
                return Err(
                    keys.error(key, format!("llama.cpp computes `{expected}` for this family, found `{found}`"))
                );
            }
        }
        let layers = keys.needed("num_hidden_layers", config.num_layers())? as u64;
        let hidden = keys.needed("hidden_size", config.hidden_size())? as u64;
        let heads = keys.needed("num_attention_heads", config.num_heads())? as u64;
        let rope = rope(&keys, family)?;
        let deepseek = deepseek(&keys, family, &rope)?;
        let (head_dim, rotated) = match &deepseek {
            None => {
                let head_dim = keys.needed("head_dim", config.head_dim())? as u64;
                (head_dim, (rope.partial * head_dim as f64) as u64)
            }
            Some(deepseek) => {
                let rotated = keys.needed("qk_rope_head_dim", keys.count("qk_rope_head_dim")?)?;
                (deepseek.plain.saturating_add(rotated), rotated)
            }
        };
        let context = keys.needed("max_position_embeddings", config.max_position_embeddings())? as u64;
        let epsilon_key = if family.mean_norm { "layer_norm_eps" } else { "rms_norm_eps" };
        let mut facts = Facts {
            layers,
            hidden,
            width: match family.routing {
                Routing::Llama4 => keys.needed("intermediate_size_mlp", keys.count("intermediate_size_mlp")?)?,
                _ => keys.needed("intermediate_size", config.intermediate_size())? as u64,
            },
            heads,
            kv_heads: keys.needed("num_key_value_heads", config.num_kv_heads())? as u64,
            head_dim,
            rotated,
            context,
            epsilon: keys.needed(epsilon_key, keys.number(epsilon_key)?)?,
            vocabulary: keys.needed("vocab_size", config.vocab_size())? as u64,
            theta: rope.theta,
            local_theta: rope.local_theta,
            scaling: rope.scaling,
            window: window(&keys, family, layers)?,
            attention_cap: keys.number("attn_logit_softcapping")?,
            final_cap: keys.number("final_logit_softcapping")?,
            experts: experts(&keys, family)?,
            granite: None,
            logit_scale: None,
            deepseek,
            llama4: None,
        };
        facts.check_sizes().map_err(|found| keys.error(found.config_key, found.message))?;
        if [heads, facts.kv_heads, head_dim, layers].contains(&0) || !heads.is_multiple_of(facts.kv_heads) {
            let message = format!("{heads} heads and {} key and value heads do not fit", facts.kv_heads);
            return Err(keys.error("num_key_value_heads", message));
        }
        if family.window == WindowRule::Context
            && let Some(window) = facts.window.take()
            && window.size < context
        {
            notes.push(format!(
                "llama.cpp has no sliding window for this architecture: the context length is set to the window, {}",
                window.size
            ));
            facts.context = window.size;
        }
        if rope.untruncated {
            notes.push(
                "llama.cpp rounds the bounds of the rotary embedding's scaling to whole dimensions, and the model does \
                 not: log-probabilities differ a little"
                    .to_string(),
            );
        }
        special_cases(&keys, family, &mut facts)?;
        Ok(facts)
    }
}

/// What single families require.
fn special_cases(keys: &Keys<'_>, family: &Family, facts: &mut Facts) -> Result<(), GgufError> {
    if family.reads.contains(&"query_pre_attn_scalar") {
        let expected = facts.query_scalar(family);
        let found = keys.number("query_pre_attn_scalar")?.unwrap_or(256.0);
        if found != expected {
            let message = format!("llama.cpp computes with {expected} for a model of this form, found {found}");
            return Err(keys.error("query_pre_attn_scalar", message));
        }
    }
    if family.model_type == "gemma2" {
        // The defaults of transformers; llama.cpp divides by them.
        for (key, cap, default) in [
            ("attn_logit_softcapping", &mut facts.attention_cap, 50.0),
            ("final_logit_softcapping", &mut facts.final_cap, 30.0),
        ] {
            if keys.config.to_value().get(key).is_some_and(Value::is_null) {
                return Err(keys.error(key, "llama.cpp always caps logits for this family, found null"));
            }
            cap.get_or_insert(default);
        }
    }
    if family.model_type == "smollm3" {
        let interval = keys.count("no_rope_layer_interval")?.unwrap_or(4);
        let rotated = |layer: u64| !(layer + 1).is_multiple_of(interval);
        let listed = keys.config.get("no_rope_layers").and_then(Value::as_array);
        let is_usual = match listed {
            Some(list) => list
                .iter()
                .zip(0u64..)
                .all(|(value, layer)| value.as_u64() == Some(u64::from(!(layer + 1).is_multiple_of(4)))),
            None => (0..facts.layers).all(|layer| rotated(layer) != (layer + 1).is_multiple_of(4)),
        };
        if !is_usual {
            let message = "llama.cpp leaves the rotary embedding out in every fourth layer, and no other";
            return Err(keys.error("no_rope_layers", message));
        }
    }
    if let Some(deepseek) = &facts.deepseek {
        let small = matches!(facts.layers, 26 | 27) || (facts.layers == 48 && facts.vocabulary == 128_256);
        if small != deepseek.query_rank.is_none() {
            let message = format!(
                "llama.cpp takes a model of {} layers for one {} a latent of queries, found {:?}",
                facts.layers,
                if small { "without" } else { "with" },
                deepseek.query_rank
            );
            return Err(keys.error("q_lora_rank", message));
        }
    }
    if family.model_type == "granite" {
        let factor = |key| Ok::<_, GgufError>(keys.number(key)?.unwrap_or(1.0));
        facts.granite = Some(Granite {
            attention: factor("attention_multiplier")?,
            embedding: factor("embedding_multiplier")?,
            residual: factor("residual_multiplier")?,
            logits: factor("logits_scaling")?,
        });
    }
    if family.model_type == "cohere2" {
        facts.logit_scale = Some(keys.number("logit_scale")?.unwrap_or(0.0625));
    }
    if family.routing == Routing::GptOss {
        for (key, expected) in [("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)] {
            if let Some(found) = keys.number(key)?.filter(|&found| found != expected) {
                return Err(keys.error(key, format!("llama.cpp computes with {expected}, found {found}")));
            }
        }
    }
    if family.routing == Routing::Llama4 {
        facts.llama4 = Some(llama4(keys, facts)?);
    }
    if !matches!(family.routing, Routing::Dense | Routing::GptOss | Routing::Llama4) {
        let found = keys.flag("norm_topk_prob")?;
        let expected = !matches!(family.routing, Routing::Unnormed | Routing::DeepseekSoftmax);
        let default = matches!(family.routing, Routing::Normed | Routing::DeepseekSigmoid);
        if found.unwrap_or(default) != expected {
            let message = format!("llama.cpp computes with {expected} for this family");
            return Err(keys.error("norm_topk_prob", message));
        }
    }
    Ok(())
}

/// What llama.cpp fixes for Llama 4, and which layers have experts.
fn llama4(keys: &Keys<'_>, facts: &Facts) -> Result<Llama4, GgufError> {
    let refused = |key: &str, expected: String| Err(keys.error(key, format!("llama.cpp computes with {expected}")));
    let experts = facts.experts.map_or(0, |experts| experts.count);
    let normed = keys.flag("use_qk_norm")?.unwrap_or(true);
    if normed != Llama4::norms(experts) {
        return refused("use_qk_norm", format!("{} for a model of {experts} experts", !normed));
    }
    for (key, expected, default) in [
        ("attention_chunk_size", Llama4::CHUNK as f64, Llama4::CHUNK as f64),
        ("floor_scale", Llama4::CHUNK as f64, Llama4::CHUNK as f64),
        ("attn_scale", Llama4::SCALE, Llama4::SCALE),
    ] {
        let found = if is_null(keys.config, key) { 0.0 } else { keys.number(key)?.unwrap_or(default) };
        if found != expected {
            return refused(key, format!("{expected}, found {found}"));
        }
    }
    if keys.config.get("attn_temperature_tuning").is_some_and(|value| is_off(value, &[])) {
        return refused("attn_temperature_tuning", "true, found false".to_string());
    }
    let list = |key: &str| keys.config.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
    let interval = keys.count("no_rope_layer_interval")?.unwrap_or(Llama4::PLAIN_PERIOD);
    let all = |fits: &dyn Fn(u64, bool) -> bool| (0..facts.layers).all(|layer| fits(layer, Llama4::rotates(layer)));
    let usual = match list("no_rope_layers") {
        Some(listed) => {
            listed.len() as u64 == facts.layers
                && all(&|layer, rotates| listed[layer as usize].as_u64() == Some(u64::from(rotates)))
        }
        None => all(&|layer, rotates| (layer + 1).is_multiple_of(interval) != rotates),
    };
    if !usual {
        return refused("no_rope_layers", "a rotary embedding in all but every fourth layer".to_string());
    }
    if let Some(listed) = list("layer_types") {
        let kind = |rotates| if rotates { "chunked_attention" } else { "full_attention" };
        let usual =
            listed.len() as u64 == facts.layers && all(&|layer, rotates| listed[layer as usize] == kind(rotates));
        if !usual {
            return refused("layer_types", "chunks where layers have a rotary embedding".to_string());
        }
    }
    let period = keys.count("interleave_moe_layer_step")?.unwrap_or(1);
    if let Some(listed) = list("moe_layers") {
        let expected = (0..facts.layers).filter(|layer| (layer + 1).is_multiple_of(period));
        if !listed.iter().map(Value::as_u64).eq(expected.map(Some)) {
            return refused("moe_layers", format!("experts in every layer of {period}, as interleave_moe_layer_step"));
        }
    }
    Ok(Llama4 { expert_period: period })
}

fn experts(keys: &Keys<'_>, family: &Family) -> Result<Option<Experts>, GgufError> {
    if family.routing == Routing::Dense {
        return Ok(None);
    }
    let names = ["n_routed_experts", "num_local_experts", "num_experts"];
    let counts: Vec<Option<u64>> = names.iter().map(|name| keys.count(name)).collect::<Result<_, _>>()?;
    let count = counts.into_iter().flatten().next();
    if keys.count("decoder_sparse_step")?.is_some_and(|step| step != 1) {
        return Err(keys.error("decoder_sparse_step", "llama.cpp has experts in every layer of this family"));
    }
    if keys.config.get("mlp_only_layers").is_some_and(|layers| !is_off(layers, &[])) {
        return Err(keys.error("mlp_only_layers", "llama.cpp has experts in every layer of this family"));
    }
    Ok(Some(Experts {
        count: keys.needed("num_experts", count)?,
        used: keys.needed("num_experts_per_tok", keys.count("num_experts_per_tok")?)?,
        width: match family.routing {
            Routing::GptOss | Routing::Llama4 => keys.count("intermediate_size")?,
            _ => keys.count("moe_intermediate_size")?,
        },
        shared_width: keys.count("shared_expert_intermediate_size")?,
    }))
}

/// What DeepSeek's families have besides.
fn deepseek(keys: &Keys<'_>, family: &Family, rope: &RopeFacts) -> Result<Option<Deepseek>, GgufError> {
    let sigmoid = family.routing == Routing::DeepseekSigmoid;
    if !sigmoid && family.routing != Routing::DeepseekSoftmax {
        return Ok(None);
    }
    let needed = |key: &str| keys.needed(key, keys.count(key)?);
    let groups = (keys.count("n_group")?.unwrap_or(1), keys.count("topk_group")?.unwrap_or(1));
    if !sigmoid && groups.0 > 1 {
        return Err(
            keys.error("n_group", format!("llama.cpp has no groups of experts for this family, found {}", groups.0))
        );
    }
    if keys.flag("rope_interleave")? == Some(false) {
        return Err(keys.error("rope_interleave", "llama.cpp rotates neighbours, found false"));
    }
    if rope.scaling.kind().is_some() && rope.mscale.0.is_none_or(|mscale| rope.mscale.1 != Some(mscale)) {
        let message =
            format!("llama.cpp computes with the same `mscale` and `mscale_all_dim`, found {:?}", rope.mscale);
        return Err(keys.error("mscale", message));
    }
    Ok(Some(Deepseek {
        query_rank: keys.count("q_lora_rank")?,
        latent: needed("kv_lora_rank")?,
        plain: needed("qk_nope_head_dim")?,
        value: needed("v_head_dim")?,
        dense_layers: keys.number("first_k_dense_replace")?.unwrap_or(0.0) as u64,
        shared: keys.number("n_shared_experts")?.unwrap_or(0.0) as u64,
        scale: keys.number("routed_scaling_factor")?.unwrap_or(1.0),
        groups,
        mscale: rope.mscale.0,
    }))
}

fn window(keys: &Keys<'_>, family: &Family, layers: u64) -> Result<Option<Window>, GgufError> {
    if keys.flag("use_sliding_window")? == Some(false) {
        return Ok(None);
    }
    // A switch that is off unless it is set, in Qwen's and SmolLM's models.
    let switched = family.arch.starts_with("qwen") || family.model_type == "smollm3";
    if switched && keys.flag("use_sliding_window")?.is_none() {
        return Ok(None);
    }
    // Layers from this one on have the window.
    if switched && keys.number("max_window_layers")?.is_some_and(|first| first >= layers as f64) {
        return Ok(None);
    }
    let listed: Option<Vec<bool>> = keys
        .config
        .get("layer_types")
        .and_then(Value::as_array)
        .map(|types| types.iter().map(|layer| layer == "sliding_attention").collect());
    let size = match keys.count("sliding_window")? {
        // The default of Gemma 2 and of others in transformers.
        None if matches!(family.window, WindowRule::AllButEvery(_)) && !is_null(keys.config, "sliding_window") => 4096,
        None => return Ok(None),
        Some(size) => size,
    };
    let period = match (family.window, &listed) {
        (WindowRule::Context, Some(list)) if !list.contains(&true) => return Ok(None),
        (WindowRule::Context, _) => 1,
        (WindowRule::AllButEvery(usual), None) => keys.count("sliding_window_pattern")?.unwrap_or(usual as u64),
        (WindowRule::AllButEvery(usual), Some(list)) => {
            let fits = |period: &u64| {
                list.iter().zip(0u64..).all(|(&sliding, layer)| sliding != (layer + 1).is_multiple_of(*period))
            };
            let mut periods = std::iter::once(usual as u64).chain(1..=layers + 1);
            match periods.find(fits) {
                Some(period) if list.len() as u64 == layers => period,
                _ => {
                    let message = "llama.cpp has full attention in every so many layers, which these are not";
                    return Err(keys.error("layer_types", message));
                }
            }
        }
    };
    Ok(Some(Window { size, period }))
}

/// Whether `key` is there and null.
fn is_null(config: &Config, key: &str) -> bool {
    let root = config.to_value();
    [root.get("text_config").and_then(|text| text.get(key)), root.get(key)].into_iter().flatten().any(Value::is_null)
}

struct RopeFacts {
    theta: f64,
    local_theta: Option<f64>,
    partial: f64,
    scaling: Scaling,
    /// `mscale` and `mscale_all_dim` of YaRN.
    mscale: (Option<f64>, Option<f64>),
    /// Whether the bounds of YaRN are not rounded, and llama.cpp rounds them all the same.
    untruncated: bool,
}

fn rope(keys: &Keys<'_>, family: &Family) -> Result<RopeFacts, GgufError> {
    let ropes = keys.config.ropes();
    let Some(main) = keys.config.rope() else {
        let partial = family.partial;
        let (theta, local_theta) = (family.theta, local(family, None));
        let (scaling, mscale, untruncated) = (Scaling::None, (None, None), false);
        return Ok(RopeFacts { theta, local_theta, partial, scaling, mscale, untruncated });
    };
    let says_partial = says(keys.config, &["partial_rotary_factor", "rotary_pct"]);
    let theta = if says(keys.config, &["rope_theta"]) { main.theta } else { family.theta };
    let sliding = ropes.iter().find(|rope| rope.layer_type.as_deref() == Some("sliding_attention"));
    if let Some(sliding) = sliding
        && (sliding.kind != "default" || sliding.partial != main.partial)
    {
        let message =
            format!("llama.cpp scales full attention only, found `{}` for layers with a window", sliding.kind);
        return Err(keys.error("rope_parameters", message));
    }
    let scaling = scaling(keys, family, &main)?;
    Ok(RopeFacts {
        theta,
        local_theta: local(family, sliding.map(|rope| rope.theta))
            .filter(|&local| local != theta || family.arch == "gemma3"),
        partial: if says_partial { main.partial } else { family.partial },
        scaling,
        mscale: (number(&main, "mscale"), number(&main, "mscale_all_dim")),
        untruncated: main.kind == "yarn" && main.parameters.get("truncate") == Some(&Value::Bool(false)),
    })
}

/// Whether the configuration has one of `names`, at the top or among the parameters of the rotary embedding.
fn says(config: &Config, names: &[&str]) -> bool {
    let has = |value: &Value| names.iter().any(|name| value.get(name).is_some_and(|value| !value.is_null()));
    let parameters = ["rope_parameters", "rope_scaling"].into_iter().filter_map(|key| config.get(key));
    let mut nested = parameters.flat_map(|value| std::iter::once(value).chain(value.get("full_attention")));
    names.iter().any(|name| config.get(name).is_some()) || nested.any(has)
}

/// A parameter of a scaling.
fn number(rope: &Rope, name: &str) -> Option<f64> {
    rope.parameters.get(name).and_then(Value::as_f64)
}

/// The base of layers with a window; Gemma 3 has another one even if it is not mentioned.
fn local(family: &Family, found: Option<f64>) -> Option<f64> {
    found.or((family.arch == "gemma3").then_some(10_000.0))
}

fn scaling(keys: &Keys<'_>, family: &Family, rope: &Rope) -> Result<Scaling, GgufError> {
    let number = |name: &str| number(rope, name);
    let needed = |name: &str| {
        number(name).ok_or_else(|| keys.error("rope_parameters", format!("`{}` lacks the number `{name}`", rope.kind)))
    };
    let original = |needed: bool| {
        let inside = number("original_max_position_embeddings");
        let found = inside.or(keys.number("original_max_position_embeddings")?);
        match found.or(keys.config.max_position_embeddings().map(|n| n as f64).filter(|_| !needed)) {
            Some(n) if n >= 1.0 => Ok(n as u64),
            _ => Err(keys.error("original_max_position_embeddings", format!("`{}` needs it", rope.kind))),
        }
    };
    let scaling = match rope.kind.as_str() {
        "default" => return Ok(Scaling::None),
        "linear" => Scaling::Linear { factor: needed("factor")? },
        "llama3" => Scaling::Llama3 {
            factor: needed("factor")?,
            low: needed("low_freq_factor")?,
            high: needed("high_freq_factor")?,
            original: original(true)?,
        },
        "yarn" => {
            // All published models of gpt-oss are so, and are run all the same.
            if rope.parameters.get("truncate") == Some(&Value::Bool(false)) && family.routing != Routing::GptOss {
                return Err(keys.error("truncate", "llama.cpp rounds the bounds of YaRN, found false"));
            }
            let factor = needed("factor")?;
            let usual = 0.1 * factor.ln() + 1.0;
            if let Some(found) = number("attention_factor").filter(|found| (found - usual).abs() > 1e-6 * usual) {
                return Err(keys.error("attention_factor", format!("expected {usual} or none, found {found}")));
            }
            for key in ["mscale", "mscale_all_dim"] {
                let known = family.arch == "deepseek2";
                if let Some(found) = number(key).filter(|&found| found != 0.0 && !known) {
                    return Err(keys.error(key, format!("cannot be expressed for this family, found {found}")));
                }
            }
            Scaling::Yarn {
                factor,
                original: original(false)?,
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
            }
        }
        "longrope" | "su" => {
            let list = |name: &str| -> Result<Vec<f64>, GgufError> {
                let values = rope.parameters.get(name).and_then(Value::as_array);
                let values = values.and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
                keys.needed(name, values)
            };
            let original = original(true)?;
            let context = keys.config.max_position_embeddings().unwrap_or(0) as f64;
            let factor = number("factor").unwrap_or(context / original as f64);
            let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
            let attention = number("attention_factor").unwrap_or(usual);
            Scaling::LongRope { original, long: list("long_factor")?, short: list("short_factor")?, attention }
        }
        other => return Err(keys.error("rope_type", format!("llama.cpp does not compute `{other}`"))),
    };
    match scaling.kind() {
        Some(kind) if !family.scalings.contains(&kind) => {
            Err(keys.error("rope_type", format!("llama.cpp does not compute `{}` for this family", rope.kind)))
        }
        _ => Ok(scaling),
    }
}
