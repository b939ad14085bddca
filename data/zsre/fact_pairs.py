"""Pairs of facts, and whether one follows from the other, contradicts it, or neither."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from gfn_jax.tasks.contradiction import FactEdit
from gfn_jax.text.prompts import normalised


class LabelledPair(NamedTuple):
    premise: str
    hypothesis: str
    label: str


def make(facts: Sequence[FactEdit], unrelated: int, seed: int) -> list[LabelledPair]:
    """All pairs of facts about one subject, and of each fact with some `unrelated` ones, without repetitions.

    Facts without a true form are left out.
    """
    known = [fact for fact in facts if fact.original_fact.strip()]
    chance = random.Random(seed)
    pairs: list[LabelledPair] = []
    for fact, other in itertools.product(known, known):
        if normalised(fact.subject) == normalised(other.subject):
            pairs += _about_one_subject(fact, other)
    for fact in known:
        others = [other for other in known if normalised(other.subject) != normalised(fact.subject)]
        for other in chance.sample(others, min(unrelated, len(others))):
            pairs += [
                LabelledPair(fact.edit_fact, other.original_fact, "neutral"),
                LabelledPair(other.original_fact, fact.edit_fact, "neutral"),
            ]
    return list(dict.fromkeys(pairs))


def counts(pairs: Sequence[LabelledPair]) -> Counter[str]:
    return Counter(pair.label for pair in pairs)


def _about_one_subject(fact: FactEdit, other: FactEdit) -> list[LabelledPair]:
    edited, true = _answers(fact)
    its_edited, its_true = _answers(other)
    if true != its_true:
        return [LabelledPair(fact.edit_fact, other.original_fact, "neutral")]
    found = [
        LabelledPair(fact.original_fact, other.original_fact, "entailment"),
        LabelledPair(fact.edit_fact, other.original_fact, "contradiction"),
        LabelledPair(other.original_fact, fact.edit_fact, "contradiction"),
    ]
    label = "entailment" if edited == its_edited else "contradiction"
    return [*found, LabelledPair(fact.edit_fact, other.edit_fact, label)]


def _answers(fact: FactEdit) -> tuple[str, str]:
    """What edit and true fact say where they differ: from the first word that is not the same to the end."""
    edited, true = (normalised(text).rstrip(".").split() for text in (fact.edit_fact, fact.original_fact))
    pairs = zip(edited, true, strict=False)
    start = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return " ".join(edited[start:]), " ".join(true[start:])
