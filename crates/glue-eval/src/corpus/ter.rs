//! TER, the rate of edits that make the reference of an answer, as sacreBLEU computes it by default.
//!
//! Words are inserted, deleted and replaced, and runs of up to ten words move as one edit. Moves are found greedily, the
//! one that saves most first (Snover et al., "A Study of Translation Edit Rate with Targeted Human Annotation", 2006);
//! the order among equal ones, the band around the diagonal and the limits are those of Tercom as sacreBLEU has them.

use crate::python::is_space;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Words of a run that moves.
const LONGEST_MOVE: usize = 10;
/// Words between the place of a run in the answer and in the reference.
const FARTHEST_MOVE: usize = 50;
/// Moves that are tried for an answer.
const MOVES_TRIED: usize = 1000;
/// Words beside the diagonal for which distances are computed.
const BAND: usize = 25;

/// The edits from an answer to its reference, and the words of the reference.
pub(super) fn statistics(answer: &str, reference: &str) -> Vec<f64> {
    let (answer, reference) = (answer.to_lowercase(), reference.to_lowercase());
    let mut numbers = HashMap::new();
    let [answer, reference] = [&answer, &reference].map(|text| -> Vec<usize> {
        let words = text.split(is_space).filter(|word| !word.is_empty());
        words
            .map(|word| {
                let next = numbers.len();
                *numbers.entry(word).or_insert(next)
            })
            .collect()
    });
    let length = reference.len() as f64;
    vec![edits(answer, &reference) as f64, length]
}

/// In percent, from sums of what [`statistics`] gives.
pub(super) fn score(sums: &[f64]) -> f64 {
    100.0 * if sums[1] > 0.0 { sums[0] / sums[1] } else { f64::from(u8::from(sums[0] > 0.0)) }
}

fn edits(mut answer: Vec<usize>, reference: &[usize]) -> usize {
    if reference.is_empty() {
        return answer.len();
    }
    let (mut moves, mut tried) = (0, 0);
    loop {
        let (distance, path) = distance(&answer, reference);
        match best_move(&answer, reference, distance, &path, &mut tried) {
            Some((saved, moved)) if saved > 0 && tried < MOVES_TRIED => {
                moves += 1;
                answer = moved;
            }
            _ => return moves + distance,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Replace,
    /// A word of the answer goes.
    Delete,
    /// A word of the reference comes.
    Insert,
}

/// Levenshtein's distance near the diagonal, and the edits of one shortest way.
fn distance(answer: &[usize], reference: &[usize]) -> (usize, Vec<Edit>) {
    const FAR: usize = usize::MAX / 2;
    let width = reference.len() + 1;
    let ratio = if answer.is_empty() { 1.0 } else { reference.len() as f64 / answer.len() as f64 };
    let band = if (BAND as f64) < ratio / 2.0 { (ratio / 2.0 + BAND as f64).ceil() as usize } else { BAND };
    let mut table = vec![(FAR, Edit::Keep); (answer.len() + 1) * width];
    for (j, cell) in table[..width].iter_mut().enumerate() {
        *cell = (j, Edit::Insert);
    }
    for i in 1..=answer.len() {
        let diagonal = (i as f64 * ratio).floor() as usize;
        let last = if i == answer.len() { width } else { width.min(diagonal + band) };
        for j in diagonal.saturating_sub(band)..last {
            let above = table[(i - 1) * width + j].0 + 1;
            table[i * width + j] = if j == 0 {
                (above, Edit::Delete)
            } else {
                let same = answer[i - 1] == reference[j - 1];
                let mut cell = (table[(i - 1) * width + j - 1].0, Edit::Keep);
                if !same {
                    cell = (cell.0 + 1, Edit::Replace);
                }
                let left = table[i * width + j - 1].0 + 1;
                // Of equal ways, one that keeps or replaces is preferred, then one that deletes.
                for other in [(above, Edit::Delete), (left, Edit::Insert)] {
                    if other.0 < cell.0 {
                        cell = other;
                    }
                }
                cell
            };
        }
    }
    let mut path = Vec::new();
    let (mut i, mut j) = (answer.len(), reference.len());
    while i > 0 || j > 0 {
        let edit = table[i * width + j].1;
        path.push(edit);
        if edit != Edit::Insert {
            i -= 1;
        }
        if edit != Edit::Delete {
            j -= 1;
        }
    }
    path.reverse();
    (table[table.len() - 1].0, path)
}

/// Which words are wrong, and before which word of the answer those of the reference stand.
struct Alignment {
    answer_wrong: Vec<bool>,
    reference_wrong: Vec<bool>,
    /// For each word of the reference the words of the answer up to it, itself included.
    up_to: Vec<usize>,
}

impl Alignment {
    fn new(path: &[Edit]) -> Alignment {
        let mut found = Alignment { answer_wrong: Vec::new(), reference_wrong: Vec::new(), up_to: Vec::new() };
        for edit in path {
            let wrong = *edit != Edit::Keep;
            if *edit != Edit::Insert {
                found.answer_wrong.push(wrong);
            }
            if *edit != Edit::Delete {
                found.reference_wrong.push(wrong);
                found.up_to.push(found.answer_wrong.len());
            }
        }
        found
    }
}

/// The move that saves most edits with what it saves, which may be less than nothing.
fn best_move(
    answer: &[usize],
    reference: &[usize],
    before: usize,
    path: &[Edit],
    tried: &mut usize,
) -> Option<(isize, Vec<usize>)> {
    type Rank = (isize, usize, Reverse<usize>, Reverse<usize>);
    let aligned = Alignment::new(path);
    let mut best: Option<(Rank, Vec<usize>)> = None;
    for from in 0..answer.len() {
        for to in from.saturating_sub(FARTHEST_MOVE)..reference.len().min(from + FARTHEST_MOVE + 1) {
            let equal = answer[from..].iter().zip(&reference[to..]).take(LONGEST_MOVE);
            let longest = equal.take_while(|(a, b)| a == b).count();
            for length in 1..=longest {
                let wrong = |words: &[bool], at: usize| words[at..at + length].contains(&true);
                if !wrong(&aligned.answer_wrong, from) || !wrong(&aligned.reference_wrong, to) {
                    continue;
                }
                // Where the first word of the run stands in the answer now, if anywhere.
                if (from + 1..=from + length).contains(&aligned.up_to[to]) {
                    continue;
                }
                let mut last = None;
                for at in to..=to + length {
                    let target = if at == 0 { 0 } else { aligned.up_to[at - 1] };
                    if last.replace(target) == Some(target) {
                        continue;
                    }
                    let moved = moved(answer, from, length, target);
                    *tried += 1;
                    let saved = before as isize - distance(&moved, reference).0 as isize;
                    let rank = (saved, length, Reverse(from), Reverse(target));
                    if best.as_ref().is_none_or(|(other, _)| rank > *other) {
                        best = Some((rank, moved));
                    }
                }
                if *tried >= MOVES_TRIED {
                    return best.map(|((saved, ..), moved)| (saved, moved));
                }
            }
        }
    }
    best.map(|((saved, ..), moved)| (saved, moved))
}

/// The words with a run of them before the word `target`; from within the run on, it moves that much further.
fn moved(words: &[usize], from: usize, length: usize, target: usize) -> Vec<usize> {
    let end = from + length;
    let run = &words[from..end];
    let parts = match target {
        before if before < from => [&words[..before], &words[before..from], &words[end..]],
        after if after > end => [&words[..from], &words[end..after], &words[after..]],
        within => {
            let at = words.len().min(within + length);
            [&words[..from], &words[end..at], &words[at..]]
        }
    };
    match target < from {
        true => [parts[0], run, parts[1], parts[2]].concat(),
        false => [parts[0], parts[1], run, parts[2]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_sacrebleu() {
        // sacrebleu 2.6.0: corpus_ter([answer], [[reference]]).score; see tests/data/corpus.py.
        let cases: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/corpus.json")).unwrap();
        for case in cases["bleu"].as_array().unwrap().iter().chain(cases["ter"].as_array().unwrap()) {
            let text = |key: &str| case[key].as_str().unwrap();
            let found = score(&statistics(text("answer"), text("reference")));
            let expected = case["ter"].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-10, "{case}: {found}");
        }
    }

    #[test]
    fn a_run_that_moved_is_one_edit() {
        assert_eq!(statistics("d e f a b c", "A b c d e f"), [1.0, 6.0]);
        assert_eq!(statistics("", "a b"), [2.0, 2.0]);
        assert_eq!(statistics("a b", " "), [2.0, 0.0]);
        assert_eq!(score(&[2.0, 0.0]), 100.0);
        assert_eq!(score(&[0.0, 0.0]), 0.0);
    }
}
