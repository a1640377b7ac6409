//! Statistics read back from the output, against other ways to compute them.

use super::*;
use crate::plan::CalibrateOptions;
use glue_lm::{Observer, ScoreOptions, ScoreRequest, Want, Weight, Weights};
use glue_progress::{NoProgress, Progress};
use glue_tensor::{Checkpoint, Dtype, ModelDir, widen};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Opened {
    model: Model,
    dir: ModelDir,
}

fn open(name: &str) -> Opened {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name);
    Opened { model: Model::open(&path).unwrap(), dir: ModelDir::open(&path).unwrap() }
}

fn only(statistics: &[Statistic]) -> CalibrateOptions {
    CalibrateOptions { statistics: statistics.iter().copied().collect(), ..CalibrateOptions::default() }
}

/// Items and texts of ids below 99, of several lengths.
fn sequences() -> Vec<Sequence> {
    let ids = |n: u32, seed: u32| (0..n).map(|i| (7 + 31 * seed + 13 * i * i + 5 * i) % 96 + 3).collect::<Vec<u32>>();
    let item = |seed: u32| Sequence::item(&ids(4 + seed % 9, seed), &ids(1 + seed % 3, seed + 50));
    (0..9).map(item).chain((0..3).map(|seed| Sequence::text(ids(20, 90 + seed)))).collect()
}

/// The statistics by name, each with its shape.
type Found = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn statistics(opened: &Opened, options: &CalibrateOptions, sequences: &[Sequence]) -> (Found, CalibrationSummary) {
    let out = tempfile::tempdir().unwrap();
    let plan = CalibratePlan::new(&opened.model, options).unwrap();
    let at = out.path().join("statistics");
    let done = calibrate(&opened.model, &opened.dir, &plan, sequences, &Value::Null, &at, &NoProgress).unwrap();
    let checkpoint = Checkpoint::open(&at).unwrap();
    let one = |view: glue_tensor::TensorView<'_>| {
        assert_eq!(view.dtype(), Dtype::F32);
        (view.name().to_owned(), (view.shape().to_vec(), values(&view)))
    };
    (checkpoint.views().map(one).collect(), done)
}

fn values(view: &glue_tensor::TensorView<'_>) -> Vec<f32> {
    let mut values = vec![0.0; view.shape().iter().product()];
    widen(view.dtype(), view.data(), &mut values).unwrap();
    values
}

/// Means of absolute values and of products, in f64.
fn check_means(found: &Found, tensor: &str, rows: &[Vec<f64>]) {
    let width = rows[0].len();
    let mean = |of: &dyn Fn(&Vec<f64>) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
    let (shape, activation) = &found[&format!("{tensor}.activation")];
    assert_eq!(*shape, [width], "{tensor}");
    let (gram_shape, gram) = &found[&format!("{tensor}.gram")];
    assert_eq!(*gram_shape, [width, width], "{tensor}");
    for i in 0..width {
        let expected = mean(&|row| row[i].abs());
        // Inputs are f32, and come by another way here.
        assert!((expected - f64::from(activation[i])).abs() < 1e-5 * expected.max(1.0), "{tensor} {i}");
        for j in 0..width {
            let expected = mean(&|row| row[i] * row[j]);
            let size = mean(&|row| (row[i] * row[j]).abs());
            let found = f64::from(gram[i * width + j]);
            assert!((expected - found).abs() < 1e-5 * size.max(1e-3), "{tensor} {i}, {j}: {expected} {found}");
        }
    }
}

/// What the observer shows at other places than by the names of matrices.
#[derive(Default)]
struct Places {
    attention: Vec<Vec<f32>>,
    neurons: Vec<Vec<f32>>,
    mlp: Vec<Vec<f32>>,
}

impl Observer for Places {
    fn mlp_input(&mut self, _: usize, values: &[f32]) {
        self.mlp.push(values.to_vec());
    }

    fn attention_output(&mut self, _: usize, values: &[f32]) {
        self.attention.push(values.to_vec());
    }

    fn neurons(&mut self, _: usize, values: &[f32]) {
        self.neurons.push(values.to_vec());
    }
}

fn rows(values: &[f32], width: usize) -> Vec<Vec<f64>> {
    values.chunks_exact(width).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
}

/// x / √(mean(x²) + ε) · w in f64.
fn normed(opened: &Opened, weight: &str, rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let weight = values(&opened.dir.checkpoint().get(weight).unwrap());
    let eps = f64::from(opened.model.architecture().norm_eps);
    let one = |row: &Vec<f64>| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        row.iter().zip(&weight).map(|(x, &w)| x / (mean + eps).sqrt() * f64::from(w)).collect()
    };
    rows.iter().map(one).collect()
}

/// Inputs of queries, of the head and of the two projections out of a layer, each found without this crate.
fn check_inputs(name: &str, queries: &[&str]) {
    let opened = open(name);
    let sequences = sequences();
    let (found, done) = statistics(&opened, &only(&[Statistic::Activation, Statistic::Gram]), &sequences);
    assert_eq!(done.log_likelihood, None);
    let layers = opened.model.num_layers();
    let states: Vec<usize> = (0..layers).chain([layers + 1]).collect();
    let mut residual = vec![Vec::new(); layers + 1];
    let (mut attention, mut neurons) = (vec![Vec::new(); layers], vec![Vec::new(); layers]);
    for sequence in &sequences {
        let mut tree = Tree::new();
        tree.push(None, &sequence.tokens[..sequence.tokens.len() - 1]);
        let output = opened.model.forward(&mut tree.clone(), &Want { hidden: &states, ..Want::NOTHING }).unwrap();
        for (all, state) in residual.iter_mut().zip(&output.hidden) {
            all.extend(state.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        let mut places = Places::default();
        opened.model.observe(&mut tree, &mut places).unwrap();
        for layer in 0..layers {
            attention[layer].extend(&places.attention[layer]);
            neurons[layer].extend(&places.neurons[layer]);
        }
    }
    let hidden = opened.model.hidden_size();
    assert_eq!(done.tokens as usize, residual[0].len() / hidden);
    for layer in 0..layers {
        let at = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
        let read = normed(&opened, &at("input_layernorm"), &rows(&residual[layer], hidden));
        for query in queries {
            check_means(&found, &at(query), &read);
        }
        let arch = opened.model.architecture();
        check_means(&found, &at("self_attn.o_proj"), &rows(&attention[layer], arch.heads * arch.head_dim));
        check_means(&found, &at("mlp.down_proj"), &rows(&neurons[layer], arch.intermediate_size));
    }
    check_means(&found, "lm_head.weight", &rows(&residual[layers], hidden));
    // Two for each matrix; an embedding has none.
    assert!(found.keys().all(|name| !name.contains("embed_tokens") && !name.contains("norm")));
}

#[test]
fn activations_and_gram_matrices_are_those_of_the_inputs() {
    check_inputs("archs/llama2", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
    check_inputs("archs/phi3", &["self_attn.qkv_proj"]);
}

const INPUTS: [Statistic; 2] = [Statistic::Activation, Statistic::Gram];

/// What each layer's MLP, or the gate and experts in its place, reads of all sequences.
fn mlp_inputs(model: &Model, sequences: &[Sequence]) -> Vec<Vec<Vec<f64>>> {
    let mut found = vec![Vec::new(); model.num_layers()];
    for sequence in sequences {
        let mut tree = Tree::new();
        tree.push(None, &sequence.tokens[..sequence.tokens.len() - 1]);
        let mut places = Places::default();
        model.observe(&mut tree, &mut places).unwrap();
        let dense = dense_layers(model);
        assert_eq!(places.neurons.len(), dense, "experts have neurons of different tokens each");
        for (found, values) in found.iter_mut().zip(&places.mlp) {
            found.extend(rows(values, model.hidden_size()));
        }
    }
    found
}

/// Layers without experts.
fn dense_layers(model: &Model) -> usize {
    model.architecture().layers.iter().filter(|layer| !layer.experts).count()
}

/// A stored matrix, row by row.
fn matrix(opened: &Opened, name: &str) -> Vec<Vec<f64>> {
    let view = opened.dir.checkpoint().get(name).unwrap();
    rows(&values(&view), view.shape()[1])
}

fn times(matrix: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

/// silu(gate x) · up x
fn neurons(gate: &[Vec<f64>], up: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    times(gate, x).into_iter().zip(times(up, x)).map(|(gate, up)| silu(gate) * up).collect()
}

/// The statistics of experts against sums in f64 over the tokens that their scores choose, which count as zeros
/// elsewhere. `names` are those of gate, up and down projections.
fn check_experts(arch: &str, place: &str, names: [&str; 3]) {
    let opened = open(arch);
    let below = |id: u32| id % opened.model.vocab_size() as u32;
    let fits = |sequence: Sequence| Sequence { tokens: sequence.tokens.into_iter().map(below).collect(), ..sequence };
    let sequences: Vec<Sequence> = sequences().into_iter().map(fits).collect();
    let (found, done) = statistics(&opened, &only(&INPUTS), &sequences);
    let config = |key: &str| opened.dir.config().get(key).and_then(Value::as_u64).unwrap() as usize;
    let experts = opened.dir.checkpoint().get(&format!("model.layers.0.{place}.gate.weight")).unwrap().shape()[0];
    let mut idle = BTreeSet::new();
    for (layer, read) in mlp_inputs(&opened.model, &sequences).into_iter().enumerate() {
        let at = |rest: &str| format!("model.layers.{layer}.{place}.{rest}.weight");
        if !opened.model.architecture().layers[layer].experts {
            continue;
        }
        check_means(&found, &at("gate"), &read);
        let gate = matrix(&opened, &at("gate"));
        let chosen: Vec<Vec<usize>> = read
            .iter()
            .map(|x| {
                let scores = times(&gate, x);
                let mut order: Vec<usize> = (0..experts).collect();
                order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
                order.truncate(config("num_experts_per_tok"));
                order
            })
            .collect();
        for expert in 0..experts {
            let [gate, up, down] = names.map(|name| at(&format!("experts.{expert}.{name}")));
            let weights = [&gate, &up].map(|name| matrix(&opened, name));
            let comes = |row: usize| chosen[row].contains(&expert);
            let or_zeros = |row: usize, values: Vec<f64>| if comes(row) { values } else { vec![0.0; values.len()] };
            let own: Vec<Vec<f64>> = read.iter().enumerate().map(|(row, x)| or_zeros(row, x.clone())).collect();
            let inner = |(row, x): (usize, &Vec<f64>)| or_zeros(row, neurons(&weights[0], &weights[1], x));
            let inner: Vec<Vec<f64>> = read.iter().enumerate().map(inner).collect();
            check_means(&found, &gate, &own);
            check_means(&found, &up, &own);
            check_means(&found, &down, &inner);
            if !(0..read.len()).any(comes) {
                idle.insert((layer, expert));
            }
        }
        if place == "mlp" {
            check_means(&found, &at("shared_expert_gate"), &read);
            let [gate, up, down] = names.map(|name| at(&format!("shared_expert.{name}")));
            let weights = [&gate, &up].map(|name| matrix(&opened, name));
            check_means(&found, &gate, &read);
            let inner: Vec<Vec<f64>> = read.iter().map(|x| neurons(&weights[0], &weights[1], x)).collect();
            check_means(&found, &down, &inner);
        }
    }
    let found: BTreeSet<_> = done.idle_experts.iter().map(|idle| (idle.layer, idle.expert)).collect();
    assert_eq!(found, idle);
}

#[test]
fn experts_are_measured_on_the_tokens_that_come_to_them() {
    check_experts("archs/mixtral", "block_sparse_moe", ["w1", "w3", "w2"]);
    check_experts("archs-extra/qwen2-moe", "mlp", ["gate_proj", "up_proj", "down_proj"]);
}

/// Mixtral with the experts of each layer in two tensors.
fn stacked() -> Opened {
    let opened = open("archs/mixtral");
    let of = |layer: usize, name: &str| {
        let of_expert = |expert| format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight");
        (0..4).map(|expert| values(&opened.dir.checkpoint().get(&of_expert(expert)).unwrap())).collect::<Vec<_>>()
    };
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for layer in 0..3 {
        let both: Vec<f32> =
            of(layer, "w1").into_iter().zip(of(layer, "w3")).flat_map(|(a, b)| [a, b].concat()).collect();
        tensors.push((format!("model.layers.{layer}.mlp.experts.gate_up_proj"), vec![4, 128, 32], both));
        tensors.push((
            format!("model.layers.{layer}.mlp.experts.down_proj"),
            vec![4, 32, 64],
            of(layer, "w2").concat(),
        ));
    }
    for view in opened.dir.checkpoint().views().filter(|view| !view.name().contains(".experts.")) {
        tensors.push((view.name().replace("block_sparse_moe", "mlp"), view.shape().to_vec(), values(&view)));
    }
    let weights = tensors.into_iter().map(|(name, shape, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name, Weight::owned(Dtype::F32, shape, bytes).unwrap())
    });
    Opened { model: Model::new(opened.dir.config(), Weights::from_tensors(weights)).unwrap(), dir: opened.dir }
}

#[test]
fn experts_in_one_tensor_have_the_statistics_of_separate_ones() {
    let (one, several) = (stacked(), open("archs/mixtral"));
    let (found, done) = statistics(&one, &only(&INPUTS), &sequences());
    let (expected, of_several) = statistics(&several, &only(&INPUTS), &sequences());
    assert_eq!(done, of_several);
    let mut compared = 0;
    for layer in 0..3 {
        for (name, separate, width) in [("gate_up_proj", "w1", 32), ("down_proj", "w2", 64)] {
            for (statistic, shape) in [("activation", vec![4, width]), ("gram", vec![4, width, width])] {
                let (found_shape, values) = &found[&format!("model.layers.{layer}.mlp.experts.{name}.{statistic}")];
                assert_eq!(*found_shape, shape);
                let of = |expert| {
                    format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{separate}.weight.{statistic}")
                };
                let expected: Vec<f32> = (0..4).flat_map(|expert| expected[&of(expert)].1.clone()).collect();
                assert_eq!(*values, expected, "{layer} {name} {statistic}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 12);
}

#[test]
fn experts_without_tokens_have_zeros_and_are_counted() {
    for opened in [open("archs/mixtral"), stacked()] {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("statistics");
        let plan = CalibratePlan::new(&opened.model, &only(&[Statistic::Gram])).unwrap();
        // One token is read, and comes to two of four experts in each of three layers.
        let sequences = [Sequence::text(vec![5, 6])];
        let done = calibrate(&opened.model, &opened.dir, &plan, &sequences, &Value::Null, &out, &NoProgress).unwrap();
        assert_eq!(done.idle_experts.len(), 6);
        let manifest: Value = serde_json::from_slice(&std::fs::read(out.join(manifest::FILE)).unwrap()).unwrap();
        assert_eq!(manifest["calibration"]["idle_experts"].as_array().unwrap().len(), 6);
        let checkpoint = Checkpoint::open(&out).unwrap();
        for idle in &done.idle_experts {
            for view in checkpoint.views() {
                let values = values(&view);
                let of_layer = view.name().starts_with(&format!("model.layers.{}.", idle.layer));
                let own = if view.name().contains(&format!(".experts.{}.", idle.expert)) {
                    &values[..]
                } else if view.name().contains(".mlp.experts.") {
                    let each = values.len() / 4;
                    &values[idle.expert * each..(idle.expert + 1) * each]
                } else {
                    continue;
                };
                assert!(!of_layer || own.iter().all(|&x| x == 0.0), "{} {idle:?}", view.name());
            }
        }
        let zeros =
            checkpoint.views().filter(|view| view.name().contains("experts") && values(view).iter().all(|&x| x == 0.0));
        assert!(zeros.count() <= 18, "others are not zeros");
    }
}

/// The model with its stored tensors in f32, one of them with another element.
fn changed(opened: &Opened, tensor: &str, index: usize, by: f64) -> Model {
    let one = |view: glue_tensor::TensorView<'_>| {
        let mut values = values(&view);
        if view.name() == tensor {
            values[index] = (f64::from(values[index]) + by) as f32;
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (view.name().to_owned(), Weight::owned(Dtype::F32, view.shape().to_vec(), bytes).unwrap())
    };
    Model::new(opened.dir.config(), Weights::from_tensors(opened.dir.checkpoint().views().map(one))).unwrap()
}

fn log_likelihoods(model: &Model, sequences: &[Sequence]) -> Vec<f64> {
    let requests: Vec<ScoreRequest<'_>> = sequences
        .iter()
        .map(|sequence| sequence.tokens.split_at(sequence.scored.start))
        .map(|(context, continuation)| ScoreRequest { context, continuation })
        .collect();
    let scores = model.score(&requests, &ScoreOptions::default(), &|_| {}).unwrap();
    scores.into_iter().map(|score| score.logprob).collect()
}

/// The largest elements of each tensor against differences of log-likelihoods, item by item.
fn check_fisher(name: &str) {
    let opened = open(name);
    let sequences = sequences();
    let (found, done) = statistics(&opened, &only(&[Statistic::Fisher]), &sequences);
    let mean = log_likelihoods(&opened.model, &sequences).iter().sum::<f64>() / sequences.len() as f64;
    // Rounding of logits in f32.
    assert!((done.log_likelihood.unwrap() - mean).abs() < 1e-5 * mean.abs(), "{name}");
    for parameter in opened.model.parameters().unwrap() {
        let (shape, fisher) = &found[&format!("{}.fisher", parameter.name)];
        assert_eq!(*shape, parameter.shape);
        let mut order: Vec<usize> = (0..fisher.len()).collect();
        order.sort_by(|&a, &b| fisher[b].total_cmp(&fisher[a]));
        let tensor = &parameter.name;
        for &index in &order[..3] {
            let step = 4e-3;
            let [up, down] = [step, -step].map(|by| log_likelihoods(&changed(&opened, tensor, index, by), &sequences));
            let squares = up.iter().zip(&down).map(|(up, down)| ((up - down) / (2.0 * step)).powi(2));
            let expected = squares.sum::<f64>() / sequences.len() as f64;
            let found = f64::from(fisher[index]);
            // A difference is off by rounding of f32 over the step, about 1e-3, and the squared step.
            let slack = 2e-2 * expected + 2.0 * expected.sqrt() * 1e-3 + 1e-6;
            assert!((found - expected).abs() < slack, "{name} {tensor} {index}: {found}, by differences {expected}");
        }
    }
    assert_eq!(found.len(), opened.model.parameters().unwrap().len());
}

#[test]
fn fisher_information_is_that_of_differences() {
    for name in ["archs/llama-bias", "archs/phi3", "archs/llama3-scaled-tied"] {
        check_fisher(name);
    }
}

#[test]
fn threads_and_passes_change_nothing() {
    let opened = open("archs/phi3");
    let sequences = sequences();
    let run = |threads, max_memory| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options = CalibrateOptions { max_memory, ..CalibrateOptions::default() };
        pool.install(|| statistics(&opened, &options, &sequences))
    };
    let one = run(1, None);
    for (threads, memory) in [(2, None), (5, None), (2, Some(1)), (3, Some(40_000))] {
        assert!(run(threads, memory) == one, "{threads} threads, {memory:?}");
    }
    let plan = |max_memory| {
        CalibratePlan::new(&opened.model, &CalibrateOptions { max_memory, ..CalibrateOptions::default() }).unwrap()
    };
    let estimates = [None, Some(40_000), Some(1)].map(|memory| plan(memory).estimate(2, 20));
    assert_eq!(estimates[0].passes, 1);
    assert!(estimates[1].passes > 1 && estimates[1].sum_bytes < estimates[0].sum_bytes, "{estimates:?}");
    assert_eq!(estimates[2].passes, plan(None).sums.len());
    let written: u64 = one.0.values().map(|(_, values)| 4 * values.len() as u64).sum();
    assert!(estimates.iter().all(|estimate| estimate.output_bytes == written && estimate.tensors == one.0.len()));
}

#[test]
fn a_batch_is_no_part_of_the_result() {
    // More than one batch of items, and each alone: the sums of f32 products are cut otherwise, no more.
    let opened = open("archs/llama2");
    let many: Vec<Sequence> = (0..20).flat_map(|_| sequences()).collect();
    let (few, _) = statistics(&opened, &CalibrateOptions::default(), &sequences());
    let (found, done) = statistics(&opened, &CalibrateOptions::default(), &many);
    assert_eq!(done.sequences, 240);
    for (name, (_, values)) in &few {
        let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let same = found[name].1.iter().zip(values).all(|(a, b)| (a - b).abs() <= 1e-4 * largest);
        assert!(same, "{name}");
    }
}

/// Stops at the nth question.
struct Impatient(AtomicUsize);

impl Progress for Impatient {
    fn is_cancelled(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

#[test]
fn what_is_refused_or_stopped_leaves_nothing() {
    let opened = open("archs/llama2");
    let root = tempfile::tempdir().unwrap();
    let out: PathBuf = root.path().join("out");
    let plan = CalibratePlan::new(&opened.model, &CalibrateOptions::default()).unwrap();
    let run = |sequences: &[Sequence], progress: &dyn Progress| {
        let error = calibrate(&opened.model, &opened.dir, &plan, sequences, &Value::Null, &out, progress).unwrap_err();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "{error}");
        error
    };
    assert!(matches!(run(&[], &NoProgress), CalibrateError::NoSequences));
    let wrong = [Sequence::text(vec![1, 2]), Sequence::text(vec![1, 5000])];
    let error = run(&wrong, &NoProgress).to_string();
    assert!(error.starts_with("sequence 1: token 5000"), "{error}");
    for question in 0..2 {
        let stopped = run(&sequences(), &Impatient(AtomicUsize::new(question)));
        assert!(matches!(stopped, CalibrateError::Stopped), "{stopped}");
    }
    let fisher = CalibratePlan::new(&open("archs/mixtral").model, &CalibrateOptions::default()).unwrap_err();
    assert!(matches!(fisher, CalibrateError::FisherOfMixture(_)));
    let none = CalibratePlan::new(&opened.model, &only(&[])).unwrap_err();
    assert!(matches!(none, CalibrateError::NoStatistics));
}

#[test]
fn a_model_that_overflows_is_named() {
    let opened = open("archs/llama2");
    let tensor = "model.layers.0.input_layernorm.weight";
    let overflowing = changed(&opened, tensor, 0, 1e38);
    let root = tempfile::tempdir().unwrap();
    let plan = CalibratePlan::new(&overflowing, &only(&[Statistic::Gram])).unwrap();
    let out = root.path().join("out");
    let error = calibrate(&overflowing, &opened.dir, &plan, &sequences(), &Value::Null, &out, &NoProgress).unwrap_err();
    assert!(error.to_string().starts_with("gram of tensor `model.layers.0.self_attn.q_proj.weight`"), "{error}");
    assert!(!out.exists());
}

#[test]
fn the_manifest_says_what_the_numbers_are() {
    let opened = open("archs/llama2");
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let options = CalibrateOptions { max_shard_bytes: 20_000, ..only(&[Statistic::Activation, Statistic::Fisher]) };
    let plan = CalibratePlan::new(&opened.model, &options).unwrap();
    let source = serde_json::json!({ "tasks": ["sums"] });
    calibrate(&opened.model, &opened.dir, &plan, &sequences(), &source, &out, &NoProgress).unwrap();
    let manifest: Value = serde_json::from_slice(&std::fs::read(out.join(manifest::FILE)).unwrap()).unwrap();
    assert_eq!(manifest["source"], source);
    assert_eq!(manifest["calibration"]["sequences"], 12);
    let read: usize = sequences().iter().map(Sequence::read).sum();
    assert_eq!(manifest["calibration"]["tokens"], read);
    let statistics = manifest["calibration"]["statistics"].as_object().unwrap();
    assert_eq!(statistics.keys().collect::<Vec<_>>(), ["activation", "fisher"]);
    let hash = opened.dir.checkpoint().files()[0].content_hash().to_string();
    assert_eq!(manifest["inputs"][0]["files"][0]["xxh3_128"], hash);
    let files = manifest["output"]["files"].as_array().unwrap();
    assert!(files.len() > 1, "{files:?}");
    assert!(files.iter().all(|file| out.join(file["name"].as_str().unwrap()).exists()));
}
