//! chrF: the F-score of n-grams of characters, with recall twice as important as precision; chrF++ adds words.
//!
//! Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015, and "chrF++: words helping character
//! n-grams", 2017; without white space, as sacreBLEU computes it.

use crate::python::is_space;
use std::collections::HashMap;
use std::hash::Hash;

const CHARACTERS: usize = 6;
const BETA: f64 = 2.0;

/// For each order the n-grams of the answer, of the reference, and of both; of an answer only where the reference has
/// some.
pub(super) fn statistics(answer: &str, reference: &str, words: usize) -> Vec<f64> {
    let mut row = Vec::new();
    let characters = |text: &str| text.chars().filter(|&c| !is_space(c)).collect::<Vec<char>>();
    compare(&characters(answer), &characters(reference), CHARACTERS, &mut row);
    compare(&pieces(answer), &pieces(reference), words, &mut row);
    row
}

fn compare<T: Eq + Hash>(answer: &[T], reference: &[T], orders: usize, row: &mut Vec<f64>) {
    for n in 1..=orders {
        let (said, wanted) = (counts(answer, n), counts(reference, n));
        let both: usize = said.iter().map(|(ngram, &count)| count.min(wanted.get(ngram).copied().unwrap_or(0))).sum();
        let total = |counts: &HashMap<&[T], usize>| counts.values().sum::<usize>() as f64;
        row.extend([if wanted.is_empty() { 0.0 } else { total(&said) }, total(&wanted), both as f64]);
    }
}

fn counts<T: Eq + Hash>(items: &[T], n: usize) -> HashMap<&[T], usize> {
    let mut counts = HashMap::new();
    for ngram in items.windows(n) {
        *counts.entry(ngram).or_insert(0) += 1;
    }
    counts
}

/// Words, with a sign at the end or else at the beginning apart.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        let last = word.char_indices().next_back().filter(|(_, c)| length > 1 && c.is_ascii_punctuation());
        let first = word.chars().next().filter(|c| length > 1 && c.is_ascii_punctuation());
        match (last, first) {
            (Some((at, _)), _) => pieces.extend([&word[..at], &word[at..]]),
            (None, Some(first)) => pieces.extend([&word[..first.len_utf8()], &word[first.len_utf8()..]]),
            _ => pieces.push(word),
        }
    }
    pieces
}

/// From 0 to 100: the F-score of the mean precision and the mean recall over the orders that both texts have.
pub(super) fn score(sums: &[f64]) -> f64 {
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for order in sums.chunks_exact(3) {
        let [said, wanted, both] = [order[0], order[1], order[2]];
        if said > 0.0 && wanted > 0.0 {
            precision += both / said;
            recall += both / wanted;
            orders += 1.0;
        }
    }
    if orders == 0.0 || precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall, factor) = (precision / orders, recall / orders, BETA * BETA);
    100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_sacrebleu() {
        // sacrebleu 2.6.0: corpus_chrf([answer], [[reference]], word_order=…).score; see tests/data/corpus.py.
        let cases: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/corpus.json")).unwrap();
        for case in cases["bleu"].as_array().unwrap() {
            let text = |key: &str| case[key].as_str().unwrap();
            for (key, words) in [("chrf", 0), ("chrf++", 2)] {
                let found = score(&statistics(text("answer"), text("reference"), words));
                let expected = case[key].as_f64().unwrap();
                assert!((found - expected).abs() < 1e-10, "{case}: {key} {found}");
            }
        }
    }
}
