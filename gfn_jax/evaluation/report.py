"""What training changed, as a table for the terminal."""

import itertools

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gfn_jax.evaluation.intervals import bootstrap_interval
from gfn_jax.evaluation.validation import Measurement

_ROWS = {  # figure -> what it says; those that a task does not have are left out
    "contradiction_rate": "contradiction rate",
    "distinct_contradicting": "distinct contradicting",
    "log_ratio_var": "log-ratio variance",
    "elbo": "elbo (log Z - KL)",
    "log_r": "log R",
    "log_likelihood": "log-likelihood",
    "diversity": "diversity",
    "distinct": "distinct share",
    "length": "length, tokens",
}


def before_and_after(before: Measurement, after: Measurement, samples: int = 6) -> RenderableType:
    """Means over prompts with the 95% interval of their paired change, and some samples of each."""
    prompts = len(before.per_prompt["elbo"])
    table = Table(title=f"On {prompts} examples that training did not see")
    for heading in ("", "before", "after", "change [95% interval]"):
        table.add_column(heading, justify="left" if not heading else "right")
    first, second = before.summary(), after.summary()
    for name, label in _ROWS.items():
        if name not in first:
            continue
        change = after.per_prompt[name] - before.per_prompt[name]
        interval = bootstrap_interval(change)
        table.add_row(
            label,
            f"{first[name]:.3f}",
            f"{second[name]:.3f}",
            f"{change.mean():+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]",
        )
        if name == "log_ratio_var":
            median = "log_ratio_var_median"
            table.add_row("  its median", f"{first[median]:.3f}", f"{second[median]:.3f}", "")
            ratios = (first[key] / max(second[key], np.finfo(float).tiny) for key in (name, median))
            table.add_row("  times lower: mean, median", "", "", ", ".join(f"{ratio:.1f}" for ratio in ratios))
    if not after.probes:
        return table
    columns = ("continuation", "answer") if "answer" in after.probes[0] else ("continuation",)
    shown = Table(title=Text(after.probes[0]["prompt"]))
    for when, column in itertools.product(("before", "after"), columns):
        shown.add_column(when if column == "continuation" else column)
    pairs = zip(before.probes, after.probes, strict=True)
    of_one_prompt = (pair for pair in pairs if pair[1]["prompt"] == after.probes[0]["prompt"])
    for old, new in itertools.islice(of_one_prompt, samples):
        shown.add_row(*(Text(probe[column].strip()) for probe in (old, new) for column in columns))
    return Group(table, shown)
