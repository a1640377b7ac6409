//! What several of the tests use: models and references under `tests/data`, and comparison of tensors.

use candle_core::Tensor;
use glue_lm::{Model, Tree, Want};
use glue_tensor::{Checkpoint, Dtype, widen};
use std::path::PathBuf;

pub(crate) mod mixture;

/// The models of one layout and a few random weights each.
pub(crate) const ARCHS: [&str; 11] = [
    "gemma2",
    "llama-bias",
    "llama-linear-rope",
    "llama2",
    "llama3-scaled-tied",
    "mistral-window",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
];

/// Models of further families in `tests/data/archs-extra`, with references that were also made in two passes.
pub(crate) const FURTHER: [&str; 23] = [
    "cohere2",
    "cohere2-bias",
    "deepseek-v2",
    "deepseek-v2-lite",
    "deepseek-v3",
    "deepseek-v3-halves",
    "gemma3",
    "gemma3-old-form",
    "gemma3-wrapped",
    "glm4",
    "glm4-plain",
    "gpt-oss",
    "gpt-oss-mxfp4",
    "granite",
    "llama4",
    "llama4-two",
    "mistral3-wrapped",
    "olmo3",
    "olmo3-old-form",
    "qwen3-moe",
    "qwen3-moe-window",
    "smollm3",
    "smollm3-window",
];

/// `tests/data/NAME` in the repository.
pub(crate) fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "tests", "data", name].iter().collect()
}

/// The model `tests/data/archs/NAME`.
pub(crate) fn arch(name: &str) -> Model {
    Model::open(data("archs").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The model `tests/data/archs-extra/NAME`.
pub(crate) fn further(name: &str) -> Model {
    Model::open(data("archs-extra").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All of [`ARCHS`] and [`FURTHER`], with their names.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Model)> {
    ARCHS.iter().map(|&name| (name, arch(name))).chain(FURTHER.iter().map(|&name| (name, further(name))))
}

/// A tensor of a reference file as numbers, with its shape.
pub(crate) fn floats(file: &Checkpoint, name: &str) -> (Vec<f32>, Vec<usize>) {
    let view = file.get(name).unwrap_or_else(|| panic!("no {name}"));
    let mut values = vec![0.0; view.data().len() / view.dtype().size()];
    widen(view.dtype(), view.data(), &mut values).unwrap();
    (values, view.shape().to_vec())
}

/// Token numbers of a reference file, with their shape.
pub(crate) fn ids(file: &Checkpoint, name: &str) -> (Vec<u32>, Vec<usize>) {
    let view = file.get(name).unwrap_or_else(|| panic!("no {name}"));
    let ids = match view.dtype() {
        Dtype::I32 => view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as u32).collect(),
        Dtype::I64 => view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect(),
        other => panic!("{name} is {other}"),
    };
    (ids, view.shape().to_vec())
}

/// The elements of a tensor.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, NaN counting as infinite.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

/// Asserts that no element differs by more than `tolerance`.
#[track_caller]
pub(crate) fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let distance = distance(found, expected);
    assert!(distance <= tolerance, "{what}: {distance:e} apart, {tolerance:e} allowed");
}

/// Logits of all tokens of one sequence, in one pass.
pub(crate) fn whole(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut tree = Tree::new();
    tree.push(None, tokens);
    values(&model.forward(&mut tree, &Want::ALL).unwrap().logits)
}

/// `n` token numbers below `vocab_size`, the same for the same `seed`.
pub(crate) fn tokens(n: usize, vocab_size: usize, seed: u32) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocab_size as u32
    };
    (0..n).map(next).collect()
}
