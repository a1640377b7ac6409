//! What a search promises: its course, its best, its budget, its refusals.

use glue_search::{
    CMA_ES, Candidate, Coordinate, Direction, Done, NSGA2, Options, RANDOM, Registry, SOBOL, Search, SearchError,
    Setting, Space,
};

fn reals(n: usize) -> Space {
    Space::new((0..n).map(|i| Coordinate::real(format!("x{i}"), -5.0, 5.0)).collect()).unwrap()
}

fn options(evaluations: u64, settings: &[(&str, Setting)]) -> Options {
    let settings = settings.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    Options { objectives: vec![Direction::Minimise], evaluations, settings, seed: 5, ..Options::default() }
}

fn run(search: &mut Search, f: impl Fn(&Candidate) -> Option<f64>) {
    while search.done().is_none() {
        let batch = search.ask();
        assert!(!batch.is_empty(), "a search that is not over, with nothing out, has candidates");
        for c in batch {
            match f(&c) {
                Some(value) => search.tell(c.id, &[value]).unwrap(),
                None => search.fail(c.id).unwrap(),
            }
        }
    }
}

fn sphere(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

#[test]
fn the_budget_is_kept_and_can_be_raised() {
    let f = |c: &Candidate| Some(sphere(&c.point));
    let mut whole = Search::new(&CMA_ES, reals(4), options(100, &[])).unwrap();
    run(&mut whole, f);
    // Cut in the middle of a generation of 15.
    let mut parts = Search::new(&CMA_ES, reals(4), options(40, &[])).unwrap();
    run(&mut parts, f);
    assert_eq!((parts.told(), parts.done()), (40, Some(Done::Evaluations)));
    assert!(parts.ask().is_empty());
    let mut parts = Search::restore(&Registry::builtin(), &parts.state()).unwrap();
    parts.set_evaluations(100);
    assert_eq!(parts.done(), None);
    run(&mut parts, f);
    assert_eq!(parts.state(), whole.state());
}

#[test]
fn best_is_the_first_of_the_best_in_any_order() {
    for backwards in [false, true] {
        let mut search = Search::new(&RANDOM, reals(2), Options { evaluations: 30, ..Options::default() }).unwrap();
        let mut batch = search.ask();
        batch.extend(search.ask());
        assert_eq!(batch.iter().map(|c| c.id).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
        if backwards {
            batch.reverse();
        }
        for c in &batch {
            search.tell(c.id, &[f64::from([4, 7, 12, 20].contains(&c.id))]).unwrap();
        }
        // Scores are maximised unless told otherwise.
        assert_eq!(search.best().map(|b| (b.id, b.objectives.clone())), Some((4, vec![1.0])));
        assert_eq!(search.front(), [search.best().unwrap().clone()]);
    }
}

#[test]
fn results_that_are_no_numbers_are_failures() {
    let mut search = Search::new(&CMA_ES, reals(3), options(45, &[])).unwrap();
    run(&mut search, |c| {
        Some(if c.id % 2 == 0 {
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][c.id as usize / 2 % 3]
        } else {
            1.0 + sphere(&c.point)
        })
    });
    assert_eq!((search.told(), search.failed()), (45, 23));
    assert_eq!(search.best().map(|b| b.id % 2), Some(1));
    let mut search = Search::new(&CMA_ES, reals(3), options(45, &[])).unwrap();
    run(&mut search, |_| None);
    assert!(search.best().is_none() && search.front().is_empty());
}

#[test]
fn what_waits_and_what_does_not() {
    let mut search = Search::new(&CMA_ES, reals(3), options(100, &[])).unwrap();
    let batch = search.ask();
    assert_eq!(batch.len(), 15);
    assert!(search.ask().is_empty());
    for c in &batch[1..] {
        search.tell(c.id, &[0.0]).unwrap();
    }
    assert!(search.ask().is_empty() && search.done().is_none());
    assert_eq!(search.pending(), batch[..1]);
    search.fail(batch[0].id).unwrap();
    assert_eq!(search.ask().len(), 15);
    let mut search = Search::new(&SOBOL, reals(3), options(40, &[])).unwrap();
    assert_eq!([15, 15, 10, 0].map(|_| search.ask().len()), [15, 15, 10, 0]);
}

#[test]
fn refusals() {
    let mut search = Search::new(&CMA_ES, reals(2), options(100, &[])).unwrap();
    assert_eq!(
        search.tell(0, &[1.0]).unwrap_err().to_string(),
        "candidate 0 was never handed out; the last one was none"
    );
    search.ask();
    let before = search.state();
    assert_eq!(
        search.tell(15, &[1.0]).unwrap_err().to_string(),
        "candidate 15 was never handed out; the last one was 14"
    );
    assert_eq!(search.tell(3, &[1.0, 2.0]).unwrap_err().to_string(), "candidate 3: expected 1 objectives, found 2");
    assert_eq!(search.state(), before);
    search.tell(3, &[1.0]).unwrap();
    assert_eq!(search.tell(3, &[1.0]).unwrap_err(), SearchError::ToldTwice { id: 3 });
    (0..15).filter(|id| *id != 3).for_each(|id| search.tell(id, &[1.0]).unwrap());
    // Also after its generation was learned.
    assert_eq!(search.fail(3).unwrap_err(), SearchError::ToldTwice { id: 3 });

    let refused = |def, space: Space, options: Options| Search::new(def, space, options).unwrap_err().to_string();
    let two = Options { objectives: vec![Direction::Maximise; 2], ..Options::default() };
    assert_eq!(refused(&CMA_ES, reals(2), two), "cma_es works on one objective, found 2");
    let none = Options { objectives: vec![], ..Options::default() };
    assert_eq!(refused(&NSGA2, reals(2), none), "nsga2 works on one or more objectives, found 0");
    let outside = Options { start: vec![vec![0.0, 6.0]], ..Options::default() };
    assert_eq!(refused(&CMA_ES, reals(2), outside), "coordinate `x1`: expected a number from -5 to 5, found 6");
    let wrong = options(9, &[("sigma", Setting::Number(2.0))]);
    assert_eq!(refused(&CMA_ES, reals(2), wrong), "cma_es: `sigma` must be a number from 0.000001 to 1, found 2");

    let registry = Registry::builtin();
    for broken in [
        before.replacen("cma_es", "cma", 1),
        before.replacen("\"next\":15", "\"next\":16", 1),
        "{}".into(),
        before.replace("\\\"n", ""),
    ] {
        if broken != before {
            Search::restore(&registry, &broken).unwrap_err();
        }
    }
}

#[test]
fn the_front_holds_what_nothing_dominates() {
    let objectives = vec![Direction::Maximise, Direction::Minimise];
    let options = Options { objectives, evaluations: 300, ..Options::default() };
    let mut search = Search::new(&NSGA2, reals(3), options).unwrap();
    let mut all = Vec::new();
    while search.done().is_none() {
        for c in search.ask() {
            let values = [(10.0 * c.point[0]).round(), sphere(&c.point).round()];
            search.tell(c.id, &values).unwrap();
            all.push(values);
        }
    }
    let worse = |a: &[f64], b: &[f64]| b[0] >= a[0] && b[1] <= a[1] && a != b;
    let expected: Vec<u64> = (0..all.len())
        .filter(|&i| !all.iter().any(|b| worse(&all[i], b)) && !all[..i].contains(&all[i]))
        .map(|i| i as u64)
        .collect();
    assert_eq!(search.front().iter().map(|e| e.id).collect::<Vec<_>>(), expected);
    assert!(expected.len() > 3, "{expected:?}");
    let best = search.best().unwrap().objectives[0];
    assert!(all.iter().all(|v| v[0] <= best));
}

#[test]
fn a_start_is_where_a_search_begins() {
    let start = vec![vec![4.0, -4.0, 3.0]];
    for name in ["differential_evolution", "nsga2", "sobol", "random"] {
        let options = Options { start: start.clone(), ..Options::default() };
        let mut search = Search::new(Registry::builtin().get(name).unwrap(), reals(3), options).unwrap();
        assert_eq!(search.ask()[0].point, start[0], "{name}");
    }
    for name in ["cma_es", "sep_cma_es"] {
        let options = Options {
            start: start.clone(),
            settings: vec![("sigma".into(), Setting::Number(1e-6))],
            ..Options::default()
        };
        let mut search = Search::new(Registry::builtin().get(name).unwrap(), reals(3), options).unwrap();
        // Six standard deviations of 1e-6 of the range.
        assert!(
            search.ask().iter().all(|c| c.point.iter().zip(&start[0]).all(|(x, s)| (x - s).abs() < 6e-5)),
            "{name}"
        );
    }
}
