//! The output of a merge: weights in the requested type and files, and the files beside them.

use glue_tests::checkpoint::Tensor;
use glue_tests::number::SMALL;
use glue_tests::zoo::{self, Q_PROJ, Zoo};
use serde_json::{Value, json};
use std::fs;

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";
const TIES: &str =
    "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";

#[test]
fn shards_hold_what_one_file_holds() {
    let zoo = Zoo::small();
    zoo.merge(LINEAR, "one", &[]).ok();
    // The largest tensors have 192 bytes, so that some files hold one tensor and some hold several.
    for size in ["1", "200", "0.3kB"] {
        zoo.merge(LINEAR, "many", &["--max-shard-size", size]).ok();
        let shards = zoo.names("many").iter().filter(|name| name.ends_with(".safetensors")).count();
        let index = zoo.json("many/model.safetensors.index.json");
        assert!(shards > 1 && index["weight_map"].as_object().is_some_and(|map| map.len() == 9), "{size}: {index}");
        assert_eq!(index["metadata"]["total_size"], 816, "{size}");
        assert!(zoo.read("many") == zoo.read("one"), "{size}");
        fs::remove_dir_all(zoo.path("many")).expect("a directory that was just made");
    }
}

#[test]
fn inputs_may_be_in_shards() {
    let zoo = Zoo::small();
    zoo.merge(LINEAR, "whole", &[]).ok();
    let tensors = zoo.read("b");
    fs::remove_file(zoo.path("b/model.safetensors")).expect("a file of the zoo");
    zoo.add_sharded("b", &tensors, 3);
    zoo.merge(LINEAR, "parts", &[]).ok();
    assert!(zoo.bytes("parts/model.safetensors") == zoo.bytes("whole/model.safetensors"));
}

#[test]
fn weights_are_rounded_once_to_the_type_asked_for() {
    let zoo = Zoo::small();
    zoo.merge(LINEAR, "exact", &[]).ok();
    let exact = zoo.read("exact");
    let torch = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"];
    for (small, name) in SMALL.into_iter().zip(torch) {
        for (how, (config, args)) in [
            ("dtype", (format!("{LINEAR}dtype: {name}\n"), vec![])),
            ("out_dtype", (format!("{LINEAR}dtype: float32\nout_dtype: {name}\n"), vec![])),
            ("--dtype", (format!("{LINEAR}dtype: float32\n"), vec!["--dtype", name])),
        ] {
            let out = format!("{name}{how}");
            zoo.merge(&config, &out, &args).ok();
            assert_eq!(zoo.json(&format!("{out}/config.json"))["dtype"], name, "{out}");
            for (tensor, found) in zoo.read(&out) {
                assert_eq!(found.dtype, small.name, "{out}: {tensor}");
                for (x, y) in found.values().into_iter().zip(exact[&tensor].values()) {
                    assert!((x - y).abs() <= small.half_step(y), "{out}: {tensor}: {x} for {y}");
                }
            }
        }
    }
}

#[test]
fn types_are_kept_unless_told_otherwise() {
    let zoo = Zoo::small();
    for model in ["a", "b"] {
        zoo.edit(model, |tensors| {
            let values: Vec<f32> = tensors[Q_PROJ].values().into_iter().map(|x| x as f32).collect();
            tensors.insert(Q_PROJ.into(), Tensor::bf16(&[4, 4], values));
            tensors.insert("counts".into(), Tensor::i64(&[2], [1, -1]));
        });
    }
    let report = zoo.merge(LINEAR, "out", &["--json"]).json();
    let out = zoo.read("out");
    assert_eq!((out[Q_PROJ].dtype.as_str(), out["lm_head.weight"].dtype.as_str()), ("BF16", "F32"));
    assert_eq!(out["counts"], Tensor::i64(&[2], [1, -1]));
    assert_eq!(report["copied"], json!(["counts"]));
    assert_eq!(report["dtypes"], json!({ "BF16": 1, "F32": 8, "I64": 1 }));
}

#[test]
fn one_model_passes_through_as_it_is() {
    let zoo = Zoo::small();
    zoo.edit("a", |tensors| {
        tensors.insert(Q_PROJ.into(), Tensor::bf16(&[4, 4], (0..16).map(|i| i as f32)));
        tensors.insert("counts".into(), Tensor::i64(&[3], [1, 2, 3]));
    });
    zoo.merge("merge_method: passthrough\nmodels: [{model: a}]\n", "out", &[]).ok();
    assert!(zoo.read("out") == zoo.read("a"));
    zoo.merge("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n", "mean", &[]).ok();
    assert!(zoo.read("mean") == zoo.read("a"));
}

#[test]
fn layers_are_stacked_and_counted() {
    let zoo = Zoo::small();
    let config = "merge_method: passthrough\nslices:\n\
                  - sources: [{model: a, layer_range: [0, 2]}]\n\
                  - sources: [{model: b, layer_range: [1, 2]}]\n";
    zoo.merge(config, "out", &[]).ok();
    let (out, a, b) = (zoo.read("out"), zoo.read("a"), zoo.read("b"));
    assert_eq!(out.len(), 12);
    assert_eq!(out["model.layers.2.mlp.up_proj.weight"], b["model.layers.1.mlp.up_proj.weight"]);
    assert_eq!(out["model.layers.1.mlp.up_proj.weight"], a["model.layers.1.mlp.up_proj.weight"]);
    assert_eq!(out["model.embed_tokens.weight"], a["model.embed_tokens.weight"]);
    assert_eq!(out["lm_head.weight"], b["lm_head.weight"]);
    assert_eq!(zoo.json("out/config.json")["num_hidden_layers"], 3);
}

#[test]
fn models_and_slices_of_all_layers_are_the_same() {
    let zoo = Zoo::small();
    let slices = "merge_method: ties\nbase_model: base\nparameters: {weight: 0.5}\nslices:\n\
                  - sources:\n  - {model: a, layer_range: [0, 2]}\n  - {model: b, layer_range: [0, 2]}\n";
    let full = TIES.replace("{model: a}", "{model: {model: {path: a}}}");
    zoo.merge(TIES, "models", &[]).ok();
    zoo.merge(slices, "slices", &[]).ok();
    zoo.merge(&full, "full", &[]).ok();
    assert!(zoo.bytes("models/model.safetensors") == zoo.bytes("slices/model.safetensors"));
    assert!(zoo.bytes("models/model.safetensors") == zoo.bytes("full/model.safetensors"));
}

#[test]
fn a_tensor_that_is_missing_is_taken_from_the_base_or_left_out() {
    let zoo = Zoo::small();
    zoo.edit("b", |tensors| _ = tensors.remove(Q_PROJ));
    let report = zoo.merge(&format!("{TIES}on_missing: base\n"), "stand-in", &["--json"]).json();
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains(Q_PROJ) && note.contains("`base`")));
    let (complete, base) = (zoo.read("stand-in"), zoo.read("base"));
    // The same as if `b` had the base's tensor.
    zoo.edit("b", |tensors| _ = tensors.insert(Q_PROJ.into(), base[Q_PROJ].clone()));
    zoo.merge(TIES, "with", &[]).ok();
    assert!(zoo.read("with") == complete);

    zoo.edit("b", |tensors| _ = tensors.remove(Q_PROJ));
    let report = zoo.merge(&format!("{TIES}on_missing: skip\n"), "left-out", &["--json"]).json();
    assert_eq!(report["dropped"][0]["tensor"], Q_PROJ);
    let mut rest = complete;
    rest.remove(Q_PROJ);
    assert!(zoo.read("left-out") == rest);
    assert_eq!(zoo.json("left-out/glue.json")["dropped"], report["dropped"]);
}

#[test]
fn what_is_not_finite_is_zero_when_that_is_asked_for() {
    let zoo = Zoo::small();
    let with = |spoilt: [f32; 2]| {
        zoo.edit("b", |tensors| {
            let mut values: Vec<f32> = tensors[Q_PROJ].values().into_iter().map(|x| x as f32).collect();
            values[3..5].copy_from_slice(&spoilt);
            tensors.insert(Q_PROJ.into(), Tensor::f32(&[4, 4], values));
        });
    };
    with([0.0, 0.0]);
    for (name, config) in [("linear", LINEAR), ("ties", TIES)] {
        zoo.merge(config, &format!("{name}-zero"), &[]).ok();
    }
    with([f32::NAN, f32::INFINITY]);
    for (name, config) in [("linear", LINEAR), ("ties", TIES)] {
        zoo.merge(&format!("{config}on_nonfinite: zero\n"), &format!("{name}-read-as-zero"), &[]).ok();
        assert!(zoo.read(&format!("{name}-read-as-zero")) == zoo.read(&format!("{name}-zero")), "{name}");
    }
}

#[test]
fn a_head_that_is_the_embedding() {
    let zoo = Zoo::small();
    let tie = |model: &str| {
        zoo.edit(model, |tensors| _ = tensors.remove("lm_head.weight"));
        zoo.set(model, "tie_word_embeddings", true.into());
    };
    let mean = |x: &Tensor, y: &Tensor| -> Vec<f64> {
        x.values().into_iter().zip(y.values()).map(|(x, y)| ((x + y) / 2.0) as f32 as f64).collect()
    };
    let (a, b) = (zoo.read("a"), zoo.read("b"));
    tie("b");
    // One has a head of its own: the output gets one, to which the other gives its embedding.
    zoo.merge(LINEAR, "one", &[]).ok();
    assert_eq!(zoo.read("one")["lm_head.weight"].values(), mean(&a["lm_head.weight"], &b["model.embed_tokens.weight"]));
    assert_eq!(zoo.json("one/config.json")["tie_word_embeddings"], false);
    tie("a");
    zoo.merge(LINEAR, "both", &[]).ok();
    assert!(!zoo.read("both").contains_key("lm_head.weight"));
    assert_eq!(zoo.json("both/config.json")["tie_word_embeddings"], true);
}

#[test]
fn everything_beside_the_weights_is_there() {
    let zoo = Zoo::small();
    zoo.merge(TIES, "out", &["--seed", "5"]).ok();
    let expected = [
        "README.md",
        "config.json",
        "generation_config.json",
        "glue.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(zoo.names("out"), expected);
    assert_eq!(zoo.json("out/config.json"), zoo::config());
    for file in ["generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(zoo.bytes(&format!("out/{file}")) == zoo.bytes(&format!("base/{file}")), "{file}");
    }

    let card = String::from_utf8(zoo.bytes("out/README.md")).expect("text");
    let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).expect("front matter").0;
    // No path is a model of a hub.
    assert!(!front.contains("base_model") && front.contains("\n- merge\n"), "{front}");
    assert!(card.contains(&format!("```yaml\n{TIES}```")) && card.contains("Seed 5."), "{card}");
    assert!(card.contains("# out\n") && card.contains("arXiv 2306.01708"), "{card}");
}

#[test]
fn tokenizer_and_chat_template_are_those_asked_for() {
    let zoo = Zoo::small();
    let template = |out: &str| zoo.json(&format!("{out}/tokenizer_config.json"))["chat_template"].clone();
    for (out, more, expected) in [
        ("of-b", "tokenizer_source: b\n", "{{ messages }} of b"),
        ("by-mapping", "tokenizer: {source: b}\n", "{{ messages }} of b"),
        ("literal", "chat_template: \"{{ bos }}\"\n", "{{ bos }}"),
        ("from-a-file", "chat_template: template.jinja\n", "{{ file }}"),
    ] {
        zoo.write("template.jinja", "{{ file }}");
        zoo.merge(&format!("{LINEAR}{more}"), out, &[]).ok();
        assert_eq!(template(out), expected, "{out}");
    }
    zoo.merge(&format!("{LINEAR}chat_template: chatml\n"), "chatml", &[]).ok();
    assert!(template("chatml").as_str().is_some_and(|text| text.contains("<|im_start|>")));
    // Two of three have the same.
    fs::copy(zoo.path("b/tokenizer_config.json"), zoo.path("a/tokenizer_config.json")).expect("a file of the zoo");
    zoo.merge(&format!("{TIES}chat_template: auto\n"), "auto", &[]).ok();
    assert_eq!(template("auto"), "{{ messages }} of b");
}

/// Name and hash of every input file.
fn hashes(manifest: &Value) -> Vec<(String, String)> {
    let inputs = manifest["inputs"].as_array().expect("inputs").iter();
    let files = inputs.flat_map(|input| {
        let name = |file: &Value| format!("{}/{}", input["model"].as_str().unwrap_or_default(), file["name"]);
        let files = input["files"].as_array().expect("files").iter();
        files.map(|file| (name(file), file["xxh3_128"].to_string())).collect::<Vec<_>>()
    });
    files.collect()
}

#[test]
fn the_manifest_says_what_the_output_was_made_from() {
    let zoo = Zoo::small();
    zoo.merge(TIES, "one", &["--seed", "5"]).ok();
    let one = zoo.json("one/glue.json");
    assert_eq!((&one["recipe"], &one["seed"], &one["operator"]), (&TIES.into(), &5.into(), &"ties".into()));
    let version = zoo.glue(&["--version"]).ok().out;
    assert_eq!(version.trim(), format!("glue {}", one["version"].as_str().unwrap_or_default()));
    assert_eq!(one["output"]["files"], json!([{ "name": "model.safetensors", "bytes": 816, "tensors": 9 }]));
    assert_eq!(hashes(&one).len(), 3 * 5, "{one:#}");

    zoo.edit("b", |tensors| tensors.get_mut(Q_PROJ).expect("a tensor").data[0] ^= 1);
    zoo.write("a/generation_config.json", "{}");
    zoo.merge(TIES, "two", &["--seed", "5"]).ok();
    let two = zoo.json("two/glue.json");
    let pairs = hashes(&one).into_iter().zip(hashes(&two));
    let changed: Vec<String> = pairs.filter(|(x, y)| x != y).map(|(x, _)| x.0.replace('"', "")).collect();
    assert_eq!(changed, ["a/generation_config.json", "b/model.safetensors"]);
}

#[test]
fn a_dry_run_tells_what_is_then_written() {
    let zoo = Zoo::small();
    let args = ["--json", "--max-shard-size", "200"];
    zoo.write("out.yml", TIES);
    let before = zoo.listing("");
    let expected = zoo.merge(TIES, "out", &[&args[..], &["--dry-run"]].concat()).json();
    assert!(zoo.listing("") == before, "left {:?}", zoo.names(""));
    let done = zoo.merge(TIES, "out", &args).json();
    for key in ["output", "operator", "seed", "tensors", "parameters", "dtypes", "files", "bytes_read", "bytes_written"]
    {
        assert!(!expected[key].is_null() && expected[key] == done[key], "{key}: {} and {}", expected[key], done[key]);
    }
    assert_eq!(expected["disk"]["needed"], done["bytes_written"]);
    let tensors = zoo.read("out");
    assert_eq!(done["bytes_written"], tensors.values().map(|tensor| tensor.data.len()).sum::<usize>());
    for file in done["files"].as_array().expect("files") {
        let bytes = zoo.bytes(&format!("out/{}", file["name"].as_str().expect("a name")));
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        assert_eq!(file["bytes"], bytes.len() as u64 - 8 - header, "{file}");
    }
    let text = zoo.merge(TIES, "text", &["--dry-run"]).ok().out;
    assert!(text.contains("not written: dry run") && text.contains("816 B needed"), "{text}");
}

#[test]
fn texts_of_licences_go_along_if_all_models_have_the_same() {
    let zoo = Zoo::small();
    for model in ["a", "b"] {
        zoo.write(&format!("{model}/LICENSE"), "terms");
        zoo.write(&format!("{model}/NOTICE.txt"), format!("by {model}"));
    }
    zoo.write("a/additional_chat_templates/tool_use.jinja", "{{ tools }}");
    let notes = zoo.merge(LINEAR, "out", &["--json"]).json()["notes"].to_string();
    let left_out = "NOTICE.txt is left out: those of `a` and `b` differ";
    assert!(notes.contains(left_out) && !notes.contains("LICENSE"), "{notes}");
    assert_eq!((zoo.bytes("out/LICENSE"), zoo.path("out/NOTICE.txt").exists()), (b"terms".to_vec(), false));
    assert_eq!(zoo.bytes("out/additional_chat_templates/tool_use.jinja"), b"{{ tools }}");
    let card = String::from_utf8(zoo.bytes("out/README.md")).expect("text");
    assert!(card.contains("NOTICE.txt is left out"), "{card}");
    let inputs = zoo.json("out/glue.json")["inputs"].clone();
    let names = |i: usize| inputs[i]["files"].to_string();
    assert!(names(0).contains("NOTICE.txt") && names(0).contains("tool_use.jinja"), "{inputs:#}");

    // The base has none: whether its terms allow those of the others is not for this program to know.
    let report = zoo.merge(TIES, "with-base", &["--json"]).json();
    assert!(report["notes"].to_string().contains("LICENSE of `a` is left out: `base` has no such file"), "{report:#}");
    assert!(!zoo.path("with-base/LICENSE").exists());
    let single = "merge_method: passthrough\nmodels: [{model: a}]\n";
    zoo.merge(single, "alone", &[]).ok();
    assert_eq!((zoo.bytes("alone/NOTICE.txt"), zoo.bytes("alone/LICENSE")), (b"by a".to_vec(), b"terms".to_vec()));

    // A link out of the model directory would put another file into the output.
    zoo.write("secret", "secret");
    fs::remove_file(zoo.path("a/NOTICE.txt")).expect("a file of the zoo");
    std::os::unix::fs::symlink(zoo.path("secret"), zoo.path("a/NOTICE.txt")).expect("a link");
    zoo.merge(single, "linked", &[]).refused("a link", 2, &["NOTICE.txt", "--follow-links"]);
}
