//! How fast a model reads a prompt and continues it, token by token, beside a plain read of as much memory in the same
//! process: `decode_speed MODEL_DIR THREADS PROMPT_TOKENS NEW_TOKENS [f32|bf16]`. Prints JSON.
//!
//! No tokenizer is needed: the prompt is pseudo-random, and each next token is the most likely one. What is read for a
//! token are all weights, of an embedding that is not the head a row.

use glue_lm::{KvCacheType, Model, Tensor, Tree, Want};
use glue_tensor::Checkpoint;
use mimalloc::MiMalloc;
use rayon::prelude::*;
use serde_json::json;
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

/// That of the binary `glue`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Steps before the clock starts.
const WARM_UP: usize = 8;

/// Bytes of the plain read, at most.
const READ: usize = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let (directory, numbers, cache_type) = match arguments.as_slice() {
        [_, directory, numbers @ ..] if numbers.len() == 3 => (directory, numbers, KvCacheType::F32),
        [_, directory, numbers @ .., kind] if numbers.len() == 3 && kind == "f32" => {
            (directory, numbers, KvCacheType::F32)
        }
        [_, directory, numbers @ .., kind] if numbers.len() == 3 && kind == "bf16" => {
            (directory, numbers, KvCacheType::Bf16)
        }
        _ => return Err("arguments: MODEL_DIR THREADS PROMPT_TOKENS NEW_TOKENS [f32|bf16]".into()),
    };
    let numbers = numbers.iter().map(|number| number.parse::<usize>()).collect::<Result<Vec<_>, _>>()?;
    let [threads, prompt_tokens, new_tokens] = numbers[..] else { return Err("three numbers are needed".into()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let bytes = bytes_per_token(directory)?;
    let figures = pool.install(|| -> Result<_, glue_lm::LmError> {
        let model = Model::open(directory)?;
        let vocabulary = model.vocab_size() as u32;
        let prompt: Vec<u32> =
            (0..prompt_tokens.max(1) as u32).map(|i| (i.wrapping_mul(7919) + 17) % vocabulary).collect();
        decode(&model, &prompt, WARM_UP, cache_type)?;
        let before = read_rate(bytes);
        let [prefill, decode] = decode(&model, &prompt, new_tokens, cache_type)?;
        Ok((prefill, decode, before.max(read_rate(bytes))))
    });
    let (prefill, decode, read) = figures?;
    let rate = new_tokens as f64 / decode;
    let figures = json!({
        "threads": threads,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "prefill_tokens_per_second": prompt_tokens as f64 / prefill,
        "decode_tokens_per_second": rate,
        "weight_bytes_per_token": bytes,
        "decode_bytes_per_second": rate * bytes as f64,
        "read_bytes_per_second": read,
    });
    println!("{figures:#}");
    Ok(())
}

/// Seconds for a prompt, and for the tokens after it.
fn decode(model: &Model, prompt: &[u32], steps: usize, cache_type: KvCacheType) -> Result<[f64; 2], glue_lm::LmError> {
    let mut tree = Tree::with_cache_type(cache_type);
    let branch = tree.push(None, prompt);
    let start = Instant::now();
    let mut token = most_likely(&model.forward(&mut tree, &Want::LAST)?.logits)?;
    let prefill = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for _ in 0..steps {
        tree.extend(branch, &[token]);
        token = most_likely(&model.forward(&mut tree, &Want::LAST)?.logits)?;
    }
    Ok([prefill, start.elapsed().as_secs_f64()])
}

fn most_likely(logits: &Tensor) -> Result<u32, glue_lm::LmError> {
    let logits = logits.flatten_all()?.to_vec1::<f32>()?;
    let mut sampler = glue_lm::Sampler::new(&glue_lm::Sampling::default(), 0, 0, &[]);
    let next = sampler.as_mut().ok().and_then(|sampler| sampler.next(&logits).ok());
    // Random weights give numbers; the first token stands for anything else.
    Ok(next.unwrap_or(0))
}

/// Bytes of weights that a token needs.
fn bytes_per_token(directory: &str) -> Result<usize, Box<dyn Error>> {
    let checkpoint = Checkpoint::open(directory)?;
    let has_head = checkpoint.info("lm_head.weight").is_some();
    let counted = |name: &str| !(has_head && name == "model.embed_tokens.weight");
    Ok(checkpoint.tensors().iter().filter(|tensor| counted(&tensor.name)).map(|tensor| tensor.n_bytes()).sum())
}

/// Bytes per second of adding up as many numbers as there are weights, the best of three.
fn read_rate(bytes: usize) -> f64 {
    let values: Vec<u64> = (0..bytes.min(READ) as u64 / 8).collect();
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        let part = |part: &[u64]| part.iter().fold(0u64, |sum, x| sum.wrapping_add(*x));
        black_box(values.par_chunks(1 << 15).map(part).reduce(|| 0, u64::wrapping_add));
        best = best.min(start.elapsed().as_secs_f64());
    }
    (values.len() * 8) as f64 / best
}
