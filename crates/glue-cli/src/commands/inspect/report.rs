//! The findings of `glue inspect`. The fields are those of its JSON document.

use crate::failure::Failure;
use glue_tensor::tokenizer_files::TokenizerFiles;
use glue_tensor::{Checkpoint, CheckpointError, Config, ModelDir, ModelDirError, Names, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The report on a model. A field is `None` if no file says it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) path: String,
    pub(super) model_type: Option<String>,
    pub(super) architectures: Vec<String>,
    /// Floating-point elements, in all and by role.
    pub(super) parameters: Parameters,
    /// By name in the headers.
    pub(super) dtypes: BTreeMap<&'static str, Amount>,
    pub(super) layers: Option<usize>,
    pub(super) hidden_size: Option<usize>,
    pub(super) intermediate_size: Option<usize>,
    pub(super) heads: Option<usize>,
    pub(super) kv_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) experts: Option<usize>,
    /// Present if the directory is a mixture.
    pub(super) mixture: Option<Mixture>,
    pub(super) vocab_size: Option<usize>,
    pub(super) max_positions: Option<usize>,
    /// Whether the head shares the weights of the embedding.
    pub(super) tied_head: Option<bool>,
    pub(super) rope: Vec<Rope>,
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) chat_template: bool,
    pub(super) files: Vec<File>,
    /// Of tensor data.
    pub(super) bytes: u64,
    pub(super) n_tensors: usize,
    /// Where configuration and tensors disagree.
    pub(super) notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tensors: Option<Vec<Tensor>>,
}

/// Gates and experts of a mixture.
#[derive(Debug, Serialize)]
pub(super) struct Mixture {
    pub(super) form: &'static str,
    pub(super) level: glue_mixture::Level,
    /// Whether the experts are whole models, in directories of their own.
    pub(super) whole: bool,
    pub(super) experts: Vec<String>,
    pub(super) experts_per_token: usize,
    pub(super) router: glue_mixture::RouterKind,
    pub(super) mixed_layers: Vec<usize>,
    /// Elements of each expert's own files, for whole models.
    pub(super) parameters: Vec<u64>,
}

impl Mixture {
    /// `None` if the directory is no mixture or cannot be read; opening it as a model says why.
    fn of(path: &Path) -> Option<Mixture> {
        let sites = glue_mixture::Sites::open(path).ok()?;
        let elements = |i: usize| {
            let checkpoint = Checkpoint::open(path.join(format!("experts/{i}"))).ok()?;
            Some(checkpoint.tensors().iter().map(|info| info.n_elements() as u64).sum())
        };
        let whole = if sites.whole { sites.experts.len() } else { 0 };
        Some(Mixture {
            form: sites.format.name(),
            level: sites.level,
            whole: sites.whole,
            parameters: (0..whole).filter_map(elements).collect(),
            experts_per_token: sites.experts_per_token,
            router: sites.router,
            mixed_layers: sites.layers,
            experts: sites.experts,
        })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Parameters {
    pub(super) total: u64,
    pub(super) by_role: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Amount {
    pub(super) tensors: usize,
    pub(super) elements: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Rope {
    pub(super) layer_type: Option<String>,
    pub(super) kind: String,
    pub(super) theta: f64,
    pub(super) partial: f64,
    pub(super) parameters: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize)]
pub(super) struct Tokenizer {
    /// `BPE`, `Unigram`, …, if a file says so; else the name of its file.
    pub(super) kind: Option<String>,
    /// Number of tokens, including added ones.
    pub(super) vocabulary: Option<usize>,
    pub(super) files: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) role: &'static str,
    pub(super) layer: Option<usize>,
    pub(super) expert: Option<usize>,
    pub(super) bytes: u64,
    pub(super) file: String,
}

/// A model directory, or weights without a configuration.
enum Opened {
    Model(Box<ModelDir>),
    Weights(Box<Checkpoint>, Option<TokenizerFiles>),
}

impl Opened {
    fn checkpoint(&self) -> &Checkpoint {
        match self {
            Self::Model(model) => model.checkpoint(),
            Self::Weights(checkpoint, _) => checkpoint,
        }
    }

    fn config(&self) -> Option<&Config> {
        match self {
            Self::Model(model) => Some(model.config()),
            Self::Weights(..) => None,
        }
    }

    fn tokenizer(&self) -> Option<&TokenizerFiles> {
        match self {
            Self::Model(model) => Some(model.tokenizer()),
            Self::Weights(_, tokenizer) => tokenizer.as_ref(),
        }
    }
}

/// Looks at the model at `path`.
pub(super) fn gather(path: &Path, list_tensors: bool) -> Result<Report, Failure> {
    let opened = open(path)?;
    let (checkpoint, config) = (opened.checkpoint(), opened.config());
    let tokenizer = opened.tokenizer();
    let infos = checkpoint.tensors();
    let names = Names::infer(infos.iter().map(|info| info.name.as_str()));
    let layers_found = names.main_stack().map(|stack| stack.layers.len());
    let ask = |what: fn(&Config) -> Option<usize>| config.and_then(what);

    let mut by_role = BTreeMap::new();
    let mut dtypes: BTreeMap<_, Amount> = BTreeMap::new();
    let mut experts = None;
    let mut embedding_rows = None;
    let mut has_head = false;
    let mut tensors = Vec::new();
    for info in infos {
        let parsed = names.parse(&info.name);
        let role = role_name(parsed.role);
        let amount = dtypes.entry(info.dtype.safetensors_name()).or_default();
        amount.tensors += 1;
        amount.elements += info.n_elements() as u64;
        amount.bytes += info.n_bytes() as u64;
        if info.dtype.is_float() {
            *by_role.entry(role).or_default() += info.n_elements() as u64;
        }
        experts = experts.max(parsed.expert.map(|expert| expert + 1));
        has_head |= parsed.role == Role::Head;
        if parsed.role == Role::Embedding && parsed.layer.is_none() && info.shape.len() == 2 {
            embedding_rows = embedding_rows.max(info.shape.first().copied());
        }
        if list_tensors {
            tensors.push(Tensor {
                name: info.name.clone(),
                dtype: info.dtype.safetensors_name(),
                shape: info.shape.clone(),
                role,
                layer: parsed.layer,
                expert: parsed.expert,
                bytes: info.n_bytes() as u64,
                file: file_name(checkpoint.files()[info.file].path()),
            });
        }
    }

    let tied = config.and_then(Config::tie_word_embeddings);
    let mut notes = Vec::new();
    if let (Some(said), Some(found)) = (ask(Config::num_layers), layers_found)
        && said != found
    {
        notes.push(format!("config.json says {said} layers, the tensors have {found}"));
    }
    if let (Some(said), Some(found)) = (ask(Config::vocab_size), embedding_rows)
        && said != found
    {
        notes.push(format!("config.json says {said} tokens, the embedding has {found} rows"));
    }
    if let Some(said) = config.and_then(Config::dtype)
        && !dtypes.is_empty()
        && !dtypes.contains_key(said.safetensors_name())
    {
        notes.push(format!("config.json says {}, which no tensor has", said.torch_name()));
    }
    if tied == Some(true) && has_head {
        notes.push("config.json ties the head to the embedding, but there is a tensor for it".to_string());
    }

    let files = checkpoint.files().iter().map(|file| File { name: file_name(file.path()), bytes: file.n_bytes() });
    let ropes = config.map(Config::ropes).unwrap_or_default();
    Ok(Report {
        path: path.display().to_string(),
        model_type: config.and_then(Config::model_type).map(Into::into),
        architectures: config.into_iter().flat_map(Config::architectures).map(Into::into).collect(),
        parameters: Parameters { total: checkpoint.n_parameters(), by_role },
        dtypes,
        layers: layers_found.or(ask(Config::num_layers)),
        hidden_size: ask(Config::hidden_size),
        intermediate_size: ask(Config::intermediate_size),
        heads: ask(Config::num_heads),
        kv_heads: ask(Config::num_kv_heads),
        head_dim: ask(Config::head_dim),
        experts,
        mixture: Mixture::of(path),
        vocab_size: ask(Config::vocab_size).or(embedding_rows),
        max_positions: ask(Config::max_position_embeddings),
        tied_head: tied.or((embedding_rows.is_some() && has_head).then_some(false)),
        rope: ropes
            .into_iter()
            .map(|rope| Rope {
                layer_type: rope.layer_type,
                kind: rope.kind,
                theta: rope.theta,
                partial: rope.partial,
                parameters: rope.parameters,
            })
            .collect(),
        chat_template: match tokenizer {
            Some(files) => files.chat_template().map_err(Failure::failed)?.is_some(),
            None => false,
        },
        tokenizer: tokenizer.map(describe).transpose()?.flatten(),
        files: files.collect(),
        bytes: checkpoint.total_bytes(),
        n_tensors: infos.len(),
        notes,
        tensors: list_tensors.then_some(tensors),
    })
}

fn open(path: &Path) -> Result<Opened, Failure> {
    let tokenizer = match ModelDir::open(path) {
        Ok(model) => return Ok(Opened::Model(Box::new(model))),
        Err(ModelDirError::NotADirectory { .. }) => None,
        Err(ModelDirError::NoConfig { .. }) => Some(TokenizerFiles::find(path).map_err(Failure::failed)?),
        Err(ModelDirError::Checkpoint(error)) => return Err(cannot_open(error)),
        Err(error @ (ModelDirError::NotFound { .. } | ModelDirError::WithAdapter { .. })) => {
            return Err(Failure::refused(error));
        }
        Err(error) => return Err(Failure::failed(error)),
    };
    let checkpoint = Checkpoint::open(path).map_err(cannot_open)?;
    Ok(Opened::Weights(Box::new(checkpoint), tokenizer))
}

/// A path that does not exist is wrong usage; a broken file is a failure.
fn cannot_open(error: CheckpointError) -> Failure {
    match error {
        CheckpointError::NotFound { .. } => Failure::refused(error),
        _ => Failure::failed(error),
    }
}

/// The only part of `tokenizer.json` that is needed here.
#[derive(Deserialize)]
struct TokenizerJson {
    model: Option<TokenizerModel>,
}

#[derive(Deserialize)]
struct TokenizerModel {
    r#type: Option<String>,
}

/// `None` when no file belongs to a tokenizer.
fn describe(files: &TokenizerFiles) -> Result<Option<Tokenizer>, Failure> {
    let names = files.names();
    if names.is_empty() {
        return Ok(None);
    }
    let vocabulary = files.vocabulary().map_err(Failure::failed)?;
    // An unreadable file was refused above, where the vocabulary was read from it.
    let said = files
        .paths()
        .find(|path| path.ends_with("tokenizer.json"))
        .and_then(|path| {
            serde_json::from_slice::<TokenizerJson>(
                &glue_tensor::files::read(path, glue_tensor::files::DATA_BYTES).ok()?,
            )
            .ok()
        })
        .and_then(|tokenizer| tokenizer.model?.r#type);
    let has = |name: &str| names.iter().any(|found| found == name);
    let by_file = || match () {
        () if has("merges.txt") => Some("BPE".to_string()),
        () if has("vocab.txt") => Some("WordPiece".to_string()),
        () => names
            .iter()
            .find(|name| name.contains(".model") || name.ends_with(".tiktoken") || *name == "tekken.json")
            .cloned(),
    };
    Ok(Some(Tokenizer {
        kind: said.or_else(by_file),
        vocabulary: vocabulary.map(|tokens| tokens.len()),
        files: names.to_vec(),
    }))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Attention => "attention",
        Role::Mlp => "mlp",
        Role::Norm => "norm",
        Role::Embedding => "embedding",
        Role::Head => "head",
        Role::Router => "router",
        _ => "other",
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
