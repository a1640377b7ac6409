#!/usr/bin/env python3
"""Compares the functions of lm_eval's tasks in CPython and in glue's evaluator.

Every `!function` of every task file in an installed lm_eval is called on made-up rows until some calls succeed; the arguments and the
results are written, and a test of glue-eval repeats the calls:

    VENV/bin/python tests/interop/functions.py CASES.json
    GLUE_FUNCTION_CASES=$PWD/CASES.json cargo nextest run --workspace -E 'test(agrees_with_python_on_cases)' --run-ignored all

The rows have the keys that a function's source mentions, with values drawn from a few kinds of text, number and list, from a fixed seed.
"""

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib.util
import io
import json
import logging
import math
import pathlib
import random
import signal
import sys

# This directory has a file named as the package.
sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import datasets
import yaml

KINDS = {"process_docs": "rows", "doc_to_text": "doc", "doc_to_target": "doc", "doc_to_choice": "doc", "process_results": "results", "gen_prefix": "doc", "samples": "none", "filter_fn": "filter", "description": "doc"}


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!function", lambda loader, node: ("function", loader.construct_scalar(node)))


def functions(tasks):
    """(file, function, kind) of each function that a task file names; equal files once."""
    seen = set()
    for path in sorted(tasks.rglob("*")):
        if not path.is_file() or path.suffix not in (".yaml", "") and not path.name.endswith("_yaml"):
            continue
        try:
            document = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
        except Exception:
            continue

        def walk(value, key):
            if isinstance(value, tuple) and len(value) == 2 and value[0] == "function":
                module, _, name = value[1].rpartition(".")
                file = path.parent / f"{module.replace('.', '/')}.py"
                if file.exists() and key in KINDS:
                    identity = (hashlib.sha256(file.read_bytes()).hexdigest(), name, KINDS[key])
                    if identity not in seen:
                        seen.add(identity)
                        yield file, name, KINDS[key]
            elif isinstance(value, dict):
                for key, item in value.items():
                    yield from walk(item, key)
            elif isinstance(value, list):
                for item in value:
                    yield from walk(item, key)

        yield from walk(document, "")


WORDS = ["The cat sat on the _ mat.", "A", "B", "1", "0", "2", "", "Paris, France", "x = \\frac{1}{2}", "Is it so? Yes - no.", "#### 42", "  two  spaces [title] here ", "abc", "c", "\\boxed{7}", "true", "entailment", "[step] Über", "stem"]


def draw(rng, depth=0):
    kind = rng.randrange(10 if depth < 2 else 6)
    if kind < 4:
        return rng.choice(WORDS)
    if kind == 4:
        return rng.randrange(4)
    if kind == 5:
        return rng.choice([True, False, 0, 1, 0.5])
    if kind in (6, 7):
        return [rng.choice(WORDS) for _ in range(rng.randrange(2, 5))]
    if kind == 8:
        return {"text": [rng.choice(WORDS) for _ in range(3)], "label": ["A", "B", "C"], "labels": [1, 0, 0], "choices": ["x", "y", "z"]}
    return [draw(rng, depth + 1) for _ in range(3)]


def keys_of(file):
    """Texts in the source that may be names of columns."""
    keys = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            keys.add(node.slice.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args and isinstance(node.args[0], ast.Constant):
            keys.add(node.args[0].value)
    return sorted(key for key in keys if isinstance(key, str))


def literal_choices(file):
    return [node.value for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 40]


def results(rng, choices):
    kind = rng.randrange(4)
    if kind == 0:
        return [rng.choice(WORDS + choices)]
    if kind == 1:
        return [[rng.choice(WORDS + choices) for _ in range(2)]]
    return [(-rng.random() * 20, rng.random() < 0.3) for _ in range(rng.choice([2, 3, 4]))]


def plain(value):
    """As data that JSON keeps; raises where it is none."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, datasets.Dataset):
        return [plain(row) for row in value]
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    raise TypeError(type(value))


def attempts(function, kind, file, rng, wanted, tries):
    keys, choices = keys_of(file), literal_choices(file)
    found = 0
    for _ in range(tries):
        row = {key: (rng.choice(choices) if choices and rng.random() < 0.25 else draw(rng)) for key in keys}
        if kind == "rows":
            try:
                given = datasets.Dataset.from_list([row, dict(row)])
            except Exception:
                continue
            arguments, recorded = [given], [given.to_list()]
        elif kind == "doc":
            arguments = recorded = [row]
        elif kind == "results":
            arguments = recorded = [row, results(rng, choices)]
        elif kind == "filter":
            arguments = recorded = [[[rng.choice(WORDS + choices), rng.choice(WORDS)]], [row]]
        else:
            arguments = recorded = []
        recorded = json.loads(json.dumps(plain(recorded)))
        tuples = kind == "results" and isinstance(arguments[1][0], tuple)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                expected = plain(function(*copy.deepcopy(arguments)))
        except Exception:
            continue
        yield {"file": str(file), "kind": kind, "arguments": recorded, "tuples": tuples, "expected": expected}
        found += 1
        if found == wanted:
            return


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", metavar="CASES.json", type=pathlib.Path)
    parser.add_argument("--tasks", metavar="DIR", type=pathlib.Path, help="the harness' tasks (default: of the installed lm_eval)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only files whose path has this in it")
    arguments = parser.parse_args()
    spec = importlib.util.find_spec("lm_eval")
    if spec is None:
        print(f"skipped: {sys.executable} has no lm_eval; `pip install lm_eval` in a virtual environment gets it")
        return 0
    tasks = arguments.tasks or pathlib.Path(spec.origin).parent / "tasks"
    datasets.disable_progress_bars()
    cases, called, silent, unimported = [], 0, [], []
    modules, counts = {}, {}
    logging.disable(logging.CRITICAL)

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    for file, name, kind in functions(tasks):
        if arguments.only not in str(file):
            continue
        # Many files have one function for each of many subjects.
        alike = (hashlib.sha256(file.read_bytes()).hexdigest(), kind)
        counts[alike] = counts.get(alike, 0) + 1
        if counts[alike] > 5:
            continue
        signal.alarm(20)
        try:
            if file not in modules:
                relative = ".".join(file.relative_to(tasks).with_suffix("").parts)
                module_spec = importlib.util.spec_from_file_location(f"lm_eval.tasks.{relative}", file)
                modules[file] = importlib.util.module_from_spec(module_spec)
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    module_spec.loader.exec_module(modules[file])
            function = getattr(modules[file], name)
        except BaseException as error:
            modules.pop(file, None)
            unimported.append(f"{file.relative_to(tasks)}: {type(error).__name__}: {error}")
            continue
        finally:
            signal.alarm(0)
        called += 1
        signal.alarm(6)
        before = len(cases)
        try:
            rng = random.Random(f"{file.name}{name}")
            for case in attempts(function, kind, file, rng, 3, 60 if kind == "rows" else 300):
                cases.append({**case, "function": name})
        except TimeoutError:
            pass
        finally:
            signal.alarm(0)
        if len(cases) == before:
            silent.append(f"{file.relative_to(tasks)} {name}")
    arguments.cases.write_text(json.dumps(cases, ensure_ascii=False), encoding="utf-8")
    print(f"{called} functions, {len(cases)} cases; {len(silent)} accepted no row; {len(unimported)} could not be imported")
    print("\n".join(sorted(set(unimported))[:20]))
    print("\n".join(silent[:40]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
