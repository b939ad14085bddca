"""How different texts are."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein


def mean_edit_distance(texts: Sequence[str]) -> float:
    """Mean normalised word edit distance over all pairs of texts: 0 where all are equal, at most 1."""
    words = [text.split() for text in texts]
    distances = process.cdist(words, words, scorer=Levenshtein.normalized_distance)
    count = len(words)
    return float(distances.sum(dtype=np.float64) / (count * (count - 1)))


def distinct_share(texts: Sequence[str]) -> float:
    """The share of texts that are left when repetitions are dropped."""
    return len(set(texts)) / len(texts)
