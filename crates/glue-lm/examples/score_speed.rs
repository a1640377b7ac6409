//! How fast a model scores multiple-choice questions: `score_speed MODEL_DIR THREADS QUESTIONS SHARED_TOKENS`. Prints
//! JSON.
//!
//! No tokenizer is needed: tokens are pseudo-random. Question i has a context of 40 to 160 tokens and four choices of 2
//! to 10; all have `SHARED_TOKENS` in front, as from a prompt with examples. `tests/interop/score_speed.py` scores the
//! same with transformers; `logprob` is the sum of all scores, for comparison.

use glue_lm::{Model, ScoreOptions, ScoreRequest};
use mimalloc::MiMalloc;
use serde_json::json;
use std::error::Error;
use std::time::Instant;

/// That of the binary `glue`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const CHOICES: u32 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, numbers @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let numbers = numbers.iter().map(|number| number.parse::<u32>()).collect::<Result<Vec<_>, _>>()?;
    let [threads, questions, shared] = numbers[..] else { return Err(USAGE.into()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize).build()?;
    let figures = pool.install(|| -> Result<_, glue_lm::LmError> {
        let model = Model::open(directory)?;
        let vocabulary = model.vocab_size() as u32;
        let text = |seed: u32, len: u32| (0..len).map(|i| token(seed, i) % vocabulary).collect::<Vec<u32>>();
        let mut texts = Vec::new();
        for question in 0..questions {
            let context = [text(u32::MAX, shared), text(question, 40 + question * 37 % 121)].concat();
            for choice in 0..CHOICES {
                let length = 2 + (question + choice) * 5 % 9;
                texts.push((context.clone(), text(1_000_000 + question * CHOICES + choice, length)));
            }
        }
        let requests: Vec<ScoreRequest<'_>> =
            texts.iter().map(|(context, continuation)| ScoreRequest { context, continuation }).collect();
        // What is read and allocated once.
        model.score(&requests[..requests.len().min(CHOICES as usize)], &ScoreOptions::default(), &|_| {})?;
        let start = Instant::now();
        let scores = model.score(&requests, &ScoreOptions::default(), &|_| {})?;
        let seconds = start.elapsed().as_secs_f64();
        let tokens: usize = texts.iter().map(|(context, continuation)| context.len() + continuation.len()).sum();
        Ok((seconds, tokens, scores.iter().map(|score| score.logprob).sum::<f64>()))
    });
    let (seconds, tokens, logprob) = figures?;
    let figures = json!({
        "threads": threads,
        "questions": questions,
        "tokens": tokens,
        "seconds": seconds,
        "questions_per_second": f64::from(questions) / seconds,
        "tokens_per_second": tokens as f64 / seconds,
        "logprob": logprob,
    });
    println!("{figures:#}");
    Ok(())
}

const USAGE: &str = "arguments: MODEL_DIR THREADS QUESTIONS SHARED_TOKENS";

/// A number that looks random.
fn token(seed: u32, i: u32) -> u32 {
    let x = seed.wrapping_mul(2_654_435_761).wrapping_add(i.wrapping_mul(40_503)).wrapping_add(12_345);
    (x ^ (x >> 15)).wrapping_mul(2_246_822_519) >> 8
}
