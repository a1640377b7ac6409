#!/usr/bin/env python3
"""Merges one matrix by NumPy or torch as the papers' formulas say, in single precision, and prints how long that took.

`cargo xtask bench svd --python PYTHON` runs it on the same files as glue. It reads base.f32 and model-0.f32 on from FOLDER and
writes merged.f32 there:

    VENV/bin/python tests/interop/merge_matrix.py numpy FOLDER tsv_m ROWS COLUMNS MODELS --threads 1
"""

import argparse
import json
import pathlib
import time

import numpy as np


def numpy_runtime(threads):
    del threads  # set by the environment, before NumPy is loaded
    return lambda a: np.linalg.svd(a, full_matrices=False), np.concatenate, lambda a: a, lambda a: a


def torch_runtime(threads):
    import torch

    torch.set_num_threads(threads)
    svd = lambda a: torch.linalg.svd(a, full_matrices=False)
    return svd, lambda parts, axis: torch.cat(parts, dim=axis), torch.from_numpy, lambda a: a.numpy()


def tsv_m(base, models, svd, concatenate):
    k = max(min(base.shape) // len(models), 1)
    parts = []
    for model in models:
        u, s, vt = svd(model - base)
        parts.append((u[:, :k], s[:k], vt[:k]))
    left, _, right = svd(concatenate([u for u, _, _ in parts], axis=1))
    u = left @ right
    left, _, right = svd(concatenate([vt for _, _, vt in parts], axis=0))
    s = concatenate([s for _, s, _ in parts], axis=0)
    return base + (u * s) @ (left @ right)


def iso_c(base, models, svd, concatenate):
    del concatenate
    u, s, vt = svd(sum(model - base for model in models))
    return base + s.mean() * (u @ vt)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", choices=["numpy", "torch"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("operator", choices=["tsv_m", "iso_c"])
    parser.add_argument("rows", type=int)
    parser.add_argument("columns", type=int)
    parser.add_argument("models", type=int)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    svd, concatenate, lend, give = {"numpy": numpy_runtime, "torch": torch_runtime}[args.runtime](args.threads)
    read = lambda name: lend(np.fromfile(args.folder / name, dtype="<f4").reshape(args.rows, args.columns))
    base, models = read("base.f32"), [read(f"model-{i}.f32") for i in range(args.models)]
    start = time.perf_counter()
    merged = {"tsv_m": tsv_m, "iso_c": iso_c}[args.operator](base, models, svd, concatenate)
    seconds = time.perf_counter() - start
    np.ascontiguousarray(give(merged), dtype="<f4").tofile(args.folder / "merged.f32")
    print(json.dumps({"runtime": args.runtime, "seconds": seconds}))


if __name__ == "__main__":
    main()
