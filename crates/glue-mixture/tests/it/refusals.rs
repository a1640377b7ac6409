//! What is refused, and what the errors say; prompts that come from elsewhere.

use crate::common::{LAYERS, Zoo, json_of, llama};
use glue_mixture::{
    GateMode, Level, MixConfig, MixError, MixPlan, Mixture, Pool, Prompts, RouterKind, Routing, RunOptions, Unwatched,
    run,
};
use glue_tensor::{Config, Dtype};
use serde_json::{Value, json};

/// The error of parsing `text` is `expected`.
fn check_text(text: &str, expected: &str) {
    let error = MixConfig::parse(text, "mix.yml").expect_err(text);
    assert_eq!(error.to_string(), expected, "{text}");
}

const EXPERTS: &str = "experts:\n- source_model: a\n- source_model: b\n";

#[test]
fn texts() {
    let with = |lines: &str| format!("base_model: base\ngate_mode: random\n{lines}\n{EXPERTS}");
    check_text("", "mix.yml: a mixture is described by one document; there are 0");
    check_text("base_model: [", "mix.yml:1:13: not valid YAML: unclosed bracket '['");
    check_text("base_model: a", "mix.yml:1:1: the description of a mixture needs `experts`");
    check_text(
        "base_model: a\nexperts:\n- source_model: b\n  positve_prompts: []\n",
        "mix.yml:4:3: an expert has no key `positve_prompts`; it has source_model, name, positive_prompts, negative_prompts, skills, \
         noise_scale, residual_scale",
    );
    check_text(
        &with("experts_per_token: 3"),
        "mix.yml:3:20: `experts_per_token` must be 1 to 2, the number of experts, found 3",
    );
    check_text(
        &with("experts_per_token: 0"),
        "mix.yml:3:20: `experts_per_token` must be 1 to 2, the number of experts, found 0",
    );
    check_text(&with("level: layer"), "mix.yml:3:8: `level` must be one of ffn, block, model, found `layer`");
    check_text(
        &with("dense_layers: -1"),
        "mix.yml:3:15: `dense_layers` must be a number of layers, 0 or more, found -1",
    );
    check_text(
        &with("dense_layers: 2\nmixed_layers: [3, 1]"),
        "mix.yml:4:19: `mixed_layers` must be layer numbers that ascend, none below `dense_layers` (2), found 1",
    );
    check_text(
        &with("router: {kind: mlp, hidden_size: 0}"),
        "mix.yml:3:34: `hidden_size` must be a whole number, 1 to 16777216, found 0",
    );
    check_text(&with("pool: last"), "mix.yml:3:7: `pool` means nothing with routing by token");
    check_text(&with("whole: true\nlevel: ffn"), "mix.yml:4:8: `level` must be model with `whole`");
    check_text(
        &with("format: native\narchitecture: mixtral"),
        "mix.yml:4:15: `architecture` asks for mixtral, but `format` for native",
    );
    check_text(
        "base_model: a\ngate_mode: random\nexperts:\n- {source_model: b, noise_scale: -1}\n",
        "mix.yml:4:34: `noise_scale` must be a finite number, 0 or more, found -1",
    );
}

/// The description of `text` is refused with `expected` before any model is looked at: there are none.
fn check_prompts(text: &str, expected: &str) {
    let config = MixConfig::parse(text, "mix.yml").unwrap_or_else(|error| panic!("{text}: {error}"));
    let error = MixPlan::new(&config).expect_err(text);
    assert_eq!(error.to_string(), expected, "{text}");
}

#[test]
fn prompts() {
    let bare = "base_model: a\nexperts:\n- source_model: b\n  positive_prompts: [x]\n- source_model: c\n";
    check_prompts(bare, "mix.yml:5:3: expert `c` has no `positive_prompts`, which `gate_mode: hidden` needs");
    let error = MixPlan::new(&MixConfig::parse(bare, "m").unwrap()).unwrap_err();
    assert!(error.is_usage() && error.hint().unwrap().contains("`tasks` or --tasks"), "{:?}", error.hint());
    check_prompts(
        "base_model: a\nexperts:\n- {source_model: b, positive_prompts: [x]}\n- {source_model: c, positive_prompts: [x]}\n",
        "mix.yml:3:3: all experts have the same prompts; a gate could not tell them apart",
    );
    check_prompts(
        "base_model: a\ngate_mode: random\ntasks: t\nexperts:\n- {source_model: b}\n",
        "mix.yml:3:8: `tasks` means nothing with `gate_mode: random`",
    );
    check_prompts(
        "base_model: a\nexperts:\n- {source_model: b, positive_prompts: [x], skills: math}\n",
        "mix.yml:3:3: `skills` mean nothing without `tasks`, whose items have them",
    );
    check_prompts(
        "base_model: a\ntasks: [t]\nexperts:\n- {source_model: b, skills: [y, x]}\n- {source_model: c, skills: x}\n",
        "mix.yml:5:3: `skills` hold `x`, which an expert before has already",
    );
    check_prompts(
        "base_model: a\ntasks: [t]\nexperts: [{source_model: b}]\nshared_experts:\n- {source_model: c, skills: x}\n",
        "mix.yml:5:3: `skills` hold `x`, but the shared expert is for all tasks",
    );
    check_text(
        "base_model: a\ntasks: {a: b}\nexperts: [{source_model: b}]\n",
        "mix.yml:2:8: `tasks` must be the path of a task, or a list of them, found a mapping",
    );
}

#[test]
fn prompts_that_come_from_elsewhere_are_taken_in() {
    let zoo = Zoo::usual();
    let text = zoo.resolve(
        "base_model: '@base'\ntasks: [t, u]\nexperts:\n- {source_model: '@x', skills: [math, sums]}\n- {source_model: '@y', \
         positive_prompts: [b], negative_prompts: [c]}\n- {source_model: '@z', negative_prompts: [d]}\n",
    );
    let mut plan = zoo.plan(&text).unwrap();
    assert_eq!(plan.config.tasks, ["t", "u"].map(std::path::PathBuf::from));
    assert_eq!((plan.config.without_prompts(), plan.config.shared_without_prompts()), (vec![0, 2], false));
    let of_skills = plan.config.experts_of_skills();
    assert_eq!(
        of_skills.into_iter().collect::<Vec<_>>(),
        [("math", "x"), ("sums", "x")].map(|(a, b)| (a.into(), b.into()))
    );
    let list = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<String>>();
    for expert in [0, 2] {
        plan.set_prompts(expert, Prompts { positive: list(&["e", "f"]), negative: list(&["a"]) });
    }
    assert!(plan.config.without_prompts().is_empty());
    let prompts = plan.gate_request().prompts;
    assert_eq!((&prompts[0].positive, &prompts[0].negative), (&list(&["e", "f"]), &list(&["a"])));
    assert_eq!((&prompts[1].positive, &prompts[1].negative), (&list(&["b"]), &list(&["c"])));
    // What the description says is not contradicted.
    assert_eq!((&prompts[2].positive, &prompts[2].negative), (&list(&["e", "f"]), &list(&["d"])));
    let out = zoo.path("out");
    run(&plan, &plan.random_gates(), &out, &RunOptions::default(), &Unwatched).unwrap();
    let kept = &json_of(&out.join("glue.json"))["mixture"]["prompts"];
    assert_eq!(kept["x"], json!({ "positive": ["e", "f"], "negative": ["a"] }));
    assert_eq!(kept["z"]["negative"], json!(["d"]));
    assert_eq!(kept["y"], Value::Null);
    // Gates of random numbers need none.
    let plan = zoo.plan(&zoo.text("", &["x"])).unwrap();
    assert!(plan.config.without_prompts().is_empty());
}

#[test]
fn defaults() {
    let config =
        MixConfig::parse(&format!("base_model: base\ngate_mode: uniform_random\n{EXPERTS}- source_model: z/b\n"), "m")
            .unwrap();
    assert_eq!(config.gate_mode, GateMode::UniformRandom);
    assert_eq!((config.level, config.routing, config.pool), (Level::Ffn, Routing::Token, Pool::Mean));
    assert_eq!(
        (config.router, config.experts_per_token, config.dense_layers, config.seed),
        (RouterKind::Linear, 2, 0, 0)
    );
    let names: Vec<&str> = config.experts.iter().map(|expert| expert.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "b-2"]);
    let config =
        MixConfig::parse(&format!("base_model: base\ngate_mode: random\nwhole: true\n{EXPERTS}"), "m").unwrap();
    assert_eq!((config.level, config.routing, config.experts_per_token), (Level::Model, Routing::Sample, 1));
}

/// Planning the mixture of `lines` over the usual zoo, with `x` changed, is refused with `expected`; `@` is the zoo.
fn check_plan(lines: &str, change: impl Fn(&Zoo), expected: &str) {
    let zoo = Zoo::usual();
    std::fs::remove_dir_all(zoo.path("x")).unwrap();
    change(&zoo);
    if !zoo.path("x").exists() {
        zoo.add("x", &llama(1.0));
    }
    let error = zoo.plan(&zoo.text(lines, &["x", "y"])).expect_err(expected);
    assert_eq!(error.to_string(), zoo.resolve(expected));
}

#[test]
fn shapes() {
    let narrow = |zoo: &Zoo| zoo.add("x", &llama(1.0).with("model.layers.1.mlp.up_proj.weight", Dtype::F32, &[7, 4]));
    for level in ["ffn", "block", "model"] {
        check_plan(
            &format!("level: {level}"),
            narrow,
            "tensor `model.layers.1.mlp.up_proj.weight` is [7, 4] in expert @x, but [8, 4] in the base @base",
        );
    }
    // Where nothing is mixed, nothing need fit.
    let zoo = Zoo::usual();
    zoo.add("w", &llama(1.0).with("model.layers.0.mlp.up_proj.weight", Dtype::F32, &[7, 4]));
    zoo.plan(&zoo.text("dense_layers: 1", &["w"])).unwrap();
    check_plan(
        "",
        |zoo| zoo.add("x", &llama(1.0).without("model.layers.2.mlp.down_proj.weight")),
        "tensor `model.layers.2.mlp.down_proj.weight` is in the base @base, but not in expert @x",
    );
    check_plan(
        "level: block",
        |zoo| zoo.add("x", &llama(1.0).with("model.layers.0.self_attn.q_proj.bias", Dtype::F32, &[4])),
        "tensor `model.layers.0.self_attn.q_proj.bias` is in expert @x, but not in the base @base",
    );
    check_plan(
        "",
        |zoo| zoo.add("x", &llama(1.0).with("model.layers.0.mlp.up_proj.weight", Dtype::I32, &[8, 4])),
        "tensor `model.layers.0.mlp.up_proj.weight` of @x holds I32, which is not mixed",
    );
    check_plan("dense_layers: 4", |_| {}, &format!("mix.yml:3:15: `dense_layers` must be 0 to {LAYERS}, found 4"));
    check_plan("mixed_layers: [1, 3]", |_| {}, "mix.yml:3:15: `mixed_layers` must be layers below 3, found 3");
}

#[test]
fn configurations() {
    let with =
        |key: &'static str, value: Value| move |zoo: &Zoo| zoo.add("x", &llama(1.0).with_config(key, value.clone()));
    check_plan(
        "",
        with("num_hidden_layers", json!(2)),
        "@x: `num_hidden_layers` is 2, but that of the base @base is 3",
    );
    check_plan("", with("hidden_act", json!("gelu")), "@x: `hidden_act` is \"gelu\", but the base's is null");
    check_plan(
        "level: block",
        with("rms_norm_eps", json!(1e-6)),
        "@x: `rms_norm_eps` is 1e-6, but the base's is 0.00001",
    );
    check_plan(
        "level: model",
        with("rope_theta", json!(500000.0)),
        "@x: `rope_theta` is 500000.0, but the base's is null: whole layers run with the base's",
    );
    check_plan(
        "level: model",
        with("model_type", json!("mistral")),
        "@x: `model_type` is \"mistral\", but the base's is \"llama\"",
    );
    check_plan(
        "",
        with("model_type", json!("glue_mixture")),
        "@x: `model_type` is \"glue_mixture\", but a mixture cannot go into another",
    );
    check_plan(
        "",
        with("quantization_config", json!({ "bits": 4 })),
        "@x: `quantization_config` is {\"bits\":4}, but quantised weights cannot be mixed",
    );
    // At FFN level the base's embeddings of positions are used: worth a note.
    let zoo = Zoo::usual();
    zoo.add("r", &llama(1.0).with_config("rope_theta", json!(500000.0)));
    let plan = zoo.plan(&zoo.text("", &["r"])).unwrap();
    assert!(plan.notes.iter().any(|note| note.contains("rope_theta")), "{:?}", plan.notes);
}

#[test]
fn tokenizers() {
    let other = |zoo: &Zoo| zoo.add("x", &llama(1.0).with_vocabulary(Some(vec!["a", "c", "b", "d", "e", "f"])));
    for level in ["ffn", "block", "model"] {
        check_plan(
            &format!("level: {level}"),
            other,
            "mix.yml:5:3: the tokenizer of expert @x differs from that of the base: token \"b\" is id 1 in the first and id 2 in the \
             second",
        );
    }
    check_plan(
        "whole: true",
        |zoo| zoo.add("x", &llama(1.0).with_vocabulary(None)),
        "mix.yml:5:3: model @x has no tokenizer, and with `whole` each expert reads text",
    );
    check_plan(
        "",
        |zoo| zoo.add("x", &llama(1.0).with_vocabulary(None).with_config("vocab_size", json!(7))),
        "@x: `vocab_size` is 7, but that of the base @base is 6",
    );
    let zoo = Zoo::new();
    zoo.add("base", &llama(0.0).with_vocabulary(None));
    zoo.add("x", &llama(1.0));
    let text = "base_model: '@base'\nexperts:\n- {source_model: '@x', positive_prompts: [a]}\n";
    let error = zoo.plan(text).unwrap_err().to_string();
    assert_eq!(error, zoo.resolve("mix.yml:1:13: model @base has no tokenizer, and its gates are made from prompts"));
}

#[test]
fn forms() {
    let refused = |lines: &str, why: &str| {
        check_plan(lines, |_| {}, why);
    };
    refused("format: mixtral\nlevel: block", "mixtral cannot hold this mixture: it has experts at level ffn only");
    refused("format: mixtral\nrouting: sample", "mixtral cannot hold this mixture: it routes by token only");
    refused("format: mixtral\nrouter: mlp", "mixtral cannot hold this mixture: its gates are linear");
    refused("format: qwen2_moe", "qwen2_moe cannot hold this mixture: it needs one entry under `shared_experts`");
    refused("whole: true\nformat: mixtral", "mixtral cannot hold this mixture: its experts are whole models");
    let zoo = Zoo::new();
    let gemma = llama(0.0).with_config("model_type", json!("gemma2"));
    zoo.add("base", &gemma);
    zoo.add("x", &gemma);
    let error = zoo.plan(&zoo.text("format: mixtral", &["x"])).unwrap_err().to_string();
    assert_eq!(
        error,
        "mixtral cannot hold this mixture: the base's `model_type` is gemma2, and it holds llama, mistral"
    );
    assert_eq!(zoo.plan(&zoo.text("", &["x"])).unwrap().form(), glue_mixture::Form::Native);
}

#[test]
fn models_that_are_not_there() {
    let zoo = Zoo::usual();
    let error = zoo.plan(&zoo.text("", &["nowhere"])).unwrap_err();
    assert_eq!(error.to_string(), zoo.resolve("mix.yml:5:3: @nowhere: no such directory"));
    assert!(error.hint().unwrap().contains("nothing is downloaded"));
    assert!(error.is_usage());
}

/// The configuration of a mixture with `key` set to `value` is refused in words that hold `expected`.
fn check_spec(key: &str, value: Value, expected: &str) {
    let zoo = Zoo::usual();
    let out = zoo.mix(&zoo.text("level: block\ndense_layers: 1", &["x", "y"]), "out");
    let mut config = json_of(&out.join("config.json"));
    assert!(Mixture::from_config(&Config::from_value(config.clone()).unwrap()).unwrap().is_some());
    config[key] = value;
    let error = Mixture::from_config(&Config::from_value(config).unwrap()).unwrap_err();
    assert!(matches!(&error, MixError::Spec { key: found, .. } if found == key), "{error}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn specs() {
    check_spec("format_version", json!(2), "2, but this program reads 1");
    check_spec("level", json!("layer"), "unknown variant `layer`");
    check_spec("experts", json!([]), "at least one");
    check_spec("experts", json!(["x", "x"]), "`x` comes twice");
    check_spec("experts", Value::Null, "missing");
    check_spec("experts_per_token", json!(3), "3, but there are 2 experts");
    check_spec("experts_per_token", json!(0), "0, but there are 2 experts");
    check_spec("dense_layers", json!(9), "9, but the base has 3 layers");
    check_spec("mixed_layers", json!([2, 1]), "2 is followed by 1");
    check_spec("mixed_layers", json!([0, 1]), "0 is not one of the layers 1 to 3");
    check_spec("router", json!({ "kind": "mlp", "hidden_size": 0 }), "at least 1");
    check_spec("routing", json!("word"), "unknown variant `word`");
    check_spec("base", json!({ "hidden_size": 4 }), "how many layers");
}
