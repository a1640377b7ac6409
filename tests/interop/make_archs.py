"""Writes tests/data/archs-extra: tiny models with random weights for what tests/data/archs does not cover, and the logits that
transformers computes with them in float32 on a CPU.

    python3 tests/interop/make_archs.py tests/data/archs-extra [NAME...]

Needs torch, safetensors and transformers (written with 5.23; from qwen3-moe on with 5.24). Without names all are made.
Each folder gets config.json, model.safetensors and reference.safetensors: input_ids [2, length] and logits [2, length,
vocabulary]; where a cache matters also logits_cached of the same shape, computed in two passes, the second of which
starts at token `split`.
"""

import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, CONFIG_MAPPING
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

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
    "qwen3-moe": ("qwen3_moe", dict(
        num_hidden_layers=3, head_dim=6, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=10,
        norm_topk_prob=True, mlp_only_layers=[1]), 16, None, 9),
    "qwen3-moe-window": ("qwen3_moe", dict(
        num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8, norm_topk_prob=False, decoder_sparse_step=2,
        attention_bias=True, use_sliding_window=True, sliding_window=4), 20, None, 11),
    "gemma3": ("gemma3_text", dict(
        num_hidden_layers=4, head_dim=8, query_pre_attn_scalar=5, sliding_window=5, sliding_window_pattern=3,
        final_logit_softcapping=20.0, rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=50000.0, factor=4.0),
            sliding_attention=dict(rope_type="default", rope_theta=500.0))), 24, None, 13),
    "gemma3-old-form": ("gemma3_text", dict(
        num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=5, sliding_window=5, sliding_window_pattern=3,
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
            sliding_attention=dict(rope_type="default", rope_theta=10000.0))), 24, "gemma3", 13),
    "gemma3-wrapped": ("gemma3", dict(
        text_config=dict(
            vocab_size=37, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, sliding_window=4, sliding_window_pattern=2, max_position_embeddings=64),
        vision_config=dict(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28,
            patch_size=14, vision_use_head=False),
        mm_tokens_per_image=4, image_token_index=36, boi_token_index=34, eoi_token_index=35), 16, None, 9),
    "olmo3": ("olmo3", dict(
        num_hidden_layers=4, sliding_window=5, attention_bias=True, rope_parameters=dict(
            full_attention=dict(
                rope_type="yarn", rope_theta=500000.0, factor=4.0, original_max_position_embeddings=16,
                attention_factor=1.2, beta_fast=32, beta_slow=1),
            sliding_attention=dict(rope_type="default", rope_theta=500000.0))), 24, None, 13),
    "olmo3-old-form": ("olmo3", dict(
        num_hidden_layers=4, sliding_window=5, rope_parameters=dict(
            full_attention=dict(
                rope_type="yarn", rope_theta=500000.0, factor=4.0, original_max_position_embeddings=16),
            sliding_attention=dict(rope_type="default", rope_theta=500000.0))), 24, "olmo3", 13),
    "smollm3": ("smollm3", dict(num_hidden_layers=4, no_rope_layer_interval=3), 16, None, 9),
    "smollm3-window": ("smollm3", dict(
        num_hidden_layers=3, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=4,
        tie_word_embeddings=False, attention_bias=True, mlp_bias=True), 16, None, 9),
    "granite": ("granite", dict(
        embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.2, logits_scaling=1.7), 16, None, 9),
    "glm4": ("glm4", dict(head_dim=8), 16, None, 9),
    "glm4-plain": ("glm4", dict(
        head_dim=8, attention_bias=False, rope_parameters=dict(
            rope_type="default", rope_theta=10000.0, partial_rotary_factor=1.0)), 16, None, 9),
    "cohere2": ("cohere2", dict(
        num_hidden_layers=4, sliding_window=5, sliding_window_pattern=3, logit_scale=0.4, layer_norm_eps=1e-3),
        24, None, 13),
    "cohere2-bias": ("cohere2", dict(
        num_hidden_layers=2, sliding_window=5, layer_types=["full_attention", "sliding_attention"], logit_scale=0.8,
        attention_bias=True, tie_word_embeddings=False), 24, None, 13),
    "mistral3-wrapped": ("mistral3", dict(
        text_config=dict(
            model_type="mistral", vocab_size=37, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=None, max_position_embeddings=64),
        vision_config=dict(
            model_type="pixtral", hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            head_dim=8, image_size=28, patch_size=14),
        image_token_index=36, tie_word_embeddings=False), 16, None, 9),
    "gpt-oss": ("gpt_oss", dict(
        num_hidden_layers=3, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=5,
        swiglu_limit=1.5, rope_parameters=dict(
            rope_type="yarn", rope_theta=150000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=32.0,
            beta_slow=1.0, truncate=False)), 24, None, 13),
    "gpt-oss-mxfp4": ("gpt_oss", dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=8, num_local_experts=3,
        num_experts_per_tok=2, sliding_window=5), 16, "mxfp4", 9),
    "llama4": ("llama4_text", dict(
        num_hidden_layers=4, head_dim=8, intermediate_size_mlp=20, num_local_experts=3, interleave_moe_layer_step=2,
        no_rope_layer_interval=2, attention_chunk_size=7, floor_scale=4, attn_scale=0.3, rope_parameters=dict(
            rope_type="llama3", rope_theta=500000.0, factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0,
            original_max_position_embeddings=16)), 24, None, 13),
    "llama4-two": ("llama4_text", dict(
        num_hidden_layers=2, head_dim=8, intermediate_size_mlp=20, num_local_experts=3, num_experts_per_tok=2,
        use_qk_norm=False, no_rope_layers=[0, 1], attn_temperature_tuning=False, attention_bias=True,
        attention_chunk_size=None), 16, None, 9),
    "deepseek-v2": ("deepseek_v2", dict(
        num_hidden_layers=3, num_key_value_heads=2, kv_lora_rank=8, q_lora_rank=12, qk_nope_head_dim=6,
        qk_rope_head_dim=4, v_head_dim=5, n_routed_experts=6, n_shared_experts=2, num_experts_per_tok=2,
        moe_intermediate_size=7, n_group=3, topk_group=2, topk_method="group_limited_greedy",
        routed_scaling_factor=1.8, first_k_dense_replace=1, attention_bias=True, rope_parameters=dict(
            rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16, mscale=0.7,
            mscale_all_dim=0.9)), 24, None, 13),
    "deepseek-v2-lite": ("deepseek_v2", dict(
        num_key_value_heads=2, kv_lora_rank=8, q_lora_rank=None, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=8,
        n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=7,
        first_k_dense_replace=1), 16, None, 9),
    "deepseek-v3": ("deepseek_v3", dict(
        num_hidden_layers=3, num_key_value_heads=2, kv_lora_rank=8, q_lora_rank=12, qk_nope_head_dim=6,
        qk_rope_head_dim=4, v_head_dim=5, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3,
        moe_intermediate_size=7, n_group=4, topk_group=2, routed_scaling_factor=1.7, first_k_dense_replace=1,
        rope_parameters=dict(
            rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16, mscale=1.0,
            mscale_all_dim=1.0)), 24, None, 13),
    "deepseek-v3-halves": ("deepseek_v3", dict(
        num_key_value_heads=2, kv_lora_rank=8, q_lora_rank=None, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=8,
        n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=7, n_group=1, topk_group=1,
        norm_topk_prob=False, first_k_dense_replace=1, rope_interleave=False, attention_bias=True), 16, None, 9),
}

# Multimodal models, whose language part is what the reference is about.
WRAPPERS = ["gemma3", "mistral3"]


def old_form(config, kind):
    """The same configuration as versions of transformers before 5 wrote it."""
    if kind in ("gemma3", "olmo3"):
        rope = config.pop("rope_parameters")
        full, sliding = rope["full_attention"], rope["sliding_attention"]
        config["rope_theta"] = full.pop("rope_theta")
        config["rope_scaling"] = full
        if kind == "gemma3":
            config["rope_local_base_freq"] = sliding["rope_theta"]
            config["sliding_window_pattern"] = 3
        config["torch_dtype"] = config.pop("dtype", "float32")
        config.pop("layer_types", None)
        return
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope.pop("partial_rotary_factor", None)
    rope_type = rope.pop("rope_type")
    if rope_type != "default":
        rope.pop("original_max_position_embeddings", None)
        config["rope_scaling"] = {"type": "su" if kind == "su" else rope_type, **rope}
    config["torch_dtype"] = config.pop("dtype", "float32")
    config.pop("layer_types", None)


def pack(model):
    """Puts random numbers of MXFP4 into the experts of a gpt-oss and returns the packed tensors by name."""
    packed = {}
    for name, parameter in model.named_parameters():
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            experts, width, rows = parameter.shape
            blocks = torch.randint(0, 256, (experts, rows, width // 32, 16), dtype=torch.uint8)
            scales = torch.randint(122, 127, (experts, rows, width // 32), dtype=torch.uint8)
            numbers = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            assert numbers.shape == parameter.shape
            parameter.data.copy_(numbers)
            packed[name + "_blocks"], packed[name + "_scales"] = blocks, scales
    return packed


def store_packed(folder, packed):
    """Puts packed tensors in the place of those that they are."""
    path = os.path.join(folder, "model.safetensors")
    tensors = {name: tensor for name, tensor in load_file(path).items() if name + "_blocks" not in packed}
    save_file({**tensors, **packed}, path, metadata={"format": "pt"})


def main(out, names):
    torch.set_num_threads(1)
    for seed, (name, (model_type, settings, length, change, split)) in enumerate(MODELS.items()):
        if names and name not in names:
            continue
        torch.manual_seed(seed)
        wrapped = model_type in WRAPPERS
        config = CONFIG_MAPPING[model_type](**(settings if wrapped else {**SMALL, **settings}))
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        auto = AutoModelForImageTextToText if wrapped else AutoModelForCausalLM
        model = auto.from_config(config, dtype=torch.float32).eval()
        buffers = [buffer for part, buffer in model.named_buffers() if part.endswith("e_score_correction_bias")]
        for parameter in [*model.parameters(), *buffers]:
            # Large enough that every part of the computation shows in the logits; norms away from their neutral value.
            torch.nn.init.normal_(parameter, mean=0.6 if parameter.dim() == 1 else 0.0, std=0.3)
        packed = pack(model) if change == "mxfp4" else {}
        folder = os.path.join(out, name)
        model.save_pretrained(folder)
        generation = os.path.join(folder, "generation_config.json")
        if os.path.exists(generation):
            os.remove(generation)
        if packed:
            store_packed(folder, packed)
            path = os.path.join(folder, "config.json")
            written = json.load(open(path))
            written["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
            json.dump(written, open(path, "w"), indent=2)
        elif change:
            path = os.path.join(folder, "config.json")
            written = json.load(open(path))
            old_form(written, change)
            json.dump(written, open(path, "w"), indent=2)
        vocab_size = 34 if wrapped else config.vocab_size  # The last tokens of a multimodal model stand for images.
        ids = torch.randint(0, vocab_size, (2, length), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            tensors = {"input_ids": ids.int(), "logits": model(ids).logits}
            if split:
                # A model of its own: the rotary embedding remembers the longest text it has seen.
                fresh = auto.from_config(config, dtype=torch.float32).eval()
                fresh.load_state_dict(model.state_dict())
                first = fresh(ids[:, :split], use_cache=True)
                second = fresh(ids[:, split:], past_key_values=first.past_key_values, use_cache=True)
                tensors["logits_cached"] = torch.cat([first.logits, second.logits], 1)
                tensors["split"] = torch.tensor([split], dtype=torch.int32)
        save_file({key: value.contiguous() for key, value in tensors.items()}, os.path.join(folder, "reference.safetensors"))
        print(name, sum(p.numel() for p in model.parameters()))


main(sys.argv[1], sys.argv[2:])
