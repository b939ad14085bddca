"""A policy's exact distribution for a prompt as bars, with its target as a line across them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gfn_jax.evaluation.bars import most_shown
from gfn_jax.reporting.palette import Palette

SIZE = (3.75, 2.6)
"""Inches of the figure."""

Row = Mapping[str, Any]
_MOST_NAMED = 3
"""So many of the likeliest bars that are cut off are named."""


def highest(before: Row, after: Row) -> float:
    """Up to which probability both figures go, from two rows of a run's `distribution.jsonl`."""
    return 1.12 * most_shown(before["policy"], after["policy"], after["target"])


def draw_distribution(axes: Axes, row: Row, top: float, colour: str, palette: Palette) -> None:
    """A bar for every outcome, and steps of the target from one to the next."""
    outcomes, policy = row["outcomes"], np.array(row["policy"])
    places = np.arange(len(outcomes))
    axes.bar(places, np.minimum(policy, top), width=0.86, color=colour, linewidth=0)
    edges = np.append(places - 0.5, places[-1] + 0.5)
    axes.stairs(row["target"], edges, baseline=None, color=palette["ink"], linewidth=1.3)
    axes.set(xlim=(edges[0] - 0.5, edges[-1] + 0.5), ylim=(0, top))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _outcome(outcomes, x)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g}%"))
    for number in _cut(policy, top):
        is_left = number < len(outcomes) / 2
        axes.annotate(
            f"{outcomes[number]}: {100 * policy[number]:.0f}%",
            (number, top),
            (5 if is_left else -5, -3),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="top",
            fontsize=8,
            color=palette["muted"],
        )


def _outcome(outcomes: Sequence[str], place: float) -> str:
    return outcomes[int(place)] if place == int(place) and 0 <= place < len(outcomes) else ""


def _cut(policy: np.ndarray, top: float) -> list[int]:
    """The likeliest of the bars that are cut off, so far from each other that their names do not meet."""
    named: list[int] = []
    for number in np.argsort(-policy, kind="stable").tolist():
        if policy[number] <= top or len(named) == _MOST_NAMED:
            break
        if all(abs(number - other) > 0.22 * len(policy) for other in named):
            named.append(number)
    return named
