# The part of Python that is evaluated, one function for each trait. `cases.py` calls each in CPython.
import json
import math
import re
import string
from collections import Counter, OrderedDict, defaultdict
from functools import partial
from itertools import zip_longest

import numpy as np

import missing_module
from missing_package.inside import something

LETTERS = ["A", "B", "C"]
TABLE = {f"key_{i}": i for i in range(3)}
COUNT = 0


def scopes(n):
    total = 0

    def add(x):
        nonlocal total
        total += x
        return total

    for i in range(n):
        add(i)
    global COUNT
    COUNT += 1
    return [total, COUNT > 0, [i * j for i in range(3) for j in range(i) if (i + j) % 2]]


def parameters(x):
    def f(a, b=2, *rest, c=3, **more):
        return [a, b, list(rest), c, sorted(more.items())]

    return [f(x), f(x, 4), f(x, 5, 6, 7, c=8, d=9), f(*[1, 2, 3], **{"c": 4, "z": 5}), f(b=1, a=x)]


def wrong_parameters(x):
    try:
        (lambda a, b: a)(x)
    except TypeError:
        return "refused"


def strings(s):
    return [
        s.strip().capitalize(), s.title(), s.upper(), s.split(), s.split(" "), s.split(" ", 1), s.rsplit(" ", 1),
        s.replace("a", "oo", 1), s.find("b"), s.rfind("a"), s.count("a"), s[::-1], s[1:4], s[-3:], s[:-1],
        s.startswith(("x", " ")), s.partition("b"), "-".join(c for c in s if c.isalpha()), s.splitlines(),
        s.zfill(12), s.center(15, "*"), s.ljust(12) + "|", s.lstrip(" a"), s.rstrip("."), "a" in s, s * 2,
        s.translate(str.maketrans("", "", string.punctuation)), s.index("b"), s.isdigit(), s.swapcase if False else 1,
    ]


def formats(x):
    name, number, whole = "n", 3.14159, 42
    return [
        f"{x!r} {number:.2f} {whole:05d} {whole:>6}|{name:<4}|{name:^5}|{1234567:,} {0.256:.1%} {{}}",
        "{} {1} {}".format("a", "b") if False else "{0} {1} {0}".format("a", "b"),
        "{a} {b[0]} {c:>4}".format(a=x, b=[1], c="r"),
        "%s is %d and %.3f %%" % (name, whole, number),
        "%(a)s" % {"a": 1},
        f"{x=}",
        str([1, 2.0, "it's", None, True, (1,), {"k": 'q"'}]),
        str(1e16) + str(1e-5) + str(0.1 + 0.2) + str(100.0) + repr("a\nb\t'\\"),
        f'{"nested"} {len([1, 2])} {x if x else "none"}',
    ]


def numbers(a, b):
    return [
        a + b, a - b, a * b, a / b, a // b, a % b, -a // b, -a % b, a**2, 2**-1, divmod(a, b), abs(-a), round(2.5),
        round(3.5), round(2.675, 2), int("-12"), int(3.9), float("1.5"), int(" 7 "), max(a, b), min([a, b]), sum([0.1] * 10),
        sum([1, 2, 3]), math.floor(-1.5), math.ceil(1.2), math.sqrt(16), 7 & 3, 7 | 8, 1 << 4, True + True, 1 == 1.0, 3 > 2 > 1,
        int(True), bool(""), 10 // 3.0, -7 % 3, 7 % -3, 1_000,
    ]


def containers(x):
    items = [3, 1, 2]
    items.append(x)
    items.extend([9])
    items.insert(1, "in")
    last = items.pop()
    first, *middle, end = items
    d = {"b": 1, "a": 2}
    d.setdefault("c", []).append(1)
    d.update({"z": 0}, y=5)
    s = {1, 2, 3} & {2, 3, 4}
    counts = Counter("abracadabra")
    groups = defaultdict(list)
    for i, word in enumerate(["x", "yy", "z"], start=1):
        groups[len(word)].append(i)
    ordered = OrderedDict([("q", 1)])
    return [
        items, last, first, middle, end, d, sorted(d), d.get("no", "default"), d.pop("a"), list(d.items()), sorted(s),
        counts.most_common(2), counts["z"], dict(groups), list(ordered.keys()), list(zip([1, 2], "ab")), dict(zip("ab", [1, 2])),
        sorted(["bb", "a", "ccc"], key=len, reverse=True), [*range(2), *"ab"], {**{"a": 1}, "b": 2}, (1, 2) < (1, 3), [1, 2] == [1, 2],
        any(i > 2 for i in [1, 2, 3]), all([]), list(map(str, [1, 2])), list(filter(None, [0, 1, ""])), list(reversed([1, 2])), x in items,
        sum((Counter("aab") & Counter("abb")).values()), items.index(2), [1, 2, 3].count(2), sorted({"b", "a"} | {"c"}), tuple([1]),
    ]


def flow(n):
    out = []
    i = 0
    while True:
        i += 1
        if i == 2:
            continue
        if i > n:
            break
        out.append(i)
    else:
        out.append("never")
    for j in out:
        if j == 100:
            break
    else:
        out.append("done")
    return out if out and not n > 100 else None


def exceptions(x):
    out = []
    for attempt in (lambda: int("x"), lambda: [][1], lambda: {}["k"], lambda: 1 / 0, lambda: x.nothing, lambda: "a" + 1):
        try:
            attempt()
        except (ValueError, IndexError) as e:
            out.append(type(e).__name__)
        except LookupError as error:
            out.append("lookup " + str(error))
        except Exception:
            out.append("other")
        else:
            out.append("none")
        finally:
            out.append("finally")
    try:
        raise ValueError("said")
    except ValueError as e:
        out.append(str(e))
    try:
        assert x == 0, "not zero"
    except AssertionError as e:
        out.append(str(e))
    return out


class Base:
    scale = 2

    def __init__(self, n, **kwargs):
        self.n = n
        self.more = kwargs

    def value(self):
        return self.n * self.scale

    @staticmethod
    def fixed(x):
        return x + 1


class Derived(Base):
    scale = 3

    def __init__(self, n):
        super().__init__(n, extra=1)

    def value(self):
        return super().value() + self.fixed(1)

    def __call__(self, x):
        return [self.n, x]


class Special(ValueError):
    pass


def classes(n):
    thing = Derived(n)
    try:
        raise Special("own")
    except ValueError as e:
        caught = str(e)
    return [thing.value(), thing(5), isinstance(thing, Base), thing.more, Base.fixed(1), caught, hasattr(thing, "n"), getattr(thing, "q", 0)]


def generators(n):
    def squares(k):
        for i in range(k):
            yield i * i

    found = next((i for i in squares(n) if i > 2), None)
    pairs = [list(pair) for pair in zip_longest(squares(n), "ab", fillvalue="-")] + [list(t) for t in zip_longest([1], [])]
    return [list(squares(n)), found, sum(i for i in squares(n)), max(squares(n), default=0), pairs]


def patterns(text):
    pattern = re.compile(r"(\d+)\s*(apples|pears)?", re.IGNORECASE)
    found = pattern.search(text)
    return [
        re.findall(r"\d+", text), pattern.findall(text), found.group(0) if found else None, found.group(1) if found else None,
        re.sub(r"(\w)(\d)", r"\2\1", text), re.sub(r"\d+", lambda m: str(int(m.group()) + 1), text), re.split(r"[,;]\s*", text),
        bool(re.match(r"I ", text)), re.sub("a.b", "-", "a\nb a-b", flags=re.DOTALL), [m.span() for m in re.finditer("e", text)],
        re.split(r"(\d)", "a1b2"), re.findall("^b$", "a\nb", re.M), re.escape("a.b"), re.match("x", text) is None,
    ]


def matrices(n):
    from scipy.optimize import linear_sum_assignment

    scores = np.zeros([n, 4])
    for i in range(n):
        for j in range(4):
            scores[i, j] = (7 * i + 5 * j * j + 3) % 11 / 4
    rows, columns = linear_sum_assignment(-scores)
    most = np.zeros([max(n, 4)])
    for row, column in zip(rows, columns):
        most[row] = max(most[row], scores[row, column])
    least = linear_sum_assignment(scores)
    most[-1] = most[-1] + 0.5
    return [
        list(scores.shape), len(scores), list(most), float(np.mean(most)), [int(row) for row in rows], [int(column) for column in columns],
        float(sum(scores[i, j] for i, j in zip(least[0], least[1]))), list(scores[1]), float(np.max(scores)), list(np.zeros(2)),
    ]


def arrays(x):
    values = np.array([1.0, 3.0, 2.0])
    labels = np.array([1, 0, 1])
    return [
        float(np.sum(values)), int(np.argmax(values)), float(np.mean(values)), (values / values.sum()).tolist(),
        float(np.sum(values[labels == 1])), float(np.exp(0.5)), int(np.argmax(values / np.array([1, 4, 1]))), np.nanmax([1.0, float("nan"), 2.0]),
        float(np.max(values)), (values * 2 + 1).tolist(), len(values), [float(v) for v in values],
    ]


def data(text):
    return [json.loads(text), json.dumps({"a": [1, 2.5, None, True], "é": "x"}), json.dumps("é", ensure_ascii=False)]


def pick(doc, wanted, scale=1):
    return [doc["q"] == wanted, scale]


pick_a = partial(pick, wanted="a", scale=2)
globals().update({f"pick_{letter}": partial(pick, wanted=letter) for letter in "bc"})


def unused(x):
    return missing_module.f(something(x))


def process_docs(dataset):
    def change(doc):
        return {"q": doc["q"].strip(), "n": len(doc["q"])}

    return dataset.map(change, remove_columns=["old"]).filter(lambda doc: doc["n"] > 1)


def select_docs(dataset):
    return dataset.select(range(1, len(dataset))).rename_column("q", "question")
