//! Chat templates of known models, in short form, against what transformers renders; see `data/chat/make.py`.

use glue_lm::{ChatError, ChatOptions, ChatTemplate, DateTime, Message};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn data(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn special_tokens() -> BTreeMap<String, String> {
    [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(role, token)| (role.to_string(), token.to_string())).into()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, &special_tokens()).unwrap()
}

fn message(value: &Value) -> Message {
    let empty = Message::new("", "").with("content", Value::Null);
    value.as_object().unwrap().iter().fold(empty, |message, (key, value)| message.with(key, value.clone()))
}

#[test]
fn prompts_are_those_of_transformers() {
    let file: Value = serde_json::from_str(&data("cases.json")).unwrap();
    let now: Vec<u16> = file["now"].as_array().unwrap().iter().map(|part| part.as_u64().unwrap() as u16).collect();
    let [year, month, day, hour, minute, second] = now[..] else { panic!("{now:?}") };
    let now = DateTime::date(year, month as u8, day as u8).unwrap().at(hour as u8, minute as u8, second as u8).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 18);
    for (index, case) in cases.iter().enumerate() {
        let name = case["template"].as_str().unwrap();
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let options = ChatOptions {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or(false),
            tools: case["tools"].as_array().cloned(),
            variables: case["variables"].as_object().cloned().unwrap_or_default(),
            now: Some(now),
            ..ChatOptions::default()
        };
        let rendered = template(&data(&format!("{name}.jinja"))).render(&messages, &options);
        match (case["expected"].as_str(), rendered) {
            (Some(expected), Ok(text)) => assert_eq!(text, expected, "case {index}, {name}"),
            (None, Err(ChatError::Refused { message })) => {
                assert_eq!(message, case["refused"].as_str().unwrap(), "case {index}, {name}");
            }
            (_, other) => panic!("case {index}, {name}: {other:?}"),
        }
    }
}

#[test]
fn the_date_is_that_of_the_caller() {
    let user = [Message::new("user", "x")];
    let llama = template(&data("llama3.jinja"));
    let date = |now| llama.render(&user, &ChatOptions { now, ..ChatOptions::default() }).unwrap();
    assert!(date(None).contains("Today Date: 26 Jul 2024"), "without a date the template uses its own");
    assert!(date(Some(DateTime::date(2031, 1, 2).unwrap())).contains("Today Date: 02 Jan 2031"));

    let careless = template("{{ bos_token }}\n{{ strftime_now('%Y') }}");
    let error = careless.render(&user, &ChatOptions::default()).unwrap_err();
    assert!(matches!(error, ChatError::NoDate { line: 2 }), "{error}");
    let wrong = template("{{ strftime_now('%Q') }}");
    let now = DateTime::date(2031, 1, 2).ok();
    let error = wrong.render(&user, &ChatOptions { now, ..ChatOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("`%Q`"), "{error}");
}

#[test]
fn bad_templates_and_messages_are_refused_in_words() {
    let error = ChatTemplate::new("a\n{% if %}", &special_tokens()).unwrap_err();
    assert!(matches!(error, ChatError::Template { line: 2, .. }), "{error}");
    let user = [Message::new("user", "x")];
    let render = |source: &str| template(source).render(&user, &ChatOptions::default());
    assert!(matches!(template("x").render(&[], &ChatOptions::default()), Err(ChatError::NoMessages)));
    assert!(matches!(render("\n\n{{ messages[0].a.b }}"), Err(ChatError::Render { line: 3, .. })));
    assert!(matches!(render("{{ nope() }}"), Err(ChatError::Render { line: 1, .. })));
    assert!(matches!(render("{{ missing|tojson }}"), Err(ChatError::Render { line: 1, .. })));
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(matches!(render(loops), Err(ChatError::Endless)));
    // A template has no way out of what it is given.
    assert!(render("{% include '/etc/hostname' %}").is_err());
}

#[test]
fn variables_win_over_special_tokens_but_not_over_the_messages() {
    let user = [Message::new("user", "x").with("name", "joy".into()).with("gone", Value::Null)];
    let variables = [("bos_token", "B"), ("messages", "M")].map(|(key, value)| (key.to_string(), value.into()));
    let options = ChatOptions { variables: variables.into_iter().collect(), ..ChatOptions::default() };
    let source = "{{ bos_token }}{{ messages[0].name }}{{ messages[0].gone is defined }}{{ tools is none }}";
    assert_eq!(template(source).render(&user, &options).unwrap(), "BjoyFalseTrue");
    assert_eq!((user[0].role(), user[0].content()), ("user", "x"));
}
