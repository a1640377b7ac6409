//! A merge that is killed or stopped: its output is complete or absent, and the next run writes it.

use glue_tests::Zoo;
use glue_tests::run::{Run, binary};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Tensors of a model: 24 MiB, of which there are three.
const LAYERS: usize = 6;

const CONFIG: &str = "merge_method: della
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.5}
";

/// A base and two fine-tunes of it. A tokenizer file of some size widens the moment between the last weight and the
/// end.
fn family() -> Zoo {
    let zoo = Zoo::slow(LAYERS);
    zoo.write("base/merges.txt", vec![b'\n'; 8 << 20]);
    zoo.write("out.yml", CONFIG);
    zoo
}

const MERGE: [&str; 5] = ["merge", "out.yml", "out", "--threads", "2"];

/// Where an output is until it is complete.
const STAGING: &str = ".out.partial";

/// Name and content of the files in `directory`; without the lock, which a kill right after the commit may leave.
fn files(zoo: &Zoo, directory: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = zoo.listing(directory);
    files.retain(|(name, _)| name != ".lock");
    files
}

fn remove(zoo: &Zoo) {
    std::fs::remove_dir_all(zoo.path("out")).expect("an output to remove");
}

fn kill(mut child: Child) {
    child.kill().expect("a child can be killed");
    child.wait().expect("a child ends");
}

/// Checks that there is all of the output, which is then removed, or nothing that could be taken for it. Returns which.
fn check_after_a_kill(zoo: &Zoo, expected: &[(String, Vec<u8>)]) -> bool {
    if zoo.path("out").exists() {
        assert!(files(zoo, "out") == expected, "what appeared is not complete: {:?}", zoo.names("out"));
        remove(zoo);
        return true;
    }
    // Whatever opens as a model lacks nothing: only the renaming to `out` was left to do.
    if zoo.path(STAGING).exists() && zoo.glue(&["inspect", STAGING]).status == Some(0) {
        assert!(files(zoo, STAGING) == expected, "something incomplete in {STAGING} opens as a model");
    }
    let hidden: Vec<_> = zoo.names("").into_iter().filter(|name| name.starts_with('.')).collect();
    assert!(hidden.iter().all(|name| name.starts_with(STAGING)), "{hidden:?}");
    false
}

#[test]
fn killed_when_the_weights_are_complete() {
    let zoo = family();
    zoo.glue(&MERGE).ok();
    let expected = files(&zoo, "out");
    remove(&zoo);
    let weights = zoo.path(STAGING).join("model.safetensors");
    for _ in 0..3 {
        let child = zoo.command(&MERGE).stdout(Stdio::null()).spawn().expect("glue starts");
        while !weights.exists() && !zoo.path("out").exists() {
            sleep(Duration::from_micros(100));
        }
        kill(child);
        if !check_after_a_kill(&zoo, &expected) {
            std::fs::remove_dir_all(zoo.path(STAGING)).expect("what the killed run left");
        }
    }
}

#[test]
fn killed_while_it_clears_what_a_killed_run_left() {
    let zoo = family();
    zoo.glue(&MERGE).ok();
    let expected = files(&zoo, "out");
    remove(&zoo);
    // What a killed run leaves, with all of the output in it.
    let child = zoo.command(&MERGE).stdout(Stdio::null()).spawn().expect("glue starts");
    let lock = zoo.path(STAGING).join(".lock");
    while !std::fs::metadata(&lock).is_ok_and(|lock| lock.len() > 0) {
        sleep(Duration::from_micros(100));
    }
    kill(child);
    expected.iter().for_each(|(name, content)| zoo.write(&format!("{STAGING}/{name}"), content));
    // Enough to clear that the kill comes in the middle of it.
    (0..2000).for_each(|i| zoo.write(&format!("{STAGING}/{i}"), ""));
    let count = || std::fs::read_dir(zoo.path(STAGING)).expect("a directory").count();
    let full = count();
    let child = zoo.command(&MERGE).stdout(Stdio::null()).spawn().expect("glue starts");
    // The lock is one more.
    while count() >= full {
        sleep(Duration::from_micros(100));
    }
    kill(child);
    assert!(count() > 10, "the kill came too late");
    assert!(!check_after_a_kill(&zoo, &expected));
    zoo.glue(&MERGE).ok();
    assert!(files(&zoo, "out") == expected);
}

#[test]
fn stopped_by_ctrl_c() {
    let zoo = family();
    let before = zoo.names("");
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        // Whatever started the tests may ignore signals.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP,INT,TERM").arg(binary()).args(MERGE).current_dir(zoo.directory());
        let output = signalled(&zoo, command, signal);
        let run = Run::from(&output);
        let expected = (Some(status), "interrupted; no partial output is left\n");
        assert_eq!((run.status, run.err.as_str()), expected, "{signal}");
        assert_eq!(zoo.names(""), before, "{signal}");
    }
}

/// Sends a signal to a merge that is at work.
fn signalled(zoo: &Zoo, mut command: Command, signal: &str) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("glue starts");
    // The staging directory is there when work has begun.
    let start = Instant::now();
    while !zoo.path(STAGING).exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "no work has begun");
        sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(kill.is_ok_and(|status| status.success()), "{signal}: glue had ended already");
    child.wait_with_output().expect("a child ends")
}

#[test]
fn started_by_nohup_it_outlives_the_terminal() {
    let zoo = family();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(binary()).args(MERGE).current_dir(zoo.directory());
    let output = signalled(&zoo, command, "-HUP");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(zoo.read("out").len(), LAYERS);
}

#[test]
fn two_runs_do_not_write_the_same_output() {
    let zoo = family();
    let mut first = zoo.command(&MERGE).stdout(Stdio::null()).spawn().expect("glue starts");
    while !zoo.path(STAGING).join(".lock").exists() {
        assert!(first.try_wait().expect("a child").is_none(), "the first run ended at once");
        sleep(Duration::from_millis(1));
    }
    let second = zoo.glue(&MERGE);
    // It may have come late, when the first was done.
    assert_eq!(second.status, Some(1), "{second:?}");
    assert!(second.err.contains("another process is writing it") || second.err.contains("not empty"), "{second:?}");
    assert!(first.wait().expect("a child ends").success());
    assert_eq!(zoo.read("out").len(), LAYERS);
}
