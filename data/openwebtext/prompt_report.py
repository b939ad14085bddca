"""What a prompts file is like: a table of its figures, of what was refused, and a plot."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from prompt_drawing import Prompt
from rich.console import Group
from rich.table import Table


def measures(prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """The numbers whose distributions matter, by what they count."""
    return {
        "sentences per prompt": np.array([len(prompt.sentences) for prompt in prompts]),
        "tokens per prompt": np.array([sum(prompt.tokens) for prompt in prompts]),
        "tokens per sentence": np.array([count for prompt in prompts for count in prompt.tokens]),
    }


def report(prompts: Sequence[Prompt], tally: Counter[str]) -> Group:
    """Tables of the prompts, and of what each filter refused among what it saw."""
    figures = Table(title=f"{len(prompts)} prompts of {tally['documents/read']} documents")
    for heading in ("", "mean", "median", "least", "most"):
        figures.add_column(heading, justify="right" if heading else "left")
    for name, values in measures(prompts).items():
        summary = (np.median(values), values.min(), values.max())
        figures.add_row(name, f"{values.mean():.2f}", *(f"{value:g}" for value in summary))
    refused = Table(title="refused")
    for heading in ("", "because", "count", "share"):
        refused.add_column(heading, justify="right" if heading in ("count", "share") else "left")
    for unit in ("documents", "paragraphs", "sentences"):
        read = tally[f"{unit}/read"]
        refused.add_section()
        refused.add_row(f"{read} {unit}")
        for key, count in tally.most_common():
            if key.startswith(f"{unit}/") and not key.endswith("/read") and count:
                refused.add_row("", key.removeprefix(f"{unit}/"), str(count), f"{count / read:.2%}")
    return Group(figures, refused)


def plot(prompts: Sequence[Prompt], file: Path) -> None:
    """Histograms of the measures; where there are many numbers, a bar is for a few of them."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")  # without pyplot: nobody is to look at a window
    panels = figure.subplots(1, 3, width_ratios=(2, 3, 3))
    for axes, (name, values) in zip(panels, measures(prompts).items(), strict=True):
        width = -(-int(np.ptp(values) + 1) // 40)
        edges = np.arange(values.min(), values.max() + width + 1, width) - 0.5
        counts, _, bars = axes.hist(values, edges, color="C0", edgecolor="white", rwidth=0.6 if len(edges) < 8 else 1)
        if len(edges) < 8:
            axes.bar_label(bars, [f"{count / len(values):.0%}" for count in counts])
        axes.axvline(values.mean(), color="C3", lw=1.5)
        axes.set_title(f"mean {values.mean():.1f}, median {np.median(values):g}", color="C3", fontsize=10)
        axes.set(xlabel=name, ylabel="sentences" if name.endswith("per sentence") else "prompts")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{len(prompts)} prompts")
    figure.savefig(file, dpi=110)
