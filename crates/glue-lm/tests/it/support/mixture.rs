//! Mixtures of variants of a small dense model, as numbers: every level, routing, pool and form of gate.

use super::{data, floats, tokens};
use glue_lm::{LmError, Model, Weight, Weights};
use glue_tensor::{Checkpoint, Config, Dtype};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Models that differ in norms, biases, fused projections, windows and soft caps.
pub(crate) const BASES: [&str; 5] = ["gemma2", "llama-bias", "mistral-window", "olmo2", "phi3"];

pub(crate) type Tensors = BTreeMap<String, (Vec<f32>, Vec<usize>)>;

/// What kind of mixture.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) level: &'static str,
    pub(crate) routing: &'static str,
    pub(crate) pool: &'static str,
    pub(crate) mlp: bool,
    pub(crate) per_token: usize,
    pub(crate) dense_layers: usize,
}

/// Every level, routing, pool and form of gate; the number of experts per token and of dense layers go along.
pub(crate) fn kinds() -> Vec<Kind> {
    let mut all = Vec::new();
    for level in ["ffn", "block", "model"] {
        for (routing, pool) in [("token", "mean"), ("sample", "mean"), ("sample", "first"), ("sample", "last")] {
            for mlp in [false, true] {
                let n = all.len();
                all.push(Kind { level, routing, pool, mlp, per_token: 1 + n % 3, dense_layers: (n / 2) % 2 });
            }
        }
    }
    all
}

/// A dense model as numbers.
pub(crate) struct Base {
    pub(crate) config: Value,
    pub(crate) tensors: Tensors,
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
}

pub(crate) fn base(name: &str) -> Base {
    base_in("archs", name)
}

/// The model `NAME` of the folder `folder` of models.
pub(crate) fn base_in(folder: &str, name: &str) -> Base {
    let directory = data(folder).join(name);
    let config: Value = serde_json::from_str(&std::fs::read_to_string(directory.join("config.json")).unwrap()).unwrap();
    let file = Checkpoint::open(&directory).unwrap();
    let tensors = file.tensors().iter().map(|info| (info.name.clone(), floats(&file, &info.name))).collect();
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    Base { layers: number("num_hidden_layers"), hidden: number("hidden_size"), tensors, config }
}

pub(crate) fn model_of(config: &Value, tensors: &Tensors) -> Result<Model, LmError> {
    let weight = |(name, (values, shape)): (&String, &(Vec<f32>, Vec<usize>))| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name.clone(), Weight::owned(Dtype::F32, shape.clone(), bytes).unwrap())
    };
    Model::new(&Config::from_value(config.clone()).unwrap(), Weights::from_tensors(tensors.iter().map(weight)))
}

/// Numbers between -1 and 1.
pub(crate) fn noise(n: usize, seed: u32) -> Vec<f32> {
    tokens(n, 1 << 16, seed).into_iter().map(|t| t as f32 / 32768.0 - 1.0).collect()
}

impl Base {
    /// Whether a tensor belongs to experts, and its name there.
    pub(crate) fn mixed_name(&self, kind: &Kind, mixed: &[usize], name: &str, expert: usize) -> Option<String> {
        let rest = name.strip_prefix("model.layers.")?;
        let (layer, rest) = rest.split_once('.')?;
        if !mixed.contains(&layer.parse::<usize>().ok()?) {
            return None;
        }
        match kind.level {
            "ffn" => Some(format!("model.layers.{layer}.mlp.experts.{expert}.{}", rest.strip_prefix("mlp.")?)),
            _ => Some(format!("model.layers.{layer}.experts.{expert}.{rest}")),
        }
    }

    pub(crate) fn mixed(&self, kind: &Kind) -> Vec<usize> {
        (kind.dense_layers..self.layers).collect()
    }

    /// The tensors of another model of this shape; the same for seed 0.
    pub(crate) fn variant(&self, seed: u32) -> Tensors {
        let change = |(name, (values, shape)): (&String, &(Vec<f32>, Vec<usize>))| {
            let by = if seed == 0 { 0.0 } else { 0.3 };
            let letters: u32 = name.bytes().map(u32::from).sum();
            let noise = noise(values.len(), seed + 31 * letters);
            let values = values.iter().zip(noise).map(|(v, n)| v + by * v.abs().max(0.05) * n).collect();
            (name.clone(), (values, shape.clone()))
        };
        self.tensors.iter().map(change).collect()
    }

    /// A mixture of variants by their seeds, into `mixed` layers, with the gates of `gates`.
    pub(crate) fn mixture(
        &self,
        kind: &Kind,
        mixed: &[usize],
        experts: &[u32],
        gates: &Tensors,
    ) -> Result<Model, LmError> {
        let router = if kind.mlp { json!({ "kind": "mlp", "hidden_size": 6 }) } else { json!({ "kind": "linear" }) };
        let config = json!({
            "model_type": "glue_mixture",
            "format_version": 1,
            "level": kind.level,
            "experts": (0..experts.len()).map(|e| format!("e{e}")).collect::<Vec<_>>(),
            "experts_per_token": kind.per_token.min(experts.len()),
            "dense_layers": kind.dense_layers,
            "mixed_layers": mixed,
            "routing": kind.routing,
            "pool": kind.pool,
            "router": router,
            "base": self.config,
        });
        let mut tensors = gates.clone();
        for (name, value) in &self.tensors {
            if self.mixed_name(kind, mixed, name, 0).is_none() {
                tensors.insert(name.clone(), value.clone());
            }
        }
        for (expert, &seed) in experts.iter().enumerate() {
            for (name, value) in self.variant(seed) {
                if let Some(name) = self.mixed_name(kind, mixed, &name, expert) {
                    tensors.insert(name, value);
                }
            }
        }
        model_of(&config, &tensors)
    }

    /// Random gates, for experts in the order of `order`.
    pub(crate) fn gates(&self, kind: &Kind, mixed: &[usize], order: &[usize]) -> Tensors {
        self.gates_of_size(kind, mixed, order, 2.0)
    }

    pub(crate) fn gates_of_size(&self, kind: &Kind, mixed: &[usize], order: &[usize], size: f32) -> Tensors {
        let names = match kind.level {
            "ffn" => mixed.iter().map(|layer| format!("model.layers.{layer}.mlp.gate.")).collect(),
            "block" => mixed.iter().map(|layer| format!("model.layers.{layer}.gate.")).collect(),
            _ if mixed.is_empty() => Vec::new(),
            _ => vec!["model.gate.".to_owned()],
        };
        let mut gates = Tensors::new();
        for (number, name) in names.iter().enumerate() {
            let seed = 1000 * (number as u32 + 1);
            let width = if kind.mlp { 6 } else { self.hidden };
            let rows = |width: usize, seed: u32| -> Vec<f32> {
                order.iter().flat_map(|&expert| noise(width, seed + expert as u32)).map(|x| size * x).collect()
            };
            let (weight, bias) = if kind.mlp { ("down.weight", "down.bias") } else { ("weight", "bias") };
            gates.insert(format!("{name}{weight}"), (rows(width, seed), vec![order.len(), width]));
            gates.insert(format!("{name}{bias}"), (rows(1, seed + 50), vec![order.len()]));
            if kind.mlp {
                gates.insert(format!("{name}up.weight"), (noise(6 * self.hidden, seed + 99), vec![6, self.hidden]));
                gates.insert(format!("{name}up.bias"), (noise(6, seed + 98), vec![6]));
            }
        }
        gates
    }

    /// Three experts that differ.
    pub(crate) fn three(&self, kind: &Kind) -> Model {
        let mixed = self.mixed(kind);
        self.mixture(kind, &mixed, &[1, 2, 3], &self.gates(kind, &mixed, &[0, 1, 2])).unwrap()
    }
}
