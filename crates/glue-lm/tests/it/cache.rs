//! One pass over a text, many passes over its parts, and trees of texts with a common prefix give the same logits.

use crate::support::{all, arch, close, tokens, values, whole};
use glue_lm::{Rows, Tree, Want};

/// The same sums in other orders, on logits of size 1 or so.
const TOLERANCE: f32 = 2e-5;

#[test]
fn a_text_in_parts_is_the_text() {
    for (name, model) in all() {
        // Longer than any sliding window of these models, which is 8.
        let text = tokens(37, model.vocab_size(), 11);
        let expected = whole(&model, &text);
        for sizes in [vec![1; 37], vec![5, 1, 7, 11, 13], vec![36, 1], vec![1, 36]] {
            let mut tree = Tree::new();
            let mut found = Vec::new();
            let mut branch = None;
            let mut at = 0;
            for (part, size) in sizes.iter().enumerate() {
                let these = &text[at..at + size];
                at += size;
                // Both ways to go on: growing a branch, and a branch of its own.
                branch = match branch {
                    Some(branch) if part % 3 != 0 => {
                        tree.extend(branch, these);
                        Some(branch)
                    }
                    parent => Some(tree.push(parent, these)),
                };
                found.extend(values(&model.forward(&mut tree, &Want::ALL).unwrap().logits));
            }
            close(&format!("{name} in {sizes:?}"), &found, &expected, TOLERANCE);
        }
    }
}

#[test]
fn branches_of_a_tree_are_the_texts_they_spell() {
    for (name, model) in all() {
        let vocab = model.vocab_size();
        let parts: Vec<Vec<u32>> = [9, 4, 12, 3, 1, 6].into_iter().zip(1..).map(|(n, s)| tokens(n, vocab, s)).collect();
        let mut tree = Tree::new();
        let root = tree.push(None, &parts[0]);
        let a = tree.push(Some(root), &parts[1]);
        let b = tree.push(Some(root), &parts[2]);
        let aa = tree.push(Some(a), &parts[3]);
        let other = tree.push(None, &parts[4]);
        assert_eq!([root, a, b, aa, other].map(|branch| tree.len_of(branch)), [9, 13, 21, 16, 1]);
        let first = values(&model.forward(&mut tree, &Want::ALL).unwrap().logits);
        let texts = [vec![0], vec![0, 1], vec![0, 2], vec![0, 1, 3], vec![4]];
        let logits = |parts_of: &[usize]| {
            let text = parts_of.iter().map(|&part| parts[part].clone()).collect::<Vec<_>>();
            let all = whole(&model, &text.concat());
            all[all.len() - text[text.len() - 1].len() * vocab..].to_vec()
        };
        let expected: Vec<f32> = texts.iter().flat_map(|parts| logits(parts)).collect();
        close(name, &first, &expected, TOLERANCE);

        // A later pass that grows leaves, adds a branch in the middle, and lets one go.
        tree.release(aa);
        tree.extend(b, &parts[5]);
        let ab = tree.push(Some(a), &parts[5]);
        tree.extend(other, &parts[5]);
        let rows = [(other, 5), (ab, 5), (b, 5), (b, 0)];
        let second =
            values(&model.forward(&mut tree, &Want { logits: Rows::Some(&rows), hidden: &[] }).unwrap().logits);
        let last = |parts: &[usize], back: usize| {
            let all = logits(parts);
            all[all.len() - (back + 1) * vocab..][..vocab].to_vec()
        };
        let expected = [last(&[4, 5], 0), last(&[0, 1, 5], 0), last(&[0, 2, 5], 0), last(&[0, 2, 5], 5)].concat();
        close(name, &second, &expected, TOLERANCE);
    }
}

#[test]
fn a_cloned_tree_goes_its_own_way() {
    let model = arch("mistral-window");
    let (text, one, two) = (tokens(10, 99, 1), tokens(5, 99, 2), tokens(6, 99, 3));
    let mut tree = Tree::new();
    let branch = tree.push(None, &text);
    model.forward(&mut tree, &Want::NOTHING).unwrap();
    let mut copy = tree.clone();
    tree.extend(branch, &one);
    copy.extend(branch, &two);
    for (tree, part) in [(&mut tree, &one), (&mut copy, &two)] {
        let found = values(&model.forward(tree, &Want::ALL).unwrap().logits);
        let expected = whole(&model, &[&text[..], part].concat());
        close("clone", &found, &expected[10 * 99..], TOLERANCE);
    }
}

#[test]
fn rows_wanted_alone_are_the_same_as_with_the_others() {
    for (name, model) in all() {
        let vocab = model.vocab_size();
        let text = tokens(20, vocab, 4);
        let all = whole(&model, &text);
        let mut tree = Tree::new();
        let branch = tree.push(None, &text);
        let last = values(&model.forward(&mut tree, &Want::LAST).unwrap().logits);
        close(name, &last, &all[19 * vocab..], TOLERANCE);
        let mut tree = Tree::new();
        let again = tree.push(None, &text);
        assert_eq!(again, branch, "a fresh tree counts from the beginning");
        let rows = [(again, 7), (again, 2), (again, 7)];
        let some = values(&model.forward(&mut tree, &Want { logits: Rows::Some(&rows), hidden: &[] }).unwrap().logits);
        let expected = [7, 2, 7].map(|row| all[row * vocab..(row + 1) * vocab].to_vec()).concat();
        close(name, &some, &expected, TOLERANCE);
    }
}

#[test]
fn a_failed_pass_leaves_its_tokens_pending_and_the_tree_usable() {
    let model = arch("qwen2");
    let mut tree = Tree::new();
    let branch = tree.push(None, &[1, 2, 3]);
    let error = model.forward(&mut tree, &Want { logits: Rows::All, hidden: &[9] }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "hidden states 9 were asked for; there are 0 (embeddings) to 4 (after the final norm)"
    );
    let rows = [(branch, 3)];
    let error = model.forward(&mut tree, &Want { logits: Rows::Some(&rows), hidden: &[] }).unwrap_err();
    assert!(error.to_string().starts_with("logits of pending token 3 of "), "{error}");
    assert_eq!(tree.pending(), 3);
    let found = values(&model.forward(&mut tree, &Want::ALL).unwrap().logits);
    assert_eq!(found, whole(&model, &[1, 2, 3]));
    assert_eq!(tree.pending(), 0);
}

#[test]
fn a_text_longer_than_the_model_is_made_for_runs() {
    let model = arch("llama2");
    assert_eq!(model.max_positions(), 128);
    let text = tokens(700, 99, 8);
    let expected = whole(&model, &text);
    let mut tree = Tree::new();
    let branch = tree.push(None, &text[..650]);
    model.forward(&mut tree, &Want::NOTHING).unwrap();
    tree.extend(branch, &text[650..]);
    let found = values(&model.forward(&mut tree, &Want::ALL).unwrap().logits);
    close("700 tokens", &found, &expected[650 * 99..], TOLERANCE);
}
