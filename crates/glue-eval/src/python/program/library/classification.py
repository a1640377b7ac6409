# Scores of classifiers, by the definitions of scikit-learn.
def _labels(golds, predictions):
    return sorted(set(golds) | set(predictions))


def _ratio(part, whole):
    return part / whole if whole else 0.0


def _counts(golds, predictions, label):
    right = sum(1 for gold, found in zip(golds, predictions) if gold == label and found == label)
    found = sum(1 for one in predictions if one == label)
    wanted = sum(1 for one in golds if one == label)
    return right, found, wanted


def _averaged(score, golds, predictions, labels, pos_label, average):
    golds, predictions = list(golds), list(predictions)
    if average == "binary":
        if len(_labels(golds, predictions)) > 2:
            raise ValueError("Target is multiclass but average='binary'")
        return score(*_counts(golds, predictions, pos_label))
    labels = list(labels) if labels is not None else _labels(golds, predictions)
    counts = [_counts(golds, predictions, label) for label in labels]
    if average == "micro":
        return score(*[sum(count[i] for count in counts) for i in range(3)])
    scores = [score(*count) for count in counts]
    if average is None:
        return scores
    if average == "macro":
        return sum(scores) / len(scores)
    if average == "weighted":
        return _ratio(sum(one * count[2] for one, count in zip(scores, counts)), sum(count[2] for count in counts))
    raise ValueError("an average that is not known")


def _f1(right, found, wanted):
    return _ratio(2 * right, found + wanted)


def _precision(right, found, wanted):
    return _ratio(right, found)


def _recall(right, found, wanted):
    return _ratio(right, wanted)


def f1_score(y_true, y_pred, labels=None, pos_label=1, average="binary", zero_division=0):
    return _averaged(_f1, y_true, y_pred, labels, pos_label, average)


def precision_score(y_true, y_pred, labels=None, pos_label=1, average="binary", zero_division=0):
    return _averaged(_precision, y_true, y_pred, labels, pos_label, average)


def recall_score(y_true, y_pred, labels=None, pos_label=1, average="binary", zero_division=0):
    return _averaged(_recall, y_true, y_pred, labels, pos_label, average)


def accuracy_score(y_true, y_pred):
    pairs = list(zip(y_true, y_pred))
    return sum(1 for gold, found in pairs if gold == found) / len(pairs)


def matthews_corrcoef(y_true, y_pred):
    golds, predictions = list(y_true), list(y_pred)
    labels = _labels(golds, predictions)
    right = sum(1 for gold, found in zip(golds, predictions) if gold == found)
    total = len(golds)
    wanted = [sum(1 for one in golds if one == label) for label in labels]
    found = [sum(1 for one in predictions if one == label) for label in labels]
    covariance = right * total - sum(a * b for a, b in zip(wanted, found))
    spread = (total**2 - sum(a * a for a in wanted)) * (total**2 - sum(b * b for b in found))
    return covariance / spread**0.5 if spread else 0.0
