#!/usr/bin/env python3
"""Adds inputs to the corpora of the fuzz targets, from the test data of the repository.

The committed seeds in fuzz/seeds are read by every run without this. The header of a checkpoint is followed by the length
of its file instead of its data, as the target `header` takes it.
"""

import pathlib
import struct

FUZZ = pathlib.Path(__file__).resolve().parent
ROOT = FUZZ.parent
DATA = ROOT / "tests" / "data"

# Files that are inputs as they are: target and pattern.
WHOLE = [
    ("recipe", DATA, "golden/cases/*/config.yml"),
    ("gguf", ROOT, "crates/glue-gguf/tests/data/*.gguf"),
    ("mix_config", DATA, "moe/*/config.yml"),
    ("model_config", DATA, "arch*/*/config.json"),
    ("model_config", ROOT, "crates/glue-tensor/tests/data/configs/*.json"),
    ("mixture", DATA, "moe/*/config.json"),
    ("shard_index", DATA, "**/*.safetensors.index.json"),
    ("task_json", DATA, "zoo/tasks/*/task.json"),
    ("task_yaml", DATA, "zoo/lm_eval/tasks/*.yaml"),
    ("task_yaml", ROOT, "crates/glue-eval/tests/data/harness/tasks/*.yaml"),
    ("items_jsonl", ROOT, "crates/glue-eval/tests/data/harness/data/*.jsonl"),
    ("chat_template", ROOT, "crates/glue-lm/tests/data/chat/*.jinja"),
    ("tokenizer", DATA, "zoo/*/tokenizer.json"),
]


def put(target, name, content):
    folder = FUZZ / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def main():
    for target, root, pattern in WHOLE:
        for path in sorted(root.glob(pattern)):
            put(target, "-".join(path.relative_to(root).parts[-3:]), path.read_bytes())
    for checkpoint in sorted(DATA.glob("golden/models/*/*.safetensors")):
        content = checkpoint.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        name = f"golden-{checkpoint.parent.name}-{checkpoint.stem}"
        put("header", name, content[: 8 + length] + struct.pack("<Q", len(content)))


if __name__ == "__main__":
    main()
