//! What a mixture is, as its `config.json` says: see `docs/mixture-format.md`.

use crate::error::MixError;
use glue_progress::ErrorChain;
use glue_tensor::Config;
use glue_tensor::config::{MAX_EXPERTS, MAX_HIDDEN_SIZE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// `model_type` of a mixture in the project's own form.
pub const MODEL_TYPE: &str = "glue_mixture";

/// `format_version` of that form.
pub const FORMAT_VERSION: u64 = 1;

/// What is mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// MLPs; a gate for each mixed layer.
    Ffn,
    /// Whole decoder layers; a gate for each mixed layer.
    Block,
    /// Everything from a layer on, or whole models; one gate.
    Model,
}

/// What is routed as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// Each token by its own state.
    Token,
    /// All tokens of a prompt and of its answer together, by the prompt's pooled state.
    Sample,
}

/// How the states of a prompt become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// Their mean. The default.
    #[default]
    Mean,
    /// That of the first token. In a decoder it knows nothing of the tokens after it.
    First,
    /// That of the last token.
    Last,
}

/// The form of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RouterKind {
    /// One matrix. The default.
    #[default]
    Linear,
    /// One hidden layer with SiLU.
    Mlp {
        /// Its width, at least 1.
        hidden_size: usize,
    },
}

/// A mixture whose experts share embeddings and head: what the runtime needs to know beside the base's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MixtureSpec {
    /// What is mixed.
    pub level: Level,
    /// A name for each expert.
    pub experts: Vec<String>,
    /// Experts used for a token or a sample, 1 to the number of experts.
    pub experts_per_token: usize,
    /// Layers below this one are never mixed.
    pub dense_layers: usize,
    /// The layers that hold experts, ascending, none below `dense_layers`. May be empty: then the mixture is the base.
    pub mixed_layers: Vec<usize>,
    /// What is routed as one.
    pub routing: Routing,
    /// How prompts are pooled when they are routed as one.
    #[serde(default)]
    pub pool: Pool,
    /// The form of the gates.
    #[serde(default)]
    pub router: RouterKind,
}

/// A mixture of whole models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeSpec {
    /// A name for each expert.
    pub experts: Vec<String>,
    /// How prompts are pooled.
    #[serde(default)]
    pub pool: Pool,
    /// The form of the gate.
    #[serde(default)]
    pub router: RouterKind,
    /// The directory of the model that reads the prompt, inside the mixture's.
    pub router_model: String,
    /// Which residual stream of it is pooled: 0 for the embedding, l for what leaves the l-th layer counted from 1, and
    /// their number plus 1 for the state after the final norm.
    pub router_layer: usize,
}

/// A mixture in the project's own form, as its `config.json` describes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixture {
    /// Experts that share embeddings and head, and the configuration of the base.
    Shared(MixtureSpec, Config),
    /// Experts that are whole models, in directories of their own.
    Whole(WholeSpec),
}

impl Mixture {
    /// What `config` describes; `None` when its `model_type` is not [`MODEL_TYPE`].
    ///
    /// # Errors
    /// [`MixError::Spec`] for a key that is missing, malformed or out of range, by its name.
    pub fn from_config(config: &Config) -> Result<Option<Mixture>, MixError> {
        if config.model_type() != Some(MODEL_TYPE) {
            return Ok(None);
        }
        let version: u64 = required(config, "format_version")?;
        if version != FORMAT_VERSION {
            return Err(bad("format_version", format!("{version}, but this program reads {FORMAT_VERSION}")));
        }
        let experts: Vec<String> = required(config, "experts")?;
        if experts.is_empty() {
            return Err(bad("experts", "there must be at least one"));
        }
        if experts.len() > MAX_EXPERTS {
            return Err(bad("experts", format!("there are {}, but at most {MAX_EXPERTS} are accepted", experts.len())));
        }
        if let Some(i) = (1..experts.len()).find(|&i| experts[..i].contains(&experts[i])) {
            return Err(bad("experts", format!("`{}` comes twice", experts[i])));
        }
        let pool = optional(config, "pool")?.unwrap_or_default();
        let router = optional(config, "router")?.unwrap_or_default();
        if router == (RouterKind::Mlp { hidden_size: 0 }) {
            return Err(bad("router", "`hidden_size` must be at least 1"));
        }
        if let RouterKind::Mlp { hidden_size } = router
            && hidden_size > MAX_HIDDEN_SIZE
        {
            let message = format!("`hidden_size` is {hidden_size}, but at most {MAX_HIDDEN_SIZE} is accepted");
            return Err(bad("router", message));
        }
        let level = required(config, "level")?;
        if optional(config, "whole")?.unwrap_or(false) {
            return whole(config, level, experts, pool, router).map(Some);
        }
        let experts_per_token: usize = required(config, "experts_per_token")?;
        if !(1..=experts.len()).contains(&experts_per_token) {
            let message =
                format!("{experts_per_token}, but there are {} experts, of which 1 to all are used", experts.len());
            return Err(bad("experts_per_token", message));
        }
        let base = Config::from_value(required(config, "base")?).map_err(|error| bad("base", error.chain()))?;
        let layers = base.num_layers().ok_or_else(|| bad("base", "it does not say how many layers there are"))?;
        if base.hidden_size().is_none() {
            return Err(bad("base", "it does not say `hidden_size`"));
        }
        let dense_layers: usize = required(config, "dense_layers")?;
        if dense_layers > layers {
            return Err(bad("dense_layers", format!("{dense_layers}, but the base has {layers} layers")));
        }
        let mixed_layers: Vec<usize> = required(config, "mixed_layers")?;
        if let Some(pair) = mixed_layers.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(bad("mixed_layers", format!("{} is followed by {}; they must ascend", pair[0], pair[1])));
        }
        if let Some(layer) = mixed_layers.iter().find(|&&layer| layer < dense_layers || layer >= layers) {
            let message = format!("{layer} is not one of the layers {dense_layers} to {layers}, the last excluded");
            return Err(bad("mixed_layers", message));
        }
        if level == Level::Model && !mixed_layers.iter().copied().eq(dense_layers..layers) {
            let message =
                format!("at level model they are all layers from {dense_layers} to {layers}, the last excluded");
            return Err(bad("mixed_layers", message));
        }
        let routing = required(config, "routing")?;
        let spec = MixtureSpec { level, experts, experts_per_token, dense_layers, mixed_layers, routing, pool, router };
        Ok(Some(Mixture::Shared(spec, base)))
    }
}

fn whole(
    config: &Config,
    level: Level,
    experts: Vec<String>,
    pool: Pool,
    router: RouterKind,
) -> Result<Mixture, MixError> {
    if level != Level::Model {
        return Err(bad("level", "with `whole` it must be model"));
    }
    if optional(config, "routing")?.unwrap_or(Routing::Sample) != Routing::Sample {
        return Err(bad("routing", "with `whole` it must be sample"));
    }
    let router_model: String = required(config, "router_model")?;
    let expert_dirs = (0..experts.len()).map(|e| format!("experts/{e}"));
    if router_model != "router" && !expert_dirs.into_iter().any(|dir| dir == router_model) {
        let message =
            format!("`{router_model}` is neither `router` nor one of `experts/0` to `experts/{}`", experts.len() - 1);
        return Err(bad("router_model", message));
    }
    let router_layer = required(config, "router_layer")?;
    Ok(Mixture::Whole(WholeSpec { experts, pool, router, router_model, router_layer }))
}

fn bad(key: &str, message: impl Into<String>) -> MixError {
    MixError::Spec { key: key.into(), message: message.into() }
}

fn optional<T: DeserializeOwned>(config: &Config, key: &str) -> Result<Option<T>, MixError> {
    let value = config.get(key).cloned();
    value.map(|value| serde_json::from_value(value).map_err(|error| bad(key, error.to_string()))).transpose()
}

fn required<T: DeserializeOwned>(config: &Config, key: &str) -> Result<T, MixError> {
    optional(config, key)?.ok_or_else(|| bad(key, "it is missing"))
}
