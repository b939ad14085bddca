"""Rows and steps that took no part in training: counted, and an end of the run where they do not cease."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gfn_jax.runtime.errors import TrainingError


class FaultWatch:
    """Follows, step by step, which rows had no finite reward or no terminable state, and which steps were skipped."""

    def __init__(self, most_steps: int):
        self._most_steps = most_steps
        self._with_bad_rows = self._skipped = 0  # steps in a row

    def observe(self, step: int, is_bad_N: np.ndarray, *, is_skipped: bool, examples: Sequence[Any]) -> int:
        """How many rows of a step were bad; raises `TrainingError` where this, or a skipped step, persists."""
        bad = int(is_bad_N.sum())
        self._with_bad_rows = self._with_bad_rows + 1 if bad else 0
        self._skipped = self._skipped + 1 if is_skipped else 0
        if self._skipped >= self._most_steps:
            raise TrainingError(
                f"step {step}: the loss or its gradient is not finite, as in the {self._skipped - 1} steps before; "
                "none of them changed the adapter"
            )
        if self._with_bad_rows >= self._most_steps:
            row = int(np.flatnonzero(is_bad_N)[0])
            example = examples[row // (len(is_bad_N) // len(examples))]
            raise TrainingError(
                f"step {step}: {bad} of {len(is_bad_N)} rows have no finite reward or nowhere to stop, as in the "
                f"{self._with_bad_rows - 1} steps before; the first is row {row}, of the example {str(example)[:80]!r}"
            )
        return bad
