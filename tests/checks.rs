//! `glue check`: what a hub and the programs that run models would object to.

use glue_tests::checkpoint::Tensor;
use glue_tests::zoo::Zoo;
use serde_json::{Value, json};
use std::fs;

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";

/// A merge that is as it should be: two models with identifiers and a licence.
fn merged() -> Zoo {
    let zoo = Zoo::small();
    for model in ["a", "b"] {
        zoo.set(model, "_name_or_path", json!(format!("org/{model}")));
        zoo.write(&format!("{model}/README.md"), "---\nlicense: mit\n---\n");
    }
    zoo.merge(LINEAR, "out", &[]).ok();
    zoo
}

#[test]
fn a_merge_has_nothing_to_object_to() {
    let zoo = merged();
    let report = zoo.glue(&["check", "out", "--json"]).json();
    assert_eq!(report, json!({ "model": "out", "errors": 0, "warnings": 0, "findings": [] }));
    assert_eq!(zoo.glue(&["check", "out"]).ok().out, "0 errors, 0 warnings\n");
    zoo.glue(&["check", "nowhere"]).refused("nothing", 2, &["nowhere: no such directory"]);
}

#[test]
fn every_objection_is_found() {
    type Spoil = fn(&Zoo);
    // What is done to the merge, and the level, one who objects, and the message of a finding.
    let cases: &[(&str, Spoil, [&str; 3])] = &[
        ("no weights", |zoo| remove(zoo, "model.safetensors"), ["error", "vLLM", "no safetensors file"]),
        ("no configuration", |zoo| remove(zoo, "config.json"), ["error", "transformers", "missing"]),
        ("a broken configuration", |zoo| zoo.write("out/config.json", "{"), ["error", "llama.cpp", "not valid JSON"]),
        ("no model type", |zoo| unset(zoo, "model_type"), ["error", "transformers", "`model_type`"]),
        ("no architectures", |zoo| unset(zoo, "architectures"), ["error", "vLLM", "`architectures`"]),
        (
            "a vocabulary of another size",
            |zoo| zoo.set("out", "vocab_size", 13.into()),
            ["error", "vLLM", "`vocab_size` is 13, but the embedding has 12 rows"],
        ),
        (
            "more layers",
            |zoo| zoo.set("out", "num_hidden_layers", 3.into()),
            ["error", "llama.cpp", "2 layers, but the configuration says 3"],
        ),
        ("another type", |zoo| zoo.set("out", "dtype", "bfloat16".into()), ["warning", "vLLM", "`dtype` is bfloat16"]),
        (
            "a head that is ignored",
            |zoo| zoo.set("out", "tie_word_embeddings", true.into()),
            ["warning", "transformers", "`lm_head.weight` is ignored"],
        ),
        (
            "no head",
            |zoo| zoo.edit("out", |tensors| drop(tensors.remove("lm_head.weight"))),
            ["error", "transformers", "there is no head"],
        ),
        (
            "weights that are no common numbers",
            |zoo| {
                zoo.edit("out", |tensors| {
                    for tensor in tensors.values_mut() {
                        *tensor = Tensor::bf16(&tensor.shape.clone(), tensor.values().into_iter().map(|x| x as f32));
                        tensor.dtype = "F8_E4M3".into();
                        tensor.data.truncate(tensor.shape.iter().product());
                    }
                });
            },
            ["error", "llama.cpp", "float8_e4m3fn"],
        ),
        ("no tokenizer", |zoo| remove(zoo, "tokenizer.json"), ["error", "llama.cpp", "missing"]),
        (
            "a token beyond the embedding",
            |zoo| zoo.write("out/tokenizer.json", glue_tests::zoo::tokenizer(13).to_string()),
            ["error", "vLLM", "a token has id 12, but the embedding has 12 rows"],
        ),
        (
            "no chat template",
            |zoo| zoo.write("out/tokenizer_config.json", "{}"),
            ["warning", "vLLM", "no chat template"],
        ),
        (
            "a token that ends answers beyond the vocabulary",
            |zoo| zoo.write("out/generation_config.json", r#"{"eos_token_id": [2, 12]}"#),
            ["error", "vLLM", "`eos_token_id` is 12, but the vocabulary has 12 tokens"],
        ),
        ("no defaults", |zoo| remove(zoo, "generation_config.json"), ["warning", "vLLM", "missing: defaults"]),
        (
            "code",
            |zoo| zoo.set("out", "auto_map", json!({ "AutoModel": "modeling_x.X" })),
            ["error", "transformers", "missing, but `auto_map` names it"],
        ),
        ("no card", |zoo| remove(zoo, "README.md"), ["warning", "hub", "missing: no licence"]),
        ("no metadata", |zoo| zoo.write("out/README.md", "# It\n"), ["warning", "hub", "no metadata"]),
        ("broken metadata", |zoo| card(zoo, "a: [\n"), ["error", "hub", "metadata: README.md:"]),
        (
            "a path for a base model",
            |zoo| card(zoo, "base_model:\n- org/a\n- ./models/b\nlicense: mit\n"),
            ["error", "hub", "`base_model` is `./models/b`"],
        ),
        (
            "a licence that nobody chose",
            |zoo| card(zoo, "license: other\nlicense_name: mixed\n"),
            ["warning", "hub", "a person must choose"],
        ),
        ("training", |zoo| zoo.write("out/optimizer.pt", "x"), ["warning", "hub", "the state of an optimiser"]),
    ];
    for (name, spoil, [level, who, says]) in cases {
        let zoo = merged();
        spoil(&zoo);
        let run = zoo.glue(&["check", "out", "--json"]);
        let report: Value = serde_json::from_str(&run.out).expect("JSON");
        let found = report["findings"].as_array().expect("findings").iter().any(|finding| {
            finding["level"] == *level
                && finding["who"].as_array().expect("who").contains(&json!(who))
                && finding["message"].as_str().expect("a message").contains(says)
        });
        assert!(found, "{name}: {report:#}");
        let errors = report["errors"].as_u64().expect("a count");
        assert_eq!((run.status, run.err.as_str()), (Some(i32::from(errors > 0)), ""), "{name}");
        let text = zoo.glue(&["check", "out"]);
        assert!(text.out.contains(says), "{name}: {}", text.out);
    }
}

fn remove(zoo: &Zoo, name: &str) {
    fs::remove_file(zoo.path("out").join(name)).expect("a file of the merge");
}

fn unset(zoo: &Zoo, key: &str) {
    zoo.set("out", key, Value::Null);
}

fn card(zoo: &Zoo, front: &str) {
    zoo.write("out/README.md", format!("---\n{front}---\n# It\n"));
}

#[test]
fn an_index_must_fit_its_shards() {
    let zoo = merged();
    zoo.merge(LINEAR, "shards", &["--max-shard-size", "300"]).ok();
    let report = zoo.glue(&["check", "shards", "--json"]).json();
    assert_eq!(report["errors"], 0, "{report:#}");
    let index = "shards/model.safetensors.index.json";
    let mut spoilt = zoo.json(index);
    spoilt["metadata"]["total_size"] = 1.into();
    zoo.write(index, spoilt.to_string());
    let report = zoo.glue(&["check", "shards", "--json"]).json();
    assert!(report["findings"].to_string().contains("`total_size` is 1, but the tensors have 816 bytes"), "{report:#}");
    spoilt["weight_map"]["model.norm.weight"] = "model-9.safetensors".into();
    zoo.write(index, spoilt.to_string());
    let run = zoo.glue(&["check", "shards"]);
    assert_eq!(run.status, Some(1));
    assert!(run.out.contains("model-9.safetensors"), "{}", run.out);
}
