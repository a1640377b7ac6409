//! The files that make up a tokenizer: which ones there are, their vocabulary, their chat template.
//!
//! Nothing is tokenized here; the files are compared and carried over to a merged model.

use crate::files::{self, FileChanged, FileVersion};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// From token to id.
pub type Vocabulary = BTreeMap<String, u32>;

/// Files that tokenizers and processors of transformers save under fixed names.
const NAMES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];
/// Where transformers from 4.53 on saves chat templates other than the default one, each as `NAME.jinja`.
const TEMPLATES: &str = "additional_chat_templates";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE_KEY: &str = "chat_template";

/// Parts of `tokenizer.json` that do not change which ids a text gets.
const NOT_TOKENIZATION: &[&str] = &["version", "truncation", "padding"];

/// Why tokenizer files cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerFilesError {
    /// The system refused an operation.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
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
        /// What is wrong.
        message: String,
    },
}

/// The tokenizer files of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFiles {
    directory: PathBuf,
    names: Vec<String>,
    /// In the order of the names.
    versions: Vec<FileVersion>,
}

impl TokenizerFiles {
    /// Lists the tokenizer files in `directory`, without reading them. There may be none.
    ///
    /// # Errors
    /// [`TokenizerFilesError::Io`] when the directory cannot be listed.
    pub fn find(directory: impl AsRef<Path>) -> Result<TokenizerFiles, TokenizerFilesError> {
        let directory = directory.as_ref().to_path_buf();
        let io_error = |error| TokenizerFilesError::Io { path: directory.clone(), error };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let known = NAMES.contains(&name.as_str())
                || name.ends_with(".tiktoken")
                || name.starts_with("tokenizer.model.v")
                || (name.starts_with("tokenization_") && name.ends_with(".py"));
            let path = entry.path();
            if known && let Some(found) = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file) {
                files.push((name, FileVersion::of(path, &found)));
            }
        }
        for entry in std::fs::read_dir(directory.join(TEMPLATES)).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().ok().filter(|name| name.ends_with(".jinja"));
            let found = std::fs::metadata(entry.path()).ok().filter(std::fs::Metadata::is_file);
            if let (Some(name), Some(found)) = (name, found) {
                files.push((format!("{TEMPLATES}/{name}"), FileVersion::of(entry.path(), &found)));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let (names, versions) = files.into_iter().unzip();
        Ok(TokenizerFiles { directory, names, versions })
    }

    /// File names, sorted; those of additional chat templates with the name of their directory, `/` between.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Paths, in the order of the names.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.names.iter().map(|name| self.directory.join(name))
    }

    /// Checks that all files are still those that were listed, and that nobody has written to them since.
    ///
    /// # Errors
    /// [`FileChanged`] with the first file that is not.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.versions.iter().try_for_each(FileVersion::check)
    }

    /// The vocabulary with added tokens: from `tokenizer.json`, or else from `vocab.json` or `vocab.txt` and
    /// `added_tokens.json`. `None` when there is none of them.
    ///
    /// # Errors
    /// [`TokenizerFilesError`] for a file that cannot be read or does not hold a vocabulary.
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>, TokenizerFilesError> {
        if let Some(tokenizer) = self.json("tokenizer.json")? {
            return self.vocabulary_of(&tokenizer).map(Some);
        }
        let mut vocabulary = if let Some(tokens) = self.json("vocab.json")? {
            self.token_map("vocab.json", &tokens)?
        } else if let Some(bytes) = self.read("vocab.txt")? {
            let text = self.utf8("vocab.txt", bytes)?;
            text.lines().zip(0..).map(|(token, id)| (token.to_string(), id)).collect()
        } else {
            return Ok(None);
        };
        if let Some(added) = self.json("added_tokens.json")? {
            vocabulary.extend(self.token_map("added_tokens.json", &added)?);
        }
        Ok(Some(vocabulary))
    }

    /// The default chat template: from `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`, the
    /// first that has one.
    ///
    /// # Errors
    /// [`TokenizerFilesError`] for a file that cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>, TokenizerFilesError> {
        if let Some(bytes) = self.read("chat_template.jinja")? {
            return self.utf8("chat_template.jinja", bytes).map(Some);
        }
        for name in ["chat_template.json", CONFIG] {
            if let Some(template) = self.json(name)?.as_ref().and_then(default_template) {
                return Ok(Some(template.to_string()));
            }
        }
        Ok(None)
    }

    /// The files to write instead of those here, by name and content, so that `template` is the default chat template.
    ///
    /// It goes where the current one is, and into `tokenizer_config.json` when there is none. Other named templates of
    /// a list stay.
    ///
    /// # Errors
    /// [`TokenizerFilesError`] for a file that cannot be read.
    pub fn with_chat_template(&self, template: &str) -> Result<Vec<(String, Vec<u8>)>, TokenizerFilesError> {
        if self.has("chat_template.jinja") {
            return Ok(vec![("chat_template.jinja".to_string(), template.as_bytes().to_vec())]);
        }
        let in_json = self.json("chat_template.json")?.filter(|value| default_template(value).is_some());
        let (name, mut config) = match in_json {
            Some(value) => ("chat_template.json", value),
            None => (CONFIG, self.json(CONFIG)?.unwrap_or_else(|| serde_json::json!({}))),
        };
        let Value::Object(object) = &mut config else {
            return Err(self.malformed(name, "it is not a JSON object"));
        };
        match object.get_mut(TEMPLATE_KEY) {
            Some(Value::Array(list)) => {
                match list.iter_mut().find(|entry| entry["name"] == "default") {
                    Some(entry) if entry.is_object() => entry["template"] = template.into(),
                    _ => list.push(serde_json::json!({ "name": "default", "template": template })),
                };
            }
            _ => {
                object.insert(TEMPLATE_KEY.to_string(), template.into());
            }
        }
        Ok(vec![(name.to_string(), format!("{config:#}\n").into_bytes())])
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|found| found == name)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, TokenizerFilesError> {
        if !self.has(name) {
            return Ok(None);
        }
        let path = self.directory.join(name);
        files::read(&path, files::DATA_BYTES).map(Some).map_err(|error| TokenizerFilesError::Io { path, error })
    }

    fn json(&self, name: &str) -> Result<Option<Value>, TokenizerFilesError> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|e| self.malformed(name, format!("not valid JSON: {e}")))
    }

    fn utf8(&self, name: &str, bytes: Vec<u8>) -> Result<String, TokenizerFilesError> {
        String::from_utf8(bytes).map_err(|e| self.malformed(name, format!("not UTF-8: {}", e.utf8_error())))
    }

    fn malformed(&self, name: &str, message: impl Into<String>) -> TokenizerFilesError {
        TokenizerFilesError::Malformed { path: self.directory.join(name), message: message.into() }
    }

    fn token_map(&self, name: &str, value: &Value) -> Result<Vocabulary, TokenizerFilesError> {
        let object = value.as_object().ok_or_else(|| self.malformed(name, "not an object from token to id"))?;
        let entries = object.iter().map(|(token, id)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok((token.clone(), id)),
            None => Err(self.malformed(name, format!("token {token:?} has id {id}, which is not a 32-bit number"))),
        });
        entries.collect()
    }

    fn vocabulary_of(&self, tokenizer: &Value) -> Result<Vocabulary, TokenizerFilesError> {
        let name = "tokenizer.json";
        let mut vocabulary = match &tokenizer["model"]["vocab"] {
            // Unigram: the id is the position, and every entry is a token and its score.
            Value::Array(list) => {
                let tokens = list.iter().zip(0..).map(|(entry, id)| match entry[0].as_str() {
                    Some(token) => Ok((token.to_string(), id)),
                    None => Err(self.malformed(name, format!("entry {id} of its vocabulary has no token"))),
                });
                tokens.collect::<Result<_, _>>()?
            }
            vocab => self.token_map(name, vocab)?,
        };
        for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let id = added["id"].as_u64().and_then(|id| u32::try_from(id).ok());
            let (Some(token), Some(id)) = (added["content"].as_str(), id) else {
                return Err(self.malformed(name, format!("added token {added} lacks content or id")));
            };
            vocabulary.insert(token.to_string(), id);
        }
        Ok(vocabulary)
    }
}

fn default_template(config: &Value) -> Option<&str> {
    match config.get(TEMPLATE_KEY)? {
        Value::Array(list) => {
            let default = list.iter().find(|entry| entry["name"] == "default");
            default.or(list.first())?["template"].as_str()
        }
        template => template.as_str(),
    }
}

/// How two tokenizers relate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerComparison {
    /// Every text gets the same ids.
    Equal,
    /// Every token has the same id, but text may be split differently (merges, normalisation, pre-tokenization).
    SameVocabulary,
    /// Some id means something else.
    Different {
        /// The first difference, in the order of ids.
        why: TokenizerDifference,
    },
}

/// What tells two vocabularies apart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerDifference {
    /// A token has two ids, or one only.
    Token {
        /// The token.
        token: String,
        /// Its id in the first tokenizer.
        first: Option<u32>,
        /// Its id in the second.
        second: Option<u32>,
    },
    /// Only one of the directories has a tokenizer, or they share no file that could be compared.
    Files {
        /// Files of the first.
        first: Vec<String>,
        /// Files of the second.
        second: Vec<String>,
    },
    /// A vocabulary file that is opaque here (such as `tokenizer.model`) differs.
    Content {
        /// Its name.
        file: String,
    },
}

impl fmt::Display for TokenizerDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: &Option<u32>| id.map_or("absent".to_string(), |id| format!("id {id}"));
        match self {
            TokenizerDifference::Token { token, first, second } => {
                write!(f, "token {token:?} is {} in the first and {} in the second", id(first), id(second))
            }
            TokenizerDifference::Files { first, second } => {
                write!(f, "no tokenizer file in common: {first:?} and {second:?}")
            }
            TokenizerDifference::Content { file } => write!(f, "`{file}` differs"),
        }
    }
}

/// Compares the tokenizers of two directories. Two directories without one are equal.
///
/// # Errors
/// [`TokenizerFilesError`] for a file that cannot be read or does not hold a vocabulary.
pub fn tokenizers_equal(a: &TokenizerFiles, b: &TokenizerFiles) -> Result<TokenizerComparison, TokenizerFilesError> {
    let why = match (a.vocabulary()?, b.vocabulary()?) {
        (Some(first), Some(second)) => match first_difference(&first, &second) {
            Some(why) => why,
            None if splits_alike(a, b)? => return Ok(TokenizerComparison::Equal),
            None => return Ok(TokenizerComparison::SameVocabulary),
        },
        (None, None) => match opaque_difference(a, b)? {
            Some(why) => why,
            None => return Ok(TokenizerComparison::Equal),
        },
        _ => TokenizerDifference::Files { first: a.names.clone(), second: b.names.clone() },
    };
    Ok(TokenizerComparison::Different { why })
}

fn first_difference(first: &Vocabulary, second: &Vocabulary) -> Option<TokenizerDifference> {
    let in_first = first.iter().filter(|(token, id)| second.get(*token) != Some(id));
    let in_second = second.iter().filter(|(token, id)| first.get(*token) != Some(id));
    let (token, _) = in_first.chain(in_second).min_by_key(|(token, id)| (**id, token.as_str()))?;
    let (first, second) = (first.get(token).copied(), second.get(token).copied());
    Some(TokenizerDifference::Token { token: token.clone(), first, second })
}

/// Whether everything besides the vocabulary that decides ids is equal.
fn splits_alike(a: &TokenizerFiles, b: &TokenizerFiles) -> Result<bool, TokenizerFilesError> {
    match (a.json("tokenizer.json")?, b.json("tokenizer.json")?) {
        (Some(first), Some(second)) => Ok(normalised(first) == normalised(second)),
        (None, None) => Ok(a.read("merges.txt")? == b.read("merges.txt")?),
        _ => Ok(false),
    }
}

/// `tokenizer.json` without what does not matter, and with merges in the newer of their two forms.
fn normalised(mut tokenizer: Value) -> Value {
    if let Value::Object(object) = &mut tokenizer {
        object.retain(|key, _| !NOT_TOKENIZATION.contains(&key.as_str()));
    }
    if let Some(Value::Array(merges)) = tokenizer.pointer_mut("/model/merges") {
        for merge in merges {
            if let Some((left, right)) = merge.as_str().and_then(|merge| merge.split_once(' ')) {
                *merge = serde_json::json!([left, right]);
            }
        }
    }
    tokenizer
}

fn opaque_difference(
    a: &TokenizerFiles,
    b: &TokenizerFiles,
) -> Result<Option<TokenizerDifference>, TokenizerFilesError> {
    let vocabularies = |files: &TokenizerFiles| -> Vec<String> {
        let opaque = |name: &&String| name.contains(".model") || name.ends_with(".tiktoken") || *name == "tekken.json";
        files.names.iter().filter(opaque).cloned().collect()
    };
    let (first, second) = (vocabularies(a), vocabularies(b));
    if first.is_empty() && second.is_empty() {
        return Ok(None);
    }
    let common: Vec<&String> = first.iter().filter(|name| second.contains(name)).collect();
    if common.is_empty() {
        return Ok(Some(TokenizerDifference::Files { first: a.names.clone(), second: b.names.clone() }));
    }
    for name in common {
        if a.read(name)? != b.read(name)? {
            return Ok(Some(TokenizerDifference::Content { file: name.clone() }));
        }
    }
    Ok(None)
}
