#!/usr/bin/env python3
"""Computes what `glue merge-lora` should give for two small adapters, by plain NumPy in double precision, from the formulas of
arXiv 2509.17786 (Core Space) and of the operators' papers.

It writes tests/data/core_space.json, which is committed; `tests/merging_adapters.rs` makes the same adapters and compares. It needs
NumPy:

    python3 -m venv VENV && VENV/bin/pip install numpy
    VENV/bin/python tests/interop/core_space.py

With --check it writes nothing, and fails where the file holds other numbers than it would write.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

FILE = pathlib.Path(__file__).resolve().parent.parent / "data/core_space.json"

# Two machines may differ in the last digits of a decomposition.
TOLERANCE = 1e-9

ROWS, COLUMNS = 7, 6
WEIGHTS = [0.75, 0.5]


def numbers(rows, columns, seed):
    """Multiples of 1/8 between -11/8 and 11/8, as the test makes them."""
    number = lambda i, j: ((13 * i + 29 * j + 17 * seed + 7 * i * j + 5 * seed * j * j + 3 * i * i * j) % 23 - 11) / 8
    return np.array([[number(i, j) for j in range(columns)] for i in range(rows)])


# Rank 2 and a scale of 4/2; rank 3 and, with rsLoRA, a scale of 3/√3.
ADAPTERS = [
    (numbers(2, COLUMNS, 1), numbers(ROWS, 2, 2), 2.0),
    (numbers(3, COLUMNS, 3), numbers(ROWS, 3, 4), np.sqrt(3.0)),
]


def svd(a):
    return np.linalg.svd(a, full_matrices=False)


def ties(taus, weights, density):
    """arXiv 2306.01708: the largest elements, the sign with more weight, the weighted mean of what agrees."""
    kept = []
    for tau in taus:
        least = np.sort(np.abs(tau), axis=None)[tau.size - int(density * tau.size)]
        kept.append(np.where(np.abs(tau) >= least, tau, 0.0))
    weighted = np.stack([w * tau for w, tau in zip(weights, kept)])
    agree = np.sign(weighted) == np.where(weighted.sum(axis=0) >= 0, 1.0, -1.0)
    weight = (agree * np.asarray(weights)[:, None, None]).sum(axis=0)
    return (weighted * agree).sum(axis=0) / np.where(weight == 0, 1.0, weight)


def tsv_m(taus, weights):
    """arXiv 2412.00081: first triples of each task, whitened."""
    k = min(taus[0].shape) // len(taus)
    parts = [svd(tau) for tau in taus]
    u = np.concatenate([u[:, :k] for u, _, _ in parts], axis=1)
    s = np.concatenate([w * s[:k] for w, (_, s, _) in zip(weights, parts)])
    vt = np.concatenate([vt[:k] for _, _, vt in parts], axis=0)
    whiten = lambda a: svd(a)[0] @ svd(a)[2]
    return whiten(u) @ np.diag(s) @ whiten(vt)


def iso_c(taus, weights):
    """arXiv 2502.04959: the mean singular value for all directions of the sum."""
    u, s, vt = svd(sum(w * tau for w, tau in zip(weights, taus)))
    return s.mean() * u @ vt


OPERATORS = {
    "task_arithmetic": lambda taus: sum(w * tau for w, tau in zip(WEIGHTS, taus)),
    "ties": lambda taus: ties(taus, WEIGHTS, 0.4),
    "tsv_m": lambda taus: tsv_m(taus, WEIGHTS),
    "iso_c": lambda taus: iso_c(taus, WEIGHTS),
}


def document():
    u = svd(np.concatenate([s * b for _, b, s in ADAPTERS], axis=1))[0]
    vt = svd(np.concatenate([a for a, _, _ in ADAPTERS], axis=0))[2]
    cores = [u.T @ (s * b) @ a @ vt.T for a, b, s in ADAPTERS]
    merged = {name: (u @ operator(cores) @ vt).ravel().tolist() for name, operator in OPERATORS.items()}
    # All ranks together: with fewer dependent directions, cores are smaller than the paper's, whose zeros TIES counts.
    assert np.linalg.svd(u.T @ np.concatenate([s * b for _, b, s in ADAPTERS], axis=1))[1].min() > 0.1
    assert np.linalg.svd(np.concatenate([a for a, _, _ in ADAPTERS], axis=0))[1].min() > 0.1
    # Where the merge of the cores is the merge of the whole matrices, so says the paper.
    whole = [s * b @ a for a, b, s in ADAPTERS]
    assert np.allclose(merged["task_arithmetic"], OPERATORS["task_arithmetic"](whole).ravel())
    assert not np.allclose(merged["ties"], OPERATORS["ties"](whole).ravel(), atol=0.1)
    return {"command": "python tests/interop/core_space.py", "shape": [ROWS, COLUMNS], "merged": merged}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    new = document()
    if check:
        old = json.loads(FILE.read_text())
        same = old["merged"].keys() == new["merged"].keys() and all(
            np.allclose(old["merged"][name], new["merged"][name], rtol=0, atol=TOLERANCE) for name in new["merged"]
        )
        if not same:
            sys.exit(f"{FILE} holds other numbers")
        return
    FILE.write_text(json.dumps(new, indent=None, separators=(",", ":")) + "\n")
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
