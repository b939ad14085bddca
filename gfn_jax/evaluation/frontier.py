"""Likelihood against diversity over several runs: each policy beside baselines that are just as diverse."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gfn_jax.evaluation.equal_diversity import AtEqualDiversity, PerPrompt, at_equal_diversity
from gfn_jax.evaluation.intervals import Estimate, mean_of, over_seeds

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

    `seeds` are those whose figures were averaged for every prompt, and intervals of several hold how these differ.
    None is of families that are surely never so diverse.
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
    found: dict[str, list[tuple[int, Method]]] = {}
    for run in runs:
        for method in run.methods:
            if method["family"] in (POLICY, REFERENCE):
                name = f"{method['family']} {run.temperature:g}"
                found.setdefault(name, []).append((run.seed, {**method, "setting": run.temperature}))
            else:
                found.setdefault(method["name"], []).append((run.seed, method))
    return [{**same[0][1], "name": name, "figures": _average(same)} for name, same in found.items()]


def by_figures(diversity: str, log_likelihood: str, methods: Iterable[Method]) -> list[Method]:
    """The methods with these figures, such as `embedding_distance`, in place of their diversity and log-likelihood."""
    chosen = dict(zip(PerPrompt._fields, (diversity, log_likelihood), strict=True))
    return [{**each, "figures": {role: each["figures"][figure] for role, figure in chosen.items()}} for each in methods]


def rows(runs: Sequence[Run]) -> Iterator[Row]:
    """A row for each run, and after those of an end temperature one for all of its seeds together."""
    for temperature in sorted({run.temperature for run in runs}):
        alike = [run for run in runs if run.temperature == temperature]
        alone = [_row([run]) for run in alike]
        yield from alone
        if len(alike) > 1:
            yield _of_seeds(_row(alike), alone)


def _row(runs: Sequence[Run]) -> Row:
    methods = pooled(runs)
    policy = next(_per_prompt(method) for method in methods if method["family"] == POLICY)
    beside = {
        family: at_equal_diversity(policy, [_per_prompt(method) for method in methods if _is_member(method, family)])
        for family in FAMILIES
    }
    seeds = tuple(run.seed for run in runs)
    return Row(runs[0].temperature, seeds, mean_of(policy.diversity), mean_of(policy.log_likelihood), beside)


def _of_seeds(together: Row, alone: Sequence[Row]) -> Row:
    """The row of all seeds' averages, with intervals over seeds too; no family that a seed alone has not."""

    def beside(family: str) -> AtEqualDiversity | None:
        of_all, own = together.beside[family], [found for row in alone if (found := row.beside[family])]
        if of_all is None or len(own) < len(alone):
            return None
        return AtEqualDiversity(*map(_widened, of_all, zip(*own, strict=True)))

    return together._replace(
        diversity=_widened(together.diversity, [row.diversity for row in alone]),
        log_likelihood=_widened(together.log_likelihood, [row.log_likelihood for row in alone]),
        beside={family: beside(family) for family in FAMILIES},
    )


def _widened(of_all: Estimate, alone: Sequence[Estimate]) -> Estimate:
    return over_seeds(of_all, [each.mean for each in alone])


def _is_member(method: Method, family: str) -> bool:
    return method["family"] in FAMILIES and (method["family"] == family or method["setting"] == _UNCHANGED)


def _per_prompt(method: Method) -> PerPrompt:
    return PerPrompt(*(np.array(method["figures"][name]["per_prompt"], float) for name in PerPrompt._fields))


def _average(same: Sequence[tuple[int, Method]]) -> dict[str, Any]:
    """The figures of a method's runs, each with its seed, averaged for every prompt; intervals are over seeds too."""
    of_runs = [(seed, _per_prompt(method)) for seed, method in same]
    averages = PerPrompt(*np.mean([own for _, own in of_runs], axis=0))
    of_seeds = [
        PerPrompt(*np.mean([own for its, own in of_runs if its == seed], axis=(0, -1)))
        for seed in dict.fromkeys(seed for seed, _ in of_runs)
    ]
    return {
        name: {**over_seeds(mean_of(values), own)._asdict(), "per_prompt": values.tolist()}
        for name, values, own in zip(PerPrompt._fields, averages, zip(*of_seeds, strict=True), strict=True)
    }
