//! `glue soup`: the checkpoints of a training run as one model.

use glue_tests::zoo::{Zoo, tensors};

/// A run with checkpoints whose names are not in the order of their steps, and what else lies in such a directory.
fn run() -> Zoo {
    let zoo = Zoo::empty();
    for (step, seed) in [(20, 1), (900, 2), (1000, 3)] {
        zoo.add(&format!("run/checkpoint-{step}"), &tensors(seed));
    }
    zoo.write("run/trainer_state.json", "{}");
    zoo
}

/// The mean of the models of these seeds, in f64.
fn mean(weights: &[(u64, f64)], name: &str) -> Vec<f64> {
    let mut sum = Vec::new();
    for (seed, weight) in weights {
        let values = tensors(*seed)[name].values();
        sum.resize(values.len(), 0.0);
        sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += weight * x);
    }
    sum
}

#[track_caller]
fn check(zoo: &Zoo, out: &str, args: &[&str], weights: &[(u64, f64)]) {
    let report = zoo.glue(&[&["soup", "run", out, "--json"], args].concat()).json();
    let found: Vec<f64> =
        report["checkpoints"].as_array().unwrap().iter().map(|one| one["weight"].as_f64().unwrap()).collect();
    assert!(found.iter().zip(weights).all(|(x, (_, y))| (x - y).abs() < 1e-12), "{found:?}");
    for (name, tensor) in zoo.read(out) {
        let expected = mean(weights, &name);
        // Three products and sums of numbers below 1 in f32.
        assert!(tensor.values().iter().zip(&expected).all(|(x, y)| (x - y).abs() < 5e-7), "{name}");
    }
}

#[test]
fn checkpoints_are_averaged_in_the_order_of_their_steps() {
    let zoo = run();
    check(&zoo, "mean", &[], &[(1, 1.0 / 3.0), (2, 1.0 / 3.0), (3, 1.0 / 3.0)]);
    check(&zoo, "last", &["--last", "2"], &[(2, 0.5), (3, 0.5)]);
    check(&zoo, "ema", &["--weights", "ema", "--decay", "0.5"], &[(1, 0.25), (2, 0.25), (3, 0.5)]);
    check(&zoo, "cosine", &["--weights", "wsm-cosine"], &[(1, 0.25), (2, 0.5), (3, 0.25)]);
    let root = 0.5_f64.sqrt();
    check(&zoo, "sqrt", &["--weights", "wsm-1-sqrt", "--last", "2"], &[(2, root), (3, 1.0 - root)]);
    assert_eq!(zoo.json("mean/glue.json")["inputs"].as_array().unwrap().len(), 3);
}

#[test]
fn a_dry_run_shows_the_checkpoints_and_writes_nothing() {
    let zoo = run();
    let report = zoo.glue(&["soup", "run", "out", "--dry-run", "--json"]).json();
    let steps: Vec<u64> =
        report["checkpoints"].as_array().unwrap().iter().map(|one| one["step"].as_u64().unwrap()).collect();
    assert_eq!((steps, &report["dry_run"]), (vec![20, 900, 1000], &true.into()));
    assert!(!zoo.path("out").exists());
    let text = zoo.glue(&["soup", "run", "out", "--dry-run"]).ok().out;
    assert!(text.contains("checkpoint-900") && text.contains("0.3333"), "{text}");
}

#[test]
fn what_cannot_be_averaged_is_refused() {
    let zoo = run();
    zoo.glue(&["soup", "run", "out", "--last", "4"]).refused("few", 2, &["3 directories", "4 are needed"]);
    zoo.glue(&["soup", "run/checkpoint-20", "out"]).refused("none", 2, &["0 directories", "checkpoint-STEP"]);
    zoo.glue(&["soup", "nowhere", "out"]).refused("no run", 1, &["nowhere"]);
    zoo.glue(&["soup", "run", "out", "--decay", "0.5"]).refused("decay", 2, &["--weights ema"]);
    zoo.glue(&["soup", "run", "out", "--weights", "ema", "--decay", "1"]).refused("one", 2, &["below 1"]);
}
