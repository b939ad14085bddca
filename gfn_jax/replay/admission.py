"""Which continuations of a prompt are kept: the best, and no two that are nearly the same."""

import bisect
import dataclasses
from collections.abc import Sequence
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

    def admit(self, stored: Sequence[Entry], offered: Sequence[Entry]) -> tuple[list[Entry], Outcome]:
        """What is kept, best first, when these are offered one after the other.

        A near-duplicate of something better is refused; otherwise it replaces all that it nearly
        repeats. Where there are too many then, the worst goes.
        """
        known = [*stored, *offered]
        kept, outcome = list(range(len(stored))), Outcome()
        is_near: np.ndarray | None = None  # [offered, known]; often none of the offered is good enough to ask
        for place, entry in enumerate(offered, start=len(stored)):
            if len(kept) >= self.capacity and entry.order > known[kept[-1]].order:
                outcome = outcome.plus(Outcome(poor=1))
                continue
            if is_near is None:
                is_near = self._near(offered, known)
            neighbours = [other for other in kept if is_near[place - len(stored), other]]
            if any(known[neighbour].order <= entry.order for neighbour in neighbours):
                outcome = outcome.plus(Outcome(duplicates=1))
                continue
            kept = [other for other in kept if other not in neighbours]
            bisect.insort(kept, place, key=lambda other: known[other].order)
            del kept[self.capacity :]
            outcome = outcome.plus(Outcome(added=1))
        return [known[place] for place in kept], outcome

    def _near(self, entries: Sequence[Entry], others: Sequence[Entry]) -> np.ndarray:
        words = [[entry.words for entry in some] for some in (entries, others)]
        distances = cdist(*words, scorer=Levenshtein.normalized_distance, dtype=np.float64)
        keys = [np.array([entry.key for entry in some]) for some in (entries, others)]
        return (distances < self.min_edit_distance) | (keys[0][:, None] == keys[1][None, :])
