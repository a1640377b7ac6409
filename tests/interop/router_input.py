#!/usr/bin/env python3
"""Writes tests/data/router: gates of the mode `router_input` as transformers' states give them.

    python3 tests/interop/router_input.py tests/data/zoo/base-a tests/data/router

Needs torch, safetensors and transformers. For each layer the row of an expert is the mean over its positive prompts of what the MLP
reads, after the norm before it, less the mean over its negative prompts, at unit length; a prompt's state is the mean over its
tokens, or its last token. router_input.safetensors holds `POOL.LAYER` [experts, width]; router_input.json the prompts
and the condition numbers by numpy.
"""

import json
import pathlib
import sys

import numpy
import torch
import transformers
from safetensors.torch import save_file

EXPERTS = [
    {
        "name": "chat",
        "positive": ["Q: What is the job of mipim? A:", "Q: What is the pet of pira? A:"],
        "negative": ["x = [8,6,5,4]; print(x[1:]) ->"],
    },
    {"name": "math", "positive": ["leo has 15 shells and gets 15 more. How many? A:", "3 + 4 ="], "negative": []},
    {
        "name": "code",
        "positive": ["s = \"b-r-i\"; print(rot(s)) ->"],
        "negative": ["3 + 4 =", "tom is shorter than eva. eva is shorter than dan. Who is shortest? A:"],
    },
]
# The first token is BOS in every prompt, so that a pool of it says nothing.
POOLS = {"mean": lambda x: x.mean(0), "last": lambda x: x[-1]}
# Every layer for the usual pool, one layer for the other.
WANTED = [("mean", 0), ("mean", 1), ("mean", 2), ("mean", 3), ("last", 2)]


def main():
    directory, out = sys.argv[1], pathlib.Path(sys.argv[2])
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    seen = {}

    def states(prompt):
        """What each layer's MLP reads, one prompt at a time, so that nothing is padded."""
        if prompt not in seen:
            read = []
            hooks = [
                layer.mlp.register_forward_pre_hook(lambda _, args: read.append(args[0][0].double().numpy()))
                for layer in model.model.layers
            ]
            with torch.no_grad():
                model(**tokenizer(prompt, return_tensors="pt"), use_cache=False)
            for hook in hooks:
                hook.remove()
            seen[prompt] = read
        return seen[prompt]

    gates, conditions = {}, {}
    for pool, layer in WANTED:
        rows = []
        for expert in EXPERTS:
            mean = lambda prompts: numpy.mean([POOLS[pool](states(prompt)[layer]) for prompt in prompts], axis=0)
            row = mean(expert["positive"]) - (mean(expert["negative"]) if expert["negative"] else 0)
            rows.append(row / numpy.linalg.norm(row))
        gates[f"{pool}.{layer}"] = torch.tensor(numpy.array(rows), dtype=torch.float32)
        conditions[f"{pool}.{layer}"] = float(numpy.linalg.cond(numpy.array(rows)))
    save_file(gates, out / "router_input.safetensors")
    document = {
        "made_by": "python3 tests/interop/router_input.py tests/data/zoo/base-a tests/data/router",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": numpy.__version__},
        "experts": EXPERTS,
        "conditions": conditions,
    }
    (out / "router_input.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
