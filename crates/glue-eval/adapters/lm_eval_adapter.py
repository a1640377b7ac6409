#!/usr/bin/env python3
"""Scores a model with lm-evaluation-harness, for `glue eval --evaluator "python3 lm_eval_adapter.py"`.

Reads one JSON document on standard input,

    {"model": "DIRECTORY", "tasks": ["NAME or PATH", ...], "split": "test" or null, "limit": 100 or null, "seed": 1234 or null}

and writes one on standard output, in the form of `glue eval --json`:

    {"model": "DIRECTORY", "tasks": {"arith": {"exact_match": 0.328, "exact_match_stderr": 0.0297, "n": 250}}, "average": 0.328}

A task is a name that lm_eval knows, the path of a YAML file, or that of a directory: then all tasks that are defined in it. Data paths in
task files are relative to the working directory. The split is the one that each task file names; when the request has one and a task
is scored on another, that is an error. Everything that lm_eval prints goes to standard error. Needs lm_eval 0.4 with its `hf` extra; made
with 0.4.13.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import sys


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", default="64", help="sequences per batch, or `auto` (default 64)")
    parser.add_argument("--device", default="cpu", help="device of PyTorch, such as `cuda:0` (default cpu)")
    parser.add_argument("--dtype", default="float32", help="type to compute in (default float32)")
    parser.add_argument("--model-args", default="", metavar="KEY=VALUE,...", help="more arguments of lm_eval's model `hf`")
    parser.add_argument("--num-fewshot", type=int, help="examples before each item (default: what the task file says)")
    return parser.parse_args()


def fail(message):
    """Leaves with one line on standard error."""
    sys.exit(f"lm_eval_adapter: {message}")


def read_request():
    """The document on standard input, checked."""
    try:
        request = json.load(sys.stdin)
    except ValueError as error:
        fail(f"expected one JSON document on standard input, found something else: {error}")
    if not isinstance(request, dict) or not isinstance(request.get("model"), str):
        fail("expected a JSON object with a string `model`")
    tasks = request.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        fail(f"expected `tasks` to be a list of names or paths, found {tasks!r}")
    if not os.path.isdir(request["model"]):
        fail(f"expected `model` to be a directory, found {request['model']!r}")
    return request


def names_in(directory, manager_of):
    """The tasks that the files of a directory define, those of subdirectories too."""
    manager = manager_of(str(directory), False)
    names = sorted(manager.all_tasks)
    if not names:
        fail(f"{directory}: expected task files in YAML, found none that defines a task")
    return names


def find_tasks(wanted):
    """What simple_evaluate takes as tasks, and the task manager that knows them."""
    from lm_eval.tasks import TaskManager

    def manager_of(include, defaults):
        return TaskManager(include_path=include, include_defaults=defaults)

    tasks, include = [], []
    for name in wanted:
        path = pathlib.Path(name)
        if path.is_dir():
            tasks += names_in(path, manager_of)
            include.append(str(path))
        elif path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                fail(f"{path}: expected a task file, found none")
            tasks.append(str(path))
        else:
            tasks.append(name)
    # The tasks that come with lm_eval take seconds to be listed.
    named = any(not os.path.exists(name) for name in wanted)
    return tasks, manager_of(include or None, named)


def flat(entry, n):
    """Metrics by name, without the name of the filter; the first filter counts where several give the same metric."""
    scores = {}
    for key, value in entry.items():
        metric = key.partition(",")[0]
        if metric in ("alias", "name", "sample_len", "sample_count") or isinstance(value, bool):
            continue
        if isinstance(value, (int, float)) and metric not in scores:
            if math.isfinite(value):
                scores[metric] = value
            elif not metric.endswith("_stderr"):
                fail(f"{metric} is {value}, expected a finite number")
    scores["n"] = n
    return scores


def check_split(task, config, split):
    """A task is scored on its test split, or else on its validation split."""
    used = config.get("test_split") or config.get("validation_split")
    if split is not None and used is not None and used != split:
        fail(f"task {task}: expected split {split!r}, found that its file is scored on {used!r}")


def score(request, arguments):
    """Runs lm_eval; the document to answer with."""
    import lm_eval

    tasks, manager = find_tasks(request["tasks"])
    model_args = f"pretrained={request['model']},dtype={arguments.dtype}"
    if arguments.model_args:
        model_args += f",{arguments.model_args}"
    seed = request.get("seed")
    seeds = {} if seed is None else {
        "random_seed": seed, "numpy_random_seed": seed % 2**32, "torch_random_seed": seed, "fewshot_random_seed": seed,
    }
    results = lm_eval.simple_evaluate(
        model="hf", model_args=model_args, tasks=tasks, num_fewshot=arguments.num_fewshot, device=arguments.device,
        batch_size=arguments.batch_size if arguments.batch_size.startswith("auto") else int(arguments.batch_size),
        limit=request.get("limit"), task_manager=manager, log_samples=False,
        # Only for the standard errors that have no formula.
        bootstrap_iters=1000, **seeds,
    )
    scores, firsts = {}, []
    for task, entry in results["results"].items():
        # Groups of tasks have results too, but no items of their own.
        count = results["n-samples"].get(task)
        if count is None:
            continue
        check_split(task, results["configs"].get(task, {}), request.get("split"))
        scores[task] = flat(entry, count["effective"])
        first = next((value for metric, value in scores[task].items() if metric != "n" and not metric.endswith("_stderr")), None)
        if first is None:
            fail(f"task {task}: expected a metric, found {sorted(entry)}")
        firsts.append(first)
    return {"model": request["model"], "tasks": scores, "average": sum(firsts) / len(firsts)}


def main():
    arguments = options()
    request = read_request()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Only the answer may stand on standard output; libraries print on it.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = score(request, arguments)
        except ImportError as error:
            fail(f"{error}; `pip install 'lm_eval[hf]'` in the environment of {sys.executable} gets it")
    json.dump(answer, sys.stdout, allow_nan=False)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
