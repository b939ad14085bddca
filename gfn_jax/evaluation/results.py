"""A comparison with decoding, as a whole: what was compared how, and every method's figures."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfn_jax.evaluation.comparison import Compared
from gfn_jax.evaluation.intervals import Estimate, mean_of
from gfn_jax.runtime.json_files import finite, replace_file


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
    machine: Mapping[str, Any]
    methods: list[Compared]
    seconds: float

    def figures(self, method: str = "GFlowNet") -> dict[str, Estimate]:
        """A method's figures: means over prompts with 95% intervals."""
        (found,) = [each for each in self.methods if each.method.name == method]
        return {name: mean_of(values) for name, values in found.per_prompt.items()}

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
