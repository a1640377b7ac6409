//! From an architecture and named tensors to a model: every tensor found, of the right shape, and none left over.

use super::attention_block::{AttentionBlock, Projection};
use super::experts::Expert;
use super::feed_forward::{FeedForward, MixtureOfExperts, Mlp};
use super::gate::{Router, Rule, load_gate};
use super::latent::LatentAttention;
use super::layer::{Attention, Layer};
use super::{DecoderLayer, Model, UpperExperts};
use crate::architecture::{Architecture, Latent, NormKind, NormPlacement, OTHER_PARTS, ProjectionLayout, QkNorm};
use crate::error::LmError;
use crate::norm::RmsNorm;
use crate::ops::AttentionSpec;
use crate::rope::RopeTables;
use crate::tape::Stored;
use crate::weight::Weight;
use crate::weights::Weights;
use glue_mixture::{Level, MixtureSpec, Routing};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What names of tensors begin with, and the head: as the class of a whole model writes them, that of its body alone,
/// and those of a multimodal model before transformers 4.52 and after.
const LAYOUTS: [(&str, &str); 4] = [
    ("model.", "lm_head.weight"),
    ("", "lm_head.weight"),
    ("language_model.model.", "language_model.lm_head.weight"),
    ("model.language_model.", "lm_head.weight"),
];

/// Builds the model, or says what is missing, misshapen or left over.
pub(super) fn model(
    architecture: Architecture,
    mixture: Option<MixtureSpec>,
    weights: &Weights,
) -> Result<Model, LmError> {
    let arch = &architecture;
    let layouts = if arch.wrapped { &LAYOUTS[..] } else { &LAYOUTS[..2] };
    let known = layouts.iter().find(|(prefix, _)| weights.contains(&format!("{prefix}embed_tokens.weight")));
    let &(prefix, head_name) = known.unwrap_or(&LAYOUTS[0]);
    let loader = Loader {
        weights,
        arch,
        mixture: mixture.as_ref(),
        gates: Cell::new(0),
        prefix,
        used: RefCell::default(),
        bytes: Cell::new(0),
    };
    let vocabulary = [arch.vocab_size, arch.hidden_size];
    let embedding = loader.tensor("embed_tokens.weight", &vocabulary)?;
    let first_upper = match &mixture {
        Some(spec) if spec.level == Level::Model => spec.dense_layers,
        _ => arch.num_layers(),
    };
    let layers = (0..first_upper).map(|index| loader.decoder_layer(index)).collect::<Result<_, _>>()?;
    let upper = match &mixture {
        Some(spec) if first_upper < arch.num_layers() => Some(loader.upper_experts(spec, first_upper)?),
        _ => None,
    };
    let norm = loader.norm("norm", arch.hidden_size)?;
    let tied = arch.tied.unwrap_or(!weights.contains(head_name));
    let embedding_name = format!("{}embed_tokens.weight", loader.prefix);
    let (head, stored) = match tied {
        true => (embedding.clone(), embedding_name.clone()),
        false => (loader.named(head_name.to_owned(), &vocabulary)?, head_name.to_owned()),
    };
    let head = Projection { weight: head, bias: None, stored: Stored { name: stored.into(), first_row: 0 } };
    let left_aside = loader.left_over(tied.then_some(head_name))?;
    let ropes = arch.ropes.iter().cloned().map(RopeTables::new).collect();
    let weight_bytes = loader.bytes.get();
    drop(loader);
    let routing_log = None;
    Ok(Model {
        embedding_name: embedding_name.into(),
        embedding,
        layers,
        upper,
        norm,
        head,
        ropes,
        weight_bytes,
        left_aside,
        dir: None,
        architecture,
        mixture,
        routing_log,
    })
}

pub(super) struct Loader<'a> {
    pub(super) weights: &'a Weights,
    pub(super) arch: &'a Architecture,
    mixture: Option<&'a MixtureSpec>,
    /// Gates so far.
    gates: Cell<usize>,
    pub(super) prefix: &'static str,
    used: RefCell<BTreeSet<String>>,
    bytes: Cell<usize>,
}

impl Loader<'_> {
    fn named(&self, name: String, shape: &[usize]) -> Result<Weight, LmError> {
        let Some(weight) = self.weights.get(&name)? else {
            return Err(LmError::MissingTensor { name, expected: shape.to_vec() });
        };
        self.found(name, weight, shape)
    }

    /// A tensor of bytes that hold packed numbers, whose name is `name` after the prefix.
    pub(super) fn packed(&self, name: &str, shape: &[usize]) -> Result<Weight, LmError> {
        let name = format!("{}{name}", self.prefix);
        let Some(weight) = self.weights.packed(&name)? else {
            return Err(LmError::MissingTensor { name, expected: shape.to_vec() });
        };
        self.found(name, weight, shape)
    }

    fn found(&self, name: String, weight: Weight, shape: &[usize]) -> Result<Weight, LmError> {
        if weight.shape() != shape {
            return Err(LmError::Shape { name, expected: shape.to_vec(), found: weight.shape().to_vec() });
        }
        self.bytes.set(self.bytes.get() + weight.bytes().len());
        self.used.borrow_mut().insert(name);
        Ok(weight)
    }

    /// Whether there is a tensor whose name is `name` after the prefix.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.weights.contains(&format!("{}{name}", self.prefix))
    }

    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Weight, LmError> {
        self.named(format!("{}{name}", self.prefix), shape)
    }

    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, LmError> {
        self.norm_with(name, width, self.arch.norm_eps)
    }

    fn norm_with(&self, name: &str, width: usize, eps: f32) -> Result<RmsNorm, LmError> {
        let name = format!("{name}.weight");
        let mut weight = self.tensor(&name, &[width])?.to_f32();
        weight.iter_mut().for_each(|w| *w += self.arch.norm_offset);
        let norm = RmsNorm::new(weight, eps).named(format!("{}{name}", self.prefix));
        Ok(norm.centred(self.arch.norm == NormKind::Layer))
    }

    pub(super) fn projection(&self, name: &str, out: usize, width: usize, bias: bool) -> Result<Projection, LmError> {
        let weight = self.tensor(&format!("{name}.weight"), &[out, width])?;
        let bias = bias.then(|| self.tensor(&format!("{name}.bias"), &[out])).transpose()?;
        Ok(Projection { weight, bias: bias.map(|bias| bias.to_f32()), stored: self.stored(&format!("{name}.weight")) })
    }

    /// A tensor whose name is `name` after the prefix, from its first row on.
    pub(super) fn stored(&self, name: &str) -> Stored {
        Stored { name: format!("{}{name}", self.prefix).into(), first_row: 0 }
    }

    /// A layer, or its experts.
    fn decoder_layer(&self, index: usize) -> Result<DecoderLayer, LmError> {
        match self.mixed_at(index) {
            Some(spec) if spec.level == Level::Block => {
                let router = Box::new(self.mixture_router(spec, index, format!("layers.{index}.gate."))?);
                let expert = |expert| self.layer(index, &format!("layers.{index}.experts.{expert}."));
                let experts = (0..spec.experts.len()).map(expert).collect::<Result<_, _>>()?;
                Ok(DecoderLayer::Mixed { router, experts })
            }
            _ => Ok(DecoderLayer::Plain(Box::new(self.layer(index, &format!("layers.{index}."))?))),
        }
    }

    /// The mixture that has experts in this layer.
    fn mixed_at(&self, index: usize) -> Option<&MixtureSpec> {
        self.mixture.filter(|spec| spec.mixed_layers.contains(&index))
    }

    /// The experts of all layers from `first` on.
    fn upper_experts(&self, spec: &MixtureSpec, first: usize) -> Result<UpperExperts, LmError> {
        let router = self.mixture_router(spec, first, "gate.".to_owned())?;
        let layers = first..self.arch.num_layers();
        let expert = |expert: usize| {
            layers.clone().map(|index| self.layer(index, &format!("layers.{index}.experts.{expert}."))).collect()
        };
        Ok(UpperExperts { router, experts: (0..spec.experts.len()).map(expert).collect::<Result<_, _>>()? })
    }

    /// The gate whose tensors' names begin with `name`.
    fn mixture_router(&self, spec: &MixtureSpec, layer: usize, name: String) -> Result<Router, LmError> {
        let (experts, hidden) = (spec.experts.len(), self.arch.hidden_size);
        let tensor = |name: String, shape: &[usize]| match self.weights.contains(&name) {
            true => self.named(name, shape).map(Some),
            false => Ok(None),
        };
        let gate = load_gate(spec.router, &format!("{}{name}", self.prefix), experts, hidden, &tensor)?;
        Ok(Router {
            number: self.next_gate(),
            layer,
            name: format!("{}{name}", self.prefix),
            gate,
            experts,
            per_token: spec.experts_per_token,
            rule: Arc::new(Rule::softmax()),
            pool: (spec.routing == Routing::Sample).then_some(spec.pool),
        })
    }

    pub(super) fn next_gate(&self) -> usize {
        self.gates.replace(self.gates.get() + 1)
    }

    /// A layer whose tensors' names begin with `at`.
    fn layer(&self, index: usize, at: &str) -> Result<Layer, LmError> {
        let norm = |name: &str| self.norm(&format!("{at}{name}"), self.arch.hidden_size);
        let names = self.arch.names;
        Ok(Layer {
            before_attention: names.before_attention.map(norm).transpose()?,
            attention: match self.arch.latent {
                None => Attention::Heads(Box::new(self.attention(index, at)?)),
                Some(latent) => Attention::Latent(Box::new(self.latent_attention(latent, at)?)),
            },
            after_attention: names.after_attention.map(norm).transpose()?,
            before_mlp: names.before_mlp.map(norm).transpose()?,
            mlp: self.feed_forward(index, at)?,
            after_mlp: names.after_mlp.map(norm).transpose()?,
            parallel: self.arch.norms == NormPlacement::Parallel,
            residual_scale: self.arch.residual_scale,
        })
    }

    fn attention(&self, index: usize, at: &str) -> Result<AttentionBlock, LmError> {
        let arch = self.arch;
        let at = |name: &str| format!("{at}self_attn.{name}");
        let (width, kv_width) = (arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim);
        let [q, k, v] = match arch.storage {
            ProjectionLayout::Separate | ProjectionLayout::FusedMlp => {
                let one = |name, out| self.projection(&at(name), out, arch.hidden_size, arch.qkv_bias);
                [one("q_proj", width)?, one("k_proj", kv_width)?, one("v_proj", kv_width)?]
            }
            ProjectionLayout::Fused => {
                let all = self.projection(&at("qkv_proj"), width + 2 * kv_width, arch.hidden_size, arch.qkv_bias)?;
                split(&all, [width, kv_width, kv_width])
            }
        };
        let qk_norm = |name: &str, heads: usize| match arch.qk_norm {
            QkNorm::None => Ok(None),
            QkNorm::PerHead => self.norm(&at(name), arch.head_dim).map(Some),
            QkNorm::FullWidth => self.norm(&at(name), heads * arch.head_dim).map(Some),
            QkNorm::PerHeadAfterRope => {
                let norm = RmsNorm::new(vec![1.0; arch.head_dim], arch.norm_eps);
                Ok(arch.layers[index].rope.map(|_| norm))
            }
        };
        let sinks = |name: &str| self.tensor(&at(name), &[arch.heads]).map(|sinks| sinks.to_f32().into());
        Ok(AttentionBlock {
            q,
            k,
            v,
            o: self.projection(&at("o_proj"), arch.hidden_size, width, arch.output_bias)?,
            q_norm: qk_norm("q_norm", arch.heads)?,
            k_norm: qk_norm("k_norm", arch.kv_heads)?,
            rope_first: arch.qk_norm == QkNorm::PerHeadAfterRope,
            sinks: arch.sinks.then(|| sinks("sinks")).transpose()?,
            spec: AttentionSpec {
                heads: arch.heads,
                kv_heads: arch.kv_heads,
                head_dim: arch.head_dim,
                scale: arch.attention_scale,
                softcap: arch.attention_softcap,
                window: arch.layers[index].window,
                chunk: arch.layers[index].chunk,
            },
        })
    }

    fn latent_attention(&self, latent: Latent, at: &str) -> Result<LatentAttention, LmError> {
        let arch = self.arch;
        let at = |name: &str| format!("{at}self_attn.{name}");
        let (heads, hidden, bias) = (arch.heads, arch.hidden_size, arch.qkv_bias);
        let Latent { query_rank, rank, plain_dim, rotated_dim, value_dim } = latent;
        let norm = |name: &str, width| self.norm_with(&at(name), width, Latent::NORM_EPS);
        let queries = heads * (plain_dim + rotated_dim);
        let (q_a, q) = match query_rank {
            None => (None, self.projection(&at("q_proj"), queries, hidden, false)?),
            Some(width) => {
                let q_a = self.projection(&at("q_a_proj"), width, hidden, bias)?;
                let q = self.projection(&at("q_b_proj"), queries, width, false)?;
                (Some((q_a, norm("q_a_layernorm", width)?)), q)
            }
        };
        Ok(LatentAttention {
            q_a,
            q,
            kv_a: self.projection(&at("kv_a_proj_with_mqa"), rank + rotated_dim, hidden, bias)?,
            kv_a_norm: norm("kv_a_layernorm", rank)?,
            kv_b: self.projection(&at("kv_b_proj"), heads * (plain_dim + value_dim), rank, false)?,
            o: self.projection(&at("o_proj"), hidden, heads * value_dim, arch.output_bias)?,
            heads,
            shape: latent,
            spec: AttentionSpec {
                heads,
                kv_heads: 1,
                head_dim: rank + rotated_dim,
                scale: arch.attention_scale,
                softcap: None,
                window: None,
                chunk: None,
            },
        })
    }

    fn feed_forward(&self, index: usize, at: &str) -> Result<FeedForward, LmError> {
        let mlp = self.arch.names.mlp;
        if let Some(experts) = self.arch.experts.filter(|_| self.arch.layers[index].experts) {
            return Ok(FeedForward::Experts(Box::new(self.experts(index, experts)?)));
        }
        match self.mixed_at(index) {
            Some(spec) if spec.level == Level::Ffn => {
                let router = self.mixture_router(spec, index, format!("{at}{mlp}.gate."))?;
                let width = self.arch.intermediate_size;
                let expert = |expert| {
                    self.mlp(&format!("{at}{mlp}.experts.{expert}."), width).map(|mlp| Expert::Plain(Box::new(mlp)))
                };
                let experts = (0..spec.experts.len()).map(expert).collect::<Result<_, _>>()?;
                let mixture = MixtureOfExperts { router, experts, stacked: false, shared: None, weighs_inputs: false };
                Ok(FeedForward::Experts(Box::new(mixture)))
            }
            _ => Ok(FeedForward::Dense(Box::new(self.mlp(&format!("{at}{mlp}."), self.arch.intermediate_size)?))),
        }
    }

    /// An MLP whose tensors' names begin with `at`.
    pub(super) fn mlp(&self, at: &str, inner: usize) -> Result<Mlp, LmError> {
        let arch = self.arch;
        let (hidden, bias) = (arch.hidden_size, arch.mlp_bias);
        let at = |name: &str| format!("{at}{name}");
        let [gate, up] = match arch.storage {
            ProjectionLayout::Separate => {
                let one = |name| self.projection(&at(name), inner, hidden, bias);
                [one("gate_proj")?, one("up_proj")?]
            }
            ProjectionLayout::Fused | ProjectionLayout::FusedMlp => {
                split(&self.projection(&at("gate_up_proj"), 2 * inner, hidden, bias)?, [inner, inner])
            }
        };
        let down = self.projection(&at("down_proj"), hidden, inner, bias)?;
        Ok(Mlp { gate, up, down, activation: arch.activation })
    }

    /// Names of tensors of parts that are not run; refuses others that nothing has used, apart from those that are
    /// known to carry no information, as `tied_head`.
    fn left_over(&self, tied_head: Option<&str>) -> Result<Vec<String>, LmError> {
        let used = self.used.borrow();
        let num_layers = self.arch.num_layers();
        let mut aside = Vec::new();
        for name in self.weights.names() {
            let harmless = name.ends_with("rotary_emb.inv_freq") || tied_head == Some(name);
            if harmless || used.contains(name) {
                continue;
            }
            let layer = name.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix("layers."));
            let layer = layer.and_then(|rest| rest.split('.').next()).and_then(|number| number.parse::<usize>().ok());
            let other_part = self.arch.wrapped && OTHER_PARTS.iter().any(|part| name.starts_with(part));
            if other_part
                || layer.is_some_and(|layer| layer >= num_layers && layer - num_layers < self.arch.extra_layers)
            {
                aside.push(name.to_owned());
                continue;
            }
            let reason = match layer {
                Some(layer) if layer >= num_layers => {
                    format!("`num_hidden_layers` is {num_layers}, counted from 0")
                }
                _ if name.ends_with(".bias") => "the configuration asks for no such bias".to_owned(),
                _ if self.mixture.is_some() => "this mixture has no use for it".to_owned(),
                _ => format!("a model of type {} with this configuration has no use for it", self.arch.model_type),
            };
            return Err(LmError::UnexpectedTensor { name: name.to_owned(), reason });
        }
        Ok(aside)
    }
}

/// A projection cut into several by the rows of its weight.
pub(super) fn split<const N: usize>(all: &Projection, parts: [usize; N]) -> [Projection; N] {
    let mut at = 0;
    parts.map(|rows| {
        let range = at..at + rows;
        at = range.end;
        Projection {
            weight: all.weight.rows(range.clone()),
            stored: Stored { first_row: all.stored.first_row + range.start, ..all.stored.clone() },
            bias: all.bias.as_ref().map(|bias| bias[range].to_vec()),
        }
    })
}
