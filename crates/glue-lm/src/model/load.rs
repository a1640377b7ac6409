//! From an architecture and named tensors to a model: every tensor found, of the right shape, and none left over.

use super::Model;
use super::attention_block::{AttentionBlock, Projection};
use super::feed_forward::{FeedForward, MixtureOfExperts, Mlp};
use super::layer::Layer;
use crate::architecture::{Architecture, Experts, NormPlaces, QkNorm, Storage};
use crate::error::LmError;
use crate::norm::RmsNorm;
use crate::ops::AttentionSpec;
use crate::rope::RopeTables;
use crate::weight::Weight;
use crate::weights::Weights;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Builds the model, or says what is missing, misshapen or left over.
pub(super) fn model(architecture: Architecture, weights: &Weights) -> Result<Model, LmError> {
    let arch = &architecture;
    let bare = !weights.contains("model.embed_tokens.weight") && weights.contains("embed_tokens.weight");
    let loader = Loader {
        weights,
        arch,
        prefix: if bare { "" } else { "model." },
        used: RefCell::default(),
        bytes: Cell::new(0),
    };
    let vocabulary = [arch.vocab_size, arch.hidden_size];
    let embedding = loader.tensor("embed_tokens.weight", &vocabulary)?;
    let layers = (0..arch.num_layers()).map(|index| loader.layer(index)).collect::<Result<_, _>>()?;
    let norm = loader.norm("norm", arch.hidden_size)?;
    let tied = arch.tied.unwrap_or(!weights.contains("lm_head.weight"));
    let head = if tied { embedding.clone() } else { loader.named("lm_head.weight".to_owned(), &vocabulary)? };
    loader.check_left_over(tied)?;
    let ropes = arch.ropes.iter().cloned().map(RopeTables::new).collect();
    let weight_bytes = loader.bytes.get();
    Ok(Model { embedding, layers, norm, head, ropes, weight_bytes, architecture })
}

struct Loader<'a> {
    weights: &'a Weights,
    arch: &'a Architecture,
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
        let mut weight = self.tensor(&format!("{name}.weight"), &[width])?.to_f32();
        weight.iter_mut().for_each(|w| *w += self.arch.norm_offset);
        Ok(RmsNorm::new(weight, self.arch.norm_eps))
    }

    fn projection(&self, name: &str, out: usize, width: usize, bias: bool) -> Result<Projection, LmError> {
        let weight = self.tensor(&format!("{name}.weight"), &[out, width])?;
        let bias = bias.then(|| self.tensor(&format!("{name}.bias"), &[out])).transpose()?;
        Ok(Projection { weight, bias: bias.map(|bias| bias.to_f32()) })
    }

    fn layer(&self, index: usize) -> Result<Layer, LmError> {
        let norm = |name: &str| self.norm(&format!("layers.{index}.{name}"), self.arch.hidden_size);
        let (before, after) = match self.arch.norms {
            NormPlaces::Before => (["input_layernorm", "post_attention_layernorm"].map(Some), [None; 2]),
            NormPlaces::After => ([None; 2], ["post_attention_layernorm", "post_feedforward_layernorm"].map(Some)),
            NormPlaces::Around => (
                ["input_layernorm", "pre_feedforward_layernorm"].map(Some),
                ["post_attention_layernorm", "post_feedforward_layernorm"].map(Some),
            ),
        };
        Ok(Layer {
            before_attention: before[0].map(norm).transpose()?,
            attention: self.attention(index)?,
            after_attention: after[0].map(norm).transpose()?,
            before_mlp: before[1].map(norm).transpose()?,
            mlp: self.feed_forward(index)?,
            after_mlp: after[1].map(norm).transpose()?,
        })
    }

    fn attention(&self, index: usize) -> Result<AttentionBlock, LmError> {
        let arch = self.arch;
        let at = |name: &str| format!("layers.{index}.self_attn.{name}");
        let (width, kv_width) = (arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim);
        let [q, k, v] = match arch.storage {
            Storage::Separate => {
                let one = |name, out| self.projection(&at(name), out, arch.hidden_size, arch.qkv_bias);
                [one("q_proj", width)?, one("k_proj", kv_width)?, one("v_proj", kv_width)?]
            }
            Storage::Fused => {
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

    fn feed_forward(&self, index: usize) -> Result<FeedForward, LmError> {
        let arch = self.arch;
        let (hidden, inner, bias) = (arch.hidden_size, arch.intermediate_size, arch.mlp_bias);
        if let Some(experts) = arch.experts {
            return self.experts(index, experts).map(FeedForward::Experts);
        }
        let at = |name: &str| format!("layers.{index}.mlp.{name}");
        let [gate, up] = match arch.storage {
            Storage::Separate => {
                let one = |name| self.projection(&at(name), inner, hidden, bias);
                [one("gate_proj")?, one("up_proj")?]
            }
            Storage::Fused => split(&self.projection(&at("gate_up_proj"), 2 * inner, hidden, bias)?, [inner, inner]),
        };
        let down = self.projection(&at("down_proj"), hidden, inner, bias)?;
        Ok(FeedForward::Dense(Mlp { gate, up, down, activation: arch.activation }))
    }

    /// Experts stored as a tensor per projection (`block_sparse_moe`), or stacked (`mlp.experts`), as transformers holds them
    /// from version 5 on.
    fn experts(&self, index: usize, experts: Experts) -> Result<MixtureOfExperts, LmError> {
        let arch = self.arch;
        let (hidden, inner) = (arch.hidden_size, arch.intermediate_size);
        let plain = |weight| Projection { weight, bias: None };
        let stacked = format!("layers.{index}.mlp.experts.gate_up_proj");
        let activation = arch.activation;
        let (place, experts) = if self.weights.contains(&format!("{}{stacked}", self.prefix)) {
            let gate_up = self.tensor(&stacked, &[experts.count, 2 * inner, hidden])?;
            let down =
                self.tensor(&format!("layers.{index}.mlp.experts.down_proj"), &[experts.count, hidden, inner])?;
            let expert = |number| {
                let [gate, up] = split(&plain(gate_up.index(number)), [inner, inner]);
                Mlp { gate, up, down: plain(down.index(number)), activation }
            };
            ("mlp", (0..experts.count).map(expert).collect())
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
        let per_token = arch.experts.map_or(1, |experts| experts.per_token);
        let router = self.projection(&format!("layers.{index}.{place}.gate"), experts.len(), hidden, false)?;
        Ok(MixtureOfExperts { router, experts, per_token })
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
        Projection { weight: all.weight.rows(range.clone()), bias: all.bias.as_ref().map(|bias| bias[range].to_vec()) }
    })
}
