//! Strategies on scores that are a function of the recipe.

use super::*;
use crate::contract::Part;
use crate::course::{Budget, Course};
use crate::journal::Journal;
use crate::likeness::Likeness;
use crate::recipe_text::Frame;
use crate::session::{Found, Member, Parts, Tried, Verdict};
use crate::space::{SpaceConfig, TensorNames};
use crate::testing::Counting;
use glue_progress::NoProgress;
use std::cell::OnceCell;
use std::path::Path;

/// Weights of a recipe by the name of the model.
fn weights(recipe: &str) -> Vec<(String, f64)> {
    let mut found: Vec<(String, f64)> = Vec::new();
    for line in recipe.lines().map(str::trim) {
        if let Some(model) = line.strip_prefix("- model: ") {
            found.push((model.into(), 1.0));
        } else if let (Some(weight), Some(last)) = (line.strip_prefix("weight: "), found.last_mut()) {
            last.1 = weight.parse().expect("a weight");
        }
    }
    found
}

/// Good near 0.5 a + 0.3 b + 0.2 c, and bad with anything of d; a is the best by itself.
fn score(recipe: &str) -> f64 {
    let aim = [("a", 0.5), ("b", 0.3), ("c", 0.2), ("d", 0.0)];
    let weights = weights(recipe);
    let of = |name: &str| weights.iter().find(|(model, _)| model == name).map_or(0.0, |(_, weight)| *weight);
    let distance: f64 = aim.iter().map(|(name, aim)| (of(name) - aim).powi(2)).sum();
    1.0 - distance
}

struct Ran {
    found: Found,
    tried: Vec<Tried>,
    evaluations: u64,
    halted: bool,
}

fn setup(racing: bool) -> Setup<'static> {
    static OPERATORS: std::sync::LazyLock<glue_merge::Registry> =
        std::sync::LazyLock::new(glue_merge::Registry::builtin);
    static OPTIMISERS: std::sync::LazyLock<glue_search::Registry> =
        std::sync::LazyLock::new(glue_search::Registry::builtin);
    Setup {
        members: ["a", "b", "c", "d"].map(|name| Member { name: name.into(), path: name.into() }).into(),
        frame: Frame { base_model: Some("base".into()), ..Frame::default() },
        space: SpaceConfig::default(),
        tensors: TensorNames::from_names(["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]),
        operators: &OPERATORS,
        optimisers: &OPTIMISERS,
        seed: 1,
        racing,
        read_likeness: Box::new(|| {
            // c is most like a, then b; d is like nothing.
            let unit = |i: usize, j: usize| match (i.max(j), i.min(j)) {
                (i, j) if i == j => 1.0,
                (1, 0) => 0.5,
                (2, 0) => 0.9,
                (2, 1) => 0.6,
                _ => 0.0,
            };
            let gram = (0..4).flat_map(|i| (0..=i).map(move |j| unit(i, j))).collect();
            Ok(Likeness::from_grams(4, vec![gram]))
        }),
    }
}

fn run_with(setup: &Setup<'_>, name: &str, settings: &[(&str, Setting)], evaluations: Option<u64>, path: &Path) -> Ran {
    let scorer = Counting::new(score);
    let (journal, entries) = Journal::resume(path, &serde_json::json!({})).expect("a journal");
    let mut course = Course::new(&scorer, journal, entries, Budget { evaluations, seconds: None }).expect("a course");
    let alone = |member: &Member| crate::recipe_text::alone(&setup.frame, &member.path);
    let candidates: Vec<_> = setup.members.iter().map(alone).collect();
    let singles: Vec<_> = course.score(&candidates, Part::Search, None).outcomes.into_iter().map(Result::ok).collect();
    let likeness = OnceCell::new();
    let parts = Parts {
        setup,
        course: &mut course,
        progress: &NoProgress,
        singles: &singles,
        admitted: &[0, 1, 2, 3],
        earlier: &[],
        likeness: &likeness,
        best: None,
    };
    let mut session = Session::new(name, parts);
    let settings: Vec<(String, Setting)> = settings.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
    let strategy =
        (StrategyRegistry::builtin().get(name).expect("a strategy").build)(setup, &settings).expect("settings");
    let halted = strategy.run(&mut session).is_err();
    let (found, tried, _) = session.finish();
    Ran { found: found.expect("a result"), tried, evaluations: course.progress().evaluations, halted }
}

fn run(name: &str, settings: &[(&str, Setting)]) -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    run_with(&setup(true), name, settings, None, &directory.path().join("journal"))
}

/// Names of the models of the result, in the order in which they came in.
fn models(ran: &Ran) -> Vec<usize> {
    ran.found.weights.iter().map(|&(i, _)| i).collect()
}

#[test]
fn average_by_hand() {
    let ran = run("average", &[]);
    // Alone: a 0.62, b 0.22, c 0.02, d -0.38. a + b: 0.5, 0.5: 0.92. With c, a third each: 0.9533.
    // With d the share of c, a quarter each, is worse: d stays out.
    assert_eq!(models(&ran), [0, 1, 2]);
    assert!(ran.found.weights.iter().all(|(_, w)| (w - 1.0 / 3.0).abs() < 1e-12));
    assert_eq!(ran.evaluations, 4 + 3);
    let last = ran.tried.last().expect("a record");
    assert_eq!((last.verdict, last.what.as_str()), (Verdict::Rejected, "a 0.25 + b 0.25 + c 0.25 + d 0.25"));
    assert!(last.reason.contains("it cannot be as good as 0.9533 any more"), "{}", last.reason);
}

#[test]
fn reasons_are_in_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let ran = run_with(&setup(false), "average", &[], None, &directory.path().join("journal"));
    let reasons: Vec<&str> = ran.tried.iter().map(|tried| tried.reason.as_str()).collect();
    let expected = [
        "average 0.62, the best of the models by themselves: the start",
        "average 0.92 is not below 0.62, the best so far: b is in",
        "average 0.9533 is not below 0.92, the best so far: c is in",
        "average 0.87 is below 0.9533, the best so far: dropped",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn coefficient_finds_better_shares() {
    let ran = run("coefficient", &[]);
    assert_eq!(models(&ran), [0, 1, 2]);
    // a keeps 0.6, the nearest of the grid to 0.5/0.8 for a alone with b.
    assert!(ran.found.average > run("average", &[]).found.average);
    assert_eq!(ran.evaluations, 4 + 3 * 9);
    assert!(ran.tried.iter().filter(|tried| tried.what.contains("d ")).all(|tried| tried.verdict == Verdict::Rejected));
    assert_eq!(run("coefficient", &[("points", Setting::Number(3.0))]).evaluations, 4 + 3 * 3);
}

#[test]
fn likeness_decides_the_order() {
    assert_eq!(models(&run("similarity", &[])), [0, 2, 1]);
    // d is least like a; what there is then is less like b than like c.
    let first: Vec<char> = run("dissimilarity", &[]).tried.iter().filter_map(|tried| last_model(&tried.what)).collect();
    let mut order = first;
    order.dedup();
    assert_eq!(order, ['a', 'd', 'b', 'c']);
}

/// The model that came in last.
fn last_model(what: &str) -> Option<char> {
    what.rsplit(" + ").next()?.chars().next()
}

#[test]
fn an_optimiser_comes_nearest() {
    let coefficient = run("coefficient", &[]).found.average;
    for optimiser in ["cma_es", "differential_evolution"] {
        let settings = [("evaluations", Setting::Number(400.0)), (OPTIMISER, Setting::Text(optimiser.into()))];
        let all = run("evolutionary", &settings);
        assert!(all.found.average > coefficient, "{optimiser}: {} and {coefficient}", all.found.average);
        assert!(all.evaluations <= 4 + 400, "{optimiser}");
        let from = ("from", Setting::Text("average".into()));
        let accepted = run("evolutionary", &[&settings[..], &[from]].concat());
        assert!(accepted.evaluations <= 4 + 3 + 400, "{optimiser}");
        // Only models that the average accepted are searched.
        assert!(!accepted.found.candidate.recipe.contains("model: d"));
    }
}

const OPTIMISER: &str = "optimiser";

#[test]
fn racing_changes_no_heuristic() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["average", "coefficient", "similarity", "dissimilarity"] {
        let with = run(name, &[]);
        let without = run_with(&setup(false), name, &[], None, &directory.path().join(name));
        assert_eq!(with.found, without.found, "{name}");
    }
}

#[test]
fn a_budget_leaves_what_was_accepted() {
    let directory = tempfile::tempdir().expect("a directory");
    let ran = run_with(&setup(true), "coefficient", &[], Some(4 + 9 + 5), &directory.path().join("journal"));
    assert!(ran.halted);
    // The five best shares of the second step were tried; the best of them counts.
    assert_eq!(ran.evaluations, 18);
    assert_eq!(models(&ran), [0, 1, 2]);
}

#[test]
fn the_course_is_the_same_from_any_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = directory.path().join("whole");
    let settings = [("evaluations", Setting::Number(60.0))];
    let expected = run_with(&setup(true), "evolutionary", &settings, None, &whole);
    let text = std::fs::read_to_string(&whole).expect("a journal");
    let lines: Vec<&str> = text.lines().collect();
    for cut in (1..lines.len()).step_by(7) {
        let path = directory.path().join(format!("{cut}"));
        std::fs::write(&path, lines[..cut].join("\n") + "\n{\"part\": \"sea").expect("a journal");
        let ran = run_with(&setup(true), "evolutionary", &settings, None, &path);
        assert_eq!((ran.found, ran.tried), (expected.found.clone(), expected.tried.clone()), "{cut}");
    }
}

#[test]
fn settings_that_will_not_do() {
    let says = |name: &str, key: &str, setting: Setting, expected: &str| {
        let def = StrategyRegistry::builtin().get(name).expect("a strategy");
        let found = (def.build)(&setup(true), &[(key.into(), setting)]).err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), Some(expected));
    };
    says("average", "points", Setting::Number(9.0), "strategy `average` has no parameter `points`; it has none");
    let expected = "strategy `coefficient`: `points` must be a whole number from 1 to 99, found 0";
    says("coefficient", "points", Setting::Number(0.0), expected);
    let expected =
        "strategy `evolutionary`: cma_es has no parameter `sgima`; it has population, sigma, restarts, full_up_to";
    says("evolutionary", "sgima", Setting::Number(0.1), expected);
    let expected = "strategy `evolutionary`: no optimiser is called `cma`; there are cma_es, sep_cma_es, \
                    differential_evolution, nsga2, sobol, random";
    says("evolutionary", OPTIMISER, Setting::Text("cma".into()), expected);
    let unknown = StrategyRegistry::builtin().get("greedy").expect_err("no strategy").to_string();
    let expected =
        "no strategy is called `greedy`; there are average, coefficient, similarity, dissimilarity, evolutionary";
    assert_eq!(unknown, expected);
}
