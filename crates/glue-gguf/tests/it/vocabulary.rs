//! Tokenizers, through a GGUF file and back, and what is refused of them.

use crate::{model, words};
use glue_gguf::container::{GgufFile, Value as Stored};
use glue_gguf::{ExportOptions, FileType, ImportOptions, export, import};
use glue_progress::NoProgress;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

const TEXTS: &[&str] = &[
    "",
    "the sum of 3 and 33 is 36",
    " a leading space and  two",
    "I'll say it's naïve\n\n  twice\t",
    "你好 🚀 мир",
    "<s>inside</s> of a text",
    "aaaa ababab  b",
];

/// A copy of a small model of the zoo with another tokenizer.
fn with_tokenizer(tokenizer: &Value, config: &Value, directory: &Path) -> PathBuf {
    let copy = directory.join("model");
    fs::create_dir_all(&copy).unwrap();
    for name in ["config.json", "model.safetensors", "generation_config.json"] {
        fs::copy(model("zoo/base-a").join(name), copy.join(name)).unwrap();
    }
    fs::write(copy.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(copy.join("tokenizer_config.json"), config.to_string()).unwrap();
    copy
}

fn base() -> Value {
    serde_json::from_slice(&fs::read(model("zoo/base-a/tokenizer.json")).unwrap()).unwrap()
}

fn special(names: &[&str], first: usize) -> Value {
    let token = |(at, name): (usize, &&str)| {
        json!({"id": first + at, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    names.iter().enumerate().map(token).collect()
}

/// A tokenizer in the style of SentencePiece: all bytes, some characters, and all ways to merge them to some words.
fn sentencepiece(prefix: bool) -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_string).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let learned = ["▁t", "▁th", "▁the", "ab", "▁a", "aba", "abab", "▁▁", "is", "▁is", "su", "sum", "▁s", "▁su", "▁sum"];
    tokens.extend("▁abcdefghijklmnopqrstuvwxyz0123456789I'".chars().map(String::from));
    tokens.extend(learned.map(str::to_string));
    let mut merges: Vec<Value> = Vec::new();
    for token in learned {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if tokens.iter().any(|token| token == left) && tokens.iter().any(|token| token == right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = match prefix {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}),
        false => replace,
    };
    json!({
        "version": "1.0",
        "added_tokens": special(&["<unk>", "<s>", "</s>"], 0),
        "normalizer": normalizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    })
}

fn options() -> ExportOptions {
    ExportOptions::new(FileType::F16)
}

/// Exports a model with this tokenizer, imports it again, and compares the ids of texts.
fn round_trip(tokenizer: &Value, config: &Value) -> GgufFile {
    let directory = tempfile::tempdir().unwrap();
    let source = with_tokenizer(tokenizer, config, directory.path());
    let (file, back) = (directory.path().join("model.gguf"), directory.path().join("back"));
    export(&source, &file, &options(), &NoProgress).unwrap();
    import(&file, &back, &ImportOptions::default(), &NoProgress).unwrap();
    let (a, b) = (source.join("tokenizer.json"), back.join("tokenizer.json"));
    let (a, b) = (Tokenizer::from_file(a).unwrap(), Tokenizer::from_file(b).unwrap());
    for text in TEXTS {
        let (expected, found) = (a.encode(*text, true).unwrap(), b.encode(*text, true).unwrap());
        assert_eq!(expected.get_ids(), found.get_ids(), "{text:?}: {:?}", found.get_tokens());
        let decoded = [&a, &b].map(|tokenizer| tokenizer.decode(found.get_ids(), true).unwrap());
        assert_eq!(decoded[0].trim_start(), decoded[1].trim_start());
    }
    let config: Value = serde_json::from_slice(&fs::read(back.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config["bos_token"], "<s>");
    GgufFile::open(file).unwrap()
}

#[test]
fn a_bpe_on_bytes_gives_the_same_ids_after_a_round_trip() {
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"});
    let file = round_trip(&base(), &config);
    let get = |key: &str| file.metadata().get(&format!("tokenizer.{key}")).cloned();
    assert_eq!(get("ggml.model"), Some("gpt2".into()));
    assert_eq!(get("ggml.pre"), Some("smollm".into()));
    assert_eq!(get("ggml.add_bos_token"), Some(true.into()));
    assert_eq!(get("ggml.eos_token_id"), Some(2u32.into()));
    assert_eq!(get("chat_template"), Some("{{ messages }}".into()));
    let tokens = get("ggml.tokens").unwrap();
    assert_eq!(tokens.as_array().unwrap().len(), 512);
}

#[test]
fn rows_of_the_embedding_without_a_token_are_filled_up() {
    let mut tokenizer = base();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64().unwrap() < 500);
    vocab.insert("[PAD505]".to_string(), 500.into());
    let merges = tokenizer["model"]["merges"].as_array().unwrap().len();
    tokenizer["model"]["merges"].as_array_mut().unwrap().truncate(merges - 12);
    let file = round_trip(&tokenizer, &json!({"bos_token": "<s>"}));
    let list = |key: &str| file.metadata().get(key).unwrap().as_array().unwrap().to_vec();
    let (tokens, kinds) = (list("tokenizer.ggml.tokens"), list("tokenizer.ggml.token_type"));
    assert_eq!((&tokens[500], &kinds[500]), (&"[PAD505]".into(), &Stored::I32(1)));
    assert_eq!((&tokens[505], &kinds[505]), (&"[PAD505]_".into(), &Stored::I32(5)));
    assert_eq!((&tokens[511], &kinds[511]), (&"[PAD511]".into(), &Stored::I32(5)));
}

#[test]
fn a_tokenizer_in_the_style_of_sentencepiece_gives_the_same_ids_after_a_round_trip() {
    for prefix in [true, false] {
        let file = round_trip(&sentencepiece(prefix), &json!({"bos_token": "<s>", "eos_token": "</s>"}));
        let get = |key: &str| file.metadata().get(&format!("tokenizer.ggml.{key}")).cloned();
        assert_eq!(get("model"), Some("llama".into()));
        assert_eq!(get("add_space_prefix"), Some(prefix.into()));
        let (tokens, scores) = (get("tokens").unwrap(), get("scores").unwrap());
        let score = |token: &str| {
            let at = tokens.as_array().unwrap().iter().position(|found| found.as_str() == Some(token)).unwrap();
            scores.as_array().unwrap()[at].as_f64().unwrap()
        };
        // The merge of the first rank has the highest score.
        assert_eq!(score("▁t"), 0.0);
        assert!(score("▁th") < 0.0 && score("▁the") < score("▁th") && score("abab") < score("ab"));
    }
}

#[test]
fn a_second_token_that_ends_an_answer_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let source = with_tokenizer(&base(), &json!({"bos_token": "<s>", "eos_token": "</s>"}), directory.path());
    fs::write(source.join("generation_config.json"), json!({"eos_token_id": [2, 7]}).to_string()).unwrap();
    let (file, back) = (directory.path().join("model.gguf"), directory.path().join("back"));
    export(&source, &file, &options(), &NoProgress).unwrap();
    import(&file, &back, &ImportOptions::default(), &NoProgress).unwrap();
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(back.join(name)).unwrap()).unwrap() };
    assert_eq!(read("generation_config.json")["eos_token_id"], json!([2, 7]));
    assert_eq!(read("config.json")["bos_token_id"], 1);
}

#[test]
fn what_llama_cpp_does_not_have_is_refused_with_the_file() {
    let change = |at: &str, value: Value| {
        let mut tokenizer = base();
        *tokenizer.pointer_mut(at).unwrap() = value;
        tokenizer
    };
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let mut lacking = sentencepiece(true);
    lacking["model"]["merges"].as_array_mut().unwrap().retain(|merge| merge[0] != "▁t" || merge[1] != "h");
    let mut without_byte = sentencepiece(true);
    without_byte["model"]["vocab"].as_object_mut().unwrap().remove("<0x41>");
    let mut nfkc = sentencepiece(false);
    nfkc["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, nfkc["normalizer"]]});
    for (tokenizer, expected) in [
        (change("/model/type", "WordPiece".into()), "only BPE"),
        (change("/model/dropout", 0.1.into()), "dropout"),
        (change("/model/vocab/an", 9999.into()), "512 rows"),
        (change("/model/vocab/an", 1.into()), "both have id 1"),
        (change("/normalizer", json!({"type": "Lowercase"})), "`Lowercase`"),
        (change("/pre_tokenizer", json!({"type": "Whitespace"})), "`Whitespace`"),
        (change("/pre_tokenizer", split(r"\w+|\W+")), "the nearest is"),
        (change("/post_processor", json!({"type": "BertProcessing"})), "`BertProcessing`"),
        (lacking, "not among the merges"),
        (without_byte, "<0x41>"),
        (nfkc, "`NFKC`"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let source = with_tokenizer(&tokenizer, &json!({"bos_token": "<s>"}), directory.path());
        let error = words(export(&source, directory.path().join("x.gguf"), &options(), &NoProgress));
        assert!(error.contains(expected) && error.contains("tokenizer.json"), "expected {expected:?}, found {error}");
    }
}

#[test]
fn a_pre_tokenizer_can_be_named() {
    let mut tokenizer = base();
    tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"});
    let directory = tempfile::tempdir().unwrap();
    let source = with_tokenizer(&tokenizer, &json!({"bos_token": "<s>"}), directory.path());
    let (file, back) = (directory.path().join("x.gguf"), directory.path().join("back"));
    let mut named = options();
    named.pre_tokenizer = Some("bloom".to_string());
    export(&source, &file, &named, &NoProgress).unwrap();
    let error = words(import(&file, &back, &ImportOptions::default(), &NoProgress));
    assert!(error.contains("`bloom` is not known") && error.contains("qwen2"), "{error}");
    let mut known = ImportOptions::default();
    known.pre_tokenizer = Some("gpt-2".to_string());
    import(&file, &back, &known, &NoProgress).unwrap();
}

#[test]
fn a_tokenizer_without_tokenizer_json_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let source = with_tokenizer(&base(), &json!({}), directory.path());
    fs::rename(source.join("tokenizer.json"), source.join("tokenizer.model")).unwrap();
    let error = words(export(&source, directory.path().join("x.gguf"), &options(), &NoProgress));
    assert!(error.contains("save_pretrained"), "{error}");
}
