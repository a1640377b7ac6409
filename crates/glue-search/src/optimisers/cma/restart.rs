//! What follows when a run has converged.
//!
//! IPOP: Auger and Hansen, *A restart CMA evolution strategy with increasing population size*, CEC 2005: each run has
//! twice the population of the one before. BIPOP: Hansen, *Benchmarking a BI-population CMA-ES on the BBOB-2009
//! function testbed*, GECCO 2009: such runs alternate with short ones of small population and step size, whichever
//! regime has used less so far.

use crate::random::Random;
use serde::{Deserialize, Serialize};

/// How one run is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Regime {
    pub(super) population: usize,
    /// The step size at its beginning.
    pub(super) sigma: f64,
    /// Whether it is one of the short ones.
    short: bool,
    /// How many evaluations it may take.
    limit: Option<u64>,
}

impl Regime {
    /// Whether it has taken what it may.
    pub(super) fn is_spent(&self, used: u64) -> bool {
        self.limit.is_some_and(|limit| used >= limit)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Policy {
    None,
    Ipop,
    Bipop,
}

/// The runs so far, as far as the next one depends on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Restarts {
    policy: Policy,
    population: usize,
    sigma: f64,
    /// How often the population was doubled.
    doubled: u32,
    /// Evaluations of the short runs, of the others, and of the last of those.
    short: u64,
    long: u64,
    last_long: u64,
}

/// Doubling ends here: beyond, a generation is no longer something one waits for.
const MOST_DOUBLINGS: u32 = 12;

impl Restarts {
    pub(super) fn new(policy: &str, population: usize, sigma: f64) -> Self {
        let policy = match policy {
            "none" => Policy::None,
            "bipop" => Policy::Bipop,
            _ => Policy::Ipop,
        };
        Self { policy, population, sigma, doubled: 0, short: 0, long: 0, last_long: 0 }
    }

    fn long(&self) -> Regime {
        let population = self.population << self.doubled;
        Regime { population, sigma: self.sigma, short: false, limit: None }
    }

    pub(super) fn first(&self) -> Regime {
        self.long()
    }

    /// The run after one that took `used` evaluations; `None` when there is none.
    pub(super) fn next(&mut self, run: &Regime, used: u64, random: &mut Random) -> Option<Regime> {
        if run.short {
            self.short += used;
        } else {
            self.long += used;
            self.last_long = used;
        }
        match self.policy {
            Policy::None => None,
            // The first run belongs to neither side: a longer one comes before any short one.
            Policy::Bipop if self.doubled > 0 && self.short < self.long => {
                let (u, v) = (random.uniform(), random.uniform());
                let ratio = f64::from(self.doubled).exp2() / 2.0;
                let population = (self.population as f64 * ratio.powf(u * u)).floor() as usize;
                let sigma = self.sigma * 10.0_f64.powf(-2.0 * v);
                let limit = Some((self.last_long / 2).max(1));
                Some(Regime { population: population.max(4), sigma, short: true, limit })
            }
            Policy::Ipop | Policy::Bipop => {
                self.doubled = (self.doubled + 1).min(MOST_DOUBLINGS);
                Some(self.long())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn populations(policy: &str, used: &[u64]) -> Vec<usize> {
        let mut random = Random::new(1, 0);
        let mut restarts = Restarts::new(policy, 15, 0.1);
        let mut run = restarts.first();
        let mut all = vec![run.population];
        for used in used {
            let Some(next) = restarts.next(&run, *used, &mut random) else { break };
            run = next;
            all.push(run.population);
        }
        all
    }

    #[test]
    fn populations_double_or_alternate() {
        assert_eq!(populations("none", &[100, 100]), [15]);
        assert_eq!(populations("ipop", &[100, 100, 100]), [15, 30, 60, 120]);
        // 300 in long runs, then short ones until they have used as much.
        let all = populations("bipop", &[100, 200, 150, 160, 400]);
        assert_eq!((all[0], all[1], all[4]), (15, 30, 60));
        assert!(all[2..4].iter().all(|p| (15..=30).contains(p)), "{all:?}");
    }

    #[test]
    fn a_population_does_not_grow_forever() {
        assert_eq!(*populations("ipop", &[1; 40]).last().unwrap(), 15 << MOST_DOUBLINGS);
    }
}
