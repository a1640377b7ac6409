#!/usr/bin/env python3
"""Runs the configs of mergekit's examples and tests with mergekit and with glue, unchanged apart from the paths of models.

It needs a Python with mergekit, its dependencies and pytest, and a checkout of mergekit with its `examples` and `tests`:

    VENV/bin/python tests/interop/mergekit_configs.py --source CHECKOUT --glue target/release/glue

For each config there is a line: what glue did with it, and, where both merge it, the largest share of elements of a tensor that differ
beyond the tolerance, with both merging in float32. The status is 1 if glue refuses a config that mergekit merges, unless the reason is
listed below, or if too many elements differ. Where mergekit is missing, it says so and ends with status 0.
"""

import argparse
import functools
import os
import pathlib
import subprocess
import sys
import tempfile

# A script here has the name of the package.
sys.path = [path for path in sys.path if pathlib.Path(path).resolve() != pathlib.Path(__file__).resolve().parent]

try:
    import mergekit.config
    import mergekit.merge
    import mergekit.options
    import pytest
    import torch
    import transformers
    import yaml
    from safetensors import safe_open
except ImportError as error:
    print(f"skipped: {error}", file=sys.stderr)
    raise SystemExit(0)

# Refused here, and why: the words that must be in the message.
REFUSED = {
    "test_legacy_mode": "vocabularies have different sizes",
    "test_source_base": "vocabularies have different sizes",
    "test_source_union": "vocabularies have different sizes",
    "test_source_model": "vocabularies have different sizes",
    "test_slerp_union": "vocabularies have different sizes",
    "test_force_token": "changing the vocabulary (`tokens`)",
    "test_model_token_id": "changing the vocabulary (`tokens`)",
    "test_pad_to_multiple_of": "changing the vocabulary (`pad_to_multiple_of`)",
}

# Merged otherwise here, on purpose: docs/merging.md says so.
DIFFERENT = {
    "test_model_stock_filterwise_VLM_merge": "the ratio of rows whose task vectors are nearly opposed is bounded here",
    "test_karcher_merge": "a base that is not listed is an input of karcher in mergekit, and none here",
    "examples/ties.yml": "after the layers a gradient has its first value in mergekit, and its last here",
}

# Operators that draw at random: not compared number by number.
RANDOM = {"dare_linear", "dare_ties", "della", "della_linear"}

# Without a card, for which mergekit asks the hub about every path.
OPTIONS = mergekit.options.MergeOptions(quiet=True, write_model_card=False)

# Both compute in float32 and add up in another order. Where a threshold decides, a rounding may decide otherwise for an element.
ABSOLUTE, RELATIVE, BEYOND = 2e-6, 1e-5, 2e-3


def tensors(directory):
    """Name to tensor, over all files of a model."""
    found = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found.update({plain(name): file.get_tensor(name) for name in file.keys()})
    return found


def plain(name):
    """The name of a tensor, whatever version of transformers wrote it: where the model stands in it has changed."""
    return ".".join(part for part in name.split(".") if part not in ("model", "language_model"))


def difference(theirs, ours):
    """What is wrong, in words, or the largest share of elements of a tensor that differ."""
    theirs, ours = tensors(theirs), tensors(ours)
    # A head that is the embedding is stored or left out.
    tied = {name for name in theirs.keys() ^ ours.keys() if "lm_head" in name}
    if theirs.keys() - tied - ours.keys():
        return f"tensors that only mergekit writes: {sorted(theirs.keys() - ours.keys())[:5]}"
    dropped = len(ours.keys() - tied - theirs.keys())
    largest = 0.0
    for name in ours.keys() & theirs.keys():
        x, y = theirs[name].float(), ours[name].float()
        if x.shape != y.shape:
            return f"{name} is {list(y.shape)}, expected {list(x.shape)}"
        beyond = ((x - y).abs() > ABSOLUTE + RELATIVE * x.abs()).float().mean().item()
        largest = max(largest, beyond)
    return largest, dropped


class Runner:
    def __init__(self, glue):
        self.glue, self.failed = glue, False

    def line(self, name, text, failed=False):
        self.failed |= failed
        print(f"{'FAILED ' if failed else ''}{name}: {text}", flush=True)

    def merge(self, text, out, cwd):
        """Merges with glue; its message when it refuses."""
        config = pathlib.Path(f"{out}.yml")
        config.write_text(text)
        done = subprocess.run([self.glue, "merge", config, out, "--quiet"], capture_output=True, text=True, cwd=cwd, check=False)
        return None if done.returncode == 0 else done.stderr.strip()

    def compare(self, name, text, cwd, validate=None):
        """Both on one config; a message of glue is raised as mergekit raises."""
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            message = self.merge(text, scratch / "as-it-is", cwd)
            expected = REFUSED.get(name.split("::")[-1].split(" ")[0])
            if message is not None:
                theirs = self.theirs(text, scratch / "theirs", cwd)
                if expected is not None and expected in message:
                    self.line(name, f"refused: {expected}")
                elif theirs is not None:
                    self.line(name, f"both refuse: {message}")
                    raise ValueError(message)
                else:
                    self.line(name, message, failed=True)
                return
            if validate:
                validate(str(scratch / "as-it-is"))
            document = yaml.safe_load(text)
            document["dtype"] = "float32"
            exact = yaml.safe_dump(document)
            message, theirs = self.merge(exact, scratch / "ours", cwd), self.theirs(exact, scratch / "theirs", cwd)
            if message is not None or theirs is not None:
                self.line(name, f"merged; in float32: {message or 'merged'}, mergekit: {theirs or 'merged'}", failed=message is not None)
                return
            if document["merge_method"] in RANDOM:
                self.line(name, "merged")
                return
            found = difference(scratch / "theirs", scratch / "ours")
            reason = DIFFERENT.get(name.split("::")[-1])
            if reason is not None:
                self.line(name, f"merged; {reason}")
                return
            if isinstance(found, str):
                self.line(name, f"merged; {found}", failed=True)
                return
            largest, dropped = found
            left_out = f", {dropped} tensors that mergekit leaves out" if dropped else ""
            self.line(name, f"merged; {largest:.1e} of a tensor differ{left_out}", failed=largest > BEYOND)

    def theirs(self, text, out, cwd):
        """Merges with mergekit; its message when it refuses."""
        before = os.getcwd()
        os.chdir(cwd)
        try:
            config = mergekit.config.MergeConfiguration.model_validate(yaml.safe_load(text))
            mergekit.merge.run_merge(config, out_path=str(out), options=OPTIONS)
            return None
        except Exception as error:  # noqa: BLE001: whatever it is, mergekit did not merge.
            return f"{type(error).__name__}: {error}"
        finally:
            os.chdir(before)


def models_of(node):
    """The models that a config names, each with the layers that it needs."""
    if isinstance(node, dict):
        layers = node.get("layer_range", [0, 0])[1]
        for key in ("model", "base_model"):
            if isinstance(node.get(key), str):
                yield node[key], layers
        for value in node.values():
            yield from models_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from models_of(value)


def examples(runner, source):
    for path in sorted((source / "examples").glob("*.yml")):
        text = path.read_text()
        with tempfile.TemporaryDirectory() as directory:
            named = list(models_of(yaml.safe_load(text)))
            layers = max([layers for _, layers in named] + [2])
            for seed, name in enumerate(dict(named)):
                torch.manual_seed(seed)
                config = transformers.LlamaConfig(
                    vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=layers,
                )
                transformers.LlamaForCausalLM(config).save_pretrained(pathlib.Path(directory) / name)
            # Glue gets the names as they are; mergekit keeps files open by name from one merge to the next.
            theirs = functools.reduce(lambda text, name: text.replace(name, f"{directory}/{name}"), dict(named), text)
            message = runner.merge(text, pathlib.Path(directory) / "as-it-is", directory)
            if message is not None:
                runner.line(f"examples/{path.name}", message, failed=True)
            else:
                runner.compare(f"examples/{path.name}", theirs, directory)


def tests(runner, source):
    sys.path.insert(0, str(source))
    import tests.common

    def run_and_check_merge(config, validate=None, **_):
        name = os.environ["PYTEST_CURRENT_TEST"].split("::", 1)[1].removesuffix(" (call)")
        document = config.model_dump(exclude_none=True, mode="json")
        runner.compare(f"tests::{name}", yaml.safe_dump(document), os.getcwd(), validate)

    tests.common.run_and_check_merge = run_and_check_merge
    files = [str(source / "tests" / f"test_{name}.py") for name in ("basic_merges", "chat_template", "tokenizer")]
    status = pytest.main(["-q", "-x", "--no-header", "-p", "no:cacheprovider", "--maxfail=1000", "-s", *files])
    runner.failed |= status != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, required=True, help="checkout of mergekit")
    parser.add_argument("--glue", type=pathlib.Path, required=True, help="the program")
    args = parser.parse_args()
    runner = Runner(args.glue.resolve())
    examples(runner, args.source.resolve())
    tests(runner, args.source.resolve())
    raise SystemExit(runner.failed)


if __name__ == "__main__":
    main()
