"""A policy and a family of baselines where the answer is known."""

import numpy as np
import pytest

from gfn_jax.evaluation.equal_diversity import PerPrompt, at_equal_diversity

PROMPTS = 61
NOISE = np.random.default_rng(0).normal(0, 1, PROMPTS)


def of_mean(diversity, log_likelihood):
    """A method with these means, and with what is common to all: some prompts are harder than others."""
    return PerPrompt(diversity + 0.01 * NOISE, log_likelihood + 3 * NOISE)


FAMILY = [of_mean(0.9, -9.0), of_mean(0.5, -5.0), of_mean(0.7, -6.0)]


def test_the_baseline_is_read_off_the_line_between_its_neighbours():
    found = at_equal_diversity(of_mean(0.8, -6.5), FAMILY)
    shift = 3 * NOISE.mean()
    assert found.baseline.mean == pytest.approx(-7.5 + shift)
    assert found.difference.mean == pytest.approx(1)


def test_what_is_common_to_both_does_not_widen_their_difference():
    found = at_equal_diversity(of_mean(0.8, -6.5), FAMILY)
    assert found.baseline.low < found.baseline.mean < found.baseline.high
    assert found.baseline.high - found.baseline.low > 1
    assert found.difference.high - found.difference.low < 1e-6


def test_a_member_is_compared_with_itself():
    found = at_equal_diversity(FAMILY[2], FAMILY)
    assert found.difference.mean == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("diversity", [0.3, 0.95])
def test_nothing_is_said_beyond_the_family(diversity):
    assert at_equal_diversity(of_mean(diversity, -6.5), FAMILY) is None
    assert at_equal_diversity(of_mean(diversity, -6.5), []) is None
