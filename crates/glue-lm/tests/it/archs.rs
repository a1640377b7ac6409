//! Logits of small models of every family against transformers.
//!
//! `tests/data/archs` and `tests/data/archs-extra` hold models with random weights and what transformers computes with
//! them in f32; `tests/interop/make_archs.py` made the latter.

use crate::support::{ARCHS, FURTHER, all, close, data, floats, ids, values};
use glue_lm::{Model, Rows, Tree, Want};
use glue_tensor::Checkpoint;
use std::path::Path;

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
fn logits_of_further_families() {
    for name in FURTHER {
        check(&data("archs-extra").join(name));
    }
}

/// The same in two passes, of which the second looks back at what the first kept.
#[test]
fn logits_of_further_families_through_a_cache() {
    for name in FURTHER {
        let found = in_two_passes(&data("archs-extra").join(name));
        close(&format!("{name} in two passes"), &found.0, &found.1, TOLERANCE);
    }
}

/// Logits of the sequences of a reference in two passes, and those that transformers gives.
fn in_two_passes(dir: &Path) -> (Vec<f32>, Vec<f32>) {
    let model = Model::open(dir).unwrap();
    let reference = Checkpoint::open(dir.join("reference.safetensors")).unwrap();
    let (all, shape) = ids(&reference, "input_ids");
    let split = ids(&reference, "split").0[0] as usize;
    let (expected, _) = floats(&reference, "logits_cached");
    let mut found = Vec::new();
    for tokens in all.chunks(shape[1]) {
        let mut tree = Tree::new();
        let branch = tree.push(None, &tokens[..split]);
        found.extend(values(&model.forward(&mut tree, &Want::ALL).unwrap().logits));
        tree.extend(branch, &tokens[split..]);
        found.extend(values(&model.forward(&mut tree, &Want::ALL).unwrap().logits));
    }
    (found, expected)
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

/// With dynamic scaling beyond the original length, keys of an earlier pass stay as they were rotated then, and so a
/// text in two passes is not the text in one: transformers does the same.
#[test]
fn dynamic_scaling_with_a_cache() {
    let dir = data("archs-extra").join("llama-dynamic");
    let model = Model::open(&dir).unwrap();
    let reference = Checkpoint::open(dir.join("reference.safetensors")).unwrap();
    let (_, shape) = ids(&reference, "input_ids");
    let split = ids(&reference, "split").0[0] as usize;
    let (in_one_pass, _) = floats(&reference, "logits");
    let (found, expected) = in_two_passes(&dir);
    assert!(crate::support::distance(&expected, &in_one_pass) > 100.0 * TOLERANCE);
    assert!(!model.same_rotation(split, shape[1]) && model.same_rotation(3, 16));
    close("llama-dynamic in two passes", &found, &expected, TOLERANCE);
}

#[test]
fn final_hidden_states_give_the_logits() {
    for (name, model) in all() {
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
        let folder = if ARCHS.contains(&name) { "archs" } else { "archs-extra" };
        let checkpoint = Checkpoint::open(data(folder).join(name)).unwrap();
        let heads = [
            "lm_head.weight",
            "language_model.lm_head.weight",
            "model.embed_tokens.weight",
            "language_model.model.embed_tokens.weight",
            "model.language_model.embed_tokens.weight",
        ];
        let head = heads.into_iter().find(|n| checkpoint.get(n).is_some());
        let (head, _) = floats(&checkpoint, head.unwrap());
        let states = values(&output.hidden[layers + 1]);
        let width = model.hidden_size();
        let logits = values(&output.logits);
        for (i, row) in [19, 3].into_iter().enumerate() {
            let state = &states[row * width..][..width];
            let (cap, scale) = (model.architecture().final_softcap, model.architecture().logit_scale);
            let expected: Vec<f32> = head
                .chunks(width)
                .map(|w| w.iter().zip(state).map(|(w, s)| w * s).sum::<f32>() * scale)
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
