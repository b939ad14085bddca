"""log R against log π of the probes: samples of a perfect sampler lie on a line of slope 1 for each prompt."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from gfn_jax.reporting.palette import Palette

SIZE = (3.75, 3.5)
"""Inches of the figure."""

Row = Mapping[str, Any]
Limits = tuple[tuple[float, float], tuple[float, float]]


class Cloud(NamedTuple):
    """A prompt's samples at one step; `log_z` is the mean of log R - log π over them, an estimate of log Z."""

    prompt: str
    samples: Sequence[Row]
    log_r: np.ndarray
    log_pf: np.ndarray
    log_z: float


def clouds(samples: Sequence[Row], step: int) -> list[Cloud]:
    """The probes of a step by their prompts, but for samples without a finite log R or log π."""
    found = []
    known = [row for row in samples if row["log_r"] is not None and row["log_pf"] is not None]
    for prompt in dict.fromkeys(row["prompt"] for row in samples):
        own = [row for row in known if row["step"] == step and row["prompt"] == prompt]
        if own:
            log_r, log_pf = (np.array([row[name] for row in own], float) for name in ("log_r", "log_pf"))
            found.append(Cloud(prompt, own, log_r, log_pf, float((log_r - log_pf).mean())))
    return found


def limits(clouds: Sequence[Cloud]) -> Limits:
    """Of both axes, so that all samples are seen."""
    log_r, log_pf = (np.concatenate([getattr(cloud, name) for cloud in clouds]) for name in ("log_r", "log_pf"))
    return _spread(log_r), _spread(log_pf)


def _spread(values: np.ndarray) -> tuple[float, float]:
    margin = 0.05 * float(np.ptp(values)) or 0.5
    return float(values.min()) - margin, float(values.max()) + margin


def draw_balance(
    axes: Axes, clouds: Sequence[Cloud], numbers: Mapping[str, int], limits: Limits, palette: Palette
) -> None:
    """The samples of each prompt in the colour of its number, and the prompt's line log π = log R - log Z."""
    for cloud in clouds:
        number = numbers[cloud.prompt]
        colour = palette.series(number)
        axes.axline((0.0, -cloud.log_z), slope=1, color=colour, linewidth=0.9, alpha=0.7)
        markers = axes.scatter(cloud.log_r, cloud.log_pf, s=15, alpha=0.6, color=colour, linewidths=0)
        markers.set_gid(f"samples-{number}")
    axes.set(xlabel="log R(y)", ylabel="log π(y)", xlim=limits[0], ylim=limits[1])
    axes.grid(axis="x", color=palette["rule"], linewidth=0.7)
