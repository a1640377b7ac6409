//! Where the gates of a mixture stand: in each of the forms a mixture is written in.

use crate::error::MixError;
use crate::manifest;
use crate::spec::{Level, Mixture, MixtureSpec, Pool, RouterKind, Routing, WholeSpec};
use glue_tensor::hub::locate;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Config, files};
use serde_json::{Value, json};
use std::path::Path;

/// The format a mixture is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MixtureFormat {
    /// `MixtralForCausalLM`, with its classic tensor names.
    Mixtral,
    /// `Qwen2MoeForCausalLM`.
    Qwen2Moe,
    /// Model-GLUE's own format: `docs/mixture-format.md`.
    Native,
}

impl MixtureFormat {
    /// The name that `format` in a description gives it.
    pub fn name(self) -> &'static str {
        match self {
            MixtureFormat::Mixtral => "mixtral",
            MixtureFormat::Qwen2Moe => "qwen2_moe",
            MixtureFormat::Native => "native",
        }
    }

    /// Which programs open a mixture of this format, in sentences for a person.
    pub fn opened_by(self) -> &'static str {
        match self {
            MixtureFormat::Mixtral => {
                "`glue`, transformers, vLLM and other programs that run Mixtral models open this directory; llama.cpp \
                 opens the GGUF file that `glue export` makes of it."
            }
            MixtureFormat::Qwen2Moe => {
                "`glue`, transformers, vLLM and other programs that run Qwen2-MoE models open this directory. llama.cpp \
                 does not: the weights of the chosen experts add up to 1 here, and for this family it leaves them as \
                 they are."
            }
            MixtureFormat::Native => {
                "`glue` runs this directory as any model, and transformers (4.48 and newer) does with the Python files in \
                 it. Servers such as vLLM and llama.cpp do not open it: they know mixtures of MLPs that are routed by \
                 token (`level: ffn`, `routing: token`)."
            }
        }
    }
}

/// The gates of a mixture on disk: how many, of which kind, and the names of their tensors.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sites {
    /// The format of the mixture.
    pub format: MixtureFormat,
    /// What is mixed.
    pub level: Level,
    /// Whether the experts are whole models.
    pub whole: bool,
    /// A name for each expert: their numbers, where the directory does not say.
    pub experts: Vec<String>,
    /// Experts used for a token or a sample.
    pub experts_per_token: usize,
    /// Width of the states that the gates read.
    pub hidden_size: usize,
    /// The kind of the gates.
    pub router: RouterKind,
    /// The mixed layers, ascending; empty for whole models. At level `model` one gate stands for all of them.
    pub layers: Vec<usize>,
    /// What the names of each gate's tensors begin with, dot included; as many as there are gates.
    pub prefixes: Vec<String>,
    /// Qwen2-MoE's format: for each mixed layer the tensor of the gate of the shared expert. Else empty.
    pub shared: Vec<String>,
}

impl Sites {
    /// Where the gates of the mixture in the directory `dir` stand, by its configuration and manifest.
    ///
    /// # Errors
    /// [`MixError::NotAMixture`], [`MixError::Config`], [`MixError::Spec`], [`MixError::Checkpoint`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Sites, MixError> {
        let dir = &*locate(dir.as_ref());
        let config = Config::open(dir.join(CONFIG_FILE))?;
        if let Some(mixture) = Mixture::from_config(&config)? {
            return match mixture {
                Mixture::Shared(spec, base) => {
                    Ok(Sites::shared_trunk(MixtureFormat::Native, &spec, base.hidden_size().unwrap_or(0)))
                }
                Mixture::Whole(spec) => {
                    let router = Config::open(dir.join(&spec.router_model).join(CONFIG_FILE))?;
                    let hidden_size = router.hidden_size().ok_or_else(|| missing("hidden_size"))?;
                    Ok(Sites::whole(&spec, hidden_size))
                }
            };
        }
        let (format, count_key) = match config.model_type() {
            Some("mixtral") => (MixtureFormat::Mixtral, "num_local_experts"),
            Some("qwen2_moe") => (MixtureFormat::Qwen2Moe, "num_experts"),
            other => {
                return Err(MixError::NotAMixture { path: dir.to_path_buf(), model_type: json!(other).to_string() });
            }
        };
        let count = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize).ok_or_else(|| missing(key));
        let count_experts = count(count_key).or_else(|error| count("num_experts").map_err(|_| error))?;
        let layers = config.num_layers().ok_or_else(|| missing("num_hidden_layers"))?;
        // Every layer of Mixtral's format has a gate, those that were not mixed too: to whoever runs or trains it, a
        // copy of the base's MLP for each expert is a mixed layer like the others.
        let manifest = files::read(dir.join(manifest::FILE), files::CONFIG_BYTES).ok();
        let manifest: Value = manifest.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Value::Null);
        let names: Option<Vec<String>> = serde_json::from_value(manifest["mixture"]["experts"].clone()).ok();
        let only: Vec<u64> = config
            .get("mlp_only_layers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect();
        let step = config.get("decoder_sparse_step").and_then(Value::as_u64).unwrap_or(1).max(1) as usize;
        let mixed = match format {
            MixtureFormat::Qwen2Moe => {
                (0..layers).filter(|&l| !only.contains(&(l as u64)) && (l + 1) % step == 0).collect()
            }
            _ => (0..layers).collect(),
        };
        let spec = MixtureSpec {
            level: Level::Ffn,
            experts: names
                .filter(|names| names.len() == count_experts)
                .unwrap_or_else(|| (0..count_experts).map(|e| e.to_string()).collect()),
            experts_per_token: count("num_experts_per_tok")?,
            dense_layers: 0,
            mixed_layers: mixed,
            routing: Routing::Token,
            pool: Pool::default(),
            router: RouterKind::Linear,
        };
        let hidden_size = config.hidden_size().ok_or_else(|| missing("hidden_size"))?;
        Ok(Sites::shared_trunk(format, &spec, hidden_size))
    }

    /// Where the gates of a mixture with shared embeddings stand when it is written in `format`.
    pub(crate) fn shared_trunk(format: MixtureFormat, spec: &MixtureSpec, hidden_size: usize) -> Sites {
        let name = |l: &usize| match (format, spec.level) {
            (MixtureFormat::Mixtral, _) => format!("model.layers.{l}.block_sparse_moe.gate."),
            (_, Level::Ffn) => format!("model.layers.{l}.mlp.gate."),
            _ => format!("model.layers.{l}.gate."),
        };
        let prefixes = match spec.level {
            Level::Model if spec.mixed_layers.is_empty() => Vec::new(),
            Level::Model => vec!["model.gate.".to_string()],
            _ => spec.mixed_layers.iter().map(name).collect(),
        };
        let shared = |l: &usize| format!("model.layers.{l}.mlp.shared_expert_gate.weight");
        Sites {
            format,
            level: spec.level,
            whole: false,
            experts: spec.experts.clone(),
            experts_per_token: spec.experts_per_token,
            hidden_size,
            router: spec.router,
            layers: spec.mixed_layers.clone(),
            prefixes,
            shared: if format == MixtureFormat::Qwen2Moe {
                spec.mixed_layers.iter().map(shared).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Where the gate of a mixture of whole models stands.
    pub(crate) fn whole(spec: &WholeSpec, hidden_size: usize) -> Sites {
        Sites {
            format: MixtureFormat::Native,
            level: Level::Model,
            whole: true,
            experts: spec.experts.clone(),
            experts_per_token: 1,
            hidden_size,
            router: spec.router,
            layers: Vec::new(),
            prefixes: vec!["gate.".to_string()],
            shared: Vec::new(),
        }
    }

    /// Whether the tensor called `name` belongs to a gate.
    pub fn is_gate(&self, name: &str) -> bool {
        let part = |prefix: &String| name.strip_prefix(prefix.as_str()).is_some_and(|part| GATE_PARTS.contains(&part));
        self.prefixes.iter().any(part) || self.shared.iter().any(|shared| shared == name)
    }
}

/// What follows a gate's prefix in the names of its tensors.
const GATE_PARTS: [&str; 6] = ["weight", "bias", "up.weight", "up.bias", "down.weight", "down.bias"];

fn missing(key: &str) -> MixError {
    MixError::Spec { key: key.to_string(), message: "it is missing".to_string() }
}
