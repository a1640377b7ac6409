//! Batches padded on the left, on the right and not at all agree.

use glue_lm::PaddedBatch;
use crate::support::{ARCHS, arch, close, tokens, values, whole};

/// The same sums in other orders, on logits of size 1 or so.
const TOLERANCE: f32 = 2e-5;

/// Pads `texts` to `length` with `pad`, on the left or on the right; tokens and mask.
fn pad(texts: &[Vec<u32>], length: usize, pad: u32, left: bool) -> (Vec<u32>, Vec<bool>) {
    let row = |text: &Vec<u32>| {
        let padding = vec![(pad, false); length - text.len()];
        let text = text.iter().map(|&id| (id, true)).collect::<Vec<_>>();
        if left { [padding, text].concat() } else { [text, padding].concat() }
    };
    texts.iter().flat_map(row).unzip()
}

#[test]
fn sides_of_padding_agree() {
    for name in ARCHS {
        let model = arch(name);
        let vocab = model.vocab_size();
        let (layers, length) = (model.num_layers(), 21);
        let texts: Vec<Vec<u32>> = [13, 21, 1, 17].into_iter().zip(1..).map(|(n, s)| tokens(n, vocab, s)).collect();
        let alone: Vec<Vec<f32>> = texts.iter().map(|text| whole(&model, text)).collect();
        for left in [true, false] {
            let (ids, mask) = pad(&texts, length, 0, left);
            let batch = PaddedBatch::new(ids, length).unwrap().with_mask(&mask).unwrap();
            let output = model.forward_padded(&batch, &[layers]).unwrap();
            assert_eq!(output.logits.dims(), [4, length, vocab]);
            assert_eq!(output.hidden[0].dims(), [4, length, model.hidden_size()]);
            let logits = values(&output.logits);
            for (index, (text, expected)) in texts.iter().zip(&alone).enumerate() {
                let row = &logits[index * length * vocab..][..length * vocab];
                let start = if left { (length - text.len()) * vocab } else { 0 };
                let (before, rest) = row.split_at(start);
                let (found, after) = rest.split_at(text.len() * vocab);
                close(name, found, expected, TOLERANCE);
                assert!(before.iter().chain(after).all(|&x| x == 0.0), "{name}: logits at padding");
            }
        }
    }
}

#[test]
fn padding_known_by_its_token_is_taken_off_both_ends_only() {
    let ids = vec![7, 7, 1, 7, 2, 7, 3, 4, 5, 6, 1, 2, 7, 7, 7, 7, 7, 7];
    let batch = PaddedBatch::new(ids, 6).unwrap().with_pad_id(7);
    let found: Vec<&[u32]> = batch.sequences().collect();
    assert_eq!(found, [&[1, 7, 2][..], &[3, 4, 5, 6, 1, 2], &[]]);
}

#[test]
fn contradictions_are_refused() {
    let error = PaddedBatch::new(vec![1; 7], 3).unwrap_err();
    assert_eq!(error.to_string(), "padded batch: 7 tokens are not a whole number of sequences of 3");
    let batch = PaddedBatch::new(vec![1; 6], 3).unwrap();
    let error = batch.clone().with_mask(&[true; 5]).unwrap_err();
    assert_eq!(error.to_string(), "padded batch: an attention mask of 5 for 6 tokens");
    let error = batch.with_mask(&[true, true, true, true, false, true]).unwrap_err();
    assert_eq!(error.to_string(), "padded batch: the attention mask of sequence 1 has a gap between text");
    assert!(PaddedBatch::new(Vec::new(), 0).is_ok());
}
