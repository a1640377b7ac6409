//! LoRA adapters merged with each other, without the model they are for.

use glue_tests::checkpoint::{Tensor, json_file};
use glue_tests::number::Numbers;
use glue_tests::zoo::{Q_PROJ, Zoo};
use glue_tests::{Tensors, shipped};
use serde_json::{Value, json};
use std::path::Path;

const UP: &str = "model.layers.0.mlp.up_proj";
const Q: &str = "model.layers.1.self_attn.q_proj";
const EMBEDDING: &str = "model.embed_tokens";

/// A matrix of numbers around zero.
fn matrix(rows: usize, columns: usize, seed: u64) -> Tensor {
    let mut numbers = Numbers::new(seed);
    Tensor::f32(&[rows, columns], (0..rows * columns).map(|_| numbers.around_zero(1.0)))
}

/// A and B of a linear layer.
fn linear(module: &str, [outputs, inputs]: [usize; 2], rank: usize, seed: u64) -> [(String, Tensor); 2] {
    [
        (format!("{module}.lora_A.weight"), matrix(rank, inputs, 2 * seed)),
        (format!("{module}.lora_B.weight"), matrix(outputs, rank, 2 * seed + 1)),
    ]
}

/// The small models with two adapters for `base`: of different rank, scale and modules.
fn zoo() -> Zoo {
    let zoo = Zoo::small();
    let embedding = |rank: usize, seed: u64| {
        [
            (format!("{EMBEDDING}.lora_embedding_A"), matrix(rank, 12, seed)),
            (format!("{EMBEDDING}.lora_embedding_B"), matrix(4, rank, seed + 1)),
        ]
    };
    let x = json!({ "r": 2, "lora_alpha": 3, "rank_pattern": { "up_proj": 1 }, "alpha_pattern": { "up_proj": 5 } });
    zoo.add_adapter("x", x, [linear(Q, [4, 4], 2, 10), linear(UP, [8, 4], 1, 11), embedding(2, 50)].concat());
    let y = json!({ "r": 3, "lora_alpha": 6, "use_rslora": true, "task_type": "CAUSAL_LM" });
    zoo.add_adapter("y", y, [linear(UP, [8, 4], 3, 12), embedding(3, 60)].concat());
    zoo
}

/// Largest difference of two checkpoints of the same tensors, over the largest number.
fn difference(one: &Tensors, other: &Tensors) -> f64 {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    let of = |(name, tensor): (&String, &Tensor)| {
        tensor.values().iter().zip(other[name].values()).fold(0.0, |largest: f64, (x, y)| largest.max((x - y).abs()))
    };
    let size = |tensor: &Tensor| tensor.values().iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    one.iter().map(of).fold(0.0, f64::max) / one.values().map(size).fold(0.0, f64::max)
}

/// The base with the adapter `adapter`, in full.
fn applied(zoo: &Zoo, adapter: &str) -> Tensors {
    let out = format!("base-with-{adapter}");
    let config = format!("merge_method: passthrough\nmodels: [{{model: base+{adapter}}}]\n");
    zoo.merge(&config, &out, &[]).ok();
    zoo.read(&out)
}

#[test]
fn sums_and_singular_values_are_those_of_the_whole_matrices() {
    // Linear operators always; those on singular values where they keep the same triples: iso_c, and tsv_m where every
    // adapter has as many and no more than fit.
    let equal = || {
        let zoo = Zoo::small();
        for (name, seed) in [("x", 10), ("y", 20)] {
            let tensors = [linear(Q, [4, 4], 2, seed), linear(UP, [8, 4], 2, seed + 1)].concat();
            zoo.add_adapter(name, json!({ "r": 2, "lora_alpha": 3 }), tensors);
        }
        zoo
    };
    let cases: [(&str, Zoo, &[&str]); 5] = [
        ("task_arithmetic", zoo(), &[]),
        ("task_arithmetic", zoo(), &["lambda=0.5"]),
        ("iso_c", zoo(), &["outside_layers=matrix"]),
        ("tsv_m", equal(), &[]),
        ("model_stock", equal(), &[]),
    ];
    for (operator, zoo, params) in cases {
        let weighed = operator != "model_stock";
        let of = |model: &str, weight: f64| if weighed { format!("{model}:{weight}") } else { model.to_string() };
        let given: Vec<&str> = params.iter().flat_map(|param| ["--param", param]).collect();
        let (x, y) = (of("x", 0.75), of("y", 0.5));
        let args = [&["merge-lora", "--method", operator, "--adapter", &x, "--adapter", &y, "merged"][..], &given];
        let report = zoo.glue(&[&args.concat()[..], &["--json"]].concat()).json();
        assert!(report["relative_error"].as_f64().is_some_and(|error| error < 1e-6), "{operator}: {report:#}");

        let (x, y) = (of("base+x", 0.75), of("base+y", 0.5));
        let args = ["merge", "--method", operator, "--base", "base", "--model", &x, "--model", &y, "whole"];
        zoo.glue(&[&args[..], &given].concat()).ok();
        let (core, whole) = (applied(&zoo, "merged"), zoo.read("whole"));
        // Rounded to f32 in the core, in the factors, and where they are added; singular vectors lose some more.
        assert!(difference(&core, &whole) < 5e-6, "{operator}: {}", difference(&core, &whole));
        assert!(difference(&core, &zoo.read("base")) > 0.01, "{operator} changes something");
    }
}

/// Multiples of 1/8, as `interop/core_space.py` makes them.
fn eighths(rows: usize, columns: usize, seed: usize) -> Tensor {
    let number = |at: usize| {
        let (i, j) = (at / columns, at % columns);
        let sum = 13 * i + 29 * j + 17 * seed + 7 * i * j + 5 * seed * j * j + 3 * i * i * j;
        (sum % 23) as f32 / 8.0 - 11.0 / 8.0
    };
    Tensor::f32(&[rows, columns], (0..rows * columns).map(number))
}

/// The product of the factors of `module` in the adapter `adapter` of scale 1.
fn change(zoo: &Zoo, adapter: &str, module: &str) -> Vec<f64> {
    let tensors = zoo.read(&format!("{adapter}/adapter_model.safetensors"));
    let (a, b) = (
        &tensors[&format!("base_model.model.{module}.lora_A.weight")],
        &tensors[&format!("base_model.model.{module}.lora_B.weight")],
    );
    let (rank, columns, rows) = (a.shape[0], a.shape[1], b.shape[0]);
    let (a, b) = (a.values(), b.values());
    let element = |at: usize| {
        let (i, j) = (at / columns, at % columns);
        (0..rank).map(|k| b[i * rank + k] * a[k * columns + j]).sum()
    };
    (0..rows * columns).map(element).collect()
}

#[test]
fn merges_are_those_of_an_independent_computation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/core_space.json");
    let golden = json_file(&path);
    let zoo = Zoo::empty();
    let pair = |rank: usize, seed: usize| {
        [
            (format!("{UP}.lora_A.weight"), eighths(rank, 6, seed)),
            (format!("{UP}.lora_B.weight"), eighths(7, rank, seed + 1)),
        ]
    };
    zoo.add_adapter("x", json!({ "r": 2, "lora_alpha": 4 }), pair(2, 1));
    zoo.add_adapter("y", json!({ "r": 3, "lora_alpha": 3, "use_rslora": true }), pair(3, 3));
    let merged = golden["merged"].as_object().expect("an object");
    assert_eq!(merged.len(), 4);
    for (operator, expected) in merged {
        let density: &[&str] = if operator == "ties" { &["--param", "density=0.4"] } else { &[] };
        let args = ["merge-lora", "--method", operator, "--adapter", "x:0.75", "--adapter", "y:0.5", operator];
        zoo.glue(&[&args[..], density].concat()).ok();
        let expected: Vec<f64> = expected.as_array().expect("numbers").iter().filter_map(Value::as_f64).collect();
        let found = change(&zoo, operator, UP);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            // Numbers up to 20 in f32, through a core and two factors.
            assert!((found - expected).abs() < 2e-5, "{operator}: {found} for {expected}");
        }
    }
}

#[test]
fn the_adapter_is_one_of_peft_and_runs() {
    let zoo = zoo();
    let report = zoo
        .glue(&[
            "merge-lora",
            "--method",
            "ties",
            "--adapter",
            "x:1",
            "--adapter",
            "y:1",
            "merged",
            "--param",
            "density=0.7",
            "--json",
        ])
        .json();
    let modules = report["modules"].as_array().expect("modules");
    let of = |module: &str| modules.iter().find(|found| found["module"] == module).expect("a module");
    assert_eq!((&of(Q)["ranks"], &of(UP)["ranks"]), (&json!([2, 0]), &json!([1, 3])));
    assert_eq!((&of(Q)["core"], &of(UP)["core"]), (&json!([2, 2]), &json!([4, 4])));
    // Stored as the model stores it: a row for each token.
    assert_eq!((&of(EMBEDDING)["rows"], &of(EMBEDDING)["core"]), (&json!(12), &json!([5, 4])));
    assert_eq!(zoo.names("merged"), ["adapter_config.json", "adapter_model.safetensors", "glue.json"]);
    let config = zoo.json("merged/adapter_config.json");
    assert_eq!((&config["peft_type"], &config["base_model_name_or_path"]), (&"LORA".into(), &"base".into()));
    // Only one of the two says what it is for.
    assert_eq!((&config["task_type"], &config["use_rslora"]), (&Value::Null, &false.into()));
    assert_eq!(config["target_modules"], json!([EMBEDDING, UP, Q]));
    for (pattern, rank) in config["rank_pattern"].as_object().expect("an object") {
        assert_eq!(config["alpha_pattern"][pattern], *rank, "a scale of 1");
    }
    let manifest = zoo.json("merged/glue.json");
    assert_eq!(manifest["inputs"].as_array().map(Vec::len), Some(2));
    assert!(
        manifest["recipe"].as_str().is_some_and(|recipe| recipe.contains("merge_method: \"ties\"")),
        "{manifest:#}"
    );
    zoo.glue(&["inspect", "merged"]).ok();
    assert!(difference(&applied(&zoo, "merged"), &zoo.read("base")) > 0.01);
}

/// The model math of the shipped zoo as two adapters of its base.
#[test]
fn a_merged_adapter_runs_on_its_base() {
    let of = |model: &str| shipped().join(model).display().to_string();
    let (base, zoo) = (of("base-a"), Zoo::empty());
    for (model, rank) in [("a-math", "4"), ("a-code", "6")] {
        zoo.glue(&["extract-lora", &base, &of(model), model, "--rank", rank]).ok();
    }
    let args = ["merge-lora", "--method", "task_arithmetic", "--adapter", "a-math:0.5", "--adapter", "a-code:0.5"];
    zoo.glue(&[&args[..], &["merged"]].concat()).ok();
    // Both have factors for every matrix of the layers: the ends of their names say so.
    let config = zoo.json("merged/adapter_config.json");
    assert_eq!(config["target_modules"], zoo.json("a-math/adapter_config.json")["target_modules"]);
    assert_eq!(config["r"], 10);
    let adapted = format!("{base}+{}", zoo.text("merged"));
    zoo.glue(&["generate", &adapted, "--prompt", "1", "--max-new-tokens", "3", "--quiet"]).ok();
    let tasks = shipped().join("tasks/facts").display().to_string();
    zoo.glue(&["eval", &adapted, "--tasks", &tasks, "--limit", "4", "--quiet"]).ok();
}

#[test]
fn the_rank_is_limited_and_an_adapter_alone_is_compressed() {
    let zoo = zoo();
    let merge = |out: &str, more: &[&str]| {
        let args = ["merge-lora", "--method", "task_arithmetic", "--adapter", "x:1", "--adapter", "y:1", out, "--json"];
        zoo.glue(&[&args[..], more].concat()).json()
    };
    let (whole, two) = (merge("whole", &[]), merge("two", &["--rank", "2", "--dtype", "bfloat16"]));
    let error = |report: &Value| report["relative_error"].as_f64().expect("an error");
    assert!(error(&whole) < 1e-6 && error(&two) > 0.01, "{} {}", error(&whole), error(&two));
    let ranks = |report: &Value| -> Vec<u64> {
        report["modules"].as_array().expect("modules").iter().filter_map(|module| module["rank"].as_u64()).collect()
    };
    assert_eq!((ranks(&whole), ranks(&two)), (vec![4, 4, 2], vec![2, 2, 2]));
    assert_eq!((&whole["dtype"], &two["dtype"]), (&"float32".into(), &"bfloat16".into()));

    // The error is that of the best approximation, which extraction finds from the whole matrix.
    zoo.merge("merge_method: passthrough\nmodels: [{model: base+y}]\n", "with-y", &[]).ok();
    zoo.glue(&["extract-lora", "base", "with-y", "best", "--rank", "1", "--svd", "exact", "--modules", "up_proj"]).ok();
    zoo.glue(&["merge-lora", "--method", "passthrough", "--adapter", "y", "smaller", "--rank", "1"]).ok();
    for (found, expected) in change(&zoo, "smaller", UP).iter().zip(change(&zoo, "best", UP)) {
        assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
    }
}

#[test]
fn parameters_follow_the_layers_and_random_operators_the_seed() {
    let zoo = Zoo::empty();
    let modules = [0, 1, 2].map(|layer| format!("model.layers.{layer}.mlp.up_proj"));
    let tensors = modules.iter().zip(1..).flat_map(|(module, seed)| linear(module, [9, 8], 3, seed));
    zoo.add_adapter("x", json!({ "r": 3, "lora_alpha": 3 }), tensors);
    let merge = |out: &str, args: &[&str]| {
        zoo.glue(&[&["merge-lora", "--adapter", "x", out][..], args].concat()).ok();
        modules.each_ref().map(|module| if zoo.names(out).is_empty() { Vec::new() } else { change(&zoo, out, module) })
    };
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let one = merge("one", &["--method", "task_arithmetic", "--param", "weight=1"]);
    let falling = merge("falling", &["--method", "task_arithmetic", "--param", "weight=[1,0.5]"]);
    for (layer, factor) in [1.0, 0.75, 0.5].into_iter().enumerate() {
        let found = norm(&falling[layer]) / norm(&one[layer]);
        assert!((found - factor).abs() < 1e-6, "layer {layer}: {found}");
    }
    let dare = |out, seed| {
        merge(out, &["--method", "dare_linear", "--param", "density=0.5", "--param", "weight=1", "--seed", seed])
    };
    let (a, b, c) = (dare("a", "1"), dare("b", "1"), dare("c", "2"));
    assert_eq!(a, b);
    assert_ne!(a, c);
}

#[test]
fn nothing_depends_on_threads_and_nothing_is_left_behind() {
    let zoo = zoo();
    for threads in ["1", "4"] {
        let args = ["merge-lora", "--method", "dare_ties", "--adapter", "x:0.5", "--adapter", "y", threads];
        zoo.glue(&[&args[..], &["--threads", threads, "--param", "density=0.5", "--param", "weight=1"]].concat()).ok();
    }
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(zoo.bytes(&format!("1/{file}")) == zoo.bytes(&format!("4/{file}")), "{file}");
    }
    let names = zoo.names("");
    let args = ["merge-lora", "--method", "ties", "--adapter", "x:1", "--adapter", "y:1"];
    zoo.glue(&[&args[..], &["1"]].concat()).refused("something is there", 1, &["not empty", "OUT_DIR"]);
    let report = zoo.glue(&[&args[..], &["2", "--dry-run", "--json"]].concat()).json();
    assert_eq!(report["modules"].as_array().map(Vec::len), Some(3));
    assert_eq!(report["modules"][1]["max_rank"], 4);
    zoo.glue(&[&args[..], &["2", "--dry-run"]].concat()).ok();
    assert_eq!(zoo.names(""), names, "nothing is left behind");
}

/// Factors of parameters that hold the matrices of experts: each expert is merged by itself.
#[test]
fn experts_are_merged_one_by_one() {
    let (zoo, alone) = (Zoo::empty(), Zoo::empty());
    let parameter = "model.layers.0.mlp.experts.down_proj";
    for (name, rank, seed) in [("x", 2, 30), ("y", 1, 40)] {
        let (a, b) = (matrix(3 * rank, 6, seed), matrix(5, 3 * rank, seed + 1));
        for expert in 0..3 {
            let a = a.values()[expert * rank * 6..(expert + 1) * rank * 6].to_vec();
            let own = |at: usize| b.values()[at / rank * 3 * rank + at % rank * 3 + expert] as f32;
            let tensors = [
                (format!("{UP}{expert}.lora_A.weight"), Tensor::f32(&[rank, 6], a.into_iter().map(|x| x as f32))),
                (format!("{UP}{expert}.lora_B.weight"), Tensor::f32(&[5, rank], (0..5 * rank).map(own))),
            ];
            alone.add_adapter(&format!("{name}{expert}"), json!({ "r": rank, "lora_alpha": rank }), tensors);
        }
        let tensors = [
            ("model.layers.0.mlp.experts.lora_A.weight".to_string(), a),
            ("model.layers.0.mlp.experts.lora_B.weight".to_string(), b),
        ];
        zoo.add_adapter(name, json!({ "r": rank, "lora_alpha": rank, "target_parameters": [parameter] }), tensors);
    }
    let args = ["merge-lora", "--method", "ties", "--param", "density=0.5", "--param", "weight=1"];
    zoo.glue(&[&args[..], &["--adapter", "x", "--adapter", "y", "merged"]].concat()).ok();
    assert_eq!(zoo.json("merged/adapter_config.json")["target_parameters"], json!([parameter]));
    let tensors = zoo.read("merged/adapter_model.safetensors");
    let of = |end: &str| &tensors[&format!("base_model.model.model.layers.0.mlp.experts.{end}.weight")];
    let (a, b) = (of("lora_A"), of("lora_B"));
    let rank = a.shape[0] / 3;
    assert_eq!((rank, &b.shape), (3, &vec![5, 9]));
    for expert in 0..3 {
        let (x, y, out) = (format!("x{expert}"), format!("y{expert}"), format!("merged{expert}"));
        alone.glue(&[&args[..], &["--adapter", &x, "--adapter", &y, &out]].concat()).ok();
        let expected = change(&alone, &out, &format!("{UP}{expert}"));
        for (at, expected) in expected.iter().enumerate() {
            let (i, j) = (at / 6, at % 6);
            let terms = (0..rank).map(|k| b.values()[i * 9 + k * 3 + expert] * a.values()[(expert * rank + k) * 6 + j]);
            let found: f64 = terms.sum();
            assert!((found - expected).abs() < 1e-6, "expert {expert}: {found} for {expected}");
        }
    }
}

#[test]
fn what_has_no_core_is_refused() {
    /// Name, what is spoilt, arguments, exit status, and what the message says.
    type Case = (&'static str, fn(&Zoo), &'static [&'static str], i32, &'static [&'static str]);
    let cases: &[Case] = &[
        ("no such adapter", |_| {}, &["--method", "ties", "--adapter", "nowhere", "--adapter", "x"], 2, &["nowhere"]),
        ("a model", |_| {}, &["--method", "ties", "--adapter", "a", "--adapter", "x"], 2, &["no adapter_config.json"]),
        ("no such operator", |_| {}, &["--method", "tise", "--adapter", "x"], 2, &["tise", "ties"]),
        (
            "too few",
            |_| {},
            &["--method", "nuslerp", "--adapter", "x", "--param", "weight=1"],
            2,
            &["nuslerp", "2 models"],
        ),
        ("twice", |_| {}, &["--method", "ties", "--adapter", "x", "--adapter", "./x"], 2, &["named twice"]),
        (
            "statistics",
            |_| {},
            &["--method", "fisher", "--adapter", "x", "--adapter", "y"],
            2,
            &["fisher", "statistic", "glue ops"],
        ),
        (
            "no weight",
            |_| {},
            &["--method", "ties", "--adapter", "x", "--adapter", "y:1"],
            2,
            &["of x: ties needs `weight`", "hint: ", "ADAPTER:WEIGHT"],
        ),
        (
            "a parameter out of range",
            |_| {},
            &["--method", "ties", "--adapter", "x", "--param", "density=2"],
            2,
            &["density", "above 0 and at most 1"],
        ),
        (
            "DoRA",
            |zoo| {
                let norms = (format!("{Q}.lora_magnitude_vector"), Tensor::f32(&[4], [1.0; 4]));
                let tensors = linear(Q, [4, 4], 2, 1).into_iter().chain([norms]);
                zoo.add_adapter("x", json!({ "r": 2, "use_dora": true }), tensors);
            },
            &["--method", "ties", "--adapter", "x", "--adapter", "y"],
            2,
            &[Q_PROJ, "DoRA", "BASE+ADAPTER"],
        ),
        (
            "a whole tensor",
            |zoo| {
                let norm = ("model.norm.weight".to_string(), Tensor::f32(&[4], [1.0; 4]));
                let tensors = linear(Q, [4, 4], 2, 1).into_iter().chain([norm]);
                zoo.add_adapter("x", json!({ "r": 2, "modules_to_save": ["norm"] }), tensors);
            },
            &["--method", "ties", "--adapter", "x", "--adapter", "y"],
            2,
            &["model.norm.weight", "modules_to_save", "BASE+ADAPTER"],
        ),
        (
            "another shape",
            |zoo| zoo.add_adapter("x", json!({ "r": 2 }), linear(UP, [9, 4], 2, 1)),
            &["--method", "ties", "--adapter", "x", "--adapter", "y"],
            2,
            &["up_proj", "9 outputs", "8 outputs", "not for the same model"],
        ),
        (
            "another way of storing",
            |zoo| zoo.add_adapter("x", json!({ "r": 2, "fan_in_fan_out": true }), linear(UP, [8, 4], 2, 1)),
            &["--method", "ties", "--adapter", "x", "--adapter", "y"],
            2,
            &["fan_in_fan_out", "not for the same model"],
        ),
        (
            "no number",
            |zoo| {
                let mut tensors = linear(UP, [8, 4], 1, 1);
                tensors[0].1 = Tensor::f32(&[1, 4], [0.0, f32::NAN, 0.0, 0.0]);
                zoo.add_adapter("x", json!({ "r": 1 }), tensors);
            },
            &["--method", "ties", "--adapter", "x:1", "--adapter", "y:1"],
            1,
            &["up_proj.lora_A.weight", "not finite"],
        ),
        (
            "beyond the type",
            |zoo| {
                let mut tensors = linear(UP, [8, 4], 1, 1);
                tensors[1].1 = Tensor::f32(&[8, 1], [1e12; 8]);
                zoo.add_adapter("x", json!({ "r": 1 }), tensors);
            },
            &["--method", "task_arithmetic", "--adapter", "x:1", "--dtype", "float16"],
            1,
            &["up_proj", "float16 cannot hold", "bfloat16"],
        ),
        (
            "no change",
            |_| {},
            &["--method", "task_arithmetic", "--adapter", "x:0"],
            2,
            &["task_arithmetic", "no change"],
        ),
    ];
    for (name, spoil, args, status, says) in cases {
        let zoo = zoo();
        spoil(&zoo);
        zoo.glue(&[&["merge-lora"][..], args, &["out"]].concat()).refused(name, *status, says);
        assert!(!zoo.path("out").exists() && !zoo.path(".out.partial").exists(), "{name}");
    }
    // One parameter that is missing is one error.
    let run = self::zoo().glue(&["merge-lora", "--method", "ties", "--adapter", "x", "--adapter", "y:1", "out"]);
    assert_eq!(run.err.matches("error: ").count(), 1, "{}", run.err);
    // All at once.
    let zoo = zoo();
    let norm = ("model.norm.weight".to_string(), Tensor::f32(&[4], [1.0; 4]));
    zoo.add_adapter("x", json!({ "r": 2 }), linear(UP, [9, 4], 2, 1).into_iter().chain([norm]));
    let run = zoo.glue(&["merge-lora", "--method", "ties", "--adapter", "x", "--adapter", "y", "out"]);
    assert_eq!(run.status, Some(2));
    assert!(run.err.contains("model.norm.weight") && run.err.contains("9 outputs"), "{}", run.err);
}
