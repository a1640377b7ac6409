# ROUGE-N and ROUGE-L of words (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004), without stemming.
import re
from collections import Counter


class Score:
    def __init__(self, precision, recall):
        self.precision = precision
        self.recall = recall
        self.fmeasure = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


class AggregateScore:
    def __init__(self, low, mid, high):
        self.low, self.mid, self.high = low, mid, high


def _words(text):
    return [word for word in re.sub(r"[^a-z0-9]+", " ", text.lower()).split() if word]


def _score(common, wanted, found):
    return Score(common / max(found, 1), common / max(wanted, 1))


def _ngrams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _table(a, b):
    table = [[0] * (len(b) + 1)]
    for word in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(table[-1][j] + 1 if word == other else max(table[-1][j + 1], row[j]))
        table.append(row)
    return table


def _common_places(a, b):
    table = _table(a, b)
    i, j, places = len(a), len(b), []
    while i > 0 and j > 0:
        if a[i - 1] == b[j - 1]:
            places.append(i - 1)
            i, j = i - 1, j - 1
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places


def _summary(target, prediction):
    targets = [_words(line) for line in target.split("\n") if line]
    predictions = [_words(line) for line in prediction.split("\n") if line]
    wanted, found = sum(len(line) for line in targets), sum(len(line) for line in predictions)
    if wanted == 0 or found == 0:
        return Score(0, 0)
    left = Counter(word for line in targets for word in line)
    other = Counter(word for line in predictions for word in line)
    hits = 0
    for line in targets:
        places = set(place for one in predictions for place in _common_places(line, one))
        for place in sorted(places):
            word = line[place]
            if left[word] > 0 and other[word] > 0:
                hits += 1
                left[word] -= 1
                other[word] -= 1
    return _score(hits, wanted, found)


class RougeScorer:
    def __init__(self, rouge_types, use_stemmer=False, split_summaries=False):
        if use_stemmer or split_summaries:
            raise NotImplementedError("stemming and splitting")
        self.rouge_types = rouge_types

    def score(self, target, prediction):
        words, others = _words(target), _words(prediction)
        scores = {}
        for kind in self.rouge_types:
            if kind == "rougeLsum":
                scores[kind] = _summary(target, prediction)
            elif kind == "rougeL":
                common = _table(words, others)[-1][-1] if words and others else 0
                scores[kind] = _score(common, len(words), len(others))
            else:
                wanted, found = _ngrams(words, int(kind[5:])), _ngrams(others, int(kind[5:]))
                common = sum((wanted & found).values())
                scores[kind] = _score(common, sum(wanted.values()), sum(found.values()))
        return scores


class BootstrapAggregator:
    # Resamples of one score are that score; those of several depend on random numbers.
    def __init__(self):
        self.scores = []

    def add_scores(self, scores):
        self.scores.append(scores)

    def aggregate(self):
        if len(self.scores) != 1:
            raise NotImplementedError("aggregates of several scores")
        return {kind: AggregateScore(score, score, score) for kind, score in self.scores[0].items()}
