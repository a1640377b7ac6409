//! Which sequences are run in one pass, where they share nothing.

use std::ops::Range;

/// Consecutive sequences of these lengths cut into batches of at most `max_rows` tokens each. A longer sequence is a
/// batch of its own.
#[must_use]
pub fn batches(lengths: impl IntoIterator<Item = usize>, max_rows: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut rows = 0;
    for (index, length) in lengths.into_iter().enumerate() {
        match batches.last_mut() {
            Some(last) if rows + length <= max_rows => {
                last.end = index + 1;
                rows += length;
            }
            _ => {
                batches.push(index..index + 1);
                rows = length;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_long_as_they_may_be() {
        assert!(batches([], 4).is_empty());
        assert_eq!(batches([1, 2, 2, 9, 0, 4, 1], 4), [0..2, 2..3, 3..4, 4..6, 6..7]);
        assert_eq!(batches([5, 5], 4), [0..1, 1..2]);
    }
}
