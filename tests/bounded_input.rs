//! Hostile files that ask for too much: templates, tokenizers and numbers without bounds end in an error that names the
//! limit.

use glue_tests::run::{Run, binary};
use glue_tests::zoo::{Zoo, shipped};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs `glue` with 4 GiB of address space for at most a minute: unbounded work fails here without harm.
fn glue(zoo: &Zoo, args: &[&str]) -> Run {
    let script = r#"ulimit -v 4194304; exec timeout 60 "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary()).args(args).current_dir(zoo.directory()).stdin(Stdio::null());
    let start = Instant::now();
    let run = Run::of(&mut command);
    assert!(start.elapsed() < Duration::from_secs(50), "{args:?} took {:?}", start.elapsed());
    run
}

/// A model that can chat, and a task of the harness and a native one over the same two items.
fn zoo() -> Zoo {
    let zoo = Zoo::empty();
    zoo.copy(&shipped().join("a-chat"), "model");
    zoo.write("items.jsonl", "{\"q\": \"aaa\", \"n\": 3}\n{\"q\": \"b\", \"n\": 4}\n");
    zoo
}

fn task(zoo: &Zoo, template: &str) {
    let task = json!({
        "task": "attack", "dataset_path": "json", "dataset_kwargs": { "data_files": { "test": "items.jsonl" } },
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": template,
        "doc_to_choice": ["yes", "no"], "doc_to_target": 0,
    });
    // JSON is YAML.
    zoo.write("attack.yaml", task.to_string());
}

const DRY: &[&str] = &["eval", "model", "--tasks", "attack.yaml", "--dry-run"];
const CHAT: &[&str] = &["generate", "model", "--chat", "--prompt", "hi", "--max-new-tokens", "1"];

const MEMORY: &str = "stopped: it needs more than 64 MiB of memory";

/// Templates that double a text, nest a value or ask for a size, and what is said of each.
const GREEDY: &[(&str, &str)] = &[
    ("{% set ns = namespace(a='aaaa') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}", MEMORY),
    ("{% set ns = namespace(a='aaaa') %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}", MEMORY),
    (
        "{% set ns = namespace(a='a') %}{% for i in range(60) %}{% set ns.a = ns.a.replace('a', 'aa') %}{% endfor %}",
        MEMORY,
    ),
    (
        "{% set ns = namespace(a='a') %}{% for i in range(60) %}{% set ns.a = ns.a | replace('a', 'aa') %}{% endfor %}",
        MEMORY,
    ),
    (
        "{% set ns = namespace(a=['a']) %}{% for i in range(60) %}{% set ns.a = (ns.a + ns.a) | list %}{% endfor %}",
        MEMORY,
    ),
    (
        "{% set ns = namespace(a='a') %}{% for i in range(60) %}{% set x %}{{ ns.a }}{{ ns.a }}{% endset %}{% set ns.a = x %}{% endfor %}",
        MEMORY,
    ),
    ("{{ 'a\nb' | indent(10000000000) }}", MEMORY),
    ("{{ '%1000000000d' | format(5) }}", ""),
    ("{{ '{:1000000000000}'.format(5) }}", ""),
    ("{{ [1] | batch(10000000000, 0) | list }}", ""),
    ("{{ [1] | slice(10000000000) | list }}", ""),
    ("{{ range(100000) | map('string') | join('x' * 100000) }}", MEMORY),
    ("{% set x = 'x' %}{{ x * 90000000 }}", MEMORY),
    ("{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}", MEMORY),
    ("{% for i in range(20000) %}{{ 'x' * 1000 }}{% endfor %}", "the limit is 16777216"),
    (
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% for j in range(100) %}{% set ns.a = [[[[ns.a]]]] %}{% endfor %}{% endfor %}{{ ns.a == 1 }}",
        MEMORY,
    ),
    ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", ""),
];

#[test]
fn templates_of_tasks_have_limits_on_memory() {
    let zoo = zoo();
    for (template, says) in GREEDY {
        task(&zoo, template);
        glue(&zoo, DRY).refused(template, 2, &["items.jsonl:1", "`doc_to_text`", says]);
    }
}

#[test]
fn chat_templates_have_limits_on_memory() {
    let zoo = zoo();
    for (template, says) in GREEDY {
        zoo.write("model/chat_template.jinja", template);
        glue(&zoo, CHAT).refused(template, 1, &["error: model", "the chat template was ", says]);
    }
}

#[test]
fn templates_have_limits_on_steps() {
    let zoo = zoo();
    let template = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
    task(&zoo, template);
    glue(&zoo, DRY).refused("a task", 2, &["`doc_to_text`", "did not end within 20000000 steps"]);
    zoo.write("model/chat_template.jinja", template);
    glue(&zoo, CHAT).refused("a chat", 1, &["error: model", "the chat template did not end within 20000000 steps"]);
}

/// Sources with as many levels as the limit on their length allows.
fn deep() -> Vec<(&'static str, String)> {
    let n = 120_000;
    let conditions = |n: usize| format!("{{% if q %}}{}{{% endif %}}", "{% elif q %}".repeat(n));
    vec![
        ("sum", format!("{{{{ 1{} }}}}", "+1".repeat(n))),
        ("minus", format!("{{{{ {}1 }}}}", "-".repeat(2 * n))),
        ("not", format!("{{{{ {}q }}}}", "not ".repeat(n / 15))),
        ("filters", format!("{{{{ q{} }}}}", "|e".repeat(n))),
        ("named filters", format!("{{{{ q{} }}}}", "|string".repeat(n / 4))),
        ("attributes", format!("{{{{ q{} }}}}", ".a".repeat(n))),
        ("items", format!("{{{{ q{} }}}}", "[0]".repeat(n / 2))),
        ("calls", format!("{{{{ q{} }}}}", "()".repeat(n))),
        ("and", format!("{{{{ q{} }}}}", " and q".repeat(n / 15))),
        ("tilde", format!("{{{{ q{} }}}}", "~q".repeat(n / 10))),
        ("power", format!("{{{{ 1{} }}}}", "**1".repeat(n / 2))),
        ("comparison", format!("{{{{ 1{} }}}}", "<1".repeat(n))),
        ("is", format!("{{{{ q{} }}}}", " is x".repeat(n / 3))),
        ("elif", conditions(n / 6)),
        ("ternary", format!("{{{{ {}1 }}}}", "1 if q else ".repeat(n / 6))),
        ("brackets", format!("{{{{ {}1{} }}}}", "[".repeat(n), "]".repeat(n))),
        ("parentheses", format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n))),
        ("if", "{% if q %}".repeat(n / 5)),
        ("long", format!("{{{{ 1{} }}}}", "+1".repeat(200_000))),
    ]
}

/// Whatever comes of it, it is no crash, and an error has words.
fn ends(name: &str, run: &Run) {
    assert!(matches!(run.status, Some(0..=2)), "{name}: {run:?}");
    assert!(run.status == Some(0) || run.err.starts_with("error: "), "{name}: {}", run.err);
    assert!(!run.err.contains("panicked"), "{name}: {}", run.err);
}

#[test]
fn no_template_exhausts_the_stack() {
    let zoo = zoo();
    for (name, source) in deep() {
        task(&zoo, &source);
        ends(name, &glue(&zoo, DRY));
        zoo.write("model/chat_template.jinja", source);
        ends(name, &glue(&zoo, CHAT));
    }
}

#[test]
fn a_template_that_is_too_long_is_refused() {
    let zoo = zoo();
    let long = "x".repeat(300_000);
    task(&zoo, &long);
    glue(&zoo, DRY).refused("a task", 2, &["attack.yaml: `doc_to_text`", "300000 bytes; the limit is 262144"]);
    zoo.write("model/chat_template.jinja", &long);
    glue(&zoo, CHAT).refused("a chat", 1, &["error: model", "the chat template has 300000 bytes; the limit is 262144"]);
}

#[test]
fn long_templates_in_earnest_are_accepted() {
    let zoo = zoo();
    let cases: String = (0..300)
        .map(|n| format!("{{% elif n == {n} %}}This is what is said of case {n}. {{{{ q | trim }}}}\n"))
        .collect();
    task(&zoo, &format!("{{% if q == 'x' %}}x{cases}{{% else %}}{{{{ n }}}}{{% endif %}}"));
    glue(&zoo, DRY).ok();
    let cases = cases.replace("{{ q | trim }}", "{{ messages[0].content }}").replace("n ==", "messages | length ==");
    zoo.write("model/chat_template.jinja", format!("{{% if false %}}x{cases}{{% endif %}}"));
    glue(&zoo, CHAT).ok();
}

fn tokenizer(zoo: &Zoo, change: impl FnOnce(&mut Value)) {
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(shipped().join("a-chat/tokenizer.json")).unwrap()).unwrap();
    change(&mut tokenizer);
    zoo.write("model/tokenizer.json", tokenizer.to_string());
}

#[test]
fn pipelines_of_tokenizers_have_limits() {
    let zoo = zoo();
    let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
    let prepend = json!({ "type": "Prepend", "prepend": "x".repeat(1 << 20) });
    let repeat = |key: &str, step: &Value, n: usize| json!({ "type": "Sequence", key: vec![step; n] });
    let generate = ["generate", "model", "--prompt", "aaaa", "--max-new-tokens", "8"];
    tokenizer(&zoo, |json| json["normalizer"] = repeat("normalizers", &double, 40));
    glue(&zoo, &generate).refused("doubling", 1, &["model/tokenizer.json", "stopped: it needs more than"]);
    tokenizer(&zoo, |json| {
        let long = json!({ "type": "Replace", "pattern": { "String": "x" }, "content": "y".repeat(100) });
        json["normalizer"] = json!({ "type": "Sequence", "normalizers": [prepend, prepend, long] });
    });
    glue(&zoo, &generate).refused("prepending", 1, &["model/tokenizer.json", "stopped: it needs more than"]);
    tokenizer(&zoo, |json| {
        let any = json!({ "type": "Replace", "pattern": { "Regex": "." }, "content": "aa" });
        json["decoder"] = json!({ "type": "Sequence", "decoders": [json["decoder"], repeat("decoders", &any, 40)] });
    });
    glue(&zoo, &generate).refused("decoding", 1, &["model/tokenizer.json", "stopped: it needs more than"]);
}

#[test]
fn what_makes_a_tokenizer_panic_is_an_error() {
    let zoo = zoo();
    let eval = ["generate", "model", "--prompt", "hi there", "--max-new-tokens", "1"];
    let check = |name: &str, change: &dyn Fn(&mut Value), says: &str| {
        tokenizer(&zoo, |json| change(json));
        glue(&zoo, &eval).refused(name, 1, &["model/tokenizer.json", says]);
    };
    check(
        "FixedLength",
        &|json| json["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 }),
        "`pre_tokenizer`: FixedLength: `length` should be at least 1",
    );
    check(
        "Replace",
        &|json| json["normalizer"] = json!({ "type": "Replace", "pattern": { "String": "" }, "content": "x" }),
        "`normalizer`: Replace: `pattern` should not be empty",
    );
    check(
        "TemplateProcessing",
        &|json| json["post_processor"]["special_tokens"] = json!({}),
        "`post_processor`: TemplateProcessing: `special_tokens` lacks the token",
    );
    // An empty trie, a trie that leads out of itself, and texts that do.
    for map in ["AAAAAA==", "BAAAAAEBAQE=", "BAAAAP////8="] {
        let step = json!({ "type": "Precompiled", "precompiled_charsmap": map });
        check(map, &|json| json["normalizer"] = step.clone(), "it ended with a panic");
    }
}

#[test]
fn numbers_have_ranges() {
    let zoo = zoo();
    let usage: &[(&[&str], &str)] = &[
        (&["generate", "model", "--prompt", "x", "--samples", "1000000000000"], "1..=10000"),
        (&["generate", "model", "--prompt", "x", "--max-new-tokens", "18446744073709551615"], "1..=1048576"),
        (&["generate", "model", "--prompt", "x", "--top-k", "18446744073709551615"], "1..=4294967295"),
        (&["eval", "model", "--tasks", "t", "--num-fewshot", "18446744073709551615"], "0..=10000"),
        (
            &["eval", "model", "--tasks", "t", "--allow-code-execution", "--code-timeout", "9223372036854775807"],
            "1..=86400",
        ),
        (
            &["eval", "model", "--tasks", "t", "--evaluator", "x", "--evaluator-timeout", "18446744073709551615"],
            "1..=31536000",
        ),
        (&["search", "search.yml", "--out", "o", "--workers", "18446744073709551615", "--dry-run"], "0..=256"),
        (&["search", "search.yml", "--out", "o", "--workers", "10000", "--dry-run"], "0..=256"),
        (&["search", "search.yml", "--out", "o", "--time", "1e300"], "at most 31536000"),
        (&["train-router", "model", "--tasks", "t", "--learning-rate", "NaN"], "from 0.000000000001 to 1000"),
        (&["train-router", "model", "--tasks", "t", "--router", "mlp:1000000000000"], "from 1 to 65536"),
    ];
    for (args, says) in usage {
        glue(&zoo, args).refused(&args.join(" "), 2, &[says]);
    }
}

#[test]
fn numbers_of_tasks_have_ranges() {
    let zoo = zoo();
    let cases: &[(&str, Value, &str)] = &[
        ("repeats", json!(1_000_000_000_000u64), "a whole number from 1 to 10000"),
        ("repeats", json!(u64::MAX), "a whole number from 1 to 10000"),
        ("k", json!(1_000_000_000_000u64), "a whole number from 1 to 10000, or a list of up to 100 of them"),
        ("k", json!([1, u64::MAX]), "a whole number from 1 to 10000, or a list of up to 100 of them"),
        ("k", json!(vec![1; 101]), "a whole number from 1 to 10000, or a list of up to 100 of them"),
        ("max_gen_toks", json!(u64::MAX), "a whole number from 1 to 1048576"),
        ("num_fewshot", json!(u64::MAX), "a whole number from 0 to 10000"),
        ("top_k", json!(u64::MAX), "a whole number from 1 to 4294967295"),
        ("temperature", json!("inf"), "a number of at least 0"),
    ];
    zoo.write("native/test.jsonl", "{\"context\": \"q\", \"target\": \"x\"}\n");
    for (key, value, says) in cases {
        zoo.write("native/task.json", json!({ "kind": "generate", *key: value }).to_string());
        let run = glue(&zoo, &["eval", "model", "--tasks", "native", "--dry-run"]);
        run.refused(key, 2, &["native/task.json: ", &format!("`{key}`"), says]);
    }
    for (key, value, says) in [
        ("repeats", json!(1_000_000_000_000u64), "a whole number from 1 to 10000"),
        ("num_fewshot", json!(u64::MAX), "a whole number from 0 to 10000"),
        ("generation_kwargs", json!({ "max_gen_toks": u64::MAX }), "a whole number from 1 to 1048576"),
        ("generation_kwargs", json!({ "top_k": u64::MAX }), "a whole number from 0 to 4294967295"),
    ] {
        let task = json!({
            "task": "attack", "dataset_path": "json", "dataset_kwargs": { "data_files": { "test": "items.jsonl" } },
            "test_split": "test", "doc_to_text": "{{q}}", "doc_to_target": "{{n}}", key: value,
        });
        zoo.write("attack.yaml", task.to_string());
        glue(&zoo, DRY).refused(key, 2, &["attack.yaml: ", says]);
    }
}

#[test]
fn a_dry_run_of_a_search_starts_no_workers() {
    let zoo = Zoo::empty();
    let [base, math, code] = ["base-a", "a-math", "a-code"].map(|name| shipped().join(name).display().to_string());
    let facts = shipped().join("tasks/facts").display().to_string();
    let config =
        json!({ "models": [math, code], "base": base, "tasks": [facts], "split": "test", "limit": 20, "workers": 9 });
    zoo.write("search.yml", config.to_string());
    // Workers are the program itself, which is gone once it runs.
    let program = zoo.path("glue");
    std::fs::copy(binary(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["search", "search.yml", "--out", "found", "--dry-run"]).current_dir(zoo.directory());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::fs::remove_file(program).unwrap();
    let run = Run::from(&child.wait_with_output().unwrap());
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.out.contains("MAX EVALUATIONS"), "{}", run.out);
}

#[test]
fn a_cell_of_any_width_is_printed() {
    let zoo = zoo();
    let mut config = zoo.json("model/config.json");
    config["architectures"] = json!([&"x".repeat(1_000_000)]);
    zoo.write("model/config.json", config.to_string());
    let run = glue(&zoo, &["inspect", "model"]);
    assert!(run.status == Some(0) && !run.err.contains("panicked"), "{}", run.err);
    task(&zoo, "{{q}}");
    let mut task: Value = zoo.json("attack.yaml");
    task["task"] = "t".repeat(100_000).into();
    zoo.write("attack.yaml", task.to_string());
    let run = glue(&zoo, DRY).ok();
    assert!(run.out.contains("ttt…ttt") && run.out.len() < 2000, "{}", run.out.len());
}
