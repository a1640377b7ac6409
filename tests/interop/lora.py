#!/usr/bin/env python3
"""Compares LoRA adapters as PEFT applies them with `glue merge`, and adapters of `glue extract-lora` as PEFT loads them.

    python3 tests/interop/lora.py --glue target/release/glue [--zoo tests/data/zoo]

Three comparisons, each a line of JSON {"case": ..., "what": ..., "difference": ..., "of": ...} with the largest difference and the
largest number that it is a difference of:

- peft-*: adapters that PEFT makes with random factors (ranks and alphas by module, rsLoRA, DoRA, embedding and head, whole modules);
  the weights of `merge_and_unload` against those of `glue merge` with `passthrough` and `model+adapter`, all in float32.
- extracted-*: adapters of `glue extract-lora`, at a fixed rank, by energy, and at full rank with whole tensors; logits of the base with
  the adapter in PEFT against logits of the merged model in transformers and in `glue logits`.
- restored: the adapter of full rank in PEFT against the fine-tuned model itself.

The status is 1 when a difference is above the tolerance times the largest number. Where torch, transformers or PEFT are missing, it says
so and ends with status 0.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f"skipped: {error}", file=sys.stderr)
    raise SystemExit(0)

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Both compute in float32 and add up in another order: sums of a rank of terms for weights, of all layers for logits. What was
# rounded to float32 between a decomposition and its product adds as much again.
WEIGHTS, LOGITS, RESTORED = 1e-6, 2e-5, 1e-4

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MADE = {
    "plain": dict(r=4, lora_alpha=8, target_modules=LAYERS),
    "patterns": dict(
        r=4,
        lora_alpha=8,
        target_modules=LAYERS,
        rank_pattern={"q_proj": 2, "^model.layers.0.mlp.up_proj": 7, r".*\.[12]\..*down_proj": 3},
        alpha_pattern={"layers.1.self_attn.v_proj": 1, "mlp.down_proj": 5},
    ),
    "rslora": dict(r=6, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "v_proj"]),
    "dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=LAYERS),
    "dora-outside": dict(r=3, lora_alpha=6, use_dora=True, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "outside": dict(r=3, lora_alpha=3, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "whole": dict(r=2, lora_alpha=2, target_modules=["o_proj"], modules_to_save=["lm_head", "model.norm", "embed_tokens"]),
}
EXTRACTED = {
    "rank": ["--rank", "4"],
    "energy": ["--energy", "0.8", "--save-full"],
    "everything": ["--rank", "9999", "--embeddings", "--head", "--save-full"],
}


def glue(args, binary):
    done = subprocess.run([str(binary), *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"glue {' '.join(map(str, args))}: {done.stderr}")


def apply(model, adapter, out, binary):
    """Writes the model with the adapter applied, in float32."""
    config = out.with_suffix(".yml")
    config.write_text(f"merge_method: passthrough\nmodels: [{{model: {model}+{adapter}}}]\n")
    glue(["merge", config, out, "--dtype", "float32", "--quiet"], binary)


def load(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def largest(pairs):
    difference = max(float((x - y).abs().max()) for x, y in pairs)
    return difference, max(float(y.abs().max()) for _, y in pairs)


def randomised(config, base):
    """The base in PEFT with an adapter of which nothing is zero."""
    torch.manual_seed(7)
    model = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + torch.randn_like(parameter) * 0.1)
            elif "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
            elif "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", type=pathlib.Path, default=ROOT / "target/release/glue")
    parser.add_argument("--zoo", type=pathlib.Path, default=ROOT / "tests/data/zoo", help="has base-a and a-math")
    args = parser.parse_args()
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    base, fine = args.zoo / "base-a", args.zoo / "a-math"
    ids = torch.tensor([[(7 * i + 3 * j) % 500 + 4 for j in range(24)] for i in range(3)])
    failed = False

    def report(case, what, pairs, tolerance):
        nonlocal failed
        difference, of = largest(pairs)
        failed |= not difference <= tolerance * of
        print(json.dumps({"case": case, "what": what, "difference": difference, "of": of}), flush=True)

    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        directory = pathlib.Path(directory)
        for name, config in MADE.items():
            adapter, out = directory / f"peft-{name}", directory / f"peft-{name}-applied"
            model = randomised(config, base)
            model.save_pretrained(adapter)
            apply(base, adapter, out, args.glue)
            ours, theirs = load_file(out / "model.safetensors"), model.merge_and_unload().state_dict()
            missing = ours.keys() ^ theirs.keys()
            if missing:
                raise SystemExit(f"{name}: in only one of them: {sorted(missing)}")
            before = load(base).state_dict()
            changed = sum(not torch.equal(before[key], theirs[key]) for key in theirs)
            report(f"peft-{name}", f"weights, {changed} changed", [(ours[key], theirs[key]) for key in theirs], WEIGHTS)

        save_file({"input_ids": ids.to(torch.int32)}, directory / "ids.safetensors")
        for name, options in EXTRACTED.items():
            adapter, out = directory / f"extracted-{name}", directory / f"extracted-{name}-applied"
            glue(["extract-lora", base, fine, adapter, "--quiet", *options], args.glue)
            apply(base, adapter, out, args.glue)
            model = peft.PeftModel.from_pretrained(load(base), adapter).eval()
            theirs = model(ids).logits
            report(f"extracted-{name}", "logits, transformers", [(load(out)(ids).logits, theirs)], LOGITS)
            glue(["logits", out, "--ids", directory / "ids.safetensors", "--out", directory / f"{name}.safetensors"], args.glue)
            report(f"extracted-{name}", "logits, glue", [(load_file(directory / f"{name}.safetensors")["logits"], theirs)], LOGITS)
        report("restored", "logits, against the fine-tuned model", [(theirs, load(fine)(ids).logits)], RESTORED)
    return failed


if __name__ == "__main__":
    sys.exit(main())
