#!/usr/bin/env python3
"""Computes what the operators of glue-spectral should give, by plain NumPy in double precision, from the formulas of the papers.

It writes crates/glue-spectral/tests/data/spectral.json, which is committed; the tests of the crate read it. It needs NumPy:

    python3 -m venv VENV && VENV/bin/pip install numpy
    VENV/bin/python tests/interop/spectral.py

With --check it writes nothing, and fails where the file holds other numbers than it would write.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

FILE = pathlib.Path(__file__).resolve().parent.parent.parent / "crates/glue-spectral/tests/data/spectral.json"

# Two machines may differ in the last digits of a decomposition.
TOLERANCE = 1e-9


def svd(a):
    return np.linalg.svd(a, full_matrices=False)


def whitened(a):
    u, _, vt = svd(a)
    return u @ vt


def tsv_m(taus, weights, share=1.0):
    """arXiv 2412.00081: first triples of each task, whitened."""
    k = max(int(share * min(taus[0].shape) / len(taus)), 1)
    parts = [svd(tau) for tau in taus]
    u = np.concatenate([u[:, :k] for u, _, _ in parts], axis=1)
    s = np.concatenate([w * s[:k] for w, (_, s, _) in zip(weights, parts)])
    vt = np.concatenate([vt[:k] for _, _, vt in parts], axis=0)
    return whitened(u) @ np.diag(s) @ whitened(vt)


def iso_c(taus, weights):
    """arXiv 2502.04959: the mean singular value for all directions of the sum."""
    u, s, vt = svd(sum(w * tau for w, tau in zip(weights, taus)))
    return s.mean() * u @ vt


def iso_cts(taus, weights, common_share=0.8):
    """arXiv 2502.04959: common directions of the sum, and of each task what they leave."""
    taus = [w * tau for w, tau in zip(weights, taus)]
    rank, n = min(taus[0].shape), len(taus)
    each = round((rank - int(rank * common_share)) / n)
    common = rank - each * n
    u, s, vt = svd(sum(taus))
    uc, us, ss, vs = u[:, :common], [], [], []
    for tau in taus:
        ui, si, vti = svd(tau - uc @ uc.T @ tau)
        us.append(ui[:, :each])
        ss.append(si[:each])
        vs.append(vti[:each])
    u = whitened(np.concatenate([*us, uc], axis=1))
    vt = whitened(np.concatenate([*vs, vt[:common]], axis=0))
    return np.concatenate([*ss, s[:common]]).mean() * u @ vt


def knots(taus, weights, densities, normalize=True):
    """arXiv 2410.19735: TIES (arXiv 2306.01708) on the coefficients in the left singular vectors of all tasks side by side."""
    u, s, vt = svd(np.concatenate(taus, axis=1))
    coefficients = np.split(np.diag(s) @ vt, len(taus), axis=1)
    weighted = []
    for c, density in zip(coefficients, densities):
        kept = np.sort(np.abs(c), axis=None)[c.size - int(density * c.size) :]
        weighted.append(np.where(np.abs(c) >= kept.min(), c, 0.0) if kept.size else np.zeros_like(c))
    weighted = np.stack([w * c for w, c in zip(weights, weighted)])
    sign = np.where(weighted.sum(axis=0) >= 0, 1.0, -1.0)
    agree = np.sign(weighted) == sign
    total = (weighted * agree).sum(axis=0)
    if normalize:
        weight = (agree * np.asarray(weights)[:, None, None]).sum(axis=0)
        total = total / np.where(weight == 0, 1.0, weight)
    return u @ total


def wudi(taus, weights, solver="closed", steps=300, learning_rate=1e-5):
    """arXiv 2503.08099: the least of the sum of ‖(τ − wi τi) τiᵀ‖² / ‖τi‖², or Adam towards it."""
    squares = [np.sum(tau**2) for tau in taus]
    if solver == "closed":
        # The same as min ‖A X − B‖ for X = τᵀ, without squaring anything.
        a = np.concatenate([tau / np.sqrt(q) for tau, q in zip(taus, squares)], axis=0)
        b = np.concatenate([tau @ (w * tau).T / np.sqrt(q) for tau, w, q in zip(taus, weights, squares)], axis=0)
        return np.linalg.lstsq(a, b, rcond=None)[0].T
    merged = sum(w * tau for w, tau in zip(weights, taus))
    first, second = np.zeros_like(merged), np.zeros_like(merged)
    for step in range(1, steps + 1):
        gradient = sum(2 * (merged - w * tau) @ tau.T @ tau / q for tau, w, q in zip(taus, weights, squares))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        merged = merged - learning_rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return merged


def regmean(models, weights, grams, off_diagonal=0.9):
    """arXiv 2212.09849, for weights of shape [out, in]."""
    keep = np.eye(len(grams[0])) * (1 - off_diagonal) + off_diagonal
    grams = [w * keep * g for w, g in zip(weights, grams)]
    return sum(x @ g for x, g in zip(models, grams)) @ np.linalg.inv(sum(grams))


OPERATORS = {"tsv_m": tsv_m, "iso_c": iso_c, "iso_cts": iso_cts, "knots": knots, "wudi": wudi}

# (operator, settings); `densities` are those of the models, cut to their number.
RUNS = [
    ("tsv_m", {}),
    ("tsv_m", {"share": 0.6}),
    ("iso_c", {}),
    ("iso_cts", {}),
    ("iso_cts", {"common_share": 0.3}),
    ("knots", {}),
    ("knots", {"densities": [0.5, 0.3, 1.0, 0.7]}),
    ("knots", {"densities": [0.5, 0.3, 1.0, 0.7], "normalize": False}),
    ("wudi", {}),
    ("wudi", {"solver": "iterative", "steps": 25, "learning_rate": 1e-3}),
]

# Settings of regmean, which merges models and not task vectors.
REGRESSIONS = [{}, {"off_diagonal": 0.5}, {"off_diagonal": 0.0}]

# (name, rows, columns, models, weights, lambda)
CASES = [
    ("tall", 12, 7, 3, [1.0, 1.0, 1.0], 1.0),
    ("wide", 6, 10, 4, [1.0, 0.5, 1.5, 0.75], 0.4),
    ("square", 8, 8, 3, [0.9, 1.2, 1.0], 1.0),
]


def case(name, rows, columns, models, weights, scale, random):
    base = random.standard_normal((rows, columns)).astype(np.float32)
    inputs = [(base + 0.1 * random.standard_normal(base.shape)).astype(np.float32) for _ in range(models)]
    taus = [x.astype(np.float64) - base for x in inputs]
    runs = []
    for operator, settings in RUNS:
        given = dict(settings)
        if operator == "knots":
            given["densities"] = given.get("densities", [1.0] * models)[:models]
        merged = base + scale * OPERATORS[operator](taus, weights, **given)
        runs.append({"operator": operator, "settings": given, "expected": merged.ravel().tolist()})
    # Fewer rows than some matrices have columns, and columns of different sizes; numbers of their own, after the others.
    random = np.random.default_rng(rows)
    xs = [random.standard_normal((9, columns)) * 10 ** random.uniform(-0.5, 0.5, columns) for _ in inputs]
    grams = [(x.T @ x / len(x)).astype(np.float32) for x in xs]
    for settings in REGRESSIONS:
        models_f64 = [x.astype(np.float64) for x in inputs]
        merged = regmean(models_f64, weights, [g.astype(np.float64) for g in grams], **settings)
        runs.append({"operator": "regmean", "settings": settings, "expected": merged.ravel().tolist()})
    return {
        "name": name,
        "shape": [rows, columns],
        "lambda": scale,
        "weights": weights,
        "base": base.ravel().tolist(),
        "inputs": [x.ravel().tolist() for x in inputs],
        "grams": [g.ravel().tolist() for g in grams],
        "runs": runs,
    }


def same(old, new):
    if isinstance(new, dict):
        return isinstance(old, dict) and old.keys() == new.keys() and all(same(old[k], new[k]) for k in new)
    if isinstance(new, list):
        return isinstance(old, list) and len(old) == len(new) and all(map(same, old, new))
    if isinstance(new, float):
        return isinstance(old, (int, float)) and abs(old - new) <= TOLERANCE
    return old == new


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    random = np.random.default_rng(9)
    document = {"command": "python tests/interop/spectral.py", "cases": [case(*c, random) for c in CASES]}
    if check:
        if not same(json.loads(FILE.read_text()), document):
            sys.exit(f"{FILE} holds other numbers")
        return
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(document, indent=None, separators=(",", ":")) + "\n")
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
