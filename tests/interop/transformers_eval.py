#!/usr/bin/env python3
"""Scores a model with transformers on tasks in the form of `task.json` and JSON Lines, as fast as that reasonably goes.

It is what `glue eval` is measured against, and so has what a good harness has: float32, batches by length, right padding for
log-likelihoods (which needs no mask under causal attention), logits only where they are looked at, a context shared by several choices run
once, left padding and a key-value cache for generation, finished sequences dropped. What is timed is everything from texts to scores,
tokenization included; loading is timed apart. One run warms up, the best of `--repeat` counts.

    python3 tests/interop/transformers_eval.py MODEL --tasks TASKS [--split test] [--task NAME ...] [--threads 2]

prints {"seconds_load": ..., "seconds_score": ..., "items": ..., "tokens": ..., "tasks": {"NAME": {"METRIC": value, "n": count}}}.
`tokens` counts those that are scored or generated with their contexts, each sequence by itself and without padding, so that the figure
does not depend on what is shared. Needs torch and transformers, which it asks for in one line when they are not there.
"""

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="model directory")
    parser.add_argument("--tasks", type=pathlib.Path, required=True, help="directory of task directories")
    parser.add_argument("--task", action="append", help="only this task; may be given several times")
    parser.add_argument("--split", default="test", help="SPLIT.jsonl is read (default test)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens of a batch, padding included (default 2048)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the best counts, after one to warm up (default 3)")
    parser.add_argument("--no-sharing", action="store_true", help="run the context again for each choice")
    return parser.parse_args()


def read_tasks(directory, names, split):
    """Name, description and items of each task, by name."""
    tasks = []
    for path in sorted(directory.glob("*/task.json")):
        description = json.loads(path.read_text())
        if names and description["name"] not in names:
            continue
        with (path.parent / f"{split}.jsonl").open() as lines:
            items = [json.loads(line) for line in lines if line.strip()]
        tasks.append((description["name"], description, items))
    if not tasks:
        raise SystemExit(f"{directory}: expected directories with a task.json, found none that is wanted")
    return tasks


def batches(lengths, budget):
    """Indices in batches of similar lengths, the longest first: each times its longest is within the budget."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def padded(torch, rows, left=False):
    """Rows of tokens as one tensor; where nothing is, token 0."""
    width = max(map(len, rows))
    if left:
        return torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


class Scorer:
    def __init__(self, torch, transformers, arguments):
        self.torch, self.budget, self.sharing = torch, arguments.batch_tokens, not arguments.no_sharing
        self.cache = transformers.DynamicCache
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
        config = self.model.config
        if getattr(config, "final_logit_softcapping", None):
            raise SystemExit("final_logit_softcapping: this harness takes the logits from the output embeddings alone")
        self.decoder, self.head = self.model.get_decoder(), self.model.get_output_embeddings()
        self.longest = config.max_position_embeddings
        self.end = {self.tokenizer.eos_token_id}
        vocabulary = range(config.vocab_size)
        self.newline = torch.tensor(["\n" in text for text in self.tokenizer.batch_decode([[i] for i in vocabulary])])
        self.newline[list(self.end)] = True

    def encode(self, texts):
        return self.tokenizer(texts, return_attention_mask=False)["input_ids"] if texts else []

    def sums(self, hidden, rows, columns, wanted, owners, count):
        """Log-probabilities of the wanted tokens at those places of the hidden states, summed by owner."""
        torch = self.torch
        logits = self.head(hidden[rows, columns])
        wanted = torch.tensor(wanted)
        found = logits.gather(1, wanted[:, None])[:, 0].double() - torch.logsumexp(logits, 1).double()
        return torch.zeros(count, dtype=torch.float64).index_add_(0, torch.tensor(owners), found)

    def whole(self, contexts, wholes):
        """Sum for each sequence after its context, all in full."""
        torch = self.torch
        result = [0.0] * len(wholes)
        rows = [whole[-self.longest - 1 :] for whole in wholes]
        for batch in batches([len(row) - 1 for row in rows], self.budget):
            # The last token is predicted, but predicts nothing that is asked for.
            hidden = self.decoder(input_ids=padded(torch, [rows[i][:-1] for i in batch]), use_cache=False).last_hidden_state
            at, columns, wanted = [], [], []
            for row, i in enumerate(batch):
                for column in range(len(rows[i]) - (len(wholes[i]) - contexts[i]), len(rows[i])):
                    at.append(row)
                    columns.append(column - 1)
                    wanted.append(rows[i][column])
            for i, value in zip(batch, self.sums(hidden, at, columns, wanted, at, len(batch)).tolist()):
                result[i] = value
        return result

    def shared(self, heads, tails):
        """Sum for each tail of each head: the head runs once, its keys and values serve all of its tails."""
        torch = self.torch
        result = [[0.0] * len(of) for of in tails]
        # Heads of one length in a batch need no padding, so that tails stand directly behind them.
        lengths = {}
        for i, head in enumerate(heads):
            lengths.setdefault(len(head), []).append(i)
        for length, same in lengths.items():
            widest = max(len(tail) for i in same for tail in tails[i])
            per_head = length + widest * max(len(tails[i]) for i in same)
            size = max(1, self.budget // per_head)
            for start in range(0, len(same), size):
                batch = same[start : start + size]
                cache = self.cache()
                heads_of = torch.tensor([heads[i] for i in batch])
                hidden = self.decoder(input_ids=heads_of, past_key_values=cache, use_cache=True).last_hidden_state
                pairs = [(row, i, j) for row, i in enumerate(batch) for j in range(len(tails[i]))]
                owner_rows = [row for row, _, _ in pairs]
                first = [tails[i][j][0] for _, i, j in pairs]
                count = len(pairs)
                total = self.sums(hidden[:, -1:], owner_rows, [0] * count, first, list(range(count)), count)
                longer = [k for k, (_, i, j) in enumerate(pairs) if len(tails[i][j]) > 1]
                if longer:
                    cache.batch_select_indices(torch.tensor([owner_rows[k] for k in longer]))
                    rest = [tails[pairs[k][1]][pairs[k][2]] for k in longer]
                    hidden = self.decoder(input_ids=padded(torch, [tail[:-1] for tail in rest]), past_key_values=cache, use_cache=True)
                    at = [row for row, tail in enumerate(rest) for _ in tail[1:]]
                    columns = [column for tail in rest for column in range(len(tail) - 1)]
                    wanted = [token for tail in rest for token in tail[1:]]
                    total += self.sums(hidden.last_hidden_state, at, columns, wanted, [longer[row] for row in at], count)
                for (_, i, j), value in zip(pairs, total.tolist()):
                    result[i][j] = value
        return result

    def choose(self, description, items):
        """Scores and tokens of a task with choices."""
        delimiter = description.get("target_delimiter", " ")
        contexts = self.encode([item["context"] for item in items])
        texts = [item["context"] + delimiter + choice for item in items for choice in item["choices"]]
        wholes = iter(self.encode(texts))
        wholes = [[next(wholes) for _ in item["choices"]] for item in items]
        tokens = sum(len(whole) for of in wholes for whole in of)
        shareable = all(whole[: len(head)] == head and len(head) < len(whole) <= self.longest for head, of in zip(contexts, wholes) for whole in of)
        if self.sharing and shareable:
            sums = self.shared(contexts, [[whole[len(head) :] for whole in of] for head, of in zip(contexts, wholes)])
        else:
            flat = iter(self.whole([len(head) for head, of in zip(contexts, wholes) for _ in of], [whole for of in wholes for whole in of]))
            sums = [[next(flat) for _ in of] for of in wholes]
        right = right_by_length = 0
        for item, of in zip(items, sums):
            by_length = [value / len(choice) for value, choice in zip(of, item["choices"])]
            right += max(range(len(of)), key=of.__getitem__) == item["gold"]
            right_by_length += max(range(len(of)), key=by_length.__getitem__) == item["gold"]
        return {"acc": right / len(items), "acc_norm": right_by_length / len(items), "n": len(items)}, tokens

    def generate(self, description, items):
        """Scores and tokens of a task with generated answers."""
        torch = self.torch
        most = description.get("max_gen_toks", 16)
        prompts = [prompt[-(self.longest - most) :] for prompt in self.encode([item["context"] for item in items])]
        answers = [[] for _ in items]
        for batch in batches([len(prompt) + most for prompt in prompts], self.budget):
            rows = [prompts[i] for i in batch]
            ids, lengths = padded(torch, rows, left=True), torch.tensor([len(row) for row in rows])
            width = ids.shape[1]
            mask = (torch.arange(width)[None] >= width - lengths[:, None]).long()
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            cache, owners = self.cache(), torch.tensor(batch)
            for step in range(most):
                hidden = self.decoder(
                    input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
                ).last_hidden_state
                ids = self.head(hidden[:, -1]).argmax(1, keepdim=True)
                for i, token in zip(owners.tolist(), ids[:, 0].tolist()):
                    answers[i].append(token)
                going = torch.nonzero(~self.newline[ids[:, 0]])[:, 0]
                if step + 1 == most or len(going) == 0:
                    break
                positions = positions[:, -1:] + 1
                if len(going) < len(owners):
                    cache.batch_select_indices(going)
                    ids, mask, positions, owners = ids[going], mask[going], positions[going], owners[going]
                mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], 1)
        tokens = sum(map(len, prompts)) + sum(map(len, answers))
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        right = sum(text.split("\n")[0].strip() == item["target"] for text, item in zip(texts, items))
        return {"exact_match": right / len(items), "n": len(items)}, tokens

    def score(self, tasks):
        """All scores, and the number of tokens."""
        scores, total = {}, 0
        for name, description, items in tasks:
            run = self.generate if description["kind"] == "generate" else self.choose
            scores[name], tokens = run(description, items)
            total += tokens
        return scores, total


def main():
    arguments = options()
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"{error}; `pip install torch transformers` gets it", file=sys.stderr)
        return 1
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    tasks = read_tasks(arguments.tasks, arguments.task, arguments.split)
    with torch.inference_mode():
        started = time.perf_counter()
        scorer = Scorer(torch, transformers, arguments)
        seconds_load = time.perf_counter() - started
        scorer.score(tasks)
        best = float("inf")
        for _ in range(max(1, arguments.repeat)):
            started = time.perf_counter()
            scores, tokens = scorer.score(tasks)
            best = min(best, time.perf_counter() - started)
    items = sum(len(of) for _, _, of in tasks)
    answer = {"seconds_load": seconds_load, "seconds_score": best, "items": items, "tokens": tokens, "tasks": scores}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
