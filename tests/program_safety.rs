//! Programs that a model wrote, run by `glue eval`: their limits, their isolation, and how they are stopped.
#![cfg(target_os = "linux")]

use glue_tests::zoo::shipped;
use glue_tests::{Zoo, run};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A zoo in which `code` is a task with these programs, and `scratch` is an empty directory for temporary files; `None`
/// without Python. What the model writes is a comment at the end of each program.
fn programs(bodies: &[&str]) -> Option<Zoo> {
    if !run::python() {
        return None;
    }
    let zoo = Zoo::empty();
    zoo.write("code/task.json", r#"{"name": "code", "kind": "code", "until": ["\n"], "max_gen_toks": 8}"#);
    write_items(&zoo, bodies);
    fs::create_dir(zoo.path("scratch")).expect("a directory");
    Some(zoo)
}

/// Makes these programs the items of the task.
fn write_items(zoo: &Zoo, bodies: &[&str]) {
    let item = |body: &&str| {
        let prompt = format!("def f():\n    {}\n    return 1\n#", body.replace('\n', "\n    "));
        json!({ "prompt": prompt, "test": "def check(f):\n    assert f() == 1", "entry_point": "f" }).to_string()
    };
    zoo.write("code/test.jsonl", bodies.iter().map(item).collect::<Vec<_>>().join("\n"));
}

/// `glue eval` of that task, and as many programs at a time as there are `threads`.
fn eval(zoo: &Zoo, threads: &str, args: &[&str]) -> Command {
    let model = shipped().join("a-code").display().to_string();
    let always =
        ["eval", &model, "--tasks", "code", "--allow-code-execution", "--threads", threads, "--samples", "items"];
    let mut command = zoo.command(&[&always, args].concat());
    command.env("TMPDIR", zoo.path("scratch"));
    command
}

/// Which programs passed.
fn passed(zoo: &Zoo) -> Vec<bool> {
    let items = String::from_utf8(zoo.bytes("items")).expect("text");
    let record = |line| serde_json::from_str::<Value>(line).expect("JSON");
    items.lines().map(|line| record(line)["scores"]["pass@1"] == 1.0).collect()
}

/// Runs the programs to their end; which passed.
fn run(bodies: &[&str]) -> Option<Vec<bool>> {
    let zoo = programs(bodies)?;
    let output = eval(&zoo, "2", &[]).output().expect("glue starts");
    assert!(output.status.success(), "{output:?}");
    assert!(zoo.names("scratch").is_empty(), "{:?}", zoo.names("scratch"));
    Some(passed(&zoo))
}

/// A program that holds 16 files of 16 MiB without a name, `by` their descriptors or otherwise.
fn holding(by: &str) -> String {
    format!(
        "import os, mmap\nheld = []\nfor i in range(16):\n    fd = os.open('f', os.O_CREAT | os.O_RDWR)\n    os.unlink('f')\n    {by}"
    )
}

#[test]
fn no_program_holds_more_of_the_disk_than_the_limit() {
    let mapped = holding(
        "os.posix_fallocate(fd, 0, 16 << 20)\n    held.append(mmap.mmap(fd, 4096, mmap.MAP_SHARED))\n    os.close(fd)",
    );
    let open = holding("os.posix_fallocate(fd, 0, 16 << 20)");
    let honest = "import tempfile\nfile = tempfile.TemporaryFile()\nassert file.write(bytes(1 << 20)) == 1 << 20";
    if let Some(passed) = run(&[&mapped, &open, honest]) {
        assert_eq!(passed, [false, false, true]);
    }
}

#[test]
fn no_program_has_more_threads_than_the_limit() {
    let many = "import threading\nstop = threading.Event()\nthreading.stack_size(65536)\n\
                for _ in range(100): threading.Thread(target=stop.wait, daemon=True).start()";
    let pool = "import threading\nfrom concurrent.futures import ThreadPoolExecutor\ntogether = threading.Barrier(32)\n\
                def work(i):\n    together.wait(10)\n    return len(bytearray(1000))\n\
                assert sum(ThreadPoolExecutor(32).map(work, range(32))) == 32000";
    if let Some(passed) = run(&[many, pool]) {
        assert_eq!(passed, [false, true]);
    }
}

#[test]
fn a_project_is_not_shown_by_its_virtual_environment() {
    let Some(zoo) = programs(&[]) else { return };
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(zoo.path("proj")).output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no virtual environment can be made");
        return;
    }
    zoo.write("proj/.env", "KEY=secret");
    let project = zoo.path("proj").display().to_string();
    let (read, list) = (format!("open({project:?} + '/.env').read()"), format!("import os\nos.listdir({project:?})"));
    write_items(&zoo, &[&read, &list, "pass"]);
    let path = format!("{}:{}", zoo.path("proj/bin").display(), std::env::var("PATH").unwrap_or_default());
    let output = eval(&zoo, "2", &[]).env("PATH", path).output().expect("glue starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(passed(&zoo), [false, false, true]);
}

/// A zoo with programs that sleep, each another, since equal ones are run once.
fn sleepers() -> Option<Zoo> {
    let bodies: Vec<String> = (0..8).map(|i| format!("import time\ntime.sleep(60 + {i})")).collect();
    programs(&bodies.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Starts two of them, and returns when they run.
fn sleeping(zoo: &Zoo) -> Child {
    let mut command = eval(zoo, "2", &["--code-timeout", "60"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("glue starts");
    let deadline = Instant::now() + Duration::from_secs(30);
    while programs_of(child.id()) < 2 {
        assert!(Instant::now() < deadline, "no program was started");
        sleep(Duration::from_millis(20));
    }
    child
}

/// How many interpreters are children of that process.
fn programs_of(parent: u32) -> usize {
    let list = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = list.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let child = |stat: &String| {
        // The name, in parentheses, may have spaces; after it come the state and the parent.
        let (name, fields) = stat.rsplit_once(')').unwrap_or_default();
        name.contains("python") && fields.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    stats.filter(child).count()
}

#[test]
fn signals_end_programs_at_once() {
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let Some(zoo) = sleepers() else { return };
        let child = sleeping(&zoo);
        let start = Instant::now();
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.is_ok_and(|status| status.success()), "{signal}: glue had ended already");
        let output = child.wait_with_output().expect("a child ends");
        assert!(start.elapsed() < Duration::from_secs(3), "{signal}: {:?}", start.elapsed());
        assert_eq!(output.status.code(), Some(status), "{signal}: {output:?}");
        assert!(zoo.names("scratch").is_empty(), "{signal}: {:?}", zoo.names("scratch"));
        assert!(!zoo.path("items").exists());
    }
}

#[test]
fn what_a_killed_process_leaves_the_next_one_removes() {
    let Some(zoo) = sleepers() else { return };
    let mut child = sleeping(&zoo);
    child.kill().expect("a child can be killed");
    child.wait().expect("a child ends");
    assert!(!zoo.names("scratch").is_empty());
    // Of that name, but not provably of a process that is gone.
    zoo.write("scratch/glue-program-mine/precious", "x");
    let mut living = sleeping(&zoo);
    let count = || fs::read_dir(zoo.path("scratch")).expect("a directory").count();
    assert_eq!(count(), 2, "that of the process that lives, and what is not glue's: {:?}", zoo.names("scratch"));
    write_items(&zoo, &["pass"]);
    let run = || assert!(eval(&zoo, "1", &[]).output().expect("glue starts").status.success());
    run();
    assert_eq!(count(), 2, "the other lives: {:?}", zoo.names("scratch"));
    living.kill().expect("a child can be killed");
    living.wait().expect("a child ends");
    run();
    let left = zoo.names("scratch");
    assert_eq!(left, ["glue-program-mine/", "glue-program-mine/precious"]);
}

#[test]
fn a_program_that_fills_the_disk_costs_nobody_else_the_scores() {
    // Where temporary files are, there are 100 MB. The first program takes what it is given and holds it; the others
    // come meanwhile.
    let greedy = "import os, mmap, time\nheld = []\nsize = 16 << 20\nwhile size >= 4096 and len(held) < 200:\n    \
                  fd = os.open('f', os.O_CREAT | os.O_RDWR)\n    os.unlink('f')\n    try:\n        \
                  os.posix_fallocate(fd, 0, size)\n        held.append(mmap.mmap(fd, 4096))\n    \
                  except OSError: size //= 4\n    os.close(fd)\ntime.sleep(2)";
    let modest =
        |i: usize| format!("import time\ntime.sleep(0.3)\nassert open('f', 'wb').write(bytes({i} << 20)) == {i} << 20");
    let Some(zoo) = programs(&[greedy, &modest(1), &modest(2), &modest(3)]) else { return };
    let glue = eval(&zoo, "2", &[]);
    let namespaces = if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) { "-m" } else { "-Urm" };
    let mounted = |action: &str| {
        let mut command = Command::new("unshare");
        let script = format!("mount -t tmpfs -o size=100m none \"$0\" && {action}");
        command.args([namespaces, "sh", "-c", &script]).arg(zoo.path("scratch"));
        command.arg(glue.get_program()).args(glue.get_args());
        command.current_dir(zoo.directory()).env("TMPDIR", zoo.path("scratch")).output()
    };
    if !mounted("true").is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    let output = mounted("exec \"$@\"").expect("glue starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(passed(&zoo)[1..], [true, true, true]);
}
