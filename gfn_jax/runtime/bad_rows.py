"""Rows that a step left out of its loss: counted, and an end of the run where they do not cease."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gfn_jax.errors import TrainingError


class BadRowWatch:
    """Follows which rows had no finite reward or no terminable state, step by step."""

    def __init__(self, most_steps: int):
        self._most_steps = most_steps
        self._steps_in_a_row = 0

    def observe(self, step: int, is_bad_N: np.ndarray, examples: Sequence[Any]) -> int:
        """How many rows of a step were bad; raises `TrainingError` when a step in a row too many had one."""
        bad = int(is_bad_N.sum())
        self._steps_in_a_row = self._steps_in_a_row + 1 if bad else 0
        if self._steps_in_a_row >= self._most_steps:
            row = int(np.flatnonzero(is_bad_N)[0])
            example = examples[row // (len(is_bad_N) // len(examples))]
            raise TrainingError(
                f"step {step}: {bad} of {len(is_bad_N)} rows have no finite reward or nowhere to stop, as in the "
                f"{self._steps_in_a_row - 1} steps before; the first is row {row}, of the example {str(example)[:80]!r}"
            )
        return bad
