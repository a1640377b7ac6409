//! Gates from prompts against those that mergekit 0.1.5 makes of the same configurations.

use glue_lm::Tokenizer;
use glue_mixture::GateMode;
use glue_mixture::Pool;
use glue_router::gate::Gate;
use glue_router::init::{ExpertPrompts, GatePlaces, gates_from_prompts};
use glue_router::states::{DenseStates, Place};
use glue_router::watch::Unwatched;
use glue_tensor::{Checkpoint, widen};
use std::path::{Path, PathBuf};

fn zoo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo")
}

/// The prompts of the reference's configuration, which is the same for all modes.
fn experts() -> Vec<ExpertPrompts> {
    let expert = |name: &str, positive: &str, negative: Option<&str>| ExpertPrompts {
        expert: name.into(),
        positive: vec![positive.into()],
        negative: negative.into_iter().map(Into::into).collect(),
    };
    vec![
        expert("a-chat", "Q: What is the job of mipim? A:", Some("s = \"b-r-i\"; print(rot(s)) ->")),
        expert("a-math", "leo has 15 shells and gets 15 more. How many? A:", None),
        expert("a-code", "x = [8,6,5,4]; print(x[1:]) ->", Some("Q: What is the pet of pira? A:")),
        expert("a-reason", "tom is shorter than eva. eva is shorter than dan. Who is shortest? A:", None),
    ]
}

fn check(mode: GateMode, name: &str) {
    let base = zoo().join("base-a");
    let (model, tokenizer) = (DenseStates::open(&base).unwrap(), Tokenizer::load(&base).unwrap());
    let layers: Vec<usize> = (0..4).collect();
    let places = GatePlaces {
        stream: layers.iter().map(|&l| Place::Stream(l)).collect(),
        reads: layers.iter().map(|&l| Place::MlpInput(l)).collect(),
        pool: Pool::Mean,
    };
    let made = gates_from_prompts(mode, &places, &experts(), &model, &tokenizer, &Unwatched).unwrap();
    let reference = Checkpoint::open(zoo().join("reference/moe").join(name).join("gates.safetensors")).unwrap();
    for (layer, gate) in made.gates.iter().enumerate() {
        let view = reference.get(&format!("model.layers.{layer}.mlp.gate.weight")).unwrap();
        let mut expected = vec![0.0; view.shape().iter().product()];
        widen(view.dtype(), view.data(), &mut expected).unwrap();
        let Gate::Linear { weight, bias: None } = gate else { panic!("linear without bias") };
        assert_eq!(weight.shape(), view.shape());
        for (expert, (row, expected)) in weight.rows().into_iter().zip(expected.chunks(weight.ncols())).enumerate() {
            let dot: f64 = row.iter().zip(expected).map(|(a, &b)| a * f64::from(b)).sum();
            let length = |sum: f64| sum.sqrt();
            let (a, b) = (length(row.dot(&row)), length(expected.iter().map(|&b| f64::from(b).powi(2)).sum()));
            assert!((a - 1.0).abs() < 1e-6, "unit length");
            println!("{name} {layer} {expert}: cosine {:.6}, length {b:.4}", dot / (a * b));
            // The reference computes hidden states in bf16.
            assert!(dot / (a * b) > 0.999, "{name}, layer {layer}, expert {expert}: {}", dot / (a * b));
        }
    }
    assert_eq!(made.conditions.len(), 4);
    println!("{name}: conditions {:?}", made.conditions);
}

#[test]
fn cheap_embed_agrees_with_mergekit() {
    check(GateMode::CheapEmbed, "cheap_embed");
}

#[test]
fn hidden_agrees_with_mergekit() {
    check(GateMode::Hidden, "hidden");
}

#[test]
fn hidden_avg_agrees_with_mergekit() {
    check(GateMode::HiddenAvg, "hidden_avg");
}
