//! Scores of continuations are those of one request at a time, however they are packed.

use crate::support::{ARCHS, arch, data, tokens, values};
use glue_lm::{LmError, Model, ScoreOptions, ScoreRequest, Tree, Want};
use glue_progress::ErrorChain;
use std::sync::atomic::{AtomicUsize, Ordering};

/// By the definition, from the logits of one text, with log-softmax in f64.
fn by_definition(model: &Model, context: &[u32], continuation: &[u32]) -> (f64, bool) {
    let text = [context, continuation].concat();
    let mut tree = Tree::new();
    tree.push(None, &text);
    let logits = values(&model.forward(&mut tree, &Want::ALL).unwrap().logits);
    let (mut sum, mut greedy) = (0.0, true);
    for (position, &token) in continuation.iter().enumerate() {
        let row = &logits[(context.len() - 1 + position) * model.vocab_size()..][..model.vocab_size()];
        sum += f64::from(row[token as usize]) - row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        greedy &= row.iter().all(|&x| x <= row[token as usize]);
    }
    (sum, greedy)
}

/// Requests with shared contexts, shared beginnings, contexts that are continuations of others, and repetitions.
fn requests(vocab: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
    let preamble = tokens(60, vocab, 50);
    let mut requests = Vec::new();
    for item in 0..12 {
        let own = tokens(3 + item as usize % 5, vocab, 100 + item);
        let context = if item % 3 == 0 { own } else { [&preamble[..], &own].concat() };
        for choice in 0..4 {
            requests.push((context.clone(), tokens(1 + choice as usize, vocab, 7 * item + choice)));
        }
    }
    let (context, continuation) = requests[5].clone();
    requests.push((context.clone(), continuation.clone()));
    requests.push((context[..4].to_vec(), [&context[4..], &continuation[..]].concat()));
    requests.push((context[..1].to_vec(), context[1..].to_vec()));
    requests.push((preamble[..1].to_vec(), preamble[1..].to_vec()));
    requests
}

fn score(model: &Model, requests: &[(Vec<u32>, Vec<u32>)], rows: Option<usize>) -> Vec<(f64, bool)> {
    let requests: Vec<ScoreRequest<'_>> =
        requests.iter().map(|(context, continuation)| ScoreRequest { context, continuation }).collect();
    let options = ScoreOptions { rows, ..ScoreOptions::default() };
    let done = AtomicUsize::new(0);
    let progress = |n| {
        done.fetch_add(n, Ordering::Relaxed);
    };
    let scores = model.score(&requests, &options, &progress).unwrap();
    assert_eq!(done.into_inner(), requests.len());
    for (score, request) in scores.iter().zip(&requests) {
        assert_eq!(score.n_tokens, request.continuation.len());
    }
    scores.into_iter().map(|score| (score.logprob, score.greedy)).collect()
}

#[test]
fn every_packing_gives_the_definition() {
    for name in ARCHS {
        let model = arch(name);
        let requests = requests(model.vocab_size());
        let expected: Vec<_> = requests.iter().map(|(a, b)| by_definition(&model, a, b)).collect();
        for rows in [None, Some(1), Some(7), Some(64), Some(100_000)] {
            for (i, (found, expected)) in score(&model, &requests, rows).into_iter().zip(&expected).enumerate() {
                // Up to 72 tokens, each with the rounding of its logits in f32.
                assert!((found.0 - expected.0).abs() < 2e-4, "{name}, {rows:?}, {i}: {found:?}, not {expected:?}");
                assert_eq!(found.1, expected.1, "{name}, {rows:?}, {i}");
            }
        }
    }
}

#[test]
fn lengths_on_both_sides_of_a_change_of_frequencies() {
    for name in ["phi3-longrope-long", "phi3-longrope-short"] {
        let model = Model::open(data("archs-extra").join(name)).unwrap();
        let text = tokens(60, model.vocab_size(), 3);
        let requests: Vec<_> = (2..60).map(|end| (text[..1].to_vec(), text[1..end].to_vec())).collect();
        let expected: Vec<_> = requests
            .iter()
            .map(|(a, b)| {
                // The last token is only predicted: the pass is one shorter than the text.
                let mut tree = Tree::new();
                tree.push(None, &[&a[..], &b[..b.len() - 1]].concat());
                let logits = values(&model.forward(&mut tree, &Want::ALL).unwrap().logits);
                let rows = logits.chunks(model.vocab_size());
                let one = |(row, &token): (&[f32], &u32)| {
                    f64::from(row[token as usize]) - row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln()
                };
                rows.zip(b).map(one).sum::<f64>()
            })
            .collect();
        for (found, expected) in score(&model, &requests, None).into_iter().zip(expected) {
            // As above.
            assert!((found.0 - expected).abs() < 2e-4, "{name}: {found:?}, not {expected}");
        }
    }
}

#[test]
fn a_small_budget_changes_no_score_but_by_rounding() {
    let model = Model::open(data("zoo").join("a-math")).unwrap();
    let requests = requests(model.vocab_size());
    let expected = score(&model, &requests, None);
    let borrowed: Vec<ScoreRequest<'_>> =
        requests.iter().map(|(context, continuation)| ScoreRequest { context, continuation }).collect();
    for memory in [1, 40 << 20, 1 << 30] {
        let options = ScoreOptions { memory: Some(memory), ..ScoreOptions::default() };
        let found = model.score(&borrowed, &options, &|_| {}).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            // As above.
            assert!((found.logprob - expected.0).abs() < 2e-4 && found.greedy == expected.1, "{memory}: {found:?}");
        }
    }
}

#[test]
fn threads_change_no_score() {
    let model = Model::open(data("zoo").join("a-math")).unwrap();
    let requests = requests(model.vocab_size());
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| score(&model, &requests, Some(50)))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn requests_that_cannot_be_scored_are_refused() {
    let model = arch("llama2");
    let check = |context: &[u32], continuation: &[u32], message: &str| {
        let fine = ScoreRequest { context: &[1], continuation: &[2] };
        let error = model
            .score(&[fine, ScoreRequest { context, continuation }], &ScoreOptions::default(), &|_| {})
            .unwrap_err();
        assert_eq!(error.chain(), message);
        error
    };
    check(&[], &[1], "request 1: the context is empty");
    check(&[1], &[], "request 1: the continuation is empty");
    check(&[1], &[99], "token 99 is outside the vocabulary of 99");
    let error = check(&[1; 100], &[1; 30], "request 1 takes 129 positions, and the model has 128");
    assert!(matches!(error, LmError::TooLong { index: 1, length: 129, max_positions: 128 }));
    let most = ScoreRequest { context: &[1; 100], continuation: &[1; 29] };
    assert!(model.score(&[most], &ScoreOptions::default(), &|_| {}).is_ok());
    assert_eq!(model.score(&[], &ScoreOptions::default(), &|_| {}).unwrap(), []);
}
