//! From text to token ids and back, by the `tokenizer.json` of a model directory.
//!
//! What `tokenizer.json` does not say comes from the files beside it: which tokens begin and end a text
//! (`tokenizer_config.json`, `special_tokens_map.json`), which ids end a generation (`generation_config.json`, or else
//! `config.json`), and the chat templates.
//!
//! The file is as untrusted as the rest of a model directory. What its pipeline of steps can make of a text is bounded
//! from the file; where that is much, the work is done within limits (see [`crate::bounded`]). A panic of the crate
//! `tokenizers`, which believes its files, is an error here.

mod pipeline;

use crate::bounded::{self, Exceeded, Limits};
use crate::chat::{ChatError, ChatTemplate};
use crate::decode_stream::DecodeStream;
use glue_tensor::files;
use glue_tensor::tokenizer_files::{TokenizerFiles, TokenizerFilesError};
use pipeline::{Growth, Pipeline};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokenizers::{AddedToken, ModelWrapper};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const MODEL_CONFIG: &str = "config.json";
const DEFAULT_TEMPLATE: &str = "default";

/// The keys under which the configuration of a tokenizer names a special token.
const ROLES: &[&str] = &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Bytes that a text may grow to without being watched: a text of half a megabyte with the tokenizer of a Llama.
const UNWATCHED: f64 = (8 << 20) as f64;

/// Limits for loading a file of `bytes` bytes. A token is some allocations, and the largest vocabularies have a million
/// of tokens and merges in 30 MB.
fn limits_of_file(bytes: usize) -> Limits {
    Limits { memory: (256 << 20) + bytes.saturating_mul(256).min(4 << 30), time: Duration::from_secs(60) }
}

/// Limits for work on a text of `bytes` bytes: 256 MiB and 1 KiB a byte, of which a tokenizer in use needs a third;
/// half a minute, and a second for each 100 kB.
fn limits_of_text(bytes: usize) -> Limits {
    Limits {
        memory: bytes.saturating_mul(1 << 10).saturating_add(256 << 20),
        time: Duration::from_secs(30 + bytes as u64 / 100_000),
    }
}

/// Why there is no tokenizer, or why it refused a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The directory has a vocabulary, but not in the one form that is read here.
    #[error(
        "{}: it has {found}, but no {TOKENIZER}; convert it with transformers: \
         AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        directory.display()
    )]
    NeedsConversion {
        /// The model directory.
        directory: PathBuf,
        /// The file that was found instead.
        found: String,
    },
    /// The directory has no tokenizer at all.
    #[error("{}: no {TOKENIZER} in the directory", directory.display())]
    Missing {
        /// The model directory.
        directory: PathBuf,
    },
    /// The tokenizer files cannot be listed, or the chat template cannot be read.
    #[error(transparent)]
    Files(#[from] TokenizerFilesError),
    /// The system refused an operation.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key.
        message: String,
    },
    /// A text has no encoding, such as one with an unknown character in a vocabulary without an unknown token.
    #[error("cannot encode {text:?}: {message}")]
    Encode {
        /// The beginning of the text.
        text: String,
        /// What the tokenizer said.
        message: String,
    },
    /// What the file asks for was stopped.
    #[error("{}: {action} was stopped", path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
        /// What was done.
        action: &'static str,
        /// Why it was stopped.
        #[source]
        error: Exceeded,
    },
    /// Ids have no text.
    #[error("cannot decode {count} tokens: {message}")]
    Decode {
        /// How many tokens there were.
        count: usize,
        /// What the tokenizer said.
        message: String,
    },
}

/// The tokenizer of a model. Encoding is a function of the text alone: truncation, padding and dropout that its file
/// may ask for are switched off.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    /// Set once work on a text was abandoned. What such work holds is never given back, so there is no second time.
    abandoned: Arc<AtomicBool>,
    path: PathBuf,
    growth: Growth,
    /// Bytes of the longest token.
    longest: usize,
    special_tokens: BTreeMap<String, String>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    end: BTreeSet<u32>,
    prefix: Option<u32>,
    suffix: Option<u32>,
    last: Option<(u32, String)>,
    last_of_vocabulary: Option<(u32, String)>,
    /// Ids of all special tokens.
    special: BTreeSet<u32>,
    templates: BTreeMap<String, String>,
}

impl Tokenizer {
    /// Reads the tokenizer of the model directory `directory`.
    ///
    /// A special token is looked up in `tokenizer_config.json`, then in `special_tokens_map.json`; one that is not in
    /// the vocabulary has no id. BOS and padding that the tokenizer does not name come from `generation_config.json`,
    /// then from `config.json`.
    ///
    /// # Errors
    /// [`TokenizerError`]; a directory that has `tokenizer.model`, `vocab.json` or another vocabulary instead of
    /// `tokenizer.json` is refused.
    pub fn load(directory: impl AsRef<Path>) -> Result<Tokenizer, TokenizerError> {
        let directory = directory.as_ref();
        let files = TokenizerFiles::find(directory)?;
        if !files.names().iter().any(|name| name == TOKENIZER) {
            let directory = directory.to_path_buf();
            let found = files.names().iter().find(|name| is_vocabulary(name)).cloned();
            return Err(match found {
                Some(found) => TokenizerError::NeedsConversion { directory, found },
                None => TokenizerError::Missing { directory },
            });
        }
        let path = directory.join(TOKENIZER);
        let bytes =
            files::read(&path, files::DATA_BYTES).map_err(|error| TokenizerError::Io { path: path.clone(), error })?;
        let config = JsonFile::read(directory, TOKENIZER_CONFIG)?;
        let map = JsonFile::read(directory, SPECIAL_TOKENS)?;
        let generation = JsonFile::read(directory, GENERATION_CONFIG)?;
        let model = JsonFile::read(directory, MODEL_CONFIG)?;

        let mut special_tokens = BTreeMap::new();
        for &role in ROLES {
            let token = match config.token(role)? {
                Some(token) => Some(token),
                None => map.token(role)?,
            };
            special_tokens.extend(token.map(|token| (role.to_string(), token)));
        }
        let (limits, special) = (limits_of_file(bytes.len()), special_tokens.values().cloned().collect::<Vec<_>>());
        let built = bounded::run(limits, move || Built::new(&bytes, &special));
        let Built { inner, growth, silent, last, last_of_vocabulary, special, longest } = built
            .map_err(|error| TokenizerError::Stopped { path: path.clone(), action: "loading the tokenizer", error })?
            .map_err(|message| TokenizerError::Malformed { path: path.clone(), message })?;

        let id_of = |role: &str| special_tokens.get(role).and_then(|token| inner.token_to_id(token));
        let first_id = |key: &str| -> Result<Option<u32>, TokenizerError> {
            let ids = [generation.ids(key)?, model.ids(key)?];
            Ok(ids.iter().find_map(|ids| ids.first().copied()))
        };
        let bos = match id_of("bos_token") {
            Some(id) => Some(id),
            None => first_id("bos_token_id")?,
        };
        let pad = match id_of("pad_token") {
            Some(id) => Some(id),
            None => first_id("pad_token_id")?,
        };
        let mut end = generation.ids("eos_token_id")?;
        if end.is_empty() {
            end = model.ids("eos_token_id")?;
        }
        let eos = id_of("eos_token").or(end.first().copied());
        let end = end.into_iter().chain(eos).collect();

        // Where the post-processor says nothing, the flags do.
        let prefix = bos.filter(|_| silent && config.flag("add_bos_token"));
        let suffix = eos.filter(|_| silent && config.flag("add_eos_token"));

        let templates = templates(directory, &files, &config)?;
        let inner = Arc::new(inner);
        Ok(Tokenizer {
            inner,
            abandoned: Arc::default(),
            path,
            growth,
            longest,
            special_tokens,
            bos,
            eos,
            pad,
            end,
            prefix,
            suffix,
            last,
            last_of_vocabulary,
            special,
            templates,
        })
    }

    /// The ids of `text`. With `add_special` what the tokenizer puts around a text, usually BOS before it, is added;
    /// special tokens that are spelled out in `text` become their ids in any case.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] for a text that the vocabulary cannot express, [`TokenizerError::Stopped`]
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let encode = move |inner: &tokenizers::Tokenizer, text: &str| {
            inner.encode_fast(text, add_special).map(|encoding| encoding.get_ids().to_vec())
        };
        let ids = match self.growth.encoding * text.len() as f64 <= UNWATCHED {
            true => bounded::catch(|| encode(&self.inner, text)).map_err(|message| Exceeded::Panicked { message }),
            false => {
                let (inner, text) = (Arc::clone(&self.inner), text.to_string());
                self.within(limits_of_text(text.len()), move || encode(&inner, &text))
            }
        };
        let ids = ids.map_err(|error| self.stopped("encoding a text", error))?;
        let ids = ids.map_err(|error| encode_error(text, error))?;
        if !add_special || (self.prefix.is_none() && self.suffix.is_none()) {
            return Ok(ids);
        }
        Ok(self.prefix.into_iter().chain(ids).chain(self.suffix).collect())
    }

    /// [`Tokenizer::encode`] of many texts in parallel, in their order.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        add_special: bool,
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), add_special)).collect()
    }

    /// The text of `ids`. Ids outside of the vocabulary have none; with `skip_special` special tokens have none either.
    /// Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`] when the decoder of `tokenizer.json` refuses the tokens, [`TokenizerError::Stopped`]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let bytes = ids.len().saturating_mul(self.longest);
        let decoded = match self.growth.decoding * bytes as f64 <= UNWATCHED {
            true => bounded::catch(|| self.inner.decode(ids, skip_special))
                .map_err(|message| Exceeded::Panicked { message }),
            false => {
                let (inner, ids) = (Arc::clone(&self.inner), ids.to_vec());
                self.within(limits_of_text(bytes), move || inner.decode(&ids, skip_special))
            }
        };
        let decoded = decoded.map_err(|error| self.stopped("decoding tokens", error))?;
        decoded.map_err(|error| TokenizerError::Decode { count: ids.len(), message: error.to_string() })
    }

    /// [`bounded::run`], unless work of this tokenizer was abandoned before.
    fn within<T: Send + 'static>(
        &self,
        limits: Limits,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Exceeded> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(Exceeded::Before);
        }
        let result = bounded::run(limits, job);
        if matches!(result, Err(Exceeded::Memory { .. } | Exceeded::Time { .. })) {
            self.abandoned.store(true, Ordering::Relaxed);
        }
        result
    }

    fn stopped(&self, action: &'static str, error: Exceeded) -> TokenizerError {
        TokenizerError::Stopped { path: self.path.clone(), action, error }
    }

    /// A decoder for ids that come one after the other; see [`DecodeStream`].
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special)
    }

    /// A decoder for ids that continue `context`; see [`DecodeStream`].
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_stream_after(&self, context: &[u32], skip_special: bool) -> Result<DecodeStream<'_>, TokenizerError> {
        DecodeStream::after(self, context, skip_special)
    }

    /// The id of the special token that is spelled `text`, if there is one.
    pub fn special_token_id(&self, text: &str) -> Option<u32> {
        let id = self.inner.token_to_id(text)?;
        self.special.contains(&id).then_some(id)
    }

    /// The id that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id that ends a text: the tokenizer's `eos_token`, or else the first of the configured ids.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The id that fills up a batch.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// All ids that end a generation: `eos_token_id` of `generation_config.json`, which may be several, or else of
    /// `config.json`; and the tokenizer's `eos_token`.
    pub fn end_ids(&self) -> &BTreeSet<u32> {
        &self.end
    }

    /// How many tokens there are, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The largest id of the vocabulary without added tokens, and its token; `None` for an empty one.
    pub fn last_of_vocabulary(&self) -> Option<(u32, &str)> {
        self.last_of_vocabulary.as_ref().map(|(id, token)| (*id, token.as_str()))
    }

    /// The largest id, added tokens included, and its token; `None` for an empty vocabulary.
    pub fn last_token(&self) -> Option<(u32, &str)> {
        self.last.as_ref().map(|(id, token)| (*id, token.as_str()))
    }

    /// The token of an id, as it stands in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token, as it stands in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The special tokens by the key that names them, such as `bos_token`.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// The names of the chat templates; usually there is `default` or none.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// The chat template named `name`, or the default one. `None` when the model has none.
    ///
    /// # Errors
    /// [`ChatError::Template`] when it does not parse.
    pub fn chat_template(&self, name: Option<&str>) -> Result<Option<ChatTemplate>, ChatError> {
        let source = self.templates.get(name.unwrap_or(DEFAULT_TEMPLATE));
        source.map(|source| ChatTemplate::new(source, &self.special_tokens)).transpose()
    }
}

/// A `tokenizer.json` that has been read.
struct Built {
    inner: tokenizers::Tokenizer,
    growth: Growth,
    /// Whether nothing is put around a text.
    silent: bool,
    last: Option<(u32, String)>,
    last_of_vocabulary: Option<(u32, String)>,
    special: BTreeSet<u32>,
    longest: usize,
}

impl Built {
    /// Reads the file; the tokens `special` are special ones, also where it lists them among the ordinary ones.
    fn new(bytes: &[u8], special: &[String]) -> Result<Built, String> {
        let pipeline: Result<Pipeline, _> = serde_json::from_slice(bytes);
        if let Some(defect) = pipeline.as_ref().ok().and_then(Pipeline::defect) {
            return Err(defect);
        }
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
        let growth = pipeline.map_err(|error| format!("not valid JSON: {error}"))?.growth();
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        inner.with_padding(None);
        if let ModelWrapper::BPE(model) = inner.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            inner.with_model(model);
        }
        mark_special(&mut inner, special.iter())?;
        let around = inner.encode_fast("", true).map_err(|error| error.to_string())?;
        let vocabulary = inner.get_vocab(true);
        let longest = vocabulary.keys().map(String::len).max().unwrap_or(0);
        let largest = |vocabulary: HashMap<String, u32>| vocabulary.into_iter().map(|(token, id)| (id, token)).max();
        let (last, last_of_vocabulary) = (largest(vocabulary), largest(inner.get_vocab(false)));
        let special = inner.get_added_tokens_decoder();
        let special = special.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        Ok(Built { inner, growth, silent: around.get_ids().is_empty(), last, last_of_vocabulary, special, longest })
    }
}

fn is_vocabulary(name: &str) -> bool {
    const NAMES: &[&str] = &["vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json"];
    NAMES.contains(&name) || name.starts_with("tokenizer.model") || name.ends_with(".tiktoken")
}

fn encode_error(text: &str, error: tokenizers::Error) -> TokenizerError {
    const SHOWN: usize = 60;
    TokenizerError::Encode { text: text.chars().take(SHOWN).collect(), message: error.to_string() }
}

/// Named special tokens count as special when text is split and when special tokens are left out of it, also where
/// `tokenizer.json` lists them among the ordinary ones.
fn mark_special<'a>(inner: &mut tokenizers::Tokenizer, tokens: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut marked = Vec::new();
    for token in tokens {
        let Some(id) = inner.token_to_id(token) else { continue };
        match inner.get_added_tokens_decoder().get(&id) {
            Some(added) if added.special => {}
            Some(added) => marked.push(added.clone().special(true)),
            None => marked.push(AddedToken::from(token.as_str(), true).normalized(false)),
        }
    }
    inner.add_special_tokens(marked).map_err(|error| error.to_string())?;
    Ok(())
}

/// All chat templates by name: those listed in `tokenizer_config.json`, files in `additional_chat_templates`, and the
/// default one.
fn templates(
    directory: &Path,
    files: &TokenizerFiles,
    config: &JsonFile,
) -> Result<BTreeMap<String, String>, TokenizerError> {
    let mut templates = BTreeMap::new();
    for entry in config.value["chat_template"].as_array().into_iter().flatten() {
        let (Some(name), Some(template)) = (entry["name"].as_str(), entry["template"].as_str()) else {
            return Err(config.malformed("an entry of `chat_template` lacks `name` or `template`"));
        };
        templates.insert(name.to_string(), template.to_string());
    }
    let folder = directory.join("additional_chat_templates");
    if let Ok(entries) = std::fs::read_dir(&folder) {
        for entry in entries {
            let path = entry.map_err(|error| TokenizerError::Io { path: folder.clone(), error })?.path();
            if let (Some(name), true) = (path.file_stem(), path.extension().is_some_and(|e| e == "jinja")) {
                let name = name.to_string_lossy().into_owned();
                let text = files::read_to_string(&path, files::CONFIG_BYTES);
                templates.insert(name, text.map_err(|error| TokenizerError::Io { path, error })?);
            }
        }
    }
    templates.extend(files.chat_template()?.map(|template| (DEFAULT_TEMPLATE.to_string(), template)));
    Ok(templates)
}

/// A JSON object beside the tokenizer; one without keys when the file is absent.
struct JsonFile {
    path: PathBuf,
    value: Value,
}

impl JsonFile {
    fn read(directory: &Path, name: &str) -> Result<JsonFile, TokenizerError> {
        let path = directory.join(name);
        let bytes = match files::read(&path, files::DATA_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(JsonFile { path, value: Value::Object(Default::default()) });
            }
            Err(error) => return Err(TokenizerError::Io { path, error }),
            Ok(bytes) => bytes,
        };
        let file = match serde_json::from_slice(&bytes) {
            Ok(value) => JsonFile { path, value },
            Err(error) => return Err(TokenizerError::Malformed { path, message: format!("not valid JSON: {error}") }),
        };
        if file.value.is_object() { Ok(file) } else { Err(file.malformed("it is not a JSON object")) }
    }

    fn malformed(&self, message: impl Into<String>) -> TokenizerError {
        TokenizerError::Malformed { path: self.path.clone(), message: message.into() }
    }

    /// A token given as a string, or as an object with its `content`.
    fn token(&self, key: &str) -> Result<Option<String>, TokenizerError> {
        match &self.value[key] {
            Value::Null => Ok(None),
            Value::String(token) => Ok(Some(token.clone())),
            value => match value["content"].as_str() {
                Some(token) => Ok(Some(token.to_string())),
                None => {
                    Err(self.malformed(format!("`{key}` is neither a string nor an object with `content`: {value}")))
                }
            },
        }
    }

    /// Ids given as one number or as a list. A negative number stands for none, as in configurations of Llama 1.
    fn ids(&self, key: &str) -> Result<Vec<u32>, TokenizerError> {
        let values = match &self.value[key] {
            Value::Null => &[],
            Value::Array(list) => list.as_slice(),
            value => std::slice::from_ref(value),
        };
        let given = values.iter().filter(|value| value.as_i64().is_none_or(|id| id >= 0));
        let id = |value: &Value| match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(id),
            None => Err(self.malformed(format!("`{key}` holds {value}, which is not a token id"))),
        };
        given.map(id).collect()
    }

    fn flag(&self, key: &str) -> bool {
        self.value[key].as_bool().unwrap_or(false)
    }
}
