//! Which models can be merged, from headers and configurations alone: no weight is read.
//!
//! Two models can be merged element by element when every tensor of their bodies (all but token embedding and head) has
//! the same name and shape in both, the heads that projections are cut into are the same, and an id means the same
//! token. Where only the vocabularies differ, they must be aligned first; where bodies differ, the models can only be
//! mixed as wholes. What changes the meaning of a merge without preventing it – type, rotary embedding, tied heads,
//! activation – is noted.
//!
//! Tokenizers are compared by the hash of their files, and parsed only where the hashes differ.

use crate::error::MetricsError;
use crate::matrix::check_names;
use glue_tensor::tokenizer_files::{TokenizerComparison, TokenizerDifference, tokenizers_equal};
use glue_tensor::{ContentHash, ModelDir, Names, Role, TensorInfo};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What can be done with a pair of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every tensor can be merged as it is.
    Mergeable,
    /// The bodies can be merged; embedding and head only after the vocabularies are aligned.
    WithVocabularyAlignment,
    /// The models can only be combined as experts of a mixture.
    MixtureOnly,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Mergeable => "mergeable",
            Verdict::WithVocabularyAlignment => "with vocabulary alignment",
            Verdict::MixtureOnly => "mixture only",
        })
    }
}

/// Something in which two models differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs, such as `hidden size`.
    pub aspect: String,
    /// What the first model has.
    pub first: String,
    /// What the second model has.
    pub second: String,
    /// What follows from it, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consequence: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} and {}", self.aspect, self.first, self.second)?;
        self.consequence.as_ref().map_or(Ok(()), |consequence| write!(f, " ({consequence})"))
    }
}

/// What headers and configuration say of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSummary {
    /// The name it was given.
    pub name: String,
    /// `model_type` of the configuration.
    pub model_type: Option<String>,
    /// `architectures` of the configuration.
    pub architectures: Vec<String>,
    /// Number of tensors.
    pub tensors: usize,
    /// Floating-point elements.
    pub parameters: u64,
    /// Bytes of tensors.
    pub bytes: u64,
    /// Types of the tensors and how many there are of each.
    pub dtypes: BTreeMap<String, usize>,
    /// Layers.
    pub layers: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Width of the MLP.
    pub intermediate_size: Option<usize>,
    /// Attention heads.
    pub heads: Option<usize>,
    /// Key and value heads.
    pub kv_heads: Option<usize>,
    /// Dimensions per head.
    pub head_dim: Option<usize>,
    /// Rows of the embedding by the configuration.
    pub vocab_size: Option<usize>,
    /// Hash of the files that decide ids (XXH3-128, in hexadecimal); `None` without tokenizer files. Different hashes
    /// do not prove different tokenizers; the verdicts look closer.
    pub tokenizer_hash: Option<String>,
    /// Rotary embeddings in words, one for each layer type.
    pub rope: Vec<String>,
    /// Whether the head is the embedding: by the configuration, or by the absence of a head.
    pub tied_head: bool,
}

/// The verdict on a pair of models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairVerdict {
    /// Number of the first model in the list.
    pub first: usize,
    /// Number of the second; greater than the first.
    pub second: usize,
    /// What can be done with them.
    pub verdict: Verdict,
    /// Why no more can be done; empty for mergeable models.
    pub reasons: Vec<Difference>,
    /// Differences that do not prevent a merge, but may matter to it.
    pub notes: Vec<Difference>,
}

/// What can be merged with what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compatibility {
    /// The models, in the order given.
    pub models: Vec<ModelSummary>,
    /// Every pair of different models, in order.
    pub pairs: Vec<PairVerdict>,
    /// Groups in which every pair is mergeable: a model joins the first group all of whose members it can be merged
    /// with.
    pub groups: Vec<Vec<usize>>,
}

impl Compatibility {
    /// The verdict on models `i` and `j`; `None` for a model and itself, or beyond the list.
    pub fn pair(&self, i: usize, j: usize) -> Option<&PairVerdict> {
        self.pairs.iter().find(|pair| (pair.first, pair.second) == (i.min(j), i.max(j)))
    }
}

/// Compares all pairs of models, each given with a name, by configuration, headers and tokenizer files.
///
/// # Errors
/// [`MetricsError::NoModels`], [`MetricsError::DuplicateModel`]; [`MetricsError::Tokenizer`] for tokenizer files that
/// cannot be read.
pub fn compatibility(models: &[(String, &ModelDir)]) -> Result<Compatibility, MetricsError> {
    check_names(&models.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())?;
    let models = models.iter().map(|(name, dir)| Facts::gather(name, dir)).collect::<Result<Vec<_>, _>>()?;
    let mut tokenizers = Tokenizers::default();
    let mut pairs = Vec::new();
    for (i, first) in models.iter().enumerate() {
        for (j, second) in models.iter().enumerate().skip(i + 1) {
            let (verdict, reasons, notes) = judge(first, second, &mut tokenizers)?;
            pairs.push(PairVerdict { first: i, second: j, verdict, reasons, notes });
        }
    }
    let mut found = Compatibility { models: Vec::new(), pairs, groups: Vec::new() };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for model in 0..models.len() {
        let mergeable = |&other: &usize| found.pair(other, model).is_some_and(|p| p.verdict == Verdict::Mergeable);
        match groups.iter_mut().find(|group| group.iter().all(mergeable)) {
            Some(group) => group.push(model),
            None => groups.push(vec![model]),
        }
    }
    found.groups = groups;
    found.models = models.into_iter().map(|facts| facts.summary).collect();
    Ok(found)
}

/// Files that do not decide which ids a text gets.
const NOT_IDS: &[&str] = &[
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
];

/// A model, and what is compared beyond its summary.
struct Facts<'a> {
    dir: &'a ModelDir,
    summary: ModelSummary,
    /// Shapes of the tensors of the body.
    body: BTreeMap<&'a str, &'a [usize]>,
    /// Shapes of embedding and head.
    vocabulary: BTreeMap<&'a str, &'a [usize]>,
    /// A weight matrix of integers, as a quantised model has.
    integers: Option<&'a str>,
}

impl<'a> Facts<'a> {
    fn gather(name: &str, dir: &'a ModelDir) -> Result<Facts<'a>, MetricsError> {
        let (config, checkpoint) = (dir.config(), dir.checkpoint());
        let names = Names::infer(checkpoint.tensors().iter().map(|info| info.name.as_str()));
        let (mut body, mut vocabulary) = (BTreeMap::new(), BTreeMap::new());
        let (mut integers, mut has_head) = (None, false);
        let mut dtypes = BTreeMap::new();
        for info in checkpoint.tensors() {
            *dtypes.entry(info.dtype.to_string()).or_insert(0) += 1;
            let parsed = names.parse(&info.name);
            has_head |= parsed.role == Role::Head;
            if !info.dtype.is_float() && info.shape.len() == 2 {
                integers = integers.or(Some(info.name.as_str()));
            }
            if is_buffer(info) {
                continue;
            }
            // Embeddings of positions have as many rows as there are positions.
            let rows = config.vocab_size().or(info.shape.first().copied());
            let by_token = matches!(parsed.role, Role::Embedding | Role::Head) && info.shape.first().copied() == rows;
            let tensors = if by_token { &mut vocabulary } else { &mut body };
            tensors.insert(info.name.as_str(), info.shape.as_slice());
        }
        let tied_head = config.tie_word_embeddings().unwrap_or(!has_head);
        let summary = ModelSummary {
            name: name.to_string(),
            model_type: config.model_type().map(str::to_string),
            architectures: config.architectures().into_iter().map(str::to_string).collect(),
            tensors: checkpoint.tensors().len(),
            parameters: checkpoint.n_parameters(),
            bytes: checkpoint.total_bytes(),
            dtypes,
            layers: config.num_layers(),
            hidden_size: config.hidden_size(),
            intermediate_size: config.intermediate_size(),
            heads: config.num_heads(),
            kv_heads: config.num_kv_heads(),
            head_dim: config.head_dim(),
            vocab_size: config.vocab_size(),
            tokenizer_hash: tokenizer_hash(name, dir)?,
            rope: config.ropes().iter().map(rope_in_words).collect(),
            tied_head,
        };
        Ok(Facts { dir, summary, body, vocabulary, integers })
    }
}

/// Whether a tensor is not a weight: masks and frequencies that some versions of transformers saved along, and integers
/// other than matrices.
fn is_buffer(info: &TensorInfo) -> bool {
    let suffix = |suffix| info.name.ends_with(suffix);
    suffix("rotary_emb.inv_freq")
        || suffix("position_ids")
        || suffix("masked_bias")
        || (info.shape.len() == 4 && (suffix("attn.bias") || suffix("attention.bias")))
        || (!info.dtype.is_float() && info.shape.len() != 2)
}

fn tokenizer_hash(name: &str, dir: &ModelDir) -> Result<Option<String>, MetricsError> {
    let files = dir.tokenizer();
    // The new format says everything; the files of the old one are read only without it.
    let only = files.names().iter().find(|file| *file == "tokenizer.json");
    let mut content = Vec::new();
    for (file, path) in files.names().iter().zip(files.paths()) {
        if NOT_IDS.contains(&file.as_str()) || only.is_some_and(|only| only != file) {
            continue;
        }
        let bytes = glue_tensor::files::read(&path, glue_tensor::files::DATA_BYTES).map_err(|error| {
            MetricsError::Tokenizer {
                model: name.to_string(),
                error: glue_tensor::tokenizer_files::TokenizerFilesError::Io { path, error },
            }
        })?;
        content.extend(format!("{file} {} ", bytes.len()).into_bytes());
        content.extend(bytes);
    }
    Ok((!content.is_empty()).then(|| ContentHash::of(&content).to_string()))
}

fn rope_in_words(rope: &glue_tensor::config::Rope) -> String {
    let mut words = format!("theta {}", rope.theta);
    if rope.kind != "default" {
        words += &format!(", {}", rope.kind);
    }
    if rope.partial != 1.0 {
        words += &format!(", {} of each head", rope.partial);
    }
    let parameters: BTreeMap<_, _> = rope.parameters.iter().collect();
    for (key, value) in parameters {
        words += &format!(", {key} {value}");
    }
    match &rope.layer_type {
        Some(layer_type) => format!("{layer_type}: {words}"),
        None => words,
    }
}

/// Comparisons made so far, by the hashes of the two.
#[derive(Default)]
struct Tokenizers {
    known: BTreeMap<(String, String), TokenizerComparison>,
}

impl Tokenizers {
    /// How the tokenizers of two models relate; `None` where one has none to compare.
    fn compare(&mut self, a: &Facts<'_>, b: &Facts<'_>) -> Result<Option<TokenizerComparison>, MetricsError> {
        let (Some(first), Some(second)) = (&a.summary.tokenizer_hash, &b.summary.tokenizer_hash) else {
            return Ok(None);
        };
        if first == second {
            return Ok(Some(TokenizerComparison::Equal));
        }
        let key = (first.clone(), second.clone());
        if let Some(known) = self.known.get(&key) {
            return Ok(Some(known.clone()));
        }
        let compared = tokenizers_equal(a.dir.tokenizer(), b.dir.tokenizer()).map_err(|error| {
            MetricsError::Tokenizer { model: format!("{}` or `{}", a.summary.name, b.summary.name), error }
        })?;
        self.known.insert(key, compared.clone());
        Ok(Some(compared))
    }
}

type Judged = (Verdict, Vec<Difference>, Vec<Difference>);

fn judge(a: &Facts<'_>, b: &Facts<'_>, tokenizers: &mut Tokenizers) -> Result<Judged, MetricsError> {
    let (x, y) = (&a.summary, &b.summary);
    let mut body = Differences::default();
    body.compare("layers", &number(x.layers), &number(y.layers));
    body.compare("hidden size", &number(x.hidden_size), &number(y.hidden_size));
    body.compare("intermediate size", &number(x.intermediate_size), &number(y.intermediate_size));
    body.compare("attention heads", &number(x.heads), &number(y.heads));
    body.compare("key and value heads", &number(x.kv_heads), &number(y.kv_heads));
    body.compare("head dimension", &number(x.head_dim), &number(y.head_dim));
    if a.integers.is_some() || b.integers.is_some() {
        let words =
            |facts: &Facts<'_>| facts.integers.map_or("floats".to_string(), |name| format!("integers in `{name}`"));
        body.add("weights", &words(a), &words(b), Some("quantised weights cannot be merged"));
    }
    body.tensors(&a.body, &b.body);

    let mut vocabulary = Differences::default();
    let mut notes = Differences::default();
    vocabulary.compare("vocabulary size", &number(x.vocab_size), &number(y.vocab_size));
    for (name, shape) in &a.vocabulary {
        match b.vocabulary.get(name) {
            Some(other) if other.first() != shape.first() => {
                vocabulary.compare(&format!("rows of `{name}`"), &format!("{shape:?}"), &format!("{other:?}"));
            }
            Some(other) if other != shape => {
                body.compare(&format!("shape of `{name}`"), &format!("{shape:?}"), &format!("{other:?}"));
            }
            _ => {}
        }
    }
    match tokenizers.compare(a, b)? {
        None if x.tokenizer_hash.is_none() && y.tokenizer_hash.is_none() => {}
        None => {
            let words = |hash: &Option<String>| hash.as_ref().map_or("none", |_| "present").to_string();
            let consequence = "ids are taken to mean the same tokens";
            notes.add("tokenizer files", &words(&x.tokenizer_hash), &words(&y.tokenizer_hash), Some(consequence));
        }
        Some(TokenizerComparison::Equal) => {}
        Some(TokenizerComparison::SameVocabulary) => {
            let consequence = "the same ids for the same tokens, but text is split differently";
            notes.add("tokenizer", &hash(x), &hash(y), Some(consequence));
        }
        Some(TokenizerComparison::Different { why: TokenizerDifference::Token { token, first, second } }) => {
            let id = |id: Option<u32>| id.map_or("absent".to_string(), |id| format!("id {id}"));
            vocabulary.compare(&format!("token {token:?}"), &id(first), &id(second));
        }
        Some(other) => {
            let why = match &other {
                TokenizerComparison::Different { why } => why.to_string(),
                _ => "they could not be compared".to_string(),
            };
            vocabulary.add("tokenizer", &hash(x), &hash(y), Some(&why));
        }
    }

    notes.compare("model type", &words(x.model_type.as_deref()), &words(y.model_type.as_deref()));
    notes.compare("architecture", &x.architectures.join(", "), &y.architectures.join(", "));
    notes.compare("stored type", &types(x), &types(y));
    notes.compare("rotary embedding", &x.rope.join("; "), &y.rope.join("; "));
    let tied = |tied| if tied { "tied to the embedding" } else { "separate" };
    notes.compare("head", tied(x.tied_head), tied(y.tied_head));
    for key in ["hidden_act", "sliding_window", "rms_norm_eps"] {
        let value = |facts: &Facts<'_>| facts.dir.config().get(key).map_or("unset".to_string(), |v| v.to_string());
        notes.compare(key, &value(a), &value(b));
    }

    let verdict = match (body.0.is_empty(), vocabulary.0.is_empty()) {
        (true, true) => Verdict::Mergeable,
        (true, false) => Verdict::WithVocabularyAlignment,
        (false, _) => Verdict::MixtureOnly,
    };
    let reasons = body.0.into_iter().chain(vocabulary.0).collect();
    Ok((verdict, reasons, notes.0))
}

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, aspect: &str, first: &str, second: &str, consequence: Option<&str>) {
        let [aspect, first, second] = [aspect, first, second].map(str::to_string);
        self.0.push(Difference { aspect, first, second, consequence: consequence.map(str::to_string) });
    }

    fn compare(&mut self, aspect: &str, first: &str, second: &str) {
        if first != second {
            self.add(aspect, first, second, None);
        }
    }

    /// The first tensor that only one has or that differs in shape, and the number of others.
    fn tensors(&mut self, a: &BTreeMap<&str, &[usize]>, b: &BTreeMap<&str, &[usize]>) {
        let names: BTreeSet<&str> = a.keys().chain(b.keys()).copied().collect();
        let mut different = names.into_iter().filter(|name| a.get(name) != b.get(name));
        let Some(name) = different.next() else {
            return;
        };
        let shape = |shape: Option<&&[usize]>| shape.map_or("absent".to_string(), |shape| format!("{shape:?}"));
        let more = match different.count() {
            0 => None,
            1 => Some("and 1 more tensor differs".to_string()),
            more => Some(format!("and {more} more tensors differ")),
        };
        self.add(&format!("`{name}`"), &shape(a.get(name)), &shape(b.get(name)), more.as_deref());
    }
}

fn number(number: Option<usize>) -> String {
    number.map_or("unknown".to_string(), |number| number.to_string())
}

fn words(text: Option<&str>) -> String {
    text.unwrap_or("unknown").to_string()
}

fn hash(summary: &ModelSummary) -> String {
    summary.tokenizer_hash.as_ref().map_or("none".to_string(), |hash| hash.chars().take(8).collect())
}

fn types(summary: &ModelSummary) -> String {
    summary.dtypes.keys().cloned().collect::<Vec<_>>().join(", ")
}
