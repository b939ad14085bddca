"""Which validation figure was best, and ending a run where it rises no more."""

import math
from collections.abc import Mapping
from pathlib import Path

from gfn_jax.config.schema import Train
from gfn_jax.runtime import distributed
from gfn_jax.runtime.json_files import read_rows


class Patience:
    """How the figure `train.keep_best` rises, and whether it has not for `train.patience` validations in a row.

    What was measured before a restart is read from the run's metrics, which end where its checkpoint does: so a
    resumed run ends where it would have ended. All processes of a run call everything together, and decide as the
    main one does.
    """

    def __init__(self, train: Train, metrics: Path):
        """`metrics` is the file that holds all validations so far, the one before training included."""
        self._name, self._limit = train.keep_best, train.patience
        self._best, self._best_step, self._step, self._in_vain = -math.inf, 0, 0, 0
        if self._name:
            key = f"val/{self._name}"
            rows = read_rows(metrics) if distributed.is_main() else ()
            for step, figure in distributed.of_main([(row["step"], row[key]) for row in rows if key in row]):
                self._take(step, figure)

    @property
    def is_over(self) -> bool:
        return 0 < self._limit <= self._in_vain

    @property
    def verdict(self) -> str:
        """Why training ended, when it is over."""
        return (
            f"training ended after step {self._step}: {self._name} has not risen for {self._in_vain} validations in a "
            f"row; it was best at step {self._best_step}, with {self._best:.4g}"
        )

    def observe(self, step: int, figures: Mapping[str, float]) -> bool:
        """Takes the figures of a validation; whether this one is the best so far."""
        return bool(self._name) and self._take(step, distributed.of_main(figures[self._name]))

    def _take(self, step: int, figure: float | None) -> bool:
        """A figure that was not finite is written down as None."""
        self._step = step
        if figure is not None and figure > self._best:
            self._best, self._best_step, self._in_vain = figure, step, 0
            return True
        self._in_vain += 1
        return False
