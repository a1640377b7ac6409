#!/usr/bin/env python3
"""How fast transformers scores multiple-choice questions, for comparison with the example `score_speed` of glue-lm.

    python3 tests/interop/score_speed.py MODEL --threads 2 --questions 64 --shared 0

prints {"seconds": ..., "questions_per_second": ..., "tokens_per_second": ..., "logprob": ...} for the questions of that example: the same
pseudo-random tokens, contexts of 40 to 160 tokens with four choices each, all after --shared tokens.

Sequences are sorted by length and batched by tokens, padded on the right, so that no mask is needed; the head is applied to the rows that
predict a token of a choice, and to no others. With --prefix the tokens that all questions share are run once and their keys and values
expanded to each batch, which is what a careful user of transformers can do by hand; by default they are run with each sequence, as
lm_eval does. Exits with status 3 and a line of words when a package is not there.
"""

import argparse
import json
import pathlib
import sys
import time

CHOICES = 4
WORD = 1 << 32


def token(seed, i):
    x = (seed * 2654435761 + i * 40503 + 12345) % WORD
    return ((x ^ (x >> 15)) * 2246822519) % WORD >> 8


def questions(count, shared, vocabulary):
    def text(seed, length):
        return [token(seed, i) % vocabulary for i in range(length)]

    prefix = text(WORD - 1, shared)
    for question in range(count):
        context = text(question, 40 + question * 37 % 121)
        for choice in range(CHOICES):
            yield prefix, context, text(1_000_000 + question * CHOICES + choice, 2 + (question + choice) * 5 % 9)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="model directory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--questions", type=int, default=64, help="number of questions (default 64)")
    parser.add_argument("--shared", type=int, default=0, help="tokens in front of all questions (default 0)")
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a batch, padding included (default 4096)")
    parser.add_argument("--prefix", action="store_true", help="run the shared tokens once")
    args = parser.parse_args()
    try:
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache
    except ImportError as error:
        print(f"{error.name or error} is not installed")
        sys.exit(3)
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    items = list(questions(args.questions, args.shared, model.config.vocab_size))
    once = args.prefix and args.shared > 0
    sequences = [((context if once else prefix + context), answer) for prefix, context, answer in items]
    sequences.sort(key=lambda sequence: -len(sequence[0]) - len(sequence[1]))

    def score(sequences):
        total, at = 0.0, 0
        past = None
        if once:
            past = model.model(torch.tensor([items[0][0]]), use_cache=True).past_key_values
        while at < len(sequences):
            width = sum(map(len, sequences[at])) - 1
            batch = sequences[at : at + max(1, args.batch // width)]
            at += len(batch)
            ids = torch.zeros((len(batch), width), dtype=torch.long)
            rows, columns, targets = [], [], []
            for row, (context, answer) in enumerate(batch):
                text = (context + answer)[:-1]
                ids[row, : len(text)] = torch.tensor(text)
                rows += [row] * len(answer)
                columns += range(len(context) - 1, len(text))
                targets += answer
            cache = None
            if past is not None:
                cache = DynamicCache()
                for layer, kept in enumerate(past.layers):
                    expanded = [x.expand(len(batch), -1, -1, -1) for x in (kept.keys, kept.values)]
                    cache.update(*expanded, layer)
            hidden = model.model(ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state
            logits = model.lm_head(hidden[rows, columns])
            total += torch.log_softmax(logits, -1).gather(1, torch.tensor(targets)[:, None]).double().sum().item()
        return total

    with torch.inference_mode():
        score(sequences[:CHOICES])
        start = time.perf_counter()
        total = score(sequences)
        seconds = time.perf_counter() - start
    tokens = sum(len(prefix) + len(context) + len(answer) for prefix, context, answer in items)
    figures = {"seconds": seconds, "questions_per_second": args.questions / seconds, "tokens_per_second": tokens / seconds, "logprob": total}
    print(json.dumps(figures))


main()
