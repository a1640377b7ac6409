//! From `tokenizer.json` to keys.

use super::bytes::{byte_of, token_of};
use super::merges::{Merges, check_lengths, splits};
use super::{SPACE, SPECIAL, kind, pre};
use crate::container::{Metadata, Value as Stored};
use crate::error::GgufError;
use crate::source::ExportModel;
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

/// The score of a token that no merge makes.
const NO_MERGE: f32 = -1e6;

/// Sets the keys that describe the tokenizer and the chat template of `model`, whose embedding has `vocabulary` rows.
/// `named` overrides the name of the pre-tokenizer. What llama.cpp does otherwise is added to `notes`. Returns whether
/// special tokens take the white space behind them along, as Phi-3's do: llama.cpp tells that by the model's name.
///
/// # Errors
/// [`GgufError::Vocabulary`] for what cannot be expressed.
pub(crate) fn set_keys(
    model: &ExportModel,
    vocabulary: usize,
    named: Option<&str>,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<bool, GgufError> {
    let files = &model.tokenizer.files;
    if files.is_empty() {
        metadata.set("tokenizer.ggml.model", "none");
        notes.push("the model has no tokenizer, and neither has the file".to_string());
        return Ok(false);
    }
    let path = |name: &str| model.tokenizer.path.join(name);
    let json = |name: &str| match files.get(name) {
        None => Ok(None),
        Some(bytes) => serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|error| GgufError::Vocabulary { path: path(name), message: format!("not valid JSON: {error}") }),
    };
    let Some(tokenizer) = json("tokenizer.json")? else {
        let message = "the tokenizer has no tokenizer.json; transformers writes one: \
                       `AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL)`";
        return Err(GgufError::Vocabulary { path: model.tokenizer.path.clone(), message: message.to_string() });
    };
    let config = json("tokenizer_config.json")?.unwrap_or(Value::Null);
    let map = json("special_tokens_map.json")?.unwrap_or(Value::Null);
    let source = Source { path: path("tokenizer.json"), tokenizer, config, map, model };
    let tokens = source.tokens(vocabulary)?;
    let is_spm = source.is_sentencepiece_like();
    if is_spm {
        source.set_spm(&tokens, metadata)?
    } else {
        source.set_bpe(&tokens, named, metadata, notes)?
    }
    let (texts, kinds): (Vec<String>, Vec<i32>) = tokens.list.iter().cloned().unzip();
    metadata.set("tokenizer.ggml.tokens", texts);
    metadata.set("tokenizer.ggml.token_type", kinds.into_iter().map(Stored::I32).collect::<Vec<_>>());
    source.set_special(&tokens, metadata, notes)?;
    if let Some(template) = &model.tokenizer.chat_template {
        metadata.set("tokenizer.chat_template", template.as_str());
    }
    Ok(source.strips(&tokens, notes))
}

/// Tokens that llama.cpp expects of a Phi-3, and whose white space it leaves alone but for the first.
const PHI3: [&str; 4] = ["</s>", "<unk>", "<s>", "<|endoftext|>"];

struct Source<'a> {
    path: PathBuf,
    tokenizer: Value,
    config: Value,
    map: Value,
    model: &'a ExportModel,
}

/// The tokens of a model: one for each row of its embedding.
struct Tokens {
    /// Text and kind, by id.
    list: Vec<(String, i32)>,
    ids: HashMap<String, u32>,
}

impl Source<'_> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, GgufError> {
        Err(GgufError::Vocabulary { path: self.path.clone(), message: message.into() })
    }

    fn tokens(&self, vocabulary: usize) -> Result<Tokens, GgufError> {
        let bpe = &self.tokenizer["model"];
        if bpe["type"] != "BPE" {
            return self.error(format!("its model is {}, and only BPE can be exported", bpe["type"]));
        }
        let Some(vocab) = bpe["vocab"].as_object() else { return self.error("its vocabulary is no object") };
        let added = self.tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut slots: Vec<Option<(String, i32)>> = vec![None; vocabulary];
        let mut place = |text: &str, id: Option<u64>, kind: i32| -> Result<(), GgufError> {
            let Some(id) = id else { return self.error(format!("token {text:?} has no id")) };
            let slot = usize::try_from(id).ok().and_then(|id| slots.get_mut(id));
            let Some(slot) = slot else {
                return self.error(format!("token {text:?} has id {id}, and the embedding has {vocabulary} rows"));
            };
            match slot {
                Some((other, _)) if other != text => self.error(format!("{other:?} and {text:?} both have id {id}")),
                _ => {
                    *slot = Some((text.to_string(), kind));
                    Ok(())
                }
            }
        };
        for (text, id) in vocab {
            let kind = if byte_of(text).is_some() && bpe["byte_fallback"] == true { kind::BYTE } else { kind::NORMAL };
            place(text, id.as_u64(), kind)?;
        }
        let unknown = bpe["unk_token"].as_str();
        for token in added {
            let Some(text) = token["content"].as_str() else { return self.error("an added token has no content") };
            let kind = match (token["special"].as_bool(), unknown == Some(text)) {
                (_, true) => kind::UNKNOWN,
                (Some(true), _) => kind::CONTROL,
                _ => kind::USER_DEFINED,
            };
            place(text, token["id"].as_u64(), kind)?;
        }
        let mut ids: HashMap<String, u32> = HashMap::new();
        let mut list = Vec::with_capacity(vocabulary);
        for (id, slot) in (0u32..).zip(slots) {
            let (text, kind) = slot.unwrap_or_else(|| {
                let mut text = format!("[PAD{id}]");
                while vocab.contains_key(&text) || added.iter().any(|token| token["content"] == text.as_str()) {
                    text.push('_');
                }
                (text, kind::UNUSED)
            });
            if ids.insert(text.clone(), id).is_some() {
                return self.error(format!("token {text:?} has two ids"));
            }
            list.push((text, kind));
        }
        let learned = list.iter().filter(|(_, kind)| *kind == kind::NORMAL).map(|(text, _)| text.as_str());
        match check_lengths(learned) {
            Ok(()) => Ok(Tokens { list, ids }),
            Err(message) => self.error(message),
        }
    }

    /// Whether spaces are written as `▁` and unknown characters as bytes.
    fn is_sentencepiece_like(&self) -> bool {
        let mentions = |value: &Value| value.to_string().contains(SPACE);
        self.tokenizer["model"]["byte_fallback"] == true
            || mentions(&self.tokenizer["normalizer"])
            || mentions(&self.tokenizer["pre_tokenizer"])
    }

    fn merges(&self) -> Result<Vec<(&str, &str)>, GgufError> {
        let list = self.tokenizer["model"]["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pairs = list.iter().map(|merge| match merge {
            Value::String(text) => text.split_once(' '),
            pair => Some((pair[0].as_str()?, pair[1].as_str()?)),
        });
        match pairs.collect() {
            Some(pairs) => Ok(pairs),
            None => self.error("a merge is no pair of tokens"),
        }
    }

    /// Refuses what no form of llama.cpp has.
    fn refuse_extras(&self) -> Result<(), GgufError> {
        let bpe = &self.tokenizer["model"];
        for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            let value = &bpe[key];
            if !(value.is_null() || value == "" || value.as_f64() == Some(0.0)) {
                return self.error(format!("`{key}` is {value}, which llama.cpp does not have"));
            }
        }
        Ok(())
    }

    fn set_bpe(
        &self,
        tokens: &Tokens,
        named: Option<&str>,
        metadata: &mut Metadata,
        notes: &mut Vec<String>,
    ) -> Result<(), GgufError> {
        self.refuse_extras()?;
        let mut normalizers = vec![&self.tokenizer["normalizer"]];
        while let Some(normalizer) = normalizers.pop() {
            match normalizer["type"].as_str() {
                None => {}
                Some("Sequence") => normalizers.extend(normalizer["normalizers"].as_array().into_iter().flatten()),
                Some("NFC") => notes.push(
                    "the tokenizer brings texts into the normal form NFC, and llama.cpp does not: texts in another form \
                     get other tokens"
                        .to_string(),
                ),
                Some(other) => return self.error(format!("its normalizer is a `{other}`, which llama.cpp does not have")),
            }
        }
        let merges = self.merges()?;
        let name = match named {
            Some(name) => name,
            None => {
                let steps = pre::steps(&self.tokenizer["pre_tokenizer"]);
                let found = steps.and_then(|steps| pre::find(&steps, self.whole_words(tokens, &merges)));
                match found {
                    Ok(found) => found.name,
                    Err(message) => return self.error(format!("its pre-tokenizer: {message}")),
                }
            }
        };
        metadata.set("tokenizer.ggml.model", "gpt2");
        metadata.set("tokenizer.ggml.pre", name);
        if let Some((left, right)) = merges.iter().find(|(left, right)| left.contains(' ') || right.contains(' ')) {
            return self
                .error(format!("the merge of {left:?} and {right:?} has a space, which stands between the two"));
        }
        let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        metadata.set("tokenizer.ggml.merges", merges);
        Ok(())
    }

    /// Whether words that are tokens are not merged; `None` where merges give the same.
    fn whole_words(&self, tokens: &Tokens, merges: &[(&str, &str)]) -> Option<bool> {
        let ids: HashMap<&str, u32> = tokens.ids.iter().map(|(text, &id)| (text.as_str(), id)).collect();
        let merges = Merges::new(&ids, merges.iter().copied());
        let mut learned = tokens.list.iter().filter(|(_, kind)| *kind == kind::NORMAL);
        let all_reached = learned.all(|(text, _)| merges.reach(text));
        (!all_reached).then(|| self.tokenizer["model"]["ignore_merges"] == true)
    }

    fn set_spm(&self, tokens: &Tokens, metadata: &mut Metadata) -> Result<(), GgufError> {
        self.refuse_extras()?;
        if let Some(byte) = (0..=255).find(|&byte| !tokens.ids.contains_key(&token_of(byte))) {
            return self.error(format!("it has no token {}, and llama.cpp needs one for each byte", token_of(byte)));
        }
        let prefix = self.space_prefix()?;
        let pairs = self.merges()?;
        let ids: HashMap<&str, u32> = tokens.ids.iter().map(|(text, &id)| (text.as_str(), id)).collect();
        let merges = Merges::new(&ids, pairs.iter().copied());
        let mut scores = vec![NO_MERGE; tokens.list.len()];
        for (rank, (left, right)) in pairs.iter().enumerate().rev() {
            if let Some(&id) = tokens.ids.get(&format!("{left}{right}")) {
                scores[id as usize] = -(rank as f32);
            }
        }
        // llama.cpp merges any two neighbours that make a token.
        for (text, _) in tokens.list.iter().filter(|(_, kind)| *kind == kind::NORMAL) {
            let both = |(left, right): &(&str, &str)| ids.contains_key(left) && ids.contains_key(right);
            let unknown = splits(text).filter(both).find(|(left, right)| merges.rank(left, right).is_none());
            if let Some((left, right)) = unknown {
                return self.error(format!(
                    "llama.cpp would merge {left:?} and {right:?} to {text:?}, which is not among the merges of this \
                     tokenizer: it gives other tokens"
                ));
            }
        }
        metadata.set("tokenizer.ggml.model", "llama");
        metadata.set("tokenizer.ggml.pre", "default");
        metadata.set("tokenizer.ggml.scores", scores);
        metadata.set("tokenizer.ggml.add_space_prefix", prefix);
        Ok(())
    }

    /// Whether a space is put before a text.
    fn space_prefix(&self) -> Result<bool, GgufError> {
        let mut prefix = false;
        let mut replaced = false;
        let mut parts = vec![&self.tokenizer["pre_tokenizer"], &self.tokenizer["normalizer"]];
        while let Some(part) = parts.pop() {
            match part["type"].as_str() {
                None => {}
                Some("Sequence") => {
                    let inner = ["normalizers", "pretokenizers"].into_iter().filter_map(|key| part[key].as_array());
                    parts.extend(inner.flatten());
                }
                Some("Prepend") if part["prepend"] == SPACE => prefix = true,
                Some("Replace") if part["pattern"]["String"] == " " && part["content"] == SPACE => replaced = true,
                Some("Metaspace") if part["replacement"] == SPACE => {
                    replaced = true;
                    prefix |= part["prepend_scheme"] != "never" && part["add_prefix_space"] != false;
                }
                // Gemma's: spaces are gone by then, so that nothing is split.
                Some("Split") if part["pattern"]["String"] == " " && part["behavior"] == "MergedWithPrevious" => {}
                Some(other) => {
                    return self.error(format!("it has a `{other}` {part}, which llama.cpp does not have"));
                }
            }
        }
        if replaced { Ok(prefix) } else { self.error(format!("it does not write spaces as {SPACE:?}")) }
    }

    /// A special token, by its name in `tokenizer_config.json`.
    fn special(&self, name: &str) -> Option<&str> {
        [&self.config, &self.map]
            .into_iter()
            .find_map(|file| file[name].as_str().or_else(|| file[name]["content"].as_str()))
    }

    /// Ids of a key in `generation_config.json` or else in `config.json`: one or several.
    fn configured(&self, key: &str) -> Vec<u32> {
        let generation = self.model.generation_config.as_ref().and_then(|config| config.get(key));
        let value = generation.filter(|value| !value.is_null()).or_else(|| self.model.config.get(key));
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match value {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn set_special(&self, tokens: &Tokens, metadata: &mut Metadata, notes: &mut Vec<String>) -> Result<(), GgufError> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        self.affixes(&self.tokenizer["post_processor"], &mut before, &mut after)?;
        let mut ids: HashMap<&str, u32> = HashMap::new();
        for (_, name) in SPECIAL {
            let by_text = match self.special(name) {
                Some(text) => match tokens.ids.get(text) {
                    Some(&id) => Some(id),
                    None => return self.error(format!("`{name}` is {text:?}, which is no token")),
                },
                None => None,
            };
            let by_id = || {
                let configured = self.configured(&format!("{name}_id"));
                configured.into_iter().find(|&id| (id as usize) < tokens.list.len())
            };
            if let Some(id) = by_text.or_else(by_id) {
                ids.insert(name, id);
            }
        }
        for (affix, name, key, where_to) in [
            (before, "bos_token", "tokenizer.ggml.add_bos_token", "before"),
            (after, "eos_token", "tokenizer.ggml.add_eos_token", "after"),
        ] {
            let affix_ids: Vec<Option<u32>> = affix.iter().map(|text| tokens.ids.get(text).copied()).collect();
            let add = match affix_ids.as_slice() {
                [] => false,
                [Some(id)] if *ids.entry(name).or_insert(*id) == *id => true,
                _ => {
                    notes.push(format!("the tokenizer puts {affix:?} {where_to} each text, and llama.cpp does not"));
                    false
                }
            };
            metadata.set(key, add);
        }
        for (key, name) in SPECIAL {
            if let Some(&id) = ids.get(name) {
                metadata.set(key, id);
            }
        }
        // Further tokens that end a text: those of a turn, and of a message to a tool.
        let mut ends = self.configured("eos_token_id");
        ends.retain(|id| Some(id) != ids.get("eos_token") && (*id as usize) < tokens.list.len());
        for (key, id) in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"].into_iter().zip(&ends) {
            metadata.set(key, *id);
        }
        if let Some(id) = ends.get(2) {
            let text = &tokens.list[*id as usize].0;
            notes.push(format!("{text:?} ends a text too, which llama.cpp knows for some names of tokens only"));
        }
        Ok(())
    }

    /// Whether special tokens take the white space behind them along as Phi-3's do. Another way of doing so is noted.
    fn strips(&self, tokens: &Tokens, notes: &mut Vec<String>) -> bool {
        let added = self.tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
        let behind = |token: &&Value| token["rstrip"] == true;
        let strips =
            added.iter().filter(behind).count() > 1 && PHI3.iter().all(|token| tokens.ids.contains_key(*token));
        let other = added.iter().find(|token| token["lstrip"] == true || (!strips && behind(token)));
        if let Some(token) = other {
            notes.push(format!("{} takes white space beside it along, and in llama.cpp it does not", token["content"]));
        }
        strips
    }

    /// The special tokens that are put before and after one text.
    fn affixes(&self, processor: &Value, before: &mut Vec<String>, after: &mut Vec<String>) -> Result<(), GgufError> {
        match processor["type"].as_str() {
            None | Some("ByteLevel") => Ok(()),
            Some("Sequence") => {
                let inner = processor["processors"].as_array().map(Vec::as_slice).unwrap_or_default();
                inner.iter().try_for_each(|processor| self.affixes(processor, before, after))
            }
            Some("TemplateProcessing") => {
                let mut past_text = false;
                for piece in processor["single"].as_array().into_iter().flatten() {
                    match piece["SpecialToken"]["id"].as_str() {
                        Some(id) => if past_text { &mut *after } else { &mut *before }.push(id.to_string()),
                        None => past_text = true,
                    }
                }
                Ok(())
            }
            Some(other) => self.error(format!("its post-processor is a `{other}`, which llama.cpp does not have")),
        }
    }
}
