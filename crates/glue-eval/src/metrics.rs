//! Scores of items, their aggregation over a task, and standard errors.
//!
//! For n items with values x_i, mean m and sample standard deviation s (with n − 1):
//!
//! | aggregation | value | standard error |
//! |---|---|---|
//! | mean, of the numbers only (`nanmean`) | m | s / √n |
//! | perplexity | exp(−m) | exp(−m) · s / √n |
//! | weighted perplexity | exp(−r), r = Σa_i / Σb_i | exp(−r) · e |
//! | bits per byte | −r / ln 2 | e / ln 2 |
//!
//! with e = √(n/(n−1) · Σ(a_i − r·b_i)²) / Σb_i, the error of a ratio. All but the first are the delta method, which
//! agrees with a bootstrap for large n and, other than one, needs no random numbers. A standard error needs two items.

use crate::corpus::Corpus;
use crate::python::regex;
use crate::statistics::Estimate;
use crate::task::Function;
use fancy_regex::Regex;
use serde_json::Value;
use std::sync::Arc;

/// A metric of a task.
#[derive(Debug)]
pub(crate) struct MetricSpec {
    /// Its name in a report.
    pub(crate) name: String,
    pub(crate) metric: Metric,
    /// Of the scores of items; of what they contribute where there is a `corpus`.
    pub(crate) aggregation: Aggregation,
    /// What scores all items together.
    pub(crate) corpus: Option<Corpus>,
    /// Whether more is better, where the task says so.
    pub(crate) better: Option<bool>,
}

impl MetricSpec {
    pub(crate) fn new(name: &str, metric: Metric, aggregation: Aggregation) -> MetricSpec {
        MetricSpec { name: name.into(), metric, aggregation, corpus: None, better: None }
    }

    /// Whether more is better.
    pub(crate) fn higher_is_better(&self) -> bool {
        let falls = matches!(self.metric, Metric::Brier) || matches!(self.corpus, Some(Corpus::Ter));
        self.better.unwrap_or(self.aggregation.higher_is_better() && !falls)
    }

    /// The best that an item can give.
    pub(crate) fn at_best(&self) -> f64 {
        match &self.metric {
            Metric::Brier => 0.0,
            _ if self.is_share() => 1.0,
            Metric::LogLikelihood | Metric::PerToken | Metric::PerWord | Metric::PerByte => 0.0,
            _ if self.higher_is_better() => f64::INFINITY,
            _ => f64::NEG_INFINITY,
        }
    }

    /// Whether each item gives a number from 0 to 1, where more is better.
    pub(crate) fn is_share(&self) -> bool {
        self.corpus.is_none() && self.metric.is_share()
    }
}

/// How one item is scored.
#[derive(Debug)]
pub(crate) enum Metric {
    /// Is the most likely choice right?
    Acc,
    /// The same, with log-likelihoods divided by the number of characters of the choice.
    AccNorm,
    /// The same, divided by the number of bytes.
    AccBytes,
    /// The same, less the log-likelihood without context.
    AccMutualInfo,
    /// Is the answer equal to a target, or every token of the right choice the most likely one?
    ExactMatch(Comparison),
    /// The log-likelihood of the target.
    LogLikelihood,
    /// Log-likelihood and number of tokens.
    PerToken,
    /// Log-likelihood and number of words.
    PerWord,
    /// Log-likelihood and number of bytes.
    PerByte,
    /// The chance that one of `k` answers passes its tests.
    PassAt(usize),
    /// The squared distance of the probabilities of the choices from those of certainty.
    Brier,
    /// The right choice and the one taken, or a reference and an answer, for a score of all items together.
    Pair,
    /// The right choice and the log-likelihoods of all, for a function of all items.
    Likelihoods,
    /// What the function that scores items gives under this name.
    Named(String),
    /// What a function gives for a reference and an answer, with these options.
    Function(Arc<Function>, Vec<(String, Value)>),
}

/// From the scores of items to that of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aggregation {
    Mean,
    /// Of the numbers among the values: NaN where there is none.
    NanMean,
    Median,
    Perplexity,
    WeightedPerplexity,
    BitsPerByte,
}

impl Aggregation {
    pub(crate) const ALL: &'static [(&'static str, Aggregation)] = &[
        ("mean", Aggregation::Mean),
        ("nanmean", Aggregation::NanMean),
        ("median", Aggregation::Median),
        ("perplexity", Aggregation::Perplexity),
        ("weighted_perplexity", Aggregation::WeightedPerplexity),
        ("bits_per_byte", Aggregation::BitsPerByte),
    ];

    /// Whether it takes pairs of sum and weight.
    pub(crate) fn is_weighted(self) -> bool {
        matches!(self, Aggregation::WeightedPerplexity | Aggregation::BitsPerByte)
    }

    /// Whether more is better. Perplexities are better when low.
    pub(crate) fn higher_is_better(self) -> bool {
        matches!(self, Aggregation::Mean | Aggregation::NanMean | Aggregation::Median)
    }
}

impl Metric {
    /// Whether an item gives a sum and its weight.
    pub(crate) fn is_weighted(&self) -> bool {
        matches!(self, Metric::PerToken | Metric::PerWord | Metric::PerByte)
    }

    /// Whether an item gives the likelihood of a text.
    pub(crate) fn is_likelihood(&self) -> bool {
        self.is_weighted() || matches!(self, Metric::LogLikelihood)
    }

    /// Whether an item gives a number from 0 to 1, where more is better.
    pub(crate) fn is_share(&self) -> bool {
        match self {
            Metric::Named(name) => name.starts_with("acc") || matches!(name.as_str(), "exact_match" | "em"),
            Metric::LogLikelihood | Metric::Brier | Metric::Pair | Metric::Likelihoods | Metric::Function(..) => false,
            _ => !self.is_weighted(),
        }
    }
}

/// The score of one item: a number with weight 1, or a sum with its weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    pub(crate) sum: f64,
    pub(crate) weight: f64,
}

impl From<f64> for Score {
    fn from(sum: f64) -> Score {
        Score { sum, weight: 1.0 }
    }
}

impl From<bool> for Score {
    fn from(right: bool) -> Score {
        f64::from(u8::from(right)).into()
    }
}

impl Aggregation {
    /// The score of a task. `scores` must not be empty. An infinite value has no standard error.
    pub(crate) fn of(self, scores: &[Score]) -> Estimate {
        let ratio = ratio(scores);
        let Estimate { value, stderr } = match self {
            Aggregation::Mean => ratio,
            Aggregation::NanMean => {
                let numbers: Vec<Score> = scores.iter().copied().filter(|score| !score.sum.is_nan()).collect();
                self::ratio(&numbers)
            }
            Aggregation::Median => {
                let mut sorted: Vec<f64> = scores.iter().map(|score| score.sum).collect();
                sorted.sort_by(f64::total_cmp);
                Estimate { value: sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN), stderr: None }
            }
            Aggregation::Perplexity | Aggregation::WeightedPerplexity => {
                let value = (-ratio.value).exp();
                Estimate { value, stderr: ratio.stderr.map(|stderr| value * stderr) }
            }
            Aggregation::BitsPerByte => {
                let per_bit = std::f64::consts::LN_2;
                Estimate { value: -ratio.value / per_bit, stderr: ratio.stderr.map(|stderr| stderr / per_bit) }
            }
        };
        Estimate { value, stderr: stderr.filter(|stderr| value.is_finite() && stderr.is_finite()) }
    }
}

impl Aggregation {
    /// What each item contributes to the value: their mean is the value, and their standard error that of the value
    /// (less, where items without a number contribute the mean). Empty for a median.
    pub(crate) fn contributions(self, scores: &[Score]) -> Vec<f64> {
        let (value, r) = (self.of(scores).value, ratio(scores).value);
        let slope = match self {
            Aggregation::Mean => return scores.iter().map(|score| score.sum).collect(),
            Aggregation::NanMean => {
                let or_mean = |score: &Score| if score.sum.is_nan() { value } else { score.sum };
                return scores.iter().map(or_mean).collect();
            }
            Aggregation::Median => return Vec::new(),
            Aggregation::Perplexity | Aggregation::WeightedPerplexity => -value,
            Aggregation::BitsPerByte => -std::f64::consts::LN_2.recip(),
        };
        let n = scores.len() as f64;
        let weight: f64 = scores.iter().map(|score| score.weight).sum();
        scores.iter().map(|score| value + slope * (score.sum - r * score.weight) * n / weight).collect()
    }
}

/// Sum over weight. With weights of 1 this is the mean, and its error that of a mean.
fn ratio(scores: &[Score]) -> Estimate {
    let n = scores.len() as f64;
    let weight: f64 = scores.iter().map(|score| score.weight).sum();
    let value = scores.iter().map(|score| score.sum).sum::<f64>() / weight;
    let squares: f64 = scores.iter().map(|score| (score.sum - value * score.weight).powi(2)).sum();
    let stderr = (scores.len() > 1).then(|| (n / (n - 1.0) * squares).sqrt() / weight);
    Estimate { value, stderr }
}

/// The index of the largest value, the first one where there are several. `None` if there is none, or a NaN.
pub(crate) fn argmax(values: impl IntoIterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, value) in values.into_iter().enumerate() {
        if value.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, other)| value > other) {
            best = Some((i, value));
        }
    }
    best.map(|(i, _)| i)
}

/// How many words a text has: pieces between white space, those at both ends counted even when empty.
pub(crate) fn count_words(text: &str) -> usize {
    let mut pieces = 1;
    let mut in_space = false;
    for c in text.chars() {
        let space = crate::python::is_space(c);
        pieces += usize::from(space && !in_space);
        in_space = space;
    }
    pieces
}

/// What is left out of account when an answer is compared with a target, in this order.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) ignore: Vec<Regex>,
    pub(crate) ignore_case: bool,
    pub(crate) ignore_punctuation: bool,
    pub(crate) ignore_numbers: bool,
}

impl Comparison {
    /// Whether the two are equal.
    ///
    /// # Errors
    /// When a pattern runs for ever.
    pub(crate) fn equal(&self, answer: &str, target: &str) -> Result<bool, String> {
        Ok(self.reduce(answer)? == self.reduce(target)?)
    }

    fn reduce(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_string();
        for pattern in &self.ignore {
            text = regex::substitute(pattern, "", &text, 0)?;
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        text.retain(|c| {
            !(self.ignore_punctuation && c.is_ascii_punctuation() || self.ignore_numbers && c.is_ascii_digit())
        });
        // An array of texts, which is what the harness compares, drops NUL at the end.
        Ok(text.trim_end_matches('\0').to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64) {
        // Sums of a few numbers near 1 differ by their rounding at most.
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-12), "{found:?}, expected {expected}");
    }

    #[test]
    fn means_and_their_errors_by_hand() {
        let scores: Vec<Score> = [true, false, true, true].map(Score::from).to_vec();
        let mean = Aggregation::Mean.of(&scores);
        close(Some(mean.value), 0.75);
        // s² = (3 · 1/16 + 9/16) / 3 = 1/4, so that s / √4 = 1/4.
        close(mean.stderr, 0.25);
        assert_eq!(Aggregation::Mean.of(&scores[..1]), Estimate { value: 1.0, stderr: None });
        assert_eq!(Aggregation::Median.of(&[3.0.into(), 1.0.into(), 2.0.into()]).value, 2.0);
    }

    #[test]
    fn perplexities_and_their_errors_by_hand() {
        let scores = [Score::from(-1.0), Score::from(-2.0), Score::from(-3.0)];
        let perplexity = Aggregation::Perplexity.of(&scores);
        close(Some(perplexity.value), 2f64.exp());
        close(perplexity.stderr, 2f64.exp() / 3f64.sqrt());

        let texts = [Score { sum: -6.0, weight: 2.0 }, Score { sum: -2.0, weight: 2.0 }];
        // r = −8/4 = −2; residuals −2 and 2; e = √(2/1 · 8) / 4 = 1.
        let perplexity = Aggregation::WeightedPerplexity.of(&texts);
        close(Some(perplexity.value), 2f64.exp());
        close(perplexity.stderr, 2f64.exp());
        let bits = Aggregation::BitsPerByte.of(&texts);
        close(Some(bits.value), 2.0 / 2f64.ln());
        close(bits.stderr, 1.0 / 2f64.ln());
    }

    #[test]
    fn contributions_have_the_value_as_their_mean_and_its_error() {
        let scores: Vec<Score> =
            (0..9).map(|i| Score { sum: -f64::from(i * i % 7), weight: f64::from(1 + i % 4) }).collect();
        for aggregation in [Aggregation::WeightedPerplexity, Aggregation::BitsPerByte] {
            let found: Vec<Score> = aggregation.contributions(&scores).into_iter().map(Score::from).collect();
            let (found, expected) = (Aggregation::Mean.of(&found), aggregation.of(&scores));
            close(Some(found.value), expected.value);
            close(found.stderr, expected.stderr.unwrap());
        }
        assert_eq!(Aggregation::Mean.contributions(&[0.1.into(), 0.7.into()]), [0.1, 0.7]);
    }

    #[test]
    fn the_delta_method_agrees_with_a_bootstrap() {
        // numpy, 200000 resamples of these 40 pairs: `a = -(b * (1 + 0.3 * sin(i)))`, `b = 5 + i % 7`, gave 0.0946 for
        // the standard deviation of exp(-sum(a) / sum(b)).
        let texts: Vec<Score> = (0..40)
            .map(|i| {
                let weight = f64::from(5 + i % 7);
                Score { sum: -(weight * (1.0 + 0.3 * f64::from(i).sin())), weight }
            })
            .collect();
        let stderr = Aggregation::WeightedPerplexity.of(&texts).stderr.unwrap();
        // A bootstrap of 40 items is itself right to some percent.
        assert!((stderr / BOOTSTRAP - 1.0).abs() < 0.05, "{stderr}");
    }

    const BOOTSTRAP: f64 = 0.0946;

    #[test]
    fn ties_go_to_the_first_and_nan_to_none() {
        assert_eq!(argmax([1.0, 3.0, 3.0]), Some(1));
        assert_eq!(argmax([f64::NEG_INFINITY, f64::NEG_INFINITY]), Some(0));
        assert_eq!(argmax([1.0, f64::NAN]), None);
        assert_eq!(argmax([]), None);
    }

    #[test]
    fn words_are_counted_as_re_split_does() {
        // len(re.split(r"\s+", text))
        for (text, expected) in [("", 1), ("a", 1), ("a b", 2), (" a  b\n", 4), ("a\u{a0}b", 2)] {
            assert_eq!(count_words(text), expected, "{text:?}");
        }
    }

    #[test]
    fn comparisons_ignore_what_they_are_told_to() {
        let plain = Comparison::default();
        assert!(plain.equal("a b", "a b").unwrap() && !plain.equal("A b", "a b").unwrap());
        let loose = Comparison {
            ignore: vec![regex::compile(",").unwrap(), regex::compile(r"\$").unwrap()],
            ignore_case: true,
            ignore_punctuation: true,
            ignore_numbers: true,
        };
        assert!(loose.equal("$1,000 Dollars!", "dollars2").is_ok_and(|equal| !equal));
        assert!(loose.equal("$1,000Dollars!", "dollars2").unwrap());
    }
}
