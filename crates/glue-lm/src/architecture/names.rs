//! What the tensors of a layer are called, and how those of its experts lie.

/// Names below `layers.N.`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) before_attention: Option<&'static str>,
    pub(crate) after_attention: Option<&'static str>,
    pub(crate) before_mlp: Option<&'static str>,
    pub(crate) after_mlp: Option<&'static str>,
    /// The MLP, or the mixture in its place.
    pub(crate) mlp: &'static str,
    /// The gate of a mixture, below the MLP.
    pub(crate) router: &'static str,
    /// The MLP that every token uses, below the MLP.
    pub(crate) shared_expert: &'static str,
    /// Where experts have tensors of their own: what stands in place of `mlp` then, and gate, up and down.
    pub(crate) single: Option<(&'static str, [&'static str; 3])>,
    /// Whether a tensor of all experts holds matrices [in, out].
    pub(crate) transposed: bool,
    /// Whether gate and up alternate in a tensor of both; else the gate comes first.
    pub(crate) alternating: bool,
}

/// Llama and most others.
pub(crate) const PLAIN: Names = Names {
    before_attention: Some("input_layernorm"),
    after_attention: None,
    before_mlp: Some("post_attention_layernorm"),
    after_mlp: None,
    mlp: "mlp",
    router: "gate",
    shared_expert: "shared_expert",
    single: Some(("mlp", PROJECTIONS)),
    transposed: false,
    alternating: false,
};

const PROJECTIONS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Mixtral.
pub(crate) const MIXTRAL: Names = Names { single: Some(("block_sparse_moe", ["w1", "w3", "w2"])), ..PLAIN };

/// Gemma 2 and 3.
pub(crate) const GEMMA: Names = Names {
    after_attention: Some("post_attention_layernorm"),
    before_mlp: Some("pre_feedforward_layernorm"),
    after_mlp: Some("post_feedforward_layernorm"),
    ..PLAIN
};

/// OLMo 2 and 3.
pub(crate) const OLMO: Names = Names { before_attention: None, before_mlp: None, ..GEMMA };

/// GLM-4.
pub(crate) const GLM: Names =
    Names { after_attention: Some("post_self_attn_layernorm"), after_mlp: Some("post_mlp_layernorm"), ..PLAIN };

/// Cohere 2.
pub(crate) const COHERE: Names = Names { before_mlp: None, ..PLAIN };

/// gpt-oss.
pub(crate) const GPT_OSS: Names =
    Names { router: "router", single: None, transposed: true, alternating: true, ..PLAIN };

/// Llama 4.
pub(crate) const LLAMA4: Names = Names {
    mlp: "feed_forward",
    router: "router",
    single: Some(("feed_forward", PROJECTIONS)),
    transposed: true,
    ..PLAIN
};

/// DeepSeek V2 and V3.
pub(crate) const DEEPSEEK: Names = Names { shared_expert: "shared_experts", ..PLAIN };
