//! Logits of small models of every family against transformers.
//!
//! `tests/data/archs` and `tests/data/archs-extra` hold models with random weights and what transformers computes with them in f32;
//! `tests/interop/make_archs.py` made the latter.

use glue_lm::{Model, Rows, Tree, Want};
use glue_tensor::Checkpoint;
use std::path::Path;
use crate::support::{ARCHS, arch, close, data, floats, ids, values};

/// Two implementations in f32 that add in different orders: what the issue allows.
const TOLERANCE: f32 = 2e-4;

/// Runs the sequences of `DIR/reference.safetensors` in one pass.
fn check(dir: &Path) {
    let model = Model::open(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let reference = Checkpoint::open(dir.join("reference.safetensors")).unwrap();
    let (ids, shape) = ids(&reference, "input_ids");
    let (expected, _) = floats(&reference, "logits");
    let mut tree = Tree::new();
    for tokens in ids.chunks(shape[1]) {
        tree.push(None, tokens);
    }
    let output = model.forward(&mut tree, &Want::ALL).unwrap();
    close(&dir.display().to_string(), &values(&output.logits), &expected, TOLERANCE);
}

#[test]
fn logits_of_all_families() {
    for name in ARCHS {
        check(&data("archs").join(name));
    }
}

#[test]
fn logits_of_variants() {
    for name in [
        "gemma2-old-form",
        "llama-dynamic",
        "llama-yarn",
        "llama-yarn-untruncated",
        "mixtral-window",
        "olmo2-linear",
        "phi3-longrope-long",
        "phi3-longrope-short",
        "phi3-partial",
        "qwen2-moe",
        "qwen2-moe-normed",
        "qwen2-window",
        "qwen3-bias",
    ] {
        check(&data("archs-extra").join(name));
    }
}

/// With dynamic scaling beyond the original length, keys of an earlier pass stay as they were turned then, and so a text in two
/// passes is not the text in one: transformers does the same.
#[test]
fn dynamic_scaling_with_a_cache() {
    let dir = data("archs-extra").join("llama-dynamic");
    let model = Model::open(&dir).unwrap();
    let reference = Checkpoint::open(dir.join("reference.safetensors")).unwrap();
    let (all, shape) = ids(&reference, "input_ids");
    let split = ids(&reference, "split").0[0] as usize;
    let (expected, _) = floats(&reference, "logits_cached");
    let (in_one_pass, _) = floats(&reference, "logits");
    assert!(crate::support::distance(&expected, &in_one_pass) > 100.0 * TOLERANCE);
    assert!(!model.same_rotation(split, shape[1]) && model.same_rotation(3, 16));
    let mut found = Vec::new();
    for tokens in all.chunks(shape[1]) {
        let mut tree = Tree::new();
        let branch = tree.push(None, &tokens[..split]);
        found.extend(values(&model.forward(&mut tree, &Want::ALL).unwrap().logits));
        tree.extend(branch, &tokens[split..]);
        found.extend(values(&model.forward(&mut tree, &Want::ALL).unwrap().logits));
    }
    close("llama-dynamic in two passes", &found, &expected, TOLERANCE);
}

#[test]
fn final_hidden_states_give_the_logits() {
    for name in ARCHS {
        let model = arch(name);
        let layers = model.num_layers();
        let tokens = crate::support::tokens(20, model.vocab_size(), 5);
        let mut tree = Tree::new();
        let branch = tree.push(None, &tokens);
        let all: Vec<usize> = (0..layers + 2).collect();
        let rows = [(branch, 19), (branch, 3)];
        let output = model.forward(&mut tree, &Want { logits: Rows::Some(&rows), hidden: &all }).unwrap();
        assert_eq!(output.hidden.len(), layers + 2);
        for hidden in &output.hidden {
            assert_eq!(hidden.dims(), [20, model.hidden_size()], "{name}");
        }
        // The head applied by hand to two of the rows.
        let checkpoint = Checkpoint::open(data("archs").join(name)).unwrap();
        let head = ["lm_head.weight", "model.embed_tokens.weight"].into_iter().find(|n| checkpoint.get(n).is_some());
        let (head, _) = floats(&checkpoint, head.unwrap());
        let states = values(&output.hidden[layers + 1]);
        let width = model.hidden_size();
        let logits = values(&output.logits);
        for (i, row) in [19, 3].into_iter().enumerate() {
            let state = &states[row * width..][..width];
            let cap = model.architecture().final_softcap;
            let expected: Vec<f32> = head
                .chunks(width)
                .map(|w| w.iter().zip(state).map(|(w, s)| w * s).sum::<f32>())
                .map(|logit| cap.map_or(logit, |cap| cap * (logit / cap).tanh()))
                .collect();
            // One product of `width` numbers, added in another order.
            close(name, &logits[i * model.vocab_size()..][..model.vocab_size()], &expected, 1e-5);
        }
        // The states between differ from layer to layer, so that a shifted index would be seen.
        for pair in output.hidden.windows(2) {
            assert!(crate::support::distance(&values(&pair[0]), &values(&pair[1])) > 1e-3, "{name}");
        }
    }
}
