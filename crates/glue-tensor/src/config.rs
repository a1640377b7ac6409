//! `config.json` of a Hugging Face model, in the old form and the new, with one set of accessors over both.
//!
//! | meaning | old | new |
//! |---|---|---|
//! | type of the weights | `torch_dtype` | `dtype` |
//! | rotary embedding | `rope_theta`, `rope_scaling`, `rope_local_base_freq` | `rope_parameters`, flat or per layer type |
//!
//! Values of a multimodal model's language part stand under `text_config`; accessors look there first. Keys keep their
//! order, and keys unknown here are carried along untouched.

use crate::dtype::Dtype;
use crate::files::{self, FileVersion};
use crate::header::shortened;
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The file is not JSON.
    #[error("{}: not valid JSON: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        message: String,
    },
    /// The file is JSON, but not an object.
    #[error("the configuration is not a JSON object")]
    NotAnObject,
    /// A key holds something else than it should.
    #[error("`{key}` in the configuration should be {expected}, but is {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds, as JSON.
        found: String,
    },
    /// A count is beyond what any model has.
    #[error("`{key}` in the configuration is {found}, but at most {max} is accepted; correct the configuration")]
    TooLarge {
        /// The key.
        key: String,
        /// What it holds.
        found: u64,
        /// The bound.
        max: u64,
    },
    /// The number of layers is needed and not given.
    #[error("the configuration does not say how many layers there are (looked for {LAYER_COUNT:?})")]
    NoLayerCount,
    /// A layer beyond the last was asked for.
    #[error("layer {layer} was asked for, but there are {count}, counted from 0")]
    NoSuchLayer {
        /// The layer.
        layer: usize,
        /// Layers by the configuration.
        count: usize,
    },
}

const LAYER_COUNT: &[&str] = &["num_hidden_layers", "n_layer", "num_layers", "n_layers"];
const HIDDEN_SIZE: &[&str] = &["hidden_size", "n_embd", "d_model"];
const INTERMEDIATE_SIZE: &[&str] = &["intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"];
const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads", "num_heads"];
const KV_HEADS: &[&str] = &["num_key_value_heads", "num_kv_heads"];
const HEAD_DIM: &[&str] = &["head_dim"];
const VOCAB_SIZE: &[&str] = &["vocab_size"];
const MAX_POSITIONS: &[&str] =
    &["max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx", "seq_length"];
const DTYPE: &[&str] = &["dtype", "torch_dtype"];
const ROPE_THETA: &[&str] = &["rope_theta", "rotary_emb_base"];
const PARTIAL_ROTARY: &[&str] = &["partial_rotary_factor", "rotary_pct"];

/// Lists with one entry per layer.
const PER_LAYER: &[&str] =
    &["layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type", "block_types", "attention_layers"];
/// Lists of layer numbers.
const LAYER_NUMBERS: &[&str] = &["mlp_only_layers", "moe_layers"];
/// How many of the first layers something holds for.
const FIRST_LAYERS: &[&str] = &["max_window_layers", "first_k_dense_replace"];
/// How many layers stand after the last.
const EXTRA_LAYERS: &[&str] = &["num_nextn_predict_layers"];

/// Counts of experts.
const EXPERTS: &[&str] = &[
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
];
/// Other widths and lengths.
const EXPERT_SIZE: &[&str] = &["moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size_mlp"];
const LATENT_SIZE: &[&str] = &["kv_lora_rank", "q_lora_rank"];
const LATENT_HEAD_DIM: &[&str] = &["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"];
const OTHER_POSITIONS: &[&str] =
    &["original_max_position_embeddings", "sliding_window", "attention_chunk_size", "floor_scale"];

/// Maximum number of layers of a model; layer numbers in names of tensors are below it.
pub const MAX_LAYERS: usize = 10_000;

/// Maximum number of experts of a layer or of a mixture.
pub const MAX_EXPERTS: usize = 10_000;

/// Largest width of the residual stream, or of another hidden layer outside of MLPs.
pub const MAX_HIDDEN_SIZE: usize = 10_000_000;

/// Far more than any model has, and so little that work and memory in proportion to one of them are no harm: the sizes
/// of tensors follow from products, and those are compared with the checkpoint.
const BOUNDS: &[(&[&str], u64)] = &[
    (LAYER_COUNT, MAX_LAYERS as u64),
    (FIRST_LAYERS, MAX_LAYERS as u64),
    (EXPERTS, MAX_EXPERTS as u64),
    (HEADS, 100_000),
    (KV_HEADS, 100_000),
    (HEAD_DIM, 100_000),
    (HIDDEN_SIZE, MAX_HIDDEN_SIZE as u64),
    (INTERMEDIATE_SIZE, 100_000_000),
    (EXPERT_SIZE, 100_000_000),
    (LATENT_SIZE, MAX_HIDDEN_SIZE as u64),
    (LATENT_HEAD_DIM, 100_000),
    (EXTRA_LAYERS, MAX_LAYERS as u64),
    (VOCAB_SIZE, 100_000_000),
    (MAX_POSITIONS, 1_000_000_000_000),
    (OTHER_POSITIONS, 1_000_000_000_000),
];

/// What transformers assumes of `tie_word_embeddings` when the key is absent, by model type.
const TIED_BY_DEFAULT: &[&str] =
    &["bloom", "cohere", "cohere2", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "opt", "smollm3", "t5"];
const UNTIED_BY_DEFAULT: &[&str] = &[
    "deepseek_v2",
    "deepseek_v3",
    "glm4",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "llama",
    "llama4",
    "llama4_text",
    "mistral",
    "mixtral",
    "olmo",
    "olmo2",
    "olmo3",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "stablelm",
];

/// The rotary embedding of some or all layers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// The layer type it is for (`full_attention`, `sliding_attention`, …); `None` when it is for all layers.
    pub layer_type: Option<String>,
    /// Base of the frequencies; 10000 when the configuration gives only other parameters.
    pub theta: f64,
    /// How frequencies are scaled: `default` (not at all), `linear`, `dynamic`, `yarn`, `longrope`, `llama3`, …
    pub kind: String,
    /// Share of each head's dimensions that is rotated, 0 to 1; 1 unless given.
    pub partial: f64,
    /// The parameters of `kind`, such as `factor`, by their names in the configuration.
    pub parameters: Map<String, Value>,
}

/// A model's configuration, checked where this crate reads it and kept whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    root: Map<String, Value>,
}

impl Config {
    /// Reads the configuration in the file `path`.
    ///
    /// # Errors
    /// [`ConfigError::Io`], [`ConfigError::Json`], and those of [`Config::from_value`].
    pub fn open(path: impl AsRef<Path>) -> Result<Config, ConfigError> {
        Ok(Config::open_version(path)?.0)
    }

    /// [`Config::open`], and the version of the file that was read.
    pub(crate) fn open_version(path: impl AsRef<Path>) -> Result<(Config, FileVersion), ConfigError> {
        let path = path.as_ref();
        let (bytes, version) = files::read_version(path, files::CONFIG_BYTES)
            .map_err(|error| ConfigError::Io { path: path.to_path_buf(), error })?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| ConfigError::Json { path: path.to_path_buf(), message: e.to_string() })?;
        Ok((Config::from_value(value)?, version))
    }

    /// Takes `value` as a configuration.
    ///
    /// # Errors
    /// [`ConfigError::NotAnObject`]; [`ConfigError::WrongType`] when a key that has an accessor here holds neither null
    /// nor what the accessor returns, so that no accessor takes a malformed value for an absent one;
    /// [`ConfigError::TooLarge`] for a count beyond what any model has.
    pub fn from_value(value: Value) -> Result<Config, ConfigError> {
        let Value::Object(root) = value else {
            return Err(ConfigError::NotAnObject);
        };
        let config = Config { root };
        config.check()?;
        Ok(config)
    }

    /// The whole configuration as JSON.
    pub fn to_value(&self) -> Value {
        Value::Object(self.root.clone())
    }

    /// The file: JSON indented by two spaces, with a line break at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        format!("{:#}\n", self.to_value()).into_bytes()
    }

    /// The value of `key` in the language part, or else at the top; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let sections = [self.text_section().and_then(|text| text.get(key)), self.root.get(key)];
        sections.into_iter().flatten().find(|value| !value.is_null())
    }

    /// Sets `key` in the section [`Config::get`] reads it from, or in the language part when it is new.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`] as in [`Config::from_value`]; the configuration is unchanged then.
    pub fn set(&mut self, key: &str, value: Value) -> Result<(), ConfigError> {
        let mut changed = self.clone();
        let in_text = self.text_section().is_some_and(|text| text.contains_key(key) || !self.root.contains_key(key));
        match changed.root.get_mut("text_config") {
            Some(Value::Object(text)) if in_text => text.insert(key.to_string(), value),
            _ => changed.root.insert(key.to_string(), value),
        };
        changed.check()?;
        *self = changed;
        Ok(())
    }

    /// `model_type`, such as `llama`.
    pub fn model_type(&self) -> Option<&str> {
        self.root.get("model_type").and_then(Value::as_str)
    }

    /// `architectures`, such as `LlamaForCausalLM`; empty when absent.
    pub fn architectures(&self) -> Vec<&str> {
        let names = self.root.get("architectures").and_then(Value::as_array);
        names.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Number of layers.
    pub fn num_layers(&self) -> Option<usize> {
        self.count(LAYER_COUNT)
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> Option<usize> {
        self.count(HIDDEN_SIZE)
    }

    /// Width inside the MLP.
    pub fn intermediate_size(&self) -> Option<usize> {
        self.count(INTERMEDIATE_SIZE)
    }

    /// Attention heads.
    pub fn num_heads(&self) -> Option<usize> {
        self.count(HEADS)
    }

    /// Key and value heads; as many as attention heads when absent.
    pub fn num_kv_heads(&self) -> Option<usize> {
        self.count(KV_HEADS).or_else(|| self.num_heads())
    }

    /// Dimensions per head; hidden size over heads when absent.
    pub fn head_dim(&self) -> Option<usize> {
        self.count(HEAD_DIM).or_else(|| self.hidden_size()?.checked_div(self.num_heads()?))
    }

    /// Rows of the embedding.
    pub fn vocab_size(&self) -> Option<usize> {
        self.count(VOCAB_SIZE)
    }

    /// Longest sequence, in tokens.
    pub fn max_position_embeddings(&self) -> Option<usize> {
        self.count(MAX_POSITIONS)
    }

    /// The type of the weights; `None` also for `auto`.
    pub fn dtype(&self) -> Option<Dtype> {
        Dtype::from_torch_name(self.find(DTYPE)?.as_str()?)
    }

    /// Whether the head is the embedding. When the key is absent, what transformers assumes for the model type; `None`
    /// for other types, where a head tensor in the checkpoint decides.
    pub fn tie_word_embeddings(&self) -> Option<bool> {
        if let Some(tied) = self.get("tie_word_embeddings") {
            return tied.as_bool();
        }
        let model_type = self.get("model_type")?.as_str()?;
        let default = |list: &[&str], tied| list.contains(&model_type).then_some(tied);
        default(TIED_BY_DEFAULT, true).or_else(|| default(UNTIED_BY_DEFAULT, false))
    }

    /// The rotary embeddings: none when the configuration does not mention any, one for all layers, or one per layer
    /// type.
    pub fn ropes(&self) -> Vec<Rope> {
        let object = |key| self.get(key).and_then(Value::as_object);
        let partial = self.find(PARTIAL_ROTARY).and_then(Value::as_f64);
        let theta = self.find(ROPE_THETA).and_then(Value::as_f64);
        if let Some(parameters) = object("rope_parameters") {
            let nested: Vec<_> =
                parameters.iter().filter_map(|(name, value)| Some((name, value.as_object()?))).collect();
            return match nested.as_slice() {
                [] => vec![rope(None, Some(parameters), theta, partial)],
                _ => nested
                    .into_iter()
                    .map(|(name, parameters)| rope(Some(name.clone()), Some(parameters), theta, partial))
                    .collect(),
            };
        }
        let scaling = object("rope_scaling");
        let local = self.get("rope_local_base_freq").and_then(Value::as_f64);
        match (theta, scaling, local) {
            (None, None, None) => Vec::new(),
            (_, _, None) => vec![rope(None, scaling, theta, partial)],
            (_, _, Some(_)) => vec![
                rope(Some("full_attention".to_string()), scaling, theta, partial),
                rope(Some("sliding_attention".to_string()), None, local, partial),
            ],
        }
    }

    /// The rotary embedding of all layers, or of those with full attention where layer types differ.
    pub fn rope(&self) -> Option<Rope> {
        let ropes = self.ropes();
        let full = |rope: &&Rope| rope.layer_type.as_deref().is_none_or(|name| name == "full_attention");
        ropes.iter().find(full).or(ropes.first()).cloned()
    }

    /// The configuration of a model made of the layers `kept`, by their numbers in this one, in their new order; a
    /// number may come more than once.
    ///
    /// Sets the layer count under every name it has here, rebuilds lists with one entry per layer (`layer_types` and
    /// the like) and lists of layer numbers, and recounts keys that speak of the first so many layers. Patterns that
    /// transformers derives from a layer's position follow the new position.
    ///
    /// # Errors
    /// [`ConfigError::NoLayerCount`], [`ConfigError::NoSuchLayer`].
    pub fn with_layers(&self, kept: &[usize]) -> Result<Config, ConfigError> {
        let count = self.num_layers().ok_or(ConfigError::NoLayerCount)?;
        if let Some(&layer) = kept.iter().find(|&&layer| layer >= count) {
            return Err(ConfigError::NoSuchLayer { layer, count });
        }
        let mut changed = self.clone();
        changed.change_sections(|section| {
            for (key, value) in section.iter_mut() {
                let key = key.as_str();
                if LAYER_COUNT.contains(&key) && value.is_u64() {
                    *value = kept.len().into();
                } else if FIRST_LAYERS.contains(&key) {
                    if let Some(first) = value.as_u64() {
                        *value = kept.iter().filter(|&&layer| (layer as u64) < first).count().into();
                    }
                } else if let Value::Array(list) = value {
                    if PER_LAYER.contains(&key) && list.len() == count {
                        *list = kept.iter().map(|&layer| list[layer].clone()).collect();
                    } else if LAYER_NUMBERS.contains(&key) {
                        let listed = |layer: usize| list.iter().any(|number| number.as_u64() == Some(layer as u64));
                        *list = (0..kept.len()).filter(|&new| listed(kept[new])).map(Value::from).collect();
                    }
                }
            }
        });
        Ok(changed)
    }

    /// The configuration with weights of type `dtype`: under each of the two names that is present, at the top and in
    /// the language part, and as `torch_dtype`, which every version of transformers reads, when neither is.
    #[must_use]
    pub fn with_dtype(&self, dtype: Dtype) -> Config {
        let mut changed = self.clone();
        let mut present = false;
        changed.change_sections(|section| {
            for key in DTYPE {
                if let Some(value) = section.get_mut(*key) {
                    *value = dtype.torch_name().into();
                    present = true;
                }
            }
        });
        if !present {
            changed.root.insert("torch_dtype".to_string(), dtype.torch_name().into());
        }
        changed
    }

    fn text_section(&self) -> Option<&Map<String, Value>> {
        self.root.get("text_config").and_then(Value::as_object)
    }

    /// Applies `change` to the top and to the language part, if there is one.
    fn change_sections(&mut self, mut change: impl FnMut(&mut Map<String, Value>)) {
        change(&mut self.root);
        if let Some(Value::Object(text)) = self.root.get_mut("text_config") {
            change(text);
        }
    }

    fn find(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter().find_map(|key| self.get(key))
    }

    /// What `key` holds at the top and in the language part.
    fn both<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let sections = [Some(&self.root), self.text_section()].into_iter().flatten();
        sections.filter_map(|section| section.get(key)).collect::<Vec<_>>().into_iter()
    }

    fn count(&self, keys: &[&str]) -> Option<usize> {
        self.find(keys)?.as_u64()?.try_into().ok()
    }

    fn check(&self) -> Result<(), ConfigError> {
        type Test = fn(&Value) -> bool;
        let counts = [
            LAYER_COUNT,
            HIDDEN_SIZE,
            INTERMEDIATE_SIZE,
            HEADS,
            KV_HEADS,
            HEAD_DIM,
            VOCAB_SIZE,
            MAX_POSITIONS,
            FIRST_LAYERS,
        ];
        let strings = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
        let per_layer = |value: &Value| value.as_array().is_some_and(|list| list.len() <= MAX_LAYERS);
        let rules: [(&[&[&str]], &'static str, Test); 7] = [
            (&counts, "a whole number", Value::is_u64),
            (&[ROPE_THETA, PARTIAL_ROTARY, &["rope_local_base_freq"]], "a number", Value::is_number),
            (&[DTYPE, &["model_type"]], "a string", Value::is_string),
            (&[&["tie_word_embeddings"]], "true or false", Value::is_boolean),
            (&[&["architectures"]], "a list of strings", strings),
            (&[&["rope_parameters", "rope_scaling", "text_config"]], "an object", Value::is_object),
            (&[PER_LAYER, LAYER_NUMBERS], "a list with at most an entry for each layer, and at most 10000", per_layer),
        ];
        for (groups, expected, test) in rules {
            for key in groups.iter().copied().flatten() {
                if let Some(value) = self.both(key).find(|value| !value.is_null() && !test(value)) {
                    let found = shortened(&value.to_string());
                    return Err(ConfigError::WrongType { key: key.to_string(), expected, found });
                }
            }
        }
        for &(keys, max) in BOUNDS {
            for key in keys {
                if let Some(found) = self.both(key).filter_map(Value::as_u64).find(|&found| found > max) {
                    return Err(ConfigError::TooLarge { key: key.to_string(), found, max });
                }
            }
        }
        Ok(())
    }
}

fn rope(
    layer_type: Option<String>,
    parameters: Option<&Map<String, Value>>,
    theta: Option<f64>,
    partial: Option<f64>,
) -> Rope {
    let mut parameters = parameters.cloned().unwrap_or_default();
    let kind = ["rope_type", "type"].into_iter().filter_map(|key| parameters.shift_remove(key)).find(Value::is_string);
    // The name Phi-3 was published with, before transformers generalised it.
    let kind = match kind.as_ref().and_then(Value::as_str) {
        Some("su") => "longrope",
        Some(kind) => kind,
        None => "default",
    };
    let theta = parameters.shift_remove("rope_theta").and_then(|value| value.as_f64()).or(theta);
    let partial = parameters.shift_remove("partial_rotary_factor").and_then(|value| value.as_f64()).or(partial);
    parameters.retain(|_, value| !value.is_null());
    Rope {
        layer_type,
        theta: theta.unwrap_or(10_000.0),
        kind: kind.to_string(),
        partial: partial.unwrap_or(1.0),
        parameters,
    }
}
