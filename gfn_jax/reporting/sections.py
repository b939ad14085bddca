"""The parts of a report, from a run's record: what the page's template is filled with."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gfn_jax.evaluation.before_after import Change
from gfn_jax.reporting import balance, distribution_plot, frontier_plot
from gfn_jax.reporting.curves import Curve, Plot, area_plot, curve_plot
from gfn_jax.reporting.palette import STAND_INS, series
from gfn_jax.reporting.probe_tables import Text, distinct_texts
from gfn_jax.reporting.svg import inline_svg, new_axes
from gfn_jax.reporting.tables import signed
from gfn_jax.runs.record import Row, RunRecord
from gfn_jax.runtime.formatting import decimals

_TILES = ("contradiction_rate", "discriminates", "distinct_contradicting", "kl", "total_variation", "invalid_mass")
_TILES += ("mixture_log_ratio_var", "elbo", "log_likelihood", "diversity")
"""The first four of these that the task has stand above all."""
_BETTER = {"contradiction_rate": 1, "distinct_contradicting": 1, "mixture_log_ratio_var": -1, "elbo": 1}
_BETTER |= {"discriminates": 1, "about_subject": 1}
_BETTER |= {"kl": -1, "total_variation": -1, "invalid_mass": -1}
"""Whether more or less of it is better; of the rest neither is."""
_MOST_PROMPTS = 6
_MOST_OF_VALIDATION = 6

_OF_VALIDATION = {  # figure -> title and note of its curve; the first six that the task has are drawn
    "contradiction_rate": ("Contradiction rate", "share of answers that contradict the fact"),
    "discriminates": ("Discriminates", "share of answers that contradict the edited fact and not the original one"),
    "about_subject": ("About the subject", "share of questions that name the subject"),
    "distinct_contradicting": ("Distinct contradicting", "different contradicting texts for each prompt"),
    "kl": ("KL to the target", "nats, of the policy given that it writes an outcome of the target"),
    "total_variation": ("Total variation", "from the target, of all that the policy writes"),
    "invalid_mass": ("Mass off the target", "probability of writing anything else"),
    "mixture_log_ratio_var": (
        "Log-ratio variance, mixture",
        "within a prompt, over samples of policy and frozen model: 0 of a perfect sampler",
    ),
    "elbo": ("Elbo", "log Z − KL(policy ‖ target): at most log Z"),
    "log_likelihood": ("Log-likelihood", "of the samples under the frozen model"),
    "diversity": ("Diversity", "mean pairwise word edit distance in a prompt"),
    "distinct": ("Distinct share", "of different texts among a prompt's samples"),
    "log_r": ("log R", "of the samples, at the end temperature"),
}
_RATIOS = ("kl", "total_variation", "invalid_mass")
"""Those that fall by orders of magnitude."""
_OF_TRAINING = {
    "loss": ("Loss", "of the training batches"),
    "grad_norm": ("Gradient norm", "before clipping"),
}
_WITH_BOTH = {
    "log_r": ("log R", "training: at the temperature of the step"),
    "length": ("Length", "tokens before the terminator"),
}
_OF_REPLAY = {
    "age": ("Age", "steps since what is replayed was drawn"),
    "size": ("Size", "continuations in the buffer"),
}
_SHARES = {"fill": "rows that held something", "hit_rate": "prompts that had something"}
_OFFERED = {"added": "taken in", "duplicates": "near-duplicates", "poor": "too poor"}


class PromptDistribution(NamedTuple):
    """A prompt's exact distributions: before and after training, or of the only validation."""

    prompt: str
    plots: Sequence[Plot]


class PromptSamples(NamedTuple):
    """A prompt's texts before and after training; `colour` is the name of its colour in the scatter."""

    prompt: str
    colour: str
    remarks: Sequence[tuple[str, str]]
    before: Sequence[Text]
    after: Sequence[Text]


def tiles(changes: Sequence[Change]) -> list[Change]:
    known = {change.name: change for change in changes}
    return [known[name] for name in _TILES if name in known][:4]


def verdict(change: Change) -> str:
    """Whether a figure is surely `better` or `worse` than before, or "" where neither is sure, or meant."""
    if change.interval is None or change.interval.low <= 0 <= change.interval.high:
        return ""
    return (
        "better" if change.difference * _BETTER.get(change.name, 0) > 0 else "worse" if change.name in _BETTER else ""
    )


def validation_plots(record: RunRecord) -> Iterator[Plot]:
    """What is learned, on validation prompts."""
    plots = itertools.chain.from_iterable(_validation_plot(record, name) for name in _OF_VALIDATION)
    return itertools.islice(plots, _MOST_OF_VALIDATION)


def _validation_plot(record: RunRecord, name: str) -> Iterator[Plot]:
    curves = [
        Curve(label, *record.series(f"val/{figure}", of_validation=True))
        for label, figure in (("mean", name), ("median", f"{name}_median"))
    ]
    yield from _plot(f"val-{name}", *_OF_VALIDATION[name], curves, is_ratio=name in _RATIOS)


def training_plots(record: RunRecord) -> Iterator[Plot]:
    """Figures of the training batches."""
    for name, (title, note) in _OF_TRAINING.items():
        yield from _plot(name, title, note, [Curve(name, *record.series(f"train/{name}"), is_noisy=True)])
    for name, (title, note) in _WITH_BOTH.items():
        curves = [
            Curve("training", *record.series(f"train/{name}"), is_noisy=True),
            Curve("validation", *record.series(f"val/{name}", of_validation=True)),
        ]
        yield from _plot(name, title, note, curves)
    yield from _speed_plots(record)


def _plot(name: str, title: str, note: str, curves: Sequence[Curve], *, is_ratio: bool = False) -> Iterator[Plot]:
    there = [curve for curve in curves if len(curve.values)]
    if there:
        yield curve_plot(name, title, note, there, is_ratio=is_ratio)


def _speed_plots(record: RunRecord) -> Iterator[Plot]:
    """Throughput, and where a step's time goes; without the first step, which compiles."""
    steps, values = record.series("train/trajectories_per_s")
    if len(steps) < 3:
        return
    yield from _plot(
        "throughput", "Throughput", "drawn trajectories a second", [Curve("all", steps[1:], values[1:], is_noisy=True)]
    )
    rows = record.training[1:]
    at = np.array([row["step"] for row in rows], float)
    parts = [
        Curve(name.removeprefix("time/"), at, np.array([row.get(name) or 0.0 for row in rows]))
        for name in record.names("time/")
    ]
    if parts:
        yield area_plot("time", "Time of a step", "seconds, by what the main loop waited for", parts)


def replay_plots(record: RunRecord) -> Iterator[Plot]:
    """What the replay buffer held and gave; nothing where the run does not replay."""
    for name, title, note, labels in (
        ("shares", "Replayed", "shares", _SHARES),
        ("offered", "Offered", "what became of the fresh continuations of a step", _OFFERED),
    ):
        curves = [Curve(label, *record.series(f"replay/{key}"), is_noisy=True) for key, label in labels.items()]
        yield from _plot(f"replay-{name}", title, note, curves)
    for name, (title, note) in _OF_REPLAY.items():
        yield from _plot(f"replay-{name}", title, note, [Curve(name, *record.series(f"replay/{name}"), is_noisy=True)])


def distributions(record: RunRecord) -> Iterator[PromptDistribution]:
    """What the policy writes for the first few prompts, at the first and at the last validation."""
    rows = record.distributions
    if not rows:
        return
    steps = sorted({rows[0]["step"], rows[-1]["step"]})
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))[:_MOST_PROMPTS]
    for number, prompt in enumerate(prompts):
        own = [row for row in rows if row["prompt"] == prompt and row["step"] in steps]
        if own:
            yield PromptDistribution(prompt, [_distribution_plot(row, own, number) for row in own])


def _distribution_plot(row: Row, both: Sequence[Row], number: int) -> Plot:
    title = "Before training" if row["step"] == 0 else f"After {row['step']} steps"
    figures = ", ".join(
        f"{label} {row[name]:.{decimals([row[name]])}f}{unit}"
        for name, label, unit in (("kl", "KL", " nats"), ("total_variation", "total variation", ""))
    )
    note = f"{figures}, {100 * row['invalid_mass']:.2g}% anything else"
    colour = series(0 if row["step"] == 0 else 1)
    figure, axes = new_axes(distribution_plot.SIZE, STAND_INS)
    top = distribution_plot.highest(both[0], both[-1])
    distribution_plot.draw_distribution(axes, row, top, STAND_INS[colour], STAND_INS)
    svg = inline_svg(figure, f"distribution-{number}-{row['step']}", f"What the policy writes, {title.lower()}")
    return Plot(title, note, svg, [(colour, "policy"), ("ink", "target")])


def comparison_plot(methods: Sequence[Any]) -> str | None:
    points = frontier_plot.points(methods)
    if not points:
        return None
    figure, axes = new_axes(frontier_plot.SIZE, STAND_INS)
    frontier_plot.draw_frontier(axes, points, STAND_INS)
    return inline_svg(figure, "frontier", "Mean log-likelihood over diversity, for each method of decoding")


def samples(record: RunRecord) -> list[PromptSamples]:
    """The first few prompts' texts, at the first and at the last validation."""
    before, after = _clouds(record)
    found = []
    for number, prompt in enumerate(_prompts(record)):
        some = before.get(prompt) or after.get(prompt)
        if some is None:
            continue
        row = some.samples[0]
        remarks = [
            (name.replace("_", " "), value)
            for name, value in row.items()
            if isinstance(value, str) and name not in ("prompt", "continuation", "answer") and value not in prompt
        ]
        texts = (distinct_texts(clouds[prompt]) if prompt in clouds else [] for clouds in (before, after))
        found.append(PromptSamples(prompt, series(number), remarks, *texts))
    return found


def balance_plots(record: RunRecord) -> Iterator[Plot]:
    """log R against log π, before and after, with the same limits."""
    sides = [list(clouds.values()) for clouds in _clouds(record)]
    if not any(sides):
        return
    limits = balance.limits([cloud for clouds in sides for cloud in clouds])
    numbers = {prompt: number for number, prompt in enumerate(_prompts(record))}
    steps = record.samples[0]["step"], record.samples[-1]["step"]
    for name, step, clouds in zip(("before", "after"), steps, sides, strict=True):
        if not clouds:
            continue
        figure, axes = new_axes(balance.SIZE, STAND_INS)
        balance.draw_balance(axes, clouds, numbers, limits, STAND_INS)
        tooltips = {
            f"samples-{numbers[cloud.prompt]}": [
                f"{row['continuation'].strip()}\nlog R {signed(row['log_r'], 2)}, log π {signed(row['log_pf'], 2)}"
                for row in cloud.samples
            ]
            for cloud in clouds
        }
        title = "Before training" if step == 0 else f"After {step} steps"
        yield Plot(title, "", inline_svg(figure, f"balance-{name}", f"log π over log R: {title.lower()}", tooltips))


def _prompts(record: RunRecord) -> list[str]:
    return list(dict.fromkeys(row["prompt"] for row in record.samples))[:_MOST_PROMPTS]


def _clouds(record: RunRecord) -> tuple[dict[str, balance.Cloud], dict[str, balance.Cloud]]:
    """The shown prompts' samples at the first and at the last validation, where these are two."""
    shown = set(_prompts(record))
    rows = [row for row in record.samples if row["prompt"] in shown]
    if not rows:
        return {}, {}
    first, last = rows[0]["step"], rows[-1]["step"]
    before = {cloud.prompt: cloud for cloud in balance.clouds(rows, first)}
    return before, {cloud.prompt: cloud for cloud in balance.clouds(rows, last)} if last > first else {}
