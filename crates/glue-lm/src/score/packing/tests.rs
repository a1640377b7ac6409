//! What runs together, and that every row is where its request looks for it.

use super::*;

fn sequence(tokens: &[u32], first_scored: usize) -> Sequence {
    Sequence { length_class: Vec::new(), first_scored, prompt: None, tokens: tokens.to_vec() }
}

/// Rows of every chunk, prefixes, and whether the rows of each sequence spell its tokens.
fn check(sequences: Vec<Sequence>, rows: usize) -> (Vec<usize>, usize) {
    let packing = Packing::new(sequences, rows);
    let mut seen = vec![false; packing.sequences.len()];
    let mut sizes = Vec::new();
    for chunk in &packing.chunks {
        let mut tree = Tree::new();
        let placed = packing.place(chunk, &mut tree, None);
        let pass = tree.pass();
        sizes.push(pass.tokens.len());
        for (number, rows) in placed {
            assert!(!std::mem::replace(&mut seen[number], true), "sequence {number} is in two chunks");
            let sequence = &packing.sequences[number];
            let found: Vec<u32> = rows.iter().map(|&row| pass.tokens[row]).collect();
            assert_eq!(found, sequence.tokens[sequence.first_scored..]);
        }
    }
    assert!(seen.into_iter().all(|seen| seen));
    (sizes, packing.prefixes.len())
}

#[test]
fn prefixes_are_in_a_chunk_once() {
    let all = || {
        vec![
            sequence(&[1, 2, 3, 4], 2),
            sequence(&[1, 2, 5], 1),
            sequence(&[1, 2, 3, 6, 7], 2),
            sequence(&[1, 2, 3], 0),
            sequence(&[1, 2, 5], 2),
            sequence(&[8], 0),
        ]
    };
    // 1 2 · 3 · 4 · 6 7 · 5 · 8
    assert_eq!(check(all(), 100), (vec![8], 0));
    let (sizes, _) = check(all(), 4);
    assert!(sizes.iter().all(|&size| size <= 5), "{sizes:?}");
    check(all(), 1);
}

#[test]
fn long_prefixes_run_once_for_several_chunks() {
    let preamble: Vec<u32> = (0..100).collect();
    let all = (0..30).map(|i| sequence(&[&preamble[..], &[200 + i, i, i]].concat(), 101)).collect();
    let (sizes, prefixes) = check(all, 40);
    assert_eq!((prefixes, sizes.iter().sum::<usize>()), (1, 90));
    // Wanted rows in the preamble keep it in the chunks.
    let all = (0..30).map(|i| sequence(&[&preamble[..], &[200 + i, i, i]].concat(), 5)).collect();
    assert_eq!(check(all, 40).1, 0);
}

#[test]
fn prompts_are_roots_of_their_own() {
    let with_prompt = |tokens: &[u32], prompt: usize| Sequence { prompt: Some(prompt), ..sequence(tokens, prompt - 1) };
    let all = || {
        vec![
            with_prompt(&[1, 2, 3, 4], 2),
            with_prompt(&[1, 2, 3, 5], 2),
            with_prompt(&[1, 2, 3, 5], 3),
            with_prompt(&[1, 2], 2),
            with_prompt(&[1], 1),
            with_prompt(&[1, 2, 3], 3),
        ]
    };
    // 1 2 · 3 · 4 · 5, 1 2 3 · 5, 1
    assert_eq!(check(all(), 100), (vec![10], 0));
    assert_eq!(check(all(), 1).1, 0);
    let packing = Packing::new(all(), 100);
    let mut tree = Tree::new();
    packing.place(&packing.chunks[0], &mut tree, None);
    let pass = tree.pass();
    let mut prompts: Vec<&[u32]> = pass.samples.iter().map(|sample| &pass.tokens[sample.prompt.clone()]).collect();
    prompts.sort_unstable();
    assert_eq!(prompts, [&[1][..], &[1, 2], &[1, 2, 3]]);
    // A long prompt is not run ahead of what follows it.
    let preamble: Vec<u32> = (0..100).collect();
    let all = (0..30).map(|i| with_prompt(&[&preamble[..], &[200 + i, i, i]].concat(), 100)).collect();
    assert_eq!(check(all, 40).1, 0);
}

#[test]
fn a_sequence_longer_than_a_pass_falls_into_pieces() {
    let long: Vec<u32> = (0..25).collect();
    let of = |sequence: Sequence, rows: usize| {
        let packing = Packing::new(vec![sequence], rows);
        packing.pieces(&packing.chunks[0]).map(|pieces| pieces.tokens)
    };
    assert_eq!(of(sequence(&long, 3), 10), Some(vec![0..10, 10..20, 20..25]));
    assert_eq!(of(sequence(&long, 3), 25), None);
    // One whose keys are rotated for its length, and one whose experts are chosen by the whole of a prompt.
    assert_eq!(of(Sequence { length_class: vec![0, 1], ..sequence(&long, 3) }, 10), None);
    assert_eq!(of(Sequence { prompt: Some(4), ..sequence(&long, 3) }, 10), None);
}
