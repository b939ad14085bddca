"""Confidence intervals over prompts."""

from collections.abc import Callable
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
    """A statistic of per-prompt values, with its 95% bootstrap interval."""

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
