//! Differential evolution that learns its own parameters: SHADE, and L-SHADE when told over how many evaluations to
//! shrink.
//!
//! For each member x_i of the population a trial is made by current-to-pbest/1 and binomial crossover: v = x_i + F_i
//! (x_pbest - x_i) + F_i (x_r1 - x_r2), u_j = v_j where rand < CR_i or j = j_rand, else x_ij. x_pbest is one of the
//! best 11 %, r2 may be a member of an archive of those that were replaced. F_i ~ Cauchy(M_F, 0.1) and CR_i ~ N(M_CR,
//! 0.1), whose memories M are moved to the weighted Lehmer means of the values that led to something better. What
//! leaves the box lands half-way between its parent and the border.
//!
//! Tanabe and Fukunaga, *Success-history based parameter adaptation for differential evolution*, CEC 2013, and
//! *Improving the search performance of SHADE using linear population size reduction*, CEC 2014. Storn and Price, J.
//! Global Optim. 11 (1997).
//!
//! Discrete coordinates take part with their place in the unit box; those of equal value there are the same point.

use super::{POPULATION, from_state, to_state};
use crate::def::{Optimiser, OptimiserDef, OptimiserSetup, Trial};
use crate::error::SearchError;
use crate::params::ParamSpec;
use crate::random::Random;
use serde::{Deserialize, Serialize};

/// SHADE, or L-SHADE by a parameter.
pub const DIFFERENTIAL_EVOLUTION: OptimiserDef = OptimiserDef {
    name: "differential_evolution",
    summary: "Differential evolution (SHADE; L-SHADE by `shrink_over`): steps are differences of its members.",
    reference: "Tanabe & Fukunaga, CEC 2013 and CEC 2014; Storn & Price 1997",
    multi_objective: false,
    params: &[
        POPULATION,
        ParamSpec::integer(
            "shrink_over",
            "Over how many evaluations the population shrinks to 4 members; 0 never.",
            0,
            1_000_000_000,
            0,
        ),
    ],
    build: |setup| Ok(Box::new(Shade::new(setup))),
    restore: |setup, state| {
        let shade: Shade = from_state("differential_evolution", state)?;
        let n = setup.space.dimension();
        let all =
            shade.members.iter().map(|m| &m.point).chain(&shade.archive).chain(shade.trials.iter().map(|t| &t.point));
        if shade.memory.len() != MEMORY || all.into_iter().any(|p| p.len() != n) {
            return Err(SearchError::state("differential_evolution", "its lengths are not those of the space"));
        }
        Ok(Box::new(shade))
    },
};

/// H, the number of memories.
const MEMORY: usize = 6;
/// Share of the population that is among the best.
const BEST: f64 = 0.11;
/// Size of the archive, in populations.
const ARCHIVE: f64 = 2.6;
const LEAST: usize = 4;

#[derive(Serialize, Deserialize)]
struct Member {
    point: Vec<f64>,
    /// `None` when it failed.
    loss: Option<f64>,
}

/// A trial that is out.
#[derive(Serialize, Deserialize)]
struct Out {
    point: Vec<f64>,
    factor: f64,
    crossover: f64,
}

#[derive(Serialize, Deserialize)]
struct Shade {
    random: Random,
    population: usize,
    shrink_over: u64,
    evaluations: u64,
    /// The first generation, until it is learned.
    initial: Vec<Vec<f64>>,
    members: Vec<Member>,
    archive: Vec<Vec<f64>>,
    trials: Vec<Out>,
    /// M_F and M_CR; a crossover of `None` is fixed at 0 for good.
    memory: Vec<(f64, Option<f64>)>,
    /// The memory that is written next.
    oldest: usize,
}

impl Shade {
    fn new(setup: &OptimiserSetup<'_>) -> Self {
        let mut random = Random::new(setup.seed, 0);
        let population = setup.params.integer("population") as usize;
        let mut initial: Vec<_> = setup.start.iter().take(population).cloned().collect();
        initial.resize_with(population, || random.point(setup.space.dimension()));
        Self {
            random,
            population,
            shrink_over: setup.params.integer("shrink_over") as u64,
            evaluations: 0,
            initial,
            members: Vec::new(),
            archive: Vec::new(),
            trials: Vec::new(),
            memory: vec![(0.5, Some(0.5)); MEMORY],
            oldest: 0,
        }
    }

    /// Indices of the members from the best on.
    fn ranked(&self) -> Vec<usize> {
        let loss = |i: usize| self.members[i].loss.unwrap_or(f64::INFINITY);
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by(|&a, &b| loss(a).total_cmp(&loss(b)).then(a.cmp(&b)));
        order
    }

    fn trial(&mut self, i: usize, ranked: &[usize]) -> Out {
        let Self { random, members, archive, memory, .. } = self;
        let n = members.len();
        let (mean_factor, mean_crossover) = memory[random.below(MEMORY)];
        let crossover = mean_crossover.map_or(0.0, |m| (m + 0.1 * random.normal()).clamp(0.0, 1.0));
        let factor = loop {
            let factor = mean_factor + 0.1 * random.cauchy();
            if factor > 0.0 {
                break factor.min(1.0);
            }
        };
        let best = ranked[random.below(((BEST * n as f64).round() as usize).max(2))];
        let r1 = loop {
            let r = random.below(n);
            if r != i {
                break r;
            }
        };
        let r2 = loop {
            let r = random.below(n + archive.len());
            if r != i && r != r1 {
                break r;
            }
        };
        let x = &members[i].point;
        let (best, a) = (&members[best].point, &members[r1].point);
        let b = if r2 < n { &members[r2].point } else { &archive[r2 - n] };
        let always = random.below(x.len());
        let coordinate = |j: usize| {
            if random.uniform() >= crossover && j != always {
                return x[j];
            }
            let v = x[j] + factor * (best[j] - x[j]) + factor * (a[j] - b[j]);
            if v < 0.0 {
                x[j] / 2.0
            } else if v > 1.0 {
                (1.0 + x[j]) / 2.0
            } else {
                v
            }
        };
        Out { point: (0..x.len()).map(coordinate).collect(), factor, crossover }
    }

    /// Moves the oldest memory to what was successful: (gain, F, CR) of each trial that got better.
    fn remember(&mut self, successes: &[(f64, f64, f64)]) {
        let total: f64 = successes.iter().map(|s| s.0).sum();
        if successes.is_empty() {
            return;
        }
        // Gains that cannot be divided by count equally.
        let weight = |gain: f64| if total.is_normal() { gain / total } else { 1.0 };
        let lehmer = |value: fn(&(f64, f64, f64)) -> f64| {
            let sum = |power: i32| successes.iter().map(|s| weight(s.0) * value(s).powi(power)).sum::<f64>();
            if sum(1) > 0.0 { Some(sum(2) / sum(1)) } else { None }
        };
        let (factor, crossover) = self.memory[self.oldest];
        let learned = crossover.and_then(|_| lehmer(|s| s.2));
        self.memory[self.oldest] = (lehmer(|s| s.1).unwrap_or(factor), learned);
        self.oldest = (self.oldest + 1) % MEMORY;
    }

    fn shrink(&mut self) {
        if self.shrink_over > 0 {
            let share = (self.evaluations as f64 / self.shrink_over as f64).min(1.0);
            let size = self.population as f64 + share * (LEAST as f64 - self.population as f64);
            let keep = (size.round() as usize).max(LEAST);
            if keep < self.members.len() {
                let mut kept = self.ranked();
                kept.truncate(keep);
                kept.sort_unstable();
                let mut index = 0;
                self.members.retain(|_| {
                    index += 1;
                    kept.binary_search(&(index - 1)).is_ok()
                });
            }
        }
        let most = (ARCHIVE * self.members.len() as f64).round() as usize;
        while self.archive.len() > most {
            let index = self.random.below(self.archive.len());
            self.archive.swap_remove(index);
        }
    }
}

impl Optimiser for Shade {
    fn propose(&mut self) -> Vec<Vec<f64>> {
        if self.members.is_empty() {
            return self.initial.clone();
        }
        let ranked = self.ranked();
        self.trials = (0..self.members.len()).map(|i| self.trial(i, &ranked)).collect();
        self.trials.iter().map(|t| t.point.clone()).collect()
    }

    fn learn(&mut self, generation: &[Trial<'_>]) {
        self.evaluations += generation.len() as u64;
        let loss = |t: &Trial<'_>| t.losses.map(|l| l[0]);
        if self.members.is_empty() {
            self.initial.clear();
            self.members = generation.iter().map(|t| Member { point: t.point.to_vec(), loss: loss(t) }).collect();
            return;
        }
        let mut successes = Vec::new();
        for ((member, out), trial) in self.members.iter_mut().zip(std::mem::take(&mut self.trials)).zip(generation) {
            let Some(new) = loss(trial) else { continue };
            if member.loss.is_some_and(|old| new > old) {
                continue;
            }
            let old = member.loss.replace(new);
            let parent = std::mem::replace(&mut member.point, out.point);
            if old != Some(new) {
                self.archive.push(parent);
                // The first success of a member has no gain in numbers.
                if let Some(old) = old {
                    successes.push((old - new, out.factor, out.crossover));
                }
            }
        }
        self.remember(&successes);
        self.shrink();
    }

    fn state(&self) -> String {
        to_state(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Coordinate, Direction, Options, ParamSetting, Search, Space};

    #[test]
    fn keeps_its_promises() {
        crate::check_optimiser(&DIFFERENTIAL_EVOLUTION).unwrap();
    }

    fn best(settings: &[(&str, f64)], evaluations: u64, f: impl Fn(&[f64]) -> f64) -> f64 {
        let space = Space::new((0..10).map(|i| Coordinate::real(format!("x{i}"), -5.0, 5.0)).collect()).unwrap();
        let settings = settings.iter().map(|(k, v)| (k.to_string(), ParamSetting::Number(*v))).collect();
        let objectives = vec![Direction::Minimise];
        let options = Options { objectives, evaluations, settings, seed: 3, ..Options::default() };
        let mut search = Search::new(&DIFFERENTIAL_EVOLUTION, space, options).unwrap();
        while search.done().is_none() {
            for c in search.ask() {
                search.tell(c.id, &[f(&c.point)]).unwrap();
            }
        }
        search.best().unwrap().objectives[0]
    }

    #[test]
    fn converges_and_shrinks() {
        let sphere = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        let rastrigin =
            |x: &[f64]| x.iter().map(|x| x * x + 10.0 - 10.0 * (2.0 * std::f64::consts::PI * x).cos()).sum::<f64>();
        // Generous bounds, so that another seed or rounding does not matter.
        assert!(best(&[("population", 30.0)], 10_000, sphere) < 1e-6);
        assert!(best(&[("population", 100.0), ("shrink_over", 30_000.0)], 30_000, rastrigin) < 1e-3);
    }

    #[test]
    fn memories_are_weighted_lehmer_means() {
        let def = &DIFFERENTIAL_EVOLUTION;
        let space = Space::new(vec![Coordinate::real("x", 0.0, 1.0)]).unwrap();
        let params = crate::Params::check(def.name, def.params, &[]).unwrap();
        let mut shade =
            Shade::new(&OptimiserSetup { space: &space, objectives: 1, seed: 0, start: &[], params: &params });
        shade.remember(&[(3.0, 0.5, 0.0), (1.0, 1.0, 0.8)]);
        // (¾·¼ + ¼·1)/(¾·½ + ¼·1) and (¼·0.64)/(¼·0.8).
        let (factor, crossover) = shade.memory[0];
        assert!((factor - 0.4375 / 0.625).abs() < 1e-15 && (crossover.unwrap() - 0.8).abs() < 1e-15);
        // A crossover that learned only zeros stays there.
        shade.oldest = 0;
        shade.remember(&[(1.0, 0.5, 0.0)]);
        assert_eq!(shade.memory[0].1, None);
        shade.oldest = 0;
        shade.remember(&[(1.0, 0.5, 0.9)]);
        assert_eq!(shade.memory[0].1, None);
    }
}
