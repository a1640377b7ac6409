//! Programs that try to take more than they may: disk space, threads, files of a project, time after cancellation.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use crate::support::{Table, python};
use glue_eval::sandbox::{Execution, Limits, Options, Outcome, Sandbox, SandboxError, Strength};
use glue_eval::{Cache, EvalOptions, GenerateRequest, Generation, LanguageModel, ModelError};
use glue_progress::{ErrorChain, NoProgress, Progress};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Little enough that what goes beyond costs the machine nothing.
fn small() -> Limits {
    Limits { scratch_bytes: 8 << 20, file_bytes: 4 << 20, wall_time: Duration::from_secs(20), ..Limits::default() }
}

/// As where a program can have a disk of its own; `None` if this is no such place.
fn private(limits: Limits) -> Option<Sandbox> {
    let sandbox = Sandbox::new(limits).unwrap();
    if sandbox.strength() == Strength::PrivateDisk {
        return Some(sandbox);
    }
    eprintln!("skipped: no mount namespace can be made here");
    None
}

/// As where it cannot.
fn shared(limits: Limits) -> Sandbox {
    let sandbox = Sandbox::with_options(limits, &Options { namespaces: false, ..Options::default() }).unwrap();
    assert_eq!(sandbox.strength(), Strength::Landlock, "these tests need a kernel with Landlock");
    sandbox
}

#[track_caller]
fn expect(sandbox: &Sandbox, program: &str, outcome: Outcome) -> Execution {
    let execution = sandbox.run(program).unwrap();
    assert_eq!(execution.outcome, outcome, "{program}\n{}", execution.stderr);
    execution
}

/// Makes files of a MiB without a name, and holds them, until space is refused or there are 40. `by` fills one by its
/// descriptor `fd`.
fn hold(by: &str) -> String {
    format!(
        "import os, mmap, time
held = []
data = bytes(1 << 20)
for i in range(40):
    fd = os.open('f', os.O_CREAT | os.O_RDWR)
    os.unlink('f')
    {by}
time.sleep(1)
"
    )
}

/// The same for one that goes on when space is refused: it has as much as is allowed.
fn hold_and_catch(by: &str) -> String {
    let by = by.replace('\n', "\n    ");
    hold(&format!("try:\n        {by}\n    except OSError:\n        break")).replace("sleep(1)", "sleep(0)")
        + "assert i == 8, i\n"
}

const MAPPED: &str = "held.append(mmap.mmap(fd, 4096, mmap.MAP_SHARED))\n    os.close(fd)";

#[test]
fn files_without_a_name_count_on_a_disk_of_its_own() {
    if !python() {
        return;
    }
    let Some(sandbox) = private(small()) else { return };
    for by in [
        "os.posix_fallocate(fd, 0, 1 << 20)".to_owned(),
        "os.write(fd, data)".to_owned(),
        format!("os.posix_fallocate(fd, 0, 1 << 20)\n    {MAPPED}"),
        format!("os.write(fd, data)\n    {MAPPED}"),
    ] {
        expect(&sandbox, &hold(&by), Outcome::ScratchExceeded);
        expect(&sandbox, &hold_and_catch(&by), Outcome::Passed);
    }
    // More entries than allowed, and pages that there is no room for.
    expect(&sandbox, "for i in range(9000): open(str(i), 'w')", Outcome::ScratchExceeded);
    let torn = "import mmap, os
for i in range(4):
    file = open(str(i), 'w+b')
    file.truncate(4 << 20)
    room = mmap.mmap(file.fileno(), 4 << 20)
    for at in range(0, 4 << 20, 4096): room[at] = 1";
    expect(&sandbox, torn, Outcome::Killed { signal: 7 });
    // The next program finds it empty, and nothing of all this is seen here.
    let seen = expect(&sandbox, "import os\nassert os.listdir('.') == []\nprint(os.getcwd())", Outcome::Passed);
    assert_eq!(fs::read_dir(seen.stdout.trim()).unwrap().count(), 0);
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains("glue-program-"));
    drop(sandbox);
    assert!(!Path::new(seen.stdout.trim()).parent().unwrap().exists());
}

#[test]
fn files_without_a_name_count_on_the_disk_of_the_system() {
    if !python() {
        return;
    }
    let sandbox = shared(small());
    expect(&sandbox, &hold("os.write(fd, data)"), Outcome::ScratchExceeded);
    expect(&sandbox, &hold(&format!("os.write(fd, data)\n    {MAPPED}")), Outcome::ScratchExceeded);
    expect(&sandbox, "import time\nfor i in range(9000): open(str(i), 'w')\ntime.sleep(1)", Outcome::ScratchExceeded);
    // What would be there at once is not to be had.
    expect(&sandbox, &hold("os.posix_fallocate(fd, 0, 1 << 20)"), Outcome::Failed { status: 1 });
    let left = expect(&sandbox, "import os\nopen('f', 'w').write('x')\nprint(os.getcwd())", Outcome::Passed);
    assert!(!Path::new(left.stdout.trim()).parent().unwrap().exists());
}

#[test]
fn honest_files_are_no_trouble() {
    if !python() {
        return;
    }
    let program = "
import tempfile, os, sqlite3, mmap
with tempfile.TemporaryFile() as file:
    file.write(bytes(3 << 20))
    file.flush()
    os.fsync(file.fileno())
    with mmap.mmap(file.fileno(), 0) as room:
        room[0] = 1
        room.flush()
with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as directory:
    file.write(b'x')
    open(os.path.join(directory, 'f'), 'wb').write(bytes(3 << 20))
for _ in range(20):
    open('again', 'wb').write(bytes(2 << 20))
with sqlite3.connect('base') as base:
    base.execute('create table t (x)')
    base.executemany('insert into t values (?)', [(i,) for i in range(100)])
assert sqlite3.connect('base').execute('select sum(x) from t').fetchone() == (4950,)
import time
time.sleep(0.1)
";
    expect(&Sandbox::new(small()).unwrap(), program, Outcome::Passed);
    expect(&shared(small()), program, Outcome::Passed);
}

#[test]
fn syncing_and_locking_hold_nobody_up() {
    if !python() {
        return;
    }
    let program = "
import ctypes, fcntl, os
libc = ctypes.CDLL(None)
os.sync()
machine = os.uname().machine
for name, pair in {'sync': (162, 81), 'syncfs': (306, 267), 'fsync': (74, 82), 'fdatasync': (75, 83)}.items():
    assert libc.syscall(pair[machine == 'aarch64'], -1) == 0, name
first, second = open(os.__file__), open(os.__file__)
for file in first, second:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
";
    expect(&Sandbox::new(Limits::default()).unwrap(), program, Outcome::Passed);
}

#[test]
fn threads_are_bounded() {
    if !python() {
        return;
    }
    let sandbox = Sandbox::new(Limits { threads: 12, ..Limits::default() }).unwrap();
    let program = "
import threading, time
stop = threading.Event()
threading.stack_size(65536)
threads = []
try:
    for _ in range(100):
        threads.append(threading.Thread(target=stop.wait))
        threads[-1].start()
except RuntimeError:
    threads.pop()
assert len(threads) == 11, len(threads)
stop.set()
for thread in threads: thread.join()
# As many again, now that those have ended.
time.sleep(0.1)
for _ in range(50):
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()
";
    expect(&sandbox, program, Outcome::Passed);
    // Threads without a stack of their own, which no limit on memory keeps.
    #[cfg(target_arch = "x86_64")]
    {
        let raw = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
pause = ctypes.cast(libc.pause, ctypes.c_void_p).value
stack = (ctypes.c_uint64 * 8192)(*[pause] * 8192)
top = ctypes.c_void_p((ctypes.addressof(stack) + 8 * 8000) & ~15)
made = 0
while made < 500 and libc.syscall(56, 0x50f00, top, 0, 0, 0) > 0:
    made += 1
assert made == 11, made
assert ctypes.get_errno() == 11
";
        expect(&sandbox, raw, Outcome::Passed);
    }
}

#[test]
fn a_pool_of_threads_fits_into_the_memory() {
    if !python() {
        return;
    }
    let program = "
import threading
from concurrent.futures import ThreadPoolExecutor
together = threading.Barrier(32)
def work(i):
    together.wait(10)
    return len(bytearray(100_000)) + i
with ThreadPoolExecutor(32) as pool:
    assert sum(pool.map(work, range(32))) == 32 * 100_000 + 496
";
    expect(&Sandbox::new(Limits::default()).unwrap(), program, Outcome::Passed);
}

/// A project with a virtual environment in it, and its interpreter; `None` if none can be made.
fn project() -> Option<(tempfile::TempDir, PathBuf)> {
    let project = tempfile::tempdir().unwrap();
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(project.path()).output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no virtual environment can be made");
        return None;
    }
    let python = project.path().join("bin/python");
    Some((project, python))
}

#[test]
fn a_virtual_environment_does_not_show_the_project_it_is_in() {
    if !python() {
        return;
    }
    let Some((project, python)) = project() else { return };
    fs::write(project.path().join(".env"), "KEY=secret").unwrap();
    fs::write(project.path().join("main.py"), "x = 1").unwrap();
    fs::write(project.path().join("lib/notes"), "secret").unwrap();
    let packages = fs::read_dir(project.path().join("lib")).unwrap().flatten();
    let packages = packages.map(|entry| entry.path().join("site-packages")).find(|path| path.is_dir()).unwrap();
    fs::write(packages.join("installed.py"), "x = 2").unwrap();
    let sandbox = Sandbox::with_options(Limits::default(), &Options { python, ..Options::default() }).unwrap();
    let program = format!(
        "import os, sys
project = {:?}
assert os.path.realpath(sys.prefix) == os.path.realpath(project), sys.prefix
import installed
assert installed.x == 2
import json, decimal, sqlite3, ctypes
def refused(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        return
    raise AssertionError(f'{{action}} {{arguments}}')
for name in ('.env', 'main.py', 'lib/notes'):
    refused(open, os.path.join(project, name))
for name in ('', 'lib'):
    refused(os.listdir, os.path.join(project, name))
",
        project.path().display().to_string()
    );
    expect(&sandbox, &program, Outcome::Passed);
}

/// Wishes to stop once this is over.
struct Until(Instant);

impl Progress for Until {
    fn is_cancelled(&self) -> bool {
        Instant::now() >= self.0
    }
}

#[test]
fn programs_end_as_soon_as_somebody_wishes() {
    if !python() {
        return;
    }
    let sandbox = Sandbox::new(Limits { wall_time: Duration::from_secs(60), ..Limits::default() }).unwrap();
    let programs = vec!["import time; time.sleep(60)"; 5];
    let started = Instant::now();
    let error = sandbox.run_many(&programs, 2, &Until(started + Duration::from_millis(500))).unwrap_err();
    assert!(matches!(error, SandboxError::Stopped), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn a_program_that_cannot_be_run_is_tried_again_and_costs_nobody_else_anything() {
    if !python() {
        return;
    }
    let Some((project, python)) = project() else { return };
    let options = Options { python: python.clone(), ..Options::default() };
    let sandbox = Sandbox::with_options(Limits::default(), &options).unwrap();
    let away = project.path().join("bin/away");
    fs::rename(&python, &away).unwrap();
    // For the time of the first attempts.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(250));
            fs::rename(&away, &python).unwrap();
        });
        assert!(sandbox.run("").unwrap().passed());
    });
    fs::rename(&python, &away).unwrap();
    let executions = sandbox.run_many(&["", "pass"], 2, &NoProgress).unwrap();
    for execution in executions {
        assert_eq!(execution.outcome, Outcome::NotRun);
        assert!(execution.stderr.starts_with("starting a confined interpreter: "), "{execution:?}");
    }
}

#[test]
fn the_same_holds_for_a_user_without_rights() {
    if !python() || !rustix::process::geteuid().is_root() {
        return;
    }
    // The tests above, by user and group `nobody`, in a place that it can reach.
    const NOBODY: u32 = 65_534;
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (tests, scratch) = (place.path().join("tests"), place.path().join("scratch"));
    fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    fs::create_dir(&scratch).unwrap();
    std::os::unix::fs::chown(&scratch, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(tests);
    let names = [
        "files_without_a_name_count_on_a_disk_of_its_own",
        "threads_are_bounded",
        "files_without_a_name_count_on_the_disk_of_the_system",
        "honest_files_are_no_trouble",
    ];
    command.args(["--exact", "--nocapture"]).args(names.map(|name| format!("sandbox_limits::{name}")));
    command.env_clear().env("TMPDIR", scratch).env("PATH", "/usr/bin:/bin").uid(NOBODY).gid(NOBODY);
    match command.output() {
        Ok(output) => {
            let ran = String::from_utf8_lossy(&output.stdout).contains(&format!("running {} tests", names.len()));
            assert!(output.status.success() && ran, "{output:?}");
        }
        Err(error) => eprintln!("skipped: {error}"),
    }
}

/// A model that makes the programs it writes impossible to run, and the rest of the evaluation not.
struct Saboteur {
    table: Table,
    interpreter: PathBuf,
    calls: AtomicUsize,
}

impl LanguageModel for Saboteur {
    fn name(&self) -> String {
        "saboteur".into()
    }
    fn loglikelihoods(
        &self,
        requests: &[glue_eval::LogLikelihoodRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<glue_eval::LogLikelihood>, ModelError> {
        self.table.loglikelihoods(requests, progress)
    }
    fn rolling(
        &self,
        texts: &[&str],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<glue_eval::LogLikelihood>, ModelError> {
        self.table.rolling(texts, progress)
    }
    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        if self.calls.fetch_add(1, Ordering::Relaxed) == 0 {
            fs::remove_file(&self.interpreter).unwrap();
        }
        self.table.generate(requests, progress)
    }
    fn content_hash(&self) -> Result<Option<String>, ModelError> {
        Ok(Some("saboteur".into()))
    }
}

#[test]
fn programs_that_could_not_be_run_are_failures_with_a_note_and_not_remembered() {
    if !python() {
        return;
    }
    let Some((project, python)) = project() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("code")).unwrap();
    fs::write(folder.path().join("code/task.json"), "{\"kind\": \"code\", \"name\": \"code\"}").unwrap();
    let item = "{\"text\": \"Add.\", \"test_list\": [\"assert f(1) == 2\"]}\n";
    fs::write(folder.path().join("code/test.jsonl"), item).unwrap();
    let choice = folder.path().join("choice");
    fs::create_dir(&choice).unwrap();
    fs::write(choice.join("task.json"), "{\"kind\": \"multiple_choice\", \"name\": \"choice\"}").unwrap();
    fs::write(choice.join("test.jsonl"), "{\"context\": \"Q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n").unwrap();
    let tasks = glue_eval::load_tasks(&[folder.path().join("code"), choice]).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let options = EvalOptions {
        allow_code_execution: true,
        sandbox: Options { python: python.clone(), ..Options::default() },
        cache: Some(Cache::open(cache.path()).unwrap()),
        ..EvalOptions::default()
    };
    let answers = vec!["def f(x):\n    return x + 1\n".to_string()];
    let table = Table { answers, ..Table::default() };
    let model = Saboteur { table, interpreter: python.clone(), calls: AtomicUsize::new(0) };
    let report = glue_eval::evaluate(&model, &tasks, &options, &NoProgress).unwrap();
    let code = &report.tasks[0];
    assert_eq!((code.n, code.main_metric().unwrap().value), (1, 0.0));
    let note = "1 of 1 programs could not be run and count as failed: starting a confined interpreter: ";
    assert!(code.notes.iter().any(|found| found.starts_with(note)), "{:?}", code.notes);
    assert_eq!(report.tasks[1].n, 1, "the other task has its score");
    // Once they can, they are.
    std::os::unix::fs::symlink(
        fs::canonicalize(project.path().join("bin/python3")).unwrap_or_else(|_| which()),
        &python,
    )
    .unwrap();
    let report = glue_eval::evaluate(&model, &tasks, &options, &NoProgress).unwrap();
    assert_eq!((report.tasks[0].main_metric().unwrap().value, report.tasks[0].cached), (1.0, false));
    assert!(
        !report.tasks[0].notes.iter().any(|found| found.contains("could not be run")),
        "{:?}",
        report.tasks[0].notes
    );
    assert!(report.tasks[1].cached);
}

/// The interpreter itself, behind links and scripts.
fn which() -> PathBuf {
    let said = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    PathBuf::from(String::from_utf8(said.stdout).unwrap().trim())
}

#[test]
fn without_a_sandbox_the_model_is_not_even_asked() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("task.json"), "{\"kind\": \"code\", \"name\": \"code\"}").unwrap();
    let item = "{\"text\": \"Add.\", \"test_list\": [\"assert f(1) == 2\"]}\n";
    fs::write(folder.path().join("test.jsonl"), item).unwrap();
    let tasks = glue_eval::load_tasks(&[folder.path()]).unwrap();
    let sandbox = Options { python: "/nowhere/python".into(), ..Options::default() };
    let options = EvalOptions { allow_code_execution: true, sandbox, ..EvalOptions::default() };
    let model = Table::default();
    let error = glue_eval::evaluate(&model, &tasks, &options, &NoProgress).unwrap_err().chain();
    assert!(error.contains("`code`") && error.contains("/nowhere/python"), "{error}");
    assert_eq!(model.calls.load(Ordering::Relaxed), 0);
}
