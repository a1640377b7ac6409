//! Candidates merged in memory: the same scores as what `glue merge` writes, however many at once, from a cache, raced.

use crate::common::{plan_options, proxy_items, template, zoo};
use glue_eval::{EvalOptions, LocalModel, evaluate, load_tasks};
use glue_merge::device::Executor;
use glue_merge::{MergeError, Operand, Plan, Registry, Sink, Source, TensorSpec};
use glue_progress::{CancelToken, NoProgress};
use glue_recipe::{Recipe, RunOptions, SharedExecutor, plan, run};
use glue_select::contract::{Candidate, CandidateError, ItemRole, Rival, Scorer, Scores, Strata};
use glue_select::local::{ItemsConfig, LocalOptions, LocalScorer};
use glue_select::race::Racing;
use glue_select::recipe_text::{RecipeTemplate, alone, weighted};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const MODELS: [&str; 5] = ["a-chat", "a-math", "a-code", "a-reason", "a-noise"];

fn options(racing: Racing) -> LocalOptions {
    LocalOptions { plan: plan_options(), items: proxy_items(), racing, ..LocalOptions::default() }
}

fn scorer(options: LocalOptions) -> LocalScorer {
    LocalScorer::new(load_tasks(&[zoo().join("tasks")]).unwrap(), options).unwrap()
}

fn merge(method: &str, weights: [f64; 5]) -> Candidate {
    let weights: Vec<(String, f64)> = MODELS.iter().map(|model| model.to_string()).zip(weights).collect();
    weighted(&template(), method, &weights, &[])
}

fn all(scorer: &dyn Scorer, candidates: &[Candidate]) -> Vec<Result<Scores, CandidateError>> {
    scorer.score(candidates, ItemRole::Search, None, &|_, _| {}).unwrap()
}

/// Texts whose perplexity changes with the last bit of any weight.
fn perplexity_task(directory: &Path) -> PathBuf {
    let task = directory.join("texts");
    std::fs::create_dir(&task).unwrap();
    std::fs::write(task.join("task.json"), r#"{"name": "texts", "kind": "perplexity"}"#).unwrap();
    let texts: String = (0..12).map(|i| format!("{{\"text\": \"what is {i} + {} ?\"}}\n", 3 * i)).collect();
    std::fs::write(task.join("proxy.jsonl"), texts).unwrap();
    task
}

fn written(candidate: &Candidate, out: &Path) {
    let recipe = Recipe::parse(&candidate.recipe, "test", &Registry::builtin()).unwrap().remove(0);
    let plan = plan(&recipe, &plan_options()).unwrap();
    run(&plan, out, &RunOptions::default(), &glue_progress::NoProgress).unwrap();
}

#[test]
fn a_score_is_that_of_the_written_checkpoint_to_the_bit() {
    let directory = tempfile::tempdir().unwrap();
    let paths = [perplexity_task(directory.path()), zoo().join("tasks/facts"), zoo().join("tasks/arith")];
    let chatml = RecipeTemplate { chat_template: Some("chatml".into()), dtype: Some("bfloat16".into()), ..template() };
    let own = |template: &RecipeTemplate, method: &str| {
        let weights: Vec<(String, f64)> = MODELS.iter().take(4).map(|model| (model.to_string(), 0.3)).collect();
        weighted(template, method, &weights, &[])
    };
    let check = |name: &str, candidate: Candidate, chat: bool| {
        let out = directory.path().join(name);
        written(&candidate, &out);
        let eval = EvalOptions { apply_chat_template: chat, ..EvalOptions::default() };
        let whole = EvalOptions { split: Some("proxy".into()), ..eval.clone() };
        let tasks = load_tasks(&paths).unwrap();
        // Accuracies and a perplexity.
        let weights = tasks.iter().map(|task| (task.name().to_string(), 1.0)).collect();
        let report = evaluate(&LocalModel::open(&out).unwrap(), &tasks, &whole, &NoProgress).unwrap();
        let scorer = LocalScorer::new(tasks, LocalOptions { eval, weights, ..options(Racing::Off) }).unwrap();
        let scores = all(&scorer, &[candidate]).remove(0).unwrap();
        let values: Vec<f64> = scores.tasks.iter().map(|task| task.value).collect();
        let expected: Vec<f64> = report
            .tasks
            .iter()
            .map(|task| task.main_metric().unwrap())
            .map(|metric| if metric.higher_is_better { metric.value } else { -metric.value })
            .collect();
        assert_eq!(values, expected, "{name}");
        assert_eq!(scores.average, values.iter().sum::<f64>() / 3.0);
        assert!(values[0] < -1.0, "a perplexity is at least 1, and turned: {values:?}");
    };
    check("arithmetic", own(&template(), "task_arithmetic"), false);
    check("ties", own(&template(), "ties"), false);
    check("dare", own(&RecipeTemplate { seed: Some(7), ..template() }, "dare_ties"), false);
    check("chat", own(&chatml, "linear"), true);
    check("alone", alone(&template(), "a-math"), false);
}

#[test]
fn many_at_once_score_as_one_after_another() {
    let mut candidates: Vec<Candidate> =
        (0..4).map(|i| merge("task_arithmetic", [0.1 * f64::from(i), 0.3, 0.2, 0.3, 0.0])).collect();
    candidates.push(candidates[1].clone());
    candidates.push(Candidate { recipe: "merge_method: tise\nmodels: []\n".into() });
    candidates.push(alone(&template(), "nowhere"));
    let one = scorer(LocalOptions { parallel: Some(1), ..options(Racing::Exact) });
    let expected = all(&one, &candidates);
    assert_eq!(one.statistics().merged, 4, "equal recipes are merged once");
    assert_eq!(expected[4], expected[1]);
    let messages: Vec<String> = expected.iter().filter_map(|r| r.as_ref().err()).map(ToString::to_string).collect();
    assert!(messages.len() == 2 && messages[0].contains("did you mean `ties`"), "{messages:?}");
    assert!(messages[1].contains("no such directory"), "{messages:?}");

    let told = Mutex::new(Vec::new());
    let three = scorer(LocalOptions { parallel: Some(3), memory: Some(1 << 30), ..options(Racing::Exact) });
    let found = three
        .score(&candidates, ItemRole::Search, None, &|i, result| told.lock().unwrap().push((i, result.clone())))
        .unwrap();
    assert_eq!(found, expected);
    let mut told = told.into_inner().unwrap();
    told.sort_by_key(|(i, _)| *i);
    assert_eq!(told, expected.iter().cloned().enumerate().collect::<Vec<_>>());
    let serial = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(serial.install(|| all(&scorer(options(Racing::Exact)), &candidates[..2])), expected[..2]);
    // What is known is not asked again, and not merged either.
    assert_eq!(all(&one, &candidates[..4]), expected[..4]);
    assert_eq!((one.statistics().merged, one.statistics().known), (4, 4));

    let small = scorer(LocalOptions { memory: Some(1000), ..options(Racing::Exact) });
    let refused = all(&small, &candidates[..1]).remove(0).unwrap_err().to_string();
    assert!(refused.starts_with("a candidate takes about ") && refused.ends_with("and the limit is 1000"), "{refused}");
    // As many in parallel as fit.
    let bytes: u64 = refused.split(' ').nth(4).unwrap().parse().unwrap();
    let narrow = scorer(LocalOptions { memory: Some(bytes + bytes / 2), threads: Some(3), ..options(Racing::Exact) });
    assert_eq!(all(&narrow, &candidates[..3]), expected[..3]);
    assert_eq!(narrow.parallelism(), 1);
}

/// An executor that is no processor, and how many tensors it saw the elements of.
#[derive(Default)]
struct Device {
    seen: AtomicUsize,
    identities: Mutex<HashSet<glue_merge::device::Identity>>,
}

impl Executor for Device {
    fn advance(
        &self,
        plan: Plan,
        tensor: &TensorSpec<'_>,
        source: &dyn Source,
        _: &dyn Sink,
    ) -> Result<Option<Plan>, MergeError> {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let all = (0..tensor.n_inputs).map(Operand::Input).chain([Operand::Base]);
        let of = |operand| source.stored(operand).and_then(|stored| stored.identity).expect("stored as it is");
        self.identities.lock().unwrap().extend(all.map(of));
        Ok(Some(plan))
    }
}

#[test]
fn a_device_merges_candidates_and_may_keep_what_it_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let cached = || LocalOptions { cache: Some(directory.path().join("cache")), ..options(Racing::Off) };
    let first = merge("task_arithmetic", [0.3, 0.3, 0.2, 0.3, 0.0]);
    let expected = all(&scorer(cached()), std::slice::from_ref(&first));
    let device = Arc::new(Device::default());
    let scorer = scorer(LocalOptions { executor: SharedExecutor::new(device.clone()), ..cached() });
    assert_eq!(all(&scorer, std::slice::from_ref(&first)), expected);
    // What the processor merged is not taken for what the device would merge.
    assert_eq!(scorer.statistics().merged, 1);
    let (seen, known) = (device.seen.load(Ordering::Relaxed), device.identities.lock().unwrap().len());
    assert_eq!(known, 6 * seen, "five models and a base have tensors of their own");
    // Another candidate of the same models: nothing that the device has not seen.
    all(&scorer, &[merge("ties", [0.1, 0.2, 0.3, 0.4, 0.5])]);
    assert_eq!((scorer.statistics().merged, device.seen.load(Ordering::Relaxed)), (2, 2 * seen));
    assert_eq!(device.identities.lock().unwrap().len(), known);
}

/// Scores candidates in order, each against the best so far; the index of the winner.
fn tournament(scorer: &LocalScorer, candidates: &[Candidate], strata: &Strata) -> (usize, f64) {
    let mut best: Option<(usize, Scores)> = None;
    for (i, candidate) in candidates.iter().enumerate() {
        let rival = best.as_ref().map(|(_, incumbent)| Rival { cutoff: incumbent.average, incumbent, strata });
        let result = scorer.score(std::slice::from_ref(candidate), ItemRole::Search, rival, &|_, _| {});
        let scores = result.unwrap().remove(0).unwrap();
        if let Some((_, incumbent)) = best.as_ref().filter(|_| scores.dropped) {
            assert!(scores.average <= incumbent.average, "no estimate of a dropped candidate is above the incumbent");
        } else if best.as_ref().is_none_or(|(_, incumbent)| scores.average > incumbent.average) {
            best = Some((i, scores));
        }
    }
    best.map(|(i, scores)| (i, scores.average)).unwrap()
}

#[test]
fn a_race_has_the_winner_of_full_evaluations() {
    let grid = [0.0, 0.4, 0.8];
    let mut candidates = vec![];
    for math in grid {
        for code in grid {
            for noise in [0.0, 0.6] {
                candidates.push(merge("task_arithmetic", [0.3, math, code, 0.3, noise]));
            }
        }
    }
    let full = scorer(options(Racing::Off));
    let baselines: Vec<Candidate> = MODELS.iter().map(|model| alone(&template(), model)).collect();
    let baselines: Vec<Scores> = all(&full, &baselines).into_iter().map(Result::unwrap).collect();
    let strata = Strata::of(&baselines.iter().collect::<Vec<_>>());
    let expected = tournament(&full, &candidates, &strata);
    assert_eq!(full.statistics().items_asked, (5 + 18) * 500);
    // Harmful candidates are far below: a race that saves nothing is none.
    for (racing, least) in [(Racing::Exact, 500), (Racing::default(), 4000)] {
        let raced = scorer(options(racing));
        assert_eq!(tournament(&raced, &candidates, &strata), expected, "{racing:?}");
        let s = raced.statistics();
        println!("{racing:?}: {} of 9000 items saved, {} of 18 dropped", s.items_saved, s.dropped);
        assert_eq!(s.items_asked + s.items_saved, 9000);
        assert!(s.items_saved >= least, "{racing:?} {s:?}");
    }
}

#[test]
fn a_fraction_of_the_items_gives_estimates() {
    let candidates = [[0.4; 5], [0.4, 0.4, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]];
    let candidates = candidates.map(|weights| merge("task_arithmetic", weights));
    let full = scorer(options(Racing::Off));
    let truth: Vec<Scores> = all(&full, &candidates).into_iter().map(Result::unwrap).collect();
    let reference = all(&full, &[alone(&template(), MODELS[0])]).remove(0).unwrap();
    let strata = Strata::of(&[&truth[0], &reference]);
    let scorer = scorer(LocalOptions { item_fraction: 0.2, ..options(Racing::Off) });
    let rival = Rival { cutoff: f64::NEG_INFINITY, incumbent: &reference, strata: &strata };
    let estimates = scorer.score(&candidates, ItemRole::Search, Some(rival), &|_, _| {}).unwrap();
    for (estimate, truth) in estimates.into_iter().map(Result::unwrap).zip(&truth) {
        let items: usize = estimate.tasks.iter().map(|task| task.n).sum();
        let stderr = estimate.stderr.expect("an estimate");
        println!("{} ± {stderr} from {items} items, {} on all", estimate.average, truth.average);
        assert!((100..110).contains(&items) && estimate.tasks.iter().all(|task| task.items.is_empty()));
        assert!((estimate.average - truth.average).abs() < 3.0 * stderr && stderr < 0.1);
        let mean = estimate.tasks.iter().map(|task| task.value).sum::<f64>() / estimate.tasks.len() as f64;
        assert!((mean - estimate.average).abs() < 1e-12);
    }
    // Without a rival there is nothing to estimate from.
    assert_eq!(all(&scorer, &candidates[..1]).remove(0).unwrap(), truth[0]);
    for fraction in [0.0, 1.5, f64::NAN] {
        let refused = LocalScorer::new(
            load_tasks(&[zoo().join("tasks")]).unwrap(),
            LocalOptions { item_fraction: fraction, ..options(Racing::Off) },
        );
        let message = refused.expect_err("no fraction").to_string();
        assert!(message.contains("`item_fraction`: expected a number above 0 and up to 1"), "{message}");
    }
}

#[test]
fn a_dropped_candidate_goes_on_where_it_stopped() {
    let (good, bad) = (merge("task_arithmetic", [0.4, 0.4, 0.4, 0.4, 0.0]), merge("linear", [0.0, 0.0, 0.0, 0.0, 1.0]));
    let scorer = scorer(options(Racing::default()));
    let best = all(&scorer, std::slice::from_ref(&good)).remove(0).unwrap();
    let strata = Strata::default();
    let score = |cutoff: f64| {
        let rival = Rival { cutoff, incumbent: &best, strata: &strata };
        let result = scorer.score(std::slice::from_ref(&bad), ItemRole::Search, Some(rival), &|_, _| {});
        result.unwrap().remove(0).unwrap()
    };
    let dropped = score(best.average);
    assert!(dropped.dropped && dropped.tasks.iter().all(|task| task.n < 100), "{dropped:?}");
    let asked = scorer.statistics().items_asked;
    let whole = score(0.0);
    assert!(!whole.dropped && whole.tasks.iter().all(|task| task.n == 100));
    assert_eq!(scorer.statistics().items_asked, 1000, "{asked} were asked before");
    // The same cutoff gives the same answer, now from the record.
    assert_eq!(score(best.average), dropped);
    assert_eq!(scorer.statistics().items_asked, 1000);
    // What a race asks item by item is what is asked at once.
    assert_eq!(all(&scorer, std::slice::from_ref(&bad)), [Ok(whole)]);
}

#[test]
fn scores_are_kept_on_disk_by_what_the_files_hold() {
    let directory = tempfile::tempdir().unwrap();
    let cached = || LocalOptions { cache: Some(directory.path().join("cache")), ..options(Racing::Exact) };
    let candidate = [merge("linear", [0.3, 0.3, 0.2, 0.2, 0.0])];
    let first = scorer(cached());
    let expected = all(&first, &candidate);
    assert_eq!(first.statistics().merged, 1);
    let second = scorer(cached());
    assert_eq!(all(&second, &candidate), expected);
    assert_eq!((second.statistics().merged, second.statistics().items_asked), (0, 0));
    // Another choice of the items: other candidates.
    let items = ItemsConfig { validation_fraction: 0.5, ..proxy_items() };
    let other = scorer(LocalOptions { items, ..cached() });
    all(&other, &candidate);
    assert_eq!(other.statistics().merged, 1);
}

#[test]
fn parts_are_disjoint_and_together_all() {
    let items = ItemsConfig { validation_fraction: 0.3, ..proxy_items() };
    let scorer_of = |items: ItemsConfig| scorer(LocalOptions { items, ..options(Racing::Exact) });
    let candidate = [alone(&template(), "a-math")];
    let score = |scorer: &LocalScorer, role| scorer.score(&candidate, role, None, &|_, _| {}).unwrap().remove(0);
    let whole = score(&scorer(options(Racing::Exact)), ItemRole::Search).unwrap();
    let split = scorer_of(items.clone());
    let (search, validation) = (score(&split, ItemRole::Search).unwrap(), score(&split, ItemRole::Validation).unwrap());
    for ((a, b), all) in search.tasks.iter().zip(&validation.tasks).zip(&whole.tasks) {
        assert_eq!((a.n, b.n, all.n), (70, 30, 100));
        // Right answers of both parts are those of all.
        let right = |task: &glue_select::contract::TaskScore| (task.value * task.n as f64).round();
        assert_eq!(right(a) + right(b), right(all), "{}", all.task);
    }
    let other = scorer_of(ItemsConfig { seed: 5, ..items });
    assert_ne!(score(&other, ItemRole::Validation).unwrap(), validation);
    let test = scorer_of(ItemsConfig { validation_split: Some("test".into()), ..proxy_items() });
    assert!(score(&test, ItemRole::Validation).unwrap().tasks.iter().all(|task| task.n > 100));
    let none = score(&scorer(options(Racing::Exact)), ItemRole::Validation).unwrap_err();
    assert_eq!(none.to_string(), "no items are held out for validation");
}

/// An executor that leaves everything to the processor, and remembers which threads asked it.
#[derive(Default)]
struct Threads(Mutex<HashSet<std::thread::ThreadId>>);

impl Executor for Threads {
    fn advance(
        &self,
        plan: Plan,
        _: &TensorSpec<'_>,
        _: &dyn Source,
        _: &dyn Sink,
    ) -> Result<Option<Plan>, MergeError> {
        std::thread::sleep(std::time::Duration::from_millis(1));
        self.0.lock().unwrap().insert(std::thread::current().id());
        Ok(Some(plan))
    }
}

#[test]
fn candidates_in_parallel_share_the_threads_of_the_pool() {
    let candidates: Vec<Candidate> =
        (0..6).map(|i| merge("task_arithmetic", [0.1 * f64::from(i), 0.3, 0.2, 0.3, 0.0])).collect();
    let used = |threads: Option<usize>, parallel: Option<usize>| {
        let seen = Arc::new(Threads::default());
        let executor = SharedExecutor::new(seen.clone());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        // Made in a pool of two threads.
        let scorer = pool.install(|| scorer(LocalOptions { executor, threads, parallel, ..options(Racing::Off) }));
        let scores = all(&scorer, &candidates);
        assert!(scores.iter().all(Result::is_ok), "{scores:?}");
        // Asked from within a pool, even of one thread, it ends.
        let serial = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(serial.install(|| all(&scorer, &candidates[..2])), scores[..2]);
        (seen.0.lock().unwrap().len(), scorer.parallelism())
    };
    let (threads, parallel) = used(None, Some(4));
    assert!((1..=2).contains(&threads) && parallel == 4, "{threads} threads, {parallel} in parallel");
    assert_eq!(used(Some(1), Some(3)).0, 1);
    // By default no more candidates than threads.
    assert!(used(None, None).1 <= 2);
}

#[test]
fn stopping_is_heard() {
    let stop = Arc::new(AtomicBool::new(false));
    let scorer = scorer(LocalOptions {
        cancel: CancelToken::from_flag(Arc::clone(&stop)),
        parallel: Some(2),
        ..options(Racing::Exact)
    });
    let candidates: Vec<Candidate> =
        (0..40).map(|i| merge("task_arithmetic", [0.01 * f64::from(i), 0.3, 0.2, 0.3, 0.0])).collect();
    let told = Mutex::new(BTreeSet::new());
    let result = scorer.score(&candidates, ItemRole::Search, None, &|i, result| {
        assert!(result.is_ok());
        told.lock().unwrap().insert(i);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(result.is_err());
    // At most one more of each thread was about to be done.
    assert!((1..=2).contains(&told.into_inner().unwrap().len()));
}

#[test]
fn derivatives_by_weights_are_those_of_differences() {
    let scorer = scorer(options(Racing::Off));
    // Weights rounded to half precision would hide small steps.
    let template = RecipeTemplate { dtype: Some("float32".into()), ..template() };
    let items: Vec<(usize, usize)> = (0..5).flat_map(|task| (0..3).map(move |item| (task, 7 * item))).collect();
    let at = |weights: [f64; 5]| {
        let weights: Vec<(String, f64)> = MODELS.iter().map(|model| model.to_string()).zip(weights).collect();
        let found = scorer.loss_gradient(&weighted(&template, "task_arithmetic", &weights, &[]), &items).unwrap();
        found.unwrap_or_else(|error| panic!("{error}"))
    };
    let here = [0.3, 0.5, 0.2, 0.4, 0.1];
    let found = at(here);
    assert!(found.left_out.is_empty() && found.tensors.len() > 30);
    for model in 0..5 {
        let moved = |step: f64| {
            let mut weights = here;
            weights[model] += step;
            at(weights).loss
        };
        let difference = (moved(2e-3) - moved(-2e-3)) / 4e-3;
        let along: f64 = found.tensors.iter().map(|(_, slopes)| slopes[model]).sum();
        // The third derivative times the squared step, and rounding of f32 over the step.
        assert!((along - difference).abs() < 2e-3 * along.abs().max(0.5), "{model}: {along} {difference}");
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(pool.install(|| at(here)), found);
}

#[test]
fn gradients_are_of_right_continuations_and_task_vectors() {
    let directory = tempfile::tempdir().unwrap();
    let tasks = [zoo().join("tasks/arith"), perplexity_task(directory.path())];
    let weights = ["arith", "texts"].map(|task| (task.to_string(), 1.0)).into();
    let scorer = LocalScorer::new(load_tasks(&tasks).unwrap(), LocalOptions { weights, ..options(Racing::Off) });
    let scorer = scorer.unwrap();
    let at = |method: &str, items: &[(usize, usize)]| {
        let found = scorer.loss_gradient(&merge(method, [0.2; 5]), items).unwrap();
        found.map(|gradient| gradient.left_out).map_err(|error| error.message)
    };
    assert_eq!(at("task_arithmetic", &[(0, 0), (1, 0)]), Ok(vec!["texts".to_string()]));
    let error = at("task_arithmetic", &[(1, 0)]).unwrap_err();
    assert!(error.starts_with("no task has a right continuation"), "{error}");
    let error = at("ties", &[(0, 0)]).unwrap_err();
    assert_eq!(error, "gradients are of merges by `task_arithmetic`, found `ties`");
}
