"""Confidence intervals over prompts, and over the seeds of several runs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    low: float
    high: float


def bootstrap_interval(values: np.ndarray, statistic: Callable = np.mean, resamples: int = 2_000) -> Interval:
    """The 95% percentile bootstrap interval of a statistic of per-prompt values, from a fixed seed; NaN of one."""
    if len(values) < 2:
        return Interval(float("nan"), float("nan"))
    from scipy.stats import bootstrap  # slow to import, and wanted at the end

    result = bootstrap(
        (values,), statistic, n_resamples=resamples, method="percentile", rng=np.random.default_rng(0), vectorized=True
    )
    return Interval(float(result.confidence_interval.low), float(result.confidence_interval.high))


class Estimate(NamedTuple):
    """A statistic of per-prompt values, with its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def in_short(self) -> str:
        """The statistic and half of its interval, for a terminal's table."""
        if not self.low <= self.high:  # of one prompt, there is none
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f}±{(self.high - self.low) / 2:.2f}"


def mean_of(values: np.ndarray) -> Estimate:
    """The mean over prompts."""
    return Estimate(float(np.mean(values)), *bootstrap_interval(values))


def over_seeds(over_prompts: Estimate, of_seeds: Sequence[float]) -> Estimate:
    """A mean over seeds with an interval that also holds how much another seed might differ.

    over_prompts  the mean, with its interval over prompts
    of_seeds      the same statistic of each seed's own run, of the same prompts

    How far both parts reach from the mean adds up by squares (Zou and Donner 2008); the seeds' part is Student's, for
    a few seeds say little of how much seeds differ. Chance in what is sampled is in both, which widens the interval.
    """
    count = len(of_seeds)
    if count < 2:
        return over_prompts
    from scipy.stats import t  # slow to import, and wanted at the end

    mean, low, high = over_prompts
    reach = float(t.ppf(0.975, count - 1) * np.std(of_seeds, ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - float(np.hypot(mean - low, reach)), mean + float(np.hypot(high - mean, reach)))
