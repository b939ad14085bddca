"""How many continuations there are of every prompt, and which prompts must go where they are too many."""

from collections import OrderedDict
from collections.abc import Iterable


class Ledger:
    """Prompts by when they were last offered something, longest ago first, with how many continuations each has."""

    def __init__(self, total: int):
        """`total` is how many continuations there may be."""
        self._total, self._size = total, 0
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def enter(self, sizes: Iterable[tuple[str, int]]) -> list[str]:
        """Takes what these prompts have, which were offered something in this order; which prompts must be forgotten.

        Those are forgotten here, and are as few as will do, the oldest first.
        """
        for prompt, size in sizes:
            self._size += size - self._sizes.pop(prompt, 0)
            if size:
                self._sizes[prompt] = size
        forgotten = []
        while self._size > self._total:
            prompt, size = self._sizes.popitem(last=False)
            self._size -= size
            forgotten.append(prompt)
        return forgotten

    @property
    def prompts(self) -> Iterable[str]:
        return self._sizes.keys()
