//! Three stages, the second of which is a search with a journal.
use super::*;
use std::process::Command;
use std::sync::Mutex;

/// A config of the three stages.
#[derive(Clone, Copy)]
struct Config {
    model: &'static str,
    racing: bool,
    budget: Option<u64>,
    seed: u64,
}

const CONFIG: Config = Config { model: "m1", racing: true, budget: Some(3), seed: 7 };

/// What was announced, one line each.
#[derive(Default)]
struct Announced(Mutex<Vec<String>>);

impl glue_progress::Progress for Announced {}

impl StageProgress for Announced {
    fn stage(&self, stage: Stage, reused: bool) {
        self.0.lock().unwrap().push(format!("{} {}", stage.name(), if reused { "reused" } else { "runs" }));
    }

    fn moved_aside(&self, moved: &MovedStage) {
        let name = moved.to.file_name().unwrap().to_string_lossy().into_owned();
        let finished = if moved.seconds.is_some() { "finished" } else { "interrupted" };
        self.0.lock().unwrap().push(format!("{finished} {name}: {}", moved.changed.join(", ")));
    }
}

/// Runs the stages, and returns what was announced and the number of evaluations that were made.
fn run(out: &Path, config: Config, from: Option<Stage>, stop: bool) -> Result<(Vec<String>, u64), PipelineError> {
    let zoo = Zoo { models: Vec::new() };
    let announced = Announced::default();
    fs::create_dir_all(out.join("stages")).unwrap();
    let mut stages = Stages::new(out, json!({ "models": { "a": config.model } }), from, None, &zoo);
    let own = json!(null);
    stages.run(Stage::Baselines, own, StageBudget::default(), &announced, |_| Ok(config.model.len()))?.unwrap();
    let own = json!({ "select": { "racing": config.racing, "space": [1, 2] } });
    let mut evaluations = 0;
    let budget = StageBudget { evaluations: config.budget, ..StageBudget::default() };
    let found = stages.run(Stage::Select, own, budget, &announced, |place| {
        let journal = place.join("journal");
        let mut lines = fs::read_to_string(&journal).unwrap_or_default();
        while (lines.len() as u64) < config.budget.unwrap_or(9).min(9) {
            lines.push('.');
            write_atomic(&journal, lines.as_bytes())?;
            evaluations += 1;
            if stop {
                return Err(PipelineError::Stopped);
            }
        }
        Ok(lines)
    })?;
    let found = found.unwrap().result;
    let own = json!(config.seed);
    let last = stages.run(Stage::Test, own, StageBudget::default(), &announced, |place| {
        write_atomic(place.join("scores"), found.as_bytes())?;
        Ok(found.clone())
    })?;
    assert_eq!(last.unwrap().result, found);
    Ok((announced.0.into_inner().unwrap(), evaluations))
}

fn check(out: &Path, config: Config, from: Option<Stage>, announced: &[&str], evaluations: u64) {
    let found = run(out, config, from, false).unwrap();
    assert_eq!(found, (announced.iter().map(|line| line.to_string()).collect(), evaluations));
}

#[test]
fn what_no_longer_fits_is_moved_aside_and_announced() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path();
    check(out, CONFIG, None, &["baselines runs", "select runs", "test runs"], 3);
    check(out, CONFIG, None, &["baselines reused", "select reused", "test reused"], 0);
    // The last stage alone.
    let seed = Config { seed: 8, ..CONFIG };
    let moved = "finished 08-test-1: config (was 7, is 8)";
    check(out, seed, None, &["baselines reused", "select reused", moved, "test runs"], 0);
    let moved = "finished 08-test-2: ";
    check(out, seed, Some(Stage::Test), &["baselines reused", "select reused", moved, "test runs"], 0);
    // A part of the config in the middle; the last stage depends on it.
    let racing = Config { racing: false, ..seed };
    let moved = "finished 05-select-1: select.racing (was true, is false)";
    let moved_later = "finished 08-test-3: stage select";
    let all = ["baselines reused", moved, "select runs", moved_later, "test runs"];
    check(out, racing, None, &all, 3);
    // A model.
    let model = Config { model: "other", ..racing };
    let announced = run(out, model, None, false).unwrap().0;
    assert_eq!(announced[0], "finished 04-baselines-1: models.a (was `m1`, is `other`)");
    assert_eq!(announced[2], "finished 05-select-2: stage baselines");
    assert!(out.join("stages/old/05-select-1/journal").is_file());
    // An interrupted stage continues, unless it is another one.
    assert!(matches!(run(out, CONFIG, Some(Stage::Select), true), Err(PipelineError::Stopped)));
    let announced = run(out, racing, None, false).unwrap().0;
    assert_eq!(announced[1], "interrupted 05-select-4: select.racing (was true, is false)");
}

#[test]
fn a_larger_budget_continues_the_finished_stage() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path();
    run(out, CONFIG, None, false).unwrap();
    let moved = "finished 08-test-1: stage select";
    let with = |budget| Config { budget, ..CONFIG };
    check(out, with(Some(5)), None, &["baselines reused", "select runs", moved, "test runs"], 2);
    // A smaller one changes nothing.
    check(out, with(Some(4)), None, &["baselines reused", "select reused", "test reused"], 0);
    // Interrupted.
    assert!(matches!(run(out, with(Some(8)), None, true), Err(PipelineError::Stopped)));
    let moved = "finished 08-test-2: stage select";
    let all = ["baselines reused", "select runs", moved, "test runs"];
    check(out, with(Some(8)), None, &all, 2);
    let moved = "finished 08-test-3: stage select";
    check(out, with(None), None, &["baselines reused", "select runs", moved, "test runs"], 1);
    check(out, with(Some(99)), None, &["baselines reused", "select reused", "test reused"], 0);
}

#[test]
fn any_limit_that_was_raised_counts() {
    let budget = |evaluations, seconds, all_seconds| StageBudget { evaluations, seconds, all_seconds };
    let before = budget(Some(10), Some(60.0), None);
    for (now, more) in [
        (before, false),
        (budget(Some(11), Some(60.0), None), true),
        (budget(Some(10), Some(61.0), None), true),
        (budget(Some(10), None, None), true),
        (budget(Some(9), Some(60.0), Some(30.0)), false),
    ] {
        assert_eq!(now.exceeds(&before), more, "{now:?}");
    }
    let all = budget(None, None, Some(30.0));
    assert!(budget(None, None, Some(31.0)).exceeds(&all) && StageBudget::default().exceeds(&all));
    assert!(!all.exceeds(&StageBudget::default()));
}

/// Names of all files and their contents, without those that hold times and what a kill in a write leaves.
fn listing(out: &Path) -> Vec<(String, Vec<u8>)> {
    let names: Vec<String> = hashes(out).unwrap().into_keys().filter(|name| !name.ends_with(".partial")).collect();
    let content = |name: &String| match name.rsplit('/').next() {
        Some(COST | MANIFEST) => Vec::new(),
        _ => fs::read(out.join(name)).unwrap(),
    };
    names.iter().map(|name| (name.clone(), content(name))).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in hashes(from).unwrap().keys() {
        fs::create_dir_all(to.join(name).parent().unwrap()).unwrap();
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

const CHILD: &str = "GLUE_TEST_STAGES";

/// The changes of a config that the next test makes, one after another.
const STEPS: [Config; 3] =
    [CONFIG, Config { budget: Some(5), ..CONFIG }, Config { budget: Some(5), racing: false, ..CONFIG }];

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn killed_at_any_step_it_ends_the_same() {
    if let Ok(task) = std::env::var(CHILD) {
        let (step, out) = task.split_once(' ').unwrap();
        run(Path::new(out), STEPS[step.parse::<usize>().unwrap()], None, false).unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let start = |out: &Path, step: usize, abort: Option<usize>| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["stage::tests::killed_at_any_step_it_ends_the_same", "--exact"]);
        child.env(CHILD, format!("{step} {}", out.display()));
        if let Some(abort) = abort {
            child.env("GLUE_ABORT_AT", abort.to_string());
        }
        child.output().unwrap().status.success()
    };
    let mut before = directory.path().join("before");
    fs::create_dir_all(&before).unwrap();
    for step in 0..STEPS.len() {
        let whole = directory.path().join(format!("whole-{step}"));
        copy(&before, &whole);
        assert!(start(&whole, step, None));
        let expected = listing(&whole);
        let mut kills = 0;
        loop {
            let out = directory.path().join(format!("out-{step}-{kills}"));
            copy(&before, &out);
            if start(&out, step, Some(kills + 1)) {
                break;
            }
            kills += 1;
            assert!(start(&out, step, None), "step {step}, killed at point {kills}");
            let found = listing(&out);
            assert!(found == expected, "step {step}, killed at point {kills}: {:?}", found.iter().map(|f| &f.0));
        }
        assert!(kills > 20, "{kills} points");
        before = whole;
    }
}
