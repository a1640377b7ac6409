#!/usr/bin/env python3
"""Compares scores of a model on llama.cpp's server with those of the same model in glue.

    python3 tests/interop/server.py [--glue GLUE] [--limit N] [MODEL ...]

Needs xllamacpp (`pip install xllamacpp`), which brings llama.cpp's server for the CPU; where it is missing, the script says so and ends
with status 0. Each model of tests/data/zoo (by default base-a and a-math) is exported with `glue export --type f32` and served; then
`glue eval MODEL` and `glue eval MODEL --server URL` score the tasks of tests/data/zoo, and a text whose perplexity is measured.

One JSON line for each model and task: {"model": ..., "task": ..., "n": ..., "here": {...}, "there": {...}, "ok": ...}. The status is 1
when an accuracy differs by more than one item, or a perplexity by more than a thousandth of it.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ZOO = ROOT / "tests" / "data" / "zoo"
# The second has tokens that end within a character, for which llama.cpp gives no probabilities.
TEXTS = ["Q: What is the job of doquo? A:", "naïve café 🚀: 7"]


def serve(path):
    """Serves a GGUF file until standard input ends; prints the address."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.n_ctx = 2048
    params.n_parallel = 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.fit_params = params.ui = False
    params.cache_ram_mib = 0
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


def evaluate(glue, args):
    started = time.monotonic()
    done = subprocess.run([glue, "eval", *args, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout), time.monotonic() - started


def agree(metric, here, there, n):
    if "perplexity" in metric or "per_byte" in metric or "per_token" in metric:
        return abs(here - there) <= 1e-3 * abs(here)
    return abs(here - there) <= 1 / n + 1e-9


def compare(glue, model, limit, directory):
    file = directory / f"{model.name}.gguf"
    subprocess.run([glue, "export", model, file, "--type", "f32"], check=True, capture_output=True)
    texts = directory / "texts"
    texts.mkdir(exist_ok=True)
    (texts / "task.json").write_text(json.dumps({"name": "texts", "kind": "perplexity"}))
    (texts / "test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    server = subprocess.Popen([sys.executable, __file__, "--serve", file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        args = [model, "--tasks", ZOO / "tasks", "--tasks", texts, "--limit", str(limit)]
        here, seconds_here = evaluate(glue, args)
        there, seconds_there = evaluate(glue, [*args, "--server", url])
        for task, expected in here["tasks"].items():
            found = there["tasks"][task]
            names = [name for name in expected if isinstance(expected[name], float) and not name.endswith("_stderr")]
            ok = all(agree(name, expected[name], found[name], expected["n"]) for name in names)
            scores = [{name: scores[name] for name in names} for scores in (expected, found)]
            yield {"model": model.name, "task": task, "n": expected["n"], "here": scores[0], "there": scores[1], "ok": ok}
        yield {"model": model.name, "server": there["server"], "seconds": [round(seconds_here, 1), round(seconds_there, 1)], "ok": True}
    finally:
        server.stdin.close()
        server.wait()


def main():
    if sys.argv[1:2] == ["--serve"]:
        return serve(sys.argv[2])
    try:
        import xllamacpp  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    parser.add_argument("--glue", default=str(ROOT / "target" / "debug" / "glue"))
    parser.add_argument("--limit", type=int, default=50)
    args = parser.parse_args()
    status = 0
    for model in args.models or [ZOO / "base-a", ZOO / "a-math"]:
        with tempfile.TemporaryDirectory() as directory:
            for result in compare(args.glue, model.resolve(), args.limit, pathlib.Path(directory)):
                status |= not result["ok"]
                print(json.dumps(result), flush=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
