//! Strategies on scores that depend on the recipe alone.

use super::*;
use crate::context::{
    BestCandidate, DescribedCandidate, Member, StrategyInputs, StrategyOutcome, TrialRecord, Verdict,
};
use crate::evaluation_log::{Budget, EvaluationLog, Purpose};
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
    nominated: Vec<DescribedCandidate>,
    evaluations: u64,
    stopped: bool,
}

fn search() -> SearchContext<'static> {
    static OPERATORS: std::sync::LazyLock<glue_merge::Registry> =
        std::sync::LazyLock::new(glue_merge::Registry::builtin);
    static OPTIMISERS: std::sync::LazyLock<glue_search::OptimiserRegistry> =
        std::sync::LazyLock::new(glue_search::OptimiserRegistry::builtin);
    SearchContext {
        members: ["a", "b", "c", "d"].map(|name| Member { name: name.into(), path: name.into() }).into(),
        template: RecipeTemplate { base_model: Some("base".into()), ..RecipeTemplate::default() },
        space: SpaceConfig::default(),
        tensors: TensorNames::from_names(["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]),
        statistics: Vec::new(),
        operators: &OPERATORS,
        optimisers: &OPTIMISERS,
        seed: 1,
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
    scorer: &Counting,
    name: &str,
    settings: &[(&str, ParamSetting)],
    evaluations: Option<u64>,
    path: &Path,
) -> Ran {
    run_scored(&search(), name, settings, evaluations, path, scorer)
}

/// Runs a strategy with a context of its own.
fn run_scored(
    search: &SearchContext<'_>,
    name: &str,
    settings: &[(&str, ParamSetting)],
    evaluations: Option<u64>,
    path: &Path,
    scorer: &Counting,
) -> Ran {
    let (journal, entries) = Journal::resume(path, &serde_json::json!({})).expect("a journal");
    let mut log = EvaluationLog::new(scorer, journal, entries, Budget { evaluations, seconds: None }, &NoProgress)
        .expect("a log");
    let alone = |member: &Member| DescribedCandidate {
        candidate: crate::recipe_text::alone(&search.template, &member.path),
        what: member.name.clone(),
        weights: Vec::new(),
    };
    let candidates: Vec<_> = search.members.iter().map(alone).collect();
    let baselines: Vec<_> =
        log.score("baseline", &candidates, Purpose::Baseline).outcomes.into_iter().map(Result::ok).collect();
    let similarity = OnceCell::new();
    let parts = StrategyInputs {
        search,
        log: &mut log,
        baselines: &baselines,
        admitted: &[0, 1, 2, 3],
        earlier: &[],
        similarity: &similarity,
    };
    let mut context = StrategyContext::new(name, parts);
    let settings: Vec<(String, ParamSetting)> =
        settings.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
    let strategy =
        (StrategyRegistry::builtin().get(name).expect("a strategy").build)(search, &settings).expect("settings");
    let stopped = strategy.run(&mut context).is_err();
    let StrategyOutcome { found, trials, nominated, .. } = context.finish();
    Ran { found: found.expect("a result"), trials, nominated, evaluations: log.status().evaluations, stopped }
}

fn run(name: &str, settings: &[(&str, ParamSetting)]) -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    run_with(&Counting::new(score), name, settings, None, &directory.path().join("journal"))
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
    assert_eq!(ran.evaluations, 3);
    let last = ran.trials.last().expect("a record");
    assert_eq!((last.verdict, last.what.as_str()), (Verdict::Rejected, "a 0.25 + b 0.25 + c 0.25 + d 0.25"));
    assert!(last.reason.contains("it is worse than 0.9533"), "{}", last.reason);
}

#[test]
fn each_trial_has_a_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let ran = run_with(&Counting::new(score).without_races(), "average", &[], None, &directory.path().join("journal"));
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
    assert_eq!(ran.evaluations, 3 * 9);
    assert!(
        ran.trials.iter().filter(|trial| trial.what.contains("d ")).all(|trial| trial.verdict == Verdict::Rejected)
    );
    assert_eq!(run("coefficient", &[("points", ParamSetting::Number(3.0))]).evaluations, 3 * 3);
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

#[test]
fn task_vectors_grow_as_an_average_and_then_longer() {
    // One and a half times as far as the average goes.
    let score = |recipe: &str| {
        let aim = [("a", 0.75), ("b", 0.45), ("c", 0.3), ("d", 0.0)];
        let found = weights(recipe);
        let of = |name: &str| found.iter().find(|(model, _)| model == name).map_or(0.0, |(_, weight)| *weight);
        1.0 - aim.iter().map(|(name, aim)| (of(name) - aim).powi(2)).sum::<f64>()
    };
    let directory = tempfile::tempdir().expect("a directory");
    let settings = [("method", ParamSetting::Text("task_arithmetic".into()))];
    let path = directory.path().join("journal");
    let ran = run_scored(&search(), "coefficient", &settings, None, &path, &Counting::new(score));
    // 0.7 a + 0.3 b, times 0.9 with 0.1 c; the best factor is 1.3005.
    assert_eq!(ran.found.what, "task_arithmetic, a 0.819 + b 0.351 + c 0.13");
    assert_eq!(ran.evaluations, 3 * 9 + 9);
    let recipe = &ran.found.candidate.recipe;
    let lines = ["merge_method: task_arithmetic\n", "base_model: base\n", "- model: c\n"];
    assert!(lines.iter().all(|line| recipe.contains(line)), "{recipe}");

    let mut search = search();
    search.template.base_model = None;
    let def = StrategyRegistry::builtin().get("similarity").expect("a strategy");
    let error = (def.build)(&search, &[("method".into(), ParamSetting::Text("task_arithmetic".into()))])
        .err()
        .expect("no base");
    let expected = "strategy `similarity`: `method: task_arithmetic` adds task vectors to a base; name one as `base`";
    assert_eq!(error.to_string(), expected);
}

/// Weights of a recipe by model, in the layer and outside of it.
fn by_group(recipe: &str) -> Vec<[f64; 2]> {
    let mut found: Vec<[f64; 2]> = Vec::new();
    for line in recipe.lines().map(str::trim) {
        let number = |text: &str| text.trim_end_matches('}').parse::<f64>().expect("a number");
        let value = line.split("value: ").nth(1).map(number);
        if line.starts_with("- model: ") {
            found.push([1.0; 2]);
        } else if let (Some(last), Some(weight)) = (found.last_mut(), line.strip_prefix("weight: ")) {
            *last = [number(weight); 2];
        } else if let (Some(last), Some(value)) = (found.last_mut(), value) {
            last[usize::from(!line.contains("filter"))] = value;
        }
    }
    found
}

/// Good where a and b have other weights in the layer than outside of it.
const AIMS: [[f64; 2]; 4] = [[0.6, 0.2], [0.3, 0.9], [0.0, 0.0], [-0.2, 0.1]];

fn distance(recipe: &str) -> f64 {
    let of = |(aim, found): (&[f64; 2], &[f64; 2])| (0..2).map(|g| (aim[g] - found[g]).powi(2)).sum::<f64>();
    AIMS.iter().zip(&by_group(recipe)).map(of).sum()
}

/// Loss and derivatives for [`distance`].
fn slopes(recipe: &str, items: &[(usize, usize)]) -> crate::LossGradient {
    let found = by_group(recipe);
    let of = |g: usize| found.iter().zip(&AIMS).map(|(found, aim)| 2.0 * (found[g] - aim[g])).collect::<Vec<f64>>();
    // Tensors of one group add up.
    let half: Vec<f64> = of(0).iter().map(|slope| slope / 2.0).collect();
    let tensors =
        [("model.layers.0.mlp.up_proj.weight", half.clone()), ("model.layers.0.b", half), ("model.norm.weight", of(1))];
    assert_eq!(items.len(), 32, "all of one task");
    crate::LossGradient {
        loss: distance(recipe),
        tensors: tensors.map(|(name, slopes)| (name.to_string(), slopes)).into(),
        left_out: Vec::new(),
    }
}

#[test]
fn coefficients_are_learned_layer_by_layer() {
    let directory = tempfile::tempdir().expect("a directory");
    let scorer = || Counting::new(|recipe| 1.0 - distance(recipe)).with_gradient(slopes);
    let run = |path: &Path, scorer: &Counting| {
        run_scored(&search(), "gradient", &[("rate", ParamSetting::Number(0.05))], None, path, scorer)
    };
    let (whole, counts) = (directory.path().join("whole"), scorer());
    let ran = run(&whole, &counts);
    assert!(ran.found.average > 0.99, "{}: {}", ran.found.average, ran.found.candidate.recipe);
    // Three starts, four checks and the mean of the last steps.
    assert_eq!((ran.evaluations, counts.calls()), (3 + 4 + 1, 12 + 100));
    let found = by_group(&ran.found.candidate.recipe);
    assert!(found.iter().flatten().zip(AIMS.iter().flatten()).all(|(x, aim)| (x - aim).abs() < 0.05), "{found:?}");
    assert!(ran.trials[6].reason.contains("; mean loss 0.0"), "{}", ran.trials[6].reason);

    // From any journal the same, and nothing that it holds is computed again.
    let text = std::fs::read_to_string(&whole).expect("a journal");
    let lines: Vec<&str> = text.lines().collect();
    for cut in [1, 8, 40, lines.len()] {
        let path = directory.path().join(cut.to_string());
        std::fs::write(&path, lines[..cut].join("\n") + "\n").expect("a journal");
        let counts = scorer();
        let again = run(&path, &counts);
        assert_eq!((again.found, again.trials), (ran.found.clone(), ran.trials.clone()), "{cut}");
        assert_eq!(counts.calls(), lines.len() - cut, "{cut}");
    }

    // Without gradients the best start is the result.
    let none = run(&directory.path().join("none"), &Counting::new(|recipe| 1.0 - distance(recipe)));
    assert!(none.stopped && none.evaluations == 3);
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
        assert!(all.evaluations <= 400, "{optimiser}");
        // The mean of a distribution is a finalist.
        assert_eq!(all.nominated.len(), usize::from(optimiser == "cma_es"), "{optimiser}");
        let from = ("from", ParamSetting::Text("average".into()));
        let accepted = run("evolutionary", &[&settings[..], &[from]].concat());
        assert!(accepted.evaluations <= 3 + 400, "{optimiser}");
        // Only models that the average accepted are searched.
        assert!(!accepted.found.candidate.recipe.contains("model: d"));
    }
}

const OPTIMISER: &str = "optimiser";

#[test]
fn methods_race_and_the_best_goes_on_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |evaluations: f64, score: fn(&str) -> f64| {
        let settings = [("evaluations", ParamSetting::Number(evaluations))];
        let path = directory.path().join(evaluations.to_string());
        run_scored(&search(), "evolutionary", &settings, None, &path, &Counting::new(score))
    };
    let of = |ran: &Ran, method: &str| ran.trials.iter().filter(|trial| trial.what.starts_with(method)).count();
    let ties_is_better = |recipe: &str| score(recipe) + if recipe.contains("merge_method: ties") { 0.05 } else { 0.0 };
    let ran = run(200.0, ties_is_better);
    assert!(ran.found.what.starts_with("ties, weight[a] "), "{}", ran.found.what);
    // A start each, two other lengths for the leading two, three generations of 15 for the second, the rest for the
    // best.
    let counts = ["sce", "dare_ties", "task_arithmetic"].map(|method| of(&ran, method));
    assert_eq!((counts, of(&ran, "ties"), ran.evaluations), ([1, 1, 3 + 45], 150, 200));
    let lengths: Vec<&str> = ran.trials[4..8].iter().filter_map(|trial| trial.what.rsplit("lambda ").next()).collect();
    assert_eq!(lengths, ["0.5", "1.5", "0.5", "1.5"]);
    // A budget that ends early is shared by both.
    let ran = run(40.0, ties_is_better);
    assert_eq!((of(&ran, "ties"), of(&ran, "task_arithmetic"), ran.evaluations), (3 + 17, 3 + 15, 40));
}

#[test]
fn an_optimiser_starts_from_the_best_model_where_averages_are_worse() {
    // a with a little of b; everything else is bad.
    let score = |recipe: &str| {
        let aim = [("a", 1.0), ("b", 0.2), ("c", 0.0), ("d", 0.0)];
        let found = weights(recipe);
        let of = |name: &str| found.iter().find(|(model, _)| model == name).map_or(0.0, |(_, weight)| *weight);
        1.0 - aim.iter().map(|(name, aim)| (of(name) - aim).powi(2)).sum::<f64>()
    };
    let directory = tempfile::tempdir().expect("a directory");
    let mut search = search();
    search.space.methods = vec![crate::space::MethodConfig::Name("task_arithmetic".into())];
    let settings = [("evaluations", ParamSetting::Number(18.0))];
    let path = directory.path().join("journal");
    let ran = run_scored(&search, "evolutionary", &settings, None, &path, &Counting::new(score));
    // Three merges with equal weights, then a generation around a.
    let of_a: Vec<f64> = ran.trials.iter().map(|trial| weights(&trial.recipe)[0].1).collect();
    assert_eq!(of_a[..3], [0.25; 3]);
    let mean = of_a[3..].iter().sum::<f64>() / 15.0;
    assert!(of_a.len() == 18 && mean > 0.8, "{of_a:?}");
}

#[test]
fn racing_changes_no_heuristic() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["average", "coefficient", "similarity", "dissimilarity"] {
        let with = run(name, &[]);
        let without = run_with(&Counting::new(score).without_races(), name, &[], None, &directory.path().join(name));
        assert_eq!(with.found, without.found, "{name}");
    }
}

#[test]
fn a_budget_leaves_what_was_accepted() {
    let directory = tempfile::tempdir().expect("a directory");
    let ran = run_with(&Counting::new(score), "coefficient", &[], Some(9 + 5), &directory.path().join("journal"));
    assert!(ran.stopped);
    // The five best shares of the second step were tried; the best of them counts.
    assert_eq!(ran.evaluations, 14);
    assert_eq!(models(&ran), [0, 1, 2]);
}

#[test]
fn the_result_is_the_same_from_any_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = directory.path().join("whole");
    let settings = [("evaluations", ParamSetting::Number(60.0))];
    let expected = run_with(&Counting::new(score), "evolutionary", &settings, None, &whole);
    let text = std::fs::read_to_string(&whole).expect("a journal");
    let lines: Vec<&str> = text.lines().collect();
    for cut in (1..lines.len()).step_by(7) {
        let path = directory.path().join(format!("{cut}"));
        std::fs::write(&path, lines[..cut].join("\n") + "\n{\"role\": \"sea").expect("a journal");
        let ran = run_with(&Counting::new(score), "evolutionary", &settings, None, &path);
        assert_eq!((ran.found, ran.trials), (expected.found.clone(), expected.trials.clone()), "{cut}");
    }
}

#[test]
fn invalid_settings_are_refused() {
    let says = |name: &str, key: &str, setting: ParamSetting, expected: &str| {
        let def = StrategyRegistry::builtin().get(name).expect("a strategy");
        let found = (def.build)(&search(), &[(key.into(), setting)]).err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), Some(expected));
    };
    let expected = "strategy `average` has no parameter `points`; it has method";
    says("average", "points", ParamSetting::Number(9.0), expected);
    let expected = "strategy `coefficient`: `points` must be a whole number from 1 to 99, found 0";
    says("coefficient", "points", ParamSetting::Number(0.0), expected);
    let expected =
        "strategy `evolutionary`: cma_es has no parameter `sgima`; it has population, sigma, restarts, full_up_to";
    says("evolutionary", "sgima", ParamSetting::Number(0.1), expected);
    let expected = "strategy `evolutionary`: no optimiser is called `cma`; there are cma_es, sep_cma_es, \
                    differential_evolution, nsga2, sobol, random";
    says("evolutionary", OPTIMISER, ParamSetting::Text("cma".into()), expected);
    let unknown = StrategyRegistry::builtin().get("greedy").expect_err("no strategy").to_string();
    let expected = "no strategy is called `greedy`; there are average, coefficient, similarity, dissimilarity, soce, \
         evolutionary, gradient";
    assert_eq!(unknown, expected);
}
