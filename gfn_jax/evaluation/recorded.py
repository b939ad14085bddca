"""A validation as a run's files have it."""

import math
from pathlib import Path
from typing import Any

from gfn_jax.runtime.json_files import read_rows

Measured = tuple[dict[str, list[float]], list[dict[str, Any]], list[dict[str, Any]]]
"""Figures of prompts by their names, probes, and exact distributions."""


def read_measured(workdir: Path, step: int, *, probes: int, distributions: int) -> Measured | None:
    """What was measured at a step; None where not all of it is there, or where a figure was not finite.

    `probes` and `distributions` are how many rows of these there must be.
    """

    def rows(file: str) -> list[dict[str, Any]]:
        whole = (row for row in read_rows(workdir / file) if row["step"] == step)
        return [{name: value for name, value in row.items() if name != "step"} for row in whole]

    validations, samples, exact = map(rows, ("validation.jsonl", "samples.jsonl", "distribution.jsonl"))
    if len(validations) != 1 or len(samples) != probes or len(exact) != distributions:
        return None
    figures = validations[0]["per_prompt"]
    if any(value is None or not math.isfinite(value) for values in figures.values() for value in values):
        return None
    return figures, samples, exact
