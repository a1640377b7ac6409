//! Whether configuration, weights and tokenizer fit each other.

use super::{Findings, RUNNERS, Who, embedding_rows};
use glue_progress::ErrorChain;
use glue_tensor::tokenizer_files::TokenizerFiles;
use glue_tensor::{Checkpoint, Config, Dtype, Names, Role, TensorInfo, files, model_dir};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const CONFIG: &str = model_dir::CONFIG_FILE;
const WEIGHTS: &str = "weights";

/// What the configuration alone says.
pub(super) fn of_config(path: &Path, config: &Config, findings: &mut Findings) {
    if config.model_type().is_none() {
        findings.error(&[Who::Transformers, Who::Vllm], CONFIG, "no `model_type`");
    }
    if config.architectures().is_empty() {
        findings.error(&[Who::Vllm, Who::LlamaCpp], CONFIG, "no `architectures`");
    }
    if config.vocab_size().is_none() {
        findings.warning(RUNNERS, CONFIG, "no `vocab_size`");
    }
    if let Some(code) = config.get("auto_map").and_then(Value::as_object) {
        let why = "`auto_map`: the model runs only with `trust_remote_code`, which many refuse";
        findings.warning(&[Who::Transformers, Who::Vllm], CONFIG, why);
        findings.error(&[Who::LlamaCpp], CONFIG, "`auto_map`: code of the model is not run");
        for class in code.values().filter_map(Value::as_str) {
            let file = class.split_once('.').map(|(module, _)| format!("{module}.py"));
            if let Some(file) = file.filter(|file| !file.contains("--") && !path.join(file).exists()) {
                findings.error(&[Who::Transformers, Who::Vllm], &file, "missing, but `auto_map` names it");
            }
        }
    }
    for key in SPECIAL {
        check_ids(config.get(key).unwrap_or(&Value::Null), key, config, CONFIG, findings);
    }
}

/// The defaults of generation.
pub(super) fn of_generation(path: &Path, config: &Config, findings: &mut Findings) {
    const FILE: &str = model_dir::GENERATION_CONFIG_FILE;
    const WHO: &[Who] = &[Who::Transformers, Who::Vllm];
    let Ok(bytes) = files::read(path.join(FILE), files::CONFIG_BYTES) else {
        let why = "missing: defaults of generation, such as the tokens that end an answer, come from config.json";
        return findings.warning(WHO, FILE, why);
    };
    match serde_json::from_slice::<Value>(&bytes) {
        Err(error) => findings.error(WHO, FILE, format!("not valid JSON: {error}")),
        Ok(generation) => SPECIAL.iter().for_each(|key| check_ids(&generation[key], key, config, FILE, findings)),
    }
}

/// Keys of special tokens.
const SPECIAL: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// Special tokens beyond the vocabulary.
fn check_ids(value: &Value, key: &str, config: &Config, file: &str, findings: &mut Findings) {
    let ids: Vec<u64> = match value {
        Value::Array(list) => list.iter().filter_map(Value::as_u64).collect(),
        one => one.as_u64().into_iter().collect(),
    };
    let size = config.vocab_size().map_or(u64::MAX, |size| size as u64);
    for id in ids.into_iter().filter(|id| *id >= size) {
        findings.error(RUNNERS, file, format!("`{key}` is {id}, but the vocabulary has {size} tokens"));
    }
}

/// Whether the weights are those that the configuration describes.
pub(super) fn of_weights(config: &Config, checkpoint: &Checkpoint, findings: &mut Findings) {
    of_dtype(config, checkpoint, findings);
    let names = || checkpoint.tensors().iter().map(|info| info.name.as_str());
    let parsed = Names::infer(names());
    let found = parsed.main_stack().and_then(|stack| stack.layers.last()).map(|last| last + 1);
    if let (Some(expected), Some(found)) = (config.num_layers(), found)
        && found < expected
    {
        findings.error(RUNNERS, WEIGHTS, format!("{found} layers, but the configuration says {expected}"));
    }
    let (Some(rows), Some(size)) = (embedding_rows(config, checkpoint), config.vocab_size()) else { return };
    if rows != size {
        let why = format!("`vocab_size` is {size}, but the embedding has {rows} rows");
        findings.error(RUNNERS, CONFIG, why);
    }
    let is_head = |info: &&TensorInfo| {
        let name = parsed.parse(&info.name);
        name.role == Role::Head && name.layer.is_none() && info.shape.len() == 2
    };
    let generates = config.architectures().iter().any(|name| name.ends_with("ForCausalLM"));
    let head = checkpoint.tensors().iter().find(is_head);
    match (head, config.tie_word_embeddings()) {
        (None, Some(false)) if generates => {
            let why = "`tie_word_embeddings` is false, but there is no head: it would be random";
            findings.error(RUNNERS, WEIGHTS, why);
        }
        (Some(head), Some(true)) => {
            let why = format!("`tie_word_embeddings` is true, so that `{}` is ignored", head.name);
            findings.warning(&[Who::Transformers, Who::Vllm], WEIGHTS, why);
        }
        _ => {}
    }
}

fn of_dtype(config: &Config, checkpoint: &Checkpoint, findings: &mut Findings) {
    let mut bytes: BTreeMap<Dtype, u64> = BTreeMap::new();
    for info in checkpoint.tensors().iter().filter(|info| info.dtype.is_float()) {
        *bytes.entry(info.dtype).or_default() += info.n_bytes() as u64;
    }
    let Some(most) = bytes.iter().max_by_key(|(_, n)| **n).map(|(dtype, _)| *dtype) else {
        return findings.error(RUNNERS, WEIGHTS, "no tensor of floating-point numbers");
    };
    match config.dtype() {
        Some(dtype) if dtype != most => {
            let (said, found) = (dtype.torch_name(), most.torch_name());
            let why = format!("`dtype` is {said}, but most weights are {found}; they would be converted");
            findings.warning(&[Who::Transformers, Who::Vllm], CONFIG, why);
        }
        None => findings.warning(&[Who::Transformers, Who::Vllm], CONFIG, "no `dtype`"),
        _ => {}
    }
    let exotic = bytes.keys().find(|dtype| !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16));
    if let Some(dtype) = exotic.filter(|_| config.get("quantization_config").is_none()) {
        let why = format!("weights of type {}, which it does not convert", dtype.torch_name());
        findings.error(&[Who::LlamaCpp], WEIGHTS, why);
    }
}

/// The embedding of tokens.
pub(super) fn embedding<'a>(config: &Config, checkpoint: &'a Checkpoint) -> Option<&'a TensorInfo> {
    let parsed = Names::infer(checkpoint.tensors().iter().map(|info| info.name.as_str()));
    let is_embedding = |info: &&TensorInfo| {
        let name = parsed.parse(&info.name);
        let other = ["position", "wpe", "token_type"].iter().any(|other| info.name.contains(other));
        name.role == Role::Embedding && name.layer.is_none() && info.shape.len() == 2 && !other
    };
    let found: Vec<&TensorInfo> = checkpoint.tensors().iter().filter(is_embedding).collect();
    let fits = found.iter().find(|info| Some(info.shape[0]) == config.vocab_size());
    fits.or(found.first()).copied()
}

/// Whether there is a tokenizer, and whether its ids are rows of the embedding.
pub(super) fn of_tokenizer(
    path: &Path,
    config: Option<&Config>,
    checkpoint: Option<&Checkpoint>,
    findings: &mut Findings,
) {
    let tokenizer = match TokenizerFiles::find(path) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return findings.error(RUNNERS, "tokenizer", error.chain()),
    };
    let has = |name: &str| tokenizer.names().iter().any(|found| found == name);
    let vocabularies = ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json"];
    if !vocabularies.iter().any(|name| has(name)) {
        return findings.error(RUNNERS, "tokenizer.json", "missing, and no other vocabulary is there");
    }
    if !has("tokenizer_config.json") {
        findings.warning(&[Who::Transformers, Who::Vllm], "tokenizer_config.json", "missing");
    }
    match tokenizer.chat_template() {
        Ok(Some(_)) => {}
        Ok(None) => {
            let why = "no chat template: requests with messages are refused";
            findings.warning(RUNNERS, "tokenizer_config.json", why);
        }
        Err(error) => findings.error(RUNNERS, "tokenizer_config.json", error.chain()),
    }
    let highest = match tokenizer.vocabulary() {
        Ok(vocabulary) => vocabulary.and_then(|vocabulary| vocabulary.into_values().max()),
        Err(error) => return findings.error(RUNNERS, "tokenizer.json", error.chain()),
    };
    let rows = config.zip(checkpoint).and_then(|(config, checkpoint)| embedding_rows(config, checkpoint));
    if let (Some(highest), Some(rows)) = (highest, rows)
        && highest as usize >= rows
    {
        let why = format!("a token has id {highest}, but the embedding has {rows} rows");
        findings.error(RUNNERS, "tokenizer.json", why);
    }
}
