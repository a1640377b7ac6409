#!/usr/bin/env python3
"""Compares exported GGUF files as llama.cpp runs them with the models as glue runs them.

    python3 tests/interop/llama_cpp.py [--glue GLUE] [--types f32,f16] [MODEL ...]

Needs xllamacpp (`pip install xllamacpp`), which brings llama.cpp for the CPU; where it is missing, the script says so and ends with
status 0. For the comparison of tokens it also needs the package tokenizers.

Each model (by default those of tests/data/archs, tests/data/archs-extra and tests/data/zoo) is exported with `glue export`. Where
tests/data has a variant that llama.cpp has no form of, a copy with the changes of CHANGES is taken; what is refused and must be is in
REFUSED, with a word of the message. The last token of several beginnings of a text gives log-probabilities, which are compared with
those of `glue logits`. Models without a tokenizer get one of single bytes. Tokens are compared on 200 lines.

One JSON line for each model and type: {"model": ..., "type": ..., "difference": largest difference of a log-probability, "tokens":
lines with equal tokens}. The status is 1 when a difference is above the tolerance or tokens differ.
"""

import argparse
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
TOLERANCE = {"f32": 2e-5, "f16": 2e-2, "bf16": 2e-1, "q8_0": 5e-1, "q4_k_m": math.inf}

# Changes of config.json under which llama.cpp computes what the model does.
CHANGES = {
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma2-old-form": {"query_pre_attn_scalar": 8},
    "gemma3": {"query_pre_attn_scalar": 8, "layer_types": None, "sliding_window_pattern": 3, "_sliding_window_pattern": 3},
    "gemma3-old-form": {"query_pre_attn_scalar": 8},
    "gemma3-wrapped": {"query_pre_attn_scalar": 8, "layer_types": None, "sliding_window_pattern": 2, "_sliding_window_pattern": 2},
    "deepseek-v2-lite": {"num_hidden_layers": 26},
    # llama.cpp rounds the bounds of YaRN.
    "gpt-oss": {"swiglu_limit": 7.0, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 16, "truncate": True}},
    "llama4": {"attention_chunk_size": 8192, "attn_scale": 0.1, "floor_scale": 8192, "layer_types": None,
               "no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4},
    # llama.cpp takes the long factors as soon as the context that it reserves is beyond the original one.
    "phi3-longrope-short": {"original_max_position_embeddings": 1024, "max_position_embeddings": 2048, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 1024,
        "long_factor": [1.5, 2.0, 3.0, 4.5], "short_factor": [1.0, 1.1, 1.2, 1.3]}},
    "qwen2-moe": {"mlp_only_layers": [], "decoder_sparse_step": 1, "norm_topk_prob": False},
    "qwen3-moe": {"mlp_only_layers": [], "decoder_sparse_step": 1, "norm_topk_prob": True},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4},
}
# What must be refused, and a word of the message.
REFUSED = {
    "cohere2-bias": "layer_types",
    "deepseek-v2": "n_group",
    "deepseek-v3-halves": "rope_interleave",
    "gpt-oss-mxfp4": "quantization_config",
    "llama-dynamic": "dynamic",
    "llama-yarn-untruncated": "truncate",
    "llama4-two": "use_qk_norm",
    "olmo2-linear": "bias",
    "olmo3": "attention_factor",
    "qwen2-moe-normed": "decoder_sparse_step",
    "qwen3-bias": "bias",
    "qwen3-moe-window": "decoder_sparse_step",
    "smollm3-window": "no_rope_layers",
}


def worker(path, prompts, lines):
    """Log-probabilities after each prompt, and tokens of each line, from llama.cpp."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.n_ctx = 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.fit_params = params.ui = params.cache_prompt = False
    params.cache_ram_mib = 0
    params.verbosity = 1
    params.use_jinja = True
    server = xllamacpp.Server(params)

    def post(name, body):
        request = urllib.request.Request(server.listening_address + name, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    result = {"logprobs": [], "tokens": []}
    for prompt in prompts:
        body = {"prompt": prompt, "n_predict": 1, "n_probs": 1 << 20, "temperature": 1000.0, "samplers": ["temperature"], "cache_prompt": False}
        # Probabilities are those before sampling; a token that ends the text brings none, so that another one is drawn.
        answers = (post("/completion", {**body, "seed": seed}).get("completion_probabilities") for seed in range(100))
        found = next(answer for answer in answers if answer)[0]["top_logprobs"]
        result["logprobs"].append({entry["id"]: entry["logprob"] for entry in found})
    for line in lines:
        result["tokens"].append(post("/tokenize", {"content": line, "add_special": True, "parse_special": True})["tokens"])
    return result


def in_worker(path, prompts, lines):
    """The same in a process of its own, because llama.cpp ends the process where it refuses a file."""
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "out.json"
        job = json.dumps({"path": str(path), "prompts": prompts, "lines": lines, "out": str(out)})
        done = subprocess.run([sys.executable, __file__, "--worker"], input=job, text=True, capture_output=True)
        if not out.exists():
            raise RuntimeError(f"llama.cpp failed with status {done.returncode}: {done.stderr[-1500:]}")
        return json.loads(out.read_text())


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    kinds = {"F32": ("f", 4), "F64": ("d", 8), "I64": ("q", 8), "I32": ("i", 4)}
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] not in kinds:
            continue
        begin, end = entry["data_offsets"]
        code, size = kinds[entry["dtype"]]
        values = struct.unpack(f"<{(end - begin) // size}{code}", data[8 + length + begin : 8 + length + end])
        tensors[name] = (entry["shape"], values)
    return tensors


def write_ids(path, ids):
    header = {"input_ids": {"dtype": "I64", "shape": [1, len(ids)], "data_offsets": [0, 8 * len(ids)]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(ids)}q", *ids))


def byte_tokenizer(size):
    """A tokenizer of the first bytes, for models that have none."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + at) for at, byte in enumerate(others)}}
    vocab = {table[byte]: at for at, byte in enumerate([10, 32, *range(97, 123), *range(48, 58), *range(65, 91)][: size - 3])}
    vocab.update({"<s>": size - 3, "</s>": size - 2, "<pad>": size - 1})
    added = [{"id": vocab[token], "content": token, "special": True} for token in ["<s>", "</s>", "<pad>"]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    return {"version": "1.0", "added_tokens": [{**flags, **token} for token in added], "pre_tokenizer": level, "decoder": level, "model": model}


def rewrite(path, change):
    """Lets `change` change the tensors of a file, by name: each is its entry in the header and its bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {name: (entry, data[8 + length :][slice(*entry["data_offsets"])]) for name, entry in header.items()}
    change(tensors)
    header, body = {}, b""
    for name, (entry, part) in tensors.items():
        header[name] = {**entry, "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def make_sparse(tensors):
    """Gives every layer the experts of one that has some."""
    mlp = {name.split(".")[2]: {} for name in tensors if ".mlp." in name}
    for name in list(tensors):
        if ".mlp." in name:
            layer, rest = name.split(".")[2], name.split(".mlp.")[1]
            mlp[layer][rest] = tensors.pop(name)
    sparse = next(parts for parts in mlp.values() if "gate.weight" in parts)
    for layer in mlp:
        tensors.update({f"model.layers.{layer}.mlp.{rest}": part for rest, part in sparse.items()})


def make_deep(tensors):
    """Repeats the last layer until there are 26."""
    last = {name: part for name, part in tensors.items() if name.startswith("model.layers.1.")}
    for layer in range(2, 26):
        tensors.update({name.replace("layers.1.", f"layers.{layer}."): part for name, part in last.items()})


# Models whose tensors change too.
REWRITTEN = {"qwen2-moe": make_sparse, "qwen3-moe": make_sparse, "deepseek-v2-lite": make_deep}


def prepared(model, directory):
    """The model, or a copy of it with a tokenizer and with the changes that llama.cpp needs."""
    change = CHANGES.get(model.name)
    has_tokenizer = (model / "tokenizer.json").exists()
    if change is None and has_tokenizer:
        return model
    copy = directory / model.name
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    inner = config.get("text_config", config)
    for key, value in (change or {}).items():
        inner.pop(key, None) if value is None else inner.__setitem__(key, value)
    (copy / "config.json").write_text(json.dumps(config))
    if model.name in REWRITTEN:
        rewrite(copy / "model.safetensors", REWRITTEN[model.name])
    if not has_tokenizer:
        (copy / "tokenizer.json").write_text(json.dumps(byte_tokenizer(inner["vocab_size"])))
        (copy / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}))
    return copy


def lines(count):
    """Texts with words, digits, white space, other scripts and what is special to tokenizers."""
    rng = random.Random(7)
    pieces = ["the ", "The sum of ", "3 33 333 3333 ", "I'll we've He'S ", "\n", "\n\n  ", "\t", "   ", "naïve ", "Привет ", "你好世界", "مرحبا ",
              "🚀🦙 ", "=====", "foo_bar(x, y);", "  return 1\n", "1.5e-3 ", "<s>", "</s>", "don't", "ﬁ", "क्षत्रिय ", "\r\n", "a" * 20, "'", "``"]
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 12))) for _ in range(count)]


def log_softmax(values):
    peak = max(values)
    total = math.log(sum(math.exp(value - peak) for value in values)) + peak
    return [value - total for value in values]


def reference(glue, model, ids, directory):
    write_ids(directory / "ids.safetensors", ids)
    out = directory / "logits.safetensors"
    subprocess.run([glue, "logits", model, "--ids", directory / "ids.safetensors", "--out", out], check=True, capture_output=True)
    shape, values = read_safetensors(out)["logits"]
    return [log_softmax(values[at * shape[2] : (at + 1) * shape[2]]) for at in range(shape[1])]


def check(glue, model, types, directory):
    model = prepared(model, directory)
    config = json.loads((model / "config.json").read_text())
    config = config.get("text_config", config)
    rng = random.Random(3)
    everywhere = config["model_type"] in ("mistral", "mixtral", "phi3", "qwen2", "qwen3", "smollm3")
    window = config.get("sliding_window") if everywhere and config.get("use_sliding_window") is not False else None
    # The server does not go beyond the context length, and one token is generated.
    length = min(24, config["max_position_embeddings"] - 1, (window or 25) - 1)
    ids = [rng.randrange(config["vocab_size"]) for _ in range(length)]
    expected = reference(glue, model, ids, directory)
    places = sorted({1, 2, length // 2, length - 1, length} - {0})
    encoder = None
    texts = []
    try:
        import tokenizers

        if "merges" in (model / "tokenizer.json").read_text() and not str(model).startswith(str(directory)):
            encoder = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
            texts = lines(200)
    except ImportError:
        pass
    for file_type in types:
        file = directory / f"{model.name}-{file_type}.gguf"
        done = subprocess.run([glue, "export", model, file, "--type", file_type], capture_output=True, text=True)
        if done.returncode:
            yield {"model": model.name, "type": file_type, "refused": done.stderr.strip().splitlines()[-1]}
            return
        try:
            found = in_worker(file, [ids[:place] for place in places], texts if file_type == types[0] else [])
        except RuntimeError as error:
            yield {"model": model.name, "type": file_type, "ok": False, "failed": str(error)}
            continue
        worst = 0.0
        for place, logprobs in zip(places, found["logprobs"]):
            for token, value in logprobs.items():
                if value > -1e30:
                    worst = max(worst, abs(value - expected[place - 1][int(token)]))
        result = {"model": model.name, "type": file_type, "difference": worst, "vocabulary": len(found["logprobs"][0])}
        if encoder and file_type == types[0]:
            equal = [tokens == encoder.encode(text).ids for text, tokens in zip(texts, found["tokens"])]
            result["tokens"] = f"{sum(equal)} of {len(equal)}"
            if not all(equal):
                at = equal.index(False)
                result["first"] = [texts[at], found["tokens"][at], encoder.encode(texts[at]).ids]
        # llama.cpp looks Gemma's activation up in a table of 16-bit floats; with the same rounding, transformers is within 1e-4 of it.
        tolerance = max(TOLERANCE[file_type], 2e-2 if config["model_type"].startswith("gemma") else 0)
        result["ok"] = worst <= tolerance and "first" not in result
        file.unlink()
        yield result


def main():
    if sys.argv[1:] == ["--worker"]:
        job = json.loads(sys.stdin.read())
        pathlib.Path(job["out"]).write_text(json.dumps(worker(job["path"], job["prompts"], job["lines"])))
        sys.stdout.flush()
        os._exit(0)
    try:
        import xllamacpp  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    parser.add_argument("--glue", default=str(ROOT / "target" / "debug" / "glue"))
    parser.add_argument("--types", default="f32,f16")
    args = parser.parse_args()
    models = args.models or sorted(path.parent for part in ["archs", "archs-extra", "zoo"] for path in (DATA / part).glob("*/config.json"))
    status = 0
    for model in models:
        with tempfile.TemporaryDirectory() as directory:
            for result in check(args.glue, model.resolve(), args.types.split(","), pathlib.Path(directory)):
                refused = result.get("refused")
                if refused is not None:
                    result["ok"] = REFUSED.get(model.name, "\0") in refused
                status |= not result["ok"]
                print(json.dumps(result), flush=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
