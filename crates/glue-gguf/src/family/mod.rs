//! The families that both sides know: how their tensors and hyperparameters are called, and what differs.
//!
//! A family is data. Names stand in [`rules`]; hyperparameters go through [`Facts`], which is read from `config.json`
//! or from the keys of a GGUF file and written to the other one. Sources are the converter and the model loaders of
//! llama.cpp (`conversion/`, `src/models/`), and `config.json` as transformers reads it.

mod config;
mod facts;
pub(crate) mod keys;
pub(crate) mod llama3;
mod rules;
mod to_config;

pub(crate) use facts::{Deepseek, Facts, Scaling};
pub(crate) use rules::{HEAD, HF_HEAD, Op, Rule, fill_name, match_name};

use facts::ScalingKind;

/// Which layers see a window of positions only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowRule {
    /// llama.cpp has none for this architecture, and a model with one equals it up to the length of the window: the
    /// context length says no more than that.
    Context,
    /// All but the last of every so many layers, unless the file says otherwise.
    AllButEvery(usize),
}

/// How the experts of a mixture are routed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routing {
    /// There are none.
    Dense,
    /// The weights of the chosen experts add up to 1, as in Mixtral, always.
    Normed,
    /// They do where `norm_topk_prob` is true, which llama.cpp requires.
    NormedByKey,
    /// They do not; `norm_topk_prob` must be false.
    Unnormed,
    /// By a softmax, after some dense layers; the weights are multiplied and do not add up to 1.
    DeepseekSoftmax,
    /// By a sigmoid and a bias, in groups, after some dense layers; the weights are made to add up to 1.
    DeepseekSigmoid,
    /// By a softmax over the chosen ones, with biases.
    GptOss,
    /// By a sigmoid that multiplies inputs, in every so many layers, with an expert for all tokens.
    Llama4,
}

/// One family of models.
#[derive(Debug)]
pub(crate) struct Family {
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    /// `architectures` in `config.json`.
    pub(crate) architecture: &'static str,
    /// `general.architecture`.
    pub(crate) arch: &'static str,
    /// Groups of names.
    pub(crate) rules: &'static [&'static [Rule]],
    /// Added to the weights of norms: Gemma stores what they differ from 1 by.
    pub(crate) norm_shift: f32,
    /// Key of the activation, and the one that llama.cpp computes.
    pub(crate) activation: (&'static str, &'static str),
    /// Whether norms subtract the mean: another key for their epsilon.
    pub(crate) mean_norm: bool,
    /// Base of the rotary frequencies when `config.json` does not say.
    pub(crate) theta: f64,
    /// Fraction of a head that is rotated when `config.json` does not say.
    pub(crate) partial: f64,
    /// Scalings of the rotary embedding that llama.cpp computes.
    pub(crate) scalings: &'static [ScalingKind],
    /// Sliding windows.
    pub(crate) window: WindowRule,
    /// Experts.
    pub(crate) routing: Routing,
    /// Whether the head is the embedding unless `config.json` says otherwise, and must be.
    pub(crate) always_tied: bool,
    /// Keys of `config.json` that change the computation and are read for this family.
    pub(crate) reads: &'static [&'static str],
}

const COMMON: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    arch: "llama",
    rules: &[
        rules::ENDS,
        rules::NORMS,
        rules::ROTATED,
        rules::ROTATED_BIAS,
        rules::OUT_BIAS,
        rules::MLP,
        rules::MLP_BIAS,
    ],
    norm_shift: 0.0,
    activation: ("hidden_act", "silu"),
    mean_norm: false,
    theta: 10_000.0,
    partial: 1.0,
    scalings: &[ScalingKind::Linear, ScalingKind::Yarn, ScalingKind::Llama3],
    window: WindowRule::Context,
    routing: Routing::Dense,
    always_tied: false,
    reads: &["attention_bias", "mlp_bias"],
};

const QWEN: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    arch: "qwen2",
    rules: &[rules::ENDS, rules::NORMS, rules::ATTENTION, rules::ATTENTION_BIAS, rules::MLP],
    scalings: &[ScalingKind::Linear, ScalingKind::Yarn],
    reads: &["qkv_bias"],
    ..COMMON
};

const GEMMA: Family = Family {
    model_type: "gemma2",
    architecture: "Gemma2ForCausalLM",
    arch: "gemma2",
    rules: &[rules::ENDS, rules::GEMMA_NORMS, rules::ATTENTION, rules::MLP],
    norm_shift: 1.0,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    scalings: &[ScalingKind::Linear],
    window: WindowRule::AllButEvery(2),
    always_tied: true,
    reads: &["attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"],
    ..COMMON
};

/// All families. Where several have one `general.architecture`, the first is meant unless the keys tell another.
pub(crate) static FAMILIES: &[Family] = &[
    COMMON,
    Family { model_type: "mistral", architecture: "MistralForCausalLM", reads: &[], ..COMMON },
    Family {
        model_type: "mixtral",
        architecture: "MixtralForCausalLM",
        rules: &[rules::ENDS, rules::NORMS, rules::ROTATED, rules::MIXTRAL],
        theta: 1e6,
        routing: Routing::Normed,
        reads: &["num_local_experts"],
        ..COMMON
    },
    Family {
        model_type: "smollm3",
        architecture: "SmolLM3ForCausalLM",
        arch: "smollm3",
        rules: &[rules::ENDS, rules::NORMS, rules::ROTATED, rules::MLP],
        theta: 2e6,
        scalings: &[ScalingKind::Linear, ScalingKind::Yarn],
        reads: &["no_rope_layers", "no_rope_layer_interval"],
        ..COMMON
    },
    Family {
        model_type: "granite",
        architecture: "GraniteForCausalLM",
        arch: "granite",
        rules: &[rules::ENDS, rules::NORMS, rules::ROTATED, rules::ROTATED_BIAS, rules::OUT_BIAS, rules::MLP],
        reads: &[
            "attention_bias",
            "attention_multiplier",
            "embedding_multiplier",
            "residual_multiplier",
            "logits_scaling",
        ],
        ..COMMON
    },
    QWEN,
    Family {
        model_type: "qwen2_moe",
        architecture: "Qwen2MoeForCausalLM",
        arch: "qwen2moe",
        rules: &[
            rules::ENDS,
            rules::NORMS,
            rules::ATTENTION,
            rules::ATTENTION_BIAS,
            rules::QWEN_EXPERTS,
            rules::QWEN_SHARED_EXPERT,
        ],
        routing: Routing::Unnormed,
        reads: &[
            "qkv_bias",
            "num_experts",
            "num_local_experts",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "mlp_only_layers",
            "decoder_sparse_step",
        ],
        ..QWEN
    },
    Family {
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        arch: "qwen3",
        rules: &[rules::ENDS, rules::NORMS, rules::ATTENTION, rules::HEAD_NORMS, rules::MLP],
        reads: &[],
        ..QWEN
    },
    Family {
        model_type: "qwen3_moe",
        architecture: "Qwen3MoeForCausalLM",
        arch: "qwen3moe",
        rules: &[rules::ENDS, rules::NORMS, rules::ATTENTION, rules::HEAD_NORMS, rules::QWEN_EXPERTS],
        routing: Routing::NormedByKey,
        reads: &["num_experts", "num_local_experts", "moe_intermediate_size", "mlp_only_layers", "decoder_sparse_step"],
        ..QWEN
    },
    GEMMA,
    Family {
        model_type: "gemma3_text",
        architecture: "Gemma3ForCausalLM",
        arch: "gemma3",
        rules: &[rules::ENDS, rules::GEMMA_NORMS, rules::ATTENTION, rules::HEAD_NORMS, rules::MLP],
        theta: 1e6,
        window: WindowRule::AllButEvery(6),
        reads: &["final_logit_softcapping", "query_pre_attn_scalar", "rope_local_base_freq", "sliding_window_pattern"],
        ..GEMMA
    },
    Family {
        model_type: "phi3",
        architecture: "Phi3ForCausalLM",
        arch: "phi3",
        rules: &[rules::ENDS, rules::NORMS, rules::PHI],
        scalings: &[ScalingKind::LongRope],
        reads: &[],
        ..COMMON
    },
    Family {
        model_type: "olmo2",
        architecture: "Olmo2ForCausalLM",
        arch: "olmo2",
        rules: &[rules::ENDS, rules::OLMO_NORMS, rules::ATTENTION, rules::HEAD_NORMS, rules::MLP],
        scalings: &[ScalingKind::Linear, ScalingKind::Yarn],
        reads: &[],
        ..COMMON
    },
    Family {
        model_type: "olmo3",
        architecture: "Olmo3ForCausalLM",
        arch: "olmo2",
        rules: &[rules::ENDS, rules::OLMO_NORMS, rules::ATTENTION, rules::HEAD_NORMS, rules::MLP],
        theta: 500_000.0,
        scalings: &[ScalingKind::Yarn],
        window: WindowRule::AllButEvery(4),
        reads: &[],
        ..COMMON
    },
    Family {
        model_type: "glm4",
        architecture: "Glm4ForCausalLM",
        arch: "glm4",
        rules: &[rules::ENDS, rules::GLM_NORMS, rules::ATTENTION, rules::ATTENTION_BIAS, rules::FUSED_MLP],
        partial: 0.5,
        scalings: &[ScalingKind::Linear, ScalingKind::Yarn],
        reads: &["attention_bias"],
        ..COMMON
    },
    Family {
        model_type: "cohere2",
        architecture: "Cohere2ForCausalLM",
        arch: "cohere2",
        rules: &[rules::ENDS, rules::COHERE_NORM, rules::ATTENTION, rules::MLP],
        mean_norm: true,
        scalings: &[],
        window: WindowRule::AllButEvery(4),
        always_tied: true,
        reads: &["logit_scale", "sliding_window_pattern", "position_embedding_type"],
        ..COMMON
    },
    Family {
        model_type: "deepseek_v2",
        architecture: "DeepseekV2ForCausalLM",
        arch: "deepseek2",
        rules: &[rules::ENDS, rules::NORMS, rules::DEEPSEEK],
        scalings: &[ScalingKind::Yarn],
        routing: Routing::DeepseekSoftmax,
        reads: DEEPSEEK,
        ..COMMON
    },
    Family {
        model_type: "deepseek_v3",
        architecture: "DeepseekV3ForCausalLM",
        arch: "deepseek2",
        rules: &[rules::ENDS, rules::NORMS, rules::DEEPSEEK],
        scalings: &[ScalingKind::Yarn],
        routing: Routing::DeepseekSigmoid,
        reads: DEEPSEEK,
        ..COMMON
    },
    Family {
        model_type: "gpt_oss",
        architecture: "GptOssForCausalLM",
        arch: "gpt-oss",
        rules: &[rules::ENDS, rules::ATTENTION, rules::ATTENTION_BIAS, rules::OUT_BIAS, rules::GPT_OSS],
        theta: 150_000.0,
        scalings: &[ScalingKind::Yarn],
        window: WindowRule::AllButEvery(2),
        routing: Routing::GptOss,
        reads: &["attention_bias", "num_local_experts", "num_experts", "swiglu_alpha", "swiglu_limit"],
        ..COMMON
    },
    Family {
        model_type: "llama4_text",
        architecture: "Llama4ForCausalLM",
        arch: "llama4",
        rules: &[rules::ENDS, rules::NORMS, rules::ATTENTION, rules::LLAMA4],
        theta: 500_000.0,
        scalings: &[ScalingKind::Llama3],
        routing: Routing::Llama4,
        reads: &[
            "num_local_experts",
            "no_rope_layers",
            "no_rope_layer_interval",
            "attention_chunk_size",
            "attn_temperature_tuning",
        ],
        ..COMMON
    },
];

/// Keys that both of DeepSeek's families read.
const DEEPSEEK: &[&str] = &[
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "n_shared_experts",
    "moe_intermediate_size",
    "first_k_dense_replace",
    "kv_lora_rank",
    "rope_interleave",
    "num_nextn_predict_layers",
];

impl Family {
    /// The family of a `model_type`, or the one that a multimodal model of this type contains.
    pub(crate) fn of_model_type(model_type: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }

    /// Names of all, for messages.
    pub(crate) fn known() -> String {
        FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ")
    }

    /// All rules with the first ones first.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = &'static Rule> + Clone {
        self.rules.iter().flat_map(|group| group.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_family_has_one_rule_for_each_name_on_either_side() {
        for family in FAMILIES {
            let mut stored = HashSet::new();
            for rule in family.all_rules().filter(|rule| !rule.op.only_exported()) {
                assert!(stored.insert(rule.gguf), "{}: {}", family.model_type, rule.gguf);
            }
            let names: Vec<(&str, Op)> = family.all_rules().map(|rule| (rule.hf, rule.op)).collect();
            for (at, name) in names.iter().enumerate() {
                assert!(!names[..at].contains(name), "{}: {}", family.model_type, name.0);
            }
        }
    }
}
