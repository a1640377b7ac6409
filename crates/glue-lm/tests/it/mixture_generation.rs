//! Generation by mixtures: with its cache, its batches and its shared prefixes it is what passes over whole texts give.

use glue_lm::{GenerateOptions, Model, Prompt, Rows, TextModel, Tokenizer, Tree, Want};
use crate::support::mixture::{Base, Kind, base_in, kinds};
use crate::support::{data, values};

const PROMPTS: [&str; 5] = [
    "Q: What is the pet of mipim? A:",
    "leo has 15 shells and gets 15 more. How many? A:",
    "x = [8,6,5,4]; print(x[1:]) ->",
    "Q: What is the",
    "leo",
];

const STEPS: usize = 6;

fn zoo() -> Base {
    base_in("zoo", "base-a")
}

/// Three experts that differ, behind gates that spread the prompts.
fn mixture(base: &Base, kind: &Kind) -> Model {
    let mixed = base.mixed(kind);
    base.mixture(kind, &mixed, &[1, 2, 3], &base.gates_of_size(kind, &mixed, &[0, 1, 2], 0.5)).unwrap()
}

/// Greedy tokens without a cache: every step runs the whole text anew. How far the best token is ahead of the second, at least.
fn uncached(model: &Model, prompt: &[u32], eos: u32) -> (Vec<u32>, f32) {
    let (mut said, mut margin) = (Vec::new(), f32::INFINITY);
    while said.len() < STEPS && said.last() != Some(&eos) {
        let mut tree = Tree::new();
        // A sample is routed by its prompt: the answer is a branch of it.
        let mut last = tree.push(None, prompt);
        if !said.is_empty() {
            last = tree.push(Some(last), &said);
        }
        let row = (last, if said.is_empty() { prompt.len() } else { said.len() } - 1);
        let logits = model.forward(&mut tree, &Want { logits: Rows::Some(&[row]), hidden: &[] }).unwrap().logits;
        let logits = values(&logits);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        margin = margin.min(logits[order[0]] - logits[order[1]]);
        said.push(order[0] as u32);
    }
    (said, margin)
}

#[test]
fn generation_is_what_passes_over_whole_texts_give() {
    let base = zoo();
    let directory = data("zoo/base-a");
    let mut compared = 0;
    for kind in kinds() {
        let model = mixture(&base, &kind);
        let tokenizer = Tokenizer::load(&directory).unwrap();
        let eos = tokenizer.eos().unwrap();
        let prompts: Vec<Vec<u32>> = PROMPTS.iter().map(|prompt| tokenizer.encode(prompt, true).unwrap()).collect();
        let expected: Vec<(Vec<u32>, f32)> = prompts.iter().map(|prompt| uncached(&model, prompt, eos)).collect();
        let text = TextModel::new(model, tokenizer).unwrap();
        let asked: Vec<Prompt> = PROMPTS.into_iter().map(Prompt::text).collect();
        // All together, and in passes of a few rows with few sequences at a time.
        for (rows_per_pass, max_sequences) in [(2048, 256), (7, 2)] {
            let options =
                GenerateOptions { max_new_tokens: STEPS, rows_per_pass, max_sequences, ..GenerateOptions::default() };
            let found = text.generate(&asked, &options, &|_| ()).unwrap();
            for (found, (expected, margin)) in found.iter().zip(&expected) {
                // Where two tokens are all but equal, the order of sums may decide.
                if *margin > 1e-3 {
                    assert_eq!(found.tokens, *expected, "{kind:?}, {}", PROMPTS[found.prompt]);
                    compared += 1;
                }
            }
        }
    }
    // Nearly all of 24 kinds, five prompts and two ways.
    assert!(compared >= 230, "{compared}");
}

#[test]
fn several_samples_of_a_prompt_are_routed_as_one() {
    let base = zoo();
    let tokenizer = || Tokenizer::load(data("zoo/base-a")).unwrap();
    for kind in kinds() {
        let text = TextModel::new(mixture(&base, &kind), tokenizer()).unwrap();
        let options = GenerateOptions { max_new_tokens: 4, samples: 3, ..GenerateOptions::default() };
        let greedy = text.generate(&[Prompt::text(PROMPTS[1])], &options, &|_| ()).unwrap();
        assert_eq!(greedy.len(), 3);
        assert!(greedy.iter().all(|one| one.tokens == greedy[0].tokens), "{kind:?}");
    }
}
