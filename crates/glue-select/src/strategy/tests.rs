//! Strategies on scores that depend on the recipe alone.

use super::*;
use crate::context::{BestCandidate, Member, StrategyInputs, TrialRecord, Verdict};
use crate::contract::ItemRole;
use crate::evaluation_log::{Budget, EvaluationLog};
use crate::journal::Journal;
use crate::recipe_text::RecipeTemplate;
use crate::similarity::Similarity;
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

/// Good near 0.5 a + 0.3 b + 0.2 c, and bad with any weight of d; a is the best single model.
fn score(recipe: &str) -> f64 {
    let aim = [("a", 0.5), ("b", 0.3), ("c", 0.2), ("d", 0.0)];
    let weights = weights(recipe);
    let of = |name: &str| weights.iter().find(|(model, _)| model == name).map_or(0.0, |(_, weight)| *weight);
    let distance: f64 = aim.iter().map(|(name, aim)| (of(name) - aim).powi(2)).sum();
    1.0 - distance
}

struct Ran {
    found: BestCandidate,
    trials: Vec<TrialRecord>,
    evaluations: u64,
    stopped: bool,
}

fn search(racing: bool) -> SearchContext<'static> {
    static OPERATORS: std::sync::LazyLock<glue_merge::Registry> =
        std::sync::LazyLock::new(glue_merge::Registry::builtin);
    static OPTIMISERS: std::sync::LazyLock<glue_search::OptimiserRegistry> =
        std::sync::LazyLock::new(glue_search::OptimiserRegistry::builtin);
    SearchContext {
        members: ["a", "b", "c", "d"].map(|name| Member { name: name.into(), path: name.into() }).into(),
        template: RecipeTemplate { base_model: Some("base".into()), ..RecipeTemplate::default() },
        space: SpaceConfig::default(),
        tensors: TensorNames::from_names(["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]),
        operators: &OPERATORS,
        optimisers: &OPTIMISERS,
        seed: 1,
        racing,
        read_similarity: Box::new(|| {
            // c is most similar to a, then b is; d is similar to none.
            let unit = |i: usize, j: usize| match (i.max(j), i.min(j)) {
                (i, j) if i == j => 1.0,
                (1, 0) => 0.5,
                (2, 0) => 0.9,
                (2, 1) => 0.6,
                _ => 0.0,
            };
            let gram = (0..4).flat_map(|i| (0..=i).map(move |j| unit(i, j))).collect();
            Ok(Similarity::from_grams(4, vec![gram]))
        }),
    }
}

fn run_with(
    search: &SearchContext<'_>,
    name: &str,
    settings: &[(&str, ParamSetting)],
    evaluations: Option<u64>,
    path: &Path,
) -> Ran {
    let scorer = Counting::new(score);
    let (journal, entries) = Journal::resume(path, &serde_json::json!({})).expect("a journal");
    let mut log = EvaluationLog::new(&scorer, journal, entries, Budget { evaluations, seconds: None }).expect("a log");
    let alone = |member: &Member| crate::recipe_text::alone(&search.template, &member.path);
    let candidates: Vec<_> = search.members.iter().map(alone).collect();
    let baselines: Vec<_> =
        log.score(&candidates, ItemRole::Search, None).outcomes.into_iter().map(Result::ok).collect();
    let similarity = OnceCell::new();
    let parts = StrategyInputs {
        search,
        log: &mut log,
        progress: &NoProgress,
        baselines: &baselines,
        admitted: &[0, 1, 2, 3],
        earlier: &[],
        similarity: &similarity,
        best: None,
    };
    let mut context = StrategyContext::new(name, parts);
    let settings: Vec<(String, ParamSetting)> =
        settings.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
    let strategy =
        (StrategyRegistry::builtin().get(name).expect("a strategy").build)(search, &settings).expect("settings");
    let stopped = strategy.run(&mut context).is_err();
    let (found, trials, _) = context.finish();
    Ran { found: found.expect("a result"), trials, evaluations: log.status().evaluations, stopped }
}

fn run(name: &str, settings: &[(&str, ParamSetting)]) -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    run_with(&search(true), name, settings, None, &directory.path().join("journal"))
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
    let last = ran.trials.last().expect("a record");
    assert_eq!((last.verdict, last.what.as_str()), (Verdict::Rejected, "a 0.25 + b 0.25 + c 0.25 + d 0.25"));
    assert!(last.reason.contains("it can no longer reach 0.9533"), "{}", last.reason);
}

#[test]
fn each_trial_has_a_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let ran = run_with(&search(false), "average", &[], None, &directory.path().join("journal"));
    let reasons: Vec<&str> = ran.trials.iter().map(|trial| trial.reason.as_str()).collect();
    let expected = [
        "start: the best single model, 0.62",
        "accepted b: 0.92 >= 0.62 (best so far)",
        "accepted c: 0.9533 >= 0.92 (best so far)",
        "rejected: 0.87 < 0.9533 (best so far)",
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
    assert!(
        ran.trials.iter().filter(|trial| trial.what.contains("d ")).all(|trial| trial.verdict == Verdict::Rejected)
    );
    assert_eq!(run("coefficient", &[("points", ParamSetting::Number(3.0))]).evaluations, 4 + 3 * 3);
}

#[test]
fn similarity_decides_the_order() {
    assert_eq!(models(&run("similarity", &[])), [0, 2, 1]);
    // d is least similar to a; the merge is then less similar to b than to c.
    let first: Vec<char> =
        run("dissimilarity", &[]).trials.iter().filter_map(|trial| last_model(&trial.what)).collect();
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
        let settings =
            [("evaluations", ParamSetting::Number(400.0)), (OPTIMISER, ParamSetting::Text(optimiser.into()))];
        let all = run("evolutionary", &settings);
        assert!(all.found.average > coefficient, "{optimiser}: {} and {coefficient}", all.found.average);
        assert!(all.evaluations <= 4 + 400, "{optimiser}");
        let from = ("from", ParamSetting::Text("average".into()));
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
        let without = run_with(&search(false), name, &[], None, &directory.path().join(name));
        assert_eq!(with.found, without.found, "{name}");
    }
}

#[test]
fn a_budget_leaves_what_was_accepted() {
    let directory = tempfile::tempdir().expect("a directory");
    let ran = run_with(&search(true), "coefficient", &[], Some(4 + 9 + 5), &directory.path().join("journal"));
    assert!(ran.stopped);
    // The five best shares of the second step were tried; the best of them counts.
    assert_eq!(ran.evaluations, 18);
    assert_eq!(models(&ran), [0, 1, 2]);
}

#[test]
fn the_result_is_the_same_from_any_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = directory.path().join("whole");
    let settings = [("evaluations", ParamSetting::Number(60.0))];
    let expected = run_with(&search(true), "evolutionary", &settings, None, &whole);
    let text = std::fs::read_to_string(&whole).expect("a journal");
    let lines: Vec<&str> = text.lines().collect();
    for cut in (1..lines.len()).step_by(7) {
        let path = directory.path().join(format!("{cut}"));
        std::fs::write(&path, lines[..cut].join("\n") + "\n{\"role\": \"sea").expect("a journal");
        let ran = run_with(&search(true), "evolutionary", &settings, None, &path);
        assert_eq!((ran.found, ran.trials), (expected.found.clone(), expected.trials.clone()), "{cut}");
    }
}

#[test]
fn invalid_settings_are_refused() {
    let says = |name: &str, key: &str, setting: ParamSetting, expected: &str| {
        let def = StrategyRegistry::builtin().get(name).expect("a strategy");
        let found = (def.build)(&search(true), &[(key.into(), setting)]).err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), Some(expected));
    };
    says("average", "points", ParamSetting::Number(9.0), "strategy `average` has no parameter `points`; it has none");
    let expected = "strategy `coefficient`: `points` must be a whole number from 1 to 99, found 0";
    says("coefficient", "points", ParamSetting::Number(0.0), expected);
    let expected =
        "strategy `evolutionary`: cma_es has no parameter `sgima`; it has population, sigma, restarts, full_up_to";
    says("evolutionary", "sgima", ParamSetting::Number(0.1), expected);
    let expected = "strategy `evolutionary`: no optimiser is called `cma`; there are cma_es, sep_cma_es, \
                    differential_evolution, nsga2, sobol, random";
    says("evolutionary", OPTIMISER, ParamSetting::Text("cma".into()), expected);
    let unknown = StrategyRegistry::builtin().get("greedy").expect_err("no strategy").to_string();
    let expected =
        "no strategy is called `greedy`; there are average, coefficient, similarity, dissimilarity, evolutionary";
    assert_eq!(unknown, expected);
}
