#!/usr/bin/env python3
"""Which tasks of lm-evaluation-harness run: all YAML files of a checkout, counted by `glue tasks`.

    python3 tests/interop/harness_survey.py CHECKOUT [--glue target/debug/glue] [--data DIR ...]

CHECKOUT is the root of the harness' repository, or its directory of tasks. A task that lacks only its data would run
with it. The last lines have the keys for which tasks are refused.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("--glue", default="target/debug/glue")
    parser.add_argument("--data", action="append", default=[], help="directory with ORG/NAME; can be repeated")
    args = parser.parse_args()
    inner = args.checkout / "lm_eval" / "tasks"
    tasks = inner if inner.is_dir() else args.checkout
    files = sum(1 for _ in tasks.rglob("*.yaml"))
    data = [word for directory in args.data for word in ("--data", directory)]
    environment = dict(os.environ, LM_EVAL_TASKS=str(tasks))
    start = time.monotonic()
    found = subprocess.run([args.glue, "tasks", "--json", *data], env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if found.returncode != 0:
        sys.exit(found.stderr)
    document = json.loads(found.stdout)
    counts = document["counts"]
    share = lambda count, of: f"{count} ({100 * count / max(of, 1):.1f} %)"
    print(f"{files} YAML files, checked in {seconds:.1f} s")
    print(f"  names are found in all but {share(counts['unreadable'], files)}")
    print(f"{counts['tasks']} tasks, {counts['groups']} groups, {counts['tags']} tags")
    print(f"  run as they are:     {share(counts['runs'], counts['tasks'])}")
    print(f"  would run with data: {share(counts['missing_data'], counts['tasks'])}")
    print(f"  refused:             {share(counts['refused'], counts['tasks'])}")
    for key, count in sorted(counts["reasons"].items(), key=lambda item: -item[1]):
        print(f"    {count:6} {key or 'without a key'}")
    for file in document["unreadable"]:
        print(f"  {file['file']}: {file['reason']}")


if __name__ == "__main__":
    main()
