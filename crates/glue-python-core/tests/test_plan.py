"""`Plan` against `glue merge` of the same recipe."""

import os
import pathlib
import warnings

import model_glue_core as core
import numpy as np
import pytest
import support
from support import glue, result_bytes

RECIPE = """\
merge_method: dare_ties
base_model: base
models:
  - model: model0
    parameters: {weight: [0.2, 0.8], density: 0.6}
  - model: model1
    parameters: {weight: 0.3, density: 0.4}
dtype: bfloat16
seed: 11
"""


@pytest.fixture(scope="module")
def merged(small, tmp_path_factory):
    """What the program makes of the recipe."""
    place = tmp_path_factory.mktemp("merged")
    (place / "merge.yml").write_text(RECIPE)
    glue("merge", place / "merge.yml", place / "out", cwd=small.directory)
    return place / "out"


def plan(small, text=RECIPE, **options):
    return core.Plan(text, small.directory, **options)


def test_tensors_are_those_of_the_program(small, merged):
    expected = support.load(merged)
    found = {}
    for name, tensor in plan(small).tensors():
        assert tensor.name == name
        found[name] = result_bytes(tensor)
    assert found == expected


GOLDEN = pathlib.Path(__file__).parents[3] / "tests" / "data" / "golden"
CASES = sorted((GOLDEN / "cases").glob("*/config.yml"))


def test_there_are_recipes():
    assert len(CASES) > 30


@pytest.mark.parametrize("config", CASES, ids=[config.parent.name for config in CASES])
def test_recipes_of_the_repository(config, tmp_path):
    """Slices, gradients, filters, adapters, shards, mixed types."""
    glue("merge", config, tmp_path / "out", cwd=GOLDEN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        it = core.Plan(config.read_text(), GOLDEN)
    assert {name: result_bytes(tensor) for name, tensor in it.tensors()} == support.load(tmp_path / "out")
    assert it.side_files()["config.json"] == (tmp_path / "out" / "config.json").read_bytes()


def test_what_a_plan_says(small):
    it = plan(small)
    assert len(it) == len(it.names()) == len(support.shapes())
    assert it.names()[0] == "model.embed_tokens.weight"
    for name, shape in support.shapes().items():
        assert it.shape(name) == shape and it.dtype(name) == "bfloat16"
    assert repr(it) == f"Plan(dare_ties of 3 models, {len(it)} tensors)"
    assert isinstance(it.notes, list)
    for ask in (it.shape, it.dtype, it.tensor):
        with pytest.raises(KeyError, match="no tensor of the plan is called `x`"):
            ask("x")


def test_single_tensors_in_any_order(small, merged):
    expected, it = support.load(merged), plan(small)
    for name in reversed(it.names()):
        assert result_bytes(it.tensor(name)) == expected[name]


def test_iterators_are_lazy_and_independent(small):
    it = plan(small)
    first, second = it.tensors(), it.tensors()
    assert iter(first) is first and first.__length_hint__() == len(it)
    assert [next(first)[0] for _ in range(3)] == it.names()[:3]
    assert next(second)[0] == it.names()[0]
    assert first.__length_hint__() == len(it) - 3
    assert len(list(first)) == len(it) - 3
    with pytest.raises(StopIteration):
        next(first)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_what_is_written_is_what_the_program_writes(small, merged, tmp_path, monkeypatch):
    monkeypatch.chdir(small.directory)
    (tmp_path / "merge.yml").write_text(RECIPE)
    core.Plan.from_file(tmp_path / "merge.yml").write(tmp_path / "out")
    expected, found = files(merged), files(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == [], "the manifest and the card too"


def test_shards(small, tmp_path):
    plan(small).write(tmp_path / "out", max_shard_size=600_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert support.load(tmp_path / "out") == {n: result_bytes(t) for n, t in plan(small).tensors()}
    with pytest.raises(ValueError, match="max_shard_size"):
        plan(small).write(tmp_path / "other", max_shard_size=0)


def test_side_files(small, merged):
    found = plan(small).side_files()
    assert "config.json" in found
    assert found == {name: content for name, content in files(merged).items() if name in found}


def test_nothing_is_overwritten_unless_it_is_allowed(small, tmp_path):
    out = tmp_path / "out"
    plan(small).write(out)
    before = files(out)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        plan(small, seed=12).write(out)
    assert files(out) == before
    plan(small, seed=12).write(out, overwrite=True)
    after = files(out)
    assert after.keys() == before.keys() and after["model.safetensors"] != before["model.safetensors"]
    plan(small, seed=12).write(tmp_path / "fresh" / "out")
    assert files(tmp_path / "fresh" / "out") == after
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out"], "nothing else is left"


def test_what_is_no_output_is_never_overwritten(small, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="glue.json"):
        plan(small).write(tmp_path / "mine", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        plan(small).write(tmp_path / "file", overwrite=True)
    # An input of the merge is one that glue wrote.
    plan(small).write(tmp_path / "first")
    again = RECIPE.replace("model: model0", f"model: {tmp_path / 'first'}")
    with pytest.raises(ValueError, match="cannot be overwritten by its result"):
        plan(small, again).write(tmp_path / "first", overwrite=True)
    # An empty directory is as good as none.
    (tmp_path / "empty").mkdir()
    plan(small).write(tmp_path / "empty", overwrite=True)
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_recipes_as_dictionaries(small):
    recipe = {"merge_method": "linear", "models": [{"model": "model0", "parameters": {"weight": 1}}]}
    name = "model.norm.weight"
    tensor = core.Plan(recipe, directory=str(small.directory), dtype="float32").tensor(name)
    assert np.array_equal(np.from_dlpack(tensor), small.models[0][name].data)


@pytest.mark.parametrize(
    "error, words, text",
    [
        (ValueError, "recipe:5:40: dare_ties: `density` must be", RECIPE.replace("0.6", "1.6").replace("[0.2, 0.8]", "0.2")),
        (ValueError, "did you mean `base_model`", RECIPE.replace("base_model", "base_modle")),
        (FileNotFoundError, "recipe:4:12: ", RECIPE.replace("model0", "nowhere")),
        (ValueError, "recipe:1:15: not valid YAML", "merge_method: [1"),
        (ValueError, "holds 2 documents", "---\n" + RECIPE + "---\n" + RECIPE),
        (TypeError, "found bytes", RECIPE.encode()),
        (TypeError, "found NoneType", None),
    ],
)
def test_refusals(small, error, words, text):
    with pytest.raises(error) as raised:
        plan(small, text)
    assert words in str(raised.value), str(raised.value)


def test_files_of_recipes(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yml"):
        core.Plan.from_file(tmp_path / "nowhere.yml")
    (tmp_path / "bad.yml").write_text("merge_method: tise\nmodels: [{model: x}]\n")
    with pytest.raises(ValueError, match=r"bad\.yml:1:15: .*did you mean `ties`"):
        core.Plan.from_file(tmp_path / "bad.yml")
    (tmp_path / "latin.yml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="latin.yml"):
        core.Plan.from_file(tmp_path / "latin.yml")


def test_keys_without_effect_are_warnings(small):
    text = RECIPE + "weight: 1\n"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan(small, text)
    assert len(caught) == 1 and "weight" in str(caught[0].message) and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="weight"):
            plan(small, text)


def test_models_that_change_are_no_inputs(small, tmp_path):
    model = support.save(tmp_path / "model", small.models[0])
    it = plan(small, RECIPE.replace("model0", str(model)))
    tensors = it.tensors()
    next(tensors)
    file = model / "model.safetensors"
    os.utime(file, ns=(1, 1))
    with pytest.raises(OSError, match="model.safetensors"):
        next(tensors)
    with pytest.raises(OSError, match="model.safetensors"):
        it.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_weights_alone_tell(small, tmp_path):
    arrays = dict(small.models[0])
    values = arrays["model.norm.weight"].data.copy()
    values[3] = np.inf
    arrays["model.norm.weight"] = support.Array(values, "float32")
    model = support.save(tmp_path / "model", arrays)
    it = plan(small, RECIPE.replace("model0", str(model)))
    with pytest.raises(ValueError, match="model.norm.weight of .* holds inf at index 3"):
        it.tensor("model.norm.weight")
    with pytest.raises(ValueError, match="holds inf at index 3"):
        it.write(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_tensors_of_torch(small, merged):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    expected = support.load(merged)
    for name, tensor in plan(small).tensors(torch=True):
        assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bfloat16
        assert tensor.view(torch.int16).numpy().tobytes() == expected[name][2]


def test_torch_is_imported_only_when_it_is_asked_for(small):
    import subprocess
    import sys

    code = "import sys, model_glue_core as core; list(core.Plan(sys.argv[1], sys.argv[2]).tensors()); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, RECIPE, str(small.directory)], check=True)
