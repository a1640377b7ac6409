#!/usr/bin/env python3
"""Scores one model with lm_eval and with glue on the same task files, and compares every item.

    VENV/bin/python tests/interop/benchmarks.py --model MODEL --tasks TASKS [--limit 12]

TASKS is a directory of YAML files, which may include those of an installed lm_eval and name local data. Prints a line for each metric and
which items differ. Leaves with status 1 when an item differs.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != pathlib.Path(__file__).resolve().parent]


def harness(model, tasks, names, limit):
    """For each task its metrics, and for each filter and metric the values of the items."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_ALLOW_CODE_EVAL="1", TOKENIZERS_PARALLELISM="false")
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = names or sorted(manager.all_tasks)
    done = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={model},dtype=float32", tasks=names, limit=limit, task_manager=manager, device="cpu",
        batch_size=8, log_samples=True, confirm_run_unsafe_code=True, bootstrap_iters=0,
    )
    items = {}
    for name, samples in done["samples"].items():
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            for metric in sample["metrics"]:
                items.setdefault((name, sample["filter"], metric), []).append(sample[metric])
    return names, done["results"], items


def number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", metavar="DIR", type=pathlib.Path, required=True, help="of YAML files")
    parser.add_argument("--task", metavar="NAME", nargs="*", default=[], help="only these")
    parser.add_argument("--limit", type=int, default=12, help="items of each task (default 12)")
    parser.add_argument("--glue", metavar="PATH", type=pathlib.Path, default=ROOT / "target/release/glue", help="the binary under test")
    parser.add_argument("--theirs", metavar="FILE", type=pathlib.Path, help="keeps the scores of lm_eval here, and takes them from here if it exists")
    arguments = parser.parse_args()
    if importlib.util.find_spec("lm_eval") is None:
        print(f"skipped: {sys.executable} has no lm_eval; `pip install 'lm_eval[hf]'` in a virtual environment gets it")
        return 0
    started = time.perf_counter()
    if arguments.theirs and arguments.theirs.exists():
        names, theirs, kept = json.loads(arguments.theirs.read_text(encoding="utf-8"))
    else:
        names, theirs, items = harness(arguments.model, arguments.tasks, arguments.task, arguments.limit)
        kept = [[list(key), [number(value) for value in values]] for key, values in items.items()]
        if arguments.theirs:
            arguments.theirs.write_text(json.dumps([names, theirs, kept], default=str), encoding="utf-8")
    items = {tuple(key): values for key, values in kept}
    names = arguments.task or names
    seconds = time.perf_counter() - started
    differ = 0
    print(f"{'task':28} {'metric':28} {'lm_eval':>10} {'glue':>10}  items that differ")
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            samples = pathlib.Path(directory) / f"{name}.jsonl"
            command = [arguments.glue, "eval", arguments.model, "--tasks", arguments.tasks, "--task", name, "--limit", arguments.limit, "--samples", samples, "--allow-code-execution", "--json"]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
            if done.returncode:
                differ += 1
                print(f"{name:28} glue refuses it: {' '.join(done.stderr.split())[:400]}")
                continue
            ours = json.loads(done.stdout)["tasks"][name]
            rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
            for key, expected in theirs[name].items():
                metric, _, pipeline = key.partition(",")
                if number(expected) is None or "_stderr" in metric or metric in ("alias", "sample_len"):
                    continue
                own = key if key in ours else metric
                found = ours.get(own)
                at = [i for i, (left, row) in enumerate(zip(items.get((name, pipeline, metric), []), rows)) if number(left) is not None and isinstance(row["scores"].get(own), (int, float)) and abs(number(left) - row["scores"][own]) > 1e-3 * max(1, abs(number(left)))]
                agrees = found is not None and abs(found - expected) <= 1e-3 * max(1, abs(expected)) and not at
                differ += not agrees
                shown = "none" if found is None else f"{found:.4f}"
                print(f"{name:28} {key:28} {expected:10.4f} {shown:>10}  {at or ('' if agrees else 'DIFFERS')}", flush=True)
    print(f"{differ} metrics differ; lm_eval took {seconds:.0f} s")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
