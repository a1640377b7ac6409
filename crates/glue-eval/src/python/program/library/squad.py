# Exact match and F1 of words, as the SQuAD evaluation defines them: without case, punctuation and articles.
import re
import string
from collections import Counter


def normalize_answer(s):
    text = "".join(c for c in s.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def get_tokens(s):
    return normalize_answer(s).split() if s else []


def compute_exact(a_gold, a_pred):
    return int(normalize_answer(a_gold) == normalize_answer(a_pred))


def compute_f1(a_gold, a_pred):
    gold, found = get_tokens(a_gold), get_tokens(a_pred)
    common = sum((Counter(gold) & Counter(found)).values())
    if len(gold) == 0 or len(found) == 0:
        return int(gold == found)
    if common == 0:
        return 0
    precision, recall = 1.0 * common / len(found), 1.0 * common / len(gold)
    return (2 * precision * recall) / (precision + recall)
