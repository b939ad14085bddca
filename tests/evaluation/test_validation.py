"""What validation estimates, where the truth is known."""

import numpy as np
import pytest

from gfn_jax.evaluation.validation import mixture_variance


@pytest.mark.parametrize(("samples", "missing"), [(2, 0), (3, 1), (17, 14)])
def test_the_mixtures_variance_is_right_on_average_however_few_the_samples_are(samples, missing):
    """Of two normal distributions: the mean of their variances, and a quarter of their means' squared distance.

    Also where some of one's samples have no reward.
    """
    rng, prompts = np.random.default_rng(0), 20_000
    one, other = rng.normal(0, 1, (prompts, samples)), rng.normal(6, 2, (prompts, samples))
    other[:, :missing] = np.nan
    found = mixture_variance(one, other)
    assert found.mean() == pytest.approx((1**2 + 2**2) / 2 + 6**2 / 4, abs=4 * found.std() / np.sqrt(prompts))


def test_the_mixtures_variance_is_that_of_the_samples_where_both_are_everything_there_is():
    """As the samples grow many, whatever they are: also where one policy has collapsed."""
    rng = np.random.default_rng(0)
    collapsed, other = np.full((1, 100_000), 3.0), rng.exponential(size=(1, 100_000))
    assert mixture_variance(collapsed, other)[0] == pytest.approx(np.concatenate([collapsed, other], 1).var(), rel=1e-4)
