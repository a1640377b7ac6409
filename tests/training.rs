//! `glue train-router`, killed at any moment and resumed: the mixture has the same bytes as without the kill.

use glue_tests::number::Numbers;
use glue_tests::run::{command, glue};
use glue_tests::shipped;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const EXPERTS: &str = "experts: [{source_model: a-math}, {source_model: a-code}, {source_model: a-reason}]\n";

/// A kind of training.
struct Kind {
    name: &'static str,
    description: &'static str,
    args: &'static [&'static str],
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "by labels, with a hidden layer, which the mixture does not have before",
        description: "base_model: a-math\ngate_mode: random\nlevel: block\nrouting: sample\ndense_layers: 2\n",
        args: &["--router", "mlp:8", "--epochs", "40", "--limit", "40"],
    },
    Kind {
        name: "by losses of experts, linear",
        description: "base_model: a-math\ngate_mode: random\nlevel: model\nrouting: sample\nexperts_per_token: 1\n",
        args: &["--labels", "loss", "--limit", "40"],
    },
    Kind {
        name: "by the loss of answers",
        description: "base_model: a-math\ngate_mode: uniform_random\nlevel: ffn\nexperts_per_token: 2\ndense_layers: 2\n",
        args: &["--loss", "lm", "--limit", "12", "--epochs", "3", "--layer", "2,3"],
    },
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

/// Files of a mixture by name, without what a killed process was about to write.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let named = entries.map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path));
    named
        .filter(|(name, _)| !name.starts_with('.'))
        .map(|(name, path)| (name, fs::read(path).expect("a file")))
        .collect()
}

fn differing(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
    names.filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

/// Whether a command succeeds within `delay`, and how long it took; `None` when it had to be killed.
fn run_for(mut command: Command, delay: Duration) -> Option<(bool, Duration)> {
    let mut child = command.stdout(Stdio::null()).spawn().expect("glue starts");
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some((status.success(), begin.elapsed()));
        }
        if begin.elapsed() >= delay {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child ends");
            return None;
        }
        sleep(Duration::from_millis(1));
    }
}

/// Trainings of each kind that are killed.
const ROUNDS: u32 = 5;

fn check(kind: &Kind, seed: u64) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| scratch.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    fs::write(path("mix.yml"), format!("{}{EXPERTS}", kind.description)).expect("a description");
    glue(&shipped(), ["mix", &text("mix.yml"), &text("mixture"), "--quiet"]).ok();
    let args = |mixture: &str, state: &str| {
        let head =
            ["train-router", &text(mixture), "--tasks", "tasks", "--state", &text(state), "--quiet"].map(String::from);
        head.into_iter().chain(kind.args.iter().map(|arg| arg.to_string())).collect::<Vec<_>>()
    };

    copy(&path("mixture"), &path("whole"));
    let start = Instant::now();
    glue(&shipped(), args("whole", "whole-state")).ok();
    let mut whole = start.elapsed();
    let expected = files(&path("whole"));
    assert!(!differing(&expected, &files(&path("mixture"))).is_empty(), "{}: nothing was trained", kind.name);

    let mut delays = Numbers::new(seed);
    let mut killed = 0;
    for round in 0..ROUNDS {
        let (mixture, state) = (format!("killed-{round}"), format!("state-{round}"));
        copy(&path("mixture"), &path(&mixture));
        let resumed = || args(&mixture, &state).into_iter().chain(["--resume".to_string()]);
        // The first kills spread over the time of all of it, later ones anywhere in it; the last run takes as long as
        // it takes.
        let first = (f64::from(round) + delays.unit()) / f64::from(ROUNDS);
        let shares = [Some(first), Some(delays.unit()), Some(delays.unit()), None];
        for share in shares {
            let delay = share.map_or(Duration::from_secs(600), |share| whole.mul_f64(share));
            match run_for(command(&shipped(), resumed()), delay) {
                Some((done, time)) => {
                    assert!(done, "{}: after {killed} kills", kind.name);
                    // The machine may have been busier while the time was taken.
                    whole = whole.min(time.max(whole / 2));
                    break;
                }
                None => killed += 1,
            }
        }
        let found = files(&path(&mixture));
        assert!(found == expected, "{}: after {killed} kills {:?} differ", kind.name, differing(&found, &expected));
        // A process that is killed when all is written is run again: nothing changes.
        glue(&shipped(), resumed()).ok();
        let again = files(&path(&mixture));
        assert!(again == expected, "{}: once more, and {:?} differ", kind.name, differing(&again, &expected));
    }
    println!("{}: {killed} kills in {ROUNDS} rounds of {whole:?}", kind.name);
    assert!(killed >= 3, "{}: only {killed} kills came in time", kind.name);
}

#[test]
fn by_labels_with_a_hidden_layer() {
    check(&KINDS[0], 1);
}

#[test]
fn by_losses_of_experts() {
    check(&KINDS[1], 2);
}

#[test]
fn by_the_loss_of_answers() {
    check(&KINDS[2], 3);
}

#[test]
fn the_state_of_another_mixture_is_refused() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let text = |name: &str| scratch.path().join(name).display().to_string();
    fs::write(text("mix.yml"), format!("{}{EXPERTS}", KINDS[2].description)).expect("a description");
    for (seed, out) in [("1", "one"), ("2", "two")] {
        glue(&shipped(), ["mix", &text("mix.yml"), &text(out), "--seed", seed, "--quiet"]).ok();
    }
    let train = |mixture: &str| {
        let head = [
            "train-router",
            &text(mixture),
            "--tasks",
            "tasks/arith",
            "--state",
            &text("state"),
            "--resume",
            "--quiet",
        ];
        glue(&shipped(), [&head, KINDS[2].args].concat())
    };
    train("one").ok();
    // The same weights but for the gates it begins with.
    train("two").refused("two", 2, &["lm-loss.state", "made with other data or settings"]);
}
