#!/usr/bin/env python3
"""Compares mixtures on disk as transformers runs them with the definition in docs/mixture-format.md, and with glue.

    python3 tests/interop/mixture.py MIXTURE ... [--glue GLUE] [--tolerance 1e-3]

For each directory: logits of a padded batch from transformers (with trust_remote_code for the project's own form) against logits
computed here from the files, sample by sample without padding, in plain float64 torch; greedy generation with a cache against
generation without; the names of tensors in the files against those that the model expects; and, with --glue, the logits of
`glue logits`. The definition here covers the Llama and Mistral families without
windows or scaled rotary embeddings, in the forms mixtral, qwen2_moe and glue_mixture; for other families the figure is absent, and only the
rest is compared. A mixture of whole models is compared expert by expert.

One JSON line for each directory: {"mixture": ..., "names": true, "definition": largest difference, "generation": true, "glue": ...,
"routes": ...}. The status is 1 when a difference is above the tolerance, or generation or names differ. Where torch and transformers are missing, it says so and
ends with status 0.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f"skipped: {error}", file=sys.stderr)
    raise SystemExit(0)

F = torch.nn.functional
# Of `from_pretrained`, under the name that the version has for it.
FLOAT32 = {"dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype": torch.float32}


def tensors_of(directory):
    index = directory / "model.safetensors.index.json"
    files = [directory / "model.safetensors"]
    if index.exists():
        files = [directory / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return {name: tensor.double() for file in files for name, tensor in load_file(file).items()}


class Definition:
    """What docs/mixture-format.md says, for one sample without padding."""

    def __init__(self, directory):
        self.config = json.loads((directory / "config.json").read_text())
        self.form = self.config["model_type"]
        self.base = self.config["base"] if self.form == "glue_mixture" else self.config
        self.t = tensors_of(directory)
        self.routes = {}
        base = self.base
        kind = base["model_type"]
        rope = base.get("rope_parameters") or base.get("rope_scaling") or {}
        window = base.get("sliding_window") if kind in ("mistral", "mixtral") else None
        if kind not in ("llama", "mistral", "mixtral", "qwen2_moe") or rope.get("rope_type", "default") != "default" or window:
            raise NotImplementedError(kind)
        self.theta = rope.get("rope_theta") or base.get("rope_theta", 10000.0)
        self.heads, self.kv = base["num_attention_heads"], base["num_key_value_heads"]
        self.head_dim = base.get("head_dim") or base["hidden_size"] // self.heads
        self.depth = base["num_hidden_layers"]

    def linear(self, x, name):
        return F.linear(x, self.t[name + ".weight"], self.t.get(name + ".bias"))

    def norm(self, x, name):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.base["rms_norm_eps"])
        return x * scale * self.t[name + ".weight"]

    def attention(self, x, at):
        n = x.shape[0]
        q = self.linear(x, at + "q_proj").view(n, self.heads, self.head_dim)
        k = self.linear(x, at + "k_proj").view(n, self.kv, self.head_dim)
        v = self.linear(x, at + "v_proj").view(n, self.kv, self.head_dim)
        frequency = self.theta ** (-torch.arange(0, self.head_dim, 2).double() / self.head_dim)
        angle = torch.arange(n).double()[:, None] * frequency
        cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
        half = self.head_dim // 2
        turn = lambda y: y * cos + torch.cat([-y[..., half:], y[..., :half]], -1) * sin
        q, k = turn(q), turn(k)
        k, v = (y.repeat_interleave(self.heads // self.kv, 1) for y in (k, v))
        scores = torch.einsum("ihd,jhd->hij", q, k) / self.head_dim**0.5
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf")).softmax(-1)
        return self.linear(torch.einsum("hij,jhd->ihd", scores, v).reshape(n, -1), at + "o_proj")

    def mlp(self, x, at, names=("gate_proj", "up_proj", "down_proj")):
        gate, up, down = names
        return self.linear(F.silu(self.linear(x, at + gate)) * self.linear(x, at + up), at + down)

    def gate(self, x, at):
        if at + "up.weight" in self.t:
            return self.linear(F.silu(self.linear(x, at + "up")), at + "down")
        return F.linear(x, self.t[at + "weight"], self.t.get(at + "bias"))

    def weights(self, x, at, prompt):
        """[tokens or 1, experts]."""
        c = self.config
        used = c.get("experts_per_token") or c.get("num_experts_per_tok")
        if c.get("routing", "token") == "sample":
            states = x[:prompt]
            x = {"mean": states.mean(0), "first": states[0], "last": states[-1]}[c["pool"]][None]
        p = self.gate(x, at).softmax(-1)
        order = p.sort(dim=-1, descending=True, stable=True).indices[:, :used]
        kept = torch.zeros_like(p).scatter(-1, order, p.gather(-1, order))
        self.routes[at] = order.tolist()
        return kept / kept.sum(-1, keepdim=True)

    def mixed_mlp(self, x, layer, prompt):
        at = f"model.layers.{layer}."
        if self.form == "mixtral":
            w = self.weights(x, at + "block_sparse_moe.gate.", prompt)
            one = lambda e: self.mlp(x, f"{at}block_sparse_moe.experts.{e}.", ("w1", "w3", "w2"))
        elif at + "mlp.gate_proj.weight" in self.t:
            return self.mlp(x, at + "mlp.")
        else:
            w = self.weights(x, at + "mlp.gate.", prompt)
            one = lambda e: self.mlp(x, f"{at}mlp.experts.{e}.")
        total = sum(w[:, e : e + 1] * one(e) for e in range(w.shape[1]))
        if self.form == "qwen2_moe":
            total = total + torch.sigmoid(self.linear(x, at + "mlp.shared_expert_gate")) * self.mlp(x, at + "mlp.shared_expert.")
        return total

    def layer(self, x, at, mlp):
        x = x + self.attention(self.norm(x, at + "input_layernorm"), at + "self_attn.")
        return x + mlp(self.norm(x, at + "post_attention_layernorm"))

    def logits(self, ids, prompt=None):
        prompt = len(ids) if prompt is None else prompt
        x = self.t["model.embed_tokens.weight"][torch.tensor(ids)]
        level, mixed = self.config.get("level", "ffn"), self.config.get("mixed_layers", [])
        experts = range(len(self.config.get("experts", [])))
        plain = lambda at: lambda y: self.mlp(y, at + "mlp.")
        streams = None
        for l in range(self.depth):
            at = f"model.layers.{l}."
            if level == "ffn":
                x = self.layer(x, at, lambda y: self.mixed_mlp(y, l, prompt))
            elif l not in mixed:
                x = self.layer(x, at, plain(at))
            elif level == "block":
                w = self.weights(x, at + "gate.", prompt)
                x = sum(w[:, e : e + 1] * self.layer(x, f"{at}experts.{e}.", plain(f"{at}experts.{e}.")) for e in experts)
            else:
                if streams is None:
                    w, streams = self.weights(x, "model.gate.", prompt), [x for _ in experts]
                streams = [self.layer(s, f"{at}experts.{e}.", plain(f"{at}experts.{e}.")) for e, s in enumerate(streams)]
        if streams is not None:
            x = sum(w[:, e : e + 1] * s for e, s in enumerate(streams))
        head = self.t.get("lm_head.weight", self.t["model.embed_tokens.weight"])
        return F.linear(self.norm(x, "model.norm"), head)


def batch_for(vocabulary):
    """Three samples: whole, padded on the left, padded on the right."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(4, vocabulary, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    mask[2, 9:] = 0
    return ids, mask


def load(directory):
    return load_with_names(directory)[0]


def load_with_names(directory):
    """The model, and whether it has a place for every tensor of the files and finds a tensor for every place."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=True, output_loading_info=True, **FLOAT32
    )
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
    if wrong:
        print(f"{directory}: {wrong}", file=sys.stderr)
    return model.eval(), not wrong


def largest(a, b):
    return float((a.double() - b.double()).abs().max())


def with_glue(glue, directory, ids, mask, expected):
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        save_file({"input_ids": ids.int().contiguous(), "attention_mask": mask.int().contiguous()}, work / "ids.safetensors")
        subprocess.run([glue, "logits", directory, "--ids", work / "ids.safetensors", "--out", work / "out.safetensors", "--quiet"], check=True)
        found = load_file(work / "out.safetensors")["logits"]
    return max(largest(found[i][mask[i].bool()], expected[i][mask[i].bool()]) for i in range(len(ids)))


def shared_trunk(directory, arguments):
    model, names = load_with_names(directory)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids, mask = batch_for(vocabulary)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    result = {"names": names}
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        try:
            definition = Definition(directory)
            rows = [definition.logits(ids[i][mask[i].bool()].tolist()) for i in range(len(ids))]
            result["definition"] = max(largest(found[i][mask[i].bool()], row) for i, row in enumerate(rows))
            result["routes"] = {name: route[-1] for name, route in definition.routes.items()}
            prompt = 5
            marks = torch.zeros_like(ids[:1])
            marks[:, :prompt] = 1
            extra = {"prompt_mask": marks} if definition.form == "glue_mixture" else {}
            asked = model(input_ids=ids[:1], use_cache=False, **extra).logits[0]
            result["of_prompt"] = largest(asked, definition.logits(ids[0].tolist(), prompt))
        except NotImplementedError:
            pass
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        cached = model.generate(ids[:2], attention_mask=mask[:2], **options)
        # Without a cache every step reads the text from its beginning: what is the prompt must be said.
        text, marks = [ids[:2], mask[:2]], mask[:2]
        for _ in range(options["max_new_tokens"]):
            extra = {"prompt_mask": marks} if model.config.model_type == "glue_mixture" else {}
            places = (text[1].cumsum(-1) - 1).clamp(min=0)
            step = model(input_ids=text[0], attention_mask=text[1], position_ids=places, use_cache=False, **extra).logits
            text = [torch.cat([text[0], step[:, -1:].argmax(-1)], 1), torch.cat([text[1], torch.ones_like(text[1][:, :1])], 1)]
        result["generation"] = bool((cached == text[0]).all())
        if arguments.glue:
            result["glue"] = with_glue(arguments.glue, directory, ids, mask, found)
    return result


def whole(directory, arguments):
    """The gate by hand on the router model's states; each expert's answer by itself."""
    config = json.loads((directory / "config.json").read_text())
    model, names = load_with_names(directory)
    reader = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    router = load(directory / config["router_model"])
    gate = tensors_of(directory)
    texts = ["Q: What is the job of mipim? A:", "leo has 15 shells and gets 15 more. How many? A:", "x = [8,6,5,4]; print(x[1:]) ->"]
    same, margins, chosen = True, [], []
    with torch.no_grad():
        for text in texts:
            encoded = reader(text, return_tensors="pt")
            ids = encoded["input_ids"]
            # transformers gives the state after the final norm as the last hidden state, in place of the last layer's.
            layer = config["router_layer"]
            hidden = router(input_ids=ids, output_hidden_states=True).hidden_states
            states = hidden[min(layer, len(hidden) - 1)][0].double()
            if layer == len(hidden) - 1:
                raise SystemExit("router_layer: the stream that leaves the last layer is not among those that transformers gives")
            state = {"mean": states.mean(0), "first": states[0], "last": states[-1]}[config["pool"]]
            if "gate.up.weight" in gate:
                inner = F.silu(F.linear(state, gate["gate.up.weight"], gate["gate.up.bias"]))
                scores = F.linear(inner, gate["gate.down.weight"], gate["gate.down.bias"])
            else:
                scores = F.linear(state, gate["gate.weight"], gate.get("gate.bias"))
            expert = int(scores.argmax())
            chosen.append(expert)
            same &= model.route(ids).tolist() == [expert]
            top = scores.sort(descending=True).values
            margins.append(float(top[0] - top[1]))
            own, tokenizer = load(directory / f"experts/{expert}"), transformers.AutoTokenizer.from_pretrained(directory / f"experts/{expert}")
            there = tokenizer(text, return_tensors="pt")["input_ids"]
            options = {"max_new_tokens": 8, "do_sample": False}
            alone = tokenizer.decode(own.generate(there, **options)[0][there.shape[1] :], skip_special_tokens=True)
            mixed = reader.decode(model.generate(ids, **options)[0][ids.shape[1] :], skip_special_tokens=True)
            same &= alone == mixed
    return {"names": names, "generation": same, "margin": min(margins), "routes": chosen}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixtures", nargs="+", type=pathlib.Path)
    parser.add_argument("--glue", help="the binary `glue`")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference of a logit (default 1e-3)")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    failed = False
    for directory in arguments.mixtures:
        config = json.loads((directory / "config.json").read_text())
        result = whole(directory, arguments) if config.get("whole") else shared_trunk(directory, arguments)
        over = [key for key in ("definition", "of_prompt", "glue") if result.get(key, 0.0) > arguments.tolerance]
        failed |= bool(over) or not result["generation"] or not result["names"]
        print(json.dumps({"mixture": directory.name, **result}), flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
