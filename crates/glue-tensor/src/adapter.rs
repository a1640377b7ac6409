//! LoRA adapters in the layout of PEFT: a configuration and the factors of low-rank changes to a model's weights.
//!
//! Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685: a weight W of shape \[out, in\]
//! becomes W + s·B·A, with A of shape \[r, in\], B of shape \[out, r\], and a scale s of α/r. With `use_rslora` the
//! scale is α/√r (Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, arXiv 2312.03732).
//!
//! | in `adapter_model.safetensors`, after `base_model.model.` | changes the tensor | by |
//! |---|---|---|
//! | `MODULE.lora_A.weight`, `MODULE.lora_B.weight` | `MODULE.weight` | s·B·A; its transpose with `fan_in_fan_out` |
//! | `MODULE.lora_embedding_A`, `MODULE.lora_embedding_B` | `MODULE.weight` | the transpose of s·B·A |
//! | `MODULE.lora_magnitude_vector`, with `use_dora` | `MODULE.weight` | scaling its rows to these norms; its columns where the product is transposed |
//! | the same under the module of a `target_parameters` | that parameter, matrix by matrix | s·Bₑ·Aₑ or its transpose |
//! | any other `NAME`, with `modules_to_save` or `base_layer` in it or without | `NAME` without them | taking its place |
//!
//! A target parameter of shape \[E, rows, columns\] holds the matrices of E experts. A has the factors one below the
//! other, \[E·r, in\]; of B, \[out, r·E\], column k·E + e belongs to expert e. PEFT names only the module. Where
//! several parameters of it have factors, the ones of the parameter that the module defines last are named
//! `MODULE.lora_A`, and the others `MODULE.base_layer.lora_A` and so on: for experts, `down_proj` and then
//! `gate_up_proj`, the order of the alphabet, which is taken here. Factors of another order do not fit the shapes of
//! the model and are refused.
//!
//! DoRA (Liu et al., *DoRA: Weight-Decomposed Low-Rank Adaptation*, arXiv 2402.09353) gives each output of the module,
//! a row of W + s·B·A, a norm of its own. In weights that are stored as \[in, out\] an output is a column; so it is in
//! embeddings, where PEFT has a norm for each dimension, over all tokens.
//!
//! [`Adapter::open`] reads headers and accounts for every tensor; [`Adapter::fit`] checks them against a model.
//! Variants whose change is another function of the weights are refused by their key or tensor. Nothing here
//! multiplies: what applies an adapter asks for its [`Change`]s and does the arithmetic itself.

mod config;
mod error;
mod write;

pub use config::{AdapterConfig, Bias, TargetModules};
pub use error::AdapterError;
pub use write::{AdapterWriter, ModuleKind, NewAdapter, NewModule};

use crate::checkpoint::{Checkpoint, CheckpointError, ContentHash, TensorInfo, TensorView};
use crate::files::{self, FileChanged, FileVersion};
use crate::hub::locate;
use crate::names::{Names, Role};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// File name of an adapter's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// File name of an adapter's weights.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What PEFT puts before the names that modules have in the model.
const PREFIX: &str = "base_model.model.";

/// A change of low rank to a tensor W, or to each matrix of a stack of experts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LowRank {
    /// Name of A in the adapter, of shape \[E·r, in\].
    pub a: String,
    /// Name of B in the adapter, of shape \[out, r·E\].
    pub b: String,
    /// r, 1 or more.
    pub rank: usize,
    /// E: the number of matrices, 1 for a matrix by itself.
    pub experts: usize,
    /// s.
    pub scale: f64,
    /// Whether W changes by the transpose of s·B·A rather than by s·B·A itself. For a stack of experts, whose shape
    /// decides, see [`Adapter::is_transposed`].
    pub transposed: bool,
    /// Name in the adapter of the norms that the rows of the changed W are scaled to, or its columns if `transposed`,
    /// of shape \[out\]; `None` without DoRA.
    pub magnitude: Option<String>,
}

/// What an adapter does to one tensor of a model: first `full` takes its place, then `low_rank` is added.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Change {
    /// Name in the adapter of the tensor that takes the place of the model's.
    pub full: Option<String>,
    /// What is added.
    pub low_rank: Option<LowRank>,
}

/// An opened adapter. Weights are mapped, not read.
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    config: AdapterConfig,
    /// Of the configuration.
    version: FileVersion,
    config_bytes: u64,
    config_hash: ContentHash,
    checkpoint: Checkpoint,
    changes: BTreeMap<String, Change>,
}

impl Adapter {
    /// Opens the adapter in the directory `path`. Reads its configuration and the header of its weights.
    ///
    /// # Errors
    /// [`AdapterError`]: not an adapter, one of a kind that is not linear in its factors, or one with a tensor that no
    /// rule above accounts for.
    pub fn open(path: impl AsRef<Path>) -> Result<Adapter, AdapterError> {
        let path = locate(path.as_ref()).into_owned();
        match std::fs::metadata(&path) {
            Ok(found) if !found.is_dir() => return Err(AdapterError::NotADirectory { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(AdapterError::NotFound { path }),
            Err(error) => return Err(AdapterError::Io { path, error }),
            Ok(_) => {}
        }
        let file = path.join(CONFIG_FILE);
        let read = files::read_version(&file, files::CONFIG_BYTES);
        let (bytes, version) = read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => AdapterError::NoConfig { path: path.clone() },
            _ => AdapterError::Io { path: file.clone(), error },
        })?;
        let config = AdapterConfig::from_bytes(&bytes, &file)?;
        let checkpoint = Checkpoint::open(path.join(WEIGHTS_FILE)).map_err(|error| match error {
            CheckpointError::NotFound { .. } => AdapterError::NoWeights { path: path.clone() },
            error => AdapterError::Checkpoint(error),
        })?;
        let changes = Classified::new(&checkpoint)?.changes(&config)?;
        let (config_bytes, config_hash) = (bytes.len() as u64, ContentHash::of(&bytes));
        Ok(Adapter { path, config, version, config_bytes, config_hash, checkpoint, changes })
    }

    /// Whether the directory `path` holds an adapter and no model.
    pub fn is_at(path: impl AsRef<Path>) -> bool {
        let path = locate(path.as_ref());
        path.join(CONFIG_FILE).is_file() && !path.join(crate::model_dir::CONFIG_FILE).exists()
    }

    /// The directory, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `adapter_config.json`.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Size of `adapter_config.json` in bytes, and the hash of its content.
    pub fn config_file(&self) -> (u64, ContentHash) {
        (self.config_bytes, self.config_hash)
    }

    /// Hash of configuration and weights together. Reads all of them.
    pub fn content_hash(&self) -> ContentHash {
        let weights = self.checkpoint.files().iter().map(|file| file.content_hash());
        let hashes: Vec<String> = weights.chain([self.config_hash]).map(|hash| hash.to_string()).collect();
        ContentHash::of(hashes.concat().as_bytes())
    }

    /// The weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Checks that configuration and weights are still the files that were opened, and that nobody has written to them.
    ///
    /// # Errors
    /// [`FileChanged`] with the first file that is not.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.version.check()?;
        self.checkpoint.check_unchanged()
    }

    /// What changes, by the name of the tensor in the model.
    pub fn changes(&self) -> &BTreeMap<String, Change> {
        &self.changes
    }

    /// What happens to the model's tensor `name`; `None` when it stays as it is.
    pub fn change(&self, name: &str) -> Option<&Change> {
        self.changes.get(name)
    }

    /// A tensor of the adapter that a [`Change`] of it names.
    ///
    /// # Panics
    /// On a name from elsewhere.
    pub fn tensor(&self, name: &str) -> TensorView<'_> {
        self.checkpoint.get(name).expect("changes name tensors that are there")
    }

    /// Bytes of the adapter that `change` reads.
    pub fn n_bytes(&self, change: &Change) -> u64 {
        let factors = change.low_rank.iter().flat_map(|low_rank| [&low_rank.a, &low_rank.b]);
        let magnitudes = change.low_rank.iter().filter_map(|low_rank| low_rank.magnitude.as_ref());
        change.full.iter().chain(factors).chain(magnitudes).map(|name| self.tensor(name).info().n_bytes() as u64).sum()
    }

    /// Checks that every tensor this adapter changes is in `model`, with a shape that goes with it.
    ///
    /// `tied` is the embedding that serves `model` as its head, if any: an adapter with a whole head then gives the
    /// model [a head of its own](Adapter::own_head).
    ///
    /// # Errors
    /// [`AdapterError::NotInModel`], [`AdapterError::ShapeInModel`], [`AdapterError::NotFloat`]: the adapter was made
    /// for another model.
    pub fn fit(&self, model: &Checkpoint, tied: Option<&str>) -> Result<(), AdapterError> {
        let own_head = tied.and_then(|embedding| self.own_head(model, embedding));
        for (name, change) in &self.changes {
            if own_head == Some(name) {
                continue;
            }
            let first = change.full.as_ref().or(change.low_rank.as_ref().map(|low_rank| &low_rank.a));
            let Some(info) = model.info(name) else {
                return Err(AdapterError::NotInModel {
                    path: self.path.clone(),
                    tensor: first.cloned().unwrap_or_default(),
                    looked_for: name.clone(),
                    model: model.path().to_path_buf(),
                });
            };
            if !info.dtype.is_float() {
                return Err(AdapterError::NotFloat {
                    path: model.path().to_path_buf(),
                    tensor: name.clone(),
                    found: info.dtype,
                });
            }
            let check = |expected: &[usize]| match info.shape == expected {
                true => Ok(()),
                false => Err(AdapterError::ShapeInModel {
                    path: self.path.clone(),
                    tensor: name.clone(),
                    expected: expected.into(),
                    found: info.shape.as_slice().into(),
                    model: model.path().to_path_buf(),
                }),
            };
            if let Some(full) = &change.full {
                check(self.tensor(full).shape())?;
            }
            if let Some(low_rank) = &change.low_rank {
                let transposed = self.is_transposed(name, low_rank, model);
                check(&self.changed_shape(low_rank, transposed, info.shape.len()))?;
            }
        }
        Ok(())
    }

    /// The head that this adapter gives to `model`, whose head is its embedding `tied`: a whole tensor that the model
    /// lacks, of the shape of the embedding. PEFT writes one for `modules_to_save` with a head in it.
    pub fn own_head(&self, model: &Checkpoint, tied: &str) -> Option<&str> {
        let shape = &model.info(tied)?.shape;
        let is_head = |name: &str| Names::infer([name]).parse(name).role == Role::Head;
        let of_shape = |full: &String| self.tensor(full).shape() == shape.as_slice();
        let found = self.changes.iter().find(|(name, change)| {
            change.low_rank.is_none()
                && change.full.as_ref().is_some_and(of_shape)
                && model.info(name).is_none()
                && is_head(name)
        });
        found.map(|(name, _)| name.as_str())
    }

    /// Whether the tensor `name` of `model` changes by the transpose of the product.
    ///
    /// The sides of the factors tell for a stack of experts, and where both are equal, [`experts_are_in_out`].
    pub fn is_transposed(&self, name: &str, low_rank: &LowRank, model: &Checkpoint) -> bool {
        let (outputs, inputs) = self.sides(low_rank);
        match model.info(name).map(|info| info.shape.as_slice()) {
            Some(&[_, rows, columns]) if inputs != outputs => rows == inputs && columns == outputs,
            Some(&[_, rows, columns]) if rows == columns => experts_are_in_out(model, name),
            _ => low_rank.transposed,
        }
    }

    /// Rows of B and columns of A.
    fn sides(&self, low_rank: &LowRank) -> (usize, usize) {
        (self.tensor(&low_rank.b).shape()[0], self.tensor(&low_rank.a).shape()[1])
    }

    /// The shape of a tensor with so many axes that `low_rank` can be added to.
    fn changed_shape(&self, low_rank: &LowRank, transposed: bool, axes: usize) -> Vec<usize> {
        let (rows, columns) = self.sides(low_rank);
        let matrix = if transposed { [columns, rows] } else { [rows, columns] };
        if axes == 3 || low_rank.experts > 1 { [&[low_rank.experts], &matrix[..]].concat() } else { matrix.to_vec() }
    }
}

/// Whether `model` stores the matrices of the experts in its tensor `name` as \[in, out\], as gpt-oss and Llama 4 do,
/// rather than as \[out, in\]. The outputs of the first matrices of an expert are not the inputs of the last, which the
/// names tell apart: both have one axis of the same length, the hidden size. False where there are not both.
pub fn experts_are_in_out(model: &Checkpoint, name: &str) -> bool {
    let parent = |name: &str| {
        let name = name.strip_suffix(".weight").unwrap_or(name);
        name.rsplit_once('.').map_or(String::new(), |(parent, _)| parent.to_string())
    };
    let is_last = |name: &str| {
        let name = name.strip_suffix(".weight").unwrap_or(name);
        let part = name.rsplit('.').next().unwrap_or(name);
        ["down", "w2", "output"].iter().any(|word| part.contains(word))
    };
    let of = parent(name);
    let shape = |last: bool| {
        let beside =
            |info: &&TensorInfo| info.shape.len() == 3 && is_last(&info.name) == last && parent(&info.name) == of;
        model.tensors().iter().find(beside).map(|info| (info.shape[1], info.shape[2]))
    };
    match (shape(false), shape(true)) {
        (Some((rows, columns)), Some((last_rows, last_columns))) => rows == last_columns && columns != last_rows,
        _ => false,
    }
}

/// The factors of one module.
#[derive(Default)]
struct Factors<'a> {
    a: Option<&'a TensorInfo>,
    b: Option<&'a TensorInfo>,
    magnitude: Option<&'a TensorInfo>,
}

/// The name of a module without the `base_layer` at its end that PEFT adds to each but the outermost of several
/// wrappers, and how many of them there are.
fn without_base_layers(module: &str) -> (&str, usize) {
    let (mut plain, mut depth) = (module, 0);
    while let Some(outer) = plain.strip_suffix(".base_layer") {
        (plain, depth) = (outer, depth + 1);
    }
    (plain, depth)
}

/// The tensors of an adapter by the part they play.
struct Classified<'a> {
    path: PathBuf,
    /// By module, and whether it is an embedding.
    factors: BTreeMap<(String, bool), Factors<'a>>,
    /// By the name in the model.
    full: BTreeMap<String, &'a TensorInfo>,
}

/// The endings of a factor's name, whether it is A, and whether it is an embedding's.
const FACTORS: [(&str, bool, bool); 4] = [
    (".lora_A.weight", true, false),
    (".lora_B.weight", false, false),
    (".lora_embedding_A", true, true),
    (".lora_embedding_B", false, true),
];

/// The endings of the names of DoRA's norms.
const MAGNITUDES: [&str; 2] = [".lora_magnitude_vector", ".lora_magnitude_vector.weight"];

/// Parts of names that only PEFT's wrappers have: what is called so and is no factor is of a variant.
const VARIANTS: [&str; 4] = ["lora_", "token_adapter", "trainable_tokens", "original_module"];

impl<'a> Classified<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Result<Classified<'a>, AdapterError> {
        let path = checkpoint.path().to_path_buf();
        let mut found = Classified { path, factors: BTreeMap::new(), full: BTreeMap::new() };
        for info in checkpoint.tensors() {
            let unknown = || AdapterError::UnknownTensor { path: found.path.clone(), tensor: info.name.clone() };
            let name = info.name.strip_prefix(PREFIX).ok_or_else(unknown)?;
            if !info.dtype.is_float() {
                let (path, tensor) = (found.path.clone(), info.name.clone());
                return Err(AdapterError::NotFloat { path, tensor, found: info.dtype });
            }
            let factor = FACTORS.iter().find_map(|row| Some((name.strip_suffix(row.0)?, row.1, row.2)));
            if let Some((module, is_a, embedding)) = factor.filter(|(module, ..)| !module.is_empty()) {
                let factors = found.factors.entry((module.to_string(), embedding)).or_default();
                *(if is_a { &mut factors.a } else { &mut factors.b }) = Some(info);
                continue;
            }
            if let Some(module) = MAGNITUDES.iter().find_map(|end| name.strip_suffix(end)) {
                found.factors.entry((module.to_string(), false)).or_default().magnitude = Some(info);
                continue;
            }
            if VARIANTS.iter().any(|variant| name.contains(variant)) {
                return Err(unknown());
            }
            let kept = |part: &&str| *part != "base_layer" && *part != "modules_to_save";
            let plain = name.split('.').filter(kept).collect::<Vec<_>>().join(".");
            if let Some(first) = found.full.insert(plain, info) {
                let (path, first, second) = (found.path, first.name.clone(), info.name.clone());
                return Err(AdapterError::Twice { path, first, second });
            }
        }
        found.give_norms_to_embeddings();
        Ok(found)
    }

    /// The names of norms do not tell an embedding from a linear layer; the factors beside them do.
    fn give_norms_to_embeddings(&mut self) {
        let alone = |factors: &Factors<'_>| factors.a.is_none() && factors.b.is_none();
        let of_embedding = |((module, embedding), factors): &(&(String, bool), &Factors<'_>)| {
            !embedding && alone(factors) && self.factors.contains_key(&(module.clone(), true))
        };
        let modules: Vec<String> =
            self.factors.iter().filter(of_embedding).map(|((module, _), _)| module.clone()).collect();
        for module in modules {
            let norms = self.factors.remove(&(module.clone(), false)).and_then(|factors| factors.magnitude);
            self.factors.entry((module, true)).or_default().magnitude = norms;
        }
    }

    fn changes(self, config: &AdapterConfig) -> Result<BTreeMap<String, Change>, AdapterError> {
        let mut changes: BTreeMap<String, Change> = BTreeMap::new();
        for (name, info) in self.full {
            changes.entry(name).or_default().full = Some(info.name.clone());
        }
        let mut nested: BTreeMap<String, usize> = BTreeMap::new();
        for (module, _) in self.factors.keys() {
            *nested.entry(without_base_layers(module).0.to_string()).or_default() += 1;
        }
        for ((module, embedding), factors) in self.factors {
            let path = || self.path.clone();
            let (a, b) = match (factors.a, factors.b) {
                (Some(a), Some(b)) => (a, b),
                (a, b) => {
                    let (missing, present) = if a.is_none() { ("A", b) } else { ("B", a) };
                    let present = present.or(factors.magnitude).map_or_else(String::new, |info| info.name.clone());
                    return Err(AdapterError::MissingFactor { path: path(), present, missing });
                }
            };
            let (plain, depth) = without_base_layers(&module);
            let parameters = config.parameters_of(plain);
            let target = match parameters.get(depth) {
                Some(parameter) if parameters.len() == nested[plain] => Some(format!("{plain}.{parameter}")),
                None if depth == 0 => None,
                _ => {
                    let (module, found) = (plain.to_string(), nested[plain]);
                    let parameters = parameters.iter().map(|name| name.to_string()).collect();
                    return Err(AdapterError::Parameters { path: path(), module, parameters, found });
                }
            };
            let of = target.as_deref().unwrap_or(plain);
            let (rank, alpha) = config.rank_and_alpha(of).map_err(|error| error.at(&self.path))?;
            let shape_of = |info: &TensorInfo, expected: &'static str| AdapterError::FactorShape {
                path: path(),
                tensor: info.name.clone(),
                expected,
                rank,
                found: info.shape.clone(),
            };
            let experts = match (&target, a.shape.first()) {
                (Some(_), Some(rows)) if rows.is_multiple_of(rank) => (rows / rank).max(1),
                _ => 1,
            };
            let of_experts = target.is_some();
            if a.shape.len() != 2 || a.shape[0] != experts * rank {
                return Err(shape_of(a, if of_experts { "[experts × rank, inputs]" } else { "[rank, inputs]" }));
            }
            if b.shape.len() != 2 || b.shape[1] != experts * rank {
                return Err(shape_of(b, if of_experts { "[outputs, rank × experts]" } else { "[outputs, rank]" }));
            }
            let scale = alpha / if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            let transposed = embedding || config.fan_in_fan_out;
            let dora = |tensor: &TensorInfo, message| {
                let (path, tensor) = (path(), tensor.name.clone());
                Err(AdapterError::Dora { path, tensor, message })
            };
            match factors.magnitude {
                None if config.use_dora => return dora(a, "the norms of DoRA are not there for it"),
                Some(norms) if !config.use_dora => {
                    return dora(norms, "it has norms of DoRA, but `use_dora` is not true in the configuration");
                }
                Some(norms) if target.is_some() => {
                    return dora(norms, "DoRA of target parameters is not supported");
                }
                Some(norms) if norms.shape != [b.shape[0]] => {
                    return dora(norms, "it must have one norm for each output of its module");
                }
                _ => {}
            }
            let magnitude = factors.magnitude.map(|info| info.name.clone());
            let low_rank =
                LowRank { a: a.name.clone(), b: b.name.clone(), rank, experts, scale, transposed, magnitude };
            let change = changes.entry(target.unwrap_or_else(|| format!("{module}.weight"))).or_default();
            if let Some(other) = change.low_rank.replace(low_rank) {
                return Err(AdapterError::Twice { path: path(), first: other.a, second: a.name.clone() });
            }
        }
        if changes.is_empty() {
            return Err(AdapterError::Empty { path: self.path });
        }
        Ok(changes)
    }
}
