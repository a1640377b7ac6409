# BLEU of texts by the definition of sacreBLEU, of which only the score is here.
import _sacrebleu


class Score:
    def __init__(self, score):
        self.score = score


def corpus_bleu(
    hypotheses,
    references,
    smooth_method="exp",
    smooth_value=None,
    force=False,
    lowercase=False,
    tokenize="13a",
    use_effective_order=False,
):
    if smooth_method != "exp" or lowercase or use_effective_order:
        raise NotImplementedError("other ways of smoothing, of case, and of short texts")
    return Score(_sacrebleu.bleu(hypotheses, references, tokenize))
