"""The exact distribution over all strings: a distribution, and string by string what teacher forcing says."""

import jax
import numpy as np
import pytest
from enumerable import TinyWorld

from gfn_jax.policy import prefix_tree
from gfn_jax.policy.prefix_tree import PrefixTree
from gfn_jax.runtime.errors import UserError


def log_probs(world):
    tree = PrefixTree(world.rules)

    @jax.jit
    def compute(adapter):
        return tree.log_probs(world.policy(adapter), world.frozen_model(), world.prompts)

    return tree, np.asarray(compute(world.adapter), np.float64)


@pytest.mark.accelerator
@pytest.mark.parametrize(("min_len", "max_len", "support"), [(0, 1, 0.0), (2, 3, 0.0), (1, 3, 0.2)])
def test_every_string_has_the_probability_that_scoring_it_alone_gives(min_len, max_len, support, monkeypatch):
    if min_len == 2:
        monkeypatch.setattr(prefix_tree, "CHUNK_ELEMENTS", 1_000)  # a few inner strings at once
    world = TinyWorld(words=3, min_len=min_len, max_len=max_len, support_min_p=support)
    tree, found = log_probs(world)
    assert tree.strings == world.strings()
    assert np.exp(found).sum(1) == pytest.approx(1, abs=1e-5)
    expected = world.exact_log_probs(world.adapter)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    assert np.isinf(found).any() == (min_len > 0 or support > 0)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_what_is_too_much_to_list_is_refused():
    with pytest.raises(UserError, match=r"3 vocabulary items make 88573 strings of up to sampling\.max_len = 10"):
        PrefixTree(TinyWorld(words=3, min_len=1, max_len=10).rules)
