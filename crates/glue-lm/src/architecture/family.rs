//! The families that the runtime knows, as data: defaults of absent keys and what no key says.

use super::experts::{ExpertKeys, SwigluClamp};
use super::names::{COHERE, DEEPSEEK, GEMMA, GLM, GPT_OSS, LLAMA4, MIXTRAL, Names, OLMO, PLAIN};
use super::positions::{RopeLayers, RopePairs};
use super::windows::Window;
use super::{NormKind, NormPlacement, ProjectionLayout, QkNorm};
use crate::error::LmError;
use glue_tensor::Config;
use serde_json::Value;

/// Sizes that a configuration may leave out, as the text part of a multimodal model does with those that are the
/// default of its class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
}

/// What the key `attention_bias` switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttentionBias {
    /// Its value when absent.
    pub(super) default: bool,
    /// Whether the output of attention has a bias too.
    pub(super) output: bool,
}

/// Which key scales the logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LogitScale {
    /// None.
    None,
    /// They are divided by `logits_scaling`, 1 when absent.
    Divided,
    /// They are multiplied with `logit_scale`; this when absent.
    Multiplied(f64),
}

/// What is particular to a `model_type`. Values are those of the configuration classes of transformers 5.24.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) model_type: &'static str,
    pub(super) architecture: &'static str,
    /// What stands for sizes that are absent; they are required where there is none.
    pub(super) sizes: Option<Sizes>,
    /// `num_key_value_heads` when absent; as many as heads unless given here.
    pub(super) kv_heads: Option<usize>,
    /// `head_dim` when absent; hidden size over heads unless given here.
    pub(super) head_dim: Option<usize>,
    /// `max_position_embeddings` when absent.
    pub(super) max_positions: usize,
    pub(super) norm: NormKind,
    /// `rms_norm_eps` or `layer_norm_eps` when absent.
    pub(super) norm_eps: f64,
    /// `rope_theta` when absent.
    pub(super) rope_theta: f64,
    /// `rope_theta` of layers with a sliding window when absent, where they have a rotary embedding of their own. A
    /// scaling that is not given by layer type is not for them.
    pub(super) local_theta: Option<f64>,
    /// Parameters of the rotary embedding when there are none, as JSON.
    pub(super) rope_scaling: Option<&'static str>,
    pub(super) rope_pairs: RopePairs,
    pub(super) rope_layers: RopeLayers,
    pub(super) activation_key: &'static str,
    /// The activation when the key is absent.
    pub(super) activation: &'static str,
    /// The MLP of the experts of gpt-oss, with the values of `swiglu_alpha` and `swiglu_limit` when absent. The
    /// activation is `silu` then.
    pub(super) clamp: Option<SwigluClamp>,
    pub(super) norm_offset: f32,
    pub(super) norms: NormPlacement,
    pub(super) names: &'static Names,
    pub(super) qk_norm: QkNorm,
    /// `query_pre_attn_scalar` when absent, where the family reads it.
    pub(super) query_scalar: Option<f64>,
    /// `attn_logit_softcapping` when absent, where the family reads it.
    pub(super) attention_softcap: Option<Option<f64>>,
    /// `final_logit_softcapping` when absent, where the family reads it.
    pub(super) final_softcap: Option<Option<f64>>,
    pub(super) scaled_embedding: bool,
    /// Whether `embedding_multiplier`, `residual_multiplier` and `attention_multiplier` are read.
    pub(super) multipliers: bool,
    pub(super) logit_scale: LogitScale,
    /// `tie_word_embeddings` when absent.
    pub(super) tied: bool,
    /// Biases of queries, keys and values that no key switches.
    pub(super) qkv_bias: bool,
    /// Whether the key `qkv_bias` switches them.
    pub(super) qkv_bias_key: bool,
    /// Whether `attention_bias` is read, and what it means.
    pub(super) attention_bias: Option<AttentionBias>,
    /// Whether `mlp_bias` is read.
    pub(super) mlp_bias: bool,
    pub(super) storage: ProjectionLayout,
    pub(super) experts: ExpertKeys,
    pub(super) window: Window,
    /// `sliding_window` when absent; null means none.
    pub(super) window_default: Option<usize>,
    /// `partial_rotary_factor` when absent, where it is read.
    pub(super) partial_rotary: Option<f64>,
    /// `original_max_position_embeddings` at the top when absent.
    pub(super) original_positions: Option<usize>,
    /// Early Phi 3 configurations call longrope `yarn`.
    pub(super) yarn_means_longrope: bool,
    /// Whether each head has an attention sink.
    pub(super) sinks: bool,
    /// Whether layers without a rotary embedding scale their queries by position (`attn_temperature_tuning`).
    pub(super) temperature: bool,
    /// Whether keys and values are made of a latent vector (DeepSeek).
    pub(super) latent: bool,
    /// Whether experts may be stored in MXFP4, which `quantization_config` says.
    pub(super) mxfp4: bool,
    /// Keys of [`REFUSED`](super::REFUSED) that are read, or that say of this family what is so without them.
    pub(super) reads: &'static [&'static str],
    /// Keys that say something about the computation for which there is no choice here: the values, as JSON, that say
    /// what is computed.
    pub(super) only: &'static [(&'static str, &'static [&'static str])],
}

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    sizes: None,
    kv_heads: None,
    head_dim: None,
    max_positions: 2048,
    norm: NormKind::Rms,
    norm_eps: 1e-6,
    rope_theta: 1e4,
    local_theta: None,
    rope_scaling: None,
    rope_pairs: RopePairs::Halves,
    rope_layers: RopeLayers::All,
    activation_key: "hidden_act",
    activation: "silu",
    clamp: None,
    norm_offset: 0.0,
    norms: NormPlacement::Before,
    names: &PLAIN,
    qk_norm: QkNorm::None,
    query_scalar: None,
    attention_softcap: None,
    final_softcap: None,
    scaled_embedding: false,
    multipliers: false,
    logit_scale: LogitScale::None,
    tied: false,
    qkv_bias: false,
    qkv_bias_key: false,
    attention_bias: Some(AttentionBias { default: false, output: true }),
    mlp_bias: true,
    storage: ProjectionLayout::Separate,
    experts: ExpertKeys::None,
    window: Window::None,
    window_default: None,
    partial_rotary: None,
    original_positions: None,
    yarn_means_longrope: false,
    sinks: false,
    temperature: false,
    latent: false,
    mxfp4: false,
    reads: &["attention_bias", "mlp_bias"],
    only: &[],
};

const MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    kv_heads: Some(8),
    max_positions: 4096 * 32,
    attention_bias: None,
    mlp_bias: false,
    window: Window::All,
    window_default: Some(4096),
    reads: &[],
    ..LLAMA
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    kv_heads: Some(32),
    max_positions: 32768,
    qkv_bias: true,
    attention_bias: None,
    mlp_bias: false,
    window: Window::SwitchedOn,
    window_default: Some(4096),
    reads: &["qkv_bias"],
    ..LLAMA
};

const QWEN2_MOE: Family = Family {
    model_type: "qwen2_moe",
    architecture: "Qwen2MoeForCausalLM",
    kv_heads: Some(16),
    qkv_bias_key: true,
    experts: ExpertKeys::Qwen2,
    window: Window::EverySecondSwitchedOn,
    reads: &[
        "qkv_bias",
        "num_experts",
        "num_local_experts",
        "mlp_only_layers",
        "decoder_sparse_step",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
    ],
    ..QWEN2
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    architecture: "Gemma2ForCausalLM",
    kv_heads: Some(4),
    head_dim: Some(256),
    max_positions: 8192,
    activation_key: "hidden_activation",
    activation: "gelu_pytorch_tanh",
    norm_offset: 1.0,
    norms: NormPlacement::Around,
    names: &GEMMA,
    query_scalar: Some(256.0),
    attention_softcap: Some(Some(50.0)),
    final_softcap: Some(Some(30.0)),
    scaled_embedding: true,
    tied: true,
    mlp_bias: false,
    window: Window::EverySecond,
    window_default: Some(4096),
    reads: &["attention_bias", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"],
    ..LLAMA
};

const OLMO2: Family = Family {
    model_type: "olmo2",
    architecture: "Olmo2ForCausalLM",
    norm_eps: 1e-5,
    norms: NormPlacement::After,
    names: &OLMO,
    qk_norm: QkNorm::FullWidth,
    mlp_bias: false,
    reads: &["attention_bias", "use_qk_norm"],
    ..LLAMA
};

const DEEPSEEK_V2: Family = Family {
    model_type: "deepseek_v2",
    architecture: "DeepseekV2ForCausalLM",
    names: &DEEPSEEK,
    rope_pairs: RopePairs::Neighbours,
    experts: ExpertKeys::DeepseekV2,
    latent: true,
    reads: &[
        "attention_bias",
        "mlp_bias",
        "first_k_dense_replace",
        "kv_lora_rank",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "n_shared_experts",
        "moe_intermediate_size",
        "n_group",
        "topk_group",
        "topk_method",
        "scoring_func",
        "routed_scaling_factor",
    ],
    only: &[
        ("norm_topk_prob", &["false"]),
        ("scoring_func", &["\"softmax\""]),
        ("topk_method", &["\"greedy\"", "\"group_limited_greedy\""]),
    ],
    ..LLAMA
};

/// All of them.
static FAMILIES: [Family; 20] = [
    LLAMA,
    MISTRAL,
    QWEN2,
    Family {
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        head_dim: Some(128),
        qk_norm: QkNorm::PerHead,
        qkv_bias: false,
        attention_bias: Some(AttentionBias { default: false, output: true }),
        reads: &["attention_bias", "use_qk_norm"],
        ..QWEN2
    },
    Family {
        model_type: "mixtral",
        architecture: "MixtralForCausalLM",
        norm_eps: 1e-5,
        rope_theta: 1e6,
        names: &MIXTRAL,
        experts: ExpertKeys::Mixtral,
        window_default: None,
        reads: &["num_experts", "num_local_experts"],
        only: &[("norm_topk_prob", &["true"])],
        ..MISTRAL
    },
    QWEN2_MOE,
    Family {
        model_type: "qwen3_moe",
        architecture: "Qwen3MoeForCausalLM",
        kv_heads: Some(4),
        qk_norm: QkNorm::PerHead,
        qkv_bias: false,
        qkv_bias_key: false,
        attention_bias: Some(AttentionBias { default: false, output: true }),
        experts: ExpertKeys::Qwen3,
        window: Window::AllSwitchedOn,
        reads: &[
            "attention_bias",
            "use_qk_norm",
            "num_experts",
            "num_local_experts",
            "mlp_only_layers",
            "decoder_sparse_step",
            "moe_intermediate_size",
        ],
        ..QWEN2_MOE
    },
    GEMMA2,
    Family {
        model_type: "gemma3_text",
        architecture: "Gemma3ForCausalLM",
        sizes: Some(Sizes { vocab_size: 262_208, hidden_size: 2304, intermediate_size: 9216, layers: 26, heads: 8 }),
        max_positions: 131_072,
        rope_theta: 1e6,
        local_theta: Some(1e4),
        qk_norm: QkNorm::PerHead,
        attention_softcap: None,
        final_softcap: Some(None),
        window: Window::AllButEvery(6),
        reads: &[
            "attention_bias",
            "final_logit_softcapping",
            "query_pre_attn_scalar",
            "rope_local_base_freq",
            "sliding_window_pattern",
            "use_qk_norm",
        ],
        ..GEMMA2
    },
    Family {
        model_type: "phi3",
        architecture: "Phi3ForCausalLM",
        max_positions: 4096,
        norm_eps: 1e-5,
        attention_bias: None,
        mlp_bias: false,
        storage: ProjectionLayout::Fused,
        window: Window::All,
        partial_rotary: Some(1.0),
        original_positions: Some(4096),
        yarn_means_longrope: true,
        reads: &[],
        ..LLAMA
    },
    OLMO2,
    Family {
        model_type: "olmo3",
        architecture: "Olmo3ForCausalLM",
        rope_theta: 5e5,
        local_theta: Some(5e5),
        window: Window::AllButEvery(4),
        window_default: Some(4096),
        ..OLMO2
    },
    Family {
        model_type: "smollm3",
        architecture: "SmolLM3ForCausalLM",
        kv_heads: Some(4),
        max_positions: 32768,
        rope_theta: 2e6,
        rope_layers: RopeLayers::ButEvery,
        tied: true,
        window: Window::WithoutRopeSwitchedOn,
        reads: &["attention_bias", "mlp_bias", "no_rope_layers", "no_rope_layer_interval"],
        ..LLAMA
    },
    Family {
        model_type: "granite",
        architecture: "GraniteForCausalLM",
        multipliers: true,
        logit_scale: LogitScale::Divided,
        reads: &[
            "attention_bias",
            "mlp_bias",
            "attention_multiplier",
            "embedding_multiplier",
            "residual_multiplier",
            "logits_scaling",
        ],
        ..LLAMA
    },
    Family {
        model_type: "glm4",
        architecture: "Glm4ForCausalLM",
        kv_heads: Some(2),
        head_dim: Some(128),
        max_positions: 131_072,
        norm_eps: 1.5625e-7,
        rope_pairs: RopePairs::Neighbours,
        norms: NormPlacement::Around,
        names: &GLM,
        attention_bias: Some(AttentionBias { default: true, output: false }),
        mlp_bias: false,
        storage: ProjectionLayout::FusedMlp,
        partial_rotary: Some(0.5),
        reads: &["attention_bias"],
        ..LLAMA
    },
    Family {
        model_type: "cohere2",
        architecture: "Cohere2ForCausalLM",
        max_positions: 8192,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        rope_pairs: RopePairs::Neighbours,
        rope_layers: RopeLayers::WithWindow,
        norms: NormPlacement::Parallel,
        names: &COHERE,
        logit_scale: LogitScale::Multiplied(0.0625),
        tied: true,
        mlp_bias: false,
        window: Window::AllButEvery(4),
        window_default: Some(4096),
        reads: &["attention_bias", "logit_scale", "sliding_window_pattern", "position_embedding_type"],
        only: &[
            ("position_embedding_type", &["\"rope_gptj\""]),
            ("use_parallel_block", &["true"]),
            ("use_gated_activation", &["true"]),
            ("use_qk_norm", &["false"]),
            ("order_of_interleaved_layers", &["\"local_attn_first\""]),
        ],
        ..LLAMA
    },
    Family {
        model_type: "gpt_oss",
        architecture: "GptOssForCausalLM",
        kv_heads: Some(8),
        head_dim: Some(64),
        max_positions: 131_072,
        norm_eps: 1e-5,
        rope_theta: 150_000.0,
        rope_scaling: Some(
            r#"{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
                "original_max_position_embeddings": 4096}"#,
        ),
        clamp: Some(SwigluClamp { alpha: 1.702, limit: 7.0 }),
        names: &GPT_OSS,
        attention_bias: Some(AttentionBias { default: true, output: true }),
        mlp_bias: false,
        experts: ExpertKeys::GptOss,
        window: Window::EverySecond,
        window_default: Some(128),
        sinks: true,
        mxfp4: true,
        reads: &["attention_bias", "num_experts", "num_local_experts", "swiglu_alpha", "swiglu_limit"],
        only: &[("hidden_act", &["\"silu\""])],
        ..LLAMA
    },
    Family {
        model_type: "llama4_text",
        architecture: "Llama4ForCausalLM",
        sizes: Some(Sizes { vocab_size: 202_048, hidden_size: 5120, intermediate_size: 8192, layers: 48, heads: 40 }),
        kv_heads: Some(8),
        head_dim: Some(128),
        max_positions: 4096 * 32,
        norm_eps: 1e-5,
        rope_theta: 5e5,
        rope_pairs: RopePairs::Neighbours,
        rope_layers: RopeLayers::ButEvery,
        names: &LLAMA4,
        qk_norm: QkNorm::PerHeadAfterRope,
        mlp_bias: false,
        experts: ExpertKeys::Llama4,
        window: Window::ChunksWithRope,
        temperature: true,
        reads: &[
            "attention_bias",
            "use_qk_norm",
            "no_rope_layers",
            "no_rope_layer_interval",
            "attention_chunk_size",
            "attn_temperature_tuning",
            "attn_scale",
            "floor_scale",
            "num_experts",
            "num_local_experts",
            "moe_layers",
            "interleave_moe_layer_step",
            "intermediate_size_mlp",
        ],
        ..LLAMA
    },
    DEEPSEEK_V2,
    Family {
        model_type: "deepseek_v3",
        architecture: "DeepseekV3ForCausalLM",
        max_positions: 4096,
        rope_pairs: RopePairs::AsRopeInterleave,
        mlp_bias: false,
        experts: ExpertKeys::DeepseekV3,
        reads: &[
            "attention_bias",
            "first_k_dense_replace",
            "kv_lora_rank",
            "q_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "num_experts",
            "num_local_experts",
            "n_routed_experts",
            "n_shared_experts",
            "moe_intermediate_size",
            "n_group",
            "topk_group",
            "topk_method",
            "scoring_func",
            "routed_scaling_factor",
            "rope_interleave",
            "num_nextn_predict_layers",
        ],
        only: &[("scoring_func", &["\"sigmoid\""]), ("topk_method", &["\"noaux_tc\""])],
        ..DEEPSEEK_V2
    },
];

impl Family {
    /// Whether the family reads `key`, so that it is not refused.
    pub(super) fn reads(&self, key: &str) -> bool {
        self.reads.contains(&key)
    }

    /// All values of `model_type` that are run.
    pub(super) fn model_types() -> impl Iterator<Item = &'static str> {
        FAMILIES.iter().map(|family| family.model_type)
    }

    /// The family of this `model_type`.
    pub(super) fn named(model_type: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }

    /// The family that `model_type` names, or `architectures` where there is no `model_type`.
    pub(super) fn of(config: &Config) -> Result<&'static Family, LmError> {
        let unsupported = |key: &str, value: Value, all: Vec<&str>| LmError::Unsupported {
            key: key.to_owned(),
            value: value.to_string(),
            reason: format!("one of {} is", all.join(", ")),
        };
        let architectures = config.architectures();
        let family = match (config.model_type(), architectures.as_slice()) {
            (Some(model_type), _) => Family::named(model_type).ok_or_else(|| {
                let all = Family::model_types().chain(super::wrapper::model_types()).collect();
                unsupported("model_type", model_type.into(), all)
            })?,
            (None, [name]) => FAMILIES.iter().find(|family| family.architecture == *name).ok_or_else(|| {
                let all = FAMILIES.iter().map(|family| family.architecture).collect();
                unsupported("architectures", (*name).into(), all)
            })?,
            (None, _) => return Err(LmError::MissingKey { key: "model_type".to_owned() }),
        };
        match architectures.iter().find(|name| **name != family.architecture) {
            Some(other) => Err(LmError::Unsupported {
                key: "architectures".to_owned(),
                value: Value::from(*other).to_string(),
                reason: format!("a model of type {} is run as {}", family.model_type, family.architecture),
            }),
            None => Ok(family),
        }
    }
}
