//! Programs that attack the sandbox. Each attack is a Python program; what it could have changed is looked at from
//! outside.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use crate::support::python;
use glue_eval::sandbox::{Execution, Limits, Options, Outcome, Sandbox, Strength};
use glue_progress::{ErrorChain, NoProgress, Progress};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new(Limits::default()).unwrap());
/// As where no mount namespace can be made.
static SHARED: LazyLock<Sandbox> = LazyLock::new(|| {
    Sandbox::with_options(Limits::default(), &Options { namespaces: false, ..Options::default() }).unwrap()
});
/// As on a kernel without Landlock.
static READ_ONLY: LazyLock<Sandbox> = LazyLock::new(|| {
    Sandbox::with_options(Limits::default(), &Options { landlock: false, ..Options::default() }).unwrap()
});

fn brief(seconds: u64) -> Sandbox {
    Sandbox::new(Limits { wall_time: Duration::from_secs(seconds), ..Limits::default() }).unwrap()
}

fn run(program: &str) -> Execution {
    SANDBOX.run(program).unwrap()
}

#[track_caller]
fn expect(program: &str, outcome: Outcome) -> Execution {
    let execution = run(program);
    assert_eq!(execution.outcome, outcome, "{program}\n{}", execution.stderr);
    execution
}

const FAILED: Outcome = Outcome::Failed { status: 1 };

/// Defines `refused(action)`, which fails the program unless the system refuses the action.
const REFUSED: &str = r#"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(action, *arguments):
    try:
        result = action(*arguments)
    except OSError:
        return
    raise AssertionError(f"{action} {arguments} gave {result}")
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
"#;

/// Runs attacks after the definitions above; they must all be refused.
#[track_caller]
fn all_refused(sandbox: &Sandbox, attacks: &str) {
    let execution = sandbox.run(&format!("{REFUSED}\n{attacks}")).unwrap();
    assert_eq!(execution.outcome, Outcome::Passed, "{}", execution.stderr);
}

#[test]
fn programs_pass_and_fail_as_they_should() {
    if !python() {
        return;
    }
    expect("", Outcome::Passed);
    expect("assert sum(range(4)) == 6", Outcome::Passed);
    expect("text = 'żółw 🐢'\nassert len(text) == 6\nprint(text)", Outcome::Passed);
    let failed = expect("def f(x):\n    return x + 1\n\nassert f(1) == 3, 'größer'", FAILED);
    assert!(
        failed.stderr.contains("\"<program>\", line 4") && failed.stderr.ends_with("AssertionError: größer\n"),
        "{failed:?}"
    );
    assert!(!failed.stderr.contains("<string>"), "frames of the harness are no part of the trace: {}", failed.stderr);
    assert!(expect("def f(:\n    pass", FAILED).stderr.contains("SyntaxError"));
    assert!(expect("\0", FAILED).stderr.contains("null bytes"));
    expect("import sys; sys.exit(7)", Outcome::Failed { status: 7 });
    expect("raise KeyboardInterrupt", FAILED);
    expect("def f():\n    return f()\nf()", FAILED);
    expect("input()", FAILED);
    expect("import ctypes; ctypes.string_at(0)", Outcome::Killed { signal: 11 });
    expect("if __name__ == '__main__':\n    raise ValueError", Outcome::Passed);
    expect(
        "from dataclasses import dataclass\nfrom typing import List\n@dataclass\nclass A:\n    x: List[int]\nassert A([1]) == A([1])\n\
         import pickle\nassert pickle.loads(pickle.dumps(A([2]))).x == [2]",
        Outcome::Passed,
    );
    let said = expect("import sys\nprint('out')\nprint('err', file=sys.stderr)", Outcome::Passed);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn a_very_long_program_runs() {
    if !python() {
        return;
    }
    // Longer than an argument may be (128 KiB), than a pipe holds (64 KiB), and than a socket does.
    let program = "x = 'a line of some length that says nothing at all'\n".repeat(60_000) + "assert x[0] == 'a'\n";
    assert!(program.len() > 3_000_000);
    let sandbox = brief(60);
    assert!(sandbox.run(&program).unwrap().passed());
    assert_eq!(sandbox.run(&(program + "assert False")).unwrap().outcome, FAILED);
}

#[test]
fn leaving_early_is_not_passing() {
    if !python() {
        return;
    }
    for leave in [
        "import sys; sys.exit(0)",
        "import sys; sys.exit()",
        "exit()",
        "raise SystemExit",
        "import os; os._exit(0)",
        "import ctypes; ctypes.CDLL(None).exit(0)",
        "import atexit, os\natexit.register(lambda: os._exit(0))\nraise SystemExit",
        "import os\nos.closerange(0, 64)\nos._exit(0)",
        // Answers without knowing the token.
        "import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'0' * 32)\n    except OSError:\n        pass\nos._exit(0)",
        "import threading, os\nthreading.Thread(target=lambda: os._exit(0)).start()\nimport time\ntime.sleep(5)",
        "import signal, os, time\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntime.sleep(5)",
    ] {
        expect(&format!("{leave}\nassert False"), Outcome::Unfinished);
    }
    // What stands for the harness's tools may be replaced; the tests still decide.
    let replace = "import os, sys\nos._exit = os.write = sys.excepthook = lambda *_: None\nsys.exit = exit = quit = None\nsys.stdout = None\n";
    expect(&format!("{replace}assert False"), FAILED);
    expect(&format!("{replace}assert True"), Outcome::Passed);
    // A thread that goes on does not hold up the end.
    let passed =
        expect("import threading, time\nthreading.Thread(target=time.sleep, args=(8,)).start()", Outcome::Passed);
    assert!(passed.wall_time < Duration::from_secs(5));
}

#[test]
fn loops_and_sleeps_end_at_the_limit() {
    if !python() {
        return;
    }
    let sandbox = brief(1);
    let ignore = "import signal\nfor s in range(1, 65):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\n";
    for program in [
        "while True: pass".to_owned(),
        "import time; time.sleep(100)".to_owned(),
        format!("{ignore}import time\nwhile True: time.sleep(100)"),
        format!("{ignore}while True: pass"),
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass".to_owned(),
        "import os\nos.closerange(0, 64)\nwhile True: pass".to_owned(),
        "'a' * 30 == __import__('re').match('(a*)*b', 'a' * 40)".to_owned(),
    ] {
        let execution = sandbox.run(&program).unwrap();
        assert_eq!(execution.outcome, Outcome::TimedOut, "{program}\n{}", execution.stderr);
        // The limit, and time for a machine with more to do than cores.
        assert!((1.0..4.0).contains(&execution.wall_time.as_secs_f64()), "{program}: {:?}", execution.wall_time);
    }
}

#[test]
fn processor_time_has_a_limit_of_its_own() {
    if !python() {
        return;
    }
    let limits = Limits { wall_time: Duration::from_secs(60), cpu_time: Duration::from_secs(1), ..Limits::default() };
    let sandbox = Sandbox::new(limits).unwrap();
    for program in [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "import threading\nfor _ in range(4):\n    threading.Thread(target=lambda: sum(range(10**10))).start()\nsum(range(10**10))",
    ] {
        let execution = sandbox.run(program).unwrap();
        assert_eq!(execution.outcome, Outcome::TimedOut, "{program}\n{}", execution.stderr);
        // One second, or two where the first signal is ignored; the kernel limits a sampled time and reports a measured
        // one.
        assert!((0.5..3.5).contains(&execution.cpu_time.as_secs_f64()), "{:?}", execution.cpu_time);
        assert!(execution.wall_time < Duration::from_secs(30));
    }
}

#[test]
fn memory_is_limited() {
    if !python() {
        return;
    }
    for program in [
        "x = bytearray(4 << 30)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = []\nwhile True: x.append(len(x))",
        "import mmap\nx = mmap.mmap(-1, 1 << 20)\nmaps = []\nwhile True:\n    try:\n        maps.append(mmap.mmap(-1, 1 << 26))\n    except OSError:\n        raise MemoryError",
    ] {
        // A busy machine takes its time to fill the memory number by number.
        let (wall_time, cpu_time) = (Duration::from_secs(120), Duration::from_secs(60));
        let sandbox = Sandbox::new(Limits { wall_time, cpu_time, ..Limits::default() }).unwrap();
        let execution = sandbox.run(program).unwrap();
        assert_eq!(execution.outcome, Outcome::MemoryExceeded, "{program}\n{}", execution.stderr);
    }
    expect("try:\n    bytearray(4 << 30)\nexcept MemoryError:\n    pass\nelse:\n    raise ValueError", Outcome::Passed);
    // A limit is not for the program to raise, root's neither.
    all_refused(
        &SANDBOX,
        "import resource
def raised():
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            continue
        return kind
    raise OSError
refused(raised)
assert resource.getrlimit(resource.RLIMIT_AS) == (1 << 30, 1 << 30)
refused(resource.prlimit, os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    );
}

#[test]
fn output_without_end_is_cut() {
    if !python() {
        return;
    }
    let sandbox = brief(2);
    for stream in ["stdout", "stderr"] {
        let execution = sandbox.run(&format!("import sys\nwhile True: sys.{stream}.write('spam ' * 1000)")).unwrap();
        assert_eq!(execution.outcome, Outcome::TimedOut);
        let kept = if stream == "stdout" { execution.stdout } else { execution.stderr };
        assert!((1 << 16..(1 << 16) + 8).contains(&kept.len()) && kept.starts_with('…'), "{}", kept.len());
    }
    // More than a pipe holds does not block the program.
    let execution = expect("print('x' * 1_000_000)\nprint('the end')", Outcome::Passed);
    assert!(execution.stdout.ends_with("x\nthe end\n"));
    // Nor does an answer on every descriptor.
    expect(
        "import os\nfor fd in range(3, 10):\n    try:\n        os.write(fd, b'y' * 1_000_000)\n    except OSError: pass\nos._exit(0)",
        Outcome::Unfinished,
    );
}

#[test]
fn no_other_process_is_started() {
    if !python() {
        return;
    }
    let attacks = "
import subprocess, multiprocessing
refused(os.fork)
refused(os.forkpty)
refused(os.posix_spawn, '/bin/true', ['true'], {})
refused(subprocess.run, ['/bin/true'])
refused(os.popen, 'true')
refused(lambda: multiprocessing.get_context('fork').Process(target=print).start())
refused(lambda: multiprocessing.Pool(2))
assert os.system('true') != 0
SIGCHLD, CLONE_VM, CLONE_VFORK, CLONE_PARENT, CLONE_NEWUSER = 17, 0x100, 0x4000, 0x8000, 0x10000000
clone = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]
for flags in (SIGCHLD, SIGCHLD | CLONE_VM | CLONE_VFORK, SIGCHLD | CLONE_PARENT, SIGCHLD | CLONE_NEWUSER):
    refused(call, clone, flags, 0, 0, 0, 0)
refused(call, 435, ctypes.create_string_buffer(88), 88)
";
    all_refused(&SANDBOX, attacks);
    all_refused(&READ_ONLY, attacks);
    #[cfg(target_arch = "x86_64")]
    all_refused(
        &SANDBOX,
        "refused(call, 57)\nrefused(call, 58)\nrefused(call, 0x40000000 + 57)\nrefused(call, 0x40000000 + 41, 2, 1, 0)",
    );
    expect(
        "import threading\ndone = []\nthreads = [threading.Thread(target=done.append, args=(i,)) for i in range(8)]\n\
         for t in threads: t.start()\nfor t in threads: t.join()\nassert len(done) == 8\n\
         from concurrent.futures import ThreadPoolExecutor\nassert sum(ThreadPoolExecutor(4).map(abs, range(9))) == 36",
        Outcome::Passed,
    );
    // Nothing is left of a bomb.
    let bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError: pass";
    assert_eq!(brief(1).run(bomb).unwrap().outcome, Outcome::TimedOut);
}

#[test]
fn no_other_program_is_executed() {
    if !python() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let written = outside.path().join("written");
    let touch = format!("['/bin/sh', '-c', 'echo x > {}']", written.display());
    all_refused(
        &SANDBOX,
        &format!("refused(os.execv, '/bin/sh', {touch})\nrefused(os.execv, '/usr/bin/env', ['env'])"),
    );
    // A script or program made in the scratch directory is none either.
    all_refused(
        &SANDBOX,
        "open('script', 'w').write('#!/bin/sh\\ntrue\\n')\nos.close(os.open('mode', os.O_CREAT | os.O_WRONLY, 0o777))\n\
         refused(os.execv, 'script', ['script'])\nrefused(os.execv, 'mode', ['mode'])",
    );
    // The interpreter may become itself again, just as confined, and without the way to report.
    let program =
        format!("import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'open({written:?}, \"w\")'])");
    assert_eq!(run(&program).outcome, FAILED);
    expect("import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'pass'])", Outcome::Unfinished);
    // Without Landlock another program runs, as confined as this one.
    let execution = READ_ONLY.run(&format!("import os\nos.execv('/bin/sh', {touch})")).unwrap();
    assert!(!execution.passed(), "{execution:?}");
    assert!(!written.exists());
}

/// A directory with a file, and all of what can be seen of them.
fn look(directory: &Path) -> Vec<(String, u32, u64, i64, i64, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let m = entry.metadata().unwrap();
            let content = if m.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            (entry.file_name().into_string().unwrap(), m.mode(), m.nlink(), m.mtime(), m.mtime_nsec(), content)
        })
        .collect();
    let m = fs::metadata(directory).unwrap();
    found.push((".".to_owned(), m.mode(), m.nlink(), m.mtime(), m.mtime_nsec(), Vec::new()));
    found.sort();
    found
}

const WRITES: &str = r#"
directory, secret = os.path.dirname(target), target
def opens(path):
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC,
                  os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_CREAT, os.O_RDONLY | os.O_CREAT | os.O_TRUNC):
        refused(os.open, path, flags)
opens(secret)
relative = os.path.relpath(secret)
assert relative.startswith("..")
opens(relative)
refused(open, directory + "/new", "w")
refused(open, "../new", "w")
refused(os.open, directory + "/new", os.O_RDONLY | os.O_CREAT)
refused(os.open, directory, os.O_WRONLY | getattr(os, "O_TMPFILE", 0))
refused(os.mkdir, directory + "/new")
refused(os.mknod, directory + "/new")
refused(os.mkfifo, directory + "/new")
refused(os.symlink, "/", directory + "/new")
refused(os.link, secret, directory + "/new")
refused(os.rename, secret, directory + "/new")
refused(os.unlink, secret)
refused(os.rmdir, directory + "/empty")
refused(os.truncate, secret, 0)
refused(os.chmod, secret, 0o777)
refused(os.chmod, directory, 0o777)
refused(os.chown, secret, os.getuid(), os.getgid())
refused(os.lchown, secret, os.getuid(), os.getgid())
refused(os.utime, secret, (0, 0))
refused(os.utime, directory, (0, 0))
refused(os.setxattr, secret, "user.x", b"x")
refused(os.chroot, directory)
# By a handle that only names the file.
handle = os.open(secret, os.O_PATH)
refused(os.fchmod, handle, 0o777)
refused(open, f"/proc/self/fd/{handle}", "w")
refused(os.chmod, f"/proc/self/fd/{handle}", 0o777)
for place in ("/dev/shm/glue-new", "/usr/glue-new", "/etc/glue-new", "/var/tmp/glue-new", os.path.join(os.sep, "tmp", "glue-new"), os.__file__):
    refused(open, place, "a")
"#;

/// What needs a scratch directory to write in.
const WRITES_BY_SCRATCH: &str = r#"
os.symlink(secret, "link")
opens("link")
refused(os.chmod, "link", 0o777)
refused(os.truncate, "link", 0)
os.symlink(directory, "way")
refused(open, "way/new", "w")
refused(os.unlink, "way/secret")
refused(os.link, secret, "hard")
refused(os.link, os.__file__, "hard")
refused(os.rename, secret, "stolen")
open("mine", "w").write("x")
refused(os.rename, "mine", directory + "/new")
refused(os.rename, "mine", secret)
refused(os.link, "mine", directory + "/new")
here = os.open(".", os.O_RDONLY)
refused(lambda: os.rename("mine", "../new", src_dir_fd=here, dst_dir_fd=here))
refused(lambda: os.rename(".", "../moved"))
refused(os.rmdir, os.getcwd())
"#;

#[test]
fn nothing_outside_is_written() {
    if !python() {
        return;
    }
    for (sandbox, attacks) in [(&*SANDBOX, format!("{WRITES}{WRITES_BY_SCRATCH}")), (&*READ_ONLY, WRITES.to_owned())] {
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "a secret").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
        fs::create_dir(outside.path().join("empty")).unwrap();
        symlink("secret", outside.path().join("also")).unwrap();
        let before = look(outside.path());
        all_refused(sandbox, &format!("target = {:?}\n{attacks}", secret.display().to_string()));
        assert_eq!(look(outside.path()), before);
    }
}

#[test]
fn the_scratch_directory_can_be_written_and_goes() {
    if !python() {
        return;
    }
    let program = r#"
import os, tempfile, shutil, pathlib
home = os.getcwd()
assert os.environ["HOME"] == os.environ["TMPDIR"] == tempfile.gettempdir() == home and os.listdir(".") == []
pathlib.Path("a/b").mkdir(parents=True)
pathlib.Path("a/b/file").write_text("ż")
os.rename("a/b/file", "file")
assert pathlib.Path("file").read_text() == "ż"
os.link("file", "again")
shutil.copyfile("file", "copy")
os.symlink("/", "root")
shutil.rmtree("a")
with tempfile.TemporaryDirectory() as inner, tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
with open("file", "r+") as file:
    file.truncate(0)
os.mkdir("locked", 0)
print(home)
"#;
    expect(program, Outcome::Passed);
    let execution = SHARED.run(program).unwrap();
    assert_eq!(execution.outcome, Outcome::Passed, "{}", execution.stderr);
    let place = Path::new(execution.stdout.trim());
    assert!(place.is_absolute() && !place.exists() && !place.parent().unwrap().exists(), "{place:?}");
    // Without Landlock not even there.
    assert_eq!(SHARED.strength(), Strength::Landlock, "these tests need a kernel with Landlock");
    assert_eq!(READ_ONLY.strength(), Strength::ReadOnly);
    all_refused(
        &READ_ONLY,
        "refused(open, 'file', 'w')\nrefused(os.mkdir, 'directory')\nrefused(os.symlink, '/', 'link')",
    );
}

#[test]
fn the_disk_is_not_filled() {
    if !python() {
        return;
    }
    let limits = Limits { wall_time: Duration::from_secs(8), ..Limits::default() };
    let options = Options { namespaces: false, ..Options::default() };
    let (own, shared) = (brief(8), Sandbox::with_options(limits, &options).unwrap());
    for program in [
        "i = 0\nwhile True:\n    i += 1\n    open(f'f{i}', 'wb').write(bytes(1 << 20))",
        "i = 0\nwhile True:\n    i += 1\n    open(f'f{i}', 'wb')",
        "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
    ] {
        for sandbox in [&own, &shared] {
            let execution = sandbox.run(program).unwrap();
            assert_eq!(execution.outcome, Outcome::ScratchExceeded, "{program}\n{}", execution.stderr);
        }
    }
    let one = expect("f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))", FAILED);
    assert!(one.stderr.contains("File too large"), "{}", one.stderr);
    all_refused(&SANDBOX, "refused(call, {'x86_64': 319, 'aarch64': 279}[os.uname().machine], b'memory', 0)");
    // A tree deeper than paths can be long does not stay.
    let deep = "import os\nprint(os.getcwd(), flush=True)\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')";
    let execution = SHARED.run(deep).unwrap();
    assert!(!Path::new(execution.stdout.trim()).parent().unwrap().exists());
}

#[test]
fn files_of_others_are_not_read() {
    if !python() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "a secret").unwrap();
    all_refused(
        &SANDBOX,
        &format!(
            "refused(open, {:?})
refused(os.listdir, {:?})
refused(os.listdir, '/')
refused(os.listdir, os.path.expanduser('~root'))
for path in ('/etc/passwd', '/etc/shadow', '/etc/hostname', '/proc/self/mem', '/proc/self/environ', '/proc/self/maps', '/proc/1/cmdline',
             f'/proc/{{os.getppid()}}/environ', f'/proc/{{os.getppid()}}/mem', '/dev/mem', '/dev/kmsg', '/dev/tty', '/dev/vda', '/dev/shm'):
    refused(os.open, path, os.O_RDONLY)
os.symlink({:?}, 'link')
refused(open, 'link')
assert open('/dev/null', 'w').write('x') == 1 and len(os.urandom(3)) == 3 and open('/dev/zero', 'rb').read(2) == bytes(2)",
            secret.display().to_string(),
            outside.path().display().to_string(),
            secret.display().to_string(),
        ),
    );
}

#[test]
fn nothing_of_the_parent_is_seen_or_touched() {
    if !python() {
        return;
    }
    let attacks = "
import signal, fcntl
refused(os.kill, os.getppid(), signal.SIGTERM)
refused(os.kill, os.getppid(), 0)
refused(os.kill, 0, signal.SIGTERM)
refused(os.kill, -1, signal.SIGTERM)
refused(os.killpg, os.getpgid(os.getppid()), signal.SIGTERM)
machine = os.uname().machine
numbers = {
    'tgkill': (234, 131), 'tkill': (200, 130), 'rt_sigqueueinfo': (129, 138), 'ptrace': (101, 117), 'process_vm_readv': (310, 270),
    'pidfd_open': (434, 434), 'pidfd_send_signal': (424, 424), 'pidfd_getfd': (438, 438), 'kcmp': (312, 272),
}
for name, pair in numbers.items():
    refused(call, pair[machine == 'aarch64'], os.getppid(), os.getppid(), 9, 0, 0, 0)
PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_TRACEME = 16, 0x4206, 0
for request in (PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_TRACEME):
    refused(call, numbers['ptrace'][machine == 'aarch64'], request, os.getppid(), 0, 0)
# Signals that the kernel would send for us.
end, _ = os.pipe()
refused(fcntl.fcntl, end, fcntl.F_SETOWN, os.getppid())
refused(fcntl.fcntl, end, fcntl.F_SETSIG, signal.SIGKILL)
# Outliving the parent, and leaving its reach.
refused(call, {'x86_64': 157, 'aarch64': 167}[machine], 1, 0, 0, 0, 0)
refused(os.setsid)
refused(os.setpgid, 0, 0)
refused(os.setpriority, os.PRIO_PROCESS, os.getppid(), 19)
refused(os.sched_setaffinity, os.getppid(), {0})
";
    all_refused(&SANDBOX, attacks);
    all_refused(&READ_ONLY, attacks);
    // As a library might leave it: open across exec.
    let file = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let seen = expect(
        "import os\nprint(sorted(os.environ))\nopen_ones = []\nfor fd in range(64):\n    try:\n        os.fstat(fd)\n        open_ones.append(fd)\n    except OSError: pass\nprint(len(open_ones))",
        Outcome::Passed,
    );
    // Standard streams and the way to report.
    assert_eq!(seen.stdout.lines().last(), Some("4"), "{}", seen.stdout);
    assert!(!seen.stdout.contains("CARGO"), "{}", seen.stdout);
}

#[test]
fn kernel_interfaces_are_closed() {
    if !python() {
        return;
    }
    let attacks = "
machine = os.uname().machine
numbers = {
    'mount': (165, 40), 'umount2': (166, 39), 'pivot_root': (155, 41), 'unshare': (272, 97), 'setns': (308, 268), 'bpf': (321, 280),
    'perf_event_open': (298, 241), 'io_uring_setup': (425, 425), 'userfaultfd': (323, 282), 'keyctl': (250, 219),
    'add_key': (248, 217), 'open_tree': (428, 428), 'fsopen': (430, 430), 'shmget': (29, 194), 'msgget': (68, 186),
    'semget': (64, 190), 'mq_open': (240, 180), 'memfd_create': (319, 279), 'memfd_secret': (447, 447), 'fanotify_init': (300, 262),
    'name_to_handle_at': (303, 264), 'open_by_handle_at': (304, 265), 'init_module': (175, 105), 'kexec_load': (246, 104),
    'reboot': (169, 142), 'swapon': (167, 224), 'syslog': (103, 116), 'sethostname': (170, 161), 'settimeofday': (164, 170),
    'personality': (135, 92), 'seccomp': (317, 277), 'acct': (163, 89), 'quotactl': (179, 60), 'setuid': (105, 146),
    'capset': (126, 91), 'adjtimex': (159, 171), 'openat2': (437, 437), 'a call of the future': (999, 999),
}
for name, pair in numbers.items():
    for argument in (0, 1):
        refused(call, pair[machine == 'aarch64'], argument, 0, 0, 0, 0, 0)
";
    all_refused(&SANDBOX, attacks);
    all_refused(&READ_ONLY, attacks);
}

#[test]
fn there_is_no_network() {
    if !python() {
        return;
    }
    let attacks = "
import socket
for family in range(0, 46):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        refused(socket.socket, family, kind)
refused(socket.socketpair)
refused(socket.create_connection, ('127.0.0.1', 9))
import asyncio
refused(lambda: asyncio.new_event_loop())
";
    all_refused(&SANDBOX, attacks);
    all_refused(&READ_ONLY, attacks);
}

/// Counts what is done.
struct Counted(AtomicUsize);

impl Progress for Counted {
    fn advance(&self, more: u64) {
        self.0.fetch_add(more as usize, Ordering::Relaxed);
    }
}

#[test]
fn results_do_not_depend_on_threads_or_order() {
    if !python() {
        return;
    }
    let programs: Vec<String> =
        (0..12).map(|i| format!("print({i}, list({{'a', 'b', 'c', 'd', 'e'}}))\nassert {i} % 3 != 0")).collect();
    let seen = |threads| {
        let progress = Counted(AtomicUsize::new(0));
        let executions = SANDBOX.run_many(&programs, threads, &progress).unwrap();
        assert_eq!(progress.0.into_inner(), 12);
        executions.into_iter().map(|e| (e.outcome, e.stdout)).collect::<Vec<_>>()
    };
    let one = seen(1);
    for (i, (outcome, stdout)) in one.iter().enumerate() {
        assert_eq!(*outcome, if i % 3 == 0 { FAILED } else { Outcome::Passed });
        assert!(stdout.starts_with(&format!("{i} ")));
    }
    assert_eq!(seen(4), one);
    assert_eq!(seen(100), one);
    assert!(SANDBOX.run_many::<&str>(&[], 3, &NoProgress).unwrap().is_empty());
}

#[test]
fn many_at_a_time_are_bounded() {
    if !python() {
        return;
    }
    let programs = vec!["import time; time.sleep(0.3)"; 4];
    let started = Instant::now();
    assert!(SANDBOX.run_many(&programs, 2, &NoProgress).unwrap().iter().all(Execution::passed));
    assert!(started.elapsed() >= Duration::from_millis(600), "two at a time take two turns");
}

/// Of the same user, those that run in a scratch directory of a sandbox whose parent is `parent`.
fn children_of(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name, in parentheses, may have spaces; after it come the state and the parent.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        if fields[1] == parent.to_string() {
            found.push(pid);
        }
    }
    found
}

/// Not a test by itself: what the next one starts and kills.
#[test]
fn a_parent_that_waits() {
    if !python() {
        return;
    }
    if std::env::var_os("GLUE_TEST_PARENT").is_some() {
        let sandbox = Sandbox::new(Limits { wall_time: Duration::from_secs(60), ..Limits::default() }).unwrap();
        println!("started");
        let _ = sandbox
            .run("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)");
    }
}

#[test]
fn a_program_ends_with_its_parent() {
    if !python() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::a_parent_that_waits", "--nocapture"])
        .env("GLUE_TEST_PARENT", "1")
        // What a killed parent cannot remove.
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let running = || fs::read_dir(scratch.path()).unwrap().count() == 1;
    // The trial's directory comes and goes first; the program's stays.
    let (mut since, mut programs) = (Instant::now(), Vec::new());
    while since.elapsed() < Duration::from_millis(700) {
        assert!(Instant::now() < deadline, "no program was started");
        programs = children_of(parent.id());
        if !running() || programs.is_empty() {
            since = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(programs.len(), 1);
    parent.kill().unwrap();
    parent.wait().unwrap();
    let alive = || Path::new(&format!("/proc/{}", programs[0])).exists();
    while alive() {
        assert!(Instant::now() < deadline, "the program outlived its parent");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn interpreters_that_are_none_are_refused_with_their_name() {
    if !python() {
        return;
    }
    let refuse = |python: &Path| {
        Sandbox::with_options(Limits::default(), &Options { python: python.to_owned(), ..Options::default() })
            .unwrap_err()
            .to_string()
    };
    let error = refuse(Path::new("/nowhere/python"));
    assert!(error.starts_with("/nowhere/python: not usable as Python: it cannot be started"), "{error}");
    let error = refuse(Path::new("/bin/true"));
    assert!(error.starts_with("/bin/true: not usable as Python: expected it to answer"), "{error}");
    let error = refuse(Path::new("/bin/false"));
    assert!(error.contains("exit status: 1"), "{error}");
    // Too tight for an interpreter to start.
    let error = Sandbox::new(Limits { memory_bytes: 4 << 20, ..Limits::default() }).unwrap_err().chain();
    assert!(error.starts_with("programs cannot be confined: a trial program ended as"), "{error}");
}
