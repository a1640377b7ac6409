//! Whether models can be mixed: their configurations, tokenizers and the shapes of what is mixed.

use super::Inputs;
use crate::error::MixError;
use crate::spec::{Level, MODEL_TYPE};
use glue_tensor::tokenizer_files::{TokenizerComparison, tokenizers_equal};
use glue_tensor::{Config, ModelDir};
use serde_json::Value;

/// Keys that say what a decoder layer computes, for any family. Rotary embeddings are compared apart from these.
const LAYER_KEYS: &[&str] = &[
    "rms_norm_eps",
    "layer_norm_eps",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "attention_bias",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "attention_multiplier",
    "residual_multiplier",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
];
/// Those that say what an MLP computes.
const MLP_KEYS: &[&str] = &["hidden_act", "hidden_activation", "mlp_bias"];

/// Refuses models that cannot go into a mixture: mixtures themselves, and quantised weights.
pub(super) fn is_plain(dir: &ModelDir) -> Result<(), MixError> {
    let config = dir.config();
    if config.model_type() == Some(MODEL_TYPE) {
        return Err(unfit(dir, "model_type", config.model_type().into(), "a mixture cannot go into another"));
    }
    match config.get("quantization_config") {
        Some(found) => Err(unfit(dir, "quantization_config", found.clone(), "quantised weights cannot be mixed")),
        None => Ok(()),
    }
}

/// Layers and width of the residual stream.
pub(super) fn size(dir: &ModelDir) -> Result<(usize, usize), MixError> {
    let needed =
        |key, found: Option<usize>| found.ok_or_else(|| unfit(dir, key, Value::Null, "a mixture needs to know it"));
    let config = dir.config();
    Ok((needed("num_hidden_layers", config.num_layers())?, needed("hidden_size", config.hidden_size())?))
}

impl Inputs<'_> {
    /// Compares every expert with the base: configuration, tokenizer.
    pub(super) fn check_fit(&self, notes: &mut Vec<String>) -> Result<(), MixError> {
        let all = self.config.experts.iter().zip(self.experts);
        let shared = self.config.shared_experts.iter().zip(&self.shared);
        for (described, &model) in all.chain(shared) {
            let (base, expert) = (self.base(), &self.models[model]);
            if model == self.base {
                continue;
            }
            self.check_configs(base, expert, notes)?;
            match tokenizers_equal(base.tokenizer(), expert.tokenizer())? {
                _ if base.tokenizer().names().is_empty() || expert.tokenizer().names().is_empty() => {
                    same_counts(
                        base,
                        expert,
                        &[("vocab_size", base.config().vocab_size(), expert.config().vocab_size())],
                    )?;
                }
                TokenizerComparison::Different { why } => {
                    let place = self.config.place(described.at);
                    let why = why.to_string();
                    return Err(MixError::Tokenizers { place, expert: expert.path().to_path_buf(), why });
                }
                TokenizerComparison::SameVocabulary => notes.push(format!(
                    "expert `{}` splits text differently from the base, whose tokenizer is used",
                    described.name
                )),
                _ => {}
            }
        }
        if self.config.gate_mode.needs_prompts() {
            self.has_tokenizer(self.base, self.config.place(self.config.base_at), "its gates are made from prompts")?;
        }
        Ok(())
    }

    fn check_configs(&self, base: &ModelDir, expert: &ModelDir, notes: &mut Vec<String>) -> Result<(), MixError> {
        let (ours, theirs) = (base.config(), expert.config());
        same_counts(
            base,
            expert,
            &[
                ("num_hidden_layers", ours.num_layers(), theirs.num_layers()),
                ("hidden_size", ours.hidden_size(), theirs.hidden_size()),
                ("intermediate_size", ours.intermediate_size(), theirs.intermediate_size()),
            ],
        )?;
        for key in MLP_KEYS {
            same(base, expert, key)?;
        }
        let ropes = (ours.ropes(), theirs.ropes());
        if self.config.level == Level::Ffn {
            if ropes.0 != ropes.1 && !both_default(&ropes.0, &ropes.1) {
                notes.push(format!(
                    "expert {} was trained with other rotary embeddings ({}) than those of the base, which are used",
                    expert.path().display(),
                    rope_key(theirs)
                ));
            }
            return Ok(());
        }
        if ours.model_type() != theirs.model_type() {
            let expected = format!("the base's is {}", Value::from(ours.model_type()));
            return Err(unfit(expert, "model_type", theirs.model_type().into(), &expected));
        }
        same_counts(
            base,
            expert,
            &[
                ("num_attention_heads", ours.num_heads(), theirs.num_heads()),
                ("num_key_value_heads", ours.num_kv_heads(), theirs.num_kv_heads()),
                ("head_dim", ours.head_dim(), theirs.head_dim()),
            ],
        )?;
        // Qwen's windows are switched on by a key of their own.
        let window_off = |config: &Config| {
            config.model_type().is_some_and(|name| name.starts_with("qwen"))
                && config.get("use_sliding_window").and_then(Value::as_bool) != Some(true)
        };
        for key in LAYER_KEYS {
            let of_window = ["sliding_window", "max_window_layers", "layer_types"].contains(key);
            if !(of_window && window_off(ours) && window_off(theirs)) {
                same(base, expert, key)?;
            }
        }
        if ropes.0 != ropes.1 && !both_default(&ropes.0, &ropes.1) {
            let key = rope_key(theirs);
            let found = theirs.get(key).cloned().unwrap_or(Value::Null);
            let ours = ours.get(rope_key(ours)).cloned().unwrap_or(Value::Null);
            return Err(unfit(expert, key, found, &format!("the base's is {ours}: whole layers run with the base's")));
        }
        Ok(())
    }
}

/// No mention of rotary embeddings, and the values that this stands for in every family that mergekit mixes.
fn both_default(a: &[glue_tensor::config::Rope], b: &[glue_tensor::config::Rope]) -> bool {
    let default = |ropes: &[glue_tensor::config::Rope]| {
        ropes.iter().all(|rope| rope.theta == 10_000.0 && rope.kind == "default" && rope.partial == 1.0)
    };
    default(a) && default(b)
}

fn rope_key(config: &Config) -> &'static str {
    let keys = ["rope_parameters", "rope_scaling", "rope_theta"];
    keys.into_iter().find(|key| config.get(key).is_some()).unwrap_or("rope_theta")
}

/// Refuses a key whose values differ; null, false and absence are one.
fn same(base: &ModelDir, expert: &ModelDir, key: &str) -> Result<(), MixError> {
    let value = |dir: &ModelDir| dir.config().get(key).filter(|value| **value != Value::Bool(false)).cloned();
    let (ours, theirs) = (value(base), value(expert));
    let equal = match (&ours, &theirs) {
        (Some(a), Some(b)) if a.is_number() && b.is_number() => a.as_f64() == b.as_f64(),
        _ => ours == theirs,
    };
    if equal {
        return Ok(());
    }
    let expected = format!("the base's is {}", ours.unwrap_or(Value::Null));
    Err(unfit(expert, key, theirs.unwrap_or(Value::Null), &expected))
}

fn same_counts(
    base: &ModelDir,
    expert: &ModelDir,
    counts: &[(&str, Option<usize>, Option<usize>)],
) -> Result<(), MixError> {
    match counts.iter().find(|(_, ours, theirs)| ours != theirs) {
        Some((key, ours, theirs)) => {
            let expected = format!("that of the base {} is {}", base.path().display(), Value::from(*ours));
            Err(unfit(expert, key, (*theirs).into(), &expected))
        }
        None => Ok(()),
    }
}

pub(super) fn unfit(dir: &ModelDir, key: &str, found: Value, expected: &str) -> MixError {
    MixError::Unfit {
        path: dir.path().to_path_buf(),
        key: key.to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}
