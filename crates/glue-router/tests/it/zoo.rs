//! Supervised training on the small zoo: how many test items go to the expert of their skill.

use glue_eval::load_tasks;
use glue_lm::Tokenizer;
use glue_mixture::{Pool, RouterKind};
use glue_progress::NoProgress;
use glue_router::items::{Item, read_items, train_validation_split};
use glue_router::labels::{assign, skill_targets};
use glue_router::states::{DenseStates, ResidualSite, pooled_states};
use glue_router::supervised::{Examples, Training, train_gate};
use glue_router::training::TrainSettings;
use ndarray::Array2;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn zoo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo")
}

#[test]
fn the_linear_gate_sends_test_items_to_the_expert_of_their_skill() {
    let tasks = load_tasks(&[zoo().join("tasks")]).unwrap();
    let start = Instant::now();
    let items = read_items(&tasks, Some("train"), &Default::default(), None).unwrap();
    assert_eq!(items.len(), 5 * 320);
    let (train, validation) = train_validation_split(items, 0.2, 0).unwrap();
    let test = read_items(&tasks, Some("test"), &Default::default(), None).unwrap();

    let experts = ["a-chat", "a-math", "a-code", "a-reason"].map(String::from);
    let skills = [("knowledge", "a-chat"), ("math", "a-math"), ("code", "a-code"), ("reason", "a-reason")];
    let given: BTreeMap<String, String> = skills.map(|(skill, expert)| (skill.into(), expert.into())).into();
    // Refused for its number of rows if it were asked for: every task has an expert.
    let none = &mut || Ok(Array2::zeros((0, 4)));
    let assigned = assign(&train, &given, &experts, none).unwrap();
    assert_eq!(assigned.values().copied().collect::<Vec<_>>(), [1, 0, 3, 2, 3]);

    let base = zoo().join("base-a");
    let (model, tokenizer) = (DenseStates::open(&base).unwrap(), Tokenizer::load(&base).unwrap());
    for (layer, pool) in [(4, Pool::Mean), (2, Pool::Last), (0, Pool::Mean)] {
        let states = |items: &[Item]| -> Array2<f32> {
            let prompts: Vec<Vec<u32>> = items.iter().map(|item| item.encode(&tokenizer).unwrap().prompt).collect();
            pooled_states(&model, &prompts, &[ResidualSite::Residual(layer)], pool, &NoProgress).unwrap().remove(0)
        };
        let targets = |items: &[Item]| skill_targets(items, &assigned, experts.len()).unwrap();
        let all = [&train, &validation, &test].map(|items| (states(items), targets(items)));
        let [learnt, held, tested] = [0, 1, 2].map(|i| Examples { states: all[i].0.view(), targets: all[i].1.view() });
        let settings = TrainSettings::SUPERVISED;
        let found = train_gate(RouterKind::Linear, true, &learnt, &held, &settings, None, &NoProgress).unwrap();
        let Training::Linear { certificate, l2, .. } = &found.training else { panic!("linear") };
        assert!(certificate.gradient_norm <= glue_router::linear::EXACT, "{certificate:?}");
        let accuracy = tested.accuracy(&found.gate);
        println!("layer {layer}, {pool:?}: l2 {l2}, test {accuracy}, {:?}", start.elapsed());
        assert!(accuracy >= 0.97, "layer {layer}, {pool:?}: {accuracy}");
    }
}
