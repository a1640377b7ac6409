//! Mixtures of whole models: prompts go where the gate says, and the model there answers as it does alone.

use glue_lm::{
    AnyTextModel, ChatOptions, GenerateOptions, Message, Prompt, RoutedTextModel, Rows, TextError, TextModel, Tree,
    Want, Weight, Weights,
};
use glue_mixture::{Pool, RouterKind, WholeSpec};
use glue_tensor::Dtype;
use std::path::Path;
use std::sync::Arc;
use crate::support::{data, tokens, values};

const PROMPTS: [&str; 5] = ["", "3 + 4 =", "the red fox", "f ( x ) = x", "3 + 4 = 7 . 5 + 1 ="];

fn open(name: &str) -> Arc<TextModel> {
    Arc::new(TextModel::open(data("zoo").join(name)).unwrap())
}

fn weight(values: &[f32], shape: &[usize]) -> Weight {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Weight::owned(Dtype::F32, shape.to_vec(), bytes).unwrap()
}

fn noise(n: usize, seed: u32) -> Vec<f32> {
    tokens(n, 1 << 16, seed).into_iter().map(|t| t as f32 / 32768.0 - 1.0).collect()
}

fn spec(pool: Pool, router_layer: usize) -> WholeSpec {
    WholeSpec {
        experts: ["math", "chat"].map(str::to_owned).to_vec(),
        pool,
        router: RouterKind::Linear,
        router_model: "experts/0".to_owned(),
        router_layer,
    }
}

/// A gate without bias.
fn gate(rows: &[f32], experts: usize) -> Weights {
    Weights::from_tensors([("gate.weight".to_owned(), weight(rows, &[experts, rows.len() / experts]))])
}

#[test]
fn prompts_go_where_the_pooled_state_says_and_are_answered_there() {
    let experts = vec![open("a-math"), open("c-chat")];
    let router = Arc::clone(&experts[0]);
    let hidden = router.model.hidden_size();
    let prompts: Vec<Prompt> = PROMPTS.into_iter().map(Prompt::text).collect();
    let mut seen = [false; 2];
    for (seed, pool) in [Pool::Mean, Pool::First, Pool::Last].into_iter().enumerate() {
        for layer in [0, 2, router.model.num_layers() + 1] {
            let rows = noise(2 * hidden, 10 * seed as u32 + layer as u32);
            let mixture =
                RoutedTextModel::new(spec(pool, layer), Arc::clone(&router), &gate(&rows, 2), experts.clone()).unwrap();
            let routes = mixture.route(&prompts).unwrap();
            for (text, route) in PROMPTS.iter().zip(&routes) {
                let mut ids = router.tokenizer.encode(text, true).unwrap();
                if ids.is_empty() {
                    ids.push(router.tokenizer.bos().or(router.tokenizer.eos()).unwrap());
                }
                let mut tree = Tree::new();
                tree.push(None, &ids);
                let output = router.model.forward(&mut tree, &Want { logits: Rows::None, hidden: &[layer] }).unwrap();
                let states = values(&output.hidden[0]);
                let pooled: Vec<f64> = (0..hidden)
                    .map(|column| {
                        let column: Vec<f64> = states.chunks(hidden).map(|row| f64::from(row[column])).collect();
                        match pool {
                            Pool::Mean => column.iter().sum::<f64>() / column.len() as f64,
                            Pool::First => column[0],
                            Pool::Last => column[column.len() - 1],
                        }
                    })
                    .collect();
                let scores: Vec<f64> = rows
                    .chunks(hidden)
                    .map(|row| row.iter().zip(&pooled).map(|(&w, x)| f64::from(w) * x).sum())
                    .collect();
                for (found, expected) in route.scores.iter().zip(&scores) {
                    // Products in f32 of states of size 10 or so, run beside others.
                    assert!((f64::from(*found) - expected).abs() < 1e-3, "{found} {expected}");
                }
                assert_eq!(route.expert, usize::from(scores[1] > scores[0]));
                seen[route.expert] = true;
            }
            let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
            let answers = mixture.generate(&prompts[1..], &options, &|_| ()).unwrap();
            for (index, answer) in answers.iter().enumerate() {
                let route = &routes[index + 1];
                let alone = experts[route.expert].generate(&[prompts[index + 1].clone()], &options, &|_| ()).unwrap();
                assert_eq!((answer.prompt, &answer.text, &answer.tokens), (index, &alone[0].text, &alone[0].tokens));
            }
        }
    }
    assert_eq!(seen, [true; 2]);
}

/// Mixtures of these models, read by the first of the zoo, with a row of the gate for each.
fn whole(experts: &[Arc<TextModel>], rows: &[Vec<f32>], pool: Pool) -> RoutedTextModel {
    let experts_of = |(number, _): (usize, &Arc<TextModel>)| number.to_string();
    let spec = WholeSpec { experts: experts.iter().enumerate().map(experts_of).collect(), ..spec(pool, 2) };
    RoutedTextModel::new(spec, open("base-a"), &gate(&rows.concat(), rows.len()), experts.to_vec()).unwrap()
}

#[test]
fn identical_models_one_model_and_models_in_another_order() {
    let (math, chat) = (open("a-math"), open("c-chat"));
    let hidden = open("base-a").model.hidden_size();
    let rows: Vec<Vec<f32>> = (0..3).map(|seed| noise(hidden, 70 + seed)).collect();
    let prompts: Vec<Prompt> = PROMPTS[1..].iter().map(|prompt| Prompt::text(*prompt)).collect();
    let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let answers = |mixture: &RoutedTextModel| -> Vec<Vec<u32>> {
        mixture.generate(&prompts, &options, &|_| ()).unwrap().into_iter().map(|one| one.tokens).collect()
    };
    let alone: Vec<Vec<u32>> =
        math.generate(&prompts, &options, &|_| ()).unwrap().into_iter().map(|one| one.tokens).collect();
    for pool in [Pool::Mean, Pool::First, Pool::Last] {
        // The same model whatever the gate says, and the only one.
        let same = whole(&[Arc::clone(&math), Arc::clone(&math), Arc::clone(&math)], &rows, pool);
        assert_eq!(answers(&same), alone, "{pool:?}");
        assert_eq!(answers(&whole(&[Arc::clone(&math)], &rows[..1], pool)), alone, "{pool:?}");
        // In another order, with the rows of the gate in that order.
        let other = open("b-code");
        let one = whole(&[Arc::clone(&math), Arc::clone(&chat), Arc::clone(&other)], &rows, pool);
        let turned = [rows[2].clone(), rows[0].clone(), rows[1].clone()];
        let two = whole(&[Arc::clone(&other), Arc::clone(&math), Arc::clone(&chat)], &turned, pool);
        let routes = (one.route(&prompts).unwrap(), two.route(&prompts).unwrap());
        for (a, b) in routes.0.iter().zip(&routes.1) {
            assert_eq!(a.expert, [2, 0, 1][b.expert], "{pool:?}");
            assert_eq!([b.scores[1], b.scores[2], b.scores[0]][..], a.scores, "{pool:?}");
        }
        assert_eq!(answers(&one), answers(&two), "{pool:?}");
    }
}

/// The model with a chat template of its own.
fn with_template(name: &str, template: &str) -> Arc<TextModel> {
    let directory = tempfile::tempdir().unwrap();
    copy(&data("zoo").join(name), directory.path());
    std::fs::write(directory.path().join("chat_template.jinja"), template).unwrap();
    Arc::new(TextModel::open(directory.path()).unwrap())
}

#[test]
fn a_conversation_is_rendered_by_the_model_it_goes_to() {
    let experts = vec![
        with_template("a-math", "{{ messages[0].content }} ="),
        with_template("c-chat", "the {{ messages[0].content }} is"),
    ];
    let messages = [Message::new("user", "3 + 4")];
    let options = ChatOptions::default();
    let short = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
    let mut seen = [false; 2];
    // A router with a template, and one without, which reads the contents.
    for (router, read) in
        [(Arc::clone(&experts[0]), Prompt::rendered("3 + 4 =")), (open("base-a"), Prompt::text("3 + 4"))]
    {
        let hidden = router.model.hidden_size();
        for seed in 0..6 {
            let gate = gate(&noise(2 * hidden, seed), 2);
            let mixture =
                RoutedTextModel::new(spec(Pool::Mean, 1), Arc::clone(&router), &gate, experts.clone()).unwrap();
            let expert = mixture.route(std::slice::from_ref(&read)).unwrap()[0].expert;
            seen[expert] = true;
            let prompt = mixture.chat(&messages, &options).unwrap();
            let alone = experts[expert].chat(&messages, &options).unwrap();
            let answer = mixture.generate(&[prompt], &short, &|_| ()).unwrap();
            assert_eq!(answer[0].tokens, experts[expert].generate(&[alone], &short, &|_| ()).unwrap()[0].tokens);
        }
    }
    assert_eq!(seen, [true; 2]);
    let plain = vec![open("a-math"), open("c-chat")];
    let gate = gate(&noise(2 * plain[0].model.hidden_size(), 1), 2);
    let mixture = RoutedTextModel::new(spec(Pool::Mean, 1), Arc::clone(&plain[0]), &gate, plain).unwrap();
    assert!(matches!(mixture.chat(&messages, &options), Err(TextError::NoChatTemplate)));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_directory_of_either_kind_opens() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    copy(&data("zoo").join("a-math"), &at.join("experts/0"));
    copy(&data("zoo").join("c-chat"), &at.join("experts/1"));
    let config = serde_json::json!({
        "model_type": "glue_mixture", "format_version": 1, "level": "model", "routing": "sample", "whole": true,
        "experts": ["math", "chat"], "experts_per_token": 1, "pool": "last", "router": { "kind": "linear" },
        "router_model": "experts/1", "router_layer": 2,
    });
    std::fs::write(at.join("config.json"), config.to_string()).unwrap();
    let hidden = open("c-chat").model.hidden_size();
    let name = "gate.weight".to_owned();
    let bytes: Vec<u8> = noise(2 * hidden, 3).iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = safetensors_of(&name, &[2, hidden], &bytes);
    std::fs::write(at.join("model.safetensors"), view).unwrap();
    let AnyTextModel::Routed(mixture) = AnyTextModel::open(at).unwrap() else { panic!("a mixture of whole models") };
    assert!(Arc::ptr_eq(mixture.router(), &mixture.experts()[1]));
    assert_eq!(mixture.route(&[Prompt::text("3 + 4 =")]).unwrap()[0].scores.len(), 2);
    assert!(matches!(AnyTextModel::open(data("zoo").join("a-math")).unwrap(), AnyTextModel::One(_)));
    let error = glue_lm::Model::open(at).unwrap_err().to_string();
    assert!(error.contains("mixture of whole models"), "{error}");
    std::fs::remove_file(at.join("experts/0/tokenizer.json")).unwrap();
    let error = AnyTextModel::open(at).unwrap_err().to_string();
    assert!(error.starts_with("experts/0 of the mixture: "), "{error}");
}

/// A safetensors file of one tensor.
fn safetensors_of(name: &str, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
    let header = serde_json::json!({ name: { "dtype": "F32", "shape": shape, "data_offsets": [0, bytes.len()] } });
    let mut header = header.to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), bytes].concat()
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let experts = vec![open("a-math"), open("c-chat")];
    let hidden = experts[0].model.hidden_size();
    let new = |spec: WholeSpec, gate: Weights, experts: Vec<Arc<TextModel>>| {
        RoutedTextModel::new(spec, open("a-math"), &gate, experts).unwrap_err().to_string()
    };
    let rows = noise(2 * hidden, 1);
    assert_eq!(
        new(spec(Pool::Mean, 1), gate(&rows, 2), experts[..1].to_vec()),
        "the number of models of the mixture: expected 2, at least 1, found 1"
    );
    let beyond = experts[0].model.num_layers() + 2;
    assert!(
        new(spec(Pool::Mean, beyond), gate(&rows, 2), experts.clone()).starts_with("`router_layer` of the mixture")
    );
    assert!(
        new(spec(Pool::Mean, 1), gate(&rows, 1), experts.clone()).starts_with("tensor `gate.weight` should have shape")
    );
    let none = Weights::from_tensors([]);
    assert!(new(spec(Pool::Mean, 1), none, experts.clone()).starts_with("tensor `gate.weight` of shape"));
    let mixture = RoutedTextModel::new(spec(Pool::Mean, 1), open("a-math"), &gate(&rows, 2), experts).unwrap();
    assert!(matches!(mixture.route(&[Prompt::tokens(vec![1, 2])]), Err(TextError::NotText { prompt: 0 })));
}
