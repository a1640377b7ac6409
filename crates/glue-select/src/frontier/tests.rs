//! Zoos whose merges are known in closed form.
use super::*;
use crate::contract::{CandidateError, ItemRole, Rival, Scorer, Stopped, TaskScore};
use crate::evaluation_log::Budget;
use crate::journal::Journal;
use glue_progress::NoProgress;
use glue_recipe::recipe::Body;
use glue_recipe::{ParamValue, Recipe};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

const ITEMS: usize = 100;

/// A task vector of length w has the skill of its model up to w = 1, and takes as much of other skills as
/// `interference` says.
struct Zoo {
    /// By model, then task.
    skills: Vec<Vec<f64>>,
    /// What one model costs another in a merge, by pair.
    interference: Vec<Vec<f64>>,
    calls: AtomicUsize,
}

impl Zoo {
    fn new(skills: &[&[f64]], interference: &[&[f64]]) -> Zoo {
        let rows = |rows: &[&[f64]]| rows.iter().map(|row| row.to_vec()).collect();
        Zoo { skills: rows(skills), interference: rows(interference), calls: AtomicUsize::new(0) }
    }

    fn values(&self, weights: &[f64]) -> Vec<f64> {
        let task = |t: usize| {
            let of = |(i, skills): (usize, &Vec<f64>)| {
                let cost: f64 = weights.iter().zip(&self.interference[i]).map(|(w, cost)| w * cost).sum();
                skills[t] * (weights[i].min(1.0) - cost).max(0.0)
            };
            self.skills.iter().enumerate().map(of).fold(0.0, f64::max)
        };
        (0..self.skills[0].len()).map(task).collect()
    }

    fn scores(&self, weights: &[f64]) -> Scores {
        let values = self.values(weights);
        let task = |(t, value): (usize, &f64)| {
            let right = (value * ITEMS as f64).round() as usize;
            let items: Vec<f64> = (0..ITEMS).map(|i| f64::from(u8::from(i < right))).collect();
            let value = right as f64 / ITEMS as f64;
            TaskScore { task: format!("t{t}"), metric: "acc".into(), value, n: ITEMS, items }
        };
        let tasks: Vec<TaskScore> = values.iter().enumerate().map(task).collect();
        let average = tasks.iter().map(|task| task.value).sum::<f64>() / tasks.len() as f64;
        Scores { tasks, average, stderr: None, dropped: false }
    }

    fn sources(&self) -> Vec<Source> {
        (0..self.skills.len())
            .map(|i| {
                let weights: Vec<f64> = (0..self.skills.len()).map(|j| f64::from(u8::from(i == j))).collect();
                Source { name: format!("m{i}"), path: format!("zoo/m{i}"), family: 0, scores: self.scores(&weights) }
            })
            .collect()
    }

    fn frontier(&self, evaluations: Option<u64>) -> (Frontier, Vec<Source>) {
        let directory = tempfile::tempdir().expect("a directory");
        let (journal, entries) = Journal::resume(&directory.path().join("journal"), &json!({})).expect("a journal");
        let budget = Budget { evaluations, seconds: None };
        let mut log = EvaluationLog::new(self, journal, entries, budget, &NoProgress).expect("a log");
        let sources = self.sources();
        let families = [RecipeTemplate { base_model: Some("zoo/base".into()), ..RecipeTemplate::default() }];
        let inputs = FrontierInputs {
            sources: &sources,
            families: &families,
            similarity: &|_, _| None,
            weights: &[],
            operators: &Registry::builtin(),
            seed: 0,
        };
        (frontier(&inputs, &mut log).expect("a frontier"), sources)
    }
}

impl Scorer for Zoo {
    fn score(
        &self,
        candidates: &[Candidate],
        _: ItemRole,
        _: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let score = |candidate: &Candidate| {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let recipe = Recipe::parse(&candidate.recipe, "test", &Registry::builtin()).expect("a recipe").remove(0);
            let Body::Models(models) = &recipe.parts[0].body else { panic!("a recipe of models") };
            let mut weights = vec![0.0; self.skills.len()];
            for model in models {
                let i: usize = model.model.value.trim_start_matches("zoo/m").parse().expect("a number");
                let Some(ParamValue::Scalar(glue_merge::Setting::Number(w))) =
                    model.settings.get("weight").map(|at| at.value.clone())
                else {
                    panic!("a weight")
                };
                weights[i] = w;
            }
            Ok(self.scores(&weights))
        };
        let outcomes: Vec<_> = candidates.iter().map(score).collect();
        outcomes.iter().enumerate().for_each(|(i, outcome)| done(i, outcome));
        Ok(outcomes)
    }
}

/// `news` and `mood` merge almost without loss, `scan` does not survive a merge, and the last model is good at nothing.
fn real() -> Zoo {
    Zoo::new(
        &[&[0.86, 0.5, 0.0], &[0.6, 0.89, 0.0], &[0.5, 0.5, 0.78], &[0.2, 0.4, 0.0]],
        &[&[0.0, 0.03, 0.6, 0.5], &[0.05, 0.0, 0.6, 0.5], &[0.8, 0.8, 0.0, 0.5], &[0.5, 0.5, 0.5, 0.0]],
    )
}

fn names(found: &Frontier) -> Vec<Vec<String>> {
    let of = |partition: &Partition| partition.experts.iter().map(|&i| found.experts[i].name.clone()).collect();
    found.path.iter().map(of).collect()
}

#[test]
fn what_merges_well_is_merged_and_the_rest_stays_apart() {
    let zoo = real();
    let (found, sources) = zoo.frontier(None);
    let names = names(&found);
    assert_eq!(names[0], ["m0", "m1", "m2"], "the last model is the best at nothing");
    assert_eq!(names[1], ["m2", "m0+m1"]);
    assert_eq!((names.len(), names[2].len()), (3, 1));
    assert_eq!(found.routing(&found.path[1].experts), [4, 4, 2]);
    assert!(found.experts[4].words(&sources).starts_with("task_arithmetic: m0 1, m1 1"), "{:?}", found.experts[4]);
    let value =
        |i: usize| oracle(&found.path[i].experts.iter().map(|&e| &found.experts[e].scores).collect::<Vec<_>>(), &[]);
    assert!(value(0) >= value(1) && value(1) > value(2), "{} {} {}", value(0), value(1), value(2));
    assert!(value(1) > 0.8, "{}", value(1));
    // Nothing is scored twice, and everything is in the record.
    assert_eq!(found.trials.len(), zoo.calls.load(Ordering::Relaxed));
    assert!(found.trials.len() < 40, "{}", found.trials.len());
}

#[test]
fn a_budget_is_kept_and_the_path_is_whole_anyway() {
    for evaluations in [0, 1, 3, 7] {
        let zoo = real();
        let (found, _) = zoo.frontier(Some(evaluations));
        assert!(zoo.calls.load(Ordering::Relaxed) as u64 <= evaluations);
        assert_eq!(found.path.iter().map(|partition| partition.experts.len()).collect::<Vec<_>>(), [3, 2, 1]);
        assert!(evaluations >= 7 || found.ended.is_some(), "{evaluations}");
    }
}

#[test]
fn equal_models_cost_nothing() {
    // Each is the best at something by one item of a hundred.
    let zoo = Zoo::new(
        &[&[0.61, 0.6, 0.6], &[0.6, 0.61, 0.6], &[0.6, 0.6, 0.61]],
        &[&[0.0, 0.1, 0.1], &[0.1, 0.0, 0.1], &[0.1, 0.1, 0.0]],
    );
    let (found, _) = zoo.frontier(None);
    assert_eq!(found.path.len(), 3);
    assert_eq!(zoo.calls.load(Ordering::Relaxed), 0, "no merge is tried where nothing can be lost");
}

#[test]
fn models_of_different_families_are_not_merged() {
    let zoo = real();
    let mut sources = zoo.sources();
    sources[1].family = 1;
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, entries) = Journal::resume(&directory.path().join("journal"), &json!({})).expect("a journal");
    let mut log = EvaluationLog::new(&zoo, journal, entries, Budget::default(), &NoProgress).expect("a log");
    let families = [Some("zoo/base"), None]
        .map(|base| RecipeTemplate { base_model: base.map(String::from), ..RecipeTemplate::default() });
    let inputs = FrontierInputs {
        sources: &sources,
        families: &families,
        similarity: &|_, _| None,
        weights: &[],
        operators: &Registry::builtin(),
        seed: 0,
    };
    let found = frontier(&inputs, &mut log).expect("a frontier");
    assert!(found.experts.iter().all(|expert| !expert.name.contains("m1+") && !expert.name.contains("+m1")));
}
