#!/usr/bin/env python3
"""Fills the corpora of the fuzz targets from fuzz/seeds and from the golden files in tests/data.

The header of a golden checkpoint is followed by the length of its file instead of its data, as the target `header`
takes it.
"""

import pathlib
import shutil
import struct

FUZZ = pathlib.Path(__file__).resolve().parent
GOLDEN = FUZZ.parent / "tests" / "data" / "golden"


def main():
    for target in ("header", "recipe"):
        corpus = FUZZ / "corpus" / target
        corpus.mkdir(parents=True, exist_ok=True)
        for seed in (FUZZ / "seeds" / target).iterdir():
            shutil.copyfile(seed, corpus / seed.name)
    for config in GOLDEN.glob("cases/*/config.yml"):
        shutil.copyfile(config, FUZZ / "corpus" / "recipe" / f"golden-{config.parent.name}.yml")
    for checkpoint in GOLDEN.glob("models/*/*.safetensors"):
        content = checkpoint.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        name = f"golden-{checkpoint.parent.name}-{checkpoint.stem}"
        (FUZZ / "corpus" / "header" / name).write_bytes(content[: 8 + length] + struct.pack("<Q", len(content)))


if __name__ == "__main__":
    main()
