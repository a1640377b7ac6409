//! Gates of the mode `router_input`: the mean of what the gate reads when the mixture runs, after the norm before the
//! MLP.

use glue_lm::{Model, Tokenizer};
use glue_mixture::{GateMode, Level, MixConfig, MixPlan, MixtureSpec, Pool, RouterKind, Routing, RunOptions, run};
use glue_progress::NoProgress;
use glue_router::gate::Gate;
use glue_router::init::{ExpertPrompts, GateSites, ILL_CONDITIONED, gates_from_prompts};
use glue_router::states::DenseStates;
use glue_router::through::{Streams, Through};
use glue_tensor::{Checkpoint, widen};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

fn golden() -> Value {
    serde_json::from_str(&std::fs::read_to_string(data("router/router_input.json")).unwrap()).unwrap()
}

fn prompts() -> Vec<ExpertPrompts> {
    let list = |value: &Value| serde_json::from_value::<Vec<String>>(value.clone()).unwrap();
    let golden = golden();
    let experts = golden["experts"].as_array().unwrap().iter().map(|expert| ExpertPrompts {
        expert: expert["name"].as_str().unwrap().to_owned(),
        positive: list(&expert["positive"]),
        negative: list(&expert["negative"]),
    });
    experts.collect()
}

fn spec(level: Level, routing: Routing, pool: Pool) -> MixtureSpec {
    MixtureSpec {
        level,
        experts: prompts().into_iter().map(|expert| expert.expert).collect(),
        experts_per_token: 1,
        dense_layers: 0,
        mixed_layers: (0..4).collect(),
        routing,
        pool,
        router: RouterKind::Linear,
    }
}

fn rows(gate: &Gate) -> Vec<f64> {
    let Gate::Linear { weight, bias: None } = gate else { panic!("linear without bias") };
    weight.iter().copied().collect()
}

/// The largest difference of rows of unit length.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Made by `python3 tests/interop/router_input.py tests/data/zoo/base-a tests/data/router`.
#[test]
fn rows_are_those_of_the_states_of_transformers() {
    let base = data("zoo/base-a");
    let (model, tokenizer) = (DenseStates::open(&base).unwrap(), Tokenizer::load(&base).unwrap());
    let reference = Checkpoint::open(data("router/router_input.safetensors")).unwrap();
    let golden = golden();
    let mut checked = 0;
    for (name, routing, pool) in [
        ("mean", Routing::Token, Pool::Mean),
        ("mean", Routing::Sample, Pool::Mean),
        ("last", Routing::Sample, Pool::Last),
    ] {
        let sites = GateSites::of(&spec(Level::Ffn, routing, pool));
        let made =
            gates_from_prompts(GateMode::RouterInput, &sites, &prompts(), &model, &tokenizer, &NoProgress).unwrap();
        for (layer, gate) in made.gates.iter().enumerate() {
            let key = format!("{name}.{layer}");
            let Some(view) = reference.get(&key) else { continue };
            let mut expected = vec![0.0; view.info().n_elements()];
            widen(view.dtype(), view.data(), &mut expected).unwrap();
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            let found = distance(&rows(gate), &expected);
            println!("{key}: {found:e}");
            // States of size 1 or so, computed in f32 by both, over rows of unit length and 128 wide.
            assert!(found < 1e-5, "{key}: {found:e}");
            let condition = golden["conditions"][&key].as_f64().unwrap();
            assert!(
                (made.conditions[layer] / condition - 1.0).abs() < 1e-3,
                "{key}: {} {condition}",
                made.conditions[layer]
            );
            assert_eq!(made.warnings.len(), made.conditions.iter().filter(|&&c| c > ILL_CONDITIONED).count());
            checked += 1;
        }
    }
    // The mean over tokens is read by both routings.
    assert_eq!(checked, 4 + 4 + 1);
}

/// What gates read is shown by the runtime of the mixture itself, whose experts are the base.
#[test]
fn rows_are_means_of_what_the_gates_of_the_mixture_read() {
    let base = data("zoo/base-a");
    let (model, tokenizer) = (DenseStates::open(&base).unwrap(), Tokenizer::load(&base).unwrap());
    let scratch = tempfile::tempdir().unwrap();
    for (level, level_name) in [(Level::Ffn, "ffn"), (Level::Block, "block"), (Level::Model, "model")] {
        for (routing, pool, lines) in [
            (Routing::Token, Pool::Mean, "routing: token"),
            (Routing::Sample, Pool::Mean, "routing: sample"),
            (Routing::Sample, Pool::First, "routing: sample\npool: first"),
            (Routing::Sample, Pool::Last, "routing: sample\npool: last"),
        ] {
            let experts = format!("{{source_model: '{}'}}", base.display());
            let text = format!(
                "base_model: '{}'\ngate_mode: random\nformat: native\nlevel: {level_name}\n{lines}\nexperts: [{experts}, {experts}, {experts}]\n",
                base.display()
            );
            let plan = MixPlan::new(&MixConfig::parse(&text, "mix.yml").unwrap()).unwrap();
            let out = scratch.path().join(format!("{level_name}-{routing:?}-{pool:?}"));
            run(&plan, &plan.random_gates(), &out, &RunOptions::default(), &glue_progress::NoProgress).unwrap();
            let mixture = Model::open(&out).unwrap();
            let through = Through::new(&mixture).unwrap();
            let stored = through.stored().unwrap();
            let sites = GateSites::of(&spec(level, routing, pool));
            let made = gates_from_prompts(GateMode::RouterInput, &sites, &prompts(), &model, &tokenizer, &NoProgress);
            let made = match made {
                Ok(made) => made,
                // The first token is BOS in every prompt, and nothing stands before it that could tell prompts apart.
                Err(error) if pool == Pool::First => {
                    assert!(error.to_string().contains("its negative prompts cancel"), "{error}");
                    continue;
                }
                Err(error) => panic!("{level_name} {lines}: {error}"),
            };
            assert_ne!(pool, Pool::First);
            assert_eq!(made.gates.len(), stored.len());
            for (number, gate) in made.gates.iter().enumerate() {
                let mean = |prompts: &[String]| -> Vec<f64> {
                    let tokens: Vec<Vec<u32>> = prompts.iter().map(|p| tokenizer.encode(p, true).unwrap()).collect();
                    let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
                    let mut streams = Streams::new(scratch.path()).unwrap();
                    let read = through.inputs(&tokens, &stored, number, &mut streams, &NoProgress).unwrap();
                    (0..read.ncols())
                        .map(|column| {
                            read.column(column).iter().map(|&x| f64::from(x)).sum::<f64>() / read.nrows() as f64
                        })
                        .collect()
                };
                let mut expected = Vec::new();
                for expert in prompts() {
                    let mut row = mean(&expert.positive);
                    if !expert.negative.is_empty() {
                        row.iter_mut().zip(mean(&expert.negative)).for_each(|(x, less)| *x -= less);
                    }
                    let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                    expected.extend(row.into_iter().map(|x| x / length));
                }
                let found = distance(&rows(gate), &expected);
                // Experts that are equal add up to the base but for the rounding of shares, layer after layer.
                assert!(found < 2e-5, "{level_name} {lines}, gate {number}: {found:e}");
            }
        }
    }
}
