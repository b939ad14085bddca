"""Which continuations of a prompt are kept: the best, and no two that are nearly the same."""

import bisect
import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from gfn_jax.replay.entry import Entry


class Outcome(NamedTuple):
    """How many offered continuations were taken in, and how many refused: as near-duplicates, or as worse than all."""

    added: int = 0
    duplicates: int = 0
    poor: int = 0

    def plus(self, other: "Outcome") -> "Outcome":
        return Outcome(*(mine + its for mine, its in zip(self, other, strict=True)))


@dataclasses.dataclass(frozen=True)
class Admission:
    """The rule for one prompt.

    capacity           most continuations that are kept
    min_edit_distance  two whose word edit distance, divided by the longer one's length, is below
                       this are near-duplicates; so are two of the same tokens
    """

    capacity: int
    min_edit_distance: float

    def admit(self, stored: Sequence[Entry], offered: Iterable[Entry]) -> tuple[list[Entry], Outcome]:
        """What is kept, best first, when these are offered one after the other.

        A near-duplicate of something better is refused; otherwise it replaces all that it nearly
        repeats. Where there are too many then, the worst goes.
        """
        kept, outcome = list(stored), Outcome()
        for entry in offered:
            if len(kept) >= self.capacity and entry.order > kept[-1].order:
                outcome = outcome.plus(Outcome(poor=1))
                continue
            neighbours = self._near(entry, kept)
            if any(neighbour.order <= entry.order for neighbour in neighbours):
                outcome = outcome.plus(Outcome(duplicates=1))
                continue
            kept = [other for other in kept if other not in neighbours]
            bisect.insort(kept, entry, key=lambda other: other.order)
            del kept[self.capacity :]
            outcome = outcome.plus(Outcome(added=1))
        return kept, outcome

    def _near(self, entry: Entry, others: Sequence[Entry]) -> list[Entry]:
        if not others:
            return []
        words = [other.words for other in others]
        distances = cdist([entry.words], words, scorer=Levenshtein.normalized_distance, dtype=np.float64)[0]
        is_near = distances < self.min_edit_distance
        return [other for other, near in zip(others, is_near, strict=True) if near or other.key == entry.key]
