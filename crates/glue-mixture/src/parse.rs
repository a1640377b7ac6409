//! From a tree of YAML to a checked description.

use crate::config::{Expert, GATE_MODES, MixConfig, RequestedFormat};
use crate::error::MixError;
use crate::sites::MixtureFormat;
use crate::spec::{Level, Pool, RouterKind, Routing};
use glue_tensor::{Dtype, Links};
use glue_yaml::{At, FilePosition, Node, Position, Tree, documents};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, MixError>;

const KEYS: &[&str] = &[
    "base_model",
    "gate_mode",
    "tasks",
    "experts",
    "experts_per_token",
    "shared_experts",
    "dtype",
    "architecture",
    "level",
    "dense_layers",
    "mixed_layers",
    "router",
    "routing",
    "pool",
    "whole",
    "router_layer",
    "seed",
    "format",
];
const EXPERT_KEYS: &[&str] =
    &["source_model", "name", "positive_prompts", "negative_prompts", "skills", "noise_scale", "residual_scale"];
const ROUTER_KEYS: &[&str] = &["kind", "hidden_size"];

const LEVELS: [(&str, Level); 3] = [("ffn", Level::Ffn), ("block", Level::Block), ("model", Level::Model)];
const ROUTINGS: [(&str, Routing); 2] = [("token", Routing::Token), ("sample", Routing::Sample)];
const POOLS: [(&str, Pool); 3] = [("mean", Pool::Mean), ("first", Pool::First), ("last", Pool::Last)];
const FORMATS: [(&str, RequestedFormat); 4] = [
    ("auto", RequestedFormat::Auto),
    ("mixtral", RequestedFormat::Fixed(MixtureFormat::Mixtral)),
    ("qwen2_moe", RequestedFormat::Fixed(MixtureFormat::Qwen2Moe)),
    ("native", RequestedFormat::Fixed(MixtureFormat::Native)),
];
/// What mergekit's `architecture` can name; the format then follows from it.
const ARCHITECTURES: [(&str, RequestedFormat); 4] = [
    ("mixtral", RequestedFormat::Fixed(MixtureFormat::Mixtral)),
    ("qwen", RequestedFormat::Fixed(MixtureFormat::Qwen2Moe)),
    ("qwen2_moe", RequestedFormat::Fixed(MixtureFormat::Qwen2Moe)),
    ("qwen_moe", RequestedFormat::Fixed(MixtureFormat::Qwen2Moe)),
];
/// Widest hidden layer of a gate: far beyond any use, and far from overflow.
const MAX_INNER: i128 = 1 << 24;

impl MixConfig {
    /// Reads the description of a mixture from YAML. `origin` stands for the text in errors: its path, usually.
    ///
    /// # Errors
    /// [`MixError`] with line and column: not YAML, an unknown or missing key, a value of another kind or out of range,
    /// keys that exclude each other.
    pub fn parse(text: &str, origin: &str) -> Result<MixConfig> {
        match documents(text, origin)?.as_slice() {
            [root] => Reader { origin }.config(root, text),
            others => Err(MixError::Documents { origin: origin.into(), found: others.len() }),
        }
    }

    /// The place of `at` in the text, for errors.
    pub(crate) fn place(&self, at: Position) -> FilePosition {
        at.of(&self.origin)
    }

    /// Where the value of `key` stands, or the base where the key is absent.
    pub(crate) fn place_of(&self, key: &str) -> FilePosition {
        let at = self.places.iter().find(|(name, _)| *name == key).map_or(self.base_at, |(_, at)| *at);
        self.place(at)
    }
}

struct Reader<'a> {
    origin: &'a str,
}

/// A mapping whose keys are known.
struct Entries<'a> {
    at: Position,
    inside: &'static str,
    entries: &'a [(At<String>, Node)],
}

impl<'a> Entries<'a> {
    /// The value of `key`; null counts as absent.
    fn get(&self, key: &str) -> Option<&'a Node> {
        let found = self.entries.iter().find(|(name, _)| name.value == key);
        found.map(|(_, node)| node).filter(|node| node.value != Tree::Null)
    }
}

impl Reader<'_> {
    fn config(&self, root: &Node, text: &str) -> Result<MixConfig> {
        let top = self.entries(root, "the description of a mixture", KEYS)?;
        let gate_mode = self.choice(&top, "gate_mode", &GATE_MODES)?.unwrap_or_default();
        let whole = self.flag(&top, "whole")?.unwrap_or(false);
        let level = self.choice(&top, "level", &LEVELS)?.unwrap_or(if whole { Level::Model } else { Level::Ffn });
        let default_routing = if whole { Routing::Sample } else { Routing::Token };
        let routing = self.choice(&top, "routing", &ROUTINGS)?.unwrap_or(default_routing);

        let list = self.required(&top, "experts")?;
        let mut experts = self.experts(list, "experts")?;
        if experts.is_empty() {
            return self.wrong(list, "experts", "a list of at least one expert");
        }
        let shared_experts = match top.get("shared_experts") {
            Some(list) => self.experts(list, "shared_experts")?,
            None => Vec::new(),
        };
        if let (Some(list), true) = (top.get("shared_experts"), shared_experts.len() > 1) {
            return self.wrong(list, "shared_experts", "a list of at most one expert, as Qwen2-MoE's format has");
        }
        name(&mut experts);

        let most = experts.len() as i128;
        let default = if whole { 1 } else { experts.len().min(2) };
        let experts_per_token = match top.get("experts_per_token") {
            Some(node) => {
                self.whole_number(node, "experts_per_token", 1..=most, &format!("1 to {most}, the number of experts"))?
            }
            None => default as i128,
        } as usize;

        let dense_layers = self.count(&top, "dense_layers", "a number of layers")?.unwrap_or(0);
        let mixed_layers = self.layers(&top, dense_layers)?;
        let (format, architecture) =
            (self.choice(&top, "format", &FORMATS)?, self.choice(&top, "architecture", &ARCHITECTURES)?);
        let format = match (format, architecture) {
            (Some(RequestedFormat::Fixed(format)), Some(RequestedFormat::Fixed(other))) if format != other => {
                return self.conflict(
                    &top,
                    "architecture",
                    format!("asks for {}, but `format` for {}", other.name(), format.name()),
                );
            }
            (Some(format @ RequestedFormat::Fixed(_)), _) | (_, Some(format)) => format,
            _ => RequestedFormat::Auto,
        };
        let router_layer = self.count(&top, "router_layer", "the number of a residual stream")?;

        if whole {
            let alone: [(&'static str, bool, &str); 5] = [
                ("level", level != Level::Model, "must be model with `whole`"),
                (
                    "routing",
                    routing != Routing::Sample,
                    "must be sample with `whole`: a model of its own reads whole texts",
                ),
                ("dense_layers", dense_layers > 0, "means nothing with `whole`: no layer is shared"),
                ("mixed_layers", mixed_layers.is_some(), "means nothing with `whole`: no layer is shared"),
                ("experts_per_token", experts_per_token != 1, "must be 1 with `whole`: the text goes to one model"),
            ];
            if let Some((key, _, why)) = alone.into_iter().find(|(_, wrong, _)| *wrong) {
                return self.conflict(&top, key, why);
            }
        } else if router_layer.is_some() {
            return self.conflict(&top, "router_layer", "means nothing without `whole`: each gate has its place");
        }
        if level == Level::Model && mixed_layers.is_some() {
            return self.conflict(
                &top,
                "mixed_layers",
                "means nothing at level model: all layers from `dense_layers` on are mixed",
            );
        }
        if let (false, true) = (shared_experts.is_empty(), level != Level::Ffn || whole) {
            return self.conflict(&top, "shared_experts", "belongs to level ffn");
        }
        if let (Some(node), true) = (top.get("pool"), routing == Routing::Token) {
            return self.conflict_at(node, "pool", "means nothing with routing by token");
        }

        let base = self.required(&top, "base_model")?;
        let places = top
            .entries
            .iter()
            .filter_map(|(name, node)| KEYS.iter().find(|key| **key == name.value).map(|key| (*key, node.at)));
        Ok(MixConfig {
            text: text.to_string(),
            origin: self.origin.to_string(),
            base_model: self.path(base, "base_model")?,
            base_at: base.at,
            experts,
            shared_experts,
            experts_per_token,
            gate_mode,
            tasks: self
                .texts(&top, "tasks", "the path of a task, or a list of them")?
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            dtype: self.dtype(&top)?,
            level,
            dense_layers,
            mixed_layers,
            router: self.router(&top)?,
            routing,
            pool: self.choice(&top, "pool", &POOLS)?.unwrap_or_default(),
            whole,
            router_layer,
            links: Links::default(),
            located: BTreeMap::new(),
            seed: match top.get("seed") {
                Some(node) => {
                    self.whole_number(node, "seed", 0..=i128::from(u64::MAX), "a whole number of at most 64 bits")?
                        as u64
                }
                None => 0,
            },
            format,
            places: places.collect(),
        })
    }

    fn experts(&self, node: &Node, key: &'static str) -> Result<Vec<Expert>> {
        let Tree::List(list) = &node.value else {
            return self.wrong(node, key, "a list of experts");
        };
        list.iter().map(|entry| self.expert(entry)).collect()
    }

    fn expert(&self, node: &Node) -> Result<Expert> {
        let entries = self.entries(node, "an expert", EXPERT_KEYS)?;
        let model = self.path(self.required(&entries, "source_model")?, "source_model")?;
        let name = match entries.get("name") {
            Some(node) => self.text(node, "name")?.to_string(),
            None => String::new(),
        };
        Ok(Expert {
            name,
            model,
            positive_prompts: self.prompts(&entries, "positive_prompts")?,
            negative_prompts: self.prompts(&entries, "negative_prompts")?,
            skills: self.texts(&entries, "skills", "the name of a task or a skill, or a list of them")?,
            noise_scale: self.number(&entries, "noise_scale", 0.0)?.unwrap_or(0.0),
            residual_scale: self.number(&entries, "residual_scale", f64::MIN)?.unwrap_or(1.0),
            at: node.at,
        })
    }

    fn layers(&self, top: &Entries<'_>, dense: usize) -> Result<Option<Vec<usize>>> {
        let Some(node) = top.get("mixed_layers") else {
            return Ok(None);
        };
        let Tree::List(list) = &node.value else {
            return self.wrong(node, "mixed_layers", "a list of layer numbers");
        };
        let mut layers: Vec<usize> = Vec::with_capacity(list.len());
        for entry in list {
            let least = layers.last().map_or(dense, |last| last + 1);
            let expected = format!("layer numbers that ascend, none below `dense_layers` ({dense})");
            let range = least as i128..=i128::from(u32::MAX);
            layers.push(self.whole_number(entry, "mixed_layers", range, &expected)? as usize);
        }
        Ok(Some(layers))
    }

    fn router(&self, top: &Entries<'_>) -> Result<RouterKind> {
        let Some(node) = top.get("router") else {
            return Ok(RouterKind::Linear);
        };
        let expected = "linear, or mlp as {kind: mlp, hidden_size: N}";
        match &node.value {
            Tree::Text(text) if text == "linear" => Ok(RouterKind::Linear),
            Tree::Text(text) if text == "mlp" => Ok(RouterKind::Mlp { hidden_size: DEFAULT_INNER }),
            Tree::Map(_) => {
                let entries = self.entries(node, "`router`", ROUTER_KEYS)?;
                let kind = self.required(&entries, "kind")?;
                match (self.text(kind, "kind")?, entries.get("hidden_size")) {
                    ("linear", None) => Ok(RouterKind::Linear),
                    ("linear", Some(size)) => {
                        self.conflict_at(size, "hidden_size", "means nothing for a linear router")
                    }
                    ("mlp", None) => Ok(RouterKind::Mlp { hidden_size: DEFAULT_INNER }),
                    ("mlp", Some(size)) => {
                        let expected = format!("a whole number, 1 to {MAX_INNER}");
                        let hidden_size = self.whole_number(size, "hidden_size", 1..=MAX_INNER, &expected)? as usize;
                        Ok(RouterKind::Mlp { hidden_size })
                    }
                    _ => self.wrong(kind, "kind", "linear or mlp"),
                }
            }
            _ => self.wrong(node, "router", expected),
        }
    }

    fn dtype(&self, top: &Entries<'_>) -> Result<Option<Dtype>> {
        let Some(node) = top.get("dtype") else {
            return Ok(None);
        };
        match Dtype::from_torch_name(self.text(node, "dtype")?).filter(|dtype| dtype.is_float()) {
            Some(dtype) => Ok(Some(dtype)),
            None => self.wrong(node, "dtype", "a floating-point type such as bfloat16, float16 or float32"),
        }
    }

    fn entries<'a>(&self, node: &'a Node, inside: &'static str, known: &'static [&'static str]) -> Result<Entries<'a>> {
        let Tree::Map(entries) = &node.value else {
            return self.wrong(node, inside, format!("a mapping with {}", known.join(", ")));
        };
        match entries.iter().find(|(name, _)| !known.contains(&name.value.as_str())) {
            Some((At { value: key, at }, _)) => {
                Err(MixError::UnknownKey { place: self.place(*at), inside, key: key.clone(), known: known.to_vec() })
            }
            None => Ok(Entries { at: node.at, inside, entries }),
        }
    }

    fn required<'a>(&self, entries: &Entries<'a>, key: &'static str) -> Result<&'a Node> {
        let missing = || MixError::MissingKey { place: self.place(entries.at), inside: entries.inside, key };
        entries.get(key).ok_or_else(missing)
    }

    fn choice<T: Copy>(&self, entries: &Entries<'_>, key: &'static str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(node) = entries.get(key) else {
            return Ok(None);
        };
        let found = choices.iter().find(|(name, _)| matches!(&node.value, Tree::Text(text) if text == name));
        match found {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                self.wrong(node, key, format!("one of {}", names.join(", ")))
            }
        }
    }

    fn flag(&self, entries: &Entries<'_>, key: &'static str) -> Result<Option<bool>> {
        match entries.get(key).map(|node| (node, &node.value)) {
            None => Ok(None),
            Some((_, Tree::Flag(flag))) => Ok(Some(*flag)),
            Some((node, _)) => self.wrong(node, key, "true or false"),
        }
    }

    fn count(&self, entries: &Entries<'_>, key: &'static str, what: &str) -> Result<Option<usize>> {
        let Some(node) = entries.get(key) else {
            return Ok(None);
        };
        self.whole_number(node, key, 0..=i128::from(u32::MAX), &format!("{what}, 0 or more")).map(|n| Some(n as usize))
    }

    fn whole_number(
        &self,
        node: &Node,
        key: &str,
        range: std::ops::RangeInclusive<i128>,
        expected: &str,
    ) -> Result<i128> {
        match node.value {
            Tree::Integer(number) if range.contains(&number) => Ok(number),
            _ => self.wrong(node, key, expected),
        }
    }

    fn number(&self, entries: &Entries<'_>, key: &'static str, least: f64) -> Result<Option<f64>> {
        let Some(node) = entries.get(key) else {
            return Ok(None);
        };
        let number = match node.value {
            Tree::Integer(number) => number as f64,
            Tree::Number(number) => number,
            _ => f64::NAN,
        };
        if number.is_finite() && (number as f32).is_finite() && number >= least {
            return Ok(Some(number));
        }
        self.wrong(node, key, if least == 0.0 { "a finite number, 0 or more" } else { "a finite number" })
    }

    fn prompts(&self, entries: &Entries<'_>, key: &'static str) -> Result<Vec<String>> {
        let Some(node) = entries.get(key) else {
            return Ok(Vec::new());
        };
        let Tree::List(list) = &node.value else {
            return self.wrong(node, key, "a list of texts");
        };
        list.iter().map(|entry| self.text(entry, key).map(str::to_string)).collect()
    }

    /// One text, or a list of them.
    fn texts(&self, entries: &Entries<'_>, key: &'static str, expected: &str) -> Result<Vec<String>> {
        let one = |node: &Node| match &node.value {
            Tree::Text(text) if !text.is_empty() => Ok(text.clone()),
            _ => self.wrong(node, key, expected),
        };
        match entries.get(key).map(|node| (node, &node.value)) {
            None => Ok(Vec::new()),
            Some((_, Tree::List(list))) => list.iter().map(one).collect(),
            Some((node, _)) => Ok(vec![one(node)?]),
        }
    }

    fn path(&self, node: &Node, key: &'static str) -> Result<PathBuf> {
        match &node.value {
            Tree::Text(text) if !text.is_empty() => Ok(PathBuf::from(text)),
            _ => self.wrong(node, key, "the path of a model directory"),
        }
    }

    fn text<'a>(&self, node: &'a Node, key: &str) -> Result<&'a str> {
        match &node.value {
            Tree::Text(text) if !text.is_empty() => Ok(text),
            _ => self.wrong(node, key, "a text"),
        }
    }

    fn place(&self, at: Position) -> FilePosition {
        at.of(self.origin)
    }

    fn wrong<T>(&self, node: &Node, key: &str, expected: impl Into<String>) -> Result<T> {
        let (key, expected, found) = (key.to_string(), expected.into(), node.value.describe());
        Err(MixError::WrongValue { place: self.place(node.at), key, expected, found })
    }

    fn conflict<T>(&self, entries: &Entries<'_>, key: &'static str, why: impl Into<String>) -> Result<T> {
        let at = entries.get(key).map_or(entries.at, |node| node.at);
        Err(MixError::Conflict { place: self.place(at), key, why: why.into() })
    }

    fn conflict_at<T>(&self, node: &Node, key: &'static str, why: impl Into<String>) -> Result<T> {
        Err(MixError::Conflict { place: self.place(node.at), key, why: why.into() })
    }
}

/// Width of a gate's hidden layer unless given.
const DEFAULT_INNER: usize = 64;

/// Names the experts that have none by their directory, and makes all names differ.
fn name(experts: &mut [Expert]) {
    let mut taken: HashSet<String> = HashSet::new();
    for expert in experts {
        if expert.name.is_empty() {
            let last = Path::new(&expert.model).file_name().map(|name| name.to_string_lossy().into_owned());
            expert.name = last.unwrap_or_else(|| "expert".into());
        }
        let stem = expert.name.clone();
        let mut number = 2;
        while !taken.insert(expert.name.clone()) {
            expert.name = format!("{stem}-{number}");
            number += 1;
        }
    }
}
