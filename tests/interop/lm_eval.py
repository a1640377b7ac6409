#!/usr/bin/env python3
"""Scores the models of a zoo with lm_eval and with glue, on the same task files, and compares.

`ZOO/lm_eval/tasks` has the tasks as lm-evaluation-harness YAML, with data paths relative to the zoo. lm_eval runs by way of the adapter
script that comes with glue-eval, in the Python that runs this, and both get the same request. It is skipped when that Python has no lm_eval:

    VENV/bin/python tests/interop/lm_eval.py [--models a-math base-b]

The times are those of the whole commands, start and loading included. Leaves with status 1 when a score differs by more than one item.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ADAPTER = ROOT / "crates" / "glue-eval" / "adapters" / "lm_eval_adapter.py"


def run(command, zoo, document=None):
    """The JSON that a command prints, and its seconds; raises SystemExit with the end of what it said."""
    started = time.perf_counter()
    done = subprocess.run([str(word) for word in command], cwd=zoo, input=document, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    try:
        if done.returncode == 0:
            return json.loads(done.stdout), seconds
        problem = f"exit status {done.returncode}"
    except ValueError as error:
        problem = f"no JSON: {error}"
    said = "\n".join(done.stderr.strip().splitlines()[-5:])
    raise SystemExit(f"{pathlib.Path(command[0]).name} on {zoo}: {problem}\n{said}")


def compare(model, theirs, ours):
    """Prints a line for each score; how many there are and how many differ."""
    count = wrong = 0
    for task in sorted(theirs.keys() | ours.keys()):
        left, right = theirs.get(task, {}), ours.get(task, {})
        for metric in left:
            if metric == "n" or metric.endswith("_stderr"):
                continue
            count += 1
            expected, found = left[metric], right.get(metric)
            # Sums of log-probabilities that nearly tie fall either way, by the order of additions: one item.
            agrees = found is not None and left["n"] == right.get("n") and abs(found - expected) <= 1 / left["n"] + 1e-9
            wrong += not agrees
            shown = "none" if found is None else f"{found:.4f}"
            size = f"{left['n']}" if left["n"] == right.get("n") else f"{left['n']} and {right.get('n')}"
            print(f"{model:10} {task:10} {metric:12} {expected:8.4f} {shown:>8}  {size:>5}{'' if agrees else '  DIFFERS'}")
        if not left:
            count, wrong = count + 1, wrong + 1
            print(f"{model:10} {task:10} scored by glue only  DIFFERS")
    return count, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", metavar="DIR", type=pathlib.Path, default=ROOT / "tests/data/zoo", help="of models, with lm_eval/tasks (default: the shipped one)")
    parser.add_argument("--glue", metavar="PATH", type=pathlib.Path, default=ROOT / "target/release/glue", help="the binary under test (default target/release/glue)")
    parser.add_argument("--models", nargs="*", metavar="NAME", help="only these (default: every model of the zoo)")
    parser.add_argument("--batch-size", default="64", help="of lm_eval (default 64)")
    arguments = parser.parse_args()
    # By its specification: this file has the same name, and is first on the path when it is run.
    sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != pathlib.Path(__file__).resolve().parent]
    if importlib.util.find_spec("lm_eval") is None:
        print(f"skipped: {sys.executable} has no lm_eval; `pip install 'lm_eval[hf]'` in a virtual environment gets it")
        return 0
    glue, zoo = arguments.glue.absolute(), arguments.zoo.resolve()
    if not glue.exists():
        print(f"there is no {glue}; `cargo build --release` makes it")
        return 1
    tasks = zoo / "lm_eval" / "tasks"
    models = arguments.models or sorted(path.parent.name for path in zoo.glob("*/config.json"))
    if not tasks.is_dir() or not models:
        print(f"{zoo}: expected models and lm_eval/tasks, found {len(models)} models and {'' if tasks.is_dir() else 'no '}tasks")
        return 1
    print(f"{'model':10} {'task':10} {'metric':12} {'lm_eval':>8} {'glue':>8}  {'items':>5}")
    total = differ = 0
    times = [0.0, 0.0]
    for model in models:
        request = json.dumps({"model": str(zoo / model), "tasks": ["lm_eval/tasks"], "split": None, "limit": None, "seed": None})
        theirs, seconds = run([sys.executable, ADAPTER, "--batch-size", arguments.batch_size], zoo, request)
        ours, our_seconds = run([glue, "eval", zoo / model, "--tasks", tasks, "--json"], zoo)
        count, wrong = compare(model, theirs["tasks"], ours["tasks"])
        total, differ = total + count, differ + wrong
        times = [times[0] + seconds, times[1] + our_seconds]
        print(f"{model:10} {'time':10} {'seconds':12} {seconds:8.2f} {our_seconds:8.2f}", flush=True)
    print(f"{total - differ} of {total} scores agree; lm_eval took {times[0]:.1f} s, glue {times[1]:.1f} s")
    return 1 if differ or not total else 0


if __name__ == "__main__":
    sys.exit(main())
