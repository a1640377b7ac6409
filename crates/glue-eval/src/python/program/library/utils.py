# What tasks take from `lm_eval.utils`.
import re

from sklearn.metrics import f1_score


def weighted_f1_score(items):
    golds = [item[0] for item in items]
    predictions = [item[1] for item in items]
    return f1_score(golds, predictions, average="weighted")


def general_detokenize(text):
    for before, after in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
        text = text.replace(before, after)
    return re.sub(r" (['.,])", r"\1", text)
