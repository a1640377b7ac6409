"""Threads, signals and forks."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import model_glue_core as core
import numpy as np
import pytest
import support

BASE, MODELS = support.model(0), [support.model(i) for i in (1, 2)]


def merge():
    base, *models = ({name: array.data for name, array in model.items()} for model in (BASE, *MODELS))
    merged = core.merge(models, "dare_ties", {"weight": 0.5, "density": 0.5}, base, seed=3)
    return {name: np.from_dlpack(tensor).tobytes() for name, tensor in merged.items()}


@pytest.fixture(autouse=True)
def threads():
    yield
    core.set_num_threads(None)


def test_results_do_not_depend_on_threads():
    results = []
    for n in (1, 2, 5):
        core.set_num_threads(n)
        assert core.get_num_threads() == n
        results.append(merge())
    assert results[0] == results[1] == results[2]
    with pytest.raises(ValueError):
        core.set_num_threads(0)
    core.set_num_threads()
    expected = os.environ.get("RAYON_NUM_THREADS") or len(os.sched_getaffinity(0))
    assert core.get_num_threads() == int(expected)


def child(expected, report):
    assert core.get_num_threads() == 3
    report.put(merge() == expected)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own():
    core.set_num_threads(3)
    expected = merge()
    pid = os.fork()
    if pid == 0:
        # Nothing of pytest runs in the child.
        try:
            os._exit(0 if merge() == expected and core.get_num_threads() == 3 else 1)
        finally:
            os._exit(2)
    assert wait(pid) == 0
    assert merge() == expected


def wait(pid, seconds=60):
    """The status of a child, which is killed if it hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it hangs"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_during_a_merge():
    expected = merge()
    stop = threading.Event()

    def work():
        while not stop.is_set():
            merge()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            time.sleep(0.03)
            pid = os.fork()
            if pid == 0:
                try:
                    os._exit(0 if merge() == expected else 1)
                finally:
                    os._exit(2)
            assert wait(pid) == 0
    finally:
        stop.set()
        thread.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_multiprocessing_forks():
    core.set_num_threads(3)
    context = multiprocessing.get_context("fork")
    report, expected = context.Queue(), merge()
    processes = [context.Process(target=child, args=(expected, report)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [report.get(timeout=60) for _ in processes] == [True, True]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def test_threads_merge_at_once():
    expected, results = merge(), []
    threads = [threading.Thread(target=lambda: results.append(merge())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


LONG = """
import sys, threading, time
import numpy as np
import model_glue_core as core

x = [{str(i): np.full((4096, 2048), 1 + j, np.float16) for i in range(4)} for j in range(3)]
"""

INTERRUPTED = (
    LONG
    + """
print("ready", flush=True)
try:
    while True:
        core.merge(x[1:], "della", {"weight": 0.5, "density": 0.5}, x[0])
except KeyboardInterrupt:
    print("interrupted", flush=True)
# What follows is as if nothing had been.
merged = core.merge([{"w": np.ones(3, np.float32)}], "linear", {"weight": 1})
assert np.from_dlpack(merged["w"]).tolist() == [1.0] * 3
"""
)


def test_control_c_is_heard_within_a_second():
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - start < 1
    assert process.wait(60) == 0


WRITING = """
import sys
import model_glue_core as core

plan = core.Plan(sys.argv[1], sys.argv[2])
print("ready", flush=True)
try:
    while True:
        plan.write(sys.argv[3], overwrite=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_control_c_leaves_a_complete_directory(small, tmp_path):
    recipe = "merge_method: linear\nmodels: [{model: model0, parameters: {weight: 1}}]\n"
    out = tmp_path / "out"
    core.Plan(recipe, small.directory).write(out)
    expected = support.load(out)
    arguments = [sys.executable, "-c", WRITING, recipe, str(small.directory), str(out)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert process.wait(60) == 0
    assert support.load(out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing partial is left"


COUNTING = (
    LONG
    + """
done = threading.Event()

def work():
    for _ in range(4):
        core.merge(x[1:], "della", {"weight": 0.5, "density": 0.5}, x[0])
    done.set()

core.set_num_threads(1)
thread = threading.Thread(target=work)
thread.start()
longest, last, start = 0, time.monotonic(), time.monotonic()
while not done.is_set():
    time.sleep(0.005)
    now = time.monotonic()
    longest, last = max(longest, now - last), now
print(longest, last - start)
"""
)


def test_other_threads_run_during_a_merge():
    longest, total = map(float, subprocess.check_output([sys.executable, "-c", COUNTING], text=True).split())
    assert total > 0.5, "the merge took too little time to tell anything"
    # The machine may be busy. Without a release, nothing would run during any of the four merges.
    assert longest < total / 8, (longest, total)
