//! Gradients against differences of log-likelihoods, for every tensor of every family.

use super::*;
use crate::ops::gradients::numbers;
use crate::{ScoreOptions, ScoreRequest, Weight, Weights};
use glue_tensor::{Checkpoint, Config, Dtype, widen};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Values = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

fn read(dir: &Path) -> (Config, Values) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let one = |view: glue_tensor::TensorView<'_>| {
        let mut values = vec![0.0; view.shape().iter().product()];
        widen(view.dtype(), view.data(), &mut values).unwrap();
        (view.name().to_owned(), (view.shape().to_vec(), values))
    };
    (Config::open(dir.join("config.json")).unwrap(), checkpoint.views().map(one).collect())
}

fn model(config: &Config, values: &Values) -> Model {
    let tensor = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f32>))| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name.clone(), Weight::owned(Dtype::F32, shape.clone(), bytes).unwrap())
    };
    Model::new(config, Weights::from_tensors(values.iter().map(tensor))).unwrap()
}

/// By the way that evaluations take.
fn log_likelihood(model: &Model, sequence: &ScoredTokens<'_>) -> f64 {
    let (context, continuation) = sequence.tokens.split_at(sequence.scored.start);
    let request = ScoreRequest { context, continuation };
    model.score(&[request], &ScoreOptions::default(), &|_| {}).unwrap()[0].logprob
}

fn sequences() -> [ScoredTokens<'static>; 3] {
    [
        ScoredTokens { tokens: &[1, 40, 41, 42, 43, 11, 7], scored: 4..7 },
        ScoredTokens { tokens: &[5, 60, 61, 5, 62, 60, 9, 31, 33, 12, 60, 90], scored: 1..12 },
        ScoredTokens { tokens: &[3, 8], scored: 1..2 },
    ]
}

/// The same for vocabularies of 37 tokens.
fn sequences_of_few_tokens() -> [ScoredTokens<'static>; 3] {
    [
        ScoredTokens { tokens: &[1, 30, 31, 32, 33, 11, 7], scored: 4..7 },
        ScoredTokens { tokens: &[5, 20, 21, 5, 22, 20, 9, 31, 33, 12, 20, 29], scored: 1..12 },
        ScoredTokens { tokens: &[3, 8], scored: 1..2 },
    ]
}

fn gradient(gradients: &Gradients, name: &str, sequence: usize, shape: &[usize]) -> Vec<f32> {
    let mut out = vec![0.0; shape.iter().product()];
    gradients.add_rows(name, sequence, 0..shape[0], &mut out);
    out
}

/// Each gradient along random directions that are as long as the tensor is, against central differences with two steps,
/// extrapolated to none (Richardson): small models are far from linear.
fn check(dir: &str) {
    let (config, values) = read(&data(dir));
    let whole = model(&config, &values);
    let sequences = if whole.vocab_size() > 90 { sequences() } else { sequences_of_few_tokens() };
    let gradients = whole.gradients(&sequences, &mut Unobserved).unwrap();
    for (sequence, found) in sequences.iter().zip(&gradients.log_likelihoods) {
        let expected = log_likelihood(&whole, sequence);
        // Sums of up to eleven logarithms, of logits rounded in f32.
        assert!((expected - found).abs() < 1e-5 * expected.abs().max(1.0), "{dir}: {expected} {found}");
    }
    let parameters = whole.parameters().unwrap();
    let named: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let mut sorted = named.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, values.keys().collect::<Vec<_>>(), "{dir}");
    for parameter in &parameters {
        let (name, stored) = (&parameter.name, &values[&parameter.name].1);
        assert_eq!(parameter.shape, values[name].0, "{dir} {name}");
        let rms = (stored.iter().map(|x| f64::from(x * x)).sum::<f64>() / stored.len() as f64).sqrt().max(0.02);
        for (number, sequence) in sequences.iter().enumerate() {
            let gradient = gradient(&gradients, name, number, &parameter.shape);
            let length = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            // With one token before it, an answer does not depend on queries and keys.
            let idle = number == 2 && ["q_", "k_"].iter().any(|part| name.contains(part));
            assert!(length > 0.0 || idle, "{dir} {name}: no gradient");
            for seed in 0..2 {
                let direction = numbers(stored.len(), 77 + seed);
                let along: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
                let step = 7e-3 * rms;
                let moved = |step: f64| {
                    let mut values = values.clone();
                    let moved = &mut values.get_mut(name).unwrap().1;
                    moved.iter_mut().zip(&direction).for_each(|(w, &d)| *w += (step * f64::from(d)) as f32);
                    log_likelihood(&model(&config, &values), sequence)
                };
                let central = |step: f64| (moved(step) - moved(-step)) / (2.0 * step);
                let difference = (4.0 * central(step) - central(2.0 * step)) / 3.0;
                // The fifth derivative times the fourth power of the step, and rounding of f32 over the step.
                let (bound, rounding) = (5e-3 * length, 4e-6 / step);
                assert!(
                    (along - difference).abs() < bound + rounding,
                    "{dir} {name}, sequence {number}: {along}, by differences {difference}, length {length}, step {step}"
                );
            }
        }
    }
}

#[test]
fn every_tensor_of_every_family_has_the_gradient_of_differences() {
    for name in
        ["llama2", "llama-bias", "llama3-scaled-tied", "mistral-window", "qwen2", "qwen3", "gemma2", "phi3", "olmo2"]
    {
        check(&format!("archs/{name}"));
    }
}

#[test]
fn every_tensor_of_further_families_has_the_gradient_of_differences() {
    for name in ["gemma3", "olmo3", "smollm3-window", "granite", "glm4", "cohere2", "cohere2-bias"] {
        check(&format!("archs-extra/{name}"));
    }
}

#[test]
fn rows_of_a_gradient_are_parts_of_it_and_other_sequences_change_nothing() {
    for name in ["archs/phi3", "archs/llama3-scaled-tied"] {
        let model = Model::open(data(name)).unwrap();
        let sequences = sequences();
        let together = model.gradients(&sequences, &mut Unobserved).unwrap();
        let alone = model.gradients(&sequences[1..2], &mut Unobserved).unwrap();
        for parameter in model.parameters().unwrap() {
            let whole = gradient(&together, &parameter.name, 1, &parameter.shape);
            let width = whole.len() / parameter.shape[0];
            let largest = whole.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let of_one = gradient(&alone, &parameter.name, 0, &parameter.shape);
            // Products of more rows are blocked in another way.
            assert!(whole.iter().zip(&of_one).all(|(a, b)| (a - b).abs() <= 1e-4 * largest), "{}", parameter.name);
            for rows in [0..1, 3..parameter.shape[0].min(40), parameter.shape[0] - 1..parameter.shape[0]] {
                let mut part = vec![0.0; rows.len() * width];
                together.add_rows(&parameter.name, 1, rows.clone(), &mut part);
                let whole = &whole[rows.start * width..rows.end * width];
                assert!(part.iter().zip(whole).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{}", parameter.name);
            }
        }
    }
}

#[test]
fn threads_change_nothing() {
    let model = Model::open(data("zoo/base-a")).unwrap();
    let tokens: Vec<u32> = (0..200).map(|i| (7 + 31 * i) % 500 + 3).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let gradients =
                model.gradients(&[ScoredTokens { tokens: &tokens, scored: 1..200 }], &mut Unobserved).unwrap();
            let parameters = model.parameters().unwrap();
            let all: Vec<Vec<f32>> = parameters.iter().map(|p| gradient(&gradients, &p.name, 0, &p.shape)).collect();
            (gradients.log_likelihoods, all)
        })
    };
    let one = run(1);
    assert!([2, 5].into_iter().all(|threads| run(threads) == one));
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let model = Model::open(data("archs/llama2")).unwrap();
    let refused =
        |tokens: &[u32], scored| model.gradients(&[ScoredTokens { tokens, scored }], &mut Unobserved).unwrap_err();
    assert!(matches!(refused(&[1, 2], 0..2), LmError::Request { index: 0, .. }));
    assert!(matches!(refused(&[1, 2], 2..2), LmError::Request { .. }));
    assert!(matches!(refused(&[1, 2], 1..3), LmError::Request { .. }));
    assert!(matches!(refused(&[1, 4000], 1..2), LmError::Token { token: 4000, .. }));
    let long = vec![1; model.max_positions() + 2];
    assert!(matches!(refused(&long, 1..2), LmError::TooLong { .. }));
    assert!(model.gradients(&[], &mut Unobserved).unwrap().log_likelihoods.is_empty());
    let mixture = Model::open(data("archs/mixtral")).unwrap();
    let error = mixture.gradients(&sequences(), &mut Unobserved).unwrap_err();
    assert!(error.to_string().contains("dense models"), "{error}");
    assert!(mixture.parameters().is_err());
    let latent = Model::open(data("archs-extra/deepseek-v3")).unwrap();
    let error = latent.gradients(&sequences_of_few_tokens(), &mut Unobserved).unwrap_err();
    assert!(error.to_string().contains("latent vector") && latent.parameters().is_err(), "{error}");
    assert!(latent.linear_inputs().is_err());
}

#[test]
fn the_sum_over_sequences_is_the_gradient_of_a_function_of_their_log_likelihoods() {
    let model = Model::open(data("archs/llama3-scaled-tied")).unwrap();
    let sequences = sequences();
    let apart = model.gradients(&sequences, &mut Unobserved).unwrap();
    // The cross-entropy of the first of three choices: its derivatives are their probabilities, less 1 for the first.
    let softmax = |log_likelihoods: &[f64]| {
        let max = log_likelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = log_likelihoods.iter().map(|x| (x - max).exp()).sum();
        let share = |(i, x): (usize, &f64)| (x - max).exp() / sum - if i == 0 { 1.0 } else { 0.0 };
        log_likelihoods.iter().enumerate().map(share).collect::<Vec<f64>>()
    };
    let through = model.gradients_through(&sequences, &softmax).unwrap();
    assert_eq!(through.log_likelihoods, apart.log_likelihoods);
    let slopes = softmax(&apart.log_likelihoods);
    for parameter in model.parameters().unwrap() {
        let (name, rows) = (&parameter.name, parameter.shape[0]);
        let mut found = vec![0.0; parameter.shape.iter().product()];
        through.add_rows_of_all(name, 0..rows, &mut found);
        let each: Vec<Vec<f32>> = (0..3).map(|i| gradient(&apart, name, i, &parameter.shape)).collect();
        let length = found.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        for (at, &found) in found.iter().enumerate() {
            let expected: f64 = slopes.iter().zip(&each).map(|(slope, of)| slope * f64::from(of[at])).sum();
            // Sums in another order, in f32.
            assert!((f64::from(found) - expected).abs() < 1e-5 * length.max(1e-3), "{name} {at}: {found} {expected}");
        }
    }
}
