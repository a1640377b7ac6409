//! What every optimiser promises, as a test that runs over any of them.

use crate::OptimiserRegistry;
use crate::def::{OptimiserDef, OptimiserSetup, Trial};
use crate::params::Params;
use crate::random::mix;
use crate::search::{CandidatePoint, Direction, Options, Search};
use crate::space::{Coordinate, Space};

/// Checks that an optimiser keeps its promises: points of the right length within the unit box, at least one per
/// generation; the same points for the same seed and others for another; a stored state that continues to the last bit,
/// at the end of a generation, in the middle of one and before it was handed out; independence of the order in which
/// results arrive; and survival of failures, of constant objectives and of very large and very small ones. It runs on
/// small spaces of every kind.
///
/// # Errors
/// The first promise that was broken, and where.
///
/// # Panics
/// Where the optimiser does.
pub fn check_optimiser(def: &'static OptimiserDef) -> Result<(), String> {
    for (name, space) in spaces() {
        for objectives in 1..=if def.multi_objective { 2 } else { 1 } {
            let case = Case { def, space: &space, objectives };
            case.check().map_err(|e| format!("{}, {name}, {objectives} objectives: {e}", def.name))?;
        }
    }
    Ok(())
}

fn spaces() -> Vec<(&'static str, Space)> {
    let reals = |n: usize| (0..n).map(|i| Coordinate::real(format!("x{i}"), -1.0, 2.0)).collect();
    let mixed = vec![
        Coordinate::categorical("method", ["a", "b", "c", "d"]),
        Coordinate::real("weight", -1.0, 1.0),
        Coordinate::integer("layer", 0, 30),
        Coordinate::log("rate", 1e-6, 1.0),
        Coordinate::categorical("flag", ["off", "on"]),
    ];
    let discrete = vec![Coordinate::integer("i", -3, 3), Coordinate::categorical("c", ["a", "b", "c"])];
    [("one real", reals(1)), ("eight reals", reals(8)), ("mixed", mixed), ("discrete", discrete)]
        .map(|(name, c)| (name, Space::new(c).unwrap_or_else(|e| unreachable!("{e}"))))
        .into()
}

const GENERATIONS: usize = 12;

/// What an objective says of a candidate; nothing for a failure.
type Objective<'a> = &'a dyn Fn(&CandidatePoint) -> Option<Vec<f64>>;

struct Case<'a> {
    def: &'static OptimiserDef,
    space: &'a Space,
    objectives: usize,
}

impl Case<'_> {
    fn check(&self) -> Result<(), String> {
        self.raw_points()?;
        let smooth = |c: &CandidatePoint| Some(self.values(c));
        let flaky = |c: &CandidatePoint| (!mix(c.id).is_multiple_of(3)).then(|| self.values(c));
        let steps = |c: &CandidatePoint| Some(self.values(c).iter().map(|x| x.floor()).collect());
        let huge = |c: &CandidatePoint| Some(self.values(c).iter().map(|x| x * 1e300).collect());
        let tiny = |c: &CandidatePoint| Some(self.values(c).iter().map(|x| x * 1e-300).collect());
        let constant = |_: &CandidatePoint| Some(vec![1.0; self.objectives]);
        let all: [(&str, Objective<'_>); 7] = [
            ("smooth", &smooth),
            ("with failures", &flaky),
            ("in steps", &steps),
            ("huge", &huge),
            ("tiny", &tiny),
            ("constant", &constant),
            ("always failing", &|_| None),
        ];
        for (name, objective) in all {
            let say = |what: &str| format!("an objective {name}: {what}");
            let points = self.run(7, objective, Habit::Plain).map_err(|e| say(&e))?;
            if points != self.run(7, objective, Habit::Plain)? {
                return Err(say("the same seed gives other points"));
            }
            for habit in [Habit::Backwards, Habit::Shuffled, Habit::Restored, Habit::RestoredAlways] {
                if points != self.run(7, objective, habit).map_err(|e| say(&e))? {
                    return Err(say(&format!("results taken {habit:?} change the points")));
                }
            }
            if points == self.run(8, objective, Habit::Plain)? {
                return Err(say("another seed gives the same points"));
            }
        }
        Ok(())
    }

    /// Points as the optimiser proposes them, before a search moves them into the box.
    fn raw_points(&self) -> Result<(), String> {
        let params = Params::check(self.def.name, self.def.params, &[]).map_err(|e| e.to_string())?;
        let n = self.space.dimension();
        let start = [vec![0.25; n]];
        for start in [&[][..], &start] {
            let setup =
                OptimiserSetup { space: self.space, objectives: self.objectives, seed: 1, start, params: &params };
            let mut optimiser = (self.def.build)(&setup).map_err(|e| e.to_string())?;
            for generation in 0..GENERATIONS {
                if optimiser.stopped().is_some() {
                    break;
                }
                let points = optimiser.propose();
                if points.is_empty() {
                    return Err(format!("generation {generation} is empty"));
                }
                for p in &points {
                    if p.len() != n || p.iter().any(|x| !(0.0..=1.0).contains(x)) {
                        return Err(format!("generation {generation} has a point outside of the unit box: {p:?}"));
                    }
                }
                let losses: Vec<Vec<f64>> = points.iter().map(|p| vec![p.iter().sum(); self.objectives]).collect();
                let trials = points.iter().zip(&losses).map(|(point, l)| Trial { point, losses: Some(l) });
                optimiser.learn(&trials.collect::<Vec<_>>());
            }
            if (self.def.restore)(&setup, "no state").is_ok() {
                return Err("an invalid state is accepted".into());
            }
        }
        Ok(())
    }

    fn values(&self, c: &CandidatePoint) -> Vec<f64> {
        let score = |goal: f64| -c.point.iter().map(|x| (x - goal).powi(2)).sum::<f64>();
        (0..self.objectives).map(|i| score(i as f64 * 0.7 + 0.1)).collect()
    }

    /// The points of a number of generations.
    fn run(&self, seed: u64, objective: Objective<'_>, habit: Habit) -> Result<Vec<Vec<f64>>, String> {
        let registry = OptimiserRegistry::default().with(&[self.def]);
        let objectives = vec![Direction::Maximise; self.objectives];
        let options = Options { objectives, seed, evaluations: 10_000_000, ..Options::default() };
        let mut search = Search::new(self.def, self.space.clone(), options).map_err(|e| e.to_string())?;
        let mut points = Vec::new();
        let restored = |search: &Search| -> Result<Search, String> {
            let state = search.state();
            let again = Search::restore(&registry, &state).map_err(|e| e.to_string())?;
            if again.state() == state { Ok(again) } else { Err("a restored state is another state".into()) }
        };
        for generation in 0..GENERATIONS {
            if habit == Habit::Restored && generation % 2 == 1 || habit == Habit::RestoredAlways {
                search = restored(&search)?;
            }
            let mut batch = search.ask();
            points.extend(batch.iter().map(|c| c.point.clone()));
            match habit {
                Habit::Backwards => batch.reverse(),
                Habit::Shuffled => batch.sort_by_key(|c| mix(c.id)),
                _ => {}
            }
            for (i, c) in batch.iter().enumerate() {
                let half = habit == Habit::Restored && i == batch.len() / 2;
                if half || habit == Habit::RestoredAlways {
                    search = restored(&search)?;
                    if search.pending() != batch[i..] {
                        return Err("a restored search does not know which candidates have no result".into());
                    }
                }
                let told = match objective(c) {
                    Some(values) => search.tell(c.id, &values),
                    None => search.fail(c.id),
                };
                told.map_err(|e| e.to_string())?;
            }
        }
        Ok(points)
    }
}

/// How results are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Habit {
    Plain,
    Backwards,
    Shuffled,
    /// By a search restored in the middle and at the end of generations.
    Restored,
    /// By a search restored before every result.
    RestoredAlways,
}
