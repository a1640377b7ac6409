//! Whole model directories: what belongs to one, and how tokenizers compare.

use glue_progress::ErrorChain;
use glue_tensor::ModelDir;
use glue_tensor::model_dir::ModelDirError;
use glue_tensor::tokenizer_files::{TokenizerComparison, TokenizerFiles, tokenizers_equal};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn sharded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ft2-sharded")
}

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn find(directory: &TempDir) -> TokenizerFiles {
    TokenizerFiles::find(directory.path()).unwrap()
}

#[test]
fn a_model_opens_whole() {
    let model = ModelDir::open(sharded()).unwrap();
    assert_eq!(model.path(), sharded());
    assert_eq!(model.config().num_layers(), Some(2));
    assert!(model.generation_config().unwrap()["eos_token_id"].is_number());
    assert!(model.tokenizer().names().is_empty());
    assert_eq!(model.checkpoint().files().len(), 2);
    assert_eq!(model.side_files(), [sharded().join("generation_config.json")]);
}

#[test]
fn what_is_missing_is_named() {
    let check = |path: &Path, words: &[&str]| -> ModelDirError {
        let error = ModelDir::open(path).unwrap_err();
        let message = error.chain();
        for word in words {
            assert!(message.contains(word), "{message}\nlacks: {word}");
        }
        error
    };
    check(&sharded().join("nowhere"), &["nowhere", "no such directory"]);
    check(&sharded().join("config.json"), &["config.json", "this is a file"]);
    check(directory(&[]).path(), &["no config.json"]);
    check(directory(&[("config.json", "{")]).path(), &["config.json", "not valid JSON"]);
    check(directory(&[("config.json", "[]")]).path(), &["not a JSON object"]);
    check(directory(&[("config.json", "{}")]).path(), &["no safetensors file"]);
    let broken = directory(&[("config.json", "{}"), ("generation_config.json", "{")]);
    check(broken.path(), &["generation_config.json", "not valid JSON"]);
}

#[test]
fn tokenizer_files_are_found_and_others_are_not() {
    let names = [
        "added_tokens.json",
        "chat_template.jinja",
        "qwen.tiktoken",
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
    ];
    let mut files: Vec<_> = names.iter().map(|name| (*name, "{}")).collect();
    files.extend([("config.json", "{}"), ("README.md", ""), ("model.safetensors", ""), ("modeling_x.py", "")]);
    let directory = directory(&files);
    fs::create_dir(directory.path().join("tokenizer_config.json")).unwrap();
    let found = find(&directory);
    assert_eq!(found.names(), names);
    assert_eq!(found.paths().next().unwrap(), directory.path().join(names[0]));
}

fn tokenizer(vocab: Value, added: Value, merges: Value) -> String {
    json!({ "version": "1.0", "added_tokens": added, "model": { "vocab": vocab, "merges": merges } }).to_string()
}

#[test]
fn vocabularies_in_every_form() {
    let check = |files: &[(&str, &str)]| {
        let vocabulary = find(&directory(files)).vocabulary().unwrap().unwrap();
        let found: Vec<_> = vocabulary.iter().map(|(token, id)| (token.as_str(), *id)).collect();
        assert_eq!(found, [("<s>", 2), ("a", 0), ("b", 1)], "{files:?}");
    };
    let added = json!([{ "id": 2, "content": "<s>" }]);
    check(&[("tokenizer.json", &tokenizer(json!({ "b": 1, "a": 0 }), added.clone(), json!([])))]);
    check(&[("tokenizer.json", &tokenizer(json!([["a", -1.0], ["b", -2.0]]), added, json!(null)))]);
    check(&[("vocab.json", r#"{"a": 0, "b": 1}"#), ("added_tokens.json", r#"{"<s>": 2}"#)]);
    check(&[("vocab.txt", "a\nb\n<s>\n")]);
    assert_eq!(find(&directory(&[("tokenizer.model", "x")])).vocabulary().unwrap(), None);
}

#[test]
fn malformed_vocabularies_are_named() {
    let check = |name: &str, text: &str, expected: &str| {
        let message = find(&directory(&[(name, text)])).vocabulary().unwrap_err().chain();
        assert!(message.contains(name) && message.contains(expected), "{message}");
    };
    check("tokenizer.json", "{", "not valid JSON");
    check("tokenizer.json", "{}", "not an object from token to id");
    check("tokenizer.json", &tokenizer(json!({ "a": -1 }), json!([]), json!([])), "token \"a\" has id -1");
    check("tokenizer.json", &tokenizer(json!([[1, 2]]), json!([]), json!([])), "entry 0");
    check("tokenizer.json", &tokenizer(json!({}), json!([{ "id": 3 }]), json!([])), "lacks content or id");
    check("vocab.json", r#"{"a": 4294967296}"#, "4294967296");
}

#[test]
fn comparing_tokenizers() {
    let check = |a: &[(&str, &str)], b: &[(&str, &str)], expected: &str| {
        let found = match tokenizers_equal(&find(&directory(a)), &find(&directory(b))).unwrap() {
            TokenizerComparison::Equal => "equal".to_string(),
            TokenizerComparison::SameVocabulary => "same vocabulary".to_string(),
            TokenizerComparison::Different { why } => why.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{a:?} {b:?}");
    };
    let (ab, none) = (json!({ "a": 0, "b": 1, "ab": 2 }), json!([]));
    let base = tokenizer(ab.clone(), none.clone(), json!(["a b"]));
    let base = &[("tokenizer.json", base.as_str())][..];
    let with = |vocab: Value, added: Value, merges: Value| tokenizer(vocab, added, merges);
    let json_file = |text: &str, expected: &str| check(base, &[("tokenizer.json", text)], expected);
    check(base, base, "equal");
    json_file(&with(json!({ "ab": 2, "b": 1, "a": 0 }), none.clone(), json!([["a", "b"]])), "equal");
    json_file(&base[0].1.replace("1.0", "2.0"), "equal");
    json_file(&with(ab.clone(), none.clone(), json!([])), "same vocabulary");
    let swapped = json!({ "a": 1, "b": 0, "ab": 2 });
    json_file(&with(swapped, none.clone(), json!(["a b"])), "token \"a\" is id 0 in the first and id 1 in the second");
    let more = json!([{ "id": 3, "content": "<x>" }]);
    json_file(&with(ab, more, json!(["a b"])), "token \"<x>\" is absent in the first and id 3 in the second");

    let model = |text| [("tokenizer.model", text)];
    check(&[], &[], "equal");
    check(&model("x"), &model("x"), "equal");
    check(&model("x"), &model("y"), "`tokenizer.model` differs");
    check(base, &model("x"), "no tokenizer file in common: [\"tokenizer.json\"] and [\"tokenizer.model\"]");
    check(&[], &model("x"), "no tokenizer file in common: [] and [\"tokenizer.model\"]");
    let pair = |merges| [("vocab.json", r#"{"a": 0}"#), ("merges.txt", merges)];
    check(&pair("a b"), &pair("a b"), "equal");
    check(&pair("a b"), &pair("b a"), "same vocabulary");
}

#[test]
fn chat_templates_are_found_and_replaced_in_place() {
    let check = |files: &[(&str, &str)], found: Option<&str>, written: &str| {
        let directory = directory(files);
        assert_eq!(find(&directory).chat_template().unwrap().as_deref(), found, "{files:?}");
        let changed = find(&directory).with_chat_template("NEW").unwrap();
        let names: Vec<_> = changed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [written], "{files:?}");
        for (name, bytes) in &changed {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        assert_eq!(find(&directory).chat_template().unwrap().as_deref(), Some("NEW"), "{files:?}");
    };
    let config = "tokenizer_config.json";
    check(&[], None, config);
    check(&[(config, r#"{"bos_token": "<s>"}"#)], None, config);
    check(&[(config, r#"{"chat_template": "OLD", "x": 1}"#)], Some("OLD"), config);
    let list = r#"{"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "OLD"}]}"#;
    check(&[(config, list)], Some("OLD"), config);
    check(&[(config, r#"{"chat_template": [{"name": "rag", "template": "R"}]}"#)], Some("R"), config);
    check(&[("chat_template.json", r#"{"chat_template": "OLD"}"#), (config, "{}")], Some("OLD"), "chat_template.json");
    check(
        &[("chat_template.jinja", "OLD"), (config, r#"{"chat_template": "OLDER"}"#)],
        Some("OLD"),
        "chat_template.jinja",
    );
}

#[test]
fn replacing_a_template_keeps_the_rest() {
    let list = r#"{"a": 1, "chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}], "z": 2}"#;
    let directory = directory(&[("tokenizer_config.json", list)]);
    let changed = find(&directory).with_chat_template("NEW").unwrap();
    let value: Value = serde_json::from_slice(&changed[0].1).unwrap();
    assert_eq!(value, serde_json::from_str::<Value>(&list.replace("\"D\"", "\"NEW\"")).unwrap());
    assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "chat_template", "z"]);
}

#[test]
fn additional_chat_templates_belong_to_the_tokenizer() {
    let directory = directory(&[("tokenizer.json", "{}"), ("chat_template.jinja", "{{ messages }}")]);
    let templates = directory.path().join("additional_chat_templates");
    fs::create_dir(&templates).unwrap();
    for (name, text) in [("tool_use.jinja", "{{ tools }}"), ("rag.jinja", "{{ documents }}"), ("notes.txt", "none")] {
        fs::write(templates.join(name), text).unwrap();
    }
    fs::create_dir(templates.join("directory.jinja")).unwrap();
    let files = find(&directory);
    let expected = [
        "additional_chat_templates/rag.jinja",
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
        "tokenizer.json",
    ];
    assert_eq!(files.names(), expected);
    files.check_unchanged().unwrap();
    fs::write(templates.join("rag.jinja"), "another").unwrap();
    assert!(files.check_unchanged().unwrap_err().to_string().contains("rag.jinja"));
}
