//! NSGA-II: a genetic algorithm that spreads its population over the front of several objectives.
//!
//! Parents are chosen by binary tournament: the lower rank wins, of equals the less crowded. Children by simulated
//! binary crossover (η_c = 15, probability 0.9 per pair, ½ per coordinate) and polynomial mutation (η_m = 20,
//! probability 1/n per coordinate), both within bounds. Parents and children together are sorted into fronts; the best
//! fill the next population, the last front by crowding. A child that is the same point as another member is made
//! again, a few times.
//!
//! Deb, Pratap, Agarwal and Meyarivan, IEEE Trans. Evol. Comput. 6 (2002); Deb and Agrawal, *Simulated binary crossover
//! for continuous search space*, Complex Systems 9 (1995).

use super::{POPULATION, from_state, to_state};
use crate::def::{Optimiser, OptimiserDef, OptimiserSetup, Trial};
use crate::error::SearchError;
use crate::front::{crowding_distance, non_dominated_sort};
use crate::params::ParamSpec;
use crate::random::Random;
use crate::space::Space;
use serde::{Deserialize, Serialize};

/// NSGA-II, for two objectives or a few more.
pub const NSGA2: OptimiserDef = OptimiserDef {
    name: "nsga2",
    summary: "NSGA-II: a population spread over the best trade-offs of several objectives.",
    reference: "Deb et al. 2002, IEEE Trans. Evol. Comput. 6",
    multi_objective: true,
    params: &[
        POPULATION,
        ParamSpec::number("crossover", "Chance that two parents are crossed.", 0.0, 1.0, 0.9),
        ParamSpec::number(
            "crossover_index",
            "η of crossover: greater keeps children nearer to parents.",
            0.0,
            1000.0,
            15.0,
        ),
        ParamSpec::number("mutation_index", "η of mutation: greater makes smaller steps.", 0.0, 1000.0, 20.0),
    ],
    build: |setup| Ok(Box::new(Nsga2::new(setup))),
    restore: |setup, state| {
        let population: Population = from_state("nsga2", state)?;
        let n = setup.space.dimension();
        let points = population.members.iter().map(|m| &m.point).chain(&population.children);
        if points.into_iter().any(|p| p.len() != n) {
            return Err(SearchError::state("nsga2", "its lengths are not those of the space"));
        }
        Ok(Box::new(Nsga2 { population, ..Nsga2::new(setup) }))
    },
};

#[derive(Clone, Serialize, Deserialize)]
struct Member {
    point: Vec<f64>,
    /// Empty when it failed.
    losses: Vec<f64>,
    rank: usize,
    /// `None` for infinite.
    crowding: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Population {
    random: Random,
    members: Vec<Member>,
    /// The generation that is out.
    children: Vec<Vec<f64>>,
}

struct Nsga2 {
    space: Space,
    size: usize,
    crossover: f64,
    crossover_index: f64,
    mutation_index: f64,
    start: Vec<Vec<f64>>,
    population: Population,
}

/// How often a child that exists already is made again.
const ATTEMPTS: usize = 10;

impl Nsga2 {
    fn new(setup: &OptimiserSetup<'_>) -> Self {
        let random = Random::new(setup.seed, 0);
        Self {
            space: setup.space.clone(),
            size: setup.params.integer("population") as usize,
            crossover: setup.params.number("crossover"),
            crossover_index: setup.params.number("crossover_index"),
            mutation_index: setup.params.number("mutation_index"),
            start: setup.start.to_vec(),
            population: Population { random, members: Vec::new(), children: Vec::new() },
        }
    }

    fn parent(&mut self) -> usize {
        let Population { random, members, .. } = &mut self.population;
        let (a, b) = (random.below(members.len()), random.below(members.len()));
        let crowding = |m: &Member| m.crowding.unwrap_or(f64::INFINITY);
        let (x, y) = (&members[a], &members[b]);
        // Two equals are as good as each other; the first drawn is a random one.
        if (x.rank, -crowding(x)) <= (y.rank, -crowding(y)) { a } else { b }
    }

    fn children(&mut self) -> [Vec<f64>; 2] {
        let (a, b) = (self.parent(), self.parent());
        let Population { random, members, .. } = &mut self.population;
        let mut pair = [members[a].point.clone(), members[b].point.clone()];
        let n = pair[0].len();
        if random.uniform() < self.crossover {
            let [first, second] = &mut pair;
            for (a, b) in first.iter_mut().zip(second) {
                let (crossed, u, swapped) = (random.uniform() < 0.5, random.uniform(), random.uniform() < 0.5);
                if crossed {
                    let (x, y) = crossed_over(*a, *b, u, self.crossover_index);
                    (*a, *b) = if swapped { (y, x) } else { (x, y) };
                }
            }
        }
        for child in &mut pair {
            for x in child.iter_mut() {
                let (chance, u) = (random.uniform(), random.uniform());
                if chance < 1.0 / n as f64 {
                    *x = mutated(*x, u, self.mutation_index);
                }
            }
        }
        pair
    }

    fn offspring(&mut self) -> Vec<Vec<f64>> {
        let mut known: Vec<Vec<f64>> = self.population.members.iter().map(|m| self.space.to_user(&m.point)).collect();
        let mut children: Vec<Vec<f64>> = Vec::new();
        let mut left = ATTEMPTS * self.size;
        while children.len() < self.size {
            for child in self.children() {
                let user = self.space.to_user(&child);
                let is_new = !known.contains(&user);
                left = left.saturating_sub(1);
                if children.len() < self.size && (is_new || left == 0) {
                    known.push(user);
                    children.push(child);
                }
            }
        }
        children
    }
}

/// Simulated binary crossover of two numbers in [0, 1]: children whose spread follows the density that a bit string
/// crossed at one place would have, cut at the borders.
fn crossed_over(a: f64, b: f64, u: f64, eta: f64) -> (f64, f64) {
    let (low, high) = (a.min(b), a.max(b));
    let distance = high - low;
    if distance < 1e-14 {
        return (a, b);
    }
    let spread = |room: f64| {
        let alpha = 2.0 - (1.0 + 2.0 * room / distance).powf(-(eta + 1.0));
        let power = 1.0 / (eta + 1.0);
        if u <= 1.0 / alpha { (u * alpha).powf(power) } else { (1.0 / (2.0 - u * alpha)).powf(power) }
    };
    let x = 0.5 * (low + high - spread(low) * distance);
    let y = 0.5 * (low + high + spread(1.0 - high) * distance);
    (x.clamp(0.0, 1.0), y.clamp(0.0, 1.0))
}

/// Polynomial mutation of a number in [0, 1].
fn mutated(x: f64, u: f64, eta: f64) -> f64 {
    let power = 1.0 / (eta + 1.0);
    let step = if u < 0.5 {
        (2.0 * u + (1.0 - 2.0 * u) * (1.0 - x).powf(eta + 1.0)).powf(power) - 1.0
    } else {
        1.0 - (2.0 * (1.0 - u) + (2.0 * u - 1.0) * x.powf(eta + 1.0)).powf(power)
    };
    (x + step).clamp(0.0, 1.0)
}

/// The best `size` of `members`, with rank and crowding.
fn survivors(members: Vec<Member>, size: usize) -> Vec<Member> {
    let (mut sound, failed): (Vec<Member>, Vec<Member>) = members.into_iter().partition(|m| !m.losses.is_empty());
    let losses: Vec<&[f64]> = sound.iter().map(|m| &m.losses[..]).collect();
    let ranks = non_dominated_sort(&losses);
    let worst = ranks.iter().max().map_or(0, |r| r + 1);
    let mut crowding = vec![0.0; sound.len()];
    for rank in 0..worst {
        let front: Vec<usize> = (0..ranks.len()).filter(|&i| ranks[i] == rank).collect();
        let points: Vec<&[f64]> = front.iter().map(|&i| losses[i]).collect();
        for (i, c) in front.iter().zip(crowding_distance(&points)) {
            crowding[*i] = c;
        }
    }
    for (i, m) in sound.iter_mut().enumerate() {
        m.rank = ranks[i];
        m.crowding = Some(crowding[i]).filter(|c| c.is_finite());
    }
    let distance = |m: &Member| m.crowding.unwrap_or(f64::INFINITY);
    // The sort is stable: of equals, parents stay.
    sound.sort_by(|a, b| a.rank.cmp(&b.rank).then(distance(b).total_cmp(&distance(a))));
    sound.extend(failed.into_iter().map(|m| Member { rank: worst, crowding: Some(0.0), ..m }));
    sound.truncate(size);
    sound
}

impl Optimiser for Nsga2 {
    fn propose(&mut self) -> Vec<Vec<f64>> {
        self.population.children = if self.population.members.is_empty() {
            let mut points: Vec<_> = self.start.iter().take(self.size).cloned().collect();
            let dimension = self.space.dimension();
            points.resize_with(self.size, || self.population.random.point(dimension));
            points
        } else {
            self.offspring()
        };
        self.population.children.clone()
    }

    fn learn(&mut self, generation: &[Trial<'_>]) {
        self.population.children.clear();
        let mut members = std::mem::take(&mut self.population.members);
        members.extend(generation.iter().map(|t| Member {
            point: t.point.to_vec(),
            losses: t.losses.unwrap_or_default().to_vec(),
            rank: 0,
            crowding: None,
        }));
        self.population.members = survivors(members, self.size);
    }

    fn state(&self) -> String {
        to_state(&self.population)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_promises() {
        crate::check_optimiser(&NSGA2).unwrap();
    }

    #[test]
    fn children_keep_the_mean_of_their_parents_away_from_borders() {
        // Far from a border the cut is negligible, and both spreads are the same.
        let (x, y) = crossed_over(0.500_01, 0.499_99, 0.3, 15.0);
        assert!((x + y - 1.0).abs() < 1e-12 && y > x);
        // u = ½ is a spread of 1: the children are the parents.
        let (x, y) = crossed_over(0.4, 0.6, 0.5, 15.0);
        assert!((x - 0.4).abs() < 1e-6 && (y - 0.6).abs() < 1e-6, "{x} {y}");
        assert_eq!(crossed_over(0.3, 0.3, 0.9, 15.0), (0.3, 0.3));
    }

    #[test]
    fn mutation_reaches_the_borders_and_not_beyond() {
        assert!(mutated(0.3, 0.0, 20.0).abs() < 1e-12 && (mutated(0.3, 1.0, 20.0) - 1.0).abs() < 1e-12);
        assert!((mutated(0.3, 0.5, 20.0) - 0.3).abs() < 1e-12);
        assert!(mutated(0.3, 0.4, 20.0) < 0.3 && mutated(0.3, 0.6, 20.0) > 0.3);
    }

    #[test]
    fn survivors_by_hand() {
        let member = |losses: &[f64]| Member { point: vec![], losses: losses.to_vec(), rank: 9, crowding: None };
        let all = [&[3.0, 3.0][..], &[], &[0.0, 4.0], &[1.0, 1.0], &[4.0, 0.0], &[0.5, 3.9]].map(member).to_vec();
        let kept = survivors(all, 4);
        let losses: Vec<_> = kept.iter().map(|m| m.losses.clone()).collect();
        // All of the first front: the ends, then the less crowded.
        assert_eq!(losses, [vec![0.0, 4.0], vec![4.0, 0.0], vec![1.0, 1.0], vec![0.5, 3.9]]);
        assert_eq!(kept.iter().map(|m| m.rank).collect::<Vec<_>>(), [0; 4]);
    }
}
