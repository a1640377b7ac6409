#!/usr/bin/env python3
"""Compares Q4_K, Q5_K and Q6_K with llama.cpp's own quantiser, byte for byte.

    npm i -E @node-llama-cpp/linux-x64@3.21.1        (llama.cpp 0.4.0 with its C API)
    python3 tests/interop/k_quants.py LIBRARIES [--glue GLUE]     exports models and compares every tensor
    python3 tests/interop/k_quants.py LIBRARIES --make            writes crates/glue-gguf/tests/data/k_quants.bin

LIBRARIES is node_modules/@node-llama-cpp/linux-x64/bins/linux-x64. Needs numpy.

The models have random weights and rows of whole blocks, most of them: a Llama with and without a head of its own, one with 8 experts, a
Qwen 2, a DeepSeek V3, a gpt-oss and a Llama 4. Each is exported as F32 and as Q4_K_M; llama.cpp makes a Q4_K_M file of the first, and all tensors must have the types and bytes of the
second. The status is 1 where one has not.

The file has 2048 values, then the bytes of the three types for them.
"""

import argparse
import ctypes
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "crates" / "glue-gguf" / "tests" / "data" / "k_quants.bin"
# Numbers of the types, and bytes of a block.
TYPES = {"Q4_K": (12, 144), "Q5_K": (13, 176), "Q6_K": (14, 210)}
# LLAMA_FTYPE_MOSTLY_Q4_K_M
Q4_K_M = 15
# Values and bytes of a block, by the number of the type.
BLOCKS = {0: (1, 4), 1: (1, 2), 6: (32, 22), 7: (32, 24), 8: (32, 34), 12: (256, 144), 13: (256, 176), 14: (256, 210)}
# Values of keys by the number of their type; 8 is a text, 9 an array.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def make(libraries):
    base = ctypes.CDLL(str(libraries / "libggml-base.so"))
    quantise = base.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    rng = np.random.default_rng(11)
    blocks = [
        rng.standard_normal(256) * 0.02,
        rng.standard_t(2, 256),
        np.abs(rng.standard_normal(256)) + 1,
        rng.standard_normal(256) * (rng.random(256) < 0.1),
        rng.standard_normal(256) * 1e-8,
        rng.integers(-8, 8, 256),
        np.repeat([0.0, -1.5, 2.0, 0.25], 64),
        rng.standard_normal(256) * np.repeat(10.0 ** np.arange(-4, 4), 32),
    ]
    values = np.concatenate(blocks).astype("<f4")
    parts = [values.tobytes()]
    for number, size in TYPES.values():
        out = np.zeros(values.size // 256 * size, np.uint8)
        written = quantise(number, values.ctypes.data, out.ctypes.data, 0, values.size // 256, 256, None)
        assert written == out.size
        parts.append(out.tobytes())
    OUT.write_bytes(b"".join(parts))


def write_model(path, config, tensors):
    rng = np.random.default_rng(3)
    path.mkdir()
    header, body = {}, []
    at = 0
    for name, shape in tensors.items():
        data = (rng.standard_normal(shape) * 0.05).astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        body.append(data)
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))
    (path / "config.json").write_text(json.dumps(config))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(ROOT / "tests" / "data" / "zoo" / "a-chat" / name, path / name)


def models():
    """Name, configuration, and tensors."""
    config = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "hidden_act": "silu",
    }
    ends = {"model.embed_tokens.weight": (512, 256), "model.norm.weight": (256,)}
    head = {"lm_head.weight": (512, 256)}
    attention, dense, sparse, biases = {}, {}, {}, {}
    for layer in range(8):
        at = f"model.layers.{layer}."
        attention.update({f"{at}{norm}_layernorm.weight": (256,) for norm in ["input", "post_attention"]})
        attention.update({f"{at}self_attn.{part}_proj.weight": (rows, 256) for part, rows in [("q", 256), ("k", 128), ("v", 128), ("o", 256)]})
        biases.update({f"{at}self_attn.{part}_proj.bias": (rows,) for part, rows in [("q", 256), ("k", 128), ("v", 128)]})
        dense.update({f"{at}mlp.{part}_proj.weight": shape for part, shape in [("gate", (512, 256)), ("up", (512, 256)), ("down", (256, 512))]})
        sparse[f"{at}block_sparse_moe.gate.weight"] = (8, 256)
        for expert in range(8):
            expert = f"{at}block_sparse_moe.experts.{expert}."
            sparse.update({f"{expert}{part}.weight": shape for part, shape in [("w1", (512, 256)), ("w3", (512, 256)), ("w2", (256, 512))]})
    yield "llama", config, {**ends, **head, **attention, **dense}
    yield "llama-tied", {**config, "tie_word_embeddings": True}, {**ends, **attention, **dense}
    yield "mixtral", {**config, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}, {**ends, **head, **attention, **sparse}
    yield "qwen2", {**config, "model_type": "qwen2"}, {**ends, **head, **attention, **biases, **dense}


    embedding = {**ends, **head}
    norms = {name: shape for name, shape in attention.items() if "norm" in name}
    latent = {
        **config, "model_type": "deepseek_v3", "num_key_value_heads": 4, "head_dim": 32, "q_lora_rank": 256, "kv_lora_rank": 256, "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
    }
    tensors = {**embedding, **norms}
    for layer in range(8):
        at = f"model.layers.{layer}.self_attn."
        tensors.update({f"{at}q_a_proj.weight": (256, 256), f"{at}q_a_layernorm.weight": (256,), f"{at}q_b_proj.weight": (384, 256)})
        tensors.update({f"{at}kv_a_proj_with_mqa.weight": (288, 256), f"{at}kv_a_layernorm.weight": (256,), f"{at}kv_b_proj.weight": (512, 256)})
        tensors[f"{at}o_proj.weight"] = (256, 256)
        at = f"model.layers.{layer}.mlp."
        if layer == 0:
            tensors.update({f"{at}gate_proj.weight": (512, 256), f"{at}up_proj.weight": (512, 256), f"{at}down_proj.weight": (256, 512)})
            continue
        tensors.update({f"{at}gate.weight": (4, 256), f"{at}gate.e_score_correction_bias": (4,)})
        for expert in ["shared_experts", *(f"experts.{expert}" for expert in range(4))]:
            tensors.update({f"{at}{expert}.{part}_proj.weight": (256, 256) for part in ["gate", "up", "down"]})
    yield "deepseek-v3", latent, tensors
    oss = {**config, "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16, "intermediate_size": 256}
    tensors = {**embedding, **attention, **biases}
    for layer in range(8):
        at = f"model.layers.{layer}."
        tensors.update({f"{at}self_attn.o_proj.bias": (256,), f"{at}self_attn.sinks": (4,), f"{at}mlp.router.weight": (4, 256), f"{at}mlp.router.bias": (4,)})
        tensors.update({f"{at}mlp.experts.gate_up_proj": (4, 256, 512), f"{at}mlp.experts.gate_up_proj_bias": (4, 512)})
        tensors.update({f"{at}mlp.experts.down_proj": (4, 256, 256), f"{at}mlp.experts.down_proj_bias": (4, 256)})
    yield "gpt-oss", oss, tensors
    four = {
        **config, "model_type": "llama4_text", "intermediate_size": 256, "intermediate_size_mlp": 512, "num_local_experts": 4, "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2, "attn_temperature_tuning": True,
    }
    tensors = {**embedding, **attention}
    for layer in range(8):
        at = f"model.layers.{layer}.feed_forward."
        if layer % 2 == 0:
            tensors.update({f"{at}gate_proj.weight": (512, 256), f"{at}up_proj.weight": (512, 256), f"{at}down_proj.weight": (256, 512)})
            continue
        tensors.update({f"{at}router.weight": (4, 256), f"{at}experts.gate_up_proj": (4, 256, 512), f"{at}experts.down_proj": (4, 256, 256)})
        tensors.update({f"{at}shared_expert.{part}_proj.weight": (256, 256) for part in ["gate", "up", "down"]})
    yield "llama4", four, tensors


def read(path):
    """Type and bytes of each tensor of a file."""
    data = path.read_bytes()
    at = 8

    def number(code):
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize(code)
        return value

    def text():
        nonlocal at
        length = number("Q")
        at += length
        return data[at - length : at].decode()

    def value(kind):
        nonlocal at
        if kind == 8:
            return text()
        if kind == 9:
            kind, count = number("I"), number("Q")
            return [value(kind) for _ in range(count)]
        at += SIZES[kind]
        return None

    n_tensors, n_keys = number("Q"), number("Q")
    for _ in range(n_keys):
        text()
        value(number("I"))
    infos = []
    for _ in range(n_tensors):
        name = text()
        shape = [number("Q") for _ in range(number("I"))]
        infos.append((name, shape, number("I"), number("Q")))
    start = -(-at // 32) * 32
    tensors = {}
    for name, shape, kind, offset in infos:
        elements, size = BLOCKS[kind]
        length = int(np.prod(shape)) // elements * size
        tensors[name] = (kind, data[start + offset :][:length])
    return tensors


class Parameters(ctypes.Structure):
    """The beginning of llama_model_quantize_params, and room for the rest."""

    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int32), ("rest", ctypes.c_char * 248)]


def compare(libraries, glue):
    for name in ["libggml-base.so", "libggml.v0.4.0.so", "libllama.v0.4.0.so"]:
        library = ctypes.CDLL(str(libraries / name), mode=ctypes.RTLD_GLOBAL)
    library.llama_model_quantize_default_params.restype = Parameters
    library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters)]
    status = 0
    for name, config, tensors in models():
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            write_model(directory / name, config, tensors)
            files = {kind: directory / f"{kind}.gguf" for kind in ["f32", "q4_k_m", "reference"]}
            for kind in ["f32", "q4_k_m"]:
                subprocess.run([glue, "export", directory / name, files[kind], "--type", kind, "--quiet"], check=True, capture_output=True)
            parameters = library.llama_model_quantize_default_params()
            parameters.ftype, parameters.nthread = Q4_K_M, 2
            code = library.llama_model_quantize(str(files["f32"]).encode(), str(files["reference"]).encode(), ctypes.byref(parameters))
            assert code == 0, code
            ours, reference = read(files["q4_k_m"]), read(files["reference"])
        assert ours.keys() == reference.keys()
        types = [tensor for tensor in ours if ours[tensor][0] != reference[tensor][0]]
        other = [tensor for tensor in ours if ours[tensor] != reference[tensor]]
        found = {"model": name, "tensors": len(ours), "other types": types, "other bytes": other, "ok": not other}
        status |= bool(other)
        print(json.dumps(found), flush=True)
    return status


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("libraries", type=pathlib.Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--glue", default=str(ROOT / "target" / "debug" / "glue"))
    args = parser.parse_args()
    libraries = args.libraries.resolve()
    if args.make:
        make(libraries)
        return 0
    # Its parts for processors are beside the program that loads them, or in the working directory.
    os.chdir(libraries)
    return compare(libraries, str(pathlib.Path(args.glue)))


if __name__ == "__main__":
    sys.exit(main())
