//! `adapter_config.json`: what of it decides what an adapter does, checked, and the whole kept.

use super::error::AdapterError;
use fancy_regex::Regex;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Which modules have factors, as PEFT writes it. What an adapter changes follows from its tensors alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Names, or ends of names, of modules.
    Names(Vec<String>),
    /// A regular expression for the whole name, or a word that PEFT knows.
    Pattern(String),
}

/// Which biases were trained, as PEFT writes it. What an adapter changes follows from its tensors alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those of modules with factors.
    LoraOnly,
}

/// The configuration of an adapter, checked where this crate reads it and kept whole.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AdapterConfig {
    /// `r`: the rank where no pattern says another; 1 or more. PEFT's default: 8.
    pub rank: usize,
    /// `lora_alpha`: α where no pattern says another; finite. PEFT's default: 8.
    pub alpha: f64,
    /// Whether the scale is α/√r instead of α/r.
    pub use_rslora: bool,
    /// Whether the rows of changed weights have norms of their own (DoRA).
    pub use_dora: bool,
    /// `target_modules`; `None` when it is not said.
    pub target_modules: Option<TargetModules>,
    /// `target_parameters`: names, or ends of names, of parameters that have factors and need not be the weight of a
    /// module, such as the experts of a layer in one tensor. In the order of the alphabet, each once.
    pub target_parameters: Vec<String>,
    /// Ranks of modules, by regular expressions for the end of their names; of several, the first holds.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas of modules, likewise.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Modules that are stored whole.
    pub modules_to_save: Vec<String>,
    /// `bias`.
    pub bias: Bias,
    /// Whether weights of modules with factors are stored as \[in, out\].
    pub fan_in_fan_out: bool,
    /// `base_model_name_or_path`: what the adapter was made for, for people; not checked.
    pub base_model: Option<String>,
    root: Map<String, Value>,
    patterns: Patterns,
}

/// The patterns, ready to match.
#[derive(Debug, Clone, Default)]
struct Patterns {
    rank: Vec<(Regex, usize)>,
    alpha: Vec<(Regex, f64)>,
}

/// Keys that ask for more than a sum of low-rank products and DoRA unless they are absent, null, false or empty.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("use_qalora", "QA-LoRA pools the inputs; only plain LoRA can be applied"),
    ("use_bdlora", "block-diagonal factors are stored in another form; only plain LoRA can be applied"),
    ("lora_bias", "biases of the factors are not applied"),
    ("layer_replication", "layers are copied before the adapter is applied; merge such a model with `slices` first"),
    ("trainable_token_indices", "single rows of embeddings are not applied"),
    ("alora_invocation_tokens", "the adapter is active for some tokens only, which no change of the weights can be"),
    ("arrow_config", "which adapter is active depends on the input, which no change of the weights can do"),
    ("velora_config", "only plain LoRA can be applied"),
    ("monteclora_config", "only plain LoRA can be applied"),
    ("kasa_config", "only plain LoRA can be applied"),
];

/// Ways to initialise factors that leave the weights of the model as they are.
const HARMLESS_INIT: &[&str] = &["gaussian", "eva", "orthogonal"];

impl AdapterConfig {
    /// The configuration `root`, which was not read from a file.
    pub(super) fn from_root(root: Map<String, Value>) -> Result<AdapterConfig, AdapterError> {
        Reader { path: Path::new(""), root: &root }.read()
    }

    /// The configuration in the file `path`, whose content is `bytes`.
    ///
    /// # Errors
    /// [`AdapterError::Json`], [`AdapterError::WrongType`], [`AdapterError::Unsupported`], [`AdapterError::Pattern`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<AdapterConfig, AdapterError> {
        let not_an_object = |message: String| AdapterError::Json { path: path.to_path_buf(), message };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(root)) => Reader { path, root: &root }.read(),
            Ok(_) => Err(not_an_object("it is JSON of another kind".to_string())),
            Err(error) => Err(not_an_object(error.to_string())),
        }
    }

    /// The whole configuration as JSON.
    pub fn to_value(&self) -> Value {
        Value::Object(self.root.clone())
    }

    /// The file: JSON indented by two spaces, with a line break at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        format!("{:#}\n", self.to_value()).into_bytes()
    }

    /// The parameters of the module called `module` that have factors, as the last parts of their names, in the order
    /// of the alphabet.
    pub(super) fn parameters_of(&self, module: &str) -> Vec<&str> {
        let of_module = |name: &String| {
            let (of, _) = name.rsplit_once('.').unwrap_or(("", name));
            of.is_empty() || module.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let found = self.target_parameters.iter().filter(|name| of_module(name));
        let mut last: Vec<&str> = found.map(|name| name.rsplit('.').next().unwrap_or(name)).collect();
        last.sort_unstable();
        last.dedup();
        last
    }

    /// Rank and α of the module, or the target parameter, called `module` in the model.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`] for a pattern that takes too long.
    pub fn rank_and_alpha(&self, module: &str) -> Result<(usize, f64), AdapterError> {
        let rank = first_match("rank_pattern", &self.patterns.rank, module)?.unwrap_or(self.rank);
        let alpha = first_match("alpha_pattern", &self.patterns.alpha, module)?.unwrap_or(self.alpha);
        Ok((rank, alpha))
    }
}

fn first_match<T: Copy>(key: &'static str, of: &[(Regex, T)], module: &str) -> Result<Option<T>, AdapterError> {
    for (pattern, value) in of {
        match pattern.is_match(module) {
            Ok(true) => return Ok(Some(*value)),
            Ok(false) => {}
            Err(error) => return Err(refused(PathBuf::new(), key, pattern.as_str(), &error)),
        }
    }
    Ok(None)
}

fn refused(path: PathBuf, key: &'static str, pattern: &str, error: &fancy_regex::Error) -> AdapterError {
    AdapterError::Pattern { path, key, pattern: pattern.to_string(), message: error.to_string() }
}

struct Reader<'a> {
    path: &'a Path,
    root: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.root.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &'static str, found: Option<&Value>) -> AdapterError {
        let found = found.map_or("absent".to_string(), Value::to_string);
        AdapterError::WrongType { path: self.path.to_path_buf(), key: key.to_string(), expected, found }
    }

    fn unsupported(&self, key: &str, found: &Value, why: &'static str) -> AdapterError {
        let (path, key) = (self.path.to_path_buf(), key.to_string());
        AdapterError::Unsupported { path, key, found: found.to_string(), why }
    }

    fn read(&self) -> Result<AdapterConfig, AdapterError> {
        self.check_kind()?;
        let rank_pattern = self.pattern("rank_pattern", "an object from patterns to ranks of at least 1", rank_of)?;
        let alpha_pattern = self.pattern("alpha_pattern", "an object from patterns to finite numbers", alpha_of)?;
        let patterns = Patterns {
            rank: self.compiled("rank_pattern", &rank_pattern)?,
            alpha: self.compiled("alpha_pattern", &alpha_pattern)?,
        };
        Ok(AdapterConfig {
            rank: self.or("r", 8, RANK, rank_of)?,
            alpha: self.or("lora_alpha", 8.0, ALPHA, alpha_of)?,
            use_rslora: self.or("use_rslora", false, FLAG, Value::as_bool)?,
            use_dora: self.or("use_dora", false, FLAG, Value::as_bool)?,
            target_modules: self.target_modules()?,
            target_parameters: self.target_parameters()?,
            rank_pattern,
            alpha_pattern,
            modules_to_save: self.or("modules_to_save", Vec::new(), "a list of names", names_of)?,
            bias: self.or("bias", Bias::None, "`none`, `all` or `lora_only`", bias_of)?,
            fan_in_fan_out: self.or("fan_in_fan_out", false, FLAG, Value::as_bool)?,
            base_model: self
                .or("base_model_name_or_path", None, "a string", |value| Some(Some(value.as_str()?.into())))?,
            root: self.root.clone(),
            patterns,
        })
    }

    /// Refuses everything whose effect is not W + s·B·A, rows scaled or not.
    fn check_kind(&self) -> Result<(), AdapterError> {
        match self.get("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            Some(Value::String(_)) => {
                let found = &self.root["peft_type"];
                return Err(self.unsupported("peft_type", found, "only adapters of the kind LORA can be applied"));
            }
            found => return Err(self.wrong("peft_type", "`LORA`", found)),
        }
        for (key, why) in UNSUPPORTED {
            let asked = |value: &&Value| match value {
                Value::Bool(flag) => *flag,
                Value::Array(list) => !list.is_empty(),
                Value::Object(map) => !map.is_empty(),
                _ => true,
            };
            if let Some(found) = self.get(key).filter(asked) {
                return Err(self.unsupported(key, found, why));
            }
        }
        match self.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(Value::String(word)) if HARMLESS_INIT.contains(&word.as_str()) => Ok(()),
            Some(found) => Err(self.unsupported(
                "init_lora_weights",
                found,
                "the adapter may be relative to weights that were changed when it was initialised; save it with PEFT's \
                 `path_initial_model_for_weight_conversion`",
            )),
        }
    }

    fn or<T>(
        &self,
        key: &str,
        default: T,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, AdapterError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => read(value).ok_or_else(|| self.wrong(key, expected, Some(value))),
        }
    }

    fn target_modules(&self) -> Result<Option<TargetModules>, AdapterError> {
        self.or("target_modules", None, "a list of names or a pattern", |value| match value {
            Value::String(pattern) => Some(Some(TargetModules::Pattern(pattern.clone()))),
            value => Some(Some(TargetModules::Names(names_of(value)?))),
        })
    }

    fn target_parameters(&self) -> Result<Vec<String>, AdapterError> {
        let mut names = self.or("target_parameters", Vec::new(), "a list of names", names_of)?;
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn pattern<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<(String, T)>, AdapterError> {
        self.or(key, Vec::new(), expected, |value| {
            let entry = |(pattern, value): (&String, &Value)| Some((pattern.clone(), read(value)?));
            value.as_object()?.iter().map(entry).collect()
        })
    }

    /// PEFT matches a pattern against the end of a module's name, from the start or from a dot on.
    fn compiled<T: Copy>(&self, key: &'static str, of: &[(String, T)]) -> Result<Vec<(Regex, T)>, AdapterError> {
        let compile = |(pattern, value): &(String, T)| match Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")) {
            Ok(regex) => Ok((regex, *value)),
            Err(error) => Err(refused(self.path.to_path_buf(), key, pattern, &error)),
        };
        of.iter().map(compile).collect()
    }
}

const RANK: &str = "a whole number of at least 1";
const ALPHA: &str = "a finite number";
const FLAG: &str = "true or false";

fn rank_of(value: &Value) -> Option<usize> {
    value.as_u64().filter(|&rank| rank > 0)?.try_into().ok()
}

fn alpha_of(value: &Value) -> Option<f64> {
    value.as_f64().filter(|alpha| alpha.is_finite())
}

fn names_of(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|name| Some(name.as_str()?.to_string())).collect()
}

fn bias_of(value: &Value) -> Option<Bias> {
    match value.as_str()? {
        "none" => Some(Bias::None),
        "all" => Some(Bias::All),
        "lora_only" => Some(Bias::LoraOnly),
        _ => None,
    }
}

/// α as JSON: a whole number where it is one, as PEFT declares it.
pub(super) fn alpha_to_value(alpha: f64) -> Value {
    if alpha.fract() == 0.0 && alpha.abs() < 1e15 { json!(alpha as i64) } else { json!(alpha) }
}

#[cfg(test)]
mod tests {
    //! Reading, matching, refusing.
    use super::*;
    use glue_progress::ErrorChain;

    fn read(value: Value) -> Result<AdapterConfig, AdapterError> {
        AdapterConfig::from_bytes(value.to_string().as_bytes(), Path::new("adapter_config.json"))
    }

    #[test]
    fn defaults_are_those_of_peft() {
        let config = read(json!({ "peft_type": "LORA", "future_key": [1] })).unwrap();
        assert_eq!((config.rank, config.alpha, config.use_rslora, config.fan_in_fan_out), (8, 8.0, false, false));
        assert_eq!((config.bias, config.target_modules.clone(), config.base_model.clone()), (Bias::None, None, None));
        assert_eq!(config.to_value()["future_key"], json!([1]), "keys that are not read are kept");
    }

    #[test]
    fn patterns_match_ends_of_names_and_the_first_holds() {
        let config = read(json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 2.5,
            "rank_pattern": { "layers.0.q_proj": 1, "q_proj": 2, ".*\\.(k|v)_proj": 3, "^model\\.head$": 5 },
            "alpha_pattern": { "v_proj": 7 },
        }))
        .unwrap();
        let check = |module: &str, expected: (usize, f64)| {
            assert_eq!(config.rank_and_alpha(module).unwrap(), expected, "{module}");
        };
        check("model.layers.0.q_proj", (1, 2.5));
        check("model.layers.10.q_proj", (2, 2.5));
        check("q_proj", (2, 2.5));
        check("model.layers.1.k_proj", (3, 2.5));
        check("model.layers.1.v_proj", (3, 7.0));
        // From a dot on, not from within a part of the name; to the end of it.
        check("model.my_q_proj", (4, 2.5));
        check("model.q_proj.inner", (4, 2.5));
        check("model.head", (5, 2.5));
    }

    #[test]
    fn what_is_not_plain_lora_is_refused_by_its_key() {
        let check = |key: &str, value: Value, says: &str| {
            let mut root = json!({ "peft_type": "LORA" });
            root[key] = value;
            let message = read(root).unwrap_err().chain();
            assert!(message.contains(&format!("`{key}`")) && message.contains(says), "{message}");
        };
        check("peft_type", json!("LOHA"), "LOHA");
        check("peft_type", Value::Null, "absent");
        check("use_dora", json!("yes"), "true or false");
        check("use_qalora", json!(true), "QA-LoRA");
        check("layer_replication", json!([[0, 2]]), "slices");
        check("target_parameters", json!("experts.down_proj"), "a list of names");
        check("init_lora_weights", json!("pissa_niter_4"), "initialised");
        check("r", json!(0), "at least 1");
        check("lora_alpha", json!("much"), "a finite number");
        check("rank_pattern", json!({ "q_proj": 0 }), "at least 1");
        check("alpha_pattern", json!({ "(": 1 }), "cannot be matched");
        check("bias", json!("some"), "lora_only");
        for harmless in [json!(false), json!(null), json!([]), json!({})] {
            let mut root = json!({ "peft_type": "LORA", "init_lora_weights": "gaussian" });
            root["layer_replication"] = harmless;
            assert!(read(root).is_ok());
        }
    }

    #[test]
    fn parameters_belong_to_modules_by_the_ends_of_names() {
        let config = read(json!({
            "peft_type": "LORA",
            "target_parameters": ["mlp.experts.gate_up_proj", "layers.1.mlp.experts.down_proj", "gate.weight"],
        }))
        .unwrap();
        let check = |module: &str, expected: &[&str]| assert_eq!(config.parameters_of(module), expected, "{module}");
        check("model.layers.0.mlp.experts", &["gate_up_proj"]);
        check("model.layers.1.mlp.experts", &["down_proj", "gate_up_proj"]);
        check("model.layers.1.mlp.gate", &["weight"]);
        check("model.layers.1.my_mlp.experts", &[]);
    }

    #[test]
    fn alphas_are_whole_numbers_where_they_can_be() {
        assert_eq!(alpha_to_value(16.0).to_string(), "16");
        assert_eq!(alpha_to_value(0.5).to_string(), "0.5");
    }
}
