//! Writing an adapter: the layout from ranks and shapes, the configuration from what is laid out.

use super::config::{AdapterConfig, alpha_to_value};
use super::{AdapterError, CONFIG_FILE, PREFIX};
use crate::dtype::Dtype;
use crate::writer::{CheckpointWriter, Layout, Staging, TensorSpec, WriteError};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How the weight of a module is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// By B·A: a linear layer.
    Linear,
    /// By the transpose of B·A: an embedding.
    Embedding,
    /// Matrix by matrix: the matrices of so many experts in one parameter.
    Experts(usize),
}

impl ModuleKind {
    /// Number of matrices.
    pub fn matrices(self) -> usize {
        match self {
            ModuleKind::Experts(n) => n,
            ModuleKind::Linear | ModuleKind::Embedding => 1,
        }
    }
}

/// A module with factors.
#[derive(Debug, Clone, PartialEq)]
pub struct NewModule {
    /// Its name in the model: that of its weight without `.weight`; for experts, that of the parameter.
    pub module: String,
    /// Linear layer, embedding or experts.
    pub kind: ModuleKind,
    /// Columns of A.
    pub inputs: usize,
    /// Rows of B.
    pub outputs: usize,
    /// Rows of A and columns of B for each matrix; 1 or more.
    pub rank: usize,
    /// α, so that the scale is α/rank.
    pub alpha: f64,
}

impl NewModule {
    /// For experts, the module that has the parameter, and the last part of the parameter's name.
    fn parameter(&self) -> Option<(&str, &str)> {
        match self.kind {
            ModuleKind::Experts(_) => Some(self.module.rsplit_once('.').unwrap_or(("", &self.module))),
            ModuleKind::Linear | ModuleKind::Embedding => None,
        }
    }
}

/// An adapter to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAdapter {
    /// What it is for: `base_model_name_or_path`.
    pub base_model: String,
    /// What the model is for, as PEFT calls it, such as `CAUSAL_LM`; `None` leaves it open.
    pub task_type: Option<String>,
    /// Whether weights of linear layers are stored as \[in, out\].
    pub fan_in_fan_out: bool,
    /// Type of the factors.
    pub dtype: Dtype,
    /// Rank and α of modules that no pattern is written for; those that most modules have make the smallest file.
    pub rank: usize,
    /// See `rank`.
    pub alpha: f64,
    /// `target_modules`: names, or ends of names, of the modules.
    pub target_modules: Vec<String>,
    /// `target_parameters`: names, or ends of names, of the parameters with experts.
    pub target_parameters: Vec<String>,
    /// Modules with factors; their names are unique.
    pub modules: Vec<NewModule>,
    /// Tensors of the model that are stored whole, by their names there.
    pub full: Vec<TensorSpec>,
}

impl NewAdapter {
    /// `adapter_config.json`. A pattern names a module in full.
    ///
    /// # Errors
    /// [`AdapterError::WrongType`] for a rank of 0 or an α that is not finite.
    pub fn config(&self) -> Result<AdapterConfig, AdapterError> {
        let (mut rank_pattern, mut alpha_pattern) = (Map::new(), Map::new());
        for module in &self.modules {
            if module.rank != self.rank {
                rank_pattern.insert(module.module.clone(), module.rank.into());
            }
            if module.alpha != self.alpha {
                alpha_pattern.insert(module.module.clone(), alpha_to_value(module.alpha));
            }
        }
        let wrappers = self.wrappers();
        let module_of = |spec: &TensorSpec| spec.name.rsplit_once('.').map(|(module, _)| module.to_string());
        let saved: BTreeSet<String> =
            self.full.iter().filter_map(module_of).filter(|module| !wrappers.contains_key(module.as_str())).collect();
        let biases = self.full.iter().filter_map(module_of).any(|module| wrappers.contains_key(module.as_str()));
        let saved: Vec<String> = saved.into_iter().collect();
        let some = |names: &[String]| if names.is_empty() { Value::Null } else { names.into() };
        let value = json!({
            "alpha_pattern": alpha_pattern,
            "base_model_name_or_path": self.base_model,
            "bias": if biases { "lora_only" } else { "none" },
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": alpha_to_value(self.alpha),
            "lora_dropout": 0.0,
            "modules_to_save": some(&saved),
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": rank_pattern,
            "target_modules": self.target_modules,
            "target_parameters": some(&self.target_parameters),
            "task_type": self.task_type,
            "use_dora": false,
            "use_rslora": false,
        });
        let Value::Object(root) = value else { unreachable!("a literal object") };
        AdapterConfig::from_root(root)
    }

    /// The modules that PEFT wraps, each with its parameters that have factors and a name of their own, in the order of
    /// the alphabet. Every other module is wrapped once.
    fn wrappers(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut wrappers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for module in &self.modules {
            match module.parameter() {
                Some((module, parameter)) => _ = wrappers.entry(module).or_default().insert(parameter),
                None => _ = wrappers.entry(&module.module).or_default(),
            }
        }
        wrappers
    }

    /// A, then B, of each module, then whole tensors.
    fn layout(&self) -> Result<Layout, WriteError> {
        let wrappers = self.wrappers();
        let inside = |module: &str, depth: usize| format!("{module}{}", ".base_layer".repeat(depth));
        let mut tensors = Vec::with_capacity(2 * self.modules.len() + self.full.len());
        for module in &self.modules {
            let [a, b] = match module.kind {
                ModuleKind::Linear | ModuleKind::Experts(_) => ["lora_A.weight", "lora_B.weight"],
                ModuleKind::Embedding => ["lora_embedding_A", "lora_embedding_B"],
            };
            let name = match module.parameter() {
                Some((of, parameter)) => {
                    inside(of, wrappers[of].iter().position(|other| *other == parameter).unwrap_or(0))
                }
                None => module.module.clone(),
            };
            let factor = |suffix: &str, shape: [usize; 2]| TensorSpec {
                name: format!("{PREFIX}{name}.{suffix}"),
                dtype: self.dtype,
                shape: shape.to_vec(),
            };
            let rank = module.rank * module.kind.matrices();
            tensors.push(factor(a, [rank, module.inputs]));
            tensors.push(factor(b, [module.outputs, rank]));
        }
        for spec in &self.full {
            // PEFT wraps modules with factors, and what they had of their own moves below this name.
            let name = match spec.name.rsplit_once('.').map(|(module, part)| (module, part, wrappers.get(module))) {
                Some((module, part, Some(parameters))) => {
                    format!("{}.{part}", inside(module, parameters.len().max(1)))
                }
                _ => spec.name.clone(),
            };
            tensors.push(TensorSpec { name: format!("{PREFIX}{name}"), ..spec.clone() });
        }
        Layout::new(tensors, u64::MAX, "adapter_model")
    }
}

/// Fills the weights of a [`NewAdapter`] in a staging directory, in any order, from any thread.
#[derive(Debug)]
pub struct AdapterWriter {
    writer: CheckpointWriter,
    modules: usize,
}

impl AdapterWriter {
    /// Writes the configuration of `adapter` to `staging`, and reserves the space of its weights.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::DuplicateTensor`] when a module or a whole tensor comes twice.
    pub fn create(
        staging: &Staging,
        adapter: &NewAdapter,
        config: &AdapterConfig,
    ) -> Result<AdapterWriter, WriteError> {
        staging.write_file(CONFIG_FILE, &config.to_bytes())?;
        let writer = CheckpointWriter::create(staging, adapter.layout()?, &BTreeMap::new())?;
        Ok(AdapterWriter { writer, modules: adapter.modules.len() })
    }

    /// Writes `bytes` into A of the module with this index, `offset` bytes from its start.
    ///
    /// # Errors
    /// Those of [`CheckpointWriter::write_at`], as for the two below.
    pub fn write_a(&self, module: usize, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.writer.write_at(2 * module, offset, bytes)
    }

    /// The same for B.
    ///
    /// # Errors
    /// As above.
    pub fn write_b(&self, module: usize, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.writer.write_at(2 * module + 1, offset, bytes)
    }

    /// The same for the whole tensor with this index.
    ///
    /// # Errors
    /// As above.
    pub fn write_full(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.writer.write_at(2 * self.modules + tensor, offset, bytes)
    }

    /// Makes the weights durable and gives them their name; the directory appears when the staging is committed.
    ///
    /// # Errors
    /// Those of [`CheckpointWriter::finish`].
    pub fn finish(self) -> Result<(), WriteError> {
        self.writer.finish()
    }
}
