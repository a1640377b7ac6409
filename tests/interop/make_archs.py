"""Writes tests/data/archs-extra: tiny models with random weights for what tests/data/archs does not cover, and the logits that
transformers computes with them in float32 on a CPU.

    python3 tests/interop/make_archs.py tests/data/archs-extra

Needs torch, safetensors and transformers (written with 5.23). Each folder gets config.json, model.safetensors and
reference.safetensors: input_ids [2, length] and logits [2, length, vocabulary]; where a cache matters also
logits_cached of the same shape, computed in two passes, the second of which starts at token `split`.
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

SMALL = dict(
    vocab_size=37, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)

# name: (model_type, settings, length, change of the written config.json, split)
MODELS = {
    "llama-yarn": ("llama", dict(head_dim=16, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)), 40, None, None),
    "llama-yarn-untruncated": ("llama", dict(head_dim=16, rope_parameters=dict(
        rope_type="yarn", rope_theta=5000.0, factor=8.0, original_max_position_embeddings=8, beta_fast=8.0, beta_slow=0.5,
        mscale=0.8, mscale_all_dim=0.5, truncate=False)), 40, None, None),
    "llama-dynamic": ("llama", dict(max_position_embeddings=16, rope_parameters=dict(
        rope_type="dynamic", rope_theta=10000.0, factor=2.0)), 40, None, 24),
    "phi3-longrope-short": ("phi3", dict(original_max_position_embeddings=32, rope_parameters=dict(
        rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 3.0, 4.5])),
        24, None, None),
    "phi3-longrope-long": ("phi3", dict(original_max_position_embeddings=16, rope_parameters=dict(
        rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 3.0, 4.5])),
        40, "su", None),
    "phi3-partial": ("phi3", dict(rope_parameters=dict(
        rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5), sliding_window=6), 24, None, None),
    "mixtral-window": ("mixtral", dict(num_local_experts=3, num_experts_per_tok=2, sliding_window=5), 24, None, None),
    "gemma2-old-form": ("gemma2", dict(head_dim=8, sliding_window=4, query_pre_attn_scalar=5), 24, "old", None),
    "qwen2-window": ("qwen2", dict(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=1), 24, "old", None),
    "qwen3-bias": ("qwen3", dict(head_dim=6, attention_bias=True), 12, None, None),
    "olmo2-linear": ("olmo2", dict(attention_bias=True, rope_parameters=dict(
        rope_type="linear", rope_theta=10000.0, factor=3.0)), 24, "old", None),
    "qwen2-moe": ("qwen2_moe", dict(
        num_hidden_layers=3, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12,
        shared_expert_intermediate_size=20, mlp_only_layers=[1]), 16, None, None),
    "qwen2-moe-normed": ("qwen2_moe", dict(
        num_hidden_layers=2, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8, norm_topk_prob=True,
        shared_expert_intermediate_size=12, decoder_sparse_step=2, qkv_bias=False), 16, None, None),
}


def old_form(config, kind):
    """The same configuration as versions of transformers before 5 wrote it."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope.pop("partial_rotary_factor", None)
    rope_type = rope.pop("rope_type")
    if rope_type != "default":
        rope.pop("original_max_position_embeddings", None)
        config["rope_scaling"] = {"type": "su" if kind == "su" else rope_type, **rope}
    config["torch_dtype"] = config.pop("dtype", "float32")
    config.pop("layer_types", None)


def main(out):
    torch.set_num_threads(1)
    for seed, (name, (model_type, settings, length, change, split)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        config = CONFIG_MAPPING[model_type](**{**SMALL, **settings})
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            # Large enough that every part of the computation shows in the logits; norms away from their neutral value.
            torch.nn.init.normal_(parameter, mean=0.6 if parameter.dim() == 1 else 0.0, std=0.3)
        folder = os.path.join(out, name)
        model.save_pretrained(folder)
        generation = os.path.join(folder, "generation_config.json")
        if os.path.exists(generation):
            os.remove(generation)
        if change:
            path = os.path.join(folder, "config.json")
            written = json.load(open(path))
            old_form(written, change)
            json.dump(written, open(path, "w"), indent=2)
        ids = torch.randint(0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            tensors = {"input_ids": ids.int(), "logits": model(ids).logits}
            if split:
                # A model of its own: the rotary embedding remembers the longest text it has seen.
                fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
                fresh.load_state_dict(model.state_dict())
                first = fresh(ids[:, :split], use_cache=True)
                second = fresh(ids[:, split:], past_key_values=first.past_key_values, use_cache=True)
                tensors["logits_cached"] = torch.cat([first.logits, second.logits], 1)
                tensors["split"] = torch.tensor([split], dtype=torch.int32)
        save_file({key: value.contiguous() for key, value in tensors.items()}, os.path.join(folder, "reference.safetensors"))
        print(name, sum(p.numel() for p in model.parameters()))


main(sys.argv[1])
