//! Whole searches over models of the shipped zoo, with scores that follow from the recipe: what is evaluated, what the
//! journal depends on, and what is chosen.

use crate::common::zoo;
use glue_merge::Registry;
use glue_progress::{ErrorChain, NoProgress};
use glue_recipe::SharedExecutor;
use glue_search::OptimiserRegistry;
use glue_select::config::SearchConfig;
use glue_select::evaluation_log::Budget;
use glue_select::model_set::ModelSet;
use glue_select::output::{can_continue, is_complete};
use glue_select::search::{Options, Prepared, Registries, journal_path};
use glue_select::strategy::StrategyRegistry;
use glue_select::summary::Summary;
use glue_select::{Candidate, CandidateError, ItemRole, Rival, Scorer, Scores, Stopped, TaskScore};
use glue_tensor::Links;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Models and a task in a folder of their own.
struct Place {
    directory: tempfile::TempDir,
}

const MODELS: [&str; 4] = ["a-chat", "a-math", "a-code", "base-a"];

impl Place {
    fn new() -> Place {
        let place = Place { directory: tempfile::tempdir().expect("a directory") };
        for model in MODELS {
            let to = place.path(model);
            fs::create_dir_all(&to).expect("a directory");
            for entry in fs::read_dir(zoo().join(model)).expect("a model") {
                let path = entry.expect("an entry").path();
                if path.is_file() {
                    fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
                }
            }
        }
        // A task whose data lie elsewhere.
        fs::create_dir_all(place.path("data")).expect("a directory");
        fs::create_dir_all(place.path("tasks")).expect("a directory");
        let items: String = (0..40).map(|i| format!("{{\"q\": \"{i} + 1 =\", \"a\": \" {}\"}}\n", i + 1)).collect();
        fs::write(place.path("data/proxy.jsonl"), items).expect("items");
        let data = place.path("data/proxy.jsonl").display().to_string();
        let task = format!(
            "task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{proxy: {data}}}}}\ntest_split: proxy\n\
             output_type: loglikelihood\ndoc_to_text: '{{{{q}}}}'\ndoc_to_target: '{{{{a}}}}'\nmetric_list: [{{metric: acc}}]\n"
        );
        fs::write(place.path("tasks/sums.yaml"), task).expect("a task");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, rest: &str) -> SearchConfig {
        let [chat, math, code, base] = MODELS.map(|model| self.path(model).display().to_string());
        let tasks = self.path("tasks/sums.yaml").display().to_string();
        let text = format!("models: [{chat}, {math}, {code}]\nbase: {base}\ntasks: [{tasks}]\n{rest}");
        SearchConfig::parse(&text, "search.yml", &StrategyRegistry::builtin()).expect("a config")
    }

    fn run(&self, scorer: &Scripted, rest: &str, out: &str, evaluations: Option<u64>) -> Result<Summary, String> {
        let config = self.config(rest);
        let models = ModelSet::open(&config).map_err(|error| error.chain())?;
        let (operators, optimisers, strategies) =
            (Registry::builtin(), OptimiserRegistry::builtin(), StrategyRegistry::builtin());
        let registries = Registries { operators: &operators, optimisers: &optimisers, strategies: &strategies };
        let prepared = Prepared::new(&config, &models, registries).map_err(|error| error.chain())?;
        let options = Options {
            out: &self.path(out),
            resume: true,
            budget: Budget { evaluations, seconds: None },
            executor: SharedExecutor::default(),
            links: Links::default(),
        };
        prepared.run(scorer, &options, &NoProgress).map(|(summary, _)| summary).map_err(|error| error.chain())
    }
}

/// Scores by the weights in a recipe, and counts what is scored.
struct Scripted {
    /// What the best merge gains over the best model, in items of 200.
    gain: f64,
    /// Whether scores are estimated from every fifth item where there is a rival, whose recipes are collected.
    estimates: Option<Mutex<Vec<f64>>>,
    search: AtomicUsize,
    validation: AtomicUsize,
}

impl Scripted {
    fn new(gain: f64) -> Scripted {
        Scripted { gain, estimates: None, search: AtomicUsize::new(0), validation: AtomicUsize::new(0) }
    }

    fn counts(&self) -> (usize, usize) {
        (self.search.swap(0, Ordering::Relaxed), self.validation.swap(0, Ordering::Relaxed))
    }

    /// The weight of each model by the last part of its path; 1 for a model alone.
    fn weights(recipe: &str) -> BTreeMap<String, f64> {
        let mut found: Vec<(String, f64)> = Vec::new();
        for line in recipe.lines().map(str::trim) {
            if let Some(model) = line.strip_prefix("- model: ") {
                let name = Path::new(model.trim_matches(['"', '\''])).file_name().expect("a name");
                found.push((name.to_string_lossy().into_owned(), 1.0));
            } else if let (Some(weight), Some(last)) = (line.strip_prefix("weight: "), found.last_mut()) {
                last.1 = weight.parse().expect("a weight");
            }
        }
        found.into_iter().collect()
    }

    /// Of 200 items of each task the first are right; a merge of a-math and a-chat in equal parts is the best.
    fn scores(&self, recipe: &str) -> Scores {
        let weights = Scripted::weights(recipe);
        let of = |name: &str| weights.get(name).copied().unwrap_or(0.0);
        let together = 4.0 * of("a-math").min(1.0) * of("a-chat").min(1.0);
        let right = match weights.len() {
            1 => 100.0 + 10.0 * of("a-math") + 5.0 * of("a-chat") - 5.0 * of("base-a"),
            _ => 90.0 + (20.0 + self.gain) * together.clamp(0.0, 1.0) - 40.0 * of("a-code").abs(),
        };
        let items: Vec<f64> = (0..200).map(|i| f64::from(u8::from(f64::from(i) < right))).collect();
        let value = items.iter().sum::<f64>() / 200.0;
        let task = TaskScore { task: "sums".into(), metric: "acc".into(), value, n: 200, items };
        Scores { tasks: vec![task], average: value, stderr: None, dropped: false }
    }
}

impl Scorer for Scripted {
    fn score(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        rival: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let counter = if role == ItemRole::Search { &self.search } else { &self.validation };
        let outcomes: Vec<_> = candidates
            .iter()
            .map(|candidate| {
                counter.fetch_add(1, Ordering::Relaxed);
                let scores = self.scores(&candidate.recipe);
                let Some((rival, rivals)) = rival.zip(self.estimates.as_ref()) else { return Ok(scores) };
                rivals.lock().expect("no panic").push(rival.incumbent.average);
                let tasks = scores.tasks.into_iter().map(|task| TaskScore { n: 40, items: vec![], ..task }).collect();
                Ok(Scores { tasks, stderr: Some(0.01), ..scores })
            })
            .collect();
        outcomes.iter().enumerate().for_each(|(i, outcome)| done(i, outcome));
        Ok(outcomes)
    }
}

const SMALL: &str = "strategies: [{coefficient: {points: 3}}, {evolutionary: {evaluations: 30, population: 6}}]\n";

#[test]
fn finalists_are_validated_and_the_rule_decides() {
    let place = Place::new();
    let found = place.run(&Scripted::new(40.0), SMALL, "gain", None).expect("a result");
    assert_eq!((found.best_single.as_str(), found.significant), ("a-math", Some(true)), "{}", found.reason);
    assert!(found.reason.contains("significantly better than the best single model, a-math"), "{}", found.reason);
    let best = found.best_row().expect("a result");
    assert!(best.row.recipe.contains("a-math") && best.row.recipe.contains("a-chat"), "{}", best.row.recipe);
    for strategy in ["coefficient", "evolutionary"] {
        let own = found.finalists.iter().filter(|finalist| finalist.strategy == strategy);
        assert!((1..=6).contains(&own.clone().count()), "{strategy}");
        assert!(own.clone().all(|finalist| finalist.row.validation.is_some() && finalist.models >= 2));
    }
    assert!(found.finalists.iter().any(|finalist| finalist.row.what.starts_with("mean of the distribution: ")));
    // What was the best on the way has a validation score, too.
    let accepted = found.candidates.iter().filter(|trial| trial.verdict == glue_select::context::Verdict::Accepted);
    assert!(accepted.clone().count() > 2 && accepted.clone().all(|trial| trial.validation.is_some()));
    // Two models are as good as three here: no row says otherwise.
    assert!(found.ruling.iter().any(|row| row.accepted && row.incumbent == "a-math" && row.p <= 0.05));
    // Nothing gained: honest words, and a merge all the same.
    let found = place.run(&Scripted::new(-8.0), SMALL, "none", None).expect("a result");
    assert_eq!(found.significant, Some(false), "{}", found.reason);
    assert!(found.reason.starts_with("No merge is significantly better than the best single model, a-math"));
    assert!(found.best_row().is_some_and(|best| best.row.recipe.contains("a-chat")));
    let report = fs::read_to_string(place.path("none/report.md")).expect("a report");
    assert!(report.contains("No merge is significantly better") && report.contains("## Decisions"), "{report}");
    // Without validation items nothing is said about it.
    let rest = format!("{SMALL}validation: 0\n");
    let found = place.run(&Scripted::new(40.0), &rest, "without", None).expect("a result");
    assert_eq!(found.significant, None);
    assert!(found.reason.contains("Without scores on validation items"), "{}", found.reason);
}

#[test]
fn candidates_are_estimated_from_the_best_single_model_and_finalists_are_not() {
    let place = Place::new();
    let scorer = Scripted { estimates: Some(Mutex::default()), ..Scripted::new(40.0) };
    let found = place.run(&scorer, &format!("{SMALL}item_fraction: 0.2\n"), "fraction", None).expect("a result");
    let rivals = std::mem::take(&mut *scorer.estimates.as_ref().expect("estimates").lock().expect("no panic"));
    let single = found.models.iter().find(|row| row.name == found.best_single).expect("a row");
    let single = single.search.as_ref().expect("scores");
    assert!(rivals.len() > 20 && rivals.iter().all(|average| *average == single.average), "{rivals:?}");
    // Models alone and finalists have all items, candidates a fifth.
    assert!(found.models.iter().all(|row| row.search.as_ref().is_some_and(|scores| scores.stderr.is_none())));
    assert!(found.items_saved > 0 && found.items_saved <= found.items * 4 / 5, "{found:?}");
    let whole = |scores: &Option<Scores>| scores.as_ref().is_some_and(|scores| scores.tasks[0].items.len() == 200);
    assert!(found.finalists.iter().all(|finalist| whole(&finalist.row.validation)));
    // The leading candidates are scored again on all search items.
    let mut of_finalists = found.finalists.iter().map(|finalist| &finalist.row.search);
    assert!(of_finalists.all(|search| search.is_none() || whole(search)));
    let is_estimate = |scores: &Scores| scores.stderr.is_some();
    assert!(found.candidates.iter().any(|trial| trial.scores.as_ref().is_some_and(is_estimate)));
    assert!(found.strategies.iter().all(|strategy| whole(&strategy.row.search)));
    // The same merge as from all items, since these estimates have no error.
    let full = place.run(&Scripted::new(40.0), SMALL, "full", None).expect("a result");
    let recipe = |summary: &Summary| summary.best_row().map(|row| row.row.recipe.clone());
    assert_eq!((recipe(&found), full.items_saved), (recipe(&full), 0));
    // Where nothing is held out, finalists are scored on all search items.
    let rest = format!("{SMALL}item_fraction: 0.2\nvalidation: 0\n");
    let found = place.run(&scorer, &rest, "nothing-held-out", None).expect("a result");
    assert!(found.finalists.len() > 1 && found.finalists.iter().all(|finalist| whole(&finalist.row.search)));
    assert!(whole(&found.best_row().expect("a result").row.search));
}

#[test]
fn a_larger_budget_makes_only_the_new_evaluations() {
    let place = Place::new();
    let scorer = Scripted::new(40.0);
    let whole = place.run(&scorer, SMALL, "whole", None).expect("a result");
    let (all, validated) = scorer.counts();
    // Three models and the base do not count.
    assert_eq!(whole.evaluations as usize, all - 4);
    assert!(whole.evaluations > 20 && whole.budget.is_none());

    let part = place.run(&scorer, SMALL, "part", Some(9)).expect("a result");
    assert_eq!((part.evaluations, part.budget), (9, Some(Budget { evaluations: Some(9), seconds: None })));
    let (first, first_validated) = scorer.counts();
    assert_eq!(first, 9 + 4);
    let out = place.path("part");
    let budget = |evaluations| Budget { evaluations, seconds: None };
    let can = |evaluations| can_continue(&out, budget(evaluations)).expect("a summary");
    assert!(can(Some(10)) && can(None) && !can(Some(9)) && !can(Some(5)));

    let on = place.run(&scorer, SMALL, "part", None).expect("a result");
    let (second, second_validated) = scorer.counts();
    assert_eq!((first + second, on.evaluations), (all, whole.evaluations), "only what is new is evaluated");
    assert!(first_validated + second_validated >= validated && second_validated < validated);
    assert!(!can(None) && !journal_path(&out).exists());
    let bytes = |name: &str| fs::read(place.path(name)).expect("a file");
    for file in ["search.json", "best.yml", "report.md", "best/model.safetensors"] {
        assert!(bytes(&format!("part/{file}")) == bytes(&format!("whole/{file}")), "{file}");
    }
    // Nothing but the results is left.
    let mut left: Vec<String> = fs::read_dir(place.directory.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("part") || name.contains("whole"))
        .collect();
    left.sort();
    assert_eq!(left, ["part", "whole"]);
    assert!(is_complete(&out));
}

#[test]
fn whatever_a_score_depends_on_is_noticed() {
    let changed = |file: &str, from: &str, to: &str, names: &str| {
        let place = Place::new();
        let scorer = Scripted::new(40.0);
        place.run(&scorer, SMALL, "out", Some(5)).expect("a result");
        let path = place.path(file);
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.contains(from), "{file}");
        fs::write(&path, text.replacen(from, to, 1)).expect("a file");
        let error = place.run(&scorer, SMALL, "out", None).expect_err(file);
        assert!(error.contains("it belongs to another search: ") && error.contains(names), "{error}");
    };
    changed("a-math/tokenizer_config.json", "{", "{ ", "a-math.tokenizer_config.json: was ");
    changed("base-a/config.json", "{", "{ ", "base-a.config.json: was ");
    changed("data/proxy.jsonl", "7 + 1", "8 + 1", "tasks.proxy.sums: was ");
}
