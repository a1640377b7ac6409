//! A configuration checked into what the runtime computes.
//!
//! The families differ in data, not in code: where norms stand, which projections have biases, the scale of attention,
//! the window of each layer. Keys that are absent take the defaults of the configuration classes of transformers. Of
//! keys that this runtime does not know, those in [`REFUSED`] change the computation in some other family and are
//! refused unless they hold the value that switches them off; any other is taken to be about training, generation or
//! bookkeeping.

mod experts;
mod family;
mod keys;
mod latent;
mod mixture;
mod names;
mod positions;
mod windows;
mod wrapper;

use crate::error::LmError;
use crate::rope::Rope;
pub use experts::{ExpertGroups, Experts, Scoring, SwigluClamp};
use family::{Family, LogitScale};
use glue_tensor::Config;
use keys::Keys;
pub use keys::REFUSED;
pub use latent::Latent;
pub(crate) use mixture::split;
pub(crate) use names::Names;
use positions::RopeLayers;
pub use positions::Temperature;
use serde_json::Value;
pub(crate) use wrapper::OTHER_PARTS;

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

/// What a norm does before it multiplies with its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormKind {
    /// Divides by the root of the mean square.
    Rms,
    /// Takes the mean away first: layer normalisation without a bias (Cohere 2).
    Layer,
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormPlacement {
    /// Before attention and before the MLP.
    Before,
    /// After each of the two, before the sum with the residual stream (OLMo 2).
    After,
    /// Both (Gemma 2 and 3, GLM-4).
    Around,
    /// One norm before both, which read the same and are added to the residual stream together (Cohere 2).
    Parallel,
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
    /// Over each head, after rope, without weights, in layers with a rotary embedding (Llama 4).
    PerHeadAfterRope,
}

/// How the projections of a layer are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProjectionLayout {
    /// A tensor each.
    Separate,
    /// Queries, keys and values in one tensor, gate and up in another (Phi 3).
    Fused,
    /// A tensor each for queries, keys and values, and one for gate and up (GLM-4).
    FusedMlp,
}

/// What differs between the layers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerKind {
    /// Positions a query sees, its own included; all before it when absent. At least 1.
    pub window: Option<usize>,
    /// Length of the chunks outside of which a query sees nothing: chunk i holds the positions from i times this on.
    /// No chunks when absent. At least 1.
    pub chunk: Option<usize>,
    /// Index into [`Architecture::ropes`]; no rotary embedding when absent.
    pub rope: Option<usize>,
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
    /// What norms do.
    pub norm: NormKind,
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
    /// Factor on what attention and the MLP add to the residual stream.
    pub residual_scale: f32,
    /// Factor on the logits, before [`Architecture::final_softcap`].
    pub logit_scale: f32,
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
    /// Factor on queries by position, in layers without a rotary embedding (Llama 4).
    pub temperature: Option<Temperature>,
    /// Whether each head has an attention sink: a score that takes part in the softmax with no value (gpt-oss).
    pub sinks: bool,
    /// Keys and values made of a latent vector, in which case `kv_heads` and `head_dim` say nothing (DeepSeek).
    pub latent: Option<Latent>,
    /// Whether it is the language part of a multimodal model, the rest of which is left aside.
    pub wrapped: bool,
    /// Layers after the last for the prediction of further tokens, which are left aside (DeepSeek V3).
    pub extra_layers: usize,
    /// What the tensors of a layer are called.
    pub(crate) names: &'static Names,
}

impl Architecture {
    /// Checks a configuration.
    ///
    /// # Errors
    /// [`LmError::Unsupported`] for a family or a key that this runtime does not compute, [`LmError::MissingKey`],
    /// [`LmError::BadValue`]; each names the key.
    pub fn from_config(config: &Config) -> Result<Architecture, LmError> {
        match wrapper::unwrapped(config)? {
            Some((text, family)) => Architecture::of_family(&text, family, true),
            None => Architecture::of_family(config, Family::of(config)?, false),
        }
    }

    fn of_family(config: &Config, family: &Family, wrapped: bool) -> Result<Architecture, LmError> {
        let keys = Keys::new(config);
        keys.refuse_unsupported(family)?;

        let size = |key, of: fn(&family::Sizes) -> usize| match family.sizes {
            Some(sizes) => Ok(keys.count(key)?.unwrap_or(of(&sizes))),
            None => keys.required_count(key),
        };
        let hidden_size = size("hidden_size", |sizes| sizes.hidden_size)?;
        let heads = size("num_attention_heads", |sizes| sizes.heads)?;
        let num_layers = size("num_hidden_layers", |sizes| sizes.layers)?;
        let latent = if family.latent { Some(Latent::read(&keys, heads)?) } else { None };
        let (kv_heads, head_dim) = match latent {
            Some(latent) => (heads, latent.plain_dim + latent.rotated_dim),
            None => (kv_heads(&keys, family, heads)?, head_dim(&keys, family, hidden_size, heads)?),
        };
        let max_positions = keys.count("max_position_embeddings")?.unwrap_or(family.max_positions);
        let rotated_dim = latent.map_or(head_dim, |latent| latent.rotated_dim);
        let (ropes, rope_of) = positions::ropes(config, &keys, family, rotated_dim, max_positions)?;
        let attention_scale = match (latent, family.query_scalar) {
            (Some(latent), _) => latent.scale(&keys, config.ropes().first())?,
            (None, Some(default)) => keys.positive("query_pre_attn_scalar")?.unwrap_or(default).powf(-0.5),
            (None, None) if family.multipliers => keys.positive("attention_multiplier")?.unwrap_or(1.0),
            (None, None) => (head_dim as f64).powf(-0.5),
        };
        let multiplier = |key| match family.multipliers {
            true => Ok(keys.number(key)?.unwrap_or(1.0) as f32),
            false => Ok::<_, LmError>(1.0),
        };
        let intermediate_size = size("intermediate_size", |sizes| sizes.intermediate_size)?;
        let experts = experts::experts(&keys, family, intermediate_size)?;
        // What dense layers beside those with experts are as wide as, under a key of its own.
        let intermediate_size = match family.reads("intermediate_size_mlp") {
            true => keys.count("intermediate_size_mlp")?.unwrap_or(16384),
            false => intermediate_size,
        };
        let layers = layers(&keys, family, num_layers, rope_of)?;
        let bias = family.attention_bias;
        let attention_bias = match bias {
            Some(bias) => keys.flag("attention_bias")?.unwrap_or(bias.default),
            None => false,
        };
        let eps_key = match family.norm {
            NormKind::Rms => "rms_norm_eps",
            NormKind::Layer => "layer_norm_eps",
        };
        Ok(Architecture {
            model_type: family.model_type,
            vocab_size: size("vocab_size", |sizes| sizes.vocab_size)?,
            hidden_size,
            intermediate_size,
            heads,
            kv_heads,
            head_dim,
            max_positions,
            norm: family.norm,
            norm_eps: keys.positive(eps_key)?.unwrap_or(family.norm_eps) as f32,
            norm_offset: family.norm_offset,
            norms: family.norms,
            qk_norm: match family.qk_norm {
                QkNorm::PerHeadAfterRope if !keys.flag("use_qk_norm")?.unwrap_or(true) => QkNorm::None,
                qk_norm => qk_norm,
            },
            activation: activation(&keys, family)?,
            attention_scale: attention_scale as f32,
            attention_softcap: softcap(&keys, "attn_logit_softcapping", family.attention_softcap)?,
            final_softcap: softcap(&keys, "final_logit_softcapping", family.final_softcap)?,
            embedding_scale: match family.scaled_embedding {
                true => (hidden_size as f64).sqrt() as f32,
                false => multiplier("embedding_multiplier")?,
            },
            residual_scale: multiplier("residual_multiplier")?,
            logit_scale: match family.logit_scale {
                LogitScale::None => 1.0,
                LogitScale::Divided => 1.0 / keys.positive("logits_scaling")?.unwrap_or(1.0) as f32,
                LogitScale::Multiplied(default) => keys.positive("logit_scale")?.unwrap_or(default) as f32,
            },
            tied: keys.tied(family, wrapped)?,
            qkv_bias: attention_bias
                || match family.qkv_bias_key {
                    true => keys.flag("qkv_bias")?.unwrap_or(family.qkv_bias),
                    false => family.qkv_bias,
                },
            output_bias: attention_bias && bias.is_some_and(|bias| bias.output),
            mlp_bias: family.mlp_bias && keys.flag("mlp_bias")?.unwrap_or(false),
            storage: family.storage,
            experts,
            layers,
            ropes,
            temperature: positions::temperature(&keys, family)?,
            sinks: family.sinks,
            latent,
            wrapped,
            extra_layers: match family.reads("num_nextn_predict_layers") {
                true => keys.number("num_nextn_predict_layers")?.unwrap_or(0.0) as usize,
                false => 0,
            },
            names: family.names,
        })
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Numbers that a layer keeps as keys for a token, and as many as values.
    pub fn key_width(&self) -> usize {
        self.latent.map_or(self.kv_heads * self.head_dim, |latent| latent.rank + latent.rotated_dim)
    }
}

fn kv_heads(keys: &Keys<'_>, family: &Family, heads: usize) -> Result<usize, LmError> {
    let kv_heads = match (keys.count("num_key_value_heads")?, keys.is_null("num_key_value_heads")) {
        (Some(kv_heads), _) => kv_heads,
        (None, true) => heads,
        (None, false) => family.kv_heads.unwrap_or(heads),
    };
    match heads.is_multiple_of(kv_heads) {
        true => Ok(kv_heads),
        false => Err(keys.bad_value("num_key_value_heads", &format!("a divisor of {heads} heads"), kv_heads.into())),
    }
}

fn head_dim(keys: &Keys<'_>, family: &Family, hidden_size: usize, heads: usize) -> Result<usize, LmError> {
    match (keys.count("head_dim")?, family.head_dim) {
        (Some(head_dim), _) => Ok(head_dim),
        (None, Some(head_dim)) if !keys.is_null("head_dim") => Ok(head_dim),
        _ if hidden_size.is_multiple_of(heads) => Ok(hidden_size / heads),
        _ => {
            let expected = format!("a multiple of {heads} heads where `head_dim` is absent");
            Err(keys.bad_value("hidden_size", &expected, hidden_size.into()))
        }
    }
}

/// A cap that the family reads under `key`, with its default; null switches it off.
fn softcap(keys: &Keys<'_>, key: &str, default: Option<Option<f64>>) -> Result<Option<f32>, LmError> {
    let Some(default) = default else {
        return Ok(None);
    };
    let cap = match keys.positive(key)? {
        None if keys.is_null(key) => None,
        value => value.or(default),
    };
    Ok(cap.map(|cap| cap as f32))
}

/// The kind of each layer. `rope_of` are the rotary embeddings of layers without and with a window.
fn layers(keys: &Keys<'_>, family: &Family, num_layers: usize, rope_of: [usize; 2]) -> Result<Vec<LayerKind>, LmError> {
    let (rotated, sights) = if family.rope_layers == RopeLayers::WithWindow {
        let sights = windows::sights(keys, family, num_layers, None)?;
        let windowed: Vec<bool> = sights.iter().map(|sight| sight.window.is_some()).collect();
        (positions::rotated_layers(keys, family, &windowed)?, sights)
    } else {
        let rotated = positions::rotated_layers(keys, family, &vec![false; num_layers])?;
        let sights = windows::sights(keys, family, num_layers, Some(&rotated))?;
        (rotated, sights)
    };
    let mixed = experts::mixed_layers(keys, family, num_layers)?;
    let one = |((sight, rotated), experts): ((windows::Sight, bool), bool)| LayerKind {
        window: sight.window,
        chunk: sight.chunk,
        rope: rotated.then_some(rope_of[usize::from(sight.window.is_some())]),
        experts,
    };
    Ok(sights.into_iter().zip(rotated).zip(mixed).map(one).collect())
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
