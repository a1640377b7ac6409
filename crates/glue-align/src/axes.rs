//! Which axis of a tensor carries what, by the tensor's name: the table from which symmetries are derived.

/// What the units along an axis are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Dimensions of the residual stream.
    Hidden,
    /// Neurons of the MLP, or of one expert.
    Neurons,
    /// Neurons twice: gates, then the values they gate.
    NeuronsTwice,
    /// Neurons of an expert that every token passes through.
    SharedNeurons,
    /// Query heads times head dimensions, where rotary embedding binds the dimensions.
    Queries,
    /// Key heads times head dimensions, bound likewise.
    Keys,
    /// Value heads times head dimensions, which are free.
    Values,
    /// Queries, then keys, then values.
    QueriesKeysValues,
    /// Query heads times value dimensions, on the way out of attention.
    Outputs,
    /// A norm of queries: over one head's dimensions, or over all of them.
    QueryNorm,
    /// A norm of keys, likewise.
    KeyNorm,
    /// Experts, one row each.
    Experts,
    /// Nothing that is permuted, of any length.
    Free,
    /// Exactly one.
    One,
}

use Role::*;

/// Tensors of a layer, by what follows the number of the layer; `#` stands for the number of an expert.
const IN_LAYER: &[(&str, &[Role])] = &[
    ("self_attn.q_proj.weight", &[Queries, Hidden]),
    ("self_attn.q_proj.bias", &[Queries]),
    ("self_attn.k_proj.weight", &[Keys, Hidden]),
    ("self_attn.k_proj.bias", &[Keys]),
    ("self_attn.v_proj.weight", &[Values, Hidden]),
    ("self_attn.v_proj.bias", &[Values]),
    ("self_attn.qkv_proj.weight", &[QueriesKeysValues, Hidden]),
    ("self_attn.qkv_proj.bias", &[QueriesKeysValues]),
    ("self_attn.o_proj.weight", &[Hidden, Outputs]),
    ("self_attn.o_proj.bias", &[Hidden]),
    ("self_attn.q_norm.weight", &[QueryNorm]),
    ("self_attn.k_norm.weight", &[KeyNorm]),
    // Frequencies of the rotary embedding, which old checkpoints store.
    ("self_attn.rotary_emb.inv_freq", &[Free]),
    ("mlp.gate_proj.weight", &[Neurons, Hidden]),
    ("mlp.gate_proj.bias", &[Neurons]),
    ("mlp.up_proj.weight", &[Neurons, Hidden]),
    ("mlp.up_proj.bias", &[Neurons]),
    ("mlp.gate_up_proj.weight", &[NeuronsTwice, Hidden]),
    ("mlp.gate_up_proj.bias", &[NeuronsTwice]),
    ("mlp.down_proj.weight", &[Hidden, Neurons]),
    ("mlp.down_proj.bias", &[Hidden]),
    ("block_sparse_moe.gate.weight", &[Experts, Hidden]),
    ("block_sparse_moe.experts.#.w1.weight", &[Neurons, Hidden]),
    ("block_sparse_moe.experts.#.w2.weight", &[Hidden, Neurons]),
    ("block_sparse_moe.experts.#.w3.weight", &[Neurons, Hidden]),
    ("mlp.gate.weight", &[Experts, Hidden]),
    ("mlp.experts.#.gate_proj.weight", &[Neurons, Hidden]),
    ("mlp.experts.#.up_proj.weight", &[Neurons, Hidden]),
    ("mlp.experts.#.down_proj.weight", &[Hidden, Neurons]),
    ("mlp.shared_expert.gate_proj.weight", &[SharedNeurons, Hidden]),
    ("mlp.shared_expert.up_proj.weight", &[SharedNeurons, Hidden]),
    ("mlp.shared_expert.down_proj.weight", &[Hidden, SharedNeurons]),
    ("mlp.shared_expert_gate.weight", &[One, Hidden]),
    ("input_layernorm.weight", &[Hidden]),
    ("input_layernorm.bias", &[Hidden]),
    ("post_attention_layernorm.weight", &[Hidden]),
    ("post_attention_layernorm.bias", &[Hidden]),
    ("pre_feedforward_layernorm.weight", &[Hidden]),
    ("post_feedforward_layernorm.weight", &[Hidden]),
];

/// Tensors outside the layers, by the end of their names.
const OUTSIDE: &[(&str, &[Role])] = &[
    ("embed_tokens.weight", &[Free, Hidden]),
    ("norm.weight", &[Hidden]),
    ("norm.bias", &[Hidden]),
    ("lm_head.weight", &[Free, Hidden]),
    ("lm_head.bias", &[Free]),
    ("score.weight", &[Free, Hidden]),
];

/// What the axes of a tensor of a layer carry; `None` for an unknown one.
pub(crate) fn in_layer(suffix: &str, expert: Option<usize>) -> Option<&'static [Role]> {
    let pattern = match expert {
        Some(number) => suffix.replacen(&format!(".experts.{number}."), ".experts.#.", 1),
        None => suffix.to_string(),
    };
    IN_LAYER.iter().find(|row| row.0 == pattern).map(|row| row.1)
}

/// What the axes of a tensor outside the layers carry; `None` for an unknown one.
pub(crate) fn outside(name: &str) -> Option<&'static [Role]> {
    // The prefixes that wrappers put before the names of a language model end in these.
    let stem = |prefix: &str| {
        prefix.is_empty()
            || prefix == "model."
            || prefix.ends_with("language_model.model.")
            || prefix.ends_with("language_model.")
    };
    OUTSIDE.iter().find(|row| name.strip_suffix(row.0).is_some_and(stem)).map(|row| row.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_whole() {
        assert_eq!(in_layer("mlp.down_proj.weight", None), Some([Hidden, Neurons].as_slice()));
        assert_eq!(in_layer("block_sparse_moe.experts.11.w2.weight", Some(11)), Some([Hidden, Neurons].as_slice()));
        assert_eq!(in_layer("mlp.down_proj.weight.extra", None), None);
        assert_eq!(in_layer("cross_mlp.down_proj.weight", None), None);
        assert_eq!(outside("model.norm.weight"), Some([Hidden].as_slice()));
        assert_eq!(outside("lm_head.weight"), Some([Free, Hidden].as_slice()));
        assert_eq!(outside("language_model.model.embed_tokens.weight"), Some([Free, Hidden].as_slice()));
        assert_eq!(outside("model.vision_tower.norm.weight"), None);
        assert_eq!(outside("model.batchnorm.weight"), None);
    }
}
