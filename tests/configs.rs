//! Configs as people write them: what has no effect, all errors at once, a merge without a file, names of mergekit.

use glue_tests::checkpoint::Tensor;
use glue_tests::run::Run;
use glue_tests::zoo::{self, Zoo};
use serde_json::json;
use std::io::Write;
use std::process::Stdio;

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";

#[test]
fn what_has_no_effect_is_a_warning_and_an_error_when_strict() {
    let zoo = Zoo::small();
    zoo.merge(LINEAR, "plain", &["--strict"]).ok();
    let config = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5, density: 0.3}\n";
    let merged = zoo.merge(config, "out", &[]);
    let warning = "warning: out.yml:3:27: `density` has no effect: linear has no such parameter; it has `weight`, \
                   `normalize`\n";
    assert_eq!((merged.status, merged.err.as_str()), (Some(0), warning));
    assert!(zoo.read("out") == zoo.read("plain"));
    zoo.merge(config, "quiet", &["--quiet"]).ok();
    zoo.merge(config, "strict", &["--strict"]).refused(
        "strict",
        2,
        &["error: strict.yml:3:27: `density` has no effect"],
    );
    assert!(!zoo.path("strict").exists());
}

#[test]
fn every_error_is_told_with_its_hint() {
    let zoo = Zoo::small();
    let config = "merge_method: ties\nmodels:\n- {model: a, parameters: {wieght: 1}}\n- {model: b}\nsede: 1\n";
    let refused = zoo.merge(config, "out", &[]);
    let expected = "error: out.yml:1:15: ties needs a base model, none is given\n\
                    hint: name it with `base_model: PATH` at the top of the recipe\n\
                    error: out.yml:3:27: ties has no parameter `wieght`; did you mean `weight`?\n\
                    error: out.yml:5:1: a recipe has no key `sede`; did you mean `seed`?\n";
    assert_eq!((refused.status, refused.err.as_str()), (Some(2), expected));
    // Models too.
    let config =
        "merge_method: linear\nmodels: [{model: x}, {model: a}, {model: y}, {model: x}]\nparameters: {weight: 1}\n";
    let refused = zoo.merge(config, "out", &[]);
    let places: Vec<&str> = refused.err.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    assert_eq!(places, ["out.yml:2:18: x: no such directory", "out.yml:2:42: y: no such directory"]);
}

#[test]
fn a_merge_needs_no_file() {
    let zoo = Zoo::small();
    let config = "merge_method: ties\nbase_model: base\nmodels:\n- {model: a, parameters: {weight: 0.25}}\n- {model: b}\n\
                  parameters: {weight: 1, density: [0.5, 1], normalize: false}\n";
    zoo.merge(config, "file", &[]).ok();
    let inline = ["merge", "--method", "ties", "--base", "base", "--model", "a:0.25", "--model", "b"];
    let params = ["--param", "weight=1", "--param", "density=[0.5, 1]", "--param", "normalize=false"];
    zoo.glue(&[&inline[..], &params[..], &["inline"]].concat()).ok();
    assert!(zoo.read("inline") == zoo.read("file"));
    // What follows a colon and is no weight is a part of the path.
    zoo.add("odd:name", &zoo::tensors(5));
    zoo.glue(&["merge", "--method", "passthrough", "--model", "odd:name", "odd"]).ok();
    assert!(zoo.read("odd") == zoo.read("odd:name"));

    let refused = |args: &[&str], says: &[&str]| {
        zoo.glue(&[&["merge"], args].concat()).refused(&format!("{args:?}"), 2, says);
    };
    refused(&["--method", "ties", "--model", "a", "out"], &["command line:1:15", "needs a base model"]);
    refused(&["--method", "tise", "--model", "a", "out"], &["did you mean `ties`?"]);
    refused(&["--method", "linear", "--model", "a", "--param", "wieght=1", "out"], &["did you mean `weight`?"]);
    refused(&["--method", "linear", "--model", "a", "--param", "weight", "out"], &["KEY=VALUE"]);
    refused(&["--method", "linear", "--model", "a:1", "file.yml", "out"], &["--method", "file.yml"]);
    refused(&["--method", "linear", "--model", "a:1"], &["OUT_DIR"]);
    refused(&["--method", "linear", "out"], &["`models`"]);
    refused(&["--model", "a", "file.yml", "out"], &["--method"]);
    refused(&["file.yml"], &["OUT_DIR"]);
    assert!(!zoo.path("out").exists());
}

#[test]
fn a_config_comes_from_standard_input() {
    let zoo = Zoo::small();
    zoo.merge(LINEAR, "file", &[]).ok();
    let merge = |config: &str, out: &str| {
        let mut command = zoo.command(&["merge", "-", out]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary");
        child.stdin.take().expect("a pipe").write_all(config.as_bytes()).expect("it reads");
        Run::from(&child.wait_with_output().expect("it ends"))
    };
    merge(LINEAR, "piped").ok();
    assert!(zoo.read("piped") == zoo.read("file"));
    merge("merge_method: tise\n", "out").refused("piped", 2, &["standard input:1:15", "did you mean `ties`?"]);
}

#[test]
fn flags_and_words_change_over_the_layers() {
    let zoo = Zoo::small();
    let config = |normalize: &str| {
        format!(
            "merge_method: linear\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{weight: 1, normalize: {normalize}}}\n"
        )
    };
    for (out, normalize) in [("mean", "true"), ("sum", "false"), ("both", "[true, false]")] {
        zoo.merge(&config(normalize), out, &[]).ok();
    }
    let (mean, sum, both) = (zoo.read("mean"), zoo.read("sum"), zoo.read("both"));
    for (name, tensor) in &both {
        // Layer 1 of two is the last, and what follows the layers is with it.
        let last = name.contains("layers.1.") || name == "model.norm.weight" || name == "lm_head.weight";
        assert_eq!(tensor, if last { &sum[name] } else { &mean[name] }, "{name}");
    }
}

#[test]
fn modules_have_the_names_of_mergekit() {
    let zoo = Zoo::empty();
    for (model, seed) in [("a", 1), ("b", 2)] {
        let mut tensors = zoo::tensors(seed);
        for name in ["visual.blocks.0.mlp.weight", "visual.blocks.1.mlp.weight", "visual.merger.weight"] {
            tensors.insert(name.into(), Tensor::f32(&[2], [seed as f32, 10.0 * seed as f32]));
        }
        zoo.add(model, &tensors);
    }
    let passed = |module: &str, model: &str| format!("  {module}: {{models: [{{model: {model}}}]}}\n");
    let modules = [passed("text_decoder", "a"), passed("vision_tower", "b"), passed("multi_modal_projector", "a")];
    zoo.merge(&format!("merge_method: passthrough\nmodules:\n{}", modules.concat()), "out", &[]).ok();
    let (out, a, b) = (zoo.read("out"), zoo.read("a"), zoo.read("b"));
    assert_eq!(out.len(), a.len());
    for (name, tensor) in &out {
        let from = if name.starts_with("visual.blocks") { &b } else { &a };
        assert_eq!(tensor, &from[name], "{name}");
    }
    let unknown = format!("merge_method: passthrough\nmodules:\n{}{}", passed("audio", "a"), passed("default", "a"));
    zoo.merge(&unknown, "unknown", &[]).refused("a module", 2, &["starts with `audio.`", "text_decoder"]);
}

#[test]
fn a_revision_is_left_to_the_path() {
    let zoo = Zoo::small();
    zoo.merge(LINEAR, "plain", &[]).ok();
    let config = LINEAR.replace("model: a}", "model: a@main}");
    let merged = zoo.merge(&config, "out", &["--json"]).json();
    assert!(merged["notes"].to_string().contains("revision `main`"), "{merged}");
    assert!(zoo.read("out") == zoo.read("plain"));
    let full = LINEAR.replace("model: a}", "model: {model: {path: a, revision: main}}}");
    zoo.merge(&full, "full", &["--quiet"]).ok();
    assert!(zoo.read("full") == zoo.read("plain"));
}

#[test]
fn options_of_mergekit_get_a_hint_alone() {
    let zoo = Zoo::small();
    zoo.write("out.yml", LINEAR);
    for (option, says) in [("--cuda", "--device cuda"), ("-v", "--log-format"), ("--lora-merge-cache", "adapters")] {
        let refused = zoo.glue(&["merge", "out.yml", "out", option]);
        refused.refused(option, 2, &["hint: leave out", says]);
        assert!(!refused.err.contains("as a value"), "{}", refused.err);
    }
}

#[test]
fn the_difference_of_two_models_is_added_to_a_third() {
    let zoo = Zoo::small();
    let config = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: a, parameters: {weight: 1}}\n\
                  - {model: b, parameters: {weight: -1}}\nparameters: {lambda: 0.5}\n";
    zoo.merge(config, "out", &[]).ok();
    let (base, a, b, out) = (zoo.read("base"), zoo.read("a"), zoo.read("b"), zoo.read("out"));
    for (name, tensor) in &out {
        for (i, found) in tensor.values().into_iter().enumerate() {
            let expected = base[name].values()[i] + 0.5 * (a[name].values()[i] - b[name].values()[i]);
            // Four roundings of numbers below 4.
            assert!((found - expected).abs() < 1e-6, "{name} {i}: {found} for {expected}");
        }
    }
}

#[test]
fn chat_templates_have_names() {
    let zoo = Zoo::small();
    for (name, part) in [
        ("alpaca", "### Response:"),
        ("chatml", "<|im_start|>"),
        ("exaone", "[|endofturn|]"),
        ("llama3", "<|eot_id|>"),
        ("mistral", "[/INST]"),
    ] {
        zoo.merge(&format!("{LINEAR}chat_template: {name}\n"), name, &[]).ok();
        let template = zoo.json(&format!("{name}/tokenizer_config.json"))["chat_template"].clone();
        assert!(template.as_str().is_some_and(|text| text.contains(part)), "{name}: {template}");
    }
    let refused = zoo.merge(&format!("{LINEAR}chat_template: vicuna\n"), "out", &[]);
    refused.refused(
        "a template",
        2,
        &["out.yml:4:16", "`alpaca`, `chatml`, `exaone`, `llama3`, `mistral`", "`vicuna`"],
    );
}

#[test]
fn a_card_names_no_path_and_the_licence_of_all() {
    let zoo = Zoo::small();
    let front = |out: &str| {
        let card = String::from_utf8(zoo.bytes(&format!("{out}/README.md"))).expect("text");
        card.split("---\n").nth(1).expect("front matter").to_string()
    };
    zoo.merge(LINEAR, "plain", &[]).ok();
    assert_eq!(
        front("plain"),
        "library_name: transformers\npipeline_tag: text-generation\ntags:\n- merge\n- model-glue\n- linear\n"
    );
    zoo.set("a", "_name_or_path", json!("org/first"));
    zoo.set("b", "_name_or_path", json!("/models/second"));
    for model in ["a", "b"] {
        zoo.write(&format!("{model}/README.md"), "---\nlicense: apache-2.0\n---\n# It\n");
    }
    zoo.merge(LINEAR, "known", &[]).ok();
    assert_eq!(
        front("known"),
        "base_model:\n- org/first\nbase_model_relation: merge\nlibrary_name: transformers\npipeline_tag: text-generation\n\
         license: apache-2.0\ntags:\n- merge\n- model-glue\n- linear\n"
    );
    zoo.write("b/README.md", "---\nlicense: mit\n---\n");
    let report = zoo.merge(LINEAR, "mixed", &["--json"]).json();
    assert!(report["notes"].to_string().contains("licenses differ (apache-2.0 for `a`, mit for `b`)"), "{report}");
    assert!(front("mixed").contains("license: other\nlicense_name: mixed\n"), "{}", front("mixed"));
}

#[test]
fn vocabularies_are_cut_where_the_config_says_so() {
    let zoo = Zoo::small();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        zoo.edit("b", |tensors| {
            let mut values: Vec<f32> = tensors[name].values().into_iter().map(|x| x as f32).collect();
            values.extend([9.0; 8]);
            tensors.insert(name.into(), Tensor::f32(&[14, 4], values));
        });
    }
    zoo.set("b", "vocab_size", 14.into());
    let [small, large] = ["models: [{model: a}, {model: b}]", "models: [{model: b}, {model: a}]"];
    let config = |models: &str| format!("merge_method: linear\n{models}\nparameters: {{weight: 0.5}}\n");
    zoo.merge(&config(small), "out", &[]).refused("rows", 2, &["[12, 4]", "[14, 4]", "on_vocabulary: truncate"]);
    for (out, models) in [("small-first", small), ("large-first", large)] {
        let report = zoo.merge(&format!("{}on_vocabulary: truncate\n", config(models)), out, &["--json"]).json();
        assert!(report["notes"].to_string().contains("cut to 12 rows"), "{report}");
        assert_eq!(zoo.json(&format!("{out}/config.json"))["vocab_size"], 12);
        let (a, b, merged) = (zoo.read("a"), zoo.read("b"), zoo.read(out));
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            assert_eq!(merged[name].shape, [12, 4]);
            for (i, found) in merged[name].values().into_iter().enumerate() {
                let expected = f64::midpoint(a[name].values()[i], b[name].values()[i]);
                assert!((found - expected).abs() < 1e-6, "{name} {i}: {found} for {expected}");
            }
        }
    }
    // A token without a row.
    zoo.write("b/tokenizer.json", zoo::tokenizer(14).to_string());
    let cut = format!("{}on_vocabulary: truncate\n", config(large));
    zoo.merge(&cut, "out", &[]).refused("a token", 2, &["id 13", "cut to 12 rows", "tokenizer_source"]);
}
