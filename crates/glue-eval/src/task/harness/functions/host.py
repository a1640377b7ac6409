# Runs a function of a task and prints its results. `REQUEST` stands before this: where the file is, what is called with which
# arguments, and how.
import contextlib
import importlib.util
import io
import json
import math
import sys
import types


class Dataset(list):
    """Rows in order, with what tasks do with a `datasets.Dataset`."""

    @property
    def column_names(self):
        return list(self[0]) if self else []

    @property
    def num_rows(self):
        return len(self)

    @classmethod
    def from_list(cls, rows):
        return cls(rows)

    @classmethod
    def from_dict(cls, columns):
        return cls(dict(zip(columns, row)) for row in zip(*columns.values()))

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self]
        if isinstance(key, slice):
            rows = list(self)[key]
            return {name: [row[name] for row in rows] for name in self.column_names}
        return list.__getitem__(self, int(key))

    def map(self, function, with_indices=False, remove_columns=(), **how):
        if how.get("batched"):
            raise NotImplementedError("batches in `map` of a dataset")
        removed = [remove_columns] if isinstance(remove_columns, str) else list(remove_columns or ())
        rows = []
        for index, row in enumerate(self):
            made = function(dict(row), index) if with_indices else function(dict(row))
            rows.append({**{name: value for name, value in row.items() if name not in removed}, **(made or {})})
        return Dataset(rows)

    def filter(self, function, with_indices=False, **how):
        return Dataset(row for i, row in enumerate(self) if (function(dict(row), i) if with_indices else function(dict(row))))

    def select(self, indices, **how):
        return Dataset(self[index] for index in indices)

    def rename_column(self, old, new):
        return self.rename_columns({old: new})

    def rename_columns(self, names):
        return Dataset({names.get(name, name): value for name, value in row.items()} for row in self)

    def remove_columns(self, columns):
        columns = [columns] if isinstance(columns, str) else columns
        return Dataset({name: value for name, value in row.items() if name not in columns} for row in self)

    def select_columns(self, columns):
        columns = [columns] if isinstance(columns, str) else columns
        return Dataset({name: row[name] for name in columns} for row in self)

    def add_column(self, name, values):
        return Dataset({**row, name: value} for row, value in zip(self, values))

    def to_list(self):
        return list(self)


def plain(value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) or hasattr(value, "__next__"):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def module(request):
    for path in reversed(request["paths"]):
        sys.path.insert(0, path)
    if importlib.util.find_spec("datasets") is None:
        stand_in = types.ModuleType("datasets")
        stand_in.Dataset = Dataset
        sys.modules["datasets"] = stand_in
    spec = importlib.util.spec_from_file_location(request["module"], request["file"])
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[request["module"]] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def call(function, request, arguments):
    kind = request["kind"]
    options = request["options"]
    if kind == "metric":
        try:
            return function(references=[arguments[0]], predictions=[arguments[1]], **options)
        except TypeError:
            return function(arguments)
    if kind == "filter":
        apply = function(**options).apply if isinstance(function, type) else function
        return list(apply([arguments[0]], [arguments[1]]))[0]
    return function(*arguments)


def values(argument):
    """An argument; pairs of a likelihood and a flag are tuples, and likelihoods may be infinite."""
    if "tuples" in argument:
        return [(float(number), *rest) for number, *rest in argument["tuples"]]
    if "floats" in argument:
        return [float(number) for number in argument["floats"]]
    return argument["json"]


def answer(request):
    function = getattr(module(request), request["function"])
    if request["kind"] == "rows":
        rows = [dict(row, **{request["origin"]: i}) for i, row in enumerate(request["rows"])]
        made = [dict(row) for row in function(Dataset(rows))]
        return [[row.pop(request["origin"], None), plain(row)] for row in made]
    results = []
    for number, arguments in enumerate(request["calls"]):
        try:
            results.append(plain(call(function, request, [values(argument) for argument in arguments])))
        except Exception as error:
            return {"call": number, "error": f"{type(error).__name__}: {error}"}
    return results


said = io.StringIO()
with contextlib.redirect_stdout(said):
    result = answer(REQUEST)
sys.stdout.write("\x1e" + json.dumps(result, default=str))
