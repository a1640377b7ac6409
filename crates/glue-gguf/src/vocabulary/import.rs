//! From keys to `tokenizer.json` and what stands beside it.

use super::merges::{check_lengths, splits};
use super::pre::{self, PreTokenizer};
use super::{SPACE, SPECIAL, kind};
use crate::container::{GgufFile, Value as Stored};
use crate::error::GgufError;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Tokens that end a turn or a message, and so an answer, as llama.cpp knows them by their texts.
const ENDS: [&str; 10] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<｜end▁of▁sentence｜>",
];

/// The tokenizer of a file, as files of a model directory.
#[derive(Debug)]
pub(crate) struct TokenizerOutput {
    /// Names and contents; none where the file has no tokenizer.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Keys that `config.json` and `generation_config.json` both have, such as `bos_token_id`.
    pub(crate) ids: Map<String, Value>,
}

/// Rebuilds the tokenizer of `file`, a model with `rows` rows in its embedding that sees `context` positions. `named`
/// overrides the name of the pre-tokenizer.
///
/// # Errors
/// [`GgufError::Vocabulary`] for keys that are missing or malformed, and for forms that are not known.
pub(crate) fn tokenizer_files(
    file: &GgufFile,
    rows: u64,
    context: u64,
    named: Option<&str>,
) -> Result<TokenizerOutput, GgufError> {
    let keys = Keys { file };
    let model = keys.text("tokenizer.ggml.model").unwrap_or("none");
    if matches!(model, "none" | "no_vocab") {
        return Ok(TokenizerOutput { files: Vec::new(), ids: Map::new() });
    }
    let tokens = keys.tokens(rows)?;
    let tokenizer = match model {
        "gpt2" => keys.bpe(&tokens, named)?,
        "llama" => keys.spm(&tokens)?,
        other => {
            return keys.error(format!("a tokenizer of the form `{other}` cannot be read; `gpt2` and `llama` can"));
        }
    };
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("model_max_length".into(), context.into());
    let mut ids = Map::new();
    for (key, name) in SPECIAL {
        if let Some(id) = keys.id(key, tokens.list.len())? {
            config.insert(name.into(), tokens.list[id].0.clone().into());
            if name != "unk_token" {
                ids.insert(format!("{name}_id"), id.into());
            }
        }
    }
    if let Some(template) = keys.text("tokenizer.chat_template") {
        config.insert("chat_template".into(), template.into());
    }
    let ends = keys.ends(&tokens)?;
    if ends.len() > 1 {
        ids.insert("eos_token_id".into(), json!(ends));
    }
    let text = |value: &Value| format!("{value:#}\n").into_bytes();
    let files = vec![
        ("tokenizer.json".to_string(), text(&tokenizer)),
        ("tokenizer_config.json".to_string(), text(&Value::Object(config))),
    ];
    Ok(TokenizerOutput { files, ids })
}

struct Keys<'a> {
    file: &'a GgufFile,
}

/// Text and kind of each token.
struct Tokens {
    list: Vec<(String, i32)>,
}

impl Tokens {
    fn of_kinds<'a>(&'a self, kinds: &'a [i32]) -> impl Iterator<Item = (usize, &'a str)> {
        let all = self.list.iter().enumerate().map(|(id, (text, kind))| (id, text.as_str(), kind));
        all.filter(|(.., kind)| kinds.contains(kind)).map(|(id, text, _)| (id, text))
    }
}

impl Keys<'_> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, GgufError> {
        Err(GgufError::Vocabulary { path: self.file.path().to_path_buf(), message: message.into() })
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.file.metadata().get(key).and_then(Stored::as_str)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.file.metadata().get(key).and_then(Stored::as_bool)
    }

    /// A list, each value of which `get` takes; `None` when the key is not there.
    fn list<'s, T>(&'s self, key: &str, get: impl Fn(&'s Stored) -> Option<T>) -> Result<Option<Vec<T>>, GgufError> {
        let Some(value) = self.file.metadata().get(key) else { return Ok(None) };
        let values = value.as_array().and_then(|list| list.iter().map(get).collect());
        if values.is_some() { Ok(values) } else { self.error(format!("`{key}` is not a list of the expected type")) }
    }

    /// The id of a special token among `count`; one that does not exist counts as absent, as llama.cpp has it.
    fn id(&self, key: &str, count: usize) -> Result<Option<usize>, GgufError> {
        match self.file.metadata().get(key).map(Stored::as_u64) {
            None => Ok(None),
            Some(Some(id)) => Ok(usize::try_from(id).ok().filter(|&id| id < count)),
            Some(None) => self.error(format!("`{key}` is not the id of a token")),
        }
    }

    fn tokens(&self, rows: u64) -> Result<Tokens, GgufError> {
        let Some(texts) = self.list("tokenizer.ggml.tokens", Stored::as_str)? else {
            return self.error("it has no `tokenizer.ggml.tokens`");
        };
        let as_kind = |value: &Stored| if let Stored::I32(kind) = value { Some(*kind) } else { None };
        let kinds = self.list("tokenizer.ggml.token_type", as_kind)?.unwrap_or_else(|| vec![kind::NORMAL; texts.len()]);
        if texts.len() as u64 > rows || kinds.len() != texts.len() {
            let (tokens, kinds) = (texts.len(), kinds.len());
            return self
                .error(format!("it has {tokens} tokens, {kinds} kinds of tokens, and {rows} rows of the embedding"));
        }
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (id, text) in texts.iter().enumerate() {
            if let Some(other) = seen.insert(text, id) {
                return self.error(format!("token {text:?} has the ids {other} and {id}"));
            }
        }
        Ok(Tokens { list: texts.into_iter().map(str::to_string).zip(kinds).collect() })
    }

    /// `tokenizer.json` with all but what the two forms have for themselves.
    fn common(&self, tokens: &Tokens, model: Value, add_bos: bool) -> Result<Map<String, Value>, GgufError> {
        let added = tokens.list.iter().enumerate().filter_map(|(id, (text, kind))| {
            let special = match *kind {
                kind::CONTROL | kind::UNKNOWN => true,
                kind::USER_DEFINED => false,
                _ => return None,
            };
            Some(json!({
                "id": id,
                "content": text,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            }))
        });
        let mut json = Map::new();
        json.insert("version".into(), "1.0".into());
        json.insert("truncation".into(), Value::Null);
        json.insert("padding".into(), Value::Null);
        json.insert("added_tokens".into(), added.collect());
        for key in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] {
            json.insert(key.into(), Value::Null);
        }
        json.insert("model".into(), model);
        let add_bos = self.flag("tokenizer.ggml.add_bos_token").unwrap_or(add_bos);
        let add_eos = self.flag("tokenizer.ggml.add_eos_token").unwrap_or(false);
        let affix = |add: bool, key: &str| match self.id(key, tokens.list.len())? {
            Some(id) if add => Ok(Some((tokens.list[id].0.as_str(), id))),
            None if add => self.error(format!("it adds a token to each text, and `{key}` is not there")),
            _ => Ok(None),
        };
        let (before, after) = (affix(add_bos, SPECIAL[0].0)?, affix(add_eos, SPECIAL[1].0)?);
        if before.or(after).is_some() {
            json.insert("post_processor".into(), template(before, after));
        }
        Ok(json)
    }

    /// The texts and ids of a vocabulary, without what only fills it up.
    fn vocabulary(&self, tokens: &Tokens) -> Map<String, Value> {
        let is_filler = |text: &str, kind: i32| kind == kind::UNUSED && text.starts_with("[PAD");
        let kept = tokens.list.iter().enumerate().filter(|(_, (text, kind))| !is_filler(text, *kind));
        kept.map(|(id, (text, _))| (text.clone(), id.into())).collect()
    }

    fn pre_tokenizer(&self, named: Option<&str>) -> Result<&'static PreTokenizer, GgufError> {
        let name = named.or(self.text("tokenizer.ggml.pre")).unwrap_or("default");
        match pre::named(name) {
            Some(found) => Ok(found),
            None => {
                let known = pre::names();
                self.error(format!("its pre-tokenizer `{name}` is not known; one of these can be named: {known}"))
            }
        }
    }

    fn bpe(&self, tokens: &Tokens, named: Option<&str>) -> Result<Value, GgufError> {
        let pre = self.pre_tokenizer(named)?;
        let Some(merges) = self.list("tokenizer.ggml.merges", Stored::as_str)? else {
            return self.error("it has no `tokenizer.ggml.merges`");
        };
        // Neither side is empty, so that a space at the beginning belongs to the first.
        let pair = |merge: &str| {
            let first = merge.chars().next()?.len_utf8();
            let at = first + merge[first..].find(' ')?;
            Some(json!([&merge[..at], &merge[at + 1..]]))
        };
        let mut pairs = Vec::with_capacity(merges.len());
        for merge in merges {
            match pair(merge) {
                Some(pair) => pairs.push(pair),
                None => return self.error(format!("the merge {merge:?} is no pair of tokens")),
            }
        }
        let model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.whole_words,
            "vocab": self.vocabulary(tokens),
            "merges": pairs,
        });
        let mut json = self.common(tokens, model, pre.whole_words)?;
        json.insert("pre_tokenizer".into(), pre.to_json());
        let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        json.insert("decoder".into(), level);
        Ok(Value::Object(json))
    }

    fn spm(&self, tokens: &Tokens) -> Result<Value, GgufError> {
        let as_score = |value: &Stored| if let Stored::F32(score) = value { Some(*score) } else { None };
        let scores = self.list("tokenizer.ggml.scores", as_score)?.unwrap_or_default();
        if scores.len() != tokens.list.len() || scores.iter().any(|score| score.is_nan()) {
            return self.error(format!("it has {} scores for {} tokens", scores.len(), tokens.list.len()));
        }
        let merged: HashMap<&str, usize> =
            tokens.of_kinds(&[kind::NORMAL, kind::USER_DEFINED]).map(|(id, text)| (text, id)).collect();
        if let Err(message) = check_lengths(merged.keys().copied()) {
            return self.error(message);
        }
        let mut merges: Vec<(usize, &str, &str)> = Vec::new();
        for (id, text) in tokens.of_kinds(&[kind::NORMAL, kind::USER_DEFINED]) {
            let known = splits(text).filter(|(left, right)| merged.contains_key(left) && merged.contains_key(right));
            merges.extend(known.map(|(left, right)| (id, left, right)));
        }
        // The highest score first; of one token, the shortest beginning.
        merges.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then(a.0.cmp(&b.0)));
        let unknown = tokens.of_kinds(&[kind::UNKNOWN]).map(|(_, text)| text).next();
        let model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": self.vocabulary(tokens),
            "merges": merges.iter().map(|(_, left, right)| json!([left, right])).collect::<Vec<_>>(),
        });
        let mut json = self.common(tokens, model, true)?;
        let prefix = self.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let normalizer = if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]})
        } else {
            replace
        };
        json.insert("normalizer".into(), normalizer);
        json.insert("decoder".into(), json!({"type": "Sequence", "decoders": decoders}));
        Ok(Value::Object(json))
    }

    /// The tokens that end an answer, the end of a text first.
    fn ends(&self, tokens: &Tokens) -> Result<Vec<usize>, GgufError> {
        let mut ends = Vec::new();
        for key in [SPECIAL[1].0, "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
            ends.extend(self.id(key, tokens.list.len())?);
        }
        let known = tokens.of_kinds(&[kind::CONTROL]).filter(|(_, text)| ENDS.contains(text));
        ends.extend(known.map(|(id, _)| id));
        let mut seen = std::collections::HashSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(ends)
    }
}

/// A post-processor that adds tokens before and after a text.
fn template(before: Option<(&str, usize)>, after: Option<(&str, usize)>) -> Value {
    let special = |affix: Option<(&str, usize)>, number: u32| {
        affix.map(|(text, _)| json!({"SpecialToken": {"id": text, "type_id": number}}))
    };
    let text = |name: &str, number: u32| {
        let middle = json!({"Sequence": {"id": name, "type_id": number}});
        special(before, number).into_iter().chain([middle]).chain(special(after, number)).collect::<Vec<Value>>()
    };
    let mut tokens = Map::new();
    for (text, id) in before.into_iter().chain(after) {
        tokens.insert(text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]}));
    }
    let pair = [text("A", 0), text("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}
