//! The families that the runtime knows, as data: defaults of absent keys and what no key says.

use super::{NormPlacement, ProjectionLayout, QkNorm};
use crate::error::LmError;
use glue_tensor::Config;
use serde_json::Value;

/// Which layers have a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// No layer: `sliding_window` is not read.
    None,
    /// All layers.
    All,
    /// With `use_sliding_window`, the layers from `max_window_layers` on, or as `layer_types` says.
    SwitchedOn,
    /// With `use_sliding_window`, the layers 0, 2, 4, … below `max_window_layers`, or as `layer_types` says.
    EverySecondSwitchedOn,
    /// Layers 0, 2, 4, …, or as `layer_types` says.
    EverySecond,
}

/// Which keys say what experts a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpertKeys {
    /// It has none.
    None,
    /// `num_local_experts`, as wide inside as `intermediate_size`, in all layers.
    Mixtral,
    /// `num_experts`, `moe_intermediate_size`, `shared_expert_intermediate_size`, `norm_topk_prob`, `mlp_only_layers`,
    /// `decoder_sparse_step`.
    Qwen,
}

/// What is particular to a `model_type`. Values are those of the configuration classes of transformers 5.23.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) model_type: &'static str,
    pub(super) architecture: &'static str,
    /// `num_key_value_heads` when absent; as many as heads unless given here.
    pub(super) kv_heads: Option<usize>,
    /// `head_dim` when absent; hidden size over heads unless given here.
    pub(super) head_dim: Option<usize>,
    /// `max_position_embeddings` when absent.
    pub(super) max_positions: usize,
    /// `rms_norm_eps` when absent.
    pub(super) norm_eps: f64,
    /// `rope_theta` when absent.
    pub(super) rope_theta: f64,
    pub(super) activation_key: &'static str,
    /// The activation when the key is absent.
    pub(super) activation: &'static str,
    pub(super) norm_offset: f32,
    pub(super) norms: NormPlacement,
    pub(super) qk_norm: QkNorm,
    /// `query_pre_attn_scalar` when absent, where the family reads it.
    pub(super) query_scalar: Option<f64>,
    /// `attn_logit_softcapping` and `final_logit_softcapping` when absent, where the family reads them.
    pub(super) softcaps: Option<(f64, f64)>,
    pub(super) scaled_embedding: bool,
    /// `tie_word_embeddings` when absent.
    pub(super) tied: bool,
    /// Biases of queries, keys and values that no key switches.
    pub(super) qkv_bias: bool,
    /// Whether the key `qkv_bias` switches them.
    pub(super) qkv_bias_key: bool,
    /// Whether `attention_bias` is read.
    pub(super) attention_bias: bool,
    /// Whether `mlp_bias` is read.
    pub(super) mlp_bias: bool,
    pub(super) storage: ProjectionLayout,
    pub(super) experts: ExpertKeys,
    pub(super) window: Window,
    /// `sliding_window` when absent; null means none.
    pub(super) window_default: Option<usize>,
    /// Whether `partial_rotary_factor` is read.
    pub(super) partial_rotary: bool,
    /// `original_max_position_embeddings` at the top when absent.
    pub(super) original_positions: Option<usize>,
    /// Early Phi 3 configurations call longrope `yarn`.
    pub(super) yarn_means_longrope: bool,
}

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    kv_heads: None,
    head_dim: None,
    max_positions: 2048,
    norm_eps: 1e-6,
    rope_theta: 1e4,
    activation_key: "hidden_act",
    activation: "silu",
    norm_offset: 0.0,
    norms: NormPlacement::Before,
    qk_norm: QkNorm::None,
    query_scalar: None,
    softcaps: None,
    scaled_embedding: false,
    tied: false,
    qkv_bias: false,
    qkv_bias_key: false,
    attention_bias: true,
    mlp_bias: true,
    storage: ProjectionLayout::Separate,
    experts: ExpertKeys::None,
    window: Window::None,
    window_default: None,
    partial_rotary: false,
    original_positions: None,
    yarn_means_longrope: false,
};

const MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    kv_heads: Some(8),
    max_positions: 4096 * 32,
    attention_bias: false,
    mlp_bias: false,
    window: Window::All,
    window_default: Some(4096),
    ..LLAMA
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    kv_heads: Some(32),
    max_positions: 32768,
    qkv_bias: true,
    attention_bias: false,
    mlp_bias: false,
    window: Window::SwitchedOn,
    window_default: Some(4096),
    ..LLAMA
};

/// All of them.
static FAMILIES: [Family; 9] = [
    LLAMA,
    MISTRAL,
    QWEN2,
    Family {
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        head_dim: Some(128),
        qk_norm: QkNorm::PerHead,
        qkv_bias: false,
        attention_bias: true,
        ..QWEN2
    },
    Family {
        model_type: "mixtral",
        architecture: "MixtralForCausalLM",
        norm_eps: 1e-5,
        rope_theta: 1e6,
        experts: ExpertKeys::Mixtral,
        window_default: None,
        ..MISTRAL
    },
    Family {
        model_type: "qwen2_moe",
        architecture: "Qwen2MoeForCausalLM",
        kv_heads: Some(16),
        qkv_bias_key: true,
        experts: ExpertKeys::Qwen,
        window: Window::EverySecondSwitchedOn,
        ..QWEN2
    },
    Family {
        model_type: "gemma2",
        architecture: "Gemma2ForCausalLM",
        kv_heads: Some(4),
        head_dim: Some(256),
        max_positions: 8192,
        activation_key: "hidden_activation",
        activation: "gelu_pytorch_tanh",
        norm_offset: 1.0,
        norms: NormPlacement::Around,
        query_scalar: Some(256.0),
        softcaps: Some((50.0, 30.0)),
        scaled_embedding: true,
        tied: true,
        mlp_bias: false,
        window: Window::EverySecond,
        window_default: Some(4096),
        ..LLAMA
    },
    Family {
        model_type: "phi3",
        architecture: "Phi3ForCausalLM",
        max_positions: 4096,
        norm_eps: 1e-5,
        attention_bias: false,
        mlp_bias: false,
        storage: ProjectionLayout::Fused,
        window: Window::All,
        partial_rotary: true,
        original_positions: Some(4096),
        yarn_means_longrope: true,
        ..LLAMA
    },
    Family {
        model_type: "olmo2",
        architecture: "Olmo2ForCausalLM",
        norm_eps: 1e-5,
        norms: NormPlacement::After,
        qk_norm: QkNorm::FullWidth,
        mlp_bias: false,
        ..LLAMA
    },
];

impl Family {
    /// The family that `model_type` names, or `architectures` where there is no `model_type`.
    pub(super) fn of(config: &Config) -> Result<&'static Family, LmError> {
        let unsupported = |key: &str, value: Value, of: fn(&Family) -> &str| LmError::Unsupported {
            key: key.to_owned(),
            value: value.to_string(),
            reason: format!("one of {} is", FAMILIES.iter().map(of).collect::<Vec<_>>().join(", ")),
        };
        let architectures = config.architectures();
        let named = |name: &str| FAMILIES.iter().find(|family| family.architecture == name);
        let family = match (config.model_type(), architectures.as_slice()) {
            (Some(model_type), _) => FAMILIES
                .iter()
                .find(|family| family.model_type == model_type)
                .ok_or_else(|| unsupported("model_type", model_type.into(), |family| family.model_type))?,
            (None, [name]) => {
                named(name).ok_or_else(|| unsupported("architectures", (*name).into(), |family| family.architecture))?
            }
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
