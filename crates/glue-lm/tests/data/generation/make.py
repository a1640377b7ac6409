"""Writes greedy.json: what transformers tokenizes and generates, greedily and in float32, with models of the zoo.

    python3 make.py ZOO        (with transformers and torch installed; made with 5.23.0 and 2.15.0)

Each prompt runs alone, without padding. `margin` is the least distance between the best and the second best score over all
steps of a prompt; prompts with a smaller one than 0.001 are left out, since rounding could decide them.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MODELS = ["a-chat", "b-code", "c-chat"]
NEW = 24
# The first prompts again, so penalised.
PENALTY = 1.3
PENALISED = 8
PROMPTS = [
    "leo has 15 shells and gets 15 more. How many? A:",
    "leo has 15 shells and gives 4 away. How many? A:",
    "joy has 14 shells and gets 13 more. How many? A:",
    "Q: What is the pet of mipim? A:",
    "Q: What is the pet of pira? A:",
    "Q: What is the",
    "tom is shorter than eva. eva is shorter than dan. Who is shortest? A:",
    "amy is older than dan. dan is older than max. Who is oldest? A:",
    's = "b-r-i"; print(rot(s)) ->',
    "x = [8,6,5,4]; print(x[1:]) ->",
    "x = [8,6,5,4]; print(x[::-1]) ->",
    "The pen does not fit in the rug as it is too big. What is big? A:",
    "The pen hid behind the rug as it is so wide. What is wide? A:",
    "The",
    "x",
    "",
    "12345 67 + 89",
    "A line\nand\tanother\n",
    "Ünïcödé 日本語 😀 ✓",
    "  two  spaces  ",
    "leo has 15 shells and gets 15 more. How many? A: 30\njoy has 3 pens and gets 4 more. How many? A:",
    "<s>not a beginning</s> <|end|> after",
]


def main(zoo):
    out = {"max_new_tokens": NEW, "models": {}}
    for name in MODELS:
        tokenizer = AutoTokenizer.from_pretrained(zoo / name)
        model = AutoModelForCausalLM.from_pretrained(zoo / name, dtype=torch.float32)
        cases = []
        runs = [(prompt, 1.0) for prompt in PROMPTS] + [(prompt, PENALTY) for prompt in PROMPTS[:PENALISED]]
        for prompt, penalty in runs:
            ids = tokenizer(prompt)["input_ids"]
            made = model.generate(
                torch.tensor([ids]),
                do_sample=False,
                max_new_tokens=NEW,
                repetition_penalty=penalty,
                output_scores=True,
                return_dict_in_generate=True,
            )
            tokens = made.sequences[0][len(ids) :].tolist()
            best = torch.stack([step[0].topk(2).values for step in made.scores])
            margin = (best[:, 0] - best[:, 1]).min().item()
            if margin < 1e-3:
                print("left out:", name, repr(prompt), margin)
                continue
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            back = tokenizer.decode(ids, skip_special_tokens=True)
            case = {"prompt": prompt, "penalty": penalty, "ids": ids, "back": back, "tokens": tokens, "text": text}
            cases.append(case)
        out["models"][name] = cases
    lines = json.dumps(out, ensure_ascii=False, separators=(",", ":")).replace('{"prompt"', '\n{"prompt"')
    (Path(__file__).parent / "greedy.json").write_text(lines + "\n")


main(Path(sys.argv[1]))
