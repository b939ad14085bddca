"""Curves over optimiser steps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from scipy.ndimage import gaussian_filter1d

from gfn_jax.reporting.palette import STAND_INS, Palette, series
from gfn_jax.reporting.svg import SMALL, inline_svg, new_axes

_FEW = 12
"""So few values are shown as points, and not smoothed."""


class Curve(NamedTuple):
    """Figures at some optimiser steps; `is_noisy` ones are each of another batch."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    is_noisy: bool = False


class Plot(NamedTuple):
    """A figure of the page. The legend has each line's colour and name, and is empty where there is one line."""

    title: str
    note: str
    svg: str
    legend: Sequence[tuple[str, str]] = ()


def smoothed(values: np.ndarray) -> np.ndarray:
    """The values under a Gaussian, which a fortieth of them is the width of."""
    return gaussian_filter1d(values, max(1.0, len(values) / 40), mode="mirror")


def draw_curve(axes: Axes, curve: Curve, colour: str) -> None:
    if len(curve.values) <= _FEW:
        axes.plot(curve.steps, curve.values, "o-", color=colour, markersize=4, linewidth=1.6, label=curve.label)
        return
    if curve.is_noisy:
        axes.plot(curve.steps, curve.values, color=colour, linewidth=0.7, alpha=0.35)
    course = smoothed(curve.values) if curve.is_noisy else curve.values
    axes.plot(curve.steps, course, color=colour, linewidth=1.8, label=curve.label)


def _over_steps(axes: Axes, palette: Palette) -> None:
    axes.set_xlabel("optimiser step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.02)


def _bounds(curves: Sequence[Curve]) -> tuple[float, float]:
    """From the lowest to the highest value worth seeing: of noisy ones those that stand out far are not."""
    shown = np.concatenate([_worth_seeing(curve) for curve in curves])
    low, high = float(shown.min()), float(shown.max())
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin


def _worth_seeing(curve: Curve) -> np.ndarray:
    if not curve.is_noisy or len(curve.values) <= _FEW:
        return curve.values
    return np.concatenate([np.quantile(curve.values, (0.01, 0.99)), smoothed(curve.values)])


def curve_plot(name: str, title: str, note: str, curves: Sequence[Curve], *, is_ratio: bool = False) -> Plot:
    """Lines in one frame; of figures whose ratios matter, and that are all above 0, on a logarithmic scale."""
    figure, axes = new_axes(SMALL, STAND_INS)
    for number, curve in enumerate(curves):
        draw_curve(axes, curve, STAND_INS.series(number))
    _over_steps(axes, STAND_INS)
    if is_ratio and all((curve.values > 0).all() for curve in curves):
        axes.set_yscale("log")
        low, high = (bound(np.concatenate([curve.values for curve in curves])) for bound in (np.min, np.max))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 50 * low else (1.0, 2.0, 5.0), numticks=6))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(y=0.1)
    else:
        axes.set_ylim(*_bounds(curves))
    legend = [(series(number), curve.label) for number, curve in enumerate(curves)] if len(curves) > 1 else []
    return Plot(title, note, inline_svg(figure, name, title), legend)


def area_plot(name: str, title: str, note: str, parts: Sequence[Curve]) -> Plot:
    """Parts of a whole on top of each other, smoothed; all have the same steps."""
    figure, axes = new_axes(SMALL, STAND_INS)
    steps = parts[0].steps
    heights = [smoothed(part.values) if len(steps) > _FEW else part.values for part in parts]
    colours = [STAND_INS.series(number) for number in range(len(parts))]
    axes.stackplot(steps, *heights, colors=colours, alpha=0.8, linewidth=0)
    _over_steps(axes, STAND_INS)
    axes.set_ylim(0, 1.15 * np.quantile(np.sum(heights, axis=0), 0.95))
    legend = [(series(number), part.label) for number, part in enumerate(parts)]
    return Plot(title, note, inline_svg(figure, name, title), legend)
