//! What a model directory says about text: its tokenizer and its chat template.

use super::folder::Folder;
use super::says_why;
use glue_lm::{ChatOptions, ChatTemplate, DateTime, Message, Tokenizer};
use serde_json::json;
use std::collections::BTreeMap;

/// A chat template: refused, or a conversation becomes text or an error, the same each time, within the limits on steps
/// and memory.
pub fn chat_template(input: &[u8]) {
    let Ok(source) = std::str::from_utf8(input) else { return };
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(k, v)| (k.to_string(), v.to_string()));
    let template = match ChatTemplate::new(source, &BTreeMap::from(special)) {
        Ok(template) => template,
        Err(error) => return says_why(&error),
    };
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "What is 2 + 2?"),
        Message::new("assistant", "4").with("tool_calls", json!([{"name": "add", "arguments": {"a": 2, "b": 2}}])),
        Message::new("user", "And \u{1f600}?"),
    ];
    let now = DateTime::date(2026, 2, 28).expect("a date");
    let full = ChatOptions {
        add_generation_prompt: true,
        tools: Some(vec![json!({"type": "function", "function": {"name": "add", "parameters": {}}})]),
        now: Some(now),
        ..ChatOptions::default()
    };
    for options in [ChatOptions::default(), full] {
        match template.render(&messages, &options) {
            Ok(text) => assert_eq!(template.render(&messages, &options).ok(), Some(text)),
            // One that took all the time it may take is not tried again.
            Err(error) => return says_why(&error),
        }
    }
}

/// A `tokenizer.json`: refused, or texts become the same ids each time and ids become text again, or an error.
pub fn tokenizer(input: &[u8]) {
    thread_local! {
        static FOLDER: Folder = Folder::new(|_| {});
    }
    const TEXTS: [&str; 5] =
        ["", "Q: What is the job of doquo? A:", " x  y\n\n", "<s>[INST] ab </s>", "é漢\u{1f600}\0\u{301}"];
    FOLDER.with(|folder| {
        let tokenizer = match Tokenizer::load(folder.with("tokenizer.json", input)) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return says_why(&error),
        };
        for text in TEXTS {
            for add_special in [false, true] {
                let ids = match tokenizer.encode(text, add_special) {
                    Ok(ids) => ids,
                    Err(error) => {
                        says_why(&error);
                        continue;
                    }
                };
                assert_eq!(tokenizer.encode(text, add_special).ok().as_ref(), Some(&ids), "{text:?}");
                match tokenizer.decode(&ids, add_special) {
                    Ok(again) => assert_eq!(tokenizer.decode(&ids, add_special).ok(), Some(again)),
                    Err(error) => says_why(&error),
                }
                let mut stream = tokenizer.decode_stream(add_special);
                for id in ids {
                    if let Err(error) = stream.push(id) {
                        says_why(&error);
                        break;
                    }
                }
            }
        }
    });
}
