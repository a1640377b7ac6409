//! Merges with statistics that were measured on data, from files beside the models.

use glue_tests::checkpoint;
use glue_tests::number::Numbers;
use glue_tests::zoo::{Q_PROJ, Zoo};
use glue_tests::{Tensor, Tensors};
use serde_json::json;

const FISHER: &str = "merge_method: fisher
models:
- {model: a, statistics: of-a}
- {model: b, statistics: of-b/fisher.safetensors, parameters: {weight: 3}}
parameters: {normalize: false, floor: 1e-9}
";

const AIM: &str = "merge_method: aim
base_model: base
base_statistics: of-base
models: [{model: a}, {model: b}]
parameters: {operator: task_arithmetic, weight: 0.5, omega: 0.25}
";

/// A number of at least 0 for each element of each tensor of a model.
fn fishers(zoo: &Zoo, model: &str, seed: u64) -> Tensors {
    let mut numbers = Numbers::new(seed);
    let tensors = zoo.read(model).into_iter();
    tensors
        .map(|(name, tensor)| {
            let n: usize = tensor.shape.iter().product();
            let values: Vec<f32> = (0..n).map(|_| numbers.around_zero(1.0).max(0.0)).collect();
            (format!("{name}.fisher"), Tensor::f32(&tensor.shape, values))
        })
        .collect()
}

/// A number for each column of the matrices in the layers.
fn activations(zoo: &Zoo, model: &str) -> Tensors {
    let matrices =
        zoo.read(model).into_iter().filter(|(name, tensor)| name.contains("layers") && tensor.shape.len() == 2);
    matrices
        .map(|(name, tensor)| (format!("{name}.activation"), Tensor::f32(&tensor.shape[1..], [4.0, 0.0, 1.0, 2.0])))
        .collect()
}

/// The small models with statistics of each.
fn measured() -> Zoo {
    let zoo = Zoo::small();
    for (name, tensors) in [("of-a", fishers(&zoo, "a", 11)), ("of-base", activations(&zoo, "base"))] {
        std::fs::create_dir(zoo.path(name)).expect("a temporary directory");
        checkpoint::write(&zoo.path(name), &tensors, 1);
    }
    zoo.write("of-b/fisher.safetensors", checkpoint::encode(&fishers(&zoo, "b", 12)));
    zoo
}

/// Changes statistics that are a directory.
fn edit(zoo: &Zoo, name: &str, edit: impl FnOnce(&mut Tensors)) {
    let mut tensors = zoo.read(name);
    edit(&mut tensors);
    checkpoint::write(&zoo.path(name), &tensors, 1);
}

#[test]
fn fisher_weighs_every_element() {
    let zoo = measured();
    zoo.merge(FISHER, "out", &[]).ok();
    let (out, models) = (zoo.read("out"), [zoo.read("a"), zoo.read("b")]);
    let statistics = [zoo.read("of-a"), checkpoint::read(&zoo.path("of-b/fisher.safetensors"))];
    for (name, merged) in &out {
        let [x, y] = [0, 1].map(|i| models[i][name].values());
        let [f, g] = [0, 1].map(|i| statistics[i][&format!("{name}.fisher")].values());
        let rms = |values: &[f64]| (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt();
        // The floor, a share of the mean size: all there is where nobody knows anything.
        let floor = 1e-9 * (rms(&f) + rms(&g)) / 2.0;
        for (j, found) in merged.values().into_iter().enumerate() {
            let (f, g) = (f[j] + floor, 3.0 * (g[j] + floor));
            let expected = (f * x[j] + g * y[j]) / (f + g);
            // One rounding to f32 of numbers of size 1.
            assert!((found - expected).abs() < 1e-7, "{name} {j}: {found}, expected {expected}");
        }
    }
    for threads in ["1", "3"] {
        zoo.merge(FISHER, threads, &["--threads", threads]).ok();
        assert!(zoo.bytes(&format!("{threads}/model.safetensors")) == zoo.bytes("out/model.safetensors"));
    }
}

#[test]
fn statistics_may_be_in_shards_and_in_other_types() {
    let zoo = measured();
    let halves: Tensors = zoo
        .read("of-a")
        .into_iter()
        .map(|(name, t)| (name, Tensor::bf16(&t.shape, t.values().into_iter().map(|x| x as f32))))
        .collect();
    checkpoint::write(&zoo.path("of-a"), &halves, 1);
    zoo.merge(FISHER, "whole", &[]).ok();
    std::fs::remove_file(zoo.path("of-a/model.safetensors")).expect("a file of the zoo");
    checkpoint::write(&zoo.path("of-a"), &halves, 3);
    zoo.merge(FISHER, "parts", &[]).ok();
    assert!(zoo.bytes("parts/model.safetensors") == zoo.bytes("whole/model.safetensors"));
}

#[test]
fn aim_holds_on_to_columns_of_large_activations() {
    let zoo = measured();
    let plain = AIM.replace("base_statistics: of-base\n", "").replace("aim", "task_arithmetic");
    let plain = plain.replace("operator: task_arithmetic, ", "").replace(", omega: 0.25", "");
    zoo.merge(AIM, "out", &[]).ok();
    zoo.merge(&plain, "plain", &[]).ok();
    zoo.merge(&AIM.replace("0.25", "1"), "all", &[]).ok();
    let (out, plain, base) = (zoo.read("out"), zoo.read("plain"), zoo.read("base"));
    assert!(zoo.bytes("all/model.safetensors") == zoo.bytes("plain/model.safetensors"));
    for (name, merged) in &out {
        let is_measured = name.contains("_proj");
        for (j, found) in merged.values().into_iter().enumerate() {
            let (x, base) = (plain[name].values()[j], base[name].values()[j]);
            let left = if is_measured { [0.25, 1.0, 0.8125, 0.625][j % 4] } else { 1.0 };
            let expected = base + left * (x - base);
            // Two roundings of numbers of about 1.
            assert!((found - expected).abs() < 1e-6, "{name} {j}: {found}, expected {expected}");
        }
    }
}

/// Of inputs along other axes in each model: every output stays what it was for the inputs of its own model.
#[test]
fn regmean_keeps_what_each_model_does_on_its_own_inputs() {
    let zoo = Zoo::small();
    for (model, axes) in [("a", [4.0, 1.0, 0.0, 0.0]), ("b", [0.0, 0.0, 9.0, 0.0])] {
        let matrices = zoo.read(model).into_iter().filter(|(name, _)| name.contains("_proj"));
        let gram = |(name, _): (String, Tensor)| {
            let values = (0..16).map(|i| if i % 5 == 0 { axes[i / 5] } else { 0.0 });
            (format!("{name}.gram"), Tensor::f32(&[4, 4], values))
        };
        zoo.write(&format!("of-{model}.safetensors"), checkpoint::encode(&matrices.map(gram).collect()));
    }
    let config = "merge_method: regmean\nmodels:\n- {model: a, statistics: of-a.safetensors}\n\
                  - {model: b, statistics: of-b.safetensors}\n";
    zoo.merge(config, "out", &[]).ok();
    let (out, a, b) = (zoo.read("out"), zoo.read("a"), zoo.read("b"));
    for (name, merged) in &out {
        let (a, b) = (a[name].values(), b[name].values());
        for (j, found) in merged.values().into_iter().enumerate() {
            // The last axis has no inputs in either: the mean, as everywhere where there are no statistics.
            let expected = match j % 4 {
                0 | 1 if name.contains("_proj") => a[j],
                2 if name.contains("_proj") => b[j],
                _ => (a[j] + b[j]) / 2.0,
            };
            // Two roundings of numbers of about 1.
            assert!((found - expected).abs() < 1e-6, "{name} {j}: {found}, expected {expected}");
        }
    }
    let report = zoo.merge(config, "expected", &["--dry-run", "--json", "--threads", "1"]).json();
    // The Gram matrices of two models are held whole, beside all else.
    assert!(report["memory"].as_u64().is_some_and(|memory| memory > 2 * 16 * 4), "{report}");
}

#[test]
fn statistics_follow_the_layers_of_their_model() {
    let zoo = measured();
    let sources = |a: &str, b: &str| {
        format!(
            "- sources:\n  - {{model: a, statistics: of-a, layer_range: {a}}}\n  - {{model: b, layer_range: {b}}}\n"
        )
    };
    let config = format!(
        "merge_method: fisher\nslices:\n{}{}",
        sources("[1, 2]", "[0, 1]").replace("model: b,", "model: b, statistics: of-b/fisher.safetensors,"),
        // What is given once holds wherever the model is listed.
        sources("[0, 1]", "[0, 1]"),
    );
    zoo.merge(&config, "out", &[]).ok();
    let second = "model.layers.1.self_attn.q_proj.weight.fisher";
    edit(&zoo, "of-a", |tensors| {
        let moved = tensors[second].clone();
        let n = moved.values().len();
        tensors.insert(second.into(), Tensor::f32(&moved.shape, vec![0.5; n]));
    });
    zoo.merge(&config, "other", &[]).ok();
    let (out, other) = (zoo.read("out"), zoo.read("other"));
    for (name, tensor) in &out {
        let changes = name == "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(other[name] != *tensor, changes, "{name}");
    }
}

#[test]
fn what_was_made_says_which_statistics_it_was_made_with() {
    let zoo = measured();
    let report = zoo.merge(FISHER, "out", &["--dry-run", "--json"]).json();
    assert_eq!(report["models"][1]["statistics"]["name"], "of-b/fisher.safetensors");
    // As many numbers as the models have, in 32 bits.
    assert_eq!(report["bytes_read"], 4 * 816);
    let text = zoo.merge(FISHER, "out", &["--dry-run"]).ok().out;
    assert!(text.contains("statistics  of a: of-a,"), "{text}");
    assert!(!zoo.path("out").exists());

    zoo.merge(FISHER, "out", &[]).ok();
    let manifest = zoo.json("out/glue.json");
    let statistics = &manifest["inputs"][0]["statistics"];
    assert_eq!(statistics["name"], "of-a");
    let size = zoo.bytes("of-a/model.safetensors").len();
    assert_eq!(statistics["files"][0]["name"], "model.safetensors");
    assert_eq!(statistics["files"][0]["bytes"], size);
    assert!(statistics["files"][0]["xxh3_128"].as_str().is_some_and(|hash| hash.len() == 32));
    let card = String::from_utf8(zoo.bytes("out/README.md")).expect("text");
    assert!(card.contains("- `b`, with the statistics `of-b/fisher.safetensors`"), "{card}");
    assert_eq!(zoo.glue(&["ops", "fisher", "--json"]).json()["statistic"]["shape"], "same");
}

#[test]
fn a_stage_is_made_again_when_its_statistics_have_changed() {
    let zoo = measured();
    let stages = format!("name: first\n{FISHER}---\nmerge_method: passthrough\nmodels: [{{model: first}}]\n");
    zoo.write("stages.yml", stages);
    let reused = |out: &str| {
        let report = zoo.glue(&["multi", "stages.yml", out, "--json", "--work-dir", "work"]).json();
        report["stages"][0]["reused"].clone()
    };
    assert_eq!([reused("one"), reused("two")], [json!(false), json!(true)]);
    edit(&zoo, "of-a", |tensors| tensors.get_mut(&format!("{Q_PROJ}.fisher")).expect("a statistic").data[0] ^= 1);
    assert_eq!([reused("three"), reused("four")], [json!(false), json!(true)]);
}

#[test]
fn statistics_that_are_missing_or_of_no_use_are_refused() {
    let zoo = measured();
    let check = |name: &str, config: &str, says: &[&str]| zoo.merge(config, "out", &[]).refused(name, 2, says);
    let without = FISHER.replace(", statistics: of-a", "").replace(", statistics: of-b/fisher.safetensors", "");
    check(
        "none",
        &without,
        &[
            "out.yml:3:11: `fisher` needs the statistic `fisher` of `a`, but `statistics` is not given",
            "glue calibrate",
        ],
    );
    check("one", &FISHER.replace(", statistics: of-a", ""), &["of `a`, but `statistics` is not given"]);
    let none = AIM.replace("base_statistics: of-base\n", "");
    check("no base", &none, &["`aim` needs the statistic `activation` of `base`, but `base_statistics` is not given"]);
    check(
        "path",
        &FISHER.replace("of-a", "nowhere"),
        &["out.yml:3:26: statistics of `a`: ", "nowhere", "glue calibrate"],
    );
    check(
        "linear",
        &FISHER.replace("fisher\n", "linear\n"),
        &["out.yml:3:26: `statistics` is given, but `linear` uses no statistics"],
    );
    check(
        "of the models",
        &AIM.replace("{model: a}", "{model: a, statistics: of-a}"),
        &["`statistics` is given, but `aim` uses the `activation` of the base alone, as `base_statistics`"],
    );
    check(
        "of the base",
        &format!("base_model: base\nbase_statistics: of-base\n{FISHER}"),
        &["`base_statistics` is given, but `fisher` uses the `fisher` of each model"],
    );
    check(
        "without a base",
        &format!("base_statistics: of-base\n{FISHER}"),
        &["`base_statistics` must be beside a `base_model`"],
    );
    check(
        "of something else",
        &FISHER.replace("of-a", "of-base").replace("of-b/fisher.safetensors", "of-base"),
        &["`fisher` needs the statistic `fisher`, but `of-base` has it of no tensor"],
    );
    let twice = FISHER.replace("models:\n", "models:\n- {model: ./a, statistics: of-base}\n");
    check("twice", &twice, &["has the statistics `of-a` here, but `of-base` elsewhere"]);
    assert!(!zoo.path("out").exists());
}

#[test]
fn statistics_that_do_not_fit_are_refused_with_tensor_and_model() {
    let zoo = measured();
    let name = &format!("{Q_PROJ}.fisher");
    let good = zoo.read("of-a");
    let check = |what: &str, tensor: Option<Tensor>, status, says: &[&str]| {
        let mut tensors = good.clone();
        match tensor {
            Some(tensor) => tensors.insert(name.clone(), tensor),
            None => tensors.remove(name),
        };
        checkpoint::write(&zoo.path("of-a"), &tensors, 1);
        zoo.merge(FISHER, "out", &[]).refused(what, status, says);
        assert!(!zoo.path("out").exists(), "{what}");
    };
    check(
        "gap",
        None,
        2,
        &[
            &format!("the statistics of `b` have the `fisher` of tensor `{Q_PROJ}`"),
            &format!("those of `a` (of-a) have no `{name}`"),
        ],
    );
    check(
        "shape",
        Some(Tensor::f32(&[16], [1.0; 16])),
        2,
        &[&format!(
            "`{name}` in the statistics of-a is F32 of shape [16], but must be floating-point numbers of shape [4, 4]"
        )],
    );
    check("type", Some(Tensor::i64(&[4, 4], [1; 16])), 2, &["is I64 of shape [4, 4]"]);
    let with = |x: f32| Tensor::f32(&[4, 4], (0..16).map(|i| if i == 9 { x } else { 1.0 }));
    check("NaN", Some(with(f32::NAN)), 1, &[&format!("statistic {name} in of-a holds NaN at index 9")]);
    check("negative", Some(with(-0.5)), 1, &["holds -0.5 at index 9; it must not be negative"]);
    // A tensor that no model has a statistic of is a gap in the file, not a tensor that needs none.
    let mut b = checkpoint::read(&zoo.path("of-b/fisher.safetensors"));
    b.remove(name);
    zoo.write("of-b/fisher.safetensors", checkpoint::encode(&b));
    check(
        "nobody has it",
        None,
        2,
        &[&format!("fisher needs the statistic `fisher` of tensor {Q_PROJ}, and there is none")],
    );
}
