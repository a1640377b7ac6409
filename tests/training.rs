//! `glue train-router` that is aborted at steps of its own and resumed: the mixture is the same to the byte as without.

use glue_tests::run::{Run, command, glue};
use glue_tests::shipped;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

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

/// Where runs one after another end, as fractions of the points at which a whole run could be aborted.
const ENDS: [&[f64]; 3] = [&[0.1, 0.3, 0.9], &[0.5, 0.2], &[0.99]];

fn check(kind: &Kind) {
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
    let trace = path("trace");
    Run::of(command(&shipped(), args("whole", "whole-state")).env("GLUE_ABORT_TRACE", &trace)).ok();
    let points = fs::read_to_string(&trace).expect("the binary has points to abort at").lines().count();
    let expected = files(&path("whole"));
    assert!(!differing(&expected, &files(&path("mixture"))).is_empty(), "{}: nothing was trained", kind.name);

    for (round, ends) in ENDS.into_iter().enumerate() {
        let (mixture, state) = (format!("killed-{round}"), format!("state-{round}"));
        copy(&path("mixture"), &path(&mixture));
        let resumed = || args(&mixture, &state).into_iter().chain(["--resume".to_string()]);
        for (i, end) in ends.iter().enumerate() {
            // A resumed run has fewer points to pass and may come to its end.
            let at = 1 + (end * points as f64) as usize;
            let run = Run::of(command(&shipped(), resumed()).env("GLUE_ABORT_AT", at.to_string()));
            assert!(run.status.is_none() || i > 0, "{}: no end at {at} of {points}: {run:?}", kind.name);
        }
        glue(&shipped(), resumed()).ok();
        let found = files(&path(&mixture));
        assert!(
            found == expected,
            "{}: ended at {ends:?} of {points}, {:?} differ",
            kind.name,
            differing(&found, &expected)
        );
        // A process that is killed when all is written is run again: nothing changes.
        glue(&shipped(), resumed()).ok();
        let again = files(&path(&mixture));
        assert!(again == expected, "{}: once more, and {:?} differ", kind.name, differing(&again, &expected));
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn by_labels_with_a_hidden_layer() {
    check(&KINDS[0]);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn by_losses_of_experts() {
    check(&KINDS[1]);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
fn by_the_loss_of_answers() {
    check(&KINDS[2]);
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
