//! Mixtures of every kind against the dense models they are made of, and gradients of their gates.

use crate::support::mixture::{BASES, Kind, Tensors, base, kinds, model_of, noise};
use crate::support::{close, data, tokens, values, whole};
use candle_core::{DType, Device, Var};
use glue_lm::{
    Gate, LmError, Model, PaddedBatch, RoutingLog, Rows, ScoreOptions, ScoreRequest, StreamBefore, Tensor, Tree, Want,
};
use std::sync::Arc;

/// The same sums in other orders and times shares that add up to 1, on logits of size 1 or so.
const TOLERANCE: f32 = 5e-5;

#[test]
fn identical_experts_are_the_dense_model_whatever_the_gates() {
    for name in BASES {
        let base = base(name);
        let dense = model_of(&base.config, &base.tensors).unwrap();
        let text = tokens(21, dense.vocab_size(), 5);
        let expected = whole(&dense, &text);
        for kind in kinds() {
            let mixed = base.mixed(&kind);
            let gates = base.gates(&kind, &mixed, &[0, 1, 2]);
            let model = base.mixture(&kind, &mixed, &[0, 0, 0], &gates).unwrap();
            close(&format!("{name} {kind:?}"), &whole(&model, &text), &expected, TOLERANCE);
        }
    }
}

#[test]
fn all_layers_dense_is_the_dense_model() {
    for name in BASES {
        let base = base(name);
        let dense = model_of(&base.config, &base.tensors).unwrap();
        let text = tokens(15, dense.vocab_size(), 6);
        for mut kind in kinds() {
            kind.dense_layers = base.layers;
            let model = base.mixture(&kind, &[], &[1, 2], &Tensors::new()).unwrap();
            assert_eq!(whole(&model, &text), whole(&dense, &text), "{name} {kind:?}");
            assert!(model.gates().is_empty());
        }
    }
}

#[test]
fn one_expert_is_that_model() {
    for name in ["gemma2", "phi3"] {
        let base = base(name);
        for kind in kinds() {
            let mixed = base.mixed(&kind);
            let model = base.mixture(&kind, &mixed, &[7], &base.gates(&kind, &mixed, &[0])).unwrap();
            let mut tensors = base.tensors.clone();
            for (name, value) in base.variant(7) {
                if base.mixed_name(&kind, &mixed, &name, 0).is_some() {
                    tensors.insert(name, value);
                }
            }
            let dense = model_of(&base.config, &tensors).unwrap();
            let text = tokens(19, dense.vocab_size(), 8);
            close(&format!("{name} {kind:?}"), &whole(&model, &text), &whole(&dense, &text), TOLERANCE);
        }
    }
}

#[test]
fn experts_in_another_order_with_their_gates_change_nothing() {
    for name in ["llama-bias", "mistral-window"] {
        let base = base(name);
        for kind in kinds() {
            let mixed = base.mixed(&kind);
            let one = base.three(&kind);
            let gates = base.gates(&kind, &mixed, &[2, 0, 1]);
            let other = base.mixture(&kind, &mixed, &[3, 1, 2], &gates).unwrap();
            let text = tokens(23, one.vocab_size(), 9);
            close(&format!("{name} {kind:?}"), &whole(&one, &text), &whole(&other, &text), TOLERANCE);
            let logits_of = |model: &Model| {
                let mut tree = Tree::new();
                tree.push(None, &text);
                model.forward(&mut tree, &Want::ALL).unwrap().routing
            };
            for (one, other) in logits_of(&one).iter().zip(&logits_of(&other)) {
                assert_eq!((one.gate, one.layer), (other.gate, other.layer));
                let back = |chosen: &Vec<usize>| chosen.iter().map(|&e| [2, 0, 1][e]).collect::<Vec<_>>();
                assert_eq!(one.chosen, other.chosen.iter().map(back).collect::<Vec<_>>(), "{kind:?}");
            }
        }
    }
}

/// Logits of a prompt and of what follows it, in one pass.
fn prompt_and_rest(model: &Model, prompt: &[u32], rest: &[u32]) -> Vec<f32> {
    let mut tree = Tree::new();
    let root = tree.push(None, prompt);
    tree.push(Some(root), rest);
    values(&model.forward(&mut tree, &Want::ALL).unwrap().logits)
}

#[test]
fn passes_over_parts_are_as_one_pass() {
    for name in BASES {
        let base = base(name);
        for kind in kinds() {
            let model = base.three(&kind);
            let vocab = model.vocab_size();
            let text = tokens(31, vocab, 11);
            let expected = prompt_and_rest(&model, &text[..9], &text[9..]);
            for sizes in [vec![9, 1, 1, 1, 19], vec![9, 22], vec![9, 5, 12, 5]] {
                let mut tree = Tree::new();
                let mut branch = None;
                let mut found = Vec::new();
                let mut at = 0;
                for (part, size) in sizes.iter().enumerate() {
                    let these = &text[at..at + size];
                    at += size;
                    branch = match branch {
                        Some(branch) if part % 2 == 0 => {
                            tree.extend(branch, these);
                            Some(branch)
                        }
                        parent => Some(tree.push(parent, these)),
                    };
                    found.extend(values(&model.forward(&mut tree, &Want::ALL).unwrap().logits));
                }
                close(&format!("{name} {kind:?} in {sizes:?}"), &found, &expected, TOLERANCE);
            }
            // A prompt run for its cache alone, and only the last row after that.
            let mut tree = Tree::new();
            let branch = tree.push(None, &text[..9]);
            model.forward(&mut tree, &Want::NOTHING).unwrap();
            tree.extend(branch, &text[9..]);
            let found = values(&model.forward(&mut tree, &Want::LAST).unwrap().logits);
            close(&format!("{name} {kind:?}, the last"), &found, &expected[30 * vocab..], TOLERANCE);
        }
    }
}

#[test]
fn trees_and_batches_are_the_texts_they_hold() {
    let base = base("mistral-window");
    for kind in kinds() {
        let model = base.three(&kind);
        let vocab = model.vocab_size();
        let [a, b, c, d] = [(7, 1), (5, 2), (12, 3), (3, 4)].map(|(n, seed)| tokens(n, vocab, seed));
        let mut tree = Tree::new();
        let first = tree.push(None, &a);
        let second = tree.push(None, &b);
        let ac = tree.push(Some(first), &c);
        let bd = tree.push(Some(second), &d);
        let ad = tree.push(Some(first), &d);
        let rows = [(ac, 11), (bd, 2), (first, 6), (ad, 0), (ac, 0)];
        let found = values(&model.forward(&mut tree, &Want { logits: Rows::Some(&rows), hidden: &[] }).unwrap().logits);
        let row = |prompt: &[u32], rest: &[u32], at: usize| {
            prompt_and_rest(&model, prompt, rest)[at * vocab..(at + 1) * vocab].to_vec()
        };
        let expected = [row(&a, &c, 18), row(&b, &d, 7), row(&a, &c, 6), row(&a, &d, 7), row(&a, &c, 7)].concat();
        close(&format!("{kind:?}"), &found, &expected, TOLERANCE);
        // Later, with a new sample beside the old ones.
        let new = tree.push(None, &d);
        tree.extend(bd, &a);
        let rows = [(bd, 6), (new, 2)];
        let found = values(&model.forward(&mut tree, &Want { logits: Rows::Some(&rows), hidden: &[] }).unwrap().logits);
        let alone = whole(&model, &d);
        let expected = [row(&b, &[&d[..], &a].concat(), 14), alone[2 * vocab..].to_vec()].concat();
        close(&format!("{kind:?}, later"), &found, &expected, TOLERANCE);

        // A padded batch of whole texts.
        let pad = |text: &[u32]| [text, &vec![0; 12 - text.len()]].concat();
        let mask: Vec<bool> = [&a, &c].iter().flat_map(|text| (0..12).map(|i| i < text.len())).collect();
        let batch = PaddedBatch::new([pad(&a), pad(&c)].concat(), 12).unwrap().with_mask(&mask).unwrap();
        let found = values(&model.forward_padded(&batch, &[]).unwrap().logits);
        close(&format!("{kind:?}, padded"), &found[..7 * vocab], &whole(&model, &a), TOLERANCE);
        close(&format!("{kind:?}, padded"), &found[12 * vocab..], &whole(&model, &c), TOLERANCE);
    }
}

#[test]
fn hidden_states_are_the_same_in_every_pass() {
    let base = base("llama-bias");
    for kind in kinds() {
        let model = base.three(&kind);
        let text = tokens(13, model.vocab_size(), 21);
        let all: Vec<usize> = (0..base.layers + 2).collect();
        let states = |hidden: &[usize]| {
            let mut tree = Tree::new();
            tree.push(None, &text);
            model.forward(&mut tree, &Want { logits: Rows::Last, hidden }).unwrap().hidden
        };
        for (index, state) in states(&all).iter().enumerate() {
            assert_eq!(state.dims(), [13, base.hidden], "{kind:?}");
            close(&format!("{kind:?} {index}"), &values(&states(&[index])[0]), &values(state), 1e-6);
        }
    }
}

#[test]
fn scores_follow_their_definition_and_threads_change_nothing() {
    let base = base("mistral-window");
    for kind in kinds() {
        let model = base.three(&kind);
        let vocab = model.vocab_size();
        let mut requests = Vec::new();
        for item in 0..6 {
            let context = [tokens(5, vocab, 1), tokens(1 + item % 3, vocab, 40 + item as u32)].concat();
            for choice in 0..3 {
                requests.push((context.clone(), tokens(1 + choice, vocab, choice as u32)));
            }
        }
        requests.push((tokens(5, vocab, 1), tokens(6, vocab, 2)));
        let asked: Vec<ScoreRequest<'_>> =
            requests.iter().map(|(context, continuation)| ScoreRequest { context, continuation }).collect();
        let score = |rows, threads| {
            let options = ScoreOptions { rows, ..ScoreOptions::default() };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let scores = pool.install(|| model.score(&asked, &options, &|_| {})).unwrap();
            scores.into_iter().map(|score| score.logprob).collect::<Vec<f64>>()
        };
        for rows in [None, Some(1), Some(17)] {
            let found = score(rows, 1);
            assert_eq!(found, score(rows, 3), "{kind:?}");
            for (found, (context, continuation)) in found.iter().zip(&requests) {
                let logits = prompt_and_rest(&model, context, continuation);
                let rows = logits.chunks(vocab).skip(context.len() - 1).zip(continuation);
                let expected: f64 = rows
                    .map(|(row, &token)| {
                        f64::from(row[token as usize]) - row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln()
                    })
                    .sum();
                // Up to 6 tokens, each with the rounding of its logits in f32.
                assert!((found - expected).abs() < 1e-4, "{kind:?}: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn the_log_counts_tokens_and_samples() {
    let base = base("llama-bias");
    for kind in kinds() {
        let model = base.three(&kind);
        let log = Arc::new(RoutingLog::new(&model.gates()));
        let model = model.with_routing_log(Arc::clone(&log));
        let mut tree = Tree::new();
        let a = tree.push(None, &tokens(6, 50, 1));
        tree.push(None, &tokens(4, 50, 2));
        tree.push(Some(a), &tokens(3, 50, 3));
        let output = model.forward(&mut tree, &Want::ALL).unwrap();
        let gates = if kind.level == "model" { 1 } else { base.layers - kind.dense_layers };
        let decisions = if kind.routing == "sample" { 2 } else { 13 };
        let loads = log.loads();
        assert_eq!((loads.len(), output.routing.len()), (gates, gates));
        for (load, found) in loads.iter().zip(&output.routing) {
            assert_eq!(load.decisions, decisions, "{kind:?}");
            assert_eq!(load.chosen.iter().sum::<u64>(), decisions * kind.per_token as u64);
            // Fixed-point sums of up to 13 probabilities.
            assert!((load.probability.iter().sum::<f64>() - decisions as f64).abs() < 1e-6);
            assert_eq!(found.scores.dims(), [decisions as usize, 3]);
            for (expert, &count) in load.chosen.iter().enumerate() {
                assert_eq!(count, found.chosen.iter().filter(|chosen| chosen.contains(&expert)).count() as u64);
            }
        }
    }
}

fn losses(output: &glue_lm::Output) -> Tensor {
    let weights = Tensor::from_vec(noise(output.logits.elem_count(), 77), output.logits.shape(), &Device::Cpu).unwrap();
    (&output.logits * weights).unwrap().sum_all().unwrap()
}

/// Gates as variables, and the same as weights.
fn variables(model: &Model) -> (Vec<Var>, Vec<Gate<Tensor>>) {
    let variable = |_, tensor: &Tensor| Var::from_tensor(tensor);
    let gates = model.gate_weights().unwrap();
    let gates: Vec<Gate<Var>> = gates.iter().map(|gate| gate.try_map(variable, variable).unwrap()).collect();
    let tensor = |variable: &Var| variable.as_tensor().clone();
    let all = gates.iter().flat_map(Gate::tensors).map(|(_, variable)| variable.clone()).collect();
    (all, gates.iter().map(|gate| gate.map(tensor, tensor)).collect())
}

fn check_gradients(what: &str, model: &Model) {
    let text = tokens(11, model.vocab_size(), 31);
    let tree = || {
        let mut tree = Tree::new();
        let root = tree.push(None, &text[..7]);
        tree.push(Some(root), &text[7..]);
        tree.push(None, &text[2..6]);
        tree
    };
    let (vars, gates) = variables(model);
    let output = model.forward_train(&tree(), &Want::ALL, &gates).unwrap();
    let plain = model.forward(&mut tree(), &Want::ALL).unwrap();
    // Products of gates are added up in another order.
    close(what, &values(&output.logits), &values(&plain.logits), TOLERANCE);
    // A pass that ends at a gate, or at a hidden state, has the same up to there.
    let mut streams = Vec::new();
    for routed in &output.routing {
        let (read, stream) = model.gate_inputs(&tree(), &gates, routed.gate, None).unwrap();
        assert_eq!(values(&read), values(routed.inputs.as_ref().unwrap()), "{what}: gate {}", routed.gate);
        streams.extend(stream.map(|stream| (routed.gate, stream)));
    }
    // From the layer of any gate, the same is read by it and by those after it.
    for (from, start) in &streams {
        for routed in output.routing.iter().filter(|routed| routed.gate >= *from) {
            let (read, stream) = model.gate_inputs(&tree(), &gates, routed.gate, Some(start)).unwrap();
            assert_eq!(values(&read), values(routed.inputs.as_ref().unwrap()), "{what}: gate {}", routed.gate);
            let (_, direct) = streams.iter().find(|(gate, _)| *gate == routed.gate).unwrap();
            let stream = stream.unwrap();
            assert_eq!((stream.layer, values(&stream.states)), (direct.layer, values(&direct.states)), "{what}");
        }
    }
    if let [(first, _), .., (last, start)] = streams.as_slice()
        && model.gates()[*first].layer < start.layer
    {
        let error = model.gate_inputs(&tree(), &gates, *first, Some(start)).unwrap_err().to_string();
        assert!(error.contains("below layer"), "{error}");
        let short = StreamBefore { states: start.states.narrow(0, 0, 1).unwrap(), ..start.clone() };
        assert!(model.gate_inputs(&tree(), &gates, *last, Some(&short)).is_err());
    }
    let error = model.gate_inputs(&tree(), &gates, gates.len(), None).unwrap_err().to_string();
    assert!(error.contains(&format!("the model has {} gates", gates.len())), "{error}");
    for index in 0..=model.num_layers() + 1 {
        let whole = model.forward(&mut tree(), &Want { logits: Rows::All, hidden: &[index] }).unwrap().hidden;
        let found = model.hidden_states(&tree(), &[index]).unwrap();
        assert_eq!(values(&found[0]), values(&whole[0]), "{what}: hidden state {index}");
    }
    let grads = losses(&output).backward().unwrap();
    for (number, var) in vars.iter().enumerate() {
        let grad = values(grads.get(var).unwrap_or_else(|| panic!("{what}: no gradient of {number}")));
        let norm = grad.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 1e-6, "{what}: the gradient of {number} is {norm}");
        let direction: Vec<f32> = grad.iter().map(|&g| (f64::from(g) / norm) as f32).collect();
        let before = var.as_tensor().copy().unwrap();
        let step = 5e-3;
        let moved = |sign: f32| {
            let by = Tensor::from_slice(&direction, before.shape(), &Device::Cpu).unwrap();
            var.set(&(&before + (by * f64::from(sign * step)).unwrap()).unwrap()).unwrap();
            let moved = model.forward_train(&tree(), &Want::ALL, &gates).unwrap();
            let same = moved.routing.iter().zip(&output.routing).all(|(a, b)| a.chosen == b.chosen);
            let logits = values(&moved.logits);
            let terms = logits.iter().zip(noise(logits.len(), 77)).map(|(&l, w)| f64::from(l) * f64::from(w));
            same.then_some(terms.sum::<f64>())
        };
        let (up, down) = (moved(1.0), moved(-1.0));
        var.set(&before).unwrap();
        // Where the step changes a choice there is no difference to compare with.
        if let (Some(up), Some(down)) = (up, down) {
            let difference = (up - down) / f64::from(2.0 * step);
            // Roundings of a thousand logits in f32, over the step; and curvature.
            let tolerance = 0.03 * norm + 0.01;
            assert!((norm - difference).abs() < tolerance, "{what}, {number}: {norm}, by differences {difference}");
        }
    }
}

#[test]
fn every_gate_has_the_gradient_of_differences() {
    for name in ["gemma2", "llama-bias", "mistral-window", "olmo2"] {
        let base = base(name);
        for mut kind in kinds() {
            // A single expert's share is 1 whatever its score.
            kind.per_token = kind.per_token.max(2);
            // Small gates, so that no share is so near to 0 or 1 that nothing moves it.
            let mixed = base.mixed(&kind);
            let gates = base.gates_of_size(&kind, &mixed, &[0, 1, 2], 0.05);
            check_gradients(&format!("{name} {kind:?}"), &base.mixture(&kind, &mixed, &[1, 2, 3], &gates).unwrap());
        }
    }
    check_gradients("mixtral", &crate::support::arch("mixtral"));
    for name in [
        "qwen2-moe",
        "qwen3-moe",
        "gpt-oss",
        "gpt-oss-mxfp4",
        "llama4",
        "llama4-two",
        "deepseek-v2",
        "deepseek-v3",
        "deepseek-v3-halves",
    ] {
        check_gradients(name, &Model::open(data("archs-extra").join(name)).unwrap());
    }
}

#[test]
fn gates_that_do_not_fit_are_refused() {
    let model = crate::support::arch("mixtral");
    let mut tree = Tree::new();
    tree.push(None, &[1, 2]);
    let gates = model.gate_weights().unwrap();
    let refuse = |gates: &[Gate<Tensor>]| model.forward_train(&tree, &Want::ALL, gates).unwrap_err().to_string();
    assert!(refuse(&gates[1..]).ends_with(&format!(
        "weights of {} gates for a model with {}",
        gates.len() - 1,
        gates.len()
    )));
    let mut wrong = gates.clone();
    let weight = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    wrong[1] = Gate::Linear { weight, bias: None };
    let message = refuse(&wrong);
    assert!(message.starts_with("gate 1: `weight` should have shape"), "{message}");
}

#[test]
fn what_cannot_be_run_is_refused() {
    let base = base("llama-bias");
    let kind = Kind { routing: "sample", ..kinds()[0].clone() };
    let mixed = base.mixed(&kind);
    let gates = base.gates(&kind, &mixed, &[0, 1, 2]);
    let model = base.mixture(&kind, &mixed, &[1, 2, 3], &gates).unwrap();
    let mut tree = Tree::new();
    let empty = tree.push(None, &[]);
    tree.push(Some(empty), &[1, 2]);
    assert!(matches!(model.forward(&mut tree, &Want::ALL), Err(LmError::NoPrompt)));
    let mut lacking = gates.clone();
    lacking.pop_last();
    let error = base.mixture(&kind, &mixed, &[1, 2, 3], &lacking).unwrap_err();
    assert!(matches!(&error, LmError::MissingTensor { name, .. } if name.contains(".mlp.gate.")), "{error}");
    let error = base.mixture(&kind, &mixed, &[1, 2], &gates).unwrap_err();
    assert!(matches!(error, LmError::Shape { .. }), "{error}");
    // The tree of one model, run by another.
    let dense = model_of(&base.config, &base.tensors).unwrap();
    let mut tree = Tree::new();
    let branch = tree.push(None, &[1, 2]);
    dense.forward(&mut tree, &Want::ALL).unwrap();
    tree.extend(branch, &[3]);
    assert!(matches!(model.forward(&mut tree, &Want::ALL), Err(LmError::ForeignTree { .. })));
}
