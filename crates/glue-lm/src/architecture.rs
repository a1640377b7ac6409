//! A configuration checked into what the runtime computes.
//!
//! The families differ in data, not in code: where norms stand, which projections have biases, the scale of attention,
//! the window of each layer. Keys that are absent take the defaults of the configuration classes of transformers. Of
//! keys that this runtime does not know, those in [`REFUSED`] change the computation in some other family and are
//! refused unless they hold the value that switches them off; any other is taken to be about training, generation or
//! bookkeeping.

mod family;
mod keys;
mod mixture;

use crate::error::LmError;
use crate::rope::{Context, Rope};
use family::Family;
use glue_tensor::Config;
use keys::Keys;
pub use keys::REFUSED;
pub(crate) use mixture::split;
use serde_json::Value;

/// The function inside the gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// x · sigmoid(x): `silu`, `swish`.
    Silu,
    /// x · Φ(x): `gelu`.
    Gelu,
    /// Its approximation by tanh: `gelu_pytorch_tanh`, `gelu_new`.
    GeluTanh,
    /// max(x, 0): `relu`.
    Relu,
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormPlacement {
    /// Before attention and before the MLP.
    Before,
    /// After each of the two, before the sum with the residual stream (OLMo 2).
    After,
    /// Both (Gemma 2).
    Around,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head, before rope (Qwen 3).
    PerHead,
    /// Over all heads together, before rope (OLMo 2).
    FullWidth,
}

/// How the projections of a layer are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProjectionLayout {
    /// A tensor each.
    Separate,
    /// Queries, keys and values in one tensor, gate and up in another (Phi 3).
    Fused,
}

/// A mixture of experts in place of the MLP (Mixtral, Qwen2-MoE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Experts {
    /// Experts in a layer, at least 1.
    pub count: usize,
    /// Experts that a token goes to, 1 to `count`.
    pub per_token: usize,
    /// Width inside each expert.
    pub intermediate_size: usize,
    /// Whether the probabilities of the experts that a token goes to are brought to sum 1.
    pub normalised: bool,
    /// Width inside an expert that every token goes to, its output times the sigmoid of a gate of its own (Qwen2-MoE).
    pub shared: Option<usize>,
}

/// What differs between the layers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerKind {
    /// Positions a query sees, its own included; all before it when absent. At least 1.
    pub window: Option<usize>,
    /// Index into [`Architecture::ropes`].
    pub rope: usize,
    /// Whether the layer has [`Architecture::experts`] in place of its MLP.
    pub experts: bool,
}

/// What a model computes, apart from its weights.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Architecture {
    /// `model_type` of the configuration.
    pub model_type: &'static str,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP of layers without experts.
    pub intermediate_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
    /// Longest text the model is made for, in tokens.
    pub max_positions: usize,
    /// ε of all norms.
    pub norm_eps: f32,
    /// Added to the stored weights of norms: 1 for Gemma, else 0.
    pub norm_offset: f32,
    /// Where norms stand.
    pub norms: NormPlacement,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// The function inside the MLP.
    pub activation: Activation,
    /// Factor on the products of queries and keys.
    pub attention_scale: f32,
    /// Cap of attention scores, smooth by tanh.
    pub attention_softcap: Option<f32>,
    /// Cap of logits, smooth by tanh.
    pub final_softcap: Option<f32>,
    /// Factor on embeddings.
    pub embedding_scale: f32,
    /// Whether the head is the embedding: as the configuration says; `None` when it is silent and the family's default
    /// is a head of its own, which a checkpoint without one overrides.
    pub tied: Option<bool>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output of attention has a bias.
    pub output_bias: bool,
    /// Whether the MLP has biases.
    pub mlp_bias: bool,
    /// How projections are stored.
    pub storage: ProjectionLayout,
    /// Experts in place of the MLP, in the layers that say so.
    pub experts: Option<Experts>,
    /// One entry per layer.
    pub layers: Vec<LayerKind>,
    /// The rotary embeddings the layers refer to.
    pub ropes: Vec<Rope>,
}

impl Architecture {
    /// Checks a configuration.
    ///
    /// # Errors
    /// [`LmError::Unsupported`] for a family or a key that this runtime does not compute, [`LmError::MissingKey`],
    /// [`LmError::BadValue`]; each names the key.
    pub fn from_config(config: &Config) -> Result<Architecture, LmError> {
        let family = Family::of(config)?;
        let keys = Keys::new(config);
        keys.refuse_unsupported(family)?;

        let hidden_size = keys.required_count("hidden_size")?;
        let heads = keys.required_count("num_attention_heads")?;
        let num_layers = keys.required_count("num_hidden_layers")?;
        let kv_heads = match (keys.count("num_key_value_heads")?, keys.is_null("num_key_value_heads")) {
            (Some(kv_heads), _) => kv_heads,
            (None, true) => heads,
            (None, false) => family.kv_heads.unwrap_or(heads),
        };
        if heads % kv_heads != 0 {
            return Err(keys.bad_value("num_key_value_heads", &format!("a divisor of {heads} heads"), kv_heads.into()));
        }
        let head_dim = match (keys.count("head_dim")?, family.head_dim) {
            (Some(head_dim), _) => head_dim,
            (None, Some(head_dim)) if !keys.is_null("head_dim") => head_dim,
            _ if hidden_size % heads == 0 => hidden_size / heads,
            _ => {
                let expected = format!("a multiple of {heads} heads where `head_dim` is absent");
                return Err(keys.bad_value("hidden_size", &expected, hidden_size.into()));
            }
        };
        let max_positions = keys.count("max_position_embeddings")?.unwrap_or(family.max_positions);
        let attention_scale = match family.query_scalar {
            Some(default) => keys.positive("query_pre_attn_scalar")?.unwrap_or(default),
            None => head_dim as f64,
        }
        .powf(-0.5);
        let cap = |key, default: Option<f64>| match keys.positive(key)? {
            None if keys.is_null(key) => Ok(None),
            value => Ok::<_, LmError>(value.or(default).map(|cap| cap as f32)),
        };
        let (ropes, rope_of) = ropes(config, &keys, family, head_dim, max_positions)?;
        let windows = windows(&keys, family, num_layers)?;
        let intermediate_size = keys.required_count("intermediate_size")?;
        let experts = experts(&keys, family, intermediate_size)?;
        let mixed = mixed_layers(&keys, family, num_layers)?;
        let layers = windows
            .into_iter()
            .zip(mixed)
            .map(|(window, experts)| LayerKind { window, rope: rope_of[usize::from(window.is_some())], experts })
            .collect();
        let attention_bias = family.attention_bias && keys.flag("attention_bias")?.unwrap_or(false);
        Ok(Architecture {
            model_type: family.model_type,
            vocab_size: keys.required_count("vocab_size")?,
            hidden_size,
            intermediate_size,
            heads,
            kv_heads,
            head_dim,
            max_positions,
            norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(family.norm_eps) as f32,
            norm_offset: family.norm_offset,
            norms: family.norms,
            qk_norm: family.qk_norm,
            activation: activation(&keys, family)?,
            attention_scale: attention_scale as f32,
            attention_softcap: match family.softcaps {
                Some((attention, _)) => cap("attn_logit_softcapping", Some(attention))?,
                None => None,
            },
            final_softcap: match family.softcaps {
                Some((_, last)) => cap("final_logit_softcapping", Some(last))?,
                None => None,
            },
            embedding_scale: if family.scaled_embedding { (hidden_size as f64).sqrt() as f32 } else { 1.0 },
            tied: match keys.flag("tie_word_embeddings")? {
                Some(tied) => Some(tied),
                None if family.tied => Some(true),
                None => None,
            },
            qkv_bias: attention_bias
                || match family.qkv_bias_key {
                    true => keys.flag("qkv_bias")?.unwrap_or(family.qkv_bias),
                    false => family.qkv_bias,
                },
            output_bias: attention_bias,
            mlp_bias: family.mlp_bias && keys.flag("mlp_bias")?.unwrap_or(false),
            storage: family.storage,
            experts,
            layers,
            ropes,
        })
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }
}

fn activation(keys: &Keys<'_>, family: &Family) -> Result<Activation, LmError> {
    let key = family.activation_key;
    Ok(match keys.string(key)?.unwrap_or(family.activation) {
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_pytorch_tanh" | "gelu_new" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => {
            return Err(LmError::Unsupported {
                key: key.to_owned(),
                value: Value::from(other).to_string(),
                reason: "one of silu, gelu, gelu_pytorch_tanh, gelu_new, relu is".to_owned(),
            });
        }
    })
}

fn experts(keys: &Keys<'_>, family: &Family, intermediate_size: usize) -> Result<Option<Experts>, LmError> {
    let (count, per_token) = match family.experts {
        family::ExpertKeys::None => return Ok(None),
        family::ExpertKeys::Mixtral => (keys.count("num_local_experts")?, 2),
        family::ExpertKeys::Qwen => (None, 4),
    };
    let count = match (count, family.experts) {
        (Some(count), _) => count,
        (None, family::ExpertKeys::Qwen) => keys.count("num_experts")?.unwrap_or(60),
        (None, _) => keys.count("num_experts")?.unwrap_or(8),
    };
    let per_token = keys.count("num_experts_per_tok")?.unwrap_or(per_token);
    if per_token > count {
        return Err(keys.bad_value("num_experts_per_tok", &format!("at most {count} experts"), per_token.into()));
    }
    Ok(Some(match family.experts {
        family::ExpertKeys::Qwen => Experts {
            count,
            per_token,
            intermediate_size: keys.count("moe_intermediate_size")?.unwrap_or(1408),
            normalised: keys.flag("norm_topk_prob")?.unwrap_or(false),
            shared: Some(keys.count("shared_expert_intermediate_size")?.unwrap_or(5632)),
        },
        _ => Experts { count, per_token, intermediate_size, normalised: true, shared: None },
    }))
}

/// Whether each layer has experts.
fn mixed_layers(keys: &Keys<'_>, family: &Family, num_layers: usize) -> Result<Vec<bool>, LmError> {
    match family.experts {
        family::ExpertKeys::None => return Ok(vec![false; num_layers]),
        family::ExpertKeys::Mixtral => return Ok(vec![true; num_layers]),
        family::ExpertKeys::Qwen => {}
    }
    let step = keys.count("decoder_sparse_step")?.unwrap_or(1);
    let dense = match keys.get("mlp_only_layers") {
        None => Vec::new(),
        Some(value) => {
            let list = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>());
            list.ok_or_else(|| keys.bad_value("mlp_only_layers", "a list of layers", value.clone()))?
        }
    };
    Ok((0..num_layers).map(|layer| (layer + 1).is_multiple_of(step) && !dense.contains(&(layer as u64))).collect())
}

/// The rotary embeddings, and which of them layers without and with a window use.
fn ropes(
    config: &Config,
    keys: &Keys<'_>,
    family: &Family,
    head_dim: usize,
    max_positions: usize,
) -> Result<(Vec<Rope>, [usize; 2]), LmError> {
    let prefix = if keys.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let original = keys.count("original_max_position_embeddings")?.or(family.original_positions);
    let context = Context { head_dim, max_positions, original };
    let mut found = config.ropes();
    if found.is_empty() {
        // The key holds nothing, so this is the embedding that the family has by default.
        let plain = Config::from_value(serde_json::json!({ "rope_theta": family.rope_theta }))?;
        found = plain.ropes();
    }
    let top_theta = keys.get("rope_theta").is_some();
    let mut ropes = Vec::with_capacity(found.len());
    let mut rope_of = [None; 2];
    for mut rope in found {
        let section = match (keys.get(prefix), &rope.layer_type) {
            (Some(section), Some(name)) => section.get(name),
            (section, _) => section,
        };
        let own_theta = section.and_then(|section| section.get("rope_theta")).is_some_and(|theta| !theta.is_null());
        if !own_theta && !top_theta {
            rope.theta = family.rope_theta;
        }
        if family.yarn_means_longrope && rope.kind == "yarn" {
            rope.kind = "longrope".to_owned();
        }
        let name = match &rope.layer_type {
            Some(layer_type) => format!("{prefix}.{layer_type}"),
            None => prefix.to_owned(),
        };
        if rope.partial != 1.0 && !family.partial_rotary {
            return Err(LmError::Unsupported {
                key: "partial_rotary_factor".to_owned(),
                value: rope.partial.to_string(),
                reason: format!("{} turns all dimensions of a head", family.model_type),
            });
        }
        match rope.layer_type.as_deref() {
            None => rope_of = [Some(ropes.len()); 2],
            Some("full_attention") => rope_of[0] = Some(ropes.len()),
            Some("sliding_attention") => rope_of[1] = Some(ropes.len()),
            Some(_) => {
                let value = section.map_or(Value::Null, Value::clone).to_string();
                let reason = "layers are full_attention or sliding_attention".to_owned();
                return Err(LmError::Unsupported { key: name, value, reason });
            }
        }
        ropes.push(Rope::from_config(&rope, context, &name)?);
    }
    let either = rope_of[0].or(rope_of[1]).unwrap_or(0);
    Ok((ropes, rope_of.map(|index| index.unwrap_or(either))))
}

/// The window of each layer.
fn windows(keys: &Keys<'_>, family: &Family, num_layers: usize) -> Result<Vec<Option<usize>>, LmError> {
    let types = layer_types(keys, num_layers)?;
    let window = match family.window {
        family::Window::None => None,
        family::Window::SwitchedOn | family::Window::EverySecondSwitchedOn
            if !keys.flag("use_sliding_window")?.unwrap_or(false) =>
        {
            None
        }
        _ if keys.is_null("sliding_window") => None,
        _ => keys.count("sliding_window")?.or(family.window_default),
    };
    let first = match family.window {
        family::Window::SwitchedOn | family::Window::EverySecondSwitchedOn => {
            keys.number("max_window_layers")?.map_or(28, |layers| layers as usize)
        }
        _ => 0,
    };
    let by_rule = |layer: usize| match family.window {
        family::Window::None => false,
        family::Window::All => true,
        family::Window::SwitchedOn => layer >= first,
        family::Window::EverySecondSwitchedOn => layer < first && layer.is_multiple_of(2),
        family::Window::EverySecond => layer.is_multiple_of(2),
    };
    (0..num_layers)
        .map(|layer| {
            let Some(types) = &types else {
                return Ok(window.filter(|_| by_rule(layer)));
            };
            let sliding = types[layer];
            let reads_types = !matches!(family.window, family::Window::None | family::Window::All);
            if !reads_types && sliding != (window.is_some() && by_rule(layer)) {
                return Err(LmError::Unsupported {
                    key: "layer_types".to_owned(),
                    value: keys.get("layer_types").map_or(Value::Null, Value::clone).to_string(),
                    reason: format!("{} has the same kind of attention in all layers", family.model_type),
                });
            }
            Ok(window.filter(|_| sliding))
        })
        .collect()
}

/// Whether each layer is `sliding_attention`, where the configuration lists them.
fn layer_types(keys: &Keys<'_>, num_layers: usize) -> Result<Option<Vec<bool>>, LmError> {
    let Some(list) = keys.get("layer_types").and_then(Value::as_array) else {
        return Ok(None);
    };
    if list.len() != num_layers {
        return Err(keys.bad_value("layer_types", &format!("a list of {num_layers} layers"), list.len().into()));
    }
    let sliding = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(LmError::Unsupported {
            key: "layer_types".to_owned(),
            value: value.to_string(),
            reason: "layers are full_attention or sliding_attention".to_owned(),
        }),
    };
    list.iter().map(sliding).collect::<Result<_, _>>().map(Some)
}
