//! The choice of the next token from the model's scores.
//!
//! The order is that of the logits processors of transformers: repetition penalty (Keskar et al. 2019,
//! arXiv:1909.05858), temperature, top-k (Fan et al. 2018, arXiv:1805.04833), top-p (Holtzman et al. 2019,
//! arXiv:1904.09751), min-p (Nguyen et al. 2024, arXiv:2407.01082). Each one sees the distribution that the one before
//! it left.

use glue_tensor::random::{GOLDEN, at, mix};
use rand::Rng;
use rand_pcg::Pcg64;
use std::collections::BTreeSet;

/// How the next token is chosen. The default is greedy: the token of the highest score, of the lowest id among equals.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Sampling temperature: logits are divided by it. 0, the default, is greedy, and then only the repetition penalty
    /// counts of what follows.
    pub temperature: f32,
    /// Only the `k` tokens of the highest scores stay, and those that equal the last of them. 0 and `None`, the
    /// default, keep all.
    pub top_k: Option<usize>,
    /// Only the most probable tokens stay, up to and with the one by which their probabilities sum to at least `p`;
    /// within [0, 1]. At least one stays. 1 and `None`, the default, keep all.
    pub top_p: Option<f32>,
    /// Only tokens of at least `p` times the highest probability stay; within [0, 1]. Default: `None`, all stay.
    pub min_p: Option<f32>,
    /// Scores of tokens that occur in the prompt or in what was generated are divided by it where they are positive,
    /// and multiplied where they are negative; above 0. Default: 1, no penalty.
    pub repetition_penalty: f32,
    /// What the random numbers follow from. Default: 0.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Why a token cannot be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A parameter is out of its range.
    #[error("{name} is {found}, expected {expected}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// The value given.
        found: f32,
        /// The range.
        expected: &'static str,
    },
    /// The model gave a score that is not a number, or positive infinity, or nothing but negative infinity.
    #[error("the score of token {token} is {found}; no token can be chosen")]
    Score {
        /// The token.
        token: usize,
        /// Its score.
        found: f32,
    },
    /// There are no scores.
    #[error("no scores to choose a token from")]
    NoScores,
}

impl Sampling {
    /// Checks every parameter against its range.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`] for the first one that is not within it.
    pub fn check(&self) -> Result<(), SamplingError> {
        let within_one = |value: Option<f32>| value.is_none_or(|value| (0.0..=1.0).contains(&value));
        let positive = |value: f32| value.is_finite() && value > 0.0;
        let checks = [
            ("temperature", self.temperature, self.temperature == 0.0 || positive(self.temperature), "a number from 0"),
            ("top_p", self.top_p.unwrap_or(1.0), within_one(self.top_p), "a number from 0 to 1"),
            ("min_p", self.min_p.unwrap_or(0.0), within_one(self.min_p), "a number from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty, positive(self.repetition_penalty), "a number above 0"),
        ];
        match checks.into_iter().find(|(_, _, good, _)| !good) {
            Some((name, found, _, expected)) => Err(SamplingError::OutOfRange { name, found, expected }),
            None => Ok(()),
        }
    }
}

/// Chooses the tokens of one sequence, one after the other.
///
/// Its random numbers are a function of the seed and of the two numbers that it is made with, and each choice takes one
/// of them, so that they do not depend on what else is generated.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: Pcg64,
    seen: BTreeSet<u32>,
    adjusted: Vec<f32>,
}

impl Sampler {
    /// A sampler for sample number `sample` of prompt number `prompt`. `tokens` are those of the prompt, which the
    /// repetition penalty counts.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: &Sampling, prompt: u64, sample: u64, tokens: &[u32]) -> Result<Sampler, SamplingError> {
        sampling.check()?;
        let seen = if sampling.repetition_penalty == 1.0 { BTreeSet::new() } else { tokens.iter().copied().collect() };
        let random = generator(sampling.seed, prompt, sample);
        Ok(Sampler { sampling: sampling.clone(), random, seen, adjusted: Vec::new() })
    }

    /// The next token, from a score per token.
    ///
    /// # Errors
    /// [`SamplingError::Score`], [`SamplingError::NoScores`]
    pub fn next(&mut self, scores: &[f32]) -> Result<u32, SamplingError> {
        let penalised = self.sampling.repetition_penalty != 1.0;
        let mut adjusted = std::mem::take(&mut self.adjusted);
        let scores = if penalised {
            penalise(scores, &self.seen, self.sampling.repetition_penalty, &mut adjusted)
        } else {
            scores
        };
        // Drawn in any case, so that the number of a step does not depend on the steps before.
        let random = uniform(self.random.next_u64());
        let token = choose(scores, &self.sampling, random);
        self.adjusted = adjusted;
        if let (Ok(token), true) = (&token, penalised) {
            self.seen.insert(*token);
        }
        token
    }
}

fn penalise<'a>(scores: &[f32], seen: &BTreeSet<u32>, penalty: f32, adjusted: &'a mut Vec<f32>) -> &'a [f32] {
    adjusted.clear();
    adjusted.extend_from_slice(scores);
    for &token in seen {
        if let Some(score) = adjusted.get_mut(token as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
    adjusted
}

fn choose(scores: &[f32], sampling: &Sampling, random: f64) -> Result<u32, SamplingError> {
    let best = argmax(scores)?;
    if sampling.temperature == 0.0 {
        return Ok(best as u32);
    }
    let highest = f64::from(scores[best]);
    let temperature = f64::from(sampling.temperature);
    let lowest_kept = match sampling.top_k {
        Some(k) if k > 0 && k < scores.len() => kth_highest(scores, k),
        _ => f32::NEG_INFINITY,
    };
    // Relative to the most probable token, so that none overflows.
    let weight = |score: f32| ((f64::from(score) - highest) / temperature).exp();
    let kept = scores.iter().zip(0..).filter(|(score, _)| **score >= lowest_kept);
    let mut tokens: Vec<(u32, f64)> = kept.map(|(&score, token)| (token, weight(score))).collect();
    if let Some(p) = sampling.top_p.filter(|&p| p < 1.0) {
        keep_top_p(&mut tokens, f64::from(p));
    }
    if let Some(p) = sampling.min_p {
        tokens.retain(|&(_, weight)| weight >= f64::from(p));
    }
    let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    Ok(pick(&tokens, random * total).unwrap_or(best as u32))
}

/// The token at which the running sum of weights exceeds `target`.
fn pick(tokens: &[(u32, f64)], target: f64) -> Option<u32> {
    let mut sum = 0.0;
    let reached = |&&(_, weight): &&(u32, f64)| {
        sum += weight;
        sum > target
    };
    let found = tokens.iter().find(reached);
    // Rounding may leave the target at the sum itself; a token without weight is never chosen.
    found.or_else(|| tokens.iter().rev().find(|(_, weight)| *weight > 0.0)).map(|(token, _)| *token)
}

/// The index of the highest score, the lowest one among equals.
fn argmax(scores: &[f32]) -> Result<usize, SamplingError> {
    /// Scores that are looked at together: their NaNs and their highest, in lanes.
    const BLOCK: usize = 1024;
    const LANES: usize = 16;
    let mut best = 0;
    for (block, scores_of) in scores.chunks(BLOCK).enumerate() {
        let mut highest = [f32::NEG_INFINITY; LANES];
        let mut is_nan = [false; LANES];
        for part in scores_of.chunks(LANES) {
            for ((highest, is_nan), &score) in highest.iter_mut().zip(&mut is_nan).zip(part) {
                *highest = highest.max(score);
                *is_nan |= score.is_nan();
            }
        }
        let first = block * BLOCK;
        if is_nan.contains(&true)
            && let Some(token) = scores_of.iter().position(|score| score.is_nan())
        {
            return Err(SamplingError::Score { token: first + token, found: scores_of[token] });
        }
        let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if highest > scores[best]
            && let Some(token) = scores_of.iter().position(|&score| score == highest)
        {
            best = first + token;
        }
    }
    match scores.get(best) {
        None => Err(SamplingError::NoScores),
        Some(score) if score.is_infinite() => Err(SamplingError::Score { token: best, found: *score }),
        Some(_) => Ok(best),
    }
}

fn kth_highest(scores: &[f32], k: usize) -> f32 {
    let mut scores = scores.to_vec();
    *scores.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Keeps the tokens of the highest weights, in that order, as long as those before them sum to less than `p` of all.
/// Among equals the lower id comes first. Sorts no more than it needs, by a part that doubles.
fn keep_top_p(tokens: &mut Vec<(u32, f64)>, p: f64) {
    const FIRST_PART: usize = 64;
    let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let target = p * tokens.iter().map(|(_, weight)| weight).sum::<f64>();
    let (mut sorted, mut part) = (0, FIRST_PART);
    let mut sum = 0.0;
    while sorted < tokens.len() {
        let end = part.min(tokens.len());
        if end < tokens.len() {
            tokens[sorted..].select_nth_unstable_by(end - sorted - 1, order);
        }
        tokens[sorted..end].sort_unstable_by(order);
        for index in sorted..end {
            if index > 0 && sum >= target {
                tokens.truncate(index);
                return;
            }
            sum += tokens[index].1;
        }
        sorted = end;
        part *= 2;
    }
}

/// A generator whose state and sequence follow from all three numbers, so that neighbouring ones have nothing in
/// common.
fn generator(seed: u64, prompt: u64, sample: u64) -> Pcg64 {
    let mut state = 0;
    let mut word = |value: u64| {
        state = mix(state ^ at(value, 0)).wrapping_add(GOLDEN);
        u128::from(mix(state))
    };
    let (a, b, c, d) = (word(seed), word(prompt), word(sample), word(0));
    // A draw depends on all words; the last one is a function of the three numbers.
    Pcg64::new(((a ^ c) << 64) | d, (b << 64) | c)
}

/// A number from [0, 1), of 53 bits.
fn uniform(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 40_000;

    fn sampling(temperature: f32) -> Sampling {
        Sampling { temperature, ..Sampling::default() }
    }

    fn counts(scores: &[f32], sampling: &Sampling) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling, 0, 0, &[]).unwrap();
        let mut counts = vec![0; scores.len()];
        for _ in 0..DRAWS {
            counts[sampler.next(scores).unwrap() as usize] += 1;
        }
        counts
    }

    /// Each count is within five standard deviations of its expectation: a chance of about 1 in a million per token,
    /// and the seed is fixed. A token of probability 0 never occurs.
    fn check(scores: &[f32], sampling: &Sampling, probabilities: &[f64]) {
        for (token, (&count, &p)) in counts(scores, sampling).iter().zip(probabilities).enumerate() {
            let expected = p * DRAWS as f64;
            let bound = 5.0 * (expected * (1.0 - p)).sqrt();
            assert!(
                (count as f64 - expected).abs() <= bound,
                "token {token}: {count}, expected {expected} in {sampling:?}"
            );
        }
    }

    fn softmax(scores: &[f64]) -> Vec<f64> {
        let sum: f64 = scores.iter().map(|score| score.exp()).sum();
        scores.iter().map(|score| score.exp() / sum).collect()
    }

    const SCORES: [f32; 6] = [1.0, 3.0, 0.5, 2.0, -1.0, 2.5];

    #[test]
    fn temperature_shapes_the_distribution() {
        for temperature in [0.5, 1.0, 2.0, 30.0] {
            let scaled: Vec<f64> = SCORES.iter().map(|&score| f64::from(score) / f64::from(temperature)).collect();
            check(&SCORES, &sampling(temperature), &softmax(&scaled));
        }
    }

    #[test]
    fn restrictions_leave_what_transformers_leaves() {
        // Made by transformers 5.23: TemperatureLogitsWarper(0.8), then the warpers below in their order with these
        // values, on SCORES, then softmax.
        let with = |top_k, top_p, min_p| Sampling { top_k, top_p, min_p, ..sampling(0.8) };
        let cases: [(Sampling, [f64; 6]); 6] = [
            (with(Some(3), None, None), [0.0, 0.548918, 0.0, 0.157268, 0.0, 0.293815]),
            (with(None, Some(0.8), None), [0.0, 0.548918, 0.0, 0.157268, 0.0, 0.293815]),
            (with(None, Some(0.5), None), [0.0, 1.000000, 0.0, 0.0, 0.0, 0.0]),
            (with(Some(4), Some(0.7), None), [0.0, 0.651355, 0.0, 0.0, 0.0, 0.348645]),
            (with(None, None, Some(0.2)), [0.0, 0.548918, 0.0, 0.157268, 0.0, 0.293815]),
            (with(Some(5), Some(0.95), Some(0.1)), [0.0, 0.548918, 0.0, 0.157268, 0.0, 0.293815]),
        ];
        for (sampling, probabilities) in cases {
            check(&SCORES, &sampling, &probabilities);
        }
    }

    #[test]
    fn equal_scores_share_the_last_place_of_top_k() {
        check(
            &[1.0, 0.0, 1.0, 1.0],
            &Sampling { top_k: Some(2), ..sampling(1.0) },
            &[1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0],
        );
        // Top-p, however, takes no more than it needs, the lower ids first.
        check(&[0.0; 4], &Sampling { top_p: Some(0.5), ..sampling(1.0) }, &[0.5, 0.5, 0.0, 0.0]);
        check(&[0.0; 4], &Sampling { top_p: Some(0.51), ..sampling(1.0) }, &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0]);
    }

    #[test]
    fn top_p_over_a_long_tail_agrees_with_sorting_all() {
        // 5000 tokens of nearly the same weight, in a shuffled order, so that many parts are needed.
        let scores: Vec<f32> = (0..5000u64).map(|i| (mix(i) % 1000) as f32 / 1000.0).collect();
        let mut all: Vec<(u32, f64)> = scores.iter().zip(0..).map(|(&s, t)| (t, f64::from(s).exp())).collect();
        for p in [0.0, 0.001, 0.2, 0.9, 0.9999] {
            let mut tokens = all.clone();
            keep_top_p(&mut tokens, p);
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let total: f64 = all.iter().map(|(_, weight)| weight).sum();
            let mut sum = 0.0;
            let before = |entry: &&(u32, f64)| {
                let keeps = sum == 0.0 || sum < p * total;
                sum += entry.1;
                keeps
            };
            let expected: Vec<(u32, f64)> = all.iter().take_while(before).copied().collect();
            // Totals are summed in another order; a token at the very edge may differ.
            assert!(tokens.len().abs_diff(expected.len()) <= 1, "{p}: {} and {}", tokens.len(), expected.len());
            assert!(tokens.iter().zip(&expected).all(|(a, b)| a == b), "{p}");
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        let mut sampler = Sampler::new(&Sampling { top_k: Some(1), ..sampling(0.0) }, 0, 0, &[]).unwrap();
        assert_eq!(sampler.next(&[0.0, 2.0, 2.0, f32::NEG_INFINITY]).unwrap(), 1);
        assert_eq!(sampler.next(&[-0.0, 0.0]).unwrap(), 0);
    }

    #[test]
    fn restrictions_to_one_token_are_greedy() {
        let one = [
            Sampling { top_k: Some(1), ..sampling(1.0) },
            Sampling { top_p: Some(0.0), ..sampling(1.0) },
            Sampling { min_p: Some(1.0), ..sampling(1.0) },
            sampling(1e-30),
        ];
        for sampling in one {
            check(&SCORES, &sampling, &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn what_keeps_all_changes_nothing() {
        let plain = counts(&SCORES, &sampling(1.0));
        let all = [
            Sampling { top_k: Some(0), ..sampling(1.0) },
            Sampling { top_k: Some(6), ..sampling(1.0) },
            Sampling { top_k: Some(99), ..sampling(1.0) },
            Sampling { top_p: Some(1.0), ..sampling(1.0) },
            Sampling { min_p: Some(0.0), ..sampling(1.0) },
        ];
        for sampling in all {
            assert_eq!(counts(&SCORES, &sampling), plain, "{sampling:?}");
        }
    }

    #[test]
    fn tokens_that_occurred_are_penalised() {
        // Scores of the prompt's tokens 1 and 4 change from 3 to 1.5 and from -1 to -2.
        let penalty = Sampling { repetition_penalty: 2.0, ..sampling(0.0) };
        let mut sampler = Sampler::new(&penalty, 0, 0, &[1, 4, 1]).unwrap();
        let chosen: Vec<u32> = (0..4).map(|_| sampler.next(&SCORES).unwrap()).collect();
        // 5 is penalised once it was chosen, to 1.25, and then 3, to 1; the 1.5 of token 1 is the highest after that.
        assert_eq!(chosen, [5, 3, 1, 1]);
        assert_eq!(penalise(&[3.0, -1.0, 5.0], &BTreeSet::from([0, 1, 7]), 2.0, &mut Vec::new()), [1.5, -2.0, 5.0]);
    }

    #[test]
    fn numbers_follow_from_seed_prompt_and_sample() {
        let draws = |seed, prompt, sample| {
            let mut sampler = Sampler::new(&Sampling { seed, ..sampling(1.0) }, prompt, sample, &[]).unwrap();
            (0..50).map(|_| sampler.next(&[0.0; 100]).unwrap()).collect::<Vec<u32>>()
        };
        let mut all = BTreeSet::new();
        for (seed, prompt, sample) in (0..64).map(|i| (i / 16, i / 4 % 4, i % 4)) {
            assert_eq!(draws(seed, prompt, sample), draws(seed, prompt, sample));
            all.insert(draws(seed, prompt, sample));
        }
        assert_eq!(all.len(), 64);
        // The first numbers of neighbouring samplers are evenly spread: chi-square with 9 degrees of freedom stays
        // below 39.4 but for 1 in 100000.
        let mut bins = [0.0; 10];
        for prompt in 0..10_000 {
            bins[(uniform(generator(7, prompt, 0).next_u64()) * 10.0) as usize] += 1.0;
        }
        let chi_square: f64 = bins.iter().map(|count: &f64| (count - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_square < 39.4, "{chi_square}");
    }

    #[test]
    fn scores_that_are_not_numbers_are_refused() {
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(&sampling(temperature), 0, 0, &[]).unwrap();
            for (scores, token) in
                [([0.0, f32::NAN, 1.0], 1), ([0.0, 1.0, f32::INFINITY], 2), ([f32::NEG_INFINITY; 3], 0)]
            {
                let error = sampler.next(&scores).unwrap_err();
                assert!(matches!(error, SamplingError::Score { token: t, .. } if t == token), "{error}");
            }
            assert_eq!(sampler.next(&[]).unwrap_err(), SamplingError::NoScores);
            assert_eq!(sampler.next(&[f32::NEG_INFINITY, 0.0]).unwrap(), 1);
        }
    }

    #[test]
    fn parameters_out_of_range_are_refused_by_name() {
        let wrong = [
            (sampling(-1.0), "temperature is -1, expected a number from 0"),
            (sampling(f32::NAN), "temperature is NaN, expected a number from 0"),
            (sampling(f32::INFINITY), "temperature is inf, expected a number from 0"),
            (Sampling { top_p: Some(1.5), ..sampling(1.0) }, "top_p is 1.5, expected a number from 0 to 1"),
            (Sampling { min_p: Some(-0.1), ..sampling(1.0) }, "min_p is -0.1, expected a number from 0 to 1"),
            (
                Sampling { repetition_penalty: 0.0, ..sampling(1.0) },
                "repetition_penalty is 0, expected a number above 0",
            ),
        ];
        for (sampling, message) in wrong {
            assert_eq!(Sampler::new(&sampling, 0, 0, &[]).unwrap_err().to_string(), message);
        }
    }
}
