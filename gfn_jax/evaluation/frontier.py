"""Likelihood against diversity over several runs: each policy beside baselines that are just as diverse."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gfn_jax.evaluation.equal_diversity import AtEqualDiversity, PerPrompt, at_equal_diversity
from gfn_jax.evaluation.intervals import Estimate, mean_of

POLICY, REFERENCE = "GFlowNet", "reference"
FAMILIES = ("temperature", "nucleus")
_UNCHANGED = 1.0
"""The temperature, and the nucleus, of plain sampling: a member of both families."""

Method = dict[str, Any]
"""A method of decoding, as `evaluation.json` has it."""


class Run(NamedTuple):
    """A policy trained to an end temperature, and what it was compared with."""

    temperature: float
    seed: int
    methods: list[Method]


class Row(NamedTuple):
    """Policies of one end temperature, beside families of baselines at their mean diversity.

    `seeds` are those whose figures were averaged for every prompt; None is of families that are never so diverse.
    """

    temperature: float
    seeds: tuple[int, ...]
    diversity: Estimate
    log_likelihood: Estimate
    beside: dict[str, AtEqualDiversity | None]


def pooled(runs: Sequence[Run]) -> list[Method]:
    """The methods of all runs: each one's figures averaged, for every prompt, over the runs that have it.

    What the end temperature makes another, policy and target, has it as its setting and in its name.
    """
    found: dict[str, list[Method]] = {}
    for run in runs:
        for method in run.methods:
            if method["family"] in (POLICY, REFERENCE):
                name = f"{method['family']} {run.temperature:g}"
                found.setdefault(name, []).append({**method, "setting": run.temperature})
            else:
                found.setdefault(method["name"], []).append(method)
    return [{**same[0], "name": name, "figures": _average(same)} for name, same in found.items()]


def rows(runs: Sequence[Run]) -> Iterator[Row]:
    """A row for each run, and after those of an end temperature one for all of its seeds together."""
    for temperature in sorted({run.temperature for run in runs}):
        alike = [run for run in runs if run.temperature == temperature]
        yield from (_row([run]) for run in alike)
        if len(alike) > 1:
            yield _row(alike)


def _row(runs: Sequence[Run]) -> Row:
    methods = pooled(runs)
    policy = next(_per_prompt(method) for method in methods if method["family"] == POLICY)
    beside = {
        family: at_equal_diversity(policy, [_per_prompt(method) for method in methods if _is_member(method, family)])
        for family in FAMILIES
    }
    seeds = tuple(run.seed for run in runs)
    return Row(runs[0].temperature, seeds, mean_of(policy.diversity), mean_of(policy.log_likelihood), beside)


def _is_member(method: Method, family: str) -> bool:
    return method["family"] in FAMILIES and (method["family"] == family or method["setting"] == _UNCHANGED)


def _per_prompt(method: Method) -> PerPrompt:
    return PerPrompt(*(np.array(method["figures"][name]["per_prompt"], float) for name in PerPrompt._fields))


def _average(same: Sequence[Method]) -> dict[str, Any]:
    averages = PerPrompt(*np.mean([_per_prompt(method) for method in same], axis=0))
    return {
        name: {**mean_of(values)._asdict(), "per_prompt": values.tolist()}
        for name, values in averages._asdict().items()
    }
