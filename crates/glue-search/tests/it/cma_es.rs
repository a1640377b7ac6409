//! CMA-ES and its separable variant: invariance, borders, discrete coordinates, plateaus, dimensions, convergence.

use glue_search::{
    CMA_ES, CandidatePoint, Coordinate, Direction, Done, OptimiserDef, Options, ParamSetting, SEP_CMA_ES, Search, Space,
};
use proptest::prelude::*;

fn reals(n: usize) -> Space {
    Space::new((0..n).map(|i| Coordinate::real(format!("x{i}"), -5.0, 5.0)).collect()).unwrap()
}

fn search(def: &OptimiserDef, space: Space, seed: u64, evaluations: u64, settings: &[(&str, ParamSetting)]) -> Search {
    let settings = settings.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let objectives = vec![Direction::Minimise];
    Search::new(def, space, Options { objectives, seed, evaluations, settings, ..Options::default() }).unwrap()
}

/// The least loss that a search finds, and after how many evaluations it was below `target`.
fn minimise(mut search: Search, target: f64, f: impl Fn(&[f64]) -> f64) -> (f64, Option<u64>) {
    while search.done().is_none() {
        for c in search.ask() {
            let loss = f(&c.point);
            search.tell(c.id, &[loss]).unwrap();
            if loss < target {
                return (loss, Some(c.id + 1));
            }
        }
    }
    (search.best().map_or(f64::INFINITY, |b| b.objectives[0]), None)
}

fn default_population() -> [(&'static str, ParamSetting); 1] {
    [("population", ParamSetting::Number(0.0))]
}

#[test]
fn converges_within_generous_bounds() {
    // About twice the medians of docs/search.md, where they are listed.
    let ellipsoid = |x: &[f64]| {
        let last = (x.len() - 1) as f64;
        x.iter().enumerate().map(|(i, x)| 1e6_f64.powf(i as f64 / last) * x * x).sum::<f64>()
    };
    let check = |n: usize, allowed: u64, f: &dyn Fn(&[f64]) -> f64| {
        for seed in 0..3 {
            let (loss, evaluations) =
                minimise(search(&CMA_ES, reals(n), seed, allowed, &default_population()), 1e-8, f);
            assert!(evaluations.is_some(), "{n} dimensions, seed {seed}: {loss:e} after {allowed}");
        }
    };
    let sphere = |x: &[f64]| x.iter().map(|x| (x - 0.7).powi(2)).sum::<f64>();
    for (n, allowed) in [(1, 400), (2, 700), (5, 1500), (20, 5000)] {
        check(n, allowed, &sphere);
    }
    check(5, 3500, &ellipsoid);
    check(10, 9000, &ellipsoid);
}

#[test]
fn an_optimum_on_the_border_or_in_a_corner_is_found() {
    for (goal, name) in [(7.0, "beyond"), (5.0, "on"), (-5.0, "on the other side")] {
        let f = |x: &[f64]| x.iter().map(|x| (x - goal).powi(2)).sum::<f64>() - 6.0 * (goal.abs() - 5.0_f64).powi(2);
        let (loss, evaluations) = minimise(search(&CMA_ES, reals(6), 1, 6000, &default_population()), 1e-7, f);
        assert!(evaluations.is_some(), "{name}: {loss:e}");
    }
    let linear = |x: &[f64]| x.iter().sum::<f64>() + 30.0;
    let (loss, evaluations) = minimise(search(&SEP_CMA_ES, reals(6), 1, 6000, &default_population()), 1e-7, linear);
    assert!(evaluations.is_some(), "{loss:e}");
}

#[test]
fn discrete_coordinates_do_not_freeze() {
    // Encodings of section 5 of Hamano et al.: a sphere over reals and integers, and one-max over binary choices.
    let space = || {
        let mut all: Vec<Coordinate> = (0..5).map(|i| Coordinate::real(format!("r{i}"), -5.0, 5.0)).collect();
        all.extend((0..5).map(|i| Coordinate::integer(format!("i{i}"), -10, 10)));
        all.extend((0..5).map(|i| Coordinate::categorical(format!("b{i}"), ["off", "on"])));
        Space::new(all).unwrap()
    };
    let f = |x: &[f64]| {
        let quadratic = x[..10].iter().map(|x| (x - 3.0).powi(2)).sum::<f64>();
        quadratic + 5.0 - x[10..].iter().sum::<f64>()
    };
    let arrived = |seed| {
        minimise(search(&CMA_ES, space(), seed, 12_000, &[("restarts", ParamSetting::Text("none".into()))]), 1e-8, f).1
    };
    let successes = (0..5).filter(|s| arrived(*s).is_some()).count();
    assert!(successes >= 4, "{successes} of 5 runs without a restart");
}

#[test]
fn choices_are_learned_together_with_numbers() {
    let space = || {
        let mut all: Vec<Coordinate> =
            (0..4).map(|i| Coordinate::categorical(format!("c{i}"), ["a", "b", "c", "d", "e"])).collect();
        all.extend((0..3).map(|i| Coordinate::real(format!("r{i}"), 0.0, 1.0)));
        Space::new(all).unwrap()
    };
    // 625 combinations, a different one best for each coordinate.
    let f = |x: &[f64]| {
        let wrong = x[..4].iter().enumerate().filter(|(i, x)| **x != ((i * 2 + 1) % 5) as f64).count();
        wrong as f64 + x[4..].iter().map(|x| (x - 0.3).powi(2)).sum::<f64>()
    };
    let arrived = |seed| minimise(search(&CMA_ES, space(), seed, 5000, &[]), 1e-6, f).1.is_some();
    let successes = (0..5).filter(|s| arrived(*s)).count();
    assert!(successes >= 4, "{successes} of 5");
}

#[test]
fn many_dimensions_stay_sound() {
    for (def, n, evaluations) in [(&CMA_ES, 200, 3000), (&CMA_ES, 201, 3000), (&SEP_CMA_ES, 1000, 20_000)] {
        let f = |x: &[f64]| x.iter().enumerate().map(|(i, x)| (1.0 + i as f64) * (x + 0.5).powi(2)).sum::<f64>();
        let first = minimise(search(def, reals(n), 2, 20, &default_population()), 0.0, f).0;
        let last = minimise(search(def, reals(n), 2, evaluations, &default_population()), 0.0, f).0;
        // Generous: more than a lucky sample of the first distribution could give in so many dimensions.
        assert!(last < 0.4 * first, "{n}: {last} from {first}");
    }
}

#[test]
fn separable_is_fast_where_coordinates_are_independent() {
    let f = |x: &[f64]| x.iter().enumerate().map(|(i, x)| 1e4_f64.powf(i as f64 / 99.0) * x * x).sum::<f64>();
    let needed = |def| minimise(search(def, reals(100), 3, 60_000, &default_population()), 1e-6, f).1.unwrap_or(60_000);
    let (full, separable) = (needed(&CMA_ES), needed(&SEP_CMA_ES));
    // Ros and Hansen, figure 2: a factor of 3 and more in 100 dimensions.
    assert!(separable * 2 < full, "{separable} against {full}");
}

#[test]
fn a_run_ends_and_another_one_begins() {
    let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    let mut once = search(&CMA_ES, reals(3), 1, 100_000, &[("restarts", ParamSetting::Text("none".into()))]);
    while once.done().is_none() {
        for c in once.ask() {
            once.tell(c.id, &[f(&c.point)]).unwrap();
        }
    }
    assert!(matches!(once.done(), Some(Done::Stopped(_))) && once.told() < 5000, "{:?} {}", once.done(), once.told());
    assert!(once.best().unwrap().objectives[0] < 1e-12);
    for policy in ["ipop", "bipop"] {
        let mut again = search(&CMA_ES, reals(3), 1, 30_000, &[("restarts", ParamSetting::Text(policy.into()))]);
        let mut sizes = Vec::new();
        while again.done().is_none() {
            let batch = again.ask();
            if sizes.last() != Some(&batch.len()) {
                sizes.push(batch.len());
            }
            for c in batch {
                again.tell(c.id, &[f(&c.point)]).unwrap();
            }
        }
        assert!(sizes.starts_with(&[15, 30]) && sizes.len() > 2, "{policy}: {sizes:?}");
    }
}

#[test]
fn rastrigin_is_solved_by_restarts() {
    let rastrigin =
        |x: &[f64]| x.iter().map(|x| x * x + 10.0 - 10.0 * (2.0 * std::f64::consts::PI * x).cos()).sum::<f64>();
    for policy in ["ipop", "bipop"] {
        let settings = [("population", ParamSetting::Number(0.0)), ("restarts", ParamSetting::Text(policy.into()))];
        let (loss, evaluations) = minimise(search(&CMA_ES, reals(5), 4, 60_000, &settings), 1e-8, rastrigin);
        assert!(evaluations.is_some(), "{policy}: {loss}");
    }
}

#[test]
fn a_plateau_is_left() {
    // A score of 20 items: constant but for a hole of a tenth of the range.
    let f = |x: &[f64]| (x.iter().map(|x| ((x - 3.0).abs() * 4.0).floor().min(8.0)).sum::<f64>()).max(0.0);
    let (loss, _) = minimise(search(&CMA_ES, reals(3), 6, 3000, &[]), 0.5, f);
    assert!(loss < 0.5, "{loss}");
}

fn course(
    def: &OptimiserDef,
    n: usize,
    seed: u64,
    generations: usize,
    f: impl Fn(&CandidatePoint) -> f64,
) -> Vec<Vec<f64>> {
    let mut search = search(def, reals(n), seed, 1_000_000, &[]);
    let mut all = Vec::new();
    for _ in 0..generations {
        for c in search.ask() {
            search.tell(c.id, &[f(&c)]).unwrap();
            all.push(c.point);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn only_the_order_of_losses_matters(n in 1_usize..8, seed in 0_u64..1000) {
        let f = |x: &[f64]| x.iter().enumerate().map(|(i, x)| (i + 1) as f64 * (x - 0.4).powi(2)).sum::<f64>();
        // Steps that rounding cannot merge: the losses of 20 generations differ by far more than ε.
        for def in [&CMA_ES, &SEP_CMA_ES] {
            let plain = course(def, n, seed, 20, |c| f(&c.point));
            prop_assert_eq!(&plain, &course(def, n, seed, 20, |c| 7.0 * f(&c.point) - 3e-3));
            prop_assert_eq!(&plain, &course(def, n, seed, 20, |c| f(&c.point).sqrt()));
            prop_assert_eq!(&plain, &course(def, n, seed, 20, |c| f(&c.point).ln()));
        }
    }

    #[test]
    fn points_are_points_of_the_space(seed in 0_u64..1000, low in -9_i64..0, width in 1_i64..40, options in 2_usize..7, goal in -3.0_f64..3.0) {
        let space = Space::new(vec![
            Coordinate::integer("i", low, low + width),
            Coordinate::log("l", 1e-3, 1e3),
            Coordinate::categorical("c", (0..options).map(|i| i.to_string())),
            Coordinate::real("r", -1.0, 1.0),
        ]).unwrap();
        for def in glue_search::Registry::builtin().iter() {
            let mut search = search(def, space.clone(), seed, 300, &[]);
            while search.done().is_none() {
                for c in search.ask() {
                    prop_assert!(space.to_unit(&c.point).is_ok(), "{}: {:?}", def.name, c.point);
                    search.tell(c.id, &[c.point.iter().map(|x| (x - goal).abs()).sum()]).unwrap();
                }
            }
        }
    }
}

#[test]
fn the_mean_is_better_than_the_luckiest_of_noisy_results() {
    // A bowl whose results have an error of 1.
    let bowl = |x: &[f64]| x.iter().map(|x| (x - 0.7).powi(2)).sum::<f64>();
    for def in [&CMA_ES, &SEP_CMA_ES] {
        let (mut mean, mut luckiest) = (0.0, 0.0);
        for seed in 0..10 {
            let mut search = search(def, reals(4), seed, 300, &[]);
            let mut noise = glue_search::Random::new(seed, 1);
            assert_eq!(search.favourite(), None);
            while search.done().is_none() {
                for c in search.ask() {
                    search.tell(c.id, &[bowl(&c.point) + noise.normal()]).unwrap();
                }
            }
            mean += bowl(&search.favourite().unwrap());
            luckiest += bowl(&search.best().unwrap().point);
        }
        assert!(mean < luckiest, "{}: {mean} and {luckiest}", def.name);
    }
    let random = glue_search::OptimiserRegistry::builtin().get("random").unwrap();
    let mut random = search(random, reals(2), 0, 15, &[]);
    for c in random.ask() {
        random.tell(c.id, &[0.0]).unwrap();
    }
    assert_eq!(random.favourite(), None);
}
