//! The rule on simulated zoos, with the candidates that perfect routing gives: how often is more than one model chosen
//! where all are equally good, and where each task has a specialist?

use glue_eval::decision::{ALPHA, Contender, TaskOutcome, decide};
use glue_eval::routing::prune_path;
use glue_tensor::random;

/// Zoos drawn for each setting.
const DRAWS: u64 = 200;

/// Random bits, 16 at a time.
struct Bits {
    seed: u64,
    drawn: u64,
}

impl Bits {
    /// A number from 0 to 1, in steps of 2⁻¹⁶.
    fn uniform(&mut self) -> f64 {
        let bits = random::at(self.seed, self.drawn / 4) >> (self.drawn % 4 * 16) & 0xFFFF;
        self.drawn += 1;
        bits as f64 / 65_536.0
    }

    /// A number with mean 0 and variance 1, nearly normal.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// The scores of each model, task by task and item by item.
type Scores = Vec<Vec<Vec<f64>>>;

/// What a zoo is like.
#[derive(Debug, Clone)]
struct Setting {
    models: usize,
    /// Items of each task; half of them are for the search.
    items: Vec<usize>,
    /// Fraction of the items on which all models of the same skill give the same answer.
    agreement: f64,
    /// What a model is better by in its own task: model m in task m, modulo the number of tasks.
    gain: f64,
}

impl Setting {
    fn new(models: usize, tasks: usize, items: usize, agreement: f64, gain: f64) -> Setting {
        Setting { models, items: vec![items; tasks], agreement, gain }
    }

    /// A zoo of models that are right on 65 % of the items.
    fn draw(&self, seed: u64) -> Scores {
        let tasks = self.items.len();
        let mut bits = Bits { seed: random::mix(seed), drawn: 0 };
        let mut scores: Scores =
            (0..self.models).map(|_| self.items.iter().map(|&n| Vec::with_capacity(n)).collect()).collect();
        for (task, &items) in self.items.iter().enumerate() {
            for _ in 0..items {
                let shared = (bits.uniform() < self.agreement).then(|| bits.uniform());
                for (model, scores) in scores.iter_mut().enumerate() {
                    let skill = 0.65 + if model % tasks == task { self.gain } else { 0.0 };
                    let luck = shared.unwrap_or_else(|| bits.uniform());
                    scores[task].push(f64::from(u8::from(luck < skill)));
                }
            }
        }
        scores
    }

    /// How many models are chosen for each of the zoos.
    fn chosen(&self) -> Vec<usize> {
        (0..DRAWS).map(|seed| chosen(&self.draw(seed), &[], seed)).collect()
    }
}

fn mean(items: &[f64]) -> f64 {
    items.iter().sum::<f64>() / items.len() as f64
}

fn outcome(items: &[f64]) -> TaskOutcome<'_> {
    TaskOutcome { value: mean(items), items, n: items.len() }
}

/// How many models the rule chooses: candidates by the first half of the items, the decision by the second.
fn chosen(scores: &Scores, weights: &[f64], seed: u64) -> usize {
    let half = |items: &Vec<f64>| mean(&items[..items.len() / 2]);
    let search: Vec<Vec<f64>> = scores.iter().map(|tasks| tasks.iter().map(half).collect()).collect();
    let outcomes: Vec<Vec<TaskOutcome<'_>>> =
        scores.iter().map(|tasks| tasks.iter().map(|items| outcome(&items[items.len() / 2..])).collect()).collect();
    let path = prune_path(&search, weights);
    let (single, mixtures) = path.split_last().expect("a model");
    let incumbent = Contender { complexity: (0, 1), tasks: single.outcomes(&outcomes) };
    let challengers: Vec<Contender<'_>> = mixtures
        .iter()
        .map(|route| Contender { complexity: (3, route.experts.len() as u64), tasks: route.outcomes(&outcomes) })
        .collect();
    decide(&incumbent, &challengers, weights, ALPHA, seed).winner.map_or(1, |winner| mixtures[winner].experts.len())
}

/// The number of successes in `n` trials of chance `p` that is exceeded with a chance of at most `tail`.
fn upper_end(n: usize, p: f64, tail: f64) -> usize {
    let mut term = (1.0 - p).powi(n as i32);
    let mut below = term;
    let mut k = 0;
    while 1.0 - below > tail {
        k += 1;
        term *= (n - k + 1) as f64 / k as f64 * p / (1.0 - p);
        below += term;
    }
    k
}

/// Checks that more than one model is chosen in at most 5 % of the draws of any setting and of all together, as far as
/// chance tells: a rule that keeps to 5 % exactly fails in one of a hundred tests.
fn check_null(settings: &[(String, Vec<usize>)]) {
    let wrong = |chosen: &[usize]| chosen.iter().filter(|&&models| models > 1).count();
    let each = upper_end(DRAWS as usize, 0.05, 0.005 / settings.len() as f64);
    let together = upper_end(DRAWS as usize * settings.len(), 0.05, 0.005);
    for (setting, chosen) in settings {
        assert!(wrong(chosen) <= each, "{setting}: {} of {DRAWS}, at most {each}", wrong(chosen));
    }
    let sum: usize = settings.iter().map(|(_, chosen)| wrong(chosen)).sum();
    assert!(sum <= together, "{sum} in all, at most {together}");
}

fn check_null_zoos(agreement: f64) {
    let mut settings = Vec::new();
    for models in [4, 8, 16] {
        for tasks in [5, 20] {
            for items in [100, 400] {
                let setting = Setting::new(models, tasks, items, agreement, 0.0);
                settings.push((format!("{setting:?}"), setting.chosen()));
            }
        }
    }
    check_null(&settings);
}

#[test]
fn one_of_equally_good_models_is_chosen() {
    check_null_zoos(0.0);
}

#[test]
fn one_of_equally_good_models_that_mostly_agree_is_chosen() {
    check_null_zoos(0.7);
}

#[test]
fn one_of_equally_good_models_is_chosen_whatever_the_tasks_are_like() {
    let unequal = Setting { models: 8, items: vec![164, 10_000], agreement: 0.5, gain: 0.0 };
    let mut settings = vec![(format!("{unequal:?}"), unequal.chosen())];
    for weights in [[1.0, 1.0, 1.0], [1.0, 1.0, 8.0]] {
        let fractions = Setting::new(8, 2, 400, 0.5, 0.0);
        let chosen = |seed| {
            let mut scores = fractions.draw(seed);
            texts(&mut scores, 0.0, seed);
            chosen(&scores, &weights, seed)
        };
        settings.push((format!("texts, {weights:?}"), (0..DRAWS).map(chosen).collect()));
    }
    check_null(&settings);
}

/// Adds a task of 100 texts: −bits per byte, in which models differ much less than texts do. The first model is better
/// by `gain`.
fn texts(scores: &mut Scores, gain: f64, seed: u64) {
    let mut bits = Bits { seed: random::mix(!seed), drawn: 0 };
    let difficulty: Vec<f64> = (0..100).map(|_| 1.0 + 0.3 * bits.normal()).collect();
    for (model, scores) in scores.iter_mut().enumerate() {
        let gain = if model == 0 { gain } else { 0.0 };
        scores.push(difficulty.iter().map(|text| gain - text - 0.03 * bits.normal()).collect());
    }
}

/// Checks that a mixture is made of at least 90 % of zoos with one specialist per task, five points better than the
/// others.
fn check_power(tasks: usize, items: usize, agreement: f64) {
    let setting = Setting::new(tasks, tasks, items, agreement, 0.05);
    let power = setting.chosen().iter().filter(|&&models| models > 1).count() as f64 / DRAWS as f64;
    assert!(power >= 0.9, "{setting:?}: {power}");
}

#[test]
fn specialists_are_mixed() {
    // Two models differ in 12, 19 and 23 % of the answers.
    check_power(5, 400, 0.75);
    check_power(10, 400, 0.6);
    check_power(20, 400, 0.5);
    // In 45 %: nothing in common.
    check_power(5, 1600, 0.0);
    check_power(20, 800, 0.0);
}

#[test]
fn a_specialist_for_texts_is_mixed_in() {
    // Bits per byte, of which the same text differs by 0.042 between two models.
    let setting = Setting::new(4, 2, 400, 0.5, 0.0);
    let chosen = |gain: f64, seed: u64| {
        let mut scores = setting.draw(seed);
        // What the first model writes better it answers worse.
        scores[0].iter_mut().for_each(|items| items.iter_mut().step_by(5).for_each(|item| *item = 0.0));
        texts(&mut scores, gain, seed);
        chosen(&scores, &[1.0, 1.0, 8.0], seed)
    };
    let mixed = (0..DRAWS).filter(|&seed| chosen(0.025, seed) > 1).count();
    assert!(mixed as f64 >= 0.9 * DRAWS as f64, "{mixed} of {DRAWS}");
}
