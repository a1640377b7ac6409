//! Layer and role of a tensor, inferred from its name, for any architecture.
//!
//! A layer number is the first number in the name that counts through a *stack*. A stack is known by its usual name
//! (`layers`, `h`, `blocks`, …) or by its regularity: the numbers run from 0 without a gap and each has the same
//! tensors. Numbers of experts never count layers, nor do numbers from [`MAX_LAYERS`] on: a name costs the same
//! whatever number stands in it. The role follows from the innermost part of the name that is known.

use crate::config::MAX_LAYERS;
use std::collections::{BTreeMap, BTreeSet};

/// Usual names of stacks: the part right before the number.
const STACK_PARTS: &[&str] =
    &["layers", "layer", "h", "blocks", "block", "resblocks", "decoder_layers", "encoder_layers", "transformer_layers"];

/// Parts whose number counts something else.
const NOT_STACK_PARTS: &[&str] = &["experts", "expert", "mlp", "classifier"];

/// The role of a tensor in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// Projections and biases of attention.
    Attention,
    /// Projections of the MLP, including every expert's.
    Mlp,
    /// A normalisation, in or outside layers.
    Norm,
    /// Token or position embedding.
    Embedding,
    /// The projection from the last hidden state to the output.
    Head,
    /// The router of a mixture of experts.
    Router,
    /// Anything else.
    Other,
}

/// Position of a tensor between the input and the output of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Position {
    /// Before the layers, such as the embedding.
    Before,
    /// In a layer.
    Inside,
    /// After the layers, such as the final norm and the head.
    After,
}

/// Rows that the general rules would get wrong, by exact part: role in a layer, role outside.
const EXCEPTIONS: &[(&str, Option<Role>, Option<Role>)] = &[
    // GPT-NeoX calls its head an embedding.
    ("embed_out", None, Some(Role::Head)),
    // T5 keeps the embedding that encoder and decoder share under this name.
    ("shared", None, Some(Role::Embedding)),
    ("wte", None, Some(Role::Embedding)),
    ("wpe", None, Some(Role::Embedding)),
    // The head in checkpoints of the first Llama, and in others that follow them; in BERT's layers the MLP's end.
    ("output", None, Some(Role::Head)),
    ("lm_head", None, Some(Role::Head)),
    ("head", None, Some(Role::Head)),
    ("score", None, Some(Role::Head)),
    ("classifier", None, Some(Role::Head)),
    ("v_head", None, Some(Role::Head)),
    ("gate", Some(Role::Router), None),
    ("router", Some(Role::Router), None),
    ("shared_expert_gate", Some(Role::Router), None),
    ("fc1", Some(Role::Mlp), None),
    ("fc2", Some(Role::Mlp), None),
    ("experts", Some(Role::Mlp), None),
    ("block_sparse_moe", Some(Role::Mlp), None),
    ("moe", Some(Role::Mlp), None),
    ("intermediate", Some(Role::Mlp), None),
];

/// A parsed tensor name. Slices are of the name itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorName<'a> {
    /// The whole name.
    pub name: &'a str,
    /// Number of the layer; `None` outside stacks.
    pub layer: Option<usize>,
    /// The part before the layer number, with the dot, such as `model.layers.`; empty outside stacks.
    pub prefix: &'a str,
    /// The part after the layer number, without the dot, such as `self_attn.q_proj.weight`; the whole name outside.
    pub suffix: &'a str,
    /// Number of the expert, for a tensor that belongs to one.
    pub expert: Option<usize>,
    /// Its role.
    pub role: Role,
    /// Its position.
    pub position: Position,
}

/// Whether a tensor of this name and shape holds the matrices of a layer's experts in one: `mlp.experts.gate_up_proj`
/// of shape \[experts, rows, columns\] and its like. A tensor of three axes in an MLP is one, unless its name says
/// that it is a convolution.
pub fn is_fused_experts(name: &str, shape: &[usize]) -> bool {
    let parsed = TensorName::parse(name);
    shape.len() == 3 && parsed.role == Role::Mlp && parsed.expert.is_none() && !name.contains("conv")
}

impl<'a> TensorName<'a> {
    /// Parses a name without the other names of its checkpoint: only stacks with a usual name are found.
    /// See [`Names::parse`].
    pub fn parse(name: &'a str) -> TensorName<'a> {
        dissect(name, split_at_layer(name, has_stack_part))
    }

    /// The same tensor's name in layer `layer`; the name unchanged outside stacks.
    pub fn rename_layer(&self, layer: usize) -> String {
        match self.layer {
            Some(_) => format!("{}{layer}.{}", self.prefix, self.suffix),
            None => self.name.to_string(),
        }
    }
}

/// A run of numbered layers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stack {
    /// The part before the layer numbers, with the dot, such as `model.layers.`.
    pub prefix: String,
    /// The layer numbers found, in order.
    pub layers: Vec<usize>,
    /// Tensors in all of them.
    pub n_tensors: usize,
}

/// The stacks of a checkpoint, inferred from all its names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    stacks: Vec<Stack>,
}

impl Names {
    /// Finds the stacks among `names`, in any order.
    pub fn infer<'a>(names: impl IntoIterator<Item = &'a str>) -> Names {
        let names: Vec<&str> = names.into_iter().collect();
        let mut candidates: BTreeMap<&str, BTreeMap<usize, BTreeSet<&str>>> = BTreeMap::new();
        for name in &names {
            for (prefix, number, suffix) in numbers(name) {
                candidates.entry(prefix).or_default().entry(number).or_default().insert(suffix);
            }
        }
        candidates.retain(|prefix, layers| has_stack_part(prefix) || is_regular(prefix, layers));
        let mut stacks: BTreeMap<&str, (BTreeSet<usize>, usize)> = BTreeMap::new();
        for name in &names {
            if let Some((prefix, layer, _)) = split_at_layer(name, |prefix| candidates.contains_key(prefix)) {
                let (layers, n_tensors) = stacks.entry(prefix).or_default();
                layers.insert(layer);
                *n_tensors += 1;
            }
        }
        let stack = |(prefix, (layers, n_tensors)): (&str, (BTreeSet<usize>, usize))| Stack {
            prefix: prefix.to_string(),
            layers: layers.into_iter().collect(),
            n_tensors,
        };
        Names { stacks: stacks.into_iter().map(stack).collect() }
    }

    /// All stacks, in the order of their prefixes.
    pub fn stacks(&self) -> &[Stack] {
        &self.stacks
    }

    /// The stack of the language model: the one with most tensors outside any vision or audio part; `None` without
    /// stacks. Of an encoder and a decoder of the same size, the encoder.
    pub fn main_stack(&self) -> Option<&Stack> {
        const OTHER_SENSES: &[&str] = &["vision", "visual", "audio", "image", "speech"];
        let language = |stack: &Stack| !OTHER_SENSES.iter().any(|sense| stack.prefix.contains(sense));
        self.stacks.iter().max_by_key(|stack| (language(stack), stack.n_tensors))
    }

    /// Parses a name with the stacks found.
    pub fn parse<'a>(&self, name: &'a str) -> TensorName<'a> {
        let is_stack = |prefix: &str| self.stacks.binary_search_by(|stack| stack.prefix.as_str().cmp(prefix)).is_ok();
        dissect(name, split_at_layer(name, is_stack))
    }
}

/// Every number below [`MAX_LAYERS`] that stands between two dots, with what comes before it (dot
/// included) and after it.
fn numbers(name: &str) -> impl Iterator<Item = (&str, usize, &str)> {
    name.match_indices('.').filter_map(move |(dot, _)| {
        let (number, suffix) = name[dot + 1..].split_once('.')?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        Some((&name[..=dot], number.parse().ok().filter(|&number| digits && number < MAX_LAYERS)?, suffix))
    })
}

fn split_at_layer(name: &str, is_stack: impl Fn(&str) -> bool) -> Option<(&str, usize, &str)> {
    numbers(name).find(|(prefix, _, _)| is_stack(prefix))
}

fn last_part(prefix: &str) -> &str {
    prefix.trim_end_matches('.').rsplit('.').next().unwrap_or("")
}

fn has_stack_part(prefix: &str) -> bool {
    STACK_PARTS.contains(&last_part(prefix))
}

/// Whether at least two numbers run from 0 without a gap, each with the same two or more tensors.
fn is_regular(prefix: &str, layers: &BTreeMap<usize, BTreeSet<&str>>) -> bool {
    let contiguous = layers.keys().copied().eq(0..layers.len());
    let alike = layers.values().all(|suffixes| suffixes.len() >= 2 && Some(suffixes) == layers.values().next());
    !NOT_STACK_PARTS.contains(&last_part(prefix)) && layers.len() >= 2 && contiguous && alike
}

fn dissect<'a>(name: &'a str, layer: Option<(&'a str, usize, &'a str)>) -> TensorName<'a> {
    let (prefix, layer, suffix) = match layer {
        Some((prefix, layer, suffix)) => (prefix, Some(layer), suffix),
        None => ("", None, name),
    };
    let role = role(suffix, layer.is_some());
    let position = match layer {
        Some(_) => Position::Inside,
        None => position_outside(name, role),
    };
    let expert = numbers(name).find(|(prefix, _, _)| matches!(last_part(prefix), "experts" | "expert"));
    TensorName { name, layer, prefix, suffix, expert: expert.map(|(_, number, _)| number), role, position }
}

fn role(suffix: &str, in_layer: bool) -> Role {
    for part in suffix.rsplit('.') {
        if let Some((_, inside, outside)) = EXCEPTIONS.iter().find(|row| row.0 == part) {
            if let Some(role) = if in_layer { inside } else { outside } {
                return *role;
            }
            continue;
        }
        let part = part.to_ascii_lowercase();
        let has = |needles: &[&str]| needles.iter().any(|needle| part.contains(needle));
        if has(&["norm"]) || part == "ln" || part.starts_with("ln_") {
            return Role::Norm;
        }
        if has(&["embed"]) {
            return Role::Embedding;
        }
        if has(&["attn", "attention"]) {
            return Role::Attention;
        }
        if has(&["mlp", "ffn", "feed_forward", "feedforward", "densereludense", "expert"]) {
            return Role::Mlp;
        }
    }
    // BERT's layers end their MLP in a part of this name that stands under nothing telling.
    if in_layer && suffix.starts_with("output.") { Role::Mlp } else { Role::Other }
}

fn position_outside(name: &str, role: Role) -> Position {
    let any = |test: fn(&str) -> bool| name.split('.').any(test);
    let before = match role {
        Role::Embedding => true,
        Role::Head => false,
        Role::Norm => any(|part| part.contains("embed") || part.starts_with("pre") || part.ends_with("_pre")),
        _ => !any(|part| ["final", "post", "out"].iter().any(|needle| part.contains(needle))),
    };
    if before { Position::Before } else { Position::After }
}
