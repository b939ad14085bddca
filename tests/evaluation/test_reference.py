"""Weighting one distribution's samples gives another's statistics, and says how far to trust them."""

import numpy as np
import pytest

from gfn_jax.evaluation.reference import Reference
from gfn_jax.runtime.errors import UserError

P = np.array([0.7, 0.2, 0.06, 0.04])
TARGET = np.array([0.1, 0.1, 0.3, 0.5])


@pytest.fixture(scope="module")
def reference():
    """Samples of P over four texts, weighted towards 5 * TARGET."""
    drawn = np.random.default_rng(0).choice(4, 20_000, p=P)
    log_w = np.log(5 * TARGET / P)[drawn]
    is_last = (drawn == 3).astype(float)
    return Reference(
        [str(index) for index in drawn], drawn[:, None], np.ones(len(drawn), int), log_w, {"is_last": is_last}
    )


def test_statistics_are_the_targets(reference):
    assert reference.weights.sum() == pytest.approx(1)
    assert (reference.weights * reference.components["is_last"]).sum() == pytest.approx(0.5, abs=0.02)
    assert reference.log_z == pytest.approx(np.log(5), abs=0.02)


def test_the_effective_sample_size_is_that_of_the_second_moment(reference):
    exact = 20_000 / (TARGET**2 / P).sum()
    assert reference.effective_sample_size == pytest.approx(exact, rel=0.05)
    flat = Reference(["a"] * 7, np.zeros((7, 1), int), np.ones(7, int), np.full(7, -700.0), {})
    assert flat.effective_sample_size == pytest.approx(7)
    assert flat.log_z == pytest.approx(-700)


def test_draws_are_the_targets(reference):
    drawn = reference.draw(20_000, np.random.default_rng(1))
    counts = np.bincount([int(reference.texts[index]) for index in drawn], minlength=4) / 20_000
    np.testing.assert_allclose(counts, TARGET, atol=0.03)


def test_where_nothing_has_a_reward_nothing_is_drawn():
    poor = Reference(["a"] * 7, np.zeros((7, 1), int), np.ones(7, int), np.full(7, -np.inf), {})
    with pytest.raises(UserError, match=r"of 7 samples .* none has a finite reward: raise --candidates, or leave"):
        poor.draw(3, np.random.default_rng(0))
