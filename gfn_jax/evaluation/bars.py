"""A distribution before and after training as bars in the terminal, with its target as a mark across them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

_MOST_ROWS = 25
_WIDTH = 20
"""Cells of the longest bar, with which the table fits into 80 columns."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
_MARK = "╎"


def distribution_bars(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """From two rows of a run's `distribution.jsonl`; neighbouring outcomes share a row where there are many."""
    each = _at_once(len(after["outcomes"]))
    firsts = range(0, len(after["outcomes"]), each)
    labels = [_label(after["outcomes"][first : first + each]) for first in firsts] + ["else"]

    def binned(row: Mapping[str, Any], name: str, else_: float) -> list[float]:
        return [*np.add.reduceat(np.asarray(row[name]), list(firsts)).tolist(), else_]

    old, new = sides = [binned(row, "policy", row["invalid_mass"]) for row in (before, after)]
    target = binned(after, "target", 0.0)
    longest = most_shown(old, new, target)
    table = Table(title=f"What the policy writes, and {_MARK} the target", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", justify="right", no_wrap=True)
    for heading, style in (("before", "blue"), ("after", "green")):
        table.add_column(heading, width=_WIDTH, no_wrap=True, style=style)
        table.add_column("", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True, style="dim")
    for label, *shares, wanted in zip(labels, *sides, target, strict=True):
        cells = [cell for share in shares for cell in (_bar(share / longest, wanted / longest), _percent(share))]
        table.add_row(label, *cells, _percent(wanted))
    return table


def most_shown(before: Sequence[float], after: Sequence[float], target: Sequence[float]) -> float:
    """Up to what a distribution is drawn: twice the likeliest target, or what is likelier after training."""
    return min(max(*before, *after), max(*after, 2 * max(target)))


def _at_once(outcomes: int) -> int:
    """How many outcomes share a row: 1, 2, 5, 10, 20, 50 ..."""
    steps = (size * 10**power for power in range(6) for size in (1, 2, 5))
    return next(step for step in steps if math.ceil(outcomes / step) <= _MOST_ROWS)


def _label(outcomes: list[str]) -> str:
    return outcomes[0] if len(outcomes) == 1 else f"{outcomes[0]}–{outcomes[-1]}"


def _bar(share: float, wanted: float) -> Text:
    """A bar of this share of the width, and the mark where the target ends, if there is one."""
    eighths = round(8 * _WIDTH * share)
    is_cut = eighths > 8 * _WIDTH
    bar = Text("█" * (_WIDTH - 1) + "▶" if is_cut else "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip())
    if not wanted:
        return bar
    bar.pad_right(_WIDTH - len(bar))
    place = min(int(_WIDTH * wanted), _WIDTH - 1)
    is_covered = place < eighths // 8
    return Text.assemble(bar[:place], (_MARK, "reverse" if is_covered else "default"), bar[place + 1 :])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
