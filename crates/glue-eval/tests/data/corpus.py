"""Scores of sacrebleu for pairs of texts: `pip install sacrebleu==2.6.0`, then `python corpus.py > corpus.json`."""

import json
import random

import sacrebleu

PAIRS = [
    ("The cat sat on the mat.", "The cat sat on the mat."),
    ("A cat sat on a mat, at 3.5 metres & more - 10-12 in all.", "The cat sat on the mat; 3.5 metres &amp; more, 10-12."),
    ("one two three", "one two three four five six"),
    ("nothing is alike", "completely different words here"),
    ("Où est-il ? « Là-bas », dit-elle: €5.", "Où est-elle ? « Là », dit-il: €6."),
    ("(hello) \"world\" it's me", "\"hello\" (world) it's you"),
    ("short", "short"),
    ("", "an answer was wanted"),
    ("这是一个 测试。 10%", "这是 一个测试。 20%"),
]


def case(answer, reference):
    bleu = lambda tokenizer: sacrebleu.corpus_bleu([answer], [[reference]], tokenize=tokenizer).score
    chrf = lambda words: sacrebleu.corpus_chrf([answer], [[reference]], word_order=words).score
    return {"answer": answer, "reference": reference, "13a": bleu("13a"), "intl": bleu("intl"), "chrf": chrf(0), "chrf++": chrf(2), "ter": ter(answer, reference)}


def ter(answer, reference):
    return sacrebleu.corpus_ter([answer], [[reference]]).score


def moved(numbers, words):
    """A text of so many words from a few, and another with runs of it elsewhere, and some words gone, new or replaced."""
    reference = [numbers.choice("abcdefghijklm") for _ in range(words)]
    answer = list(reference)
    for _ in range(numbers.randrange(1, 4)):
        start = numbers.randrange(len(answer))
        run = answer[start : start + numbers.randrange(1, 12)]
        del answer[start : start + len(run)]
        at = numbers.randrange(len(answer) + 1)
        answer[at:at] = run
    answer = [numbers.choice("abcxyZ") if numbers.random() < 0.1 else word for word in answer if numbers.random() > 0.1]
    answer, reference = " ".join(answer), " ".join(reference)
    return {"answer": answer, "reference": reference, "ter": ter(answer, reference)}


numbers = random.Random(7)
lengths = [3, 5, 8, 12, 20, 30, 45, 70, 110, 1, 2, 16]


print(json.dumps({"bleu": [case(*pair) for pair in PAIRS], "ter": [moved(numbers, words) for words in lengths]}, indent=1, ensure_ascii=False))
