//! Logits and hidden states of the ten models of the zoo against what transformers computes with them in f32.

use glue_lm::{Model, Tree, Want};
use glue_tensor::Checkpoint;
use crate::support::{close, data, floats, ids, values};

/// Two implementations in f32 that add in different orders, over weights trained in f16: what the issue allows.
const TOLERANCE: f32 = 1e-3;

#[test]
fn logits_and_hidden_states_of_every_model() {
    let mut seen = 0;
    for entry in std::fs::read_dir(data("zoo").join("reference")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let model = Model::open(data("zoo").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let reference = Checkpoint::open(&path).unwrap();
        let layers = model.num_layers();
        let width = model.hidden_size();
        let all: Vec<usize> = (0..layers + 2).collect();
        for prompt in 0..3 {
            let what = |part: &str| format!("{name}, prompt {prompt}: {part}");
            let (tokens, _) = ids(&reference, &format!("prompt{prompt}.input_ids"));
            let expected = |part: &str| floats(&reference, &format!("prompt{prompt}.{part}")).0;
            let mut tree = Tree::new();
            tree.push(None, &tokens);
            let output = model.forward(&mut tree, &Want { hidden: &all, ..Want::LAST }).unwrap();
            close(&what("logits"), &values(&output.logits), &expected("logits"), TOLERANCE);
            let means: Vec<Vec<f32>> =
                output.hidden.iter().map(|hidden| hidden.mean(0).unwrap().to_vec1().unwrap()).collect();
            close(&what("embeddings"), &means[0], &expected("embed_mean"), TOLERANCE);
            close(&what("layers"), &means[1..=layers].concat(), &expected("layer_mean"), TOLERANCE);
            let normed = values(&output.hidden[layers + 1]);
            close(&what("norm"), &normed[normed.len() - width..], &expected("final_norm_last"), TOLERANCE);
        }
        seen += 1;
    }
    assert_eq!(seen, 10);
}
