//! Results do not depend on the number of threads, and random operators sample from the stated distributions.
//!
//! Tensors here span several of the spans of 2^18 elements that work is cut into.

use glue_tests::checkpoint::Tensor;
use glue_tests::number::Numbers;
use glue_tests::{Tensors, Zoo};

/// A row count and length that leave the last span partly filled, and rows across the edges of spans.
const SHAPE: [usize; 2] = [700, 1100];
const N: usize = SHAPE[0] * SHAPE[1];

/// Tensors of one layer: F32 in rows, BF16 in rows (with many equal magnitudes), F32 without rows.
fn tensors(mut value: impl FnMut(usize) -> f32) -> Tensors {
    let mut take = |n: usize| (0..n).map(&mut value).collect::<Vec<f32>>();
    let tensors = [
        ("model.layers.0.mlp.up_proj.weight", Tensor::f32(&SHAPE, take(N))),
        ("model.layers.0.mlp.down_proj.weight", Tensor::bf16(&[300, 1000], take(300_000))),
        ("model.layers.0.mlp.up_proj.bias", Tensor::f32(&[(1 << 18) + 3], take((1 << 18) + 3))),
    ];
    tensors.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect()
}

/// A base and two fine-tunes near it.
fn family() -> Zoo {
    let zoo = Zoo::empty();
    for (name, seed) in [("base", 0), ("a", 1), ("b", 2)] {
        let (mut common, mut own) = (Numbers::new(9), Numbers::new(seed));
        let width = if seed == 0 { 0.0 } else { 0.01 };
        zoo.add(name, &tensors(|_| common.around_zero(0.5) + own.around_zero(width)));
        zoo.set(name, "num_hidden_layers", 1.into());
    }
    zoo
}

/// The bytes of the weights that a merge makes.
fn merged(zoo: &Zoo, config: &str, args: &[&str]) -> Vec<u8> {
    let out = format!("out{}", args.concat());
    zoo.merge(config, &out, args).ok();
    let bytes = zoo.bytes(&format!("{out}/model.safetensors"));
    std::fs::remove_dir_all(zoo.path(&out)).expect("a directory that was just made");
    bytes
}

/// A config with the base, and parameters for each of `models`.
fn config(operator: &str, models: &[&str], each: &str, all: &str) -> String {
    let models: String = models.iter().map(|name| format!("- {{model: {name}, parameters: {{{each}}}}}\n")).collect();
    format!("merge_method: {operator}\nbase_model: base\nparameters: {{{all}}}\nmodels:\n{models}")
}

fn check_threads(zoo: &Zoo, config: &str) -> Vec<u8> {
    let one = merged(zoo, config, &["--threads", "1"]);
    for threads in ["2", "8"] {
        assert!(merged(zoo, config, &["--threads", threads]) == one, "{threads} threads\n{config}");
    }
    one
}

#[test]
fn threads_do_not_matter() {
    let zoo = family();
    let two = ["a", "b"];
    check_threads(&zoo, &config("ties", &two, "weight: 0.5, density: 0.3", ""));
    check_threads(&zoo, &config("breadcrumbs", &two, "weight: 0.5, density: 0.5, gamma: 0.1", ""));
    check_threads(&zoo, &config("sce", &two, "", "select_topk: 0.4"));
    check_threads(&zoo, &config("model_stock", &two, "", ""));
    check_threads(&zoo, &config("slerp", &["b"], "", "t: 0.3"));
    check_threads(&zoo, &config("arcee_fusion", &["a"], "", ""));
    check_threads(&zoo, &config("tsv_m", &two, "", "lambda: 0.5"));
    check_threads(&zoo, &config("knots", &two, "density: 0.5", "outside_layers: matrix"));
    check_threads(&zoo, "merge_method: karcher\nmodels: [{model: a}, {model: b}, {model: base}]\n");
}

/// Operators that draw at random, and the parameters that the statistics below reckon with.
const RANDOM: [(&str, &str); 4] =
    [("dare_linear", ""), ("dare_ties", ""), ("della_linear", "epsilon: 0.2"), ("della", "epsilon: 0.2")];

#[test]
fn a_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let zoo = family();
    for (operator, more) in RANDOM {
        let config = config(operator, &["a", "b"], &format!("weight: 0.5, density: 0.6, {more}"), "");
        let zero = check_threads(&zoo, &config);
        assert!(merged(&zoo, &config, &["--seed", "0"]) == zero, "{operator}: 0 is the seed when none is given");
        let seven = merged(&zoo, &config, &["--seed", "7"]);
        assert!(seven != zero, "{operator}: another seed");
        assert!(merged(&zoo, &format!("{config}seed: 7\n"), &[]) == seven, "{operator}: the seed in the config");
        assert!(merged(&zoo, &format!("{config}seed: 3\n"), &["--seed", "7"]) == seven, "{operator}: --seed is first");
    }
}

const DENSITY: f64 = 0.6;
const EPSILON: f64 = 0.2;
/// What chance alone exceeds once in two million times; with fixed seeds, not even that.
const SIGMAS: f64 = 5.0;

/// A base of zeros, so that a merge of one model is its trimmed task vector, and two models with the same positive task
/// vector.
fn apart() -> Zoo {
    let zoo = Zoo::empty();
    zoo.add("base", &tensors(|_| 0.0));
    for name in ["a", "b"] {
        let mut numbers = Numbers::new(4);
        zoo.add(name, &tensors(|_| 1.0 + numbers.around_zero(0.5)));
    }
    for name in ["base", "a", "b"] {
        zoo.set(name, "num_hidden_layers", 1.into());
    }
    zoo
}

/// Tensors of the merge of `models`.
fn trimmed(zoo: &Zoo, operator: &str, models: &[&str], each: &str, all: &str) -> Tensors {
    let each = format!("weight: 1, density: {DENSITY}, {each}");
    let config = config(operator, models, &each, &format!("normalize: false, {all}"));
    zoo.merge(&config, "out", &["--dtype", "float32"]).ok();
    let tensors = zoo.read("out");
    std::fs::remove_dir_all(zoo.path("out")).expect("a directory that was just made");
    tensors
}

/// Checks how often something happened in `n` independent trials with these probabilities' mean; their spread only
/// makes the variance smaller.
fn check_share(what: &str, happened: usize, n: usize, probability: f64) {
    let sigma = (n as f64 * probability * (1.0 - probability)).sqrt();
    let off = (happened as f64 - n as f64 * probability) / sigma;
    assert!(off.abs() < SIGMAS, "{what}: {happened} of {n}, {off} σ from {probability}");
}

#[test]
fn as_many_are_kept_as_the_density_says_and_the_mean_stays() {
    let zoo = apart();
    let inputs = zoo.read("a");
    for (operator, more) in RANDOM {
        let least = if more.is_empty() { DENSITY } else { DENSITY - EPSILON };
        for (name, found) in trimmed(&zoo, operator, &["a"], more, "rescale: inverse") {
            let what = format!("{operator} of {name}");
            let (found, input) = (found.values(), inputs[&name].values());
            check_share(&what, found.iter().filter(|x| **x != 0.0).count(), found.len(), DENSITY);
            // Kept with probability p and divided by it, an element τ has the variance τ²(1 − p)/p.
            let variance: f64 = input.iter().map(|x| x * x * (1.0 - least) / least).sum();
            let off = (found.iter().sum::<f64>() - input.iter().sum::<f64>()) / variance.sqrt();
            assert!(off.abs() < SIGMAS, "{what}: the sum is {off} σ off");
        }
    }
}

#[test]
fn della_keeps_the_larger_half_of_a_row_more_often() {
    let zoo = apart();
    let name = "model.layers.0.mlp.up_proj.weight";
    let input = zoo.read("a")[name].values();
    for operator in ["della_linear", "della"] {
        let found = trimmed(&zoo, operator, &["a"], "epsilon: 0.2", "rescale: none")[name].values();
        let mut kept = [0; 2];
        for row in (0..N).step_by(SHAPE[1]) {
            let mut order: Vec<usize> = (row..row + SHAPE[1]).collect();
            order.sort_by(|i, j| input[*i].total_cmp(&input[*j]));
            order.iter().enumerate().for_each(|(rank, i)| kept[2 * rank / SHAPE[1]] += usize::from(found[*i] != 0.0));
        }
        // The mean probability of each half, up to the 1/1100 by which the middle of a half is off.
        check_share(&format!("{operator}, smaller half"), kept[0], N / 2, DENSITY - EPSILON / 2.0);
        check_share(&format!("{operator}, larger half"), kept[1], N / 2, DENSITY + EPSILON / 2.0);
    }
}

#[test]
fn the_l1_norm_is_restored_unless_told_otherwise() {
    let zoo = apart();
    let inputs = zoo.read("a");
    for (operator, more) in RANDOM {
        for (name, found) in trimmed(&zoo, operator, &["a"], more, "") {
            let norm = |values: Vec<f64>| values.iter().map(|x| x.abs()).sum::<f64>();
            let ratio = norm(found.values()) / norm(inputs[&name].values());
            // One factor in f32, and one rounding of each product: 6e-8 each.
            assert!((ratio - 1.0).abs() < 1e-6, "{operator} of {name}: {ratio}");
        }
    }
}

#[test]
fn models_and_tensors_are_drawn_independently() {
    let zoo = apart();
    let name = "model.layers.0.mlp.up_proj.weight";
    let input = zoo.read("a")[name].values();
    for operator in ["dare_linear", "della_linear"] {
        let more = if operator == "dare_linear" { "" } else { "epsilon: 0" };
        let found = trimmed(&zoo, operator, &["a", "b"], more, "rescale: none");
        // Both models have the task vector τ, so that 2τ is where both are kept.
        let values = found[name].values();
        let both = values.iter().zip(&input).filter(|(x, tau)| **x > 1.5 * **tau).count();
        check_share(&format!("{operator}: both models"), both, N, DENSITY * DENSITY);
        let bias = found["model.layers.0.mlp.up_proj.bias"].values();
        let both = bias.iter().zip(&values).filter(|(x, y)| **x != 0.0 && **y != 0.0).count();
        let one = 1.0 - (1.0 - DENSITY) * (1.0 - DENSITY);
        check_share(&format!("{operator}: both tensors"), both, bias.len(), one * one);
    }
}
