//! Tokenizers as they stand in model directories, text of tokens that come one by one, and models that do not fit
//! theirs.

use glue_lm::{ChatOptions, Message, TextError, TextModel, Tokenizer, TokenizerError};
use glue_progress::ErrorChain;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn zoo(model: &str) -> PathBuf {
    crate::support::data("zoo").join(model)
}

fn json_file(path: PathBuf) -> Value {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn zoo_tokenizer() -> Value {
    json_file(zoo("a-chat").join("tokenizer.json"))
}

/// A directory with these files.
fn directory(files: &[(&str, Value)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, content) in files {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_string);
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn load(files: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::load(directory(files).path())
}

/// A tokenizer in the style of Llama 2: a space is written `▁` and put before the text, unknown characters become
/// bytes.
fn sentencepiece() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let letters = ["▁", "a", "b", "c", "▁a", "▁ab"].map(String::from);
    for token in ["<unk>", "<s>", "</s>"].map(String::from).into_iter().chain(bytes).chain(letters) {
        let id = vocab.len();
        vocab.insert(token, id.into());
    }
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["▁ a", "▁a b"]}
    });
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true});
    load(&[("tokenizer.json", tokenizer), ("tokenizer_config.json", config)]).unwrap()
}

/// The pieces of the stream, put together.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.decode_stream(skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text.push_str(&stream.finish().unwrap());
    text
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    let golden = json_file(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/generation/greedy.json"));
    for (model, cases) in golden["models"].as_object().unwrap() {
        let tokenizer = Tokenizer::load(zoo(model)).unwrap();
        let texts: Vec<&str> = cases.as_array().unwrap().iter().map(|case| case["prompt"].as_str().unwrap()).collect();
        let batch = tokenizer.encode_batch(&texts, true).unwrap();
        assert!(texts.len() >= 20);
        for (case, ids) in cases.as_array().unwrap().iter().zip(batch) {
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(ids, expected, "{model}: {}", case["prompt"]);
            assert_eq!(tokenizer.encode(case["prompt"].as_str().unwrap(), true).unwrap(), expected);
            assert_eq!(tokenizer.encode(case["prompt"].as_str().unwrap(), false).unwrap(), expected[1..]);
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["back"].as_str().unwrap());
            let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
            assert_eq!(streamed(&tokenizer, &tokens, true), case["text"].as_str().unwrap());
        }
    }
}

#[test]
fn special_tokens_come_from_the_files_that_name_them() {
    let tokenizer = Tokenizer::load(zoo("a-chat")).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), Some(0)));
    assert_eq!(tokenizer.end_ids(), &BTreeSet::from([2]));
    assert_eq!((tokenizer.vocab_size(), tokenizer.last_token().unwrap().0), (512, 511));
    assert_eq!(tokenizer.id_to_token(1).as_deref(), Some("<s>"));
    assert_eq!((tokenizer.token_to_id("</s>"), tokenizer.token_to_id("nope")), (Some(2), None));
    assert_eq!(tokenizer.id_to_token(512), None);

    // Objects and strings, one file after the other; a name without an id; negative ids, which stand for none.
    let tokenizer = load(&[
        ("tokenizer.json", zoo_tokenizer()),
        ("tokenizer_config.json", json!({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": null})),
        ("special_tokens_map.json", json!({"bos_token": "</s>", "eos_token": "</s>", "unk_token": "[UNK]"})),
        ("generation_config.json", json!({"eos_token_id": [7, 9], "pad_token_id": -1})),
        ("config.json", json!({"eos_token_id": 11, "pad_token_id": 3})),
    ])
    .unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), Some(3)));
    assert_eq!(tokenizer.end_ids(), &BTreeSet::from([2, 7, 9]));
    assert_eq!(tokenizer.special_tokens()["unk_token"], "[UNK]");

    let bare =
        load(&[("tokenizer.json", zoo_tokenizer()), ("config.json", json!({"eos_token_id": 11, "bos_token_id": 4}))]);
    let bare = bare.unwrap();
    assert_eq!((bare.bos(), bare.eos(), bare.pad()), (Some(4), Some(11), None));
    assert_eq!(bare.end_ids(), &BTreeSet::from([11]));
}

#[test]
fn a_named_special_token_is_special() {
    // `x` is an ordinary token of this vocabulary.
    let tokenizer =
        load(&[("tokenizer.json", zoo_tokenizer()), ("tokenizer_config.json", json!({"eos_token": "x"}))]).unwrap();
    let ids = tokenizer.encode("axb", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "axb");
    assert_eq!(tokenizer.vocab_size(), 512);
}

#[test]
fn flags_count_where_the_post_processor_adds_nothing() {
    let mut silent = zoo_tokenizer();
    silent["post_processor"] = Value::Null;
    let config = |bos: bool, eos: bool| json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": bos, "add_eos_token": eos});
    let edges = |tokenizer: &Value, bos, eos| {
        let files = [("tokenizer.json", tokenizer.clone()), ("tokenizer_config.json", config(bos, eos))];
        let ids = load(&files).unwrap().encode("x", true).unwrap();
        (ids.first() == Some(&1), ids.last() == Some(&2))
    };
    for (bos, eos) in [(false, false), (true, false), (false, true), (true, true)] {
        assert_eq!(edges(&silent, bos, eos), (bos, eos));
        assert_eq!(edges(&zoo_tokenizer(), bos, eos), (true, false), "the post-processor decides");
    }
    let files = [("tokenizer.json", silent), ("tokenizer_config.json", config(true, true))];
    assert!(load(&files).unwrap().encode("", false).unwrap().is_empty());
}

#[test]
fn truncation_padding_and_dropout_are_off() {
    let mut tokenizer = zoo_tokenizer();
    tokenizer["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    tokenizer["padding"] = json!({"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"});
    tokenizer["model"]["dropout"] = json!(0.5);
    let changed = load(&[("tokenizer.json", tokenizer)]).unwrap();
    let plain = load(&[("tokenizer.json", zoo_tokenizer())]).unwrap();
    let text = "Q: What is the pet of mipim? A:";
    let ids = plain.encode(text, true).unwrap();
    assert!(ids.len() > 4 && ids.len() < 40);
    for _ in 0..20 {
        assert_eq!(changed.encode(text, true).unwrap(), ids);
    }
    assert_eq!(changed.encode_batch(&["x", text], true).unwrap(), [plain.encode("x", true).unwrap(), ids]);
}

#[test]
fn directories_without_a_usable_tokenizer_are_refused_in_words() {
    let refused = |files: &[(&str, Value)]| load(files).unwrap_err().chain();
    for name in ["tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "qwen.tiktoken"] {
        let message = refused(&[(name, json!({})), ("tokenizer_config.json", json!({}))]);
        assert!(message.contains(&format!("it has {name}, but no tokenizer.json")), "{message}");
        assert!(message.contains("save_pretrained"), "{message}");
    }
    assert!(refused(&[("tokenizer_config.json", json!({}))]).ends_with("no tokenizer.json in the directory"));
    assert!(matches!(Tokenizer::load("/no/such/directory"), Err(TokenizerError::Files(_))));

    let good = ("tokenizer.json", zoo_tokenizer());
    let cases = [
        (vec![("tokenizer.json", json!("{"))], "tokenizer.json: "),
        (vec![("tokenizer.json", json!({"model": {"type": "Nope"}}))], "tokenizer.json: "),
        (vec![good.clone(), ("tokenizer_config.json", json!("[1"))], "tokenizer_config.json: not valid JSON"),
        (vec![good.clone(), ("tokenizer_config.json", json!([1]))], "tokenizer_config.json: it is not a JSON object"),
        (vec![good.clone(), ("tokenizer_config.json", json!({"bos_token": 1}))], "`bos_token` is neither a string nor"),
        (
            vec![good.clone(), ("generation_config.json", json!({"eos_token_id": [1, "x"]}))],
            "`eos_token_id` holds \"x\"",
        ),
        (
            vec![good.clone(), ("config.json", json!({"eos_token_id": 4294967296u64}))],
            "`eos_token_id` holds 4294967296",
        ),
        (
            vec![good, ("tokenizer_config.json", json!({"chat_template": [{"name": "default"}]}))],
            "`chat_template` lacks",
        ),
    ];
    for (files, part) in cases {
        let message = refused(&files);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn chat_templates_are_found_by_name() {
    let tokenizer = load(&[
        ("tokenizer.json", zoo_tokenizer()),
        (
            "tokenizer_config.json",
            json!({"bos_token": "<s>", "chat_template": [
                {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"},
                {"name": "tool_use", "template": "tools: {{ tools|length }}"}]}),
        ),
    ])
    .unwrap();
    assert_eq!(tokenizer.chat_template_names().collect::<Vec<_>>(), ["default", "tool_use"]);
    let options = ChatOptions { tools: Some(vec![json!({})]), ..ChatOptions::default() };
    let render = |name| tokenizer.chat_template(name).unwrap().unwrap().render(&[Message::new("user", "hi")], &options);
    assert_eq!(render(None).unwrap(), "<s>hi");
    assert_eq!(render(Some("tool_use")).unwrap(), "tools: 1");
    assert!(tokenizer.chat_template(Some("rag")).unwrap().is_none());

    let files = directory(&[
        ("tokenizer.json", zoo_tokenizer()),
        ("tokenizer_config.json", json!({"chat_template": "old"})),
        ("chat_template.jinja", json!("new")),
    ]);
    std::fs::create_dir(files.path().join("additional_chat_templates")).unwrap();
    std::fs::write(files.path().join("additional_chat_templates/rag.jinja"), "documents").unwrap();
    let tokenizer = Tokenizer::load(files.path()).unwrap();
    let render = |name| tokenizer.chat_template(name).unwrap().unwrap().render(&[Message::new("user", "hi")], &options);
    assert_eq!((render(None).unwrap(), render(Some("rag")).unwrap()), ("new".to_string(), "documents".to_string()));
    assert!(Tokenizer::load(zoo("a-chat")).unwrap().chat_template(None).unwrap().is_none());
}

#[test]
fn characters_over_several_tokens_come_out_whole() {
    for tokenizer in [Tokenizer::load(zoo("a-chat")).unwrap(), sentencepiece()] {
        let text = "ab é日😀 c";
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(ids[0], tokenizer.bos().unwrap());
        let mut stream = tokenizer.decode_stream(true);
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().any(String::is_empty) && pieces.contains(&"😀".to_string()), "{pieces:?}");
        assert_eq!(stream.finish().unwrap(), "");

        // The first two bytes of a character of four: held back, and then shown for what they are.
        let broken = &ids[..ids.len() - 4];
        assert!(streamed(&tokenizer, broken, true).ends_with('\u{fffd}'));
    }
}

/// The text that a stream after the ids of `prompt` makes of the ids that follow them in `whole`.
fn continued(tokenizer: &Tokenizer, prompt: &str, whole: &str) -> String {
    let (prompt, whole) = (tokenizer.encode(prompt, true).unwrap(), tokenizer.encode(whole, true).unwrap());
    assert!(whole.starts_with(&prompt), "{prompt:?} {whole:?}");
    let mut stream = tokenizer.decode_stream_after(&prompt, true).unwrap();
    let mut text: String = whole[prompt.len()..].iter().map(|&id| stream.push(id).unwrap()).collect();
    text.push_str(&stream.finish().unwrap());
    text
}

#[test]
fn a_continuation_keeps_the_space_that_it_begins_with() {
    let tokenizer = sentencepiece();
    // As a text of its own it would lose the space, as the first text of a Llama 2 does.
    let ids = tokenizer.encode("a b", true).unwrap();
    assert_eq!(tokenizer.decode(&ids[2..], true).unwrap(), "b");
    // The body of a function after its head, as in HumanEval.
    assert_eq!(continued(&tokenizer, "a():\n", "a():\n    b c\n    c"), "    b c\n    c");
    for tokenizer in [tokenizer, Tokenizer::load(zoo("a-chat")).unwrap()] {
        assert_eq!(continued(&tokenizer, "a", "a b"), " b");
        assert_eq!(continued(&tokenizer, "a é日", "a é日 😀"), " 😀");
        // After nothing but special tokens it is a text of its own.
        assert_eq!(continued(&tokenizer, "", "a b"), "a b");
    }
}

/// `GLUE_HUMANEVAL` names a JSON Lines file of HumanEval (`prompt`, `canonical_solution`), which is not a part of this
/// repository.
#[test]
fn solutions_of_humaneval_keep_their_indentation() {
    let Some(path) = std::env::var_os("GLUE_HUMANEVAL") else {
        println!("GLUE_HUMANEVAL names no file: nothing was checked");
        return;
    };
    let tokenizer = sentencepiece();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.lines().count() >= 20);
    for line in text.lines() {
        let item: Value = serde_json::from_str(line).unwrap();
        let (prompt, solution) = (item["prompt"].as_str().unwrap(), item["canonical_solution"].as_str().unwrap());
        assert!(solution.starts_with("    "));
        assert_eq!(continued(&tokenizer, prompt, &format!("{prompt}{solution}")), solution);
    }
}

#[test]
fn a_character_that_the_prompt_leaves_incomplete_is_shown_whole() {
    let tokenizer = sentencepiece();
    let byte = |byte: u32| byte + 3;
    let a = tokenizer.token_to_id("a").unwrap();
    for context in [vec![1, a, byte(0xC3)], vec![1, byte(0xC3)]] {
        let mut stream = tokenizer.decode_stream_after(&context, true).unwrap();
        assert_eq!(stream.push(byte(0xA9)).unwrap(), "é", "{context:?}");
        assert_eq!(stream.push(a).unwrap(), "a");
    }
}

#[test]
fn text_already_shown_stays_when_a_later_byte_spoils_it() {
    let tokenizer = sentencepiece();
    let byte = |byte: u32| byte + 3;
    // é, then a byte that begins no character: this decoder takes a run of bytes for one, and gives all of it up.
    let ids = [byte(0xC3), byte(0xA9), byte(0xFF), tokenizer.token_to_id("a").unwrap()];
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "\u{fffd}\u{fffd}\u{fffd}a");
    assert_eq!(streamed(&tokenizer, &ids, true), "é\u{fffd}a");
}

proptest! {
    #[test]
    fn pieces_of_any_tokens_are_the_whole_text(ids in prop::collection::vec(0u32..512, 0..40), skip in any::<bool>()) {
        let tokenizer = Tokenizer::load(zoo("a-chat")).unwrap();
        prop_assert_eq!(streamed(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip).unwrap());
    }

    #[test]
    fn pieces_of_any_text_are_the_text(text in "[abc é日😀]{0,20}") {
        let tokenizer = sentencepiece();
        let ids = tokenizer.encode(&text, true).unwrap();
        prop_assert_eq!(streamed(&tokenizer, &ids, true), text);
    }
}

/// A copy of a model of the zoo with another tokenizer.
fn model_with(tokenizer: &Value, config: &Value) -> TempDir {
    let files = directory(&[("tokenizer.json", tokenizer.clone()), ("tokenizer_config.json", config.clone())]);
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(zoo("a-chat").join(name), files.path().join(name)).unwrap();
    }
    files
}

#[test]
fn a_tokenizer_that_does_not_fit_the_embedding_is_refused() {
    assert!(TextModel::open(zoo("a-chat")).is_ok());
    let mut tokenizer = zoo_tokenizer();
    tokenizer["model"]["vocab"]["beyond"] = 512.into();
    let error = TextModel::open(model_with(&tokenizer, &json!({})).path()).unwrap_err();
    assert!(matches!(&error, TextError::Misfit { token, id: 512, rows: 512 } if token == "beyond"), "{error}");
    let message = error.chain();
    assert!(["beyond", "512", "does not fit the embedding"].iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn an_added_token_without_a_row_is_refused_where_a_text_has_it() {
    let mut tokenizer = zoo_tokenizer();
    let mut added = tokenizer["added_tokens"][0].clone();
    (added["id"], added["content"]) = (512.into(), "<|pad|>".into());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    let model = TextModel::open(model_with(&tokenizer, &json!({"pad_token": "<|pad|>"})).path()).unwrap();
    let options = glue_lm::GenerateOptions { max_new_tokens: 3, ..Default::default() };
    let answer = |text: &str| model.generate(&[glue_lm::Prompt::text(text)], &options, &|_| ());
    let plain = TextModel::open(zoo("a-chat")).unwrap();
    let expected = plain.generate(&[glue_lm::Prompt::text("The")], &options, &|_| ()).unwrap();
    assert_eq!(answer("The").unwrap(), expected);
    let error = answer("The <|pad|>").unwrap_err();
    assert!(matches!(&error, TextError::Misfit { token, id: 512, rows: 512 } if token == "<|pad|>"), "{error}");
}

#[test]
fn messages_become_a_prompt_without_a_second_bos() {
    let user = [Message::new("user", "The")];
    let plain = TextModel::open(zoo("a-chat")).unwrap();
    assert!(matches!(plain.chat(&user, &ChatOptions::default()), Err(TextError::NoChatTemplate)));

    let template =
        "{{ bos_token }}{{ messages[0].content }}{% if tools %}tools without a template of their own{% endif %}";
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    let chatty = TextModel::open(model_with(&zoo_tokenizer(), &config).path()).unwrap();
    let prompt = chatty.chat(&user, &ChatOptions::default()).unwrap();
    assert_eq!(prompt, glue_lm::Prompt::rendered("<s>The"));
    let none = |_| ();
    let options = glue_lm::GenerateOptions { max_new_tokens: 3, ..Default::default() };
    let answers = chatty.generate(&[prompt, glue_lm::Prompt::text("The")], &options, &none).unwrap();
    assert_eq!((&answers[0].tokens, answers[0].prompt_tokens), (&answers[1].tokens, answers[1].prompt_tokens));
}
