"""Continuations without their padding: nothing is lost, and nothing comes out otherwise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import TinyWorld

from gfn_jax.models import packing
from gfn_jax.models.layout import WHEREVER, Layout
from gfn_jax.models.packing import Packing, in_room, rooms
from gfn_jax.policy.scorer import score
from gfn_jax.types import Trajectories


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("spare", [0, 3])
def test_what_is_packed_comes_apart_again_and_so_do_gradients(shards, spare):
    rng = np.random.default_rng(0)
    batch, samples, longest = 4, 3, 5
    length = rng.integers(0, longest + 1, (batch, samples))
    length[1, 2], length[2, 0] = 0, longest
    most = length.reshape(shards, -1).sum(1).max()
    rows = Packing.of(jnp.asarray(length), longest, int(most) + spare, shards)
    is_token = np.arange(longest) < length[..., None]
    x = rng.normal(size=(batch, samples, longest, 2)).astype(np.float32)

    packed, unpack = jax.vjp(rows.pack, jnp.asarray(x))
    assert packed.shape == (shards, most + spare, 2)
    for row, own in enumerate(np.split(np.arange(batch), shards)):  # in the order of the continuations
        tokens = x[own][is_token[own]]
        np.testing.assert_array_equal(packed[row, : len(tokens)], tokens)
        np.testing.assert_array_equal(packed[row, len(tokens) :], 0)
    np.testing.assert_array_equal(rows.unpack(packed), x * is_token[..., None])
    y = rng.normal(size=packed.shape).astype(np.float32)
    np.testing.assert_array_equal(unpack(jnp.asarray(y))[0], rows.unpack(jnp.asarray(y)))
    states = rng.normal(size=(batch, samples, longest + 1)).astype(np.float32)
    is_state = np.arange(longest + 1) <= length[..., None]
    np.testing.assert_array_equal(rows.apart(rows.together(jnp.asarray(states))), states * is_state)


def test_the_least_room_is_taken_that_holds_all_tokens():
    chosen = jax.jit(lambda tokens: in_room(jnp.asarray, (8, 16, 31), tokens))
    assert [int(chosen(tokens)) for tokens in (0, 8, 9, 16, 17, 31)] == [8, 8, 16, 16, 31, 31]
    assert rooms(10**8, WHEREVER, 4 * 8 * 30) == (240, 480, 960)
    assert rooms(10**10, WHEREVER, 4) == (4,)
    assert rooms(10**4, WHEREVER, 4 * 8 * 30) == rooms(10**8, Layout(has_few_kernels=True), 4 * 8 * 30) == (960,)


@pytest.fixture(scope="module")
def world():
    return TinyWorld(words=5, max_len=7, banned=2, min_len=1, support_min_p=0.05)


def drawn(world, most: int) -> Trajectories:
    """3 continuations of each of the two prompts, of 1 to `most` tokens."""
    rng = np.random.default_rng(most)
    length = rng.integers(1, most + 1, 6)
    length[0] = most
    tokens = rng.integers(0, world.words, (6, world.max_len)) * (np.arange(world.max_len) < length[:, None])
    return Trajectories.given(jnp.asarray(tokens, jnp.int32), jnp.asarray(length, jnp.int32))


@pytest.mark.accelerator
def test_scores_and_their_gradients_are_the_same_in_a_row_without_padding(world):
    trajectories = drawn(world, 5)
    weights = np.random.default_rng(0).normal(size=(2, *trajectories.is_terminable_NxT.shape)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.grad, has_aux=True)
    def compute(adapter, room):
        models = world.structure.policy_and_frozen(adapter, world.frozen)
        scores = score(*models, world.rules, world.prompts, trajectories, room)
        possible = jnp.where(jnp.isfinite(scores.log_pf_NxL), scores.log_pf_NxL, 0)
        return (possible * weights[0, :, 1:]).sum() + (scores.log_pterm_NxT * weights[1]).sum(), scores

    (gradient, scores), (whole_gradient, whole) = (
        compute(world.adapter, room) for room in (int(trajectories.length_N.sum()), 6 * world.max_len)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, scores, whole)
    jax.tree.map(lambda a, b: close(a, b, atol=1e-5 * np.abs(b).max()), gradient, whole_gradient)


def test_scores_are_the_same_whatever_room_the_lengths_choose(world, monkeypatch):
    monkeypatch.setitem(packing.WORTH_PACKING, "cpu", 0)
    models = world.policy(), world.frozen_model(), world.rules, world.prompts
    chosen, whole = jax.jit(lambda *given: score(*given)), jax.jit(lambda *given: score(*given, 6 * world.max_len))
    for most in (1, 4, 7):  # up to 6, 16 and 42 tokens in rooms of 16, 24 and 42
        got, expected = chosen(*models, drawn(world, most)), whole(*models, drawn(world, most))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, expected)
