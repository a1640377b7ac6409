//! BLEU: the geometric mean of the precisions of n-grams up to four, times a penalty for answers that are too short.
//!
//! Papineni et al., "BLEU: a method for automatic evaluation of machine translation", 2002; with the tokenizers and the
//! smoothing of sacreBLEU (Post, "A call for clarity in reporting BLEU scores", 2018).

use crate::python::regex;
use fancy_regex::Regex;
use std::collections::HashMap;
use std::sync::LazyLock;

const ORDER: usize = 4;

/// How texts become words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokenizer {
    /// As the script `mteval-v13a` of NIST.
    Mteval13a,
    /// By the classes of Unicode: punctuation apart unless between digits, symbols apart.
    International,
}

/// A pattern and what replaces it.
type Step = (LazyLock<Option<Regex>>, &'static str);

/// Signs of ASCII; a point or a comma that does not follow, or does not precede, a digit; a dash after a digit.
static MTEVAL: [Step; 4] = [
    (LazyLock::new(|| regex::compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])").ok()), r" \1 "),
    (LazyLock::new(|| regex::compile(r"([^0-9])([\.,])").ok()), r"\1 \2 "),
    (LazyLock::new(|| regex::compile(r"([\.,])([^0-9])").ok()), r" \1 \2"),
    (LazyLock::new(|| regex::compile(r"([0-9])(-)").ok()), r"\1 \2 "),
];

static INTERNATIONAL: [Step; 3] = [
    (LazyLock::new(|| regex::compile(r"(\P{N})(\p{P})").ok()), r"\1 \2 "),
    (LazyLock::new(|| regex::compile(r"(\p{P})(\P{N})").ok()), r" \1 \2"),
    (LazyLock::new(|| regex::compile(r"(\p{S})").ok()), r" \1 "),
];

impl Tokenizer {
    fn words(self, text: &str) -> Vec<String> {
        let text = text.trim_end_matches(crate::python::is_space);
        let (mut text, steps): (String, &[Step]) = match self {
            Tokenizer::Mteval13a => {
                let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
                for (entity, sign) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
                    text = text.replace(entity, sign);
                }
                (format!(" {text} "), &MTEVAL)
            }
            Tokenizer::International => (text.to_string(), &INTERNATIONAL),
        };
        for (pattern, by) in steps {
            if let Some(replaced) = pattern.as_ref().and_then(|pattern| regex::substitute(pattern, by, &text, 0).ok()) {
                text = replaced;
            }
        }
        text.split(crate::python::is_space).filter(|word| !word.is_empty()).map(String::from).collect()
    }
}

fn ngrams(words: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for ngram in words.windows(n) {
        *counts.entry(ngram).or_insert(0) += 1;
    }
    counts
}

/// Matches and totals of n-grams, n from 1 to 4; words of the answer, and of the reference nearest in length.
pub(super) fn statistics(answer: &str, references: &[&str], tokenizer: Tokenizer) -> Vec<f64> {
    let words = tokenizer.words(answer);
    let references: Vec<Vec<String>> = references.iter().map(|reference| tokenizer.words(reference)).collect();
    let mut row = vec![0.0; 2 * ORDER + 2];
    for n in 1..=ORDER {
        let wanted: Vec<HashMap<&[String], usize>> = references.iter().map(|words| ngrams(words, n)).collect();
        for (ngram, count) in ngrams(&words, n) {
            let most = wanted.iter().filter_map(|counts| counts.get(ngram)).max().copied().unwrap_or(0);
            row[n - 1] += count.min(most) as f64;
            row[ORDER + n - 1] += count as f64;
        }
    }
    row[2 * ORDER] = words.len() as f64;
    let nearest = references.iter().map(Vec::len).min_by_key(|&length| (length.abs_diff(words.len()), length));
    row[2 * ORDER + 1] = nearest.unwrap_or(0) as f64;
    row
}

/// From 0 to 100. A precision of zero counts as half, a quarter, … of one match.
pub(super) fn score(sums: &[f64]) -> f64 {
    let (matches, totals) = (&sums[..ORDER], &sums[ORDER..2 * ORDER]);
    let (words, wanted) = (sums[2 * ORDER], sums[2 * ORDER + 1]);
    // Without n-grams of some length the mean is that of a zero.
    if matches.iter().all(|&count| count == 0.0) || totals.contains(&0.0) {
        return 0.0;
    }
    let mut smoothing = 1.0;
    let logarithms = matches.iter().zip(totals).map(|(&matches, &total)| {
        if matches > 0.0 {
            return (100.0 * matches / total).ln();
        }
        smoothing *= 2.0;
        (100.0 / (smoothing * total)).ln()
    });
    let mean = logarithms.sum::<f64>() / ORDER as f64;
    let penalty = if words < wanted { (1.0 - wanted / words).exp() } else { 1.0 };
    penalty * mean.exp()
}

/// The BLEU of answers, each with its references.
pub(crate) fn corpus_bleu<'a>(pairs: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>, tokenizer: Tokenizer) -> f64 {
    let mut sums = vec![0.0; 2 * ORDER + 2];
    for (answer, references) in pairs {
        let row = statistics(answer, &references, tokenizer);
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    score(&sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_sacrebleu() {
        // sacrebleu 2.6.0: corpus_bleu([answer], [[reference]], tokenize=…).score; see tests/data/corpus.py.
        let cases: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/corpus.json")).unwrap();
        for case in cases["bleu"].as_array().unwrap() {
            let text = |key: &str| case[key].as_str().unwrap();
            for (key, tokenizer) in [("13a", Tokenizer::Mteval13a), ("intl", Tokenizer::International)] {
                let found = corpus_bleu([(text("answer"), vec![text("reference")])], tokenizer);
                let expected = case[key].as_f64().unwrap();
                // Four logarithms and an exponential.
                assert!((found - expected).abs() < 1e-10, "{case}: {found}");
            }
        }
    }
}
