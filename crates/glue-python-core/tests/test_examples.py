"""The examples of the documentation run."""

import importlib.util
import pathlib
import re

import pytest
import support

HERE = pathlib.Path(__file__).parent
PAGES = {"README": HERE.parent / "README.md", "docs": HERE.parents[2] / "docs" / "python.md"}
EXAMPLES = [
    pytest.param(text, id=f"{page}-{i}")
    for page, path in PAGES.items()
    for i, text in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example, tmp_path, monkeypatch, capsys):
    for module in re.findall(r"^import (\w+)", example, re.MULTILINE):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if "load_weights" in example:
        example = "import model_glue_core as core\n" + example + LOADING
        if importlib.util.find_spec("torch") is None:
            pytest.skip("torch is not installed")
    base = support.model(0)
    for i, name in enumerate(("base", "chat", "math")):
        support.save(tmp_path / "models" / name, support.model(i, base=base) if i else base)
    (tmp_path / "merge.yml").write_text("merge_method: passthrough\nmodels: [{model: models/base}]\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "example", "exec"), {})
    if "plan.write" in example:
        assert list(tmp_path.glob("merged*/model.safetensors"))


LOADING = """
class Engine:
    loaded = {}

    def load_weights(self, weights):
        self.loaded.update(weights)

load_merge(Engine(), "merge.yml")
assert len(Engine.loaded) == 15 and all(t.device.type == "cpu" for t in Engine.loaded.values())
"""


def test_there_are_examples():
    assert len(EXAMPLES) >= 7
