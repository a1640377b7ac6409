"""What CPython gives for `language.py`: `python cases.py > cases.json`, with numpy and datasets."""

import json
import pathlib
import sys
import types

import datasets

sys.modules["missing_module"] = types.ModuleType("missing_module")
sys.modules["missing_package"] = types.ModuleType("missing_package")
inside = types.ModuleType("missing_package.inside")
inside.something = None
sys.modules["missing_package.inside"] = inside
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import language

CALLS = [
    ("scopes", [4]), ("parameters", [0]), ("wrong_parameters", [1]), ("strings", [" a bc ab. "]), ("strings", ["Üb a\nb é"]),
    ("formats", ["x"]), ("formats", [""]), ("numbers", [7, 2]), ("numbers", [-9, 4]), ("containers", [5]), ("flow", [4]), ("exceptions", [1]),
    ("classes", [4]), ("generators", [4]), ("patterns", ["I have 3 apples, 12 pears; 7."]), ("patterns", ["none here e1"]), ("arrays", [0]), ("matrices", [3]), ("matrices", [4]), ("matrices", [6]),
    ("data", ['{"a": [1, 2.5, null]}']), ("pick_a", [{"q": "a"}]), ("pick_c", [{"q": "a"}]),
]
ROWS = [{"q": " ab ", "old": 1}, {"q": "c", "old": 2}, {"q": "d", "old": 3}]


def plain(value):
    return json.loads(json.dumps(value, default=lambda x: x.tolist() if hasattr(x, "tolist") else sorted(x)))


cases = [{"function": name, "kind": "each", "arguments": arguments, "expected": plain(getattr(language, name)(*arguments))} for name, arguments in CALLS]
for name in ("process_docs", "select_docs"):
    expected = getattr(language, name)(datasets.Dataset.from_list(ROWS)).to_list()
    cases.append({"function": name, "kind": "rows", "arguments": [ROWS], "expected": expected})
print(json.dumps(cases, indent=1, ensure_ascii=False))
