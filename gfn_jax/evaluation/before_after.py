"""What training changed on the validation prompts: the rows of a table, and that table for the terminal."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gfn_jax.evaluation.bars import distribution_bars
from gfn_jax.evaluation.intervals import Interval, bootstrap_interval
from gfn_jax.runtime.formatting import decimals

if TYPE_CHECKING:  # it imports jax, which a report of a run's files needs not
    from gfn_jax.evaluation.validation import Measurement

_ROWS = {  # figure -> what it says; those that a task does not have are left out
    "contradiction_rate": "contradiction rate",
    "discriminates": "discriminates",
    "about_subject": "names the subject",
    "distinct_contradicting": "distinct contradicting",
    "kl": "KL to the target",
    "total_variation": "total variation",
    "invalid_mass": "mass off the target",
    "mixture_log_ratio_var": "log-ratio variance, mixture",
    "mixture_log_ratio_var_median": "its median",
    "elbo": "elbo (log Z - KL)",
    "log_r": "log R",
    "log_likelihood": "log-likelihood",
    "diversity": "diversity",
    "distinct": "distinct share",
    "length": "length, tokens",
}


_IN_OTHERS = {"log_answer", "log_answer_per_token", "log_contradiction", "log_original", "log_sentence"}
"""Components that rows above stand for; a user's own have rows of their own."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A figure's mean over the validation prompts before and after training.

    interval     the 95% bootstrap interval of the mean of the paired changes, where those are known
    times_lower  of variances: before / after
    """

    name: str
    label: str
    before: float
    after: float
    interval: Interval | None

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def decimals(self) -> int:
        """As many as the figure is printed with."""
        return decimals((self.before, self.after))

    @property
    def times_lower(self) -> float | None:
        if not self.name.startswith("mixture_log_ratio_var"):
            return None
        return self.before / max(self.after, float(np.finfo(float).tiny))


def changes(before: Mapping[str, float], after: Mapping[str, float], paired: Mapping[str, np.ndarray]) -> list[Change]:
    """The rows of the table, from the figures' means and, as far as they are known, their changes on every prompt."""
    own = {name: name.replace("_", " ") for name in before if name not in _ROWS.keys() | _IN_OTHERS}
    return [
        Change(name, label, before[name], after[name], _interval(paired.get(name)))
        for name, label in (_ROWS | own).items()
        if name in before and name in after
    ]


def _interval(differences: np.ndarray | None) -> Interval | None:
    known = [] if differences is None else differences[~np.isnan(differences)]
    return bootstrap_interval(np.asarray(known)) if len(known) > 1 else None


def which_is_used(last: int, used: int, keep_best: str) -> str:
    """Says beside figures of the `last` step which checkpoint other commands use; `keep_best` is what it is best by."""
    by = f", the best by {keep_best}" if keep_best and used != last else ""
    return f"The last figures are of step {last}; sample, evaluate and export use the checkpoint of step {used}{by}."


def before_and_after(before: "Measurement", after: "Measurement", samples: int = 6) -> RenderableType:
    """Means over prompts with the 95% interval of their paired change, and distribution and samples of the first."""
    prompts = len(before.per_prompt["elbo"])
    is_one = prompts == 1  # the one that the task is about: of others there are always several
    table = Table(title="On the prompt" if is_one else f"On {prompts} examples that training did not see")
    for heading in ("", "before", "after", "change" if is_one else "change [95% interval]"):
        table.add_column(heading, justify="left" if not heading else "right")
    paired = {name: after.per_prompt[name] - values for name, values in before.per_prompt.items()}
    rows = changes(before.summary(), after.summary(), paired)
    for row in rows:
        places = row.decimals
        change = f"{row.difference:+.{places}f}" if row.interval or is_one else ""
        if row.interval:
            change += f" [{row.interval.low:+.{places}f}, {row.interval.high:+.{places}f}]"
        label = f"  {row.label}" if row.name == "mixture_log_ratio_var_median" else row.label
        table.add_row(label, f"{row.before:.{places}f}", f"{row.after:.{places}f}", change)
        if row.name == "mixture_log_ratio_var_median":
            ratios = [f"{each.times_lower:.1f}" for each in rows if each.times_lower is not None]
            table.add_row("  times lower: mean, median", "", "", ", ".join(ratios))
    parts: list[RenderableType] = [table]
    if after.distributions:
        parts.append(distribution_bars(before.distributions[0], after.distributions[0]))
    if not after.probes:
        return Group(*parts)
    columns = ("continuation", "answer") if "answer" in after.probes[0] else ("continuation",)
    shown = Table(title=Text(after.probes[0]["prompt"]))
    for when, column in itertools.product(("before", "after"), columns):
        shown.add_column(when if column == "continuation" else column)
    pairs = zip(before.probes, after.probes, strict=True)
    of_one_prompt = (pair for pair in pairs if pair[1]["prompt"] == after.probes[0]["prompt"])
    for old, new in itertools.islice(of_one_prompt, samples):
        shown.add_row(*(Text(probe[column].strip()) for probe in (old, new) for column in columns))
    return Group(*parts, shown)
