//! Typed reading of a configuration, and the keys that are refused.

use super::family::Family;
use crate::error::LmError;
use glue_tensor::Config;
use serde_json::Value;

/// Keys that change the computation in families or variants that this runtime does not have, each with the values
/// besides null, false, 0, an empty list and an empty object that switch it off.
///
/// A key that the model's own family reads is not refused by this table.
pub const REFUSED: &[(&str, &[f64])] = &[
    ("quantization_config", &[]),
    ("quantization", &[]),
    ("compression_config", &[]),
    ("is_encoder_decoder", &[]),
    ("add_cross_attention", &[]),
    ("use_bidirectional_attention", &[]),
    ("alibi", &[]),
    ("use_alibi", &[]),
    ("position_embedding_type", &[]),
    ("attn_logit_softcapping", &[]),
    ("final_logit_softcapping", &[]),
    ("query_pre_attn_scalar", &[]),
    ("attention_multiplier", &[1.0]),
    ("embedding_multiplier", &[1.0]),
    ("residual_multiplier", &[1.0]),
    ("logits_scaling", &[1.0]),
    ("logit_scale", &[1.0]),
    ("scale_emb", &[1.0]),
    ("scale_depth", &[]),
    ("dim_model_base", &[]),
    ("mup_enabled", &[]),
    ("clip_qkv", &[]),
    ("qk_layernorm", &[]),
    ("use_qk_norm", &[]),
    ("attention_bias", &[]),
    ("mlp_bias", &[]),
    ("qkv_bias", &[]),
    ("use_bias", &[]),
    ("bias", &[]),
    ("use_parallel_residual", &[]),
    ("parallel_attn", &[]),
    ("rope_local_base_freq", &[]),
    ("rope_interleave", &[]),
    ("rope_interleaved", &[]),
    ("no_rope_layers", &[]),
    ("no_rope_layer_interval", &[]),
    ("attention_chunk_size", &[]),
    ("attn_temperature_tuning", &[]),
    ("attn_scale", &[]),
    ("floor_scale", &[]),
    ("sliding_window_pattern", &[]),
    ("attention_layers", &[]),
    ("layers_block_type", &[]),
    ("block_types", &[]),
    ("mlp_layer_types", &[]),
    ("mlp_only_layers", &[]),
    ("decoder_sparse_step", &[1.0]),
    ("first_k_dense_replace", &[]),
    ("moe_layer_freq", &[1.0]),
    ("moe_layers", &[]),
    ("interleave_moe_layer_step", &[]),
    ("intermediate_size_mlp", &[]),
    ("moe_intermediate_size", &[]),
    ("shared_expert_intermediate_size", &[]),
    ("n_routed_experts", &[]),
    ("n_shared_experts", &[]),
    ("n_group", &[1.0]),
    ("topk_group", &[1.0]),
    ("topk_method", &[]),
    ("scoring_func", &[]),
    ("routed_scaling_factor", &[1.0]),
    ("swiglu_alpha", &[]),
    ("swiglu_limit", &[]),
    ("num_experts", &[1.0]),
    ("num_local_experts", &[1.0]),
    ("kv_lora_rank", &[]),
    ("q_lora_rank", &[]),
    ("qk_nope_head_dim", &[]),
    ("qk_rope_head_dim", &[]),
    ("v_head_dim", &[]),
    ("num_nextn_predict_layers", &[]),
    ("num_kv_shared_layers", &[]),
    ("vision_config", &[]),
    ("audio_config", &[]),
    ("text_config", &[]),
];

/// Keys whose switched-off value is text.
const HARMLESS_TEXT: &[(&str, &str)] = &[
    ("position_embedding_type", "rope"),
    ("position_embedding_type", "rotary"),
    ("topk_method", "greedy"),
    ("scoring_func", "softmax"),
];

/// Sections of a multimodal model's configuration that say nothing about its language model.
const OTHER_SECTIONS: [&str; 3] = ["text_config", "vision_config", "audio_config"];

/// Whether `value` of `key` switches off what the key is about, its usual values being `off`.
fn is_harmless(key: &str, value: &Value, off: &[f64]) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64().is_some_and(|n| n == 0.0 || off.contains(&n)),
        Value::String(text) => HARMLESS_TEXT.contains(&(key, text)),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// Refuses keys of [`REFUSED`] that stand beside the language part of a multimodal model.
pub(super) fn refuse_outside_of_text(root: &Value, model_type: &str) -> Result<(), LmError> {
    let present = REFUSED.iter().filter(|(key, _)| !OTHER_SECTIONS.contains(key));
    let mut present = present.filter_map(|&(key, off)| Some((key, off, root.get(key)?)));
    match present.find(|(key, off, value)| !is_harmless(key, value, off)) {
        Some((key, _, value)) => Err(LmError::Unsupported {
            key: key.to_owned(),
            value: value.to_string(),
            reason: format!("it is not part of a model of type {model_type} here"),
        }),
        None => Ok(()),
    }
}

/// A configuration read with errors that name the key.
pub(super) struct Keys<'a> {
    config: &'a Config,
    root: Value,
}

impl<'a> Keys<'a> {
    pub(super) fn new(config: &'a Config) -> Keys<'a> {
        Keys { config, root: config.to_value() }
    }

    /// The value of `key`; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.config.get(key)
    }

    /// Whether `key` is there and null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.root.get(key).is_some_and(Value::is_null)
    }

    pub(super) fn bad_value(&self, key: &str, expected: &str, found: Value) -> LmError {
        LmError::BadValue { key: key.to_owned(), expected: expected.to_owned(), found: found.to_string() }
    }

    /// A whole number of at least 1.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, LmError> {
        let read = |value: &Value| {
            let count = value.as_u64().filter(|&count| count > 0).and_then(|count| usize::try_from(count).ok());
            count.ok_or_else(|| self.bad_value(key, "a positive whole number", value.clone()))
        };
        self.get(key).map(read).transpose()
    }

    pub(super) fn required_count(&self, key: &str) -> Result<usize, LmError> {
        self.count(key)?.ok_or_else(|| LmError::MissingKey { key: key.to_owned() })
    }

    /// A number that is not negative.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, LmError> {
        let read = |value: &Value| {
            let number = value.as_f64().filter(|&number| number >= 0.0);
            number.ok_or_else(|| self.bad_value(key, "a number of at least 0", value.clone()))
        };
        self.get(key).map(read).transpose()
    }

    /// A number above 0.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, LmError> {
        match self.number(key)? {
            Some(0.0) => Err(self.bad_value(key, "a positive number", 0.into())),
            number => Ok(number),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, LmError> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| self.bad_value(key, "true or false", value.clone()));
        self.get(key).map(read).transpose()
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, LmError> {
        let read = |value: &'a Value| value.as_str().ok_or_else(|| self.bad_value(key, "a string", value.clone()));
        self.get(key).map(read).transpose()
    }

    /// Refuses the keys of [`REFUSED`] that `family` does not read.
    pub(super) fn refuse_unsupported(&self, family: &Family) -> Result<(), LmError> {
        for &(key, off) in REFUSED {
            let Some(value) = self.get(key).filter(|_| !family.reads(key)) else {
                continue;
            };
            if key == "quantization_config" && family.mxfp4 {
                self.check_mxfp4(value)?;
            } else if !is_harmless(key, value, off) {
                return Err(LmError::Unsupported {
                    key: key.to_owned(),
                    value: value.to_string(),
                    reason: format!("it is not part of a model of type {} here", family.model_type),
                });
            }
        }
        for &(key, values) in family.only.iter().chain(&[("use_rms_norm", &["true"] as &[_])]) {
            if let Some(value) = self.get(key).filter(|value| !values.contains(&value.to_string().as_str())) {
                return Err(LmError::Unsupported {
                    key: key.to_owned(),
                    value: value.to_string(),
                    reason: format!("in a model of type {}, only {} is", family.model_type, values.join(" or ")),
                });
            }
        }
        Ok(())
    }

    /// Refuses ways to quantise other than MXFP4 of the experts, which is read from the names of tensors.
    fn check_mxfp4(&self, value: &Value) -> Result<(), LmError> {
        match value.get("quant_method").and_then(Value::as_str) {
            Some("mxfp4") => Ok(()),
            _ => Err(LmError::Unsupported {
                key: "quantization_config".to_owned(),
                value: value.to_string(),
                reason: "only the `quant_method` mxfp4 is".to_owned(),
            }),
        }
    }
}
