"""Where the time of a step goes, by phase."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds that the main process spends in each phase."""

    def __init__(self):
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """The time inside the context counts for `phase`; phases do not nest."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """The seconds of every phase since they were taken last."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken
