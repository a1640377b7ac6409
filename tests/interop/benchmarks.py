#!/usr/bin/env python3
"""Scores one model with lm_eval and with glue on the same tasks, and compares every item.

    VENV/bin/python tests/interop/benchmarks.py --model MODEL --tasks TASKS [--limit 12]
    VENV/bin/python tests/interop/benchmarks.py --model MODEL --data DATA --task gsm8k mbpp

TASKS is a directory of YAML files, which may include those of an installed lm_eval and name local data. With DATA, a directory with
ORG/NAME as on the hub, tasks of the installed lm_eval are run by name. Prints a line for each metric and which items differ. Leaves with
status 1 when an item differs.
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


class CodeEval:
    """In the place of the metric of that name, which lies on a hub: the share of programs that end without an error."""

    def compute(self, references, predictions, k=(1,), **_):
        passed = []
        for reference, answers in zip(references, predictions):
            for answer in answers:
                program = f"{answer}\n{reference}\n"
                try:
                    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=10, check=False)
                    passed.append(done.returncode == 0)
                except subprocess.TimeoutExpired:
                    passed.append(False)
        assert list(k) == [1], "estimates for several answers are not made here"
        return {"pass@1": sum(passed) / len(passed)}, {}


def harness(arguments):
    """For each task its metrics, for each filter and metric the values of the items, how long it took, and the answers that were
    generated."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_ALLOW_CODE_EVAL="1", TOKENIZERS_PARALLELISM="false")
    import evaluate
    import lm_eval
    from lm_eval.tasks import TaskManager

    load = evaluate.load
    evaluate.load = lambda name, *rest, **options: CodeEval() if name == "code_eval" else load(name, *rest, **options)

    manager = TaskManager(include_path=str(arguments.tasks) if arguments.tasks else None, include_defaults=arguments.data is not None)
    names = arguments.task or sorted(manager.all_tasks)
    here = os.getcwd()
    if arguments.data:
        # A directory of that name wins over the hub.
        os.chdir(arguments.data)
    started = time.perf_counter()
    done = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={arguments.model},dtype=float32", tasks=names, limit=arguments.limit, task_manager=manager,
        device="cpu", batch_size=arguments.batch_size, log_samples=True, confirm_run_unsafe_code=True, bootstrap_iters=0,
        apply_chat_template=arguments.chat, fewshot_as_multiturn=arguments.chat, num_fewshot=arguments.num_fewshot,
    )
    seconds = time.perf_counter() - started
    os.chdir(here)
    items, answers = {}, {}
    for name, samples in done["samples"].items():
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            answer = sample["resps"][0]
            answer = answer[0] if isinstance(answer, (list, tuple)) and answer else answer
            if isinstance(answer, str) and sample["filter"] == samples[0]["filter"]:
                answers.setdefault(name, []).append(answer)
            for metric in sample["metrics"]:
                items.setdefault((name, sample["filter"], metric), []).append(sample[metric])
    kept = [[list(key), [number(value) for value in values]] for key, values in items.items()]
    return sorted(done["samples"]), done["results"], kept, seconds, answers


def number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def close(left, right):
    return abs(left - right) <= 1e-3 * max(1, abs(left))


class Ours:
    """What glue gives for some tasks."""

    def __init__(self, arguments, names, directory):
        samples = pathlib.Path(directory) / "samples.jsonl"
        of_tasks = ["--tasks", arguments.tasks, "--task", ",".join(names)] if arguments.tasks else ["--tasks", ",".join(names)]
        data = ["--data", arguments.data] if arguments.data else []
        options = ["--apply-chat-template"] if arguments.chat else []
        options += ["--num-fewshot", arguments.num_fewshot] if arguments.num_fewshot is not None else []
        command = [arguments.glue, "eval", arguments.model, *of_tasks, *data, *options, "--limit", arguments.limit, "--samples", samples]
        command += ["--allow-code-execution", "--allow-python", "--json"]
        environment = dict(os.environ)
        spec = importlib.util.find_spec("lm_eval")
        # Functions that glue does not evaluate need the packages of this Python.
        environment["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), environment.get("PATH", "")])
        environment.setdefault("LM_EVAL_TASKS", str(pathlib.Path(spec.origin).parent / "tasks"))
        started = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        self.peak = 0
        out, self.stderr = self.watch(process)
        self.seconds = time.perf_counter() - started
        self.failed = process.returncode != 0
        self.tasks, self.rows = {}, {}
        if not self.failed:
            self.tasks = json.loads(out)["tasks"]
            for line in samples.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.rows.setdefault(row["task"], []).append(row)

    def watch(self, process):
        """The output, with the greatest anonymous memory seen five times a second."""
        status = pathlib.Path(f"/proc/{process.pid}/status")
        while True:
            try:
                return process.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                try:
                    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                    self.peak = max(self.peak, int(lines["RssAnon"].split()[0]) * 1024)
                except (OSError, KeyError, ValueError):
                    pass


def compare(name, theirs, ours, items, answers):
    """Prints the metrics of a task and its generated answers, and says how many differ."""
    if ours.failed:
        print(f"{name:28} glue refuses it: {' '.join(ours.stderr.split())[:400]}")
        return 1
    differ = 0
    scores, rows = ours.tasks[name], ours.rows.get(name, [])
    for key, expected in theirs[name].items():
        metric, _, pipeline = key.partition(",")
        if number(expected) is None or "_stderr" in metric or metric in ("alias", "sample_len"):
            continue
        own = key if key in scores else metric
        found = scores.get(own)
        at = []
        for i, (left, row) in enumerate(zip(items.get((name, pipeline, metric), []), rows)):
            right = row["scores"].get(own)
            if number(left) is not None and isinstance(right, (int, float)) and not close(number(left), right):
                at.append(i)
        agrees = found is not None and close(expected, found) and not at
        differ += not agrees
        shown = "none" if found is None else f"{found:.4f}"
        print(f"{name:28} {key:28} {expected:10.4f} {shown:>10}  {at or ('' if agrees else 'DIFFERS')}", flush=True)
    if answers:
        at = [i for i, (text, row) in enumerate(zip(answers, rows)) if text != row["answers"][0]]
        length = sum(map(len, answers)) / len(answers)
        print(f"{name:28} {f'{len(answers) - len(at)} of {len(answers)} answers are equal':50}  {at or ''} ({length:.0f} characters each)", flush=True)
        differ += bool(at)
    return differ


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", metavar="DIR", type=pathlib.Path, help="of YAML files")
    parser.add_argument("--data", metavar="DIR", type=lambda path: pathlib.Path(path).resolve(), help="of ORG/NAME, for tasks by name")
    parser.add_argument("--task", metavar="NAME", nargs="*", default=[], help="only these")
    parser.add_argument("--limit", type=int, default=12, help="items of each task (default 12)")
    parser.add_argument("--batch-size", type=int, default=8, help="of lm_eval (default 8)")
    parser.add_argument("--num-fewshot", type=int, help="examples in each prompt (default: the task's own)")
    parser.add_argument("--chat", action="store_true", help="in the model's chat template, examples as turns")
    parser.add_argument("--glue", metavar="PATH", type=pathlib.Path, default=ROOT / "target/release/glue", help="the binary under test")
    parser.add_argument("--theirs", metavar="FILE", type=pathlib.Path, help="keeps the scores of lm_eval here, and takes them from here if it exists")
    arguments = parser.parse_args()
    if importlib.util.find_spec("lm_eval") is None:
        print(f"skipped: {sys.executable} has no lm_eval; `pip install 'lm_eval[hf]'` in a virtual environment gets it")
        return 0
    if not (arguments.tasks or (arguments.data and arguments.task)):
        parser.error("give --tasks, or --data with --task")
    if arguments.theirs and arguments.theirs.exists():
        found = json.loads(arguments.theirs.read_text(encoding="utf-8"))
    else:
        found = harness(arguments)
        if arguments.theirs:
            arguments.theirs.write_text(json.dumps(found, default=str), encoding="utf-8")
    names, theirs, kept, seconds, answers = found
    items = {tuple(key): values for key, values in kept}
    print(f"{'task':28} {'metric':28} {'lm_eval':>10} {'glue':>10}  items that differ")
    with tempfile.TemporaryDirectory() as directory:
        ours = Ours(arguments, names, directory)
        differ = 0
        for name in names:
            of_task = Ours(arguments, [name], directory) if ours.failed and len(names) > 1 else ours
            differ += compare(name, theirs, of_task, items, answers.get(name))
    print(f"{differ} metrics differ; lm_eval took {seconds:.0f} s, glue {ours.seconds:.0f} s and {ours.peak / 2**20:.0f} MiB of memory beside the weights")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
