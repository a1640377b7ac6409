"""Writes the items in data/ and, in expected.json, the requests and scores of lm_eval 0.4.13 for the tasks in tasks/.

usage: python make.py, in this directory, with lm_eval installed. The model is a function of the text of a request (`crc` below),
which tests/it/harness.rs has too, so that every prompt and every score can be compared.
"""
import json
import random
import zlib
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

here = Path(__file__).parent
rnd = random.Random(7)


def crc(*texts):
    return zlib.crc32("\x1f".join(texts).encode())


class Table(LM):
    def __init__(self):
        super().__init__()
        self.seen = {"loglikelihood": [], "loglikelihood_rolling": [], "generate_until": []}

    def score(self, context, continuation):
        h = crc(context, continuation)
        return -(1.5 * len(continuation) + h % 1000 / 64), h % 3 == 0

    def loglikelihood(self, requests, **kwargs):
        return [self.score(*r.args) for r in requests]

    def loglikelihood_rolling(self, requests, **kwargs):
        return [self.score("", r.args[0])[0] for r in requests]

    def generate_until(self, requests, **kwargs):
        out, times = [], {}
        for r in requests:
            j = times[r.args[0]] = times.get(r.args[0], -1) + 1
            h = crc(r.args[0], str(j))
            out.append(["The answer is 7.", " Seven #### 7 ", "I think 7, no 12", "TWELVE!", "#### 12 or #### 5"][h % 5])
        return out


def items(n, first):
    things = ["cat", "it's", "a dog", "the big goat", "fish", "42", "é"]
    for i in range(n):
        choices = rnd.sample(things, 3)
        answer = rnd.randrange(3)
        number = rnd.choice(["7", "12", "five"])
        yield {
            "question": f"What is item {first + i}? ", "choices": choices, "answer": answer, "label": choices[answer],
            "contexts": [f"It is {c}" for c in choices], "ending": " and so on", "number": number,
            "numbers": rnd.sample(["7", "12", "twelve"], 2), "text": " ".join(rnd.choices(things, k=rnd.randrange(2, 9))),
            "flag": bool(i % 2),
        }


def main():
    (here / "data").mkdir(exist_ok=True)
    for split, n, first in [("train", 30, 100), ("validation", 12, 200), ("test", 20, 300)]:
        rows = list(items(n, first))
        (here / "data" / f"{split}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    names = sorted(p.stem for p in (here / "tasks").glob("*.yaml") if not p.stem.startswith("_") and p.stem != "some")
    manager = TaskManager(include_path=str(here / "tasks"), include_defaults=False)
    result = simple_evaluate(model=Table(), tasks=names, task_manager=manager, bootstrap_iters=2000, log_samples=True)
    out = {}
    for name in names:
        samples, seen = [], set()
        for s in sorted(result["samples"][name], key=lambda s: s["doc_id"]):
            if s["doc_id"] not in seen:
                seen.add(s["doc_id"])
                samples.append([list(a.values()) for a in s["arguments"].values()] if isinstance(s["arguments"], dict)
                               else [list(a) for a in s["arguments"]])
        scores = {k: v for k, v in result["results"][name].items() if isinstance(v, (int, float)) and "," in k}
        out[name] = {"requests": samples, "scores": scores}
    (here / "expected.json").write_text(json.dumps({"made by": "make.py, lm_eval 0.4.13", "tasks": out}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
