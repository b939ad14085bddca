"""How different texts are: figures that need no model."""

import functools
from collections.abc import Sequence

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein


def mean_edit_distance(texts: Sequence[str]) -> float:
    """Mean normalised word edit distance over all pairs of texts: 0 where all are equal, at most 1."""
    if len(texts) < 2:
        return 0.0
    words = [text.split() for text in texts]
    distances = process.cdist(words, words, scorer=Levenshtein.normalized_distance)
    count = len(words)
    return float(distances.sum(dtype=np.float64) / (count * (count - 1)))


def distinct_share(texts: Sequence[str]) -> float:
    """The share of texts that are left when repetitions are dropped."""
    return len(set(texts)) / len(texts)


def distinct_n_grams(texts: Sequence[str], n: int) -> float:
    """Different runs of `n` words over all such runs (Li et al. 2016, distinct-n); 0 where there are none."""
    words = [text.split() for text in texts]
    grams = [tuple(own[start : start + n]) for own in words for start in range(len(own) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU of each text against all others (Zhu et al. 2018), from 0 to 1: 1 where all are equal."""
    if len(texts) < 2:
        return 1.0
    scores = [
        _bleu().sentence_score(text, [*texts[:index], *texts[index + 1 :]]).score for index, text in enumerate(texts)
    ]
    return float(np.mean(scores)) / 100


@functools.cache
def _bleu():
    from sacrebleu import BLEU  # slow to import, and wanted by an evaluation alone

    return BLEU(effective_order=True, tokenize="none")
