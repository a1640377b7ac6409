//! The input of a calibration: tokens, and which of them are scored.

use std::ops::Range;

/// A sequence of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The tokens, two or more. The model reads all but the last.
    pub tokens: Vec<u32>,
    /// The positions whose tokens are scored, not empty and without position 0: the answer of an item, all but the
    /// first of a text.
    pub scored: Range<usize>,
}

impl Sequence {
    /// A question and its answer; the answer is scored.
    pub fn item(question: &[u32], answer: &[u32]) -> Sequence {
        let tokens = [question, answer].concat();
        Sequence { scored: question.len()..tokens.len(), tokens }
    }

    /// A text; everything after the first token is scored.
    pub fn text(tokens: Vec<u32>) -> Sequence {
        Sequence { scored: 1..tokens.len(), tokens }
    }

    /// Number of tokens that the model reads.
    pub fn read(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }

    /// Why a model of this vocabulary and number of positions cannot use it.
    pub(crate) fn fault(&self, vocab_size: usize, max_positions: usize) -> Option<String> {
        let Sequence { tokens, scored } = self;
        if scored.is_empty() || scored.start == 0 || scored.end > tokens.len() {
            return Some(format!(
                "the tokens {scored:?} of {} are to be scored, expected a range from 1 on that is not empty",
                tokens.len()
            ));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Some(format!("token {token} is outside the vocabulary of {vocab_size}"));
        }
        let read = self.read();
        (read > max_positions).then(|| format!("it takes {read} positions, and the model has {max_positions}"))
    }
}

/// Ranges of consecutive sequences with at most `rows` tokens to read; a longer sequence is a batch of its own.
pub(crate) fn batches(sequences: &[Sequence], rows: usize) -> Vec<Range<usize>> {
    let (mut batches, mut start, mut sum) = (Vec::new(), 0, 0);
    for (index, sequence) in sequences.iter().enumerate() {
        if index > start && sum + sequence.read() > rows {
            batches.push(start..index);
            (start, sum) = (index, 0);
        }
        sum += sequence.read();
    }
    if start < sequences.len() {
        batches.push(start..sequences.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_runs_that_hold_every_sequence_once() {
        let lengths = [3, 4, 9, 2, 2, 3, 20];
        let sequences: Vec<Sequence> = lengths.iter().map(|&n| Sequence::text(vec![1; n])).collect();
        assert_eq!(batches(&sequences, 8), [0..2, 2..3, 3..6, 6..7]);
        assert_eq!(batches(&sequences, 1).len(), lengths.len());
        assert!(batches(&[], 8).is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let check = |sequence: Sequence, expected: Option<&str>| {
            let found = sequence.fault(10, 4);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        check(Sequence::item(&[1, 2], &[3]), None);
        check(Sequence::text(vec![1, 2, 3, 4, 5]), None);
        check(Sequence::text(vec![1]), Some("expected a range from 1 on"));
        check(Sequence::item(&[], &[1, 2]), Some("from 1 on"));
        check(Sequence::text(vec![1, 10]), Some("token 10 is outside the vocabulary of 10"));
        check(Sequence::text(vec![1; 6]), Some("it takes 5 positions, and the model has 4"));
    }
}
