//! Hyperparameters, between `config.json` and the keys of a GGUF file.

use super::Family;

/// How the frequencies of the rotary embedding are scaled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// All by one factor.
    Linear { factor: f64 },
    /// YaRN.
    Yarn { factor: f64, original: u64, beta_fast: f64, beta_slow: f64 },
    /// As Llama 3 does: stored as one factor for each frequency.
    Llama3 { factor: f64, low: f64, high: f64, original: u64 },
    /// One factor for each frequency, others beyond the original context.
    LongRope { original: u64, long: Vec<f64>, short: Vec<f64>, attention: f64 },
}

/// [`Scaling`] without its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalingKind {
    Linear,
    Yarn,
    Llama3,
    LongRope,
}

impl Scaling {
    /// Its kind; `None` where there is none.
    pub(crate) fn kind(&self) -> Option<ScalingKind> {
        match self {
            Scaling::None => None,
            Scaling::Linear { .. } => Some(ScalingKind::Linear),
            Scaling::Yarn { .. } => Some(ScalingKind::Yarn),
            Scaling::Llama3 { .. } => Some(ScalingKind::Llama3),
            Scaling::LongRope { .. } => Some(ScalingKind::LongRope),
        }
    }
}

/// Layers that see a window of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Positions.
    pub(crate) size: u64,
    /// All but every layer of so many have it.
    pub(crate) period: u64,
}

/// The experts of each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Experts {
    /// Number.
    pub(crate) count: u64,
    /// Number that each token uses.
    pub(crate) used: u64,
    /// Width inside one, where it is not that of a dense layer.
    pub(crate) width: Option<u64>,
    /// Width inside the expert that every token uses.
    pub(crate) shared_width: Option<u64>,
}

/// What DeepSeek's models have besides: attention through a latent, and experts after some dense layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Deepseek {
    /// Width of the latent of queries, where there is one.
    pub(crate) query_rank: Option<u64>,
    /// Width of the latent of keys and values.
    pub(crate) latent: u64,
    /// Dimensions of a head that are not rotated.
    pub(crate) plain: u64,
    /// Dimensions of a head's values.
    pub(crate) value: u64,
    /// Layers without experts, which are the first ones.
    pub(crate) dense_layers: u64,
    /// Experts that every token uses, in one.
    pub(crate) shared: u64,
    /// What the sum of the experts is multiplied by.
    pub(crate) scale: f64,
    /// Groups of experts, and how many of them each token uses; 1 and 1 where there are none.
    pub(crate) groups: (u64, u64),
    /// `mscale_all_dim` of YaRN.
    pub(crate) mscale: Option<f64>,
}

/// What Llama 4 has besides, with what llama.cpp fixes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Llama4 {
    /// Every so many layers have experts, the last of each so many.
    pub(crate) expert_period: u64,
}

impl Llama4 {
    /// Layers of so many have no rotary embedding, the last of each so many.
    pub(crate) const PLAIN_PERIOD: u64 = 4;
    /// Positions of a chunk that layers with a rotary embedding see, and of a step of the scale of queries in others.
    pub(crate) const CHUNK: u64 = 8192;
    /// By how much that scale grows with the logarithm of the steps.
    pub(crate) const SCALE: f64 = 0.1;

    /// Whether a layer has a rotary embedding.
    pub(crate) fn rotates(layer: u64) -> bool {
        !(layer + 1).is_multiple_of(Llama4::PLAIN_PERIOD)
    }

    /// Whether rotated queries and keys are normed in a model of so many experts.
    pub(crate) fn norms(experts: u64) -> bool {
        experts != 128
    }
}

/// Factors of Granite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Granite {
    pub(crate) attention: f64,
    pub(crate) embedding: f64,
    pub(crate) residual: f64,
    pub(crate) logits: f64,
}

/// What both sides say of a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    pub(crate) layers: u64,
    pub(crate) hidden: u64,
    /// Width inside a dense layer.
    pub(crate) width: u64,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) head_dim: u64,
    /// Dimensions of a head that are rotated.
    pub(crate) rotated: u64,
    /// Positions the model can use.
    pub(crate) context: u64,
    pub(crate) epsilon: f64,
    pub(crate) vocabulary: u64,
    pub(crate) theta: f64,
    /// Base of the frequencies in layers with a window, where it differs.
    pub(crate) local_theta: Option<f64>,
    pub(crate) scaling: Scaling,
    pub(crate) window: Option<Window>,
    pub(crate) attention_cap: Option<f64>,
    pub(crate) final_cap: Option<f64>,
    pub(crate) experts: Option<Experts>,
    pub(crate) granite: Option<Granite>,
    /// What logits are multiplied by, in Cohere's models.
    pub(crate) logit_scale: Option<f64>,
    pub(crate) deepseek: Option<Deepseek>,
    pub(crate) llama4: Option<Llama4>,
}

/// Most of what there are few of: heads, experts, and experts for all tokens.
const MAX_FEW: u64 = 1 << 16;
/// The largest of all other sizes, so that no product of one with some of the former overflows.
const MAX_SIZE: u64 = 1 << 40;

/// A size that no model has: where a file has it, where a configuration has it, what it is, and the largest.
pub(crate) struct TooLarge {
    pub(crate) file_key: &'static str,
    pub(crate) config_key: &'static str,
    pub(crate) message: String,
}

impl Facts {
    /// Refuses sizes that no model has. What is made of them is then small, or has as many values in a file.
    pub(crate) fn check_sizes(&self) -> Result<(), TooLarge> {
        let experts = self.experts.unwrap_or(Experts { count: 0, used: 0, width: None, shared_width: None });
        let deepseek = |of: fn(&Deepseek) -> u64| self.deepseek.as_ref().map_or(0, of);
        for (file_key, config_key, found, most) in [
            ("block_count", "num_hidden_layers", self.layers, glue_tensor::config::MAX_LAYERS as u64),
            ("attention.head_count", "num_attention_heads", self.heads, MAX_FEW),
            ("attention.head_count_kv", "num_key_value_heads", self.kv_heads, MAX_FEW),
            ("expert_count", "num_experts", experts.count, MAX_FEW),
            ("expert_used_count", "num_experts_per_tok", experts.used, MAX_FEW),
            ("expert_shared_count", "n_shared_experts", deepseek(|deepseek| deepseek.shared), MAX_FEW),
            ("embedding_length", "hidden_size", self.hidden, MAX_SIZE),
            ("feed_forward_length", "intermediate_size", self.width, MAX_SIZE),
            ("attention.key_length", "head_dim", self.head_dim, MAX_SIZE),
            ("rope.dimension_count", "partial_rotary_factor", self.rotated, MAX_SIZE),
            ("expert_feed_forward_length", "moe_intermediate_size", experts.width.unwrap_or(0), MAX_SIZE),
            ("attention.value_length", "v_head_dim", deepseek(|deepseek| deepseek.value), MAX_SIZE),
            ("attention.kv_lora_rank", "kv_lora_rank", deepseek(|deepseek| deepseek.latent), MAX_SIZE),
            ("vocab_size", "vocab_size", self.vocabulary, MAX_SIZE),
        ] {
            if found > most {
                let message = format!("{found} is more than any model has; at most {most} can be converted");
                return Err(TooLarge { file_key, config_key, message });
            }
        }
        Ok(())
    }

    /// What llama.cpp divides queries by the root of in Gemma's models: it has no key for it.
    pub(crate) fn query_scalar(&self, family: &Family) -> f64 {
        let by_heads = matches!((family.arch, self.layers), ("gemma2", 46) | ("gemma3", 62));
        if by_heads { (self.hidden / self.heads) as f64 } else { self.head_dim as f64 }
    }
}
