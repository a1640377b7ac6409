//! A merge operator outside the repository: `cargo xtask new-operator` creates a project in a folder elsewhere, and
//! cargo builds, tests and runs it offline. With the operator of `tests/external`, its output is that of
//! `docs/new-operator.md`, word for word.
//!
//! The project is built into the target directory of this test, with its profile, where cargo finds the dependencies of
//! the workspace.

use glue_tests::run::Run;
use glue_tests::zoo::tensors;
use glue_tests::{Zoo, shipped};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository is above the tests")
}

/// The folder of programs that this test was built into, `target/PROFILE`.
fn programs() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    test.ancestors().nth(2).expect("tests are built in a target directory").to_owned()
}

/// A command without what cargo told this test about its own package, which would make build scripts run again.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|own| name.starts_with(own)) {
            command.env_remove(&key);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs cargo on the project in `folder`, without a network. Warnings of the compiler are failures.
fn cargo(folder: &Path, args: &[&str]) -> String {
    let programs = programs();
    let (target, profile) = (programs.parent().expect("a target directory"), programs.file_name().expect("a profile"));
    let profile = profile.to_str().map(|name| if name == "debug" { "dev" } else { name }).expect("a name in ASCII");
    let mut command = clean(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(args)
        .args(["--quiet", "--offline", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(folder);
    let run = Run::of(&mut command);
    assert_eq!((run.status, run.err.as_str()), (Some(0), ""), "cargo {args:?}: {}", run.out);
    run.out
}

/// Runs `cargo xtask new-operator` with `args`.
fn new_operator(args: &[&str]) -> Run {
    let xtask = programs().join("xtask");
    assert!(xtask.is_file(), "{} is missing: run `cargo build --workspace` first", xtask.display());
    Run::of(clean(xtask).arg("new-operator").args(args).current_dir(root()))
}

/// Tests the project, builds its program, and merges as its example says; the result must be that of `expected`, which
/// gets an element of the base and of each model.
fn check(zoo: &Zoo, tests: &str, out: &str, expected: fn(f64, &[f64]) -> f64) {
    let project = zoo.path("project");
    let tested = cargo(&project, &["test"]);
    assert!(tested.contains(tests), "{tests} are not in {tested}");
    cargo(&project, &["build", "--features", "cli"]);
    let program = programs().join("glue-median");
    Run::of(clean(&program).args(["merge", "project/example.yml", out, "--quiet"]).current_dir(zoo.directory())).ok();

    let example = fs::read_to_string(project.join("example.yml")).expect("an example");
    let models = example.lines().filter_map(|line| line.trim().strip_prefix("- model: "));
    let models: Vec<_> = models.map(|model| zoo.read(model)).collect();
    assert!(models.len() >= 2, "{example}");
    let base = zoo.read("models/base");
    for (name, merged) in &zoo.read(out) {
        let models: Vec<Vec<f64>> = models.iter().map(|model| model[name].values()).collect();
        for (j, (found, base)) in merged.values().into_iter().zip(base[name].values()).enumerate() {
            let wanted = expected(base, &models.iter().map(|model| model[j]).collect::<Vec<_>>());
            // A few roundings of f32 of numbers of at most about 3.
            assert!((found - wanted).abs() < 2e-6, "{name}, element {j}: {found}, expected {wanted}");
        }
    }
}

#[test]
fn a_project_of_the_template_is_built_and_run_and_becomes_the_one_of_the_guide() {
    let zoo = Zoo::empty();
    for (name, seed) in [("base", 1), ("math", 2), ("code", 3), ("chat", 4)] {
        zoo.add(&format!("models/{name}"), &tensors(seed));
    }
    let project = zoo.path("project");
    let out = project.to_str().expect("a path in UTF-8");

    new_operator(&["Median", "--out", out]).refused("a name", 1, &["lower-case letters", "geometric_median"]);
    new_operator(&["ties", "--out", out]).refused("a name that is taken", 1, &["an operator `ties` already"]);
    assert!(!project.exists());
    let made = new_operator(&["median", "--out", out]).ok();
    assert!(made.out.contains("docs/new-operator.md"), "{}", made.out);
    new_operator(&["median", "--out", out]).refused("a folder that exists", 1, &["nothing is overwritten"]);

    check(&zoo, "2 passed", "of-the-template", |base, models| {
        base + 0.5 * (models[0] - base) + 0.5 * (models[1] - base)
    });
    for file in ["src/lib.rs", "example.yml"] {
        fs::copy(root().join("tests/external").join(file), project.join(file)).expect("a file of the example");
    }
    check(&zoo, "5 passed", "of-the-guide", |base, models| {
        let mut models = models.to_vec();
        models.sort_by(f64::total_cmp);
        base + 1.2 * (models[1] - base)
    });
    guide(&zoo);
}

/// Writes the configs of the guide and runs every command whose output it shows, beside trained models.
fn guide(zoo: &Zoo) {
    let project = zoo.path("project");
    for (from, name) in [("base-a", "base"), ("a-math", "math"), ("a-code", "code"), ("a-chat", "chat")] {
        zoo.copy(&shipped().join(from), &format!("project/models/{name}"));
    }
    zoo.copy(&shipped().join("tasks"), "project/tasks");
    let guide = fs::read_to_string(root().join("docs/new-operator.md")).expect("the guide");
    let blocks = |kind: &str| -> Vec<String> {
        let start = format!("```{kind}\n");
        guide.split(&start).skip(1).filter_map(|rest| rest.split("```\n").next()).map(Into::into).collect()
    };
    for config in blocks("yaml") {
        let name = config.lines().next().and_then(|line| line.strip_prefix("# ")).expect("the name of a config");
        fs::write(project.join(name), &config).expect("a config");
    }
    let commands = blocks("console");
    assert!(commands.len() >= 4, "{} blocks of commands", commands.len());
    let path =
        env::join_paths([programs()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())));
    let path = path.expect("folders");
    for shown in commands.iter().flat_map(|block| block.split("$ ").skip(1)) {
        let (command, expected) = shown.split_once('\n').expect("a command and its output");
        let mut shell = clean("sh");
        shell.args(["-c", command]).current_dir(&project);
        let run = Run::of(shell.env("PATH", &path).env("NO_COLOR", "1").env_remove("COLUMNS"));
        let found = run.err + &run.out;
        assert!(is_shown(expected, &found), "$ {command}\nfound:\n{found}\nin the guide:\n{expected}");
    }
}

/// Whether `found` is `expected`, in which `…` stands for anything.
fn is_shown(expected: &str, found: &str) -> bool {
    let Some((first, rest)) = expected.split_once('…') else { return expected == found };
    let (middle, last) = rest.rsplit_once('…').map_or((None, rest), |(middle, last)| (Some(middle), last));
    let Some(mut found) = found.strip_prefix(first).and_then(|found| found.strip_suffix(last)) else { return false };
    for piece in middle.into_iter().flat_map(|middle| middle.split('…')) {
        let Some(at) = found.find(piece) else { return false };
        found = &found[at + piece.len()..];
    }
    true
}

#[test]
fn outputs_are_compared_but_for_what_is_left_out() {
    for (expected, found, same) in [
        ("a\nb\n", "a\nb\n", true),
        ("a\n", "a\nb\n", false),
        ("a\n…\n", "a\nb\n", true),
        ("…\nb\n", "a\nb\n", true),
        ("…\nb\n", "a\nb\nc\n", false),
        ("took … s\n", "took 1.5 s\n", true),
        ("took … s\n", "took 1.5 h\n", false),
        ("a\n…\nc\n…\n", "a\nb\nc\nd\n", true),
        ("a\n…\nx\n…\n", "a\nb\nc\nd\n", false),
    ] {
        assert_eq!(is_shown(expected, found), same, "{expected:?} and {found:?}");
    }
}
