//! Hyperparameters to `config.json`.

use super::facts::{Facts, Llama4, Scaling};
use super::{Family, Routing, WindowRule};
use glue_tensor::Dtype;
use serde_json::{Map, Value, json};

impl Facts {
    /// `config.json` of a model of `family` with weights of type `dtype`; `has` says whether the model has a tensor.
    pub(crate) fn to_config(&self, family: &Family, dtype: Dtype, tied: bool, has: impl Fn(&str) -> bool) -> Value {
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| config.insert(key.to_string(), value);
        set("architectures", json!([family.architecture]));
        set("model_type", family.model_type.into());
        set("hidden_size", self.hidden.into());
        set("intermediate_size", self.width.into());
        set("num_hidden_layers", self.layers.into());
        set("num_attention_heads", self.heads.into());
        set("num_key_value_heads", self.kv_heads.into());
        set("head_dim", self.head_dim.into());
        set("max_position_embeddings", self.context.into());
        set("vocab_size", self.vocabulary.into());
        set(if family.mean_norm { "layer_norm_eps" } else { "rms_norm_eps" }, self.epsilon.into());
        set(family.activation.0, family.activation.1.into());
        set("tie_word_embeddings", tied.into());
        set("torch_dtype", dtype.torch_name().into());
        set("attention_dropout", 0.0.into());
        if family.activation.0 == "hidden_activation" {
            set("hidden_act", family.activation.1.into());
            set("query_pre_attn_scalar", json!(self.query_scalar(family) as u64));
        }
        let bias = |name: &str| has(&format!("blk.0.{name}.bias"));
        if family.reads.contains(&"attention_bias") {
            set("attention_bias", bias("attn_q").into());
        }
        if family.reads.contains(&"mlp_bias") {
            set("mlp_bias", bias("ffn_up").into());
        }
        set("rope_theta", self.theta.into());
        if self.deepseek.is_none() && (self.rotated != self.head_dim || family.partial != 1.0) {
            set("partial_rotary_factor", json!(self.rotated as f64 / self.head_dim as f64));
        }
        self.set_rope(family, &mut set);
        self.set_window(family, &mut set);
        if let Some(local) = self.local_theta.or((family.arch == "gemma3").then_some(self.theta)) {
            set("rope_local_base_freq", local.into());
        }
        if family.reads.contains(&"attn_logit_softcapping") {
            set("attn_logit_softcapping", json!(self.attention_cap));
        }
        if family.reads.contains(&"final_logit_softcapping") {
            set("final_logit_softcapping", json!(self.final_cap));
        }
        if let (Some(deepseek), Some(experts)) = (self.deepseek, &self.experts) {
            set("head_dim", self.rotated.into());
            set("q_lora_rank", json!(deepseek.query_rank));
            set("kv_lora_rank", deepseek.latent.into());
            set("qk_nope_head_dim", deepseek.plain.into());
            set("qk_rope_head_dim", self.rotated.into());
            set("qk_head_dim", self.head_dim.into());
            set("v_head_dim", deepseek.value.into());
            set("first_k_dense_replace", deepseek.dense_layers.into());
            set("n_routed_experts", experts.count.into());
            set("n_shared_experts", deepseek.shared.into());
            set("num_experts_per_tok", experts.used.into());
            set("moe_intermediate_size", json!(experts.width));
            set("routed_scaling_factor", deepseek.scale.into());
            set("n_group", deepseek.groups.0.into());
            set("topk_group", deepseek.groups.1.into());
            set("norm_topk_prob", (family.routing == Routing::DeepseekSigmoid).into());
            if family.routing == Routing::DeepseekSoftmax {
                set("topk_method", "greedy".into());
            }
        } else if let (Some(llama4), Some(experts)) = (self.llama4, &self.experts) {
            set("intermediate_size", json!(experts.width));
            set("intermediate_size_mlp", self.width.into());
            set("num_local_experts", experts.count.into());
            set("num_experts_per_tok", experts.used.into());
            set("interleave_moe_layer_step", llama4.expert_period.into());
            let sparse = |layer: &u64| (layer + 1).is_multiple_of(llama4.expert_period);
            set("moe_layers", (0..self.layers).filter(sparse).map(Value::from).collect());
            let all = |of: fn(bool) -> Value| (0..self.layers).map(|layer| of(Llama4::rotates(layer))).collect();
            set("no_rope_layers", all(|rotates| u64::from(rotates).into()));
            set("no_rope_layer_interval", Llama4::PLAIN_PERIOD.into());
            set("layer_types", all(|rotates| if rotates { "chunked_attention" } else { "full_attention" }.into()));
            set("attention_chunk_size", Llama4::CHUNK.into());
            set("attn_temperature_tuning", true.into());
            set("floor_scale", Llama4::CHUNK.into());
            set("attn_scale", Llama4::SCALE.into());
            set("use_qk_norm", Llama4::norms(experts.count).into());
        } else if let (Routing::GptOss, Some(experts)) = (family.routing, &self.experts) {
            set("intermediate_size", json!(experts.width));
            set("num_local_experts", experts.count.into());
            set("num_experts_per_tok", experts.used.into());
            set("swiglu_limit", 7.0.into());
        } else if let Some(experts) = &self.experts {
            let mixtral = family.routing == Routing::Normed;
            set(if mixtral { "num_local_experts" } else { "num_experts" }, experts.count.into());
            set("num_experts_per_tok", experts.used.into());
            if let Some(width) = experts.width {
                set("moe_intermediate_size", width.into());
            }
            if let Some(width) = experts.shared_width {
                set("shared_expert_intermediate_size", width.into());
            }
            if family.routing != Routing::Normed {
                set("norm_topk_prob", (family.routing == Routing::NormedByKey).into());
                set("decoder_sparse_step", 1.into());
                set("mlp_only_layers", json!([]));
            }
        }
        if let Some(granite) = self.granite {
            set("attention_multiplier", granite.attention.into());
            set("embedding_multiplier", granite.embedding.into());
            set("residual_multiplier", granite.residual.into());
            set("logits_scaling", granite.logits.into());
        }
        if let Some(scale) = self.logit_scale {
            set("logit_scale", scale.into());
        }
        if family.model_type == "smollm3" {
            let rotated = (0..self.layers).map(|layer| Value::from(u64::from(!(layer + 1).is_multiple_of(4))));
            set("no_rope_layers", rotated.collect());
            set("no_rope_layer_interval", 4.into());
        }
        Value::Object(config)
    }

    fn set_rope(&self, family: &Family, set: &mut impl FnMut(&str, Value) -> Option<Value>) {
        let scaling = match &self.scaling {
            Scaling::None => return,
            Scaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Scaling::Yarn { factor, original, beta_fast, beta_slow } => {
                let mut yarn = json!({
                    "rope_type": "yarn",
                    "factor": factor,
                    "original_max_position_embeddings": original,
                    "beta_fast": beta_fast,
                    "beta_slow": beta_slow,
                });
                if let Some(mscale) = self.deepseek.and_then(|deepseek| deepseek.mscale) {
                    yarn["mscale"] = mscale.into();
                    yarn["mscale_all_dim"] = mscale.into();
                }
                // What the models say; files have no key for it.
                if family.routing == Routing::GptOss {
                    yarn["truncate"] = false.into();
                }
                yarn
            }
            Scaling::Llama3 { factor, low, high, original } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }),
            Scaling::LongRope { original, long, short, attention } => {
                set("original_max_position_embeddings", (*original).into());
                json!({
                    "type": "longrope",
                    "rope_type": "longrope",
                    "long_factor": long,
                    "short_factor": short,
                    "attention_factor": attention,
                    "original_max_position_embeddings": original,
                })
            }
        };
        set("rope_scaling", scaling);
    }

    fn set_window(&self, family: &Family, set: &mut impl FnMut(&str, Value) -> Option<Value>) {
        let Some(window) = self.window else {
            if family.window == WindowRule::Context && !matches!(family.arch, "llama" | "phi3") {
                return;
            }
            set("sliding_window", Value::Null);
            return;
        };
        set("sliding_window", window.size.into());
        if family.reads.contains(&"sliding_window_pattern") {
            set("sliding_window_pattern", window.period.into());
        }
        let kind = |layer: u64| match (layer + 1).is_multiple_of(window.period) {
            true => "full_attention",
            false => "sliding_attention",
        };
        set("layer_types", (0..self.layers).map(|layer| Value::from(kind(layer))).collect());
    }
}
