//! LoRA adapters as inputs of merges, and extracted from models.

use glue_tests::checkpoint::{Tensor, json_file, read};
use glue_tests::number::{F16, Numbers};
use glue_tests::zoo::{Q_PROJ, Zoo};
use glue_tests::{Tensors, shipped};
use serde_json::{Value, json};

const EMBEDDING: &str = "model.embed_tokens.weight";
const UP: &str = "model.layers.0.mlp.up_proj.weight";
const NORM: &str = "model.norm.weight";

/// A matrix of numbers around zero.
fn matrix(rows: usize, columns: usize, seed: u64) -> Tensor {
    let mut numbers = Numbers::new(seed);
    Tensor::f32(&[rows, columns], (0..rows * columns).map(|_| numbers.around_zero(1.0)))
}

/// Factors of the small model's query projection of layer 1 and its up projection of layer 0, of its embedding, and its
/// final norm whole.
fn factors(seed: u64) -> Vec<(String, Tensor)> {
    let q = "model.layers.1.self_attn.q_proj";
    let up = "model.layers.0.mlp.up_proj";
    let mut numbers = Numbers::new(seed + 9);
    vec![
        (format!("{q}.lora_A.weight"), matrix(2, 4, seed + 1)),
        (format!("{q}.lora_B.weight"), matrix(4, 2, seed + 2)),
        (format!("{up}.lora_A.weight"), matrix(3, 4, seed + 3)),
        (format!("{up}.lora_B.weight"), matrix(8, 3, seed + 4)),
        ("model.embed_tokens.lora_embedding_A".to_string(), matrix(2, 12, seed + 5)),
        ("model.embed_tokens.lora_embedding_B".to_string(), matrix(4, 2, seed + 6)),
        ("model.norm.weight".to_string(), Tensor::f32(&[4], (0..4).map(|_| numbers.around_zero(1.0)))),
    ]
}

fn adapter_config() -> Value {
    json!({
        "r": 2, "lora_alpha": 3, "rank_pattern": { "up_proj": 3 }, "alpha_pattern": { "layers.0.mlp.up_proj": 6 },
        "modules_to_save": ["norm"],
    })
}

/// The small models with an adapter `x` for `a` and another, `y`, for `b`.
fn zoo() -> Zoo {
    let zoo = Zoo::small();
    zoo.add_adapter("x", adapter_config(), factors(10));
    zoo.add_adapter("y", adapter_config(), factors(20));
    zoo
}

fn passthrough(model: &str) -> String {
    format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n")
}

/// Element (i, j) of s·B·A in f64.
fn product(b: &Tensor, a: &Tensor, scale: f64, i: usize, j: usize) -> f64 {
    let (rank, columns) = (a.shape[0], a.shape[1]);
    let (a, b) = (a.values(), b.values());
    scale * (0..rank).map(|k| b[i * rank + k] * a[k * columns + j]).sum::<f64>()
}

#[test]
fn an_adapter_adds_its_products_and_puts_whole_tensors_in_place() {
    let zoo = zoo();
    zoo.merge(&passthrough("a+x"), "out", &[]).ok();
    let (a, out, factors) = (zoo.read("a"), zoo.read("out"), factors(10));
    let factor = |end: &str| &factors.iter().find(|(name, _)| name.ends_with(end)).expect("a factor").1;
    // Sums of up to four terms below 3 in f32: a few roundings of 1.2e-7 each.
    let near = |name: &str, index: usize, expected: f64| {
        let found = out[name].values()[index];
        assert!((found - expected).abs() < 2e-6, "{name} {index}: {found} for {expected}");
    };
    for i in 0..4 {
        for j in 0..4 {
            let (left, right) = (factor("q_proj.lora_B.weight"), factor("q_proj.lora_A.weight"));
            near(Q_PROJ, i * 4 + j, a[Q_PROJ].values()[i * 4 + j] + product(left, right, 1.5, i, j));
        }
    }
    for i in 0..8 {
        for j in 0..4 {
            let (left, right) = (factor("up_proj.lora_B.weight"), factor("up_proj.lora_A.weight"));
            near(UP, i * 4 + j, a[UP].values()[i * 4 + j] + product(left, right, 2.0, i, j));
        }
    }
    for token in 0..12 {
        for j in 0..4 {
            let (left, right) = (factor("embedding_B"), factor("embedding_A"));
            // Transposed: B has a row for each dimension, A a column for each token.
            let expected = a[EMBEDDING].values()[token * 4 + j] + product(left, right, 1.5, j, token);
            near(EMBEDDING, token * 4 + j, expected);
        }
    }
    assert_eq!(&out[NORM], factor("model.norm.weight"));
    for name in a.keys().filter(|name| ![Q_PROJ, UP, EMBEDDING, NORM].contains(&name.as_str())) {
        assert_eq!(out[name], a[name], "{name} is not for the adapter");
    }
}

#[test]
fn scales_follow_the_rank_and_its_root() {
    let zoo = zoo();
    let mut config = adapter_config();
    config["use_rslora"] = true.into();
    zoo.add_adapter("rooted", config, factors(10));
    for (adapter, scale) in [("x", 3.0 / 2.0), ("rooted", 3.0 / 2.0_f64.sqrt())] {
        let out = format!("with-{adapter}");
        zoo.merge(&passthrough(&format!("a+{adapter}")), &out, &[]).ok();
        let factors = factors(10);
        let expected = zoo.read("a")[Q_PROJ].values()[5] + product(&factors[1].1, &factors[0].1, scale, 1, 1);
        let found = zoo.read(&out)[Q_PROJ].values()[5];
        assert!((found - expected).abs() < 2e-6, "{adapter}: {found} for {expected}");
    }
}

#[test]
fn weights_stored_the_other_way_round_are_changed_by_the_transpose() {
    let zoo = Zoo::small();
    let up = "model.layers.0.mlp.up_proj";
    // The weight is [8, 4]: as [in, out] it takes A of 8 columns and B of 4 rows.
    let tensors = [(format!("{up}.lora_A.weight"), matrix(2, 8, 1)), (format!("{up}.lora_B.weight"), matrix(4, 2, 2))];
    zoo.add_adapter("x", json!({ "r": 2, "lora_alpha": 2, "fan_in_fan_out": true }), tensors.clone());
    zoo.merge(&passthrough("a+x"), "out", &[]).ok();
    let (a, out) = (zoo.read("a")[UP].values(), zoo.read("out")[UP].values());
    for i in 0..8 {
        for j in 0..4 {
            let expected = a[i * 4 + j] + product(&tensors[1].1, &tensors[0].1, 1.0, j, i);
            assert!((out[i * 4 + j] - expected).abs() < 2e-6, "{i} {j}");
        }
    }
}

/// A merge of `models` over a base, whose operator has what it needs.
fn merge_of(operator: &str, base: &str, models: [&str; 2]) -> String {
    let [first, second] = models;
    match operator {
        "slerp" => {
            format!("merge_method: slerp\nbase_model: {first}\nmodels: [{{model: {second}}}]\nparameters: {{t: 0.3}}\n")
        }
        "linear" => {
            format!(
                "merge_method: linear\nmodels: [{{model: {first}}}, {{model: {second}}}]\nparameters: {{weight: 0.4}}\n"
            )
        }
        _ => format!(
            "merge_method: {operator}\nbase_model: {base}\nmodels: [{{model: {first}}}, {{model: {second}}}]\n\
             parameters: {{weight: 0.4, density: 0.5}}\n"
        ),
    }
}

const OPERATORS: [&str; 5] = ["linear", "ties", "slerp", "dare_ties", "della"];

#[test]
fn a_merge_with_adapters_is_the_merge_with_the_adapters_applied_beforehand() {
    let zoo = zoo();
    // Applied to models in bfloat16, what is applied beforehand has to be kept in float32.
    for model in ["base", "a", "b"] {
        zoo.edit(model, |tensors| {
            for tensor in tensors.values_mut() {
                let values: Vec<f32> = tensor.values().into_iter().map(|x| x as f32).collect();
                *tensor = Tensor::bf16(&tensor.shape.clone(), values);
            }
        });
        zoo.set(model, "dtype", "bfloat16".into());
    }
    for (model, adapter) in [("a", "x"), ("b", "y"), ("base", "y")] {
        let out = format!("{model}-with-{adapter}");
        zoo.merge(&passthrough(&format!("{model}+{adapter}")), &out, &["--dtype", "float32"]).ok();
        // An adapter changes something.
        assert_ne!(zoo.read(&out)[Q_PROJ].values(), zoo.read(model)[Q_PROJ].values());
    }
    for operator in OPERATORS {
        for dtype in ["float32", "bfloat16"] {
            let [one, two] = ["applied", "given"].map(|how| format!("{operator}-{dtype}-{how}"));
            let before = merge_of(operator, "base-with-y", ["a-with-x", "b-with-y"]);
            zoo.merge(&before, &one, &["--dtype", dtype]).ok();
            zoo.merge(&merge_of(operator, "base+y", ["a+x", "b+y"]), &two, &["--dtype", dtype]).ok();
            assert!(zoo.read(&one) == zoo.read(&two), "{operator} in {dtype}");
        }
    }
    // In full, as mergekit writes it.
    let full = "merge_method: linear\nparameters: {weight: 0.4}\nmodels:\n\
                - model: {model: {path: a}, lora: {path: x}}\n- model: {model: b, lora: y}\n";
    zoo.merge(full, "in-full", &["--dtype", "float32"]).ok();
    assert!(zoo.read("in-full") == zoo.read("linear-float32-given"));
}

/// A model of one matrix that is longer than a span, with an adapter of rank 5.
fn large() -> Zoo {
    let zoo = Zoo::empty();
    for (name, seed) in [("base", 1), ("a", 2), ("b", 3)] {
        let mut numbers = Numbers::new(seed);
        let values = (0..700 * 1100).map(|_| numbers.around_zero(0.5));
        let tensors: Tensors =
            [("model.layers.0.mlp.up_proj.weight".to_string(), Tensor::f32(&[700, 1100], values))].into();
        zoo.add(name, &tensors);
        zoo.set(name, "num_hidden_layers", 1.into());
    }
    let up = "model.layers.0.mlp.up_proj";
    let tensors =
        [(format!("{up}.lora_A.weight"), matrix(5, 1100, 4)), (format!("{up}.lora_B.weight"), matrix(700, 5, 5))];
    zoo.add_adapter("x", json!({ "r": 5, "lora_alpha": 1 }), tensors);
    zoo
}

#[test]
fn threads_do_not_matter() {
    let zoo = large();
    for config in [
        passthrough("a+x"),
        merge_of("ties", "base", ["a+x", "b"]),
        merge_of("slerp", "base", ["a+x", "b"]),
        merge_of("della", "base", ["a", "b+x"]),
    ] {
        let merged = |threads: &str| {
            let out = format!("on-{threads}");
            zoo.merge(&config, &out, &["--threads", threads]).ok();
            let bytes = zoo.bytes(&format!("{out}/model.safetensors"));
            std::fs::remove_dir_all(zoo.path(&out)).expect("a directory that was just made");
            bytes
        };
        let one = merged("1");
        for threads in ["2", "8"] {
            assert!(merged(threads) == one, "{threads} threads\n{config}");
        }
    }
}

#[test]
fn manifest_card_and_dry_run_name_the_adapter() {
    let zoo = zoo();
    let config = merge_of("linear", "", ["a+x", "a"]);
    let expected = zoo.merge(&config, "out", &["--dry-run", "--json"]).json();
    assert_eq!(expected["models"][0]["adapter"]["name"], "x");
    assert_eq!(expected["models"][0]["adapter"]["changes"], 4);
    assert!(expected["models"][1]["adapter"].is_null());
    let done = zoo.merge(&config, "out", &["--json"]).json();
    assert_eq!(done["bytes_read"], expected["bytes_read"]);
    // The model twice, the factors once; the adapter's norm in place of the model's.
    let factors: usize = factors(10).iter().map(|(_, tensor)| tensor.data.len()).sum();
    assert_eq!(done["bytes_read"], 2 * 816 + factors - 16);
    let text = zoo.merge(&config, "text", &["--dry-run"]).ok().out;
    assert!(text.contains("with x"), "{text}");

    let inputs = zoo.json("out/glue.json")["inputs"].clone();
    assert_eq!((&inputs[0]["model"], &inputs[0]["adapter"]), (&"a+x".into(), &"x".into()));
    let names = |i: usize| -> Vec<String> {
        let files = inputs[i]["files"].as_array().expect("files").iter();
        files.map(|file| file["name"].as_str().unwrap_or_default().to_string()).collect()
    };
    assert!(names(0).contains(&"adapter_model.safetensors".to_string()), "{inputs:#}");
    assert!(names(0).contains(&"adapter_config.json".to_string()) && names(1).len() + 2 == names(0).len());
    let card = String::from_utf8(zoo.bytes("out/README.md")).expect("text");
    assert!(!card.contains("base_model") && card.contains("- `a+x`\n"), "{card}");

    // Another adapter is another input.
    zoo.add_adapter("x", adapter_config(), self::factors(11));
    zoo.merge(&config, "again", &[]).ok();
    let again = zoo.json("again/glue.json")["inputs"].clone();
    assert_ne!(again[0]["files"], inputs[0]["files"]);
    assert_eq!(again[1]["files"], inputs[1]["files"]);
}

#[test]
fn stages_take_adapters() {
    let zoo = zoo();
    let stages = "name: mean\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n---\n\
                  merge_method: passthrough\nmodels: [{model: mean+x}]\n";
    zoo.write("stages.yml", stages);
    zoo.glue(&["multi", "stages.yml", "out"]).ok();
    zoo.merge("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n", "mean", &[]).ok();
    zoo.merge(&passthrough("mean+x"), "by-hand", &[]).ok();
    assert!(zoo.read("out") == zoo.read("by-hand"));
}

#[test]
fn an_adapter_is_inspected() {
    let zoo = zoo();
    let report = zoo.glue(&["inspect", "x", "--tensors", "--json"]).json();
    assert_eq!((&report["rank"], &report["low_rank"], &report["full"]), (&2.into(), &3.into(), &1.into()));
    let tensors = report["tensors"].as_array().expect("tensors");
    let up = tensors.iter().find(|tensor| tensor["name"] == UP).expect("the up projection");
    assert_eq!((&up["rank"], &up["scale"]), (&3.into(), &2.0.into()));
    let text = zoo.glue(&["inspect", "x"]).ok().out;
    assert!(text.contains("made for") && text.contains("q_proj") && text.contains("embed_tokens"), "{text}");
}

#[test]
fn what_cannot_be_applied_is_refused_before_a_weight_is_read() {
    type Spoil = fn(&Zoo);
    let cases: &[(&str, Spoil, &str, i32, &[&str])] = &[
        (
            "no such adapter",
            |_| {},
            "a+nowhere",
            2,
            &["out.yml:2:18", "nowhere: no such directory", "adapter_config.json"],
        ),
        ("no such model", |_| {}, "nowhere+x", 2, &["out.yml:2:18", "nowhere: no such directory"]),
        ("a model for an adapter", |_| {}, "a+b", 2, &["no adapter_config.json"]),
        ("an adapter for a model", |_| {}, "x", 2, &["x: a LoRA adapter, not a model", "MODEL+ADAPTER"]),
        (
            "a factor of the wrong shape",
            |zoo| {
                let mut tensors = factors(1);
                tensors[1].1 = matrix(5, 2, 1);
                zoo.add_adapter("x", adapter_config(), tensors);
            },
            "a+x",
            2,
            &["made for another model", Q_PROJ, "[5, 4]", "[4, 4]"],
        ),
        (
            "a rank that the configuration does not say",
            |zoo| zoo.add_adapter("x", json!({ "r": 4 }), factors(1)),
            "a+x",
            2,
            &["lora_embedding_A", "[rank, inputs]", "rank 4"],
        ),
        (
            "a module that the model does not have",
            |zoo| {
                let tensors =
                    factors(1).into_iter().map(|(name, tensor)| (name.replace("layers.1", "layers.7"), tensor));
                zoo.add_adapter("x", adapter_config(), tensors);
            },
            "a+x",
            2,
            &["made for another model", "model.layers.7.self_attn.q_proj.weight", "a does not have"],
        ),
        (
            "half of a pair",
            |zoo| zoo.add_adapter("x", adapter_config(), factors(1).into_iter().skip(1)),
            "a+x",
            2,
            &["q_proj.lora_B.weight", "A, the other factor"],
        ),
        (
            "DoRA without norms",
            |zoo| {
                let mut config = adapter_config();
                config["use_dora"] = true.into();
                zoo.add_adapter("x", config, factors(1).into_iter().filter(|(name, _)| !name.contains("embed")));
            },
            "a+x",
            2,
            &["up_proj.lora_A.weight", "the norms of DoRA"],
        ),
        (
            "norms that the configuration does not ask for",
            |zoo| {
                let more = (MAGNITUDE.to_string(), Tensor::f32(&[4], [1.0; 4]));
                zoo.add_adapter("x", adapter_config(), factors(1).into_iter().chain([more]));
            },
            "a+x",
            2,
            &["lora_magnitude_vector", "`use_dora` is not true"],
        ),
        (
            "norms of another shape",
            |zoo| {
                let more = (MAGNITUDE.to_string(), Tensor::f32(&[3], [1.0; 3]));
                zoo.add_adapter("x", json!({ "r": 2, "use_dora": true }), factors(1).into_iter().take(2).chain([more]));
            },
            "a+x",
            2,
            &["lora_magnitude_vector", "one norm for each output"],
        ),
        (
            "a head of another shape than the embedding of a tied model",
            |zoo| {
                tie(zoo);
                zoo.add_adapter("x", json!({}), [("lm_head.weight".to_string(), matrix(13, 4, 1))]);
            },
            "a+x",
            2,
            &["made for another model", "lm_head.weight"],
        ),
        (
            "weights that are no safetensors",
            |zoo| std::fs::remove_file(zoo.path("x/adapter_model.safetensors")).expect("a file of the zoo"),
            "a+x",
            2,
            &["no adapter_model.safetensors", "safe_serialization"],
        ),
        (
            "weights that are no numbers",
            |zoo| {
                let mut tensors = factors(1);
                tensors[0].1 = Tensor::f32(&[2, 4], [0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
                zoo.add_adapter("x", adapter_config(), tensors);
            },
            "a+x",
            1,
            &["q_proj.lora_A.weight", "a+x", "NaN", "index 1"],
        ),
    ];
    for (name, spoil, model, status, says) in cases {
        let zoo = zoo();
        spoil(&zoo);
        zoo.merge(&passthrough(model), "out", &[]).refused(name, *status, says);
        assert!(!zoo.path("out").exists(), "{name}");
    }
    // Commands that read weights as they are refuse a model with an adapter.
    let zoo = zoo();
    zoo.glue(&["similarity", "a+x", "b"]).refused("similarity", 2, &["a+x", "cannot be named here", "passthrough"]);
    zoo.glue(&["inspect", "a+x"]).refused("inspect", 2, &["cannot be named here"]);
    zoo.glue(&["extract-lora", "a+x", "b", "out"]).refused("extract-lora", 2, &["cannot be named here"]);
}

const MAGNITUDE: &str = "model.layers.1.self_attn.q_proj.lora_magnitude_vector";

/// Takes the head of model `a` away, which is then its embedding.
fn tie(zoo: &Zoo) {
    zoo.edit("a", |tensors| drop(tensors.remove("lm_head.weight")));
    zoo.set("a", "tie_word_embeddings", true.into());
}

#[test]
fn dora_scales_rows_to_their_norms() {
    let zoo = Zoo::small();
    let norms = [0.5, 1.0, 2.0, 0.0];
    let (mut tensors, scale) = (factors(10), 1.5);
    tensors.truncate(2);
    for (adapter, name) in [("x", MAGNITUDE.to_string()), ("y", format!("{MAGNITUDE}.weight"))] {
        let norms = (name, Tensor::f32(&[4], norms));
        zoo.add_adapter(
            adapter,
            json!({ "r": 2, "lora_alpha": 3, "use_dora": true }),
            tensors.clone().into_iter().chain([norms]),
        );
        zoo.merge(&passthrough(&format!("a+{adapter}")), &format!("out-{adapter}"), &["--threads", "2"]).ok();
    }
    let (a, out) = (zoo.read("a"), zoo.read("out-x"));
    assert!(out == zoo.read("out-y"));
    for (i, norm) in norms.into_iter().enumerate() {
        let changed = |j: usize| a[Q_PROJ].values()[i * 4 + j] + product(&tensors[1].1, &tensors[0].1, scale, i, j);
        let length = (0..4).map(|j| changed(j).powi(2)).sum::<f64>().sqrt();
        for j in 0..4 {
            let (found, expected) = (out[Q_PROJ].values()[i * 4 + j], f64::from(norm) * changed(j) / length);
            // A few roundings of numbers up to 2.
            assert!((found - expected).abs() < 2e-6, "{i} {j}: {found} for {expected}");
        }
    }
    let report = zoo.glue(&["inspect", "x", "--json"]).json();
    assert_eq!(report["low_rank"], 1, "{report:#}");
}

/// Embeddings and weights stored as [in, out]: an output of the module is a column, as in PEFT's `merge_and_unload`.
#[test]
fn dora_scales_columns_where_they_are_the_outputs() {
    let zoo = Zoo::small();
    let norms = [0.5, 1.0, 2.0, 0.25];
    let up = "model.layers.0.mlp.up_proj";
    // The up projection is [8, 4]: as [in, out] it has 4 outputs.
    let stored_in_out = [
        (format!("{up}.lora_A.weight"), matrix(2, 8, 1)),
        (format!("{up}.lora_B.weight"), matrix(4, 2, 2)),
        (format!("{up}.lora_magnitude_vector"), Tensor::f32(&[4], norms)),
    ];
    let embedding = [
        ("model.embed_tokens.lora_embedding_A".to_string(), matrix(2, 12, 3)),
        ("model.embed_tokens.lora_embedding_B".to_string(), matrix(4, 2, 4)),
        ("model.embed_tokens.lora_magnitude_vector".to_string(), Tensor::f32(&[4], norms)),
    ];
    let config = json!({ "r": 2, "lora_alpha": 3, "use_dora": true });
    let transposed = json!({ "r": 2, "lora_alpha": 3, "use_dora": true, "fan_in_fan_out": true });
    let cases = [(UP, 8, transposed, stored_in_out), (EMBEDDING, 12, config, embedding)];
    for (name, rows, config, tensors) in cases {
        zoo.add_adapter("x", config, tensors.clone());
        let a = zoo.read("a")[name].values();
        let changed = |i: usize, j: usize| a[i * 4 + j] + product(&tensors[1].1, &tensors[0].1, 1.5, j, i);
        for threads in ["1", "3"] {
            let out = format!("{name}-{threads}");
            zoo.merge(&passthrough("a+x"), &out, &["--threads", threads]).ok();
            let found = zoo.read(&out)[name].values();
            for (j, norm) in norms.into_iter().enumerate() {
                let length = (0..rows).map(|i| changed(i, j).powi(2)).sum::<f64>().sqrt();
                for i in 0..rows {
                    let expected = f64::from(norm) * changed(i, j) / length;
                    // A few roundings of numbers up to 2.
                    assert!(
                        (found[i * 4 + j] - expected).abs() < 2e-6,
                        "{name} {i} {j}: {} {expected}",
                        found[i * 4 + j]
                    );
                }
            }
        }
    }
}

#[test]
fn an_adapter_may_give_a_tied_model_a_head() {
    let zoo = Zoo::small();
    tie(&zoo);
    let head = "lm_head.weight";
    let tensors = [(EMBEDDING.to_string(), matrix(12, 4, 1)), (head.to_string(), matrix(12, 4, 2))];
    zoo.add_adapter("x", json!({ "modules_to_save": ["embed_tokens", "lm_head"] }), tensors.clone());
    zoo.merge(&passthrough("a+x"), "out", &[]).ok();
    let out = zoo.read("out");
    assert_eq!((&out[EMBEDDING], &out[head]), (&tensors[0].1, &tensors[1].1));
    assert_eq!(zoo.json("out/config.json")["tie_word_embeddings"], false);
    // Where another model is tied, its embedding is its head.
    zoo.merge("merge_method: linear\nmodels: [{model: a+x}, {model: a}]\nparameters: {weight: 0.5}\n", "mean", &[])
        .ok();
    let (a, mean) = (zoo.read("a"), zoo.read("mean"));
    let expected = f64::midpoint(tensors[1].1.values()[7], a[EMBEDDING].values()[7]);
    assert!((mean[head].values()[7] - expected).abs() < 1e-6);
}

#[test]
fn a_model_with_an_adapter_runs_as_the_merged_model_does() {
    let [base, fine] = pair();
    let zoo = Zoo::empty();
    zoo.glue(&["extract-lora", &base, &fine, "adapter", "--rank", "4"]).ok();
    let adapted = format!("{base}+adapter");
    zoo.merge(&passthrough(&adapted), "merged", &[]).ok();
    let generate =
        |model: &str| zoo.glue(&["generate", model, "--prompt", "2 + 3 =", "--max-new-tokens", "8"]).ok().out;
    assert_eq!(generate(&adapted), generate("merged"));
    let tasks = shipped().join("tasks/arith").display().to_string();
    let eval = |model: &str, more: &[&str]| {
        let report = zoo.glue(&[&["eval", model, "--tasks", &tasks, "--limit", "10", "--json"], more].concat()).json();
        report["tasks"].clone()
    };
    let expected = eval("merged", &[]);
    assert_eq!(eval(&adapted, &[]), expected);
    assert_eq!(eval(&adapted, &["--cache", "cache"]), expected);
    assert_eq!(eval(&adapted, &["--cache", "cache"]), expected);
    zoo.glue(&["generate", &format!("{base}+nowhere"), "--prompt", "x"]).refused("no adapter", 2, &["nowhere"]);
}

/// The shipped models `base-a` and `a-math`, as paths.
fn pair() -> [String; 2] {
    ["base-a", "a-math"].map(|name| shipped().join(name).display().to_string())
}

/// The largest difference of any element, and the largest element of the second.
fn largest(a: &Tensors, b: &Tensors) -> (f64, f64) {
    let max = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |m: f64, x| m.max(x.abs()));
    let mut all = (0.0_f64, 0.0_f64);
    for (name, tensor) in b {
        let (x, y) = (a[name].values(), tensor.values());
        all.0 = all.0.max(max(&mut x.iter().zip(&y).map(|(x, y)| x - y)));
        all.1 = all.1.max(max(&mut y.iter().copied()));
    }
    all
}

#[test]
fn extraction_at_full_rank_restores_the_checkpoint() {
    let [base, fine] = pair();
    let zoo = Zoo::empty();
    let args =
        ["extract-lora", &base, &fine, "adapter", "--rank", "4096", "--embeddings", "--head", "--save-full", "--json"];
    let report = zoo.glue(&args).json();
    assert!(report["left"].as_array().is_some_and(Vec::is_empty), "{report:#}");
    assert!(report["relative_error"].as_f64().is_some_and(|error| error < 1e-5), "{report:#}");
    zoo.merge(&passthrough(&format!("{base}+adapter")), "restored", &["--dtype", "float32"]).ok();
    let (restored, fine) = (zoo.read("restored"), read(&shipped().join("a-math")));
    assert_eq!(restored.keys().collect::<Vec<_>>(), fine.keys().collect::<Vec<_>>());
    let (off, size) = largest(&restored, &fine);
    // The decomposition of a difference is exact to some units of 6e-8 of its size, far below that of the weights.
    assert!(off < 1e-6 * size, "{off} of {size}");
    // Rounded to the type of the model, that is the model itself, but near zero, where half a step of that type is less
    // than the rounding error in 32 bits.
    zoo.merge(&passthrough(&format!("{base}+adapter")), "rounded", &[]).ok();
    let mut exact = 0;
    for (name, tensor) in zoo.read("rounded") {
        assert_eq!(tensor.dtype, "F16", "{name}");
        for (x, y) in tensor.values().into_iter().zip(fine[&name].values()) {
            let sure = F16.half_step(y) > off;
            exact += usize::from(sure);
            assert!(x == y || !sure, "{name}: {x} for {y}");
        }
    }
    assert!(exact * 10 > 722_048 * 9, "{exact} of 722048 are far enough from zero");
}

#[test]
fn ranks_by_energy_are_written_and_read() {
    let [base, fine] = pair();
    let zoo = Zoo::empty();
    let extract =
        |out: &str, more: &[&str]| zoo.glue(&[&["extract-lora", &base, &fine, out, "--json"], more].concat()).json();
    let report = extract("adapter", &["--energy", "0.7"]);
    let exact = extract("exact", &["--energy", "0.7", "--svd", "exact"]);
    assert_eq!((report["svd"].as_str(), exact["svd"].as_str()), (Some("randomised"), Some("exact")));
    let errors = [&report, &exact].map(|report| report["relative_error"].as_f64().unwrap_or(1.0));
    assert!((errors[0] - errors[1]).abs() < 0.02 * errors[1], "{errors:?}");
    let modules = report["modules"].as_array().expect("modules");
    let ranks: Vec<u64> = modules.iter().filter_map(|module| module["rank"].as_u64()).collect();
    assert!(ranks.iter().any(|rank| *rank != ranks[0]), "they differ: {ranks:?}");
    for module in modules {
        let (energy, error) =
            (module["energy"].as_f64().unwrap_or(0.0), module["relative_error"].as_f64().unwrap_or(1.0));
        assert!(energy >= 0.7, "{module}");
        // What is not kept is the error: √(1 − energy), to the rounding of a decomposition in f32.
        assert!((error - (1.0 - energy).sqrt()).abs() < 1e-4, "{module}");
    }
    let config = json_file(&zoo.path("adapter/adapter_config.json"));
    assert!(config["rank_pattern"].as_object().is_some_and(|map| !map.is_empty()), "{config:#}");
    let inspected = zoo.glue(&["inspect", "adapter", "--tensors", "--json"]).json();
    for (tensor, module) in inspected["tensors"].as_array().expect("tensors").iter().zip(modules) {
        assert_eq!(tensor["name"], format!("{}.weight", module["module"].as_str().unwrap_or_default()));
        assert_eq!((&tensor["rank"], &tensor["scale"]), (&module["rank"], &1.0.into()));
    }
    // The merge has the error that was reported: norms over all matrices of the layers.
    zoo.merge(&passthrough(&format!("{base}+adapter")), "applied", &["--dtype", "float32"]).ok();
    let (applied, base_tensors, fine_tensors) = (zoo.read("applied"), read(base.as_ref()), read(fine.as_ref()));
    let squares = |x: &Tensors, y: &Tensors| -> f64 {
        let of =
            |name: &String| x[name].values().iter().zip(y[name].values()).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        y.keys().map(of).sum()
    };
    let error = (squares(&applied, &fine_tensors) / squares(&base_tensors, &fine_tensors)).sqrt();
    let reported = report["relative_error"].as_f64().unwrap_or(0.0);
    assert!((error - reported).abs() < 1e-4, "{error}, reported {reported}");

    let capped = extract("capped", &["--energy", "0.99", "--max-rank", "2"]);
    assert!(capped["modules"].as_array().expect("modules").iter().all(|module| module["rank"] == 2), "{capped:#}");
    assert!(capped["left"].as_array().is_some_and(|left| !left.is_empty()), "embeddings differ, too");
}

#[test]
fn extraction_does_not_depend_on_threads_and_is_interrupted_without_a_trace() {
    let [base, fine] = pair();
    let zoo = Zoo::empty();
    for threads in ["1", "4"] {
        let args =
            ["extract-lora", &base, &fine, threads, "--energy", "0.8", "--threads", threads, "--dtype", "bfloat16"];
        zoo.glue(&args).ok();
    }
    for file in ["adapter_config.json", "adapter_model.safetensors", "glue.json"] {
        assert!(zoo.bytes(&format!("1/{file}")) == zoo.bytes(&format!("4/{file}")), "{file}");
    }
    assert_eq!(zoo.names("1"), ["adapter_config.json", "adapter_model.safetensors", "glue.json"]);
    assert_eq!(zoo.read("1/adapter_model.safetensors").values().next().expect("a factor").dtype, "BF16");
    let names = zoo.names("");
    zoo.glue(&["extract-lora", &base, &fine, "1"]).refused("a directory with something in it", 1, &["not empty"]);
    zoo.glue(&["extract-lora", &base, &fine, "2", "--dry-run"]).ok();
    assert_eq!(zoo.names(""), names, "nothing is left behind");
}

#[test]
fn extractions_that_make_no_sense_are_refused() {
    let [base, fine] = pair();
    let zoo = Zoo::small();
    let check = |args: &[&str], status: i32, says: &[&str]| {
        zoo.glue(&[&["extract-lora"], args, &["out"]].concat()).refused(&args.join(" "), status, says);
        assert!(!zoo.path("out").exists() && !zoo.path(".out.partial").exists());
    };
    check(&[&base, &base], 2, &["do not differ", "--save-full"]);
    check(&[&base, &fine, "--modules", "k_proj,nothing"], 2, &["`nothing`"]);
    check(&[&base, &fine, "--energy", "1.5"], 2, &["energy", "at most 1"]);
    check(&[&base, &fine, "--svd", "guessed"], 2, &["--svd", "randomised, exact"]);
    check(&["a", &fine], 2, &["tensor", "hint: BASE must be the model that FINE was trained from"]);
    check(&["nowhere", &fine], 2, &["nowhere: no such directory"]);
}

#[test]
fn modules_are_chosen_by_name() {
    let [base, fine] = pair();
    let zoo = Zoo::empty();
    let args = [
        "extract-lora",
        &base,
        &fine,
        "adapter",
        "--modules",
        "q_proj,layers.0.mlp.down_proj",
        "--rank",
        "2",
        "--json",
    ];
    let report = zoo.glue(&args).json();
    let modules = report["modules"].as_array().expect("modules");
    let names: Vec<&str> = modules.iter().filter_map(|module| module["module"].as_str()).collect();
    assert!(names.contains(&"model.layers.0.mlp.down_proj"), "{names:?}");
    assert!(names.iter().all(|name| name.ends_with("q_proj") || *name == "model.layers.0.mlp.down_proj"), "{names:?}");
    let config = json_file(&zoo.path("adapter/adapter_config.json"));
    // All query projections by the end of their names, the one down projection by its whole name.
    assert_eq!(config["target_modules"], json!(["model.layers.0.mlp.down_proj", "q_proj"]));
    assert_eq!((&config["r"], &config["lora_alpha"], &config["rank_pattern"]), (&2.into(), &2.into(), &json!({})));
}

#[test]
fn factors_that_their_type_cannot_hold_are_refused() {
    let zoo = Zoo::small();
    zoo.copy(&zoo.path("base"), "fine");
    // The factors share the size of the difference: roots of 1e12 and more, where float16 ends at 65504.
    zoo.edit("fine", |tensors| {
        let tensor = tensors.get_mut(Q_PROJ).expect("a tensor");
        *tensor = Tensor::f32(&[4, 4], tensor.values().into_iter().map(|x| (x + 1e12) as f32));
    });
    let args = ["extract-lora", "base", "fine", "out", "--rank", "2", "--dtype"];
    let run = zoo.glue(&[&args[..], &["float16"]].concat());
    run.refused("float16", 1, &[Q_PROJ, "float16 cannot hold", "bfloat16"]);
    assert!(!zoo.path("out").exists() && !zoo.path(".out.partial").exists());
    zoo.glue(&[&args[..], &["bfloat16"]].concat()).ok();
}
