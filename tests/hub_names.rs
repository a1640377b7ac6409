//! Models by their names on the Hugging Face hub, from its cache.

use glue_tests::run::Run;
use glue_tests::zoo::{Zoo, shipped};

/// A cache with two models, `org/chat` of which has two commits.
fn cache() -> Zoo {
    let zoo = Zoo::empty();
    for (model, name, commit) in
        [("a-math", "chat", "aaaa1111"), ("a-chat", "chat", "bbbb2222"), ("a-math", "math", "cccc3333")]
    {
        let repository = format!("hub/models--org--{name}");
        zoo.copy(&shipped().join(model), &format!("{repository}/snapshots/{commit}"));
        zoo.write(&format!("{repository}/refs/main"), commit);
    }
    zoo.write("hub/models--org--chat/refs/v1", "aaaa1111");
    zoo
}

fn glue(zoo: &Zoo, args: &[&str]) -> Run {
    Run::of(zoo.command(args).env("HF_HUB_CACHE", zoo.path("hub")))
}

fn text(zoo: &Zoo, model: &str) -> String {
    let args = ["generate", model, "--prompt", "What is 3 and 4?", "--max-new-tokens", "8", "--json"];
    glue(zoo, &args).json()["prompts"][0]["answers"][0]["text"].as_str().expect("a text").to_string()
}

#[test]
fn a_name_is_a_model_of_the_cache() {
    let zoo = cache();
    let (chat, math) = (shipped().join("a-chat"), shipped().join("a-math"));
    let (chat, math) = (text(&zoo, &chat.display().to_string()), text(&zoo, &math.display().to_string()));
    assert_ne!(chat, math);
    for (name, expected) in
        [("org/chat", &chat), ("org/chat@bbbb2222", &chat), ("org/chat@v1", &math), ("org/math", &math)]
    {
        assert_eq!(text(&zoo, name), *expected, "{name}");
    }
    let tasks = shipped().join("tasks").display().to_string();
    let args = ["eval", "org/chat", "--tasks", &tasks, "--task", "facts", "--limit", "5", "--json"];
    assert_eq!(glue(&zoo, &args).json()["model"], "org/chat");
    // A directory of that name comes first.
    zoo.copy(&shipped().join("a-math"), "org/chat");
    assert_eq!(text(&zoo, "org/chat"), math);
}

#[test]
fn a_merge_records_the_commits_of_its_models() {
    let zoo = cache();
    zoo.write("config.yml", "merge_method: linear\nmodels:\n- {model: org/chat@v1, parameters: {weight: 0.5}}\n- {model: org/math, parameters: {weight: 0.5}}\n");
    glue(&zoo, &["merge", "config.yml", "out"]).ok();
    let inputs = zoo.json("out/glue.json")["inputs"].clone();
    assert_eq!(inputs[0]["hub"], serde_json::json!({"id": "org/chat", "commit": "aaaa1111"}));
    assert_eq!(inputs[1]["hub"]["commit"], "cccc3333");
    let card = String::from_utf8(zoo.bytes("out/README.md")).expect("text");
    assert!(card.contains("base_model:\n- org/chat\n- org/math\n"), "{card}");
    assert!(card.contains("`org/chat` at commit `aaaa1111` on the hub"), "{card}");
}

#[test]
fn a_name_that_is_not_in_the_cache_is_refused_with_the_command_that_gets_it() {
    let zoo = cache();
    let get = "`glue fetch org/none` gets it";
    glue(&zoo, &["generate", "org/none", "--prompt", "x"]).refused("no model", 2, &["org/none", get]);
    let get = "`glue fetch org/chat@v9` gets it";
    glue(&zoo, &["generate", "org/chat@v9", "--prompt", "x"]).refused("no revision", 2, &[get]);
}
