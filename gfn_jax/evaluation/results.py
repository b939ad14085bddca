"""A comparison with decoding, as a whole: what was compared how, and every method's figures."""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from gfn_jax.evaluation.comparison import Compared
from gfn_jax.evaluation.intervals import Estimate, mean_of
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.json_files import finite, replace_file

_COLUMNS = {  # of the comparison's table: figure -> heading; those that a task does not have are left out
    "log_likelihood": "log p",
    "log_r": "log R",
    "contradiction_rate": "contradict",
    "discriminates": "discrim.",
    "second_judge_contradiction_rate": "2nd judge",
    "diversity": "diversity",
    "own_log_ratio_var": "variance",
}
_INSTEAD_OF = {"discriminates": "log_r", "second_judge_contradiction_rate": "own_log_ratio_var"}
"""Columns that stand in another's place, so that a table fits 80 characters."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The methods side by side on the same prompts.

    step, checkpoint  whose policy, and why this one
    candidates        how many samples the reference was drawn from for each prompt
    judges            the models that were asked about the texts
    seconds           that it took in all
    """

    step: int
    checkpoint: str
    prompts: int
    samples_per_prompt: int
    candidates: int
    judges: Mapping[str, str]
    machine: Mapping[str, Any] = dataclasses.field(repr=False)
    methods: list[Compared] = dataclasses.field(repr=False)
    seconds: float

    def figures(self, method: str = "GFlowNet") -> dict[str, Estimate]:
        """A method's figures: means over prompts with 95% intervals. Raises `UserError` where it was not compared."""
        named = {each.method.name: each for each in self.methods}
        if method not in named:
            raise UserError(f"{method!r} was not compared; what was: {', '.join(named)}")
        return {name: mean_of(values) for name, values in named[method].per_prompt.items()}

    def __rich__(self) -> Table:
        """The figures that matter most, in a table."""
        there = {name for each in self.methods for name in each.per_prompt}
        left_out = {other for name, other in _INSTEAD_OF.items() if name in there}
        names = [name for name in _COLUMNS if name in there - left_out]
        variance = "variance: of log R - log π over own samples of a prompt; " if "own_log_ratio_var" in names else ""
        table = Table(
            title=f"{self.prompts} validation prompts, {self.samples_per_prompt} continuations each: means and "
            "half their 95% intervals",
            caption=f"log p: frozen model's; {variance}s: without compiling",
            box=box.SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
        )
        table.add_column("method", no_wrap=True)
        for name in names:
            table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
        table.add_column("s", justify="right", no_wrap=True)
        for each in self.methods:
            own = {name: mean_of(each.per_prompt[name]).in_short for name in names if name in each.per_prompt}
            table.add_row(each.method.name, *(own.get(name, "") for name in names), f"{each.seconds:.1f}")
        return table

    def __str__(self) -> str:
        page = io.StringIO()
        Console(file=page, width=80, force_terminal=False, force_jupyter=False).print(self)
        return page.getvalue()

    def write(self, file: Path) -> None:
        """Leaves everything in a JSON file; a figure that is not finite is null. Raises `UserError` where it cannot."""
        shown = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        methods = [
            {
                "name": each.method.name,
                "family": each.method.family,
                "setting": each.method.setting,
                "seconds": each.seconds,
                "figures": {name: _figure(values) for name, values in each.per_prompt.items()},
                "texts": each.texts,
            }
            for each in self.methods
        ]
        replace_file(file, json.dumps(finite(shown | {"methods": methods}), indent=2, ensure_ascii=False) + "\n")


def _figure(values: np.ndarray) -> dict[str, Any]:
    return {**mean_of(values)._asdict(), "per_prompt": values.tolist()}
