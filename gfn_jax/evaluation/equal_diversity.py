"""How likely a policy's texts are beside those of a baseline that is set to be just as diverse."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gfn_jax.evaluation.intervals import Estimate, bootstrap_interval


class PerPrompt(NamedTuple):
    """A method's mean diversity and log-likelihood for every prompt, the same prompts in the same order as others'."""

    diversity: np.ndarray
    log_likelihood: np.ndarray


class AtEqualDiversity(NamedTuple):
    """The log-likelihood [nats] of baselines that are as diverse as a policy, and the policy's less theirs."""

    baseline: Estimate
    difference: Estimate


def at_equal_diversity(policy: PerPrompt, family: Sequence[PerPrompt]) -> AtEqualDiversity | None:
    """Compares with a family that differs in one setting, such as a temperature; lines join its members' means.

    Prompts are resampled for policy and family together, so the difference is a paired one. Beyond the family its
    outermost line goes on: of a policy near the edge some resamples are there. None where the policy is surely
    there, by the 95% interval of how far inside it is, and where fewer than two members make no line.
    """
    if len(family) < 2:
        return None
    diversities = np.stack([policy.diversity, *(member.diversity for member in family)])
    likelihoods = np.stack([policy.log_likelihood, *(member.log_likelihood for member in family)])

    def inside(prompts: np.ndarray) -> np.ndarray:
        """How far the policy's diversity is from the family's nearer end, over resampled prompts [.., prompt]."""
        x = diversities[:, prompts].mean(-1)
        return np.minimum(x[0] - x[1:].min(0), x[1:].max(0) - x[0])

    def baseline(prompts: np.ndarray) -> np.ndarray:
        x, y = (values[:, prompts].mean(-1) for values in (diversities, likelihoods))
        return _on_lines(x[0], x[1:], y[1:])

    def difference(prompts: np.ndarray) -> np.ndarray:
        return likelihoods[0, prompts].mean(-1) - baseline(prompts)

    def estimate(of: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        prompts = np.arange(len(policy.diversity))
        return Estimate(float(of(prompts)), *bootstrap_interval(prompts, lambda rows, axis=-1: of(rows)))

    margin = estimate(inside)
    if margin.mean < 0 and not margin.high >= 0:  # of one prompt, there is no interval
        return None
    return AtEqualDiversity(estimate(baseline), estimate(difference))


def _on_lines(x: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Where lines through the points [point, ..] are at x [..]; the outermost ones go on beyond the points."""
    order = np.argsort(xs, axis=0)
    xs, ys = (np.take_along_axis(values, order, axis=0) for values in (xs, ys))
    right = np.clip((xs < x).sum(0), 1, len(xs) - 1)
    ends = [[np.take_along_axis(values, place[None], axis=0)[0] for place in (right - 1, right)] for values in (xs, ys)]
    (x0, x1), (y0, y1) = ends
    return y0 + (y1 - y0) * (x - x0) / np.where(x1 > x0, x1 - x0, 1)
