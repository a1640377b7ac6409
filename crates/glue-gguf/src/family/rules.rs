//! Names of tensors on both sides, and what happens to the values in between.

/// What makes one tensor out of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Nothing.
    Plain,
    /// The two halves of each query head, which Hugging Face rotates against each other, become alternating rows, of
    /// which `llama` rotates neighbours.
    RotatedQuery,
    /// The same for key heads.
    RotatedKey,
    /// A matrix of one row becomes a vector.
    Vector,
    /// One expert becomes a part of a tensor of all of them.
    Stacked,
    /// The tensor of gates and ups of all experts gives its first or second half. Only exported.
    FusedHalf(usize),
    /// A tensor of all experts keeps its form. Only exported.
    Fused,
    /// A tensor of all experts with the matrices \[in, out\] is stored \[out, in\].
    Transposed,
    /// Gates and ups of all experts, \[in, 2 out\]: the half with this number, \[out, in\].
    TransposedHalf(usize),
    /// The same where gates and ups take turns.
    TransposedTurn(usize),
    /// Biases of gates and ups of all experts, which take turns: the one with this number.
    Turn(usize),
    /// From latents to keys without rotation, head by head, transposed; the values of the head follow in the source.
    LatentKeys,
    /// From latents to values, head by head.
    LatentValues,
    /// Nothing, in a form of file that is read and no longer written. Only imported.
    Older,
}

impl Op {
    /// Whether the way back goes by another rule.
    pub(crate) fn only_exported(self) -> bool {
        matches!(self, Op::FusedHalf(_) | Op::Fused)
    }

    /// Whether it is of files that are read and not written.
    pub(crate) fn only_imported(self) -> bool {
        self == Op::Older
    }
}

/// One name on both sides. `{l}` stands for the layer, `{e}` for the expert.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// The name in Hugging Face's form.
    pub(crate) hf: &'static str,
    /// The name in GGUF files.
    pub(crate) gguf: &'static str,
    /// What happens to the values.
    pub(crate) op: Op,
    /// Whether llama.cpp refuses a model without it.
    pub(crate) required: bool,
}

const fn rule(hf: &'static str, gguf: &'static str, op: Op) -> Rule {
    Rule { hf, gguf, op, required: true }
}

const fn plain(hf: &'static str, gguf: &'static str) -> Rule {
    rule(hf, gguf, Op::Plain)
}

const fn optional(hf: &'static str, gguf: &'static str, op: Op) -> Rule {
    Rule { hf, gguf, op, required: false }
}

/// The head, which may be the embedding.
pub(crate) const HEAD: &str = "output.weight";
/// The head in Hugging Face's form.
pub(crate) const HF_HEAD: &str = "lm_head.weight";

pub(super) const ENDS: &[Rule] = &[
    plain("model.embed_tokens.weight", "token_embd.weight"),
    plain("model.norm.weight", "output_norm.weight"),
    optional(HF_HEAD, HEAD, Op::Plain),
];

pub(super) const NORMS: &[Rule] = &[
    plain("model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight"),
    plain("model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.ffn_norm.weight"),
];

pub(super) const GEMMA_NORMS: &[Rule] = &[
    plain("model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight"),
    plain("model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.post_attention_norm.weight"),
    plain("model.layers.{l}.pre_feedforward_layernorm.weight", "blk.{l}.ffn_norm.weight"),
    plain("model.layers.{l}.post_feedforward_layernorm.weight", "blk.{l}.post_ffw_norm.weight"),
];

pub(super) const OLMO_NORMS: &[Rule] = &[
    plain("model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.post_attention_norm.weight"),
    plain("model.layers.{l}.post_feedforward_layernorm.weight", "blk.{l}.post_ffw_norm.weight"),
];

pub(super) const GLM_NORMS: &[Rule] = &[
    plain("model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight"),
    plain("model.layers.{l}.post_self_attn_layernorm.weight", "blk.{l}.post_attention_norm.weight"),
    plain("model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.ffn_norm.weight"),
    plain("model.layers.{l}.post_mlp_layernorm.weight", "blk.{l}.post_ffw_norm.weight"),
];

pub(super) const COHERE_NORM: &[Rule] = &[plain("model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight")];

pub(super) const ATTENTION: &[Rule] = &[
    plain("model.layers.{l}.self_attn.q_proj.weight", "blk.{l}.attn_q.weight"),
    plain("model.layers.{l}.self_attn.k_proj.weight", "blk.{l}.attn_k.weight"),
    plain("model.layers.{l}.self_attn.v_proj.weight", "blk.{l}.attn_v.weight"),
    plain("model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight"),
];

pub(super) const ATTENTION_BIAS: &[Rule] = &[
    optional("model.layers.{l}.self_attn.q_proj.bias", "blk.{l}.attn_q.bias", Op::Plain),
    optional("model.layers.{l}.self_attn.k_proj.bias", "blk.{l}.attn_k.bias", Op::Plain),
    optional("model.layers.{l}.self_attn.v_proj.bias", "blk.{l}.attn_v.bias", Op::Plain),
];

pub(super) const ROTATED: &[Rule] = &[
    rule("model.layers.{l}.self_attn.q_proj.weight", "blk.{l}.attn_q.weight", Op::RotatedQuery),
    rule("model.layers.{l}.self_attn.k_proj.weight", "blk.{l}.attn_k.weight", Op::RotatedKey),
    plain("model.layers.{l}.self_attn.v_proj.weight", "blk.{l}.attn_v.weight"),
    plain("model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight"),
];

pub(super) const ROTATED_BIAS: &[Rule] = &[
    optional("model.layers.{l}.self_attn.q_proj.bias", "blk.{l}.attn_q.bias", Op::RotatedQuery),
    optional("model.layers.{l}.self_attn.k_proj.bias", "blk.{l}.attn_k.bias", Op::RotatedKey),
    optional("model.layers.{l}.self_attn.v_proj.bias", "blk.{l}.attn_v.bias", Op::Plain),
];

pub(super) const OUT_BIAS: &[Rule] =
    &[optional("model.layers.{l}.self_attn.o_proj.bias", "blk.{l}.attn_output.bias", Op::Plain)];

pub(super) const HEAD_NORMS: &[Rule] = &[
    plain("model.layers.{l}.self_attn.q_norm.weight", "blk.{l}.attn_q_norm.weight"),
    plain("model.layers.{l}.self_attn.k_norm.weight", "blk.{l}.attn_k_norm.weight"),
];

pub(super) const MLP: &[Rule] = &[
    plain("model.layers.{l}.mlp.gate_proj.weight", "blk.{l}.ffn_gate.weight"),
    plain("model.layers.{l}.mlp.up_proj.weight", "blk.{l}.ffn_up.weight"),
    plain("model.layers.{l}.mlp.down_proj.weight", "blk.{l}.ffn_down.weight"),
];

pub(super) const MLP_BIAS: &[Rule] = &[
    optional("model.layers.{l}.mlp.gate_proj.bias", "blk.{l}.ffn_gate.bias", Op::Plain),
    optional("model.layers.{l}.mlp.up_proj.bias", "blk.{l}.ffn_up.bias", Op::Plain),
    optional("model.layers.{l}.mlp.down_proj.bias", "blk.{l}.ffn_down.bias", Op::Plain),
];

/// Gates and ups in one tensor, the gates first, which both sides have.
pub(super) const FUSED_MLP: &[Rule] = &[
    plain("model.layers.{l}.mlp.gate_up_proj.weight", "blk.{l}.ffn_up.weight"),
    plain("model.layers.{l}.mlp.down_proj.weight", "blk.{l}.ffn_down.weight"),
];

pub(super) const PHI: &[Rule] = &[
    plain("model.layers.{l}.self_attn.qkv_proj.weight", "blk.{l}.attn_qkv.weight"),
    plain("model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight"),
    plain("model.layers.{l}.mlp.gate_up_proj.weight", "blk.{l}.ffn_up.weight"),
    plain("model.layers.{l}.mlp.down_proj.weight", "blk.{l}.ffn_down.weight"),
];

pub(super) const MIXTRAL: &[Rule] = &[
    plain("model.layers.{l}.block_sparse_moe.gate.weight", "blk.{l}.ffn_gate_inp.weight"),
    rule("model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight", "blk.{l}.ffn_gate_exps.weight", Op::Stacked),
    rule("model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight", "blk.{l}.ffn_up_exps.weight", Op::Stacked),
    rule("model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight", "blk.{l}.ffn_down_exps.weight", Op::Stacked),
    optional("model.layers.{l}.mlp.gate.weight", "blk.{l}.ffn_gate_inp.weight", Op::Fused),
    optional("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_gate_exps.weight", Op::FusedHalf(0)),
    optional("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_up_exps.weight", Op::FusedHalf(1)),
    optional("model.layers.{l}.mlp.experts.down_proj", "blk.{l}.ffn_down_exps.weight", Op::Fused),
];

pub(super) const QWEN_EXPERTS: &[Rule] = &[
    plain("model.layers.{l}.mlp.gate.weight", "blk.{l}.ffn_gate_inp.weight"),
    rule("model.layers.{l}.mlp.experts.{e}.gate_proj.weight", "blk.{l}.ffn_gate_exps.weight", Op::Stacked),
    rule("model.layers.{l}.mlp.experts.{e}.up_proj.weight", "blk.{l}.ffn_up_exps.weight", Op::Stacked),
    rule("model.layers.{l}.mlp.experts.{e}.down_proj.weight", "blk.{l}.ffn_down_exps.weight", Op::Stacked),
    optional("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_gate_exps.weight", Op::FusedHalf(0)),
    optional("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_up_exps.weight", Op::FusedHalf(1)),
    optional("model.layers.{l}.mlp.experts.down_proj", "blk.{l}.ffn_down_exps.weight", Op::Fused),
];

pub(super) const QWEN_SHARED_EXPERT: &[Rule] = &[
    rule("model.layers.{l}.mlp.shared_expert_gate.weight", "blk.{l}.ffn_gate_inp_shexp.weight", Op::Vector),
    plain("model.layers.{l}.mlp.shared_expert.gate_proj.weight", "blk.{l}.ffn_gate_shexp.weight"),
    plain("model.layers.{l}.mlp.shared_expert.up_proj.weight", "blk.{l}.ffn_up_shexp.weight"),
    plain("model.layers.{l}.mlp.shared_expert.down_proj.weight", "blk.{l}.ffn_down_shexp.weight"),
];

/// Attention through a latent. Files have the matrix from latents to keys and values in two, so that llama.cpp can fold
/// one into the queries; older files have it in one. Which layers have experts and which matrices stand for queries
/// differs, so that only what all have is required.
pub(super) const DEEPSEEK: &[Rule] = &[
    optional("model.layers.{l}.self_attn.q_proj.weight", "blk.{l}.attn_q.weight", Op::Plain),
    optional("model.layers.{l}.self_attn.q_a_proj.weight", "blk.{l}.attn_q_a.weight", Op::Plain),
    optional("model.layers.{l}.self_attn.q_a_layernorm.weight", "blk.{l}.attn_q_a_norm.weight", Op::Plain),
    optional("model.layers.{l}.self_attn.q_b_proj.weight", "blk.{l}.attn_q_b.weight", Op::Plain),
    plain("model.layers.{l}.self_attn.kv_a_proj_with_mqa.weight", "blk.{l}.attn_kv_a_mqa.weight"),
    plain("model.layers.{l}.self_attn.kv_a_layernorm.weight", "blk.{l}.attn_kv_a_norm.weight"),
    rule("model.layers.{l}.self_attn.kv_b_proj.weight", "blk.{l}.attn_k_b.weight", Op::LatentKeys),
    rule("model.layers.{l}.self_attn.kv_b_proj.weight", "blk.{l}.attn_v_b.weight", Op::LatentValues),
    optional("model.layers.{l}.self_attn.kv_b_proj.weight", "blk.{l}.attn_kv_b.weight", Op::Older),
    plain("model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight"),
    optional("model.layers.{l}.mlp.gate_proj.weight", "blk.{l}.ffn_gate.weight", Op::Plain),
    optional("model.layers.{l}.mlp.up_proj.weight", "blk.{l}.ffn_up.weight", Op::Plain),
    optional("model.layers.{l}.mlp.down_proj.weight", "blk.{l}.ffn_down.weight", Op::Plain),
    optional("model.layers.{l}.mlp.gate.weight", "blk.{l}.ffn_gate_inp.weight", Op::Plain),
    optional("model.layers.{l}.mlp.gate.e_score_correction_bias", "blk.{l}.exp_probs_b.bias", Op::Plain),
    optional("model.layers.{l}.mlp.experts.{e}.gate_proj.weight", "blk.{l}.ffn_gate_exps.weight", Op::Stacked),
    optional("model.layers.{l}.mlp.experts.{e}.up_proj.weight", "blk.{l}.ffn_up_exps.weight", Op::Stacked),
    optional("model.layers.{l}.mlp.experts.{e}.down_proj.weight", "blk.{l}.ffn_down_exps.weight", Op::Stacked),
    optional("model.layers.{l}.mlp.shared_experts.gate_proj.weight", "blk.{l}.ffn_gate_shexp.weight", Op::Plain),
    optional("model.layers.{l}.mlp.shared_experts.up_proj.weight", "blk.{l}.ffn_up_shexp.weight", Op::Plain),
    optional("model.layers.{l}.mlp.shared_experts.down_proj.weight", "blk.{l}.ffn_down_shexp.weight", Op::Plain),
];

pub(super) const GPT_OSS: &[Rule] = &[
    plain("model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight"),
    plain("model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.post_attention_norm.weight"),
    plain("model.layers.{l}.self_attn.sinks", "blk.{l}.attn_sinks.weight"),
    plain("model.layers.{l}.mlp.router.weight", "blk.{l}.ffn_gate_inp.weight"),
    plain("model.layers.{l}.mlp.router.bias", "blk.{l}.ffn_gate_inp.bias"),
    rule("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_gate_exps.weight", Op::TransposedTurn(0)),
    rule("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_up_exps.weight", Op::TransposedTurn(1)),
    rule("model.layers.{l}.mlp.experts.down_proj", "blk.{l}.ffn_down_exps.weight", Op::Transposed),
    rule("model.layers.{l}.mlp.experts.gate_up_proj_bias", "blk.{l}.ffn_gate_exps.bias", Op::Turn(0)),
    rule("model.layers.{l}.mlp.experts.gate_up_proj_bias", "blk.{l}.ffn_up_exps.bias", Op::Turn(1)),
    plain("model.layers.{l}.mlp.experts.down_proj_bias", "blk.{l}.ffn_down_exps.bias"),
];

/// Which layers have experts differs.
pub(super) const LLAMA4: &[Rule] = &[
    optional("model.layers.{l}.feed_forward.gate_proj.weight", "blk.{l}.ffn_gate.weight", Op::Plain),
    optional("model.layers.{l}.feed_forward.up_proj.weight", "blk.{l}.ffn_up.weight", Op::Plain),
    optional("model.layers.{l}.feed_forward.down_proj.weight", "blk.{l}.ffn_down.weight", Op::Plain),
    optional("model.layers.{l}.feed_forward.router.weight", "blk.{l}.ffn_gate_inp.weight", Op::Plain),
    optional(
        "model.layers.{l}.feed_forward.experts.gate_up_proj",
        "blk.{l}.ffn_gate_exps.weight",
        Op::TransposedHalf(0),
    ),
    optional("model.layers.{l}.feed_forward.experts.gate_up_proj", "blk.{l}.ffn_up_exps.weight", Op::TransposedHalf(1)),
    optional("model.layers.{l}.feed_forward.experts.down_proj", "blk.{l}.ffn_down_exps.weight", Op::Transposed),
    optional(
        "model.layers.{l}.feed_forward.shared_expert.gate_proj.weight",
        "blk.{l}.ffn_gate_shexp.weight",
        Op::Plain,
    ),
    optional("model.layers.{l}.feed_forward.shared_expert.up_proj.weight", "blk.{l}.ffn_up_shexp.weight", Op::Plain),
    optional(
        "model.layers.{l}.feed_forward.shared_expert.down_proj.weight",
        "blk.{l}.ffn_down_shexp.weight",
        Op::Plain,
    ),
];

/// Layer and expert of `name` if it is one that `pattern` describes; 0 for a number that the pattern does not have.
pub(crate) fn match_name(pattern: &str, name: &str) -> Option<(usize, usize)> {
    let (mut layer, mut expert) = (0, 0);
    let (mut pattern, mut name) = (pattern, name);
    while let Some(at) = pattern.find('{') {
        name = name.strip_prefix(&pattern[..at])?;
        let digits = name.bytes().take_while(u8::is_ascii_digit).count();
        // No leading zero: one name stands for one number.
        if digits == 0 || (digits > 1 && name.starts_with('0')) {
            return None;
        }
        let number = name[..digits].parse().ok()?;
        if pattern[at..].starts_with("{l}") {
            layer = number
        } else {
            expert = number
        }
        (pattern, name) = (&pattern[at + 3..], &name[digits..]);
    }
    (pattern == name).then_some((layer, expert))
}

/// The name that `pattern` describes for a layer and an expert.
pub(crate) fn fill_name(pattern: &str, layer: usize, expert: usize) -> String {
    pattern.replace("{l}", &layer.to_string()).replace("{e}", &expert.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_with_their_numbers_and_filled_again() {
        let pattern = "model.layers.{l}.mlp.experts.{e}.up_proj.weight";
        let name = "model.layers.12.mlp.experts.7.up_proj.weight";
        assert_eq!(match_name(pattern, name), Some((12, 7)));
        assert_eq!(fill_name(pattern, 12, 7), name);
        for other in [
            "model.layers.12.mlp.experts.7.up_proj.bias",
            "model.layers.012.mlp.experts.7.up_proj.weight",
            "model.layers..mlp.experts.7.up_proj.weight",
            "model.layers.12.mlp.experts.7.up_proj.weight.x",
            "model.layers.99999999999999999999999.mlp.experts.7.up_proj.weight",
        ] {
            assert_eq!(match_name(pattern, other), None, "{other}");
        }
    }
}
