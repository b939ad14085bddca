"""What is known of prompts once they were tokenised: how long each is, and what they all begin with."""

from collections.abc import Callable, Sequence

WORTHWHILE = 16
"""A common beginning of fewer tokens is not worth a pass of its own through a model."""


class SeenPrompts:
    """Tokenises no prompt twice."""

    def __init__(self, encode: Callable[[Sequence[str]], Sequence[Sequence[int]]]):
        """`encode` makes tokens of texts."""
        self._encode = encode
        self._lengths: dict[str, int] = {}
        self._common: Sequence[int] = ()

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """How many tokens each has."""
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._lengths]
        for prompt, row in zip(fresh, self._encode(fresh), strict=True):
            if self._lengths:
                self._common = self._common[: _equal(self._common, row[:-1])]
            else:
                self._common = row[:-1]
            self._lengths[prompt] = len(row)
        return [self._lengths[prompt] for prompt in prompts]

    @property
    def beginning(self) -> tuple[int, ...]:
        """The tokens that all prompts so far begin with, each having more; none where they are few."""
        is_worth_it = len(self._lengths) > 1 and len(self._common) >= WORTHWHILE
        return tuple(self._common) if is_worth_it else ()


def _equal(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    differing = (place for place, (ours, its) in enumerate(zip(left, right, strict=False)) if ours != its)
    return next(differing, min(len(left), len(right)))
