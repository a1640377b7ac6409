#!/usr/bin/env python3
"""How fast transformers or llama.cpp reads a prompt and continues it, for comparison with the example `decode_speed` of glue-lm.

    python3 tests/interop/decode_speed.py MODEL --with transformers --threads 2 --prompt 512 --new 128
    python3 tests/interop/decode_speed.py MODEL --with llama.cpp --threads 2 --prompt 512 --new 128 --work DIR

prints {"prefill_tokens_per_second": ..., "decode_tokens_per_second": ...}. The prompt is pseudo-random tokens, and each next token is the
most likely one, whatever it is.

transformers runs in float32 with a key-value cache. For llama.cpp the weights of a Llama are written to DIR/model.gguf once, in their
stored type (bfloat16), or in float16 with --f16; the package xllamacpp, which has llama.cpp's server, runs it, and the rates are those that
the server measures itself. Exits with status 3 and a line of words when a package is not there.
"""

import argparse
import json
import pathlib
import sys
import time


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="model directory")
    parser.add_argument("--with", dest="runtime", choices=["transformers", "llama.cpp"], required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt (default 512)")
    parser.add_argument("--new", type=int, default=128, help="new tokens (default 128)")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("."), help="where the GGUF file is written")
    parser.add_argument("--f16", action="store_true", help="float16 in the GGUF file")
    return parser.parse_args()


def missing(error):
    print(f"{error.name or error} is not installed")
    sys.exit(3)


def prompt_of(length, vocabulary):
    return [(i * 7919 + 17) % vocabulary for i in range(length)]


def transformers_rates(args):
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        missing(error)
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    ids = torch.tensor([prompt_of(args.prompt, model.config.vocab_size)])
    with torch.inference_mode():
        model(ids[:, :8])
        start = time.perf_counter()
        out = model(ids, use_cache=True, logits_to_keep=1)
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(args.new):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
        decode = time.perf_counter() - start
    return args.prompt / prefill, args.new / decode


def half_split_to_pairs(weight, heads):
    """Rows of a head in the order of llama.cpp, where the pairs of rope are neighbours."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(model, path, f16):
    import gguf
    import torch
    from safetensors import safe_open

    config = json.loads((model / "config.json").read_text())
    if config["model_type"] != "llama":
        raise SystemExit(f"{model}: {config['model_type']} is not written as GGUF here, only llama")
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    # Tokens that nobody reads, so that the server has a vocabulary.
    size = config["vocab_size"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" if i > 2 else ["<unk>", "<s>", "</s>"][i] for i in range(size)])
    writer.add_token_scores([-float(i) for i in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL if i > 2 else gguf.TokenType.CONTROL for i in range(size)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    kind = torch.float16 if f16 else torch.bfloat16
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.MOSTLY_BF16)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                tensor = tensors.get_tensor(name)
                if name in top:
                    target = top[name]
                else:
                    layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
                    target = f"blk.{layer}.{names[part]}.weight"
                    if part.endswith("q_proj"):
                        tensor = half_split_to_pairs(tensor, heads)
                    elif part.endswith("k_proj"):
                        tensor = half_split_to_pairs(tensor, kv_heads)
                if tensor.ndim == 1:
                    writer.add_tensor(target, tensor.float().numpy())
                elif f16:
                    writer.add_tensor(target, tensor.to(kind).contiguous().numpy())
                else:
                    raw = tensor.to(kind).contiguous().view(torch.uint8).numpy()
                    writer.add_tensor(target, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_rates(args):
    try:
        import gguf  # noqa: F401
        import torch  # noqa: F401
        import xllamacpp
    except ImportError as error:
        missing(error)
    config = json.loads((args.model / "config.json").read_text())
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / ("model-f16.gguf" if args.f16 else "model-bf16.gguf")
    if not path.exists():
        write_gguf(args.model, path.with_suffix(".part"), args.f16)
        path.with_suffix(".part").rename(path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = args.prompt + args.new + 16
    params.n_batch = params.n_ubatch = max(512, args.prompt)
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.n_parallel = 1
    params.warmup = True
    server = xllamacpp.Server(params)
    rates = []
    for run in range(2):
        prompt = [(token + run) % config["vocab_size"] for token in prompt_of(args.prompt, config["vocab_size"])]
        request = {"prompt": prompt, "n_predict": args.new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(request)
        timings = answer["timings"]
        rates.append((timings["prompt_per_second"], timings["predicted_per_second"]))
    return rates[-1]


def main():
    args = options()
    prefill, decode = transformers_rates(args) if args.runtime == "transformers" else llama_rates(args)
    print(json.dumps({"prefill_tokens_per_second": prefill, "decode_tokens_per_second": decode}))
    # The server of llama.cpp has threads that nobody ends.
    sys.stdout.flush()
    import os

    os._exit(0)


main()
