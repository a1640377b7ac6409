"""`merge` against `glue merge` of the same tensors, and what it refuses."""

import json

import model_glue_core as core
import numpy as np
import pytest
import support
from support import Array, Raw, glue, result_bytes


def producers(dtype):
    """How each library holds an array of this type."""
    found = {"raw": Raw}
    if dtype != "bfloat16":
        found["numpy"] = lambda array: array.data
    try:
        import torch
    except ImportError:
        return found
    types = {"bfloat16": torch.bfloat16}

    def tensor(array):
        flat = torch.from_numpy(array.data.view(np.int16) if dtype == "bfloat16" else array.data)
        return flat.view(types[dtype]) if dtype in types else flat

    found["torch"] = tensor
    return found


def value(parameter):
    """A value that is not the default, where there is a choice."""
    match parameter["kind"]:
        case "number":
            low, high = parameter["usual"]
            return low + 0.4 * (high - low) if low < high else (parameter["default"] or 0.5)
        case "integer":
            return parameter["default"] + 1 if (parameter["max"] or 9) > parameter["default"] else parameter["default"]
        case "flag":
            return not parameter["default"]
        case "choice":
            return parameter["options"][-1]
        case "operator":
            return "ties"


def statistic(spec, shape, rng):
    """Numbers that a statistic of a tensor may have; `None` for one without."""
    if spec["shape"] == "same":
        return np.abs(rng.standard_normal(shape, np.float32))
    if len(shape) != 2:
        return None
    if spec["shape"] == "columns":
        return np.abs(rng.standard_normal(shape[1], np.float32))
    rows = rng.standard_normal((2 * shape[1], shape[1]), np.float32)
    return rows.T @ rows / len(rows)


def given(operator, everything):
    """Parameters that must be given, or all: those of the merge, and those of three models."""
    shared, own = {}, {}
    for parameter in operator["parameters"]:
        if not (everything or parameter["required"]):
            continue
        x = value(parameter)
        if parameter["per_model"] and parameter["kind"] == "number":
            own[parameter["name"]] = [x, round(0.7 * x, 6), round(0.4 * x, 6)]
        else:
            shared[parameter["name"]] = x
    if operator["wraps"]:
        shared["operator"] = "ties"
        own.setdefault("weight", [0.5, 0.3, 0.1])
    return shared, own


OPERATORS = [operator for operator in core.operators()]


def compared(operator, zoo, tmp_path, everything, with_base):
    """Merges by the program and by the module, of every kind of producer."""
    n = min(operator["models"]["max"] or 3, 3)
    shared, own = given(operator, everything)
    own = {key: values[:n] for key, values in own.items()}
    recipe = {
        "merge_method": operator["name"],
        "parameters": shared,
        "seed": 7,
        "models": [
            {"model": f"model{i}", "parameters": {key: values[i] for key, values in own.items()}} for i in range(n)
        ],
    }
    if with_base:
        recipe["base_model"] = "base"
    statistics = []
    if spec := operator["statistic"]:
        rng = np.random.default_rng(5)
        for i in range(1 if spec["of"] == "base" else n):
            numbers = {name: statistic(spec, shape, rng) for name, shape in support.shapes().items()}
            # Some tensors have none, where the operator does without.
            arrays = {
                f"{name}.{spec['name']}": Array(x, "float32")
                for name, x in numbers.items()
                if x is not None and (operator["name"] == "fisher" or not name.startswith("model.layers.1"))
            }
            statistics.append(arrays)
            path = support.save(tmp_path / f"statistics{i}", arrays, config=False)
            if spec["of"] == "base":
                recipe["base_statistics"] = str(path)
            else:
                recipe["models"][i]["statistics"] = str(path)
    (tmp_path / "merge.yml").write_text(json.dumps(recipe))
    glue("merge", tmp_path / "merge.yml", tmp_path / "out", cwd=zoo.directory)
    expected = support.load(tmp_path / "out")
    for kind, produce in producers(zoo.dtype).items():
        of = lambda model: {name: produce(array) for name, array in model.items()}
        extra = {"statistics": [{n: Raw(a) for n, a in s.items()} for s in statistics]} if statistics else {}
        base = of(zoo.base) if with_base else None
        merged = core.merge(
            [of(model) for model in zoo.models[:n]], operator["name"], {**shared, **own}, base, seed=7, **extra
        )
        found = {name: result_bytes(tensor) for name, tensor in merged.items()}
        assert found.keys() == expected.keys()
        wrong = [name for name in expected if found[name] != expected[name]]
        assert not wrong, f"{operator['name']} of {kind}: {wrong[:3]} and {len(wrong)} in all"
        assert list(merged) == list(zoo.base), "in the order of the base"


@pytest.mark.parametrize("everything", [False, True], ids=["required", "all"])
@pytest.mark.parametrize("operator", OPERATORS, ids=[operator["name"] for operator in OPERATORS])
def test_results_are_those_of_the_program(operator, zoo, tmp_path, everything):
    for with_base in {"unused": [False], "required": [True], "optional": [False, True]}[operator["base"]]:
        place = tmp_path / str(with_base)
        place.mkdir()
        compared(operator, zoo, place, everything, with_base)


def test_operators_are_those_of_the_program():
    assert core.operators() == json.loads(glue("ops", "--json"))["operators"]


def two(**tensors):
    return [dict(tensors), dict(tensors)]


def test_one_value_for_each_model():
    a, b = np.full(5, 1.0, np.float32), np.full(5, 10.0, np.float32)
    for weights in ([2, 0.5], (2, 0.5), np.array([2, 0.5]), [np.float32(2), np.float64(0.5)]):
        merged = core.merge([{"w": a}, {"w": b}], "linear", {"weight": weights, "normalize": False})
        assert np.from_dlpack(merged["w"]).tolist() == [7.0] * 5


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_types_of_results(dtype):
    x = np.array([1.0, 2.5], np.float16)
    for given in (dtype, np.dtype(dtype), getattr(np, dtype)):
        merged = core.merge(two(w=x), "linear", {"weight": 0.5}, dtype=given)
        assert np.from_dlpack(merged["w"]).dtype == dtype and np.from_dlpack(merged["w"]).tolist() == [1.0, 2.5]
    mixed = core.merge([{"w": x.astype(dtype)}, {"w": x}], "linear", {"weight": 0.5})
    assert mixed["w"].dtype == dtype, "that of the first model"


def test_integers_are_copied_and_shapes_may_be_empty():
    first, second = np.arange(3), np.arange(3) + 1
    models = [
        {"w": np.array(i, np.float32), "none": np.zeros((0, 4), np.float32), "ids": ids}
        for i, ids in enumerate([first, second])
    ]
    merged = core.merge(models, "linear", {"weight": 0.5})
    assert np.from_dlpack(merged["ids"]).tolist() == [0, 1, 2]
    assert merged["ids"].dtype == "int64" and merged["w"].shape == () and merged["none"].shape == (0, 4)
    assert float(np.from_dlpack(merged["w"])) == 0.5 and np.from_dlpack(merged["none"]).size == 0


def test_a_tied_head_is_merged_once(small):
    def tied(model):
        embedding = model["model.embed_tokens.weight"].data
        return {"lm_head.weight": embedding, "model.embed_tokens.weight": embedding}

    base, models = tied(small.base), [tied(model) for model in small.models]
    params = {"weight": 1.0, "density": 0.5}
    merged = core.merge(models, "dare_linear", params, base)
    alone = [{"model.embed_tokens.weight": model["model.embed_tokens.weight"]} for model in models]
    name = "model.embed_tokens.weight"
    expected = core.merge(alone, "dare_linear", params, {name: base[name]})
    head, embedding = (np.from_dlpack(merged[name]) for name in ("lm_head.weight", name))
    assert head.ctypes.data == embedding.ctypes.data
    assert embedding.tobytes() == np.from_dlpack(expected[name]).tobytes()
    # Of models that do not tie, both are merged.
    models[0]["lm_head.weight"] = models[0]["lm_head.weight"].copy()
    merged = core.merge(models, "dare_linear", params, base)
    assert np.from_dlpack(merged["lm_head.weight"]).tobytes() != np.from_dlpack(merged[name]).tobytes()


def test_results_are_inputs():
    merged = core.merge(two(w=np.ones(4, np.float32)), "linear", {"weight": 1})
    again = core.merge([merged, merged], "linear", {"weight": [1, 2], "normalize": False})
    assert np.from_dlpack(again["w"]).tolist() == [3.0] * 4


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    "error, words, call",
    [
        (ValueError, "no operator is called `tise`; did you mean `ties`", lambda: core.merge(two(w=X), "tise")),
        (ValueError, "no parameter `wieght`", lambda: core.merge(two(w=X), "linear", {"wieght": 1})),
        (ValueError, "needs `weight`", lambda: core.merge(two(w=X), "linear")),
        (ValueError, "3 values for 2 models", lambda: core.merge(two(w=X), "linear", {"weight": [1, 2, 3]})),
        (ValueError, "holds for the whole", lambda: core.merge(two(w=X), "linear", {"weight": 1, "normalize": [True, False]})),
        (TypeError, "`weight` must be a number", lambda: core.merge(two(w=X), "linear", {"weight": {"a": 1}})),
        (TypeError, "`weight` must be a number", lambda: core.merge(two(w=X), "linear", {"weight": None})),
        (ValueError, "ties needs a base model", lambda: core.merge(two(w=X), "ties", {"weight": 1})),
        (ValueError, "no use for a base", lambda: core.merge(two(w=X), "linear", {"weight": 1}, {"w": X})),
        (ValueError, "no use for statistics", lambda: core.merge(two(w=X), "linear", {"weight": 1}, statistics=[])),
        (ValueError, "merges", lambda: core.merge([], "slerp", {"t": 0.5}, {"w": X})),
        (ValueError, "`tensors` is empty", lambda: core.merge([], "linear", {"weight": 1})),
        (TypeError, "list of mappings", lambda: core.merge({"w": X}, "linear", {"weight": 1})),
        (TypeError, "model 1 must be a mapping", lambda: core.merge([X], "linear", {"weight": 1})),
        (TypeError, "names in model 2 must be strings", lambda: core.merge([{"w": X}, {1: X}], "linear", {"weight": 1})),
        (TypeError, "tensor `w` of model 1 is of type list", lambda: core.merge(two(w=[1.0]), "linear", {"weight": 1})),
        (ValueError, "`v` is in model 2 and not in model 1", lambda: core.merge([{"w": X}, {"w": X, "v": X}], "linear", {"weight": 1})),
        (ValueError, "`v` is in model 1 and not in model 2", lambda: core.merge([{"w": X, "v": X}, {"w": X}], "linear", {"weight": 1})),
        (ValueError, "`w` has shape [2, 3] in model 1 and [6] in model 2", lambda: core.merge([{"w": X}, {"w": X.reshape(6)}], "linear", {"weight": 1})),
        (ValueError, "`w` has type float32 in model 1 and int64 in model 2", lambda: core.merge([{"w": X}, {"w": X.astype(np.int64)}], "linear", {"weight": 1})),
        (ValueError, "tensor `w` of model 1 is not contiguous: call `.contiguous()`", lambda: core.merge(two(w=X.T), "linear", {"weight": 1})),
        (ValueError, "holds NaN at index 0", lambda: core.merge(two(w=X * np.float32("nan")), "linear", {"weight": 1})),
        (ValueError, "float16 cannot hold", lambda: core.merge(two(w=X * 1e5), "linear", {"weight": 1}, dtype="float16")),
        (ValueError, "dtype must be one of", lambda: core.merge(two(w=X), "linear", {"weight": 1}, dtype="int8")),
        (OverflowError, "", lambda: core.merge(two(w=X), "linear", {"weight": 1}, seed=-1)),
        (TypeError, "element type", lambda: core.merge(two(w=X.astype(np.complex64)), "linear", {"weight": 1})),
        (ValueError, "is on another device (DLPack type 2, number 1): call `.cpu()`", lambda: core.merge([{"w": Raw(Array(X, "float32"), device=(2, 1))}] * 2, "linear", {"weight": 1})),
    ],
)
def test_refusals(error, words, call):
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)


def test_statistics_that_do_not_fit():
    merge = lambda *statistics: core.merge(two(w=X), "fisher", {"weight": 1}, statistics=statistics)
    ok = {"w.fisher": X}
    assert merge(ok, ok)["w"].shape == (2, 3)
    for statistics, words in [
        ([ok], "`statistics` has 1 mappings; fisher needs 2, `fisher` of each model"),
        ([ok, {}], "`w.fisher` is in statistics 1 and not in statistics 2"),
        ([ok, {"w.fisher": X[0]}], "expected floating-point numbers of shape [2, 3]"),
        ([ok, {"w.fisher": -X}], "must not be negative"),
        ([{}, {}], "fisher needs the statistic `fisher` of tensor w"),
    ]:
        with pytest.raises(ValueError) as raised:
            merge(*statistics)
        assert words in str(raised.value)
    # An operator that does without where a tensor has none wants some all the same.
    with pytest.raises(ValueError, match="none of the names that regmean looks for"):
        core.merge(two(w=X), "regmean", statistics=[{"v.gram": X}, {"v.gram": X}])


def test_torch_takes_results_without_a_copy():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.arange(8, dtype=torch.bfloat16).reshape(2, 4)
    merged = core.merge([{"w": x}, {"w": 3 * x}], "linear", {"weight": 0.5})["w"]
    first, second = torch.from_dlpack(merged), torch.from_dlpack(merged)
    assert first.data_ptr() == second.data_ptr() and torch.equal(first, 2 * x)
    first[0, 0] = 5
    assert second[0, 0] == 5
    with pytest.raises(ValueError, match="contiguous"):
        core.merge([{"w": x.T}, {"w": x.T}], "linear", {"weight": 0.5})
    assert core.merge([{"w": x}, {"w": x}], "linear", {"weight": 0.5}, dtype=torch.float32)["w"].dtype == "float32"


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bits(dtype):
    merged = core.merge(two(w=np.array([0.0, 1.5, -2.0], np.float32)), "linear", {"weight": 0.5}, dtype=dtype)["w"]
    assert merged.dtype == dtype and merged.nbytes == 3
    imported = support.Imported(merged)
    assert imported.tensor.dtype.code == {"float8_e4m3fn": 10, "float8_e5m2": 12}[dtype]
    expected = {"float8_e4m3fn": b"\x00\x3c\xc0", "float8_e5m2": b"\x00\x3e\xc0"}[dtype]
    assert imported.bytes() == expected
    again = core.merge([{"w": merged}] * 2, "linear", {"weight": 0.5}, dtype="float32")["w"]
    assert np.from_dlpack(again).tolist() == [0.0, 1.5, -2.0]
