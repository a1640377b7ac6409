//! Hyperparameters from and to the keys of a GGUF file.

use super::facts::{Deepseek, Experts, Facts, Granite, Llama4, Scaling, ScalingKind, Window};
use super::{FAMILIES, Family, Routing, WindowRule, llama3};
use crate::container::{GgufFile, Metadata, Value};
use crate::error::GgufError;

/// A tensor with one factor for each frequency.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";
/// Factors beyond the original context.
pub(crate) const ROPE_LONG: &str = "rope_factors_long.weight";
/// Factors within the original context.
pub(crate) const ROPE_SHORT: &str = "rope_factors_short.weight";

/// `expert_gating_func`.
const SOFTMAX: u64 = 1;
const SIGMOID: u64 = 2;

/// Most values of a tensor of frequencies.
const MAX_FREQUENCIES: usize = 1 << 16;

impl Facts {
    /// Sets the keys of `family`.
    pub(crate) fn set_keys(&self, family: &Family, metadata: &mut Metadata) {
        let arch = family.arch;
        let mut set = |key: &str, value: Value| metadata.set(format!("{arch}.{key}"), value);
        let count = |n: u64| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let number = |x: f64| Value::F32(x as f32);
        set("block_count", count(self.layers));
        set("context_length", count(self.context));
        set("embedding_length", count(self.hidden));
        set("feed_forward_length", count(self.width));
        set("attention.head_count", count(self.heads));
        // Attention through a latent is attention with one head of keys and values, which are the latent.
        set("attention.head_count_kv", count(self.deepseek.map_or(self.kv_heads, |_| 1)));
        let latent = |rest: u64| self.deepseek.map_or(self.head_dim, |deepseek| deepseek.latent + rest);
        set("attention.key_length", count(latent(self.rotated)));
        set("attention.value_length", count(latent(0)));
        if let Some(deepseek) = &self.deepseek {
            set("attention.key_length_mla", count(self.head_dim));
            set("attention.value_length_mla", count(deepseek.value));
        }
        set(epsilon_key(family), number(self.epsilon));
        set("vocab_size", count(self.vocabulary));
        set("rope.dimension_count", count(self.rotated));
        set("rope.freq_base", number(self.theta));
        if let Some(theta) = self.local_theta {
            set("rope.freq_base_swa", number(theta));
        }
        match &self.scaling {
            Scaling::None | Scaling::Llama3 { .. } => {}
            Scaling::Linear { factor } => {
                set("rope.scaling.type", "linear".into());
                set("rope.scaling.factor", number(*factor));
            }
            Scaling::Yarn { factor, original, beta_fast, beta_slow } => {
                set("rope.scaling.type", "yarn".into());
                set("rope.scaling.factor", number(*factor));
                set("rope.scaling.original_context_length", count(*original));
                set("rope.scaling.yarn_beta_fast", number(*beta_fast));
                set("rope.scaling.yarn_beta_slow", number(*beta_slow));
            }
            Scaling::LongRope { original, attention, .. } => {
                set("rope.scaling.type", "longrope".into());
                set("rope.scaling.original_context_length", count(*original));
                set("rope.scaling.attn_factor", number(*attention));
            }
        }
        if let Some(window) = self.window {
            set("attention.sliding_window", count(window.size));
            set("attention.sliding_window_pattern", count(window.period));
        } else if arch == "phi3" {
            set("attention.sliding_window", count(0));
        }
        if let Some(cap) = self.attention_cap {
            set("attn_logit_softcapping", number(cap));
        }
        if let Some(cap) = self.final_cap {
            set("final_logit_softcapping", number(cap));
        }
        if let Some(experts) = &self.experts {
            set("expert_count", count(experts.count));
            set("expert_used_count", count(experts.used));
            if let Some(width) = experts.width {
                set("expert_feed_forward_length", count(width));
            }
            if let Some(width) = experts.shared_width {
                set("expert_shared_feed_forward_length", count(width));
            }
        }
        if let Some(granite) = self.granite {
            set("attention.scale", number(granite.attention));
            set("embedding_scale", number(granite.embedding));
            set("residual_scale", number(granite.residual));
            set("logit_scale", number(granite.logits));
        }
        if let Some(deepseek) = &self.deepseek {
            let sigmoid = family.routing == Routing::DeepseekSigmoid;
            if let Some(rank) = deepseek.query_rank {
                set("attention.q_lora_rank", count(rank));
            }
            set("attention.kv_lora_rank", count(deepseek.latent));
            set("leading_dense_block_count", count(deepseek.dense_layers));
            set("expert_shared_count", count(deepseek.shared));
            set("expert_weights_scale", number(deepseek.scale));
            set("expert_weights_norm", sigmoid.into());
            set("expert_gating_func", count(if sigmoid { SIGMOID } else { SOFTMAX }));
            if deepseek.groups.0 > 1 {
                set("expert_group_count", count(deepseek.groups.0));
                set("expert_group_used_count", count(deepseek.groups.1));
            }
            if let Some(mscale) = deepseek.mscale {
                // A tenth of it, which llama.cpp expects of this architecture.
                set("rope.scaling.yarn_log_multiplier", number(0.1 * mscale));
            }
        }
        if let Some(llama4) = &self.llama4 {
            set("interleave_moe_layer_step", count(llama4.expert_period));
        }
        if let Some(scale) = self.logit_scale {
            set("logit_scale", number(scale));
            set("rope.scaling.type", "none".into());
        }
    }

    /// The family of a file and its hyperparameters.
    ///
    /// # Errors
    /// [`GgufError::Family`] for an architecture that is not known, [`GgufError::Config`] for what is missing or of the
    /// wrong type.
    pub(crate) fn from_file(file: &GgufFile) -> Result<(&'static Family, Facts), GgufError> {
        let metadata = file.metadata();
        let arch = metadata.get("general.architecture").and_then(Value::as_str).unwrap_or("none");
        let has = |key: &str| metadata.get(&format!("{arch}.{key}")).and_then(Value::as_u64).is_some_and(|n| n > 0);
        let gating = metadata.get(&format!("{arch}.expert_gating_func")).and_then(Value::as_u64);
        let fits = |family: &&Family| {
            family.arch == arch
                && (family.routing == Routing::DeepseekSigmoid) == (gating == Some(SIGMOID))
                && (family.routing != Routing::Dense) == has("expert_count")
                && (family.arch != "olmo2" || (family.window != WindowRule::Context) == has("attention.sliding_window"))
        };
        let Some(family) = FAMILIES.iter().find(fits) else {
            let found = format!("a GGUF file of the architecture `{arch}`");
            return Err(GgufError::Family { path: file.path().to_path_buf(), found, known: Family::known() });
        };
        let facts = Reader { file, arch }.read(family)?;
        Ok((family, facts))
    }
}

fn epsilon_key(family: &Family) -> &'static str {
    if family.mean_norm { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" }
}

struct Reader<'a> {
    file: &'a GgufFile,
    arch: &'a str,
}

impl Reader<'_> {
    fn error(&self, key: &str, message: String) -> GgufError {
        let key = format!("{}.{key}", self.arch);
        GgufError::Config { path: self.file.path().to_path_buf(), key, message }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.file.metadata().get(&format!("{}.{key}", self.arch))
    }

    fn count(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // One number for each layer, where all are the same.
        let same = value.as_array().and_then(|list| list.iter().all(|n| *n == list[0]).then(|| list.first()).flatten());
        match same.unwrap_or(value).as_u64() {
            Some(n) if n < 1 << 40 => Ok(Some(n)),
            _ => Err(self.error(key, format!("expected one whole number, found {}", shown(value)))),
        }
    }

    fn needed(&self, key: &str) -> Result<u64, GgufError> {
        match self.count(key)? {
            Some(n) if n > 0 => Ok(n),
            found => Err(self.error(key, format!("expected a number above 0, found {found:?}"))),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() => Ok(Some(x)),
            _ => Err(self.error(key, format!("expected a number, found {}", shown(value)))),
        }
    }

    fn read(&self, family: &Family) -> Result<Facts, GgufError> {
        let heads = self.needed("attention.head_count")?;
        let hidden = self.needed("embedding_length")?;
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        // In today's files of DeepSeek, the other key is the width of the latent.
        let (key, value) = match self.get("attention.key_length_mla") {
            Some(_) => ("attention.key_length_mla", "attention.value_length_mla"),
            None => ("attention.key_length", "attention.value_length"),
        };
        let head_dim = self.count(key)?.unwrap_or(hidden / heads);
        let deepseek = self.deepseek(family, head_dim, value)?;
        let expected = deepseek.map_or(head_dim, |deepseek| deepseek.value);
        if head_dim == 0 || self.count(value)?.is_some_and(|found| found != expected) {
            return Err(self.error(value, format!("expected {head_dim}, as keys have")));
        }
        let context = self.needed("context_length")?;
        let window = match (family.window, self.count("attention.sliding_window")?) {
            (WindowRule::AllButEvery(usual), Some(size)) if size > 0 => {
                Some(Window { size, period: self.period()?.unwrap_or(usual as u64) })
            }
            _ => None,
        };
        let gemma3 = family.arch == "gemma3";
        let mut facts = Facts {
            layers: self.needed("block_count")?,
            hidden,
            width: self.needed("feed_forward_length")?,
            heads,
            kv_heads: match deepseek {
                Some(_) => heads,
                None => self.count("attention.head_count_kv")?.filter(|&n| n > 0).unwrap_or(heads),
            },
            head_dim,
            rotated: self.count("rope.dimension_count")?.unwrap_or(head_dim),
            context,
            epsilon: self.number(epsilon_key(family))?.unwrap_or(1e-5),
            vocabulary: 0,
            theta,
            local_theta: self.number("rope.freq_base_swa")?.or(gemma3.then_some(10_000.0)),
            scaling: Scaling::None,
            window,
            attention_cap: self.number("attn_logit_softcapping")?,
            final_cap: self.number("final_logit_softcapping")?,
            experts: None,
            granite: None,
            logit_scale: None,
            deepseek,
            llama4: match family.routing {
                Routing::Llama4 => Some(Llama4 { expert_period: self.needed("interleave_moe_layer_step")? }),
                _ => None,
            },
        };
        if family.routing == Routing::Llama4 && self.get("attention.sliding_window").is_some() {
            let message = "attention without chunks is not known for this family".to_string();
            return Err(self.error("attention.sliding_window", message));
        }
        facts.vocabulary = match self.file.tensor("token_embd.weight").map(|tensor| tensor.shape.as_slice()) {
            Some(&[rows, _]) => rows as u64,
            _ => {
                let (path, tensor) = (self.file.path().to_path_buf(), "token_embd.weight".to_string());
                return Err(GgufError::Tensor { path, tensor, message: "expected a matrix, found none".to_string() });
            }
        };
        if family.model_type == "gemma2" {
            facts.attention_cap.get_or_insert(50.0);
            facts.final_cap.get_or_insert(30.0);
        }
        if family.routing != Routing::Dense {
            facts.experts = Some(Experts {
                count: self.needed("expert_count")?,
                used: self.needed("expert_used_count")?,
                width: self.count("expert_feed_forward_length")?,
                shared_width: self.count("expert_shared_feed_forward_length")?,
            });
        }
        if family.model_type == "granite" {
            let factor = |key| Ok::<_, GgufError>(self.number(key)?.filter(|&x| x != 0.0).unwrap_or(1.0));
            facts.granite = Some(Granite {
                attention: factor("attention.scale")?,
                embedding: factor("embedding_scale")?,
                residual: factor("residual_scale")?,
                logits: factor("logit_scale")?,
            });
        }
        if family.model_type == "cohere2" {
            facts.logit_scale = self.number("logit_scale")?;
        }
        facts.check_sizes().map_err(|found| self.error(found.file_key, found.message))?;
        facts.scaling = self.scaling(family, &facts)?;
        Ok(facts)
    }

    /// `value` is the key of the values' size.
    fn deepseek(&self, family: &Family, head_dim: u64, value: &str) -> Result<Option<Deepseek>, GgufError> {
        if !matches!(family.routing, Routing::DeepseekSoftmax | Routing::DeepseekSigmoid) {
            return Ok(None);
        }
        let rotated = self.needed("rope.dimension_count")?;
        let plain = head_dim.checked_sub(rotated);
        let plain = plain.ok_or_else(|| self.error("rope.dimension_count", format!("{rotated} of {head_dim}")))?;
        Ok(Some(Deepseek {
            query_rank: self.count("attention.q_lora_rank")?.filter(|&rank| rank > 0),
            latent: self.needed("attention.kv_lora_rank")?,
            plain,
            value: self.needed(value)?,
            dense_layers: self.count("leading_dense_block_count")?.unwrap_or(0),
            shared: self.count("expert_shared_count")?.unwrap_or(0),
            scale: self.number("expert_weights_scale")?.unwrap_or(1.0),
            groups: (
                self.count("expert_group_count")?.unwrap_or(1),
                self.count("expert_group_used_count")?.unwrap_or(1),
            ),
            mscale: self
                .number("rope.scaling.yarn_log_multiplier")?
                .map(|tenth| Value::F32(10.0 * tenth as f32))
                .and_then(|value| value.as_f64()),
        }))
    }

    /// All but every layer of so many have a window: a number, or a list of all layers.
    fn period(&self) -> Result<Option<u64>, GgufError> {
        let key = "attention.sliding_window_pattern";
        let Some(list) = self.get(key).and_then(Value::as_array) else { return self.count(key) };
        let sliding: Option<Vec<bool>> = list.iter().map(Value::as_bool).collect();
        let sliding = sliding.ok_or_else(|| self.error(key, "expected true or false for each layer".to_string()))?;
        let fits = |period: &u64| {
            sliding.iter().zip(0u64..).all(|(&sliding, layer)| sliding != (layer + 1).is_multiple_of(*period))
        };
        let period = (1..=sliding.len() as u64 + 1).find(fits);
        period.map(Some).ok_or_else(|| self.error(key, "full attention in other than every so many layers".to_string()))
    }

    fn scaling(&self, family: &Family, facts: &Facts) -> Result<Scaling, GgufError> {
        let original =
            || Ok::<_, GgufError>(self.count("rope.scaling.original_context_length")?.unwrap_or(facts.context));
        let kind = self.get("rope.scaling.type").and_then(Value::as_str).unwrap_or("none");
        let scaling = match kind {
            "none" | "" => match self.frequencies(ROPE_FREQS)? {
                None => Scaling::None,
                Some(found) => match llama3::recover(facts.theta, &found) {
                    Some(scaling) => scaling,
                    None if found.iter().all(|&x| x == 1.0) => Scaling::None,
                    None => {
                        let (path, tensor) = (self.file.path().to_path_buf(), ROPE_FREQS.to_string());
                        let message =
                            "these are not the factors of a Llama 3, which are the only ones known".to_string();
                        return Err(GgufError::Tensor { path, tensor, message });
                    }
                },
            },
            "linear" => Scaling::Linear { factor: self.number("rope.scaling.factor")?.unwrap_or(1.0) },
            "yarn" => Scaling::Yarn {
                factor: self.number("rope.scaling.factor")?.unwrap_or(1.0),
                original: original()?,
                beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            },
            "longrope" => self.long_rope(original()?, facts)?,
            other => return Err(self.error("rope.scaling.type", format!("`{other}` is not known"))),
        };
        // Files of Phi-3 have both tensors without the key.
        let scaling = match scaling {
            Scaling::None if self.file.tensor(ROPE_LONG).is_some() => self.long_rope(original()?, facts)?,
            other => other,
        };
        match scaling.kind() {
            Some(kind) if !family.scalings.contains(&kind) => {
                Err(self.error("rope.scaling.type", format!("a scaling `{kind:?}` is not known for this family")))
            }
            _ => Ok(scaling),
        }
    }

    fn long_rope(&self, original: u64, facts: &Facts) -> Result<Scaling, GgufError> {
        let list = |name: &str| match self.frequencies(name)? {
            Some(found) => Ok(found.into_iter().map(|x| Value::F32(x).as_f64().unwrap_or(1.0)).collect()),
            None => Err(self.error("rope.scaling.type", format!("{:?} without `{name}`", ScalingKind::LongRope))),
        };
        let factor = facts.context as f64 / original as f64;
        let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
        let attention = self.number("rope.scaling.attn_factor")?.unwrap_or(usual);
        Ok(Scaling::LongRope { original, long: list(ROPE_LONG)?, short: list(ROPE_SHORT)?, attention })
    }

    fn frequencies(&self, name: &str) -> Result<Option<Vec<f32>>, GgufError> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        if tensor.shape.len() != 1 || tensor.n_elements() > MAX_FREQUENCIES {
            let message = format!("expected a vector of factors, found {:?}", tensor.shape);
            let (path, tensor) = (self.file.path().to_path_buf(), name.to_string());
            return Err(GgufError::Tensor { path, tensor, message });
        }
        let mut values = Vec::new();
        self.file.read(tensor, 0, tensor.n_elements(), &mut values)?;
        Ok(Some(values))
    }
}

/// A value for a message, cut short where it is long.
fn shown(value: &Value) -> String {
    let text = format!("{value:?}");
    text.chars().take(80).collect()
}
