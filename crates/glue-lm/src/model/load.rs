//! From an architecture and named tensors to a model: every tensor found, of the right shape, and none left over.

use super::attention_block::{AttentionBlock, Projection};
use super::feed_forward::{FeedForward, MixtureOfExperts, Mlp, SharedExpert};
use super::gate::{Router, load_gate};
use super::layer::Layer;
use super::{DecoderLayer, Model, UpperExperts};
use crate::architecture::{Architecture, Experts, NormPlacement, ProjectionLayout, QkNorm};
use crate::error::LmError;
use crate::gradients::Stored;
use crate::norm::RmsNorm;
use crate::ops::AttentionSpec;
use crate::rope::RopeTables;
use crate::weight::Weight;
use crate::weights::Weights;
use glue_mixture::{Gate, Level, MixtureSpec, Routing};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Builds the model, or says what is missing, misshapen or left over.
pub(super) fn model(
    architecture: Architecture,
    mixture: Option<MixtureSpec>,
    weights: &Weights,
) -> Result<Model, LmError> {
    let arch = &architecture;
    let bare = !weights.contains("model.embed_tokens.weight") && weights.contains("embed_tokens.weight");
    let loader = Loader {
        weights,
        arch,
        mixture: mixture.as_ref(),
        gates: Cell::new(0),
        prefix: if bare { "" } else { "model." },
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
    let tied = arch.tied.unwrap_or(!weights.contains("lm_head.weight"));
    let embedding_name = format!("{}embed_tokens.weight", loader.prefix);
    let (head, head_name) = match tied {
        true => (embedding.clone(), embedding_name.clone()),
        false => (loader.named("lm_head.weight".to_owned(), &vocabulary)?, "lm_head.weight".to_owned()),
    };
    let head = Projection { weight: head, bias: None, stored: Stored { name: head_name.into(), first_row: 0 } };
    loader.check_left_over(tied)?;
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
        dir: None,
        architecture,
        mixture,
        routing_log,
    })
}

struct Loader<'a> {
    weights: &'a Weights,
    arch: &'a Architecture,
    mixture: Option<&'a MixtureSpec>,
    /// Gates so far.
    gates: Cell<usize>,
    prefix: &'static str,
    used: RefCell<BTreeSet<String>>,
    bytes: Cell<usize>,
}

impl Loader<'_> {
    fn named(&self, name: String, shape: &[usize]) -> Result<Weight, LmError> {
        let Some(weight) = self.weights.get(&name)? else {
            return Err(LmError::MissingTensor { name, expected: shape.to_vec() });
        };
        if weight.shape() != shape {
            return Err(LmError::Shape { name, expected: shape.to_vec(), found: weight.shape().to_vec() });
        }
        self.bytes.set(self.bytes.get() + weight.bytes().len());
        self.used.borrow_mut().insert(name);
        Ok(weight)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Weight, LmError> {
        self.named(format!("{}{name}", self.prefix), shape)
    }

    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, LmError> {
        let name = format!("{name}.weight");
        let mut weight = self.tensor(&name, &[width])?.to_f32();
        weight.iter_mut().for_each(|w| *w += self.arch.norm_offset);
        Ok(RmsNorm::new(weight, self.arch.norm_eps).named(format!("{}{name}", self.prefix)))
    }

    fn projection(&self, name: &str, out: usize, width: usize, bias: bool) -> Result<Projection, LmError> {
        let weight = self.tensor(&format!("{name}.weight"), &[out, width])?;
        let bias = bias.then(|| self.tensor(&format!("{name}.bias"), &[out])).transpose()?;
        Ok(Projection { weight, bias: bias.map(|bias| bias.to_f32()), stored: self.stored(&format!("{name}.weight")) })
    }

    /// A tensor whose name is `name` after the prefix, from its first row on.
    fn stored(&self, name: &str) -> Stored {
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
            normalised: true,
            pool: (spec.routing == Routing::Sample).then_some(spec.pool),
        })
    }

    fn next_gate(&self) -> usize {
        self.gates.replace(self.gates.get() + 1)
    }

    /// A layer whose tensors' names begin with `at`.
    fn layer(&self, index: usize, at: &str) -> Result<Layer, LmError> {
        let norm = |name: &str| self.norm(&format!("{at}{name}"), self.arch.hidden_size);
        let (before, after) = match self.arch.norms {
            NormPlacement::Before => (["input_layernorm", "post_attention_layernorm"].map(Some), [None; 2]),
            NormPlacement::After => ([None; 2], ["post_attention_layernorm", "post_feedforward_layernorm"].map(Some)),
            NormPlacement::Around => (
                ["input_layernorm", "pre_feedforward_layernorm"].map(Some),
                ["post_attention_layernorm", "post_feedforward_layernorm"].map(Some),
            ),
        };
        Ok(Layer {
            before_attention: before[0].map(norm).transpose()?,
            attention: self.attention(index, at)?,
            after_attention: after[0].map(norm).transpose()?,
            before_mlp: before[1].map(norm).transpose()?,
            mlp: self.feed_forward(index, at)?,
            after_mlp: after[1].map(norm).transpose()?,
        })
    }

    fn attention(&self, index: usize, at: &str) -> Result<AttentionBlock, LmError> {
        let arch = self.arch;
        let at = |name: &str| format!("{at}self_attn.{name}");
        let (width, kv_width) = (arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim);
        let [q, k, v] = match arch.storage {
            ProjectionLayout::Separate => {
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
        };
        Ok(AttentionBlock {
            q,
            k,
            v,
            o: self.projection(&at("o_proj"), arch.hidden_size, width, arch.output_bias)?,
            q_norm: qk_norm("q_norm", arch.heads)?,
            k_norm: qk_norm("k_norm", arch.kv_heads)?,
            spec: AttentionSpec {
                heads: arch.heads,
                kv_heads: arch.kv_heads,
                head_dim: arch.head_dim,
                scale: arch.attention_scale,
                softcap: arch.attention_softcap,
                window: arch.layers[index].window,
            },
        })
    }

    fn feed_forward(&self, index: usize, at: &str) -> Result<FeedForward, LmError> {
        if let Some(experts) = self.arch.experts.filter(|_| self.arch.layers[index].experts) {
            return Ok(FeedForward::Experts(Box::new(self.experts(index, experts)?)));
        }
        match self.mixed_at(index) {
            Some(spec) if spec.level == Level::Ffn => {
                let router = self.mixture_router(spec, index, format!("{at}mlp.gate."))?;
                let expert = |expert| self.mlp(&format!("{at}mlp.experts.{expert}."), self.arch.intermediate_size);
                let experts = (0..spec.experts.len()).map(expert).collect::<Result<_, _>>()?;
                Ok(FeedForward::Experts(Box::new(MixtureOfExperts { router, experts, stacked: false, shared: None })))
            }
            _ => Ok(FeedForward::Dense(Box::new(self.mlp(&format!("{at}mlp."), self.arch.intermediate_size)?))),
        }
    }

    /// An MLP whose tensors' names begin with `at`.
    fn mlp(&self, at: &str, inner: usize) -> Result<Mlp, LmError> {
        let arch = self.arch;
        let (hidden, bias) = (arch.hidden_size, arch.mlp_bias);
        let at = |name: &str| format!("{at}{name}");
        let [gate, up] = match arch.storage {
            ProjectionLayout::Separate => {
                let one = |name| self.projection(&at(name), inner, hidden, bias);
                [one("gate_proj")?, one("up_proj")?]
            }
            ProjectionLayout::Fused => {
                split(&self.projection(&at("gate_up_proj"), 2 * inner, hidden, bias)?, [inner, inner])
            }
        };
        let down = self.projection(&at("down_proj"), hidden, inner, bias)?;
        Ok(Mlp { gate, up, down, activation: arch.activation })
    }

    /// Experts stored as a tensor per projection (`block_sparse_moe` of Mixtral, `mlp.experts` of Qwen2-MoE), or
    /// stacked (`mlp.experts`), as transformers holds them from version 5 on.
    fn experts(&self, index: usize, experts: Experts) -> Result<MixtureOfExperts, LmError> {
        let arch = self.arch;
        let (hidden, inner) = (arch.hidden_size, experts.intermediate_size);
        let stacked = format!("layers.{index}.mlp.experts.gate_up_proj");
        let stacked_down = format!("layers.{index}.mlp.experts.down_proj");
        let activation = arch.activation;
        let (count, options) = (experts.count, experts);
        let is_stacked = self.weights.contains(&format!("{}{stacked}", self.prefix));
        let (place, experts) = if is_stacked {
            let gate_up = self.tensor(&stacked, &[experts.count, 2 * inner, hidden])?;
            let down = self.tensor(&stacked_down, &[experts.count, hidden, inner])?;
            // An expert's matrix counts its rows among those of all experts.
            let slice = |all: &Weight, name: &str, number: usize| {
                let weight = all.index(number);
                let first_row = number * weight.shape()[0];
                Projection { weight, bias: None, stored: Stored { first_row, ..self.stored(name) } }
            };
            let expert = |number| {
                let [gate, up] = split(&slice(&gate_up, &stacked, number), [inner, inner]);
                Mlp { gate, up, down: slice(&down, &stacked_down, number), activation }
            };
            ("mlp", (0..experts.count).map(expert).collect())
        } else if options.shared.is_some() {
            let expert = |number| self.mlp(&format!("layers.{index}.mlp.experts.{number}."), inner);
            ("mlp", (0..count).map(expert).collect::<Result<Vec<_>, LmError>>()?)
        } else {
            let expert = |number| {
                let one = |name: &str, out, width| {
                    let name = format!("layers.{index}.block_sparse_moe.experts.{number}.{name}");
                    self.projection(&name, out, width, false)
                };
                let (gate, up, down) =
                    (one("w1", inner, hidden)?, one("w3", inner, hidden)?, one("w2", hidden, inner)?);
                Ok(Mlp { gate, up, down, activation })
            };
            ("block_sparse_moe", (0..experts.count).map(expert).collect::<Result<Vec<_>, LmError>>()?)
        };
        let name = format!("layers.{index}.{place}.gate");
        let router = Router {
            number: self.next_gate(),
            layer: index,
            gate: Gate::Linear { weight: self.tensor(&format!("{name}.weight"), &[count, hidden])?, bias: None },
            name: format!("{}{name}.", self.prefix),
            experts: count,
            per_token: options.per_token,
            normalised: options.normalised,
            pool: None,
        };
        let shared = |inner| {
            let gate = self.projection(&format!("layers.{index}.mlp.shared_expert_gate"), 1, hidden, false)?;
            Ok::<_, LmError>(SharedExpert {
                gate,
                mlp: self.mlp(&format!("layers.{index}.mlp.shared_expert."), inner)?,
            })
        };
        let shared = options.shared.map(shared).transpose()?;
        Ok(MixtureOfExperts { router, experts, stacked: is_stacked, shared })
    }

    /// Refuses tensors that nothing has used, apart from those that are known to carry no information.
    fn check_left_over(&self, tied: bool) -> Result<(), LmError> {
        let used = self.used.borrow();
        for name in self.weights.names() {
            let harmless = name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
            if harmless || used.contains(name) {
                continue;
            }
            let layer = name.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix("layers."));
            let layer = layer.and_then(|rest| rest.split('.').next()).and_then(|number| number.parse::<usize>().ok());
            let reason = match layer {
                Some(layer) if layer >= self.arch.num_layers() => {
                    format!("`num_hidden_layers` is {}, counted from 0", self.arch.num_layers())
                }
                _ if name.ends_with(".bias") => "the configuration asks for no such bias".to_owned(),
                _ if self.mixture.is_some() => "this mixture has no use for it".to_owned(),
                _ => format!("a model of type {} with this configuration has no use for it", self.arch.model_type),
            };
            return Err(LmError::UnexpectedTensor { name: name.to_owned(), reason });
        }
        Ok(())
    }
}

/// A projection cut into several by the rows of its weight.
fn split<const N: usize>(all: &Projection, parts: [usize; N]) -> [Projection; N] {
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
