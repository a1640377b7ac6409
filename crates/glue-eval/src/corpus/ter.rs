//! TER, the rate of edits that make the reference of an answer, as sacreBLEU computes it by default.
//!
//! Words are inserted, deleted and replaced, and runs of up to ten words move as one edit. Moves are found greedily, the
//! one that saves most first (Snover et al., "A Study of Translation Edit Rate with Targeted Human Annotation", 2006);
//! the order among equal ones, the band around the diagonal and the limits are those of Tercom as sacreBLEU has them.

use crate::python::is_space;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

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

/// What is never reached.
const FAR: usize = usize::MAX / 2;

/// The columns of Levenshtein's table that are computed in each row but the first, those near the diagonal.
struct Band {
    rows: usize,
    width: usize,
    ratio: f64,
    reach: usize,
}

impl Band {
    fn new(answer: &[usize], reference: &[usize]) -> Band {
        let ratio = if answer.is_empty() { 1.0 } else { reference.len() as f64 / answer.len() as f64 };
        let reach = if (BAND as f64) < ratio / 2.0 { (ratio / 2.0 + BAND as f64).ceil() as usize } else { BAND };
        Band { rows: answer.len(), width: reference.len() + 1, ratio, reach }
    }

    fn of(&self, row: usize) -> Range<usize> {
        let diagonal = (row as f64 * self.ratio).floor() as usize;
        let end = if row == self.rows { self.width } else { self.width.min(diagonal + self.reach) };
        diagonal.saturating_sub(self.reach)..end
    }
}

/// The cheapest way to a cell: of equal ones, one that keeps or replaces, then one that deletes.
fn cell(same: bool, diagonal: usize, above: usize, left: usize) -> (usize, Edit) {
    let mut best = if same { (diagonal, Edit::Keep) } else { (diagonal + 1, Edit::Replace) };
    for other in [(above + 1, Edit::Delete), (left + 1, Edit::Insert)] {
        if other.0 < best.0 {
            best = other;
        }
    }
    best
}

/// Levenshtein's distance near the diagonal, and the edits of one shortest way.
fn distance(answer: &[usize], reference: &[usize]) -> (usize, Vec<Edit>) {
    let band = Band::new(answer, reference);
    let width = band.width;
    let mut table = vec![(FAR, Edit::Keep); (answer.len() + 1) * width];
    for (j, cell) in table[..width].iter_mut().enumerate() {
        *cell = (j, Edit::Insert);
    }
    for i in 1..=answer.len() {
        for j in band.of(i) {
            let above = table[(i - 1) * width + j].0;
            table[i * width + j] = match j {
                0 => (above + 1, Edit::Delete),
                _ => {
                    let (diagonal, left) = (table[(i - 1) * width + j - 1].0, table[i * width + j - 1].0);
                    cell(answer[i - 1] == reference[j - 1], diagonal, above, left)
                }
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

/// The distance alone, of which two rows are kept.
fn only_distance(answer: &[usize], reference: &[usize]) -> usize {
    let band = Band::new(answer, reference);
    let (mut before, mut row): (Vec<usize>, Vec<usize>) = ((0..band.width).collect(), vec![FAR; band.width]);
    for i in 1..=answer.len() {
        for j in band.of(i) {
            row[j] = match j {
                0 => before[0] + 1,
                _ => cell(answer[i - 1] == reference[j - 1], before[j - 1], before[j], row[j - 1]).0,
            };
        }
        // The row before is the next one: nothing of it is left, of the first one beyond its band either.
        let stale = if i == 1 { 0..band.width } else { band.of(i - 1) };
        before[stale].fill(FAR);
        std::mem::swap(&mut before, &mut row);
    }
    before[band.width - 1]
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
                    let saved = before as isize - only_distance(&moved, reference) as isize;
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
    fn two_rows_give_the_distance_of_the_table() {
        let words = |n: usize, step: usize| (0..n).map(|i| i * step % 11).collect::<Vec<usize>>();
        for (a, b) in [(0, 0), (0, 4), (5, 0), (1, 90), (90, 1), (60, 75), (120, 110)] {
            let (answer, reference) = (words(a, 3), words(b, 7));
            assert_eq!(only_distance(&answer, &reference), distance(&answer, &reference).0, "{a} {b}");
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
