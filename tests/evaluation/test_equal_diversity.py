"""A policy and a family of baselines where the answer is known."""

import numpy as np
import pytest

from gfn_jax.evaluation.equal_diversity import PerPrompt, at_equal_diversity
from gfn_jax.evaluation.intervals import mean_of, over_seeds

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


def on_the_line(rng, diversity):
    """A method that is as likely as any of its diversity: its mean log-likelihood falls by 30 from diversity 0 to 1."""
    return PerPrompt(diversity + rng.normal(0, 0.1, 40), -30 * diversity + rng.normal(0, 0.5, 40))


@pytest.mark.parametrize("diversity", [0.9, 0.7])
def test_the_interval_covers_no_difference_at_the_familys_edge_as_it_does_within(diversity):
    """As 95% of intervals should, within three deviations; and on average there is no difference."""
    rng, times = np.random.default_rng(0), 120
    found = [
        at_equal_diversity(on_the_line(rng, diversity), [on_the_line(rng, each) for each in (0.5, 0.7, 0.9)])
        for _ in range(times)
    ]
    differences = [each.difference for each in found if each]
    covering = [each.low <= 0 <= each.high for each in differences]
    assert np.mean(covering) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / times)
    means = np.array([each.mean for each in differences])
    assert abs(means.mean()) < 3 * means.std() / np.sqrt(len(means))
    assert len(differences) >= 0.9 * times


def test_intervals_over_seeds_cover_the_mean_of_all_seeds():
    """Of runs whose seeds differ by more than the prompts do: there the interval over prompts alone says too much."""
    rng, times, of_seeds, of_prompts = np.random.default_rng(0), 200, 0.3, 1.0
    alone, widened = [], []
    for _ in range(times):
        runs = rng.normal(0, of_prompts, 40) + rng.normal(0, of_seeds, (3, 1)) + rng.normal(0, 0.3, (3, 40))
        alone.append(mean_of(runs.mean(0)))
        widened.append(over_seeds(alone[-1], runs.mean(1)))
    covered = [np.mean([each.low <= 0 <= each.high for each in some]) for some in (alone, widened)]
    assert covered[0] < 0.9
    assert covered[1] >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / times)
