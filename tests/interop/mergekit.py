#!/usr/bin/env python3
"""Merges the golden models with mergekit and with glue, and compares tensors and configurations.

The golden files hold what one version of mergekit made once; this asks the version that is installed. It needs nothing
but the standard library and a virtual environment with mergekit in it, and is skipped when that is not there:

    python3 tests/interop/mergekit.py --mergekit VENV --glue target/release/glue
"""

import argparse
import array
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "data" / "golden"

# Cases of the golden files, as far as nothing in them is random. Among them is every way to list models.
CASES = [
    "linear", "linear-gradient", "slerp", "task_arithmetic", "ties", "ties-nonorm", "breadcrumbs", "model_stock",
    "nuslerp-base", "karcher", "sce", "multislerp", "nearswap", "arcee_fusion", "passthrough-stack", "slices-mixed",
    "bf16-in", "sharded-in",
]

# Operators that draw at random: the elements that are kept differ, but not how many there are, nor the rest.
MODELS = """
base_model: models/base
models:
- model: models/ft1
  parameters: {weight: 0.5, density: 0.6}
- model: models/ft2
  parameters: {weight: 0.3, density: 0.6}
dtype: float32
"""
RANDOM = {f"{name} (random)": f"merge_method: {name}\n{MODELS}" for name in ("dare_linear", "dare_ties", "della_linear")}

# What a configuration says of the program that wrote it rather than of the model.
OF_THE_WRITER = {"transformers_version"}

# Both compute in float32 and add up in another order; results are sums in which terms cancel.
ABSOLUTE, RELATIVE = 2e-6, 1e-5


def read(directory):
    """Name to type, shape and numbers, over all safetensors files of a directory."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        content = path.read_bytes()
        start = 8 + struct.unpack("<Q", content[:8])[0]
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                tensors[name] = (entry["dtype"], entry["shape"], content[start + begin : start + end])
    return tensors


def numbers(tensor):
    """The elements of a tensor of F32."""
    dtype, _, data = tensor
    if dtype != "F32":
        raise SystemExit(f"cases are merged in float32, found {dtype}")
    values = array.array("f", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def compare(theirs, ours, allowed, random):
    """What differs, one line each, and the largest difference."""
    if theirs.keys() != ours.keys():
        return [f"tensors in only one of them: {sorted(theirs.keys() ^ ours.keys())}"], math.nan
    found, beyond, largest = [], [], 0.0
    for name, expected in theirs.items():
        if expected[:2] != ours[name][:2]:
            found.append(f"{name}: {ours[name][:2]}, expected {expected[:2]}")
        elif not random:
            for i, (x, y) in enumerate(zip(numbers(ours[name]), numbers(expected))):
                largest = max(largest, abs(x - y))
                if not abs(x - y) <= ABSOLUTE + RELATIVE * abs(y):
                    beyond.append(f"{name}[{i}] is {x}, expected {y}")
    if len(beyond) > allowed:
        found.append(f"{len(beyond)} elements are beyond the tolerance, the first {beyond[0]}")
    return found, largest


def moved(tensors, base):
    """Share of the elements that are not those of the base."""
    pairs = [(x, y) for name in base for x, y in zip(numbers(tensors[name]), numbers(base[name]))]
    return sum(x != y for x, y in pairs) / len(pairs), len(pairs)


def run(program, *arguments):
    """Runs a program among the golden files; its complaint, or None."""
    done = subprocess.run([program, *arguments], cwd=GOLDEN, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{program.name} failed: {done.stderr.strip().splitlines()[-1:]}"


def check(name, config, allowed, mergekit, glue, scratch):
    """Merges with both and prints a line; whether they agree."""
    theirs, ours = scratch / "theirs" / name, scratch / "ours" / name
    theirs.parent.mkdir(exist_ok=True)
    # A model card would look for the models on the network.
    failed = run(mergekit, str(config), str(theirs), "--no-write-model-card") or run(glue, "merge", str(config), str(ours), "--quiet")
    if failed:
        print(f"FAILED   {name}: {failed}")
        return False
    expected, result = read(theirs), read(ours)
    random = name in RANDOM
    found, largest = compare(expected, result, allowed, random)
    note = f"largest difference {largest:.1e}"
    if random and not found:
        base = read(GOLDEN / "models" / "base")
        (share, n), (expected_share, _) = moved(result, base), moved(expected, base)
        note = f"{share:.4f} of the elements changed, {expected_share:.4f} by mergekit"
        # Two counts of n independent trials each: 5 standard deviations of their difference.
        if abs(share - expected_share) > 5 * math.sqrt(2 * expected_share * (1 - expected_share) / n):
            found.append(note)
    configs = [json.loads((directory / "config.json").read_text()) for directory in (theirs, ours)]
    for key in sorted((configs[0].keys() | configs[1].keys()) - OF_THE_WRITER):
        left, right = (config.get(key, "absent") for config in configs)
        if left != right:
            found.append(f"config.json: `{key}` is {right}, expected {left}")
    print(f"{'DIFFERS' if found else 'agrees':8} {name}: {'; '.join(found) or note}", flush=True)
    return not found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", metavar="VENV", type=pathlib.Path, required=True, help="has bin/mergekit-yaml")
    parser.add_argument("--glue", metavar="PATH", type=pathlib.Path, required=True, help="the binary under test")
    parser.add_argument("--case", action="append", help="only this one; may be given several times")
    arguments = parser.parse_args()
    mergekit = (arguments.mergekit / "bin" / "mergekit-yaml").absolute()
    if not mergekit.exists():
        print(f"skipped: there is no {mergekit}; `pip install mergekit` in a virtual environment makes it")
        return 0
    glue = arguments.glue.absolute()
    if not glue.exists():
        print(f"there is no {glue}; `cargo build --release` makes it")
        return 1
    names = arguments.case or [*CASES, *RANDOM]
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        (scratch / "theirs").mkdir()
        (scratch / "ours").mkdir()
        agree = 0
        for name in names:
            config = GOLDEN / "cases" / name / "config.yml"
            if name in RANDOM:
                config = scratch / "random.yml"
                config.write_text(RANDOM[name])
            allow = config.parent / "allow.json"
            allowed = json.loads(allow.read_text())["elements"] if allow.exists() else 0
            agree += check(name, config, allowed, mergekit, glue, scratch)
    print(f"{agree} of {len(names)} agree")
    return 0 if agree == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
