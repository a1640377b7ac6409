//! The chat templates that configs name: what they make of messages, as their formats are published.

use glue_lm::{ChatOptions, ChatTemplate, Message};
use std::collections::BTreeMap;

/// The template of this name, from the crate that has it.
fn template(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../glue-recipe/src/plan/chat_templates");
    std::fs::read_to_string(format!("{folder}/{name}.jinja")).expect("a template")
}

/// Renders the template in `source` for these roles and contents, with and without the beginning of an answer.
fn rendered(source: &str, messages: &[[&str; 2]]) -> [String; 2] {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(role, token)| (role.into(), token.into()));
    let template = ChatTemplate::new(source.trim_end(), &BTreeMap::from(tokens)).expect("a template");
    let messages: Vec<Message> = messages.iter().map(|[role, content]| Message::new(*role, *content)).collect();
    [false, true].map(|add_generation_prompt| {
        template.render(&messages, &ChatOptions { add_generation_prompt, ..ChatOptions::default() }).expect("a prompt")
    })
}

const CHAT: [[&str; 2]; 4] = [["system", "Be brief."], ["user", "One?"], ["assistant", "1"], ["user", "Two?"]];

#[test]
fn templates_follow_the_published_formats() {
    let check = |source: &str, messages: &[[&str; 2]], text: &str, begun: &str| {
        assert_eq!(rendered(source, messages), [text.to_string(), format!("{text}{begun}")]);
    };
    check(
        &template("chatml"),
        &CHAT,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n\
         <|im_start|>user\nTwo?<|im_end|>\n",
        "<|im_start|>assistant\n",
    );
    check(
        &template("llama3"),
        &CHAT,
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
         One?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n1<|eot_id|><|start_header_id|>user\
         <|end_header_id|>\n\nTwo?<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    );
    let mistral = &template("mistral");
    check(mistral, &CHAT, "<s> [INST] Be brief.\n\nOne? [/INST] 1</s> [INST] Two? [/INST]", "");
    check(mistral, &CHAT[1..2], "<s> [INST] One? [/INST]", "");
    check(
        &template("alpaca"),
        &CHAT,
        "Be brief.\n\n### Instruction:\nOne?\n\n### Response:\n1\n\n### Instruction:\nTwo?\n\n",
        "### Response:\n",
    );
    let exaone = &template("exaone");
    check(
        exaone,
        &CHAT,
        "[|system|]Be brief.[|endofturn|]\n[|user|]One?\n[|assistant|]1[|endofturn|]\n[|user|]Two?\n",
        "[|assistant|]",
    );
    check(exaone, &CHAT[1..2], "[|system|][|endofturn|]\n[|user|]One?\n", "[|assistant|]");
}

#[test]
fn the_template_of_mistral_wants_turns() {
    let source = &template("mistral");
    let template = ChatTemplate::new(source, &BTreeMap::new()).expect("a template");
    for roles in [&["assistant"][..], &["user", "user"], &["user", "system"]] {
        let messages: Vec<Message> = roles.iter().map(|role| Message::new(*role, "x")).collect();
        let refused = template.render(&messages, &ChatOptions::default()).expect_err("a refusal").to_string();
        assert!(refused.contains("must take turns"), "{roles:?}: {refused}");
    }
}
