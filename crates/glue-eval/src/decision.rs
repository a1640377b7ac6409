//! The one rule by which models are chosen.
//!
//! A challenger replaces the incumbent only if its gain is significant, corrected for the number of challengers; among
//! challengers that are, the simplest one stays that no other beats significantly. [`largest_gains`] is the test,
//! [`decide`] the rule.
//!
//! # The test
//! Challenger j differs from the incumbent by d_tij at item i of task t, one of n_t items. With task weights w_t that
//! sum to 1,
//!
//! - its gain is G_j = Σ_t w_t (score of the challenger − score of the incumbent);
//! - its statistic is z_j = G_j / σ_j, σ_j² = Σ_t (w_t / n_t)² Σ_i d_tij², the variance of Σ_t w_t/n_t Σ_i ±d_tij under
//!   random signs.
//!
//! If challenger and incumbent are equally good, the sign of each difference is a coin toss. The signs are drawn
//! [`DRAWS`] times, the same for all challengers, which keeps the correlation between them. The corrected p of a
//! challenger is the fraction of draws, the observed one included, whose *largest* statistic reaches z_j. With one
//! challenger it is the paired sign-flip test. This is the single-step maxT procedure of Westfall and Young
//! (*Resampling-Based Multiple Testing*, 1993); that p counts the observed draw is after Phipson and Smyth (2010,
//! arXiv 1603.05766). The chance that any challenger is accepted though none is better is at most `alpha`.
//!
//! A task whose items are not known, because another program scored it, adds a normal variable with the variance of the
//! unpaired difference to a draw. Without known standard errors either there is no test, and the incumbent stays.
//!
//! The items must not have been used to make or select the challengers: a score that was optimised is not a fair one.

use crate::statistics::fraction_stderr;
use glue_tensor::random;

/// Random signs are drawn this many times: a p of 0.05 then has a standard error of 0.005.
pub const DRAWS: usize = 1999;

/// The default level of significance.
pub const ALPHA: f64 = 0.05;

/// The score of a model in one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TaskOutcome<'a> {
    /// The score; more is better.
    pub value: f64,
    /// The score of each item; more is better. Empty if only the score is known.
    pub items: &'a [f64],
    /// Number of items.
    pub n: usize,
}

/// A gain over the incumbent, and its test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// The weighted mean over tasks of the differences of scores.
    pub value: f64,
    /// Its standard error, from the differences item by item; `None` where it is not known.
    pub stderr: Option<f64>,
    /// The p-value, corrected for the number of challengers; 1 where there is no test.
    pub p: f64,
}

/// The average gains of `challengers` over `incumbent`, over tasks, with p-values corrected for their number.
/// `weights` has the weight of each task, of any scale; empty for equal weights.
///
/// # Panics
/// If models have different numbers of tasks, or weights do not fit.
pub fn largest_gains(
    incumbent: &[TaskOutcome<'_>],
    challengers: &[Vec<TaskOutcome<'_>>],
    weights: &[f64],
    seed: u64,
) -> Vec<Gain> {
    let tasks = incumbent.len();
    assert!(weights.is_empty() || weights.len() == tasks, "a weight for each task");
    let sum: f64 = if weights.is_empty() { tasks as f64 } else { weights.iter().sum() };
    let weight = |t: usize| weights.get(t).copied().unwrap_or(1.0) / sum;
    let pairs: Vec<Pair> = challengers
        .iter()
        .map(|challenger| {
            assert_eq!(challenger.len(), tasks, "the same tasks for all models");
            Pair::new(incumbent, challenger, weight)
        })
        .collect();
    let observed: Vec<Option<f64>> = pairs.iter().map(Pair::statistic).collect();
    let mut reached = vec![1_u64; pairs.len()];
    // Challengers that do not gain, or whose gain cannot be tested, have no p below 1 whatever is drawn.
    if observed.iter().any(|z| z.is_some_and(|z| z > 0.0)) {
        let sums = signed_sums(&pairs, seed);
        for draw in 0..DRAWS {
            let drawn = |(pair, sums): (&Pair, &Vec<f64>)| pair.standardised(sums[draw]);
            let largest = pairs.iter().zip(&sums).filter_map(drawn).fold(f64::NEG_INFINITY, f64::max);
            for (reached, z) in reached.iter_mut().zip(&observed) {
                // Sums of the same terms with other signs may differ by their rounding.
                *reached += u64::from(z.is_some_and(|z| largest >= z - 1e-9));
            }
        }
    }
    let gain = |(pair, (z, reached)): (&Pair, (&Option<f64>, u64))| Gain {
        value: pair.gain,
        stderr: pair.stderr(),
        p: if z.is_some_and(|z| z > 0.0) { reached as f64 / (DRAWS as f64 + 1.0) } else { 1.0 },
    };
    pairs.iter().zip(observed.iter().zip(reached)).map(gain).collect()
}

/// A challenger and the incumbent.
struct Pair {
    gain: f64,
    /// For each task the differences item by item, times the weight of an item in the gain. Empty for a task whose
    /// items are not known.
    differences: Vec<Vec<f64>>,
    /// The variance of the gain in tasks whose items are not known; `None` if that is not known either.
    unpaired: Option<f64>,
    /// The variance of the gain under random signs.
    variance: f64,
}

impl Pair {
    fn new(old: &[TaskOutcome<'_>], new: &[TaskOutcome<'_>], weight: impl Fn(usize) -> f64) -> Pair {
        let mut gain = 0.0;
        let mut unpaired = Some(0.0);
        let mut differences = Vec::with_capacity(old.len());
        for (t, (old, new)) in old.iter().zip(new).enumerate() {
            gain += weight(t) * (new.value - old.value);
            if old.items.is_empty() || old.items.len() != new.items.len() {
                let errors = [old, new].map(|task| fraction_stderr(task.value, task.n));
                let variance = errors[0].zip(errors[1]).map(|(a, b)| weight(t).powi(2) * (a * a + b * b));
                unpaired = unpaired.zip(variance).map(|(sum, variance)| sum + variance);
                differences.push(Vec::new());
                continue;
            }
            let scale = weight(t) / old.items.len() as f64;
            differences.push(new.items.iter().zip(old.items).map(|(new, old)| scale * (new - old)).collect());
        }
        let squares: f64 = differences.iter().flatten().map(|d| d * d).sum();
        Pair { gain, differences, unpaired, variance: squares + unpaired.unwrap_or(0.0) }
    }

    /// The gain in units of its standard deviation under random signs.
    fn statistic(&self) -> Option<f64> {
        self.standardised(self.gain)
    }

    /// `sum` in units of the standard deviation under random signs; 0 without any difference. `None` where there is no
    /// test.
    fn standardised(&self, sum: f64) -> Option<f64> {
        self.unpaired?;
        Some(if self.variance > 0.0 { sum / self.variance.sqrt() } else { 0.0 })
    }

    /// The standard error of the gain: √(Σ w_t² v_t / n_t) / Σ w_t, v_t the sample variance of the n_t differences of
    /// task t.
    fn stderr(&self) -> Option<f64> {
        let of_task = |differences: &Vec<f64>| {
            let n = differences.len() as f64;
            if n < 2.0 {
                return 0.0;
            }
            let mean = differences.iter().sum::<f64>() / n;
            differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() * n / (n - 1.0)
        };
        Some((self.unpaired? + self.differences.iter().map(of_task).sum::<f64>()).sqrt())
    }
}

/// Items whose signs are drawn together: one byte has them all.
const GROUP: usize = 8;

/// For each pair the sum of its differences with random signs, draw by draw. The signs of a draw are the same for all.
///
/// The sums of a group of items are tabulated for all of its signs, so that a draw looks one number up instead of
/// adding eight.
fn signed_sums(pairs: &[Pair], seed: u64) -> Vec<Vec<f64>> {
    let mut sums: Vec<Vec<f64>> =
        (0_u64..).zip(pairs).map(|(j, pair)| normals(pair.unpaired.unwrap_or(0.0).sqrt(), seed, j)).collect();
    let mut signs = vec![0; DRAWS];
    let mut group = 0;
    for t in 0..pairs.iter().map(|pair| pair.differences.len()).max().unwrap_or(0) {
        // Mixtures that give a task to the same expert have the same differences there.
        let mut distinct: Vec<(&[f64], Vec<usize>)> = Vec::new();
        for (j, pair) in pairs.iter().enumerate() {
            let differences = &pair.differences[t][..];
            match distinct.iter_mut().find(|(other, _)| *other == differences) {
                Some((_, owners)) => owners.push(j),
                None => distinct.push((differences, vec![j])),
            }
        }
        let mut parts = vec![vec![0.0; DRAWS]; distinct.len()];
        let items = distinct.iter().map(|(differences, _)| differences.len()).max().unwrap_or(0);
        for start in (0..items).step_by(GROUP) {
            draw_signs(&mut signs, random::mix(seed ^ random::at(0x5349_474E, group)));
            group += 1;
            for ((differences, _), part) in distinct.iter().zip(&mut parts) {
                let end = differences.len().min(start + GROUP);
                let differences = differences.get(start..end).unwrap_or(&[]);
                if differences.iter().all(|&d| d == 0.0) {
                    continue;
                }
                let table = signed(differences);
                part.iter_mut().zip(&signs).for_each(|(sum, &signs)| *sum += table[usize::from(signs)]);
            }
        }
        for ((_, owners), part) in distinct.iter().zip(parts) {
            for &owner in owners {
                sums[owner].iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
            }
        }
    }
    sums
}

/// The sum of `differences`, at most [`GROUP`] of them, for each choice of signs: plus where a bit is set.
fn signed(differences: &[f64]) -> [f64; 1 << GROUP] {
    let mut table = [0.0; 1 << GROUP];
    for (signs, sum) in table.iter_mut().enumerate() {
        *sum = differences.iter().enumerate().map(|(i, d)| if signs >> i & 1 == 1 { *d } else { -d }).sum();
    }
    table
}

/// Fills `signs` with random bytes.
fn draw_signs(signs: &mut [u8], seed: u64) {
    for (chunk, index) in signs.chunks_mut(8).zip(0..) {
        chunk.copy_from_slice(&random::at(seed, index).to_le_bytes()[..chunk.len()]);
    }
}

/// Draws of a normal variable with mean 0 for the pair of number `pair`.
fn normals(deviation: f64, seed: u64, pair: u64) -> Vec<f64> {
    if deviation <= 0.0 {
        return vec![0.0; DRAWS];
    }
    let seed = random::mix(seed ^ random::at(0x4E4F_524D, pair));
    (0..DRAWS as u64).map(|draw| deviation * normal(random::at(seed, draw))).collect()
}

/// A standard normal variable, by Box and Muller (1958).
fn normal(seed: u64) -> f64 {
    let uniform = |index| ((random::at(seed, index) >> 11) as f64 + 0.5) * (-53.0_f64).exp2();
    (-2.0 * uniform(0).ln()).sqrt() * (std::f64::consts::TAU * uniform(1)).cos()
}

/// A model that may be chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Contender<'a> {
    /// How complex it is; less is simpler. By convention the kind first (single model, merge, stacked layers, mixture),
    /// then the number of parameters.
    pub complexity: (u32, u64),
    /// Its scores, task by task.
    pub tasks: Vec<TaskOutcome<'a>>,
}

/// One comparison of a ruling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The incumbent; `None` for the one that the ruling began with, else an index among the challengers.
    pub incumbent: Option<usize>,
    /// The challenger, an index.
    pub challenger: usize,
    /// Its gain over the incumbent.
    pub gain: Gain,
    /// Number of challengers that p is corrected for.
    pub challengers: usize,
    /// Whether the gain is significant.
    pub significant: bool,
}

/// What the rule decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruling {
    /// The model chosen; `None` for the incumbent, else an index among the challengers.
    pub winner: Option<usize>,
    /// The comparisons that led to it, in order: first all challengers with the incumbent, then the challenger of the
    /// highest gain with simpler ones.
    pub comparisons: Vec<Comparison>,
}

/// Applies the rule: `incumbent` stays unless a challenger gains significantly at `alpha`, corrected for the number of
/// challengers. Of those that do, the one with the highest gain wins, unless it does not significantly beat a simpler
/// one; then the simplest such challenger does.
///
/// # Panics
/// As [`largest_gains`].
pub fn decide(
    incumbent: &Contender<'_>,
    challengers: &[Contender<'_>],
    weights: &[f64],
    alpha: f64,
    seed: u64,
) -> Ruling {
    let tasks: Vec<Vec<TaskOutcome<'_>>> = challengers.iter().map(|challenger| challenger.tasks.clone()).collect();
    let gains = largest_gains(&incumbent.tasks, &tasks, weights, seed);
    let first = |(challenger, &gain): (usize, &Gain)| Comparison {
        incumbent: None,
        challenger,
        gain,
        challengers: challengers.len(),
        significant: gain.p <= alpha,
    };
    let mut comparisons: Vec<Comparison> = gains.iter().enumerate().map(first).collect();
    let mut significant: Vec<usize> = (0..challengers.len()).filter(|&j| gains[j].p <= alpha).collect();
    // Of equal gains the simpler one, then the first.
    significant.sort_by_key(|&j| challengers[j].complexity);
    let top = significant.iter().copied().reduce(|top, j| if gains[j].value > gains[top].value { j } else { top });
    let Some(top) = top else { return Ruling { winner: None, comparisons } };
    for &simpler in significant.iter().filter(|&&j| challengers[j].complexity < challengers[top].complexity) {
        let of_top = std::slice::from_ref(&tasks[top]);
        let gain = largest_gains(&tasks[simpler], of_top, weights, seed)[0];
        let significant = gain.p <= alpha;
        comparisons.push(Comparison { incumbent: Some(simpler), challenger: top, gain, challengers: 1, significant });
        if !significant {
            return Ruling { winner: Some(simpler), comparisons };
        }
    }
    Ruling { winner: Some(top), comparisons }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(items: &[f64]) -> TaskOutcome<'_> {
        let n = items.len();
        TaskOutcome { value: items.iter().sum::<f64>() / n as f64, items, n }
    }

    /// Items that differ from `right` of `n` ones.
    fn items(right: usize, n: usize) -> Vec<f64> {
        (0..n).map(|i| f64::from(u8::from(i < right))).collect()
    }

    #[test]
    fn one_pair_is_the_sign_test() {
        // Of five items that differ, all for the challenger: 1/32 of all signs are as extreme.
        let (old, new) = (items(5, 20), items(10, 20));
        let gain = largest_gains(&[outcome(&old)], &[vec![outcome(&new)]], &[], 1)[0];
        assert!((gain.value - 0.25).abs() < 1e-12);
        // √(20/19 · (5/20)(15/20)/20)
        assert!((gain.stderr.expect("an error") - (0.1875_f64 / 19.0).sqrt()).abs() < 1e-12, "{gain:?}");
        assert!((gain.p - 1.0 / 32.0).abs() < 0.015, "{gain:?}");
        // And none for a challenger that loses, or is the same.
        let back = largest_gains(&[outcome(&new)], &[vec![outcome(&old)], vec![outcome(&new)]], &[], 1);
        assert_eq!((back[0].p, back[1].p), (1.0, 1.0));
    }

    #[test]
    fn choosing_among_many_is_paid_for() {
        // Sixteen challengers that each gain five other items.
        let old = items(0, 80);
        let new: Vec<Vec<f64>> = (0..16).map(|j| (0..80).map(|i| f64::from(u8::from(i / 5 == j))).collect()).collect();
        let challengers: Vec<Vec<TaskOutcome<'_>>> = new.iter().map(|items| vec![outcome(items)]).collect();
        let one = largest_gains(&[outcome(&old)], &challengers[..1], &[], 3)[0].p;
        let many = largest_gains(&[outcome(&old)], &challengers, &[], 3)[0].p;
        // 1 − (31/32)^16 = 0.40
        assert!((one - 1.0 / 32.0).abs() < 0.015 && (many - 0.40).abs() < 0.05, "{one} {many}");
    }

    #[test]
    fn sums_are_those_of_signed_differences() {
        // Two tasks, of 13 and of 8 items; the second challenger is as the first in one of them.
        let number = |seed: u64, i: u64| (random::at(seed, i) % 7) as f64;
        let task = |seed: u64, n: u64| (0..n).map(|i| number(seed, i)).collect::<Vec<f64>>();
        let old = [task(1, 13), task(2, 8)];
        let new = [[task(3, 13), task(4, 8)], [task(3, 13), task(5, 8)]];
        let pair = |new: &[Vec<f64>; 2]| {
            let [old, new] = [&old, new].map(|tasks| [outcome(&tasks[0]), outcome(&tasks[1])]);
            Pair::new(&old, &new, |_| 0.5)
        };
        let pairs = new.each_ref().map(pair);
        let sums = signed_sums(&pairs, 9);
        // The groups of eight: the first eight items of task 0, its other five, and task 1.
        let mut signs = vec![vec![0; DRAWS]; 3];
        for (signs, group) in signs.iter_mut().zip(0..) {
            draw_signs(signs, random::mix(9 ^ random::at(0x5349_474E, group)));
        }
        for (pair, sums) in pairs.iter().zip(&sums) {
            let items = pair.differences[0].iter().chain(&pair.differences[1]);
            let places = (0..13).map(|i| (i / 8, i % 8)).chain((0..8).map(|i| (2, i)));
            let signed: Vec<(&f64, (usize, usize))> = items.zip(places).collect();
            for draw in [0, 1, 777, DRAWS - 1] {
                let sign = |(group, bit): (usize, usize)| if signs[group][draw] >> bit & 1 == 1 { 1.0 } else { -1.0 };
                let expected: f64 = signed.iter().map(|&(d, place)| sign(place) * d).sum();
                assert!((sums[draw] - expected).abs() < 1e-12, "{draw}");
            }
        }
    }

    #[test]
    fn a_small_task_is_not_drowned_by_a_large_one() {
        // Eight of 16 items lost against 30 of 1000 won: the average falls though more items are won.
        let (small_old, small_new) = (items(12, 16), items(4, 16));
        let (large_old, large_new) = (items(500, 1000), items(530, 1000));
        let old = [outcome(&small_old), outcome(&large_old)];
        let new = vec![outcome(&small_new), outcome(&large_new)];
        let equal = largest_gains(&old, std::slice::from_ref(&new), &[], 1)[0];
        assert!(equal.value < 0.0 && equal.p == 1.0, "{equal:?}");
        let weighted = largest_gains(&old, &[new], &[0.0, 2.0], 1)[0];
        assert!((weighted.value - 0.03).abs() < 1e-12 && weighted.p < 0.01, "{weighted:?}");
    }

    #[test]
    fn without_items_scores_are_compared_unpaired() {
        let bare = |value, n| TaskOutcome { value, items: &[], n };
        let p = |value, n| largest_gains(&[bare(0.5, n)], &[vec![bare(value, n)]], &[], 1)[0];
        // One standard error is 0.0707 for 100 items.
        assert!(p(0.52, 100).p > 0.3 && p(0.65, 100).p < 0.05 && p(0.52, 100_000).p < 0.01);
        assert!((p(0.5, 100).stderr.expect("an error") - 0.005_f64.sqrt()).abs() < 1e-12);
        // A perplexity has no error: nothing can be said.
        let gain = largest_gains(&[bare(-9.0, 100)], &[vec![bare(-8.0, 100)]], &[], 1)[0];
        assert_eq!((gain.p, gain.stderr), (1.0, None));
    }

    #[test]
    fn the_simplest_of_equals_is_chosen() {
        let (old, one, two) = (items(20, 100), items(60, 100), items(61, 100));
        let contender = |complexity, items| Contender { complexity, tasks: vec![outcome(items)] };
        let incumbent = contender((0, 1), &old);
        let challengers = [contender((3, 4), &two), contender((3, 2), &one), contender((0, 1), &old)];
        let ruling = decide(&incumbent, &challengers, &[], ALPHA, 7);
        assert_eq!(ruling.winner, Some(1));
        let last = ruling.comparisons.last().expect("a comparison");
        assert_eq!((last.incumbent, last.challenger, last.significant), (Some(1), 0, false));
        assert_eq!(ruling.comparisons.len(), 4);
        // Where more is significantly better, more is chosen.
        let three = items(90, 100);
        let ruling = decide(&incumbent, &[contender((3, 4), &three), contender((3, 2), &one)], &[], ALPHA, 7);
        assert_eq!(ruling.winner, Some(0));
        // And nothing where nothing is gained.
        assert_eq!(decide(&incumbent, &[contender((3, 4), &old)], &[], ALPHA, 7).winner, None);
        assert_eq!(decide(&incumbent, &[], &[], ALPHA, 7), Ruling { winner: None, comparisons: vec![] });
    }
}
