"""What the files of a run's directory say, as far as they are there."""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from gfn_jax.config.reading import read_run_config
from gfn_jax.config.schema import Config
from gfn_jax.evaluation.before_after import Change, changes, which_is_used
from gfn_jax.runs.row_shapes import DISTRIBUTIONS, EVALUATION, METRICS, PER_PROMPT, SAMPLES, checked
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.json_files import read_json, read_rows

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run's files, read.

    training     metrics of optimiser steps
    validations  metrics of validations, that before training first
    per_prompt   the figures of every validation prompt, one row a validation
    samples      probes of all validations
    distributions  exact ones of the prompts, of all validations, where the task's target is known
    evaluation   the comparison with decoding baselines
    checkpoints  the steps of those that are kept
    written      when the last figure was
    """

    name: str
    config: Config
    training: Sequence[Row]
    validations: Sequence[Row]
    per_prompt: Sequence[Row]
    samples: Sequence[Row]
    distributions: Sequence[Row]
    machine: Row
    evaluation: Row | None
    checkpoints: Sequence[int]
    written: datetime.datetime

    @property
    def step(self) -> int:
        """The last step that there are figures of."""
        return max(row["step"] for row in (*self.training, *self.validations))

    @property
    def prompts(self) -> int | None:
        """How many validation prompts there are, where it is known."""
        return len(next(iter(self.per_prompt[-1]["per_prompt"].values()))) if self.per_prompt else None

    @property
    def is_compared(self) -> bool:
        """Whether there was a validation after that before training."""
        return len(self.validations) > 1

    @property
    def training_seconds(self) -> float:
        """How long the steps took: where not all are logged, each that is stands for those since the one before."""
        steps, seconds = self.series("train/seconds")
        return float((np.diff(steps, prepend=0) * seconds).sum())

    def changes(self) -> list[Change]:
        """What changed from the first to the last validation, which may be one."""
        if not self.validations:
            return []
        first, last = self.validations[0], self.validations[-1]
        paired = self._paired(first["step"], last["step"]) if self.is_compared else {}
        return changes(_figures(first), _figures(last), paired)

    @property
    def use(self) -> str:
        """Which checkpoint other commands use, beside the figures of the last validation; "" where there is none."""
        if not self.checkpoints or not self.is_compared:
            return ""
        keep_best = self.config.train.keep_best
        best = {row["step"]: _figures(row).get(keep_best, -math.inf) for row in self.validations}
        used = max(self.checkpoints, key=lambda step: (best.get(step, -math.inf), step))
        return which_is_used(self.validations[-1]["step"], used, keep_best)

    def _paired(self, first: int, last: int) -> dict[str, np.ndarray]:
        at = {row["step"]: row["per_prompt"] for row in self.per_prompt}
        if first not in at or last not in at:
            return {}
        alike = [name for name, before in at[first].items() if len(before) == len(at[last].get(name, ()))]
        pairs = {name: (at[first][name], at[last][name]) for name in alike}
        differences = {name: np.subtract(*np.array([new, old], float)) for name, (old, new) in pairs.items()}
        return {name: values[np.isfinite(values)] for name, values in differences.items()}

    def series(self, name: str, *, of_validation: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The steps at which there is a finite figure of this name, and the figures."""
        rows = self.validations if of_validation else self.training
        found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        steps, values = np.array(found, float).reshape(-1, 2).T
        return steps, values

    def names(self, prefix: str) -> list[str]:
        """The names of the training steps' figures that begin so, in the order of their first appearance."""
        return [
            name for name in dict.fromkeys(name for row in self.training for name in row) if name.startswith(prefix)
        ]


def read_run(workdir: Path) -> RunRecord:
    """Reads what there is; raises `UserError` where the directory holds no run, or a run without figures."""
    config = read_run_config(workdir)
    file, machine, evaluation = (workdir / name for name in ("metrics.jsonl", "machine.json", "evaluation.json"))
    metrics = list(checked(file, METRICS, read_rows(file)))
    training = [row for row in metrics if "train/loss" in row]
    validations = [row for row in metrics if "val/elbo" in row]
    if not training and not validations:
        raise UserError(f"{workdir} has no figures to report: metrics.jsonl is missing or empty")

    def rows(name: str, shape: TypeAdapter) -> list[Row]:
        return list(checked(workdir / name, shape, read_rows(workdir / name)))

    return RunRecord(
        name=workdir.resolve().name,
        config=config,
        training=training,
        validations=validations,
        per_prompt=rows("validation.jsonl", PER_PROMPT),
        samples=rows("samples.jsonl", SAMPLES),
        distributions=rows("distribution.jsonl", DISTRIBUTIONS),
        machine=read_json(machine) if machine.exists() else {},
        evaluation=next(checked(evaluation, EVALUATION, [read_json(evaluation)])) if evaluation.exists() else None,
        checkpoints=[int(place.name) for place in (workdir / "checkpoints").glob("*") if place.name.isdecimal()],
        written=datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC),
    )


def _figures(row: Row) -> dict[str, float]:
    named = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    return {name: float(value) for name, value in named.items() if value is not None and math.isfinite(value)}
