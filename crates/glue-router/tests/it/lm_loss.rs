//! Training of gates by the loss of answers: what it changes, what it refuses, and that it goes on as if it had not been ended.

use glue_lm::Model;
use glue_router::RouterError;
use glue_router::gate::Gate;
use glue_router::items::Encoded;
use glue_router::lm_loss::{LmExamples, LmTrained, train_by_loss};
use glue_router::through::Through;
use glue_router::training::TrainSettings;
use glue_router::watch::{Unwatched, Watch};
use ndarray::{Array1, Array2};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

const SETTINGS: TrainSettings =
    TrainSettings { epochs: 4, batch: 4, save_every: 2, warmup: 2, ..TrainSettings::LANGUAGE_MODEL };

fn arch() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/archs/mixtral")
}

/// The small Mixtral with another number of experts per token.
fn with_experts_per_token(n: usize) -> Model {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(arch()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    let path = directory.path().join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["num_experts_per_tok"] = n.into();
    std::fs::write(&path, config.to_string()).unwrap();
    // What is mapped stays readable when the directory goes.
    Model::open(directory.path()).unwrap()
}

/// Items of tokens that look random, the same for the same seed.
fn items(n: usize, vocab: usize, seed: usize) -> Vec<Encoded> {
    let token = |i: usize| ((seed + i) * 7919 % 104_729 % vocab) as u32;
    let item = |i: usize| Encoded {
        prompt: (0..3 + i % 4).map(|j| token(31 * i + j)).collect(),
        answer: (0..1 + i % 3).map(|j| token(57 * i + j + 11)).collect(),
    };
    (0..n).map(item).collect()
}

struct Data {
    train: Vec<Encoded>,
    validation: Vec<Encoded>,
}

impl Data {
    fn of(model: &Model) -> Data {
        Data { train: items(18, model.vocab_size(), 1), validation: items(6, model.vocab_size(), 5) }
    }

    fn train(
        &self,
        model: &Model,
        gates: Option<Vec<Gate>>,
        trained: &[usize],
        balance: f64,
        state: Option<(&Path, bool)>,
        watch: &dyn Watch,
    ) -> Result<LmTrained, RouterError> {
        let through = Through::new(model).unwrap();
        let gates = gates.unwrap_or_else(|| through.stored().unwrap());
        let (train, validation) = (&self.train, &self.validation);
        let examples = LmExamples { train, validation, trained, balance, model: "mixtral" };
        train_by_loss(&through, &gates, &examples, &SETTINGS, state, watch)
    }
}

#[test]
fn the_gates_that_are_trained_change_and_no_others() {
    let model = Model::open(arch()).unwrap();
    let before = Through::new(&model).unwrap().stored().unwrap();
    let trained = Data::of(&model).train(&model, None, &[1], 0.01, None, &Unwatched).unwrap();
    let lowest = trained.history.iter().map(|epoch| epoch.validation).fold(trained.start, f64::min);
    assert!(trained.best > 0 && lowest < trained.start, "{trained:?}");
    for (number, (new, old)) in trained.gates.iter().zip(&before).enumerate() {
        assert_eq!(new != old, number == 1, "gate {number}");
    }
}

#[test]
fn a_gate_that_nothing_moves_is_named() {
    let model = with_experts_per_token(1);
    let data = Data::of(&model);
    let all: Vec<usize> = (0..model.gates().len()).collect();
    let error = data.train(&model, None, &all, 0.0, None, &Unwatched).unwrap_err();
    assert!(matches!(error, RouterError::NoGradient { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.starts_with("gate `model.layers.0.block_sparse_moe.gate` cannot be trained by this loss"),
        "{message}"
    );
    assert!(message.contains("two experts per token or more, or a balance above 0"), "{message}");
    // The balance moves it.
    data.train(&model, None, &all, 0.01, None, &Unwatched).unwrap();

    // A gate that chooses the same whatever it reads: no probability but one is above zero in f32.
    let model = Model::open(arch()).unwrap();
    let mut gates = Through::new(&model).unwrap().stored().unwrap();
    let (experts, width) = (gates[1].experts(), gates[1].width());
    let mut bias = Array1::zeros(experts);
    bias[0] = 400.0;
    bias[1] = 200.0;
    gates[1] = Gate::Linear { weight: Array2::zeros((experts, width)), bias: Some(bias) };
    let error = data.train(&model, Some(gates.clone()), &[1], 0.0, None, &Unwatched).unwrap_err().to_string();
    assert!(error.starts_with("gate `model.layers.1.block_sparse_moe.gate` cannot"), "{error}");
    assert!(error.contains("so sure of its choices"), "{error}");
    // As long as it is not to be trained it is no obstacle.
    data.train(&model, Some(gates), &[0], 0.01, None, &Unwatched).unwrap();
}

/// Ends the work after some questions.
struct After(AtomicUsize);

impl Watch for After {
    fn is_stopped(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

#[test]
fn ended_anywhere_and_resumed_it_is_the_same_to_the_bit() {
    let model = Model::open(arch()).unwrap();
    let data = Data::of(&model);
    let scratch = tempfile::tempdir().unwrap();
    let whole = data.train(&model, None, &[0, 1], 0.01, None, &Unwatched).unwrap();
    for stop in [0, 1, 2, 5, 6, 11] {
        let path = scratch.path().join(stop.to_string());
        let ended = data.train(&model, None, &[0, 1], 0.01, Some((&path, true)), &After(AtomicUsize::new(stop)));
        assert!(matches!(ended, Err(RouterError::Stopped)), "{stop}: {ended:?}");
        let resumed = data.train(&model, None, &[0, 1], 0.01, Some((&path, true)), &Unwatched).unwrap();
        assert_eq!(resumed, whole, "ended after {stop} steps");
    }
    // Another weight of the balance is another training.
    let other = data.train(&model, None, &[0, 1], 0.02, Some((&scratch.path().join("5"), true)), &Unwatched);
    assert!(matches!(other, Err(RouterError::OtherTraining { .. })), "{other:?}");
}
