#!/usr/bin/env python3
"""Makes crates/glue-gguf/tests/data/quantised.gguf with the reference implementation of GGUF in Python.

    python3 tests/interop/make_gguf.py        (needs numpy and gguf: `pip install gguf==0.19.0`)

For each type: `TYPE.blocks`, random blocks of that type, and `TYPE.values`, what the reference makes of them. For Q8_0 also
`encode.values`, random values, and `encode.bytes`, the bytes that the reference stores for them, one value for each byte.
"""

import pathlib

import gguf
import numpy as np

TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
# Where the f16 scales of a block are, in bytes from its beginning.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208]}
OUT = pathlib.Path(__file__).resolve().parents[2] / "crates" / "glue-gguf" / "tests" / "data" / "quantised.gguf"


def main():
    rng = np.random.default_rng(5)
    writer = gguf.GGUFWriter(OUT, "llama")
    writer.add_uint32("test.number", 7)
    writer.add_array("test.list", ["a", "bé", ""])
    writer.add_float32("test.float", 1e-6)
    writer.add_bool("test.flag", True)
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        n_blocks = 512 // elements
        blocks = rng.integers(0, 256, (n_blocks, size), dtype=np.uint8)
        for at in SCALES.get(name, []):
            blocks[:, at : at + 2] = rng.uniform(0.001, 0.1, (n_blocks, 1)).astype(np.float16).view(np.uint8)
        if name in ("F16", "BF16"):
            values = rng.standard_normal((2, 256)).astype(np.float32)
            blocks = gguf.quantize(values, kind).view(np.uint8)
        blocks = blocks.reshape(2, -1)
        values = gguf.dequantize(blocks, kind).astype(np.float32)
        assert values.shape == (2, 256)
        writer.add_tensor(f"{name}.blocks", blocks, raw_dtype=kind)
        writer.add_tensor(f"{name}.values", values)
    values = (rng.standard_normal((8, 64)) * np.exp(rng.uniform(-12, 3, (8, 64)))).astype(np.float32)
    values[3] = 0
    encoded = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("encode.values", values)
    writer.add_tensor("encode.bytes", encoded.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
