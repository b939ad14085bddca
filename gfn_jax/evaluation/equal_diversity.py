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

    Prompts are resampled for policy and family together, so the difference is a paired one. None where the policy
    is more, or less, diverse than all of the family.
    """
    means = sorted(member.diversity.mean() for member in family)
    if not means or not means[0] <= policy.diversity.mean() <= means[-1]:
        return None
    diversities = np.stack([policy.diversity, *(member.diversity for member in family)])
    likelihoods = np.stack([policy.log_likelihood, *(member.log_likelihood for member in family)])

    def baseline(prompts: np.ndarray) -> np.ndarray:
        """Its mean log-likelihood over resampled prompts [..., prompt]."""
        x, y = (values[:, prompts].mean(-1) for values in (diversities, likelihoods))
        points = zip(x.reshape(len(x), -1).T, y.reshape(len(y), -1).T, strict=True)
        return np.reshape([_between(own_x[0], own_x[1:], own_y[1:]) for own_x, own_y in points], y[0].shape)

    def difference(prompts: np.ndarray) -> np.ndarray:
        return likelihoods[0, prompts].mean(-1) - baseline(prompts)

    def estimate(of: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        prompts = np.arange(len(policy.diversity))
        return Estimate(float(of(prompts)), *bootstrap_interval(prompts, lambda rows, axis=-1: of(rows)))

    return AtEqualDiversity(estimate(baseline), estimate(difference))


def _between(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    order = np.argsort(xs)
    return float(np.interp(x, xs[order], ys[order]))
