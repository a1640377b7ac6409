#!/usr/bin/env python3
"""Writes tests/data/router/regression.json: optima of the multinomial logistic regression that trains linear gates.

    python3 tests/interop/regression.py tests/data/router/regression.json

Needs numpy and scipy; where scikit-learn is there too, it must find the same optima of the cases with one label for each item.
The objective is that of crates/glue-router/src/linear.rs: the mean cross-entropy plus l2/2 times the squares of weights and biases,
on states brought to mean 0 and variance 1. What is written is the gate that reads states as they are.
"""

import json
import sys

import numpy
import scipy
import scipy.optimize

N, WIDTH, EXPERTS = 40, 4, 3


def problem():
    generator = numpy.random.default_rng(7)
    # Three digits, so that the file holds the numbers exactly.
    states = numpy.round(3 * generator.normal(size=(N, WIDTH)) + [5, -2, 0, 40], 3)
    teacher = generator.normal(size=(EXPERTS, WIDTH))
    scores = (states - states.mean(0)) @ teacher.T + 4 * generator.normal(size=(N, EXPERTS))
    hard = numpy.eye(EXPERTS)[scores.argmax(1)]
    # Eighths, which sum to 1 exactly.
    soft = numpy.array([[a, b, 8 - a - b] for a, b in generator.integers(0, 5, size=(N, 2))]) / 8
    return states, {"hard": hard, "soft": soft}


def optimum(z, targets, l2):
    """Objective, weights and biases at the optimum, by Newton steps in a trust region."""
    x = numpy.hstack([z, numpy.ones((len(z), 1))])

    def softmax(flat):
        scores = x @ flat.reshape(EXPERTS, -1).T
        scores -= scores.max(1, keepdims=True)
        return scores - numpy.log(numpy.exp(scores).sum(1, keepdims=True))

    def value(flat):
        return -(targets * softmax(flat)).sum() / N + 0.5 * l2 * flat @ flat

    def gradient(flat):
        return ((numpy.exp(softmax(flat)) - targets).T @ x).ravel() / N + l2 * flat

    def hessian(flat):
        p = numpy.exp(softmax(flat))
        blocks = numpy.einsum("ne,ef,ni,nj->eifj", p, numpy.eye(EXPERTS), x, x) - numpy.einsum("ne,nf,ni,nj->eifj", p, p, x, x)
        size = EXPERTS * x.shape[1]
        return blocks.reshape(size, size) / N + l2 * numpy.eye(size)

    found = scipy.optimize.minimize(
        value, numpy.zeros(EXPERTS * x.shape[1]), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9}
    ).x
    for _ in range(3):
        found = found - numpy.linalg.solve(hessian(found), gradient(found))
    assert numpy.linalg.norm(gradient(found)) < 1e-13, numpy.linalg.norm(gradient(found))
    return value(found), found.reshape(EXPERTS, -1)


def check_with_sklearn(z, targets, l2, parameters):
    try:
        import sklearn
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    x = numpy.hstack([z, numpy.ones((len(z), 1))])
    # C multiplies the sum of losses; the biases are penalised as the other weights are.
    model = LogisticRegression(C=1 / (N * l2), fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=10000)
    model.fit(x, targets.argmax(1))
    difference = numpy.abs(model.coef_ - parameters).max()
    assert difference < 1e-6, difference
    return sklearn.__version__


def main():
    states, targets = problem()
    mean, deviation = states.mean(0), states.std(0)
    z = (states - mean) / deviation
    cases, versions = [], {"numpy": numpy.__version__, "scipy": scipy.__version__}
    for kind, l2 in [("hard", 1.0), ("hard", 0.01), ("hard", 1e-5), ("soft", 0.1), ("soft", 1e-4)]:
        objective, parameters = optimum(z, targets[kind], l2)
        if kind == "hard":
            versions["scikit-learn"] = check_with_sklearn(z, targets[kind], l2, parameters)
        weight = parameters[:, :-1] / deviation
        bias = parameters[:, -1] - weight @ mean
        cases.append(
            {"targets": kind, "l2": l2, "objective": objective, "weight": weight.tolist(), "bias": bias.tolist()}
        )
    document = {
        "made_by": "python3 tests/interop/regression.py tests/data/router/regression.json",
        "versions": versions,
        "states": states.tolist(),
        "targets": {kind: values.tolist() for kind, values in targets.items()},
        "cases": cases,
    }
    with open(sys.argv[1], "w") as file:
        file.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
