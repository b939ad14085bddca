"""Likelihood against diversity: what a method of decoding gives up of one for the other."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from gfn_jax.evaluation.intervals import Estimate
from gfn_jax.reporting.palette import PRINTED, Palette
from gfn_jax.reporting.svg import new_axes

SIZE = (4.9, 4.2)
"""Inches of the figure."""

_FAMILIES = {"GFlowNet": "series-2", "temperature": "series-1", "nucleus": "series-3", "reference": "muted"}
"""Those whose points are connected in the order of their settings, and their colours."""

_PLACES = ((7, 0, "left"), (-7, 0, "right"), (0, 9, "center"), (0, -9, "center"))
_PLACES += ((6, 5, "left"), (6, -5, "left"), (-6, 5, "right"), (-6, -5, "right"))
_PLACES += ((6, 8, "left"), (6, -8, "left"), (-6, 8, "right"), (-6, -8, "right"))
_PLACES += tuple((x, y, side) for x, side in ((12, "left"), (-12, "right")) for y in (15, -15))
_PLACES += tuple((x, y, side) for x, side in ((-38, "right"), (38, "left")) for y in (0, 12, -12, 24, -24, 36, -36))
"""Where a point's label may stand, in points from it, the best place first."""
_NEAR = 12
"""Labels farther off have a line to their point."""


class Point(NamedTuple):
    """A method, or one of several policies, and its figures with their 95% intervals."""

    name: str
    family: str
    setting: float | None
    diversity: Estimate
    log_likelihood: Estimate


def points(methods: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The methods of an `evaluation.json` that have both figures."""
    found = []
    for method in methods:
        figures = [method["figures"].get(name) for name in ("diversity", "log_likelihood")]
        both = [Estimate(figure["mean"], figure["low"], figure["high"]) for figure in figures if figure]
        if len(both) == 2 and np.isfinite(np.array(both, float)).all():
            found.append(Point(method["name"], method.get("family", method["name"]), method.get("setting"), *both))
    return found


def save_frontier(methods: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Leaves the plot of the methods of an `evaluation.json` as a picture."""
    figure, axes = new_axes(SIZE, PRINTED)
    draw_frontier(axes, points(methods), PRINTED)
    figure.savefig(file, dpi=160, facecolor=PRINTED["paper"])


def draw_frontier(axes: Axes, points: Sequence[Point], palette: Palette) -> None:
    """Every point with its intervals; families of several settings as curves, and the GFlowNet's above all.

    Draw it when the axes have their place and size: the labels are put where there is room.
    """
    axes.set(xlabel="diversity (mean pairwise word edit distance)", ylabel="mean log-likelihood, frozen model")
    curves = [_curve(family, points) for family in _FAMILIES]
    for family, curve in zip(_FAMILIES, curves, strict=True):
        axes.plot(*_places(curve).T, color=palette[_FAMILIES[family]], linewidth=1.4, alpha=0.55, zorder=2)
    for point in points:
        is_ours = point.family == "GFlowNet"
        x, y = point.diversity, point.log_likelihood
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=_arms(x),
            yerr=_arms(y),
            color=palette[_colour(point)],
            fmt="D" if point.family == "reference" else "o",
            markersize=9 if is_ours else 5,
            elinewidth=1.3 if is_ours else 0.9,
            markeredgecolor=palette["paper"],
            markeredgewidth=0.8,
            zorder=5 if is_ours else 3,
        )
    axes.margins(0.1)
    _label(axes, points, curves, palette)


def _arms(estimate: Estimate) -> np.ndarray:
    """How far an interval reaches below and above its mean [2, 1]: of equal values a rounding, of either sign."""
    mean, low, high = estimate
    return np.maximum([[mean - low], [high - mean]], 0)


def _curve(family: str, points: Sequence[Point]) -> list[Point]:
    """A family's points in the order of their settings."""
    return sorted((point for point in points if point.family == family), key=lambda point: point.setting or 0.0)


def _places(points: Sequence[Point]) -> np.ndarray:
    """Diversity and log-likelihood of each point [point, 2]."""
    return np.array([(point.diversity.mean, point.log_likelihood.mean) for point in points]).reshape(-1, 2)


def _bars(point: Point) -> tuple[np.ndarray, np.ndarray]:
    """The lines of a point's intervals [end, 2], as far as they are drawn."""
    x, y = point.diversity, point.log_likelihood
    (left, right), (down, up) = _arms(x)[:, 0], _arms(y)[:, 0]
    across = np.array([(x.mean - left, y.mean), (x.mean + right, y.mean)])
    return across, np.array([(x.mean, y.mean - down), (x.mean, y.mean + up)])


def _along(lines: Iterable[np.ndarray], axes: Axes) -> Iterator[np.ndarray]:
    """Places every few pixels along the lines, in pixels."""
    for line in lines:
        for start, end in itertools.pairwise(axes.transData.transform(line)):
            yield from np.linspace(start, end, 2 + int(math.hypot(*(end - start)) / 8))


def _colour(point: Point) -> str:
    return _FAMILIES.get(point.family, "muted")


def _name(point: Point, curves: Sequence[Sequence[Point]]) -> str:
    """A point's name; of those on a curve that are named after it and their setting, the first one's alone."""
    inner = any(point in curve[1:] for curve in curves)
    return f"{point.setting:g}" if inner and point.name == f"{point.family} {point.setting:g}" else point.name


def _label(axes: Axes, points: Sequence[Point], curves: Sequence[Sequence[Point]], palette: Palette) -> None:
    """Names the points, the GFlowNet's first, each where it covers nothing, if there is such a place."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # or what is labelled would move away from its label
    centres = axes.transData.transform(_places(points))
    lines = itertools.chain(map(_places, curves), *map(_bars, points))
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in centres]
    taken += [Bbox.from_bounds(x - 2, y - 2, 4, 4) for x, y in _along(lines, axes)]
    leader = {"arrowstyle": "-", "color": palette["muted"], "linewidth": 0.5}
    for point in sorted(points, key=lambda point: point.family != "GFlowNet"):
        is_ours = point.family == "GFlowNet"
        labels = (
            axes.annotate(
                _name(point, curves),
                (point.diversity.mean, point.log_likelihood.mean),
                (right, up),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=10.5 if is_ours else 9,
                fontweight="bold" if is_ours else "normal",
                color=palette["ink" if is_ours else _colour(point)],
                zorder=6,
                arrowprops=leader if math.hypot(right, up) > _NEAR else None,
            )
            for right, up, side in _PLACES
        )
        best = _least_covering(labels, taken, axes.bbox)
        taken.append(best.get_window_extent())


def _least_covering(labels: Iterable[Annotation], taken: Sequence[Bbox], frame: Bbox) -> Annotation:
    """The first label that covers nothing and stays in the frame, or the one that covers least; the others go."""
    tried: list[tuple[float, Annotation]] = []
    for label in labels:
        box = label.get_window_extent()
        covered = sum(_area(Bbox.intersection(box, other)) for other in taken)
        outside = box.width * box.height - _area(Bbox.intersection(box, frame))
        tried.append((covered + 10 * outside, label))
        if tried[-1][0] < 1:
            break
    best = min(tried, key=lambda each: each[0])[1]
    for _, label in tried:
        if label is not best:
            label.remove()
    return best


def _area(box: Bbox | None) -> float:
    return 0.0 if box is None else box.width * box.height
