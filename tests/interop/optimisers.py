#!/usr/bin/env python3
"""Compares the optimisers of glue-search with pycma and pymoo, and prints the table of docs/search.md.

CMA-ES: evaluations until a value below the target, median of the seeds, on [-5, 5]^n, from a uniform point, with a sixth of
the side as step size, default population, restarts with twice the population; pycma with the same settings. NSGA-II:
hypervolume with reference (1.1, 1.1) after 20 000 evaluations with a population of 100, as pymoo does by default.

It needs a virtual environment with cma and pymoo, and is skipped when those are not there:

    python3 -m venv VENV && VENV/bin/pip install cma pymoo
    VENV/bin/python tests/interop/optimisers.py --binary target/release/examples/benchmark
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Ours may take that many times the evaluations of the other, and lack that share of the other's hypervolume. With 15 seeds a
# median of restarts still has a standard error of about a fifth.
FACTOR, LACK = 1.3, 0.01

DIMENSIONS = (5, 10, 20)
EVALUATIONS = 1_000_000
TARGET = 1e-8


def sphere(x):
    return sum(v * v for v in x)


def ellipsoid(x):
    last = max(len(x) - 1, 1)
    return sum(1e6 ** (i / last) * v * v for i, v in enumerate(x))


def rosenbrock(x):
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in zip(x, x[1:]))


def rastrigin(x):
    return sum(v * v + 10 - 10 * math.cos(2 * math.pi * v) for v in x)


FUNCTIONS = (sphere, ellipsoid, rosenbrock, rastrigin)
FRONTS = ("zdt1", "zdt2", "zdt3")


def with_pycma(cma, function, n, seed):
    """Evaluations until the target, or None."""
    import numpy

    numpy.random.seed(seed)
    count, arrived = 0, None

    def counted(x):
        nonlocal count, arrived
        count += 1
        value = function([float(v) for v in x])
        if value < TARGET and arrived is None:
            arrived = count
        return value

    start = numpy.random.uniform(-5, 5, n)
    options = {
        "bounds": [-5, 5], "seed": seed, "ftarget": TARGET, "maxfevals": EVALUATIONS, "verbose": -9,
        "verb_log": 0, "verb_disp": 0, "eval_final_mean": False,
    }
    # Every run after the first begins at a uniform point, as ours do.
    first = [start]
    begin = lambda: first.pop() if first else numpy.random.uniform(-5, 5, n)
    cma.fmin2(counted, begin, 10 / 6, options, restarts=9, incpopsize=2)
    return arrived


def with_pymoo(name, seed, evaluations):
    """Hypervolumes of the last population and of all that was evaluated."""
    import numpy
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.indicators.hv import HV
    from pymoo.optimize import minimize
    from pymoo.problems import get_problem
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    seen = []
    keep = lambda algorithm: seen.append(algorithm.pop.get("F"))
    result = minimize(
        get_problem(name), NSGA2(pop_size=100), ("n_eval", evaluations), seed=seed, callback=keep, verbose=False
    )
    volume = HV(ref_point=numpy.array([1.1, 1.1]))
    every = numpy.unique(numpy.vstack(seen), axis=0)
    every = every[(every < 1.1).all(axis=1)]
    best = every[NonDominatedSorting().do(every, only_non_dominated_front=True)]
    return float(volume(result.pop.get("F"))), float(volume(best))


def ours(command, *arguments):
    done = subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def median(values):
    """The median, with runs that did not arrive as infinite, and how many arrived."""
    arrived = sum(v is not None for v in values)
    middle = statistics.median(math.inf if v is None else v for v in values)
    return middle, f"{middle:.0f}" + ("" if arrived == len(values) else f" ({arrived}/{len(values)})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="the example `benchmark`; without it, cargo builds and runs it")
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--only", help="a function, e.g. sphere or zdt1")
    options = parser.parse_args()
    try:
        import cma
        import pymoo
    except ImportError as missing:
        print(f"skipped: {missing.name} is not installed here", file=sys.stderr)
        return 0
    cargo = ["cargo", "run", "--quiet", "--release", "-p", "glue-search", "--example", "benchmark", "--"]
    command = [options.binary] if options.binary else cargo
    failures = 0

    print(f"| function | n | pycma {cma.__version__} | glue | ratio |\n|---|--:|--:|--:|--:|", flush=True)
    for function in FUNCTIONS:
        name = function.__name__
        for n in DIMENSIONS:
            if options.only not in (None, name):
                continue
            theirs, their_text = median([with_pycma(cma, function, n, s) for s in range(1, options.seeds + 1)])
            result = ours(
                command, "single", name, n, "--seeds", options.seeds, "--target", TARGET, "--evaluations", EVALUATIONS
            )
            mine, my_text = median(result["evaluations"])
            ratio = mine / theirs
            failures += not ratio <= FACTOR
            print(f"| {name} | {n} | {their_text} | {my_text} | {ratio:.2f} |", flush=True)

    print(f"\n| function | pymoo {pymoo.__version__} | glue | pymoo, all evaluated | glue, all evaluated |")
    print("|---|--:|--:|--:|--:|", flush=True)
    for name in FRONTS:
        if options.only not in (None, name):
            continue
        theirs = [with_pymoo(name, s, 20_000) for s in range(1, options.seeds + 1)]
        result = ours(command, "front", name, "--seeds", options.seeds, "--evaluations", 20_000)
        figures = [statistics.median(column) for column in (*zip(*theirs), result["population"], result["all"])]
        failures += figures[2] < (1 - LACK) * figures[0]
        print("| {} | {:.4f} | {:.4f} | {:.4f} | {:.4f} |".format(name, *(figures[i] for i in (0, 2, 1, 3))), flush=True)
    print(f"{failures} beyond the limits" if failures else "all within the limits", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
