//! Models whose task vectors are taken from bases of their own.

use glue_tests::Zoo;
use glue_tests::checkpoint::Tensor;
use glue_tests::number::Numbers;
use glue_tests::zoo::{self, Q_PROJ};
use serde_json::json;

/// The small models, and `other`, a base that `a` was trained from. `moved` is the base with the difference of `a` and
/// `other` added, in 32 bits.
fn zoo() -> Zoo {
    let zoo = Zoo::small();
    zoo.add("other", &zoo::tensors(9));
    add_moved(&zoo, "other", "moved");
    zoo
}

/// Writes base + (a − other) as `name`.
fn add_moved(zoo: &Zoo, other: &str, name: &str) {
    let (base, a, other) = (zoo.read("base"), zoo.read("a"), zoo.read(other));
    let values = |tensor: &Tensor| tensor.values().into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let moved = a.iter().map(|(tensor, a)| {
        let (base, other) = (values(&base[tensor]), values(&other[tensor]));
        let sum = values(a).into_iter().zip(base).zip(other).map(|((a, base), other)| base + (a - other));
        (tensor.clone(), Tensor::f32(&a.shape, sum))
    });
    zoo.add(name, &moved.collect());
}

fn config(operator: &str, first: &str, own: &str) -> String {
    let own = if own.is_empty() { String::new() } else { format!(", base_model: {own}") };
    format!(
        "merge_method: {operator}\nbase_model: base\nmodels: [{{model: {first}{own}}}, {{model: b}}]\nseed: 3\n\
         parameters: {{weight: 0.5, density: 0.5, select_topk: 0.5, gamma: 0.1}}\n"
    )
}

#[test]
fn a_model_with_a_base_of_its_own_is_the_base_with_their_difference() {
    let zoo = zoo();
    for operator in ["ties", "dare_ties", "task_arithmetic", "sce", "model_stock", "tsv_m"] {
        let [given, expected] = ["given", "expected"].map(|how| format!("{operator}-{how}"));
        zoo.merge(&config(operator, "a", "other"), &given, &["--quiet", "--threads", "3"]);
        zoo.merge(&config(operator, "moved", ""), &expected, &["--quiet"]);
        assert!(zoo.read(&given) == zoo.read(&expected), "{operator}");
        zoo.merge(&config(operator, "a", ""), &format!("{operator}-without"), &["--quiet"]);
        assert!(zoo.read(&format!("{operator}-without")) != zoo.read(&expected), "{operator}");
    }
    let manifest = zoo.json("ties-given/glue.json");
    let models: Vec<&serde_json::Value> =
        manifest["inputs"].as_array().expect("inputs").iter().map(|input| &input["model"]).collect();
    assert_eq!(models, ["base", "a", "b", "other"]);
    let bytes = |name: &str, own: &str| {
        let run = zoo.merge(&config("ties", name, own), "out", &["--dry-run", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
        report["bytes_read"].as_u64().expect("a number")
    };
    assert_eq!(bytes("a", "other"), bytes("moved", "") / 3 * 4);
}

#[test]
fn bases_of_their_own_may_have_adapters_and_stand_in_slices() {
    let zoo = zoo();
    let q = "model.layers.1.self_attn.q_proj";
    let mut numbers = Numbers::new(5);
    let mut matrix =
        |rows, columns| Tensor::f32(&[rows, columns], (0..rows * columns).map(|_| numbers.around_zero(1.0)));
    let factors = [(format!("{q}.lora_A.weight"), matrix(2, 4)), (format!("{q}.lora_B.weight"), matrix(4, 2))];
    zoo.add_adapter("x", json!({ "r": 2, "lora_alpha": 2 }), factors);
    zoo.merge("merge_method: passthrough\nmodels: [{model: other+x}]\n", "other-x", &[]).ok();
    assert!(zoo.read("other-x")[Q_PROJ] != zoo.read("other")[Q_PROJ]);
    add_moved(&zoo, "other-x", "moved-x");
    zoo.merge(&config("ties", "a", "other+x"), "given", &["--quiet"]);
    zoo.merge(&config("ties", "moved-x", ""), "expected", &["--quiet"]);
    assert!(zoo.read("given") == zoo.read("expected"));

    let slices = |first: &str| {
        format!(
            "merge_method: ties\nbase_model: base\nparameters: {{weight: 0.5, density: 0.5}}\nslices:\n\
             - sources: [{{{first}, layer_range: [0, 1]}}, {{model: b, layer_range: [0, 1]}}]\n\
             - sources: [{{model: b, layer_range: [1, 2]}}]\n"
        )
    };
    zoo.merge(&slices("model: a, base_model: other"), "sliced", &[]).ok();
    zoo.merge(&slices("model: moved"), "sliced-expected", &[]).ok();
    assert!(zoo.read("sliced") == zoo.read("sliced-expected"));
}

#[test]
fn bases_of_their_own_are_for_task_vectors() {
    let zoo = zoo();
    let linear = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a, base_model: other}, {model: b}]\n";
    zoo.merge(linear, "out", &[]).refused("linear", 2, &["out.yml:3:33", "base_model", "linear"]);
    let nowhere = zoo.merge(&config("ties", "a", "nowhere"), "out", &["--quiet"]);
    nowhere.refused("no such base", 2, &["nowhere: no such directory"]);
    zoo.edit("other", |tensors| drop(tensors.remove(Q_PROJ)));
    let missing = [Q_PROJ, "is in `base`, but not in `other`"];
    let run = zoo.merge(&config("ties", "a", "other"), "out", &["--quiet"]);
    assert!(run.status == Some(2) && missing.iter().all(|words| run.err.contains(words)), "{run:?}");
    assert!(!zoo.path("out").exists());
}
