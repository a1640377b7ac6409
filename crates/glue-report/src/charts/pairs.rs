//! What can be done with each pair of models, as a matrix of marks.

use crate::data::{Pair, Verdict};
use crate::format;
use crate::svg::{Anchor, Svg};
use glue_text::words;

const SIZE: f64 = 12.0;
const CELL: f64 = 26.0;

/// The mark of a verdict.
pub(crate) fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Mergeable => "●",
        Verdict::WithVocabularyAlignment => "◐",
        Verdict::MixtureOnly => "○",
    }
}

/// What a verdict says.
pub(crate) fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Mergeable => "merge",
        Verdict::WithVocabularyAlignment => "merge after vocabulary alignment",
        Verdict::MixtureOnly => "mix only",
    }
}

/// The lower triangle of the matrix: a row for each model but the first, a column for each but the last.
pub(crate) fn pairs(id: &str, names: &[&str], pairs: &[Pair]) -> String {
    let mut svg = Svg::new();
    let left = Svg::widest(names.iter().copied(), 22, SIZE) + 10.0;
    let verdict = |a: &str, b: &str| {
        let found = pairs.iter().find(|p| (p.first == a && p.second == b) || (p.first == b && p.second == a));
        found.map(|pair| pair.verdict)
    };
    let n = names.len();
    for (row, name) in names.iter().enumerate().skip(1) {
        let y = CELL * (row as f64 - 1.0);
        svg.label("t", Anchor::End, [left - 6.0, y + CELL / 2.0 + 4.0], &format::middle(name, 22), Some(name), false);
        for (column, other) in names.iter().enumerate().take(row) {
            let x = left + CELL * column as f64;
            let found = verdict(name, other);
            let (class, note) = match found {
                Some(Verdict::Mergeable) => ("v-merge", words(Verdict::Mergeable)),
                Some(Verdict::WithVocabularyAlignment) => ("v-align", words(Verdict::WithVocabularyAlignment)),
                Some(Verdict::MixtureOnly) => ("v-mix", words(Verdict::MixtureOnly)),
                None => ("h-none", "not looked at"),
            };
            svg.rect(&format!("cell {class}"), [x, y, CELL, CELL], Some(&format!("{other} and {name}: {note}")));
            // Drawn rather than typed: fonts differ too much in the size of such signs.
            let centre = [x + CELL / 2.0, y + CELL / 2.0];
            match found {
                Some(Verdict::Mergeable) => svg.mark("v-full", 0, centre, 5.0, None),
                Some(Verdict::WithVocabularyAlignment) => {
                    svg.mark("v-ring", 0, centre, 5.0, None);
                    svg.mark("v-full", 0, centre, 2.2, None);
                }
                Some(Verdict::MixtureOnly) => svg.mark("v-ring", 0, centre, 5.0, None),
                None => {}
            }
        }
    }
    let bottom = CELL * n.saturating_sub(1) as f64;
    for (column, name) in names.iter().enumerate().take(n.saturating_sub(1)) {
        let x = left + CELL * (column as f64 + 0.5) + 4.0;
        svg.label("t", Anchor::End, [x, bottom + 8.0], &format::middle(name, 22), Some(name), true);
    }
    let count = |wanted: Verdict| pairs.iter().filter(|pair| pair.verdict == wanted).count();
    let description = format!(
        "Of {}: {} can be merged, {} after vocabulary alignment, {} can only be mixed. The table gives the reasons.",
        words::things(pairs.len(), "pair", "pairs"),
        count(Verdict::Mergeable),
        count(Verdict::WithVocabularyAlignment),
        count(Verdict::MixtureOnly)
    );
    let size = [left + CELL * n.saturating_sub(1) as f64 + 2.0, bottom + left + 2.0];
    svg.finish(id, "chart broad", size, "What can be done with each pair of models", &description)
}
